"""What is told of programs without a solution is true and proven; what has a solution, however large, is not told to have none."""

from __future__ import annotations

import warnings
from collections import Counter

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from conelayers import Cones, Layer, SolveError, Status, solve_and_differentiate
from conelayers.numerics.cones import product_cone
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import Pattern
from conelayers.solve.backends import SOLVERS, RawSolution
from conelayers.solve.infeasibility.certificates import is_dual_ray, is_primal_ray, proven
from conelayers.solve.infeasibility.farkas import System, refined

CONES = {
    "linear": Cones(zero=2, nonneg=6),
    "second-order": Cones(zero=1, nonneg=2, soc=(3, 4)),
    "semidefinite": Cones(nonneg=2, psd=(3, 2)),
    "exponential": Cones(zero=1, nonneg=2, exp=2),
    "power": Cones(nonneg=2, power=(0.3, 0.6)),
    "mixed": Cones(zero=1, nonneg=3, soc=(3,), psd=(2,), exp=1),
}
UNITS = {"plain": 0, "mild": 2, "wild": 5}


def status_of(P, q, A, b, cones: Cones, **options) -> Status:
    try:
        return solve_and_differentiate(P, q, A, b, cones, **options).status
    except SolveError as error:
        return error.statuses[0]


def in_cone(cones: Cones, rng: np.random.Generator, *, dual: bool, boundary: bool) -> np.ndarray:
    """A random point of K or K*, in the interior but for the zero cone, or on the boundary."""
    inner = np.zeros(cones.dimension)
    for _ in range(1 if boundary else 4):  # sums of points of a cone that lie on its boundary are inside
        v = rng.standard_normal(cones.dimension)
        inner += product_cone(cones).project_dual(v)[0] if dual else product_cone(cones).project_dual(-v)[0] + v
    inner[: cones.zero] = rng.standard_normal(cones.zero) if dual else 0.0
    return inner


def in_units(P, q, A, b, cones: Cones, rng: np.random.Generator, decades: int):
    """The same program with columns and blocks of rows in other units."""
    columns = 10.0 ** rng.integers(-decades, decades + 1, q.size)
    rows = np.repeat(10.0 ** rng.integers(-decades, decades + 1, cones.block_sizes.size), cones.block_sizes)
    return columns[:, None] * P * columns, columns * q, rows[:, None] * A * columns, rows * b, cones


def primal_infeasible(cones: Cones, seed: int, decades: int, boundary: bool):
    """y ∈ K*, Aᵀy = 0, bᵀy = −1: planted."""
    rng = np.random.default_rng(seed)
    m, n = cones.dimension, int(rng.integers(1, 6))
    y = in_cone(cones, rng, dual=True, boundary=boundary)
    A = rng.standard_normal((m, n))
    A -= np.outer(y, y @ A) / (y @ y)
    b = rng.standard_normal(m)
    b -= y * (b @ y + 1) / (y @ y)
    half = rng.standard_normal((n, int(rng.integers(0, n + 1))))
    return in_units(half @ half.T, rng.standard_normal(n), A, b, cones, rng, decades)


def dual_infeasible(cones: Cones, seed: int, decades: int, boundary: bool):
    """Px = 0, −Ax ∈ K, qᵀx = −1, and a point with slacks inside of K: planted."""
    rng = np.random.default_rng(seed)
    m, n = cones.dimension, int(rng.integers(2, 6))
    x = rng.standard_normal(n)
    s = in_cone(cones, rng, dual=False, boundary=boundary)
    A = rng.standard_normal((m, n))
    A -= np.outer(A @ x + s, x) / (x @ x)
    b = A @ rng.standard_normal(n) + in_cone(cones, rng, dual=False, boundary=False)
    q = rng.standard_normal(n)
    q -= x * (q @ x + 1) / (x @ x)
    half = rng.standard_normal((n, int(rng.integers(0, n))))
    half -= np.outer(x, x @ half) / (x @ x)
    return in_units(half @ half.T, q, A, b, cones, rng, decades)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", CONES)
def test_planted_certificates_are_found(name: str, units: str) -> None:
    for boundary in (False, True):
        for seed in range(4):
            data = primal_infeasible(CONES[name], seed, UNITS[units], boundary)
            assert status_of(*data) is Status.PRIMAL_INFEASIBLE, f"primal, {boundary=}, {seed=}"
            data = dual_infeasible(CONES[name], seed, UNITS[units], boundary)
            assert status_of(*data) is Status.DUAL_INFEASIBLE, f"dual, {boundary=}, {seed=}"


@pytest.mark.parametrize("name", CONES)
def test_what_has_both_certificates_is_primal_infeasible(name: str) -> None:
    """A direction in which the objective falls for ever shows nothing where there is no point to start from."""
    rng = np.random.default_rng(1)
    for seed in range(4):
        P, _, A, b, cones = primal_infeasible(CONES[name], seed, 0, False)
        n = A.shape[1] + 1
        A = np.hstack([A, np.zeros((A.shape[0], 1))])
        q = np.append(rng.standard_normal(n - 1), -1.0)
        assert status_of(np.pad(P, (0, 1)), q, A, b, cones) is Status.PRIMAL_INFEASIBLE


def random_linear_program(seed: int):
    """Integers, which are often degenerate, or normal deviates, with rows in other units, and a planted dual point now and then."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 7), rng.integers(1, 10)
    zero = int(rng.integers(0, min(m, 3) + 1)) if rng.random() < 0.5 else 0

    def numbers(*shape: int) -> np.ndarray:
        return rng.integers(-2, 3, size=shape).astype(float) if rng.random() < 0.5 else rng.normal(size=shape)

    A, b, q = numbers(m, n), numbers(m), numbers(n)
    if rng.random() < 0.3:
        rows = 10.0 ** rng.integers(-6, 7, size=m)
        A, b = rows[:, None] * A, rows * b
    if rng.random() < 0.3:
        y = rng.normal(size=m)
        q = -A.T @ np.where(np.arange(m) < zero, y, np.abs(y))
    return q, A, b, zero


def highs(q: np.ndarray, A: np.ndarray, b: np.ndarray, zero: int) -> Status:
    rows = np.abs(A).max(axis=1) + np.abs(b) + 1e-300
    A, b = A / rows[:, None], b / rows

    def solved(cost: np.ndarray) -> int:
        return linprog(cost, A[zero:], b[zero:], A[:zero], b[:zero], (None, None), method="highs").status

    if solved(0 * q) == 2:
        return Status.PRIMAL_INFEASIBLE
    return Status.SOLVED if solved(q) == 0 else Status.DUAL_INFEASIBLE


def test_linear_programs_agree_with_highs() -> None:
    counts = Counter()
    for seed in range(720):
        q, A, b, zero = random_linear_program(seed)
        expected = highs(q, A, b, zero)
        told = status_of(None, q, A, b, Cones(zero=zero, nonneg=b.size - zero))
        counts[expected] += 1
        if expected is Status.SOLVED:
            assert told not in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE), f"{seed=}"
        else:
            assert told is expected, f"{seed=}"
    assert min(counts.values()) >= 150


def value_and_status(problem: cp.Problem) -> tuple[float, Status]:
    scale = cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(scale * problem.objective.expr), problem.constraints)
    solution = Layer(problem, [scale], problem.variables(), on_failure="nan").solve(1.0)
    return float(solution.value), solution.status


def spread_out(condition: float, n: int, seed: int) -> tuple[cp.Problem, float]:
    """tr(MX) − log det X, least at X = M⁻¹."""
    eigenvalues = np.logspace(0, -np.log10(condition), n)
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    X = cp.Variable((n, n), symmetric=True)
    M = (Q * eigenvalues) @ Q.T
    return cp.Problem(cp.Minimize(cp.trace((M + M.T) / 2 @ X) - cp.log_det(X))), float(np.log(eigenvalues).sum() + n)


def slow_growth(a: float) -> tuple[cp.Problem, float]:
    x = cp.Variable()
    return cp.Problem(cp.Minimize(a * x - cp.sqrt(x))), -1 / (4 * a)


def steep(a: float) -> tuple[cp.Problem, float]:
    x = cp.Variable()
    return cp.Problem(cp.Minimize(cp.power(x, 1.5) / 1.5 - a * x)), -(a**3) / 3


def logarithmic(a: float) -> tuple[cp.Problem, float]:
    x = cp.Variable()
    return cp.Problem(cp.Minimize(a * x - cp.log(x))), 1 + float(np.log(a))


FAR_AWAY = [
    *((spread_out, (condition, n, n)) for condition in (1e4, 1e6, 1e8) for n in (2, 3)),
    *((slow_growth, (a,)) for a in (1e-3, 1e-5, 1e-6, 1e-7, 1e-9)),
    *((steep, (a,)) for a in (1e1, 1e3, 1e4)),
    *((logarithmic, (a,)) for a in (1e-4, 1e-6, 1e-8)),
]


@pytest.mark.filterwarnings("ignore::conelayers.InaccurateSolutionWarning")
@pytest.mark.parametrize(("make", "arguments"), FAR_AWAY)
def test_a_large_solution_is_no_ray(make, arguments) -> None:
    problem, right = make(*arguments)
    value, status = value_and_status(problem)
    assert status not in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)
    if make is spread_out and arguments[0] <= 1e6:
        assert status is Status.SOLVED
    if status is Status.SOLVED:
        assert abs(value - right) <= 1e-7 * max(1.0, abs(right))


def conic(P, q, A, b, cones: Cones) -> ConeProgram:
    P, A = sp.csc_array(np.atleast_2d(P)), sp.csc_array(np.atleast_2d(A))
    structure = Structure(Pattern.of(P), Pattern.of(A), cones)
    return ConeProgram(structure, P.data[None], np.array([q], dtype=float), A.data[None], np.array([b], dtype=float))


@pytest.mark.parametrize("gap", [1e-2, 1e-6, 1e-10, 1e-14])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_an_empty_interval_however_small(gap: float, unit: float) -> None:
    """0 ≤ x ≤ −gap: infeasible by all of what b says."""
    quadratic = conic([[1.0]], [-1.0], unit * np.array([[-1.0], [1.0]]), [0.0, -unit * gap], Cones(nonneg=2))
    assert proven(quadratic, {}, searched={0}) == {0: Status.PRIMAL_INFEASIBLE}
    # minimize eˣ: (x, 1, t) in the exponential cone.
    A = np.array([[-unit, 0.0], [unit, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    exponential = conic(np.zeros((2, 2)), [0.0, 1.0], A, [0.0, -unit * gap, 0.0, 1.0, 0.0], Cones(nonneg=2, exp=1))
    assert proven(exponential, {}, searched={0}) == {0: Status.PRIMAL_INFEASIBLE}
    # The same with room for x is none of both.
    roomy = conic([[1.0]], [-1.0], unit * np.array([[-1.0], [1.0]]), [0.0, unit * gap], Cones(nonneg=2))
    assert proven(roomy, {}, searched={0}) == {}


@pytest.mark.parametrize("unit", [1.0, 1e4, 1e-4])
def test_nearly_infeasible_is_not_infeasible(unit: float) -> None:
    """Equations that agree to rounding, a ball that touches a half-space, and t² ≤ x, which lets t grow like √x."""
    touching = conic(
        np.zeros((2, 2)), [0, 1], [[-unit, 0], [0, 0], [-1, 0], [0, -1]], [-unit, 1, 0, 0], Cones(nonneg=1, soc=(3,))
    )
    equal = conic(np.zeros((1, 1)), [1.0], unit * np.array([[0.1], [0.3]]), [0.7 * unit, 2.1 * unit], Cones(zero=2))
    A = [[-0.5 * unit, 0], [-0.5 * unit, 0], [0, -1]]
    rooted = [conic(np.zeros((2, 2)), [a * unit, -1], A, [0.5, -0.5, 0], Cones(soc=(3,))) for a in (1e-5, 1e-7, 1e-9)]
    for program in (touching, equal, *rooted):
        assert proven(program, {}, searched={0}) == {}
    for a, program in zip((1e-5, 1e-7, 1e-9), rooted, strict=True):
        x = np.array([0.25 / a**2 / unit, 0.5 / a])  # the solution
        assert proven(program, {0: [(x, np.ones(3))]}, searched={0}) == {}


OBJECTIVES = {
    "linear": lambda x: np.arange(1, 4) @ x,
    "quadratic": cp.sum_squares,
    "norm": lambda x: cp.norm(x - 1),
    "exponential": lambda x: cp.sum(cp.exp(x)),
    "eigenvalue": lambda x: cp.lambda_max(cp.diag(x) + np.ones((3, 3))),
    "power": lambda x: cp.sum(cp.power(cp.abs(x), 1.5)),
}


@pytest.mark.parametrize("bound", [1e3, 1e12, 1e20])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loose_bounds_hide_nothing(name: str, bound: float) -> None:
    x = cp.Variable(3)
    constraints = [x >= -1, x <= 1, cp.sum(x) >= 3.5, x[0] <= bound]
    _, status = value_and_status(cp.Problem(cp.Minimize(OBJECTIVES[name](x)), constraints))
    assert status is Status.PRIMAL_INFEASIBLE


@pytest.mark.parametrize("status", [Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE])
def test_what_is_said_to_be_infeasible_has_to_be_shown(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is wrong of it does not have the last word."""

    def lie(self, data, settings, start):
        ray = np.ones(data.b.size)
        return RawSolution(np.ones(data.q.size), ray, ray, status, "so it seems")

    monkeypatch.setattr(type(SOLVERS["CLARABEL"]), "_solve", lie)
    A, b = np.vstack([np.eye(3), -np.eye(3)]), np.ones(6)
    solution = solve_and_differentiate(None, np.array([1.0, 2.0, 3.0]), A, b, Cones(nonneg=6))
    np.testing.assert_allclose(solution.x, -1.0, atol=1e-9)


def test_units_make_nothing_infeasible() -> None:
    """‖Ax − b‖² with A of a million and x ≥ −1, whose rows Clarabel takes for contradictory."""
    rng = np.random.default_rng(1)
    A = 1e6 * rng.standard_normal((6, 4))
    b = A @ rng.standard_normal(4) + 1e6 * rng.uniform(0.1, 1, 6)
    x, c = cp.Variable(4), cp.Parameter(4)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + c @ x), [x >= -1]), [c], [x])
    solution = layer.solve(-A.T @ rng.uniform(0, 1, 6) / 1e6)
    assert solution.status is Status.SOLVED


def test_rays_hold_to_rounding() -> None:
    cones, A, b = Cones(nonneg=2), np.array([[-1.0], [1.0]]), np.array([-1.0, 0.0])  # x ≥ 1, x ≤ 0
    assert is_primal_ray(A, b, cones, np.array([1.0, 1.0]))
    assert not is_primal_ray(A, b, cones, np.array([1.0, 1.0 + 1e-8]))
    assert not is_primal_ray(A, b, cones, np.array([-1.0, -1.0]))
    assert not is_primal_ray(A, -b, cones, np.ones(2))
    nothing, below = sp.csc_array((1, 1)), sp.csc_array([[-1.0]])
    assert is_dual_ray(nothing, -np.ones(1), below, Cones(nonneg=1), np.ones(1))
    assert not is_dual_ray(nothing, -np.ones(1), below, Cones(zero=1), np.ones(1))
    assert not is_dual_ray(sp.csc_array([[1e-9]]), -np.ones(1), below, Cones(nonneg=1), np.ones(1))


def test_rough_rays_are_refined() -> None:
    """y off by a thousandth is enough to find the one next to it, in programs with 400 rows as well."""
    for cones, seed in ((Cones(nonneg=400), 0), (Cones(zero=50, nonneg=350), 1), (Cones(nonneg=10, soc=(5,) * 10), 2)):
        P, q, A, b, _ = primal_infeasible(cones, seed, 0, False)
        rng = np.random.default_rng(seed)
        rng.integers(1, 6)
        y = in_cone(cones, rng, dual=True, boundary=False)  # the one that was planted
        program, rough = conic(P, q, A, b, cones), y + 1e-3 * np.abs(y) * rng.standard_normal(y.size)
        assert proven(program, {0: [(np.full(q.size, np.nan), rough)]}) == {0: Status.PRIMAL_INFEASIBLE}


@pytest.mark.parametrize(
    ("said", "x", "y", "expected"),
    [
        # x₁ ≤ −1 and −x₁ ≤ 0: y = (1, 1) says that there is no such x, whatever the backend makes of it.
        (Status.INACCURATE, [0.0, 0.0], [1e7, 1e7], Status.PRIMAL_INFEASIBLE),
        (Status.FAILED, [0.0, 0.0], [1.0, 1.0], Status.PRIMAL_INFEASIBLE),
        (Status.PRIMAL_INFEASIBLE, [0.0, 0.0], [1.0, 1.0], Status.PRIMAL_INFEASIBLE),
        (Status.PRIMAL_INFEASIBLE, [0.0, 0.0], [1.0, 0.5], Status.PRIMAL_INFEASIBLE),
        (Status.PRIMAL_INFEASIBLE, [0.0, 0.0], [1e-300, 0.0], Status.PRIMAL_INFEASIBLE),
        (Status.DUAL_INFEASIBLE, [-1.0, 0.0], [np.nan, np.nan], Status.PRIMAL_INFEASIBLE),
        # Along (0, −1) the objective falls for ever, but from no point that is allowed.
        (Status.DUAL_INFEASIBLE, [0.0, -1.0], [np.nan, np.nan], Status.PRIMAL_INFEASIBLE),
        # What a limit of the user's stopped is not searched for certificates that nobody has seen.
        (Status.ITERATION_LIMIT, [1.0, 1.0], [1.0, -0.5], Status.ITERATION_LIMIT),
        (Status.ITERATION_LIMIT, [1.0, 1.0], [1.0, 0.9], Status.PRIMAL_INFEASIBLE),
    ],
)
def test_certificates_are_the_last_word(
    said: Status, x: list[float], y: list[float], expected: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backends have called programs unbounded that are infeasible, and given up with a rough certificate in hand."""
    raw = RawSolution(np.array(x), np.array(y), np.zeros(2), said, "a word")
    monkeypatch.setattr(type(SOLVERS["CLARABEL"]), "_solve", lambda *_: raw)
    A = np.array([[1.0, 0.0], [-1.0, 0.0]])
    alone = {"fallback": False}
    with pytest.raises(SolveError) as caught:
        solve_and_differentiate(None, [1.0, 1.0], A, [-1.0, 0.0], Cones(nonneg=2), solver="CLARABEL", solver_args=alone)
    assert caught.value.statuses == (expected,)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("most", [2**31, 2**32, 2**64, 10**30])
def test_no_number_of_iterations_is_too_large(solver: str, most: int) -> None:
    x, c = cp.Variable(3), cp.Parameter(3)
    distance = cp.norm_inf(x - c) if solver == "HIGHS" else cp.norm(x - c)
    layer = Layer(cp.Problem(cp.Minimize(distance + cp.norm1(x)), [x >= -1]), [c], [x], solver=solver)
    assert layer.solve(np.ones(3), solver_args={"max_iters": most}).status is Status.SOLVED
    native = {"CLARABEL": "max_iter", "SCS": "acceleration_interval"}.get(solver)
    if native is not None:
        assert layer.solve(np.ones(3), solver_args={native: most}).status is Status.SOLVED


def test_noise_beside_a_large_entry_of_its_block_shows_nothing() -> None:
    """What is 1e−25 of a block's largest entry is rounding: bᵀy made of it alone is not negative for sure."""
    A = sp.csc_array(np.array([[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]]))
    y = np.array([-1.4e-26, -8.4e-25, 1.0])
    assert not is_primal_ray(A * 1e-12, np.array([-4e-3, 2e-3, 0.0]), Cones(exp=1), y)
    # And on an orthant: Aᵀy = 0 holds up to more than bᵀy amounts to, so that x of the size of b may be feasible.
    flat = sp.csc_array(np.array([[1.0], [-2.0], [1.0]]))
    assert not is_primal_ray(flat, np.array([0.0, 0.0, -5.0]), Cones(nonneg=3), np.array([0.7, 0.35, 2.6e-17]))


def test_rays_near_the_boundary_of_power_cones() -> None:
    """Near the edge x = 1, y = 0 of x^0.9 y^0.1 ≥ |z| a distance of 1e−12 lets z go as far as 0.06; elsewhere not farther than in
    any cone: rays inside were refused, and the program failed.
    """
    cones, nothing = Cones(power=(0.9,)), sp.csc_array((2, 2))
    for side, z in ((1.0, 0.5), (1.0, -0.999), (0.1, 0.7), (1e-4, 0.1)):
        s = np.array([1.0, side, z])
        assert side**0.1 > abs(z)
        A = -np.outer(s, [2.0, -1.0])
        assert is_dual_ray(nothing, np.array([-1.0, 0.5]), sp.csc_array(A), cones, np.ones(2))
    # y next to the edge of the dual cone, and outside of it by next to nothing: b − Ax ∈ K for x₁ = −1e20, x₂ = 0, say.
    y, A = np.array([1.0, 0.0, 0.05]), np.array([[0.0, 0.05], [1.0, 0.0], [0.0, -1.0]])
    assert not (A.T @ y).any()
    assert not is_primal_ray(A, np.array([0.0, 0.0, -1.0]), cones, y)
    # What it falls by is more than such moves make of it where b asks for the other entries.
    assert is_primal_ray(A, np.array([-1.0, 0.0, 0.0]), cones, y)


def test_data_at_the_ends_of_the_range_of_floats_show_nothing() -> None:
    """Products of 1e300 and 1e150 overflow: that is no certificate, and no RuntimeWarning, an error in many programs."""
    rng, cones = np.random.default_rng(1), Cones(nonneg=2, soc=(3,))
    A = rng.standard_normal((5, 3)) * 10.0 ** rng.choice([-300, 0, 150, 300], 5)[:, None]
    b, y = rng.standard_normal((2, 5)) * 10.0 ** rng.choice([-160, 0, 150], (2, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [*refined(System.of(sp.csc_array(A), b, cones), y), y]
        assert not any(is_primal_ray(A, b, cones, h) for h in found)
