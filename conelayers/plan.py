"""Which routes a program takes, and in which order: what one leaves unsolved goes to the next.

Newton needs no more than a rough point, so the first solve is a loose one, by the backend that is the cheaper one there
(docs/where_the_time_goes.md): SCS factors once, Clarabel at each of some ten iterations, which costs little where K is very
sparse and saves many where cones curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from conelayers.active_set import ActiveSet
from conelayers.presolve import Presolved
from conelayers.program import ConeProgram, Structure
from conelayers.routes import Backend, Route
from conelayers.scaling import Scaling
from conelayers.simplex import Simplex
from conelayers.small_quadratic import SmallQuadratic
from conelayers.solvers import SOLVERS, Settings, Solver
from conelayers.splitting import Splitting
from conelayers.unscaled import Unscaled

__all__ = ["Plan"]

_LOOSE_ITERATIONS = 2000
_SCS_LOOSE = 1e-3
_CLARABEL_CURVED = 1e-4  # exponential and power cones: Newton's steps converge from afar, and Clarabel's are dear
_CLARABEL_FLAT = 1e-6  # orthants and second-order cones: the last iterations cost less than the Newton steps they save
_CLARABEL_LINEAR = 1e-9  # an LP's vertex has to be found among many
_SPARSE = 12  # entries of P and A per row and column up to which ten factorizations cost less than SCS's iterations


@final
@dataclass(frozen=True)
class Plan:
    """The backend, its settings, whether the user named it, and the seconds that all routes together may take."""

    solver: Solver
    settings: Settings
    chosen_by_user: bool
    max_seconds: float | None = None

    def routes(self, structure: Structure, batch: int) -> Iterator[Route]:
        """The routes for ``batch`` programs of this (presolved) structure.

        Unless the user asked for something, a loose solve comes first. The rest is a solve at the solver's first tolerance
        (or the user's), one at its tight tolerance, and, again unless the user asked for something, one by each other
        backend, and for linear programs the simplex method.
        """
        solver, settings = self.solver, self.settings
        free = not self.chosen_by_user and settings == Settings()
        if free:
            if SmallQuadratic.suits(structure):
                yield SmallQuadratic()
            elif ActiveSet.suits(structure):
                yield ActiveSet()
            yield Splitting() if Splitting.suits(structure, batch) else loose(structure)
        tolerance = settings.tolerance or solver.first_tolerance
        limited = settings.max_iters is not None or bool(settings.native)
        yield Backend(solver, replace(settings, tolerance=tolerance), limited=limited)
        if tolerance > solver.tight_tolerance:
            yield Backend(solver, replace(settings, tolerance=solver.tight_tolerance), limited=limited)
        if free:
            # Backends fail on different programs: what the default leaves open goes to the others.
            for other in SOLVERS.values():
                if other is not solver and other.takes(structure.cones, structure.P.nnz > 0):
                    last = Settings(tolerance=other.tight_tolerance, max_iters=other.fallback_iterations)
                    yield Backend(other, last, trusted=False)
            if Simplex.suits(structure):
                yield Simplex()

    def unscaled(self, program: ConeProgram, scaling: Scaling, presolved: Presolved) -> Iterator[Route]:
        """What is left to try where all that failed: the program as it was given, if equilibration changed it."""
        clarabel = SOLVERS["CLARABEL"]
        free = not self.chosen_by_user and self.settings == Settings()
        if free and not scaling.trivial and clarabel.takes(program.structure.cones, program.structure.P.nnz > 0):
            yield Unscaled(Backend(clarabel, Settings(tolerance=clarabel.tight_tolerance)), program, scaling, presolved)


def loose(structure: Structure) -> Backend:
    """The cheapest solve that leads near enough."""
    scs, clarabel = SOLVERS["SCS"], SOLVERS["CLARABEL"]
    by_scs = Backend(scs, Settings(tolerance=_SCS_LOOSE, max_iters=_LOOSE_ITERATIONS), trusted=False, proximal_steps=12)
    kinds = structure.cones.kinds
    if not clarabel.takes(structure.cones, structure.P.nnz > 0):
        return by_scs
    linear = structure.P.nnz == 0 and kinds <= {"zero", "nonneg"}
    curved = bool(kinds & {"exp", "power"})
    sparse = structure.P.nnz + structure.A.nnz <= _SPARSE * (structure.n + structure.m) and "psd" not in kinds
    if not (linear or curved or sparse):
        return by_scs
    tolerance = _CLARABEL_LINEAR if linear else _CLARABEL_CURVED if curved else _CLARABEL_FLAT
    return Backend(clarabel, Settings(tolerance=tolerance), trusted=False, proximal_steps=12)
