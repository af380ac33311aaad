"""The compiled map against cvxpy's own, and every spelling of a constraint."""

from __future__ import annotations

import copy
import pickle
import warnings

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from zoo import ZOO

from conelayers import Layer
from conelayers.problem.canonicalize import canonicalize
from conelayers.problem.numpy_values import ARRAYS
from conelayers.problem.parameter_checks import combine_batch
from conelayers.program.patterns import instance_values


def theta_of(compiled, values) -> np.ndarray:
    """θ (B, p) of the program for the user's values."""
    given = compiled.input_map.arrays(values)
    return combine_batch(compiled.parameters, compiled.input_map.push(given, ARRAYS)).theta


@pytest.mark.parametrize("name", sorted(ZOO))
def test_program_is_cvxpys_at_random_parameters(name: str) -> None:
    """Golden test: P, q, A, b equal what cvxpy hands to SCS, attributes of parameters included."""
    case = ZOO[name]()
    compiled = canonicalize(case.problem, case.parameters, case.variables, gp=case.gp, simplify=False)
    rng = np.random.default_rng(5)
    draws = [case.draw(rng) for _ in range(3)]
    program = compiled.program(theta_of(compiled, [np.stack(v) for v in zip(*draws, strict=True)]))
    for i, values in enumerate(draws):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's own, about sparse values
            for parameter, value in zip(case.parameters, values, strict=True):
                parameter.value = value
            target = cp.SCS if program.structure.m else cp.CLARABEL
            data, _, _ = cp.Problem(case.problem.objective, case.problem.constraints).get_problem_data(
                target, gp=case.gp
            )
        np.testing.assert_allclose(
            program.structure.A.matrix(instance_values(program.A, i)).toarray(), data["A"].toarray(), atol=1e-13
        )
        np.testing.assert_allclose(program.b[i], data["b"], atol=1e-13)
        np.testing.assert_allclose(program.q[i], data["c"], atol=1e-13)
        P = program.structure.P.matrix(instance_values(program.P, i)).toarray()
        np.testing.assert_array_equal(P, P.T)
        expected = data["P"].toarray() if "P" in data else np.zeros_like(P)
        np.testing.assert_allclose(P, expected, atol=1e-13)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_maps_and_their_adjoints(name: str) -> None:
    """⟨w, L dθ⟩ = ⟨Lᵀw, dθ⟩ for the data, restricted maps included; recovery of variables likewise."""
    case = ZOO[name]()
    compiled = canonicalize(case.problem, case.parameters, case.variables, gp=case.gp)
    rng = np.random.default_rng(6)
    theta = theta_of(compiled, case.draw(rng))
    direction = rng.standard_normal(theta.shape)
    x, lam = rng.standard_normal((2, 1, compiled.structure.n))
    y, mu = rng.standard_normal((2, 1, compiled.structure.m))
    tangent = compiled.tangent(theta, direction)
    forward = -(lam * (tangent.Px(x) + tangent.ATy(y) + tangent.q)).sum() + (mu * (tangent.Ax(x) - tangent.b)).sum()
    gradient = compiled.adjoint(theta, x, y, lam, mu)
    assert (gradient * direction).sum() == pytest.approx(forward, rel=1e-11, abs=1e-11)
    for k, spec in enumerate(compiled.parameters):
        only = tuple(i == k for i in range(len(compiled.parameters)))
        part = compiled.restricted(only).adjoint(theta, x, y, lam, mu)
        np.testing.assert_allclose(part[:, spec.columns], gradient[:, spec.columns], atol=1e-13)


SPELLINGS = {
    "x >= 0": lambda: (lambda v: (v, [v >= 0]))(cp.Variable(3)),
    "0 <= x": lambda: (lambda v: (v, [v >= 0]))(cp.Variable(3)),
    "-x <= 0": lambda: (lambda v: (v, [-v <= 0]))(cp.Variable(3)),
    "nonneg": lambda: (cp.Variable(3, nonneg=True), []),
    "bounds": lambda: (cp.Variable(3, bounds=[0, None]), []),
    "infinite bounds": lambda: (cp.Variable(3, bounds=[0, np.inf]), []),
    "array bounds": lambda: (cp.Variable(3, bounds=[np.zeros(3), 9 * np.ones(3)]), []),
    "parametric bounds": lambda: (lambda p: (cp.Variable(3, bounds=[-p + 0.0, None]), [p >= 0]))(
        cp.Parameter(nonneg=True, name="extra")
    ),
    "NonNeg": lambda: (lambda v: (v, [cp.constraints.NonNeg(v)]))(cp.Variable(3)),
    "entry by entry": lambda: (lambda v: (v, [v[i] >= 0 for i in range(3)]))(cp.Variable(3)),
    "min": lambda: (lambda v: (v, [cp.min(v) >= 0]))(cp.Variable(3)),
    "norm1 and sum": lambda: (lambda v: (v, [cp.norm1(v) <= cp.sum(v)]))(cp.Variable(3)),
    "nested": lambda: (lambda v: (v, [cp.hstack([v, v + 1]) >= 0]))(cp.Variable(3)),
}


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_sign_constraint_is_never_dropped(spelling: str, solver: str) -> None:
    """cvxpy hands some of these to solvers as bounds or direct cones: dropped, the answer has negative entries."""
    x, constraints = SPELLINGS[spelling]()
    a = cp.Parameter(3, name="a")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), constraints)
    values = {"a": np.array([-1.0, 2.0, -3.0]), "extra": np.array(0.0)}
    parameters = problem.parameters()
    layer = Layer(problem, parameters, [x], solver=solver)
    solution = layer.solve(*[values[p.name()] for p in parameters])
    # "norm1 and sum" has a kink everywhere: its solution is as exact as the backend's.
    np.testing.assert_allclose(solution.variables[0], [0, 2, 0], atol=1e-6 if spelling == "norm1 and sum" else 1e-10)


def test_the_users_problem_is_left_alone() -> None:
    case = ZOO["lp_transport"]()
    case.problem.constraints[0].dual_variables[0].save_value(np.full(3, 7.0))
    Layer(case.problem, case.parameters, case.variables, gp=case.gp)
    assert case.problem._cache.key is None
    assert all(p.value is None for p in case.parameters)
    np.testing.assert_array_equal(case.problem.constraints[0].dual_value, np.full(3, 7.0))


def test_later_changes_of_the_problem_do_not_reach_the_layer() -> None:
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [])
    layer = Layer(problem, [p], [x])
    problem.constraints.append(x >= 10)
    np.testing.assert_allclose(layer.solve(np.ones(2)).variables[0], [1, 1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_carry_the_compiled_map(copied, monkeypatch) -> None:
    """A copy in a worker must not canonicalize again: cvxpy's ids can collide there."""
    case = ZOO["svm"]()
    layer = Layer(case.problem, case.parameters, case.variables, solver="CLARABEL", gp=case.gp)
    values = case.draw(np.random.default_rng(0))
    expected = layer.solve(*values)
    clone = copied(layer)
    monkeypatch.setattr("conelayers.layer.origin.canonicalize", None)
    monkeypatch.setattr(cp.Problem, "get_problem_data", None)
    solution = clone.solve(*values)
    np.testing.assert_allclose(solution.variables[0], expected.variables[0], atol=1e-12)
    np.testing.assert_allclose(solution.vjp(np.ones(2))[0], expected.vjp(np.ones(2))[0], atol=1e-12)


def test_a_pickled_layer_says_what_it_cannot_do() -> None:
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    layer = Layer(problem, [p], [x])
    np.testing.assert_allclose(layer.solve(np.ones(2), solver_args={"solve_method": "ECOS"}).variables[0], 1, atol=1e-9)
    clone = pickle.loads(pickle.dumps(Layer(problem, [p], [x])))
    with pytest.raises(ValueError, match="construct the layer with solver='ECOS'"):
        clone.solve(np.ones(2), solver_args={"solve_method": "ECOS"})


def test_the_quadratic_objective_stays_quadratic() -> None:
    """No epigraph cone where the solver takes P; a second-order cone where it does not."""
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    native = canonicalize(problem, [p], [x])
    assert native.structure.P.nnz > 0
    assert native.structure.cones.kinds <= {"zero", "nonneg"}
    epigraph = canonicalize(problem, [p], [x], quadratic=False)
    assert epigraph.structure.P.nnz == 0
    assert "soc" in epigraph.structure.cones.kinds


QUADRATIC = {
    "huber": lambda x, p, c: cp.sum(cp.huber(x - p)),
    "huber with a parameter for M": lambda x, p, c: cp.sum(cp.huber(x - p, c)),
    "quad_over_lin": lambda x, p, c: cp.quad_over_lin(x - p, 2.0),
    "quad_over_lin with a parameter": lambda x, p, c: cp.quad_over_lin(x - p, c),
    "squared slacks": lambda x, p, c: cp.sum_squares(cp.pos(x - p)),
    "weighted squared slacks": lambda x, p, c: c * cp.sum(cp.square(cp.pos(x - p))),
    "squared distances": lambda x, p, c: cp.sum_squares(cp.abs(x - p)),
    "divided by a parameter": lambda x, p, c: cp.sum_squares(x - p) / c,
}


@pytest.mark.parametrize("name", QUADRATIC)
def test_squares_under_other_functions_stay_quadratic(name: str) -> None:
    """A second-order cone for a square has a kink and an epigraph variable that the quadratic objective has not."""
    x, p, c = cp.Variable(3), cp.Parameter(3), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Minimize(QUADRATIC[name](x, p, c) + 0.1 * cp.sum_squares(x)), [x <= 1])
    parameters = [h for h in (p, c) if any(h is q for q in problem.parameters())]
    layer = Layer(problem, parameters, [x])
    assert layer._compiled.structure.P.nnz >= 6
    assert layer._compiled.structure.cones.kinds <= {"zero", "nonneg"}
    values = [np.array([2.0, -0.3, 0.4]), 0.7][: len(parameters)]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    problem.solve(cp.CLARABEL, ignore_dpp=True)
    solution = layer.solve(*values)
    np.testing.assert_allclose(solution.variables[0], x.value, atol=1e-5)
    np.testing.assert_allclose(solution.value, problem.value, atol=1e-7)


def test_quadratic_over_a_parameter_has_the_gradient_of_the_quotient() -> None:
    x, p, c = cp.Variable(3), cp.Parameter(3), cp.Parameter(pos=True)
    value, g = np.array([2.0, -0.3, 0.4]), np.array([1.0, 2.0, -1.0])
    one, other = (
        Layer(cp.Problem(cp.Minimize(objective + cp.sum_squares(x)), [x <= 1]), [p, c], [x]).solve(value, 0.7).vjp(g)
        for objective in (cp.quad_over_lin(x - p, c), cp.sum_squares(x - p) / c)
    )
    np.testing.assert_allclose(one[0], other[0], atol=1e-12)
    np.testing.assert_allclose(one[1], other[1], atol=1e-12)


def test_objective_without_rows_and_variables_without_effect() -> None:
    x, u, p = cp.Variable(2), cp.Variable(), cp.Parameter(2)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + 0 * u + 5)), [p], [x, u])
    solution = layer.solve(np.ones(2))
    np.testing.assert_allclose(solution.variables[0], [1, 1])
    np.testing.assert_allclose(solution.variables[1], 0)
    assert solution.value == pytest.approx(5)


def test_arrays_of_any_dimension() -> None:
    x, p = cp.Variable((2, 3, 4)), cp.Parameter((2, 3, 4))
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    value = np.arange(24.0).reshape(2, 3, 4) - 7.5
    solution = layer.solve(value)
    np.testing.assert_allclose(solution.variables[0], np.maximum(value, 0), atol=1e-12)
    g = np.random.default_rng(0).standard_normal(value.shape)
    np.testing.assert_allclose(solution.vjp(g)[0], g * (value > 0), atol=1e-12)


def test_geometric_program_of_monomials() -> None:
    """Log-log transform: exponentials out, logarithms in; posynomials need the exponential cone."""
    a, b, q = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True, name="q")
    layer = Layer(cp.Problem(cp.Minimize(a * b), [a >= q, b >= q * a]), [q], [a, b], gp=True)
    solution = layer.solve(2.0)
    np.testing.assert_allclose(solution.variables, [2.0, 4.0], rtol=1e-10)
    assert solution.value == pytest.approx(8.0)
    np.testing.assert_allclose(solution.vjp(1.0, 1.0)[0], 1 + 2 * 2.0, rtol=1e-10)
    np.testing.assert_allclose(solution.jvp(1.0), [1.0, 4.0], rtol=1e-10)
    with pytest.raises(ValueError, match="parameter q: was declared pos=True"):
        layer.solve(-1.0)


@pytest.mark.parametrize("exponent", [0.0, -0.7, 1.3])
def test_geometric_program_with_a_parameter_in_an_exponent(exponent: float) -> None:
    """An exponent enters without a logarithm, so that it may be zero or negative."""
    u, v, e, b = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(name="e"), cp.Parameter(pos=True, name="b")
    layer = Layer(cp.Problem(cp.Minimize(u**e * v + 1 / u + b / v), [u <= 2]), [e, b], [u, v], gp=True)
    de, db = layer.solve(exponent, 2.0).vjp(1.0, 1.0)
    ends = [
        [float(np.sum(layer.solve(*p).variables)) for p in pair]
        for pair in (
            ((exponent + 1e-5, 2.0), (exponent - 1e-5, 2.0)),
            ((exponent, 2.0 + 1e-5), (exponent, 2.0 - 1e-5)),
        )
    ]
    np.testing.assert_allclose([de, db], [(p - m) / 2e-5 for p, m in ends], rtol=1e-6)


def test_sparse_products_are_used() -> None:
    """One sparse product a call: the compiled maps stay sparse for a large sparse problem."""
    n = 500
    x, a = cp.Variable(n), cp.Parameter(n)
    compiled = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0]), [a], [x])
    assert sp.issparse(compiled.b.linear)
    assert compiled.structure.A.nnz + compiled.structure.P.nnz < 10 * n
    assert compiled.A.rows.size == 0
