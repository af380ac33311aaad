"""The solve by a backend of the program as the user gave it: equilibration helps most programs and hurts a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.numerics.presolve import Presolved
from conelayers.numerics.scaling import Scaling
from conelayers.program.cone_program import ConeProgram
from conelayers.solve.backends import RawSolution
from conelayers.solve.starting_methods import Backend, Start, StartingMethod, start_of

__all__ = ["WithoutEquilibration"]


@final
@dataclass(frozen=True, eq=False)
class WithoutEquilibration(StartingMethod):
    """The solve by ``inner`` of ``program``, the whole batch in the user's units; its points are translated to the
    presolved program.
    """

    inner: Backend
    program: ConeProgram
    scaling: Scaling
    presolved: Presolved
    trusted: bool = False
    proximal_steps: int = 25

    @property
    def name(self) -> str:  # type: ignore[override]
        """The backend's name."""
        return self.inner.name

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        scaled = []
        for k, raw in zip(index.tolist(), self.inner.solutions(self.program.take(index), index, jobs), strict=True):
            x, y, s = self.scaling.take([k]).scale(raw.x[None], raw.y[None], raw.s[None])
            _, y = self.presolved.restrict(x, y)
            x, s = self.presolved.restrict(x, s)
            scaled.append(RawSolution(x[0], y[0], s[0], raw.status, raw.message))
        return start_of(program, scaled, self.trusted, jobs)
