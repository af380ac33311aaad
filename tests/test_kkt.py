"""The factorizations: both kinds against a dense solve with J, and singular systems against the pseudo-inverse's laws."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from random_programs import random_program

from conelayers import SingularDerivativeWarning
from conelayers.cones import Cones
from conelayers.derivative import Linearization
from conelayers.kkt import DenseFactorization, SparseFactorization
from conelayers.presolve import Presolved
from conelayers.program import ConeProgram
from conelayers.residual import evaluate, jacobian
from conelayers.scaling import Scaling

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
    ):
        linearization = Linearization(Presolved(program, program), point, Scaling.identity(program), 2)
        linearization.__dict__["factorization"] = factorization  # what the cached property would hold
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
    ):
        assert factorization.singular.all()
        linearization = Linearization(Presolved(program, program), point, Scaling.identity(program), 1)
        linearization.__dict__["factorization"] = factorization
        with pytest.warns(SingularDerivativeWarning, match="no exact derivative exists"):
            answers.append(linearization.tangent(r1, r2))
    for a, b in zip(*answers, strict=True):
        assert np.abs(a).max() < 1e4
        np.testing.assert_allclose(a, b, atol=1e-7)


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
