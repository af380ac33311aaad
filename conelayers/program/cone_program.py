"""The cone program in the package's one convention, a batch of them over one sparsity pattern.

minimize   ½ xᵀP x + qᵀx          maximize  −½ xᵀP x − bᵀy
subject to A x + s = b, s ∈ K     subject to P x + Aᵀy + q = 0, y ∈ K*
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, final

import numpy as np

from conelayers.program.components import Components
from conelayers.program.cones import Cones
from conelayers.program.inert import InertColumns
from conelayers.program.patterns import BatchOperator, DenseOperator, Pattern, values_of_part
from conelayers.program.void_blocks import VoidBlocks

__all__ = ["ConeProgram", "Magnitudes", "Structure"]

_THREADS_FROM, _THREADS_UP_TO = 64, 3000  # the range of n + m in which two BLAS threads are slower than one


@final
class Magnitudes(NamedTuple):
    """|P| and |A| as operators, the sums of their columns (B or 1, n), and those of the rows of |A| (B or 1, m)."""

    P: BatchOperator
    A: BatchOperator
    columns_of_P: np.ndarray
    columns_of_A: np.ndarray
    rows_of_A: np.ndarray

    def take(self, index: np.ndarray | list[int]) -> Magnitudes:
        """The magnitudes of a part of the batch."""
        sums = (values_of_part(h, index) for h in self[2:])
        return Magnitudes(self.P.take(index), self.A.take(index), *sums)


@final
# Compared and hashed by identity: a layer has one structure, for which findings are kept (per_structure.py).
@dataclass(frozen=True, eq=False)
class Structure:
    """The part of a program that all instances share: the patterns of P (n×n, full symmetric) and A (m×n), the cone,
    which columns are inert, and which blocks are void if their bound is infinite.
    """

    P: Pattern
    A: Pattern
    cones: Cones
    inert: InertColumns | None = None
    void: VoidBlocks | None = None

    @property
    def n(self) -> int:
        """The number of variables."""
        return self.A.shape[1]

    @property
    def m(self) -> int:
        """The number of rows."""
        return self.A.shape[0]

    @property
    def is_linear(self) -> bool:
        """Whether the programs are linear ones: P = 0, and rows of zero and nonnegative cones only."""
        return self.P.nnz == 0 and self.cones.kinds <= {"zero", "nonneg"}

    @property
    def wants_one_blas_thread(self) -> bool:
        """Whether BLAS should run on one thread: its matrices are too small for more (parallel.py)."""
        return _THREADS_FROM < self.n + self.m <= _THREADS_UP_TO

    @cached_property
    def with_diagonal(self) -> tuple[Structure, np.ndarray, np.ndarray]:
        """The structure whose P stores the whole diagonal, and the positions in it of this P's entries and of the
        diagonal.
        """
        P, n = self.P, self.n
        own, diagonal = P.cols * n + P.rows, np.arange(n) * (n + 1)
        entries = np.union1d(own, diagonal)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(entries // n, minlength=n))])
        wider = replace(self, P=Pattern((n, n), entries % n, indptr))
        return wider, np.searchsorted(entries, own), np.searchsorted(entries, diagonal)

    @cached_property
    def components(self) -> Components | None:
        """The program's independent components, by its patterns; None if there is only one."""
        return Components.of(self.P, self.A, self.cones)

    @cached_property
    def singletons(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of A with one stored entry, and the columns of these entries."""
        order, starts = self.A.by_row
        rows = np.flatnonzero(np.bincount(self.A.rows, minlength=self.m) == 1)
        return rows, self.A.cols[order[starts[rows]]]


@final
@dataclass
class _Computed:
    """What was computed of a batch of programs so far, at the first request; a part of the batch takes it along."""

    magnitudes: Magnitudes | None = None


@final
@dataclass(frozen=True)
class ConeProgram:
    """The values of a batch over one structure: P (B, nnz P), q (B, n), A (B, nnz A), b (B, m).

    P and A are (1, nnz) if all instances share them; work on them is then done once. ``operators``, if given, multiply
    with P and A in a cheaper way than the patterns allow.
    """

    structure: Structure
    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    operators: tuple[BatchOperator, BatchOperator] | None = None
    # Made anew with each program, also by dataclasses.replace.
    computed: _Computed = field(init=False, default_factory=_Computed, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """The number of instances, B."""
        return self.q.shape[0]

    def take(self, index: np.ndarray | list[int]) -> ConeProgram:
        """The instances at these positions, in ascending order and without repetition."""
        if len(index) == self.batch:
            return self
        operators = None if self.operators is None else (self.operators[0].take(index), self.operators[1].take(index))
        taken = ConeProgram(
            self.structure,
            values_of_part(self.P, index),
            self.q[index],
            values_of_part(self.A, index),
            self.b[index],
            operators,
        )
        if self.computed.magnitudes is not None:
            taken.computed.magnitudes = self.computed.magnitudes.take(index)
        return taken

    def add_to_diagonal(self, diagonal: np.ndarray) -> ConeProgram:
        """The program with P + diag(diagonal), for diagonal (n,)."""
        structure, own, on_diagonal = self.structure.with_diagonal
        values = np.zeros((self.P.shape[0], structure.P.nnz))
        values[:, own] = self.P
        values[:, on_diagonal] += diagonal
        return ConeProgram(structure, values, self.q, self.A, self.b)

    @cached_property
    def P_operator(self) -> BatchOperator:
        """x ↦ P x."""
        return self.operators[0] if self.operators is not None else self.structure.P.operator(self.P)

    @cached_property
    def A_operator(self) -> BatchOperator:
        """x ↦ A x."""
        return self.operators[1] if self.operators is not None else self.structure.A.operator(self.A)

    @property
    def magnitudes(self) -> Magnitudes:
        """|P| and |A|, relative to which residuals are measured; computed once."""
        if self.computed.magnitudes is None:
            self.computed.magnitudes = self._magnitudes()
        return self.computed.magnitudes

    def _magnitudes(self) -> Magnitudes:
        n, m = self.structure.n, self.structure.m
        P, A = self.P_operator.absolute(), self.A_operator.absolute()
        rows = max(self.P.shape[0], self.A.shape[0]) if self.operators is None else self.batch
        ones = np.ones((rows, n))
        columns_of_P = P.matvec(ones) if self.structure.P.nnz else np.zeros_like(ones)
        return Magnitudes(P, A, columns_of_P, A.rmatvec(np.ones((rows, m))), A.matvec(ones))

    @cached_property
    def dense_P(self) -> np.ndarray:
        """P as (B, n, n), or (1, n, n) if it is shared."""
        operator = self.P_operator
        return operator.array if isinstance(operator, DenseOperator) else self.structure.P.dense(self.P)

    @cached_property
    def dense_A(self) -> np.ndarray:
        """A as (B, m, n), or (1, m, n) if it is shared."""
        operator = self.A_operator
        return operator.array if isinstance(operator, DenseOperator) else self.structure.A.dense(self.A)

    def Px(self, x: np.ndarray) -> np.ndarray:
        """P x, (B, n)."""
        if not self.structure.P.nnz:
            return np.zeros_like(x)
        return self.P_operator.matvec(x)

    def Ax(self, x: np.ndarray) -> np.ndarray:
        """A x, (B, m)."""
        return self.A_operator.matvec(x)

    def ATy(self, y: np.ndarray) -> np.ndarray:
        """Aᵀy, (B, n)."""
        return self.A_operator.rmatvec(y)
