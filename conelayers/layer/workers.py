"""A layer's batch on any ``concurrent.futures.Executor``: threads, processes, or the machines of a cluster.

The batch is cut into chunks of values. Workers keep the layers that they have been sent, and the factors of their last
chunks: a gradient that comes back to the worker of its solve needs no new factorization, elsewhere it costs one. What
the layer decides for the whole batch (errors, warnings, policies, and the parameters' gradients) is decided here.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, final

import numpy as np

from conelayers.derivatives.linearization import Linearization, NullTest, SolutionMap, always
from conelayers.layer.outcome import PartialLinearization
from conelayers.numerics.trouble import Tell, Trouble
from conelayers.program.cone_program import Structure
from conelayers.program.solution import Solution
from conelayers.solve.batch import WarmStart
from conelayers.support.errors import ExecutorError
from conelayers.support.limits import time_limit
from conelayers.support.parallel import one_blas_thread
from conelayers.support.recent import Recent, factor_numbers

__all__ = ["RemoteLinearization", "Spread", "check_chunk_size", "check_executor"]

_CHUNKS = 2  # for each worker: one that is slow does not leave the others idle for long
_LEAST_CHUNK, _STEPS = 16, 50  # of a progress bar in one process
_LAYERS_KEPT = 16  # by a worker
_MOST_NUMBERS = 2**25  # that the factors a worker keeps may hold, roughly
_ROUNDS = 3  # in which the layer goes to as many workers as missed it; after them it goes with every chunk


class Work(Protocol):
    """What the workers ask of a layer."""

    def run(
        self, theta: np.ndarray, solver_args: Mapping[str, Any] | None, start: WarmStart | None
    ) -> tuple[Solution, SolutionMap]:
        """Solve for θ (B, p), here."""

    def relinearize(
        self,
        theta: np.ndarray,
        v: np.ndarray,
        solver_args: Mapping[str, Any] | None,
        x: np.ndarray | None = None,
    ) -> SolutionMap:
        """The solution map at θ (B, p) and a solution's v (B, m), NaN for none."""


def check_executor(executor: Any) -> Executor | None:
    """Raises TypeError for what is not an Executor."""
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor: got {type(executor).__name__}, expected a concurrent.futures.Executor (threads, processes), "
            "or that of a "
            "Dask cluster: client.get_executor()"
        )
    return executor


def check_chunk_size(chunk_size: Any) -> int | None:
    """Raises ValueError for what is not a positive integer."""
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size: got {chunk_size!r}, expected a positive integer, or None")
    return chunk_size


# On the workers

_Key = tuple[str, int, int]  # the layer's token, the number of its call, the chunk's first instance


@final
@dataclass(frozen=True)
class _Missing:
    """A worker's answer where it does not have the layer: who it is."""

    worker: str


@final
class _Kept:
    """A worker's layers by their tokens, and the linearizations of its last chunks."""

    def __init__(self) -> None:
        self._layers: Recent[str, Work] = Recent(_LAYERS_KEPT)
        self._maps: Recent[_Key, SolutionMap] = Recent()

    def layer(self, token: str, sent: Work | None) -> Work | None:
        """The layer of that token, kept if it was sent."""
        own = _OWN.get(token)
        if own is not None:
            return own
        return self._layers.get(token) if sent is None else self._layers.add(token, sent)

    def keep(self, key: _Key, batch: int, linearization: SolutionMap) -> None:
        """Remember the linearization of a chunk with so many instances."""
        numbers = factor_numbers(batch, sum(linearization.structure.A.shape))
        self._maps.add(key, linearization, numbers=numbers, most_numbers=_MOST_NUMBERS)

    def find(self, key: _Key) -> SolutionMap | None:
        """The linearization of that chunk, if it is still here."""
        return self._maps.get(key)

    def drop(self, token: str) -> None:
        """Forget what was kept of that layer."""
        self._layers.drop(lambda kept: kept == token)
        self._maps.drop(lambda key: key[0] == token)


_OWN: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # the layers of this process
_KEPT = _Kept()


@final
@dataclass(frozen=True)
class _Solve:
    """Solve a chunk."""

    key: _Key
    theta: np.ndarray
    solver_args: dict[str, Any]
    start: WarmStart | None
    deadline: float | None  # of the whole call, on the wall clock: that is what machines share

    def __call__(self, layer: Work) -> Solution:
        with time_limit(None if self.deadline is None else max(0.0, self.deadline - time.time())):
            solution, linearization = layer.run(self.theta, self.solver_args, self.start)
        _KEPT.keep(self.key, len(self.theta), linearization)
        return solution


@final
@dataclass(frozen=True)
class _Derive:
    """A tangent or an adjoint at a chunk's solutions: the answer, and which instances have trouble with it."""

    key: _Key
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


def _work(token: str, sent: Work | None, task: Callable[[Work], Any]) -> Any:
    layer = _KEPT.layer(token, sent)
    if layer is None:
        return _Missing(f"{platform.node()}:{os.getpid()}")
    with one_blas_thread():  # there are other workers
        return task(layer)


# In the caller's process


@final
class Serial(Executor):
    """Does the work here, chunk by chunk, when its result is asked for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Lazy(partial(fn, *args, **kwargs))


@final
class _Lazy(Future[Any]):
    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make

    def result(self, timeout: float | None = None) -> Any:
        return self._make()


@contextmanager
def _bar(shown: bool, what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """What counts finished instances."""
    if not shown:
        yield lambda count: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    with tqdm(total=total, desc=what, unit="instance", leave=False) as bar:
        yield bar.update


@final
class Spread:
    """The chunks of one layer's calls on an executor."""

    def __init__(self, layer: Work, executor: Executor | None, chunk_size: int | None, progress: bool) -> None:
        self._token, self._layer = uuid.uuid4().hex, weakref.ref(layer)
        self._executor, self._chunk_size, self._progress = executor or Serial(), chunk_size, progress
        self._calls = itertools.count()
        _OWN[self._token] = layer
        weakref.finalize(layer, _KEPT.drop, self._token).atexit = False

    def solve(
        self,
        structure: Structure,
        theta: np.ndarray,
        solver_args: Mapping[str, Any] | None,
        start: WarmStart | None,
        max_seconds: float | None,
    ) -> tuple[Solution, RemoteLinearization]:
        """The solutions of programs of this structure for θ (B, p), and the solution map linearized there."""
        call, size = next(self._calls), self._size(len(theta))
        chunks = [slice(i, min(i + size, len(theta))) for i in range(0, len(theta), size)]
        keys = [(self._token, call, c.start) for c in chunks]
        args = dict(solver_args or {})
        starts = [None if start is None else WarmStart(*(h[c] for h in start)) for c in chunks]
        deadline = None if max_seconds is None else time.time() + max_seconds
        tasks = [_Solve(k, theta[c], args, s, deadline) for k, c, s in zip(keys, chunks, starts, strict=True)]
        solution = Solution.joined(self.do(tasks, chunks, "solve"))
        layer = self._layer()
        assert layer is not None
        return solution, RemoteLinearization(self, layer, structure, theta, solution, args, tuple(keys), tuple(chunks))

    def _size(self, batch: int) -> int:
        if self._chunk_size is not None:
            return self._chunk_size
        if isinstance(self._executor, Serial):
            return max(_LEAST_CHUNK, math.ceil(batch / _STEPS))
        workers = getattr(self._executor, "_max_workers", None) or os.cpu_count() or 1
        return max(1, math.ceil(batch / (_CHUNKS * workers)))

    def do(self, tasks: Sequence[Callable[[Work], Any]], chunks: Sequence[slice], what: str) -> list[Any]:
        """The tasks' answers in order; the layer goes to the workers that do not have it.

        Raises ExecutorError where the executor takes no work or loses it.
        """
        with _bar(self._progress, what, chunks[-1].stop if chunks else 0) as advance:
            return self._do(tasks, chunks, advance)

    def _do(
        self, tasks: Sequence[Callable[[Work], Any]], chunks: Sequence[slice], advance: Callable[[int], Any]
    ) -> list[Any]:
        answers: list[Any] = [None] * len(tasks)
        left, missed = list(range(len(tasks))), set[str]()
        for attempt in itertools.count():
            sent = len(missed) if attempt < _ROUNDS else len(left)
            futures: list[tuple[int, Future[Any]]] = []
            try:
                for k, i in enumerate(left):
                    futures.append((i, self._submit(self._layer() if k < sent else None, tasks[i])))
                for i, future in futures:
                    answers[i] = self._result(future, chunks[i])
                    if not isinstance(answers[i], _Missing):
                        advance(chunks[i].stop - chunks[i].start)
            except BaseException:
                for _, future in futures:
                    future.cancel()
                raise
            missed = {a.worker for a in answers if isinstance(a, _Missing)}
            left = [i for i, a in enumerate(answers) if isinstance(a, _Missing)]
            if not left:
                break
        return answers

    def _submit(self, layer: Work | None, task: Callable[[Work], Any]) -> Future[Any]:
        try:
            return self._executor.submit(_work, self._token, layer, task)
        except (BrokenExecutor, RuntimeError) as error:
            raise ExecutorError(
                f"executor: {type(self._executor).__name__} takes no work ({error}); give the layer a running one: "
                "layer.executor = …"
            ) from error

    def _result(self, future: Future[Any], chunk: slice) -> Any:
        try:
            return future.result()
        except Exception as error:
            if not (isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ in _LOST):
                raise
            raise ExecutorError(
                f"executor: {type(self._executor).__name__} lost the instances {chunk.start} to {chunk.stop - 1} of "
                "the batch "
                f"({type(error).__name__}: {error}); nothing was returned. Give the layer a running executor, "
                "layer.executor = …, and "
                "call it again"
            ) from error


_LOST = ("KilledWorker", "PicklingError", "FutureCancelledError")  # of Dask, and of processes


@final
@dataclass(frozen=True)
class RemoteLinearization:
    """The linearized solution map of a batch whose factors are on an executor's workers.

    Instances with singular systems are solved again in this process, which knows what the caller reads of them.
    """

    spread: Spread
    layer: Work
    structure: Structure
    theta: np.ndarray
    solution: Solution
    solver_args: dict[str, Any]
    keys: tuple[_Key, ...]
    chunks: tuple[slice, ...]
    on_trouble: Callable[[SolutionMap, Trouble], None] | None = None

    @property
    def _v(self) -> np.ndarray:
        return self.solution.y - self.solution.s

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """That of a part of the batch, made anew here."""
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
            _Derive(k, self.theta[c], v[c], self.solver_args, tuple(h[c] for h in sides), forward)
            for k, c in zip(self.keys, self.chunks, strict=True)
        ]
        answers = self.spread.do(tasks, self.chunks, "tangent" if forward else "gradient")
        found = [np.concatenate(parts) for parts in zip(*(values for values, _ in answers), strict=True)]
        troubled = [c.start + i for c, (_, inside) in zip(self.chunks, answers, strict=True) for i in inside]
        if troubled:
            local = PartialLinearization(self.take(troubled), np.array(troubled), len(self.theta), self.on_trouble)
            derive: Callable[..., tuple[np.ndarray, ...]] = local.tangent if forward else local.adjoint
            for whole, part in zip(found, derive(*sides, matters, tell=tell), strict=True):
                whole[troubled] = part[troubled]
        return found
