"""A previous solution from which the next call may start."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.program.solution import Solution
from conelayers.support.errors import usable_mask

__all__ = ["WarmStart"]


@final
class WarmStart(NamedTuple):
    """A previous solution in the user's units: x (B, n), y (B, m), s (B, m), and which instances have one."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    usable: np.ndarray

    @classmethod
    def nowhere(cls, n: int, m: int, batch: int) -> WarmStart:
        """The start of a first call: no instance has a previous solution."""
        return cls(np.zeros((batch, n)), np.zeros((batch, m)), np.zeros((batch, m)), np.zeros(batch, dtype=bool))

    @classmethod
    def of(cls, solution: Solution, batch: int) -> WarmStart:
        """The start of a call with ``batch`` instances: instance i starts at solution i, the solutions repeated
        cyclically.
        """
        index = np.arange(batch) % solution.x.shape[0]
        usable = usable_mask(solution.status)
        return cls(solution.x[index], solution.y[index], solution.s[index], usable[index])
