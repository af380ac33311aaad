"""The primal-dual active set method for quadratic programs: Newton's method from v = 0.

From v = 0, where no inequality is active, a full step solves the program with the rows that are active now as
equalities; the rows whose multiplier or slack came out negative change sides (Hintermüller, Ito, Kunisch 2002). On
strictly convex programs with bounds and few coupling rows the method ends after some ten factorizations of small
matrices. On others it may cycle: it gives an instance up if the number of rows that change sides stops falling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.numerics.kkt import Part, factorize
from conelayers.numerics.residual import evaluate
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import largest
from conelayers.solve.infeasibility.polyhedra import examined, has_contrary_bounds
from conelayers.solve.starting_methods import Start, StartingMethod
from conelayers.support.errors import Status
from conelayers.support.limits import out_of_time

__all__ = ["ActiveSet"]

_STEPS = 25
_PATIENCE = 2  # steps in a row without a new least number of changes, after which an instance is given up
# Residual of the equations Ax = b after a full step, relative to the largest bⱼ, from which they contradict each other.
_INCONSISTENT = 1e-3
_FEW = 5  # variables per coupling equality from which the method is tried


@final
@dataclass(frozen=True)
class ActiveSet(StartingMethod):
    """Primal-dual active set steps from v = 0."""

    name: str = "ACTIVE SET"
    trusted: bool = False
    proximal_steps: int = 0

    @staticmethod
    def suits(structure: Structure) -> bool:
        """Whether P is diagonal and positive, the inequalities are bounds, and few equalities couple the variables."""
        P, cones, n = structure.P, structure.cones, structure.n
        if cones.kinds - {"zero", "nonneg"} or P.nnz != n or not np.array_equal(P.rows, P.cols):
            return False
        single = np.zeros(structure.m, dtype=bool)
        single[structure.singletons[0]] = True
        return bool(single[cones.zero :].all()) and _FEW * int((~single[: cones.zero]).sum()) <= n

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """The solutions, with their factors, of the instances on which the method ends, and certificates of
        infeasibility.
        """
        x, v = np.zeros_like(program.q), np.zeros_like(program.b)
        status, parts = [Status.FAILED] * program.batch, list[Part]()
        # Contradictory bounds are found first, because one singular matrix makes the factorization of the whole batch
        # slower.
        contrary = has_contrary_bounds(program)
        todo = np.flatnonzero(~contrary)
        part = program.take(todo)
        doubtful, zero = np.zeros(program.batch, dtype=bool), program.structure.cones.zero
        least, patience = np.full(program.batch, program.b.shape[1]), np.full(program.batch, _PATIENCE)
        for _ in range(_STEPS):
            if not todo.size or out_of_time():
                break
            point = evaluate(part, x[todo], v[todo])
            factorization = factorize(part, point.element, jobs)
            dx, dy = factorization.solve(-point.F1, point.F2)
            new_x, new_v = point.x + dx, point.v + part.Ax(dx) - point.F2 + dy
            finite = np.isfinite(new_x).all(axis=1) & np.isfinite(new_v).all(axis=1)
            changed = (new_v > 0) != (point.v > 0)
            changed[:, :zero] = False
            changes = changed.sum(axis=1)
            fewer = changes < least[todo]
            patience[todo] = np.where(fewer, _PATIENCE, patience[todo] - 1)
            least[todo] = np.minimum(least[todo], changes)
            done = finite & (changes == 0)
            y = new_v.copy()
            y[:, zero:] = np.maximum(y[:, zero:], 0.0)
            # At such a point F₂ = y + dy − Π(v + dv), which is zero unless the equations contradict each other.
            bad = done & ~(largest(point.y + dy - y) <= _INCONSISTENT * (1 + largest(part.b)))
            doubtful[todo[bad]] = True
            going = finite & ~done & (patience[todo] > 0)
            kept = done | going
            x[todo[kept]], v[todo[kept]] = new_x[kept], new_v[kept]
            arrived = np.flatnonzero(done & ~bad)
            if arrived.size:
                inner = factorization if arrived.size == todo.size else factorization.take(arrived)
                parts.append((todo[arrived], inner))
            for i in todo[done].tolist():
                status[i] = Status.SOLVED
            lost = todo[~kept]
            x[lost], v[lost] = 0.0, 0.0
            todo, part = todo[going], part.take(np.flatnonzero(going))
        x[todo], v[todo] = 0.0, 0.0
        doubtful |= np.array([s is Status.FAILED for s in status], dtype=bool) & ~contrary
        if doubtful.any():
            undecided = np.flatnonzero(doubtful)
            contrary[undecided] = examined(program.take(undecided), jobs)[0]
        x[contrary], v[contrary] = 0.0, 0.0
        status = [Status.PRIMAL_INFEASIBLE if c else s for c, s in zip(contrary.tolist(), status, strict=True)]
        return Start(x, v, status, ["by active set steps"] * program.batch, parts)
