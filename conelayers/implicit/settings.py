"""How equations are solved, and the linear systems of their derivatives: strategies that carry their settings, for both frameworks.

Of the equation F(z, θ) = 0, or z = f(z, θ): ``Anderson``, ``Picard`` (fixed points) and ``Newton``. No unit of z or of F counts: a fixed
point is accepted where, for every i,

    |F_i| ≤ tol·max(|z_i|, |F_i at z0|),    F = f(z, θ) − z,

and a root where Newton's step is small or F is down to rounding,

    |dz_i| ≤ tol·|z_i|  for every i,    or    |F_i| ≤ max(64ε, 1e−4·tol)·|F_i at z0|  for every i,

for each instance of a batch by itself; ``tol`` is never taken below 64 units of rounding ε of the dtype, and what is rounding of F or f at z
itself is let pass. Of the linear systems
B t = r and Bᵀt = r, B = ∂F/∂z: ``Dense``, ``GMRES`` and ``BiCGStab``. Whatever a method says, ‖B t − r‖ ≤ rtol·‖r‖ is checked. Only
``Dense`` sees a singular B whatever r is; the others find a solution where r happens to lie in its range.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, final

from conelayers.arguments import as_flag

__all__ = [
    "GMRES",
    "Anderson",
    "BiCGStab",
    "Dense",
    "ForwardSolver",
    "LinearSolver",
    "Newton",
    "Picard",
    "linear_solver_for",
]

_DENSE_UP_TO = 256  # unknowns of an instance
_MOST_NUMBERS = 2**24  # in the matrices of a batch
ROUNDINGS = 64.0  # units of rounding that count as zero
PROBE = 64.0  # units of rounding, the size of relative steps of z that show what F is computed from, and its rounding errors
AT_ZERO = 1e-4  # times tol: by how much F has to come down from the start where Newton's step is not small against z
MODEL = 0.1  # the relative error of F's linear model on Newton's step up to which a root is known to be there
DOWN = 1e-3  # F over its size on the way: what counts as down where rounding ends the descent
BEYOND = 1e-3  # of that: how far down F has to go where convergence is linear
LINEAR = 3  # steps in a row whose convergence is linear, as it is at a singular root
SLOW_STEPS, SLOW_VALUES, SHRINKING = (
    (0.4, 0.97),
    (0.15, 0.6),
    0.65,
)  # at zᵐ = 0: 1 − 1/m, (1 − 1/m)ᵐ, and the ratio, of B, is ≤ ½
MOST_GROWTH = (
    2.0**-8
)  # of a vector by the inverse of a scaled matrix, over 1/rounding: beyond, the matrix counts as singular


@final
@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration of z ← f(z): the next point is β·f + (1 − β)·z at the affine combination of the last points whose residual is least.

    memory: how many of them. damping: β. Instances that have not reached ``tol`` after ``max_iter`` evaluations go on from their
    best point by plain iteration, for as many more. Source: Walker, Ni, "Anderson acceleration for fixed-point iterations" (2011).
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
    """(Semismooth) Newton steps B dz = −F with the element that automatic differentiation gives, and a backtracking line search on ‖F‖.

    linear: how the steps are solved for; by size where None. Where the matrix of a dense step is singular, a regularized
    least-squares step is taken. For fixed points and roots.
    """

    tol: float = 1e-10
    max_iter: int = 50
    linear: Dense | GMRES | BiCGStab | None = None

    def __post_init__(self) -> None:
        _whole(self, "max_iter")
        _between(self, "tol", 1.0)
        _one_of("linear", self.linear, (Dense, GMRES, BiCGStab, type(None)))


@final
@dataclass(frozen=True)
class Dense:
    """B as a matrix, (n, n) for each instance, by n products; LU and one step of refinement.

    rtol: the relative residual up to which an answer is accepted. B counts as singular beyond, and where with rows and columns
    scaled to 1 its condition is about 1e13 (1e4 in single precision).
    """

    rtol: float = 1e-8

    def __post_init__(self) -> None:
        _between(self, "rtol", 1.0)


@final
@dataclass(frozen=True)
class GMRES:
    """Restarted GMRES on products with B; each instance of a batch has its own Krylov space. Source: Saad, Schultz (1986).

    rtol: relative residual. restart: dimension of the space. max_iter: products in all.
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
    """What was given; else Dense for systems of at most 256 unknowns, GMRES for larger ones."""
    if given is not None:
        return given
    return Dense() if order <= _DENSE_UP_TO and instances * order**2 <= _MOST_NUMBERS else GMRES()


def probe(n: int) -> list[float]:
    """Relative steps of n unknowns that show how F rounds near a point, for units of rounding of 1."""
    return [PROBE * (0.75 + 0.25 * math.cos(k * k)) * (-1) ** (k % 3) for k in range(n)]


def effective(tolerance: float, rounding: float) -> float:
    """The tolerance, but no less than 64 units of rounding."""
    return max(tolerance, 64 * rounding)


def check_options(name: str, solve: Any, linear: Any, tol: Any, on_failure: Any, batched: Any, *, fixed: bool) -> None:
    """Raises TypeError or ValueError naming the argument of ``name`` that is none."""
    if solve is not None and (isinstance(solve, type) or not callable(solve)):
        kinds = (Anderson, Picard, Newton) if fixed else (Newton,)
        if not isinstance(solve, kinds):
            names = ", ".join(k.__name__ + "()" for k in kinds)
            hint = "" if fixed or not isinstance(solve, (Anderson, Picard)) else "; that one is for fixed_point"
            raise TypeError(
                f"{name}: solve: got {solve!r}, expected None, {names} or a callable (function, z0, theta) -> z{hint}"
            )
    _one_of(f"{name}: linear", linear, (Dense, GMRES, BiCGStab, type(None)))
    as_flag(f"{name}: batched", batched)
    if tol is not None and not (_real(tol) and 0 < tol < float("inf")):
        raise ValueError(f"{name}: tol: got {tol!r}, expected a positive number, or None for the solver's own")
    if on_failure not in ("raise", "nan"):
        raise ValueError(f"{name}: on_failure: got {on_failure!r}, expected 'raise' or 'nan'")


def _one_of(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        names = ", ".join("None" if k is type(None) else k.__name__ + "()" for k in kinds)
        raise TypeError(f"{name}: got {value!r}, expected one of {names}")


def _real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(settings: Any, field: str) -> None:
    value = getattr(settings, field)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{type(settings).__name__}.{field}: got {value!r}, expected an integer ≥ 1")


def _between(settings: Any, field: str, most: float) -> None:
    value = getattr(settings, field)
    if not _real(value) or not 0 < value <= most:
        raise ValueError(f"{type(settings).__name__}.{field}: got {value!r}, expected a number in (0, {most:g}]")
