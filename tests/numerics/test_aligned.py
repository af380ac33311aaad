"""Semidefinite variables: the eliminated K gives the same answers as the whole one, regular or singular."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from zoo import ZOO

from conelayers import Layer
from conelayers.numerics.kkt import DenseFactorization
from conelayers.numerics.kkt.aligned import AlignedFactorization
from conelayers.numerics.presolve import presolve
from conelayers.numerics.residual import apply_jacobian, evaluate
from conelayers.problem.canonicalize import canonicalize
from conelayers.problem.parameter_checks import combine_batch
from conelayers.program.cone_program import ConeProgram


def program_of(name: str) -> ConeProgram:
    case = ZOO[name]()
    compiled = canonicalize(case.problem, case.parameters, case.variables)
    rng = np.random.default_rng(0)
    draws = [case.draw(rng) for _ in range(3)]
    theta = combine_batch(compiled.parameters, [np.stack(v) for v in zip(*draws, strict=True)]).theta
    return presolve(compiled.program(theta)).smaller


@pytest.mark.parametrize("name", ["sdp_max_cut", "sdp_nearest_correlation", "sdp_nsd_variable"])
def test_same_answers_as_the_whole(name: str) -> None:
    program = program_of(name)
    rng = np.random.default_rng(1)
    p1, p2 = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
    point = evaluate(program, p1, rng.standard_normal(program.b.shape))
    aligned = AlignedFactorization.of(program, point.element)
    whole = DenseFactorization.of(program, point.element)
    assert aligned is not None
    assert not whole.singular.any()
    assert not aligned.singular.any()
    for a, b in zip(aligned.solve(p1, p2), whole.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max())
    for a, b in zip(aligned.take([0, 2]).solve(p1[[0, 2]], p2[[0, 2]]), whole.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a, b[[0, 2]], atol=1e-10 * np.abs(b).max())


def test_null_vectors_and_the_minimum_norm() -> None:
    """No constraint but the trace's, twice: X is not unique, nor are the multipliers."""
    X, C = cp.Variable((3, 3), PSD=True), cp.Parameter((3, 3), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.trace(X) == 1, 2 * cp.trace(X) == 2])
    compiled = canonicalize(problem, [C], [X])
    program = compiled.program(np.eye(3).reshape(1, -1))
    v = np.zeros(program.b.shape)
    rows = program.structure.cones.psd_rows[0]
    v[0, rows[[0, 3, 5]]] = -1 / 3  # X = I/3, its multiplier zero
    point = evaluate(program, np.zeros(program.q.shape), v)
    aligned = AlignedFactorization.of(program, point.element)
    assert aligned is not None
    assert aligned.singular.all()
    dx, dy = aligned.null_vectors(0)
    whole = DenseFactorization.of(program, point.element).use_pseudo_inverse(np.array([0]))
    assert len(dx) == len(whole.null_vectors(0)[0])
    for u, w in zip(dx, dy, strict=True):
        for row in apply_jacobian(program, point.element, u[None], program.Ax(u[None]) + w[None]):
            np.testing.assert_allclose(row, 0, atol=1e-12)
    rng = np.random.default_rng(2)
    p1, p2 = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
    for a, b in zip(aligned.use_pseudo_inverse(np.array([0])).solve(p1, p2), whole.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_a_linear_semidefinite_program_leaves_few_unknowns() -> None:
    """max-cut of order 12 with a solution of rank r: r(r + 1)/2 directions and 12 equalities are left of 78 and 90."""
    n = 12
    rng = np.random.default_rng(0)
    W = rng.uniform(0, 1, (n, n))
    X, C = cp.Variable((n, n), PSD=True), cp.Parameter((n, n))
    layer = Layer(cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.diag(X) == 1]), [C], [X])
    solution = layer.solve((W + W.T) / 2)
    rank = int(np.sum(np.linalg.eigvalsh(solution.variables[0]) > 1e-8))
    (part,) = solution._linearization.factorization._instances
    assert part.left.size == rank * (rank + 1) // 2
    assert part.others.size == n
