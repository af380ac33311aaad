"""Badly scaled data: the answer must not depend on the units of rows, costs or right-hand sides."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from random_programs import random_program

from conelayers import Layer, SolveError, Status, solve_and_differentiate
from conelayers.numerics.cones import product_cone
from conelayers.numerics.residual import evaluate
from conelayers.numerics.scaling import equilibrate_program
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern

SCALES = [1e-10, 1e-6, 1e-3, 1e3, 1e6, 1e10]


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS", "HIGHS"])
@pytest.mark.parametrize("scale", SCALES)
def test_scaled_rows(scale: float, solver: str) -> None:
    """v = y − s compares multipliers of size 1/scale with slacks of size scale."""
    rng = np.random.default_rng(3)
    G, h = rng.standard_normal((7, 4)), rng.uniform(0.5, 1, 7)
    c = -G.T @ rng.uniform(0.1, 1, 7)
    x, k = cp.Variable(4), cp.Parameter(7)
    expected = Layer(cp.Problem(cp.Minimize(c @ x), [G @ x <= k]), [k], [x]).solve(h)
    solution = Layer(cp.Problem(cp.Minimize(c @ x), [scale * G @ x <= k]), [k], [x], solver=solver).solve(scale * h)
    np.testing.assert_allclose(solution.variables[0], expected.variables[0], atol=1e-9)
    g = rng.standard_normal(4)
    np.testing.assert_allclose(solution.vjp(g)[0] * scale, expected.vjp(g)[0], atol=1e-8)


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS", "HIGHS"])
@pytest.mark.parametrize("scale", SCALES)
def test_scaled_costs_and_right_hand_sides(scale: float, solver: str) -> None:
    """A residual over 1 + … would call any point of a tiny problem solved."""
    x, c, p = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    layer = Layer(cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == p]), [c, p], [x], solver=solver)
    cost = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(layer.solve(scale * cost, 1.0).variables[0], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(layer.solve(cost, scale).variables[0] / scale, [1, 0, 0], atol=1e-9)


def test_instances_of_a_batch_are_scaled_by_themselves() -> None:
    x, a = cp.Variable(3), cp.Parameter(3)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [x >= 0, cp.norm(x) <= 3]), [a], [x])
    value = np.array([1.0, 2.0, -3.0])
    batch = layer.solve(np.stack([value, 1e-9 * value]))
    np.testing.assert_allclose(batch.variables[0][0], [1, 2, 0], atol=1e-10)
    np.testing.assert_allclose(batch.variables[0][1] * 1e9, [1, 2, 0], atol=1e-9)
    assert batch.status == (Status.SOLVED, Status.SOLVED)


@pytest.mark.parametrize(
    "cones", [Cones(zero=2, nonneg=4), Cones(nonneg=2, soc=(3, 4), psd=(3,)), Cones(exp=2, power=(0.3,), zero=1)]
)
def test_scaled_program_has_the_scaled_solution(cones: Cones) -> None:
    """A solution of one is a solution of the other, the cone stays the same, and nothing is rounded but in power cones' third rows."""
    program, x, v = random_program(cones, 5, 3, 0)
    rng = np.random.default_rng(1)
    rows = np.repeat(
        10.0 ** rng.uniform(-6, 6, len(cones.block_starts)), np.diff([*cones.block_starts, cones.dimension])
    )
    columns = 10.0 ** rng.uniform(-3, 3, 5)
    y = product_cone(cones).project_dual(v)[0]
    s = y - v
    A = program.structure.A
    P = program.structure.P
    rough = type(program)(
        program.structure,
        program.P * columns[P.rows] * columns[P.cols] * 1e-4,
        program.q * columns * 1e-4,
        program.A * rows[A.rows] * columns[A.cols],
        program.b * rows,
    )
    scaled, scaling, _ = equilibrate_program(rough)
    last = np.arange(cones.dimension - 3 * len(cones.power), cones.dimension)[2::3] if cones.power else []
    for factor in (scaling.d, np.delete(scaling.e, last, axis=1), scaling.beta, scaling.gamma):
        np.testing.assert_array_equal(np.exp2(np.round(np.log2(factor))), factor)
    x_scaled, y_scaled, s_scaled = scaling.scale(x / columns, 1e-4 * y / rows, s * rows)
    point = evaluate(scaled, x_scaled, y_scaled - s_scaled)
    np.testing.assert_allclose(point.y, y_scaled, atol=1e-12 * np.abs(y_scaled).max())
    assert point.error(scaled).max() < 1e-12
    assert np.abs(scaled.A).max() < 100
    assert np.abs(scaled.b).max() < 100
    back = scaling.unscale(x_scaled, y_scaled, s_scaled)
    np.testing.assert_allclose(back[2], s * rows, rtol=1e-14)
    r = rng.standard_normal((2, 3, 5))
    u, w = rng.standard_normal((2, 3, cones.dimension))
    left = sum(np.sum(a * b) for a, b in zip(scaling.unscale(r[0], u, w), (r[1], w, u), strict=True))
    right = sum(np.sum(a * b) for a, b in zip((r[0], u, w), scaling.scale_cotangents(r[1], w, u), strict=True))
    assert left == pytest.approx(right)


def test_a_backend_that_returned_nothing_is_a_failure() -> None:
    """Its zero point must not pass for a solution of a tiny problem; the backend's own words are passed on."""
    x, c, p = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    layer = Layer(cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) <= p]), [c, p], [x], solver="SCS")
    with pytest.raises(SolveError, match="The solver said: ValueError") as caught:
        layer.solve(1e-10 * np.array([-1.0, -2.0, -3.0]), 1e-10, solver_args={"alpha": 5.0, "fallback": False})
    assert caught.value.statuses == (Status.FAILED,)


@pytest.mark.parametrize("solver", ["CLARABEL", None])
@pytest.mark.parametrize("rate", [1e2, 1e4, 1e6, 1e7])
def test_entries_of_one_exponential_cone_of_different_sizes(rate: float, solver: str | None) -> None:
    """minimize exp(x) − a x: x = log a, dx/da = 1/a. No scaling of the block helps: y and s are computed without v = y − s."""
    x, a = cp.Variable(), cp.Parameter()
    solution = Layer(cp.Problem(cp.Minimize(cp.exp(x) - a * x)), [a], [x], solver=solver).solve(rate)
    np.testing.assert_allclose(solution.variables[0], np.log(rate), rtol=1e-10)
    np.testing.assert_allclose(solution.vjp(1.0)[0] * rate, 1.0, rtol=1e-7)


def test_what_the_default_leaves_open_goes_to_other_backends() -> None:
    """A cost of 1e−6 on a box of size 1e3: interior points stop early, the splitting method and Newton do not."""
    x, c, b = cp.Variable(3), cp.Parameter(nonneg=True), cp.Parameter()
    objective = cp.Minimize(c * cp.sum_squares(x) + x[0] - x[1] + b * x[2])
    solution = Layer(cp.Problem(objective, [cp.abs(x) <= 1e3]), [c, b], [x]).solve(0.0, 1e-6)
    np.testing.assert_allclose(solution.variables[0], [-1e3, 1e3, -1e3], atol=1e-6)


@pytest.mark.parametrize("gap", [1e-4, 1e-5, 1e-6])
def test_nearly_dependent_equalities_are_not_called_dependent(gap: float) -> None:
    """K has an eigenvalue of size gap²: the derivative exists, and is large."""
    x, a, A, b = cp.Variable(3), cp.Parameter(3), cp.Parameter((2, 3)), cp.Parameter(2)
    matrix = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + gap]])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [A @ x == b])
    solution = Layer(problem, [a, A, b], [x]).solve(np.ones(3), matrix, np.ones(2))
    g = np.array([0.0, 0.0, 1.0])
    expected = np.linalg.solve(matrix @ matrix.T, matrix @ g)
    # At 1e−6 the factor has four digits left.
    np.testing.assert_allclose(solution.vjp(g)[2], expected, rtol=1e-16 / gap**2 * 100)


@pytest.mark.parametrize("tiny", [1e-14, 1e-18, 1e-21, 1e-100])
@pytest.mark.parametrize(("cones", "ridge"), [(Cones(zero=1), 0.0), (Cones(zero=1), 0.1), (Cones(nonneg=1), 0.1)])
def test_rounding_in_b_is_not_scaled_up_to_the_size_of_q(tiny: float, cones: Cones, ridge: float) -> None:
    """With b scaled to 1, x = −P⁻¹q is of size 1/tiny, and the backends call the program unbounded."""
    G = np.array([[6.0, -3.0, 0.0], [-3.0, 5 / 3, 2 / 3], [0.0, 2 / 3, 8 / 3]])  # of rank 2
    P, q, A = G + ridge * np.eye(3), np.array([9.0, -14 / 3, 16 / 3]), np.array([[0.0, 0.0, 2.0]])
    expected = solve_and_differentiate(P, q, A, [0.0], cones)
    solution = solve_and_differentiate(P, q, A, [tiny], cones)
    assert solution.status is Status.SOLVED
    np.testing.assert_allclose(solution.x, expected.x, atol=1e-11)
    np.testing.assert_allclose(solution.y, expected.y, atol=1e-11)


def test_rounding_in_P_has_no_units() -> None:
    """GᵀG leaves 1e−17 where columns of G are orthogonal. As an entry that ought to be of size 1 it tore the units of x apart, by 1e5,
    and with a bound of 1e8 made a point of value 1e9 a solution where −10 is the least.
    """
    P = np.array([[1.0, 0.0, -1.0], [0.0, 1.2, -0.6], [-1.0, -0.6, 2.8]])
    rounded = P.copy()
    rounded[0, 1] = rounded[1, 0] = -1.3e-17
    units = np.array([1e6, 1.0, 1e-5])
    for scale in (np.ones(3), units):
        found = []
        for matrix in (P, rounded):
            values = (scale[:, None] * matrix * scale).ravel(order="F")[None]
            structure = Structure(
                Pattern.of(sp.csc_array(np.ones((3, 3)))), Pattern.of(sp.csc_array(np.eye(3))), Cones(nonneg=3)
            )
            program = ConeProgram(structure, values, np.ones((1, 3)), np.ones((1, 3)), np.ones((1, 3)))
            found.append(equilibrate_program(program).scaling)
        np.testing.assert_array_equal(found[0].d, found[1].d)
        np.testing.assert_array_equal(found[0].e, found[1].e)


@pytest.mark.parametrize("curved", [False, True])
def test_a_bound_that_is_alone_in_its_part_hides_nothing(curved: bool) -> None:
    """x₂ ≤ 1e14 with nothing else on x₂ made rounding of the rest, whose value was off by 3e−3, and x₂ one of 1e14."""
    P = np.diag([0.0, 0.0, 1.0]) if curved else None
    A = np.array([[-1.0, 0.0, 0.0], [-1.0, -1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    solution = solve_and_differentiate(P, [1.0, 2.0, 0.0], A, [0.3, -1.1, 0.7, 1e14], Cones(nonneg=4))
    np.testing.assert_allclose(solution.x[:2], [1.8, -0.7], rtol=1e-12)
    assert abs(solution.x[2]) <= 1
    equality = np.vstack([[0.0, 0.0, 1.0], A[:3]])
    fixed = solve_and_differentiate(None, [1.0, 2.0, 0.0], equality, [1e14, 0.3, -1.1, 0.7], Cones(zero=1, nonneg=3))
    np.testing.assert_allclose(fixed.x, [1.8, -0.7, 1e14], rtol=1e-12)


@pytest.mark.parametrize("bound", [np.inf, 1e14])
def test_rows_that_are_set_aside_have_no_say_in_the_units(bound: float) -> None:
    """Bounds without effect put the rest into other units, in which a certificate was not found that is found without."""
    rng = np.random.default_rng(4)
    A, b = rng.standard_normal((6, 3)), np.ones(6)
    row = 1e4 * rng.standard_normal((2, 3))

    def program(rows: np.ndarray, right: np.ndarray) -> ConeProgram:
        structure = Structure(
            Pattern.of(sp.csc_array((3, 3))), Pattern.of(sp.csc_array(np.ones(rows.shape))), Cones(nonneg=len(rows))
        )
        values = rows.ravel(order="F")[None]
        return ConeProgram(structure, np.zeros((1, 0)), np.ones((1, 3)), values, right[None])

    without = equilibrate_program(program(A, b))
    found = equilibrate_program(program(np.vstack([A, row]), np.append(b, [bound * 1e4] * 2)))
    assert found.aside is not None
    assert found.aside[0].tolist() == [False] * 6 + [True] * 2
    np.testing.assert_array_equal(found.scaling.d, without.scaling.d)
    np.testing.assert_array_equal(found.scaling.e[:, :6], without.scaling.e)
    of_rows = np.abs(found.program.A.reshape(3, 8).T[6:])
    # Such a row is in units that suit the others'.
    assert of_rows.min() >= 2**-4
    assert of_rows.max() <= 2**4
