"""A batch of instances on a thread pool: solver backends and factorizations release the GIL; BLAS keeps to one thread meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "run_parallel"]

T = TypeVar("T")
R = TypeVar("R")


@cache
def _controller() -> ThreadpoolController:
    # Finding the BLAS libraries takes milliseconds; they are loaded by the time of the first solve.
    return ThreadpoolController()


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """Within it BLAS runs on one thread, if ``wanted``.

    Matrices here are many and small: two threads take eigendecompositions and LDLᵀ of order 100 to 1000 longer than one, and
    much longer on a machine that has other work.
    """
    if not wanted:
        yield
        return
    # threadpoolctl sees to it that Python threads do not undo each other's limits: one of them rules, the others' are void.
    with _controller().limit(limits=1, user_api="blas"):
        yield


def run_parallel(function: Callable[[T], R], items: Sequence[T], jobs: int) -> list[R]:
    """[function(item) for item in items] on up to ``jobs`` threads, in order."""
    if jobs <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    with one_blas_thread(), ThreadPoolExecutor(min(jobs, len(items))) as pool:
        return list(pool.map(function, items))
