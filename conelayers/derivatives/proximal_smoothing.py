"""Proximal smoothing: the exact derivative of a problem to whose objective a small quadratic term is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from conelayers.derivatives.smoothing import Adjoint, Base, Smoothed, Smoothing, checked_number

__all__ = ["ProximalSmoothing"]


@final
@dataclass(frozen=True)
class ProximalSmoothing(Smoothing):
    """The exact derivative of another problem: ½·temperature·‖x‖² is added to the objective.

    temperature: > 0, in units of objective over x². ‖x‖² runs over the user's variables (Frobenius for matrices); in a
    geometric program over their logarithms.

    The solution of that problem is the proximal point of the objective at 0. It is unique and moves continuously with
    the data, along the faces of a polytope where the original solution jumps between vertices. Its derivative is zero
    where it is a vertex too: the temperature has to be large enough for it not to be one. It costs one solve and one
    factorization. The engine has its forward mode; in the adapters it is reverse only.
    """

    forward_mode: ClassVar[bool] = True

    temperature: float

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "temperature", checked_number("ProximalSmoothing: temperature", self.temperature, positive=True)
        )

    @property
    def advice(self) -> str:
        return f"the solution that {self!r} smooths is still a vertex. Make the temperature larger"

    def adjoint(self, base: Base, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, *, nan: bool = False) -> Adjoint:
        # The original problem is bounded below, so the strongly convex one has a solution.
        x, y, linearization = self.linearized(base)
        return Adjoint(x, y, *linearization.adjoint(gx, gy, gs))

    def linearized(self, base: Base) -> Smoothed:
        def make() -> Smoothed:
            program = base.program.add_to_diagonal(self.temperature * base.squares())
            solution, linearization = base.solve(program, repr(self))
            return Smoothed(solution.x, solution.y, linearization)

        return base.once(self, make)
