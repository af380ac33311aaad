"""Reports about linear systems whose matrix is singular."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np

from conelayers.support.limits import OUT_OF_TIME

__all__ = ["Tell", "Trouble", "ignored"]


@final
class Trouble(NamedTuple):
    """What is wrong with the linear systems of a batch.

    - error: the relative residuals, (B,).
    - singular: which instances have a singular K, (B,) bool.
    - ambiguous: the instances whose answer depends on the choice among several solutions.
    - inconsistent: the instances whose system has no solution.
    - consequence: what the ambiguity means, in words.
    - unfinished: the instances that have no answer because max_seconds was reached.
    """

    error: np.ndarray
    singular: np.ndarray
    ambiguous: list[int]
    inconsistent: list[int]
    consequence: str
    unfinished: list[int] = []  # noqa: RUF012

    @property
    def instances(self) -> list[int]:
        """The instances with any of these troubles."""
        return sorted({*self.ambiguous, *self.inconsistent, *self.unfinished})

    @property
    def message(self) -> str:
        """What is wrong and at which instances, for the user."""
        reasons = []
        if self.inconsistent:
            reasons.append(
                f"at batch index {self.inconsistent[:10]} its system has no solution for this direction "
                f"(relative residual up to {float(np.max(self.error[self.inconsistent])):.1e})"
            )
        if self.ambiguous:
            reasons.append(f"at batch index {self.ambiguous[:10]} {self.consequence}")
        outcome = "The minimum-norm least-squares solution is returned."
        if self.unfinished:
            reasons.append(
                f"at batch index {self.unfinished[:10]} {OUT_OF_TIME} before a least-squares solution was found"
            )
            others = f" {outcome[:-1]} for the others." if self.ambiguous or self.inconsistent else ""
            outcome = (
                f"The derivative is NaN there.{others} Raise max_seconds (in solver_args), or make the problem regular."
            )
        return (
            "The Jacobian of the optimality conditions is singular, and no exact derivative exists: "
            + "; ".join(reasons)
            + f". {outcome} Usual causes: a solution that is not unique (add a small "
            "quadratic term), redundant constraints (remove them), or more active constraints than the solution needs."
        )


Tell = Callable[[Trouble], None]  # what is called with a trouble when it is found


def ignored(trouble: Trouble) -> None:
    """Ignore the trouble."""
