"""One instance's sparse K, put together by index arithmetic where D is diagonal, equilibrated, its upper triangle stored.

K = [P, 0, AᵀB; 0, 0, Wᵀ; BᵀA, W, −N] for D = B C Bᵀ (factorization.py), with the lifting columns W of large second-order cones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.cones import ProductElement
from conelayers.program import ConeProgram

__all__ = ["Assembled", "assemble"]


@final
@dataclass(frozen=True)
class Assembled:
    """EKE, its scales e and the basis B: everything about K but its factor."""

    upper: sp.csc_matrix  # of EKE, every diagonal entry stored
    diagonal: np.ndarray  # where the diagonal entries are in upper.data
    scales: np.ndarray  # e
    basis: sp.csr_array | np.ndarray  # B, or the active rows where B has unit columns
    n: int
    m: int
    positive: int  # the columns in front of η

    @property
    def order(self) -> int:
        """The order of K."""
        return self.scales.size

    @cached_property
    def matrix(self) -> sp.csc_array:
        """EKE, both triangles."""
        strict = sp.triu(self.upper, 1, format="csc")
        return sp.csc_array(self.upper + strict.T)

    @property
    def unscaled(self) -> sp.csc_array:
        """K."""
        inverse = sp.diags_array(1 / self.scales)
        return sp.csc_array(inverse @ self.matrix @ inverse)

    def multiply(self, z: np.ndarray) -> np.ndarray:
        """EKE z, from the upper triangle."""
        return self.upper @ z + self._lower @ z - self.upper.data[self.diagonal] * z

    @cached_property
    def _lower(self) -> sp.csr_matrix:
        return self.upper.T

    def regularized(self, delta: float) -> sp.csc_matrix:
        """The upper triangle of EKE + δ·diag(I, −I)."""
        data = self.upper.data.copy()
        data[self.diagonal[: self.positive]] += delta
        data[self.diagonal[self.positive :]] -= delta
        return sp.csc_matrix((data, self.upper.indices, self.upper.indptr), shape=self.upper.shape)

    def right_hand_side(self, p1: np.ndarray, p2: np.ndarray) -> np.ndarray:
        """(p₁, 0, Bᵀp₂)."""
        g = p2[self.basis] if isinstance(self.basis, np.ndarray) else self.basis.T @ p2
        return np.concatenate([p1, np.zeros(self.positive - self.n), g])

    def split(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dx and Bη."""
        eta = z[self.positive :]
        if not isinstance(self.basis, np.ndarray):
            return z[: self.n], self.basis @ eta
        dy = np.zeros(self.m)
        dy[self.basis] = eta
        return z[: self.n], dy


def assemble(program: ConeProgram, element: ProductElement, i: int, delta: float = 0.0) -> Assembled:
    """K_δ of instance i."""
    values = element.values[i]
    # Zeros and ones on the orthants only: B consists of unit vectors, and N = 0.
    if element.is_diagonal and np.all((values == 0) | (values == 1)):
        return _active_rows(program, np.flatnonzero(values), i, delta)
    P, A = program.structure.P.matrix(program.P[i]), program.structure.A.matrix(program.A[i])
    basis, diagonal, lift = element.take(i).reduced()
    if delta:
        P = sp.csc_array(P + delta * sp.eye_array(P.shape[0]))
        diagonal = diagonal + delta * np.asarray(basis.multiply(basis).sum(axis=0)).ravel()
    rows = basis.T @ A
    blocks = [
        [P, None, rows.T],
        [None, sp.csc_array((lift.shape[1],) * 2), lift.T],
        [rows, lift, sp.diags_array(-diagonal)],
    ]
    if lift.shape[1] == 0:
        blocks = [[P, rows.T], [rows, sp.diags_array(-diagonal)]]
    K = sp.csc_array(sp.block_array(blocks, format="csc"))
    upper = sp.csc_array(sp.triu(K, format="csc"))
    entries = upper.data, upper.indices.astype(np.int64), np.repeat(np.arange(K.shape[0]), np.diff(upper.indptr))
    return _finish(*entries, basis, program, K.shape[0] - basis.shape[1])


def _active_rows(program: ConeProgram, active: np.ndarray, i: int, delta: float) -> Assembled:
    """[P, A_aᵀ; A_a, 0] from the stored orders of P and A."""
    P, A, n = program.structure.P, program.structure.A, program.structure.n
    in_upper = P.upper
    order, starts = A.by_row
    lengths = np.diff(np.append(starts, A.nnz))[active]
    picked = order[_ranges(starts[active], lengths)]
    data = np.concatenate([program.P[i][in_upper], program.A[i][picked]])
    rows = np.concatenate([P.rows[in_upper], A.cols[picked]])
    cols = np.concatenate([P.cols[in_upper], n + np.repeat(np.arange(active.size), lengths)])
    if delta:
        diagonal = np.arange(n + active.size)
        data = np.concatenate([data, np.where(diagonal < n, delta, -delta)])
        rows, cols = np.concatenate([rows, diagonal]), np.concatenate([cols, diagonal])
    return _finish(data, rows, cols, active, program, n)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[starts[0], starts[0] + 1, …, starts[1], …]: each range of the given length."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(starts - ends + lengths, lengths)


def _finish(
    data: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    basis: sp.csr_array | np.ndarray,
    program: ConeProgram,
    positive: int,
) -> Assembled:
    """Equilibrate, and store the diagonal whether it is zero or not."""
    active = basis.size if isinstance(basis, np.ndarray) else basis.shape[1]
    order = positive + active
    e = _equilibrate(np.abs(data), rows, cols, order)
    diagonal = np.arange(order)
    scaled = np.concatenate([data * e[rows] * e[cols], np.zeros(order)])
    entries = (scaled, (np.concatenate([rows, diagonal]), np.concatenate([cols, diagonal])))
    upper = sp.csc_matrix(sp.coo_matrix(entries, shape=(order, order)))  # duplicates are summed
    upper.sort_indices()
    last = upper.indptr[1:] - 1  # the diagonal entry is the last one of its column
    return Assembled(upper, last, e, basis, program.structure.n, program.structure.m, positive)


def _equilibrate(magnitude: np.ndarray, rows: np.ndarray, cols: np.ndarray, order: int, passes: int = 3) -> np.ndarray:
    """Ruiz scaling of a symmetric matrix from its upper triangle."""
    e = np.ones(order)
    for _ in range(passes):
        scaled = magnitude * e[rows] * e[cols]
        largest = np.zeros(order)
        np.maximum.at(largest, rows, scaled)
        np.maximum.at(largest, cols, scaled)
        e /= np.sqrt(np.where(largest > 0, largest, 1.0))
    return e
