"""Whether null vectors change what a caller reads of a singular derivative.

Where J is singular, the solutions of its systems are determined up to null vectors only. What the caller reads (the
variables along (dx, dy), or the parameters' gradients made of (λ, μ)) may be determined all the same; then nothing is
wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conelayers.derivatives.linearization import NullTest, NullVectors
from conelayers.problem.parametric import OutputSpec, ParametricProgram

__all__ = ["gradients_move", "outputs_move"]

# A change along a null vector counts from this size, relative to the largest that a vector of its size can cause: the
# null vectors are known to some 1e-10, and the changes that count are of size 1.
_RELEVANT = 1e-8


def outputs_move(outputs: Sequence[OutputSpec], x: np.ndarray, y: np.ndarray) -> NullTest:
    """Whether the variables of instance i at x (B, n), y (B, m) change along null vectors (dx, dy) of J."""

    def moves(i: int, null: NullVectors) -> bool:
        for o in outputs:
            value = o.value(x[[i]], y[[i]])
            change = np.abs(o.tangent(value, null.first, null.last))
            unit = o.size(value, null.first_unit, null.last_unit)
            if (change > _RELEVANT * null.size * unit).any():
                return True
        return False

    return moves


def gradients_move(compiled: ParametricProgram, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> NullTest:
    """Whether the parameters' gradients of instance i at θ, x and y change along null vectors (λ, μ) of Jᵀ."""

    def moves(i: int, null: NullVectors) -> bool:
        t, u, w = (np.repeat(h[[i]], len(null.first), axis=0) for h in (theta, x, y))
        change = np.abs(compiled.adjoint(t, u, w, null.first, null.last))
        unit = compiled.adjoint_size(theta[[i]], x[[i]], y[[i]], null.first_unit, null.last_unit)
        return bool((change > _RELEVANT * null.size * unit).any())

    return moves
