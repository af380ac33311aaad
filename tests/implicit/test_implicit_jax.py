"""Roots and fixed points in JAX, their certificates, and primitives with chosen elements at kinks."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import grad, hessian, jacfwd, jacrev, jit, jvp, vmap

from conelayers import Cones, SingularDerivativeWarning
from conelayers.derivatives.certificate import Verdict
from conelayers.implicit import (
    GMRES,
    Anderson,
    BiCGStab,
    ConvergenceError,
    Dense,
    Newton,
    Picard,
    PiecewiseLinear,
    Separable,
)
from conelayers.implicit.jax import (
    certify_fixed_point,
    certify_root,
    fixed_point,
    project_box,
    project_cone,
    project_l1_ball,
    project_l2_ball,
    project_simplex,
    root,
    soft_threshold,
)

Array = jax.Array


@pytest.fixture(autouse=True, scope="module")
def _double() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def _rand(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def _close(a: Array, b: Array, tolerance: float = 1e-9) -> None:
    assert a.shape == b.shape
    assert float(jnp.max(jnp.abs(a - b), initial=0.0)) <= tolerance


def tanh_layer(W: Array, b: Array, **options) -> Array:
    options = {"solve": Picard()} | options  # compiles fastest
    return fixed_point(lambda z, W, b: jnp.tanh(W @ z + b), jnp.zeros_like(b), W, b, **options)


def tanh_closure(W: Array, b: Array, **options) -> Array:
    return fixed_point(lambda z: jnp.tanh(W @ z + b), jnp.zeros_like(b), solve=Picard(), **options)


def cubic(a: Array, **options) -> Array:
    """The real root of z³ + z = a, whose derivative is 1/(3z² + 1)."""
    return root(lambda z, a: z**3 + z - a, jnp.zeros_like(a), a, **options)


def test_both_modes_agree_with_differences_for_theta_and_for_what_is_closed_over():
    W, b = 0.3 * _rand(0, 4, 4), _rand(1, 4)
    dW, db, w = _rand(2, 4, 4), _rand(3, 4), _rand(4, 4)
    solve = jit(tanh_layer)
    moved = (solve(W + 1e-6 * dW, b + 1e-6 * db) - solve(W - 1e-6 * dW, b - 1e-6 * db)) / 2e-6
    for layer in (tanh_layer, tanh_closure):
        _, forward = jit(lambda *h, layer=layer: jvp(layer, h, (dW, db)))(W, b)
        _close(forward, moved, 1e-7)
        gW, gb = jit(grad(lambda *h, layer=layer: w @ layer(*h), (0, 1)))(W, b)
        _close((gW * dW).sum() + gb @ db, w @ forward, 1e-12)


def test_a_root_has_the_closed_form_of_its_derivatives():
    a = _rand(0, 4)
    z = cubic(a)
    slope = 1 / (3 * z**2 + 1)
    _close(z**3 + z, a)
    _close(jit(jacfwd(cubic))(a), jnp.diag(slope))
    wanted = jnp.diag(-6 * z * slope**3)
    _close(jit(hessian(lambda a: cubic(a).sum()))(a), wanted)


def test_transformations_compose():
    W, B = 0.3 * _rand(0, 3, 3), _rand(1, 4, 3)
    loss = lambda b: jnp.sin(tanh_closure(W, b)).sum()  # noqa: E731
    one = jit(grad(loss))
    _close(jit(vmap(grad(loss)))(B), jnp.stack([one(b) for b in B]))
    _close(jit(jacrev(jacrev(loss)))(B[0]), jit(hessian(loss))(B[0]))
    line = lambda k: fixed_point(lambda z: 0.1 * k * z + 1.0, jnp.zeros(2), solve=Picard())  # noqa: E731
    counted = vmap(line)(jnp.arange(3))
    _close(counted[:, 0], 1 / (1 - 0.1 * jnp.arange(3)))


@pytest.mark.parametrize("linear", [Dense(), GMRES(restart=4), BiCGStab()])
def test_every_linear_solver_gives_the_same_derivatives_for_a_batch(linear):
    W, B, w = 0.3 * _rand(0, 5, 5), _rand(1, 6, 5), _rand(2, 6, 5)

    def layer(B: Array) -> Array:
        return fixed_point(
            lambda z: jnp.tanh(z @ W.T + B), jnp.zeros((6, 5)), batched=True, solve=Picard(), linear=linear
        )

    single = jit(vmap(grad(lambda b, w: tanh_layer(W, b) @ w)))(B, w)
    _close(jit(grad(lambda B: (w * layer(B)).sum()))(B), single)


def test_a_large_system_is_solved_without_its_matrix():
    n = 400
    W, b = _rand(0, n, n) / n**0.5 * 0.5, _rand(1, n)
    layer = jit(lambda b: fixed_point(lambda z: jax.nn.relu(W @ z + b), jnp.zeros(n), solve=Picard()))
    D = (W @ layer(b) + b > 0).astype(float)
    _close(jit(grad(lambda b: layer(b).sum()))(b), jnp.linalg.solve(jnp.eye(n) - W.T * D, jnp.ones(n)) * D, 1e-8)


def test_second_derivatives_go_through_scan():
    a = _rand(0, 2)
    cube = lambda c: root(lambda z: z**3 + z - c, c)  # noqa: E731

    def scanned(a: Array) -> Array:
        return jax.lax.scan(lambda c, _: (cube(c), c.sum()), a, length=2)[0].sum()

    z = cube(a)
    first, second = 1 / (3 * z**2 + 1), 1 / (3 * cube(z) ** 2 + 1)
    bend = lambda z, slope: -6 * z * slope**3  # noqa: E731
    wanted = bend(cube(z), second) * first**2 + second * bend(z, first)
    _close(jnp.diag(jit(jacfwd(jax.checkpoint(jacrev(scanned))))(a)), wanted)


def test_what_is_closed_over_may_be_of_any_kind():
    x, key = _rand(0, 4), jax.random.key(0)
    pick = lambda x, k: fixed_point(lambda z: 0.5 * z + x[k], jnp.zeros(()), solve=Picard())  # noqa: E731
    with jax.checking_leaks():
        _close(jit(vmap(grad(pick), (None, 0)))(x, jnp.arange(4)), 2 * jnp.eye(4))
    mean = lambda b: fixed_point(lambda z: 0.5 * z + jax.lax.pmean(b, "batch"), jnp.zeros(()), solve=Picard())  # noqa: E731
    _close(jit(jacrev(vmap(mean, axis_name="batch")))(x), jnp.full((4, 4), 0.5))
    noise = lambda a: fixed_point(lambda z: 0.5 * z + a * jax.random.normal(key, (2,)), jnp.zeros(2), solve=Picard())  # noqa: E731
    _close(jit(jacfwd(noise))(1.0), 2 * jax.random.normal(key, (2,)))


def _coupled(z: dict, a: Array) -> dict:
    x, (y,) = z["x"], z["y"]
    return {"x": 0.3 * jnp.tanh(y.sum(-1, keepdims=True)) + a, "y": [0.2 * x[..., :2] * a[..., :2]]}


def test_z_may_be_a_tree_of_arrays():
    A = _rand(0, 4, 3)
    joined = lambda z: jnp.concatenate([z["x"], *z["y"]], -1)  # noqa: E731
    f = lambda z, a: joined(_coupled({"x": z[:3], "y": [z[3:]]}, a))  # noqa: E731
    zeros = lambda *front: {"x": jnp.zeros((*front, 3)), "y": [jnp.zeros((*front, 2))]}  # noqa: E731
    tree = lambda a: joined(fixed_point(_coupled, zeros(), a, solve=Picard()))  # noqa: E731
    flat = lambda a: fixed_point(f, jnp.zeros(5), a, solve=Picard())  # noqa: E731
    both = lambda layer: jit(vmap(lambda a: (layer(a), jacrev(layer)(a))))(A)  # noqa: E731
    for got, wanted in zip(both(tree), both(flat), strict=True):
        _close(got, wanted)
    batch = jit(lambda A: fixed_point(_coupled, zeros(4), A, batched=True, solve=Picard()))(A)
    _close(joined(batch), vmap(flat)(A))
    certificates = certify_fixed_point(_coupled, batch, A, smooth=True, batched=True)
    assert [c.verdict for c in certificates] == [Verdict.CLASSICAL] * 4
    mine = lambda f, z, theta: jax.lax.fori_loop(0, 60, lambda _, z: f(z, *theta), z)  # noqa: E731
    number, vector = fixed_point(lambda z: (0.5 * z[0] + 1, z[0] * z[1] / 8), (0.0, jnp.ones(2)), solve=mine)
    assert (number.shape, vector.shape) == ((), (2,))
    _close(number, jnp.asarray(2.0))


def test_theta_may_be_nested_and_single_precision_stays_single():
    theta = {"W": 0.3 * _rand(0, 3, 3), "power": 2, "b": [_rand(1, 3)]}
    f = lambda z, t: jnp.tanh(t["W"] @ z + t["b"][0]) / t["power"]  # noqa: E731
    z = fixed_point(f, jnp.zeros(3), theta, solve=Picard())
    _close(z, f(z, theta))
    single = tanh_layer(theta["W"].astype(jnp.float32), theta["b"][0].astype(jnp.float32))
    assert single.dtype == jnp.float32
    _close(single.astype(float), tanh_layer(theta["W"], theta["b"][0]), 1e-5)


@pytest.mark.parametrize("solve", [Anderson(memory=3, damping=0.7), Picard(), Newton(), Newton(linear=GMRES())])
def test_every_solver_finds_the_fixed_point(solve):
    W, B = 0.3 * _rand(0, 5, 5), _rand(1, 3, 5)
    f = lambda z: jax.nn.relu(z @ W.T + B)  # noqa: E731
    z = fixed_point(f, jnp.zeros((3, 5)), batched=True, solve=solve)
    _close(z, f(z))


def test_a_solver_of_ones_own_is_checked():
    mine = lambda f, z, theta: jax.lax.fori_loop(0, 80, lambda _, z: f(z, *theta), z)  # noqa: E731
    W, b = 0.3 * _rand(0, 4, 4), _rand(1, 4)
    got = jit(grad(lambda b: tanh_layer(W, b, solve=mine).sum()))(b)
    _close(got, jit(grad(lambda b: tanh_layer(W, b).sum()))(b))
    with pytest.raises(ConvergenceError, match=r"fixed_point: solve did not converge: reached .* at most 1.0e-08"):
        tanh_layer(W, b, solve=lambda f, z, theta: z)


def test_a_failed_solve_raises_in_and_out_of_jit_or_returns_nan():
    a = jnp.array([1.0, -1.0, 4.0])

    def layer(a: Array, **options) -> Array:
        return root(lambda z, a: z**2 - a[:, None], jnp.ones((3, 2)), a, batched=True, **options)

    with pytest.raises(ConvergenceError, match=r"root: Newton .* batch index 1: .* Raise its max_iter"):
        layer(a)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Newton did not converge at batch index 1"):
        jax.block_until_ready(jit(layer)(a))
    z = layer(a, on_failure="nan")
    _close(z[jnp.array([0, 2]), 0], jnp.array([1.0, 2.0]))
    assert jnp.isnan(z[1]).all()
    gradient = jit(grad(lambda a: layer(a, on_failure="nan").sum()))(a)
    _close(gradient[jnp.array([0, 2])], jnp.array([1.0, 0.5]))
    assert jnp.isnan(gradient[1])


def test_a_singular_or_unfinished_linear_system_is_an_error_not_a_number():
    flat = lambda a, **o: root(lambda z, a: z**3 - a, jnp.zeros(2), a, **o).sum()  # noqa: E731
    with pytest.raises(jax.errors.JaxRuntimeError, match="Dense left the relative residual"):
        grad(flat)(0.0)
    assert jnp.isnan(grad(lambda a: flat(a, on_failure="nan"))(0.0))
    M, scale = _rand(0, 4, 3) @ _rand(1, 3, 4), jnp.array([1e15, 1e-15, 1.0, 1.0])
    solve = lambda F, z, theta: z  # noqa: E731
    moved = jit(
        lambda B, a: jvp(lambda a: root(lambda z: B @ (z - a), a, solve=solve, on_failure="nan"), (a,), (a,))[1]
    )
    for B, wanted in (
        (M, jnp.nan),
        (jnp.diag(scale), 1.0),
    ):  # a consistent singular system, and one that is badly scaled
        np.testing.assert_allclose(moved(B, jnp.ones(4)), wanted)
    W, b = 0.3 * _rand(0, 6, 6), _rand(1, 6)
    with pytest.raises(jax.errors.JaxRuntimeError, match="GMRES left the relative residual"):
        grad(lambda b: tanh_layer(W, b, linear=GMRES(restart=2, max_iter=2)).sum())(b)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_singular_roots_are_warned_of_and_get_least_squares_derivatives(dtype):
    # They gave 65536, 1.6e6, … with the verdict "classical".
    functions = (
        lambda z, t: z**2 - t,
        lambda z, t: z**3 - t,
        lambda z, t: z - jnp.sin(z) - t,
        lambda z, t: 1e-12 * (z**2 - t),
    )
    t, start = jnp.zeros((), dtype), jnp.ones((), dtype)
    for F in functions if dtype is jnp.float64 else functions[:1]:  # what compiles, compiles for long
        layer = lambda t, **o: root(F, start, t, **o)  # noqa: B023, E731
        with pytest.warns(SingularDerivativeWarning, match="root: the root is singular"):
            z = jax.block_until_ready(jit(layer)(t))
        for options in ({}, {"on_failure": "nan"}) if F is functions[0] else ({},):
            with pytest.warns(SingularDerivativeWarning, match="least-squares"):
                assert jit(grad(lambda t, o=options: layer(t, **o)))(t) == 0  # noqa: B023
        assert certify_root(F, z, t, smooth=True).verdict is Verdict.LEAST_SQUARES
    f = lambda z, t: jnp.sin(z) + t  # noqa: E731
    with pytest.warns(SingularDerivativeWarning, match="fixed_point: the root is singular"):
        assert jit(grad(lambda t: fixed_point(f, start, t)))(t) == 0


def test_singular_instances_and_unknowns_leave_the_others_exact():
    one = lambda a: root(lambda z, a: z**2 - a, 1.0, a)  # noqa: E731
    with pytest.warns(SingularDerivativeWarning, match="singular at batch index 1:"):
        got = jit(vmap(grad(one)))(jnp.array([4.0, 0.0, 9.0]))
    _close(got, jnp.array([0.25, 0.0, 1 / 6]))
    F = lambda z, t: jnp.stack([z[0] ** 2 - t, z[1] - 3 * t - 1])  # noqa: E731
    with pytest.warns(SingularDerivativeWarning):
        moved = jit(jacrev(lambda t: root(F, jnp.ones(2), t)))(0.0)
    _close(moved, jnp.array([0.0, 3.0]))


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_do_not_matter_and_an_equation_without_a_root_has_not_converged(unit):
    # 1e−12(z³ − 8) from 1 gave z = 1 and a gradient of 1/3; z² + 1e−11 gave z = 7e−6.
    for dtype, scale, digits in ((jnp.float64, unit, 1e-9), (jnp.float32, unit**0.5, 1e-5)):
        scaled = ((lambda z, a, s=scale: s * (z**3 - a), 1.0), (lambda z, a, s=scale: (z / s) ** 3 - a, scale))
        for F, width in scaled if dtype is jnp.float64 else scaled[:1]:
            layer = jit(jax.value_and_grad(lambda a: root(F, jnp.asarray(width, dtype), a)))  # noqa: B023
            z, slope = layer(jnp.asarray(8.0, dtype))
            _close(z / width, jnp.asarray(2.0, dtype), 2 * digits)
            _close(slope / width, jnp.asarray(1 / 12, dtype), digits)
    for rest in (1e-3, 1e-11, 1e-13):
        F = lambda z, t: unit * (z**2 + rest + t)  # noqa: B023, E731
        assert jnp.isnan(root(F, 1.0, 0.0, on_failure="nan"))
        with pytest.raises(ConvergenceError, match="Newton did not converge"):
            root(F, 1.0, 0.0)


def test_misuse_names_the_argument_what_was_got_and_expected():
    z0 = jnp.zeros(2)
    cases = [
        (lambda: root(3, z0), TypeError, "root: F: got int, expected a callable"),
        (lambda: root(lambda z: z, jnp.ones(2, int)), TypeError, "z0: got an array of int"),
        (lambda: fixed_point(lambda z: z.sum(), z0), ValueError, r"f: it returned an array of shape \(\), expected"),
        (
            lambda: root(lambda z: z, z0, solve=Anderson()),
            TypeError,
            "solve: got Anderson.*that one is for fixed_point",
        ),
        (lambda: root(lambda z: z, z0, linear="lu"), TypeError, "linear: got 'lu'"),
        (lambda: jit(lambda z: certify_root(lambda z: z, z))(z0), TypeError, "got a traced array"),
        (
            lambda: root(lambda z: z, z0.astype("float16")),
            TypeError,
            "z0: got an array of float16, expected an array of",
        ),
        (lambda: root(lambda z: z > 0, z0), TypeError, "F: it returned an array of bool, expected float32 or float64"),
        (lambda: root(lambda z: 1j * z, z0), TypeError, "F: it returned an array of complex128"),
        (
            lambda: root(lambda z: z, z0, solve=lambda F, z, theta: None),
            ValueError,
            "solve: it returned None, expected",
        ),
        (
            lambda: root(lambda z: {"a": z["a"][:1]}, {"a": z0}),
            ValueError,
            r"F: it returned {'a': \(1,\)}, expected the structure and shapes of z0, {'a': \(2,\)}",
        ),
        (lambda: root(lambda z: z, None), ValueError, "z0: got the shapes None, expected at least one leaf"),
        (lambda: soft_threshold([3, 1], 0.5), TypeError, "soft_threshold: v: got an array of int"),
        (lambda: soft_threshold(z0, -1), ValueError, "soft_threshold: threshold: got -1, expected a number ≥ 0"),
        (lambda: project_box(z0, 2, 1), ValueError, "lower, upper: got 2 and 1, expected lower ≤ upper"),
        (lambda: project_simplex(z0, jnp.ones(2)), ValueError, r"radius: got the shape \(2,\), .* radius\[..., None\]"),
        (lambda: project_l1_ball(0.0), ValueError, r"project_l1_ball: v: got the shape \(\), expected \(\.\.\., n\)"),
        (lambda: project_cone(z0, Cones(nonneg=3)), ValueError, r"v: got the shape \(2,\), expected \(\.\.\., 3\)"),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind, match=text):
            call()


def test_verdicts():
    W, z = 0.2 * _rand(0, 5, 5), jnp.abs(_rand(1, 5)) + 0.5
    for kinks, verdict in (((), Verdict.CLASSICAL), ((1, 3), Verdict.CERTIFIED)):
        at = z.at[jnp.array(kinks, int)].set(0.0)
        b = at - W @ at
        pre = lambda z, W, b: W @ z + b  # noqa: E731
        f = lambda z, W, b: jax.nn.relu(pre(z, W, b))  # noqa: B023, E731
        certificate = certify_fixed_point(f, at, W, b, separable=Separable(pre))
        assert certificate.verdict is verdict
        assert certificate.everywhere
        assert certify_fixed_point(f, at, W, b).verdict is Verdict.CHECKED
    pre = lambda z: jnp.stack([2 * z[0], 0.5 * z[1]])  # noqa: E731
    for options in ({"separable": Separable(pre)}, {}):
        found = certify_fixed_point(lambda z: jax.nn.relu(pre(z)), jnp.zeros(2), **options)
        assert found.verdict is Verdict.UNCERTIFIED
    batch = certify_root(
        lambda z: z**3 - jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [0.0]]), smooth=True, batched=True
    )
    assert [c.verdict for c in batch] == [Verdict.CLASSICAL, Verdict.LEAST_SQUARES]


ALL_CONES = Cones(zero=1, nonneg=2, soc=(3,), psd=(2,), exp=1, exp_dual=1, power=(0.3, -0.4))
PRIMITIVES = {
    "soft_threshold": (soft_threshold, 6),
    "box": (lambda v, r, *s: project_box(v, -r, 2 * r, *s), 6),
    "simplex": (project_simplex, 6),
    "l1_ball": (project_l1_ball, 6),
    "l2_ball": (project_l2_ball, 6),
    "cone": (lambda v, r, *s: r * project_cone(v, ALL_CONES, *s), ALL_CONES.dimension),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_differentiate_in_every_mode(name):
    function, n = PRIMITIVES[name]
    v, r = 2 * _rand(0, 2, n), jnp.asarray(1.3)
    compiled = jit(function)
    D = jit(jacrev(function, (0, 1)))(v, r)
    step = 1e-6 * _rand(2, *v.shape)
    moved = (compiled(v + step, r + 1e-6) - compiled(v - step, r - 1e-6)) / 2e-6
    _close(jvp(compiled, (v, r), (step / 1e-6, jnp.ones(())))[1], moved, 1e-6)
    for one, other in zip(jit(jacfwd(function, (0, 1)))(v, r), D, strict=True):
        _close(one, other)
    _close(jit(vmap(function, (0, None)))(v, r), compiled(v, r))
    _close(jit(jacrev(lambda v: function(v, r, "mid")))(v), D[0])  # no kink here


def test_entries_that_are_large_or_no_numbers():
    nan, inf = float("nan"), float("inf")
    balls = (project_simplex, project_l1_ball, project_l2_ball)
    functions = (soft_threshold, lambda v, r: project_box(v, 0.0, r), *balls)
    every = jit(lambda v, r: jnp.stack([function(v, r) for function in functions]))
    assert jnp.isnan(every(jnp.array([3.0, nan]), 1.0)[:, 1]).all()
    assert jnp.isnan(every(jnp.array([3.0, 2.0]), -1.0)).all()
    large = jnp.array([1e20, 1e20], jnp.float32)
    for project in (project_simplex, project_l1_ball):
        _close(project(large), jnp.array([0.5, 0.5], jnp.float32), 0.0)
    _close(project_l2_ball(large), jnp.full(2, 0.5**0.5, jnp.float32), 1e-6)
    _close(project_simplex(jnp.array([1.0, -inf, 1.5])), jnp.array([0.25, 0.0, 0.75]))
    _close(soft_threshold(3.0, 1.0, "low"), jnp.asarray(2.0))
    near = jit(jacfwd(lambda v: project_l1_ball(v, 7.0, "high")))(jnp.array([3.0 + 7e-9, -4.0, 0.0]))
    s = jnp.array([1.0, -1.0, 1.0])
    _close(near, jnp.eye(3) - jnp.outer(s, s) / 3)


@pytest.mark.parametrize("selection", ["default", "low", "high", "mid"])
def test_selections_at_kinks(selection):
    half = {"default": 0.0, "low": 0.0, "high": 1.0, "mid": 0.5}[selection]
    inside = 1.0 if selection == "default" else half
    D = lambda function, v: jacfwd(lambda v: function(v, selection))(jnp.array(v))  # noqa: E731
    _close(jnp.diag(D(lambda v, s: soft_threshold(v, 1.0, s), [1.0, -1.0, 2.0])), jnp.array([half, half, 1]))
    _close(jnp.diag(D(lambda v, s: project_box(v, 0.0, 1.0, s), [0.0, 0.5, 2.0])), jnp.array([half, 1, 0]))
    pair = jnp.zeros((3, 3)).at[:2, :2].set(jnp.eye(2) - 0.5)
    triple = jnp.eye(3) - 1 / 3
    _close(D(lambda v, s: project_simplex(v, 1.0, s), [0.5, 0.5, 0.0]), (1 - half) * pair + half * triple)
    normal = jnp.array([[0.36, 0.48], [0.48, 0.64]])
    _close(D(lambda v, s: project_l2_ball(v, 5.0, s), [3.0, 4.0]), jnp.eye(2) - (1 - inside) * normal)
    normal = jnp.array([[0.5, -0.5], [-0.5, 0.5]])
    _close(D(lambda v, s: project_l1_ball(v, 7.0, s), [3.0, -4.0]), jnp.eye(2) - (1 - inside) * normal)
    _close(jnp.diag(D(lambda v, s: project_cone(v, Cones(nonneg=2), s), [0.0, 1.0])), jnp.array([inside, 1]))


def test_the_lasso_as_a_fixed_point_of_soft_thresholding_has_the_derivative_of_its_support():
    X, y, t = _rand(0, 8, 5), 3 * _rand(1, 8), 3.0
    step = 0.9 / float(jnp.linalg.norm(X, 2)) ** 2
    pre = lambda z, y, t: z - step * X.T @ (X @ z - y)  # noqa: E731
    f = lambda z, y, t: soft_threshold(pre(z, y, t), step * t)  # noqa: E731
    lasso = jit(lambda y, t: fixed_point(f, jnp.zeros(5), y, t))
    z = lasso(y, t)
    S = np.flatnonzero(np.asarray(z))
    assert 0 < S.size < 5
    G = jnp.linalg.inv(X[:, S].T @ X[:, S])
    dy, dt = jit(jacrev(lasso, (0, 1)))(y, t)
    _close(dy[S], G @ X[:, S].T, 1e-8)
    _close(dt[S], -G @ jnp.sign(z[S]), 1e-8)
    separable = Separable(pre, PiecewiseLinear.soft_threshold(step * t))
    assert certify_fixed_point(f, z, y, t, separable=separable).verdict is Verdict.CLASSICAL


def test_a_cone_program_as_a_fixed_point_of_the_projected_gradient():
    """z = Π_K(z − t(Mz + q)) solves minimize ½zᵀMz + qᵀz over K; dz by hand from D."""
    cones, A = Cones(nonneg=2, soc=(3,)), _rand(0, 5, 5)
    M, q, eye = A @ A.T / 5 + 0.5 * jnp.eye(5), _rand(1, 5), jnp.eye(5)
    layer = jit(
        lambda q: fixed_point(lambda z: project_cone(z - 0.2 * (M @ z + q), cones), jnp.zeros(5), solve=Picard())
    )
    D = jacrev(lambda v: project_cone(v, cones))(layer(q) - 0.2 * (M @ layer(q) + q))
    _close(jit(jacrev(layer))(q), jnp.linalg.solve(eye - D @ (eye - 0.2 * M), -0.2 * D))
