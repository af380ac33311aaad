"""solve_and_differentiate on raw cone programs: against diffcp, differences, and itself on sparse data."""

from __future__ import annotations

import diffcp
import numpy as np
import pytest
import scipy.sparse as sp
import scs

from conelayers import Cones, SolveError, Status, solve_and_differentiate
from conelayers.numerics.cones import product_cone

DIFFCP_CASES = {
    "linear": (Cones(zero=2, nonneg=8), 6),
    "second order": (Cones(zero=2, nonneg=3, soc=(4, 3)), 6),
    "semidefinite": (Cones(zero=3, psd=(4,)), 8),
    "mixed": (Cones(zero=2, nonneg=4, soc=(4,), psd=(3,)), 9),
}


def random_data(
    cones: Cones, n: int, seed: int, quadratic: bool
) -> tuple[sp.csc_array | None, np.ndarray, sp.csc_array, np.ndarray]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((cones.dimension, n))
    G = rng.standard_normal((n, n)) / np.sqrt(n)
    P = G @ G.T if quadratic else np.zeros((n, n))
    x, v = rng.standard_normal(n), rng.standard_normal(cones.dimension)
    y = product_cone(cones).project_dual(v[None])[0][0]
    return sp.csc_array(P) if quadratic else None, -P @ x - A.T @ y, sp.csc_array(A), A @ x + y - v


def diffcp_cones(cones: Cones) -> dict[str, object]:
    return {"z": cones.zero, "l": cones.nonneg, "q": list(cones.soc), "s": list(cones.psd)}


@pytest.mark.parametrize("name", DIFFCP_CASES)
def test_same_as_diffcp_in_its_dense_mode(name: str) -> None:
    """The reference that the field trusts: solutions, tangents and gradients; that mode takes linear objectives only."""
    cones, n = DIFFCP_CASES[name]
    if cones.psd and tuple(map(int, scs.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("SCS before 3.3, diffcp's solver, does not reach 1e-11 here")
    compared = 0
    for seed in range(6):
        _, q, A, b = random_data(cones, n, seed, False)
        ours = solve_and_differentiate(None, q, A, b, cones)
        J_singular = ours._linearization.factorization.singular[0]
        if J_singular:  # both give something; there is no derivative to compare
            continue
        x, y, s, D, DT = diffcp.solve_and_derivative(
            sp.csc_matrix(A),
            b,
            q,
            diffcp_cones(cones),
            solve_method="SCS",
            mode="dense",
            eps=1e-11,
            max_iters=100000,
            verbose=False,
        )
        np.testing.assert_allclose(ours.x, x, atol=1e-6)
        np.testing.assert_allclose(ours.y, y, atol=1e-6)
        np.testing.assert_allclose(ours.s, s, atol=1e-6)
        rng = np.random.default_rng(100 + seed)
        g = rng.standard_normal(n)
        _, dq, dA, db = ours.vjp(g)
        reference = DT(g, np.zeros_like(y), np.zeros_like(s))
        scale = max(1.0, float(np.abs(reference[0]).max()))
        np.testing.assert_allclose(dA.toarray(), reference[0].toarray(), atol=1e-5 * scale)
        np.testing.assert_allclose(db, reference[1], atol=1e-5 * scale)
        np.testing.assert_allclose(dq, reference[2], atol=1e-5 * scale)
        dA_in, db_in, dq_in = rng.standard_normal(A.shape), rng.standard_normal(b.size), rng.standard_normal(n)
        tangent = ours.jvp(None, dq_in, dA_in, db_in)
        for mine, theirs in zip(tangent, D(sp.csc_matrix(dA_in), db_in, dq_in), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5 * max(1.0, float(np.abs(theirs).max())))
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS"])
def test_gradient_with_respect_to_all_data(solver: str) -> None:
    """dP, dq, dA, db and the cotangents of x, y and s, against differences along random directions."""
    cones = Cones(zero=2, nonneg=4, soc=(3,), psd=(3,))
    P, q, A, b = random_data(cones, 14, 1, True)
    solution = solve_and_differentiate(P, q, A, b, cones, solver=solver)
    assert solution.status is Status.SOLVED
    rng = np.random.default_rng(0)
    g = rng.standard_normal(14), rng.standard_normal(b.size), rng.standard_normal(b.size)
    gradients = solution.vjp(*g)
    E = rng.standard_normal((14, 14))
    directions = E + E.T, rng.standard_normal(14), rng.standard_normal(A.shape), rng.standard_normal(b.size)

    def along(t: float) -> float:
        moved = solve_and_differentiate(
            P + t * directions[0],
            q + t * directions[1],
            A + t * directions[2],
            b + t * directions[3],
            cones,
            solver=solver,
        )
        return float(g[0] @ moved.x + g[1] @ moved.y + g[2] @ moved.s)

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    adjoint = sum(
        float(np.sum((a.toarray() if sp.issparse(a) else a) * d)) for a, d in zip(gradients, directions, strict=True)
    )
    assert adjoint == pytest.approx(expected, rel=1e-6)
    tangents = solution.jvp(*directions)
    assert sum(float(a @ d) for a, d in zip(g, tangents, strict=True)) == pytest.approx(adjoint, rel=1e-9)


def test_sparse_in_sparse_out() -> None:
    """Gradients lie on the patterns of the data, so that a sparse program stays sparse."""
    n = 400
    rng = np.random.default_rng(0)
    A = sp.vstack([sp.csc_array(np.ones((1, n))), -sp.eye_array(n)]).tocsc()
    b = np.concatenate([[1.0], np.zeros(n)])
    P = sp.eye_array(n, format="csc")
    a = rng.standard_normal(n)
    solution = solve_and_differentiate(P, -a, A, b, {"z": 1, "l": n})
    dP, dq, dA, db = solution.vjp(np.ones(n) * a)
    assert (dA.nnz, dP.nnz) == (A.nnz, n)
    np.testing.assert_array_equal(dA.indices, A.indices)
    support = solution.x > 1e-12
    expected = np.where(support, a - a[support].mean(), 0.0)  # the projection onto the simplex
    np.testing.assert_allclose(-dq, expected, atol=1e-12)
    assert db.shape == (n + 1,)


def test_dual_power_cones_go_to_the_solver_that_takes_them() -> None:
    cones = Cones(power=(-0.3, 0.6))
    P, q, A, b = random_data(cones, 8, 2, True)
    solution = solve_and_differentiate(P, q, A, b, cones)
    assert solution.residuals.worst <= 1e-9
    with pytest.raises(ValueError, match=r"does not take the cones power_dual\. Solvers that take this problem: SCS"):
        solve_and_differentiate(P, q, A, b, cones, solver="CLARABEL")


def test_unsymmetric_tangents_are_symmetrised() -> None:
    cones = Cones(nonneg=3)
    P, q, A, b = random_data(cones, 4, 0, True)
    solution = solve_and_differentiate(P, q, A, b, cones)
    E = np.random.default_rng(0).standard_normal((4, 4))
    for mine, symmetric in zip(
        solution.jvp(E, None, None, None), solution.jvp((E + E.T) / 2, None, None, None), strict=True
    ):
        np.testing.assert_allclose(mine, symmetric, atol=1e-14)


def test_program_without_rows() -> None:
    P = np.array([[2.0, 0.5], [0.5, 1.0]])
    for solver in ("CLARABEL", "SCS"):
        solution = solve_and_differentiate(P, np.ones(2), np.zeros((0, 2)), np.zeros(0), Cones(), solver=solver)
        np.testing.assert_allclose(solution.x, -np.linalg.solve(P, np.ones(2)), atol=1e-12)
        np.testing.assert_allclose(solution.vjp(np.array([1.0, 0.0]))[1], -np.linalg.solve(P, [1.0, 0.0]), atol=1e-12)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_semidefinite_duals_agree_between_solvers(order: int) -> None:
    """Clarabel stacks the other triangle: from order 3 on a missing permutation changes y and s."""
    rows = 3 + order * (order + 1)
    P, q, A, b = random_data(Cones(psd=(2, order, order)), rows, 5, True)
    first, second = (
        solve_and_differentiate(P, q, A, b, Cones(psd=(2, order, order)), solver=s) for s in ("CLARABEL", "SCS")
    )
    np.testing.assert_allclose(first.y, second.y, atol=1e-9)
    np.testing.assert_allclose(first.s, second.s, atol=1e-9)


def test_ill_conditioned_gradients_are_exact() -> None:
    """A box and budget QP with κ(P) = 1e6, where an iterative least-squares solve of the adjoint loses every digit."""
    n = 50
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    P = Q @ np.diag(np.logspace(0, 6, n)) @ Q.T
    P = (P + P.T) / 2
    A = np.vstack([np.ones((1, n)), -np.eye(n), np.eye(n)])
    b = np.concatenate([[1.0], np.zeros(n), np.full(n, 0.1)])
    solution = solve_and_differentiate(P, rng.standard_normal(n), A, b, Cones(zero=1, nonneg=2 * n))
    g = rng.standard_normal(n)
    dq = solution.vjp(g)[1]
    free = (solution.x > 1e-9) & (solution.x < 0.1 - 1e-9)
    K = np.block([[P[np.ix_(free, free)], np.ones((free.sum(), 1))], [np.ones((1, free.sum())), np.zeros((1, 1))]])
    expected = np.zeros(n)
    expected[free] = -np.linalg.solve(K, np.append(g[free], 0.0))[:-1]
    np.testing.assert_allclose(dq, expected, atol=1e-10 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 4), slice(0, 4)])
def test_ecos_is_not_given_rows_without_entries(rows: slice) -> None:
    """It writes past its arrays where all equalities, or all the other rows, are zero, and the process dies."""
    A = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    A[rows] = 0.0
    for _ in range(20):
        alone = {"solve_method": "ECOS", "fallback": False}
        with pytest.raises(SolveError, match="not called: ECOS"):
            solve_and_differentiate(None, np.zeros(2), A, np.zeros(4), Cones(zero=2, nonneg=2), solver_args=alone)
    assert solve_and_differentiate(None, np.zeros(2), A, np.zeros(4), Cones(zero=2, nonneg=2)).status is Status.SOLVED
