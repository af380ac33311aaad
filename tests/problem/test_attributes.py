"""Values that miss the attribute of their parameter by rounding are moved onto it; what misses it by more is refused."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from attribute_cases import CASES, SEED, right_answer

from conelayers import Layer
from conelayers.problem.attributes import moved_onto
from conelayers.problem.expressions import NumpyArithmetic
from conelayers.torch import ConeLayer
from conelayers.torch.arithmetic import TorchArithmetic

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

SLIPS = [1e-12, 1e-10, 3e-10]


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("name", CASES)
def test_a_slip_changes_neither_solution_nor_gradient(name: str, slip: float) -> None:
    """−1e−12 in the place of a nonnegative weight made problems unbounded: NumPy, torch, and torch.func, in a batch and alone."""
    case = CASES[name]()
    value, gradient = right_answer(case)
    wrong = case.slipped(slip)
    layer = Layer(case.problem, [case.parameter], [case.variable], singular="least_squares")
    for given in (wrong, np.stack([wrong, case.right, wrong])):
        solution = layer.solve(given)
        batched = given.ndim > wrong.ndim
        np.testing.assert_allclose(solution.variables[0], np.stack([value] * 3) if batched else value, atol=1e-9)
        (found,) = solution.vjp(np.stack([SEED] * 3) if batched else SEED)
        np.testing.assert_allclose(found, np.stack([gradient] * 3) if batched else gradient, rtol=1e-6, atol=1e-7)
    module = ConeLayer(case.problem, [case.parameter], [case.variable], singular="least_squares")
    seed = torch.tensor(SEED)
    tensor = torch.tensor(wrong, requires_grad=True)
    (x,) = module(tensor)
    x.backward(seed)
    composed, pull = torch.func.vjp(lambda t: module(t)[0], torch.tensor(wrong))
    for found_x, found_g in ((x.detach(), tensor.grad), (composed, pull(seed)[0])):
        np.testing.assert_allclose(found_x.numpy(), value, atol=1e-9)
        np.testing.assert_allclose(found_g.numpy(), gradient, rtol=1e-6, atol=1e-7)
    stacked = torch.stack([torch.tensor(wrong), torch.tensor(case.right)])
    mapped = torch.func.vmap(lambda t: module(t)[0])(stacked)
    np.testing.assert_allclose(mapped.numpy(), np.stack([value] * 2), atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_more_than_a_slip_is_refused(name: str) -> None:
    """Also where it comes in one instance of a batch, whose others need nothing."""
    case = CASES[name]()
    layer = Layer(case.problem, [case.parameter], [case.variable])
    module = ConeLayer(case.problem, [case.parameter], [case.variable])
    wrong = case.slipped(0.2)
    for refused in (
        lambda: layer.solve(np.stack([case.right, wrong])),
        lambda: module(torch.tensor(np.stack([case.right, wrong]))),
        lambda: torch.func.vmap(lambda t: module(t)[0])(torch.tensor(np.stack([case.right, wrong]))),
    ):
        with pytest.raises(ValueError, match=r"at batch index 1: (was declared|got NaN)"):
            refused()


def test_second_derivatives_pass_through() -> None:
    """x = max(a, 0) − ½w at the projected w: the Hessian is that of the program there."""
    x, a, w = cp.Variable(), cp.Parameter(), cp.Parameter(nonneg=True)
    module = ConeLayer(cp.Problem(cp.Minimize(cp.square(x - a) * 1.0 + w * cp.square(x))), [a, w], [x])

    def solution(t: torch.Tensor) -> torch.Tensor:  # a/(1 + w)
        return module(t[0], t[1])[0]

    slipped, exact = (torch.tensor([2.0, w], dtype=torch.float64) for w in (-1e-10, 0.0))
    for derivative in (
        torch.func.jacrev(torch.func.jacrev(solution)),
        torch.func.jacfwd(torch.func.jacrev(solution)),
        torch.func.jacrev(solution),
        torch.func.jacfwd(solution),
    ):
        torch.testing.assert_close(derivative(slipped), derivative(exact), rtol=0, atol=1e-12)
    t = slipped.clone().requires_grad_()
    (g,) = torch.autograd.grad(solution(t), t, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(g[1], t)[0], torch.tensor([-1.0, 4.0], dtype=torch.float64))


def test_structure_is_kept() -> None:
    """A symmetric matrix's gradient stays symmetric, a diagonal one's diagonal, and rounding outside of the structure is nothing."""
    rng = np.random.default_rng(0)
    X = cp.Variable((3, 3), symmetric=True)
    for attributes, value in (
        ({"PSD": True}, np.ones((3, 3))),
        ({"symmetric": True}, rng.standard_normal((3, 3))),
        ({"diag": True}, np.diag([1.0, 2.0, 0.0])),
    ):
        S = cp.Parameter((3, 3), **attributes)
        layer = Layer(
            cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [cp.trace(X) <= 9]), [S], [X], singular="least_squares"
        )
        value = (value + value.T) / 2
        slipped = value + 1e-10 * rng.standard_normal((3, 3))
        solution, exact = layer.solve(slipped), layer.solve(value)
        np.testing.assert_allclose(solution.variables[0], exact.variables[0], atol=1e-8)
        (g,) = solution.vjp(np.eye(3))
        np.testing.assert_allclose(g, g.T, atol=1e-12)
        if "diag" in attributes:
            np.testing.assert_array_equal(g - np.diag(np.diag(g)), 0)


def test_complex_structure_is_kept() -> None:
    rng = np.random.default_rng(1)
    for attributes in ({"hermitian": True}, {"imag": True}):
        H = cp.Parameter((2, 2), **attributes)
        Z = cp.Variable((2, 2), complex=True)
        layer = Layer(
            cp.Problem(cp.Minimize(cp.sum_squares(cp.real(Z - H)) + cp.sum_squares(cp.imag(Z - H)))), [H], [Z]
        )
        M = rng.standard_normal((2, 2)) + 1j * rng.standard_normal((2, 2))
        value = (M + M.conj().T) / 2 if "hermitian" in attributes else 1j * M.imag
        slipped = value + 1e-10 * (rng.standard_normal((2, 2)) + 1j)
        np.testing.assert_allclose(layer.solve(slipped).variables[0], layer.solve(value).variables[0], atol=1e-9)


def test_without_validation_nothing_is_moved() -> None:
    x, w = cp.Variable(2), cp.Parameter(2, bounds=[0, 1])
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - w))), [w], [x], validate=False)
    np.testing.assert_allclose(layer.solve(np.array([-1e-3, 2.0])).variables[0], [-1e-3, 2.0], atol=1e-12)


@pytest.mark.parametrize("xp", [NumpyArithmetic(), TorchArithmetic()], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("attributes", "bounds", "value", "expected"),
    [
        ({"nonneg"}, None, [[-1e-12, 2.0, np.inf], [-1.0, 2.0, -1e-12]], [[0.0, 2.0, np.inf], [-1.0, 2.0, -1e-12]]),
        ({"nonpos"}, None, [[1e-12, -2.0, -np.inf]], [[0.0, -2.0, -np.inf]]),
        ({"boolean"}, None, [[1 + 1e-10, -1e-10, 1.0], [0.5, 1e-10, 0.0]], [[1.0, 0.0, 1.0], [0.5, 1e-10, 0.0]]),
        ({"integer"}, None, [[3 - 1e-8, -np.inf, -2.0]], [[3.0, -np.inf, -2.0]]),
        (set(), (0.0, np.array([1.0, np.inf, 2.0])), [[-1e-7, np.inf, 2 + 1e-7]], [[0.0, np.inf, 2.0]]),
        (set(), (-1.0, 1.0), [[-1 - 1e-7, 0.5, 1.1]], [[-1 - 1e-7, 0.5, 1.1]]),
        ({"nonneg"}, (0.0, 1.0), [[-1e-10, 1 + 1e-10, 0.5]], [[0.0, 1.0, 0.5]]),
        ({"pos"}, None, [[1e-12, 1.0, 2.0]], [[1e-12, 1.0, 2.0]]),
    ],
)
def test_moved_values(xp: Any, attributes: set[str], bounds: Any, value: list[Any], expected: list[Any]) -> None:
    """Exactly onto the attribute, infinite bounds as they are, and an instance beyond the slack untouched in all of its entries."""
    given: Any = np.array(value) if isinstance(xp, NumpyArithmetic) else torch.tensor(value, dtype=torch.float64)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.asarray(moved_onto(xp, given, attributes, bounds)), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_moved_matrices(sign: float) -> None:
    rng = np.random.default_rng(0)
    F = rng.standard_normal((5, 4, 2))
    G = F @ np.swapaxes(F, 1, 2)
    name = {"PSD" if sign > 0 else "NSD"}
    xp = NumpyArithmetic()
    np.testing.assert_array_equal(
        moved_onto(xp, sign * G, name, None), sign * G
    )  # rounding of the eigenvalues is left alone
    slipped = G - 1e-10 * np.eye(4)
    moved = sign * moved_onto(xp, sign * slipped, name, None)
    assert np.linalg.eigvalsh(moved).min() > -1e-14
    np.testing.assert_allclose(moved, G, atol=3e-10)
    np.testing.assert_array_equal(moved_onto(xp, sign * (G - np.eye(4)), name, None), sign * (G - np.eye(4)))
