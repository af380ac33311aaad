"""Transformations of JAX over a layer, for every cone: against the plain gradients, and differences of those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ZOO

from conelayers.jax import ConeLayer

Array = jax.Array


@pytest.fixture(autouse=True, scope="module")
def _double() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


class Family(NamedTuple):
    function: Callable[..., Array]  # parameters ↦ one variable, flattened
    layer: ConeLayer
    draw: Callable[[np.random.Generator], list[np.ndarray]]


def _first(layer: ConeLayer) -> Callable[..., Array]:
    return lambda *t: jnp.ravel(layer(*t)[0])


def _lp() -> Family:
    x, c, b = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(c @ x), [x >= b, x <= b + 1, cp.sum(x) == cp.sum(b) + 0.8]), [c, b], [x])
    return Family(_first(layer), layer, lambda rng: [rng.standard_normal(3), rng.standard_normal(3)])


def _qp() -> Family:
    x, A, b = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4)
    objective = cp.sum_squares(A @ x - b) + 0.1 * cp.sum_squares(x)
    layer = ConeLayer(cp.Problem(cp.Minimize(objective), [x >= 0, cp.sum(x) <= 0.7]), [A, b], [x])
    return Family(_first(layer), layer, lambda rng: [rng.standard_normal((4, 3)), rng.standard_normal(4)])


def _soc() -> Family:
    x, c, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r]), [c, r], [x])
    return Family(_first(layer), layer, lambda rng: [2 + rng.standard_normal(3), 0.5 + rng.random(())])


def _sdp() -> Family:
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.trace(X) <= 3]), [C], [X])
    return Family(lambda M: jnp.ravel(layer((M + M.T) / 2)[0]), layer, lambda rng: [2 * rng.standard_normal((3, 3))])


def _exp() -> Family:
    x, c = cp.Variable(3), cp.Parameter(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.log_sum_exp(x) + c @ x + cp.sum_squares(x))), [c], [x])
    return Family(_first(layer), layer, lambda rng: [rng.standard_normal(3)])


def _power() -> Family:
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum(cp.power(x, 2.6)) + cp.sum_squares(x - c))), [c], [x])
    return Family(_first(layer), layer, lambda rng: [1 + rng.random(2)])


def _gp() -> Family:
    x, y, a = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(x + a * y), [x * y >= 2.0, x >= 0.5]), [a], [x], gp=True)
    return Family(_first(layer), layer, lambda rng: [1 + rng.random(())])


def _dual() -> Family:
    x, b = cp.Variable(3), cp.Parameter(3)
    constraint = cp.norm(x) <= 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [constraint])
    layer = ConeLayer(problem, [b], [constraint.dual_variables[0]])
    return Family(_first(layer), layer, lambda rng: [2 + rng.random(3)])


FAMILIES = {"lp": _lp, "qp": _qp, "soc": _soc, "sdp": _sdp, "exp": _exp, "power": _power, "gp": _gp, "dual": _dual}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]()


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


def _close(got: Any, expected: Any, atol: float = 1e-9) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=atol), got, expected)


def _loss(family: Family) -> Callable[..., Array]:
    def loss(*t: Array) -> Array:
        x = family.function(*t)
        return jnp.sum(jnp.sin(x) * (1 + jnp.arange(x.size)))

    return loss


def _symmetric(values: list[Array]) -> list[Array]:
    return [(v + v.T) / 2 if v.ndim == 2 and v.shape[0] == v.shape[1] else v for v in values]


def _args(family: Family) -> tuple[int, ...]:
    return tuple(range(len(family.draw(_rng()))))


def test_first_derivatives_agree_with_differences_and_one_another(family: Family) -> None:
    values = [jnp.asarray(v) for v in family.draw(_rng())]
    rng = np.random.default_rng(1)
    direction = [jnp.asarray(rng.standard_normal(v.shape)) for v in values]
    f, h = family.function, 1e-5
    difference = (
        f(*[v + h * d for v, d in zip(values, direction, strict=True)])
        - f(*[v - h * d for v, d in zip(values, direction, strict=True)])
    ) / (2 * h)
    out, tangent = jax.jvp(f, tuple(values), tuple(direction))
    _close(out, f(*values))
    _close(tangent, difference, 1e-7)
    argnums = _args(family)
    forward, reverse = (jax.jit(transform(f, argnums))(*values) for transform in (jax.jacfwd, jax.jacrev))
    _close(forward, reverse)
    _close(sum(jnp.tensordot(J, d, d.ndim) for J, d in zip(reverse, direction, strict=True)), tangent)
    _close(jax.linearize(f, *values)[1](*direction), tangent)
    _, pull = jax.vjp(f, *values)
    _close(pull(jnp.ones_like(out)), tuple(J.sum(0) for J in reverse))
    _close(jax.jit(jax.value_and_grad(_loss(family), argnums))(*values), jax.value_and_grad(_loss(family), argnums)(*values))  # fmt: skip


def test_hessian_in_all_orders_under_jit_and_vmap(family: Family) -> None:
    rng = _rng()
    draws = [[jnp.asarray(v) for v in family.draw(rng)] for _ in range(3)]
    values, loss = draws[0], _loss(family)
    modes = (jax.jacfwd, jax.jacrev)
    compiled = [jax.jit(outer(inner(loss))) for outer in modes for inner in modes]
    hessians = [hessian(*values) for hessian in compiled]
    for other in hessians[1:]:
        _close(other, hessians[0], 1e-8)
    direction = jnp.asarray(np.random.default_rng(1).standard_normal(values[0].shape))
    gradient, h = jax.jit(jax.grad(loss)), 1e-5
    above, below = (gradient(values[0] + e * direction, *values[1:]) for e in (h, -h))
    expected = jnp.tensordot(hessians[0], direction, direction.ndim)
    _close((above - below) / (2 * h), expected, 1e-5 * max(1.0, float(jnp.abs(expected).max())))
    batch = [jnp.stack(v) for v in zip(*draws, strict=True)]
    mapped = jax.jit(jax.vmap(jax.hessian(loss)))(*batch)
    for got, draw in zip(mapped, draws, strict=True):
        _close(got, compiled[1](*draw), 1e-8)


def test_vmap_of_grad_in_any_nesting_is_the_loop(family: Family) -> None:
    rng = _rng()
    grid = [[[jnp.asarray(v) for v in family.draw(rng)] for _ in range(2)] for _ in range(3)]
    argnums = _args(family)
    gradient = jax.jit(jax.grad(_loss(family), argnums))
    stacked = [jnp.stack([jnp.stack([cell[k] for cell in row]) for row in grid]) for k in argnums]
    nested = jax.jit(jax.vmap(jax.vmap(gradient)))(*stacked)
    last = tuple(-1 if k == 0 else 0 for k in argnums)
    moved = [jnp.moveaxis(s[:, 0], 0, -1) if k == 0 else s[:, 0] for k, s in enumerate(stacked)]
    axes = jax.vmap(gradient, in_axes=last)(*moved)
    for i, row in enumerate(grid):
        for j, cell in enumerate(row):
            expected = gradient(*cell)
            _close([g[i, j] for g in nested], list(expected))
            if j == 0:
                _close([g[i] for g in axes], list(expected))
    only = jax.vmap(gradient, in_axes=(0, *(None,) * (len(argnums) - 1)))(stacked[0][:, 0], *grid[0][0][1:])
    for i in range(3):
        _close([g[i] for g in only], list(gradient(grid[i][0][0], *grid[0][0][1:])))


def test_vmap_is_one_batched_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    family = _soc()
    sizes: list[int] = []
    plain = type(family.layer.engine).solve_flat

    def counted(self: Any, theta: np.ndarray, **options: Any) -> Any:
        sizes.append(len(theta))
        return plain(self, theta, **options)

    monkeypatch.setattr(type(family.layer.engine), "solve_flat", counted)
    rng = _rng()
    batch = [jnp.stack(v) for v in zip(*[family.draw(rng) for _ in range(6)], strict=True)]
    jax.block_until_ready(jax.jit(jax.vmap(jax.grad(_loss(family))))(*batch))
    assert set(sizes) == {6}
    assert len(sizes) == 1


def test_control_flow_and_checkpoint(family: Family) -> None:
    rng = _rng()
    draws = [[jnp.asarray(v) for v in family.draw(rng)] for _ in range(20)]
    batch, loss = [jnp.stack(v) for v in zip(*draws, strict=True)], _loss(family)

    def scanned(*t: Array) -> Array:
        def step(total: Array, one: tuple[Array, ...]) -> tuple[Array, None]:
            return total + jax.lax.cond(one[0].sum() > 0, loss, lambda *a: 2 * loss(*a), *one), None

        return jax.lax.scan(jax.checkpoint(step), jnp.zeros(()), t)[0]

    got = jax.jit(jax.grad(scanned))(*batch)  # more steps than solutions are kept
    single = jax.jit(jax.grad(loss))
    for g, draw in zip(got, draws, strict=True):
        factor = 1 if float(draw[0].sum()) > 0 else 2
        _close(g, factor * single(*draw), 1e-8)


def test_eval_shape_and_the_layer_as_an_argument(family: Family) -> None:
    values = _symmetric([jnp.asarray(v) for v in family.draw(_rng())])
    shapes = jax.eval_shape(family.layer, *values)
    got = jax.jit(lambda layer, *t: layer(*t))(family.layer, *values)
    assert [s.shape for s in shapes] == [g.shape for g in got]


def test_value_has_the_envelope_gradient(family: Family) -> None:
    values = [jnp.asarray(v) for v in family.draw(_rng())]
    V, h = family.layer.value, 1e-6
    k = len(values) - 1
    d = jnp.ones_like(values[k])  # symmetric, for the semidefinite one
    values = _symmetric(values)
    above, below = (V(*values[:k], values[k] + e * d) for e in (h, -h))
    gradient = jax.jit(jax.grad(V, k))(*values)
    assert float((gradient * d).sum()) == pytest.approx(float(above - below) / (2 * h), abs=1e-6)


def test_third_derivatives() -> None:
    quadratic, curved = _qp(), _soc()
    values = [jnp.asarray(v) for v in quadratic.draw(_rng())]
    assert np.isfinite(jax.jit(jax.jacfwd(jax.hessian(_loss(quadratic), 1), 1))(*values)).all()
    with pytest.raises(NotImplementedError, match="third derivatives"):
        jax.jacfwd(jax.hessian(_loss(curved)))(*[jnp.asarray(v) for v in curved.draw(_rng())])


@pytest.mark.parametrize("name", ZOO)
def test_both_adapters_give_the_same(name: str) -> None:
    """Values and gradients of the torch adapter, of the plain call and of the compiled one, on the shared zoo."""
    import torch

    import conelayers.torch

    case = ZOO[name]()
    rng = np.random.default_rng(sum(map(ord, name)))
    values = [np.asarray(v, dtype=float) for v in case.draw(rng)]
    ours = ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp)
    theirs = conelayers.torch.ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp)
    tensors = [torch.tensor(v, requires_grad=True) for v in values]
    outputs = theirs(*tensors)
    weights = [rng.standard_normal(tuple(o.shape)) for o in outputs]
    sum((o * torch.tensor(w)).sum() for o, w in zip(outputs, weights, strict=True)).backward()
    plain = ours(*values)
    loss = lambda *t: sum(jnp.sum(o * w) for o, w in zip(ours(*t), weights, strict=True))  # noqa: E731
    gradients = jax.jit(jax.grad(loss, tuple(range(len(values)))))(*values)
    for o, p, j in zip(outputs, plain, jax.jit(ours)(*values), strict=True):
        np.testing.assert_allclose(p, o.detach().numpy(), rtol=0, atol=1e-12 * max(1.0, float(o.detach().abs().max())))
        np.testing.assert_allclose(j, p, rtol=1e-12, atol=1e-12 * max(1.0, float(jnp.abs(p).max())))
    size = max(1.0, *(float(t.grad.abs().max()) for t in tensors if t.numel()))
    for g, t in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(g, t.grad.numpy(), rtol=0, atol=1e-12 * size)
