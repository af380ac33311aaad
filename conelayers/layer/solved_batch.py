"""A batch that was solved: its solutions, its linearized solution map, and the derivatives that cost least there.

The engine in Python gives solutions with their linearization. The compiled core gives points and derivatives of the
outputs; the rest is made of its points when somebody asks for it, and the instances that the core does not settle are
the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, final

import numpy as np

from conelayers.core import Outcome, Solutions
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.smoothing import Base
from conelayers.layer.compiled_core import CompiledCore
from conelayers.layer.joined_linearization import JoinedLinearization
from conelayers.layer.outcome import PartialLinearization
from conelayers.layer.programs import CallSettings
from conelayers.layer.solve_and_linearize import linearize_solutions, smoothing_base
from conelayers.problem.parameters import Batch, unflatten
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.solution import Attempts, Residuals, Solution
from conelayers.support.errors import Status, usable_mask

__all__ = ["Answers", "CoreBatch", "EngineBatch", "Engineered", "SolvedBatch"]

CORE = "CORE"  # the solver's name in layer.last
_PROVEN = "the core found a certificate"


class Answers(Protocol):
    """The solutions of a batch."""

    @property
    def solution(self) -> Solution:
        """Points, statuses and residuals."""


class SolvedBatch(Answers, Protocol):
    """A batch that was solved; x, y and s are (B, ·), NaN in instances without a solution."""

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (B, n), y (B, m), s (B, m)."""

    @property
    def answers(self) -> Answers:
        """The solutions, without what derivatives need."""

    @property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""

    @property
    def all_exact(self) -> bool:
        """Whether every instance is SOLVED."""

    @property
    def linearization(self) -> SolutionMap:
        """The solution map, linearized at the solutions."""

    @property
    def value(self) -> np.ndarray:
        """The optimal values, (B,)."""

    @property
    def base(self) -> Base | None:
        """What a smoothed derivative needs; None for an exact one."""

    def variables(self) -> list[np.ndarray]:
        """The program's outputs, (B, *shape)."""

    def gradients(self, cotangents: Sequence[np.ndarray | None], wanted: tuple[bool, ...]) -> Derivatives | None:
        """The gradients (B, *shape) of the ``wanted`` parameters for cotangents of the outputs; None: not this way."""

    def tangents(self, dtheta: Sequence[np.ndarray | None]) -> Derivatives | None:
        """The tangents (B, *shape) of the outputs along dθ, (*shape) or (B, *shape); None: not this way."""

    def linearization_of(self, members: np.ndarray) -> SolutionMap:
        """The solution map of the batch, linearized at these instances only."""


@final
class Derivatives(NamedTuple):
    """Arrays (B, *shape), and the positions of the instances for which they do not hold."""

    parts: list[np.ndarray | None]
    left: np.ndarray


@final
@dataclass(frozen=True)
class EngineBatch:
    """A batch that the engine solved."""

    compiled: ParametricProgram
    solution: Solution
    linearization: SolutionMap
    value: np.ndarray
    base: Base | None

    @final
    @dataclass(frozen=True)
    class _Answers:
        solution: Solution

    @property
    def answers(self) -> Answers:
        """The solutions alone."""
        return self._Answers(self.solution)

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (B, n), y (B, m), s (B, m)."""
        return self.solution.x, self.solution.y, self.solution.s

    @property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return usable_mask(self.solution.status)

    @property
    def all_exact(self) -> bool:
        """Whether every instance is SOLVED."""
        return all(status is Status.SOLVED for status in self.solution.status)

    def variables(self) -> list[np.ndarray]:
        """The program's outputs, (B, *shape)."""
        x, y, _ = self.points
        return [unflatten(o.value(x, y), o.shape) for o in self.compiled.outputs]

    def gradients(self, cotangents: Sequence[np.ndarray | None], wanted: tuple[bool, ...]) -> Derivatives | None:
        """None: the linearization has them."""
        return None

    def tangents(self, dtheta: Sequence[np.ndarray | None]) -> Derivatives | None:
        """None: the linearization has them."""
        return None

    def linearization_of(self, members: np.ndarray) -> SolutionMap:
        """The solution map, whose factors are there for all instances."""
        return self.linearization


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
        solver, message = [CORE] * batch, [""] * batch
        for i in np.flatnonzero(outcome == Outcome.PRIMAL_INFEASIBLE).tolist():
            status[i], message[i] = Status.PRIMAL_INFEASIBLE, _PROVEN
        tried = [s if o in (Outcome.SOLVED, Outcome.PRIMAL_INFEASIBLE) else Status.FAILED
                 for s, o in zip(status, outcome.tolist(), strict=True)]  # fmt: skip
        worst = errors.max(axis=1, initial=0.0)
        rounds: list[tuple[str, np.ndarray, Sequence[Status], np.ndarray]] = [
            (CORE, np.arange(batch), tried, np.where(outcome == Outcome.SOLVED, worst, np.inf))
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


@final
class CoreBatch:
    """A batch that the core solved, but for the instances that it left open."""

    def __init__(
        self,
        core: CompiledCore,
        batch: Batch,
        settings: CallSettings,
        policies: Policies,
        found: Solutions,
        engineered: Engineered | None,
        smoothed: bool,
    ) -> None:
        self._core, self._batch, self._settings, self._policies = core, batch, settings, policies
        self._engineered, self._smoothed, self._kept = engineered, smoothed, found.kept
        self.answers = CoreAnswers(found, settings.compiled, engineered)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # the core's workspaces stay here; derivatives factor once more

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (B, n), y (B, m), s (B, m)."""
        return self.answers.points

    @property
    def solution(self) -> Solution:
        """Points, statuses and residuals."""
        return self.answers.solution

    @property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return self.answers.solved

    @property
    def all_exact(self) -> bool:
        """Whether every instance is SOLVED."""
        return self.answers.all_exact

    def variables(self) -> list[np.ndarray]:
        """The program's outputs, (B, *shape)."""
        return self._core.variables(self.answers.outputs)

    @cached_property
    def value(self) -> np.ndarray:
        """The optimal values, (B,)."""
        theta, compiled = self._batch.theta, self._settings.compiled
        return compiled.value(theta, compiled.program(theta), self.points[0])

    @cached_property
    def base(self) -> Base | None:
        """What a smoothed derivative needs; None for an exact one."""
        if not self._smoothed:
            return None
        program = self._settings.compiled.program(self._batch.theta)
        return smoothing_base(program, self._settings, self.solution, self._policies)

    def _threads(self) -> int:
        return self._core.threads(self._batch.size, self._settings.arguments.jobs_backward)

    def gradients(self, cotangents: Sequence[np.ndarray | None], wanted: tuple[bool, ...]) -> Derivatives | None:
        """The gradients (B, *shape) of the ``wanted`` parameters for cotangents of the outputs."""
        if self._smoothed:
            return None
        batch = self._batch
        g = self._core.side_by_side(cotangents, batch.size)
        parts, flags = self._core.core.adjoint(
            batch.values, self.points, g, wanted=wanted, threads=self._threads(), kept=self._kept
        )
        return Derivatives(parts, self._left(flags, g))

    def tangents(self, dtheta: Sequence[np.ndarray | None]) -> Derivatives | None:
        """The tangents (B, *shape) of the outputs along dθ, (*shape) or (B, *shape)."""
        if self._smoothed:
            return None
        flat, flags = self._core.core.tangent(
            self._batch.values, self.points, dtheta, threads=self._threads(), kept=self._kept
        )
        return Derivatives(list(self._core.variables(flat)), self._left(flags, flat))

    def _left(self, flags: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The instances whose derivatives are not the core's; it drops what it need not read, and NaN with it."""
        left = flags != 0
        if not self.all_exact:
            left |= self.answers.outcome != Outcome.SOLVED
        if not np.isfinite(numbers).all():
            left |= ~np.isfinite(numbers).all(axis=1)
        return np.flatnonzero(left)

    @cached_property
    def linearization(self) -> SolutionMap:
        """The solution map, linearized at all solutions."""
        return self.linearization_of(np.arange(self._batch.size))

    def linearization_of(self, members: np.ndarray) -> SolutionMap:
        """The solution map of the batch, linearized at these instances only: the core's points, and the engine's map."""
        batch, on_trouble = self._batch.size, self._policies.on_trouble(self.solution)
        by_core = members[self.answers.outcome[members] == Outcome.SOLVED]
        if by_core.size == batch:
            return self._linearized(by_core)
        parts = []
        if by_core.size:
            parts.append(PartialLinearization(self._linearized(by_core), by_core, batch))
        if self._engineered is not None:
            places = np.flatnonzero(usable_mask(self._engineered.solution.status))
            at = self._engineered.members[places]
            chosen = np.isin(at, members)
            if chosen.any():
                inner = self._engineered.linearization.take(places[chosen])
                parts.append(PartialLinearization(inner, at[chosen], batch, on_trouble))
        return JoinedLinearization(self._settings.compiled.structure, tuple(parts), batch, self._linearized)

    def _linearized(self, members: np.ndarray) -> Linearization:
        """The solution map of a part of the batch, linearized at its points."""
        return linearize_solutions(
            self._settings,
            self._batch.theta[members],
            self.solution.take(members.tolist()),
            self._policies,
            self.solution,
        )
