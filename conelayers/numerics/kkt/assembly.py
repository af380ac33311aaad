"""One instance's sparse K, equilibrated, with its upper triangle stored; index arithmetic assembles it.

K = [P, 0, AᵀB; 0, 0, Wᵀ; BᵀA, W, −N] for D = B C Bᵀ (factorization.py), with the lifting columns W of large
second-order cones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.layout import Layout, PinLayout
from conelayers.program.cone_program import ConeProgram
from conelayers.program.patterns import instance_values

__all__ = ["Assembled", "Pins", "assemble"]


@final
@dataclass(frozen=True)
class Pins:
    """Rows of K with one nonzero entry a, in column j: they determine dx_j = g/a, and column j's equation their own
    unknown.

    Such rows and columns are not factored: active bounds make K smaller, and its null space is found in the smaller
    matrix. Variables that no active row touches are not factored either: their columns are zero, and their unit vectors
    are null vectors.
    """

    kept: np.ndarray  # the indices of K that are factored
    columns: np.ndarray
    rows: np.ndarray
    a: np.ndarray
    empty: np.ndarray  # the zero columns
    coupling: sp.csr_array  # kept × columns
    within: sp.csr_array  # columns × columns

    @classmethod
    def of(cls, layout: PinLayout, data: np.ndarray) -> Pins:
        """The pins from the values of all entries."""
        coupling = layout.coupling.matrix(data[layout.across])
        within = layout.within.matrix(data[layout.between])
        return cls(layout.kept, layout.columns, layout.rows, data[layout.entries], layout.empty, coupling, within)


@final
@dataclass(frozen=True)
class Assembled:
    """EKE, where K is without its pins, with the scales e and the basis B: everything about K except its factor."""

    upper: sp.csc_matrix  # of EKE, every diagonal entry stored
    diagonal: np.ndarray  # positions of the diagonal entries in upper.data
    scales: np.ndarray  # e
    basis: sp.csr_array | np.ndarray  # B, or the active rows if the columns of B are unit vectors
    n: int
    m: int
    positive: int  # number of columns before η in the whole K
    factored_positive: int  # number of columns before η in EKE
    pins: Pins | None

    @property
    def order(self) -> int:
        """The order of the factored matrix."""
        return self.scales.size

    @cached_property
    def matrix(self) -> sp.csc_array:
        """EKE, both triangles."""
        strict = sp.triu(self.upper, 1, format="csc")
        return sp.csc_array(self.upper + strict.T)

    @property
    def unscaled(self) -> sp.csc_array:
        """K without its pins."""
        inverse = sp.diags_array(1 / self.scales)
        return sp.csc_array(inverse @ self.matrix @ inverse)

    @property
    def whole(self) -> Assembled:
        """The same with the pins in the matrix."""
        if self.pins is None:
            return self
        pins, order = self.pins, self.order + 2 * self.pins.a.size + self.pins.empty.size
        inner, a = sp.coo_array(self.unscaled), sp.diags_array(self.pins.a).tocoo()
        coupling, within = sp.coo_array(pins.coupling), sp.coo_array(pins.within)
        blocks = [
            (inner.data, pins.kept[inner.row], pins.kept[inner.col]),
            (coupling.data, pins.kept[coupling.row], pins.columns[coupling.col]),
            (coupling.data, pins.columns[coupling.col], pins.kept[coupling.row]),
            (within.data, pins.columns[within.row], pins.columns[within.col]),
            (a.data, pins.columns, pins.rows),
        ]
        data, rows, cols = (np.concatenate(h) for h in zip(*blocks, strict=True))
        above = rows <= cols
        layout = Layout.whole(rows[above], cols[above], order, self.positive)
        return _scaled(layout, data[above], self.basis, self.n, self.m, self.positive, None)

    def multiply(self, z: np.ndarray) -> np.ndarray:
        """EKE z, from the upper triangle."""
        return self.upper @ z + self._lower @ z - self.upper.data[self.diagonal] * z

    @cached_property
    def _lower(self) -> sp.csr_matrix:
        return self.upper.T

    def largest_eigenvalue(self) -> float:
        """About ‖EKE‖, by a few steps of the power method."""
        z = np.random.default_rng(0).standard_normal(self.order)
        size = 1.0
        for _ in range(10):
            z = self.multiply(z / np.linalg.norm(z))
            size = float(np.linalg.norm(z))
            if size == 0:
                return 1.0
        return size

    def regularized(self, delta: float) -> sp.csc_matrix:
        """The upper triangle of EKE + δ·diag(I, −I)."""
        return self.shifted(np.where(np.arange(self.order) < self.factored_positive, delta, -delta))

    def shifted(self, shift: np.ndarray) -> sp.csc_matrix:
        """The upper triangle of EKE + diag(shift)."""
        data = self.upper.data.copy()
        data[self.diagonal] += shift
        return sp.csc_matrix((data, self.upper.indices, self.upper.indptr), shape=self.upper.shape)

    def solve(
        self, p1: np.ndarray, p2: np.ndarray, inner: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """dx and Bη with K·[dx; η] = [p₁; Bᵀp₂], where ``inner`` solves without the pins."""
        g = p2[self.basis] if isinstance(self.basis, np.ndarray) else self.basis.T @ p2
        rhs = np.concatenate([p1, np.zeros(self.positive - self.n), g])
        if self.pins is None:
            return self._split(inner(rhs))
        z, pins = np.zeros_like(rhs), self.pins
        z[pins.columns] = rhs[pins.rows] / pins.a
        z[pins.kept] = inner(rhs[pins.kept] - pins.coupling @ z[pins.columns])
        column = pins.within @ z[pins.columns] + pins.coupling.T @ z[pins.kept]
        z[pins.rows] = (rhs[pins.columns] - column) / pins.a
        return self._split(z)

    def null_vectors(self, inner: np.ndarray, most_units: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """ker K as rows (dx, Bη), from null vectors (k, order) of the factored matrix and the unit vectors of zero
        columns.

        If there are more than ``most_units`` unit vectors, as many random sums of them take their place.
        """
        if self.pins is None:
            Z = inner
        else:
            pins, k = self.pins, len(inner)
            units = np.eye(pins.empty.size)
            if most_units is not None and pins.empty.size > most_units:
                sums = np.random.default_rng(4).uniform(1, 2, (most_units, pins.empty.size))
                units = sums / np.linalg.norm(sums, axis=1, keepdims=True)
            Z = np.zeros((k + len(units), self.order + 2 * pins.a.size + pins.empty.size))
            Z[:k, pins.kept] = inner
            Z[:k, pins.rows] = -(pins.coupling.T @ inner.T).T / pins.a
            Z[k:, pins.empty] = units
        eta = Z[:, self.positive :]
        if not isinstance(self.basis, np.ndarray):
            return Z[:, : self.n], (self.basis @ eta.T).T
        dy = np.zeros((len(Z), self.m))
        dy[:, self.basis] = eta
        return Z[:, : self.n], dy

    def _split(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    # On orthants, with zeros and ones only, the columns of B are unit vectors, and N = 0.
    if element.is_diagonal and np.all((values == 0) | (values == 1)):
        return _active_rows(program, np.flatnonzero(values), i, delta)
    reduced = element.take(i).reduced()
    B, W, diagonal, n = reduced.basis, reduced.lift, reduced.diagonal, program.structure.n
    basis = sp.csr_array((B.data, (B.rows, B.cols)), shape=B.shape)
    if delta:
        diagonal = diagonal + delta * np.bincount(B.cols, B.data**2, minlength=diagonal.size)
    P, lifted = program.structure.P, W.shape[1]
    # The products that BᵀA consists of, row by row of B; those with one position are summed later, with the rest of K.
    picked, lengths = program.structure.A.entries_of(B.rows)
    products = np.repeat(B.data, lengths) * instance_values(program.A, i)[picked]
    eta, upper, first = n + lifted + np.arange(diagonal.size), P.upper, np.arange(n if delta else 0)
    parts = [
        (instance_values(program.P, i)[upper], P.rows[upper], P.cols[upper]),
        (np.full(first.size, delta), first, first),
        (products, program.structure.A.cols[picked], n + lifted + np.repeat(B.cols, lengths)),
        (W.data, n + W.cols, eta[W.rows]),
        (-diagonal, eta, eta),
    ]
    values, row, col = (np.concatenate(h) for h in zip(*parts, strict=True))
    return _finish(values, row, col, basis, program, n + lifted)


def _active_rows(program: ConeProgram, active: np.ndarray, i: int, delta: float) -> Assembled:
    """[P, A_aᵀ; A_a, 0], from the entries of P and A in their stored order."""
    P, A, n = program.structure.P, program.structure.A, program.structure.n
    in_upper = P.upper
    picked, lengths = A.entries_of(active)
    data = np.concatenate([instance_values(program.P, i)[in_upper], instance_values(program.A, i)[picked]])
    rows = np.concatenate([P.rows[in_upper], A.cols[picked]])
    cols = np.concatenate([P.cols[in_upper], n + np.repeat(np.arange(active.size), lengths)])
    if delta:
        diagonal = np.arange(n + active.size)
        data = np.concatenate([data, np.where(diagonal < n, delta, -delta)])
        rows, cols = np.concatenate([rows, diagonal]), np.concatenate([cols, diagonal])
    return _finish(data, rows, cols, active, program, n)


def _finish(
    data: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    basis: sp.csr_array | np.ndarray,
    program: ConeProgram,
    positive: int,
) -> Assembled:
    """Take the pins out of the entries of the upper triangle, and equilibrate the rest."""
    order = positive + (basis.size if isinstance(basis, np.ndarray) else basis.shape[1])
    layout = Layout.of(program.structure, data, rows, cols, order, positive)
    pins = None if layout.pins is None else Pins.of(layout.pins, data)
    return _scaled(layout, data[layout.inside], basis, program.structure.n, program.structure.m, positive, pins)


def _scaled(
    layout: Layout,
    data: np.ndarray,
    basis: sp.csr_array | np.ndarray,
    n: int,
    m: int,
    positive: int,
    pins: Pins | None,
) -> Assembled:
    """Equilibrate; all diagonal entries are stored, also zeros."""
    e = layout.equilibrate(np.abs(data))
    upper = layout.upper(data * e[layout.rows] * e[layout.cols])
    return Assembled(upper, layout.diagonal, e, basis, n, m, positive, layout.positive, pins)
