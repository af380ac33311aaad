"""Small or dense systems: K assembled for the whole batch, then LAPACK's symmetric indefinite LDLᵀ for each instance."""

from __future__ import annotations

from typing import final

import numpy as np
from scipy.linalg.lapack import dsycon, dsytrf, dsytrf_lwork, dsytrs

from conelayers.cones import ProductElement
from conelayers.kkt.factorization import Factorization
from conelayers.kkt.pseudo_inverse import DensePseudoInverse
from conelayers.program import ConeProgram

__all__ = ["DenseFactorization"]

# A reciprocal condition estimate below this sends the instance to the rank-revealing method, which decides.
_SUSPECT = 1e-10


@final
class _LDL:
    """P L D Lᵀ Pᵀ of the equilibrated matrix (Bunch-Kaufman)."""

    def __init__(self, matrix: np.ndarray) -> None:
        largest = np.max(np.abs(matrix), axis=1, initial=0.0)
        self._e = 1 / np.sqrt(np.where(largest > 0, largest, 1.0))
        scaled = np.asfortranarray(matrix * (self._e[:, None] * self._e[None, :]))
        norm = np.abs(scaled).sum(axis=0).max(initial=0.0)
        self._factor, self._pivots, info = dsytrf(
            scaled, lower=1, overwrite_a=1, lwork=int(dsytrf_lwork(scaled.shape[0])[0])
        )
        self.rcond = 0.0 if info else dsycon(self._factor, self._pivots, norm, lower=1)[0]
        self.nullity = 0

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        return self._e * dsytrs(self._factor, self._pivots, self._e * rhs, lower=1)[0]


@final
class DenseFactorization(Factorization):
    """K = [P, A'ᵀ√Λ; √ΛA', −(I − Λ)], A' = UᵀA, without the rows where Λ = 0."""

    def __init__(
        self,
        element: ProductElement,
        matrices: list[np.ndarray],
        active: np.ndarray,
        systems: list[_LDL | DensePseudoInverse],
    ) -> None:
        self._element = element
        self._root = np.sqrt(element.values)
        self._matrices = matrices
        self._active = active  # (B, m) bool
        self._systems = systems

    @classmethod
    def of(cls, program: ConeProgram, element: ProductElement) -> DenseFactorization:
        """Assemble and factor; an ill-conditioned instance is decomposed, which tells whether it is singular."""
        n = program.structure.n
        values = element.values
        P, A = program.structure.P.dense(program.P), program.structure.A.dense(program.A)
        # √Λ UᵀA: the columns of A lead, so that U acts on the last axis.
        rotated = np.sqrt(values) * element.to_basis(np.ascontiguousarray(np.moveaxis(A, 2, 0)))
        rotated = np.moveaxis(rotated, 0, 2)
        active = values > 0
        matrices: list[np.ndarray] = []
        systems: list[_LDL | DensePseudoInverse] = []
        for i in range(program.batch):
            rows = rotated[i][active[i]]
            order = n + rows.shape[0]
            K = np.zeros((order, order))
            K[:n, :n], K[n:, :n], K[:n, n:] = P[i], rows, rows.T
            np.fill_diagonal(K[n:, n:], values[i][active[i]] - 1)
            matrices.append(K)
            factor = _LDL(K)
            systems.append(DensePseudoInverse(K) if factor.rcond < _SUSPECT else factor)
        return cls(element, matrices, active, systems)

    @property
    def singular(self) -> np.ndarray:
        return np.array([system.nullity > 0 for system in self._systems], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = p1.shape[1]
        g = self._root * self._element.to_basis(p2)
        dx, t = np.empty_like(p1), np.zeros_like(p2)
        for i, system in enumerate(self._systems):
            solution = system.solve(np.concatenate([p1[i], g[i][self._active[i]]]))
            dx[i] = solution[:n]
            t[i][self._active[i]] = solution[n:]
        return dx, self._element.from_basis(self._root * t)

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        system, active = self._systems[instance], self._active[instance]
        n = self._matrices[instance].shape[0] - int(active.sum())
        null = system.null_space.T if isinstance(system, DensePseudoInverse) else np.zeros((0, n + int(active.sum())))
        t = np.zeros((null.shape[0], active.size))
        t[:, active] = null[:, n:]
        return null[:, :n], self._element.take(instance).from_basis(self._root[instance] * t)

    def use_pseudo_inverse(self, instances: np.ndarray) -> DenseFactorization:
        systems = list(self._systems)
        for i in instances:
            if isinstance(systems[i], _LDL):
                systems[i] = DensePseudoInverse(self._matrices[i])
        return DenseFactorization(self._element, self._matrices, self._active, systems)
