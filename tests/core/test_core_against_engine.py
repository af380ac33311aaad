"""The compiled core gives the solutions and derivatives of the package's engine, bit by bit alike in any company."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from core_models import contiguous, core_of

from conelayers import Layer
from conelayers.core import Outcome, available

pytestmark = pytest.mark.skipif(not available(), reason="conelayers.core is not built: python conelayers/core/build.py")

BATCH = 11  # not a multiple of any number of lanes


def dense_qp(n: int, m: int, equalities: int, rng: np.random.Generator):
    x, q, G, h = cp.Variable(n), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    root, E = rng.standard_normal((n, n)), rng.standard_normal((equalities, n))
    constraints = [G @ x <= h] + ([E @ x == E @ np.ones(n)] if equalities else [])
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, root @ root.T + np.eye(n)) + q @ x), constraints)
    rows = rng.standard_normal((BATCH, m, n))
    bounds = rows.sum(axis=2) + rng.random((BATCH, m))
    return problem, [q, G, h], [x, constraints[0].dual_variables[0]], [rng.standard_normal((BATCH, n)), rows, bounds]


def portfolio(n: int, rng: np.random.Generator):
    w, mu, factors = cp.Variable(n), cp.Parameter(n), rng.standard_normal((n, 5)) / 5
    f = cp.Variable(5)
    constraints = [cp.sum(w) == 1, w >= 0, w <= 0.4, f == factors.T @ w]
    problem = cp.Problem(cp.Maximize(mu @ w - cp.sum_squares(f) - 0.1 * cp.sum_squares(w)), constraints)
    return problem, [mu], [w], [rng.standard_normal((BATCH, n)) / 3]


def linear_program(n: int, rng: np.random.Generator):
    x, c, b = cp.Variable(n), cp.Parameter(n), cp.Parameter(n // 2)
    A = rng.standard_normal((n // 2, n))
    problem = cp.Problem(cp.Minimize(c @ x), [A @ x == b, x >= 0, x <= 3])
    inside = rng.uniform(0.5, 2.0, (BATCH, n))
    return problem, [c, b], [x], [rng.standard_normal((BATCH, n)), inside @ A.T]


def control(steps: int, rng: np.random.Generator):
    dynamics, push = np.eye(3) + 0.2 * rng.standard_normal((3, 3)), rng.standard_normal((3, 2))
    x, u, start = cp.Variable((steps + 1, 3)), cp.Variable((steps, 2)), cp.Parameter(3)
    constraints = [x[0] == start, u <= 0.4, u >= -0.4]
    constraints += [x[k + 1] == dynamics @ x[k] + push @ u[k] for k in range(steps)]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + 0.5 * cp.sum_squares(u)), constraints)
    return problem, [start], [u], [rng.standard_normal((BATCH, 3))]


def sparse_qp(n: int, rng: np.random.Generator):
    A = sp.random_array((n // 2, n), density=5 / n, rng=rng)
    x, q = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [A @ x <= 0.5, x >= -1])
    return problem, [q], [x], [2 * rng.standard_normal((BATCH, n))]


def projection_on_simplex(n: int, rng: np.random.Generator):
    x, y = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [cp.sum(x) == 1, x >= 0])
    return problem, [y], [x], [rng.standard_normal((BATCH, n))]


def equalities_only(n: int, rng: np.random.Generator):
    x, q, b = cp.Variable(n), cp.Parameter(n), cp.Parameter(2)
    A = rng.standard_normal((2, n))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [A @ x == b])
    return problem, [q, b], [x], [rng.standard_normal((BATCH, n)), rng.standard_normal((BATCH, 2))]


def unconstrained(n: int, rng: np.random.Generator):
    x, q = cp.Variable(n), cp.Parameter(n)
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x)), [q], [x], [rng.standard_normal((BATCH, n))]


FAMILIES = [
    ("dense QP", lambda rng: dense_qp(10, 15, 0, rng)),
    ("dense QP with equalities", lambda rng: dense_qp(7, 9, 3, rng)),
    ("larger dense QP", lambda rng: dense_qp(33, 45, 2, rng)),
    ("portfolio", lambda rng: portfolio(30, rng)),
    ("LP", lambda rng: linear_program(14, rng)),
    ("control", lambda rng: control(8, rng)),
    ("sparse QP", lambda rng: sparse_qp(240, rng)),
    ("simplex", lambda rng: projection_on_simplex(40, rng)),
    ("equalities only", lambda rng: equalities_only(6, rng)),
    ("unconstrained", lambda rng: unconstrained(4, rng)),
]


@pytest.mark.parametrize(("name", "make"), FAMILIES, ids=[name for name, _ in FAMILIES])
@pytest.mark.parametrize("seed", range(3))
def test_solutions_gradients_and_tangents_are_those_of_the_engine(name, make, seed):
    rng = np.random.default_rng(seed)
    problem, parameters, variables, values = make(rng)
    layer = Layer(problem, parameters, variables)
    core, theta = core_of(layer), contiguous(values)
    engine, found = layer.solve(*values), core.solve(theta, BATCH)
    assert (found.outcome == Outcome.SOLVED).all()
    assert found.errors.max() <= 1e-9
    expected = np.concatenate([v.reshape(BATCH, -1) for v in engine.variables], axis=1)
    np.testing.assert_allclose(found.x, engine.x, rtol=0, atol=1e-9 * max(1, np.abs(engine.x).max()))
    np.testing.assert_allclose(found.outputs, expected, rtol=0, atol=1e-8 * max(1, np.abs(expected).max()))
    cotangents = [rng.standard_normal(v.shape) for v in engine.variables]
    points = found.x, found.y, found.s
    flat = np.concatenate([g.reshape(BATCH, -1) for g in cotangents], axis=1)
    gradients, flags = core.adjoint(theta, points, flat)
    assert not flags.any()
    for ours, theirs in zip(gradients, engine.vjp(*cotangents), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 * max(np.abs(theirs).max(), 1e-3))
    moves = [rng.standard_normal(v.shape) for v in theta]
    tangents, flags = core.tangent(theta, points, moves)
    assert not flags.any()
    expected = np.concatenate([t.reshape(BATCH, -1) for t in engine.jvp(*moves)], axis=1)
    np.testing.assert_allclose(tangents, expected, rtol=0, atol=1e-8 * max(np.abs(expected).max(), 1e-3))
    # ⟨g, J dθ⟩ = ⟨Jᵀg, dθ⟩ to rounding, whatever the engine says.
    left = np.einsum("bi,bi->b", flat, tangents)
    right = sum(
        np.einsum("bi,bi->b", g.reshape(BATCH, -1), d.reshape(BATCH, -1)) for g, d in zip(gradients, moves, strict=True)
    )
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9 * np.abs(left).max())


@pytest.mark.parametrize(("name", "make"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_an_instance_alone_or_in_any_company_has_the_same_bits(name, make):
    rng = np.random.default_rng(5)
    problem, parameters, variables, values = make(rng)
    core, theta = core_of(Layer(problem, parameters, variables)), contiguous(values)
    whole = core.solve(theta, BATCH)
    points = whole.x, whole.y, whole.s
    cotangents = rng.standard_normal(whole.outputs.shape)
    moves = [rng.standard_normal(v.shape) for v in theta]

    def everything(members, **options):
        part = [v[members] for v in theta]
        solved = core.solve(part, len(members), **options)
        gradients, flags = core.adjoint(part, tuple(h[members] for h in points), cotangents[members], **options)
        tangents, _ = core.tangent(part, tuple(h[members] for h in points), [h[members] for h in moves], **options)
        return [*solved[:7], *gradients, flags, tangents]

    everyone = np.arange(BATCH)
    reference = everything(everyone)
    for lanes in (1, 4, 8):
        for threads in (1, 3):
            for ours, theirs in zip(everything(everyone, lanes=lanes, threads=threads), reference, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    shuffled = rng.permutation(BATCH)
    for members in (shuffled, shuffled[:5], *([i] for i in range(BATCH))):
        for ours, theirs in zip(everything(np.asarray(members)), reference, strict=True):
            np.testing.assert_array_equal(ours, theirs[members])


def test_rows_stay_vertices_of_the_matrix_where_that_saves_work_and_only_there():
    rng = np.random.default_rng(4)
    kept = {}
    for name, make in FAMILIES:
        problem, parameters, variables, _ = make(rng)
        kept[name] = len(core_of(Layer(problem, parameters, variables))._native.kept_rows)
    assert kept.pop("sparse QP") > 50
    assert not any(kept.values())


def test_parameters_that_the_batch_shares_count_for_every_instance():
    rng = np.random.default_rng(2)
    problem, parameters, variables, values = dense_qp(6, 8, 0, rng)
    layer = Layer(problem, parameters, variables[:1])
    core, theta = core_of(layer), contiguous([values[0], values[1][0], values[2][0]])
    found = core.solve(theta, BATCH)
    engine = layer.solve(values[0], values[1][0], values[2][0])
    np.testing.assert_allclose(found.outputs, engine.variables[0], rtol=0, atol=1e-9)
    g = rng.standard_normal(found.outputs.shape)
    gradients, _ = core.adjoint(theta, (found.x, found.y, found.s), g)
    for ours, theirs in zip(gradients, engine.vjp(g), strict=True):
        theirs = theirs if theirs.shape[0] == BATCH and theirs.ndim == ours.ndim else theirs[None]
        total = ours if theirs.shape[0] == BATCH else ours.sum(axis=0, keepdims=True)
        np.testing.assert_allclose(total, theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())
