"""An infinite bound does not bound: the solution and all gradients are those of the problem without it, and its own gradient is zero."""

from __future__ import annotations

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import cvxpy as cp
import numpy as np
import pytest
import torch

from conelayers import (
    LPGD,
    Cones,
    Layer,
    Monitor,
    ProximalSmoothing,
    SolveError,
    Status,
    ZeroDerivativeWarning,
    backward,
    derivative,
    solve_and_differentiate,
)
from conelayers.torch import ConeLayer, solve_cone_program

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

INF = np.inf
C = np.array([0.5, 2.0, -3.0])


def nothing_to_learn(linear: bool):
    """The gradient of a linear program's vertex is zero, and that is told."""
    return pytest.warns(ZeroDerivativeWarning) if linear else nullcontext()


def box(**options) -> Layer:
    """minimize ½‖x − c‖² subject to low ≤ x ≤ u: x = min(max(c, low), u)."""
    return Layer(*box_problem(), **options)


def box_problem():
    x, c, low, u = cp.Variable(3, name="x"), *(cp.Parameter(3, name=name) for name in "clu")
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - c)), [low <= x, x <= u]), [c, low, u], [x]


def expected_box(c, low, u):
    """x, and the diagonals of its Jacobians in c, low and u."""
    return np.clip(c, low, u), (c > low) & (c < u), c < low, c > u


BOUNDS = [
    (np.array([-INF, -INF, -1.0]), np.array([INF, 1.0, INF])),
    (np.full(3, -INF), np.full(3, INF)),
    (np.array([0.0, 2.5, -INF]), np.full(3, INF)),
    (np.full(3, -INF), np.array([0.0, INF, -4.0])),
]


@pytest.mark.parametrize(("low", "u"), BOUNDS)
def test_a_box_with_open_sides_has_the_projection_and_its_jacobians(low, u):
    solution = box().solve(C, low, u)
    x, *diagonals = expected_box(C, low, u)
    np.testing.assert_allclose(solution.variables[0], x, atol=1e-9)
    for block, diagonal in zip(solution.jacobian()[0], diagonals, strict=True):
        np.testing.assert_allclose(block, np.diag(diagonal.astype(float)), atol=1e-9)
    g = np.array([1.0, -2.0, 3.0])
    for gradient, diagonal in zip(solution.vjp(g), diagonals, strict=True):
        np.testing.assert_allclose(gradient, diagonal * g, atol=1e-9)
    tangent = solution.jvp(g, 2 * g, 3 * g)[0]
    np.testing.assert_allclose(tangent, sum(k * d * g for k, d in zip((1, 2, 3), diagonals, strict=True)), atol=1e-9)


def test_each_instance_of_a_batch_has_its_own_infinite_bounds():
    low, u = (np.stack(h) for h in zip(*BOUNDS, strict=True))
    solution = box().solve(C, low, u)
    x, *diagonals = expected_box(C, low, u)
    np.testing.assert_allclose(solution.variables[0], x, atol=1e-9)
    g = np.random.default_rng(0).standard_normal(x.shape)
    dc, dl, du = solution.vjp(g)
    np.testing.assert_allclose(dc, (diagonals[0] * g).sum(0), atol=1e-9)
    np.testing.assert_allclose(dl, diagonals[1] * g, atol=1e-9)
    np.testing.assert_allclose(du, diagonals[2] * g, atol=1e-9)
    for i, block in enumerate(solution.jacobian()[0][2]):
        np.testing.assert_allclose(block, np.diag(diagonals[2][i].astype(float)), atol=1e-9)


def test_slacks_of_bounds_that_do_not_bound_are_infinite_and_their_multipliers_zero():
    solution = box().solve(C, np.full(3, -INF), np.array([INF, 1.0, INF]))
    assert np.isinf(solution.s).sum() == 5
    assert not solution.y[np.isinf(solution.s)].any()
    assert np.isfinite(solution.residuals.worst)
    assert solution.residuals.worst < 1e-9


def test_where_all_bounds_are_infinite_there_are_none():
    """Found by fuzzing: where all of b is infinite nothing dwarfs anything, and in linear programs the rows came into
    the solvers.
    """
    rows = (None, np.zeros(2), np.eye(2), np.full(2, INF), Cones(nonneg=2))
    solution = solve_and_differentiate(*rows)
    assert solution.status is Status.SOLVED
    np.testing.assert_array_equal(solution.x, 0.0)
    assert np.isinf(solution.s).all()
    with pytest.raises(SolveError, match="dual infeasible"):
        solve_and_differentiate(None, np.array([-1.0, 0.0]), *rows[2:])


x, c, u = cp.Variable(3, name="x"), cp.Parameter(3, name="c"), cp.Parameter(3, name="u")
WAYS = {
    "x <= u": ([x <= u], np.array([INF, 1.0, INF])),
    "u >= x": ([u >= x], np.array([INF, 1.0, INF])),
    "-x <= -u": ([-x <= -u], np.array([-INF, 2.5, -INF])),
    "u <= x": ([u <= x], np.array([-INF, 2.5, -INF])),
    "x - u <= 0": ([x - u <= 0], np.array([INF, 1.0, INF])),
    "2 x <= 3 u + 1": ([2 * x <= 3 * u + 1], np.array([INF, 0.5, INF])),
    "A x <= u": ([np.array([[1.0, 1, 0], [0, 1, 0], [1, 1, 1]]) @ x <= u], np.array([INF, 1.0, INF])),
    "norm(x) <= u[1], x <= u": ([cp.norm(x) <= u[1], x[0] <= u[0], x[2] <= u[2]], np.array([INF, 1.5, INF])),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_a_bound_is_written_it_is_as_if_it_were_absent(way):
    constraints, value = WAYS[way]
    without = {
        "A x <= u": [x[1] <= u[1]],
        "norm(x) <= u[1], x <= u": [cp.norm(x) <= u[1]],
        "2 x <= 3 u + 1": [2 * x[1] <= 3 * u[1] + 1],
    }.get(way, [x[1] <= u[1] if value[0] > 0 else x[1] >= u[1]])
    objective = cp.Minimize(0.5 * cp.sum_squares(x - c))
    with_it, absent = (Layer(cp.Problem(objective, h), [c, u], [x]) for h in (constraints, without))
    found, truth = with_it.solve(C, value), absent.solve(C, np.where(np.isinf(value), 0.0, value))
    np.testing.assert_allclose(found.variables[0], truth.variables[0], atol=1e-9)
    for a, b in zip(found.vjp(np.array([1.0, 2, 3])), truth.vjp(np.array([1.0, 2, 3])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


CONSTANTS = {
    "x <= inf": ([x <= INF], np.ones(3)),
    "x >= -inf": ([x >= -INF], np.ones(3)),
    "inf >= sum(x)": ([cp.Constant(INF) >= cp.sum(x)], np.ones(3)),
    "x <= (1, inf, 1)": ([x <= np.array([1.0, INF, 1.0])], np.array([1.0, 1.0, 1.0])),
    "x <= (inf, 1, inf)": ([x <= np.array([INF, 1.0, INF])], np.array([1.0, 0.0, 1.0])),
    "bounds": (None, np.array([1.0, 0.0, 1.0])),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_infinite_constants_do_not_bound(name):
    constraints, diagonal = CONSTANTS[name]
    z = cp.Variable(3, bounds=[-INF, np.array([INF, 1.0, INF])]) if constraints is None else x
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(z - c)), constraints or []), [c], [z])
    solution = layer.solve(C)
    np.testing.assert_allclose(solution.variables[0], np.where(diagonal, C, 1.0), atol=1e-9)
    np.testing.assert_allclose(solution.jacobian()[0][0], np.diag(diagonal), atol=1e-9)


def cone_problems():
    """Problems of all cones in x (3,) with data p (3,)."""
    z, p = cp.Variable(3, name="z"), cp.Parameter(3, name="p")
    Z = cp.Variable((2, 2), symmetric=True)
    entries = cp.hstack([Z[0, 0], Z[0, 1], Z[1, 1]])
    return {
        "LP": (p @ z, [cp.sum(z) == 1, z >= 0], z, p, np.array([1.0, 2, 3])),
        "QP": (cp.sum_squares(z - p), [cp.sum(z) == 1, z >= 0], z, p, np.array([1.0, 0.5, 0.2])),
        "SOCP": (p @ z, [cp.norm(z) <= 2], z, p, np.array([1.0, 2, 3])),
        "exponential": (cp.sum(cp.exp(z)) - p @ z, [], z, p, np.array([1.0, 2, 3])),
        "power": (cp.sum(cp.power(z, 1.5)) - p @ z, [], z, p, np.array([1.0, 2, 3])),
        "SDP": (p @ entries, [cp.trace(Z) == 1, Z >> 0], entries, p, np.array([1.0, 0.5, 3])),
    }


@pytest.mark.parametrize("kind", cone_problems())
def test_an_open_bound_changes_nothing_beside_any_cone(kind):
    objective, constraints, z, p, value = cone_problems()[kind]
    bound = cp.Parameter(3, name="bound")
    out = cp.Variable(3, name="out")
    both = [*constraints, out == z]
    absent = Layer(cp.Problem(cp.Minimize(objective), both), [p], [out])
    bounded = Layer(cp.Problem(cp.Minimize(objective), [*both, z <= bound, -bound <= z]), [p, bound], [out])
    truth, found = absent.solve(value), bounded.solve(value, np.full(3, INF))
    np.testing.assert_allclose(found.variables[0], truth.variables[0], atol=1e-8)
    np.testing.assert_allclose(found.value, truth.value, rtol=1e-9)
    g = np.array([1.0, -1.0, 2.0])
    with nothing_to_learn(kind == "LP"):
        dp, dbound = found.vjp(g)
    with nothing_to_learn(kind == "LP"):
        np.testing.assert_allclose(dp, truth.vjp(g)[0], atol=1e-6)
    np.testing.assert_array_equal(dbound, 0.0)
    np.testing.assert_allclose(found.jvp(g, g)[0], truth.jvp(g)[0], atol=1e-6)
    mixed = np.array([[INF] * 3, [100.0] * 3, [INF, 50.0, INF]])
    np.testing.assert_allclose(bounded.solve(value, mixed).variables[0], np.stack([truth.variables[0]] * 3), atol=1e-7)


@pytest.mark.parametrize(
    ("low", "u"),
    [([0, 0, 0], [1, -INF, 1]), ([0, INF, 0], [1, 1, 1]), ([-INF] * 3, [-INF] * 3), ([INF] * 3, [INF] * 3)],
)
def test_a_bound_that_nothing_satisfies_is_infeasible(low, u):
    layer = box()
    with pytest.raises(SolveError, match="infeasible"):
        layer.solve(C, low, u)
    assert layer.last.status == (Status.PRIMAL_INFEASIBLE,)
    solution = layer.solve(C, [low, [0] * 3], [u, [1] * 3], on_failure="nan")
    assert solution.status == (Status.PRIMAL_INFEASIBLE, Status.SOLVED)
    np.testing.assert_array_equal(np.isnan(solution.variables[0]), [[True] * 3, [False] * 3])
    masked = solution.vjp(np.array([[0.0] * 3, [1.0] * 3]))
    assert all(np.isfinite(g).all() for g in masked)


def test_an_infeasible_constant_is_told_when_it_is_solved():
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= -INF]), [c], [x])
    with pytest.raises(SolveError, match="infeasible"):
        layer.solve(C)


def refused(run, *phrases):
    with pytest.raises(ValueError, match="got") as caught:
        run()
    missing = [phrase for phrase in phrases if phrase not in str(caught.value)]
    assert not missing, str(caught.value)


ELSEWHERE = {
    "the objective": (cp.Minimize(cp.sum_squares(x - c) + u @ x), [x <= 1]),
    "the objective's constant": (cp.Minimize(cp.sum_squares(x - c) + u[1]), [x <= u]),
    "an equality": (cp.Minimize(cp.sum_squares(x - c)), [x == u]),
    "a coefficient": (cp.Minimize(cp.sum_squares(x - c)), [cp.multiply(u, x) <= 1]),
    "a second-order cone": (cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x - u) <= 1]),
    "an exponential cone": (cp.Minimize(cp.sum_squares(x - c)), [cp.exp(x) + cp.exp(x - u) <= 9]),
    "a semidefinite cone": (cp.Minimize(cp.sum_squares(x - c)), [cp.diag(x + u) >> 0]),
    "a bound and the objective": (cp.Minimize(cp.sum_squares(x - c) + u @ x), [x <= u]),
    "a bound and an expression": (cp.Minimize(cp.sum_squares(x - c) + cp.inv_pos(u) @ x), [x <= u]),
    "an expression in a bound": (cp.Minimize(cp.sum_squares(x - c)), [x <= cp.square(u)]),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_infinity_elsewhere_is_refused_and_named(place):
    layer = Layer(cp.Problem(*ELSEWHERE[place]), [c, u], [x])
    value = np.array([[1.0, 2.0, 3.0], [1.0, INF, 3.0]])
    refused(lambda: layer.solve(C, value), "parameter u at batch index 1", "inf at [1]", "expected finite", "leave out")
    refused(lambda: layer.problem_data(C, value[1]), "parameter u:", "inf at [1]")
    module = ConeLayer(cp.Problem(*ELSEWHERE[place]), [c, u], [x])
    refused(lambda: module(torch.tensor(C), torch.tensor(value)), "parameter u at batch index 1", "inf at [1]")


def test_entries_of_a_parameter_are_told_apart():
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c) + u[0] * x[0]), [x <= u]), [c, u], [x])
    np.testing.assert_allclose(layer.solve(C, [1.0, INF, INF]).variables[0], [0.0, 2.0, -3.0], atol=1e-9)
    refused(lambda: layer.solve(C, [INF, 1.0, 1.0]), "parameter u", "inf at [0]")


def test_nan_is_refused_in_bounds_too():
    refused(lambda: box().solve(C, np.zeros(3), [1.0, 1.0, np.nan]), "parameter u", "nan at [2]")


def test_infinities_of_opposite_signs_in_one_bound_are_refused():
    w = cp.Parameter(3, name="w")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= u + w]), [c, u, w], [x])
    np.testing.assert_allclose(layer.solve(C, [INF] * 3, np.zeros(3)).variables[0], C, atol=1e-9)
    refused(lambda: layer.solve(C, [INF] * 3, [0, -INF, 0]), "parameters u and w", "inf - inf")
    refused(lambda: layer.solve(C, [[1.0] * 3, [INF] * 3], [0, -INF, 0]), "u and w at batch index 1", "inf - inf")


def test_infinite_constants_elsewhere_are_refused_and_their_constraint_is_named():
    refused(
        lambda: Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, x == [1, INF, 1]]), [c], [x]),
        "constraint 1",
        "[1]",
        "expected finite",
    )
    refused(lambda: Layer(cp.Problem(cp.Minimize(INF * x[0]), [x == c]), [c], [x]), "the objective", "expected finite")


def test_attributes_of_infinite_bounds_are_checked():
    for attribute, value, phrase in (
        ("nonneg", -INF, "nonneg"),
        ("bounds", INF, "bounds"),
        ("boolean", INF, "boolean"),
    ):
        bound = cp.Parameter(3, name="u", **{attribute: [0, 9] if attribute == "bounds" else True})
        layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= bound]), [c, bound], [x])
        refused(lambda layer=layer, value=value: layer.solve(C, [1.0, value, 1.0]), "parameter u", phrase)
    for attribute in ("nonneg", "pos", "integer"):
        bound = cp.Parameter(3, name="u", **{attribute: True})
        layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= bound]), [c, bound], [x])
        np.testing.assert_allclose(layer.solve(C, [1.0, INF, 1.0]).variables[0], C, atol=1e-9)


def test_symmetric_and_sparse_bounds_may_be_infinite():
    X, S = cp.Variable((2, 2)), cp.Parameter((2, 2), symmetric=True, name="S")
    D = cp.Parameter((2, 2), diag=True, name="D")
    centre = np.array([[1.0, 2.0], [3.0, 4.0]])
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(X - centre)), [X <= S]), [S], [X])
    solution = layer.solve([[0.0, INF], [INF, INF]])
    np.testing.assert_allclose(solution.variables[0], [[0, 2], [3, 4]], atol=1e-9)
    np.testing.assert_allclose(solution.vjp(np.ones((2, 2)))[0], [[1, 0], [0, 0]], atol=1e-9)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(X - centre)), [cp.diag(X) <= cp.diag(D)]), [D], [X])
    solution = layer.solve([[INF, 0], [0, 1.0]])
    np.testing.assert_allclose(solution.variables[0], [[1, 2], [3, 1]], atol=1e-9)
    np.testing.assert_allclose(solution.vjp(np.ones((2, 2)))[0], [[0, 0], [0, 1]], atol=1e-9)
    refused(lambda: layer.solve([[1.0, INF], [0, 1.0]]), "parameter D", "inf at [0, 1]")


def test_a_lifted_problem_takes_infinite_bounds_of_its_other_parameters():
    w = cp.Parameter(3, nonneg=True, name="w")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(cp.square(w), cp.square(x - c)))), [x <= u])
    layer, module = (kind(problem, [c, u, w], [x]) for kind in (Layer, ConeLayer))
    assert layer.lifted
    bound, weight = np.array([INF, 1.0, INF]), np.ones(3)
    solution = layer.solve(C, bound, weight)
    np.testing.assert_allclose(solution.variables[0], [0.5, 1.0, -3.0], atol=1e-9)
    np.testing.assert_allclose(solution.vjp(np.ones(3))[1], [0, 1, 0], atol=1e-9)
    tensors = [torch.tensor(h, requires_grad=True) for h in (C, bound, weight)]
    module(*tensors)[0].sum().backward()
    np.testing.assert_allclose(tensors[1].grad, [0, 1, 0], atol=1e-9)


def test_a_lifted_problem_takes_infinite_bounds_of_a_diagonal_parameter():
    X, D, w = cp.Variable((2, 2)), cp.Parameter((2, 2), diag=True, name="D"), cp.Parameter(nonneg=True, name="w")
    centre = np.array([[1.0, 2.0], [3.0, 4.0]])
    problem = cp.Problem(cp.Minimize(cp.square(w) * cp.sum_squares(X - centre)), [cp.diag(X) <= cp.diag(D)])
    value = np.array([[INF, 0], [0, 1.0]])
    solution = Layer(problem, [D, w], [X]).solve(value, 1.0)
    np.testing.assert_allclose(solution.vjp(np.ones((2, 2)))[0], [[0, 0], [0, 1]], atol=1e-9)
    np.testing.assert_allclose(solution.jvp(np.eye(2), 1.0)[0], [[0, 0], [0, 1]], atol=1e-9)
    tensor = torch.tensor(value, requires_grad=True)
    ConeLayer(problem, [D, w], [X])(tensor, torch.tensor(1.0).double())[0].sum().backward()
    np.testing.assert_allclose(tensor.grad, [[0, 0], [0, 1]], atol=1e-9)


def test_entries_that_enter_nothing_may_be_infinite():
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x[:2] <= u[:2]]), [c, u], [x])
    solution = layer.solve(C, [INF, 1.0, INF])
    np.testing.assert_allclose(solution.variables[0], [0.5, 1.0, -3.0], atol=1e-9)
    np.testing.assert_allclose(solution.vjp(np.ones(3))[1], [0, 1, 0], atol=1e-9)


WRITTEN = {
    "norm": cp.norm(x) <= u[0],
    "norm1": cp.norm1(x) <= u[0],
    "sum of exp": cp.sum(cp.exp(x)) <= u[0],
    "log_sum_exp": cp.log_sum_exp(x) <= u[0],
    "sum_squares": cp.sum_squares(x) <= u[0],
    "abs": cp.abs(x - c) <= u,
    "lambda_max": cp.lambda_max(cp.diag(x)) <= u[0],
}


@pytest.mark.parametrize("function", WRITTEN)
def test_convex_functions_below_infinity_are_no_constraints(function):
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [WRITTEN[function]]), [c, u], [x])
    solution = layer.solve(C, np.full(3, INF))
    np.testing.assert_allclose(solution.variables[0], C, atol=1e-8)
    dc, du = solution.vjp(np.ones(3))
    np.testing.assert_allclose(dc, np.ones(3), atol=1e-7)
    np.testing.assert_array_equal(du, 0.0)


def test_a_problem_without_a_framework_takes_infinite_bounds():
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= u])
    c.value, u.value, c.delta, u.delta = C, np.array([INF, 1.0, INF]), np.ones(3), np.full(3, 2.0)
    try:
        backward(problem)
        np.testing.assert_allclose(c.gradient, [1, 0, 1], atol=1e-9)
        np.testing.assert_allclose(u.gradient, [0, 1, 0], atol=1e-9)
        derivative(problem)
        np.testing.assert_allclose(x.delta, [1, 2, 1], atol=1e-9)
    finally:
        c.value = u.value = c.gradient = u.gradient = c.delta = u.delta = x.delta = None


def test_multipliers_and_coefficients_of_open_rows_have_no_slope():
    """minimize ½‖x − c‖² subject to a∘x ≤ u: where u is finite and active, x = u/a and y = (c − x)/a."""
    a, bound = cp.Parameter(3, name="a"), x <= 9
    row = cp.multiply(a, x) <= u
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - c)), [row, bound])
    layer = ConeLayer(problem, [c, a, u], [x, row.dual_variables[0]])
    values = [torch.tensor(h) for h in (C, np.full(3, 2.0), np.array([INF, 1.0, INF]))]
    solution, multiplier = layer(*values)
    np.testing.assert_allclose(solution, [0.5, 0.5, -3.0], atol=1e-9)
    np.testing.assert_allclose(multiplier, [0, 0.75, 0], atol=1e-9)
    gradients = torch.func.jacrev(lambda *h: layer(*h)[0].sum(), argnums=(1, 2))(*values)
    np.testing.assert_allclose(gradients[0], [0, -0.25, 0], atol=1e-9)
    np.testing.assert_allclose(gradients[1], [0, 0.5, 0], atol=1e-9)
    hessian = torch.func.hessian(lambda *h: layer(*h)[0].sum(), argnums=(1, 2))(*values)
    for found, truth in zip((hessian[0][0], hessian[0][1], hessian[1][1]), (0.25, -0.25, 0.0), strict=True):
        np.testing.assert_allclose(found, np.diag([0, truth, 0]), atol=1e-8)


@pytest.mark.parametrize("selection", ["low", "high", "mid"])
def test_every_selection_takes_infinite_bounds(selection):
    """The projection of c onto the ball of radius 1 below u: x₂ = u₂ = 0.6, the rest (c₁, c₃) to length 0.8."""
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= u, cp.norm(x) <= 1])
    layer = ConeLayer(problem, [c, u], [x], selection=selection)
    values = [torch.tensor(h) for h in (np.array([3.0, 5.0, 4.0]), np.array([INF, 0.6, INF]))]
    np.testing.assert_allclose(layer(*values)[0], [0.48, 0.6, 0.64], atol=1e-8)
    slope = np.array([-0.45, 1.0, -0.6])  # d(0.8 (0.6, 0.8))/du₂ = −u₂/√(1 − u₂²) (0.6, 0.8)
    found = torch.func.jacrev(lambda *h: layer(*h)[0], argnums=1)(*values)
    np.testing.assert_allclose(found, np.outer(slope, [0, 1, 0]), atol=1e-7)
    second = torch.func.hessian(lambda *h: layer(*h)[0].sum(), argnums=1)(*values)
    # d²√(1 − u²)/du² = −(1 − u²)^(−3/2)
    np.testing.assert_allclose(second, np.diag([0, -1.4 / 0.8**3, 0]), atol=1e-6)


def test_geometric_programs_take_infinite_bounds():
    z, a, bound = cp.Variable(2, pos=True), cp.Parameter(2, pos=True), cp.Parameter(2, pos=True, name="bound")
    layer = Layer(cp.Problem(cp.Minimize(cp.sum(1 / z) + a @ z), [z <= bound]), [a, bound], [z], gp=True)
    solution = layer.solve([1.0, 0.25], [INF, 1.0])
    np.testing.assert_allclose(solution.variables[0], [1.0, 1.0], atol=1e-8)  # a^(-1/2), below the bound
    da, dbound = solution.vjp(np.array([1.0, 1.0]))
    np.testing.assert_allclose(da, [-0.5, 0], atol=1e-7)
    np.testing.assert_allclose(dbound, [0, 1], atol=1e-7)
    exponent = cp.Parameter(name="exponent")
    layer = Layer(cp.Problem(cp.Minimize(z[0] ** exponent + 1 / z[0]), [z[0] <= 9]), [exponent], [z], gp=True)
    refused(lambda: layer.solve(INF), "parameter exponent", "inf")


# in conic form


def test_a_cone_program_takes_infinite_bounds():
    P, q, A = np.eye(2), np.array([-1.0, -2.0]), np.vstack([np.eye(2), -np.eye(2)])
    solution = solve_and_differentiate(P, q, A, [INF, 1.0, INF, 0.0], {"l": 4})
    np.testing.assert_allclose(solution.x, [1, 1], atol=1e-9)
    np.testing.assert_array_equal(np.isinf(solution.s), [True, False, True, False])
    assert not solution.y[[0, 2]].any()
    dP, dq, dA, db = solution.vjp([1.0, 1.0], np.ones(4), np.ones(4))
    for h in (dP.toarray(), dq, dA.toarray(), db):
        assert np.isfinite(h).all()
    np.testing.assert_array_equal(db[[0, 2]], 0.0)
    np.testing.assert_array_equal(dA.toarray()[[0, 2]], 0.0)
    dx, dy, ds = solution.jvp(None, [0.5, 0.0], np.ones((4, 2)), [3.0, 1.0, 3.0, 0.0])
    np.testing.assert_allclose(dx, [-1.5, -1.0], atol=1e-9)  # −dq₁ − dA₂₁ y₂ and db₂ − dA₂ x, with y₂ = 1
    assert all(np.isfinite(h).all() for h in (dy, ds))
    assert solution.certify()[0].verdict
    with pytest.raises(SolveError, match="infeasible"):
        solve_and_differentiate(P, q, A, [INF, -INF, INF, 0.0], {"l": 4})
    refused(
        lambda: solve_and_differentiate(P, q, A, [INF, 1, 1, 0], {"z": 1, "l": 3}), "b:", "inf at [0]", "rows 1 to 3"
    )
    refused(
        lambda: solve_and_differentiate(P, q, A, [1, 1, INF, 0], {"l": 1, "q": [3]}), "b:", "inf at [2]", "leave out"
    )
    refused(lambda: solve_and_differentiate(P, q, A, [1, np.nan, 1, 0], {"l": 4}), "b:", "nan at [1]")


def test_solve_cone_program_takes_infinite_bounds():
    P, q, A = (torch.tensor(h, dtype=torch.float64, requires_grad=True) for h in (np.eye(2), [-1, -2], np.eye(2)))
    b = torch.tensor([[INF, 1.0], [0.5, INF], [INF, INF]], dtype=torch.float64, requires_grad=True)
    x, y, s = solve_cone_program(P, q, A, b, {"l": 2})
    np.testing.assert_allclose(x.detach(), [[1, 1], [0.5, 2], [1, 2]], atol=1e-9)
    assert torch.equal(s.isinf(), b.isinf())
    assert not y[b.isinf()].any()
    (x.sum() + y.sum() + torch.where(s.isinf(), 0.0, s).sum()).backward()
    assert not b.grad[b.isinf()].any()
    assert all(h.grad.isfinite().all() for h in (P, q, A, b))
    (db,) = torch.autograd.grad(solve_cone_program(P, q, A, b, {"l": 2}).s.sum(), b)
    assert not db[b.isinf()].any()
    refused(lambda: solve_cone_program(P, q, A, b, {"z": 1, "l": 1}), "parameter b at batch index 0, 2", "inf at [0]")
    refused(lambda: solve_cone_program(P, q, A, b, {"q": [2]}), "parameter b", "inf at [0]")


# PyTorch


@pytest.mark.parametrize(("low", "u"), BOUNDS)
def test_torch_differentiates_open_boxes_in_every_way(low, u):
    layer = ConeLayer(*box_problem())
    tensors = tuple(torch.tensor(h, requires_grad=True) for h in (C, low, u))
    truth, *diagonals = expected_box(C, low, u)
    jacobians = [torch.diag(torch.tensor(d, dtype=torch.float64)) for d in diagonals]

    def f(*h):
        return layer(*h)[0]

    np.testing.assert_allclose(f(*tensors).detach(), truth, atol=1e-9)
    for way in (torch.func.jacrev, torch.func.jacfwd):
        for found, block in zip(way(f, argnums=(0, 1, 2))(*tensors), jacobians, strict=True):
            torch.testing.assert_close(found, block, atol=1e-8, rtol=0)
    _, tangent = torch.func.jvp(f, tensors, tuple(torch.ones_like(h) for h in tensors))
    torch.testing.assert_close(tangent, sum(block.sum(1) for block in jacobians), atol=1e-8, rtol=0)
    for found, block in zip(layer.jacobian(*tensors)[0], jacobians, strict=True):
        torch.testing.assert_close(found, block, atol=1e-8, rtol=0)
    hessian = torch.func.hessian(lambda *h: (f(*h) ** 2).sum(), argnums=(0, 1, 2))(*tensors)
    for row, a in zip(hessian, jacobians, strict=True):
        for entry, b in zip(row, jacobians, strict=True):
            torch.testing.assert_close(entry, 2 * a.T @ b, atol=1e-7, rtol=0)
    first = torch.autograd.grad((f(*tensors) ** 2).sum(), tensors, create_graph=True)
    assert all(h.isfinite().all() for h in torch.autograd.grad(sum(h.sum() for h in first), tensors))


def test_torch_maps_over_batches_of_bounds():
    layer = ConeLayer(*box_problem())
    low, u = (torch.tensor(np.stack(h)) for h in zip(*BOUNDS, strict=True))
    c = torch.tensor(C)
    truth, *diagonals = expected_box(C, low.numpy(), u.numpy())
    mapped = torch.func.vmap(lambda a, b: layer(c, a, b)[0])(low, u)
    np.testing.assert_allclose(mapped, truth, atol=1e-9)
    gradients = torch.func.vmap(torch.func.grad(lambda a, b: layer(c, a, b)[0].sum(), argnums=(0, 1)))(low, u)
    for found, diagonal in zip(gradients, diagonals[1:], strict=True):
        np.testing.assert_allclose(found, diagonal, atol=1e-8)


def test_torch_masks_infeasible_instances():
    layer = ConeLayer(*box_problem(), on_failure="nan")
    u = torch.tensor([[INF] * 3, [1.0, -INF, 1.0], [1.0] * 3], requires_grad=True)
    x = layer(torch.tensor(C), torch.full((3,), -INF, dtype=torch.float64), u)[0]
    assert layer.last.status == (Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.SOLVED)
    x[[0, 2]].sum().backward()
    np.testing.assert_allclose(u.grad, [[0] * 3, [0] * 3, [0, 1, 0]], atol=1e-9)


def test_torch_compiles_open_boxes():
    layer = ConeLayer(*box_problem())
    low, u = (torch.tensor(h, requires_grad=True) for h in BOUNDS[0])
    c = torch.tensor(C)
    x = torch.compile(lambda *h: layer(*h)[0] * 1.0, backend="aot_eager")(c, low, u)
    x.sum().backward()
    truth, _, dl, du = expected_box(C, *BOUNDS[0])
    np.testing.assert_allclose(x.detach(), truth, atol=1e-9)
    np.testing.assert_allclose(low.grad, dl, atol=1e-9)
    np.testing.assert_allclose(u.grad, du, atol=1e-9)


def test_the_optimal_value_has_no_slope_in_a_bound_that_does_not_bound():
    layer = ConeLayer(*box_problem())
    tensors = tuple(torch.tensor(h, requires_grad=True) for h in (C, *BOUNDS[0]))
    value = layer.value(*tensors)
    x, *_ = expected_box(C, *BOUNDS[0])
    np.testing.assert_allclose(value.detach(), 0.5 * ((x - C) ** 2).sum(), atol=1e-9)
    for found, truth in zip(torch.autograd.grad(value, tensors), _value_gradients(x), strict=True):
        np.testing.assert_allclose(found, truth, atol=1e-8)


def _value_gradients(x):
    """Of ½‖x − c‖² at BOUNDS[0]: the bounds that are active are l₃ and u₂."""
    return C - x, np.array([0, 0, x[2] - C[2]]), np.array([0, x[1] - C[1], 0])


# what else a layer offers


def test_curved_cones_beside_open_bounds_have_second_derivatives():
    """minimize Σ exp(zᵢ) − pᵢzᵢ: z = log p, ∂z/∂p = 1/p, ∂²z/∂p² = −1/p²."""
    objective, constraints, z, p, value = cone_problems()["exponential"]
    bound = cp.Parameter(3, name="bound")
    layer = ConeLayer(cp.Problem(cp.Minimize(objective), [*constraints, z <= bound]), [p, bound], [z])
    p, bound = torch.tensor(value), torch.tensor([INF, 9.0, INF], dtype=torch.float64)
    hessian = torch.func.hessian(lambda a, b: layer(a, b)[0].sum(), argnums=(0, 1))(p, bound)
    np.testing.assert_allclose(hessian[0][0], -np.diag(1 / value**2), atol=1e-6)
    for block in (hessian[0][1], hessian[1][0], hessian[1][1]):
        np.testing.assert_allclose(block, 0.0, atol=1e-6)


def test_certificates_and_monitors_see_open_boxes():
    layer = box()
    certificate = layer.certify(C, *BOUNDS[0])[0]
    assert "classical" in str(certificate)
    margin = layer.certify(C, np.full(3, -100.0), [100.0, 1.0, 100.0])[0].margin
    assert np.isfinite(margin)
    assert np.isfinite(certificate.margin)
    with Monitor(layer) as monitor:
        layer.solve(C, *BOUNDS[0])
        layer.solve(C + 0.01, *BOUNDS[0])
        layer.solve(C, *BOUNDS[2])
    assert "nan" not in str(monitor)
    assert monitor.steps[0].jumps == 0
    assert np.isfinite(monitor.steps[0].size)


def test_warm_starts_cross_from_open_to_closed_bounds_and_back():
    layer = box(warm_start=True)
    for low, u in (*BOUNDS, (np.zeros(3), np.ones(3)), *BOUNDS):
        np.testing.assert_allclose(layer.solve(C, low, u).variables[0], expected_box(C, low, u)[0], atol=1e-9)


@pytest.mark.parametrize("smoothing", [LPGD(tau=1e-3), LPGD(tau=1e-3, rho=0.1, side="lower"), ProximalSmoothing(1e-6)])
def test_smoothed_derivatives_have_no_slope_in_open_bounds(smoothing):
    low, u = BOUNDS[0]
    solution = box(smoothing=smoothing).solve(C, low, u)
    gradients = solution.vjp(np.ones(3))
    for found, truth in zip(gradients, expected_box(C, low, u)[1:], strict=True):
        np.testing.assert_allclose(found, truth, atol=0.2)
    for g, bound in zip(gradients[1:], (low, u), strict=True):
        np.testing.assert_array_equal(g[np.isinf(bound)], 0.0)
    _, gl, gu = solution.vjp_points(gs=np.ones(solution.s.shape))
    np.testing.assert_array_equal(np.where(np.isinf(low), gl, 0.0), 0.0)
    np.testing.assert_array_equal(np.where(np.isinf(u), gu, 0.0), 0.0)


def test_executors_and_pickled_layers_take_infinite_bounds():
    low, u = (np.stack(h) for h in zip(*BOUNDS, strict=True))
    truth = box().solve(C, low, u)
    g = np.ones((4, 3))
    with ThreadPoolExecutor(2) as executor:
        solution = box(executor=executor, chunk_size=2).solve(C, low, u)
        np.testing.assert_allclose(solution.variables[0], truth.variables[0], atol=1e-9)
        for a, b in zip(solution.vjp(g), truth.vjp(g), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
    copied = pickle.loads(pickle.dumps(box()))
    np.testing.assert_allclose(copied.solve(C, low, u).variables[0], truth.variables[0], atol=1e-9)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(cp.square(c), cp.square(x)))), [u_ <= x])
    lifted = pickle.loads(pickle.dumps(Layer(problem, [c, u_], [x])))
    np.testing.assert_allclose(lifted.solve(C, [-INF, 1.0, -INF]).variables[0], [0, 1, 0], atol=1e-8)


u_ = cp.Parameter(3, name="u_")


def test_solutions_with_infinite_slacks_are_shown():
    layer = box()
    solution = layer.solve(C, *BOUNDS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shown in (solution, layer.last, layer):
            assert repr(shown)
            assert shown._repr_html_()
        assert str(layer.last)
        data = layer.problem_data(C, *BOUNDS[0])
    assert np.isinf(data.b).sum() == 4


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS"])
def test_each_solver_by_name_takes_infinite_bounds(solver):
    solution = box(solver=solver).solve(C, *BOUNDS[0])
    np.testing.assert_allclose(solution.variables[0], expected_box(C, *BOUNDS[0])[0], atol=1e-7)
    np.testing.assert_allclose(solution.vjp(np.ones(3))[2], [0, 1, 0], atol=1e-7)


def test_open_bounds_bring_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for low, u in BOUNDS:
            solution = box().solve(C, low, u)
            solution.vjp(np.ones(3)), solution.jacobian(), solution.certify()
