"""The product cone K of a program: which cones, in one fixed order of rows, and which rows belong together."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["Cones"]


@dataclass(frozen=True)
class Cones:
    """The cone K = {0}^zero × R₊^nonneg × Q… × S₊… × H₊… × Kexp… × Kexp*… × Kpow…, rows in this order.

    - zero, nonneg: numbers of rows.
    - soc: dimension of each second-order cone {(t, u) : ‖u‖ ≤ t}.
    - psd: order n of each matrix, n(n+1)/2 rows each: lower triangle, column-major, off-diagonals times √2.
    - hermitian: order n of each complex Hermitian matrix, n² rows each: the real part as for psd, then √2 times the
      imaginary part below the diagonal, column-major.
    - exp, exp_dual: numbers of three-row cones cl{y e^{x/y} ≤ z, y > 0} and of their duals.
    - power: an exponent α for each three-row cone {x^α y^{1−α} ≥ |z|}; −α stands for its dual.

    Order and scaling are SCS's, except for Hermitian matrices.

    Raises ValueError, naming the field, for negative or non-integer sizes and exponents outside (−1, 1)∖{0}.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    hermitian: tuple[int, ...] = ()
    exp: int = 0
    exp_dual: int = 0
    power: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("zero", "nonneg", "exp", "exp_dual"):
            object.__setattr__(self, name, _count(name, getattr(self, name), 0))
        for name in ("soc", "psd", "hermitian"):
            sizes = getattr(self, name)
            if not isinstance(sizes, Iterable) or isinstance(sizes, str):
                raise ValueError(
                    f"cones.{name}: got {sizes!r}, expected a sequence of sizes, one for each cone; write [{sizes!r}]"
                )
            object.__setattr__(self, name, tuple(_count(name, size, 1) for size in sizes))
        if not isinstance(self.power, Iterable) or isinstance(self.power, str):
            raise ValueError(
                f"cones.power: got {self.power!r}, expected a sequence of exponents, one for each cone; "
                f"write [{self.power!r}]"
            )
        for a in (given := tuple(self.power)):
            if not isinstance(a, numbers.Real) or not 0 < abs(a) < 1:
                raise ValueError(
                    f"cones.power: got the exponent {a!r}, expected 0 < |α| < 1 (negative for the dual cone)"
                )
        exponents = tuple(float(a) for a in given)
        object.__setattr__(self, "power", exponents)

    def described(self) -> str:
        """The cones in words, for messages."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = (f"{name} {', '.join(map(str, s)) if isinstance(s, tuple) else s}" for name, s in sizes.items() if s)
        return "; ".join(shown) or "no constraints"

    @property
    def dimension(self) -> int:
        """The number of rows, m."""
        psd = sum(n * (n + 1) // 2 for n in self.psd) + sum(n * n for n in self.hermitian)
        return self.zero + self.nonneg + sum(self.soc) + psd + 3 * (self.exp + self.exp_dual + len(self.power))

    @property
    def kinds(self) -> frozenset[str]:
        """What a solver must support: the names of the nonempty fields, "power_dual" for negative exponents."""
        kinds = {f.name for f in fields(self) if getattr(self, f.name)} - {"power"}
        kinds |= {"power" if a > 0 else "power_dual" for a in self.power}
        return frozenset(kinds)

    @cached_property
    def block_starts(self) -> np.ndarray:
        """The first row of each block of rows that has one scaling; every row of an orthant is a block by itself."""
        return np.concatenate([[0], np.cumsum(self.block_sizes)])[:-1].astype(np.int64)

    @cached_property
    def block_sizes(self) -> np.ndarray:
        """The number of rows of each block; repeating a block's value so often gives the values of its rows."""
        sizes = [1] * (self.zero + self.nonneg) + list(self.soc) + [n * (n + 1) // 2 for n in self.psd]
        sizes += [n * n for n in self.hermitian]
        sizes += [3] * (self.exp + self.exp_dual + len(self.power))
        return np.array(sizes, dtype=np.int64)

    @cached_property
    def scalings(self) -> sp.csr_array:
        """S (m, k): a diagonal matrix diag(2^(S η)) maps the cone onto itself, for every η (k,).

        Each row of an orthant has its own factor. All rows of a second-order or exponential cone have the same factor.
        A matrix X becomes TXT with T diagonal. The rows of a power cone have the factors a, b and aᵅb¹⁻ᵅ.
        """
        entries: list[tuple[int, int, float]] = []
        flat = self.zero + self.nonneg
        row, column = flat, flat
        for d in self.soc:
            entries += [(row + i, column, 1.0) for i in range(d)]
            row, column = row + d, column + 1
        for order, is_complex in [*((n, False) for n in self.psd), *((n, True) for n in self.hermitian)]:
            lower = [(i, j) for j in range(order) for i in range(j, order)]
            for i, j in lower + ([(i, j) for i, j in lower if i > j] if is_complex else []):
                entries += [(row, column + i, 1.0), (row, column + j, 1.0)]
                row += 1
            column += order
        for _ in range(self.exp + self.exp_dual):
            entries += [(row + i, column, 1.0) for i in range(3)]
            row, column = row + 3, column + 1
        for a in map(abs, self.power):
            entries += [
                (row, column, 1.0),
                (row + 1, column + 1, 1.0),
                (row + 2, column, a),
                (row + 2, column + 1, 1 - a),
            ]
            row, column = row + 3, column + 2
        rows, cols, values = (np.array(h) for h in zip(*entries, strict=True)) if entries else (np.zeros(0, int),) * 3
        ones = np.arange(flat)
        triplets = np.concatenate([np.ones(flat), values]), (np.concatenate([ones, rows]), np.concatenate([ones, cols]))
        return sp.csr_array(sp.coo_array(triplets, shape=(row, column)))

    @property
    def psd_rows(self) -> list[np.ndarray]:
        """The rows of each semidefinite block."""
        sizes = [n * (n + 1) // 2 for n in self.psd]
        starts = self.zero + self.nonneg + sum(self.soc) + np.concatenate([[0], np.cumsum(sizes)])
        return [start + np.arange(size) for start, size in zip(starts[:-1].tolist(), sizes, strict=True)]

    @cached_property
    def nonneg_rows(self) -> np.ndarray:
        """Which rows belong to the nonnegative cone, (m,) bool: the linear inequalities."""
        rows = np.zeros(self.dimension, dtype=bool)
        rows[self.zero : self.zero + self.nonneg] = True
        return rows

    @cached_property
    def orthant_rows(self) -> np.ndarray:
        """Which rows lie in an orthant or the zero cone, (m,) bool."""
        rows = np.zeros(self.dimension, dtype=bool)
        flat = self.zero + self.nonneg
        rows[:flat] = True
        # A second-order cone of dimension 1 is {t ≥ 0}.
        starts = flat + np.concatenate([[0], np.cumsum(self.soc)])[:-1].astype(np.int64)
        rows[starts[np.array(self.soc, dtype=np.int64) == 1]] = True
        return rows

    @cached_property
    def curved(self) -> bool:
        """Whether some row lies neither in an orthant nor in the zero cone, so that D²Π_{K*} is not zero everywhere."""
        return not bool(self.orthant_rows.all())

    def block_maxima(self, values: np.ndarray) -> np.ndarray:
        """For each row the largest value in its block, (..., m); every row of an orthant is a block by itself."""
        if self.block_starts.size == self.dimension:
            return values
        maxima = np.maximum.reduceat(values, self.block_starts, axis=-1)
        return np.repeat(maxima, self.block_sizes, axis=-1)

    def block_sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of the values in each block, (..., blocks)."""
        if self.block_starts.size == self.dimension:
            return values
        return np.add.reduceat(values, self.block_starts, axis=-1)


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"cones.{name}: got {value!r}, expected an integer ≥ {least}")
    return int(value)
