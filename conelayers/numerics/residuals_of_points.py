"""The residuals of points, recomputed from the data."""

from __future__ import annotations

import numpy as np

from conelayers.numerics.cones import product_cone
from conelayers.numerics.residual import ROUNDING, BackwardErrors, Point, relative
from conelayers.program.cone_program import ConeProgram
from conelayers.program.cones import Cones
from conelayers.program.solution import Residuals

__all__ = ["residuals_of"]

_SMALL = 1e-12  # errors up to which cheap upper bounds take their place


def residuals_of(program: ConeProgram, point: Point, errors: BackwardErrors | None = None) -> Residuals:
    """The Residuals of a point of an equilibrated program; ``errors`` are its backward errors, if they are known."""
    errors = errors or point.errors(program, _SMALL)
    return Residuals(
        primal=errors.rows.max(axis=1, initial=0.0),
        dual=errors.columns.max(axis=1, initial=0.0),
        gap=errors.gap,
        cone=_cone_errors(program.structure.cones, point.v, point.y, point.s),
        row=errors.rows.argmax(axis=1) if errors.rows.shape[1] else np.zeros(program.batch, dtype=np.int64),
        column=errors.columns.argmax(axis=1),
    )


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _cone_errors(cones: Cones, v: np.ndarray, y: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The largest over the blocks of their distances from the cones and of |sᵀy|, relative to the block, (B,)."""
    if not cones.curved:  # y is the positive part of v, and s the negative part, exactly
        return np.zeros(len(v))
    to_dual, to_primal = product_cone(cones).distances(y, s)
    square = cones.block_sums(v * v)
    size, y_size, s_size = (np.sqrt(h) for h in (square, cones.block_sums(y * y), cones.block_sums(s * s)))
    worst = np.zeros(len(v))
    for value, floor, scale in (
        (to_dual, ROUNDING * size, y_size),
        (to_primal, ROUNDING * size, s_size),
        (np.abs(cones.block_sums(s * y)), ROUNDING * square, s_size * y_size),
    ):
        worst = np.maximum(worst, relative(value, floor, scale).max(axis=1))
    return worst
