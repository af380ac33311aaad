"""The factors of the active-set method as a factorization of the reduced KKT matrix.

On the zero and nonnegative cones D is 0 or 1, N = 0, and K = [P, A_aᵀ; A_a, 0] (kkt/factorization.py) on the active
rows:

    u = R⁻ᵀp₁,    S_aa η = W_aᵀu − p₂,    dx = R⁻¹(u − W_a η).

K is regular for every instance with the code SOLVED: P is definite, and the active rows are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt import DenseFactorization, Factorization, combine
from conelayers.numerics.quadratic.solution import Factors
from conelayers.program.cone_program import ConeProgram

__all__ = ["ActiveSetFactorization"]


@final
@dataclass(frozen=True)
class ActiveSetFactorization(Factorization):
    """K of a batch of solved instances; ``element`` is D at their v, 1 on the active rows and 0 elsewhere."""

    program: ConeProgram
    element: ProductElement
    factors: Factors
    jobs: int = 1

    @property
    def singular(self) -> np.ndarray:
        return np.zeros(self.program.batch, dtype=bool)

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.factors.solve(p1, p2, self.jobs)

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return np.zeros((0, self.program.structure.n)), np.zeros((0, self.program.structure.m))

    def take(self, index: np.ndarray | list[int]) -> ActiveSetFactorization:
        return ActiveSetFactorization(
            self.program.take(index), self.element.take(index), self.factors.take(index), self.jobs
        )

    def use_pseudo_inverse(self, instances: np.ndarray) -> Factorization:
        instances = np.unique(instances)
        if not instances.size:
            return self
        program, element = self.program.take(instances), self.element.take(instances)
        replaced = DenseFactorization.of(program, element).use_pseudo_inverse(np.arange(instances.size))
        return combine([(instances, replaced)], self.program.batch, self.take)
