"""Which starting methods a program takes, and in which order: the next method gets the instances that one leaves
unsolved.

Newton's method needs a rough point only, so the first solve is a loose one, by the cheaper of two backends
(docs/where_the_time_goes.md). SCS factors one matrix and takes many iterations. Clarabel factors at each of some ten
iterations, which is cheaper if K is very sparse, and needs far fewer iterations than SCS on exponential and power
cones.
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

_LOOSE_ITERATIONS = 2000  # SCS's limit in a loose solve: what takes longer is cheaper by the next method
_SCS_LOOSE = 1e-3  # tolerance from which Newton's method usually arrives
_SCS_LINEAR = 1e-5  # a linear program needs its active set: from a looser point it would have to be solved twice
# Tolerances of the loose solve by an interior-point method, Clarabel or ECOS:
_INTERIOR_CURVED = (
    1e-4  # exponential and power cones: Newton's method converges from afar, and iterations are expensive
)
_INTERIOR_FLAT = 1e-6  # orthants and second-order cones: the last iterations cost less than the Newton steps they save
_INTERIOR_LINEAR = 1e-9  # linear programs: one vertex has to be told from the others
_CURVED = frozenset({"exp", "power"})
# Full Newton steps in a row without improvement after which the active sets are taken to go round in circles. Of 1900
# polyhedral programs on which Newton's steps arrived, 25 took more than two such steps, one of them with a quadratic
# objective. From an interior point fewer rows have to change, and one such step is enough.
_PATIENCE = 3
_INTERIOR_PATIENCE = 1
_LOOSE_STEPS = 12  # guarded Newton steps after a loose solve: more of them seldom arrive where these do not
_VERTEX_STEPS = 12  # guarded Newton steps after the simplex method
_SPARSE = 12  # entries of P and A per row and column up to which ten factorizations cost less than SCS's iterations


@final
@dataclass(frozen=True)
class StartingOrder:
    """How a program is solved: by which backend, and by which other methods.

    - solver, settings: the backend and its settings.
    - chosen_by_user: whether the user named the backend.
    - max_seconds: the time for all methods together.
    - fallback: whether other backends are asked if this one fails.
    """

    solver: Solver
    settings: Settings
    chosen_by_user: bool
    max_seconds: float | None = None
    fallback: bool = True

    @property
    def begins_with_own_methods(self) -> bool:
        """Whether our own fast methods come first: the user neither named nor limited a backend, nor watches one."""
        return not (self.chosen_by_user or self._watched or self.solver.limited_by(self.settings))

    def methods(self, structure: Structure, batch: int) -> Iterator[StartingMethod]:
        """The methods for ``batch`` programs of this (presolved) structure, in their order:

        1. our own fast methods, unless the user named the backend or wants to watch it,
        2. a loose solve: by the cheapest backend, or by the one that the user named or chose by options of its own,
        3. a solve by the backend at its first tolerance (or the user's),
        4. one at its tight tolerance,
        5. one by each other backend, HiGHS's simplex method last.

        If the user limits the backend, only 3 and 4 remain.
        """
        solver, settings = self.solver, self.settings
        limited = solver.limited_by(settings)
        if not limited:
            magnified = self._magnified(structure)
            for start in self._starts(structure, batch):
                # If full Newton steps fail, the magnified solve costs less than guarded steps.
                yield start if magnified is None else _with_fewer_steps(start)
            if magnified is not None:
                yield magnified
        tolerance = settings.tolerance or solver.first_tolerance
        own = self._own_settings()
        yield Backend(solver, replace(own, tolerance=tolerance), limited=limited)
        if tolerance > solver.tight_tolerance:
            yield Backend(solver, replace(own, tolerance=solver.tight_tolerance), limited=limited)
        if self.fallback and not limited:
            # Backends fail on different programs: the others get the instances that this one leaves open.
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
        """The fast ways to a rough point.

        A backend's own options do not change the solution, so they do not exclude our own methods.
        """
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
        """Clarabel's solves around the rough points from which Newton's steps did not arrive, if they suit."""
        clarabel = SOLVERS["CLARABEL"]
        # A user who watches a backend wants to see it solve the program itself; one who wants no fallback, nothing
        # else.
        wanted = self.fallback and not self._watched and (not self.chosen_by_user or self.solver is clarabel)
        if not (wanted and Magnified.suits(structure) and clarabel.takes(structure.cones, structure.P.nnz > 0)):
            return None
        return Magnified(clarabel, _with_known_options(clarabel, self._shared))

    @property
    def _watched(self) -> bool:
        """Whether the user wants the backend to print its progress or to write a file."""
        options = {name for name, _ in self._own_settings().native}
        return self.settings.verbose or bool(options & self.solver.file_options)

    @property
    def _shared(self) -> Settings:
        """The settings for other backends: options that are not this backend's own, which all of them tolerate."""
        native = tuple(item for item in self.settings.native if item[0] not in self.solver.native_options)
        return Settings(verbose=self.settings.verbose, native=native)

    def _own_settings(self) -> Settings:
        """This backend's settings.

        An iteration limit that stops no usual solve is kept only if the user chose the backend.
        """
        own = _with_known_options(self.solver, self.settings)
        free = not (self.chosen_by_user or own.native or self.solver.limited_by(own))
        return replace(own, max_iters=None) if free else own

    def without_equilibration(
        self, program: ConeProgram, scaling: Scaling, presolved: Presolved
    ) -> Iterator[StartingMethod]:
        """The method for instances on which all others failed: the program as it was given, if equilibration changed
        it.
        """
        clarabel = SOLVERS["CLARABEL"]
        free = self.fallback and not self.solver.limited_by(self.settings)
        if free and not scaling.trivial and clarabel.takes(program.structure.cones, program.structure.P.nnz > 0):
            yield WithoutEquilibration(
                Backend(clarabel, Settings(tolerance=clarabel.tight_tolerance)), program, scaling, presolved
            )


def loose(structure: Structure, settings: Settings | None = None) -> Backend:
    """The cheapest loose solve from which Newton's method usually arrives."""
    scs, clarabel = SOLVERS["SCS"], SOLVERS["CLARABEL"]
    settings = settings or Settings()
    kinds = structure.cones.kinds
    sparse = structure.P.nnz + structure.A.nnz <= _SPARSE * (structure.n + structure.m) and "psd" not in kinds
    by_clarabel = structure.is_linear or bool(kinds & _CURVED) or sparse
    if by_clarabel and clarabel.takes(structure.cones, structure.P.nnz > 0):
        return loose_by(clarabel, settings, structure)
    return loose_by(scs, settings, structure)


def loose_by(solver: Solver, settings: Settings, structure: Structure) -> Backend:
    """This backend's loose solve, with the user's options other than tolerances."""
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
    """The settings, restricted to the native options that this backend has."""
    return replace(settings, native=tuple(item for item in settings.native if item[0] in solver.native_options))


def _with_fewer_steps(method: StartingMethod) -> StartingMethod:
    """The same method without guarded Newton steps, and with full ones only as long as they improve the point."""
    if isinstance(method, Backend):
        interior = method.solver.name != "SCS"
        return replace(method, proximal_steps=0, patience=_INTERIOR_PATIENCE if interior else _PATIENCE)
    return replace(method, proximal_steps=0, patience=_PATIENCE) if isinstance(method, Splitting) else method
