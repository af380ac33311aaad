"""Rows of A without a coefficient whose right-hand side is rounding.

A constraint such as p·x²·x⁻² == c of a geometric program, or p·x − p·x == θ − θ' of any other, leaves 0ᵀx + s = b.
Where b is a sum whose terms cancel it is not zero but rounding, and nothing else in the row says how little that is:
0 == 2e−16 would be a contradiction. The affine map to b knows the terms that it adds up. What is within their rounding
is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.program.cone_program import Structure
from conelayers.program.patterns import Pattern

__all__ = ["VoidRows"]

_ROUNDING = 64 * float(np.finfo(float).eps)  # of a sum and of the data that it is made of, relative to its terms


@final
@dataclass(frozen=True)
class VoidRows:
    """The rows of the zero and the nonnegative cone that may have no coefficient and have a sum as b.

    constant (k,) and linear (k, φ): |constant| and |L| of their b, 1 at least for a constant that is a logarithm.
    entries: positions of their coefficients in A's values, and ``row_of`` each of these the place in ``rows``.
    """

    rows: np.ndarray
    constant: np.ndarray
    linear: sp.csr_array
    entries: np.ndarray
    row_of: np.ndarray
    logarithms: bool

    @classmethod
    def of(
        cls,
        structure: Structure,
        fixed: np.ndarray,
        constant: np.ndarray,
        linear: sp.csr_array,
        *,
        logarithms: bool = False,
    ) -> VoidRows:
        """Of A's values that do not depend on φ (nnz,), 0 for those that do, and of b = constant + linear φ.

        logarithms: whether b adds up logarithms. A number that is rounded by ε makes its logarithm off by ε,
        however small that is.
        """
        A, cones = structure.A, structure.cones
        possible = np.zeros(structure.m, dtype=bool)
        possible[: cones.zero + cones.nonneg] = True
        possible[A.rows[fixed != 0]] = False
        terms = np.diff(linear.indptr) + (constant != 0)
        # One number that the user gave is meant as it is.
        possible &= terms >= (1 if logarithms else 2)
        rows = np.flatnonzero(possible)
        entries, row_of = _entries(A, rows)
        sizes = np.abs(constant[rows])
        if logarithms:
            sizes = np.where(sizes > 0, np.maximum(sizes, 1.0), 0.0)
        return cls(rows, sizes, abs(sp.csr_array(linear[rows])), entries, row_of, logarithms)

    def cleaned(self, b: np.ndarray, A: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """b (B, m), changed in place: zero where it is rounding in a row without a coefficient in A (B or 1, nnz)."""
        if not self.rows.size:
            return b
        filled = np.zeros((A.shape[0], self.rows.size), dtype=bool)
        at, nonzero = np.nonzero(A[:, self.entries])
        filled[at, self.row_of[nonzero]] = True
        values = np.where(np.isfinite(phi), np.abs(phi), 0.0)
        values = np.maximum(values, 1.0) if self.logarithms else values
        size = self.constant + (self.linear @ values.T).T
        b[:, self.rows] = np.where(~filled & (np.abs(b[:, self.rows]) <= _ROUNDING * size), 0.0, b[:, self.rows])
        return b


def _entries(A: Pattern, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where A's values hold entries of these rows, and in which of them each lies."""
    entries = np.flatnonzero(np.isin(A.rows, rows))
    return entries, np.searchsorted(rows, A.rows[entries])
