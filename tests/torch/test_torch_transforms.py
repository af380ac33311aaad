"""Transformations of torch over a layer, for every cone: against the plain call's gradients, and differences of those."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from zoo import ZOO

from conelayers import Cones, SolveError
from conelayers.torch import ConeLayer, solve_cone_program

# torch's own, when its forward-mode rules are loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
Tensor = torch.Tensor
DOUBLE = torch.float64


class Family(NamedTuple):
    function: Callable[..., Tensor]  # parameters ↦ one variable, flattened; any dimension of batch in front by vmap
    draw: Callable[[], list[Tensor]]
    layer: ConeLayer | None = None


def _rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def _symmetric(layer: ConeLayer) -> Callable[..., Tensor]:
    """Of the entries of a matrix that is made symmetric on the way, so that every direction is one of its space."""
    return lambda M, *others: layer((M + M.mT) / 2, *others)[0].flatten()


def _lp() -> Family:
    x, c, b = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(c @ x), [x >= b, x <= b + 1, cp.sum(x) == cp.sum(b) + 0.8]), [c, b], [x])
    return Family(lambda *t: layer(*t)[0], lambda: [_rand(3), _rand(3)], layer)


def _qp() -> Family:
    x, A, b = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4)
    objective = cp.sum_squares(A @ x - b) + 0.1 * cp.sum_squares(x)
    layer = ConeLayer(cp.Problem(cp.Minimize(objective), [x >= 0, cp.sum(x) <= 0.7]), [A, b], [x])
    return Family(lambda *t: layer(*t)[0], lambda: [_rand(4, 3), _rand(4)], layer)


def _soc() -> Family:
    x, c, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r]), [c, r], [x])
    return Family(lambda *t: layer(*t)[0], lambda: [2 + _rand(3), 0.5 + torch.rand((), dtype=DOUBLE)], layer)


def _sdp() -> Family:
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.trace(X) <= 3]), [C], [X])
    return Family(_symmetric(layer), lambda: [2 * _rand(3, 3)], layer)


def _exp() -> Family:
    x, c = cp.Variable(3), cp.Parameter(3)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.log_sum_exp(x) + c @ x + cp.sum_squares(x))), [c], [x])
    return Family(lambda *t: layer(*t)[0], lambda: [_rand(3)], layer)


def _power() -> Family:
    x, c = cp.Variable(2), cp.Parameter(2)
    objective = cp.sum(cp.power(x, 2.6)) + cp.sum_squares(x - c)
    layer = ConeLayer(cp.Problem(cp.Minimize(objective)), [c], [x])
    return Family(lambda *t: layer(*t)[0], lambda: [1 + torch.rand(2, dtype=DOUBLE)], layer)


def _gp() -> Family:
    x, y, a = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(x + a * y), [x * y >= 2.0, x >= 0.5]), [a], [x], gp=True)
    return Family(lambda *t: layer(*t)[0][None], lambda: [1 + torch.rand((), dtype=DOUBLE)], layer)


def _dual() -> Family:
    x, b = cp.Variable(3), cp.Parameter(3)
    constraint = cp.norm(x) <= 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [constraint])
    layer = ConeLayer(problem, [b], [constraint.dual_variables[0]])
    return Family(lambda *t: layer(*t)[0].flatten(), lambda: [2 + torch.rand(3, dtype=DOUBLE)], layer)


def _conic() -> Family:
    cones = Cones(zero=1, nonneg=2, soc=(3,))

    def function(L: Tensor, q: Tensor, A: Tensor, b: Tensor) -> Tensor:
        P = L @ L.mT + torch.eye(3, dtype=DOUBLE)
        solution = solve_cone_program(P, q, A, b, cones)
        return torch.cat([solution.x, solution.y, solution.s], dim=-1)

    def draw() -> list[Tensor]:
        b = torch.tensor([0.3, 1.0, 1.0, 1.5, 0.0, 0.0], dtype=DOUBLE) + 0.1 * _rand(6)
        return [_rand(3, 3), 3 * _rand(3), _rand(6, 3), b]

    return Family(function, draw)


FAMILIES = {
    "lp": _lp, "qp": _qp, "soc": _soc, "sdp": _sdp, "exp": _exp, "power": _power, "gp": _gp, "dual": _dual, "conic": _conic,
}  # fmt: skip
CURVED = ("soc", "sdp", "exp", "power", "gp", "dual", "conic")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    torch.manual_seed(3)
    return FAMILIES[request.param]()


def _close(got: object, expected: object, atol: float = 1e-9) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=atol)


def _plain_jacobian(family: Family, values: list[Tensor]) -> tuple[Tensor, ...]:
    """By the plain call, an output at a time."""
    leaves = [v.clone().requires_grad_() for v in values]
    rows = [torch.autograd.grad(out, leaves, retain_graph=True) for out in family.function(*leaves)]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def test_grad_vjp_jvp_jacobians(family: Family) -> None:
    values = family.draw()
    everything = tuple(range(len(values)))
    expected = _plain_jacobian(family, values)
    assert max(float(j.abs().max()) for j in expected) > 1e-3
    _close(jacrev(family.function, everything)(*values), expected)
    _close(jacfwd(family.function, everything)(*values), expected)
    tangents = [torch.randn_like(v) for v in values]
    out, moved = jvp(family.function, tuple(values), tuple(tangents))
    size = out.numel()
    contracted = sum(j.reshape(size, -1) @ t.reshape(-1) for j, t in zip(expected, tangents, strict=True))
    _close(moved, contracted)
    cotangent = torch.randn_like(out)
    _, pull = vjp(family.function, *values)
    _close(pull(cotangent), tuple(torch.tensordot(cotangent, j, 1) for j in expected))
    weighted = lambda *t: (family.function(*t) * cotangent).sum()  # noqa: E731
    _close(grad(weighted, everything)(*values), pull(cotangent))


def test_forward_mode_and_second_derivatives(family: Family) -> None:
    values = [v.clone().requires_grad_() for v in family.draw()]
    torch.autograd.gradcheck(family.function, values, check_forward_ad=True, atol=1e-5)
    torch.autograd.gradgradcheck(family.function, values, check_fwd_over_rev=True, check_rev_over_rev=True, atol=1e-4)


def test_hessian_by_all_orders_of_modes(family: Family) -> None:
    values = family.draw()
    loss = lambda t: (family.function(t, *values[1:]) ** 2).sum()  # noqa: E731
    expected = jacrev(jacrev(loss))(values[0])
    _close(hessian(loss)(values[0]), expected, 1e-8)
    _close(jacrev(jacfwd(loss))(values[0]), expected, 1e-8)
    _close(jacfwd(jacfwd(loss))(values[0]), expected, 1e-8)
    step, direction = 1e-5, torch.randn_like(values[0])
    ahead, behind = (grad(loss)(values[0] + sign * step * direction) for sign in (1, -1))
    product = torch.tensordot(expected, direction, direction.dim())
    torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


def test_vmap_in_every_composition(family: Family) -> None:
    draws = [family.draw() for _ in range(4)]
    stacked = [torch.stack(v) for v in zip(*draws, strict=True)]
    singles = torch.stack([family.function(*d) for d in draws])
    _close(vmap(family.function)(*stacked), singles)
    # The last axis, one shared argument, and two levels.
    last = [v.movedim(0, -1) for v in stacked]
    _close(vmap(family.function, in_dims=-1)(*last), singles)
    shared = (0, *(None,) * (len(stacked) - 1))
    _close(
        vmap(family.function, in_dims=shared)(stacked[0], *draws[0][1:]),
        torch.stack([family.function(d[0], *draws[0][1:]) for d in draws]),
    )
    nested = vmap(vmap(family.function))(*[v.reshape(2, 2, *v.shape[1:]) for v in stacked])
    _close(nested.reshape(singles.shape), singles)
    loss = lambda *t: (family.function(*t) ** 2).sum()  # noqa: E731
    _close(vmap(grad(loss))(*stacked), torch.stack([grad(loss)(*d) for d in draws]))
    _close(vmap(jacrev(family.function))(*stacked), torch.stack([jacrev(family.function)(*d) for d in draws]))
    _close(vmap(hessian(loss))(*stacked), torch.stack([hessian(loss)(*d) for d in draws]), 1e-7)
    _close(jacrev(lambda *t: vmap(loss)(*t).sum())(*stacked), vmap(grad(loss))(*stacked))


@pytest.mark.parametrize("name", FAMILIES)
def test_third_derivatives_exist_or_are_refused(name: str) -> None:
    torch.manual_seed(3)
    family = FAMILIES[name]()
    values = family.draw()
    loss = lambda t: (family.function(t, *values[1:]) ** 3).sum()  # noqa: E731
    third = jacrev(jacrev(jacrev(loss)))
    if name in CURVED:
        with pytest.raises(NotImplementedError, match="third derivatives"):
            third(values[0])
        return
    got, step, direction = third(values[0]), 1e-4, torch.randn_like(values[0])
    ahead, behind = (hessian(loss)(values[0] + sign * step * direction) for sign in (1, -1))
    torch.testing.assert_close(
        torch.tensordot(got, direction, direction.dim()), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-4
    )


def test_vmap_is_one_batch_and_a_jacobian_one_factorization(monkeypatch: pytest.MonkeyPatch) -> None:
    family = _qp()
    assert family.layer is not None
    engine, calls = family.layer.engine, []
    inner = type(engine).solve_flat
    monkeypatch.setattr(
        type(engine), "solve_flat", lambda self, theta, **o: calls.append(len(theta)) or inner(self, theta, **o)
    )
    remade = []
    linearize = type(engine).linearize
    monkeypatch.setattr(type(engine), "linearize", lambda self, *a: remade.append(a) or linearize(self, *a))
    draws = [family.draw() for _ in range(6)]
    vmap(jacrev(family.function))(*[torch.stack(v) for v in zip(*draws, strict=True)])
    assert calls == [6]
    assert not remade


def test_failures_under_vmap_name_the_instance() -> None:
    x, b = cp.Variable(2), cp.Parameter(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1]), [b], [x])
    values = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.5, 0.5]], dtype=DOUBLE)
    with pytest.raises(SolveError, match="batch index 1"):
        vmap(lambda t: layer(t)[0])(values)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "conic"])
def test_the_optimal_value_and_its_gradient(name: str) -> None:
    """By the envelope theorem: right, twice differentiable, and without a linear solve."""
    torch.manual_seed(3)
    family = FAMILIES[name]()
    layer = family.layer
    assert layer is not None
    values = [((v + v.mT) / 2 if name == "sdp" else v).requires_grad_() for v in family.draw()]
    value = layer.value(*values)
    solution = layer.solve(*values)[1]
    torch.testing.assert_close(float(value.detach()), float(solution.value), rtol=1e-12, atol=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "conelayers.derivatives.linearization.Linearization.adjoint",
            lambda *_: pytest.fail("a linear system was solved"),
        )
        gradients = torch.autograd.grad(value, values)
    step = 1e-6
    for k, (v, g) in enumerate(zip(values, gradients, strict=True)):
        direction = torch.randn_like(v)
        direction = (direction + direction.mT) / 2 if name == "sdp" else direction
        moved = [
            layer.value(*[(u + sign * step * direction if i == k else u).detach() for i, u in enumerate(values)])
            for sign in (1, -1)
        ]
        torch.testing.assert_close((g * direction).sum(), (moved[0] - moved[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    if name != "sdp":
        torch.autograd.gradgradcheck(layer.value, values, atol=1e-4)
        _close(vmap(grad(layer.value))(*[torch.stack([v, v]) for v in values])[0], gradients[0].detach(), 1e-9)


def test_jacobian_is_that_of_the_plain_call() -> None:
    torch.manual_seed(0)
    for make in (_qp, _soc, _dual):
        family = make()
        assert family.layer is not None
        values = family.draw()
        blocks = family.layer.jacobian(*values)[0]
        size = family.function(*values).numel()
        for got, expected in zip(blocks, _plain_jacobian(family, values), strict=True):
            _close(got.reshape(size, -1), expected.reshape(size, -1))
        batch = [torch.stack([v, v]) for v in values]
        _close(family.layer.jacobian(*batch)[0][0][1], blocks[0])


def test_parameters_by_name() -> None:
    x, A, b = cp.Variable(3), cp.Parameter((4, 3), name="A"), cp.Parameter(4, name="b")
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b))), [A, b], [x])
    values = _rand(4, 3), _rand(4)
    _close(layer(b=values[1], A=values[0]), layer(*values))
    with pytest.raises(ValueError, match="expected all by position or all by"):
        layer(values[0], b=values[1])
    with pytest.raises(ValueError, match="A, b"):
        layer(A=values[0], c=values[1])


def test_functional_call_and_per_sample_gradients() -> None:
    torch.manual_seed(0)
    family = _qp()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(5, 4, dtype=DOUBLE)
            self.A = torch.nn.Parameter(_rand(4, 3))
            self.layer = family.layer

        def forward(self, u: Tensor) -> Tensor:
            return self.layer(self.A, self.linear(u))[0]

    model, inputs = Model(), _rand(6, 5)
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    loss = lambda p, u: (functional_call(model, p, (u,)) ** 2).sum()  # noqa: E731
    samples = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
    total = grad(loss)(parameters, inputs)
    for name in parameters:
        _close(samples[name].sum(0), total[name])


def test_batched_gradients_of_the_old_kind_are_refused() -> None:
    family = _qp()
    values = [v.requires_grad_() for v in family.draw()]
    out = family.function(*values)
    with pytest.raises(NotImplementedError, match="is_grads_batched"):
        torch.autograd.grad(out, values, torch.eye(3, dtype=DOUBLE), is_grads_batched=True)


@pytest.mark.parametrize("name", ["lp_inequality", "lp_transport", "qp_unconstrained"])
def test_transformations_warn_no_more_than_the_plain_call(name: str) -> None:
    """Redundant constraints that no parameter and no output feels, and programs without rows."""
    case = ZOO[name]()
    layer = ConeLayer(case.problem, parameters=case.parameters, variables=case.variables)
    values = [torch.tensor(np.asarray(v), dtype=DOUBLE) for v in case.draw(np.random.default_rng(0))]
    loss = lambda *t: sum((o**2).sum() for o in layer(*t))  # noqa: E731
    everything = tuple(range(len(values)))
    leaves = [v.clone().requires_grad_() for v in values]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    _close(grad(loss, everything)(*values), expected)
    _close([g[1] for g in vmap(grad(loss, everything))(*[torch.stack([v, v]) for v in values])], list(expected))
    jvp(loss, tuple(values), tuple(torch.ones_like(v) for v in values))
