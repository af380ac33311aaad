"""Layers of linear and quadratic programs: the compiled core settles what it can, and the engine the rest of the same batch."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cvxpy as cp
import numpy as np
import pytest

from conelayers import Layer, Status
from conelayers.layer.core_batch import CoreBatch

B, N = 13, 6


def quadratic(**options) -> Layer:
    """Parameters c, G and h; with h < 0 somewhere a program may be infeasible."""
    x, c, G, h = (
        cp.Variable(N, name="x"),
        cp.Parameter(N, name="c"),
        cp.Parameter((9, N), name="G"),
        cp.Parameter(9, name="h"),
    )
    total = cp.sum(x) == 1
    return Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [G @ x <= h, total]), [c, G, h], [x], **options)


def values(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((B, N)), rng.standard_normal((B, 9, N)), 1 + rng.random((B, 9))]


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is computed in Python fails the test."""
    asked = lambda *_: pytest.fail("the engine in Python was asked")  # noqa: E731
    monkeypatch.setattr("conelayers.layer.solve_calls.solve_and_linearize", asked)
    monkeypatch.setattr(CoreBatch, "linearization_of", asked)


@pytest.mark.usefixtures("no_engine")
def test_an_instance_has_the_same_digits_alone_and_in_any_batch() -> None:
    layer, given, g = quadratic(), values(), np.random.default_rng(1).standard_normal((B, N))
    whole = layer.solve(*given)
    assert set(layer.last.solver) == {"CORE"}
    gradients, tangents = whole.vjp(g), whole.jvp(*given)
    for index in ([0], [3, 5], [12, 1, 7, 2, 9]):
        part = layer.solve(*[v[index] for v in given])
        np.testing.assert_array_equal(part.variables[0], whole.variables[0][index])
        for ours, all_of_them in zip(part.vjp(g[index]), gradients, strict=True):
            np.testing.assert_array_equal(ours, all_of_them[index])
        np.testing.assert_array_equal(part.jvp(*[v[index] for v in given])[0], tangents[0][index])
    alone = layer.solve(*[v[4] for v in given])
    np.testing.assert_array_equal(alone.variables[0], whole.variables[0][4])
    np.testing.assert_array_equal(alone.vjp(g[4])[1], gradients[1][4])


def test_everything_that_is_asked_of_a_solution_is_what_the_engine_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    given, g = values(2), np.random.default_rng(3).standard_normal((B, N))
    core = quadratic().solve(*given)
    monkeypatch.setattr("conelayers.layer.compiled_core.CompiledCore.of", lambda compiled: None)
    engine = quadratic().solve(*given)
    assert set(core.solver) == {"CORE"}
    assert "CORE" not in engine.solver
    close = {"rtol": 0, "atol": 1e-10}
    for ours, theirs in (
        (core.variables, engine.variables),
        (core.points, engine.points),
        ((core.value,), (engine.value,)),
        (core.vjp(g), engine.vjp(g)),
        (core.jvp(*given), engine.jvp(*given)),
        (core.vjp_points(*core.points), engine.vjp_points(*core.points)),
        (core.jacobian()[0], engine.jacobian()[0]),
        ((core.predict(np.ones((B, 69))),), (engine.predict(np.ones((B, 69))),)),
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, **close)
    assert [c.verdict for c in core.certify()] == [c.verdict for c in engine.certify()]
    assert core.residuals.worst.max() <= 1e-12


def test_what_the_core_leaves_open_is_solved_in_the_same_batch() -> None:
    """An infeasible instance, one without a bound below, and one that is no number, among regular ones."""
    x, p, q = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    layer = Layer(cp.Problem(cp.Minimize(p @ x), [x >= 0, cp.sum(x[:2]) == q, x[2] <= 1 + cp.sum(x[:2])]), [p, q], [x])
    costs = np.array([[1.0, 2, 1], [3, 1, 2], [1.0, 2, 1], [2, 1, -1]])
    total = np.array([1.0, 2.0, -1.0, 3.0])
    solution = layer.solve(costs, total, on_failure="nan")
    assert solution.status == (Status.SOLVED, Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.SOLVED)
    np.testing.assert_allclose(solution.variables[0][[0, 1, 3]], [[1, 0, 0], [0, 2, 0], [0, 3, 4]], atol=1e-12)
    assert np.isnan(solution.variables[0][2]).all()
    g = np.ones((4, 3))
    g[2] = 0
    gradient = solution.vjp(g, needed=[False, True])[1]
    np.testing.assert_allclose(gradient, [1, 1, 0, 2], atol=1e-12)
    free = cp.Variable(2)
    c = cp.Parameter(2)
    unbounded = Layer(cp.Problem(cp.Minimize(c @ free), [free >= 0]), [c], [free])
    found = unbounded.solve(np.array([[1.0, 1.0], [1.0, -1.0]]), on_failure="nan")
    assert found.status == (Status.SOLVED, Status.DUAL_INFEASIBLE)


def test_rounding_that_contradicts_a_row_without_coefficients_is_not_told_as_infeasible() -> None:
    x, p, a = cp.Variable(2), cp.Parameter(), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [p * x[0] + cp.sum(a) == 0.6])
    layer = Layer(problem, [p, a], [x])
    np.testing.assert_allclose(layer.solve(0.0, np.array([0.1, 0.2, 0.3])).variables[0], 1.0, atol=1e-9)


def test_a_pickled_solution_factors_once_more_and_keeps_its_own_values() -> None:
    layer, given = quadratic(), values(4)
    solution, g = layer.solve(*given), np.ones((B, N))
    expected, jacobian = solution.vjp(g), solution.jacobian()[0]
    for v in given:
        v += 1.0  # what the user does to the arrays afterwards is not the solution's business
    again = pickle.loads(pickle.dumps(solution))
    for ours, theirs in zip(again.vjp(g), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)
    for ours, theirs in zip(again.jacobian()[0], jacobian, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)


def test_calls_that_choose_otherwise_do_not_ask_the_core() -> None:
    given = values()
    assert set(quadratic(solver="CLARABEL").solve(*given).solver) == {"CLARABEL"}
    assert "CORE" not in quadratic(selection="high").solve(*given).solver
    layer = quadratic()
    assert "CORE" not in layer.solve(*given, solver_args={"solve_method": "SCS"}).solver
    assert "CORE" not in layer.solve(*given, solver_args={"max_iters": 40}).solver


@pytest.mark.usefixtures("no_engine")
def test_inactive_norms_leave_nothing_to_the_engine() -> None:
    """Their epigraph variables are free there, which makes J singular, and nothing depends on them."""
    x, p = cp.Variable(4), cp.Parameter(4)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm1(x) <= 50]), [p], [x])
    given = np.random.default_rng(0).standard_normal((5, 4))
    solution = layer.solve(given)
    np.testing.assert_allclose(solution.vjp(given)[0], given, atol=1e-12)
    np.testing.assert_allclose(solution.jvp(given)[0], given, atol=1e-12)


def test_at_a_kink_the_element_does_not_depend_on_rounding() -> None:
    """x₁ = 0 by a bound whose multiplier is rounding: the default is the smallest element, 0, so x follows p."""
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum(x - p) ** 2), [x >= 0]), [p], [x])
    solution = layer.solve(np.array([[1, 0.0], [1, 1e-17], [1, -1e-17]]))
    np.testing.assert_allclose(solution.vjp(np.ones((3, 2)))[0], 1.0, atol=1e-12)


@pytest.mark.usefixtures("no_engine")
def test_the_previous_solution_is_a_start() -> None:
    layer, given = quadratic(warm_start=True), values(5)
    first = layer.solve(*given)
    second = layer.solve(*[v + 1e-3 for v in given])
    fresh = quadratic().solve(*[v + 1e-3 for v in given])
    np.testing.assert_allclose(second.variables[0], fresh.variables[0], rtol=0, atol=1e-11)
    assert not np.array_equal(first.variables[0], second.variables[0])


def test_the_adapter_for_torch_does_not_load_its_compiler() -> None:
    """It takes a second and 70 MB, of programs that compile nothing."""
    code = "import sys, conelayers.torch; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
