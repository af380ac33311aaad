"""The user's own names for a cone program's rows and columns, for messages that name constraints and variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

__all__ = ["NEGLIGIBLE", "Names", "Naming"]

NEGLIGIBLE = 1e-6  # entries below this are rounding errors in a null vector whose largest entry is 1
_SHOWN = 4  # number of entries of one variable or constraint that a message lists


@final
@dataclass(frozen=True)
class Names:
    """Which constraint each row comes from, and how the variables are read off x.

    ``row_constraint`` (m,) holds positions in ``constraints``, −1 for a row of a program given in conic form.
    ``row_entry`` (m,) is the entry of that constraint (column-major in its shape), −1 for rows that cvxpy added in
    rewriting it. Each variable has its name, its shape and the matrix (entries × n) that reads it off x. ``constant``
    (m,) are the linear constraints that no parameter enters and whose multipliers are not among the outputs. ``added``
    (m,) are the rows that cvxpy made in rewriting a constraint.
    """

    constraints: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    row_constraint: np.ndarray
    row_entry: np.ndarray
    variables: tuple[tuple[str, tuple[int, ...], sp.csr_array], ...]
    constant: np.ndarray
    added: np.ndarray

    @classmethod
    def of_rows(cls, n: int, m: int) -> Names:
        """The names for a program in conic form: x[j], and rows by their numbers."""
        unknown = np.full(m, -1)
        variables = (("x", (n,), sp.eye_array(n, format="csr")),)
        none = np.zeros(m, dtype=bool)
        return cls((), (), unknown, np.arange(m), variables, none, none)

    def of_smaller(self, columns: np.ndarray, rows: np.ndarray, R: sp.csr_array, constant: np.ndarray) -> Names:
        """Those of a program with some of the columns and rows, whose rows are R times all of these.

        A row that cvxpy added and to which one of the user's was added is the user's: a bound that took the place of an
        auxiliary variable.
        """
        owner, entry = self.row_constraint[rows], self.row_entry[rows]
        new, old = R.nonzero()
        of_user = (self.row_entry[old] >= 0) & (entry[new] < 0)
        taken, first = np.unique(new[of_user], return_index=True)
        source = old[of_user][first]
        owner[taken], entry[taken] = self.row_constraint[source], self.row_entry[source]
        variables = tuple((name, shape, sp.csr_array(matrix[:, columns])) for name, shape, matrix in self.variables)
        return Names(self.constraints, self.shapes, owner, entry, variables, constant, self.added[rows])

    def rows(self, weights: np.ndarray) -> tuple[str, ...]:
        """The names of the constraints that have rows with nonzero weights (m,), with the entries of these rows."""
        size = float(np.max(np.abs(weights), initial=0.0))
        rows = np.flatnonzero(np.abs(weights) > NEGLIGIBLE * size) if size > 0 else np.zeros(0, dtype=np.int64)
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

    def visible(self, directions: np.ndarray, units: np.ndarray) -> np.ndarray:
        """A basis (k', n) of the part of span{dx} (k, n, orthonormal) along which the user's own variables change.

        Entry j of a direction counts units of size ``units[j]`` (n,) in the user's terms, in which all variables are of
        one size. A variable that cvxpy introduced, such as the epigraph of a norm, may be free if its constraint is not
        active; no variable of the user's depends on it.
        """
        moved = [_moved(matrix, directions, units).T for _, _, matrix in self.variables]
        return _split(np.concatenate([*moved, np.zeros((0, len(directions)))]), directions)[0]

    def relevant_multipliers(self, multipliers: np.ndarray) -> np.ndarray:
        """A basis (k', m) of the part of span{w} (k, m, orthonormal) that matters to the user.

        If constant linear constraints depend on each other, their multipliers are not unique, but no parameter can make
        the constraints contradict each other. Such a dependence is left out if rows that cvxpy added take part in it
        (‖x‖₁ with x ≥ 0). It is kept if all its constraints are the user's own, who can remove one.
        """
        moving, constant = _split(np.where(self.constant, 0.0, multipliers).T, multipliers)
        _, own = _split(np.where(self.added, constant, 0.0).T, constant)
        return np.concatenate([moving, own])

    @property
    def size(self) -> int:
        """The number of the cone program's variables, n."""
        return int(self.variables[0][2].shape[1]) if self.variables else 0

    def columns(self, direction: np.ndarray, units: np.ndarray | None = None) -> tuple[str, ...]:
        """The names of the variables that change along dx = ``direction`` (n,), in the user's ``units`` (n,), with
        their entries.
        """
        size = float(np.max(np.abs(direction), initial=0.0))
        units = np.ones(direction.size) if units is None else units
        found = []
        for name, shape, matrix in self.variables:
            change = np.abs(_moved(matrix, direction[None], units)[0])
            moved = np.flatnonzero(change > NEGLIGIBLE * size) if size > 0 else np.zeros(0, dtype=np.int64)
            if moved.size:
                found.append(name + _entries(moved, shape, brackets=True))
        return tuple(found)


def _moved(matrix: sp.csr_array, directions: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The change of a variable's entries along directions (k, n), (k, size), each entry in its own unit."""
    own = abs(matrix) @ units
    return (matrix @ (directions * units).T).T / np.where(own > 0, own, 1.0)


@final
class Naming:
    """Names that are found and kept when they are first read, or when this is pickled."""

    def __init__(self, find: Callable[[], Names]) -> None:
        self._find: Callable[[], Names] | None = find
        self._names: Names | None = None

    @classmethod
    def known(cls, names: Names) -> Naming:
        """A Naming whose names are known already."""
        return cls(lambda: names)

    @property
    def names(self) -> Names:
        """The names."""
        if self._names is None:
            assert self._find is not None
            self._names = self._find()
            self._find = None  # so that the problem can be freed
        return self._names

    def __reduce__(self) -> tuple[Any, tuple[Names]]:
        return _unpickled, (self.names,)


def _unpickled(names: Names) -> Naming:
    return Naming.known(names)


def _split(images: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal combinations of the rows of ``basis`` (k, ·): those whose images do not vanish, and the others.

    Column j of ``images`` is the image of row j.
    """
    squares, V = np.linalg.eigh(images.T @ images)
    seen = squares > NEGLIGIBLE**2
    return V[:, seen].T @ basis, V[:, ~seen].T @ basis


def _entries(entries: np.ndarray, shape: tuple[int, ...], *, brackets: bool = False) -> str:
    """The indices of the entries in words; empty if all entries are meant."""
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
