"""Gradients that are zero in every parameter are told of in JAX too, traced and compiled."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double_precision import double_precision
from zero_derivative_cases import COSTS, SEED, simplex, told, with_total

from conelayers import LPGD, ProximalSmoothing
from conelayers.jax import ConeLayer

pytestmark = pytest.mark.usefixtures("_double")


@pytest.fixture
def _double() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("compiled", [False, True])
def test_once_a_layer(compiled: bool) -> None:
    for _ in range(2):
        layer = ConeLayer(*simplex())
        gradient = jax.grad(lambda c, layer=layer: layer(c)[0] @ jnp.asarray(SEED))
        gradient = jax.jit(gradient) if compiled else gradient
        messages = told(lambda g=gradient: [jax.block_until_ready(g(k * COSTS)) for k in (1.0, 2.0)])
        assert len(messages) == 1
        assert "smoothing=" in messages[0]


def test_what_is_no_such_gradient() -> None:
    silent = ConeLayer(*simplex(), singular="least_squares")
    assert not told(lambda: jax.grad(lambda c: silent(c)[0] @ jnp.asarray(SEED))(jnp.asarray(COSTS)))
    layer = ConeLayer(*simplex())
    assert not told(lambda: jax.grad(lambda c: 0.0 * layer(c)[0].sum())(jnp.asarray(COSTS)))
    assert not told(lambda: jax.jvp(lambda c: layer(c)[0], (jnp.asarray(COSTS),), (jnp.asarray(SEED),)))
    total = ConeLayer(*with_total())
    assert not told(lambda: jax.grad(lambda b: total(jnp.asarray(COSTS), b)[0] @ jnp.asarray(SEED))(1.0))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("smoothing", "zero"),
    [
        (LPGD(tau=0.1), True),
        (LPGD(tau=20.0), True),
        (LPGD(tau=200.0), False),
        (ProximalSmoothing(0.1), True),
        (ProximalSmoothing(10.0), False),
    ],
    ids=str,
)
def test_smoothings_that_move_nothing(smoothing: LPGD | ProximalSmoothing, zero: bool, compiled: bool) -> None:
    layer = ConeLayer(*simplex(), smoothing=smoothing)
    gradient = jax.grad(lambda c: (layer(c)[0] @ jnp.asarray(SEED)).mean())
    gradient = jax.jit(gradient) if compiled else gradient
    messages = told(lambda: jax.block_until_ready(gradient(jnp.asarray(np.stack([COSTS] * 64)))))
    assert len(messages) == zero
