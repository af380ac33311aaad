"""Problems without a derivative are told, in forward and in reverse; well-posed ones that only look singular are not."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

from conelayers import Layer, SingularDerivativeWarning, solve_and_differentiate
from conelayers.numerics.cones import product_cone
from conelayers.numerics.kkt import SparseFactorization
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse
from conelayers.numerics.kkt.quasi_definite import pivoted_lu
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern


def solve(objective, constraints, parameters, variables, *values, **options):
    return Layer(cp.Problem(cp.Minimize(objective), constraints), parameters, variables, **options).solve(*values)


def test_redundant_equalities_have_no_derivative_in_their_right_hand_sides() -> None:
    y, b = cp.Variable(2), cp.Parameter(2)
    solution = solve(cp.sum_squares(y), [y[0] == b[0], y[0] == b[1]], [b], [y], np.ones(2))
    with pytest.warns(SingularDerivativeWarning, match="no solution nearby"):
        np.testing.assert_allclose(solution.vjp(np.array([1.0, 0.0]))[0], [0.5, 0.5])
    with pytest.warns(SingularDerivativeWarning, match="no solution for this direction"):
        solution.jvp(np.array([1.0, 0.0]))


def test_redundant_equalities_with_constant_right_hand_sides_do_not_matter() -> None:
    """The transport polytope's classical redundancy: the derivative in the costs exists, and there is no warning."""
    x, c = cp.Variable((2, 3), nonneg=True), cp.Parameter((2, 3))
    constraints = [cp.sum(x, axis=0) == 1, cp.sum(x, axis=1) == 1.5]
    value = np.random.default_rng(0).uniform(1, 2, (2, 3))
    solution = solve(cp.sum_squares(x) + cp.sum(cp.multiply(c, x)), constraints, [c], [x], value)
    g = np.random.default_rng(1).standard_normal((2, 3))
    (gradient,) = solution.vjp(g)
    assert solution.linearization.take(np.arange(len(solution.points[0]))).factorization.singular.all()
    (tangent,) = solution.jvp(g)
    np.testing.assert_allclose(gradient, tangent, atol=1e-12)  # minus the inverse Hessian on a subspace: symmetric


def test_solution_that_is_not_unique() -> None:
    t, a = cp.Variable(), cp.Parameter(4)
    solution = solve(cp.norm1(t - a), [], [a], [t], np.array([1.0, 2.0, 3.0, 4.0]))
    with pytest.warns(SingularDerivativeWarning, match="not unique"):
        solution.jvp(np.ones(4))
    with pytest.warns(SingularDerivativeWarning):
        solution.vjp(1.0)


def test_part_of_the_solution_that_is_not_asked_for_may_be_ambiguous() -> None:
    """norm_inf(x) ≤ 10 is inactive: in cvxpy's own form its epigraph variable is free, x and its derivative are not."""
    x, a = cp.Variable(3), cp.Parameter(3)
    value = np.array([1.0, -2.0, 0.5])
    solution = solve(cp.sum_squares(x - a), [cp.norm_inf(x) <= 10], [a], [x], value, simplify=False)
    np.testing.assert_allclose(solution.vjp(np.ones(3))[0], np.ones(3), atol=1e-12)
    np.testing.assert_allclose(solution.jvp(value)[0], value, atol=1e-12)
    assert solution.linearization.take(np.arange(len(solution.points[0]))).factorization.singular.all()


def test_degenerate_vertex() -> None:
    y, h = cp.Variable(2), cp.Parameter(3)
    constraints = [y[0] <= h[0], y[1] <= h[1], cp.sum(y) <= h[2]]
    solution = solve(-y[0] - 2 * y[1], constraints, [h], [y], np.array([1.0, 1.0, 2.0]))
    # Three active constraints at a vertex of the plane: their right-hand sides cannot move independently.
    with pytest.warns(SingularDerivativeWarning):
        solution.vjp(np.ones(2))


def test_only_the_singular_instance_of_a_batch_is_named() -> None:
    """The weighted median: unique for weights (1, 1, 1), an interval for (1, 1, 0)."""
    t, weights = cp.Variable(), cp.Parameter(3, nonneg=True)
    objective = weights @ cp.abs(t - np.array([1.0, 2.0, 4.0]))
    solution = solve(objective, [], [weights], [t], np.array([[1.0, 1, 1], [1, 1, 0]]))
    with pytest.warns(SingularDerivativeWarning, match=r"batch index \[1\]"):
        solution.vjp(np.ones(2))


def test_a_cone_program_in_hand_has_all_data_as_parameters() -> None:
    A = np.array([[1.0, 0.0], [1.0, 0.0]])
    solution = solve_and_differentiate(np.eye(2), np.ones(2), A, np.ones(2), {"z": 2})
    with pytest.warns(SingularDerivativeWarning):
        solution.vjp(np.ones(2))


def test_ill_conditioned_is_not_singular() -> None:
    """The Hilbert matrix of order 6: condition number 1e7."""
    H = 1 / (np.arange(6)[:, None] + np.arange(6) + 1.0)
    solution = solve_and_differentiate(H, np.ones(6), np.zeros((0, 6)), np.zeros(0), {})
    expected = -np.linalg.solve(H, np.eye(6)[0])
    np.testing.assert_allclose(solution.vjp(np.eye(6)[0])[1], expected, rtol=1e-8)


def test_cotangents_that_are_zero_or_not_finite() -> None:
    x, a = cp.Variable(2), cp.Parameter(2)
    solution = solve(cp.sum_squares(x - a), [x >= 0], [a], [x], np.ones(2))
    np.testing.assert_array_equal(solution.vjp(np.zeros(2))[0], 0)
    assert np.isnan(solution.vjp(np.array([np.nan, 0.0]))[0]).any()
    np.testing.assert_allclose(solution.vjp(np.full(2, 1e-200))[0], 1e-200, rtol=1e-12)


@pytest.mark.parametrize("entropic", [False, True])
def test_redundant_equalities_of_a_large_problem_do_not_matter(entropic: bool) -> None:
    """The same for systems too large to decompose: the null vector is found by inverse iteration."""
    n = 30
    T, C = cp.Variable((n, n), nonneg=True), cp.Parameter((n, n))
    smoothing = -0.1 * cp.sum(cp.entr(T)) if entropic else cp.sum_squares(T)
    constraints = [cp.sum(T, axis=0) == 1, cp.sum(T, axis=1) == 1]
    value = np.random.default_rng(0).random((n, n))
    solution = solve(smoothing + cp.sum(cp.multiply(C, T)), constraints, [C], [T], value)
    g = np.random.default_rng(1).standard_normal((n, n))
    np.testing.assert_allclose(solution.vjp(g)[0], solution.jvp(g)[0], atol=1e-9)
    assert solution.linearization.take(np.arange(len(solution.points[0]))).factorization.singular.all()


def test_rounding_is_no_rank() -> None:
    """A row of 1e−11 in a matrix of ones counts as zero: scaled up, its inverse would be of size 1e11."""
    K = np.diag([1.0, -1.0, 0.0])
    K[0, 2] = K[2, 0] = 1e-11
    inverse = DensePseudoInverse(K)
    assert inverse.nullity == 1
    np.testing.assert_allclose(inverse.solve(np.ones(3)), [1.0, -1.0, 0.0], atol=1e-9)


def test_factors_that_break_down_do_not_warn() -> None:
    """Infinities of a factor are looked for; NumPy's own warnings about them would stop a suite that takes warnings for errors."""
    A = sp.csc_array(np.vstack([np.eye(3), np.ones((2, 3))]))
    P = sp.csc_array((3, 3))
    structure = Structure(Pattern.of(P), Pattern.of(A), Cones(zero=5))
    program = ConeProgram(structure, P.data[None], np.zeros((1, 3)), A.data[None], np.ones((1, 5)))
    element = product_cone(structure.cones).project_dual(np.ones((1, 5)))[1]
    factor = SparseFactorization.of(program, element, 1)
    with np.errstate(all="raise", under="ignore"):
        factor.solve(np.full((1, 3), 1e300), np.full((1, 5), 1e300))


def test_structurally_singular_systems_do_not_reach_superlu(monkeypatch: pytest.MonkeyPatch) -> None:
    """SuperLU may crash the process on them; their solver gives the infinities by which they are known."""
    monkeypatch.setattr(
        "conelayers.numerics.kkt.quasi_definite.spla.splu", lambda matrix: pytest.fail("SuperLU was called")
    )
    K = sp.csc_array(np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert np.isinf(pivoted_lu(K)(np.ones(3))).all()
