"""The solutions of a batch of cone programs, with residuals that are recomputed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, final

import numpy as np

from conelayers.program.names import Names
from conelayers.support.errors import Status

__all__ = ["Attempt", "Attempts", "Residuals", "Solution"]


@final
@dataclass(frozen=True)
class Residuals:
    """Backward errors in the optimality conditions, each (B,), without units.

    A backward error is the relative change of the data that would make a condition exact.

    - primal: the largest over the rows of Ax + s = b of |Ax + s − b|ᵢ / (Σ|Aᵢⱼxⱼ| + |sᵢ| + |bᵢ|).
    - row: the row in which it occurs.
    - dual, column: the same for the columns of Px + Aᵀy + q = 0.
    - gap: |xᵀPx + qᵀx + bᵀy| over the sum of the absolute values of its terms.
    - cone: the largest over the blocks of the cone of the distances of s from K and of y from K*, relative to ‖s‖ and
      ‖y‖, and of |sᵀy| / (‖s‖‖y‖).

    Rounding errors, in the units of the equilibrated program, do not count (residual.py has the formulas). Values below
    1e−12 may be upper bounds.
    """

    primal: np.ndarray
    dual: np.ndarray
    gap: np.ndarray
    cone: np.ndarray
    row: np.ndarray
    column: np.ndarray

    def take(self, index: int | list[int]) -> Residuals:
        """The residuals of an instance, or of a part of the batch."""
        return Residuals(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def worst(self) -> np.ndarray:
        """The largest of the four, (B,); infinite if any of them is NaN."""
        worst = np.maximum(np.maximum(self.primal, self.dual), np.maximum(self.gap, self.cone))
        return np.where(np.isnan(worst), np.inf, worst)

    def named(self, i: int, names: Names) -> str:
        """The condition with the largest residual of instance i, by the user's names; empty if there is no solution."""
        figures = {name: float(getattr(self, name)[i]) for name in ("primal", "dual", "gap", "cone")}
        worst = max(figures, key=lambda name: figures[name])
        if np.isnan(figures[worst]):
            return ""
        if worst == "primal":
            return ", ".join(names.rows(_unit(names.row_entry.size, int(self.row[i]))))
        if worst == "dual":
            moved = names.columns(_unit(max(names.size, int(self.column[i]) + 1), int(self.column[i])))
            return f"the optimality condition of {', '.join(moved) or 'a variable that cvxpy introduced'}"
        return "the duality gap" if worst == "gap" else "the cone that s or y has to lie in"

    def blank(self, lost: np.ndarray) -> Residuals:
        """The residuals with NaN, and −1 for row and column, for the instances ``lost``, (B,) bool."""
        figures = {name: np.where(lost, np.nan, getattr(self, name)) for name in ("primal", "dual", "gap", "cone")}
        return Residuals(**figures, row=np.where(lost, -1, self.row), column=np.where(lost, -1, self.column))


def _unit(size: int, position: int) -> np.ndarray:
    unit = np.zeros(size)
    unit[position] = 1.0
    return unit


@final
class Attempt(NamedTuple):
    """One method's try at an instance: its name, its status, and ‖F‖ after Newton's steps from its point; infinite
    without a point.
    """

    solver: str
    status: Status
    error: float


@final
@dataclass(frozen=True)
class Attempts:
    """The methods that were tried, in turn, and at which instances: (name, positions, statuses, errors)."""

    rounds: tuple[tuple[str, np.ndarray, Sequence[Status], np.ndarray], ...] = ()

    def by_instance(self, batch: int) -> tuple[tuple[Attempt, ...], ...]:
        """The attempts at each instance."""
        found: list[list[Attempt]] = [[] for _ in range(batch)]
        for name, index, statuses, errors in self.rounds:
            for i, status, error in zip(index.tolist(), statuses, errors.tolist(), strict=True):
                found[i].append(Attempt(name, status, error))
        return tuple(map(tuple, found))

    def take(self, index: Sequence[int]) -> Attempts:
        """The attempts at a part of the batch."""
        rounds = []
        for name, members, statuses, errors in self.rounds:
            at = {int(i): k for k, i in enumerate(members)}
            kept = [(new, at[old]) for new, old in enumerate(index) if old in at]
            if kept:
                places = [k for _, k in kept]
                rounds.append((name, np.array([new for new, _ in kept]), [statuses[k] for k in places], errors[places]))
        return Attempts(tuple(rounds))

    @classmethod
    def joined(cls, parts: Sequence[Attempts], sizes: Sequence[int]) -> Attempts:
        """The attempts at several batches, one after the other."""
        rounds, first = [], 0
        for part, size in zip(parts, sizes, strict=True):
            rounds += [(name, index + first, statuses, errors) for name, index, statuses, errors in part.rounds]
            first += size
        return cls(tuple(rounds))


@final
@dataclass(frozen=True)
class Solution:
    """x (B, n), y (B, m), s (B, m), and for each instance a Status, the method, its message, and the residuals.

    x, y and s are NaN for instances whose status is not usable.
    """

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: tuple[Status, ...]
    residuals: Residuals
    solver: tuple[str, ...]
    message: tuple[str, ...]
    attempts: Attempts = Attempts()

    @classmethod
    def joined(cls, parts: Sequence[Solution]) -> Solution:
        """The solutions of several batches, one after the other."""
        if len(parts) == 1:
            return parts[0]
        x, y, s = (np.concatenate([getattr(p, k) for p in parts]) for k in ("x", "y", "s"))
        status, solver, message = (sum((getattr(p, k) for p in parts), ()) for k in ("status", "solver", "message"))
        names = [f.name for f in fields(Residuals)]
        residuals = Residuals(*(np.concatenate([getattr(p.residuals, k) for p in parts]) for k in names))
        attempts = Attempts.joined([p.attempts for p in parts], [len(p.status) for p in parts])
        return cls(x, y, s, status, residuals, solver, message, attempts)

    def take(self, index: list[int]) -> Solution:
        """A part of the batch."""
        return Solution(
            self.x[index],
            self.y[index],
            self.s[index],
            tuple(self.status[i] for i in index),
            self.residuals.take(index),
            tuple(self.solver[i] for i in index),
            tuple(self.message[i] for i in index),
            self.attempts.take(index),
        )
