"""What the readers make of a file: one cone program in the package's convention, rows collected cone by cone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from conelayers import Cones

__all__ = [
    "LARGEST_COUNT",
    "LARGEST_ORDER",
    "Problem",
    "Rows",
    "Unreadable",
    "Unsupported",
    "check_count",
    "inside",
    "matrix",
    "read_with",
    "svec_positions",
]

UNBOUNDED = 1e19  # bounds from here on are none: 1e20 in the files, less what ranges made of it
LARGEST_ORDER = 20_000  # of a matrix, and 10⁸ of anything else: what a damaged header asks for is not allocated
LARGEST_COUNT = 10**8


class Unreadable(Exception):
    """The file is not what its name says."""


class Unsupported(Exception):
    """A well-formed problem that is none of ours: integer variables."""


@final
@dataclass(frozen=True)
class Problem:
    """minimize ½ xᵀPx + qᵀx subject to Ax + s = b, s ∈ K; n and m are the file's own counts."""

    n: int
    m: int
    P: sp.csc_array
    q: np.ndarray
    A: sp.csc_array
    b: np.ndarray
    cones: Cones


def svec_positions(order: int) -> np.ndarray:
    """Where entry (i, j) of a symmetric matrix of that order lies in its scaled vector, (order, order)."""
    position = np.empty((order, order), dtype=np.int64)
    cols, rows = np.triu_indices(order)
    position[rows, cols] = position[cols, rows] = np.arange(rows.size)
    return position


@final
class Rows:
    """Blocks G x + h ∈ cone, in any order; ``build`` sorts them as ``Cones`` wants them."""

    KINDS = ("zero", "nonneg", "soc", "psd", "exp", "power")

    def __init__(self, n: int) -> None:
        self._n = n
        self._blocks: dict[str, list[tuple[sp.csr_array, np.ndarray, Any]]] = {kind: [] for kind in self.KINDS}

    def add(self, kind: str, G: sp.csr_array, h: np.ndarray, size: Any = None) -> None:
        """G x + h ∈ the cone; ``size`` is what ``Cones`` wants to know of it, where that is not the number of rows."""
        if h.size:
            self._blocks[kind].append((G, h, h.size if size is None else size))

    def add_ranges(self, G: sp.csr_array, lower: np.ndarray, upper: np.ndarray) -> None:
        """lower ≤ Gx ≤ upper: an equation where both agree, nothing where both are infinite."""
        if np.isnan(lower).any() or np.isnan(upper).any():
            raise Unreadable("a bound is not a number")
        if (lower >= UNBOUNDED).any() or (upper <= -UNBOUNDED).any():
            raise Unreadable("a lower bound is +infinity, or an upper bound −infinity")
        equal = lower == upper
        below, above = ~equal & (lower > -UNBOUNDED), ~equal & (upper < UNBOUNDED)
        self.add("zero", G[equal], -lower[equal])
        self.add("nonneg", G[below], -lower[below])
        self.add("nonneg", -G[above], upper[above])

    def build(self, P: sp.csc_array, q: np.ndarray, n: int, m: int) -> Problem:
        """The program with these rows."""
        parts = [part for kind in self.KINDS for part in self._blocks[kind]]
        G = sp.vstack([part[0] for part in parts], format="csc") if parts else sp.csc_array((0, self._n))
        h = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0)
        sizes = {kind: [size for _, _, size in self._blocks[kind]] for kind in self.KINDS}
        cones = Cones(
            zero=sum(sizes["zero"]),
            nonneg=sum(sizes["nonneg"]),
            soc=tuple(sizes["soc"]),
            psd=tuple(sizes["psd"]),
            exp=sum(size // 3 for size in sizes["exp"]),
            power=tuple(sizes["power"]),
        )
        A = sp.csc_array(-G)
        A.eliminate_zeros()
        A.sort_indices()
        for values in (P.data, q, A.data, h):
            if not np.isfinite(values).all():
                raise Unreadable("an entry is infinite or not a number")
        return Problem(n, m, P, q, A, h, cones)


def read_with(reader: Callable[[Any], Problem], content: Any) -> Problem:
    """The problem, whatever a damaged file makes the reader stumble over told as Unreadable."""
    try:
        problem = reader(content)
    except (Unreadable, Unsupported):
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    if problem.q.size == 0:
        raise Unreadable("no variables")
    return problem


def check_count(what: str, value: int, least: int = 0, largest: int = LARGEST_COUNT) -> int:
    """The value. Raises Unreadable where it is out of range."""
    if not least <= value <= largest:
        raise Unreadable(f"{what}: got {value}, expected {least} to {largest}")
    return value


def inside(what: str, index: np.ndarray, size: int | np.ndarray) -> np.ndarray:
    """The indices. Raises Unreadable where one is not in [0, size)."""
    if ((index < 0) | (index >= size)).any():
        raise Unreadable(f"{what}: an index is out of range")
    return index


def matrix(
    data: Sequence[float] | np.ndarray, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]
) -> sp.csr_array:
    """From entries, repeated ones summed."""
    return sp.csr_array((np.asarray(data, dtype=float), (rows, cols)), shape=shape)
