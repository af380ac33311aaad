"""The result of solving a batch of quadratic programs: the points, a code for each, and the factors at these points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import final

import numpy as np

__all__ = ["ActiveSetSolution", "Code", "Factors"]


@final
class Code(IntEnum):
    """How the solve of an instance ended; the numbers are those of kernel.c."""

    SOLVED = 0
    NOT_DEFINITE = 1  # P has no Cholesky factor
    DEPENDENT = 2  # the equality rows are linearly dependent
    INFEASIBLE = 3
    STALLED = 4  # no active set with the right signs and a small residual was found, or the data are not finite


class Factors(ABC):
    """The factors of K = [P, A_aᵀ; A_a, 0] on each instance's active rows a, (B, m) bool."""

    active: np.ndarray

    @abstractmethod
    def solve(self, p1: np.ndarray, p2: np.ndarray, jobs: int) -> tuple[np.ndarray, np.ndarray]:
        """dx (B, n) and η (B, m), zero on the inactive rows, with K·[dx; η_a] = [p₁; (p₂)_a]."""

    @abstractmethod
    def take(self, index: np.ndarray | list[int]) -> Factors:
        """The factors of a part of the batch."""


@final
@dataclass(frozen=True)
class ActiveSetSolution:
    """x (B, n) and v = y − s (B, m), each instance's Code (B,), and the factors there.

    v > 0 exactly on the active inequality rows. If the code is not SOLVED, x and v are zero, no row is active, and the
    factors mean nothing. If it is INFEASIBLE, v is a direction y in which the dual objective rises without bound: y ≥ 0
    on the inequality rows, Aᵀy = 0 up to rounding of P⁻¹, and bᵀy < 0.
    """

    x: np.ndarray
    v: np.ndarray
    code: np.ndarray
    factors: Factors

    @property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return self.code == Code.SOLVED
