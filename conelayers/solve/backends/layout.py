"""The layout of a backend's own matrices: which entries of P and A they hold depends on the patterns only, not on the
instance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from conelayers.program.cones import Cones

__all__ = ["Layout", "Native"]

Native = tuple[sp.csc_matrix | None, ...]  # a backend's own matrices


@final
@dataclass(frozen=True)
class _Selection:
    """A matrix made of some entries of a vector: ``template`` has its pattern, ``entries`` their positions."""

    template: Any
    entries: np.ndarray

    def matrix(self, values: np.ndarray) -> Any:
        """The matrix for this vector. The template is copied: SciPy's constructors take longer than small solves do."""
        made = copy.copy(self.template)
        made.data = values[self.entries]
        return made


@final
@dataclass(frozen=True)
class Layout:
    """The patterns of P and A, and of the matrices that a backend makes of them by selecting and reordering entries."""

    P: _Selection
    A: _Selection
    native: tuple[_Selection | None, ...]

    @classmethod
    def of(cls, made: Callable[[sp.csc_array, sp.csc_array, Cones], Native], P: Any, A: Any, cones: Cones) -> Layout:
        """The layout for matrices with the patterns of P and A. ``made`` makes the backend's matrices; here its input
        is the numbered entries.
        """
        numbers = np.arange(1.0, P.nnz + A.nnz + 1)
        numbered = (
            sp.csc_array((part, matrix.indices, matrix.indptr), shape=matrix.shape)
            for matrix, part in ((P, numbers[: P.nnz]), (A, numbers[P.nnz :]))
        )
        P, A = numbered
        native = tuple(None if matrix is None else _selection(matrix) for matrix in made(P, A, cones))
        return cls(_selection(P), _selection(A), native)

    def matrices(self, P: np.ndarray, A: np.ndarray) -> tuple[sp.csc_array, sp.csc_array, Native]:
        """P, A and the backend's own matrices of one instance, from its values."""
        values = np.concatenate([P, A])
        native = tuple(None if selection is None else selection.matrix(values) for selection in self.native)
        return self.P.matrix(values), self.A.matrix(values), native


def _selection(matrix: Any) -> _Selection:
    return _Selection(matrix, np.rint(matrix.data).astype(np.int64) - 1)
