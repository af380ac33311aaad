"""The factorizations: both kinds against a dense solve with J, and singular systems against the pseudo-inverse's laws."""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from dense_jacobians import jacobian
from random_programs import random_program

from conelayers import Layer, SingularDerivativeWarning, Verdict, solve_and_differentiate
from conelayers.derivatives.linearization import Linearization
from conelayers.numerics.cones import product_cone
from conelayers.numerics.kkt import (
    CondensedFactorization,
    DenseFactorization,
    KrylovFactorization,
    SparseFactorization,
    factorize,
    null_space,
)
from conelayers.numerics.kkt.diagonal import DiagonalFactorization
from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import evaluate
from conelayers.numerics.scaling import Scaling
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern

CONES = {
    "orthant": Cones(zero=2, nonneg=6),
    "second order": Cones(zero=1, soc=(3, 4, 3)),
    "lifted second order": Cones(nonneg=2, soc=(20, 18, 16)),
    "semidefinite": Cones(zero=1, psd=(3, 2)),
    "mixed": Cones(zero=2, nonneg=3, soc=(4, 20), psd=(3,)),
}


def linearizations(name: str, seed: int, n: int = 9) -> list[tuple[ConeProgram, Linearization]]:
    program, x, v = random_program(CONES[name], n, 4, seed)
    point = evaluate(program, x, v)
    made = []
    for factorization in (
        DenseFactorization.of(program, point.element),
        SparseFactorization.of(program, point.element, 2),
        KrylovFactorization.of(program, point.element, 2),
        CondensedFactorization.of(program, point.element),
    ):
        linearization = Linearization(Presolved(program, program), point, Scaling.identity(program), 2)
        linearization.computed.factorization = factorization
        made.append((program, linearization))
    return made


@pytest.mark.parametrize("name", CONES)
def test_tangent_and_adjoint_solve_j(name: str) -> None:
    for program, linearization in linearizations(name, 3):
        element = linearization.point.element
        rng = np.random.default_rng(5)
        n, m = program.structure.n, program.structure.m
        r1, r2 = rng.standard_normal((4, n)), rng.standard_normal((4, m))
        J = jacobian(program, element)
        regular = np.linalg.cond(J) < 1e8
        assert regular.any()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularDerivativeWarning)
            dx, dy, ds = linearization.tangent(r1, r2)
            gx, gy, gs = rng.standard_normal((4, n)), rng.standard_normal((4, m)), rng.standard_normal((4, m))
            lam, mu = linearization.adjoint(gx, gy, gs)
        for i in np.flatnonzero(regular):
            solution = np.linalg.solve(J[i], np.concatenate([r1[i], r2[i]]))
            dv = solution[n:]
            D = element.take(i)
            np.testing.assert_allclose(dx[i], solution[:n], atol=1e-9)
            np.testing.assert_allclose(dy[i], D.apply(dv), atol=1e-9)
            np.testing.assert_allclose(ds[i], D.apply(dv) - dv, atol=1e-9)
            h = D.apply(gy[i] + gs[i]) - gs[i]
            expected = np.linalg.solve(J[i].T, np.concatenate([gx[i], h]))
            np.testing.assert_allclose(np.concatenate([lam[i], mu[i]]), expected, atol=1e-9)
        # ⟨g, tangent(r)⟩ = ⟨adjoint(g), r⟩ holds for least-squares solutions as well.
        left = (gx * dx).sum(1) + (gy * dy).sum(1) + (gs * ds).sum(1)
        right = (lam * r1).sum(1) + (mu * r2).sum(1)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("n", [5, 12])
def test_singular_systems_are_told(n: int) -> None:
    """More active constraints than variables, or too few and no curvature: a warning, a finite minimum-norm answer."""
    cones = Cones(zero=8) if n == 5 else Cones(nonneg=4)
    program, x, v = random_program(cones, n, 2, 0, quadratic=False)
    point = evaluate(program, x, v)
    rng = np.random.default_rng(0)
    r1, r2 = rng.standard_normal((2, n)), rng.standard_normal((2, cones.dimension))
    answers = []
    for factorization in (
        DenseFactorization.of(program, point.element),
        SparseFactorization.of(program, point.element, 1),
        CondensedFactorization.of(program, point.element),
    ):
        assert factorization.singular.all()
        linearization = Linearization(Presolved(program, program), point, Scaling.identity(program), 1)
        linearization.computed.factorization = factorization
        with pytest.warns(SingularDerivativeWarning, match="no exact derivative exists"):
            answers.append(linearization.tangent(r1, r2))
    for first, *others in zip(*answers, strict=True):
        assert np.abs(first).max() < 1e4
        for other in others:
            np.testing.assert_allclose(first, other, atol=1e-7)


def test_consistent_singular_system_is_solved_without_a_warning() -> None:
    """A duplicated equality: dx is determined, the multipliers are not, and a consistent right-hand side has a solution."""
    cones = Cones(zero=4)
    program, x, v = random_program(cones, 5, 1, 0)
    A = program.structure.A.dense(program.A)
    A[:, 3] = A[:, 2]
    b = program.b.copy()
    b[:, 3] = b[:, 2]
    doubled = ConeProgram(program.structure, program.P, program.q, np.swapaxes(A, 1, 2).reshape(1, -1), b)
    linearization = Linearization(Presolved(doubled, doubled), evaluate(doubled, x, v), Scaling.identity(doubled), 1)
    r1, r2 = np.ones((1, 5)), np.array([[1.0, 2.0, 3.0, 3.0]])
    dx, dy, _ = linearization.tangent(r1, r2, lambda *_: False)
    assert linearization.factorization.singular.all()
    single, sx, sv = random_program(Cones(zero=3), 5, 1, 0)
    reference = ConeProgram(
        single.structure, program.P, program.q, np.swapaxes(A[:, :3], 1, 2).reshape(1, -1), b[:, :3]
    )
    ref_dx, ref_dy, _ = Linearization(
        Presolved(reference, reference), evaluate(reference, sx, sv), Scaling.identity(reference), 1
    ).tangent(r1, r2[:, :3])
    np.testing.assert_allclose(dx, ref_dx, atol=1e-10)
    np.testing.assert_allclose(dy[0, 2], dy[0, 3], atol=1e-10)  # the multiplier is shared: minimum norm
    np.testing.assert_allclose(dy[0, 2] + dy[0, 3], ref_dy[0, 2], atol=1e-10)


def test_stacked_inverses_and_parts_of_a_batch() -> None:
    """Small batches are inverted at once; a singular instance among them is told, and the others are not touched."""
    program, x, v = random_program(CONES["mixed"], 9, 4, 3)
    point = evaluate(program, x, v)
    stacked, single = factorize(program, point.element, 1), DenseFactorization.of(program, point.element)
    np.testing.assert_array_equal(stacked.singular, single.singular)
    assert single.singular.any()
    assert not single.singular.all()
    rng = np.random.default_rng(0)
    p1, p2 = rng.standard_normal(x.shape), rng.standard_normal(v.shape)
    regular = np.flatnonzero(~single.singular)
    for a, b in zip(stacked.solve(p1, p2), single.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a[regular], b[regular], atol=1e-8 * np.abs(b[regular]).max())
    index = regular[::2]
    for a, b in zip(stacked.take(index).solve(p1[index], p2[index]), single.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a, b[index], atol=1e-8 * np.abs(b[regular]).max())


def test_pins_leave_the_answers_alone() -> None:
    """Active bounds leave the sparse matrix; its solutions, null vectors and minimum-norm solutions are those of the whole."""
    n = 12
    A = np.vstack([np.ones((1, n)), np.ones((1, n)), np.diag(np.linspace(1, 2, n))])
    b = np.zeros(n + 2)
    structure = Structure(Pattern.of(sp.csc_array(np.eye(n))), Pattern.of(sp.csc_array(A)), Cones(zero=2, nonneg=n))
    program = ConeProgram(structure, np.ones((1, n)), np.ones((1, n)), sp.csc_array(A).data[None], b[None])
    v = np.where(np.arange(n + 2) < 8, 1.0, -1.0)[None]
    element = evaluate(program, np.zeros((1, n)), v).element
    sparse, dense = SparseFactorization.of(program, element, 1), DenseFactorization.of(program, element)
    assert sparse.singular.all()  # the sum is there twice
    assert sparse._instances[0].assembled.order == n - 6 + 2
    rng = np.random.default_rng(1)
    p1, p2 = rng.standard_normal((1, n)), rng.standard_normal((1, n + 2))
    everything = np.array([0])
    norms = [f.use_pseudo_inverse(everything).solve(p1, p2) for f in (sparse, dense)]
    for a, b in zip(*norms, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    p2[0, 1] = p2[0, 0]  # consistent now
    dx = [f.solve(p1, p2)[0] for f in (sparse, dense)]
    np.testing.assert_allclose(dx[0], dx[1], atol=1e-10)
    (null_x, null_y), (other_x, other_y) = sparse.null_vectors(0), dense.null_vectors(0)
    assert len(null_x) == len(other_x) == 1
    np.testing.assert_allclose(null_x, 0, atol=1e-12)
    np.testing.assert_allclose(np.abs(null_y @ other_y.T), np.linalg.norm(null_y) * np.linalg.norm(other_y), rtol=1e-9)


def test_a_zero_pivot_is_not_the_end(monkeypatch) -> None:
    """Where QDLDL finds no factor, an LU with pivoting takes its place."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("zero pivot")

    program, x, v = random_program(CONES["mixed"], 9, 1, 0)
    point = evaluate(program, x, v)
    p1, p2 = np.ones((1, 9)), np.ones((1, CONES["mixed"].dimension))
    expected = DenseFactorization.of(program, point.element).solve(p1, p2)
    monkeypatch.setattr("conelayers.numerics.kkt.quasi_definite.qdldl.Solver", broken)
    factorization = SparseFactorization.of(program, point.element, 1)
    assert not factorization.singular.any()
    for a, b in zip(factorization.solve(p1, p2), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8 * np.abs(b).max())


@pytest.mark.parametrize("kind", ["stacked", "dense", "sparse", "krylov"])
def test_variables_that_nothing_touches_are_null_vectors(kind: str) -> None:
    """cvxpy's epigraph variable of an inactive norm: K⁺ leaves it at zero, whatever factors the rest."""
    program, x, v = random_program(Cones(zero=2, nonneg=3), 7, 2, 1)
    P, A = program.structure.P.dense(program.P).copy(), program.structure.A.dense(program.A).copy()
    P[:, 4], P[:, :, 4], A[:, :, 4] = 0.0, 0.0, 0.0
    P += np.diag(np.arange(7) != 4).astype(float)
    columns = [np.swapaxes(h, 1, 2).reshape(2, -1) for h in (P, A)]
    program = ConeProgram(program.structure, columns[0], program.q, columns[1], program.b)
    element = evaluate(program, x, v).element
    factored = {
        "stacked": lambda: factorize(program, element, 1),
        "dense": lambda: DenseFactorization.of(program, element),
        "sparse": lambda: SparseFactorization.of(program, element, 1),
        "krylov": lambda: KrylovFactorization.of(program, element, 1),
    }[kind]()
    assert factored.singular.all()
    rng = np.random.default_rng(0)
    p1, p2 = rng.standard_normal((2, 7)), rng.standard_normal((2, 5))
    p1[:, 4] = 0.0
    whole = DenseFactorization.of(program, element).use_pseudo_inverse(np.arange(2))
    for a, b in zip(factored.solve(p1, p2), whole.solve(p1, p2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    for i in range(2):
        dx, dy = factored.null_vectors(i)
        np.testing.assert_allclose(np.abs(dx), np.eye(7)[[4]], atol=1e-12)
        np.testing.assert_allclose(dy, 0, atol=1e-12)


def test_a_linear_matrix_inequality_leaves_few_unknowns() -> None:
    """The dual of max-cut of order 40: 40 variables and little more than r(r + 1)/2 of 820 rows."""
    k = 40
    rng = np.random.default_rng(0)
    W = np.triu(rng.uniform(0, 1, (k, k)) * (rng.uniform(size=(k, k)) < 0.2), 1)
    C = np.diag((W + W.T).sum(1)) - W - W.T
    cols, rows = np.triu_indices(k)
    diagonal = np.flatnonzero(rows == cols)
    A = sp.csc_array((-np.ones(k), (diagonal, np.arange(k))), shape=(rows.size, k))
    b = -C[rows, cols] * np.where(rows == cols, 1.0, np.sqrt(2.0))
    solution = solve_and_differentiate(None, np.ones(k), A, b, Cones(psd=(k,)))
    (part,) = solution._linearization.factorization._instances
    Y = np.zeros((k, k))
    Y[rows, cols] = Y[cols, rows] = solution.y / np.where(rows == cols, 1.0, np.sqrt(2.0))
    rank = int(np.sum(np.linalg.eigvalsh(Y) > 1e-8))
    assert rank * (rank + 1) // 2 <= part.left.size < k
    np.testing.assert_allclose(np.diag(Y), 1.0, atol=1e-9)
    assert solution.certify()[0].verdict is Verdict.CLASSICAL


def test_null_vectors_of_a_condensed_system() -> None:
    """A variable that moves nothing but another one's rows: both eliminations know it, and so does the test of ranks."""
    program, x, v = random_program(Cones(zero=1, psd=(24,)), 20, 1, 0, quadratic=False)
    A = program.structure.A.dense(program.A).copy()
    A[:, :, 7] = A[:, :, 3]
    program = ConeProgram(program.structure, program.P, program.q, np.swapaxes(A, 1, 2).reshape(1, -1), program.b)
    cols, rows = np.triu_indices(24)
    v[:, 1 + np.flatnonzero(rows == cols)] -= 6.0  # a multiplier of low rank: fewer equations than variables
    element = evaluate(program, x, v).element
    condensed = factorize(program, element, 1)
    assert isinstance(condensed, CondensedFactorization)
    assert condensed.singular.all()
    expected = np.zeros(20)
    expected[[3, 7]] = 1, -1
    for dx, dy in (condensed.null_vectors(0), null_space(Presolved(program, program), element, 0)):
        np.testing.assert_allclose(dx / dx[0, 3], expected[None], atol=1e-9)
        np.testing.assert_allclose(dy, 0, atol=1e-9)


def _bounded(diagonal: float, coupling: np.ndarray, batch: int = 3) -> tuple[ConeProgram, np.ndarray]:
    """min ½xᵀDx + qᵀx, |x| ≤ 1, coupling rows C x ≤ d, with its solution's residual variable u (n + m,)."""
    rng = np.random.default_rng(2)
    n = coupling.shape[1]
    A = sp.vstack([sp.eye_array(n), -sp.eye_array(n), sp.csr_array(coupling)]).tocsc()
    structure = Structure(Pattern.of(sp.eye_array(n).tocsc()), Pattern.of(A), Cones(nonneg=A.shape[0]))
    P = diagonal * rng.uniform(0.5, 2.0, (batch, n))
    q = rng.standard_normal((batch, n))
    b = np.concatenate([np.ones((batch, 2 * n)), np.full((batch, len(coupling)), -0.2)], axis=1)
    active = rng.uniform(size=(batch, A.shape[0])) < 0.2
    active[:, n : 2 * n] &= ~active[:, :n]
    active[:, 2 * n :] = True
    v = np.where(active, 1.0, -1.0)
    return ConeProgram(structure, P, q, np.repeat(A.data[None], batch, axis=0), b), v


def test_coupled_bounds_by_the_schur_complement() -> None:
    """The diagonal route gives the dense factorization's answer; a doubtful system is left to the others."""
    rng = np.random.default_rng(1)
    coupling = rng.standard_normal((3, 30))
    program, v = _bounded(1.0, coupling)
    element = product_cone(program.structure.cones).project_dual(v)[1]
    made = DiagonalFactorization.of(program, element, 1)
    assert made is not None
    p1, p2 = rng.standard_normal((3, 30)), rng.standard_normal((3, 63)) * (v > 0)
    expected = DenseFactorization.of(program, element).solve(p1, p2)
    for got in (made.solve(p1, p2), made.take([2, 0]).solve(p1[[2, 0]], p2[[2, 0]])):
        rows = [0, 1, 2] if len(got[0]) == 3 else [2, 0]
        np.testing.assert_allclose(got[0], expected[0][rows], atol=1e-11)
        np.testing.assert_allclose(got[1], expected[1][rows], atol=1e-11)

    doubled, v = _bounded(1.0, np.vstack([coupling, coupling[:1]]))
    assert DiagonalFactorization.of(doubled, product_cone(doubled.structure.cones).project_dual(v)[1], 1) is None
    flat, v = _bounded(0.0, coupling)
    assert DiagonalFactorization.of(flat, product_cone(flat.structure.cones).project_dual(v)[1], 1) is None
    program, v = _bounded(1.0, coupling)
    v[0, 0] = v[0, 30] = 1.0  # both bounds of one variable
    assert DiagonalFactorization.of(program, product_cone(program.structure.cones).project_dual(v)[1], 1) is None


@pytest.mark.parametrize("size", [20, 600])
def test_a_program_whose_variables_are_all_pinned(size: int) -> None:
    """At the vertex of a box nothing is left of the sparse K once its pins are out."""
    u, c = cp.Variable(size), cp.Parameter(size)
    value = np.linspace(-2, 3, size)
    layer = Layer(cp.Problem(cp.Maximize(c @ u), [u >= 0, u <= 0.5]), [c], [u], singular="least_squares")
    solution = layer.solve(value)
    np.testing.assert_allclose(solution.variables[0], 0.5 * (value > 0), atol=1e-12)
    np.testing.assert_allclose(solution.vjp(np.ones(size))[0], 0, atol=1e-12)
    assert solution.certify()[0].verdict.value == "classical"
