"""Large sparse systems: quasi-definite LDLᵀ (QDLDL) of a regularized K, refined on K itself, one instance at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import final

import numpy as np
import qdldl
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from conelayers.cones import ProductElement
from conelayers.kkt.factorization import SINGULAR_BELOW, Factorization
from conelayers.kkt.pseudo_inverse import DeflatedPseudoInverse, DensePseudoInverse, KrylovPseudoInverse, equilibrate
from conelayers.parallel import run_parallel
from conelayers.program import ConeProgram

__all__ = ["SparseFactorization"]

_REGULARIZATION = 1e-8
_REFINED = 1e-14  # relative residual on K at which refinement stops
_REFINED_ENOUGH = 1e-11  # and the one above which QDLDL's factor is given up for a pivoted LU
_DENSE_UP_TO = 1500  # orders up to which a singular matrix is decomposed
_DENSE_SUSPECT = 300  # and those up to which that is cheaper than finding the null space by inverse iteration
_LARGEST_NULL_SPACE = 128
_NULL = 1e-12  # ‖EKE z‖ of a unit vector that counts as a null vector


@final
class _QuasiDefinite:
    """LDLᵀ of EKE + δ·diag(I, −I), which exists for every ordering since P + δI ≻ 0 ≻ −(N + δI); δ is refined away.

    QDLDL takes any nonzero pivot and does not report growth: the residual of every solve is computed here, and a factor
    that does not deliver is replaced by SuperLU's.
    """

    def __init__(self, matrix: sp.csc_array, signs: np.ndarray) -> None:
        e = equilibrate(matrix)
        scale = sp.diags_array(e)
        self._e = e
        self._scaled = sp.csc_array(scale @ matrix @ scale)
        self._apply = qdldl.Solver(sp.csc_matrix(self._scaled + sp.diags_array(_REGULARIZATION * signs))).solve
        probe = np.random.default_rng(0).standard_normal(e.size)
        if self._refine(probe / np.linalg.norm(probe))[1] > _REFINED_ENOUGH and not self._nearly_singular(probe):
            self._apply = _superlu(self._scaled)
        self.suspect = self._nearly_singular(probe)
        self.nullity = 0

    def _nearly_singular(self, probe: np.ndarray) -> bool:
        """Inverse iteration with the regularized factor: ‖EKE z‖ for the unit vector z that it ends at."""
        z = probe
        for _ in range(4):
            z = self._apply(z / np.linalg.norm(z))
            if not np.all(np.isfinite(z)):
                return True
        return bool(np.linalg.norm(self._scaled @ z) <= SINGULAR_BELOW * np.linalg.norm(z))

    @property
    def scales(self) -> np.ndarray:
        """e."""
        return self._e

    def null_space(self) -> np.ndarray | None:
        """An orthonormal basis of ker EKE by block inverse iteration; None if it is not found to be small."""
        order, width = self._e.size, 8
        while width <= min(_LARGEST_NULL_SPACE, order):
            Z = np.random.default_rng(1).standard_normal((order, width))
            for _ in range(4):
                Z = np.column_stack([self._apply(z) for z in np.linalg.qr(Z)[0].T])
                if not np.isfinite(Z).all():  # the factor broke down
                    return None
            Z = np.linalg.qr(Z)[0]
            _, singular_values, V = np.linalg.svd(self._scaled @ Z, full_matrices=False)
            null = singular_values <= _NULL
            if not null.all():  # the block is wider than the null space: nothing of it was missed
                return Z @ V[null].T
            width *= 2
        return None

    def _refine(self, rhs: np.ndarray) -> tuple[np.ndarray, float]:
        norm = np.linalg.norm(rhs)
        if norm == 0:
            return np.zeros_like(rhs), 0.0
        solution = self._apply(rhs)
        residual = rhs - self._scaled @ solution
        error = np.linalg.norm(residual) / norm
        for _ in range(30):
            if error <= _REFINED:
                break
            candidate = solution + self._apply(residual)
            next_residual = rhs - self._scaled @ candidate
            next_error = np.linalg.norm(next_residual) / norm
            if not next_error < 0.9 * error:
                break
            solution, residual, error = candidate, next_residual, next_error
        return solution, float(error if np.isfinite(error) else np.inf)

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        return self._e * self._refine(self._e * rhs)[0]


def _superlu(matrix: sp.csc_array) -> Callable[[np.ndarray], np.ndarray]:
    try:
        return spla.splu(sp.csc_matrix(matrix)).solve
    except RuntimeError:  # exactly singular: leave it to the singularity test, which sees the infinities
        return lambda rhs: np.full_like(rhs, np.inf)


@final
class _Instance:
    """One instance's K = [P, 0, AᵀB; 0, 0, Wᵀ; BᵀA, W, −diag(n)]; W, the lifting columns, may be empty."""

    def __init__(self, program: ConeProgram, element: ProductElement) -> None:
        P = program.structure.P.matrix(program.P[0])
        A = program.structure.A.matrix(program.A[0])
        self.basis, diagonal, lift = element.reduced()
        rows = self.basis.T @ A
        blocks = [
            [P, None, rows.T],
            [None, sp.csc_array((lift.shape[1],) * 2), lift.T],
            [rows, lift, sp.diags_array(-diagonal)],
        ]
        if lift.shape[1] == 0:
            blocks = [[P, rows.T], [rows, sp.diags_array(-diagonal)]]
        self.matrix = sp.csc_array(sp.block_array(blocks, format="csc"))
        self.variables = P.shape[0]
        self.positive = P.shape[0] + lift.shape[1]
        signs = np.ones(self.matrix.shape[0])
        signs[self.positive :] = -1.0
        factor = _QuasiDefinite(self.matrix, signs)
        self.system: _QuasiDefinite | DensePseudoInverse | DeflatedPseudoInverse | KrylovPseudoInverse = factor
        if factor.suspect:
            self.deflate(factor)

    def deflate(self, factor: _QuasiDefinite) -> None:
        """Replace a suspect factor by one that knows the null space; a large null space is left to ``decompose``."""
        if self.matrix.shape[0] > _DENSE_SUSPECT:
            null_space = factor.null_space()
            if null_space is not None:
                self.system = DeflatedPseudoInverse(factor.solve, factor.scales, null_space)
                return
        self.decompose()

    def decompose(self) -> None:
        """Replace the factor by a rank-revealing one."""
        small = self.matrix.shape[0] <= _DENSE_UP_TO
        self.system = DensePseudoInverse(self.matrix.toarray()) if small else KrylovPseudoInverse(self.matrix)

    def null_vectors(self) -> tuple[np.ndarray, np.ndarray] | None:
        """ker K as rows (dx, Bη); None if only its existence is known."""
        if isinstance(self.system, KrylovPseudoInverse):
            return None
        null = np.zeros((0, self.matrix.shape[0]))
        if isinstance(self.system, (DensePseudoInverse, DeflatedPseudoInverse)):
            null = self.system.null_space.T
        return null[:, : self.variables], (self.basis @ null[:, self.positive :].T).T

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lifted = np.zeros(self.positive - p1.size)
        solution = self.system.solve(np.concatenate([p1, lifted, self.basis.T @ p2]))
        return solution[: p1.size], self.basis @ solution[self.positive :]


@final
class SparseFactorization(Factorization):
    """One factored K an instance; the instances are factored and solved on a thread pool."""

    def __init__(self, instances: list[_Instance], jobs: int) -> None:
        self._instances = instances
        self._jobs = jobs

    @classmethod
    def of(cls, program: ConeProgram, element: ProductElement, jobs: int) -> SparseFactorization:
        """Assemble and factor each instance."""

        def factor(i: int) -> _Instance:
            return _Instance(program.take([i]), element.take(i))

        return cls(run_parallel(factor, range(program.batch), jobs), jobs)

    @property
    def singular(self) -> np.ndarray:
        return np.array([instance.system.nullity > 0 for instance in self._instances], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = run_parallel(lambda i: self._instances[i].solve(p1[i], p2[i]), range(len(self._instances)), self._jobs)
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        for i, part in enumerate(parts):
            dx[i], dy[i] = part
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return self._instances[instance].null_vectors()

    def use_pseudo_inverse(self, instances: np.ndarray) -> SparseFactorization:
        replaced = list(self._instances)
        for i in instances:
            if isinstance(replaced[i].system, _QuasiDefinite):
                replaced[i] = copy.copy(replaced[i])
                replaced[i].decompose()
        return SparseFactorization(replaced, self._jobs)
