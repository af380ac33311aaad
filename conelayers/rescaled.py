"""Solves in units of the solution itself: where x is of size 1e6, digits are lost in units in which the data are of size 1.

A rough point tells how large the variables, slacks and multipliers are; with d = |x|, e² = ‖y‖/‖s‖ block by block, β and γ such that
all are about 1, the program is solved again, and so on until its point stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.cones import Cones
from conelayers.errors import Status
from conelayers.farkas import block_maxima
from conelayers.limits import out_of_time
from conelayers.newton import polish
from conelayers.parallel import run_parallel
from conelayers.program import ConeProgram, at, largest
from conelayers.routes import Route, Start, start_of
from conelayers.scaling import Scaling
from conelayers.solvers import Instance, RawSolution, Settings, Solver

__all__ = ["Rescaled"]

_ROUNDS = 5
_LARGE = 1e3  # size of a point from which it is worth it
_SPREAD = 1e-8  # what is smaller than so much of the largest is scaled like that much of it
_ARRIVED = 1e-12  # the scaled ‖F‖ of residual.py at which there is nothing left to gain


@final
@dataclass(frozen=True)
class Rescaled(Route):
    """``solver``'s solves of each instance, each in the units of the point that the one before ended with."""

    solver: Solver
    settings: Settings
    trusted: bool = False
    plain_steps: int = 3
    proximal_steps: int = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """The solver's name."""
        return self.solver.name

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        raws = run_parallel(lambda i: self._solve(program.take([i])), range(program.batch), jobs)
        return start_of(program, raws, self.trusted, jobs)

    def _solve(self, program: ConeProgram) -> RawSolution:
        structure, scaling = program.structure, Scaling.identity(program)
        nothing = np.full(structure.m, np.nan)
        best = RawSolution(np.full(structure.n, np.nan), nothing, nothing, Status.FAILED, "no point to take units from")
        least = np.inf
        for k in range(_ROUNDS):
            scaled = scaling.program(program)
            P, A = structure.P.matrix(at(scaled.P, 0)), structure.A.matrix(at(scaled.A, 0))
            raw = self.solver.solve(Instance(P, scaled.q[0], A, scaled.b[0], structure.cones), self.settings)
            if out_of_time() or not np.isfinite(np.concatenate([raw.x, raw.y, raw.s])).all():
                break
            v = (raw.y - raw.s)[None]
            near = polish(
                scaled, raw.x[None], v, tolerance=1e-14, enough=1e-10, plain_steps=10, proximal_steps=25, jobs=1
            )
            y, s, _ = structure.cones.decompose(near.v)
            x, y, s = scaling.unscale(near.x, y, s)
            if k == 0 and not max(largest(x)[0], largest(y)[0], largest(s)[0]) >= _LARGE:
                break
            if k > 0 and near.error[0] < least:
                least = float(near.error[0])
                best = RawSolution(x[0], y[0], s[0], Status.INACCURATE, raw.message)
            units = _units(structure.cones, x, y, s)
            if least <= _ARRIVED or _same(units, scaling):
                break
            scaling = units
        return best


def _units(cones: Cones, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> Scaling:
    d = _power_of_two(_bounded(np.abs(x)))
    slacks, multipliers = (_bounded(block_maxima(cones, np.abs(h[0]))[None]) for h in (s, y))
    e = _power_of_two(np.sqrt(multipliers / slacks))
    beta = 1 / _power_of_two(np.maximum(largest(x / d), largest(e * s)))[:, None]
    gamma = 1 / _power_of_two(largest(y / e))[:, None]
    return Scaling(d, e, beta, gamma)


def _same(a: Scaling, b: Scaling) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("d", "e", "beta", "gamma"))


def _bounded(h: np.ndarray) -> np.ndarray:
    most = largest(h)[:, None]
    return np.maximum(h, np.where(most > 0, _SPREAD * most, 1.0))


def _power_of_two(h: np.ndarray) -> np.ndarray:
    return np.exp2(np.round(np.log2(np.where(h > 0, h, 1.0))))
