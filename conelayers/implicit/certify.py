"""The test behind a root's certificate, over arrays: is B invertible for the element used, and for every other one?

- ``smooth``: B is all there is.
- Separable kinks: the box of diagonals D, by separable.py. A solution is known up to its residual only, so a coordinate counts as
  being at a kink that is as near as 100 times what Newton's next step, W B⁻¹F, would move it, or 1e−12 of ‖v‖.
- Neither: elements at points nearby are tested, and their determinants' signs compared: the Clarke Jacobian is convex, so two signs
  prove that some element is singular. One sign proves nothing; the verdict is CHECKED.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from conelayers.arguments import as_flag, described
from conelayers.certificate import Verdict
from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.separable import Invertibility, PiecewiseLinear, SeparableTest, check_separable

__all__ = ["Kinks", "Separable", "certificate_of", "check_arguments"]

_STEPS = 100.0  # of Newton's next step
_ROUNDING = 1e-12  # of ‖v‖
_RANK = 1e-9  # σ_min/σ_max, of a scaled B
_SCALINGS = 8  # of rows and columns by the square roots of their largest entries


@final
@dataclass(frozen=True)
class Separable:
    """z = σ(pre(z, *theta)), coordinate by coordinate; ``pre`` returns the shape of z and is smooth at the solution. ReLU by default.

    In certify_root: F = z − σ(pre) or its negative.
    """

    pre: Callable[..., Any]
    activation: PiecewiseLinear = PiecewiseLinear.relu()  # noqa: RUF009

    def __post_init__(self) -> None:
        if not callable(self.pre):
            raise TypeError(f"Separable: pre: got {described(self.pre)}, expected a callable (z, *theta) -> tensor")
        if not isinstance(self.activation, PiecewiseLinear):
            raise TypeError(
                f"Separable: activation: got {described(self.activation)}, expected a PiecewiseLinear, such as PiecewiseLinear.relu()"
            )


@final
class Kinks(NamedTuple):
    """v = pre(z, θ) (n,), W = ∂v/∂z (n, n), σ."""

    v: np.ndarray
    W: np.ndarray
    activation: PiecewiseLinear


def check_arguments(name: str, separable: Any, tol: Any, samples: Any, smooth: Any, batched: Any) -> None:
    """Raises TypeError or ValueError naming the argument of ``name`` that is none."""
    as_flag(f"{name}: smooth", smooth)
    as_flag(f"{name}: batched", batched)
    if separable is not None and not isinstance(separable, Separable):
        raise TypeError(f"{name}: separable: got {described(separable)}, expected Separable(pre, activation) or None")
    if isinstance(tol, bool) or not isinstance(tol, numbers.Real) or not 0 < float(tol) < np.inf:
        raise ValueError(f"{name}: tol: got {tol!r}, expected a positive number")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"{name}: samples: got {samples!r}, expected an integer ≥ 1")


def certificate_of(
    name: str,
    F: np.ndarray,
    z: np.ndarray,
    B: np.ndarray,
    tolerance: float,
    *,
    singular: bool,
    arrived: bool,
    kinks: Kinks | None,
    smooth: bool,
    nearby: np.ndarray,
) -> RootCertificate:
    """Of one instance, F and z (n,), B (n, n), ``nearby`` (k, n, n) elements at points nearby; singular, arrived:
    by singular_roots.py. Raises ValueError where kinks do not describe B."""
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
        near = allowed if arrived else 0 * allowed  # away from a solution everything may be near a kink
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
    """±B = I − D W for slopes D between low and high, else the description is of another function."""
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
            f"{name}: separable: got a description of another function: the derivative of the function differs by {error[i]:.1e} in row {i} from that of σ(pre(z, *theta)), "
            "expected z = σ(pre(z, *theta)) coordinate by coordinate; check pre and activation"
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
    """By the singular values with rows and columns of length about one: those of B depend on the units of F and z."""
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
