"""Ways to a point near the solution, from which Newton's steps go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.cones import product_cone
from conelayers.numerics.kkt import Part
from conelayers.numerics.residual import ROUGH, evaluate
from conelayers.program.cone_program import ConeProgram
from conelayers.program.patterns import instance_values
from conelayers.solve.backends import Instance, RawSolution, Settings, Solver
from conelayers.solve.infeasibility.certificates import proven
from conelayers.support.errors import Status
from conelayers.support.parallel import run_parallel

__all__ = ["Backend", "Previous", "Start", "StartingMethod", "start_of"]

# n + m from which one solve is so long that it runs in a thread of its own: Ctrl-C reaches the main thread only between
# calls, and next to such a solve a thread costs nothing.
_LONG = 300
_STOPPED = (Status.ITERATION_LIMIT, Status.TIME_LIMIT, Status.FAILED)


@final
class Start(NamedTuple):
    """The points that a method found: x (B, n), v (B, m), zero where the status is not usable; and the backend's
    messages.

    ``parts`` holds factorizations of K at these points, with the indices of their instances, if the method made some.
    ``rays`` holds the backend's (x, y) for the instances that it did not solve: whatever status it gave them, these may
    lead to a certificate of infeasibility (certificates.py).
    """

    x: np.ndarray
    v: np.ndarray
    status: list[Status]
    message: list[str]
    parts: Sequence[Part] = ()
    rays: Mapping[int, tuple[np.ndarray, np.ndarray]] = MappingProxyType({})


class StartingMethod(ABC):
    """A method that finds a point near the solution of each instance.

    If it is not ``trusted``, its points and its certificates of infeasibility count, and its other statuses do not. If
    it is ``limited``, the user set a limit, and no later method continues with the instances that this limit stopped.
    """

    trusted: bool
    limited: bool = False
    plain_steps: int = 10
    patience: int | None = None  # how many of the plain Newton steps in a row may bring no improvement
    proximal_steps: int  # how many guarded Newton steps may follow
    name: str

    @abstractmethod
    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """A start for each instance of ``program``; ``index`` holds their positions in the whole batch."""

    def warm_started(self, previous: Previous) -> StartingMethod:
        """The same method, started at the solutions of the previous call if it can be."""
        return self

    def continued_from(self, reached: Previous) -> StartingMethod:
        """The same method, started at the points that the methods before it reached if it can be."""
        return self


@final
@dataclass(frozen=True)
class Previous(StartingMethod):
    """Known points as a start, such as the previous call's solutions, in the units and variables of the program to be
    solved.
    """

    x: np.ndarray
    v: np.ndarray
    usable: np.ndarray  # (B,) bool
    plain_steps: int = 10
    name: str = "NEWTON"
    trusted: bool = False
    proximal_steps: int = 0

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """The known points; zero, and FAILED, for instances that have none."""
        usable = self.usable[index]
        status = [Status.SOLVED if u else Status.FAILED for u in usable]
        x, v = (np.where(usable[:, None], h[index], 0.0) for h in (self.x, self.v))
        return Start(x, v, status, ["from the previous solution"] * len(status))


@final
@dataclass(frozen=True)
class Backend(StartingMethod):
    """The solve of each instance by a solver, on a thread pool."""

    solver: Solver
    settings: Settings
    trusted: bool = True
    proximal_steps: int = 25
    patience: int | None = None
    warm: Previous | None = None  # points at which the solver itself starts
    limited: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The solver's name."""
        return self.solver.name

    def warm_started(self, previous: Previous) -> StartingMethod:
        return replace(self, warm=previous) if self.solver.warm_starts else self

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        return start_of(program, self.solutions(program, index, jobs), self.trusted, jobs)

    def solutions(self, program: ConeProgram, index: np.ndarray, jobs: int) -> list[RawSolution]:
        """The solver's answers, instance by instance."""
        structure = program.structure
        layout = None
        if program.batch:
            P0, A0 = structure.P.matrix(program.P[0]), structure.A.matrix(program.A[0])
            layout = self.solver.layout(P0, A0, structure.cones)

        def instance(i: int) -> Instance:
            P, A = instance_values(program.P, i), instance_values(program.A, i)
            if layout is None:
                pair = structure.P.matrix(P), structure.A.matrix(A)
                return Instance(pair[0], program.q[i], pair[1], program.b[i], structure.cones)
            inner, rows, native = layout.matrices(P, A)
            return Instance(inner, program.q[i], rows, program.b[i], structure.cones, native)

        def solve_one(i: int) -> RawSolution:
            warm, k = None, int(index[i])
            if self.warm is not None and self.warm.usable[k]:
                v = self.warm.v[k]
                y, s, _ = product_cone(structure.cones).decompose(v)
                warm = RawSolution(self.warm.x[k], y, s, Status.SOLVED, "")
            return self.solver.solve(instance(i), self.settings, warm)

        return run_parallel(solve_one, range(program.batch), jobs, apart=structure.n + structure.m > _LONG)


def start_of(program: ConeProgram, raws: list[RawSolution], trusted: bool, jobs: int) -> Start:
    """The start made of a solver's answers.

    An instance that a limit or a breakdown stopped is INACCURATE if its point is near a solution, and else keeps its
    status. An instance is reported as infeasible only if the solver's ray can be refined to a certificate.
    """
    rays = {i: (raw.x, raw.y) for i, raw in enumerate(raws) if raw.status is not Status.SOLVED}
    claimed = {i: [ray] for i, ray in rays.items() if raws[i].status.infeasible}
    certified = proven(program, claimed, jobs) if claimed else {}
    status = [certified.get(i, Status.FAILED) if raw.status.infeasible else raw.status for i, raw in enumerate(raws)]
    status = [s if trusted or s.usable or s.infeasible else Status.FAILED for s in status]
    x, v = np.zeros_like(program.q), np.zeros_like(program.b)
    returned = np.zeros(program.batch, dtype=bool)
    for i, raw in enumerate(raws):
        if np.isfinite(raw.x).all() and np.isfinite(raw.y - raw.s).all():
            x[i], v[i], returned[i] = raw.x, raw.y - raw.s, True
        elif status[i].usable:
            status[i] = Status.FAILED
    stopped = np.flatnonzero(returned & np.array([s in _STOPPED for s in status], dtype=bool))
    if stopped.size:
        part = program.take(stopped)
        near = evaluate(part, x[stopped], v[stopped]).rough_errors(part) <= ROUGH
        for j in stopped[near]:
            status[int(j)] = Status.INACCURATE
    lost = np.array([not s.usable for s in status], dtype=bool)
    x[lost], v[lost] = 0.0, 0.0
    return Start(x, v, status, [raw.message for raw in raws], rays=rays)
