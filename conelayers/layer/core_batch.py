"""A batch that the compiled core solved: points and derivatives of the outputs are the core's.

The rest is made of its points when somebody asks for it, and the instances that the core does not settle are the
engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import numpy as np

from conelayers.core import Outcome, Solutions
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.smoothing import Base
from conelayers.layer.compiled_core import CompiledCore
from conelayers.layer.core_answers import CoreAnswers, Engineered
from conelayers.layer.core_linearization import CoreLinearization
from conelayers.layer.joined_linearization import JoinedLinearization
from conelayers.layer.outcome import PartialLinearization
from conelayers.layer.programs import CallSettings
from conelayers.layer.solve_and_linearize import linearize_solutions, smoothing_base
from conelayers.layer.solved_batch import Derivatives
from conelayers.problem.parameters import Batch
from conelayers.program.solution import Solution
from conelayers.support.errors import usable_mask

__all__ = ["CoreBatch"]


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
        # What was linearized last, by its instances: the rows of a Jacobian ask for the same ones again and again.
        self._last: tuple[bytes, SolutionMap] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The core's workspaces stay here; derivatives factor once more.
        return {k: v for k, v in self.__dict__.items() if k != "linearization"} | {"_kept": None, "_last": None}

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
    def needs_values(self) -> bool:
        """Yes: systems that the core flags are set up from them."""
        return True

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
        by_core = self.answers.outcome == Outcome.SOLVED
        return CoreLinearization(
            self._settings.compiled.structure,
            self._core,
            self._batch,
            self.points,
            by_core,
            self._kept,
            self._threads(),
            self.linearization_of,
        )

    def linearization_of(self, members: np.ndarray) -> SolutionMap:
        """The batch's solution map, linearized at these instances only: the core's points, and the engine's map."""
        last, key = self._last, members.tobytes()
        if last is None or last[0] != key:
            last = self._last = key, self._linearize(members)
        return last[1]

    def _linearize(self, members: np.ndarray) -> SolutionMap:
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
