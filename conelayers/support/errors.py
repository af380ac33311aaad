"""Statuses, errors and warnings: the texts that a user reads when something went wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from cvxpy.error import SolverError

__all__ = [
    "CanonicalizationError",
    "ConelayersWarning",
    "ExecutorError",
    "FailedInstancesWarning",
    "InaccurateSolutionWarning",
    "SingularDerivativeError",
    "SingularDerivativeWarning",
    "SolveError",
    "Status",
    "ZeroDerivativeWarning",
    "as_member",
    "failures_by_status",
    "usable_mask",
]

_Choice = TypeVar("_Choice", bound=Enum)


def as_member(kind: type[_Choice], name: str, value: object) -> _Choice:
    """A member of an enumeration, given as itself or as its string.

    Raises ValueError naming the argument and the strings.
    """
    try:
        return kind(value)
    except ValueError:
        members = ", ".join(repr(member.value) for member in kind)
        raise ValueError(f"{name}: got {value!r}, expected one of {members}") from None


class Status(Enum):
    """How the solve of one instance ended; ``advice`` says what to do about it."""

    SOLVED = "solved"
    INACCURATE = "inaccurate"
    PRIMAL_INFEASIBLE = "primal infeasible"
    DUAL_INFEASIBLE = "dual infeasible"
    ITERATION_LIMIT = "iteration limit"
    TIME_LIMIT = "time limit"
    FAILED = "failed"

    @property
    def advice(self) -> str:
        """One sentence: what the status means and what the user can do."""
        return _ADVICE[self]

    @property
    def usable(self) -> bool:
        """Whether there is a solution to return (SOLVED or INACCURATE)."""
        return self in (Status.SOLVED, Status.INACCURATE)

    @property
    def infeasible(self) -> bool:
        """Whether the program has no solution (PRIMAL_INFEASIBLE or DUAL_INFEASIBLE)."""
        return self in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)


_USABLE = frozenset({Status.SOLVED, Status.INACCURATE})


def usable_mask(statuses: Sequence[Status]) -> np.ndarray:
    """Which of the statuses are usable, (B,) bool."""
    return np.fromiter((s in _USABLE for s in statuses), dtype=bool, count=len(statuses))


_ADVICE = {
    Status.SOLVED: "The optimality conditions hold to the requested accuracy.",
    Status.INACCURATE: (
        "The optimality conditions hold only approximately: rescale the data, raise max_iters, "
        "or try another solver before trusting the gradient."
    ),
    Status.PRIMAL_INFEASIBLE: (
        "No point satisfies the constraints for these parameter values: check the data, "
        "or add slack variables with a penalty."
    ),
    Status.DUAL_INFEASIBLE: (
        "The objective is unbounded below (above, for a maximization) for these parameter values: "
        "add bounds on the variables or a small quadratic term."
    ),
    Status.ITERATION_LIMIT: (
        "The solver stopped at its iteration limit: raise max_iters, loosen eps, or try another solver."
    ),
    Status.TIME_LIMIT: (
        "Time ran out: raise max_seconds (or the solver's own limit), loosen eps, split the batch, "
        "or try another solver."
    ),
    Status.FAILED: "The solver broke down numerically: rescale the data or try another solver.",
}


class ConelayersWarning(UserWarning):
    """Base class of the warnings of this package."""


class InaccurateSolutionWarning(ConelayersWarning):
    """A solution was returned whose residuals miss the requested accuracy."""


class FailedInstancesWarning(ConelayersWarning):
    """Instances of a batch have no solution: their values are NaN."""


class SingularDerivativeWarning(ConelayersWarning):
    """The derivative's linear system is singular: a minimum-norm least-squares solution was returned."""


class ZeroDerivativeWarning(ConelayersWarning):
    """A gradient is zero in every parameter, as at the vertex of a linear program: nothing is learned from it."""


class SingularDerivativeError(ArithmeticError):
    """The derivative's linear system is singular, and the layer's policy is to raise then.

    ``certificate`` says why, in full. It is computed when it is first read or pickled, and is None if it cannot be.
    """

    def __init__(self, message: str, certificate: object = None) -> None:
        super().__init__(message)
        self._certificate = certificate  # or a function that computes it

    @property
    def certificate(self) -> Any:
        """The Certificate of the instance that the message is about."""
        if callable(self._certificate):
            self._certificate = self._certificate()
        return self._certificate

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.args[0], self.certificate))


class CanonicalizationError(ValueError):
    """The problem cannot be turned into a parametric cone program; the message names the expression and the fix."""


class ExecutorError(RuntimeError):
    """A layer's executor takes no work, or lost some: a process that died, a pool that was shut down."""


def failures_by_status(statuses: Sequence[Status], indices: Sequence[int], messages: Sequence[str]) -> list[str]:
    """A line for each status: at which of the ``indices`` it occurred, what it means, and the solver's own message."""
    by_status: dict[Status, list[int]] = {}
    for i in indices:
        by_status.setdefault(statuses[i], []).append(i)
    lines = []
    for status, members in by_status.items():
        shown = ", ".join(map(str, members[:10])) + (", …" if len(members) > 10 else "")
        said = messages[members[0]] if messages and status is Status.FAILED else ""
        lines.append(
            f"{status.value} at batch index {shown}. {status.advice}" + (f" The solver said: {said}." if said else "")
        )
    return lines


_CLASSES: dict[int, type[SolveError]] = {}  # the subclasses made so far, by the identity of the other base class


def _also_a(theirs: type[Exception]) -> type[SolveError]:
    """The subclass of both SolveError and ``theirs``."""
    if id(theirs) not in _CLASSES:
        own = {name: getattr(SolveError, name) for name in ("__module__", "__qualname__", "__doc__")}
        _CLASSES[id(theirs)] = type(SolveError.__name__, (SolveError, theirs), own)
    return _CLASSES[id(theirs)]


class SolveError(RuntimeError, SolverError):
    """Instances of a batch have no solution to return.

    ``statuses`` holds the Status of every instance of the batch, ``indices`` the positions of those that failed,
    ``messages`` the solver's own message for every instance.

    It is a cvxpy.error.SolverError, and if diffcp has been imported a diffcp.SolverError too, so that ``except``
    clauses that were written for cvxpylayers catch it.
    """

    def __new__(cls, *args: object, **named: object) -> SolveError:
        """An instance of the subclass of diffcp's SolverError, if diffcp has been imported by now."""
        theirs = getattr(sys.modules.get("diffcp"), "SolverError", None)
        if cls is SolveError and isinstance(theirs, type) and issubclass(theirs, Exception):
            cls = _also_a(theirs)
        return super().__new__(cls, *args, **named)

    def __init__(
        self, statuses: Sequence[Status], indices: Sequence[int], solver: str, messages: Sequence[str] = ()
    ) -> None:
        self.statuses = tuple(statuses)
        self.indices = tuple(int(i) for i in indices)
        self.solver = solver
        self.messages = tuple(messages)
        lines = failures_by_status(self.statuses, self.indices, self.messages)
        super().__init__(
            f"{len(self.indices)} of {len(self.statuses)} instances were not solved by {solver}: " + " ".join(lines)
        )

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        # The default would call SolveError(message). Errors are sent to other processes, in which diffcp may not be
        # imported.
        return (SolveError, (self.statuses, self.indices, self.solver, self.messages))
