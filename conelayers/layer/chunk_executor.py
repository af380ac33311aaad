"""Tasks for the chunks of a batch on any ``concurrent.futures.Executor``, run in the caller's process."""

from __future__ import annotations

import itertools
import math
import os
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any, final

from conelayers.layer.workers import Missing, Work, perform, register
from conelayers.support.errors import ExecutorError

__all__ = ["ChunkExecutor", "check_chunk_size", "check_executor"]

_CHUNKS = 2  # for each worker: while one is slow, the others have work
_LEAST_CHUNK = 16  # instances in a chunk at least, if a progress bar is all that asks for chunks
_STEPS = 50  # of such a progress bar, at most
_ROUNDS = 3  # in which the layer goes to as many workers as missed it; after them it goes with every chunk
_LOST = ("KilledWorker", "PicklingError", "FutureCancelledError")  # errors of Dask and of process pools, by name


def check_executor(executor: Any) -> Executor | None:
    """Raises TypeError for what is not an Executor."""
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor: got {type(executor).__name__}, expected a concurrent.futures.Executor (threads, processes), or "
            "that of a Dask cluster: client.get_executor()"
        )
    return executor


def check_chunk_size(chunk_size: Any) -> int | None:
    """Raises ValueError for what is not a positive integer."""
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size: got {chunk_size!r}, expected a positive integer, or None")
    return chunk_size


@final
class Serial(Executor):
    """An executor that does a task in this process, when its result is asked for."""

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
    """Yields the function that is told how many more instances are finished."""
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
class ChunkExecutor:
    """The tasks of one layer on an executor: each works on a chunk of a batch, with the layer.

    token: the name by which workers know the layer.
    """

    def __init__(self, layer: Work, executor: Executor | None, chunk_size: int | None, progress: bool) -> None:
        self.token, self._layer = uuid.uuid4().hex, weakref.ref(layer)
        self._executor, self._chunk_size, self._progress = executor or Serial(), chunk_size, progress
        register(self.token, layer)

    @property
    def layer(self) -> Work:
        """The layer, which lives as long as one of its calls."""
        layer = self._layer()
        assert layer is not None
        return layer

    def chunks(self, batch: int) -> list[slice]:
        """The chunks that a batch of so many instances is cut into."""
        size = self._size(batch)
        return [slice(i, min(i + size, batch)) for i in range(0, batch, size)]

    def _size(self, batch: int) -> int:
        if self._chunk_size is not None:
            return self._chunk_size
        if isinstance(self._executor, Serial):
            return max(_LEAST_CHUNK, math.ceil(batch / _STEPS))
        workers = getattr(self._executor, "_max_workers", None) or os.cpu_count() or 1
        return max(1, math.ceil(batch / (_CHUNKS * workers)))

    def run(self, tasks: Sequence[Callable[[Work], Any]], chunks: Sequence[slice], what: str) -> list[Any]:
        """The tasks' answers, in the order of the tasks; workers that do not have the layer are sent it.

        what: the label of the progress bar. Raises ExecutorError where the executor takes no work or loses it.
        """
        with _bar(self._progress, what, chunks[-1].stop if chunks else 0) as advance:
            return self._run(tasks, chunks, advance)

    def _run(
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
                    if not isinstance(answers[i], Missing):
                        advance(chunks[i].stop - chunks[i].start)
            except BaseException:
                for _, future in futures:
                    future.cancel()
                raise
            missed = {a.worker for a in answers if isinstance(a, Missing)}
            left = [i for i, a in enumerate(answers) if isinstance(a, Missing)]
            if not left:
                break
        return answers

    def _submit(self, layer: Work | None, task: Callable[[Work], Any]) -> Future[Any]:
        try:
            return self._executor.submit(perform, self.token, layer, task)
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
                f"the batch ({type(error).__name__}: {error}); nothing was returned. Give the layer a running "
                "executor, layer.executor = …, and call it again"
            ) from error
