"""Polyhedral programs whose constraints are next to coinciding: a solve of what is left, in units of what is left.

Which rows are active cannot be told from a point whose error ε is larger than their slacks are apart: w ≥ 0 and w ≥
1e−9, at a point to 1e−6. Newton's steps then jump from one set of rows to another, most of them with a singular J. Seen
from the point x̂, with x = x̂ + εz and s = εs', the same program is

    minimize ½ε zᵀPz + (Px̂ + q)ᵀz   subject to   Az + s' = (b − Ax̂)/ε,  s' ∈ K,

with the same multipliers. An interior point's solve of it to 1e−9 tells slacks of 1e−9 ε apart, and the next one, from
there, those of 1e−18 (Gleixner, Steffy, Wolter, "Iterative refinement for linear programming", 2016, zoom in on both x
and y). Only slacks of orthants may be shifted in this way. Rows far away are left out; whether they hold is seen by the
residuals of the whole program.
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

_TOLERANCE = 1e-12  # of a solve: what the next one, or Newton's step, starts from
_PASSES = 4  # solves, each from where the one before ended
_PROGRESS = 0.5  # of the errors before: a pass that leaves more of both is the last one
_STEPS = 1  # of Newton's after each pass: from the right rows one is enough
_FAR = 1e6  # slack, in units of the error, of rows that are left out: what is larger costs the others their digits


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
        """x, v, and which of them the solver found."""
        error = np.maximum(largest(point.F1), largest(point.F2))
        solutions = run_parallel(lambda k: self._solve(program, point, k, float(error[k])), range(program.batch), jobs)
        x, v, found = point.x.copy(), point.v.copy(), np.zeros(program.batch, dtype=bool)
        for k, solution in enumerate(solutions):
            if solution is not None:
                (x[k], v[k]), found[k] = solution, True
        return x, v, found

    def _solve(self, program: ConeProgram, point: Point, k: int, error: float) -> tuple[np.ndarray, np.ndarray] | None:
        """(x, v) of one instance; None where the solver finds nothing, or there is nothing to find."""
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
