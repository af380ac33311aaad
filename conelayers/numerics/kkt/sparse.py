"""Large sparse systems: each instance's K by a quasi-definite LDLᵀ, or by a pseudo-inverse if K is singular."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import qdldl
import scipy.sparse as sp

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.assembly import Assembled, assemble
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.proximal import SAMPLED, ProximalPseudoInverse, Undecided
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse, KrylovPseudoInverse, Unfinished
from conelayers.numerics.kkt.quasi_definite import REGULARIZATION, QuasiDefinite, pivoted_lu
from conelayers.program.cone_program import ConeProgram
from conelayers.support.limits import OutOfTime, check_time
from conelayers.support.parallel import run_parallel

__all__ = ["SparseFactorization"]

_DENSE_UP_TO = 1500  # order up to which a singular matrix is decomposed if proximal steps do not decide
_DENSE_SUSPECT = 100  # order up to which a decomposition is cheaper than proximal steps
_MOST_UNEQUAL = 1e-3  # min e / max e below which δe² would regularize some rows too little or others too much


@final
class DecidedPseudoInverse:
    """K⁺ by proximal steps until these do not decide which directions are null, and by a decomposition from then on."""

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
    """One instance's K and its solver; ``checked`` is True once it is known whether K is singular."""

    system: _System
    assembled: Assembled
    checked: bool = False
    minimum_norm: bool = False

    def check(self) -> _Instance:
        """The same with a solver that reaches the accuracy.

        If K is nearly singular, a solver that knows the null space replaces the factor, if there is time.
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
        """The whole K with a rank-revealing solver.

        The pins are put back, because K⁺ without them is not of minimum norm.
        """
        if self.minimum_norm:
            return self
        try:
            return self._decomposed
        except OutOfTime:
            return _Instance(Unfinished(), self.assembled, checked=True)

    @cached_property
    def _decomposed(self) -> _Instance:
        """The decomposition, which is kept, since several right-hand sides in a row may need it."""
        whole = self.assembled.whole
        return _Instance(_pseudo_inverse(whole), whole, checked=True, minimum_norm=True)

    @property
    def nullity(self) -> int:
        inner = self.system.nullity if self.checked and not isinstance(self.system, QuasiDefinite) else 0
        return inner + (0 if self.assembled.pins is None else self.assembled.pins.empty.size)

    @property
    def singular(self) -> bool:
        """Whether K is singular. If that could not be found out in time, the answer is yes."""
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
    """K⁺ by a decomposition, or by LSMR if K is too large for one. Raises OutOfTime."""
    check_time()
    K = assembled.unscaled
    return DensePseudoInverse(K.toarray()) if assembled.order <= _DENSE_UP_TO else KrylovPseudoInverse(K)


def _proximal(assembled: Assembled) -> ProximalPseudoInverse | None:
    """K⁺ by proximal steps, with a pivoted factor if necessary; None if they do not find the null space."""
    e = assembled.scales
    if e.min() < _MOST_UNEQUAL * e.max():
        return None
    shift = np.where(np.arange(e.size) < assembled.factored_positive, REGULARIZATION, -REGULARIZATION)
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
    return pivoted_lu(sp.csc_array(assembled.matrix + sp.diags_array(shift)))


@final
class SparseFactorization(Factorization):
    """The K of each instance, factored by itself on a thread pool.

    Whether an instance is singular is found out when a caller reads it. Newton's steps do not read it.
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
