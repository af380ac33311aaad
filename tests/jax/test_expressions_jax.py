"""Expressions of parameters in JAX: every atom against NumPy's value and gradient, and JAX's transformations."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from atom_zoo import BY_NAME, CASES, Case

from conelayers.jax.arithmetic import JaxArithmetic
from conelayers.problem.dpp.translate import translate
from conelayers.problem.expressions import Evaluation, NumpyArithmetic, evaluate, pullback

pytestmark = pytest.mark.filterwarnings("ignore:conv is deprecated")
CHOSEN = ["lambda_max", "sigma_max", "von_neumann_entr", "gen_lambda_max", "pf_eigenvalue", "huber parameter", "sum_largest axis"]  # fmt: skip

# Compilation is what takes long.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True, scope="module")
def double_precision() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def evaluation_of(case: Case) -> Evaluation:
    parameters = case.parameters()
    return Evaluation(translate([case.build(*parameters)], parameters), JaxArithmetic())


@pytest.mark.parametrize("start", range(0, len(CASES), 20))
def test_values_and_gradients(start: int) -> None:
    """Many atoms in one compiled function, compilation being what takes long."""
    cases = CASES[start : start + 20]
    rng = np.random.default_rng(3)
    values = [case.draw(rng, 3) for case in cases]
    for v in values:
        v[0] = v[0][:1]
    nodes, evaluations = [], []
    for case in cases:
        parameters = case.parameters()
        nodes.append(translate([case.build(*parameters)], parameters))
        evaluations.append(Evaluation(nodes[-1], JaxArithmetic()))
    expected = [evaluate(n, v)[0] for n, v in zip(nodes, values, strict=True)]
    cotangents = [
        rng.standard_normal(r.shape) + (1j * rng.standard_normal(r.shape) if np.iscomplexobj(r) else 0)
        for r in expected
    ]

    def loss(values: list[list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
        results = [e(v)[0] for e, v in zip(evaluations, values, strict=True)]
        return sum(jnp.sum(jnp.real(jnp.conj(c) * r)) for c, r in zip(cotangents, results, strict=True)), results

    (_, results), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)(values)
    for case, n, v, c, ours, theirs, gradient in zip(
        cases, nodes, values, cotangents, expected, results, gradients, strict=True
    ):
        np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-12, err_msg=case.name)
        for g, h in zip(pullback(n, v, [c]), gradient, strict=True):
            # JAX's gradients are ∂/∂Re − i ∂/∂Im.
            np.testing.assert_allclose(np.conj(h), g, rtol=1e-9, atol=1e-9, err_msg=case.name)


@pytest.mark.parametrize("name", CHOSEN)
def test_transformations(name: str) -> None:
    case = BY_NAME[name]
    evaluation = evaluation_of(case)
    rng = np.random.default_rng(4)
    values, tangents = ([jnp.asarray(v) for v in case.draw(rng, 3)] for _ in range(2))

    def loss(*values: jax.Array) -> jax.Array:
        (result,) = evaluation([v[None] for v in values])
        return jnp.sum(result * jnp.cos(jnp.arange(float(result.size))).reshape(result.shape))

    argnums = tuple(range(len(values)))
    one, direction = [v[0] for v in values], [t[0] for t in tangents]

    def everything(values: list[jax.Array]) -> tuple[object, ...]:
        batched = jax.vmap(jax.grad(loss, argnums))(*values)
        summed = jax.grad(lambda v: sum(loss(*(a[i] for a in v)) for i in range(3)))(values)
        along = jax.jvp(loss, tuple(one), tuple(direction))[1]
        hessian = jax.jvp(lambda x: jax.grad(loss)(x, *one[1:]), (one[0],), (direction[0],))[1]
        ahead, behind = (jax.grad(loss)(one[0] + h * direction[0], *one[1:]) for h in (1e-5, -1e-5))
        return batched, summed, along, hessian, (ahead - behind) / 2e-5

    batched, summed, along, hessian, difference = jax.jit(everything, compiler_options=FAST)(values)
    for ours, theirs in zip(batched, summed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    dot = sum(float(jnp.sum(g[0] * t)) for g, t in zip(batched, direction, strict=True))
    assert float(along) == pytest.approx(dot, rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(hessian, difference, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["lambda_max", "log_det", "norm nuc", "norm", "max", "std"])
def test_derivatives_at_kinks_are_finite(name: str) -> None:
    case = BY_NAME[name]
    point = np.eye(3)[None] if case.shapes[0] == (3, 3) else np.zeros((1, *case.shapes[0]))
    point = point + (0j if case.kinds[0] == "complex" else 0)
    evaluation = evaluation_of(case)
    result, gradient = jax.jit(jax.value_and_grad(lambda v: jnp.sum(evaluation([v])[0])), compiler_options=FAST)(point)
    assert np.isfinite(gradient).all()
    nodes = translate([case.build(*(parameters := case.parameters()))], parameters)
    assert Evaluation(nodes, NumpyArithmetic())([point])[0].sum() == pytest.approx(float(result))
