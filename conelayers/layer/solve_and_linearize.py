"""Solve a batch of cone programs and linearize the solution map there, under a layer's policies for its derivative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.regularity import snapped
from conelayers.derivatives.smoothing import Base, Resolver
from conelayers.layer.outcome import PartialLinearization
from conelayers.layer.programs import CallSettings
from conelayers.numerics.bounds import emptied, missing
from conelayers.numerics.cones import product_cone
from conelayers.numerics.presolve import presolve
from conelayers.numerics.residual import evaluate
from conelayers.numerics.scaling import equilibrate_program
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.cone_program import ConeProgram
from conelayers.program.solution import Solution
from conelayers.solve.backends import SolverArguments
from conelayers.solve.batch import WarmStart, solve_batch
from conelayers.support.errors import usable_mask

__all__ = ["linearize", "linearize_solutions", "smoothing_base", "solve_and_linearize"]


def solve_and_linearize(
    program: ConeProgram, settings: CallSettings, start: WarmStart | None, policies: Policies
) -> tuple[Solution, SolutionMap]:
    """The solutions of the batch, and the solution map linearized at those that exist."""
    arguments = settings.arguments
    solved = solve_batch(program, settings.order, arguments.jobs_forward, start, arguments.jobs_backward)
    solution, linearization = policies.apply(solved.solution, Linearization.of(solved))
    linearization = replace(linearization, max_seconds=arguments.max_seconds)
    return solution, PartialLinearization.of(linearization, solution)


def linearize(
    compiled: ParametricProgram,
    theta: np.ndarray,
    v: np.ndarray,
    x: np.ndarray | None,
    arguments: SolverArguments,
    policies: Policies,
) -> Linearization | PartialLinearization:
    """The solution map linearized at θ (B, p) and a solution's v = y − s (B, m), whatever solver found it.

    v is NaN in instances without a solution. Certificates need x (B, n) too, to judge how exact the solution is.
    """
    batch, members = len(v), np.flatnonzero(~np.isnan(v).any(axis=1))
    theta, v, x = theta[members], v[members], None if x is None else x[members]
    made = policies.apply_at_point(_linearized(compiled.program(theta), v, x, arguments))
    return made if members.size == batch else PartialLinearization(made, members, batch)


def linearize_solutions(
    settings: CallSettings, theta: np.ndarray, solution: Solution, policies: Policies, whole: Solution
) -> Linearization:
    """The solution map linearized at solutions, at θ (B, p), with the selected element.

    whole: the solutions of the whole batch, of which these are a part; trouble is told of by positions in there.
    """
    arguments, v = settings.arguments, solution.y - solution.s
    made = _linearized(settings.compiled.program(theta), v, solution.x, arguments)
    return snapped(solution, replace(made, on_trouble=policies.on_trouble(whole)), policies.selection)[1]


def _linearized(program: ConeProgram, v: np.ndarray, x: np.ndarray | None, arguments: SolverArguments) -> Linearization:
    """The linearization at v, where every instance has a solution."""
    scaled, scaling, _ = equilibrate_program(program)
    open_rows = missing(program)
    presolved = presolve(emptied(scaled, open_rows))
    v = np.where(np.isfinite(program.b), v, -1.0)
    y, s, _ = product_cone(program.structure.cones).decompose(v)
    x, y, s = scaling.scale(np.zeros_like(program.q) if x is None else x, y, s)
    point = evaluate(presolved.whole, x, y - s)
    return Linearization(
        presolved,
        point,
        scaling,
        arguments.jobs_backward,
        open_rows=open_rows,
        max_seconds=arguments.max_seconds,
    )


def smoothing_base(program: ConeProgram, settings: CallSettings, solution: Solution, policies: Policies) -> Base:
    """What a smoothed derivative needs to solve perturbed problems: the instances that have a solution."""
    arguments = settings.arguments
    resolver = Resolver(settings.order, arguments.jobs_forward, arguments.jobs_backward, policies)
    usable = np.flatnonzero(usable_mask(solution.status))
    if usable.size < program.batch:
        program, solution = program.take(usable), solution.take(usable.tolist())
    return Base(program, solution, settings.compiled.naming, resolver)
