"""The residual map, its Jacobian, and the equivalence of J with the embedding's M (DESIGN of the method, section 2)."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from dense_jacobians import embedding_jacobian, jacobian
from random_programs import random_program

from conelayers.numerics.residual import (
    apply_jacobian,
    apply_jacobian_transpose,
    evaluate,
)
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern

REGULAR = [
    Cones(zero=2, nonneg=4),
    Cones(zero=1, nonneg=2, soc=(3, 4)),
    Cones(soc=(5,), psd=(3,)),
]


@pytest.mark.parametrize("cones", REGULAR)
@pytest.mark.parametrize("quadratic", [True, False])
def test_solution_is_a_zero_and_the_jacobian_is_the_derivative(cones: Cones, quadratic: bool) -> None:
    program, x, v = random_program(cones, 5, 3, 0, quadratic=quadratic)
    point = evaluate(program, x, v)
    assert point.error(program).max() < 1e-13
    rng = np.random.default_rng(1)
    dx, dv = rng.standard_normal(x.shape), rng.standard_normal(v.shape)
    h = 1e-6
    plus, minus = evaluate(program, x + h * dx, v + h * dv), evaluate(program, x - h * dx, v - h * dv)
    a, c = apply_jacobian(program, point.element, dx, dv)
    np.testing.assert_allclose((plus.F1 - minus.F1) / (2 * h), a, atol=1e-7)
    np.testing.assert_allclose((plus.F2 - minus.F2) / (2 * h), c, atol=1e-7)
    J = jacobian(program, point.element)
    np.testing.assert_allclose(np.einsum("bij,bj->bi", J, np.hstack([dx, dv])), np.hstack([a, c]), atol=1e-12)
    adjoint = np.hstack(apply_jacobian_transpose(program, point.element, dx, dv))
    np.testing.assert_allclose(np.einsum("bji,bj->bi", J, np.hstack([dx, dv])), adjoint, atol=1e-12)


def _rank(matrix: np.ndarray) -> int:
    singular_values = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(singular_values > 1e-9 * singular_values[0]))


@pytest.mark.parametrize("quadratic", [True, False])
@pytest.mark.parametrize("n", [3, 5, 9])
@pytest.mark.parametrize("cones", REGULAR)
def test_embedding_is_singular_and_has_the_rank_of_j(cones: Cones, n: int, quadratic: bool) -> None:
    """M z = 0, uᵀM = 0, and rank M = rank J, which is n + m exactly where J is nonsingular (and both occur)."""
    program, x, v = random_program(cones, n, 4, 7 + n, quadratic=quadratic)
    point = evaluate(program, x, v)
    M, J = embedding_jacobian(program, point), jacobian(program, point.element)
    z = np.hstack([x, v, np.ones((4, 1))])
    u = np.hstack([x, point.y, np.ones((4, 1))])
    np.testing.assert_allclose(np.einsum("bij,bj->bi", M, z), 0, atol=1e-11)
    np.testing.assert_allclose(np.einsum("bji,bj->bi", M, u), 0, atol=1e-11)
    for i in range(4):
        assert _rank(M[i]) == _rank(J[i])


def test_both_regular_and_singular_jacobians_were_seen() -> None:
    """The rank test above would be empty if J were always of one kind."""
    ranks = set()
    for n in (3, 9):
        program, x, v = random_program(REGULAR[0], n, 4, 7 + n, quadratic=False)
        J = jacobian(program, evaluate(program, x, v).element)
        ranks |= {_rank(h) == h.shape[0] for h in J}
    assert ranks == {True, False}


def test_what_a_row_has_nothing_to_do_with_does_not_excuse_it() -> None:
    """x₀ = 1e14 in a component of its own leaves x₁ = 1 no digits fewer: a residual of 1e−3 there is one."""
    structure = Structure(Pattern.of(sp.csc_array(np.diag([0.0, 1.0]))), Pattern.of(sp.csc_array(np.eye(2))), Cones(2))
    assert structure.components is not None
    assert structure.components.number == 2
    one = np.ones((1, 2))
    program = ConeProgram(structure, np.ones((1, 1)), np.array([[0.0, -1.0]]), one, np.array([[1e14, 1.0]]))
    point = evaluate(program, np.array([[1e14, 1.001]]), np.array([[0.0, -0.001]]))
    assert point.errors(program).rows[0] == pytest.approx([0.0, 0.001 / 2.001])
    # The same x where a row holds both of its parts: there the digits are lost.
    joint = Structure(structure.P, Pattern.of(sp.csc_array(np.array([[1.0, 0.0], [1.0, 1.0]]))), Cones(2))
    assert joint.components is None
    program = ConeProgram(joint, np.ones((1, 1)), program.q, np.ones((1, 3)), np.array([[1e14, 1e14 + 1.0]]))
    assert evaluate(program, np.array([[1e14, 1.5]]), np.zeros((1, 2))).errors(program).rows[0, 1] == 0
