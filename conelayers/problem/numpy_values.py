"""NumPy's arrays, and SciPy's sparse ones, as the user's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from conelayers.problem.expressions import Arithmetic, NumpyArithmetic
from conelayers.problem.parameters import ParameterSpec, flatten
from conelayers.problem.user_values import entries_at_positions

__all__ = ["ARRAYS"]


@final
class _Arrays:
    """NumPy's arrays, and SciPy's sparse ones."""

    arithmetic: Arithmetic = NumpyArithmetic()

    def array(self, value: Any) -> Any:
        return value

    def wide(self, value: Any) -> Any:
        return np.asarray(self.dense(value), dtype=np.complex128 if np.iscomplexobj(value) else np.float64)

    def narrow(self, value: Any, given: Sequence[Any]) -> Any:
        return value

    def dense(self, value: Any) -> Any:
        return value.toarray() if sp.issparse(value) else value

    def entries(self, value: Any, spec: ParameterSpec) -> Any:
        if sp.issparse(value):
            stored = sp.coo_array(value)
            rows, columns = stored.row.astype(np.int64), stored.col.astype(np.int64)
            return entries_at_positions(_SparseOperations(), rows, columns, stored.data, spec)
        positions = np.asarray(spec.positions or (), dtype=np.int64)
        batched = value.ndim > len(spec.shape)
        flat = flatten(value if batched else value[None])[:, positions]
        return flat if batched else flat[0]

    def concrete(self, value: Any) -> np.ndarray | None:
        return None if sp.issparse(value) else value

    def joined(self, real: Any, imaginary: Any) -> Any:
        return real + 1j * imaginary


@final
class _SparseOperations:
    def index(self, array: np.ndarray) -> np.ndarray:
        return array

    def search(self, ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        return np.searchsorted(ordered, wanted)

    def where(self, mask: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.where(mask, x, 0)

    def holds_somewhere(self, mask: np.ndarray) -> bool:
        return bool(mask.any())

    def add_at(self, size: int, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        out = np.zeros(size)
        np.add.at(out, places, values)
        return out


ARRAYS = _Arrays()
