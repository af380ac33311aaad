"""The test behind a root's certificate, over NumPy arrays: is B invertible, and is every other element?

- ``smooth``: B is the only element.
- Separable kinks: separable.py tests the box of diagonals D. A solution is known up to its residual only. So a
  coordinate counts as lying at a kink if Newton's next step, W B⁻¹F, would move it by a hundredth of its distance from
  the kink, or if that distance is within 1e−12 of ‖v‖.
- Neither: elements at points nearby are tested, and the signs of their determinants are compared. The Clarke Jacobian
  is convex, so two different signs prove that some element is singular. One sign proves nothing: the verdict is
  CHECKED.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from conelayers.derivatives.certificate import Verdict
from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.rounding import effective
from conelayers.implicit.separable import Invertibility, PiecewiseLinear, SeparableTest, check_separable
from conelayers.implicit.singular_roots import judged
from conelayers.support.arguments import as_flag, described

__all__ = ["EquationAtPoint", "Separable", "certificates", "check_arguments", "distance_moved"]

_STEPS = 100.0  # times Newton's next step: a kink within that distance counts as one
_ROUNDING = 1e-12  # times ‖v‖: the distance that is added for rounding errors
_RANK = 1e-9  # σ_min/σ_max of a scaled B, below which B counts as singular
_SCALINGS = 8  # how often rows and columns are divided by the square roots of their largest entries
_NEARBY = 1e-6  # times 1 + ‖·‖∞: the distance of "points nearby"


@final
@dataclass(frozen=True)
class Separable:
    """z = σ(pre(z, *theta)), coordinate by coordinate. In certify_root: F = z − σ(pre) or its negative.

    pre: a function of (z, *theta) that returns the shape of z and is smooth at the solution.
    activation: σ, ReLU by default.
    """

    pre: Callable[..., Any]
    activation: PiecewiseLinear = PiecewiseLinear.relu()  # noqa: RUF009

    def __post_init__(self) -> None:
        if not callable(self.pre):
            raise TypeError(f"Separable: pre: got {described(self.pre)}, expected a callable (z, *theta) -> tensor")
        if not isinstance(self.activation, PiecewiseLinear):
            raise TypeError(
                f"Separable: activation: got {described(self.activation)}, expected a PiecewiseLinear, such as "
                "PiecewiseLinear.relu()"
            )


@final
@dataclass(frozen=True, eq=False)
class EquationAtPoint:
    """F at a point (z, θ) in double precision, as an adapter gives it; N instances of n unknowns.

    z: the point (N, n).
    shape: the shape of z as the user's function takes it.
    rounding: the unit of rounding of z's dtype.
    values: Z (N, n) ↦ F(Z, θ) (N, n).
    matrices: Z ↦ ∂F/∂z (N, n, n).
    matrices_nearby: generator ↦ ∂F/∂z (N, n, n) at a point nearby, to which the generator moves z and θ.
    """

    z: np.ndarray
    shape: tuple[int, ...]
    rounding: float
    values: Callable[[np.ndarray], np.ndarray]
    matrices: Callable[[np.ndarray], np.ndarray]
    matrices_nearby: Callable[[np.random.Generator], np.ndarray]


@final
class _Kinks(NamedTuple):
    """v = pre(z, θ) (n,), W = ∂v/∂z (n, n), and σ of one instance."""

    v: np.ndarray
    W: np.ndarray
    activation: PiecewiseLinear


def check_arguments(name: str, separable: Any, tol: Any, samples: Any, smooth: Any, batched: Any) -> None:
    """Raises TypeError or ValueError naming the argument of ``name`` that does not fit."""
    as_flag(f"{name}: smooth", smooth)
    as_flag(f"{name}: batched", batched)
    if separable is not None and not isinstance(separable, Separable):
        raise TypeError(f"{name}: separable: got {described(separable)}, expected Separable(pre, activation) or None")
    if isinstance(tol, bool) or not isinstance(tol, numbers.Real) or not 0 < float(tol) < np.inf:
        raise ValueError(f"{name}: tol: got {tol!r}, expected a positive number")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"{name}: samples: got {samples!r}, expected an integer ≥ 1")


def certificates(
    name: str,
    equation: EquationAtPoint,
    at_point: Callable[[Callable[..., Any]], EquationAtPoint],
    separable: Separable | None,
    smooth: bool,
    tol: float,
    samples: int,
) -> tuple[RootCertificate, ...]:
    """One certificate for each instance.

    name: the public function, in messages.
    at_point: gives another function, ``separable.pre``, at the same point.
    The others are those of certify_root. Raises ValueError where ``separable`` describes another function.
    """
    z = equation.z
    count, n = z.shape
    F, B = equation.values(z), equation.matrices(z)
    generator = np.random.default_rng(0)
    unknown = separable is None and not smooth
    nearby = [equation.matrices_nearby(generator) for _ in range(samples if unknown else 0)]
    kinks = None if separable is None else _kinks(at_point(separable.pre), separable)
    tolerance = effective(tol, equation.rounding)
    singular, arrived = judged(equation.values, equation.matrices, z, F, B, tolerance, equation.rounding)
    return tuple(
        _certificate_of(
            name,
            F[i],
            z[i],
            B[i],
            tolerance,
            singular=bool(singular[i]),
            arrived=bool(arrived[i]),
            kinks=None if kinks is None else kinks[i],
            smooth=smooth,
            nearby=np.stack([h[i] for h in nearby]) if nearby else np.zeros((0, n, n)),
        )
        for i in range(count)
    )


def distance_moved(largest: Any) -> Any:
    """How far an array is moved to a point nearby, by its largest entry."""
    return _NEARBY * (1 + largest)


def _kinks(pre: EquationAtPoint, separable: Separable) -> list[_Kinks]:
    v, W = pre.values(pre.z), pre.matrices(pre.z)
    activations = separable.activation.of_instances(pre.shape, len(v))
    return [_Kinks(*of_one) for of_one in zip(v, W, activations, strict=True)]


def _certificate_of(
    name: str,
    F: np.ndarray,
    z: np.ndarray,
    B: np.ndarray,
    tolerance: float,
    *,
    singular: bool,
    arrived: bool,
    kinks: _Kinks | None,
    smooth: bool,
    nearby: np.ndarray,
) -> RootCertificate:
    """The certificate of one instance: F and z (n,), B (n, n), ``nearby`` (k, n, n) the elements at points nearby.

    singular, arrived: what singular_roots.py found. Raises ValueError where the kinks do not describe B.
    """
    residual = float(np.max(np.abs(F), initial=0.0) / (1 + np.max(np.abs(z), initial=0.0)))
    values = np.linalg.svd(B, compute_uv=False) if np.isfinite(B).all() else np.full(len(z), np.nan)
    smallest, largest = (float(values[-1]), float(values[0])) if values.size else (1.0, 1.0)
    regular = _regular(B) and not singular
    finite = all(bool(np.isfinite(h).all()) for h in (B, residual, *((kinks.v, kinks.W) if kinks is not None else ())))
    step = np.linalg.solve(B, F) if regular else np.zeros_like(F)
    at_kink, margin, limit, everywhere = None, np.inf, 0.0, None
    if not finite:
        tested = SeparableTest(Invertibility.SOME_SINGULAR, "none: not finite", 0, None, None)
    elif smooth:
        tested = SeparableTest(Invertibility.EVERY, "the derivative itself", 1, None, None)
    elif kinks is not None:
        allowed = _STEPS * np.abs(kinks.W @ step) + _ROUNDING * np.max(np.abs(kinks.v), initial=0.0)
        low, high, distance = kinks.activation.slopes_at(kinks.v, allowed)
        near = allowed if arrived else 0 * allowed  # away from a solution Newton's step reaches many kinks
        _described(name, B, kinks.W, *kinks.activation.slopes_at(kinks.v, near)[:2])
        tested = check_separable(kinks.W, low, high)
        at_kink, margin, limit = (
            low < high,
            float(np.min(distance, initial=np.inf)),
            float(np.max(allowed, initial=0.0)),
        )
        slopes = kinks.activation.slopes
        everywhere = _everywhere(check_separable(kinks.W, min(slopes), max(slopes)))
    else:
        tested = _sampled(B, nearby)
    return RootCertificate(
        verdict=_verdict(regular, arrived, tested, smooth, at_kink) if finite else Verdict.UNCERTIFIED,
        residual=residual,
        tolerance=tolerance,
        converged=arrived,
        smallest_singular_value=smallest,
        condition=largest / smallest if smallest > 0 else np.inf,
        linear_residual=_linear_residual(B) if regular else np.inf,
        kinks=at_kink,
        margin=margin,
        kink_tolerance=limit,
        method=tested.method,
        elements=tested.elements,
        least_minor=tested.least_minor,
        monotonicity=tested.monotonicity,
        everywhere=everywhere,
    )


def _verdict(
    regular: bool, converged: bool, tested: SeparableTest, smooth: bool, at_kink: np.ndarray | None
) -> Verdict:
    if not regular:
        return Verdict.LEAST_SQUARES
    if not converged or tested.invertibility is Invertibility.SOME_SINGULAR:
        return Verdict.UNCERTIFIED
    if tested.invertibility is Invertibility.SAMPLED:
        return Verdict.CHECKED
    return Verdict.CLASSICAL if smooth or not (at_kink is not None and at_kink.any()) else Verdict.CERTIFIED


def _everywhere(tested: SeparableTest) -> bool | None:
    return {Invertibility.EVERY: True, Invertibility.SOME_SINGULAR: False}.get(tested.invertibility)


def _described(name: str, B: np.ndarray, W: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Raises ValueError unless ±B = I − D W for slopes D between low and high: the kinks belong to another function."""
    identity = np.eye(len(W))
    size = 1e-6 * (1 + np.abs(W).max(initial=0.0))
    lengths = np.sum(W * W, axis=1)
    errors = []
    for sign in (1.0, -1.0):
        slopes = np.sum((identity - sign * B) * W, axis=1) / np.where(lengths > 0, lengths, 1.0)
        D = np.clip(slopes, low, high)
        errors.append(np.abs(identity - sign * B - D[:, None] * W).max(axis=1, initial=0.0))
    error = min(errors, key=lambda e: float(e.max(initial=0.0)))
    if (error > size).any():
        i = int(np.argmax(error))
        raise ValueError(
            f"{name}: separable: got a description of another function: the derivative of the function differs by "
            f"{error[i]:.1e} in row {i} from that of σ(pre(z, *theta)), expected z = σ(pre(z, *theta)) coordinate by "
            "coordinate; check pre and activation"
        )


def _sampled(B: np.ndarray, nearby: np.ndarray) -> SeparableTest:
    elements = np.concatenate([B[None], nearby])
    if not np.isfinite(elements).all():
        return SeparableTest(
            Invertibility.SOME_SINGULAR, "elements at points nearby, not finite", len(elements), None, None
        )
    regular = all(map(_regular, elements))
    signs, _ = np.linalg.slogdet(elements)
    found = Invertibility.SAMPLED if regular and (signs == signs[0]).all() else Invertibility.SOME_SINGULAR
    return SeparableTest(found, "elements at points nearby", len(elements), None, None)


def _regular(B: np.ndarray) -> bool:
    """Whether B is invertible, by its singular values after scaling rows and columns to about one size.

    Those of B itself depend on the units of F and z.
    """
    if not B.size or not np.isfinite(B).all():
        return not B.size
    for _ in range(_SCALINGS):
        for axis in (1, 0):
            size = np.sqrt(np.abs(B).max(axis=axis, keepdims=True))
            B = B / np.where(size > 0, size, 1.0)
    values = np.linalg.svd(B, compute_uv=False)
    return bool(values[-1] > _RANK * values[0])


def _linear_residual(B: np.ndarray) -> float:
    if not len(B):
        return 0.0
    r = np.random.default_rng(0).standard_normal(len(B))
    return float(np.linalg.norm(B @ np.linalg.solve(B, r) - r) / np.linalg.norm(r))
