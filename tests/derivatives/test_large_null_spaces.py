"""Large null spaces, as of portfolios with exact zeros in the previous holdings: solved by a few steps with one factor,
and told by name.
"""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

import conelayers.numerics.kkt.sparse
from conelayers import Layer, SingularDerivativeError, SingularDerivativeWarning
from conelayers.numerics.kkt import DeflatedFactorization, DenseFactorization
from conelayers.numerics.kkt.aligned import AlignedFactorization
from conelayers.numerics.kkt.condensed import CondensedFactorization
from conelayers.numerics.kkt.proximal import SAMPLED, ProximalPseudoInverse, Undecided
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse, KrylovPseudoInverse
from conelayers.numerics.residual import evaluate
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern


def saddle(n: int, k: int, twins: int, free: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """K = [P, Cᵀ; C, 0] with ``twins`` rows that others give, and ``free`` variables that nothing holds; and its signs."""
    rng = np.random.default_rng(seed)
    C = np.hstack([rng.standard_normal((k, n - free)), np.zeros((k, free))])
    C = np.vstack([C, rng.standard_normal((twins, k)) @ C / np.sqrt(k)])
    F = np.vstack([rng.standard_normal((n - free, 30)), np.zeros((free, 30))])  # with the rows of C it holds the rest
    K = np.block([[F @ F.T / n, C.T], [C, np.zeros((k + twins, k + twins))]])
    return K, np.where(np.arange(len(K)) < n, 1.0, -1.0)


def proximal(K: np.ndarray, signs: np.ndarray, e: np.ndarray, delta: float = 1e-8) -> ProximalPseudoInverse:
    M = e[:, None] * K * e
    shifted = M + np.diag(delta * signs * e**2)
    size = float(np.linalg.norm(M, 2))
    return ProximalPseudoInverse(lambda h: M @ h, lambda h: np.linalg.solve(shifted, h), e, delta * signs, size)


@pytest.mark.parametrize(("twins", "free"), [(0, 0), (1, 0), (0, 2), (3, 3), (12, 0), (20, 9)])
def test_minimum_norm_least_squares(twins: int, free: int) -> None:
    """K⁺ of systems with and without a solution, in K's own norm whatever the scales of the factored matrix; and ker K."""
    K, signs = saddle(40, 15, twins, free)
    e = np.random.default_rng(1).uniform(0.1, 3, len(K))
    found, expected = proximal(K, signs, e), DensePseudoInverse(K)
    assert expected.nullity == twins + free
    assert found.nullity == min(twins + free, SAMPLED)
    assert found.whole is (twins + free < SAMPLED)
    rhs = np.random.default_rng(2).standard_normal(len(K))
    for h in (rhs, K @ rhs):
        z = expected.solve(h)
        np.testing.assert_allclose(found.solve(h), z, atol=1e-10 * np.abs(z).max())
    Z = found.whole_null_space
    assert Z.shape[1] == twins + free
    np.testing.assert_allclose(Z.T @ Z, np.eye(Z.shape[1]), atol=1e-12)
    np.testing.assert_allclose(K @ Z, 0, atol=1e-11)


def test_what_is_nearly_singular_is_left_to_others() -> None:
    """An eigenvalue of 1e−10 is no null vector, and no few steps tell it from one."""
    K = np.diag([1.0, 1.0, 1e-10, 0.0])
    with pytest.raises(Undecided):
        proximal(K, np.ones(4), np.ones(4))


def portfolio(n: int, **options) -> tuple[Layer, np.ndarray, np.ndarray]:
    """Four of five holdings were zero, and most of them stay so: w ≥ 0 and both rows of |w − prev| are active there."""
    rng = np.random.default_rng(0)
    w, f = cp.Variable(n, name="w"), cp.Variable(5)
    mu, prev = cp.Parameter(n, name="mu"), cp.Parameter(n, name="prev")
    F, d = 0.1 * rng.standard_normal((n, 5)), rng.uniform(0.1, 0.2, n)
    risk = cp.sum_squares(f) + cp.sum_squares(cp.multiply(d, w))
    long_only = (w >= 0).set_label("long only")
    constraints = [f == F.T @ w, long_only, cp.sum(w) == 1]
    problem = cp.Problem(cp.Maximize(mu @ w - risk - 0.01 * cp.norm1(w - prev)), constraints)
    held = np.where(rng.random(n) < 0.2, rng.random(n), 0.0)
    return Layer(problem, [mu, prev], [w], **options), rng.normal(0.05, 0.03, n), held / held.sum()


def test_a_right_hand_side_that_shows_what_random_ones_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by an example: a vector along an eigenvector whose eigenvalue is next to zero ended the call, in a forward
    pass even. It is solved by a decomposition.
    """
    _, mu, prev = portfolio(100)
    g = np.random.default_rng(1).standard_normal(100)
    expected = portfolio(100, singular="least_squares")[0].solve(mu, prev).vjp(g)
    solve, undecided = ProximalPseudoInverse.solve, []

    def only_in_the_constructor(self: ProximalPseudoInverse, rhs: np.ndarray) -> np.ndarray:
        if not hasattr(self, "solved"):
            self.solved = True
            return solve(self, rhs)
        undecided.append(rhs)
        raise Undecided("some eigenvalues are near zero")

    monkeypatch.setattr(ProximalPseudoInverse, "solve", only_in_the_constructor)
    found = portfolio(100, singular="least_squares")[0].solve(mu, prev).vjp(g)
    assert undecided
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max())


def test_zeros_in_the_previous_holdings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decomposition is made; the gradient in μ is the derivative, that in prev the dense method's; the warning names
    the constraint.
    """
    layer, mu, prev = portfolio(100)
    g = np.random.default_rng(1).standard_normal(100)
    for kind in (DensePseudoInverse, KrylovPseudoInverse):
        monkeypatch.setattr(kind, "__init__", lambda *_: pytest.fail("K was decomposed"))
    with pytest.warns(SingularDerivativeWarning, match=r"linearly dependent, those of .*long only(.|\n)*`certify`"):
        dmu, dprev = layer.solve(mu, prev).vjp(g)
    h = 1e-6 * np.random.default_rng(2).standard_normal(100)
    plus, minus = (layer.solve(mu + t, prev).variables[0] for t in (h, -h))
    assert dmu @ h == pytest.approx(g @ (plus - minus) / 2, rel=1e-5)
    (tangent,) = layer.solve(mu, prev).jvp(h, np.zeros(100))
    assert dmu @ h == pytest.approx(g @ tangent, rel=1e-9)
    monkeypatch.undo()
    monkeypatch.setattr(conelayers.numerics.kkt.sparse, "_proximal", lambda assembled: None)
    dense = portfolio(100, singular="least_squares")[0].solve(mu, prev).vjp(g)
    for ours, theirs in zip((dmu, dprev), dense, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max())


def slow_pseudo_inverses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the first look at the clock within the work found that time was up."""
    monkeypatch.setattr("conelayers.support.limits.out_of_time", lambda: True)
    monkeypatch.setattr("conelayers.numerics.linearized_system.out_of_time", lambda: True)


@pytest.mark.parametrize("policy", ["warn", "least_squares"])
def test_max_seconds_ends_derivatives(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and a warning each time, under either policy; with time again, the same solution has its derivative."""
    layer, mu, prev = portfolio(100, singular=policy)
    regular = prev + 0.1
    solution = layer.solve(np.stack([mu, mu]), np.stack([prev, regular / regular.sum()]))
    g = np.ones((2, 100)) * np.arange(100)
    with monkeypatch.context() as m:
        slow_pseudo_inverses(m)
        for _ in range(2):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                gradients = solution.vjp(g)
            assert any("batch index [0] max_seconds was reached" in str(w.message) for w in caught)
            for h in gradients:
                assert np.isnan(h[0]).any()
                assert np.isfinite(h[1]).all()
            with pytest.warns(SingularDerivativeWarning, match="NaN"):
                assert np.isnan(solution.jvp(np.ones((2, 100)), g)[0][0]).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularDerivativeWarning)
        assert all(np.isfinite(h).all() for h in solution.vjp(g))


def test_max_seconds_raises_where_singular_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, mu, prev = portfolio(100, singular="raise")
    solution = layer.solve(mu, prev)
    slow_pseudo_inverses(monkeypatch)
    with pytest.raises(SingularDerivativeError):
        solution.vjp(np.arange(100.0))


def test_max_seconds_of_the_call_is_that_of_its_derivatives() -> None:
    layer, mu, prev = portfolio(10, solver_args={"max_seconds": 50})
    for options, seconds in (({}, 50), ({"max_seconds": 20}, 20)):
        linearization = layer.solve(mu, prev, solver_args=options).linearization.take([0])
        assert linearization.max_seconds == seconds


@pytest.mark.usefixtures("without_core")
def test_ambiguity_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a pseudo-inverse has read why."""
    layer, mu, prev = portfolio(100)
    solution, order = layer.solve(mu, prev), []
    inner = conelayers.numerics.kkt.sparse._Instance.decomposed
    monkeypatch.setattr(
        conelayers.numerics.kkt.sparse._Instance, "decomposed", lambda s: order.append("work") or inner(s)
    )
    monkeypatch.setattr("conelayers.derivatives.policies.warnings.warn", lambda *_, **__: order.append("told"))
    solution.vjp(np.arange(100.0))
    assert order[:2] == ["told", "work"]


@pytest.mark.parametrize("kind", ["aligned", "condensed"])
def test_deflation_is_the_minimum_norm_solution(kind: str) -> None:
    """By the null vectors of what is left of a semidefinite program, as by those of the whole K."""
    rng = np.random.default_rng(0)
    k = 4
    rows = k * (k + 1) // 2
    if kind == "aligned":  # X ⪰ 0 with an equality, twice
        A = np.vstack([np.ones((2, rows)), -np.eye(rows)])
        cones = Cones(zero=2, psd=(k,))
    else:  # two variables of which one takes part, in a matrix inequality
        A = np.hstack([rng.standard_normal((rows, 1)), np.zeros((rows, 1))])
        cones = Cones(psd=(k,))
    P = sp.csc_array((A.shape[1], A.shape[1]))
    structure = Structure(Pattern.of(P), Pattern.of(sp.csc_array(A)), cones)
    data = sp.csc_array(A).data[None]
    program = ConeProgram(structure, P.data[None], np.ones((1, A.shape[1])), data, np.ones((1, A.shape[0])))
    v = rng.standard_normal((1, A.shape[0]))
    element = evaluate(program, np.zeros((1, A.shape[1])), v).element
    factor = {"aligned": AlignedFactorization, "condensed": CondensedFactorization}[kind].of(program, element)
    assert factor is not None
    assert factor.singular.all()
    whole = DenseFactorization.of(program, element).use_pseudo_inverse(np.array([0]))
    rhs = rng.standard_normal((1, A.shape[1])), rng.standard_normal((1, A.shape[0]))
    for a, b in zip(DeflatedFactorization.of(factor, 1).solve(*rhs), whole.solve(*rhs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9 * np.abs(b).max())
