"""The linear map from the cone program's x and y to the user's variables and dual variables, read off cvxpy's own."""

from __future__ import annotations

import copy
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp
from cvxpy.reductions.solution import Solution as CvxpySolution

from conelayers.problem.parametric import OutputSpec
from conelayers.support.errors import CanonicalizationError

__all__ = ["auxiliary_columns", "output_specs", "read_dual", "recovered_duals", "variable_matrices"]


def output_specs(
    variable: cp.Variable,
    problem: cp.Problem,
    program: Any,
    reductions: list[tuple[Any, Any]],
    E: sp.csr_array | None = None,
) -> tuple[OutputSpec, ...]:
    """The map to one requested (dual) variable as a sparse matrix; two of them, for its parts, if it is complex.

    cvxpy's y is E times that of the program (hermitian.py).
    """
    primal = variable.id in {v.id for v in problem.variables()}
    length = program.x.size if primal else program.constr_size

    def recover(vector: np.ndarray) -> np.ndarray:
        value = (
            _primals([variable], vector, program, reductions)[0]
            if primal
            else _dual(variable, vector, problem, program, reductions)
        )
        return np.ravel(_dense(value), order="F")

    probes = [recover(h) for h in (np.ones(length), np.arange(1.0, length + 1))]
    check = np.random.default_rng(0).uniform(1.0, 2.0, length)
    expected = recover(check)
    exponential = primal and any(variable.id in r.var_id_map for r, _ in reductions if isinstance(r, Dgp2Dcp))
    specs = []
    for part in (np.real, np.imag) if _is_complex(variable, problem) else (np.real,):
        matrix = _matrix(part(probes[0]), part(probes[1]), length)
        if not np.allclose(part(expected), matrix @ check, rtol=1e-12, atol=0):
            raise CanonicalizationError(
                f"variables: cvxpy's recovery of {variable.name()} is not understood; please report this problem"
            )
        if E is not None and not primal:
            matrix = sp.csr_array(matrix @ E)
        specs.append(OutputSpec(variable.name(), tuple(variable.shape), primal, matrix, exponential))
    return tuple(specs)


def _is_complex(variable: cp.Variable, problem: cp.Problem) -> bool:
    """A variable that is, or the dual variable of a constraint that is."""
    owner = next((c for c in problem.constraints if variable.id in {d.id for d in c.dual_variables}), variable)
    return bool(owner.is_complex())


def variable_matrices(
    variables: list[cp.Variable], program: Any, reductions: list[tuple[Any, Any]]
) -> list[tuple[str, tuple[int, ...], sp.csr_array]]:
    """Names, shapes and the matrices that read the variables (in a geometric program their logarithms) off x.

    Of a complex variable there are two, its real part's and its imaginary part's.
    """
    length = program.x.size
    probes = [_primals(variables, h, program, reductions) for h in (np.ones(length), np.arange(1.0, length + 1))]
    found = []
    for v, *values in zip(variables, *probes, strict=True):
        scale, labelled = (np.ravel(_dense(value), order="F") for value in values)
        for part, name in ((np.real, v.name()), (np.imag, f"the imaginary part of {v.name()}")):
            if part is np.real or v.is_complex():
                found.append((name, tuple(v.shape), _matrix(part(scale), part(labelled), length)))
    return found


def auxiliary_columns(variables: list[cp.Variable], program: Any, reductions: list[tuple[Any, Any]]) -> np.ndarray:
    """Which columns none of these variables is read from, (n,) bool."""
    held = np.ones(program.x.size, dtype=bool)
    for _, _, matrix in variable_matrices(variables, program, reductions):
        held[matrix.indices] = False
    return held


def _matrix(scale: np.ndarray, labelled: np.ndarray, length: int) -> sp.csr_array:
    """A linear map whose results are multiples of single entries, or zero: two probes tell which, and how much."""
    used = np.flatnonzero(scale)
    source = np.rint(labelled[used] / scale[used]).astype(np.int64) - 1
    return sp.csr_array(sp.coo_array((scale[used], (used, source)), shape=(scale.size, length)))


def _dense(value: Any) -> Any:
    return value.toarray() if sp.issparse(value) else value


def _primals(variables: list[cp.Variable], x: np.ndarray, program: Any, reductions: list[tuple[Any, Any]]) -> list[Any]:
    """cvxpy's own linear map from x to the variables: its tangents, without the projection onto attributes."""
    values = program.split_solution(x)
    identities = {v.id: v.id for v in variables}
    for reduction, _ in reversed(reductions):
        if isinstance(reduction, Dgp2Dcp):
            known = reduction.var_id_map
            identities = {own: known.get(ident, [ident])[0] for own, ident in identities.items()}
        else:
            values = reduction.var_forward(values)
    # A variable that no expression depends on: cvxpy reports zeros.
    return [values[identities[v.id]] if identities[v.id] in values else np.zeros(v.shape) for v in variables]


def _dual(
    variable: cp.Variable, y: np.ndarray, problem: cp.Problem, program: Any, reductions: list[tuple[Any, Any]]
) -> Any:
    """cvxpy's own map from y to a constraint's dual variable: sign, order and shape are cvxpy's."""
    owner = next(c for c in problem.constraints if variable.id in {d.id for d in c.dual_variables})
    index = [d.id for d in owner.dual_variables].index(variable.id)
    return _read(owner, recovered_duals(y, program, reductions))[index]


def recovered_duals(y: np.ndarray, program: Any, reductions: list[tuple[Any, Any]]) -> dict[int, Any]:
    """What cvxpy makes of y, by the identifiers of the user's constraints."""
    duals: dict[int, Any] = {}
    start = 0
    for constraint in program.constraints:
        part = y[start : start + constraint.size]
        duals[constraint.id] = float(part[0]) if constraint.size == 1 else part
        start += constraint.size
    solution = CvxpySolution(cp.OPTIMAL, 0.0, {program.x.id: np.zeros(program.x.size)}, duals, {})
    for reduction, inverse in reversed(reductions):
        solution = reduction.invert(solution, inverse)
    return solution.dual_vars


def _read(owner: Any, duals: dict[int, Any]) -> list[Any]:
    """The values of a constraint's dual variables."""
    recorders = [_Recorder(d.shape) for d in owner.dual_variables]
    if owner.id in duals:
        stand_in = copy.copy(owner)
        stand_in.dual_variables = recorders
        stand_in.save_dual_value(duals[owner.id])
    return [r.value for r in recorders]


def read_dual(owner: Any, duals: dict[int, Any]) -> list[np.ndarray]:
    """The same, flattened column by column; complex where the constraint is."""
    return [np.ravel(_dense(value), order="F") for value in _read(owner, duals)]


class _Recorder:
    """Stands in for a dual variable, so that reading cvxpy's recovery does not touch the user's problem."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.value: Any = np.zeros(shape)

    def save_value(self, value: Any) -> None:
        self.value = np.reshape(_dense(value), self.shape, order="F")
