"""Derivatives of roots F(z, θ) = 0 and fixed points z = f(z, θ), with F and f, nonsmooth ones too, in PyTorch or JAX.

    conelayers.implicit.torch   root, fixed_point, certify_root, certify_fixed_point, projections with Clarke elements
    conelayers.implicit.jax     the same for JAX
    conelayers.implicit         the strategies, errors and certificates of both; neither framework is imported

Source: Bolte, Le, Pauwels, Silveti-Falls, "Nonsmooth implicit differentiation for machine learning and optimization"
(2021).
"""

from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.certify import Separable
from conelayers.implicit.errors import ConvergenceError, LinearSolveError
from conelayers.implicit.separable import Invertibility, PiecewiseLinear, SeparableTest, check_separable
from conelayers.implicit.settings import GMRES, Anderson, BiCGStab, Dense, Newton, Picard

__all__ = [
    "GMRES",
    "Anderson",
    "BiCGStab",
    "ConvergenceError",
    "Dense",
    "Invertibility",
    "LinearSolveError",
    "Newton",
    "Picard",
    "PiecewiseLinear",
    "RootCertificate",
    "Separable",
    "SeparableTest",
    "check_separable",
]
