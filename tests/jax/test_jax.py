"""The JAX layer as users meet it: dtypes, names, errors, failures, modules, sharding."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conelayers import SingularDerivativeWarning, SolveError, Status
from conelayers.jax import ConeLayer, CvxpyLayer


def _layer(**options: object) -> ConeLayer:
    x, c, u = cp.Variable(3), cp.Parameter(3, name="c"), cp.Parameter(name="u")
    return ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) <= u, x >= 0]), [c, u], [x], **options)


C = np.array([1.0, -0.5, 2.0], dtype=np.float32)


def test_the_name_of_cvxpylayers_is_the_same_class() -> None:
    assert CvxpyLayer is ConeLayer


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_outputs_have_the_inputs_dtype(dtype: jnp.dtype) -> None:
    layer, c, u = _layer(), jnp.asarray(C, dtype), jnp.asarray(1.5, dtype)
    expected = [1.0 - 0.75, 0.0, 2.0 - 0.75]
    for call in (layer, jax.jit(layer)):
        (x,) = call(c, u)
        assert x.dtype == dtype
        np.testing.assert_allclose(np.asarray(x, float), expected, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda c: layer(c, u)[0][0]))(c)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(np.asarray(gradient, float), [0.5, 0.0, -0.5], atol=1e-6)


def test_numbers_integers_and_weak_types() -> None:
    layer = _layer()
    for call in (layer, jax.jit(layer)):
        for u in (1.5, np.float64(1.5), jnp.asarray(1.5)):
            assert call(C, u)[0].dtype == jnp.float32
        (x,) = call(jnp.array([1, 0, 2]), 1)
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, [0.0, 0.0, 1.0], atol=1e-6)
    assert layer(jnp.asarray(C, jnp.bfloat16), 1.5)[0].dtype == jnp.bfloat16


def test_float32_gradients_use_the_float64_solution() -> None:
    """Near a cone's apex a rounded v would cost digits that the solution has."""
    x, c = cp.Variable(3), cp.Parameter(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x - np.array([100.0, 0, 0])) <= 1e-3]), [c], [x])  # fmt: skip
    c = jnp.array([100.3, 0.4, 0.0])
    J = jax.jit(jax.jacrev(lambda c: layer(c)[0]))(c)
    exact = layer.engine.solve(np.asarray(c, float)).jacobian()[0][0]
    np.testing.assert_allclose(J, exact, atol=1e-5 * np.abs(exact).max())


def test_parameters_by_name_and_as_a_pytree() -> None:
    layer = _layer()
    expected = layer(C, 1.5)[0]
    np.testing.assert_array_equal(layer(u=1.5, c=C)[0], expected)
    np.testing.assert_array_equal(layer({"u": 1.5, "c": C})[0], expected)
    gradient = jax.grad(lambda p: layer(p)[0][0])({"c": jnp.asarray(C), "u": jnp.asarray(1.5)})
    np.testing.assert_allclose(gradient["u"], 0.5, atol=1e-6)
    with pytest.raises(ValueError, match="all by position or all by name: c, u"):
        layer(C, u=1.5)
    with pytest.raises(ValueError, match="all by position or all by name: c, u"):
        layer({"c": C})


def test_bad_values_are_refused_in_our_words() -> None:
    layer = _layer()
    for call in (layer, jax.jit(layer)):
        with pytest.raises(ValueError, match=r"parameter 0 \(c\). Expected \(3,\)"):
            call(jnp.zeros(4), 1.0)
        with pytest.raises(TypeError, match=r"parameter 0 \(c\): got dtype complex64"):
            call(jnp.zeros(3, complex), 1.0)
        with pytest.raises(ValueError, match="received 1 tensors, expected 2"):
            call(C)
    with pytest.raises(TypeError, match=r"parameter 0 \(c\): got list"):
        layer([1.0, 2.0, 3.0], 1.0)
    with pytest.raises(ValueError, match="parameter c: got NaN"):
        layer(C * np.nan, 1.0)
    with pytest.raises(ValueError, match="on_failure: got 'skip'"):
        layer(C, 1.0, on_failure="skip")
    with pytest.raises(TypeError, match=r"jax\.jacrev"):
        jax.jit(layer.jacobian)(C, 1.0)


def test_an_infeasible_instance_raises_with_the_same_message_everywhere() -> None:
    layer = _layer()
    u = jnp.array([1.0, -1.0])
    with pytest.raises(SolveError) as outside:
        layer(C, u)
    with pytest.raises(SolveError, match="primal infeasible at batch index 1"):
        jax.grad(lambda u: layer(C, u)[0].sum())(u)
    with pytest.raises(SolveError, match="primal infeasible at batch index 1"):
        jax.vmap(layer, in_axes=(None, 0))(C, u)
    with pytest.raises(jax.errors.JaxRuntimeError) as inside:
        jax.block_until_ready(jax.jit(layer)(C, u))
    assert str(outside.value) in str(inside.value)


@pytest.mark.parametrize("compiled", [False, True])
def test_failures_as_nan_leave_the_others_exact(compiled: bool) -> None:
    layer = _layer(on_failure="nan")
    jit = jax.jit if compiled else lambda f: f
    u = jnp.array([1.0, -1.0, 1.5, jnp.nan])
    (x,), info = jit(layer.solve)(C, u)
    assert ConeLayer.statuses(info) == (Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.SOLVED, Status.FAILED)
    good = np.array([0, 2])
    np.testing.assert_array_equal(x[good], _layer()(C, u[good])[0])
    assert np.isnan(x[np.array([1, 3])]).all()
    assert np.isnan(info.residual[np.array([1, 3])]).all()
    gradient = jit(jax.grad(lambda u: jnp.sum(layer(C, u)[0][:, 0])))(u)
    np.testing.assert_allclose(gradient[good], 0.5, atol=1e-6)
    assert np.isnan(gradient[np.array([1, 3])]).all()
    (x,), info = jit(layer.solve)(C, jnp.array(-1.0))  # nothing left to solve
    assert np.isnan(x).all()
    assert ConeLayer.statuses(info) is Status.PRIMAL_INFEASIBLE
    assert np.isnan(jit(jax.grad(lambda u: layer(C, u)[0].sum()))(jnp.array(-1.0)))


def test_failures_as_nan_of_a_curved_cone() -> None:
    x, r = cp.Variable(3), cp.Parameter()
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - C)), [cp.norm(x) <= r]), [r], [x], on_failure="nan")
    gradient = jax.jit(jax.grad(lambda r: jnp.sum(layer(r)[0][:, 2])))(jnp.array([0.5, -1.0]))
    np.testing.assert_allclose(gradient[0], 2 / np.linalg.norm(C), rtol=1e-5)
    assert np.isnan(gradient[1])


def test_empty_batches_and_problems_without_parameters() -> None:
    layer = _layer()
    for call in (layer, jax.jit(layer)):
        assert call(jnp.zeros((0, 3)), 1.0)[0].shape == (0, 3)
    x = cp.Variable(2)
    constant = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1))), [], [x])
    for call in (constant, jax.jit(constant)):
        np.testing.assert_allclose(call()[0], 1.0, atol=1e-6)


def test_options_of_a_call() -> None:
    layer = _layer()
    for options in ({"solver_args": {"solve_method": "SCS"}}, {"warm_start": True}, {"solver_args": {"eps": 1e-6}}):
        x = jax.jit(lambda c, u, options=options: layer(c, u, **options)[0])(C, 1.5)
        np.testing.assert_allclose(x, layer(C, 1.5)[0], atol=1e-6)


def test_jacobian_is_jacrevs() -> None:
    layer = _layer()
    c, u = jnp.asarray(C), jnp.asarray(1.5)
    expected = jax.jacrev(layer, (0, 1))(c, u)
    for row, other in zip(layer.jacobian(c, u), expected, strict=True):
        for a, b in zip(row, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_copies_and_pickles() -> None:
    layer = _layer()
    expected = jax.jit(layer)(C, 1.5)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(jax.jit(other)(C, 1.5)[0], expected)
    assert "c[3]" in repr(layer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the libraries' own
def test_inside_an_equinox_module_trained_by_optax() -> None:
    import equinox as eqx
    import optax

    class Model(eqx.Module):
        linear: eqx.nn.Linear
        layer: ConeLayer

        def __call__(self, z: jax.Array) -> jax.Array:
            return self.layer(self.linear(z), 1.0)[0]

    model = Model(eqx.nn.Linear(2, 3, key=jax.random.key(0)), _layer())
    z = jax.random.normal(jax.random.key(1), (16, 2))
    target = jnp.array([0.7, 0.3, 0.0])
    optimizer = optax.adam(0.05)
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model: Model, state: object) -> tuple[Model, object, jax.Array]:
        loss, g = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(z) - target) ** 2))(model)
        updates, state = optimizer.update(g, state)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(120):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inside_a_flax_nnx_module() -> None:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            self.layer = _layer()

        def __call__(self, z: jax.Array) -> jax.Array:
            return self.layer(self.linear(z), 1.0)[0]

    model = Model(nnx.Rngs(0))
    z = jnp.ones((4, 2))
    loss, gradients = nnx.jit(nnx.value_and_grad(lambda m: jnp.sum((m(z) - 1) ** 2)))(model)
    assert np.isfinite(loss)
    assert float(jnp.abs(gradients["linear"]["kernel"][...]).max()) > 0


def _in_a_fresh_process(code: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, env={**os.environ, **environment}, timeout=300
    )


def test_no_torch_in_the_process() -> None:
    _in_a_fresh_process("import sys, conelayers.jax; assert 'torch' not in sys.modules")


def test_two_devices() -> None:
    """shard_map splits the solve, an automatically sharded jit is right; both in value and gradient."""
    code = """
    import jax, numpy as np, cvxpy as cp, jax.numpy as jnp
    from functools import partial
    from jax.sharding import NamedSharding, PartitionSpec as P
    jax.config.update("jax_enable_x64", True)
    from conelayers.jax import ConeLayer
    from conelayers.layer.layer import Layer
    assert len(jax.devices()) == 2
    x, c, r = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r]), [c, r], [x])
    c, r = 2 + np.random.default_rng(0).standard_normal((8, 3)), jnp.asarray(0.7)
    value = lambda c, r: layer(c, r)[0]
    gradient = jax.grad(lambda c, r: jnp.sum(jnp.sin(layer(c, r)[0])), (0, 1))
    expected = value(c, r), *gradient(c, r)
    sizes, plain = [], Layer.solve_flat
    def counted(self, theta, **options):
        sizes.append(len(theta))
        return plain(self, theta, **options)
    Layer.solve_flat = counted
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.jit(jax.shard_map(value, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch")))
    np.testing.assert_allclose(mapped(c, r), expected[0], atol=1e-12)
    assert sorted(sizes) == [4, 4], sizes
    both = lambda c, r: gradient(c, r)
    mapped = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=(P("batch"), P()), out_specs=(P("batch"), P())))
    got = mapped(c, r)
    np.testing.assert_allclose(got[0], expected[1], atol=1e-12)
    np.testing.assert_allclose(got[1], expected[2], atol=1e-12)
    sharded = jax.device_put(c, NamedSharding(mesh, P("batch")))
    np.testing.assert_allclose(jax.jit(value)(sharded, r), expected[0], atol=1e-12)
    got = jax.jit(gradient)(sharded, r)
    np.testing.assert_allclose(got[0], expected[1], atol=1e-12)
    np.testing.assert_allclose(got[1], expected[2], atol=1e-12)
    """
    _in_a_fresh_process(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")


def test_large_arrays_do_not_block_the_callback() -> None:
    """XLA's CPU threads hand over arrays that are still being computed."""
    x, c = cp.Variable(500), cp.Parameter(500)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]), [c], [x])
    c = jax.random.normal(jax.random.key(0), (400, 500))
    gradient = jax.jit(jax.grad(lambda c: jnp.sum(layer(c @ jnp.eye(500))[0])))(c)
    np.testing.assert_allclose(gradient, (c > 0).astype(float), atol=1e-6)


def test_ahead_of_time_loops_and_disabled_jit() -> None:
    layer = _layer()
    c = jnp.asarray(C)
    expected = layer(c, 1.5)[0]
    np.testing.assert_array_equal(jax.jit(layer).lower(c, 1.5).compile()(c, 1.5)[0], expected)
    np.testing.assert_array_equal(jax.lax.map(lambda u: layer(c, u)[0], jnp.array([1.5, 1.5]))[1], expected)
    _, last = jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, layer(c, 1.5)[0]), (0, c))
    np.testing.assert_array_equal(last, expected)
    with jax.disable_jit():
        np.testing.assert_allclose(jax.grad(lambda u: layer(c, u)[0][0])(1.5), 0.5, atol=1e-6)


def test_a_singular_derivative_warns_in_a_compiled_function() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1]), [c], [x])
    with pytest.warns(SingularDerivativeWarning):
        jax.block_until_ready(jax.jit(jax.grad(lambda c: layer(c)[0][0]))(jnp.ones(2)))
