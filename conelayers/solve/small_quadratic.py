"""Small strictly convex quadratic programs, solved exactly by active sets on dense matrices (numerics/quadratic)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from conelayers.numerics.cones import product_cone
from conelayers.numerics.kkt import prefers_dense
from conelayers.numerics.quadratic import ActiveSetFactorization, ActiveSetSolution, Code, solve_quadratic
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.solve.infeasibility.polyhedra import examined
from conelayers.solve.infeasibility.polyhedral_rays import lead_to_primal_rays
from conelayers.solve.starting_methods import Previous, Start, StartingMethod
from conelayers.support.errors import Status

__all__ = ["SmallQuadratic"]

_MOST_WORK, _MOST_SPARSE_WORK = 2e8, 4e6  # multiplications up to which the dense method costs less than the others
_CERTIFIED = "by active set steps, which end at a certificate"
_MESSAGE = {
    Code.SOLVED: "by active set steps",
    Code.NOT_DEFINITE: "P is not positive definite",
    Code.DEPENDENT: "the equalities are linearly dependent",
    Code.INFEASIBLE: "the active set method found no feasible point",
    Code.STALLED: "the active set method did not settle",
}


@final
@dataclass(frozen=True)
class SmallQuadratic(StartingMethod):
    """The compiled kernel, or its NumPy version, on the whole batch; it starts from the previous active sets if there
    are any.
    """

    previous: Previous | None = None
    name: str = "ACTIVE SET"
    trusted: bool = False
    proximal_steps: int = 0

    @staticmethod
    def suits(structure: Structure) -> bool:
        """Whether all cones are orthants, P may be positive definite, and the matrices are small enough to be dense."""
        P, n, m = structure.P, structure.n, structure.m
        if structure.cones.kinds - {"zero", "nonneg"} or P.diagonal_entries < n:
            return False
        work = n**3 / 6 + n * m * (n + m) / 2
        return work <= (_MOST_WORK if prefers_dense(structure) else _MOST_SPARSE_WORK)

    def warm_started(self, previous: Previous) -> StartingMethod:
        return replace(self, previous=previous)

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """The solutions with their factors, and PRIMAL_INFEASIBLE where there is a certificate; other methods solve the
        rest.
        """
        structure = program.structure
        active = None if self.previous is None else self.previous.v[index] > 0
        solution = solve_quadratic(
            program.dense_P, program.q, program.dense_A, program.b, structure.cones.zero, active, jobs
        )
        codes = solution.code.tolist()
        status = [Status.SOLVED if code == Code.SOLVED else Status.FAILED for code in codes]
        solved = np.flatnonzero(solution.solved)
        parts = []
        if solved.size:
            whole = solved.size == program.batch
            element = product_cone(structure.cones).project_dual(solution.v if whole else solution.v[solved])[1]
            factors = solution.factors if whole else solution.factors.take(solved)
            parts.append((solved, ActiveSetFactorization(program.take(solved), element, factors, jobs)))
        message, v = [_MESSAGE[Code(code)] for code in codes], solution.v
        if solved.size < program.batch:
            v = np.where(solution.solved[:, None], v, 0.0)
            for i in _contradictory(program, solution, jobs):
                status[i], message[i] = Status.PRIMAL_INFEASIBLE, _CERTIFIED
        return Start(solution.x, v, status, message, parts)


def _contradictory(program: ConeProgram, solution: ActiveSetSolution, jobs: int) -> list[int]:
    """The instances whose constraints no point satisfies.

    Either the kernel ended with a certificate, or one is searched for without the objective, since the objective alone
    may make rows look dependent. The search comes before Newton's steps, which are the most expensive on such
    instances.
    """
    empty = np.zeros(program.batch, dtype=bool)
    ended = np.flatnonzero(solution.code == Code.INFEASIBLE)
    if ended.size:
        empty[ended] = lead_to_primal_rays(program.take(ended), solution.v[ended])
    unclear = np.flatnonzero(~empty & ~solution.solved & (solution.code != Code.NOT_DEFINITE))
    if unclear.size:
        empty[unclear] = examined(program.take(unclear), jobs)[0]
    return [int(i) for i in np.flatnonzero(empty)]
