"""Polyhedral programs whose constraints nearly coincide: the correction is solved for, in units of the error.

A point whose error ε is larger than the difference of two slacks does not show which of the two rows is active, such as
w ≥ 0 and w ≥ 1e−9 at a point with the error 1e−6. Newton's steps then jump from one set of rows to another, and J is
singular at most of them. In terms of z and s' with x = x̂ + εz, s = εs', x̂ the point, the same program is

    minimize ½ε zᵀPz + (Px̂ + q)ᵀz   subject to   Az + s' = (b − Ax̂)/ε,  s' ∈ K,

with the same multipliers. If an interior-point method solves it to 1e−9, slacks that differ by 1e−9 ε are told apart,
and the next solve, from there, tells apart those that differ by 1e−18 ε (Gleixner, Steffy, Wolter, "Iterative
refinement for linear programming", 2016, zoom in on both x and y). Only slacks of orthants may be shifted in this way.
Rows with a slack far above the error are left out; the residuals of the whole program tell whether they hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.kkt import Part
from conelayers.numerics.newton import polish
from conelayers.numerics.residual import ACCURACY, POLISHED, Point, evaluate
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import instance_values, largest
from conelayers.solve.backends import Instance, Settings, Solver
from conelayers.solve.starting_methods import Previous, Start, StartingMethod
from conelayers.support.errors import Status
from conelayers.support.limits import out_of_time
from conelayers.support.parallel import run_parallel

__all__ = ["Magnified"]

_TOLERANCE = 1e-12  # of each solve, in units of the error before it
_PASSES = 4  # number of solves, each around the point of the one before
_PROGRESS = 0.5  # fraction of F₁ or F₂ that a pass may leave; after a pass that leaves more of both there is no other
_STEPS = 1  # Newton steps after each pass: once the active rows are right, one is enough
_FAR = 1e6  # slack, in units of the error, from which a row is left out: larger numbers would cost the others digits


@final
@dataclass(frozen=True)
class Magnified(StartingMethod):
    """A solve of each instance around the point that the methods before have reached."""

    solver: Solver
    settings: Settings
    reached: Previous | None = None
    name: str = "MAGNIFIED"
    trusted: bool = False
    plain_steps: int = 4
    proximal_steps: int = 0

    @staticmethod
    def suits(structure: Structure) -> bool:
        """Whether the programs have inequalities, and no other cones."""
        return structure.cones.nonneg > 0 and structure.cones.kinds <= {"zero", "nonneg"}

    def continued_from(self, reached: Previous) -> StartingMethod:
        return replace(self, reached=reached)

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """The points, each nearer than the one it started from if it is usable."""
        assert self.reached is not None
        x, v = self.reached.x[index].copy(), self.reached.v[index].copy()
        found = np.zeros(program.batch, dtype=bool)
        parts: list[Part] = []
        todo = np.flatnonzero(self.reached.usable[index])
        part = program.take(todo)
        point = evaluate(part, x[todo], v[todo])
        for _ in range(_PASSES):
            if not todo.size or out_of_time():
                break
            new_x, new_v, solved = self._pass(part, point, jobs)
            polished = polish(
                part,
                new_x,
                new_v,
                tolerance=POLISHED,
                enough=ACCURACY,
                plain_steps=_STEPS,
                proximal_steps=0,
                jobs=jobs,
            )
            arrived = solved & (polished.error <= ACCURACY)
            before, point = point, evaluate(part, new_x, new_v)
            progress = (largest(point.F1) < _PROGRESS * largest(before.F1)) | (
                largest(point.F2) < _PROGRESS * largest(before.F2)
            )
            kept = solved & (progress | arrived)
            found[todo[kept]] = True
            x[todo[kept]], v[todo[kept]] = new_x[kept], new_v[kept]
            x[todo[arrived]], v[todo[arrived]] = polished.x[arrived], polished.v[arrived]
            for places, factors in polished.parts:
                chosen = np.flatnonzero(arrived[places])
                if chosen.size:
                    parts.append((todo[places[chosen]], factors.take(chosen)))
            going = np.flatnonzero(kept & ~arrived)
            todo, part, point = todo[going], part.take(going), point.take(going)
        x[~found], v[~found] = 0.0, 0.0
        status = [Status.SOLVED if h else Status.FAILED for h in found]
        return Start(x, v, status, ["in units of the error of the point before"] * program.batch, parts)

    def _pass(self, program: ConeProgram, point: Point, jobs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (B, n), v (B, m), and for which instances the solver found a point, (B,) bool."""
        error = np.maximum(largest(point.F1), largest(point.F2))
        solutions = run_parallel(lambda k: self._solve(program, point, k, float(error[k])), range(program.batch), jobs)
        x, v, found = point.x.copy(), point.v.copy(), np.zeros(program.batch, dtype=bool)
        for k, solution in enumerate(solutions):
            if solution is not None:
                (x[k], v[k]), found[k] = solution, True
        return x, v, found

    def _solve(self, program: ConeProgram, point: Point, k: int, error: float) -> tuple[np.ndarray, np.ndarray] | None:
        """(x, v) of one instance; None if the solver finds no point, or if the error is zero or not finite."""
        if not 0 < error < np.inf:
            return None
        structure, x = program.structure, point.x[k]
        P, A = structure.P.matrix(instance_values(program.P, k)), structure.A.matrix(instance_values(program.A, k))
        slack, zero = program.b[k] - A @ x, structure.cones.zero
        rows = np.flatnonzero(slack < _FAR * error) if structure.m > zero else np.arange(structure.m)
        rows = np.union1d(np.arange(zero), rows)
        near = A if rows.size == structure.m else sp.csc_array(A.tocsr()[rows])
        cones = Cones(zero=zero, nonneg=rows.size - zero)
        raw = self.solver.solve(
            Instance(error * P, point.Px[k] + program.q[k], near, slack[rows] / error, cones),
            replace(self.settings, tolerance=_TOLERANCE),
        )
        if not raw.status.usable or not np.isfinite(raw.x).all() or not np.isfinite(raw.y - raw.s).all():
            return None
        v = -np.maximum(slack - error * (A @ raw.x), 0.0)
        v[rows] = raw.y - error * raw.s
        return x + error * raw.x, v
