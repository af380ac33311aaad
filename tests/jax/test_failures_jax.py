"""The same through JAX, compiled and not."""

from __future__ import annotations

from functools import partial

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double_precision import double_precision
from failing_batches import FEW_KEPT, FEW_LOST, LOST, _problem, _values

from conelayers import FailedInstancesWarning, SolveError
from conelayers.jax import ConeLayer


@pytest.fixture(autouse=True)
def _x64():
    with double_precision():
        yield


@pytest.mark.parametrize("curved", [False, True])
def test_jax_in_every_mode(curved: bool) -> None:
    layer, values = ConeLayer(*_problem(curved), on_failure="nan"), [jnp.array(v[:64]) for v in _values()]
    lost, keep = np.array(FEW_LOST), np.array(FEW_KEPT)
    w, rest = values[0][0], values[1:]
    others = ConeLayer(*_problem(curved))
    expected = jax.grad(lambda w: others(w, *(v[keep] for v in rest))[0].sum())(w)

    def masked(w):
        return jnp.nansum(layer(w, *rest)[0])

    def where(w):
        x, info = layer.solve(w, *rest)
        return jnp.where((info.status <= 1)[:, None], x[0], 0.0).sum()

    np.testing.assert_allclose(jax.grad(masked)(w), expected, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.grad(where))(w), expected, atol=1e-9)
    assert np.isnan(jax.grad(lambda w: layer(w, *rest)[0].sum())(w)).all()
    each = jax.vmap(lambda u, e: jax.grad(lambda w: layer(w, u, e)[0].sum())(w))(*rest)
    np.testing.assert_allclose(each[keep].sum(0), expected, atol=1e-9)
    assert np.isnan(each[lost]).all()
    moved = jax.jvp(lambda w: layer(w, *rest)[0], (w,), (jnp.ones(3),))[1]
    assert np.isnan(moved[lost]).all()
    assert np.isfinite(moved[keep]).all()


def test_second_derivatives_and_values_of_what_was_solved() -> None:
    layer, values = ConeLayer(*_problem(True), on_failure="nan"), [jnp.array(v[:64]) for v in _values()]
    others, keep, w, rest = ConeLayer(*_problem(True)), np.array(FEW_KEPT), values[0][0], values[1:]
    assert np.isfinite(jax.hessian(lambda w: jnp.nansum(layer(w, *rest)[0]))(w)).all()
    value, gradient = jax.value_and_grad(lambda w: jnp.nansum(layer.value(w, *rest)))(w)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(
        gradient, jax.grad(lambda w: others.value(w, *(v[keep] for v in rest)).sum())(w), atol=1e-8
    )
    assert np.isnan(jax.grad(lambda w: layer.value(w, *rest).sum())(w)).all()


def test_warnings_and_last() -> None:
    layer, values = ConeLayer(*_problem(False), on_failure="warn"), _values()
    with pytest.warns(FailedInstancesWarning, match="3 of 128"):
        layer(*values)
    assert layer.last.failed == tuple(LOST)


def test_raise_on_error_of_other_packages() -> None:
    """False returns, with NaN for what failed, in compiled functions too; a policy of the call's own wins."""
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= p, x <= 1]), [p], [x])
    values, options = jnp.array([[0.5, 0.5], [2.0, 2.0]]), {"raise_on_error": False}
    for call in (partial(layer, solver_args=options), jax.jit(partial(layer, solver_args=options))):
        (found,) = call(values)
        assert jnp.isnan(found).all(axis=1).tolist() == [False, True]
    with pytest.raises(SolveError):
        layer(values, solver_args={"raise_on_error": True})
    with pytest.raises(SolveError):
        layer(values, solver_args=options, on_failure="raise")
    (made,) = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= p, x <= 1]), [p], [x], solver_args=options)(
        values
    )
    assert jnp.isnan(made).all(axis=1).tolist() == [False, True]


def test_ordinary_options_and_integers_and_keywords() -> None:
    """What migrants pass and write."""
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) <= 10])
    layer = ConeLayer(problem, [p], [x])
    expected = layer(jnp.array([1.0, 2.0, 3.0]))[0]
    for options in ({"eps": 1e-8}, {"max_iters": 10000}, {"acceleration_lookback": 0, "eps": 1e-8, "max_iters": 10000}):
        np.testing.assert_array_equal(layer(jnp.array([1.0, 2.0, 3.0]), solver_args=options)[0], expected)
        assert layer.last.solver == ("CORE",)
    np.testing.assert_array_equal(layer(jnp.array([1, 2, 3]))[0], expected)
    with pytest.raises(ValueError, match=r"unnamed, position 0, shape \(3,\)\): got NaN"):
        layer(jnp.full(3, jnp.nan))
    with pytest.raises(TypeError, match=r"variables=\[constraint\.dual_variables\[0\]\]"):
        ConeLayer(problem, [p], [x], constraints=[])
