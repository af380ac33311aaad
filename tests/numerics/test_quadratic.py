"""Small dense quadratic programs: the compiled kernel and its NumPy twin, against the KKT conditions and a dense K."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from conelayers.numerics.quadratic import (
    ActiveSetFactorization,
    ActiveSetSolution,
    Code,
    algorithm,
    kernel,
    solve_quadratic,
)
from conelayers.numerics.residual import evaluate
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern

pytestmark = pytest.mark.filterwarnings("error")
needs_kernel = pytest.mark.skipif(not kernel.AVAILABLE, reason="the C library was not built")
both = pytest.mark.parametrize("twin", [pytest.param(kernel, marks=needs_kernel), algorithm], ids=["kernel", "numpy"])

SIZES = [
    # n, m, equalities
    (1, 0, 0),
    (1, 1, 0),
    (1, 1, 1),
    (2, 5, 1),
    (3, 3, 3),
    (7, 0, 0),
    (10, 15, 5),
    (9, 40, 0),
    (33, 21, 21),
    (50, 75, 25),
    (60, 80, 0),
]
SHARING = [(False, False), (True, False), (False, True), (True, True)]


def problem(n, m, equalities, batch=6, shared=(False, False), seed=0, tight=0.3):
    """Random programs with a known feasible point, at which a part of the rows is tight."""
    rng = np.random.default_rng([seed, n, m, equalities])
    root = rng.standard_normal((1 if shared[0] else batch, n, n))
    P = root @ root.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    A = rng.standard_normal((1 if shared[1] else batch, m, n))
    slack = rng.random((batch, m)) * (rng.random((batch, m)) > tight)
    slack[:, :equalities] = 0
    b = (A @ rng.standard_normal((batch, n, 1)))[..., 0] + slack
    return P, 3 * rng.standard_normal((batch, n)), A, b, equalities


def split(v, equalities):
    y = np.where(np.arange(v.shape[1]) < equalities, v, np.maximum(v, 0))
    return y, y - v


def assert_optimal(P, q, A, b, equalities, solution: ActiveSetSolution, instances=None, tolerance=1e-12):
    index = np.arange(len(q)) if instances is None else np.asarray(instances)
    P, A = (h if len(h) == 1 else h[index] for h in (P, A))
    x, v, q, b = solution.x[index], solution.v[index], q[index], b[index]
    y, s = split(v, equalities)
    stationarity = (P @ x[..., None])[..., 0] + (y[:, None] @ A)[:, 0] + q
    feasibility = (A @ x[..., None])[..., 0] + s - b
    scale = 1 + np.abs(y).max(axis=1, initial=0.0, keepdims=True)
    assert np.all(solution.code[index] == Code.SOLVED)
    assert np.max(np.abs(stationarity / scale), initial=0.0) < tolerance
    assert np.max(np.abs(feasibility), initial=0.0) < tolerance
    assert np.array_equal(solution.factors.active[index], (v > 0) | (np.arange(v.shape[1]) < equalities))


def dense_K(P, A, active, i):
    P, A = (h[0 if len(h) == 1 else i] for h in (P, A))
    rows = A[active[i]]
    return np.block([[P, rows.T], [rows, np.zeros((len(rows), len(rows)))]])


@both
@pytest.mark.parametrize("shared", SHARING)
@pytest.mark.parametrize("size", SIZES)
def test_the_kkt_conditions_hold_to_machine_precision(twin, size, shared):
    data = problem(*size, shared=shared)
    assert_optimal(*data, twin.solve(*data, None, 1))


@needs_kernel
@pytest.mark.parametrize("shared", SHARING)
@pytest.mark.parametrize("size", SIZES)
def test_kernel_and_numpy_agree(size, shared):
    data = problem(*size, shared=shared, seed=1, tight=0.1)
    ours, theirs = kernel.solve(*data, None, 1), algorithm.solve(*data, None, 1)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.v, theirs.v, rtol=1e-10, atol=1e-10)
    assert np.array_equal(ours.factors.active, theirs.factors.active)


@both
@pytest.mark.parametrize("start", ["right", "wrong", "all", "none"])
def test_the_start_does_not_matter(twin, start):
    data = problem(20, 40, 6, seed=2)
    first = twin.solve(*data, None, 1)
    right = first.factors.active
    active = {"right": right, "wrong": ~right, "all": np.ones_like(right), "none": np.zeros_like(right)}[start]
    given = active.copy()
    again = twin.solve(*data, active, 1)
    assert np.array_equal(active, given), "the caller's start was overwritten"
    assert_optimal(*data, again)
    np.testing.assert_allclose(again.x, first.x, rtol=0, atol=1e-12)


@both
@pytest.mark.parametrize("shared", SHARING)
@pytest.mark.parametrize("size", SIZES)
def test_the_factors_solve_K(twin, size, shared):
    n, m, _ = size
    P, q, A, b, e = problem(*size, shared=shared, seed=3)
    solution = twin.solve(P, q, A, b, e, None, 1)
    rng = np.random.default_rng(4)
    p1, p2 = rng.standard_normal((len(q), n)), rng.standard_normal((len(q), m))
    dx, eta = solution.factors.solve(p1, p2, 1)
    for i, active in enumerate(solution.factors.active):
        K = dense_K(P, A, solution.factors.active, i)
        expected = np.linalg.solve(K, np.concatenate([p1[i], p2[i, active]]))
        # Two backward stable solves differ by the condition number.
        tolerance = 1e-14 * np.linalg.cond(K) * np.max(np.abs(expected)) + 1e-13
        np.testing.assert_allclose(dx[i], expected[:n], rtol=0, atol=tolerance)
        np.testing.assert_allclose(eta[i, active], expected[n:], rtol=0, atol=tolerance)
        assert not eta[i, ~active].any()


def as_program(P, q, A, b, equalities) -> ConeProgram:
    n, m = q.shape[1], b.shape[1]
    full = [Pattern.of(sp.csc_array(np.ones(shape))) for shape in ((n, n), (m, n))]
    structure = Structure(full[0], full[1], Cones(zero=equalities, nonneg=m - equalities))
    values = [np.swapaxes(h, 1, 2).reshape(len(q), -1) for h in (P, A)]
    return ConeProgram(structure, values[0], q, values[1], b)


@both
def test_as_a_factorization_of_the_cone_program(twin):
    data = problem(8, 14, 3, batch=5, seed=5)
    program, solution = as_program(*data), twin.solve(*data, None, 1)
    point = evaluate(program, solution.x, solution.v)
    assert point.error(program).max() < 1e-13
    assert np.array_equal(point.element.values == 1, solution.factors.active)
    factorization = ActiveSetFactorization(program, point.element, solution.factors)
    assert not factorization.singular.any()
    assert all(h.size == 0 for h in factorization.null_vectors(2))
    rng = np.random.default_rng(6)
    p1, p2 = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
    expected = factorization.solve(p1, p2)
    part = np.array([0, 3, 4])
    for got, whole in zip(factorization.take(part).solve(p1[part], p2[part]), expected, strict=True):
        np.testing.assert_allclose(got, whole[part], rtol=0, atol=1e-14)
    for instances in (np.array([1, 4]), np.arange(5), np.zeros(0, dtype=np.int64)):
        replaced = factorization.use_pseudo_inverse(instances)
        assert not replaced.singular.any()
        for got, whole in zip(replaced.solve(p1, p2), expected, strict=True):
            np.testing.assert_allclose(got, whole, rtol=1e-9, atol=1e-10)


@both
def test_an_empty_batch(twin):
    P, q, A, b, e = problem(4, 6, 2)
    for matrices in ((P[:0], A[:0]), (P[:1], A[:1])):
        solution = twin.solve(matrices[0], q[:0], matrices[1], b[:0], e, None, 2)
        assert solution.x.shape == (0, 4)
        assert solution.v.shape == (0, 6)
        assert solution.code.shape == (0,)
        dx, eta = solution.factors.solve(q[:0], b[:0], 2)
        assert dx.shape == (0, 4)
        assert eta.shape == (0, 6)


@both
def test_rows_that_are_tight_with_a_zero_multiplier(twin):
    # The unconstrained minimum lies on rows: x = x₀ where A x₀ = b on half of them.
    P, _, A, b, _ = problem(12, 20, 0, seed=7)
    x0 = np.random.default_rng(8).standard_normal((len(P), 12))
    Ax0 = (A @ x0[..., None])[..., 0]
    b = np.where(np.arange(20) % 2 == 0, Ax0, Ax0 + 1)
    q = -(P @ x0[..., None])[..., 0]
    solution = twin.solve(P, q, A, b, 0, None, 1)
    assert_optimal(P, q, A, b, 0, solution)
    np.testing.assert_allclose(solution.x, x0, rtol=0, atol=1e-12)


@both
def test_inequality_rows_that_come_twice(twin):
    P, q, A, b, e = problem(10, 15, 4, seed=9)
    data = (
        P,
        q,
        np.concatenate([A, A[:, 4:], 2 * A[:, 4:]], axis=1),
        np.concatenate([b, b[:, 4:], 2 * b[:, 4:]], axis=1),
        e,
    )
    once, solution = twin.solve(P, q, A, b, e, None, 1), twin.solve(*data, None, 1)
    assert_optimal(*data, solution)
    np.testing.assert_allclose(solution.x, once.x, rtol=0, atol=1e-11)


@both
def test_a_vertex_with_many_more_tight_rows_than_variables(twin):
    data = problem(6, 60, 0, batch=40, seed=10, tight=1.0)
    solution = twin.solve(*data, None, 1)
    # The multipliers are not unique and the rounding may leave no set with the right signs: it has to say so.
    solved = solution.code == Code.SOLVED
    assert solved.mean() > 0.9
    assert set(solution.code) <= {Code.SOLVED, Code.STALLED}
    assert_optimal(*data, solution, np.flatnonzero(solved))


def _spoil(name, P, q, A, b):
    """Instance 1 becomes one without a solution."""
    if name == "indefinite":
        P[1] -= 5 * np.eye(P.shape[1])
    elif name == "semidefinite":
        P[1, 2], P[1, :, 2] = 0, 0
    elif name == "dependent":
        A[1, 1], b[1, 1] = 3 * A[1, 0], 3 * b[1, 0]
    elif name == "contradictory equalities":
        A[1, 1], b[1, 1] = A[1, 0], b[1, 0] + 1
    elif name == "infeasible":
        A[1, 5], b[1, 5] = -A[1, 4], -b[1, 4] - 1
    elif name == "impossible row":
        A[1, 6], b[1, 6] = 0, -1
    elif name == "too many equalities":
        A[1, 6] = A[1, 0] - A[1, 1]
        A[1, 7], b[1, 6], b[1, 7] = -A[1, 6], b[1, 0] - b[1, 1] - 1, b[1, 1] - b[1, 0] + 1


@both
@pytest.mark.parametrize("active", [False, True], ids=["cold", "all active"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("indefinite", Code.NOT_DEFINITE),
        ("semidefinite", Code.NOT_DEFINITE),
        ("dependent", Code.DEPENDENT),
        ("contradictory equalities", Code.DEPENDENT),
        ("infeasible", Code.INFEASIBLE),
        ("impossible row", Code.INFEASIBLE),
        ("too many equalities", Code.INFEASIBLE),
    ],
)
def test_an_instance_without_a_solution_has_its_code_and_spoils_no_other(twin, name, code, active):
    P, q, A, b, e = problem(8, 12, 3, batch=4, seed=11)
    _spoil(name, P, q, A, b)
    solution = twin.solve(P, q, A, b, e, np.ones(b.shape, dtype=bool) if active else None, 1)
    assert solution.code[1] == code
    assert not solution.x[1].any()
    assert not solution.factors.active[1].any()
    assert_optimal(P, q, A, b, e, solution, [0, 2, 3])
    y = solution.v[1]
    if code == Code.INFEASIBLE:  # the certificate that it ended at
        assert (y[e:] >= 0).all()
        assert b[1] @ y < -1e-3 * (np.abs(b[1]) @ np.abs(y))
        np.testing.assert_array_less(np.abs(y @ A[1]), 1e-12 * (np.abs(y) @ np.abs(A[1])) + 1e-300)
    else:
        assert not y.any()


@both
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["P", "q", "A", "b", "equality b"])
def test_data_that_are_not_finite_are_not_solved(twin, where, value):
    P, q, A, b, e = problem(6, 9, 2, batch=4, seed=12)
    {"P": P[2, 3], "q": q[2], "A": A[2, 5], "b": b[2, 4:], "equality b": b[2]}[where][1] = value
    solution = twin.solve(P, q, A, b, e, None, 1)
    if where != "b" or value != np.inf:  # aᵀx ≤ ∞ is no nonsense, but not solved either
        assert solution.code[2] != Code.SOLVED
    assert np.isfinite(solution.x).all()
    assert np.isfinite(solution.v).all()
    assert_optimal(P, q, A, b, e, solution, [0, 1, 3])


@both
def test_a_shared_matrix_that_is_not_definite(twin):
    P, q, A, b, e = problem(6, 9, 2, shared=(True, True), seed=13)
    solution = twin.solve(-P, q, A, b, e, np.ones(b.shape, dtype=bool), 1)
    assert np.all(solution.code == Code.NOT_DEFINITE)
    assert not solution.factors.active.any()
    assert np.isfinite(solution.factors.solve(q, b, 1)[0]).all()


@both
@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_badly_scaled_programs(twin, condition):
    P, q, A, b, e = problem(15, 20, 4, seed=14)
    scale = np.logspace(0, np.log10(condition) / 2, 15)
    P, A = P * scale[:, None] * scale, A * scale
    assert_optimal(
        P, q * scale, A, b, e, twin.solve(P, q * scale, A, b, e, None, 1), tolerance=1e-11 * np.sqrt(condition)
    )
    rows = np.logspace(-4, 4, 20)
    data = P, q * scale, A * rows[:, None], b * rows, e
    assert_optimal(*data, twin.solve(*data, None, 1), tolerance=1e-11 * condition)


@needs_kernel
@pytest.mark.parametrize("shared", SHARING)
def test_threads_change_nothing(monkeypatch, shared):
    data = problem(10, 15, 5, batch=23, shared=shared, seed=15)
    one = kernel.solve(*data, None, 1)
    rng = np.random.default_rng(16)
    p = rng.standard_normal(one.x.shape), rng.standard_normal(one.v.shape)
    expected = one.factors.solve(*p, 1)
    monkeypatch.setattr(kernel, "_WORTH_THREADS", 1e-6)
    assert kernel._ranges(23, 1000, 4)[1] == 4
    four = kernel.solve(*data, None, 4)
    for field in ("x", "v", "code"):
        assert np.array_equal(getattr(one, field), getattr(four, field))
    for got, whole in zip(four.factors.solve(*p, 4), expected, strict=True):
        assert np.array_equal(got, whole)
    monkeypatch.setattr(kernel, "_AT_ONCE", 1e-6)  # long batches go to the kernel in pieces, one by one here
    assert kernel._ranges(23, 1000, 2) == ([(k, k + 1) for k in range(23)], 2)
    pieces = kernel.solve(*data, None, 2)
    for field in ("x", "v", "code"):
        assert np.array_equal(getattr(one, field), getattr(pieces, field))
    for got, whole in zip(pieces.factors.solve(*p, 2), expected, strict=True):
        assert np.array_equal(got, whole)


@both
def test_arrays_of_any_layout(twin):
    P, q, A, b, e = problem(7, 11, 2, seed=17)
    odd = (
        np.asfortranarray(P),
        q[:, ::-1][:, ::-1],
        np.swapaxes(np.swapaxes(A, 1, 2).copy(), 1, 2),
        np.asfortranarray(b),
    )
    np.testing.assert_allclose(
        twin.solve(*odd, e, np.zeros(b.shape, dtype=bool, order="F"), 1).x,
        twin.solve(P, q, A, b, e, None, 1).x,
        atol=1e-12,
    )


def test_the_kernel_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("CONELAYERS_KERNEL", "0")
    assert kernel._load() is None
    monkeypatch.setattr(kernel, "AVAILABLE", False)
    data = problem(5, 8, 1, seed=18)
    solution = solve_quadratic(*data)
    assert isinstance(solution.factors, algorithm.ArrayFactors)
    assert_optimal(*data, solution)
