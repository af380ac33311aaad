"""Stand-ins for the exact derivative where that is zero or undefined, as at the vertices of a linear program.

None of them is the derivative of the solution map. The docstring of each says of what it is the derivative, or the
difference. Each has a temperature; at temperature zero it is the exact derivative, where that exists.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, final

import numpy as np

from conelayers.derivatives.linearization import Linearization
from conelayers.derivatives.policies import Policies
from conelayers.program.cone_program import ConeProgram
from conelayers.program.names import Naming
from conelayers.program.solution import Solution
from conelayers.solve.backends import Settings, choose_solver
from conelayers.solve.batch import WarmStart, solve_batch
from conelayers.solve.order import StartingOrder
from conelayers.support.errors import SolveError

__all__ = ["Adjoint", "Base", "Resolver", "Smoothed", "Smoothing", "checked_number"]


@final
class Adjoint(NamedTuple):
    """What the gradient is made of: dq = −λ, db = −μ, dA = −y λᵀ + μ xᵀ and dP = −½(λxᵀ + xλᵀ).

    x, y: the point, (B, n) and (B, m). lam, mu: λ and μ, (B, n) and (B, m).
    """

    x: np.ndarray
    y: np.ndarray
    lam: np.ndarray
    mu: np.ndarray


@final
class Smoothed(NamedTuple):
    """A smoothed problem's solution x (B, n), y (B, m) and its solution map linearized there."""

    x: np.ndarray
    y: np.ndarray
    linearization: Linearization


@final
class Perturbed(NamedTuple):
    """A perturbed batch's solution, and its solution map linearized there."""

    solution: Solution
    linearization: Linearization


@final
@dataclass(frozen=True)
class Resolver:
    """Solves perturbed problems as the original ones were solved.

    If the solver of the original ones takes no quadratic objective, the default solver takes its place.
    """

    order: StartingOrder
    jobs_forward: int
    jobs_backward: int
    policies: Policies

    def __call__(self, program: ConeProgram, start: WarmStart) -> Perturbed:
        """The solutions, found from ``start``, and the solution map linearized there."""
        order = self.order
        if program.structure.P.nnz and not order.solver.quadratic:
            solver = choose_solver(None, program.structure.cones, True, frozenset())
            order = StartingOrder(solver, Settings(), False, fallback=order.fallback)
        solved = solve_batch(program, order, self.jobs_forward, start, self.jobs_backward)
        return Perturbed(*self.policies.apply(solved.solution, Linearization.of(solved)))


@final
@dataclass(frozen=True)
class Base:
    """The batch that was solved, the user's names of its variables, and how perturbed batches are solved."""

    program: ConeProgram
    solution: Solution
    naming: Naming
    resolve: Resolver
    _known: dict[Any, Smoothed] = field(default_factory=dict)

    def solve(self, program: ConeProgram, who: str, *, nan: bool = False) -> Perturbed:
        """Solve a perturbed batch, from this batch's solutions.

        program: the perturbed programs, one or more for each instance, instance by instance and then again.
        who: the smoothing that perturbs them, in the message of the error.
        nan: give NaN for instances that have no solution; otherwise SolveError names the instances.
        """
        solved = self.resolve(program, WarmStart.of(self.solution, program.batch))
        batch = self.program.batch
        worst = list(solved.solution.status[:batch])
        said = list(solved.solution.message[:batch])
        for i, status in enumerate(solved.solution.status):
            if not status.usable:
                worst[i % batch], said[i % batch] = status, solved.solution.message[i]
        lost = [i for i, s in enumerate(worst) if not s.usable]
        if lost and not nan:
            raise SolveError(worst, lost, f"the solver as {who} perturbs them", said)
        return solved

    def squares(self) -> np.ndarray:
        """The weights w (n,) with Σ ‖variable‖² = Σ wⱼxⱼ² over the user's variables."""
        weights = np.zeros(self.program.structure.n)
        for _, _, matrix in self.naming.names.variables:
            weights += np.asarray((matrix**2).sum(axis=0)).ravel()
        return weights

    def once(self, key: Any, make: Callable[[], Smoothed]) -> Smoothed:
        """What ``make`` gives, made once for each key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


class Smoothing(ABC):
    """A named replacement of the derivative; the solution itself is the exact one.

    ``forward_mode``: whether there is a smoothed problem that ``linearized`` gives.
    """

    forward_mode: ClassVar[bool]

    @abstractmethod
    def adjoint(self, base: Base, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, *, nan: bool = False) -> Adjoint:
        """The replacement of the adjoint for cotangents gx (B, n), gy (B, m), gs (B, m).

        Raises SolveError if a perturbed problem has no solution; with ``nan`` the result is NaN in such instances.
        """

    def without_rounding(self, adjoint: Adjoint, gs: np.ndarray) -> Adjoint:
        """The result of ``adjoint`` with exact zeros where it is a difference of two equal solutions."""
        return adjoint

    @property
    @abstractmethod
    def advice(self) -> str:
        """What the user can do if the gradient is zero in every parameter."""

    @abstractmethod
    def linearized(self, base: Base) -> Smoothed:
        """The smoothed problem for forward mode. Raises NotImplementedError where there is none."""


def checked_number(name: str, value: Any, *, positive: bool) -> float:
    """The number as a float. Raises ValueError, naming it, if it is not finite, or not positive or nonnegative."""
    allowed = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not allowed or value < 0 or (positive and value == 0):
        raise ValueError(f"{name}: got {value!r}, expected a {'positive' if positive else 'nonnegative'} number")
    return float(value)
