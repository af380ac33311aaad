"""What a worker of an executor does: it solves chunks of a layer's batches, and differentiates there.

A worker is a thread, a process or a machine of a cluster. It keeps the layers that it has been sent, and the factors of
its last chunks: a gradient that comes back to the worker of its solve needs no new factorization; elsewhere it costs
one.
"""

from __future__ import annotations

import os
import platform
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from conelayers.derivatives.linearization import SolutionMap, always
from conelayers.numerics.trouble import Trouble
from conelayers.program.solution import Solution
from conelayers.solve.batch import WarmStart
from conelayers.support.limits import time_limit
from conelayers.support.parallel import one_blas_thread
from conelayers.support.recent import Recent, factor_numbers

__all__ = ["ChunkKey", "DeriveChunk", "Missing", "SolveChunk", "Work", "perform", "register"]

_LAYERS_KEPT = 16  # by a worker
_MOST_NUMBERS = 2**25  # that the factors a worker keeps may hold, roughly

ChunkKey = tuple[str, int, int]  # the layer's token, the number of its call, the chunk's first instance


class Work(Protocol):
    """What a worker calls of a layer."""

    def run(
        self, theta: np.ndarray, solver_args: Mapping[str, Any] | None, start: WarmStart | None
    ) -> tuple[Solution, SolutionMap]:
        """Solve for θ (B, p) in this process."""

    def relinearize(
        self,
        theta: np.ndarray,
        v: np.ndarray,
        solver_args: Mapping[str, Any] | None,
        x: np.ndarray | None = None,
    ) -> SolutionMap:
        """The solution map linearized at θ (B, p) and a solution's v (B, m), which is NaN if there is no solution."""


@final
@dataclass(frozen=True)
class Missing:
    """A worker's answer if it does not have the layer: the worker's name."""

    worker: str


@final
class _Kept:
    """A worker's layers by their tokens, and the linearizations of its last chunks."""

    def __init__(self) -> None:
        self._layers: Recent[str, Work] = Recent(_LAYERS_KEPT)
        self._maps: Recent[ChunkKey, SolutionMap] = Recent()

    def layer(self, token: str, sent: Work | None) -> Work | None:
        """The layer with that token: the one that was sent, which is kept, or one that is here; else None."""
        own = _OWN.get(token)
        if own is not None:
            return own
        return self._layers.get(token) if sent is None else self._layers.add(token, sent)

    def keep(self, key: ChunkKey, batch: int, linearization: SolutionMap) -> None:
        """Keep the linearization of a chunk of ``batch`` instances."""
        numbers = factor_numbers(batch, sum(linearization.structure.A.shape))
        self._maps.add(key, linearization, numbers=numbers, most_numbers=_MOST_NUMBERS)

    def find(self, key: ChunkKey) -> SolutionMap | None:
        """The linearization of that chunk, if it is still here."""
        return self._maps.get(key)

    def drop(self, token: str) -> None:
        """Forget the layer with that token, and its linearizations."""
        self._layers.drop(lambda kept: kept == token)
        self._maps.drop(lambda key: key[0] == token)


_OWN: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # the layers of this process
_KEPT = _Kept()


@final
@dataclass(frozen=True)
class SolveChunk:
    """The task to solve a chunk."""

    key: ChunkKey
    theta: np.ndarray
    solver_args: dict[str, Any]
    start: WarmStart | None
    deadline: float | None  # of the whole call, by time.time(), the clock that machines share

    def __call__(self, layer: Work) -> Solution:
        with time_limit(None if self.deadline is None else max(0.0, self.deadline - time.time())):
            solution, linearization = layer.run(self.theta, self.solver_args, self.start)
        _KEPT.keep(self.key, len(self.theta), linearization)
        return solution


@final
@dataclass(frozen=True)
class DeriveChunk:
    """The task to compute a tangent or an adjoint at a chunk's solutions.

    Its answer comes with the positions of the instances whose systems are singular.
    """

    key: ChunkKey
    theta: np.ndarray
    v: np.ndarray
    solver_args: dict[str, Any]
    sides: tuple[np.ndarray, ...]
    forward: bool

    def __call__(self, layer: Work) -> tuple[tuple[np.ndarray, ...], list[int]]:
        linearization = _KEPT.find(self.key) or layer.relinearize(self.theta, self.v, self.solver_args)
        _KEPT.keep(self.key, len(self.theta), linearization)
        troubled: list[int] = []

        def tell(trouble: Trouble) -> None:
            troubled.extend(trouble.instances)

        derive: Callable[..., tuple[np.ndarray, ...]] = linearization.tangent if self.forward else linearization.adjoint
        return derive(*self.sides, always, tell=tell), sorted(set(troubled))


def perform(token: str, sent: Work | None, task: Callable[[Work], Any]) -> Any:
    """The task's answer on this worker, or who the worker is if it does not have the layer and was not sent it."""
    layer = _KEPT.layer(token, sent)
    if layer is None:
        return Missing(f"{platform.node()}:{os.getpid()}")
    with one_blas_thread():  # there are other workers
        return task(layer)


def register(token: str, layer: Work) -> None:
    """Let tasks that run in this process find the layer by its token, for as long as it lives."""
    _OWN[token] = layer
    weakref.finalize(layer, _KEPT.drop, token).atexit = False
