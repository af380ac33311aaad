"""The same through JAX, compiled and not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_failures import FEW_KEPT, FEW_LOST, LOST, _problem, _values

from conelayers import FailedInstancesWarning
from conelayers.jax import ConeLayer


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
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
    assert np.isfinite(jax.hessian(masked)(w)).all()
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
