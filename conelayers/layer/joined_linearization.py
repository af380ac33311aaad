"""The linearized solution map of a batch whose instances were linearized in several parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.derivatives.linearization import Linearization, NullTest, always
from conelayers.layer.outcome import PartialLinearization, poisoned
from conelayers.numerics.trouble import Tell
from conelayers.program.cone_program import Structure

__all__ = ["JoinedLinearization"]


@final
@dataclass(frozen=True)
class JoinedLinearization:
    """The solution map of a batch, in parts that have no instance in common; instances in none have no solution.

    linearize: the solution map of the instances at ascending positions, whatever part they are in.
    """

    structure: Structure
    parts: tuple[PartialLinearization, ...]
    batch: int
    linearize: Callable[[np.ndarray], Linearization]

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """The solution map of a part of the batch, at ascending positions which all have a solution."""
        index = np.asarray(index, dtype=np.int64)
        for part in self.parts:
            if np.isin(index, part.members).all():
                return part.take(index)
        return self.linearize(index)

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m), NaN for instances without a solution."""
        dx, dy, ds = (np.full(h.shape, np.nan) for h in (r1, r2, r2))
        for part in self.parts:
            for whole, values in zip((dx, dy, ds), part.tangent(r1, r2, matters, tell=tell), strict=True):
                whole[part.members] = values[part.members]
        return dx, dy, ds

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m); NaN for instances without a solution, or zero if their cotangents are zero."""
        others = poisoned((gx, gy, gs))[:, None]
        lam, mu = (np.repeat(others, h.shape[1], axis=1) for h in (gx, gy))
        for part in self.parts:
            for whole, values in zip((lam, mu), part.adjoint(gx, gy, gs, matters, tell=tell), strict=True):
                whole[part.members] = values[part.members]
        return lam, mu
