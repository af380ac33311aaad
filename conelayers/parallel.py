"""A batch of instances on a thread pool: solver backends and factorizations release the GIL; BLAS keeps to one thread meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["run_parallel"]

T = TypeVar("T")
R = TypeVar("R")


@cache
def _controller() -> ThreadpoolController:
    # Finding the BLAS libraries takes milliseconds; they are loaded by the time of the first solve.
    return ThreadpoolController()


def run_parallel(function: Callable[[T], R], items: Sequence[T], jobs: int) -> list[R]:
    """[function(item) for item in items] on up to ``jobs`` threads, in order."""
    if jobs <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    with _controller().limit(limits=1, user_api="blas"), ThreadPoolExecutor(min(jobs, len(items))) as pool:
        return list(pool.map(function, items))
