"""The solution map at the core's points: by the core itself, and in Python where its systems are singular."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from conelayers.derivatives.linearization import Linearization, NullTest, SolutionMap, always
from conelayers.layer.compiled_core import CompiledCore
from conelayers.numerics.trouble import Tell
from conelayers.problem.parameters import Batch
from conelayers.program.cone_program import Structure

__all__ = ["CoreLinearization"]


@final
@dataclass(frozen=True)
class CoreLinearization:
    """The solution map of a batch at the core's ``points``.

    by_core: which instances the core solved, (B,) bool.
    kept: what the core kept of the solve; None where it factors once more.
    elsewhere: the solution map of the batch, linearized in Python at the instances at these positions.
    """

    structure: Structure
    core: CompiledCore
    batch: Batch
    points: tuple[np.ndarray, np.ndarray, np.ndarray]
    by_core: np.ndarray
    kept: Any
    threads: int
    elsewhere: Callable[[np.ndarray], SolutionMap]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": None}  # the core's workspaces stay in their process

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """The solution map of a part of the batch, at ascending positions which all have a solution, in Python."""
        index = np.asarray(index, dtype=np.int64)
        return self.elsewhere(index).take(index)

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m)."""
        dx, dy, ds, flags = self.core.core.linear(
            self.batch.values, self.points, r1[:, None], r2[:, None], threads=self.threads, kept=self.kept
        )
        dx, dy, ds = dx[:, 0], dy[:, 0], ds[:, 0]
        left = self._left(flags, r1, r2)
        if left.size:
            found = self.elsewhere(left).tangent(r1, r2, matters, tell=tell)
            for whole, part in zip((dx, dy, ds), found, strict=True):
                whole[left] = part[left]
        return dx, dy, ds

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m)."""
        sides = gx[:, None], gy[:, None], gs[:, None]
        lam, mu, flags = self.core.core.transposed_linear(
            self.batch.values, self.points, *sides, threads=self.threads, kept=self.kept
        )
        lam, mu = lam[:, 0], mu[:, 0]
        left = self._left(flags, gx, gy, gs)
        if left.size:
            found = self.elsewhere(left).adjoint(gx, gy, gs, matters, tell=tell)
            for whole, part in zip((lam, mu), found, strict=True):
                whole[left] = part[left]
        return lam, mu

    def _left(self, flags: np.ndarray, *sides: np.ndarray) -> np.ndarray:
        """The instances that are not the core's: it drops what it need not read, and NaN with it."""
        left = (flags != 0) | ~self.by_core
        for side in sides:
            if not np.isfinite(side).all():
                left |= ~np.isfinite(side).all(axis=1)
        return np.flatnonzero(left)
