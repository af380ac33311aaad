"""MINRES on the equilibrated K, preconditioned by the diagonals of its two blocks, if no factor of K would fit in
memory.

K = [P, AᵀB; BᵀA, −N] is indefinite. M = diag(diag P + ρ, diag(N + BᵀA diag(P + ρ)⁻¹ AᵀB)) is positive definite, and
with it the eigenvalues lie in three clusters if P is diagonal (Murphy, Golub, Wathen 2000; Paige, Saunders 1975).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.assembly import Assembled, assemble
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.pseudo_inverse import KrylovPseudoInverse
from conelayers.program.cone_program import ConeProgram
from conelayers.support.limits import OutOfTime
from conelayers.support.parallel import run_parallel

__all__ = ["KrylovFactorization", "Minres"]

_RHO = 1e-6  # ρ, which keeps M definite
_TOLERANCE = 1e-13  # relative residual
_RESTARTS = 3  # number of solves, each for the recomputed residual of the one before


@final
class Minres:
    """K⁻¹ of a regular K by products with its stored entries."""

    nullity = 0

    def __init__(self, assembled: Assembled) -> None:
        self._assembled = assembled
        k, matrix = assembled.factored_positive, assembled.matrix
        diagonal = np.abs(matrix.diagonal())
        top = diagonal[:k] + _RHO
        rows = sp.csr_array(matrix)[k:, :k]
        bottom = diagonal[k:] + np.asarray((rows.multiply(rows) @ sp.diags_array(1 / top)).sum(axis=1)).ravel() + _RHO
        inverse = 1 / np.concatenate([top, bottom])
        order = assembled.order
        self._matrix = spla.LinearOperator((order, order), matvec=assembled.multiply, dtype=np.float64)
        self._preconditioner = spla.LinearOperator((order, order), matvec=lambda h: inverse * h, dtype=np.float64)

    def refine(self, rhs: np.ndarray) -> tuple[np.ndarray, float]:
        """z with EKE z = rhs, and the relative residual that was reached."""
        norm = float(np.linalg.norm(rhs))
        z, residual = np.zeros_like(rhs), rhs
        if norm == 0:
            return z, 0.0
        error = 1.0
        for _ in range(_RESTARTS):
            step, _ = spla.minres(self._matrix, residual, rtol=_TOLERANCE, maxiter=4 * rhs.size, M=self._preconditioner)
            candidate = rhs - self._assembled.multiply(z + step)
            following = float(np.linalg.norm(candidate)) / norm
            if not following < error:
                break
            z, residual, error = z + step, candidate, following
            if error <= _TOLERANCE:
                break
        return z, error

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """z with K z = rhs; the caller judges it by its residual on J."""
        e = self._assembled.scales
        return e * self.refine(e * rhs)[0]


@final
@dataclass(frozen=True)
class KrylovFactorization(Factorization):
    """The K of each instance with an iterative solver, LSMR for singular ones."""

    assembled: tuple[Assembled, ...]
    systems: tuple[Minres | KrylovPseudoInverse, ...]
    jobs: int

    @classmethod
    def of(
        cls, program: ConeProgram, element: ProductElement, jobs: int, delta: np.ndarray | None = None
    ) -> KrylovFactorization:
        """Assemble each instance."""

        def prepare(i: int) -> tuple[Assembled, Minres | KrylovPseudoInverse]:
            assembled = assemble(program, element, i, 0.0 if delta is None else float(delta[i]))
            return assembled, Minres(assembled)

        prepared = run_parallel(prepare, range(program.batch), jobs)
        return cls(tuple(a for a, _ in prepared), tuple(s for _, s in prepared), jobs)

    @property
    def singular(self) -> np.ndarray:
        """Which instances are known to be singular.

        MINRES converges on consistent systems; the residual on J shows the others.
        """
        pins = [assembled.pins for assembled in self.assembled]
        empty = [p is not None and p.empty.size > 0 for p in pins]
        return np.array([s.nullity > 0 or e for s, e in zip(self.systems, empty, strict=True)], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def one(i: int) -> tuple[np.ndarray, np.ndarray]:
            try:
                return self.assembled[i].solve(p1[i], p2[i], self.systems[i].solve)
            except OutOfTime:
                return np.full_like(p1[i], np.nan), np.full_like(p2[i], np.nan)

        parts = run_parallel(one, range(len(self.systems)), self.jobs)
        return np.array([dx for dx, _ in parts]).reshape(p1.shape), np.array([dy for _, dy in parts]).reshape(p2.shape)

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        if self.systems[instance].nullity:
            return None
        return self.assembled[instance].null_vectors(np.zeros((0, self.assembled[instance].order)))

    def take(self, index: np.ndarray | list[int]) -> KrylovFactorization:
        return KrylovFactorization(
            tuple(self.assembled[i] for i in index), tuple(self.systems[i] for i in index), self.jobs
        )

    def use_pseudo_inverse(self, instances: np.ndarray) -> KrylovFactorization:
        assembled, systems = list(self.assembled), list(self.systems)
        for i in instances:
            assembled[i] = assembled[i].whole
            systems[i] = KrylovPseudoInverse(assembled[i].unscaled)
        return KrylovFactorization(tuple(assembled), tuple(systems), self.jobs)
