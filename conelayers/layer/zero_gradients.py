"""Gradients that are zero in every parameter, as at the vertices of linear programs: nothing is learned from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conelayers.derivatives.smoothing import Adjoint
from conelayers.problem.parametric import ParametricProgram

__all__ = ["AT_A_VERTEX", "are_zero", "is_zero"]

_ZERO = 1e-11  # times the sizes of solution and cotangent, over that of the parameter: smaller gradients are rounding

AT_A_VERTEX = (
    "the solution of a linear program is a vertex, which stays where it is while the costs change a little, so that "
    "nothing can be learned from its derivative. Give the layer smoothing=conelayers.LPGD(tau=…) or "
    "ProximalSmoothing(temperature=…), or, where zero is what you want, singular='least_squares'"
)


def is_zero(
    compiled: ParametricProgram,
    theta: np.ndarray,
    points: Sequence[np.ndarray],
    cotangents: Sequence[np.ndarray],
    adjoint: Adjoint,
) -> bool:
    """Whether the gradient at θ (B, p) is zero in every parameter, although some cotangent is not zero.

    points, cotangents: x, y and s, and their cotangents.
    adjoint: what the gradient is made of.
    """
    gradient = compiled.adjoint(theta, *adjoint)
    parts = [(theta[:, spec.columns], gradient[:, spec.columns]) for spec in compiled.parameters]
    return are_zero(parts, list(zip(points, cotangents, strict=True)))


def are_zero(
    gradients: Sequence[tuple[np.ndarray, np.ndarray]], asked: Sequence[tuple[np.ndarray, np.ndarray]]
) -> bool:
    """Whether all gradients are zero, although some cotangent is not.

    gradients: the values of each parameter, and its gradient (B, ·).
    asked: what was asked for, and its cotangent, (B, ·).
    """
    if not any(g.any() for _, g in asked):
        return False
    bound = _ZERO * sum(_largest(g) * _largest(value) for value, g in asked)
    overall = max((np.max(_largest(value), initial=0.0) for value, _ in gradients), default=0.0) or 1.0
    for value, gradient in gradients:
        size = np.max(_largest(value), initial=0.0) or overall
        if not (size * np.abs(gradient).reshape(len(gradient), -1).max(axis=1, initial=0.0) <= bound).all():
            return False
    return True


def _largest(values: np.ndarray) -> np.ndarray:
    """The largest finite entry of each instance, (B,)."""
    flat = values.reshape(len(values), -1)
    return np.abs(np.where(np.isfinite(flat), flat, 0.0)).max(axis=1, initial=0.0)
