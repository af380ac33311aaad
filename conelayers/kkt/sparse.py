"""Large sparse systems: quasi-definite LDLᵀ (QDLDL) of a regularized K, refined on K itself, one instance at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import qdldl
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.sparse.csgraph import structural_rank

from conelayers.cones import ProductElement
from conelayers.kkt.assembly import Assembled, assemble
from conelayers.kkt.factorization import SINGULAR_BELOW, Factorization
from conelayers.kkt.pseudo_inverse import DeflatedPseudoInverse, DensePseudoInverse, KrylovPseudoInverse
from conelayers.parallel import run_parallel
from conelayers.program import ConeProgram

__all__ = ["QuasiDefinite", "SparseFactorization"]

_REGULARIZATION = 1e-8
_REFINED = 1e-14  # relative residual on K at which refinement stops
_REFINED_ENOUGH = 1e-11  # and the one above which QDLDL's factor is given up for a pivoted LU
_DENSE_UP_TO = 1500  # orders up to which a singular matrix is decomposed
_DENSE_SUSPECT = 300  # and those up to which that is cheaper than finding the null space by inverse iteration
_FIRST = 8  # width of the first block in inverse iteration
_LARGEST_NULL_SPACE = ((3200, 512), (2**62, 128))  # and that of the last one, for orders up to which
_QUIET = np.errstate(over="ignore", invalid="ignore")  # factors that broke down give infinities, which are looked for
_NEARLY_NULL = 1e-9  # ‖EKE z‖ that may come from a mixture of null vectors and others
_NULL = 1e-12  # ‖EKE z‖ of a unit vector that counts as a null vector


@final
class QuasiDefinite:
    """LDLᵀ of EKE + δ·diag(I, −I), which exists for every ordering since P + δI ≻ 0 ≻ −(N + δI); δ is refined away.

    QDLDL takes any nonzero pivot and does not report growth: the residual of every solve is computed here, and a factor that
    does not deliver is replaced by SuperLU's.
    """

    def __init__(self, assembled: Assembled, apply: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.assembled = assembled
        self._apply = apply or _ldl(assembled)
        self._delta = _REGULARIZATION if apply is None else 0.0
        self.broke_down = False

    @cached_property
    @_QUIET
    def suspect(self) -> bool:
        """Whether K is nearly singular: inverse iteration with the regularized factor ends at a unit z of tiny ‖EKE z‖."""
        if self.assembled.order == 0:
            return False
        z = self._probe
        for _ in range(4):
            z = self._apply(z / np.linalg.norm(z))
            if not np.all(np.isfinite(z)):
                return True
        return bool(np.linalg.norm(self.assembled.multiply(z)) <= SINGULAR_BELOW * np.linalg.norm(z))

    @property
    def _probe(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(self.assembled.order)

    @cached_property
    def delivers(self) -> bool:
        """Whether refinement solves a random system, which it cannot where K is singular: δ never comes off a null vector."""
        probe = self._probe
        return not probe.size or self._refine(probe / np.linalg.norm(probe))[1] <= _REFINED_ENOUGH

    def pivoted(self) -> QuasiDefinite:
        """An LU with pivoting, which needs no δ."""
        return QuasiDefinite(self.assembled, _superlu(self.assembled.matrix))

    def null_space(self) -> np.ndarray | None:
        """An orthonormal basis of ker EKE by block inverse iteration; None if it is not found to be small."""
        order, width = self.assembled.order, _FIRST
        largest = next(most for limit, most in _LARGEST_NULL_SPACE if order <= limit)
        while width <= min(largest, order):
            values, Z = self.smallest(width, 4)
            if not np.isfinite(values).all():
                self.broke_down = True
                return None
            null = values <= _NULL
            # The block is wider than the null space: nothing of it was missed. A first one that is much narrower may find none of it.
            if not null.all() and (null.any() or values.min() > _NEARLY_NULL or width > _FIRST):
                return Z[:, null]
            width *= 4
        return None

    def with_pivots(self) -> QuasiDefinite:
        """The same regularized matrix, factored with pivoting."""
        signs = np.where(np.arange(self.assembled.order) < self.assembled.factored_positive, 1.0, -1.0)
        matrix = sp.csc_array(self.assembled.matrix + sp.diags_array(_REGULARIZATION * signs))
        factor = QuasiDefinite(self.assembled, _superlu(matrix))
        factor._delta = _REGULARIZATION
        return factor

    @_QUIET
    def smallest(self, width: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """‖EKE z‖ (width,) and z (order, width) after so many steps of block inverse iteration; infinite where the factor broke down."""
        Z = np.random.default_rng(1).standard_normal((self.assembled.order, width))
        for _ in range(steps):
            Z = np.column_stack([self._apply_refined(z) for z in np.linalg.qr(Z)[0].T])
            if not np.isfinite(Z).all():
                return np.full(width, np.inf), np.zeros_like(Z)
        Z = np.linalg.qr(Z)[0]
        image = np.column_stack([self.assembled.multiply(z) for z in Z.T])
        _, values, V = np.linalg.svd(image, full_matrices=False)
        return values, Z @ V.T

    def _apply_refined(self, z: np.ndarray) -> np.ndarray:
        """(EKE + δ·diag(I, −I))⁻¹z: factored without pivoting it is solved to 1e−8 only where K is singular."""
        solution = self._apply(z)
        signs = np.where(np.arange(z.size) < self.assembled.factored_positive, 1.0, -1.0)
        residual = z - self.assembled.multiply(solution) - self._delta * signs * solution
        return solution + self._apply(residual)

    @_QUIET
    def _refine(self, rhs: np.ndarray) -> tuple[np.ndarray, float]:
        norm = np.linalg.norm(rhs)
        if norm == 0:
            return np.zeros_like(rhs), 0.0
        solution = self._apply(rhs)
        residual = rhs - self.assembled.multiply(solution)
        error = np.linalg.norm(residual) / norm
        for _ in range(30):
            if error <= _REFINED:
                break
            candidate = solution + self._apply(residual)
            next_residual = rhs - self.assembled.multiply(candidate)
            next_error = np.linalg.norm(next_residual) / norm
            if not next_error < 0.9 * error:
                break
            solution, residual, error = candidate, next_residual, next_error
        return solution, float(error if np.isfinite(error) else np.inf)

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        e = self.assembled.scales
        return e * self._refine(e * rhs)[0]


def _ldl(assembled: Assembled) -> Callable[[np.ndarray], np.ndarray]:
    if assembled.order == 0:  # everything is pinned
        return np.copy
    try:
        return qdldl.Solver(assembled.regularized(_REGULARIZATION), upper=True).solve
    except RuntimeError:  # a pivot of exactly zero: N is not quite what it should be where D comes from a poor point
        return _superlu(assembled.matrix)


def _superlu(matrix: sp.csc_array) -> Callable[[np.ndarray], np.ndarray]:
    # On structurally singular matrices SuperLU reads memory that it never wrote, and may end the process.
    if structural_rank(matrix) == matrix.shape[0]:
        try:
            return spla.splu(sp.csc_matrix(matrix)).solve
        except RuntimeError:  # exactly singular
            pass
    return lambda rhs: np.full_like(rhs, np.inf)  # the singularity test sees the infinities


@final
@dataclass(frozen=True)
class _Instance:
    """One instance's K and what solves with it; ``checked`` once it is known whether K is singular."""

    system: QuasiDefinite | DensePseudoInverse | DeflatedPseudoInverse | KrylovPseudoInverse
    assembled: Assembled
    checked: bool = False
    minimum_norm: bool = False

    def check(self) -> _Instance:
        """The same, with a factor that delivers; a suspect one is replaced by one that knows the null space."""
        if self.checked or not isinstance(self.system, QuasiDefinite):
            return self
        factor = self.system
        if factor.delivers:
            return _Instance(factor, self.assembled, checked=True)
        factor = factor if factor.suspect else factor.pivoted()
        if not factor.suspect:
            return _Instance(factor, self.assembled, checked=True)
        if self.assembled.order > _DENSE_SUSPECT:
            deflated = _deflated(self.assembled, factor)
            if deflated is not None:
                return _Instance(deflated, self.assembled, checked=True)
        return _Instance(_pseudo_inverse(self.assembled), self.assembled, checked=True)

    def decomposed(self) -> _Instance:
        """The whole K, solved by a rank-revealing method: without its pins, K⁺ would not be of minimum norm."""
        return self if self.minimum_norm else self._decomposed

    @cached_property
    def _decomposed(self) -> _Instance:
        """Kept: several right-hand sides in a row may need it."""
        whole = self.assembled.whole
        system = _deflated(whole, QuasiDefinite(whole)) if whole.order > _DENSE_UP_TO else None
        return _Instance(system or _pseudo_inverse(whole), whole, checked=True, minimum_norm=True)

    @property
    def nullity(self) -> int:
        inner = 0 if isinstance(self.system, QuasiDefinite) else self.system.nullity
        return inner + (0 if self.assembled.pins is None else self.assembled.pins.empty.size)

    def null_vectors(self) -> tuple[np.ndarray, np.ndarray] | None:
        """ker K as rows (dx, Bη); None if only its existence is known."""
        if isinstance(self.system, KrylovPseudoInverse):
            return None
        null = np.zeros((0, self.assembled.order))
        if isinstance(self.system, (DensePseudoInverse, DeflatedPseudoInverse)):
            null = self.system.null_space.T
        return self.assembled.null_vectors(null)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.assembled.solve(p1, p2, self.system.solve)


def _deflated(assembled: Assembled, factor: QuasiDefinite) -> DeflatedPseudoInverse | None:
    """K⁺ from the regularized factor and the null space, if that is found and the two solve a consistent system."""
    K = assembled.unscaled
    h = K @ np.random.default_rng(3).standard_normal(assembled.order)
    for regularized in (lambda: factor, factor.with_pivots):
        candidate = regularized()
        null_space = candidate.null_space()
        if null_space is not None:
            system = DeflatedPseudoInverse(candidate.solve, assembled.scales, null_space)
            if np.linalg.norm(K @ system.solve(h) - h) <= _REFINED_ENOUGH * np.linalg.norm(h):
                return system
        elif not candidate.broke_down:
            return None  # too large a null space, whatever the factor
    return None


def _pseudo_inverse(assembled: Assembled) -> DensePseudoInverse | KrylovPseudoInverse:
    K = assembled.unscaled
    return DensePseudoInverse(K.toarray()) if assembled.order <= _DENSE_UP_TO else KrylovPseudoInverse(K)


@final
class SparseFactorization(Factorization):
    """One factored K an instance; the instances are factored and solved on a thread pool.

    Whether they are singular is found out when somebody asks: Newton's steps do not.
    """

    def __init__(self, instances: list[_Instance], jobs: int) -> None:
        self._instances, self._jobs = instances, jobs

    @classmethod
    def of(
        cls, program: ConeProgram, element: ProductElement, jobs: int, delta: np.ndarray | None = None
    ) -> SparseFactorization:
        """Assemble and factor each instance."""

        def factor(i: int) -> _Instance:
            assembled = assemble(program, element, i, 0.0 if delta is None else float(delta[i]))
            return _Instance(QuasiDefinite(assembled), assembled)

        return cls(run_parallel(factor, range(program.batch), jobs), jobs)

    def _check(self) -> None:
        if not all(instance.checked for instance in self._instances):
            self._instances = run_parallel(lambda instance: instance.check(), self._instances, self._jobs)

    @property
    def singular(self) -> np.ndarray:
        self._check()
        return np.array([instance.nullity > 0 for instance in self._instances], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = run_parallel(lambda i: self._instances[i].solve(p1[i], p2[i]), range(len(self._instances)), self._jobs)
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        for i, part in enumerate(parts):
            dx[i], dy[i] = part
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        self._check()
        return self._instances[instance].null_vectors()

    def take(self, index: np.ndarray | list[int]) -> SparseFactorization:
        return SparseFactorization([self._instances[i] for i in index], self._jobs)

    def use_pseudo_inverse(self, instances: np.ndarray) -> SparseFactorization:
        replaced = list(self._instances)
        for i in instances:
            replaced[i] = replaced[i].decomposed()
        return SparseFactorization(replaced, self._jobs)
