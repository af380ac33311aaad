"""Parameters anywhere, complex and sparse values in JAX: the engine's values and gradients, under transformations."""

from __future__ import annotations

import cvxpy as cp
import jax
import jax.numpy as jnp
import lifting_cases as cases
import numpy as np
import pytest
from double_precision import double_precision
from jax.experimental.sparse import BCOO
from sparse_parameters import COLS, ROWS, sparse_problem, sparse_values

from conelayers import Layer
from conelayers.jax import ConeLayer


@pytest.fixture(autouse=True)
def _double():
    with double_precision():
        yield


def drawn(make):
    problem, parameters, variables, values = make(np.random.default_rng(1))
    options = {"gp": True} if make is cases.geometric else {}
    return (problem, parameters, variables), options, [jnp.asarray(v) for v in values]


def weights_for(variables) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=v.shape) + (1j * rng.normal(size=v.shape) if np.iscomplexobj(v) else 0) for v in variables]


@pytest.mark.parametrize("make", [*cases.REAL, *cases.COMPLEX], ids=lambda make: make.__name__)
def test_values_and_gradients_are_the_engines(make) -> None:
    arguments, options, values = drawn(make)
    solution = Layer(*arguments, **options).solve(*map(np.asarray, values))
    weights = weights_for(solution.variables)
    layer = ConeLayer(*arguments, **options)

    def loss(*values):
        outputs = layer(*values)
        return sum(jnp.sum(jnp.conj(w) * o).real for w, o in zip(weights, outputs, strict=True)), outputs

    function = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(values))), has_aux=True))
    (_, outputs), gradients = function(*values)
    for output, ours in zip(outputs, solution.variables, strict=True):
        np.testing.assert_allclose(output, ours, atol=1e-9)
    for gradient, ours in zip(gradients, solution.vjp(*weights), strict=True):
        np.testing.assert_allclose(np.conj(gradient), ours, atol=1e-7)  # JAX's convention is the conjugate


def test_transformations() -> None:
    arguments, _, (p, b) = drawn(cases.reciprocal)
    layer = ConeLayer(*arguments)
    many = jnp.stack([b, 2 * b, -b])
    np.testing.assert_allclose(jax.vmap(lambda h: layer(p, h)[0])(many), layer(p, many)[0], atol=1e-10)
    forward, reverse = jax.jacfwd(lambda h: layer(h, b)[0])(p), jax.jacrev(lambda h: layer(h, b)[0])(p)
    np.testing.assert_allclose(forward, reverse, atol=1e-10)
    np.testing.assert_allclose(layer.jacobian(p, b)[0][0], forward, atol=1e-10)

    def loss(h):
        return (layer(h, b)[0] ** 2).sum()

    step = 1e-5
    slope = (jax.grad(loss)(p + step) - jax.grad(loss)(p - step)) / (2 * step)
    np.testing.assert_allclose(jax.hessian(loss)(p), slope, rtol=1e-5)
    assert layer.lifted
    assert layer.problem_data(p, b).q.ndim == 1


def test_holomorphic_maps_in_and_out() -> None:
    arguments, _, (c, r) = drawn(cases.complex_projection)
    layer = ConeLayer(*arguments)
    z, dual = layer(c, r)
    assert z.dtype == dual.dtype == jnp.complex128
    direction = jnp.asarray([1.0 + 2j, -1j, 0.5])
    _, tangent = jax.jvp(lambda h: layer(h, r)[0], (c,), (direction,))
    step = 1e-6
    ahead, behind = (layer(c + t * direction, r)[0] for t in (step, -step))
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), atol=1e-7)
    small = layer(c.astype(jnp.complex64), jnp.float32(0.8))[0]
    assert small.dtype == jnp.complex64
    np.testing.assert_allclose(small, z, atol=1e-5)
    with pytest.raises(TypeError, match=r"parameter 1 \(r\): got dtype complex128"):
        layer(c, r + 0j)


def test_sparse_matrices() -> None:
    problem, parameters, variables = sparse_problem()
    A, b = sparse_values()
    layer = ConeLayer(problem, parameters, variables)
    M = BCOO.fromdense(jnp.asarray(A))
    expected = np.linalg.solve(A.T @ A + 0.1 * np.eye(3), A.T @ b)
    np.testing.assert_allclose(layer(M, b)[0], expected, atol=1e-12)
    dense = jax.grad(lambda h: layer(h, b)[0].sum())(jnp.asarray(A))

    def loss(data):
        return layer(BCOO((data, M.indices), shape=M.shape), b)[0].sum()

    for gradient in (jax.grad(loss)(M.data), jax.jit(jax.grad(loss))(M.data)):
        np.testing.assert_allclose(gradient, dense[M.indices[:, 0], M.indices[:, 1]], atol=1e-12)
    assert set(zip(ROWS.tolist(), COLS.tolist(), strict=True)) == set(map(tuple, M.indices.tolist()))
    with pytest.raises(ValueError, match="sparsity pattern; got entries outside it"):
        layer(BCOO.fromdense(jnp.ones((4, 3))), b)
    with pytest.raises(TypeError, match="got BCOO"):
        layer(M, BCOO.fromdense(jnp.asarray(b)))


def test_a_singular_matrix_of_a_quadratic_constraint_is_an_error_or_nan() -> None:
    arguments, _, values = drawn(cases.risk_limit)
    values[1] = jnp.diag(jnp.asarray([1.0, 1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="not positive definite"):
        ConeLayer(*arguments)(*values)
    outputs, info = jax.jit(ConeLayer(*arguments, on_failure="nan").solve)(*values)
    assert bool(jnp.isnan(outputs[0]).all())
    assert int(info.status) != 0


def test_entries_of_sparse_matrices_beyond_their_shape_are_none() -> None:
    problem, parameters, variables = sparse_problem()
    A, b = sparse_values()
    layer = ConeLayer(problem, parameters, variables)
    expected = layer(jnp.asarray(A), b)[0]
    data = jnp.asarray([*A[ROWS, COLS], 9.0])
    indices = jnp.asarray(np.stack([[*ROWS, 4], [*COLS, 0]], axis=1))  # (4, 0) would be where (0, 1) is
    for function in (lambda h: layer(h, b)[0], jax.jit(lambda h: layer(h, b)[0])):
        np.testing.assert_allclose(function(BCOO((data, indices), shape=(4, 3))), expected, atol=1e-14)


def test_integers_are_not_computed_in_single_precision() -> None:
    x, p = cp.Variable(), cp.Parameter(pos=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.square(x - 1 / p))), [p], [x])
    assert float(jax.jit(lambda h: layer(h)[0])(3)) == pytest.approx(1 / 3, abs=1e-14)
