"""Small or dense systems: K assembled and factored by LAPACK's symmetric indefinite LDLᵀ, instance by instance.

A row of an orthant with Λ = 1 and one entry only, a in column j, pins dx_j to p₂/a. Such rows and columns (active
bounds) are left out of the matrix; the row's unknown follows from the column's equation. Variables that no active row
touches are left out too: their columns are zero, and their unit vectors are null vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.linalg.lapack import dsycon, dsytrf, dsytrf_lwork, dsytrs

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse, Unfinished
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import instance_values
from conelayers.support.limits import out_of_time

__all__ = ["SUSPECT", "DenseFactorization", "SymmetricIndefinite", "rotated_rows"]

# Reciprocal condition estimate below which the rank-revealing method decides whether an instance is singular.
SUSPECT = 1e-10
_PIN = 1e-3  # |a| below which a row does not pin its variable


@final
class SymmetricIndefinite:
    """P L D Lᵀ Pᵀ of the equilibrated matrix (Bunch-Kaufman)."""

    nullity = 0

    def __init__(self, matrix: np.ndarray) -> None:
        largest = np.maximum(np.max(matrix, axis=1, initial=0.0), -np.min(matrix, axis=1, initial=0.0))
        self._e = 1 / np.sqrt(np.where(largest > 0, largest, 1.0))
        scaled = np.asfortranarray(matrix * self._e[:, None] * self._e)
        norm = np.abs(scaled).sum(axis=0).max(initial=0.0)
        self._factor, self._pivots, info = dsytrf(
            scaled, lower=1, overwrite_a=1, lwork=int(dsytrf_lwork(scaled.shape[0])[0])
        )
        if not matrix.size:
            self.rcond = 1.0
            return
        self.rcond = 0.0 if info else dsycon(self._factor, self._pivots, norm, lower=1)[0]

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        if not rhs.size:
            return rhs
        return self._e * dsytrs(self._factor, self._pivots, self._e * rhs, lower=1)[0]


@final
@dataclass(frozen=True)
class _Blocks:
    """The blocks of one instance's K without pinned rows and columns."""

    P: np.ndarray  # (n, n)
    rotated: np.ndarray  # √Λ UᵀA, (m, n)
    values: np.ndarray  # Λ
    rows: np.ndarray  # √Λ UᵀA on the active rows that pin nothing
    active: np.ndarray  # where these rows are
    pinning: np.ndarray  # the rows that pin a variable, with these columns and entries a
    pinned: np.ndarray
    a: np.ndarray
    free: np.ndarray  # the columns that are left
    empty: np.ndarray  # the columns that are zero
    diagonal: np.ndarray  # −(1 − Λ), less the proximal term

    @classmethod
    def of(
        cls, P: np.ndarray, rotated: np.ndarray, values: np.ndarray, pins: tuple[np.ndarray, np.ndarray], delta: float
    ) -> _Blocks:
        active = values > 0
        pinning, pinned = pins
        kept = np.zeros(0, dtype=np.int64)
        if pinning.size and delta == 0:
            kept = np.flatnonzero((values[pinning] == 1) & (np.abs(rotated[pinning, pinned]) > _PIN))
            kept = kept[np.unique(pinned[kept], return_index=True)[1]]  # one row for each column
        pinning, pinned = pinning[kept], pinned[kept]
        active[pinning] = False
        where = np.flatnonzero(active)
        touched: np.ndarray = np.asarray(P.any(axis=0) | rotated[where].any(axis=0))
        if delta > 0:
            touched[:] = True
        touched[pinned] = True
        empty = np.flatnonzero(~touched)
        touched[pinned] = False
        free = np.flatnonzero(touched)
        diagonal = values[where] - 1 - delta * values[where]
        a = rotated[pinning, pinned]
        return cls(P, rotated, values, rotated[where], where, pinning, pinned, a, free, empty, diagonal)

    def without_pins(self) -> _Blocks:
        """The blocks with the pinned rows included."""
        none = np.zeros(0, dtype=np.int64)
        return _Blocks.of(self.P, self.rotated, self.values, (none, none), 0.0) if self.pinned.size else self

    def matrix(self, delta: float = 0.0) -> np.ndarray:
        """[P, rowsᵀ; rows, diagonal] on the free columns."""
        k = self.free.size
        order = k + self.active.size
        rows, P = self.rows, self.P
        if k < P.shape[0]:
            rows, P = rows[:, self.free], P[np.ix_(self.free, self.free)]
        K = np.zeros((order, order))
        K[:k, :k], K[k:, :k], K[:k, k:] = P, rows, rows.T
        K[np.arange(k, order), np.arange(k, order)] = self.diagonal
        if delta:
            K[np.arange(k), np.arange(k)] += delta
        return K


@final
@dataclass(frozen=True)
class _Instance:
    """The blocks and a solver of their matrix: a decomposition, which shows whether it is singular, if it is
    ill-conditioned.
    """

    blocks: _Blocks
    system: SymmetricIndefinite | DensePseudoInverse | Unfinished

    @classmethod
    def of(cls, blocks: _Blocks, delta: float) -> _Instance:
        factor = SymmetricIndefinite(blocks.matrix(delta))
        instance = cls(blocks, factor)
        # The matrix of a proximal step is regular by construction, whatever the estimate.
        if factor.rcond >= SUSPECT or delta > 0:
            return instance
        return cls(blocks, DensePseudoInverse(blocks.matrix()))

    def decomposed(self) -> _Instance:
        """The whole K decomposed, pinned rows included, because K⁺ without them is not of minimum norm."""
        if isinstance(self.system, DensePseudoInverse) and not self.blocks.pinned.size:
            return self
        if out_of_time():
            return _Instance(self.blocks, Unfinished())
        blocks = self.blocks.without_pins()
        return _Instance(blocks, DensePseudoInverse(blocks.matrix()))

    def solve(self, p1: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dx and t (on all rows) for p₁ and √Λ Uᵀp₂."""
        b, k = self.blocks, self.blocks.free.size
        t = np.zeros_like(g)
        if b.free.size == p1.size:
            solution = self.system.solve(np.concatenate([p1, g[b.active]]))
            t[b.active] = solution[k:]
            return solution[:k], t
        dx = np.zeros_like(p1)
        dx[b.pinned] = g[b.pinning] / b.a
        f = p1 - b.P @ dx
        solution = self.system.solve(np.concatenate([f[b.free], g[b.active] - b.rows @ dx]))
        dx[b.free] = solution[:k]
        t[b.active] = solution[k:]
        column = b.P[b.pinned] @ dx + b.rows[:, b.pinned].T @ solution[k:]
        t[b.pinning] = (p1[b.pinned] - column) / b.a
        return dx, t

    def null_vectors(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """ker K as rows (dx, t)."""
        b, k = self.blocks, self.blocks.free.size
        order = k + b.active.size
        null = self.system.null_space.T if isinstance(self.system, DensePseudoInverse) else np.zeros((0, order))
        count = len(null)
        dx, t = np.zeros((count + b.empty.size, b.P.shape[0])), np.zeros((count + b.empty.size, m))
        dx[:count, b.free], t[:count, b.active] = null[:, :k], null[:, k:]
        column = dx[:count] @ b.P[:, b.pinned] + null[:, k:] @ b.rows[:, b.pinned]
        t[:count, b.pinning] = -column / b.a
        dx[count + np.arange(b.empty.size), b.empty] = 1.0
        return dx, t


def rotated_rows(program: ConeProgram, element: ProductElement) -> np.ndarray:
    """√Λ UᵀA of every instance, (B, m, n), or (1, m, n) if it is a shared A."""
    values, A = element.values, program.dense_A
    if element.is_diagonal:
        return A if np.all((values == 0) | (values == 1)) else np.sqrt(values)[:, :, None] * A
    # The columns of A become the first axis, since U acts on the last one.
    A = np.broadcast_to(A, (program.batch, *A.shape[1:]))
    rotated = np.sqrt(values) * element.to_basis(np.ascontiguousarray(np.moveaxis(A, 2, 0)))
    return np.moveaxis(rotated, 0, 2)


def _pins(structure: Structure, element: ProductElement) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the orthants with one stored entry, and the columns of these entries."""
    rows, cols = structure.singletons
    keep = element.diagonal_rows[rows]
    return rows[keep], cols[keep]


@final
class DenseFactorization(Factorization):
    """K = [P, A'ᵀ√Λ; √ΛA', −(I − Λ)], A' = UᵀA, without the rows where Λ = 0."""

    def __init__(self, element: ProductElement, instances: list[_Instance]) -> None:
        self._element, self._instances = element, instances
        self._root = np.sqrt(element.values)

    @classmethod
    def of(cls, program: ConeProgram, element: ProductElement, delta: np.ndarray | None = None) -> DenseFactorization:
        """Assemble and factor; an ill-conditioned instance is decomposed, which shows whether it is singular."""
        values, P, rotated = element.values, program.dense_P, rotated_rows(program, element)
        pins = _pins(program.structure, element)
        d = np.zeros(program.batch) if delta is None else delta
        blocks = [
            _Blocks.of(instance_values(P, i), instance_values(rotated, i), values[i], pins, float(d[i]))
            for i in range(program.batch)
        ]
        return cls(element, [_Instance.of(b, float(d[i])) for i, b in enumerate(blocks)])

    @property
    def singular(self) -> np.ndarray:
        return np.array([i.system.nullity > 0 or i.blocks.empty.size > 0 for i in self._instances], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g = self._root * self._element.to_basis(p2)
        dx, t = np.empty_like(p1), np.empty_like(p2)
        for i, instance in enumerate(self._instances):
            dx[i], t[i] = instance.solve(p1[i], g[i])
        return dx, self._element.from_basis(self._root * t)

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        dx, t = self._instances[instance].null_vectors(self._root.shape[1])
        return dx, self._element.take(instance).from_basis(self._root[instance] * t)

    def free_columns(self) -> np.ndarray:
        free = np.zeros(
            (len(self._instances), self._instances[0].blocks.P.shape[0] if self._instances else 0), dtype=bool
        )
        for i, instance in enumerate(self._instances):
            free[i, instance.blocks.empty if instance.system.nullity == 0 else slice(None)] = True
        return free

    def take(self, index: np.ndarray | list[int]) -> DenseFactorization:
        return DenseFactorization(self._element.take(index), [self._instances[i] for i in index])

    def use_pseudo_inverse(self, instances: np.ndarray) -> DenseFactorization:
        replaced = list(self._instances)
        for i in instances:
            replaced[i] = replaced[i].decomposed()
        return DenseFactorization(self._element, replaced)
