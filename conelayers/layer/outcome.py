"""What a call does about instances without a solution, and what it reports of all of them.

If an instance is infeasible, unbounded or not solved, the others keep their values and gradients. Under
``OnFailure.NAN`` its own value and tangent are NaN, and its gradient is NaN, or zero if its cotangent is zero: a loss
that masks the instance out stays finite, also in the gradients of values that the whole batch shares.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from typing import final

import numpy as np

from conelayers.derivatives.linearization import Linearization, NullTest, SolutionMap, always
from conelayers.numerics.residual import ACCURACY
from conelayers.numerics.trouble import Tell, Trouble
from conelayers.program.cone_program import Structure
from conelayers.program.names import Naming
from conelayers.program.solution import Attempt, Attempts, Residuals, Solution
from conelayers.support.display import MOST_ROWS, figure, html_table
from conelayers.support.errors import (
    FailedInstancesWarning,
    InaccurateSolutionWarning,
    SolveError,
    Status,
    as_member,
    failures_by_status,
    usable_mask,
)

__all__ = ["CallInfo", "OnFailure", "PartialLinearization", "as_on_failure", "poisoned", "react", "scattered"]


@final
class OnFailure(Enum):
    """What a call does about instances without a solution.

    - RAISE: it raises a SolveError that names the instances.
    - NAN: it returns NaN for them, without a warning.
    - WARN: it returns NaN for them, with a FailedInstancesWarning.
    """

    RAISE = "raise"
    NAN = "nan"
    WARN = "warn"


def as_on_failure(value: OnFailure | str) -> OnFailure:
    """An OnFailure from itself or its string. Raises ValueError naming the strings."""
    return as_member(OnFailure, "on_failure", value)


@final
@dataclass(frozen=True, repr=False)
class CallInfo:
    """How each instance of a call ended: ``layer.last``.

    Every field has one entry for each instance, one in an unbatched call.

    status: a Status, whose ``advice`` says what to do.
    residuals: the relative errors in the optimality conditions, recomputed from the data, NaN without a solution.
    solver: the solver whose point was taken.
    message: what that solver said.
    """

    status: tuple[Status, ...]
    residuals: Residuals
    solver: tuple[str, ...]
    message: tuple[str, ...]
    _attempts: Attempts

    @classmethod
    def of(cls, solution: Solution) -> CallInfo:
        """The information on the solutions of a batch."""
        return cls(solution.status, solution.residuals, solution.solver, solution.message, solution.attempts)

    @cached_property
    def attempts(self) -> tuple[tuple[Attempt, ...], ...]:
        """The starting methods and backends that were tried at each instance, in order."""
        return self._attempts.by_instance(len(self.status))

    @cached_property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return usable_mask(self.status)

    @property
    def failed(self) -> tuple[int, ...]:
        """The positions of the instances without a solution."""
        return tuple(np.flatnonzero(~self.solved).tolist())

    def counts(self) -> str:
        """How many instances ended how."""
        found = Counter(self.status)
        return ", ".join(f"{found[s]} {s.value}" for s in Status if found[s])

    def __repr__(self) -> str:
        return f"CallInfo({self.counts()})"

    def _repr_html_(self) -> str:
        """A table in which the failed instances come first."""
        order = sorted(
            range(len(self.status)), key=lambda i: (bool(self.solved[i]), -np.nan_to_num(self.residuals.worst[i]))
        )
        shown = order[:MOST_ROWS]
        rows = [
            (
                str(i),
                self.status[i].value,
                figure(self.residuals.worst[i] if self.solved[i] else np.nan),
                self.solver[i],
                " → ".join(a.solver for a in self.attempts[i]),
            )
            for i in shown
        ]
        title = f"{len(self.status)} instances: {self.counts()}" + ("; the worst" if len(order) > len(shown) else "")
        return html_table(
            title,
            ("instance", "status", "residual", "solver", "tried"),
            rows,
            failures_by_status(self.status, self.failed, self.message),
        )

    def __str__(self) -> str:
        worst = np.max(self.residuals.worst[self.solved], initial=0.0)
        head = f"{int(self.solved.sum())} of {len(self.status)} instances solved, largest residual {worst:.1e}"
        lines = [head, *failures_by_status(self.status, self.failed, self.message)]
        fallen = sum(len(a) > 1 for a in self.attempts)
        if fallen:
            lines.append(f"{fallen} needed more than one attempt, see attempts.")
        return "\n".join(lines)


def react(solution: Solution, policy: OnFailure, naming: Naming) -> None:
    """Raise or warn where instances have no solution, and warn where solutions miss the accuracy.

    A call gives at most one FailedInstancesWarning and one InaccurateSolutionWarning.
    """
    lost = np.flatnonzero(~usable_mask(solution.status)).tolist()
    if lost and policy is not OnFailure.NAN:
        error = SolveError(solution.status, lost, solution.solver[lost[0]], solution.message)
        if policy is OnFailure.RAISE:
            raise error
        warnings.warn(f"{error} Their values are NaN.", FailedInstancesWarning, stacklevel=4)
    inaccurate = [i for i, s in enumerate(solution.status) if s is Status.INACCURATE]
    if inaccurate:
        residuals = solution.residuals
        worst = max(inaccurate, key=lambda i: residuals.worst[i])
        if residuals.worst[worst] <= ACCURACY:
            what = "as well as its data say, but rounding of these alone moves it by more than 1e-5 of its size"
        else:
            what = f"to a residual of {residuals.worst[worst]:.1e} only, that of {residuals.named(worst, naming.names)}"
        warnings.warn(
            f"{solution.solver[inaccurate[0]]} solved the instances at batch index {inaccurate[:10]} {what}. "
            f"{Status.INACCURATE.advice}",
            InaccurateSolutionWarning,
            stacklevel=4,
        )


def poisoned(cotangents: Sequence[np.ndarray]) -> np.ndarray:
    """The gradients of instances without a solution, (B,): NaN if a cotangent is not zero, else zero."""
    asked = np.zeros(len(cotangents[0]), dtype=bool)
    for g in cotangents:
        asked |= (g != 0).any(axis=1)
    return np.where(asked, np.nan, 0.0)


def scattered(values: np.ndarray, members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A batch's rows: ``values`` for its members, and for each of the rest one number, of ``others`` (B,)."""
    out = np.repeat(others[:, None], values.shape[1], axis=1)
    out[members] = values
    return out


@final
@dataclass(frozen=True)
class PartialLinearization:
    """The linearized solution map of a batch in which only the ``members`` have solutions: ``inner`` is theirs."""

    inner: Linearization
    members: np.ndarray
    batch: int
    on_trouble: Callable[[SolutionMap, Trouble], None] | None = None  # None: the reaction of ``inner``

    @classmethod
    def of(cls, whole: Linearization, solution: Solution) -> SolutionMap:
        """``whole`` if every instance has a solution; else the map of those that have one."""
        usable = usable_mask(solution.status)
        return whole if usable.all() else cls(whole.take(np.flatnonzero(usable)), np.flatnonzero(usable), usable.size)

    @property
    def structure(self) -> Structure:
        """The structure of the program."""
        return self.inner.structure

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """The solution map of a part of the batch, at ascending positions which all have a solution."""
        return self.inner.take(np.searchsorted(self.members, np.asarray(index)))

    def _matters(self, matters: NullTest) -> NullTest:
        return lambda i, null: matters(int(self.members[i]), null)

    def _told(self, tell: Tell | None) -> Tell:
        """``tell``, or else the reaction to trouble, called with positions in the whole batch."""
        positions = self.members.tolist()

        def tell_in_whole_batch(trouble: Trouble) -> None:
            error, singular = (np.zeros(self.batch, h.dtype) for h in (trouble.error, trouble.singular))
            error[self.members], singular[self.members] = trouble.error, trouble.singular
            ambiguous, inconsistent, unfinished = (
                [positions[i] for i in h] for h in (trouble.ambiguous, trouble.inconsistent, trouble.unfinished)
            )
            told = Trouble(error, singular, ambiguous, inconsistent, trouble.consequence, unfinished)
            (tell or partial(self.on_trouble or self.inner.on_trouble, self))(told)

        return tell_in_whole_batch

    def _scatter(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return scattered(values, self.members, others)

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m), NaN for instances without a solution."""
        kept = (r1[self.members], r2[self.members])
        nan = np.full(self.batch, np.nan)
        dx, dy, ds = self.inner.tangent(*kept, self._matters(matters), tell=self._told(tell))
        return self._scatter(dx, nan), self._scatter(dy, nan), self._scatter(ds, nan)

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m); NaN for instances without a solution, or zero if their cotangents are zero."""
        others = poisoned((gx, gy, gs))
        gx, gy, gs = (h[self.members] for h in (gx, gy, gs))
        lam, mu = self.inner.adjoint(gx, gy, gs, self._matters(matters), tell=self._told(tell))
        return self._scatter(lam, others), self._scatter(mu, others)
