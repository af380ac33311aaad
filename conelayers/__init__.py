"""Differentiable convex optimization layers.

    cvxpy problem ─ canonicalize ─ program ─ solvers ─ residual/newton ─ derivative ─ layer ─ torch, jax
                                      │                     │
                                    cones ─────────── kkt (factorizations)

``Layer`` is the engine over NumPy arrays, ``backward`` and ``derivative`` fill the gradients of a cvxpy problem's own parameters and variables, ``solve_and_differentiate`` takes a cone program in conic form, and
``conelayers.torch.ConeLayer`` and ``conelayers.jax.ConeLayer`` are the layers for PyTorch and JAX. ``import conelayers`` imports no framework.
"""

from conelayers.certificate import Certificate, Certificates, Verdict
from conelayers.cones import Cones, Selection
from conelayers.conic import ConeSolution, solve_and_differentiate
from conelayers.errors import (
    CanonicalizationError,
    ConelayersWarning,
    ExecutorError,
    FailedInstancesWarning,
    InaccurateSolutionWarning,
    SingularDerivativeError,
    SingularDerivativeWarning,
    SolveError,
    Status,
    ZeroDerivativeWarning,
)
from conelayers.failures import CallInfo, OnFailure
from conelayers.layer import Layer
from conelayers.layer_solution import LayerSolution
from conelayers.monitor import Monitor, Step
from conelayers.problems import backward, derivative
from conelayers.singular import Singular
from conelayers.smoothing import LPGD, ProximalSmoothing
from conelayers.solution import Attempt, Residuals

__all__ = [
    "LPGD",
    "Attempt",
    "CallInfo",
    "CanonicalizationError",
    "Certificate",
    "Certificates",
    "ConeSolution",
    "ConelayersWarning",
    "Cones",
    "ExecutorError",
    "FailedInstancesWarning",
    "InaccurateSolutionWarning",
    "Layer",
    "LayerSolution",
    "Monitor",
    "OnFailure",
    "ProximalSmoothing",
    "Residuals",
    "Selection",
    "Singular",
    "SingularDerivativeError",
    "SingularDerivativeWarning",
    "SolveError",
    "Status",
    "Step",
    "Verdict",
    "ZeroDerivativeWarning",
    "backward",
    "derivative",
    "solve_and_differentiate",
]
