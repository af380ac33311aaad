"""A cvxpy problem becomes a parametric cone program, once.

φ ↦ (P, q, A, b) is affine and (x, y) ↦ variables is linear, where φ = θ (the user's parameters, column-major) or,
for a geometric program, φ = (θ, log θ); both maps are kept as sparse matrices, and so are their adjoints.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.complex2real.complex2real import Complex2Real
from cvxpy.reductions.eval_params import EvalParams

from conelayers.problem.canonicalize.data import (
    cones_of,
    data_maps,
    parameter_map,
    parameter_specs,
    part_specs,
    parts_of,
)
from conelayers.problem.canonicalize.hermitian import hermitian_form
from conelayers.problem.canonicalize.infinite import check_constants, infinite_entries, infinite_values
from conelayers.problem.canonicalize.naming import constant_rows, names_of
from conelayers.problem.canonicalize.recovery import auxiliary_columns, output_specs
from conelayers.problem.canonicalize.refusals import check_arguments, check_discipline, check_parameters
from conelayers.problem.dpp.complex_expressions import divides_by_complex
from conelayers.problem.dpp.lift import as_it_is, lift
from conelayers.problem.dpp.parameter_sources import sources_of
from conelayers.problem.input_map import InputMap
from conelayers.problem.parametric import OutputSpec, ParametricProgram, bounds_only
from conelayers.problem.simplify import Simplified, simplified, with_inert_columns
from conelayers.program.names import Names, Naming
from conelayers.support.errors import CanonicalizationError

__all__ = ["canonicalize"]


def canonicalize(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    *,
    gp: bool = False,
    quadratic: bool = True,
    lifting: bool = True,
    simplify: bool = True,
    canon_backend: str | None = None,
    verbose: bool = False,
) -> ParametricProgram:
    """Compile ``problem`` into a ParametricProgram.

    ``variables`` may hold variables of the problem and dual variables of its constraints. With ``quadratic=False`` the
    objective is made linear by cvxpy (an epigraph), for solvers that take no P. ``lifting``: make the problem DPP where
    it is not. ``simplify``: take out what cvxpy's form has more than the problem needs (problem/simplify).

    Raises CanonicalizationError (a ValueError) for a problem that is not DCP, that is not DPP and cannot be made so, or
    has integer variables or a parameter in an exponent, and ValueError for parameters or variables that are not its
    own.
    """
    try:
        check_arguments(problem, parameters, variables)
        return _canonicalize(problem, parameters, variables, gp, quadratic, lifting, simplify, canon_backend, verbose)
    except RecursionError as error:
        raise CanonicalizationError(
            "problem: its expressions are nested more deeply than Python's recursion limit "
            f"({sys.getrecursionlimit()}) lets cvxpy follow; raise it "
            "with sys.setrecursionlimit, or name parts of them with new variables"
        ) from error


def _canonicalize(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    gp: bool,
    quadratic: bool,
    lifting: bool,
    simplify: bool,
    canon_backend: str | None,
    verbose: bool,
) -> ParametricProgram:
    if not gp:
        check_discipline(problem, gp)
    lifted = lift(problem, gp=gp, quadratic=quadratic) if lifting else as_it_is(problem)
    if not lifting and any(map(divides_by_complex, (problem.objective, *problem.constraints))):
        raise CanonicalizationError(
            "problem: cvxpy reduces a division by complex numbers wrongly; leave lift=True, or multiply by their "
            "reciprocals"
        )
    if gp:  # of which cvxpy's rules see through sums of parameters only where these have values
        check_discipline(lifted.problem, gp)
    check_parameters(lifted.problem, gp, quadratic, original=problem, lifting=lifting)
    fresh = cp.Problem(
        lifted.problem.objective, lifted.problem.constraints
    )  # leaves the caches of the user's problem alone
    data, chain, inverse = _compile(fresh, gp=gp, canon_backend=canon_backend, verbose=verbose, quadratic=quadratic)
    program = data.get("param_prob") if isinstance(data, dict) else None
    reductions = list(zip(chain.reductions, inverse, strict=True))[:-1]
    if program is None or any(isinstance(r, EvalParams) for r, _ in reductions):
        raise CanonicalizationError(
            "problem: cvxpy fixed its parameters' values at compilation; there is no map to differentiate"
        )
    if (
        program.dir_cones
        or any(h is not None for h in (program.lb_tensor, program.ub_tensor))
        or any(bound is not None and np.isfinite(bound).any() for bound in (program.lower_bounds, program.upper_bounds))
    ):
        raise CanonicalizationError(
            "problem: cvxpy left constraints outside of A x + s = b; please report this problem"
        )
    parts = parts_of(_in_order(fresh.parameters(), parameters))
    specs = part_specs(parts, parameters)
    columns = parameter_map(program, reductions, parts, specs, gp)
    cones, E = cones_of(program), None
    if any(isinstance(r, Complex2Real) for r, _ in reductions):
        cones, E = hermitian_form(program, cones)
    structure, maps = data_maps(program, columns, cones, E)
    groups = [output_specs(v, problem, program, reductions, E) for v in variables]
    outputs = tuple(spec for group in groups for spec in group)
    ends = np.cumsum([len(group) for group in groups]).tolist()
    sources, expressions = sources_of(parts, parameters, lifted.definitions)
    names = partial(names_of, fresh, program, reductions, structure, maps, outputs, lifted.auxiliary, E)
    naming = Naming(partial(names, written=tuple(problem.constraints), origins=lifted.origins))
    check_constants(structure, maps, naming)
    infinite = infinite_entries(specs, sources, expressions, bounds_only(structure, maps, gp=gp))
    if simplify:
        known = [v for v in fresh.variables() if v.id not in lifted.auxiliary]
        auxiliary = auxiliary_columns(known, program, reductions)
        smaller = simplified(
            structure, maps, auxiliary, _returned_rows(outputs, structure.m), np.tile(infinite, 1 + gp)
        )
        if smaller is not None:
            structure, maps = smaller.structure, smaller.maps
            outputs = tuple(_seen_from(spec, smaller) for spec in outputs)
            auxiliary = auxiliary[smaller.columns]
            constant = constant_rows(structure, maps, outputs)
            naming = Naming(partial(_names_of_smaller, naming, smaller.columns, smaller.rows, smaller.R, constant))
        structure = with_inert_columns(structure, maps, auxiliary)
    own = parameter_specs(parameters)
    input_map = InputMap(
        parameters=own,
        sources=sources,
        expressions=expressions,
        outputs=tuple(tuple(range(end - len(group), end)) for group, end in zip(groups, ends, strict=True)),
        replacements=lifted.report,
        infinite=infinite_values(own, specs, sources, infinite),
    )
    return ParametricProgram(
        structure=structure,
        parameters=specs,
        P=maps["P"],
        q=maps["q"],
        A=maps["A"],
        b=maps["b"],
        constant=maps["d"],
        outputs=outputs,
        maximize=isinstance(problem.objective, cp.Maximize),
        gp=gp,
        naming=naming,
        logarithmic=_logarithmic(columns, sum(spec.size for spec in specs)),
        input_map=input_map,
        infinite=infinite,
    )


def _returned_rows(outputs: Sequence[OutputSpec], m: int) -> np.ndarray:
    """Of which rows a multiplier is returned, (m,) bool."""
    found = np.zeros(m, dtype=bool)
    for spec in outputs:
        if not spec.primal:
            found[spec.matrix.indices] = True
    return found


def _seen_from(spec: OutputSpec, smaller: Simplified) -> OutputSpec:
    """The output in terms of the smaller program's x or y."""
    matrix = spec.matrix[:, smaller.columns] if spec.primal else spec.matrix @ smaller.R.T
    return replace(spec, matrix=sp.csr_array(matrix))


def _names_of_smaller(naming: Naming, *smaller: Any) -> Names:
    return naming.names.of_smaller(*smaller)


def _in_order(found: Sequence[cp.Parameter], parameters: Sequence[cp.Parameter]) -> list[cp.Parameter]:
    """The problem's parameters, the user's first, in their order."""
    place = {p.id: i for i, p in enumerate(parameters)}
    return sorted(found, key=lambda p: place.get(p.id, len(place)))


def _logarithmic(lift: sp.csr_array, size: int) -> np.ndarray:
    """Which entries of θ enter by their logarithms: the columns after the first ``size`` that are used."""
    used = np.zeros(lift.shape[1], dtype=bool)
    used[lift.indices] = True
    logs = used[size : lift.shape[1] - 1]
    return logs if logs.size == size else np.zeros(size, dtype=bool)


def _compile(problem: cp.Problem, *, quadratic: bool, **options: Any) -> tuple[Any, Any, list[Any]]:
    """cvxpy's compilation for SCS, whose convention is the package's. It needs a constraint: a void one is added."""
    options |= {"enforce_dpp": True, "solver_opts": None if quadratic else {"use_quad_obj": False}}
    with warnings.catch_warnings():
        # cvxpy reads sparse parameters and writes the 1 × 1 imaginary part of a Hermitian matrix in its own discouraged
        # ways, and says which of its backends takes N-d arrays.
        warnings.filterwarnings("ignore", message="Initializing a Constant with a nested list", category=UserWarning)
        warnings.filterwarnings("ignore", message="Reading from a sparse CVXPY expression", category=RuntimeWarning)
        warnings.filterwarnings(
            "ignore", message="The problem has an expression with dimension greater than 2", category=UserWarning
        )
        try:
            return problem.get_problem_data(cp.SCS, **options)
        except cp.error.SolverError:
            pass  # what cvxpy says where there are no constraints
        except (NotImplementedError, AssertionError, TypeError, AttributeError, ValueError) as error:
            raise CanonicalizationError(
                f"problem: cvxpy's own reduction to a cone program failed with {type(error).__name__} ({error}), as "
                "it would in problem.solve(); "
                "write the expression that it stumbles over in another way"
            ) from error
        void = cp.Problem(problem.objective, [*problem.constraints, cp.Constant(1) >= 0])
        try:
            return void.get_problem_data(cp.SCS, **options)
        except cp.error.SolverError as error:
            raise CanonicalizationError(f"problem: cvxpy could not reduce it to a cone program: {error}") from error
