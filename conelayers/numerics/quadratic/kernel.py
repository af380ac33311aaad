"""The compiled kernel (kernel.c), called through ctypes, which releases the GIL: a batch is split over threads."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from conelayers.numerics.quadratic.solution import ActiveSetSolution, Code, Factors
from conelayers.support.limits import out_of_time
from conelayers.support.parallel import run_parallel

__all__ = ["AVAILABLE", "KernelFactors", "solve"]

_VERSION = 2  # version of kernel.c's interface
_RATE = 3e6  # multiplications and additions per millisecond, roughly
_WORTH_THREADS = 1.0  # milliseconds of work for which a thread is started, which costs a tenth of that
# Milliseconds of work in one call, for which hard instances may need thirty times as long: Ctrl-C is seen between calls
# only.
_AT_ONCE = 5.0


class _Batch(ctypes.Structure):
    """The struct ``batch`` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "m", "equalities", "capacity", "shared_P", "shared_A")),
        *((name, ctypes.c_void_p) for name in ("P", "q", "A", "b", "R", "W", "S", "F", "x", "v", "active", "code")),
    )


def _load() -> ctypes.CDLL | None:
    """The library, unless it was not built, is another version's, or is switched off by CONELAYERS_KERNEL=0."""
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    path = Path(__file__).with_name("libkernel" + suffix)
    if os.environ.get("CONELAYERS_KERNEL") == "0" or not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.quadratic_version.restype = ctypes.c_int32
        if library.quadratic_version() != _VERSION:
            return None
    except (OSError, AttributeError):  # built for another machine, or something else of that name
        return None
    batch, integer, array = ctypes.POINTER(_Batch), ctypes.c_int64, ctypes.c_void_p
    library.quadratic_workspace.restype, library.quadratic_workspace.argtypes = integer, (integer, integer)
    library.quadratic_prepare.restype, library.quadratic_prepare.argtypes = ctypes.c_int32, (batch,)
    library.quadratic_solve.restype, library.quadratic_solve.argtypes = None, (batch, integer, integer, array)
    library.quadratic_apply.restype = None
    library.quadratic_apply.argtypes = (batch, integer, integer, array, array, array, array, array)
    return library


_LIBRARY = _load()
AVAILABLE = _LIBRARY is not None


def _library() -> ctypes.CDLL:
    assert _LIBRARY is not None, "the compiled kernel is not available"
    return _LIBRARY


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float64)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])  # .ctypes.data takes a microsecond


def _ranges(count: int, operations: int, jobs: int) -> tuple[list[tuple[int, int]], int]:
    """The ranges of instances for each call, and the number of threads: one range for each thread, more if they would
    take long.
    """
    work = count * operations / _RATE
    threads = max(1, min(jobs, count, int(work / _WORTH_THREADS)))
    parts = min(count, threads * max(1, math.ceil(work / (threads * _AT_ONCE)))) if count else 1
    return list(pairwise([count * k // parts for k in range(parts + 1)])), threads


@final
@dataclass(frozen=True)
class KernelFactors(Factors):
    """R, F and W of kernel.c. There is one R if P is shared, and one W, with all of its columns, if P and A are.

    R (B or 1, n, n); W (1, n, m) or (B, n·c), the active columns of each packed; F (B, c·c), packed, c = min(n, m).
    """

    R: np.ndarray
    W: np.ndarray
    F: np.ndarray
    active: np.ndarray
    shared: tuple[bool, bool]  # P and A

    def struct(self, equalities: int = 0, **arrays: np.ndarray) -> _Batch:
        """The kernel's struct; the arrays have to outlive it."""
        n, m = self.R.shape[1], self.active.shape[1]
        arrays |= {"R": self.R, "W": self.W, "F": self.F, "active": self.active}
        pointers = {name: _address(array) for name, array in arrays.items()}
        shared_P, shared_A = self.shared
        return _Batch(n, m, equalities, min(n, m), shared_P, shared_A, **pointers)

    def solve(self, p1: np.ndarray, p2: np.ndarray, jobs: int) -> tuple[np.ndarray, np.ndarray]:
        library = _library()
        p1, p2 = _contiguous(p1), _contiguous(p2)
        (count, n), m = p1.shape, p2.shape[1]
        dx, eta, struct = np.empty_like(p1), np.empty_like(p2), self.struct()

        def apply(part: tuple[int, int]) -> None:
            room = np.empty(n + 4 * m)
            arrays = map(_address, (p1, p2, dx, eta, room))
            library.quadratic_apply(ctypes.byref(struct), *part, *arrays)

        run_parallel(apply, *_ranges(count, n * n + 2 * n * min(n, m) + min(n, m) ** 2, jobs))
        return dx, eta

    def take(self, index: np.ndarray | list[int]) -> KernelFactors:
        shared_P, shared_A = self.shared
        R = self.R if shared_P else self.R[index]
        W = self.W if shared_P and shared_A else self.W[index]
        return KernelFactors(R, W, self.F[index], self.active[index], self.shared)


def solve(
    P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray, equalities: int, active: np.ndarray | None, jobs: int
) -> ActiveSetSolution:
    """``solve_quadratic`` (solve.py) by the compiled kernel."""
    library = _library()
    P, q, A, b = _contiguous(P), _contiguous(q), _contiguous(A), _contiguous(b)
    (count, n), m = q.shape, b.shape[1]
    capacity = min(n, m)
    shared = (P.shape[0] == 1, A.shape[0] == 1)
    factors = KernelFactors(
        np.empty((P.shape[0], n, n)),
        np.empty((1, n, m)) if all(shared) else np.empty((count, n * capacity)),
        np.empty((count, capacity * capacity)),
        np.zeros((count, m), dtype=bool) if active is None else np.array(active, dtype=bool, order="C"),
        shared,
    )
    x, v, code = np.zeros((count, n)), np.zeros((count, m)), np.full(count, Code.NOT_DEFINITE, dtype=np.int32)
    S = np.empty((m + 1, m) if all(shared) else 0)
    struct = factors.struct(equalities, P=P, q=q, A=A, b=b, S=S, x=x, v=v, code=code)
    verdict = library.quadratic_prepare(ctypes.byref(struct))
    if verdict != Code.SOLVED:
        factors.active[:], code[:] = False, verdict
        return ActiveSetSolution(x, v, code, factors)

    def solve_part(part: tuple[int, int]) -> None:
        if out_of_time():
            code[slice(*part)] = Code.STALLED
            return
        room = np.empty(library.quadratic_workspace(n, m))
        library.quadratic_solve(ctypes.byref(struct), *part, _address(room))

    once = n**3 // 6 * (not shared[0]) + n * m * (n + m) // 2 * (not all(shared))
    run_parallel(solve_part, *_ranges(count, once + 4 * (capacity**3 // 6 + m * (n + capacity)), jobs))
    return ActiveSetSolution(x, v, code, factors)
