"""Elimination of definition rows: the same answers as without, for regular and singular systems."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from zoo import ZOO

from conelayers.numerics.kkt import DenseFactorization, EliminatedFactorization, SparseFactorization
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.presolve import presolve
from conelayers.numerics.residual import Point, apply_jacobian, evaluate
from conelayers.problem.canonicalize import canonicalize
from conelayers.problem.parameter_checks import combine_batch
from conelayers.program.cone_program import ConeProgram


def program_of(name: str, batch: int = 3) -> ConeProgram:
    case = ZOO[name]()
    compiled = canonicalize(case.problem, case.parameters, case.variables, gp=case.gp)
    rng = np.random.default_rng(0)
    draws = [case.draw(rng) for _ in range(batch)]
    return compiled.program(combine_batch(compiled.parameters, [np.stack(v) for v in zip(*draws, strict=True)]).theta)


def eliminated(program: ConeProgram, point: Point, kind: type[Factorization] = DenseFactorization) -> Factorization:
    presolved = presolve(program)
    assert presolved.elimination is not None
    element = presolved.element(point.element)
    inner = presolved.smaller, element
    factored = DenseFactorization.of(*inner) if kind is DenseFactorization else SparseFactorization.of(*inner, 1)
    return EliminatedFactorization.of(presolved, factored)


REDUCED = ["ridge", "lasso", "portfolio", "socp_group_lasso", "socp_large_cone", "sdp_max_cut"]


@pytest.mark.parametrize("kind", [DenseFactorization, SparseFactorization])
@pytest.mark.parametrize("name", REDUCED)
def test_same_answers_as_without(name: str, kind) -> None:
    """At any point, not only at solutions: K depends on D alone."""
    program = program_of(name)
    n, m = program.structure.n, program.structure.m
    rng = np.random.default_rng(1)
    point = evaluate(program, rng.standard_normal((3, n)), rng.standard_normal((3, m)))
    reduced = eliminated(program, point, kind)
    whole = DenseFactorization.of(program, point.element)
    np.testing.assert_array_equal(reduced.singular, whole.singular)
    p1, p2 = rng.standard_normal((3, n)), rng.standard_normal((3, m))
    regular = ~whole.singular
    for a, b in zip(reduced.solve(p1, p2), whole.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a[regular], b[regular], atol=1e-9 * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("name", REDUCED)
def test_the_smaller_program_has_the_same_solutions(name: str) -> None:
    """F of the whole at an expanded point is F of the smaller at the point, and zero elsewhere."""
    program = program_of(name)
    presolved = presolve(program)
    d = presolved.elimination.definitions
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, presolved.smaller.structure.n))
    v = rng.standard_normal((3, presolved.smaller.structure.m))
    inner, outer = evaluate(presolved.smaller, x, v), evaluate(presolved.whole, *presolved.expand(x, v))
    np.testing.assert_allclose(outer.F1[:, d.kept_cols], inner.F1, atol=1e-9)
    np.testing.assert_allclose(outer.F2[:, d.kept_rows], inner.F2, atol=1e-9)
    np.testing.assert_allclose(outer.F1[:, d.cols], 0, atol=1e-9)
    np.testing.assert_allclose(outer.F2[:, d.rows], 0, atol=1e-9)
    for a, b in zip(presolved.restrict(outer.x, outer.v), (x, v), strict=True):
        np.testing.assert_array_equal(a, b)
    # The operators of the whole multiply like its matrices.
    h, g = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
    for a, b in (
        (presolved.whole.Px(h), program.Px(h)),
        (presolved.whole.Ax(h), program.Ax(h)),
        (presolved.whole.ATy(g), program.ATy(g)),
    ):
        np.testing.assert_allclose(a, b, atol=1e-12 * max(1.0, np.abs(b).max()))


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
    factorization = eliminated(program, point)
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
    presolved = presolve(program)
    assert presolved.elimination.definitions.rows.size == n
    assert presolved.smaller.structure.n == n
    assert presolved.smaller.structure.P.nnz == n


def test_small_pivots_are_not_used() -> None:
    program = program_of("ridge")
    A = program.A.copy()
    A[0, presolve(program).elimination.definitions.pivots[0]] = 1e-12
    tiny = ConeProgram(program.structure, program.P, program.q, A, program.b)
    assert presolve(tiny).elimination is None
