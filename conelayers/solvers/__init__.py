"""Solver backends: each converts from and to the package's one convention."""

from conelayers.solvers.arguments import SolverArguments, merge_solver_args, parse_solver_args
from conelayers.solvers.clarabel import Clarabel
from conelayers.solvers.ecos import ECOS
from conelayers.solvers.registry import SOLVERS, choose_solver, find_solver
from conelayers.solvers.scs import SCS
from conelayers.solvers.solver import Instance, RawSolution, Settings, Solver

__all__ = [
    "ECOS",
    "SCS",
    "SOLVERS",
    "Clarabel",
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
