"""A cvxpy problem becomes a parametric cone program, once; the only file that knows cvxpy's internals.

    φ ↦ (P, q, A, b) is affine and (x, y) ↦ variables is linear, where φ = θ (the user's parameters, column-major) or,
    for a geometric program, φ = (θ, log θ); both maps are kept as sparse matrices, and so are their adjoints.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import PowCone3D, PowConeND
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr, lower_value
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp
from cvxpy.reductions.eval_params import EvalParams
from cvxpy.reductions.solution import Solution as CvxpySolution
from cvxpy.utilities import scopes

from conelayers.cones import Cones
from conelayers.errors import CanonicalizationError
from conelayers.parameters import ParameterSpec
from conelayers.parametric import AffineMap, OutputSpec, ParametricProgram
from conelayers.program import Pattern, Structure

__all__ = ["canonicalize"]

_SYMMETRIC = ("symmetric", "PSD", "NSD")
_CHECKED = ("nonneg", "nonpos", "pos", "neg", "diag", "symmetric", "PSD", "NSD")


def canonicalize(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    *,
    gp: bool = False,
    quadratic: bool = True,
    canon_backend: str | None = None,
    verbose: bool = False,
) -> ParametricProgram:
    """Compile ``problem`` into a ParametricProgram.

    ``variables`` may hold variables of the problem and dual variables of its constraints. With ``quadratic=False`` the
    objective is made linear by cvxpy (an epigraph), for solvers that take no P.

    Raises CanonicalizationError (a ValueError) for a problem that is not DCP, not DPP, has integer or complex variables
    or a parameter in the exponent of a power cone, and ValueError for parameters or variables that are not its own.
    """
    _check_arguments(problem, parameters, variables)
    _check_discipline(problem, gp, quadratic)
    fresh = cp.Problem(problem.objective, problem.constraints)  # leaves the caches of the user's problem alone
    data, chain, inverse = _compile(fresh, gp=gp, canon_backend=canon_backend, verbose=verbose, quadratic=quadratic)
    program = data.get("param_prob") if isinstance(data, dict) else None
    reductions = list(zip(chain.reductions, inverse, strict=True))[:-1]
    if program is None or any(isinstance(r, EvalParams) for r, _ in reductions):
        raise CanonicalizationError("problem: cvxpy fixed its parameters' values at compilation; there is no map to differentiate")
    if program.dir_cones or any(h is not None for h in (program.lb_tensor, program.ub_tensor)) or any(
        bound is not None and np.isfinite(bound).any() for bound in (program.lower_bounds, program.upper_bounds)
    ):
        raise CanonicalizationError("problem: cvxpy left constraints outside of A x + s = b; please report this problem")
    specs = _parameter_specs(parameters)
    lift = _parameter_map(program, reductions, parameters, specs, gp)
    structure, maps = _data_maps(program, lift)
    if maps["A"].constant_is_infinite or maps["b"].constant_is_infinite:
        raise CanonicalizationError("problem: a constraint has an infinite or NaN constant; remove the constraint that it makes void")
    outputs = tuple(_output(v, problem, program, reductions) for v in variables)
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
    )


def _compile(problem: cp.Problem, *, quadratic: bool, **options: Any) -> tuple[Any, Any, list[Any]]:
    """cvxpy's compilation for SCS, whose convention is the package's; for Clarabel where there are no rows, which SCS refuses."""
    options |= {"enforce_dpp": True, "solver_opts": None if quadratic else {"use_quad_obj": False}}
    with warnings.catch_warnings():
        # cvxpy reads sparse parameters in its own discouraged way, and says which of its backends takes N-d arrays.
        warnings.filterwarnings("ignore", message="Reading from a sparse CVXPY expression", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="The problem has an expression with dimension greater than 2", category=UserWarning)
        try:
            return problem.get_problem_data(cp.SCS, **options)
        except cp.error.SolverError as error:
            try:
                compiled = problem.get_problem_data(cp.CLARABEL, **options)
            except cp.error.SolverError:
                compiled = None
            if compiled is not None and isinstance(compiled[0], dict) and compiled[0]["param_prob"].constr_size == 0:
                return compiled
            raise CanonicalizationError(f"problem: cvxpy could not reduce it to a cone program: {error}") from error


# --- what is refused ------------------------------------------------------------------------------------------------


def _check_arguments(problem: Any, parameters: Any, variables: Any) -> None:
    if not isinstance(problem, cp.Problem):
        raise TypeError(f"problem: got {type(problem).__name__}, expected a cvxpy.Problem")
    for name, given, kind in (("parameters", parameters, cp.Parameter), ("variables", variables, cp.Variable)):
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"The layer's {name} must be provided as a list or tuple; got {type(given).__name__}")
        for i, item in enumerate(given):
            if not isinstance(item, kind):
                raise ValueError(f"{name}[{i}]: got {type(item).__name__}, expected a cvxpy.{kind.__name__}")
    own = {p.id: p for p in problem.parameters()}
    given_ids = [p.id for p in parameters]
    missing = [p.name() for i, p in own.items() if i not in given_ids]
    foreign = [p.name() for p in parameters if p.id not in own]
    repeated = sorted({p.name() for p in parameters if given_ids.count(p.id) > 1})
    if missing or foreign or repeated:
        details = [
            f"{what}: {', '.join(names)}"
            for what, names in (("missing", missing), ("not in the problem", foreign), ("given twice", repeated))
            if names
        ]
        raise ValueError(f"The layer's parameters must exactly match problem.parameters ({'; '.join(details)})")
    if not variables:
        raise ValueError("variables: got an empty list, expected at least one variable of the problem to return")
    known = {v.id for v in problem.variables()} | {d.id for c in problem.constraints for d in c.dual_variables}
    for v in variables:
        if v.id not in known:
            raise ValueError(
                f"variables: {v.name()} must be a subset of problem.variables or a dual variable of one of its constraints"
            )
    for v in problem.variables():
        for attribute in ("boolean", "integer"):
            if v.attributes[attribute]:
                raise CanonicalizationError(
                    f"variable {v.name()} is {attribute}: the solution would be piecewise constant in the parameters; relax it to a continuous one"
                )
    for leaf in (*problem.variables(), *problem.parameters()):
        if leaf.is_complex():
            raise CanonicalizationError(
                f"{leaf.name()} is complex, which is not supported yet; write its real and imaginary parts as two real ones"
            )


def _check_discipline(problem: cp.Problem, gp: bool, quadratic: bool) -> None:
    kind = "DGP" if gp else "DCP"
    if not (problem.is_dgp() if gp else problem.is_dcp()):
        culprits = _offenders(problem, lambda e: e.is_dgp() if gp else e.is_dcp())
        hint = "" if gp or not problem.is_dgp() else " It is DGP: pass gp=True."
        raise CanonicalizationError(f"problem: must be {kind}; {culprits}.{hint}")
    scope = scopes.quad_form_dpp_scope if quadratic and not gp else None
    dpp = problem.is_dpp("dgp") if gp else problem.is_dpp(quad_form_dpp="qp" if quadratic else None)
    if not dpp:

        def complies(expression: Any) -> bool:
            with scopes.dpp_scope():
                return expression.is_dgp() if gp else expression.is_dcp()

        def objective_complies(expression: Any) -> bool:
            if scope is None:
                return complies(expression)
            with scope():
                return complies(expression)

        culprits = _offenders(problem, complies, objective_complies)
        raise CanonicalizationError(
            f"problem: must be DPP, so that its data are affine in the parameters; {culprits}. Replace the part of it that "
            "holds only parameters by a new Parameter (with the sign or attribute that it has) and pass its value; products "
            "of a parameter with an expression of variables are fine, quad_form(x, P) with a parameter P only in the objective "
            "and with a solver that takes a quadratic one. See https://www.cvxpy.org/tutorial/dpp/index.html"
        )
    for constraint in problem.constraints:
        if isinstance(constraint, (PowCone3D, PowConeND)) and constraint.alpha.parameters():
            raise CanonicalizationError(
                f"constraint {constraint}: its exponent holds the parameter {constraint.alpha.parameters()[0].name()}, whose value "
                "cvxpy would fix at compilation; exponents must be constants"
            )


def _offenders(
    problem: cp.Problem, complies: Callable[[Any], bool], objective_complies: Callable[[Any], bool] | None = None
) -> str:
    """The smallest subexpressions that break the rules, as the user wrote them."""
    found: list[str] = []

    def descend(node: Any, rule: Callable[[Any], bool]) -> None:
        bad = [arg for arg in node.args if not rule(arg)]
        for arg in bad:
            descend(arg, rule)
        if not bad:
            text = str(node)
            if text not in found:
                found.append(text)

    rule = objective_complies or complies
    if not rule(problem.objective):
        descend(problem.objective, rule)
    for constraint in problem.constraints:
        if not complies(constraint):
            descend(constraint, complies)
    if not found:
        return "a variable's bounds do not comply"
    shown = "; ".join(f"`{text if len(text) <= 200 else text[:200] + '…'}`" for text in found[:3])
    return f"the offending expression{'s are' if len(found) > 1 else ' is'} {shown}"


# --- parameters -----------------------------------------------------------------------------------------------------


def _parameter_specs(parameters: Sequence[cp.Parameter]) -> tuple[ParameterSpec, ...]:
    specs, offset = [], 0
    for p in parameters:
        positions = None
        if p.attributes["diag"] or p.attributes["sparsity"]:
            positions = tuple(int(i) for i in _lowering(p))
        bounds = p.attributes["bounds"]
        specs.append(
            ParameterSpec(
                name=p.name(),
                shape=tuple(p.shape),
                offset=offset,
                attributes=frozenset(a for a in _CHECKED if p.attributes[a]),
                positions=positions,
                bounds=None if bounds is None else tuple(_dense(b) for b in bounds),
            )
        )
        offset += p.size
    return tuple(specs)


def _lowering(p: cp.Parameter) -> np.ndarray:
    """cvxpy's reduced form of a parameter with attributes, as positions (column-major) in the full one."""
    labels = np.arange(p.size, dtype=float).reshape(p.shape, order="F")
    return np.ravel(lower_value(p, labels), order="F").astype(np.int64)


def _parameter_map(
    program: Any, reductions: list[tuple[Any, Any]], parameters: Sequence[cp.Parameter], specs: Sequence[ParameterSpec], gp: bool
) -> sp.csr_array:
    """From (φ, 1) to the parameter vector of cvxpy's own program, (its size + 1, size of φ + 1)."""
    total = sum(spec.size for spec in specs)
    size = 2 * total if gp else total
    # id of a parameter at the current stage -> selection matrix from φ to its entries
    maps: dict[int, sp.csr_array] = {}
    identity = sp.eye_array(size, format="csr")
    for p, spec in zip(parameters, specs, strict=True):
        maps[p.id] = identity[spec.columns]
    for reduction, _ in reductions:
        if isinstance(reduction, Dgp2Dcp):
            for p, spec in zip(parameters, specs, strict=True):
                for log_id in reduction.param_id_map.get(p.id, []):
                    maps[log_id] = identity[total + spec.offset : total + spec.offset + spec.size]
        elif isinstance(reduction, CvxAttr2Constr):
            for p, reduced in reduction._parameters.items():
                select = _lowering(p)
                chosen = maps[p.id][select]
                if any(p.attributes[a] for a in _SYMMETRIC):
                    # ½(θᵢⱼ + θⱼᵢ): the gradient with respect to the full matrix is then the symmetric one.
                    mirror = np.swapaxes(np.arange(p.size).reshape(p.shape, order="F"), -1, -2).ravel(order="F")
                    chosen = 0.5 * (chosen + maps[p.id][mirror[select]])
                maps[reduced.id] = sp.csr_array(chosen)
        elif reduction.param_id_map:
            raise CanonicalizationError(f"problem: parameters replaced by {type(reduction).__name__} are not supported")
    rows, cols, values = [], [], []
    for ident, start in program.param_id_to_col.items():
        if ident not in program.id_to_param:
            continue  # the constant's column
        if ident not in maps:
            raise CanonicalizationError(f"problem: cvxpy introduced a parameter of its own ({program.id_to_param[ident]}); please report this problem")
        part = maps[ident].tocoo()
        rows.append(part.row + start)
        cols.append(part.col)
        values.append(part.data)
    last = program.total_param_size
    rows.append(np.array([last]))
    cols.append(np.array([size]))
    values.append(np.ones(1))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
    return sp.csr_array(sp.coo_array(entries, shape=(last + 1, size + 1)))


# --- problem data ---------------------------------------------------------------------------------------------------


def _data_maps(program: Any, lift: sp.csr_array) -> tuple[Structure, dict[str, AffineMap]]:
    """The patterns of P and A, and the affine maps from φ to P's and A's stored values, q, b and the offset d."""
    n, m = program.x.size, program.constr_size
    q = sp.csr_array(program.q) @ lift
    tensor = sp.coo_array(program.A)  # entry (i, j) of [A | b] is row i + j·m; rows may exceed 32 bits
    position = tensor.row.astype(np.int64)
    row, col = position % m if m else position, position // m if m else position
    is_b = col == n
    keys, inverse = np.unique(position[~is_b], return_inverse=True)
    A_map = sp.csr_array(sp.coo_array((-tensor.data[~is_b], (inverse, tensor.col[~is_b])), shape=(keys.size, tensor.shape[1])))
    b_map = sp.csr_array(sp.coo_array((tensor.data[is_b], (row[is_b], tensor.col[is_b])), shape=(m, tensor.shape[1])))
    A_pattern = _pattern(keys % m if m else keys, keys // m if m else keys, (m, n))
    if program.P is None:
        keys = np.zeros(0, dtype=np.int64)
        P_map = sp.csr_array((0, tensor.shape[1]))
    else:
        P = sp.coo_array(program.P)
        position = P.row.astype(np.int64)
        i, j = position % n, position // n
        # ½(P + Pᵀ), so that the stored pattern is that of a full symmetric matrix whatever cvxpy hands over.
        both = np.concatenate([i + j * n, j + i * n])
        keys, inverse = np.unique(both, return_inverse=True)
        values, cols = np.concatenate([P.data, P.data]) / 2, np.concatenate([P.col, P.col])
        P_map = sp.csr_array(sp.coo_array((values, (inverse, cols)), shape=(keys.size, P.shape[1])))
    structure = Structure(_pattern(keys % n, keys // n, (n, n)), A_pattern, _cones(program.cone_dims))
    if structure.cones.dimension != m:
        raise CanonicalizationError("problem: cvxpy's cones do not account for all of its rows; please report this problem")
    maps = {"P": P_map @ lift, "q": q[:n], "A": A_map @ lift, "b": b_map @ lift, "d": q[n:]}
    return structure, {name: AffineMap.of(sp.csr_array(matrix)) for name, matrix in maps.items()}


def _pattern(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Pattern:
    """A Pattern from entries that are already sorted by column, then row."""
    indptr = np.zeros(shape[1] + 1, dtype=np.int64)
    np.cumsum(np.bincount(cols, minlength=shape[1]), out=indptr[1:])
    return Pattern(shape, rows.astype(np.int64), indptr)


def _cones(dims: Any) -> Cones:
    if dims.pnd:
        raise CanonicalizationError("problem: an N-dimensional power cone was not split into three-dimensional ones; please report this problem")
    return Cones(
        zero=dims.zero, nonneg=dims.nonneg, soc=tuple(dims.soc), psd=tuple(dims.psd), exp=dims.exp, power=tuple(dims.p3d)
    )


# --- recovery of variables and duals --------------------------------------------------------------------------------


def _output(variable: cp.Variable, problem: cp.Problem, program: Any, reductions: list[tuple[Any, Any]]) -> OutputSpec:
    primal = variable.id in {v.id for v in problem.variables()}
    length = program.x.size if primal else program.constr_size

    def recover(vector: np.ndarray) -> np.ndarray:
        value = _primal(variable, vector, program, reductions) if primal else _dual(variable, vector, problem, program, reductions)
        return np.asarray(_dense(value), dtype=float).ravel(order="F")

    # Every entry of the answer is a multiple of one entry of the vector (or zero); two probes read off which and how much.
    scale = recover(np.ones(length))
    labelled = recover(np.arange(1.0, length + 1))
    used = np.flatnonzero(scale)
    source = np.rint(labelled[used] / scale[used]).astype(np.int64) - 1
    matrix = sp.csr_array(sp.coo_array((scale[used], (used, source)), shape=(scale.size, length)))
    probe = np.random.default_rng(0).uniform(1.0, 2.0, length)
    if not np.allclose(recover(probe), matrix @ probe, rtol=1e-12, atol=0):
        raise CanonicalizationError(f"variables: cvxpy's recovery of {variable.name()} is not understood; please report this problem")
    exponential = primal and any(variable.id in r.var_id_map for r, _ in reductions if isinstance(r, Dgp2Dcp))
    return OutputSpec(variable.name(), tuple(variable.shape), primal, matrix, exponential)


def _dense(value: Any) -> Any:
    return value.toarray() if sp.issparse(value) else value


def _primal(variable: cp.Variable, x: np.ndarray, program: Any, reductions: list[tuple[Any, Any]]) -> Any:
    """cvxpy's own linear map from x to a variable: its tangents, without the projection onto attributes."""
    values = program.split_solution(x)
    ident = variable.id
    for reduction, _ in reversed(reductions):
        if isinstance(reduction, Dgp2Dcp):
            ident = reduction.var_id_map.get(ident, [ident])[0]
        else:
            values = reduction.var_forward(values)
    if ident not in values:  # a variable that no expression depends on: cvxpy reports zeros
        return np.zeros(variable.shape)
    return values[ident]


def _dual(variable: cp.Variable, y: np.ndarray, problem: cp.Problem, program: Any, reductions: list[tuple[Any, Any]]) -> Any:
    """cvxpy's own map from y to a constraint's dual variable: sign, order and shape are cvxpy's."""
    duals, start = {}, 0
    for constraint in program.constraints:
        part = y[start : start + constraint.size]
        duals[constraint.id] = float(part[0]) if constraint.size == 1 else part
        start += constraint.size
    solution = CvxpySolution(cp.OPTIMAL, 0.0, {program.x.id: np.zeros(program.x.size)}, duals, {})
    for reduction, inverse in reversed(reductions):
        solution = reduction.invert(solution, inverse)
    owner = next(c for c in problem.constraints if variable.id in {d.id for d in c.dual_variables})
    if owner.id not in solution.dual_vars:
        return np.zeros(variable.shape)
    recorders = [_Recorder(d.shape) for d in owner.dual_variables]
    stand_in = copy.copy(owner)
    stand_in.dual_variables = recorders
    stand_in.save_dual_value(solution.dual_vars[owner.id])
    index = [d.id for d in owner.dual_variables].index(variable.id)
    return recorders[index].value


class _Recorder:
    """Stands in for a dual variable, so that reading cvxpy's recovery does not touch the user's problem."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.value: Any = np.zeros(shape)

    def save_value(self, value: Any) -> None:
        self.value = np.reshape(_dense(value), self.shape, order="F")
