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

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.assembly import Assembled, assemble
from conelayers.numerics.kkt.factorization import SINGULAR_BELOW, Factorization
from conelayers.numerics.kkt.proximal import SAMPLED, ProximalPseudoInverse, Undecided
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse, KrylovPseudoInverse, Unfinished
from conelayers.program.cone_program import ConeProgram
from conelayers.support.limits import OutOfTime, check_time
from conelayers.support.parallel import run_parallel

__all__ = ["QuasiDefinite", "SparseFactorization"]

_REGULARIZATION = 1e-8
_REFINED = 1e-14  # relative residual on K at which refinement stops
_REFINED_ENOUGH = 1e-11  # and the one above which QDLDL's factor is given up for a pivoted LU
_DENSE_UP_TO = 1500  # orders up to which a singular matrix is decomposed where proximal steps do not decide
_DENSE_SUSPECT = 100  # and those up to which that is cheaper than proximal steps
_MOST_UNEQUAL = 1e-3  # min e / max e from which on δe² would be no regularization of the one or dominate the other
_QUIET = np.errstate(over="ignore", invalid="ignore")  # factors that broke down give infinities, which are looked for


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
class DecidedPseudoInverse:
    """K⁺ by proximal steps as long as these decide what is null, and by a decomposition from where they do not."""

    def __init__(self, proximal: ProximalPseudoInverse, assembled: Assembled) -> None:
        self._proximal, self._assembled = proximal, assembled
        self._other: DensePseudoInverse | KrylovPseudoInverse | None = None

    @property
    def nullity(self) -> int:
        """dim ker K, or at least that."""
        return (self._other or self._proximal).nullity

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """K⁺ rhs. Raises OutOfTime."""
        if self._other is None:
            try:
                return self._proximal.solve(rhs)
            except Undecided:
                self._other = _by_decomposition(self._assembled)
        return self._other.solve(rhs)

    def null_space(self, *, sample: bool) -> np.ndarray | None:
        """An orthonormal basis of ker K, or a few random vectors of it; None if only its existence is known."""
        if self._other is None:
            try:
                return self._proximal.null_space if sample else self._proximal.whole_null_space
            except Undecided:
                self._other = _by_decomposition(self._assembled)
        return self._other.null_space if isinstance(self._other, DensePseudoInverse) else None


_System = QuasiDefinite | DecidedPseudoInverse | DensePseudoInverse | KrylovPseudoInverse | Unfinished


@final
@dataclass(frozen=True)
class _Instance:
    """One instance's K and what solves with it; ``checked`` once it is known whether K is singular."""

    system: _System
    assembled: Assembled
    checked: bool = False
    minimum_norm: bool = False

    def check(self) -> _Instance:
        """The same, with a factor that delivers; a suspect one is replaced by one that knows the null space, if there
        is time.
        """
        if self.checked or not isinstance(self.system, QuasiDefinite):
            return self
        factor = self.system
        if factor.delivers:
            return _Instance(factor, self.assembled, checked=True)
        factor = factor if factor.suspect else factor.pivoted()
        if not factor.suspect:
            return _Instance(factor, self.assembled, checked=True)
        try:
            return _Instance(_pseudo_inverse(self.assembled), self.assembled, checked=True)
        except OutOfTime:
            return self

    def decomposed(self) -> _Instance:
        """The whole K, solved by a rank-revealing method: without its pins, K⁺ would not be of minimum norm."""
        if self.minimum_norm:
            return self
        try:
            return self._decomposed
        except OutOfTime:
            return _Instance(Unfinished(), self.assembled, checked=True)

    @cached_property
    def _decomposed(self) -> _Instance:
        """Kept: several right-hand sides in a row may need it."""
        whole = self.assembled.whole
        return _Instance(_pseudo_inverse(whole), whole, checked=True, minimum_norm=True)

    @property
    def nullity(self) -> int:
        inner = self.system.nullity if self.checked and not isinstance(self.system, QuasiDefinite) else 0
        return inner + (0 if self.assembled.pins is None else self.assembled.pins.empty.size)

    @property
    def singular(self) -> bool:
        """Whether K is; what could not be found out in time is taken for it."""
        return self.nullity > 0 or not self.checked

    def null_vectors(self, *, sample: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        """ker K as rows (dx, Bη), or a few random ones; None if only its existence is known."""
        system = self.system
        if not self.checked or isinstance(system, (KrylovPseudoInverse, Unfinished)):
            return None
        null: np.ndarray | None = np.zeros((self.assembled.order, 0))
        if isinstance(system, DecidedPseudoInverse):
            null = system.null_space(sample=sample)
        elif isinstance(system, DensePseudoInverse):
            null = system.null_space
        if null is None:
            return None
        return self.assembled.null_vectors(null.T, most_units=SAMPLED if sample else None)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self.assembled.solve(p1, p2, self.system.solve)
        except OutOfTime:
            return np.full_like(p1, np.nan), np.full_like(p2, np.nan)


def _pseudo_inverse(assembled: Assembled) -> DecidedPseudoInverse | DensePseudoInverse | KrylovPseudoInverse:
    """K⁺ by the cheapest method that decides the rank. Raises OutOfTime."""
    check_time()
    proximal = _proximal(assembled) if assembled.order > _DENSE_SUSPECT else None
    return _by_decomposition(assembled) if proximal is None else DecidedPseudoInverse(proximal, assembled)


def _by_decomposition(assembled: Assembled) -> DensePseudoInverse | KrylovPseudoInverse:
    """K⁺ by a decomposition, or by LSMR where K is too large for one. Raises OutOfTime."""
    check_time()
    K = assembled.unscaled
    return DensePseudoInverse(K.toarray()) if assembled.order <= _DENSE_UP_TO else KrylovPseudoInverse(K)


def _proximal(assembled: Assembled) -> ProximalPseudoInverse | None:
    """K⁺ by proximal steps, with pivots if it does not work without; None where these do not tell the null space."""
    e = assembled.scales
    if e.min() < _MOST_UNEQUAL * e.max():
        return None
    shift = np.where(np.arange(e.size) < assembled.factored_positive, _REGULARIZATION, -_REGULARIZATION)
    size = assembled.largest_eigenvalue()
    for factor in (_ldl_shifted, _lu_shifted):
        try:
            return ProximalPseudoInverse(assembled.multiply, factor(assembled, shift * e**2), e, shift, size)
        except Undecided:
            continue
    return None


def _ldl_shifted(assembled: Assembled, shift: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    try:
        return qdldl.Solver(assembled.shifted(shift), upper=True).solve
    except RuntimeError as error:
        raise Undecided("a pivot is zero") from error


def _lu_shifted(assembled: Assembled, shift: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return _superlu(sp.csc_array(assembled.matrix + sp.diags_array(shift)))


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
        return np.array([instance.singular for instance in self._instances], dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = run_parallel(lambda i: self._instances[i].solve(p1[i], p2[i]), range(len(self._instances)), self._jobs)
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        for i, part in enumerate(parts):
            dx[i], dy[i] = part
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        self._check()
        return self._instances[instance].null_vectors()

    def null_sample(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        self._check()
        return self._instances[instance].null_vectors(sample=True)

    def free_columns(self) -> np.ndarray | None:
        self._check()
        if not self._instances:
            return None
        free = np.zeros((len(self._instances), self._instances[0].assembled.n), dtype=bool)
        for i, instance in enumerate(self._instances):
            pins = instance.assembled.pins
            zero = np.zeros(0, dtype=np.int64) if pins is None else pins.empty
            free[i, zero if instance.nullity == zero.size and instance.checked else slice(None)] = True
        return free

    def take(self, index: np.ndarray | list[int]) -> SparseFactorization:
        return SparseFactorization([self._instances[i] for i in index], self._jobs)

    def use_pseudo_inverse(self, instances: np.ndarray) -> SparseFactorization:
        replaced = list(self._instances)
        decomposed = run_parallel(lambda i: self._instances[i].decomposed(), instances.tolist(), self._jobs)
        for i, instance in zip(instances, decomposed, strict=True):
            replaced[i] = instance
        return SparseFactorization(replaced, self._jobs)
