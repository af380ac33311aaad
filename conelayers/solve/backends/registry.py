"""Backends by name, and the choice of one for a program."""

from __future__ import annotations

from conelayers.numerics.cones import real_form
from conelayers.program.cones import Cones
from conelayers.solve.backends.clarabel import Clarabel
from conelayers.solve.backends.ecos import ECOS
from conelayers.solve.backends.highs import HiGHS
from conelayers.solve.backends.scs import SCS
from conelayers.solve.backends.solver import Solver

__all__ = ["SOLVERS", "choose_solver", "find_solver"]

# In the order of preference for solver=None: Clarabel is the most exact of those that take curved cones, and HiGHS
# takes
# linear programs only.
SOLVERS: dict[str, Solver] = {solver.name: solver for solver in (Clarabel(), SCS(), ECOS(), HiGHS())}


def find_solver(name: str, argument: str = "solver") -> Solver:
    """The backend of that name, in any case. Raises ValueError naming the argument and the backends that exist."""
    found = SOLVERS.get(name.upper()) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"{argument}: got {name!r}, expected None or one of {', '.join(SOLVERS)}")
    return found


def choose_solver(name: str | None, cones: Cones, quadratic: bool, options: frozenset[str] = frozenset()) -> Solver:
    """The named backend if it takes the program; for None the first that takes it and has these native options.

    Raises ValueError naming what the backend lacks and the backends that take the program.
    """
    capable = [s for s in SOLVERS.values() if s.takes(cones, quadratic)]
    if name is None:
        if not capable:
            raise ValueError(f"solver: no backend takes a program with the cones {', '.join(sorted(cones.kinds))}")
        return next((s for s in capable if options <= s.native_options), capable[0])
    solver = find_solver(name)
    if solver not in capable:
        lacks = sorted((real_form(cones)[0] if cones.hermitian else cones).kinds - solver.cones)
        what = f"the cones {', '.join(lacks)}" if lacks else "a quadratic objective"
        others = ", ".join(s.name for s in capable) or "none"
        raise ValueError(
            f"solver: got {solver.name}, expected one for this problem: {solver.name} does not take {what}. "
            f"Solvers that take this problem: {others}"
        )
    return solver
