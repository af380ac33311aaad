"""Which starting methods a program takes, and in which order: what one leaves unsolved goes to the next.

Newton needs no more than a rough point, so the first solve is a loose one, by the backend that is the cheaper one there
(docs/where_the_time_goes.md): SCS factors once, Clarabel at each of some ten iterations, which costs little where K is very
sparse and saves many where cones curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from conelayers.numerics.presolve import Presolved
from conelayers.numerics.scaling import Scaling
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.solve.active_set import ActiveSet
from conelayers.solve.backends import SOLVERS, Settings, Solver
from conelayers.solve.magnified import Magnified
from conelayers.solve.small_quadratic import SmallQuadratic
from conelayers.solve.splitting import Splitting
from conelayers.solve.starting_methods import Backend, StartingMethod
from conelayers.solve.without_equilibration import WithoutEquilibration

__all__ = ["StartingOrder"]

_LOOSE_ITERATIONS = 2000
_SCS_LOOSE = 1e-3
_SCS_LINEAR = 1e-5  # an LP's active set: what is looser is solved twice
# Of the interior-point methods, Clarabel and ECOS:
_INTERIOR_CURVED = 1e-4  # exponential and power cones: Newton's steps converge from afar, and theirs are dear
_INTERIOR_FLAT = 1e-6  # orthants and second-order cones: the last iterations cost less than the Newton steps they save
_INTERIOR_LINEAR = 1e-9  # an LP's vertex has to be found among many
_CURVED = frozenset({"exp", "power"})
# Full Newton steps in a row that lead nowhere better, from which active sets go round in circles. Of 1900 polyhedral
# programs on which
# Newton's steps arrived, 25 took more than two of those, and one of a quadratic objective; an interior point has fewer
# rows to change.
_PATIENCE = 3
_INTERIOR_PATIENCE = 1
_LOOSE_STEPS = 12  # guarded Newton steps after a loose solve, which more of them would seldom lead to the solution
_VERTEX_STEPS = 12  # guarded Newton steps after the simplex method
_SPARSE = 12  # entries of P and A per row and column up to which ten factorizations cost less than SCS's iterations


@final
@dataclass(frozen=True)
class StartingOrder:
    """How a program is solved: by which backend, and what else is tried.

    solver, settings: the backend and its settings. chosen_by_user: whether the user named it. max_seconds: what all methods together
    may take. fallback: whether the others are asked where this backend fails.
    """

    solver: Solver
    settings: Settings
    chosen_by_user: bool
    max_seconds: float | None = None
    fallback: bool = True

    def methods(self, structure: Structure, batch: int) -> Iterator[StartingMethod]:
        """The methods for ``batch`` programs of this (presolved) structure.

        Unless the user named the backend, or wants to watch it, our own fast methods come first, and then the cheapest loose solve there
        is. A backend that the user named, or chose by options of its own, makes the loose solve itself. Then come a solve at the
        backend's first tolerance (or the user's), one at its tight tolerance, one by each other backend, and for linear programs the
        simplex method.

        If the user limits the backend, it is asked alone, at its first tolerance (or the user's).
        """
        solver, settings = self.solver, self.settings
        limited = solver.limited_by(settings)
        if not limited:
            around = self._magnified(structure)
            for start in self._starts(structure, batch):
                # Where the full steps fail, the next method leads on for less than guarded ones.
                yield start if around is None else _with_fewer_steps(start)
            if around is not None:
                yield around
        tolerance = settings.tolerance or solver.first_tolerance
        own = self._own_settings()
        yield Backend(solver, replace(own, tolerance=tolerance), limited=limited)
        if tolerance > solver.tight_tolerance:
            yield Backend(solver, replace(own, tolerance=solver.tight_tolerance), limited=limited)
        if self.fallback and not limited:
            # Backends fail on different programs: what this one leaves open goes to the others.
            for other in SOLVERS.values():
                if other is not solver and other.takes(structure.cones, structure.P.nnz > 0):
                    yield self._last_resort(other)

    def _last_resort(self, other: Solver) -> Backend:
        """The tight solve by another backend, for what the chosen one left open."""
        settings = replace(_with_known_options(other, self._shared), tolerance=other.tight_tolerance)
        fallback = Backend(other, replace(settings, max_iters=other.fallback_iterations), trusted=False)
        # The simplex method ends at a vertex, from which few of Newton's steps remain, and its status is the last word.
        return replace(fallback, trusted=True, proximal_steps=_VERTEX_STEPS) if other is SOLVERS["HIGHS"] else fallback

    def _starts(self, structure: Structure, batch: int) -> Iterator[StartingMethod]:
        """The ways to a rough point. Options of a backend's own do not change what the solution is, so that our own ways stay open."""
        solver, options = self.solver, {name for name, _ in self._own_settings().native}
        watched = self._watched
        own_methods = not (self.chosen_by_user or watched)
        if own_methods and SmallQuadratic.suits(structure):
            yield SmallQuadratic()
        elif own_methods and ActiveSet.suits(structure):
            yield ActiveSet()
        if own_methods and Splitting.suits(structure, batch):
            yield Splitting()
        elif self.chosen_by_user or watched or options:
            yield loose_by(solver, self._own_settings(), structure)
        else:
            yield loose(structure, self._shared)

    def _magnified(self, structure: Structure) -> Magnified | None:
        """Clarabel's solves around the rough points from which Newton's steps did not arrive."""
        clarabel = SOLVERS["CLARABEL"]
        # Who watches a backend wants to see it at the program itself, and who wants it alone, nothing else.
        asked = self.fallback and not self._watched and (not self.chosen_by_user or self.solver is clarabel)
        if not (asked and Magnified.suits(structure) and clarabel.takes(structure.cones, structure.P.nnz > 0)):
            return None
        return Magnified(clarabel, _with_known_options(clarabel, self._shared))

    @property
    def _watched(self) -> bool:
        """Whether the backend is to print or to write what it does."""
        options = {name for name, _ in self._own_settings().native}
        return self.settings.verbose or bool(options & self.solver.file_options)

    @property
    def _shared(self) -> Settings:
        """What backends other than this one are told: an option that is not this backend's own, which all tolerate."""
        native = tuple(item for item in self.settings.native if item[0] not in self.solver.native_options)
        return Settings(verbose=self.settings.verbose, native=native)

    def _own_settings(self) -> Settings:
        """This backend's settings. An iteration limit that binds nobody holds for a backend of the user's choice only."""
        own = _with_known_options(self.solver, self.settings)
        free = not (self.chosen_by_user or own.native or self.solver.limited_by(own))
        return replace(own, max_iters=None) if free else own

    def without_equilibration(
        self, program: ConeProgram, scaling: Scaling, presolved: Presolved
    ) -> Iterator[StartingMethod]:
        """What is left to try where all that failed: the program as it was given, if equilibration changed it."""
        clarabel = SOLVERS["CLARABEL"]
        free = self.fallback and not self.solver.limited_by(self.settings)
        if free and not scaling.trivial and clarabel.takes(program.structure.cones, program.structure.P.nnz > 0):
            yield WithoutEquilibration(
                Backend(clarabel, Settings(tolerance=clarabel.tight_tolerance)), program, scaling, presolved
            )


def loose(structure: Structure, settings: Settings | None = None) -> Backend:
    """The cheapest solve that leads near enough."""
    scs, clarabel = SOLVERS["SCS"], SOLVERS["CLARABEL"]
    settings = settings or Settings()
    kinds = structure.cones.kinds
    sparse = structure.P.nnz + structure.A.nnz <= _SPARSE * (structure.n + structure.m) and "psd" not in kinds
    by_clarabel = structure.is_linear or bool(kinds & _CURVED) or sparse
    if by_clarabel and clarabel.takes(structure.cones, structure.P.nnz > 0):
        return loose_by(clarabel, settings, structure)
    return loose_by(scs, settings, structure)


def loose_by(solver: Solver, settings: Settings, structure: Structure) -> Backend:
    """This backend's solve that leads near enough for Newton's method, with the user's options but for the tolerances."""
    settings = _with_known_options(solver, settings)
    native = tuple(item for item in settings.native if item[0] not in solver.tolerance_options)
    if solver.name == "SCS":
        tolerance = _SCS_LINEAR if structure.is_linear else _SCS_LOOSE
        most = min(_LOOSE_ITERATIONS, settings.max_iters or _LOOSE_ITERATIONS)
        settings = replace(settings, max_iters=most)
    else:
        curved = bool(structure.cones.kinds & _CURVED)
        tolerance = _INTERIOR_LINEAR if structure.is_linear else _INTERIOR_CURVED if curved else _INTERIOR_FLAT
    loosened = replace(settings, tolerance=tolerance, native=native)
    return Backend(solver, loosened, trusted=False, proximal_steps=_LOOSE_STEPS)


def _with_known_options(solver: Solver, settings: Settings) -> Settings:
    """The settings with those native options that this backend has."""
    return replace(settings, native=tuple(item for item in settings.native if item[0] in solver.native_options))


def _with_fewer_steps(method: StartingMethod) -> StartingMethod:
    """The same start, with fewer of Newton's steps: without guarded ones, and with the full ones while they lead on."""
    if isinstance(method, Backend):
        interior = method.solver.name != "SCS"
        return replace(method, proximal_steps=0, patience=_INTERIOR_PATIENCE if interior else _PATIENCE)
    return replace(method, proximal_steps=0, patience=_PATIENCE) if isinstance(method, Splitting) else method
