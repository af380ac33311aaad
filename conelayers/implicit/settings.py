"""How equations and the linear systems of their derivatives are solved: strategies that carry their settings.

``Anderson`` and ``Picard`` solve fixed points z = f(z, θ), ``Newton`` solves these and roots F(z, θ) = 0. The units of
z and F do not matter. A fixed point is accepted if, for every i,

    |F_i| ≤ tol·max(|z_i|, |F_i at z0|),    F = f(z, θ) − z,

and a root if Newton's step is small or F is down to rounding,

    |dz_i| ≤ tol·|z_i|  for every i,    or    |F_i| ≤ max(64ε, 1e−4·tol)·|F_i at z0|  for every i,

for each instance of a batch by itself. A ``tol`` below 64 units of rounding ε of the dtype counts as 64ε, and a point
at which F or f is rounding is accepted.

``Dense``, ``GMRES`` and ``BiCGStab`` solve the linear systems B t = r and Bᵀt = r, B = ∂F/∂z. Their solutions are
accepted if ‖B t − r‖ ≤ rtol·‖r‖, which is computed afresh. Only ``Dense`` finds out that B is singular whatever r is;
the others return a solution if r happens to lie in B's range.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, final

__all__ = [
    "GMRES",
    "Anderson",
    "BiCGStab",
    "Dense",
    "ForwardSolver",
    "LinearSolver",
    "Newton",
    "Picard",
    "check_kind",
    "is_real",
    "linear_solver_for",
]

_DENSE_UP_TO = 256  # unknowns of an instance: the matrix takes as many products
_MOST_NUMBERS = 2**24  # in the matrices of a batch: 128 MB in double precision


@final
@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration of z ← f(z).

    The next point is β·f + (1 − β)·z at the affine combination of the last points whose residual is least.

    memory: how many of the last points are combined.
    tol: the tolerance (above).
    max_iter: evaluations of f. Instances that are not done then go on from their best point by plain iteration, for
    ``max_iter`` evaluations more.
    damping: β.

    Source: Walker, Ni, "Anderson acceleration for fixed-point iterations" (2011).
    """

    memory: int = 5
    tol: float = 1e-10
    max_iter: int = 200
    damping: float = 1.0

    def __post_init__(self) -> None:
        _whole(self, "memory")
        _whole(self, "max_iter")
        _between(self, "tol", 1.0)
        _between(self, "damping", 2.0)


@final
@dataclass(frozen=True)
class Picard:
    """Plain iteration z ← (1 − damping)·z + damping·f(z), which converges where f is a contraction."""

    tol: float = 1e-10
    max_iter: int = 1000
    damping: float = 1.0

    def __post_init__(self) -> None:
        _whole(self, "max_iter")
        _between(self, "tol", 1.0)
        _between(self, "damping", 2.0)


@final
@dataclass(frozen=True)
class Newton:
    """(Semismooth) Newton steps B dz = −F, with a backtracking line search on ‖F‖; for fixed points and roots.

    B is the element that automatic differentiation gives. If the matrix of a dense step is singular, a regularized
    least-squares step is taken.

    tol: the tolerance (above).
    max_iter: steps.
    linear: the linear solver for the steps; None for one chosen by the size of the system.
    """

    tol: float = 1e-10
    max_iter: int = 50
    linear: Dense | GMRES | BiCGStab | None = None

    def __post_init__(self) -> None:
        _whole(self, "max_iter")
        _between(self, "tol", 1.0)
        check_kind("linear", self.linear, (Dense, GMRES, BiCGStab, type(None)))


@final
@dataclass(frozen=True)
class Dense:
    """B as a matrix, (n, n) for each instance, by n products; LU and one step of refinement.

    rtol: the largest relative residual that is accepted. B counts as singular beyond it, or if its condition, with rows
    and columns scaled to 1, is about 1e13 (1e4 in single precision).
    """

    rtol: float = 1e-8

    def __post_init__(self) -> None:
        _between(self, "rtol", 1.0)


@final
@dataclass(frozen=True)
class GMRES:
    """Restarted GMRES on products with B; each instance of a batch has its own Krylov space.

    rtol: the largest relative residual that is accepted.
    restart: the dimension of the Krylov space.
    max_iter: products with B in all.

    Source: Saad, Schultz (1986).
    """

    rtol: float = 1e-10
    restart: int = 30
    max_iter: int = 1000

    def __post_init__(self) -> None:
        _between(self, "rtol", 1.0)
        _whole(self, "restart")
        _whole(self, "max_iter")


@final
@dataclass(frozen=True)
class BiCGStab:
    """BiCGStab on products with B: short recurrences, little memory. Source: van der Vorst (1992)."""

    rtol: float = 1e-10
    max_iter: int = 1000

    def __post_init__(self) -> None:
        _between(self, "rtol", 1.0)
        _whole(self, "max_iter")


ForwardSolver = Anderson | Picard | Newton
LinearSolver = Dense | GMRES | BiCGStab


def linear_solver_for(given: LinearSolver | None, order: int, instances: int) -> LinearSolver:
    """The linear solver that was given; else Dense for systems of at most 256 unknowns, GMRES for larger ones."""
    if given is not None:
        return given
    return Dense() if order <= _DENSE_UP_TO and instances * order**2 <= _MOST_NUMBERS else GMRES()


def check_kind(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    """Raises TypeError unless the value is of one of the kinds."""
    if not isinstance(value, kinds):
        names = ", ".join("None" if k is type(None) else k.__name__ + "()" for k in kinds)
        raise TypeError(f"{name}: got {value!r}, expected one of {names}")


def is_real(value: Any) -> bool:
    """Whether the value is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(settings: Any, field: str) -> None:
    value = getattr(settings, field)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{type(settings).__name__}.{field}: got {value!r}, expected an integer ≥ 1")


def _between(settings: Any, field: str, most: float) -> None:
    value = getattr(settings, field)
    if not is_real(value) or not 0 < value <= most:
        raise ValueError(f"{type(settings).__name__}.{field}: got {value!r}, expected a number in (0, {most:g}]")
