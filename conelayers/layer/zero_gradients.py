"""Gradients that are zero in every parameter, as at the vertices of linear programs: nothing is learned from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conelayers.derivatives.smoothing import Adjoint
from conelayers.problem.parametric import ParametricProgram

__all__ = ["AT_A_VERTEX", "is_zero"]

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
    if not any(g.any() for g in cotangents):
        return False
    asked = sum(_largest(g) * _largest(h) for g, h in zip(cotangents, points, strict=True))
    gradient = np.abs(compiled.adjoint(theta, *adjoint))
    overall = np.max(_largest(theta)) or 1.0
    for spec in compiled.parameters:
        size = np.max(_largest(theta[:, spec.columns]), initial=0.0) or overall
        if not (size * gradient[:, spec.columns] <= _ZERO * asked[:, None]).all():
            return False
    return True


def _largest(values: np.ndarray) -> np.ndarray:
    """The largest finite entry of each row, (B,)."""
    return np.abs(np.where(np.isfinite(values), values, 0.0)).max(axis=1, initial=0.0)
