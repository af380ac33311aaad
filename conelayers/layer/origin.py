"""Where a layer's cone program comes from, which decides whether it can be made once more with a linear objective.

A call may name a backend that takes no quadratic objective, after the layer was made for one that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import cvxpy as cp

from conelayers.problem.canonicalize import canonicalize
from conelayers.problem.parametric import ParametricProgram

__all__ = ["ConicForm", "CvxpyProblem", "Origin"]


class Origin(Protocol):
    """Where a program comes from."""

    def linear(self, solver: str) -> ParametricProgram:
        """The program with a linear objective, for this backend. Raises ValueError where it cannot be made."""


@final
@dataclass(frozen=True)
class CvxpyProblem:
    """A cvxpy problem, and how it is canonicalized. Pickled, it becomes a TravelledProblem."""

    problem: cp.Problem
    parameters: Sequence[cp.Parameter]
    variables: Sequence[cp.Variable]
    gp: bool
    canon_backend: str | None
    lifting: bool
    simplify: bool

    def compiled(self, *, quadratic: bool, verbose: bool = False) -> ParametricProgram:
        """The program, with a quadratic objective where the problem has one and ``quadratic`` allows it."""
        return canonicalize(
            self.problem,
            self.parameters,
            self.variables,
            quadratic=quadratic,
            verbose=verbose,
            gp=self.gp,
            canon_backend=self.canon_backend,
            lifting=self.lifting,
            simplify=self.simplify,
        )

    def linear(self, solver: str) -> ParametricProgram:
        """The program with a linear objective: the problem is canonicalized once more."""
        return self.compiled(quadratic=False)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        # cvxpy's objects carry ids that are unique in their own process only: the problem is not sent to another one.
        return TravelledProblem, ()


@final
@dataclass(frozen=True)
class TravelledProblem:
    """What a pickled layer has instead of the cvxpy problem, which stayed in the process that made the layer."""

    def linear(self, solver: str) -> ParametricProgram:
        """Raises ValueError."""
        raise ValueError(
            f"solver_args: got solve_method {solver}, expected CLARABEL or SCS: {solver} needs the problem compiled "
            "with a linear objective, which a layer that was pickled cannot do; construct the layer with "
            f"solver={solver!r}"
        )


@final
@dataclass(frozen=True)
class ConicForm:
    """Data that the user gave in conic form."""

    def linear(self, solver: str) -> ParametricProgram:
        """Raises ValueError."""
        raise ValueError(
            f"solver: got {solver}, expected one for this P: {solver} takes no quadratic objective; use Clarabel or "
            "SCS, or write the objective as a second-order cone"
        )
