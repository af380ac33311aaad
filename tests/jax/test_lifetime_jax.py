"""JAX's layers in threads, over many calls, and at their end."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conelayers.jax import ConeLayer


def layer() -> ConeLayer:
    x, a = cp.Variable(4), cp.Parameter(4)
    return ConeLayer(cp.Problem(cp.Minimize(cp.norm(x - a) + 0.3 * cp.norm1(x)), [x >= -1, cp.sum(x) <= 1]), [a], [x])


@pytest.mark.parametrize("jitted", [False, True])
def test_eight_threads_get_what_one_gets(jitted: bool) -> None:
    """Bit for bit, values and gradients."""
    ours = layer()

    def loss(a: jax.Array) -> jax.Array:
        return jnp.sum(ours(a)[0] ** 2)

    both = jax.value_and_grad(loss)
    both = jax.jit(both) if jitted else both
    values = np.random.default_rng(0).standard_normal((24, 4))
    expected = [tuple(map(np.asarray, both(v))) for v in values]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda v: tuple(map(np.asarray, both(v))), values))
    for got, one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got[0], one[0])
        np.testing.assert_array_equal(got[1], one[1])


def test_many_calls_leave_nothing_behind() -> None:
    """Once the solutions that are kept for gradients are as many as may be."""
    ours = layer()
    both = jax.jit(jax.value_and_grad(lambda a: jnp.sum(ours(a)[0])))
    values = np.random.default_rng(0).standard_normal((900, 4))
    for v in values[:500]:
        both(v)[1].block_until_ready()
    gc.collect()
    before = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    objects = len(gc.get_objects())
    for v in values[500:]:
        both(v)[1].block_until_ready()
    gc.collect()
    after = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
    assert len(gc.get_objects()) - objects < 400, "an object a call is left"


def test_layers_are_collected() -> None:
    """JAX's own caches hold what was compiled, until they are cleared."""

    def use(ours: ConeLayer) -> None:
        jax.jit(jax.grad(lambda a: jnp.sum(ours(a)[0])))(jnp.ones(4)).block_until_ready()

    ours = layer()
    use(ours)
    reference = weakref.ref(ours)
    del ours
    jax.clear_caches()
    gc.collect()
    assert reference() is None
