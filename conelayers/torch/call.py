"""One call of a layer, shared by the autograd Functions that solve and those that differentiate."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import numpy as np
import torch

from conelayers.derivatives.linearization import NullTest, SolutionMap, always
from conelayers.derivatives.smoothing import Smoothing
from conelayers.layer.layer import Layer
from conelayers.layer.solution import LayerSolution
from conelayers.layer.traced_program import TracedProgram
from conelayers.torch.conversion import from_array, to_array

__all__ = ["Call"]


@final
class Call:
    """One call of a layer: what is solved with which options, and its solution with the factors of its linear systems.

    layer, options: the layer, and the options of the call.
    traced: makes the program that is solved in torch's operations.
    points: whether the outputs are x, y and s, not the user's variables.
    """

    def __init__(
        self, layer: Layer, traced: Callable[[], TracedProgram], options: dict[str, Any], *, points: bool = False
    ) -> None:
        self.layer, self.options, self.points, self._make = layer, options, points, traced
        self.solution: LayerSolution | None = None
        self._theta: np.ndarray | None = None  # of the solution; None if ``with_solution`` was given the solution
        self._remade: tuple[np.ndarray, np.ndarray, SolutionMap] | None = None

    @cached_property
    def traced(self) -> TracedProgram:
        """The program in torch's operations, made when a transformation first needs it; the plain way does not."""
        return self._make()

    @property
    def smoothing(self) -> Smoothing | None:
        """What stands in for the exact derivative; None for the exact one."""
        return self.layer.smoothing_for(self.options.get("solver_args"))

    def solve(self, theta: np.ndarray) -> LayerSolution:
        """The solution at θ (B, p)."""
        if self.solution is None or not (self._theta is None or np.array_equal(self._theta, theta)):
            self.solution = self.layer.solve_flat(theta, **self.options)
        self._theta = theta
        return self.solution

    def solve_at(self, phi: torch.Tensor) -> LayerSolution:
        """The solution at φ (B, ·), which begins with θ."""
        return self.solve(to_array(phi)[:, : self.traced.size])

    def points_at(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (B, n), y (B, m) and s (B, m) at φ (B, ·)."""
        x, y, s = self.solve_at(phi).points
        return from_array(x.copy()), from_array(y.copy()), from_array(s.copy())

    def with_solution(self, solution: LayerSolution) -> Call:
        """The same call with its solution, which is not solved for again."""
        call = Call(self.layer, self._make, self.options, points=self.points)
        call.solution = solution
        return call

    def null_tests(self) -> tuple[NullTest, NullTest]:
        """Which null vectors change the gradients, and which the outputs.

        For callers that use all of x, y and s, every null vector does.
        """
        if self.solution is None or self.points:
            return always, always
        derivative = self.solution.program_derivative
        return derivative.gradients_move(), derivative.outputs_move()

    def linearization(self, theta: np.ndarray, v: np.ndarray) -> SolutionMap:
        """The solution map at θ (B, p) and v (B, m).

        It is that of the call's own solution if that is there; elsewhere it is linearized once more, and kept.
        """
        if self.solution is not None and self._theta is not None and np.array_equal(self._theta, theta):
            _, y, s = self.solution.points
            if np.array_equal(y - s, v, equal_nan=True):
                return self.solution.linearization
        if self._remade is None or not (
            np.array_equal(self._remade[0], theta) and np.array_equal(self._remade[1], v, equal_nan=True)
        ):
            self._remade = theta, v, self.layer.linearize(self.traced.compiled, theta, v)
        return self._remade[2]
