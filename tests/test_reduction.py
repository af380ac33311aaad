"""Elimination of definition rows: the same answers as without, for regular and singular systems."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from zoo import ZOO

from conelayers.canonicalize import canonicalize
from conelayers.kkt import DenseFactorization, SparseFactorization
from conelayers.kkt.choice import factorize
from conelayers.kkt.reduction import ReducedFactorization, reduce_program
from conelayers.parameters import combine_batch
from conelayers.program import ConeProgram
from conelayers.residual import apply_jacobian, evaluate


def program_of(name: str, batch: int = 3) -> ConeProgram:
    case = ZOO[name]()
    compiled = canonicalize(case.problem, case.parameters, case.variables, gp=case.gp)
    rng = np.random.default_rng(0)
    draws = [case.draw(rng) for _ in range(batch)]
    return compiled.program(combine_batch(compiled.parameters, [np.stack(v) for v in zip(*draws, strict=True)]).theta)


REDUCED = ["ridge", "lasso", "portfolio", "socp_group_lasso", "socp_large_cone", "sdp_max_cut"]


@pytest.mark.parametrize("plain", [DenseFactorization, SparseFactorization])
@pytest.mark.parametrize("name", REDUCED)
def test_same_answers_as_without(name: str, plain) -> None:
    """At any point, not only at solutions: K depends on D alone."""
    program = program_of(name)
    n, m = program.structure.n, program.structure.m
    rng = np.random.default_rng(1)
    point = evaluate(program, rng.standard_normal((3, n)), rng.standard_normal((3, m)))
    reduced = factorize(program, point.element, 1)
    assert isinstance(reduced, ReducedFactorization)
    whole = plain.of(program, point.element) if plain is DenseFactorization else plain.of(program, point.element, 1)
    np.testing.assert_array_equal(reduced.singular, whole.singular)
    p1, p2 = rng.standard_normal((3, n)), rng.standard_normal((3, m))
    regular = ~whole.singular
    for a, b in zip(reduced.solve(p1, p2), whole.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a[regular], b[regular], atol=1e-9 * max(1.0, np.abs(b).max()))


def test_null_vectors_are_null_vectors_of_j() -> None:
    """x[1] appears in nothing that has curvature or is active: the null vector reaches through the eliminated pair."""
    x, a = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x[0] + x[1] - a)), [x <= 100])
    compiled = canonicalize(problem, [a], [x])
    program = compiled.program(np.array([[1.0, 2.0]]))
    n, m = program.structure.n, program.structure.m
    v = np.zeros((1, m))
    v[:, program.structure.cones.zero :] = -1.0  # inequalities inactive
    point = evaluate(program, np.zeros((1, n)), v)
    factorization = factorize(program, point.element, 1)
    assert isinstance(factorization, ReducedFactorization)
    assert factorization.singular.all()
    dx, dy = factorization.null_vectors(0)
    assert len(dx) >= 1
    for u, w in zip(dx, dy, strict=True):
        dv = program.Ax(u[None]) + w[None]
        for row in apply_jacobian(program, point.element, u[None], dv):
            np.testing.assert_allclose(row, 0, atol=1e-12)


def test_large_sparse_definitions_stay_sparse() -> None:
    """Simplex projection: t = x − a with one entry a row; the reduced program is as sparse as the problem."""
    n = 3000
    x, a = cp.Variable(n), cp.Parameter(n)
    compiled = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0]), [a], [x])
    program = compiled.program(np.zeros((1, n)))
    point = evaluate(program, np.zeros((1, program.structure.n)), np.ones((1, program.structure.m)))
    reduced, _, reduction = reduce_program(program, point.element)
    assert reduction.rows.size == n
    assert reduced.structure.n == n
    assert reduced.structure.P.nnz == n


def test_small_pivots_are_not_used() -> None:
    program = program_of("ridge")
    reduction = reduce_program(program, evaluate(program, program.q, program.b).element)[2]
    A = program.A.copy()
    A[0, reduction.pivots[0]] = 1e-12
    tiny = ConeProgram(program.structure, program.P, program.q, A, program.b)
    assert reduce_program(tiny, evaluate(tiny, tiny.q, tiny.b).element) is None
