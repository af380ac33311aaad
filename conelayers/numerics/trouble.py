"""What is wrong with a linear system whose matrix is singular, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np

from conelayers.support.limits import OUT_OF_TIME

__all__ = ["Tell", "Trouble", "ignored"]


@final
class Trouble(NamedTuple):
    """What is wrong with a linear system: its relative residual (B,), where K is singular (B,), the instances in which that
    reaches what was asked for, those for which the system has no solution, what it means, and the instances that max_seconds
    left without an answer.
    """

    error: np.ndarray
    singular: np.ndarray
    ambiguous: list[int]
    inconsistent: list[int]
    consequence: str
    unfinished: list[int] = []  # noqa: RUF012

    @property
    def instances(self) -> list[int]:
        """Those concerned."""
        return sorted({*self.ambiguous, *self.inconsistent, *self.unfinished})

    @property
    def message(self) -> str:
        """What happened, at which instances."""
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


Tell = Callable[[Trouble], None]


def ignored(trouble: Trouble) -> None:
    """For whoever does not want to hear of it."""
