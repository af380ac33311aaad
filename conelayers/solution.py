"""The solutions of a batch of cone programs, and their own residuals, recomputed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, final

import numpy as np

from conelayers.errors import Status
from conelayers.program import ConeProgram, largest

__all__ = ["Attempt", "Attempts", "Residuals", "Solution"]


@final
@dataclass(frozen=True)
class Residuals:
    """Relative errors in the optimality conditions, each (B,), in the maximum norm.

    primal ‖Ax + s − b‖ / (1 + max(‖Ax‖, ‖s‖, ‖b‖)), dual ‖Px + Aᵀy + q‖ / (1 + max(‖Px‖, ‖Aᵀy‖, ‖q‖)),
    gap |xᵀPx + qᵀx + bᵀy| / (1 + max(|xᵀPx|, |qᵀx|, |bᵀy|)), less what rounding makes of the sum, 100ε(max|P|·‖x‖² + |q|ᵀ|x| + |b|ᵀ|y|):
    at an optimal value of zero with large x, that is all there is of it. cone: distances of s to K and y to K*, over 1 + ‖s‖ and
    1 + ‖y‖.
    """

    primal: np.ndarray
    dual: np.ndarray
    gap: np.ndarray
    cone: np.ndarray

    def take(self, index: int | list[int]) -> Residuals:
        """Those of an instance, or of a part of the batch."""
        return Residuals(self.primal[index], self.dual[index], self.gap[index], self.cone[index])

    @property
    def worst(self) -> np.ndarray:
        """The largest of the four, (B,); infinite where any of them is not a number."""
        worst = np.maximum(np.maximum(self.primal, self.dual), np.maximum(self.gap, self.cone))
        return np.where(np.isnan(worst), np.inf, worst)

    @classmethod
    def of(
        cls, program: ConeProgram, x: np.ndarray, y: np.ndarray, s: np.ndarray, cone: np.ndarray | None = None
    ) -> Residuals:
        """The residuals of (x, y, s), recomputed from the raw data, whoever solved it; ``cone`` where that part is known."""
        Px, Ax, ATy = program.Px(x), program.Ax(x), program.ATy(y)
        xPx, qx, by = _dot(x, Px), _dot(program.q, x), _dot(program.b, y)
        size = largest(program.P) * _dot(x, x) + _dot(np.abs(program.q), np.abs(x)) + _dot(np.abs(program.b), np.abs(y))
        rounding = 100 * np.finfo(float).eps * size
        if cone is None:
            y_distance, s_distance = program.structure.cones.distances(y, s)
            cone = np.maximum(s_distance / (1 + largest(s)), y_distance / (1 + largest(y)))
        return cls(
            primal=largest(Ax + s - program.b)
            / (1 + np.maximum(np.maximum(largest(Ax), largest(s)), largest(program.b))),
            dual=largest(Px + ATy + program.q)
            / (1 + np.maximum(np.maximum(largest(Px), largest(ATy)), largest(program.q))),
            gap=np.maximum(np.abs(xPx + qx + by) - rounding, 0.0)
            / (1 + np.maximum(np.maximum(np.abs(xPx), np.abs(qx)), np.abs(by))),
            cone=cone,
        )


@final
class Attempt(NamedTuple):
    """One solver's try at an instance: its name, what it said, and ‖F‖ after Newton's steps from its point, infinite without one."""

    solver: str
    status: Status
    error: float


@final
@dataclass(frozen=True)
class Attempts:
    """Who was tried in turn, and at which instances of the batch: (name, positions, statuses, errors)."""

    rounds: tuple[tuple[str, np.ndarray, Sequence[Status], np.ndarray], ...] = ()

    def by_instance(self, batch: int) -> tuple[tuple[Attempt, ...], ...]:
        """Those at each instance."""
        found: list[list[Attempt]] = [[] for _ in range(batch)]
        for name, index, statuses, errors in self.rounds:
            for i, status, error in zip(index.tolist(), statuses, errors.tolist(), strict=True):
                found[i].append(Attempt(name, status, error))
        return tuple(map(tuple, found))

    def take(self, index: Sequence[int]) -> Attempts:
        """Those at a part of the batch."""
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
        """Those of batches one after the other."""
        rounds, first = [], 0
        for part, size in zip(parts, sizes, strict=True):
            rounds += [(name, index + first, statuses, errors) for name, index, statuses, errors in part.rounds]
            first += size
        return cls(tuple(rounds))


@final
@dataclass(frozen=True)
class Solution:
    """x (B, n), y (B, m), s (B, m), a Status, the backend and its own words for each instance, and the residuals.

    NaN where the status is not usable.
    """

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: tuple[Status, ...]
    residuals: Residuals
    judged: np.ndarray  # the worst residual in the user's and in the equilibrated units, (B,)
    solver: tuple[str, ...]
    message: tuple[str, ...]
    attempts: Attempts = Attempts()

    @classmethod
    def joined(cls, parts: Sequence[Solution]) -> Solution:
        """Batches one after the other."""
        if len(parts) == 1:
            return parts[0]
        x, y, s, judged = (np.concatenate([getattr(p, k) for p in parts]) for k in ("x", "y", "s", "judged"))
        status, solver, message = (sum((getattr(p, k) for p in parts), ()) for k in ("status", "solver", "message"))
        names = [f.name for f in fields(Residuals)]
        residuals = Residuals(*(np.concatenate([getattr(p.residuals, k) for p in parts]) for k in names))
        attempts = Attempts.joined([p.attempts for p in parts], [len(p.status) for p in parts])
        return cls(x, y, s, status, residuals, judged, solver, message, attempts)

    def take(self, index: list[int]) -> Solution:
        """A part of the batch."""
        return Solution(
            self.x[index],
            self.y[index],
            self.s[index],
            tuple(self.status[i] for i in index),
            self.residuals.take(index),
            self.judged[index],
            tuple(self.solver[i] for i in index),
            tuple(self.message[i] for i in index),
            self.attempts.take(index),
        )


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("bi,bi->b", a, b)
