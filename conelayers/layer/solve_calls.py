"""Solve the batch of one call: by the compiled core, by the engine in Python, or in chunks on an executor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from conelayers.core import Outcome
from conelayers.derivatives.policies import Policies
from conelayers.layer.chunked_solver import ChunkedSolver
from conelayers.layer.compiled_core import CompiledCore
from conelayers.layer.core_answers import Engineered
from conelayers.layer.core_batch import CoreBatch
from conelayers.layer.programs import CallSettings, Programs
from conelayers.layer.solve_and_linearize import smoothing_base, solve_and_linearize
from conelayers.layer.solved_batch import EngineBatch, SolvedBatch
from conelayers.numerics.cones import Selection
from conelayers.problem.parameters import Batch
from conelayers.problem.parametric import ParametricProgram
from conelayers.solve.warm_start import WarmStart
from conelayers.support.limits import time_limit

__all__ = ["solved_here", "solved_in_chunks"]


def solved_here(
    programs: Programs,
    batch: Batch,
    settings: CallSettings,
    start: WarmStart | None,
    policies: Policies,
    smoothed: bool,
) -> SolvedBatch:
    """The batch, solved in this process.

    The compiled core solves it if it serves the program, and if the call leaves the choice of the method to us. Other
    Clarke elements than the default one may move the point (regularity.py): these calls are the engine's.
    """
    served = settings.own_methods and batch.size and policies.selection is Selection.DEFAULT
    core = programs.core_of(settings.compiled) if served else None
    if core is not None:
        return _solved_by_core(core, batch, settings, start, policies, smoothed)
    compiled, program = settings.compiled, settings.compiled.program(batch.theta)
    start = start if start is not None and start.usable.any() else None
    solution, linearization = solve_and_linearize(program, settings, start, policies)
    base = smoothing_base(program, settings, solution, policies) if smoothed else None
    return EngineBatch(compiled, solution, linearization, compiled.value(batch.theta, program, solution.x), base)


def _solved_by_core(
    core: CompiledCore,
    batch: Batch,
    settings: CallSettings,
    start: WarmStart | None,
    policies: Policies,
    smoothed: bool,
) -> CoreBatch:
    """The core's points; the engine solves the instances that it leaves open."""
    seconds = settings.arguments.max_seconds
    with nullcontext() if seconds is None else time_limit(seconds):
        found, engineered = core.solve(batch, settings.arguments.jobs_forward, start), None
        if found.outcome.any() and (left := _left_to_the_engine(found.outcome, settings.compiled)).size:
            found.outcome[left] = Outcome.OPEN
            program = settings.compiled.program(batch.theta[left])
            part = None if start is None else WarmStart(*(h[left] for h in start))
            engineered = Engineered(left, *solve_and_linearize(program, settings, part, policies))
    return CoreBatch(core, batch, settings, policies, found, engineered, smoothed)


def _left_to_the_engine(outcome: np.ndarray, compiled: ParametricProgram) -> np.ndarray:
    """The instances that the core did not settle."""
    left = (outcome == Outcome.OPEN) | (outcome == Outcome.STOPPED)
    if compiled.may_have_void_rows:  # what contradicts another row may be rounding, which the engine is not given
        left |= outcome == Outcome.PRIMAL_INFEASIBLE
    return np.flatnonzero(left)


def solved_in_chunks(
    solver: ChunkedSolver,
    batch: Batch,
    settings: CallSettings,
    solver_args: Mapping[str, Any] | None,
    start: WarmStart | None,
    policies: Policies,
    smoothed: bool,
) -> EngineBatch:
    """The batch, solved in chunks by an executor's workers, who keep the factors."""
    compiled, theta = settings.compiled, batch.theta
    start = start if start is not None and start.usable.any() else None
    solution, linearization = solver.solve(
        compiled.structure, theta, solver_args, start, settings.arguments.max_seconds
    )
    program = compiled.program(theta)
    base = smoothing_base(program, settings, solution, policies) if smoothed else None
    told = replace(linearization, on_trouble=policies.on_trouble(solution))
    return EngineBatch(compiled, solution, told, compiled.value(theta, program, solution.x), base)
