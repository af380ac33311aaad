"""The user's values in any framework: what the input map asks of an adapter, and the entries of sparse matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from conelayers.problem.expressions import Arithmetic
from conelayers.problem.parameters import ParameterSpec

__all__ = ["SparseOperations", "Values", "entries_at_positions"]


class Values(Protocol):
    """What an adapter knows of the arrays that it is given."""

    arithmetic: Arithmetic

    def array(self, value: Any) -> Any:
        """The framework's array for what a call was given; sparse ones stay sparse."""

    def wide(self, value: Any) -> Any:
        """A dense array in double precision, where the arithmetic works, for a dense or sparse one."""

    def narrow(self, value: Any, given: Sequence[Any]) -> Any:
        """A computed value in the precision, and on the device, of those that were given."""

    def dense(self, value: Any) -> Any:
        """A dense array for a sparse one."""

    def entries(self, value: Any, spec: ParameterSpec) -> Any:
        """(B, k) or (k,): the entries at ``spec.positions`` of a dense or sparse value."""

    def concrete(self, value: Any) -> np.ndarray | None:
        """The value as a dense NumPy array; None for a traced one, and for a sparse one, which ``entries`` checks."""

    def joined(self, real: Any, imaginary: Any) -> Any:
        """The complex array of these parts."""


class SparseOperations(Protocol):
    """A framework's operations on the stored entries (nnz,) of one sparse matrix."""

    def index(self, array: np.ndarray) -> Any:
        """The array of indices as the framework's."""

    def search(self, ordered: Any, wanted: Any) -> Any:
        """The first place in ``ordered`` of what is not below each of ``wanted``."""

    def where(self, mask: Any, x: Any) -> Any:
        """x where the mask holds, zero elsewhere."""

    def holds_somewhere(self, mask: Any) -> bool:
        """Whether the mask holds anywhere; False where it is traced."""

    def add_at(self, size: int, places: Any, values: Any) -> Any:
        """(size,) with ``out[places] += values``."""


def entries_at_positions(
    ops: SparseOperations, rows: Any, columns: Any, values: Any, spec: ParameterSpec, stored: Any = True
) -> Any:
    """(k,): the entries of a sparse matrix at ``spec.positions``; duplicates are added up.

    rows, columns, values: the stored entries. stored: False for those that only fill up the arrays, or True for all.
    Raises ValueError for an entry outside of the positions that is not zero.
    """
    positions = np.asarray(spec.positions or (), dtype=np.int64)
    order = np.argsort(positions)
    place = rows + spec.shape[0] * columns
    if positions.size:
        ordered = ops.index(positions[order])
        found = ops.search(ordered, place).clip(max=positions.size - 1)
        inside = (ordered[found] == place) & stored
        outside = (ordered[found] != place) & stored & (values != 0)
    else:
        outside = (values != 0) & stored
    if ops.holds_somewhere(outside):
        raise ValueError(
            f"parameter {spec.label}: was declared with a sparsity pattern; got entries outside it that are not zero, "
            "expected zeros there"
        )
    if not positions.size:
        return values[:0]
    return ops.add_at(positions.size, ops.index(order)[found], ops.where(inside, values))
