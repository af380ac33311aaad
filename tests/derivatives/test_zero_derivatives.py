"""Gradients that are zero in every parameter are told of, once a layer: at vertices, and where a smoothing moves nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from zero_derivative_cases import COSTS, SEED, simplex, told, with_total

from conelayers import LPGD, ConelayersWarning, Layer, ProximalSmoothing, ZeroDerivativeWarning
from conelayers.torch import ConeLayer


def torch_gradient(layer: ConeLayer, costs: np.ndarray, mean: bool = False) -> torch.Tensor:
    c = torch.tensor(costs, requires_grad=True)
    loss = layer(c)[0] @ torch.tensor(SEED)
    (loss.mean() if mean else loss.sum()).backward()
    assert c.grad is not None
    return c.grad


def test_it_is_a_warning_of_the_package() -> None:
    assert issubclass(ZeroDerivativeWarning, ConelayersWarning)


def test_once_a_layer() -> None:
    seed = torch.tensor(SEED)
    for _ in range(2):
        layer = Layer(*simplex())
        (message,) = told(lambda layer=layer: [layer.solve(COSTS).vjp(SEED) for _ in range(3)])
        assert "smoothing=" in message
        assert "LPGD" in message
        module = ConeLayer(*simplex())
        assert len(told(lambda module=module: [torch_gradient(module, COSTS) for _ in range(3)])) == 1
        composed = ConeLayer(*simplex())
        gradient = torch.func.grad(lambda c, layer=composed: layer(c)[0] @ seed)
        assert len(told(lambda g=gradient: [g(torch.tensor(COSTS)) for _ in range(3)])) == 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("kind", range(4))
def test_vertices_of_all_kinds(kind: int, scale: float) -> None:
    """Whose gradients are zero up to rounding."""
    rng = np.random.default_rng(kind)
    for n, m in ((3, 2), (12, 20), (30, 8)):
        x, c, A = cp.Variable(n), cp.Parameter(n), rng.standard_normal((m, n))
        constraints = {
            0: [A @ x <= np.abs(A).sum(axis=1) / 2, x >= 0, x <= 10],
            1: [A[: n // 3] @ x == A[: n // 3] @ np.full(n, 0.3), x >= 0, x <= 1],
            2: [cp.sum(x) == 1, x >= 0, A @ x <= np.abs(A).sum(axis=1)],
            3: [cp.norm1(x) <= 1, cp.norm_inf(x) <= 0.7],
        }[kind]
        layer = Layer(cp.Problem(cp.Minimize(c @ x), constraints), [c], [x])
        solution = layer.solve(scale * rng.standard_normal((4, n)))
        assert len(told(lambda s=solution, n=n: s.vjp(rng.standard_normal((4, n))))) == 1


def test_what_is_no_such_gradient() -> None:
    """None asked for, one that is not zero, that of a quadratic program, one that was expected to be zero, and forward mode."""
    problem, parameters, variables = with_total()
    c, _ = parameters
    (x,) = variables
    assert not told(lambda: Layer(*simplex()).solve(COSTS).vjp(0 * SEED))
    assert not told(lambda: Layer(problem, parameters, variables).solve(COSTS, 1.0).vjp(SEED))
    assert not told(lambda: Layer(*simplex(), singular="least_squares").solve(COSTS).vjp(SEED))
    assert not told(lambda: Layer(*simplex()).solve(COSTS).jacobian())
    assert not told(lambda: Layer(*simplex()).solve(COSTS).jvp(SEED))
    weight = cp.Parameter(nonneg=True)
    quadratic = Layer(
        cp.Problem(cp.Minimize(c @ x + weight * cp.sum_squares(x)), [cp.sum(x) == 1, x >= 0]), [c, weight], [x]
    )
    assert not told(lambda: quadratic.solve(COSTS, 1.0).vjp(SEED))
    assert not told(lambda: quadratic.solve(10 * COSTS, 0.1).vjp(SEED)), "at a vertex, but with a quadratic objective"
    assert not told(lambda: torch_gradient(ConeLayer(*simplex(), singular="least_squares"), COSTS))


def test_of_the_parameters_that_were_asked_for() -> None:
    """A loss's gradient in the costs is all that such a layer is used for, though there is one in the total."""
    problem, parameters, variables = with_total()
    solution = Layer(problem, parameters, variables).solve(COSTS, 1.0)
    assert len(told(lambda: solution.vjp(SEED, needed=[True, False]))) == 1
    c = torch.tensor(COSTS, requires_grad=True)
    layer = ConeLayer(problem, parameters, variables)
    assert len(told(lambda: layer(c, torch.tensor(1.0))[0][0].backward())) == 1


def test_a_quadratic_term_of_weight_zero_is_none() -> None:
    x, c, weight = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(c @ x + weight * cp.sum_squares(x)), [cp.sum(x) == 1, x >= 0])
    assert len(told(lambda: Layer(problem, [c, weight], [x]).solve(COSTS, 0.0).vjp(SEED, needed=[True, False]))) == 1


def test_ties_are_told_of_as_ties() -> None:
    """There the derivative does not exist, which is another warning's word."""
    layer = Layer(*simplex())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer.solve(np.array([1.0, 1.0, 2.0])).vjp(np.array([1.0, 0.0, 0.0]))
    assert [w.category.__name__ for w in caught] == ["SingularDerivativeWarning"]


@pytest.mark.parametrize("side", ["both", "lower", "upper"])
@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize(("tau", "moves"), [(0.1, False), (20.0, False), (200.0, True)])
def test_a_mean_over_the_batch_shrinks_tau(tau: float, moves: bool, composed: bool, side: str) -> None:
    """The costs differ by 1: τ·SEED/64 has to reach that. Nothing was learned, silently."""
    costs = np.stack([COSTS] * 64)
    made = ConeLayer(*simplex(), smoothing=LPGD(tau=tau, side=side, rho=1e-6))
    if composed:
        seed = torch.tensor(SEED)
        action: Callable[[], Any] = lambda: torch.func.grad(lambda c: (made(c)[0] @ seed).mean())(torch.tensor(costs))  # noqa: E731
    else:
        action = lambda: torch_gradient(made, costs, mean=True)  # noqa: E731
    messages = told(lambda: [action() for _ in range(2)])
    assert len(messages) == (0 if moves and side != "upper" else len(messages))
    if not moves:
        (message,) = messages
        assert f"LPGD(tau={tau}" in message
        assert "mean over a batch of B" in message
        assert not told(lambda: torch_gradient(ConeLayer(*simplex(), smoothing=LPGD(tau=64 * 20.0)), costs, mean=True))


def test_differences_that_are_small_are_no_rounding() -> None:
    """A quadratic program's solution moves with every τ, and a right-hand side's gradient is the multiplier's."""
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + c @ x), [cp.sum(x) == 1])
    for tau in (1e-6, 1e-3, 1.0):
        assert not told(lambda tau=tau: Layer(problem, [c], [x], smoothing=LPGD(tau)).solve(COSTS).vjp(SEED))
        made = Layer(*with_total(), smoothing=LPGD(tau))
        assert not told(lambda made=made: made.solve(COSTS, 1.0).vjp(SEED))


def test_temperatures_that_are_too_low() -> None:
    for temperature, zero in ((1e-3, True), (0.1, True), (10.0, False)):
        layer = Layer(*simplex(), smoothing=ProximalSmoothing(temperature))
        messages = told(lambda layer=layer: [layer.solve(COSTS).vjp(SEED) for _ in range(2)])
        assert len(messages) == zero
        assert all("Make the temperature larger" in message for message in messages)


def test_instances_without_a_solution_say_nothing() -> None:
    x, c, b = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= b])
    layer = Layer(problem, [c, b], [x], on_failure="nan")
    solution = layer.solve(np.stack([COSTS, COSTS]), np.array([0.0, 1.0]))
    g = np.stack([SEED, 0 * SEED])
    assert not told(lambda: solution.vjp(g[::-1], needed=[True, False]))
    assert len(told(lambda: solution.vjp(g, needed=[True, False]))) == 1
