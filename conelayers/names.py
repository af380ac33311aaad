"""The user's own names for a cone program's rows and columns, for messages that say which constraint and which variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp

__all__ = ["Names"]

_SEEN = 1e-6  # entries of a unit vector (maximum norm) below this are rounding
_SHOWN = 4  # entries of one variable or constraint that are listed


@final
@dataclass(frozen=True)
class Names:
    """Which constraint each row comes from, and how the variables are read off x.

    ``row_constraint`` (m,) holds positions in ``constraints``, −1 for a row of a program given in conic form. ``row_entry`` (m,)
    is the entry of that constraint (column-major in its shape), −1 for rows that cvxpy added in rewriting it. Each variable has
    its name, its shape and the matrix (entries × n) that reads it off x.
    """

    constraints: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    row_constraint: np.ndarray
    row_entry: np.ndarray
    variables: tuple[tuple[str, tuple[int, ...], sp.csr_array], ...]

    @classmethod
    def of_rows(cls, n: int, m: int) -> Names:
        """Those of a program in conic form: x[j] and rows by number."""
        unknown = np.full(m, -1)
        return cls((), (), unknown, np.arange(m), (("x", (n,), sp.eye_array(n, format="csr")),))

    def rows(self, weights: np.ndarray) -> tuple[str, ...]:
        """The constraints in which rows have a weight (m,) that is not zero, with their entries."""
        size = float(np.max(np.abs(weights), initial=0.0))
        rows = np.flatnonzero(np.abs(weights) > _SEEN * size) if size > 0 else np.zeros(0, dtype=np.int64)
        found = []
        owners = self.row_constraint[rows]
        for owner in dict.fromkeys(owners.tolist()):
            entries = self.row_entry[rows[owners == owner]]
            if owner < 0:
                found.append(f"row{'s' if entries.size > 1 else ''} {_listed([str(e) for e in entries])} of A")
                continue
            known = np.unique(entries[entries >= 0])
            found.append(self.constraints[owner] + _entries(known, self.shapes[owner]))
        return tuple(found)

    def visible(self, directions: np.ndarray) -> np.ndarray:
        """A basis (k', n) of the part of span{dx} (k, n, orthonormal) along which variables of the user's change.

        What cvxpy introduced may be free where a constraint is not active (the epigraph of a norm), and nothing depends on it.
        """
        moved = np.concatenate(
            [(matrix @ directions.T) for _, _, matrix in self.variables] or [np.zeros((0, len(directions)))]
        )
        _, sizes, V = np.linalg.svd(moved, full_matrices=False)
        return V[sizes > _SEEN] @ directions

    def columns(self, direction: np.ndarray) -> tuple[str, ...]:
        """The variables that change along dx = ``direction`` (n,), with their entries."""
        size = float(np.max(np.abs(direction), initial=0.0))
        found = []
        for name, shape, matrix in self.variables:
            moved = (
                np.flatnonzero(np.abs(matrix @ direction) > _SEEN * size) if size > 0 else np.zeros(0, dtype=np.int64)
            )
            if moved.size:
                found.append(name + _entries(moved, shape, brackets=True))
        return tuple(found)


def _entries(entries: np.ndarray, shape: tuple[int, ...], *, brackets: bool = False) -> str:
    """The entries' indices, or nothing where all of them are meant."""
    total = int(np.prod(shape, dtype=np.int64))
    if not entries.size or total <= 1 or (entries.size == total and total > _SHOWN):
        return ""
    indices = [np.unravel_index(int(e), shape, order="F") for e in entries[: _SHOWN + 1]]
    texts = ["[" + ", ".join(str(int(i)) for i in index) + "]" for index in indices]
    if brackets and entries.size == 1:
        return texts[0]
    return f" at {_listed(texts, int(entries.size))}"


def _listed(texts: list[str], total: int | None = None) -> str:
    total = len(texts) if total is None else total
    return ", ".join(texts[:_SHOWN]) + (f", … ({total} in all)" if total > _SHOWN else "")
