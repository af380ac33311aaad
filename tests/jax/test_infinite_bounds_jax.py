"""An infinite bound does not bound under JAX's transformations either, whatever happens to the other instances."""

from __future__ import annotations

from collections.abc import Iterator

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conelayers import LPGD, Status
from conelayers.jax import ConeLayer

INF = np.inf
C = np.array([0.5, 2.0, -3.0])
L = np.array([[-INF, -INF, -1.0], [-INF] * 3, [0.0, 2.5, -INF], [-INF] * 3])
U = np.array([[INF, 1.0, INF], [INF] * 3, [INF] * 3, [0.0, INF, -4.0]])
X, DC, DL, DU = np.clip(C, L, U), ((C > L) & (C < U)).astype(float), (C < L).astype(float), (C > U).astype(float)


@pytest.fixture(autouse=True, scope="module")
def _double() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def box(**options) -> ConeLayer:
    """minimize ½‖x − c‖² subject to low ≤ x ≤ u: x = min(max(c, low), u)."""
    x, c, low, u = cp.Variable(3, name="x"), *(cp.Parameter(3, name=name) for name in "clu")
    return ConeLayer(
        cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - c)), [low <= x, x <= u]), [c, low, u], [x], **options
    )


POLICIES = pytest.mark.parametrize("policy", ["raise", "nan", "warn"])


@POLICIES
def test_values_and_gradients_are_those_of_the_projection(policy):
    layer = box(on_failure=policy)

    def loss(c, low, u):
        return jnp.sum(layer(c, low, u)[0])

    for compiled in (lambda f: f, jax.jit):
        np.testing.assert_allclose(compiled(lambda *h: layer(*h)[0])(C, L, U), X, atol=1e-9)
        dc, dl, du = compiled(jax.grad(loss, argnums=(0, 1, 2)))(C, L, U)
        np.testing.assert_allclose(dc, DC.sum(0), atol=1e-8)
        np.testing.assert_allclose(dl, DL, atol=1e-8)
        np.testing.assert_allclose(du, DU, atol=1e-8)
        mapped = compiled(jax.vmap(jax.grad(loss, argnums=(1, 2)), in_axes=(None, 0, 0)))(C, L, U)
        np.testing.assert_allclose(mapped[0], DL, atol=1e-8)
        np.testing.assert_allclose(mapped[1], DU, atol=1e-8)


def test_jacobians_tangents_and_second_derivatives_are_exact():
    layer = box(on_failure="nan")

    def f(*h):
        return layer(*h)[0]

    for low, u, *diagonals in zip(L, U, DC, DL, DU, strict=True):
        blocks = [np.diag(d) for d in diagonals]
        for way in (jax.jacrev, jax.jacfwd):
            for found, block in zip(jax.jit(way(f, argnums=(0, 1, 2)))(C, low, u), blocks, strict=True):
                np.testing.assert_allclose(found, block, atol=1e-8)
        _, tangent = jax.jvp(f, (C, low, u), (np.ones(3),) * 3)
        np.testing.assert_allclose(tangent, sum(diagonals), atol=1e-8)
        hessian = jax.hessian(lambda *h: jnp.sum(f(*h) ** 2), argnums=(0, 2))(C, low, u)
        for row, a in zip(hessian, (blocks[0], blocks[2]), strict=True):
            for entry, b in zip(row, (blocks[0], blocks[2]), strict=True):
                np.testing.assert_allclose(entry, 2 * a.T @ b, atol=1e-7)
        for found, block in zip(layer.jacobian(C, low, u)[0], blocks, strict=True):
            np.testing.assert_allclose(found, block, atol=1e-8)


def test_steps_of_a_scan_may_open_and_close_bounds():
    layer = box(on_failure="nan")

    def total(c):
        return jax.lax.scan(lambda s, bounds: (s + jnp.sum(layer(c, *bounds)[0]), None), 0.0, (L, U))[0]

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(C))
    np.testing.assert_allclose(value, X.sum(), atol=1e-8)
    np.testing.assert_allclose(gradient, DC.sum(0), atol=1e-8)


def test_the_optimal_value_has_no_slope_in_open_bounds():
    layer = box(on_failure="nan")
    value, gradients = jax.jit(jax.value_and_grad(layer.value, argnums=(0, 1, 2)))(C, L[0], U[0])
    np.testing.assert_allclose(value, 0.5 * ((X[0] - C) ** 2).sum(), atol=1e-9)
    for found, d in zip(gradients, (1.0, DL[0], DU[0]), strict=True):
        np.testing.assert_allclose(found, d * (C - X[0]) if np.ndim(d) == 0 else d * (X[0] - C), atol=1e-8)


def test_infeasible_bounds_are_told_by_the_status_and_masked():
    layer = box(on_failure="nan")
    u = np.array([[INF] * 3, [1.0, -INF, 1.0], [1.0] * 3])
    low = np.full(3, -INF)
    for compiled in (lambda f: f, jax.jit):
        (x,), info = compiled(layer.solve)(C, low, u)
        assert layer.statuses(info) == (Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.SOLVED)
        np.testing.assert_array_equal(np.isnan(x), [[False] * 3, [True] * 3, [False] * 3])
        gradient = compiled(jax.grad(lambda u: jnp.sum(layer(C, low, u)[0][jnp.array([0, 2])])))(u)
        np.testing.assert_allclose(gradient, [[0] * 3, [0] * 3, [0, 1, 0]], atol=1e-9)
    with pytest.raises(Exception, match="infeasible"):
        jax.jit(lambda u: box()(C, low, u)[0])(u)


@pytest.mark.parametrize("bad", [INF, -INF, np.nan])
def test_infinity_elsewhere_fails_its_own_instance_only(bad):
    layer = box(on_failure="nan")
    c = np.stack([C, [0.5, bad, -3.0], C])
    for compiled in (lambda f: f, jax.jit):
        (x,), info = compiled(layer.solve)(c, L[0], U[0])
        assert layer.statuses(info) == (Status.SOLVED, Status.FAILED, Status.SOLVED)
        np.testing.assert_allclose(x[jnp.array([0, 2])], X[[0, 0]], atol=1e-9)
        assert np.isnan(x[1]).all()
        gradient = compiled(jax.grad(lambda c: jnp.sum(layer(c, L[0], U[0])[0][jnp.array([0, 2])])))(c)
        np.testing.assert_allclose(gradient, [DC[0], [0] * 3, DC[0]], atol=1e-9)
    for run in (box(), jax.jit(lambda *h: box()(*h)[0])):
        with pytest.raises(
            Exception, match=r"parameter c at batch index 1: got NaN or infinite values \(.* at \[1\]\)"
        ):
            run(c, L[0], U[0])


def test_infinities_that_meet_fail_their_own_instance_only():
    x, c, u, w = cp.Variable(3), *(cp.Parameter(3, name=name) for name in "cuw")
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= u + w]), [c, u, w], [x])
    both = np.array([[INF, INF, 0.0], [0.0, INF, 0.0]]), np.array([[0.0] * 3, [0.0, -INF, 0.0]])
    (found,), info = jax.jit(lambda *h: layer.solve(*h, on_failure="nan"))(C, *both)
    assert layer.statuses(info) == (Status.SOLVED, Status.FAILED)
    np.testing.assert_allclose(found[0], [0.5, 2.0, -3.0], atol=1e-9)
    with pytest.raises(ValueError, match=r"parameters u and w at batch index 1: .*inf - inf"):
        layer(C, *both)


def test_curved_cones_beside_open_bounds_have_second_derivatives():
    """minimize Σ exp(zᵢ) − pᵢzᵢ: z = log p, ∂z/∂p = 1/p, ∂²z/∂p² = −1/p²."""
    z, p, u = cp.Variable(3), cp.Parameter(3, name="p"), cp.Parameter(3, name="u")
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum(cp.exp(z)) - p @ z), [z <= u]), [p, u], [z], on_failure="nan")
    value, bound = np.array([1.0, 2.0, 3.0]), np.array([INF, 9.0, INF])
    hessian = jax.jit(jax.hessian(lambda a, b: jnp.sum(layer(a, b)[0]), argnums=(0, 1)))(value, bound)
    np.testing.assert_allclose(hessian[0][0], -np.diag(1 / value**2), atol=1e-6)
    for block in (hessian[0][1], hessian[1][0], hessian[1][1]):
        np.testing.assert_allclose(block, 0.0, atol=1e-6)


def test_a_lifted_problem_takes_infinite_bounds_of_its_other_parameters():
    x, c, u, w = cp.Variable(3), *(cp.Parameter(3, name=name) for name in "cu"), cp.Parameter(3, nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(cp.square(w), cp.square(x - c)))), [x <= u])
    for policy in ("raise", "nan"):
        layer = ConeLayer(problem, [c, u, w], [x], on_failure=policy)
        gradient = jax.jit(jax.grad(lambda u, layer=layer: jnp.sum(layer(C, u, np.ones(3))[0])))(U[0])
        np.testing.assert_allclose(gradient, DU[0], atol=1e-8)


def test_smoothed_gradients_and_single_precision_take_infinite_bounds():
    layer = box(on_failure="nan", smoothing=LPGD(tau=1e-3))
    gradient = jax.jit(jax.grad(lambda u: jnp.sum(layer(C, L, u)[0])))(U)
    np.testing.assert_allclose(gradient, DU, atol=1e-3)
    layer = box(on_failure="nan")
    single = [jnp.asarray(h, jnp.float32) for h in (C, L, U)]
    gradients = jax.jit(jax.grad(lambda *h: jnp.sum(layer(*h)[0]), argnums=(1, 2)))(*single)
    for found, truth in zip(gradients, (DL, DU), strict=True):
        np.testing.assert_allclose(found, truth, atol=1e-5)


def test_without_double_precision_the_kept_factors_are_found_again(monkeypatch):
    layer = box(on_failure="nan")
    made = []
    monkeypatch.setattr(layer.engine, "linearize", lambda *h: made.append(h))
    jax.config.update("jax_enable_x64", False)
    try:
        gradient = jax.grad(lambda u: jnp.sum(layer(jnp.asarray(C), jnp.asarray(L), u)[0]))(jnp.asarray(U))
    finally:
        jax.config.update("jax_enable_x64", True)
    np.testing.assert_allclose(gradient, DU, atol=1e-5)
    assert not made
