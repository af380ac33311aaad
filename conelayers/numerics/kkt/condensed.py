"""Programs with few variables and many curved rows (linear matrix inequalities): rows with λ well below 1 are
eliminated.

In the eigenbasis of D a row a of A' = UᵀA with 0 < λ < 1 reads √λ a·dx − ω η = g, ω = 1 − λ (plus a proximal term), in
K. With η = (√λ a·dx − g)/ω what is left of K has the variables and the rows with λ ≈ 1:

    [ P + Σ (λ/ω) a aᵀ , A₁ᵀ ; A₁ , −Ω₁ ] [dx; η₁] = [ p₁ + Σ (√λ/ω) a g ; g₁ ]

For a semidefinite block of order k with a multiplier of rank r that is r(r + 1)/2 of the k(k + 1)/2 rows. Both
matrices have the same null vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.composite import combine
from conelayers.numerics.kkt.deflated import LARGEST_WHOLE, DeflatedFactorization
from conelayers.numerics.kkt.dense import SUSPECT, DenseFactorization, SymmetricIndefinite, rotated_rows
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import instance_values

__all__ = ["CondensedFactorization", "prefers_condensed"]

_ELIMINATED_FROM = 1e-2  # ω from which a row is eliminated
_SMALL = 250  # n + m up to which factoring all rows costs no more
_LARGEST_ENTRIES = 2**26  # n·m up to which a dense A is made
_ROWS = 2  # curved rows per variable from which elimination pays


def prefers_condensed(structure: Structure) -> bool:
    """Whether semidefinite blocks have many more rows than there are variables, and these are few."""
    n, m, cones = structure.n, structure.m, structure.cones
    curved = sum(k * (k + 1) // 2 for k in cones.psd) + sum(k * k for k in cones.hermitian)
    return n + m > _SMALL and curved > _ROWS * n and n * m <= _LARGEST_ENTRIES


@final
@dataclass(frozen=True)
class _Instance:
    """One instance's rotated rows, and the factored rest of K."""

    weights: np.ndarray  # 1/ω of the eliminated rows
    eliminated: np.ndarray  # positions of the eliminated rows, and of those that are left
    left: np.ndarray
    rows: np.ndarray  # √λ a of the eliminated ones, (·, n)
    system: SymmetricIndefinite | DensePseudoInverse

    @classmethod
    def of(
        cls, P: np.ndarray, rotated: np.ndarray, values: np.ndarray, delta: float, cutoff: float | None
    ) -> _Instance:
        """Assemble and factor.

        With a ``cutoff`` the matrix is decomposed whatever its condition, eigenvalues below it being null.
        """
        omega = 1 - values + delta * values
        eliminated = np.flatnonzero((values > 0) & (omega >= _ELIMINATED_FROM))
        left = np.flatnonzero((values > 0) & (omega < _ELIMINATED_FROM))
        rows, weights, n = rotated[eliminated], 1 / omega[eliminated], P.shape[0]
        order = n + left.size
        matrix = np.zeros((order, order))
        matrix[:n, :n] = P + rows.T @ (weights[:, None] * rows)
        matrix[n:, :n], matrix[:n, n:] = rotated[left], rotated[left].T
        matrix[np.arange(n), np.arange(n)] += delta
        matrix[np.arange(n, order), np.arange(n, order)] = -omega[left]
        system: SymmetricIndefinite | DensePseudoInverse
        if cutoff is not None:
            system = DensePseudoInverse(matrix, cutoff)
        else:
            system = SymmetricIndefinite(matrix)
            if system.rcond < SUSPECT and delta == 0:
                system = DensePseudoInverse(matrix)
        return cls(weights, eliminated, left, rows, system)

    def solve(self, p1: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dx and t (on all rows) for p₁ and √Λ Uᵀp₂."""
        n, forced = p1.size, self.weights * g[self.eliminated]
        solution = self.system.solve(np.concatenate([p1 + self.rows.T @ forced, g[self.left]]))
        t = np.zeros_like(g)
        t[self.left] = solution[n:]
        t[self.eliminated] = self.weights * (self.rows @ solution[:n]) - forced
        return solution[:n], t

    def null_vectors(self, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        """ker K as rows (dx, t)."""
        if not isinstance(self.system, DensePseudoInverse):
            return np.zeros((0, n)), np.zeros((0, m))
        null = self.system.null_space.T
        dx, t = null[:, :n], np.zeros((len(null), m))
        t[:, self.left] = null[:, n:]
        t[:, self.eliminated] = dx @ self.rows.T * self.weights
        return dx, t


@final
class CondensedFactorization(Factorization):
    """K of programs with few variables and large semidefinite blocks."""

    def __init__(self, program: ConeProgram, element: ProductElement, instances: list[_Instance]) -> None:
        self._program, self._element, self._instances = program, element, instances
        self._root = np.sqrt(element.values)

    @classmethod
    def of(
        cls,
        program: ConeProgram,
        element: ProductElement,
        delta: np.ndarray | None = None,
        cutoff: float | None = None,
    ) -> CondensedFactorization:
        """Assemble and factor; an ill-conditioned instance is decomposed, which shows whether it is singular."""
        P, rotated, d = program.dense_P, rotated_rows(program, element), np.zeros(program.batch)
        d = d if delta is None else delta
        parts = [
            (instance_values(P, i), instance_values(rotated, i), element.values[i], float(d[i]), cutoff)
            for i in range(program.batch)
        ]
        return cls(program, element, [_Instance.of(*p) for p in parts])

    @property
    def singular(self) -> np.ndarray:
        return np.array([i.system.nullity > 0 for i in self._instances], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g = self._root * self._element.to_basis(p2)
        dx, t = np.empty_like(p1), np.empty_like(p2)
        for i, instance in enumerate(self._instances):
            dx[i], t[i] = instance.solve(p1[i], g[i])
        return dx, self._element.from_basis(self._root * t)

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray]:
        structure = self._program.structure
        dx, t = self._instances[instance].null_vectors(structure.n, structure.m)
        return dx, self._element.take(instance).from_basis(self._root[instance] * t)

    def take(self, index: np.ndarray | list[int]) -> CondensedFactorization:
        instances = [self._instances[i] for i in index]
        return CondensedFactorization(self._program.take(index), self._element.take(index), instances)

    def use_pseudo_inverse(self, instances: np.ndarray) -> Factorization:
        """The whole K decomposed, or deflated if it is too large: the condensed K has another minimum-norm solution."""
        others, structure = np.setdiff1d(np.arange(len(self._instances)), instances), self._program.structure
        decomposed: Factorization
        if structure.n + structure.m > LARGEST_WHOLE:
            decomposed = DeflatedFactorization.of(self.take(instances), instances.size)
        else:
            whole = DenseFactorization.of(self._program.take(instances), self._element.take(instances))
            decomposed = whole.use_pseudo_inverse(np.arange(instances.size))
        return combine([(others, self.take(others)), (instances, decomposed)], len(self._instances))
