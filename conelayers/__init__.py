"""Differentiable convex optimization layers.

    cvxpy problem ─ problem/ ─ program/ ─ solve/ ─ derivatives/ ─ layer/ ─ torch/, jax/
                                            │          │
                                            └─ numerics/

``Layer`` is the engine over NumPy arrays. ``backward`` and ``derivative`` fill the gradients of a cvxpy problem's own
parameters and variables. ``solve_and_differentiate`` takes a cone program in conic form.
``conelayers.torch.ConeLayer`` and ``conelayers.jax.ConeLayer`` are the layers for PyTorch and JAX.
``import conelayers`` imports no framework.
"""

from conelayers.derivatives.certificate import Certificate, Certificates, Verdict
from conelayers.derivatives.lpgd import LPGD
from conelayers.derivatives.policies import Singular
from conelayers.derivatives.proximal_smoothing import ProximalSmoothing
from conelayers.layer.conic import ConeSolution, solve_and_differentiate
from conelayers.layer.cvxpy_methods import backward, derivative
from conelayers.layer.layer import Layer
from conelayers.layer.monitor import Monitor, Step
from conelayers.layer.outcome import CallInfo, OnFailure
from conelayers.layer.solution import LayerSolution
from conelayers.numerics.cones import Selection
from conelayers.program.cones import Cones
from conelayers.program.solution import Attempt, Residuals
from conelayers.support.errors import (
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
