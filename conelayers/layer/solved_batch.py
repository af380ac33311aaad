"""A batch that was solved: its solutions, its linearized solution map, and the derivatives that cost least there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import numpy as np

from conelayers.derivatives.linearization import SolutionMap
from conelayers.derivatives.smoothing import Base
from conelayers.problem.parameters import unflatten
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.solution import Solution
from conelayers.support.errors import Status, usable_mask

__all__ = ["Answers", "Derivatives", "EngineBatch", "SolvedBatch"]


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
    def needs_values(self) -> bool:
        """Whether derivatives read the values of the call again."""

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
    def needs_values(self) -> bool:
        """No: they are in the linearization."""
        return False

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
