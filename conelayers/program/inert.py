"""Auxiliary columns of which it is known from the program's making that nothing depends on them where no active row
holds them.

The epigraph variable of a norm that is not at its bound is such a one: it may move, K has a zero column for it and J
the null vector e_t, and the same for Jᵀ. Neither x of the user's nor a gradient changes along it: the gradient of what
stands in column t would be q's and P's, which are constant there, and −yᵢλ_t of the coefficients in A, with yᵢ = 0 in
rows that are not active.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

__all__ = ["InertColumns"]


@final
@dataclass(frozen=True)
class InertColumns:
    """columns: which they are, (n,) bool. The coefficients of A in rows[k], cols[k] depend on parameters; yᵢ = 0 is
    asked of these.
    """

    columns: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    def explain(self, free: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether the zero columns ``free`` (B, n) bool of K, where y (B, m) are the multipliers, all are such ones,
        (B,).
        """
        others = (free & ~self.columns).any(axis=1)
        if self.rows.size:
            others |= (free[:, self.cols] & (y[:, self.rows] != 0)).any(axis=1)
        return ~others
