"""The solutions of a batch by the compiled core, but for the instances that it left to the engine in Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, final

import numpy as np

from conelayers.core import Outcome, Solutions
from conelayers.derivatives.linearization import SolutionMap
from conelayers.problem.parameters import unflatten
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.solution import Attempts, Residuals, Solution
from conelayers.support.errors import Status, usable_mask

__all__ = ["CoreAnswers", "Engineered"]

_CORE = "CORE"  # the solver's name in layer.last
_PROVEN = "the core found a certificate"


@final
class Engineered(NamedTuple):
    """What the engine found for the instances ``members`` of a batch that the core left open."""

    members: np.ndarray
    solution: Solution
    linearization: SolutionMap


@final
class CoreAnswers:
    """The core's points, with those of the engine among them, and the solutions that are made of them."""

    def __init__(self, found: Solutions, compiled: ParametricProgram, engineered: Engineered | None) -> None:
        self.points, self.outputs = (found.x, found.y, found.s), found.outputs
        self._errors, self._places, self.outcome = found.errors, found.places, found.outcome
        self._engineered = None if engineered is None else (engineered.members, engineered.solution)
        self.all_exact = not self.outcome.any()
        if self.all_exact:
            return
        for values in (*self.points, self.outputs):
            values[self.outcome != Outcome.SOLVED] = np.nan
        if engineered is not None:
            members, solution = engineered.members, engineered.solution
            for whole, part in zip(self.points, (solution.x, solution.y, solution.s), strict=True):
                whole[members] = part
            at = 0
            for o in compiled.outputs:
                value = unflatten(o.value(solution.x, solution.y), o.shape)
                value = value.reshape(len(members), o.matrix.shape[0])
                self.outputs[members, at : at + value.shape[1]] = value
                at += value.shape[1]

    @cached_property
    def solution(self) -> Solution:
        """Points, statuses and residuals, of the core and of the engine."""
        batch, outcome, errors = len(self.outcome), self.outcome, self._errors
        status = [Status.SOLVED] * batch
        solver, message = [_CORE] * batch, [""] * batch
        for i in np.flatnonzero(outcome == Outcome.PRIMAL_INFEASIBLE).tolist():
            status[i], message[i] = Status.PRIMAL_INFEASIBLE, _PROVEN
        tried = [s if o in (Outcome.SOLVED, Outcome.PRIMAL_INFEASIBLE) else Status.FAILED
                 for s, o in zip(status, outcome.tolist(), strict=True)]  # fmt: skip
        worst = errors.max(axis=1, initial=0.0)
        rounds: list[tuple[str, np.ndarray, Sequence[Status], np.ndarray]] = [
            (_CORE, np.arange(batch), tried, np.where(outcome == Outcome.SOLVED, worst, np.inf))
        ]
        residuals = Residuals(
            primal=errors[:, 0].copy(),
            dual=errors[:, 1].copy(),
            gap=errors[:, 2].copy(),
            cone=np.zeros(batch),  # y and s are the parts of one v: they lie in the cones, and y ⊥ s
            row=self._places[:, 0].astype(np.int64),
            column=self._places[:, 1].astype(np.int64),
        )
        if self._engineered is not None:
            members, part = self._engineered
            for k, i in enumerate(members.tolist()):
                status[i], solver[i], message[i] = part.status[k], part.solver[k], part.message[k]
            for name in ("primal", "dual", "gap", "cone", "row", "column"):
                getattr(residuals, name)[members] = getattr(part.residuals, name)
            rounds += [(name, members[index], s, e) for name, index, s, e in part.attempts.rounds]
        lost = ~usable_mask(status)
        residuals = residuals.blank(lost) if lost.any() else residuals
        return Solution(*self.points, tuple(status), residuals, tuple(solver), tuple(message), Attempts(tuple(rounds)))

    @cached_property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return np.ones(len(self.outcome), dtype=bool) if self.all_exact else usable_mask(self.solution.status)
