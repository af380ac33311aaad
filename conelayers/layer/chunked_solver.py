"""A layer's batches solved in chunks, on an executor or, for the sake of a progress bar, in this process.

What the layer decides for the whole batch (errors, warnings, policies, and the parameters' gradients) it decides in the
caller's process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, final

import numpy as np

from conelayers.layer.chunk_executor import ChunkExecutor
from conelayers.layer.remote_linearization import RemoteLinearization
from conelayers.layer.workers import SolveChunk, Work
from conelayers.program.cone_program import Structure
from conelayers.program.solution import Solution
from conelayers.solve.batch import WarmStart

__all__ = ["ChunkedSolver"]


@final
class ChunkedSolver:
    """Solves the batches of one layer in chunks."""

    def __init__(self, layer: Work, executor: Executor | None, chunk_size: int | None, progress: bool) -> None:
        self.tasks = ChunkExecutor(layer, executor, chunk_size, progress)
        self._calls = itertools.count()

    def solve(
        self,
        structure: Structure,
        theta: np.ndarray,
        solver_args: Mapping[str, Any] | None,
        start: WarmStart | None,
        max_seconds: float | None,
    ) -> tuple[Solution, RemoteLinearization]:
        """The solutions of programs of this structure for θ (B, p), and the solution map linearized there."""
        call, chunks = next(self._calls), self.tasks.chunks(len(theta))
        keys = [(self.tasks.token, call, c.start) for c in chunks]
        args = dict(solver_args or {})
        starts = [None if start is None else WarmStart(*(h[c] for h in start)) for c in chunks]
        deadline = None if max_seconds is None else time.time() + max_seconds
        tasks = [SolveChunk(k, theta[c], args, s, deadline) for k, c, s in zip(keys, chunks, starts, strict=True)]
        solution = Solution.joined(self.tasks.run(tasks, chunks, "solve"))
        layer = self.tasks.layer
        remote = RemoteLinearization(self.tasks, layer, structure, theta, solution, args, tuple(keys), tuple(chunks))
        return solution, remote
