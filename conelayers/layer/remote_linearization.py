"""The linearized solution map of a batch that an executor's workers solved, and whose factors they keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from conelayers.derivatives.linearization import Linearization, NullTest, SolutionMap, always
from conelayers.layer.chunk_executor import ChunkExecutor
from conelayers.layer.outcome import PartialLinearization
from conelayers.layer.workers import ChunkKey, DeriveChunk, Work
from conelayers.numerics.trouble import Tell, Trouble
from conelayers.program.cone_program import Structure
from conelayers.program.solution import Solution

__all__ = ["RemoteLinearization"]


@final
@dataclass(frozen=True)
class RemoteLinearization:
    """The linearized solution map of a batch whose factors are on an executor's workers.

    Instances with singular systems are solved once more in the caller's process, where ``matters`` says what the caller
    reads of them.
    """

    tasks: ChunkExecutor
    layer: Work
    structure: Structure
    theta: np.ndarray
    solution: Solution
    solver_args: dict[str, Any]
    keys: tuple[ChunkKey, ...]
    chunks: tuple[slice, ...]
    on_trouble: Callable[[SolutionMap, Trouble], None] | None = None

    @property
    def _v(self) -> np.ndarray:
        return self.solution.y - self.solution.s

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """The solution map of a part of the batch, linearized once more in this process."""
        index = np.asarray(index, dtype=np.int64)
        made = self.layer.relinearize(self.theta[index], self._v[index], self.solver_args, self.solution.x[index])
        assert isinstance(made, Linearization)
        return made

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m)."""
        dx, dy, ds = self._derive((r1, r2), True, matters, tell)
        return dx, dy, ds

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m)."""
        lam, mu = self._derive((gx, gy, gs), False, matters, tell)
        return lam, mu

    def _derive(
        self, sides: tuple[np.ndarray, ...], forward: bool, matters: NullTest, tell: Tell | None
    ) -> list[np.ndarray]:
        v = self._v
        tasks = [
            DeriveChunk(k, self.theta[c], v[c], self.solver_args, tuple(h[c] for h in sides), forward)
            for k, c in zip(self.keys, self.chunks, strict=True)
        ]
        answers = self.tasks.run(tasks, self.chunks, "tangent" if forward else "gradient")
        found = [np.concatenate(parts) for parts in zip(*(values for values, _ in answers), strict=True)]
        troubled = [c.start + i for c, (_, inside) in zip(self.chunks, answers, strict=True) for i in inside]
        if troubled:
            local = PartialLinearization(self.take(troubled), np.array(troubled), len(self.theta), self.on_trouble)
            derive: Callable[..., tuple[np.ndarray, ...]] = local.tangent if forward else local.adjoint
            for whole, part in zip(found, derive(*sides, matters, tell=tell), strict=True):
                whole[troubled] = part[troubled]
        return found
