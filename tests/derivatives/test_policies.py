"""What a layer does where no derivative exists, which element it takes at kinks, and what may stand in for the derivative."""

from __future__ import annotations

import copy
import pickle
import warnings

import cvxpy as cp
import diffcp
import jax
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from double_precision import double_precision

import conelayers.jax
import conelayers.torch
from conelayers import (
    LPGD,
    Cones,
    Layer,
    ProximalSmoothing,
    SingularDerivativeError,
    SingularDerivativeWarning,
    SolveError,
    Verdict,
    ZeroDerivativeWarning,
    solve_and_differentiate,
)


def simplex(**policies) -> Layer:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    return Layer(cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1]), [c], [x], **policies)


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

TIE = np.array([1.0, 1.0, 2.0])


def test_warnings_come_once_for_each_cause_and_name_it() -> None:
    layer = simplex()
    g = np.array([1.0, 0.0, 0.0])
    with pytest.warns(SingularDerivativeWarning, match=r"not unique along x at \[0\], \[1\]") as caught:
        layer.solve(TIE).vjp(g)
    assert "`certify`" in str(caught[0].message)
    layer.solve(TIE).vjp(g)  # the same cause: an error here, if it warned again
    with pytest.warns(SingularDerivativeWarning, match=r"not unique along x at \[0\], \[2\]"):
        layer.solve(np.array([1.0, 2.0, 1.0])).vjp(g)
    with pytest.warns(SingularDerivativeWarning):
        simplex().solve(TIE).vjp(g)
    with pytest.warns(SingularDerivativeWarning):
        pickle.loads(pickle.dumps(layer)).solve(TIE).vjp(g)
    with pytest.warns(SingularDerivativeWarning):
        copy.deepcopy(layer).solve(TIE).vjp(g)


def test_a_new_cause_is_told_wherever_in_the_batch_it_is() -> None:
    z, w, r, s = cp.Variable(2, name="z"), cp.Variable(2, name="w"), cp.Parameter(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(r @ z + s @ w), [z >= 0, cp.sum(z) == 1, w >= 0, cp.sum(w) == 1])
    layer, tie, clear = Layer(problem, [r, s], [z, w]), np.ones(2), np.array([1.0, 2.0])
    with pytest.warns(SingularDerivativeWarning, match="along z at"):
        layer.solve(tie, clear).vjp(np.array([1.0, 0]), np.array([1.0, 0]))
    g = np.array([[1.0, 0], [1.0, 0]])
    with pytest.warns(SingularDerivativeWarning, match="At batch index 1(.|\n)*along w at"):
        layer.solve(np.stack([tie, clear]), np.stack([clear, tie])).vjp(g, g)


@pytest.mark.parametrize("batched", [False, True])
def test_raise_and_least_squares(batched: bool) -> None:
    value = np.stack([np.array([1.0, 2.0, 3.0]), TIE]) if batched else TIE
    g = np.zeros_like(value)
    g[..., 0] = 1
    with pytest.raises(SingularDerivativeError, match="At batch index") as caught:
        simplex(singular="raise").solve(value).vjp(g)
    assert caught.value.certificate.verdict is Verdict.LEAST_SQUARES
    assert pickle.loads(pickle.dumps(caught.value)).certificate.verdict is Verdict.LEAST_SQUARES
    (silent,) = simplex(singular="least_squares").solve(value).vjp(g)
    with pytest.warns(SingularDerivativeWarning):
        (loud,) = simplex().solve(value).vjp(g)
    np.testing.assert_array_equal(silent, loud)
    # A well-posed instance is not touched by any of them.
    with pytest.warns(ZeroDerivativeWarning):
        (fine,) = simplex(singular="raise").solve(np.array([1.0, 2.0, 3.0])).vjp(np.array([1.0, 0, 0]))
    np.testing.assert_allclose(fine, 0, atol=1e-12)


def test_adapters_hold_the_policy() -> None:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    layer = conelayers.torch.ConeLayer(problem, [c], [x], singular="raise")
    t = torch.tensor(TIE, requires_grad=True)
    with pytest.raises(SingularDerivativeError):
        layer(t)[0][0].backward()
    with pytest.raises(SingularDerivativeError):
        torch.func.grad(lambda h: layer(h)[0][0])(t.detach())
    twin = conelayers.jax.ConeLayer(problem, [c], [x], singular="raise")
    with double_precision():
        value = jax.numpy.asarray(TIE)
        with pytest.raises(SingularDerivativeError):
            jax.grad(lambda h: twin(h)[0][0])(value)
    A, b = np.vstack([np.ones(3), -np.eye(3)]), np.array([1.0, 0, 0, 0])
    solution = solve_and_differentiate(None, TIE, A, b, Cones(zero=1, nonneg=3), singular="raise")
    with pytest.raises(SingularDerivativeError):
        solution.vjp(np.array([1.0, 0.0, 0.0]))


def projection(**policies) -> tuple[cp.Problem, list, list, dict]:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - t)), [x >= 0]), [t], [x], policies


@pytest.mark.parametrize(("selection", "slope"), [("low", 1.0), ("high", 0.0), ("mid", 0.5)])
def test_the_selected_element_is_the_derivative_at_a_kink(selection: str, slope: float) -> None:
    """x = max(t, 0) at t = 0: with D = 0 the constraint is inactive and the slope 1, with D = 1 it is 0."""
    problem, parameters, variables, policies = projection(selection=selection)
    value = np.array([0.0, 2.0])
    expected = np.diag([slope, 1.0])
    solution = Layer(problem, parameters, variables, **policies).solve(value)
    np.testing.assert_allclose(solution.jacobian()[0][0], expected, atol=1e-12)
    np.testing.assert_allclose(solution.vjp(np.ones(2))[0], expected.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(solution.jvp(np.ones(2))[0], expected.sum(axis=1), atol=1e-12)
    layer = conelayers.torch.ConeLayer(problem, parameters, variables, **policies)
    t = torch.tensor(value)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        np.testing.assert_allclose(transform(lambda h: layer(h)[0])(t).numpy(), expected, atol=1e-12)
    twin = conelayers.jax.ConeLayer(problem, parameters, variables, **policies)
    with double_precision():
        for jacobian in (jax.jacrev, jax.jacfwd):
            np.testing.assert_allclose(jacobian(lambda h: twin(h)[0])(jax.numpy.asarray(value)), expected, atol=1e-12)
    away = Layer(problem, parameters, variables, **policies).solve(np.array([1e-6, -1e-6])).jacobian()[0][0]
    np.testing.assert_allclose(away, np.diag([1.0, 0.0]), atol=1e-12)


def test_weak_activity_is_named_where_the_hypothesis_fails_at_a_kink() -> None:
    """minimize ½x₁² with x₁ ≥ |x₀|, at x = 0: the element I fixes x₀, the element 0 leaves it free."""
    P, A = np.diag([0.0, 1.0]), np.array([[1.0, -1.0], [-1.0, -1.0]])
    data = P, np.zeros(2), A, np.zeros(2), Cones(nonneg=2)
    (low,) = solve_and_differentiate(*data, selection="low").certify()
    assert low.verdict is Verdict.LEAST_SQUARES
    (high,) = solve_and_differentiate(*data, selection="high").certify()
    assert high.verdict is Verdict.UNCERTIFIED
    assert high.second_order is False
    assert high.variables == ("x[0]",)
    assert high.kink_constraints == ("rows 0, 1 of A",)
    assert "once rows 0, 1 of A (weakly active) no longer counts" in high.advice


@pytest.mark.parametrize(
    ("options", "error", "phrase"),
    [
        ({"singular": "ignore"}, ValueError, "singular: got 'ignore'"),
        ({"selection": "top"}, ValueError, "selection: got 'top'"),
        ({"smoothing": "lpgd"}, TypeError, "smoothing: got str"),
    ],
)
def test_bad_policies_are_named(options, error, phrase: str) -> None:
    with pytest.raises(error, match=phrase):
        simplex(**options)


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda: LPGD(tau=0), "LPGD: tau: got 0"),
        (lambda: LPGD(tau=1, rho=-1), "LPGD: rho: got -1"),
        (lambda: LPGD(tau=1, side="left"), "LPGD: side: got 'left'"),
        (lambda: ProximalSmoothing(temperature=np.nan), "ProximalSmoothing: temperature"),
    ],
)
def test_bad_temperatures_are_named(make, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        make()


def well_posed(smoothing=None, **options) -> tuple[Layer, list[np.ndarray]]:
    """Parameters in P, q, A and b; a dual variable among the outputs."""
    rng = np.random.default_rng(0)
    x = cp.Variable(3, name="x")
    L, c, A, b = cp.Parameter((3, 3)), cp.Parameter(3), cp.Parameter((2, 3)), cp.Parameter(2)
    equality = A @ x == b
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.sum_squares(L @ x) + c @ x), [equality, x >= -1])
    layer = Layer(problem, [L, c, A, b], [x, equality.dual_variables[0]], smoothing=smoothing, **options)
    values = [rng.standard_normal(s) for s in ((3, 3), (3,), (2, 3))]
    return layer, [*values, values[2] @ np.array([0.5, 0.1, -0.3])]


@pytest.mark.parametrize("side", ["both", "lower", "upper"])
def test_lpgd_tends_to_the_exact_gradient(side: str) -> None:
    """From one side with an error of τ. From both it is exact while no constraint changes sides: a quadratic program's solution moves linearly.

    What ρ does is compared with diffcp's below.
    """
    exact, values = well_posed()
    cotangents = [np.array([1.0, -0.5, 0.3]), np.array([0.2, 1.0])]
    expected = exact.solve(*values).vjp(*cotangents)
    errors = []
    for tau in (1e-2, 1e-3):
        layer, _ = well_posed(LPGD(tau=tau, side=side))
        gradients = layer.solve(*values).vjp(*cotangents)
        errors.append(max(np.abs(a - b).max() for a, b in zip(gradients, expected, strict=True)))
    if side == "both":
        assert max(errors) < 1e-8
    else:
        assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)


def test_lpgd_of_slacks() -> None:
    exact, values = well_posed()
    layer, _ = well_posed(LPGD(tau=1e-4))
    base, moved = exact.solve(*values), layer.solve(*values)
    g = [np.random.default_rng(1).standard_normal(h.shape) for h in (base.x, base.y, base.s)]
    for a, b in zip(moved.vjp_points(*g), base.vjp_points(*g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_lpgd_learns_where_the_exact_derivative_is_zero() -> None:
    """The gradient of a linear program's vertex is zero; LPGD's points to the costs that would move it."""
    value, g = np.array([1.0, 1.5, 3.0]), np.array([1.0, 0.0, 0.0])  # the loss wants x₀ smaller
    with pytest.warns(ZeroDerivativeWarning, match="smoothing="):
        np.testing.assert_allclose(simplex().solve(value).vjp(g)[0], 0, atol=1e-12)
    (gradient,) = simplex(smoothing=LPGD(tau=2.0)).solve(value).vjp(g)
    assert gradient[0] < 0 < gradient[1]  # descent makes x₀ dearer and x₁ cheaper
    batch = np.stack([value, value[[1, 0, 2]]])
    stacked = simplex(smoothing=LPGD(tau=2.0)).solve(batch).vjp(np.stack([g, g]))[0]
    np.testing.assert_allclose(stacked[0], gradient, atol=1e-9)


@pytest.mark.parametrize(("mode", "side"), [("lpgd", "both"), ("lpgd_right", "lower"), ("lpgd_left", "upper")])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_lpgd_agrees_with_diffcps(mode: str, side: str, rho: float) -> None:
    """The same τ, ρ and side give the same gradients in both packages."""
    rng = np.random.default_rng(0)
    A = np.vstack([rng.standard_normal((2, 3)), -np.eye(3), np.eye(3)])
    x, s = rng.random(3), np.array([0, 0.5, 0, 0, 0.2, 1, 2, 1.5])
    c, b = -A.T @ np.array([0.7, 0, 0.4, 0.6, 0, 0, 0, 0]), A @ x + s
    g = rng.standard_normal(3)
    options = {"mode": mode, "derivative_kwargs": {"tau": 0.5, "rho": rho}}
    theirs = diffcp.solve_and_derivative(
        sp.csc_matrix(A), b, c, {"z": 1, "l": 7}, **options, solve_method="SCS", eps=1e-11
    )[4](g, np.zeros(8), np.zeros(8))
    X, q, M, r = cp.Variable(3), cp.Parameter(3), cp.Parameter((8, 3)), cp.Parameter(8)
    problem = cp.Problem(cp.Minimize(q @ X), [M[:1] @ X == r[:1], M[1:] @ X <= r[1:]])
    ours = [
        Layer(problem, [q, M, r], [X], smoothing=LPGD(tau=0.5, rho=rho, side=side)).solve(c, A, b).vjp(g),
        Layer(problem, [q, M, r], [X], solver_args=options).solve(c, A, b).vjp(g),
        Layer(problem, [q, M, r], [X]).solve(c, A, b, solver_args=options).vjp(g),
    ]
    t = [torch.tensor(h, requires_grad=True) for h in (c, A, b)]
    plain = conelayers.torch.ConeLayer(problem, [q, M, r], [X])
    ours.append(torch.autograd.grad(plain(*t, solver_args=options)[0], t, torch.tensor(g)))
    pull = torch.func.vjp(lambda *h: plain(*h, solver_args=options)[0], *(h.detach() for h in t))[1]
    ours.append(pull(torch.tensor(g)))
    for dq, dM, dr in ours:
        np.testing.assert_allclose(dq, theirs[2], atol=1e-7)
        np.testing.assert_allclose(dr, theirs[1], atol=1e-7)
        np.testing.assert_allclose(np.where(A != 0, dM, 0), theirs[0].toarray(), atol=1e-7)


def test_lpgd_names_itself_where_a_perturbed_problem_has_no_solution() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0])
    value, g = np.array([1.0, 1.0]), np.array([1.0, 0.0])
    solution = Layer(problem, [c], [x], smoothing=LPGD(tau=5.0)).solve(value)
    with pytest.raises(SolveError, match=r"as LPGD\(tau=5.0, rho=0.0, side='both'\) perturbs them"):
        solution.vjp(g)
    batch = np.stack([np.full(2, 100.0), value, np.full(2, 100.0)])
    solution = Layer(problem, [c], [x], smoothing=LPGD(tau=5.0)).solve(batch)
    with pytest.raises(SolveError) as caught:
        solution.vjp(np.tile(g, (3, 1)))
    assert caught.value.indices == (1,)
    assert len(caught.value.statuses) == 3
    twin = conelayers.jax.ConeLayer(problem, [c], [x], smoothing=LPGD(tau=5.0), on_failure="nan")
    with double_precision():
        gradients = np.asarray(jax.grad(lambda h: (twin(h)[0] @ g).sum())(jax.numpy.asarray(batch)))
    assert np.isnan(gradients).all(axis=1).tolist() == [False, True, False]
    held = Layer(problem, [c], [x], smoothing=LPGD(tau=5.0, rho=1.0)).solve(value)
    assert np.isfinite(held.vjp(g)[0]).all()


def test_proximal_smoothing_is_the_derivative_of_the_regularized_problem() -> None:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    smooth = Layer(cp.Problem(cp.Minimize(c @ x + 0.5 * cp.sum_squares(x)), [x >= 0, cp.sum(x) == 1]), [c], [x])
    layer = simplex(smoothing=ProximalSmoothing(temperature=1.0))
    value, g = np.array([1.0, 1.5, 1.2]), np.array([1.0, -2.0, 0.0])
    solution, reference = layer.solve(value), smooth.solve(value)
    np.testing.assert_allclose(solution.variables[0], [1, 0, 0], atol=1e-9)  # the solution stays the exact one
    np.testing.assert_allclose(solution.vjp(g)[0], reference.vjp(g)[0], atol=1e-10)
    np.testing.assert_allclose(solution.jvp(g)[0], reference.jvp(g)[0], atol=1e-10)
    np.testing.assert_allclose(solution.jacobian()[0][0], reference.jacobian()[0][0], atol=1e-10)
    assert np.abs(solution.vjp(g)[0]).max() > 0.1


def test_proximal_smoothing_of_a_symmetric_variable_is_frobenius() -> None:
    X, C = cp.Variable((2, 2), symmetric=True), cp.Parameter((2, 2), symmetric=True)
    bounds = [cp.trace(X) == 1, X >> 0]
    layer = Layer(cp.Problem(cp.Minimize(cp.trace(C @ X)), bounds), [C], [X], smoothing=ProximalSmoothing(1.0))
    smooth = Layer(cp.Problem(cp.Minimize(cp.trace(C @ X) + 0.5 * cp.sum_squares(X)), bounds), [C], [X])
    value, g = np.array([[1.0, 0.2], [0.2, 1.3]]), np.array([[0.5, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(layer.solve(value).vjp(g)[0], smooth.solve(value).vjp(g)[0], atol=1e-8)


@pytest.mark.parametrize("smoothing", [LPGD(tau=0.7), ProximalSmoothing(temperature=0.5)])
@pytest.mark.parametrize("solver", [None, "ECOS", "SCS"])
def test_smoothing_with_any_solver(smoothing, solver) -> None:
    value, g = np.array([1.0, 1.5, 1.2]), np.array([1.0, -2.0, 0.0])
    expected = simplex(smoothing=smoothing).solve(value).vjp(g)[0]
    np.testing.assert_allclose(simplex(smoothing=smoothing, solver=solver).solve(value).vjp(g)[0], expected, atol=1e-7)


@pytest.mark.parametrize("smoothing", [LPGD(tau=0.7), ProximalSmoothing(temperature=0.5)])
def test_adapters_smooth_alike(smoothing) -> None:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    values = np.array([[1.0, 1.5, 1.2], [2.0, 1.0, 1.1]])
    g = np.array([[1.0, -2.0, 0.0], [0.5, 0.1, 1.0]])
    expected = Layer(problem, [c], [x], smoothing=smoothing).solve(values).vjp(g)[0]
    layer = conelayers.torch.ConeLayer(problem, [c], [x], smoothing=smoothing)
    t, weights = torch.tensor(values, requires_grad=True), torch.tensor(g)
    (layer(t)[0] * weights).sum().backward()
    np.testing.assert_allclose(t.grad, expected, atol=1e-12)
    single = torch.func.grad(lambda h, w: (layer(h)[0] * w).sum())
    np.testing.assert_allclose(torch.func.vmap(single)(t.detach(), weights), expected, atol=1e-9)
    rows = torch.func.jacrev(lambda h: layer(h)[0])(t.detach()[0])
    assert rows.shape == (3, 3)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.func.hessian(lambda h: (layer(h)[0] ** 2).sum())(t.detach()[0])
    (first,) = torch.autograd.grad((layer(t)[0] * weights).sum(), t, create_graph=True)
    np.testing.assert_allclose(first.detach(), expected, atol=1e-9)
    twin = conelayers.jax.ConeLayer(problem, [c], [x], smoothing=smoothing)
    with double_precision():
        loss = lambda h, w: (twin(h)[0] * w).sum()  # noqa: E731
        arrays = jax.numpy.asarray(values), jax.numpy.asarray(g)
        np.testing.assert_allclose(jax.grad(loss)(*arrays), expected, atol=1e-9)
        np.testing.assert_allclose(jax.vmap(jax.grad(loss))(*arrays), expected, atol=1e-9)
        np.testing.assert_allclose(jax.jacrev(lambda h: twin(h)[0])(arrays[0][0]), rows, atol=1e-9)


def test_the_optimal_value_keeps_its_exact_gradient() -> None:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    layer = conelayers.torch.ConeLayer(problem, [c], [x], smoothing=LPGD(tau=0.7))
    t = torch.tensor([1.0, 1.5, 1.2], dtype=torch.float64, requires_grad=True)
    layer.value(t).backward()
    np.testing.assert_allclose(t.grad, [1, 0, 0], atol=1e-9)


def test_nothing_is_perturbed_unless_a_gradient_is_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = simplex(smoothing=LPGD(tau=1e9))
        np.testing.assert_allclose(layer.solve(np.array([1.0, 2.0, 3.0])).variables[0], [1, 0, 0], atol=1e-9)
