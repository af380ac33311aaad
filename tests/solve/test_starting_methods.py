"""The ways to a start: each leads to the solution where it says so, and leaves the rest to others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from random_programs import random_program
from zoo import ZOO

from conelayers import Cones, Layer, SolveError
from conelayers.numerics.kkt import factorize
from conelayers.numerics.newton import polish
from conelayers.numerics.presolve import presolve
from conelayers.numerics.residual import evaluate
from conelayers.numerics.scaling import equilibrate_program
from conelayers.problem.canonicalize import canonicalize
from conelayers.problem.parameter_checks import combine_batch
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import Pattern
from conelayers.solve.active_set import ActiveSet
from conelayers.solve.backends import SOLVERS, RawSolution, Settings
from conelayers.solve.batch import _whole_point
from conelayers.solve.order import StartingOrder
from conelayers.solve.progress import Progress, weigh_gaps
from conelayers.solve.small_quadratic import SmallQuadratic
from conelayers.solve.splitting import split
from conelayers.solve.starting_methods import Backend
from conelayers.support.errors import Status
from conelayers.support.parallel import _controller, one_blas_thread, run_parallel


def programs(name: str, batch: int) -> ConeProgram:
    case = ZOO[name]()
    compiled = canonicalize(case.problem, case.parameters, case.variables, gp=case.gp)
    rng = np.random.default_rng(0)
    draws = [case.draw(rng) for _ in range(batch)]
    theta = combine_batch(compiled.parameters, [np.stack(v) for v in zip(*draws, strict=True)]).theta
    return presolve(equilibrate_program(compiled.program(theta)).program).smaller


def simplex_layer(n: int) -> Layer:
    x, a = cp.Variable(n), cp.Parameter(n)
    return Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0]), [a], [x])


def project_simplex(a: np.ndarray) -> np.ndarray:
    u = np.sort(a)[::-1]
    k = np.arange(1, a.size + 1)
    shift = (np.cumsum(u) - 1) / k
    return np.maximum(a - shift[u > shift][-1], 0)


SPLIT = ["lasso", "mpc", "socp_norm_ball", "socp_group_lasso", "sdp_max_cut", "sdp_nearest_correlation", "sdp_lmi"]


@pytest.mark.parametrize("name", SPLIT)
def test_splitting_leads_near_enough_for_newton(name: str) -> None:
    program = programs(name, 16)
    x, v = split(
        program.dense_P, program.q, program.dense_A, program.b, program.structure.cones, rounds=3, iterations=15
    )
    polished = polish(program, x, v, tolerance=1e-13, enough=1e-10, plain_steps=10, proximal_steps=6, jobs=1)
    assert np.all(polished.error <= 1e-10)


def test_splitting_runs_on_other_arrays() -> None:
    program = programs("socp_group_lasso", 4)
    arrays = program.dense_P, program.q, program.dense_A, program.b
    expected = split(*arrays, program.structure.cones, rounds=2, iterations=10)
    tensors = split(*map(torch.as_tensor, arrays), program.structure.cones, rounds=2, iterations=10)
    for a, b in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-9)


@pytest.mark.usefixtures("without_core")
def test_active_set_steps_project_onto_a_large_simplex() -> None:
    value = np.random.default_rng(0).standard_normal(3000)
    solution = simplex_layer(3000).solve(value)
    assert solution.solver == "ACTIVE SET"
    np.testing.assert_allclose(solution.variables[0], project_simplex(value), atol=1e-14)


def test_active_set_steps_give_up_where_they_cycle() -> None:
    """A control problem with bounds, on which full steps do not settle: told, not returned."""
    program = programs("mpc", 8)
    start = ActiveSet().start(program, np.arange(8), 1)
    for status, x in zip(start.status, start.x, strict=True):
        assert status is Status.SOLVED or not x.any()
    solved = [i for i, s in enumerate(start.status) if s is Status.SOLVED]
    polished = polish(program, start.x, start.v, tolerance=1e-13, enough=1e-10, plain_steps=0, proximal_steps=0, jobs=1)
    assert np.all(polished.error[solved] <= 1e-10)


@pytest.mark.usefixtures("without_core")
def test_instances_of_a_batch_take_different_routes() -> None:
    """P is definite in one instance only: the kernel solves that one, others the rest, all to the same accuracy."""
    x, w = cp.Variable(3), cp.Parameter(3, nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(w, x**2)) + cp.sum(x)), [x >= -1, cp.sum(x) <= 3])
    layer = Layer(problem, [w], [x])
    weights = np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 3.0], [0.25, 0.25, 0.25]])
    solution = layer.solve(weights)
    assert solution.solver[0] == solution.solver[2] == "ACTIVE SET"
    assert solution.solver[1] != "ACTIVE SET"
    free = weights > 0.5
    expected = np.where(free, -0.5 / np.maximum(weights, 0.1), -1.0)
    np.testing.assert_allclose(solution.variables[0], expected, atol=1e-12)
    gradient = solution.vjp(np.ones((3, 3)))[0]
    np.testing.assert_allclose(gradient[free], 0.5 / weights[free] ** 2, atol=1e-10)
    np.testing.assert_allclose(gradient[~free], 0, atol=1e-10)


def test_proximal_steps_pass_where_plain_ones_do_not() -> None:
    """From a far point of a linear program with J singular on the way."""
    program = programs("lp_inequality", 6)
    rng = np.random.default_rng(3)
    x, v = 3 * rng.standard_normal(program.q.shape), 3 * rng.standard_normal(program.b.shape)
    options = {"tolerance": 1e-13, "enough": 1e-10, "jobs": 1}
    plain = polish(program, x, v, plain_steps=10, proximal_steps=0, **options)
    guarded = polish(program, x, v, plain_steps=10, proximal_steps=100, **options)
    assert np.sum(guarded.error <= 1e-10) > np.sum(plain.error <= 1e-10)


def test_newton_from_the_solution_stays_there() -> None:
    program, x, v = random_program(Cones(zero=2, nonneg=4, soc=(4,), psd=(3,)), 7, 5, 0)
    polished = polish(program, x, v, tolerance=1e-13, enough=1e-10, plain_steps=10, proximal_steps=0, jobs=1)
    np.testing.assert_allclose(polished.x, x, atol=1e-9)
    assert np.all(polished.error <= 1e-13)


@pytest.mark.parametrize("name", ["portfolio", "lp_transport", "socp_robust_lp", "sdp_max_cut", "exp_kl_projection"])
def test_warm_starts_give_the_same_answers(name: str) -> None:
    case = ZOO[name]()
    warm, cold = (Layer(case.problem, case.parameters, case.variables, warm_start=w) for w in (True, False))
    rng = np.random.default_rng(5)
    base = [np.stack(v) for v in zip(*(case.draw(rng) for _ in range(4)), strict=True)]
    for size, factor in ((4, 1.0), (2, 1.01), (4, 1.02), (1, 0.99)):
        values = [factor * v[:size] for v in base]
        a, b = warm.solve(*values), cold.solve(*values)
        for left, right in zip(a.variables, b.variables, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-9)
        g = [rng.standard_normal(v.shape) for v in a.variables]
        for left, right in zip(a.vjp(*g), b.vjp(*g), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-7 * max(1.0, np.abs(right).max()))


def test_warm_starts_survive_infeasible_calls() -> None:
    x, a = cp.Variable(2), cp.Parameter()
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= a, x <= 1]), [a], [x], warm_start=True)
    layer.solve(0.5)
    with pytest.raises(RuntimeError):
        layer.solve(2.0)
    np.testing.assert_allclose(layer.solve(0.75).variables[0], 0.75, atol=1e-12)


def test_small_quadratic_takes_only_what_it_should() -> None:
    assert SmallQuadratic.suits(programs("portfolio", 1).structure)
    assert not SmallQuadratic.suits(programs("lp_inequality", 1).structure)
    assert not SmallQuadratic.suits(programs("socp_norm_ball", 1).structure)


def test_blas_threads_are_given_back() -> None:
    def counts() -> list[int]:
        return [i["num_threads"] for i in _controller().info() if i["user_api"] == "blas"]

    before = counts()
    with one_blas_thread():
        assert set(counts()) == {1}
        with ThreadPoolExecutor(2) as pool:  # whoever else solves meanwhile
            list(pool.map(lambda _: run_parallel(abs, range(4), 2), range(8)))
        assert set(counts()) == {1}
    assert counts() == before
    simplex_layer(100).solve(np.random.default_rng(0).standard_normal((4, 100)))
    assert counts() == before


def test_a_limit_of_the_solver_s_own_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Clarabel gives up by a limit that nobody asked for, the other backends still get their turn."""

    def give_up(self, data, settings, warm):
        zeros = np.zeros(data.b.size)
        return RawSolution(np.full(data.q.size, 1e3), zeros, zeros, Status.ITERATION_LIMIT, "gave up")

    monkeypatch.setattr(type(SOLVERS["CLARABEL"]), "solve", give_up)
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c) + 0.5 * cp.norm1(x) + cp.norm2(x)))
    assert Layer(problem, [c], [x]).solve(np.array([4.5, -0.9])).solver in ("SCS", "ECOS")
    assert Layer(problem, [c], [x], solver="CLARABEL").solve(np.array([4.5, -0.9])).solver in ("SCS", "ECOS")
    with pytest.raises(SolveError, match="iteration limit"):
        Layer(problem, [c], [x], solver="CLARABEL").solve(np.array([4.5, -0.9]), solver_args={"fallback": False})


def test_the_program_as_it_was_given_is_a_way_too() -> None:
    """Points of the unscaled program are those of the equilibrated and presolved one in other units."""
    rng = np.random.default_rng(0)
    x, c = cp.Variable(4), cp.Parameter(4)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(1e3 * x - c)), [1e4 * x >= 1, cp.sum(x) <= 1e3])
    compiled = canonicalize(problem, [c], [x])
    program = compiled.program(1e3 * rng.standard_normal((3, 4)))
    scaled, scaling, _ = equilibrate_program(program)
    presolved = presolve(scaled)
    assert presolved.elimination is not None
    (method,) = StartingOrder(SOLVERS["CLARABEL"], Settings(), False).without_equilibration(program, scaling, presolved)
    index = np.array([0, 2])
    part = presolved.smaller.take(index)
    start = method.start(part, index, 1)
    assert np.all(evaluate(part, start.x, start.v).error(part) < 1e-6)
    assert not list(
        StartingOrder(SOLVERS["CLARABEL"], Settings(), True, fallback=False).without_equilibration(
            program, scaling, presolved
        )
    )


def linear_program(q: list[float], A: np.ndarray, b: list[float], cones: Cones) -> ConeProgram:
    A = sp.csc_array(A)
    structure = Structure(Pattern.of(sp.csc_array((len(q), len(q)))), Pattern.of(A), cones)
    return ConeProgram(structure, np.zeros((1, 0)), np.array([q]), A.data[None], np.array([b]))


def test_the_simplex_method_ends_at_a_vertex_or_with_a_ray() -> None:
    """x₀ + x₁ = 1, x ≥ 0: costs (1, 2), bounds that contradict it by 1e−6, and no equation at all."""
    simplex = Backend(SOLVERS["HIGHS"], Settings())
    A = np.vstack([np.ones((1, 2)), -np.eye(2)])
    start = simplex.start(linear_program([1.0, 2.0], A, [1.0, 0.0, 0.0], Cones(zero=1, nonneg=2)), np.arange(1), 1)
    assert start.status == [Status.SOLVED]
    np.testing.assert_allclose(start.x, [[1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(start.v, [[-1.0, -1.0, 1.0]], atol=1e-12)  # y = (−1, 0, 1), s = (0, 1, 0)
    narrow = linear_program([1.0, 2.0], A, [1.0, -1.0, -1e-6], Cones(zero=1, nonneg=2))
    assert simplex.start(narrow, np.arange(1), 1).status == [Status.PRIMAL_INFEASIBLE]
    falling = linear_program([-1.0, 2.0], -np.eye(2), [0.0, 0.0], Cones(nonneg=2))
    assert simplex.start(falling, np.arange(1), 1).status == [Status.DUAL_INFEASIBLE]


@pytest.mark.parametrize(("before", "kept", "error"), [(0.0, 0.0, 0.0), (1e-9, 1e-11, 1.0)])
def test_the_gap_counts_where_it_is_what_is_wrong(before: float, kept: float, error: float) -> None:
    """minimize 10⁶x, x ≥ 0: at x = 1e−11 the residual is tiny, and the gap is all there is: x is not zero."""
    program = linear_program([1e6], np.array([[-1.0]]), [0.0], Cones(nonneg=1))
    x, v, errors = np.array([[1e-11]]), np.array([[1e6]]), np.array([1e-11])
    back = weigh_gaps(program, np.array([0]), (np.array([[before]]), v.copy()), (x, v), errors)
    assert back.size == (kept == before)
    assert x[0, 0] == kept
    assert errors[0] == pytest.approx(error, rel=1e-4)


def test_the_whole_point_is_corrected_by_a_newton_step() -> None:
    """At a point of the smaller program that is off by 1e−7 the correction has to take away nearly all of the error."""
    case = ZOO["sdp_nearest_correlation"]()
    compiled = canonicalize(case.problem, case.parameters, case.variables)
    theta = combine_batch(compiled.parameters, [v[None] for v in case.draw(np.random.default_rng(0))]).theta
    presolved = presolve(equilibrate_program(compiled.program(theta)).program)
    whole, smaller, progress = presolved.whole, presolved.smaller, Progress(presolved.smaller)
    assert presolved.elimination is not None
    clarabel = Backend(SOLVERS["CLARABEL"], Settings(tolerance=1e-8), proximal_steps=0)
    progress.try_method(clarabel, smaller, 1, None)
    progress.x = progress.x + 1e-7
    progress.parts = [(np.arange(1), factorize(smaller, evaluate(smaller, progress.x, progress.v).element, 1))]
    before = evaluate(whole, *presolved.expand(progress.x, progress.v))
    point, _ = _whole_point(presolved, progress)
    for F, F_before in ((point.F1, before.F1), (point.F2, before.F2)):
        assert np.abs(F).max() <= 1e-3 * max(np.abs(before.F1).max(), np.abs(F_before).max())
