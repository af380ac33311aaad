"""Programs with a diagonal P, bounds and a few coupling rows: K is solved by a Schur complement on the coupling rows.

With the pinned variables (active bounds, dx_j = g/a) taken out, K = [D, Aᵀ; A, 0] on the free variables and the active
coupling rows, D = diag(p) ≻ 0, so that S η = A D⁻¹ p₁ + A_pin dx_pin − g with S = A D⁻¹ Aᵀ, dx = D⁻¹(p₁ − Aᵀη). S has
the order of the coupling rows, however many variables there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
from scipy.linalg.lapack import dpotrf, dpotrs

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.sparse import SparseFactorization
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import instance_values
from conelayers.program.per_structure import once_per_structure

__all__ = ["DiagonalFactorization"]

_MOST_COUPLING = 400  # number of coupling rows up to which a dense S is cheap
_DENSE_FROM = 0.1  # density of the coupling rows from which dense products are cheaper
_PIN = 1e-3  # |a| below which a row does not pin its variable
# p relative to the largest one, and pivots of S relative to its diagonal, below which another factorization is used.
_DEFINITE = 1e-8


@final
@dataclass(frozen=True)
class _Roles:
    """The rows with one entry (bounds), the columns and positions of their entries, and the other rows."""

    bounds: np.ndarray
    cols: np.ndarray
    entries: np.ndarray
    coupling: np.ndarray


@once_per_structure
def _roles(structure: Structure) -> _Roles | None:
    P, n = structure.P, structure.n
    if structure.cones.kinds - {"zero", "nonneg"} or P.nnz != n or P.diagonal_entries != n:
        return None
    bounds, cols = structure.singletons
    coupling = np.setdiff1d(np.arange(structure.m), bounds)
    if coupling.size > min(_MOST_COUPLING, n):
        return None
    order, starts = structure.A.by_row
    return _Roles(bounds, cols, order[starts[bounds]], coupling)


@final
@dataclass(frozen=True)
class _Instance:
    """One instance's p, pins, active coupling rows and the Cholesky factor of S."""

    p: np.ndarray
    free: np.ndarray  # 1/p, 0 for pinned variables
    pinned: np.ndarray
    pinning: np.ndarray
    a: np.ndarray
    active: np.ndarray
    rows: np.ndarray | sp.csr_array
    factor: np.ndarray

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = np.zeros_like(p1), np.zeros_like(p2)
        dx[self.pinned] = p2[self.pinning] / self.a
        rhs = self.rows @ (self.free * p1 + dx) - p2[self.active]
        eta = dpotrs(self.factor, rhs, lower=1)[0] if rhs.size else rhs
        column = p1 - self.rows.T @ eta
        dx += self.free * column
        dy[self.active] = eta
        dy[self.pinning] = (column[self.pinned] - self.p[self.pinned] * dx[self.pinned]) / self.a
        return dx, dy


@final
class DiagonalFactorization(Factorization):
    """Schur complements of all instances, all of which are regular."""

    def __init__(self, program: ConeProgram, element: ProductElement, jobs: int, instances: list[_Instance]) -> None:
        self._program, self._element, self._jobs, self._instances = program, element, jobs, instances

    @classmethod
    def of(cls, program: ConeProgram, element: ProductElement, jobs: int) -> DiagonalFactorization | None:
        """The factorization; None if the structure is not of this kind, or if an instance is not clearly regular."""
        roles = _roles(program.structure)
        if roles is None:
            return None
        instances = []
        for i in range(program.batch):
            instance = _factor(roles, program, element.values[i], i)
            if instance is None:
                return None
            instances.append(instance)
        return cls(program, element, jobs, instances)

    @property
    def singular(self) -> np.ndarray:
        return np.zeros(len(self._instances), dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        for i, instance in enumerate(self._instances):
            dx[i], dy[i] = instance.solve(p1[i], p2[i])
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return np.zeros((0, self._program.structure.n)), np.zeros((0, self._program.structure.m))

    def take(self, index: np.ndarray | list[int]) -> DiagonalFactorization:
        instances = [self._instances[i] for i in index]
        return DiagonalFactorization(self._program.take(index), self._element.take(index), self._jobs, instances)

    def use_pseudo_inverse(self, instances: np.ndarray) -> Factorization:
        """The sparse factorization of all instances, with the pseudo-inverse for these."""
        return SparseFactorization.of(self._program, self._element, self._jobs).use_pseudo_inverse(instances)


def _factor(roles: _Roles, program: ConeProgram, values: np.ndarray, i: int) -> _Instance | None:
    p, A = instance_values(program.P, i), instance_values(program.A, i)
    if not p.min() > _DEFINITE * p.max():
        return None
    bounds = np.flatnonzero((values[roles.bounds] > 0) & (np.abs(A[roles.entries]) > _PIN))
    bounds = bounds[np.unique(roles.cols[bounds], return_index=True)[1]]  # one row for each column
    pinned, pinning = roles.cols[bounds], roles.bounds[bounds]
    if pinning.size < int((values[roles.bounds] > 0).sum()):
        return None  # two bounds of one variable, or a tiny entry
    active = roles.coupling[values[roles.coupling] > 0]
    rows = program.structure.A.rows_of(A, active)
    if rows.nnz > _DENSE_FROM * active.size * p.size:
        rows = rows.toarray()
    free = 1 / p
    free[pinned] = 0.0
    weighted = rows * free if isinstance(rows, np.ndarray) else rows @ sp.diags_array(free)
    S = weighted @ rows.T
    S = S if isinstance(S, np.ndarray) else S.toarray()
    factor, info = dpotrf(S, lower=1) if S.size else (S, 0)
    if info or not np.all(np.diag(factor) ** 2 > _DEFINITE * np.diag(S)):
        return None
    return _Instance(p, free, pinned, pinning, A[roles.entries[bounds]], active, rows, factor)
