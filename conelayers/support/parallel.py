"""Work on the instances of a batch in a thread pool, with BLAS held to one thread.

Backends and factorizations release the GIL.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from conelayers.support.limits import halting

__all__ = ["one_blas_thread", "run_parallel"]

T = TypeVar("T")
R = TypeVar("R")


@cache
def _controller() -> ThreadpoolController:
    # Finding the BLAS libraries takes milliseconds; they are loaded by the time of the first solve.
    return ThreadpoolController()


class _BlasLimit:
    """One limit for all threads: the first thread to enter sets it, the last one to leave lifts it.

    If threadpoolctl's own context managers overlap in two threads, BLAS stays at one thread for good: the second thread
    saves the limit that the first one set, and restores that.
    """

    def __init__(self) -> None:
        self.afresh()
        self._inside = 0
        self._saved: list[tuple[Any, int]] = []

    def afresh(self) -> None:
        """Make a new lock: after a fork, a thread that does not exist in the child may hold the old one."""
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                blas = [c for c in _controller().lib_controllers if c.user_api == "blas"]
                self._saved = [(c, n) for c in blas if (n := c.get_num_threads()) is not None and n > 1]
                for library, _ in self._saved:
                    library.set_num_threads(1)
                self._release()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for library, threads in self._saved:
                    library.set_num_threads(threads)
                self._release()

    def _release(self) -> None:
        # In threadpoolctl from 3.7 on only the thread that set an OpenBLAS limit may change it, until it gives that
        # right up.
        for kind in {type(library) for library, _ in self._saved}:
            getattr(kind, "clear_controlling_thread", lambda: None)()


_BLAS = _BlasLimit()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BLAS.afresh)


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """Hold BLAS to one thread within, if ``wanted``.

    Matrices here are many and small: eigendecompositions and LDLᵀ of order 100 to 1000 take longer on two threads than
    on one, and much longer on a machine that has other work.
    """
    if not wanted:
        yield
        return
    _BLAS.enter()
    try:
        yield
    finally:
        _BLAS.leave()


def run_parallel(function: Callable[[T], R], items: Sequence[T], jobs: int, *, apart: bool = False) -> list[R]:
    """[function(item) for item in items] on up to ``jobs`` threads, in order, each thread in a copy of this one's
    context.

    ``apart`` says that single calls are long, and then even one job runs in a thread of the pool: Python reports Ctrl-C
    to the main thread only, and not inside of such a call. If the batch is given up, no further item begins,
    ``limits.halting_event`` is set for those that have begun, and no thread outlives the call.
    """
    apart = apart and len(items) > 0 and threading.current_thread() is threading.main_thread()
    if (jobs <= 1 or len(items) <= 1) and not apart:
        return [function(item) for item in items]
    # With a future for each item the main thread would collect garbage, and a KeyboardInterrupt in there is lost.
    todo, results = deque(range(len(items))), dict[int, R]()
    with one_blas_thread(), halting() as halt, ThreadPoolExecutor(max(1, min(jobs, len(items)))) as pool:

        def work() -> None:
            try:
                while not halt.is_set():
                    try:
                        i = todo.popleft()
                    except IndexError:
                        return
                    results[i] = function(items[i])
            except BaseException:
                halt.set()
                raise

        try:
            futures = [pool.submit(copy_context().run, work) for _ in range(max(1, min(jobs, len(items))))]
            while futures:
                futures.pop(0).result()
        finally:
            halt.set()
    return [results[i] for i in range(len(items))]
