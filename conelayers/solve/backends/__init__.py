"""Solver backends: each converts from and to the package's one convention."""

from conelayers.solve.backends.arguments import SolverArguments, merge_solver_args, parse_solver_args
from conelayers.solve.backends.clarabel import Clarabel
from conelayers.solve.backends.ecos import ECOS
from conelayers.solve.backends.highs import HiGHS
from conelayers.solve.backends.registry import SOLVERS, choose_solver, find_solver
from conelayers.solve.backends.scs import SCS
from conelayers.solve.backends.solver import Instance, RawSolution, Settings, Solver

__all__ = [
    "ECOS",
    "SCS",
    "SOLVERS",
    "Clarabel",
    "HiGHS",
    "Instance",
    "RawSolution",
    "Settings",
    "Solver",
    "SolverArguments",
    "choose_solver",
    "find_solver",
    "merge_solver_args",
    "parse_solver_args",
]
