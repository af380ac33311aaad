"""Values that miss the attribute of their parameter by rounding, in JAX: inside of jit too, where no check can look at them first."""

from __future__ import annotations

from collections.abc import Iterator

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attribute_cases import CASES, SEED, right_answer
from double_precision import double_precision

from conelayers.jax import ConeLayer

pytestmark = pytest.mark.usefixtures("_double")


@pytest.fixture
def _double() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("name", CASES)
def test_a_slip_changes_neither_solution_nor_gradient(name: str) -> None:
    """By the largest slip; smaller ones go through the engine in tests/problem."""
    case, slip = CASES[name](), 3e-10
    value, gradient = right_answer(case)
    layer = ConeLayer(case.problem, [case.parameter], [case.variable], singular="least_squares")
    wrong, seed = jnp.asarray(case.slipped(slip)), jnp.asarray(SEED)

    def both(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, pull = jax.vjp(lambda t: layer(t)[0], w)
        return x, pull(seed)[0]

    for x, g in (both(wrong), jax.jit(both)(wrong)):
        np.testing.assert_allclose(x, value, atol=1e-9)
        np.testing.assert_allclose(g, gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer(wrong)[0], value, atol=1e-9)
    stacked = jnp.stack([wrong, jnp.asarray(case.right)])
    np.testing.assert_allclose(jax.vmap(lambda t: layer(t)[0])(stacked), np.stack([value] * 2), atol=1e-9)
    quiet = layer.solve(wrong, on_failure="nan")[0][0]
    np.testing.assert_allclose(quiet, value, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in CASES if "root" not in name])
def test_more_than_a_slip_is_refused(name: str) -> None:
    case = CASES[name]()
    layer = ConeLayer(case.problem, [case.parameter], [case.variable])
    wrong = jnp.asarray(np.stack([case.right, case.slipped(0.2)]))
    with pytest.raises(ValueError, match="at batch index 1: was declared"):
        layer(wrong)
    with pytest.raises(Exception, match="was declared"):
        jax.block_until_ready(jax.jit(lambda t: layer(t)[0])(wrong))


def test_second_derivatives_pass_through() -> None:
    """a/(1 + w) at w = −1e−10 as at 0."""
    x, a, w = cp.Variable(), cp.Parameter(), cp.Parameter(nonneg=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.square(x - a) + w * cp.square(x))), [a, w], [x])
    hessian = jax.hessian(lambda t: layer(t[0], t[1])[0])
    expected = [[0.0, -1.0], [-1.0, 4.0]]
    for function in (hessian, jax.jit(hessian)):
        np.testing.assert_allclose(function(jnp.array([2.0, -1e-10])), expected, atol=1e-9)
