"""Monotone equilibrium networks: operators, splitting, gradients, certificates, transformations, errors."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, stack_module_state, vmap

from conelayers.derivatives.certificate import Verdict
from conelayers.equilibrium import (
    CircularConvolution,
    DenseOperator,
    EquilibriumLayer,
    MonotoneOperator,
    PeacemanRachford,
    monotone_convolution,
    monotone_linear,
)
from conelayers.implicit import ConvergenceError, Dense, LinearSolveError

# torch.func's forward mode loads a script when first used, in torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def dense(scale: float = 1.0, m: float = 0.5) -> EquilibriumLayer:
    layer = monotone_linear(3, 6, m)
    return grown(layer, scale)


def convolutional(scale: float = 1.0, m: float = 0.5) -> EquilibriumLayer:
    layer = monotone_convolution(2, 3, (4, 5), m=m)
    return grown(layer, scale)


def grown(layer: EquilibriumLayer, scale: float) -> EquilibriumLayer:
    with torch.no_grad():
        for weights in layer.operator.parameters():
            weights *= scale
    return layer


def inputs(layer: EquilibriumLayer, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3) if isinstance(layer.operator, DenseOperator) else torch.randn(count, 2, 4, 5)


def matrix(apply, shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of a linear map on tensors of this shape."""
    n = int(np.prod(shape))
    return apply(torch.eye(n).reshape(n, *shape)).detach().reshape(n, n).T


LAYERS = pytest.mark.parametrize("make", [dense, convolutional])


def test_circular_convolution_is_what_convolutions_with_periodic_boundaries_make() -> None:
    operator = CircularConvolution(3, (4, 5), m=0.3)

    def convolve(weights):
        def apply(z):
            # A kernel centred on its middle; cross-correlation with the flipped kernel is convolution.
            padded = torch.nn.functional.pad(z, (1, 1, 1, 1), mode="circular")
            return torch.nn.functional.conv2d(padded, weights.flip(-1, -2))

        return matrix(apply, operator.shape)

    A, B = convolve(operator.A), convolve(operator.B)
    W = 0.7 * torch.eye(60) - A.T @ A + B - B.T
    torch.testing.assert_close(matrix(operator, operator.shape), W)


@LAYERS
def test_prepared_maps_and_resolvents_are_those_of_the_matrix(make) -> None:
    operator = make(3.0).operator
    W, n = matrix(operator, operator.shape), int(np.prod(operator.shape))
    resolvent = torch.linalg.inv(torch.eye(n) + 0.7 * (torch.eye(n) - W))
    torch.testing.assert_close(matrix(operator.prepared(), operator.shape), W)
    torch.testing.assert_close(matrix(operator.prepared(transposed=True), operator.shape), W.T)
    torch.testing.assert_close(matrix(operator.resolvent(0.7), operator.shape), resolvent)
    torch.testing.assert_close(matrix(operator.resolvent(0.7, transposed=True), operator.shape), resolvent.T)
    smallest, size = operator.constants()
    symmetric = torch.eye(n) - (W + W.T) / 2
    assert smallest == pytest.approx(float(torch.linalg.eigvalsh(symmetric)[0]), rel=1e-9)
    assert size == pytest.approx(float(torch.linalg.matrix_norm(torch.eye(n) - W, 2)), rel=1e-9)
    assert smallest >= operator.m - 1e-12


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_solution_is_the_one_that_enumeration_of_active_sets_finds(scale: float) -> None:
    layer = dense(scale)
    W, u = layer.operator.matrix().detach(), torch.randn(5, 6)
    found = layer.solver.solve(layer.operator, u)
    other = layer.solver.solve(layer.operator, u, 10 * torch.rand(5, 6))
    torch.testing.assert_close(found.z, other.z, rtol=1e-8, atol=1e-9)
    for z, b in zip(found.z, u, strict=True):
        solutions = []
        for active in itertools.product([False, True], repeat=6):
            D = torch.diag(torch.tensor(active, dtype=b.dtype))
            candidate = torch.linalg.solve(torch.eye(6) - D @ W, D @ b)
            if torch.allclose(torch.relu(W @ candidate + b), candidate, atol=1e-10):
                solutions.append(candidate)
        assert len(solutions) == 1
        torch.testing.assert_close(z, solutions[0], rtol=1e-8, atol=1e-9)


@LAYERS
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_gradients_are_those_of_unrolling(make, scale: float) -> None:
    layer = make(scale)
    x, weights = inputs(layer).requires_grad_(), torch.randn(4, *layer.operator.shape)
    step = 0.5 / layer.operator.constants()[1] ** 2  # m/L²: forward–backward contracts by √(1 − m²/L²)
    wanted = [x, *layer.parameters()]

    z = torch.zeros_like(weights)
    for _ in range(int(100 / step)):
        z = torch.relu(z + step * (layer.operator(z) + layer.inject(x) - z))
    unrolled = torch.autograd.grad((weights * z).sum(), wanted)
    ours = torch.autograd.grad((weights * layer(x)).sum(), wanted)
    for a, b in zip(ours, unrolled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "make",
    [lambda m: DenseOperator(5, m=m), lambda m: DenseOperator(30, m=m), lambda m: CircularConvolution(2, (3, 4), m=m)],
)
@pytest.mark.parametrize(("m", "scale"), [(0.1, 10.0), (0.1, 300.0), (1e-3, 100.0)])
@pytest.mark.parametrize("symmetric", [0.0, 1.0])
def test_equilibria_are_found_however_skew_the_operator_is(make, m: float, scale: float, symmetric: float) -> None:
    # Splitting's rate falls to one there: all of ten DenseOperator(5, m=0.1) with A = 0 and B × 10 raised ConvergenceError.
    for seed in range(5):
        torch.manual_seed(seed)
        operator = make(m)
        with torch.no_grad():
            operator.A *= symmetric
            operator.B *= scale
        layer, n = EquilibriumLayer(operator, torch.nn.Identity()), int(np.prod(operator.shape))
        W = matrix(operator, operator.shape)
        u = torch.randn(3, *operator.shape)
        u[2] = (z := torch.relu(u[2])) - operator(z[None])[0].detach()  # an equilibrium at kinks
        u.requires_grad_()
        z = layer(u)
        flat = z.detach().flatten(1)
        gap = flat - torch.relu(flat @ W.T + u.detach().flatten(1))
        assert float((gap.norm(dim=1) / (1 + flat.norm(dim=1))).max()) < 1e-9
        torch.testing.assert_close(z[2], torch.relu(z[2]), rtol=0, atol=0)
        w = torch.randn_like(z)
        (gradient,) = torch.autograd.grad((w * z).sum(), u)
        D = torch.diag_embed((flat > 0).to(flat.dtype))
        exact = (D @ torch.linalg.solve(torch.eye(n) - W.T @ D, w.flatten(1)[..., None]))[..., 0]
        torch.testing.assert_close(gradient.flatten(1), exact, rtol=1e-6, atol=1e-8 * float(exact.abs().max()))
        assert layer.certify(u.detach()).verdict.justified


def test_a_limit_of_ones_own_ends_the_search() -> None:
    operator = DenseOperator(5, m=0.1)
    with torch.no_grad():
        operator.A.zero_()
        operator.B *= 10
    u = torch.randn(2, 5)
    EquilibriumLayer(operator, torch.nn.Identity())(u)
    with pytest.raises(ConvergenceError, match="larger max_iter, or none"):
        EquilibriumLayer(operator, torch.nn.Identity(), PeacemanRachford(max_iter=20))(u)


def kept(layer: EquilibriumLayer, x: torch.Tensor) -> int:
    sizes = {}

    def pack(tensor):
        sizes[tensor.data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(size for _, size in sizes.values())


@LAYERS
def test_memory_does_not_depend_on_the_number_of_iterations(make) -> None:
    layer = make(3.0)
    x, depths, bytes_kept = inputs(layer), [], set()
    for tol in (1e-1, 1e-4, 1e-11):
        layer.solver = PeacemanRachford(tol=tol)
        depths.append(layer.solver.solve(layer.operator, layer.inject(x).detach()).iterations)
        bytes_kept.add(kept(layer, x))
    assert depths[0] < depths[1] < depths[2]
    assert len(bytes_kept) == 1


def test_every_clarke_element_is_invertible_with_inverses_bounded_by_monotonicity() -> None:
    """‖(I − DW)⁻¹D‖ ≤ 1/m, at the vertices of the box of all D and inside of it."""
    for scale in (0.3, 3.0, 30.0):
        W = dense(scale).operator.matrix().detach()
        vertices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
        for diagonal in torch.cat([vertices, torch.rand(200, 6)]):
            D = torch.diag(diagonal)
            assert float(torch.linalg.matrix_norm(torch.linalg.solve(torch.eye(6) - D @ W, D), 2)) <= 2.0 + 1e-9


@LAYERS
def test_a_generic_point_is_classical_and_a_planted_kink_certified(make) -> None:
    layer = make()
    certificate = layer.certify(inputs(layer))
    assert certificate.verdict is Verdict.CLASSICAL
    assert certificate.monotonicity == pytest.approx(0.5, abs=0.5)
    assert float(certificate.error_bound.max()) < 1e-7
    assert "classical" in str(certificate)

    z = torch.relu(torch.randn(1, *layer.operator.shape))
    u = (z - layer.operator(z)).detach()  # W z + u = z, so that every zero of z is a kink
    planted = EquilibriumLayer(layer.operator, torch.nn.Identity())
    torch.testing.assert_close(planted(u), z, rtol=1e-9, atol=1e-9)
    assert planted.certify(u).verdict is Verdict.CERTIFIED


class Expansive(MonotoneOperator):
    """W = 3I, which no equilibrium has to have: z = max(3z + u, 0) has none for u > 0."""

    def forward(self, z):
        return 3 * z

    def prepared(self, *, transposed=False):
        return lambda h: 3 * h

    def resolvent(self, alpha, *, transposed=False):
        return lambda h: h / (1 - 2 * alpha)

    def constants(self):
        return -2.0, 2.0


def test_an_operator_that_is_not_monotone_is_uncertified_and_fails_loudly() -> None:
    layer = EquilibriumLayer(Expansive((2,), 0.5), torch.nn.Identity(), PeacemanRachford(max_iter=50))
    u = torch.ones(3, 2)
    assert layer.certify(u).verdict is Verdict.UNCERTIFIED
    with pytest.raises(ConvergenceError, match=r"at batch index 0, 1, 2: .* larger max_iter"):
        layer(u)


def test_the_instances_that_did_not_arrive_are_named() -> None:
    layer = dense(5.0)
    x = torch.randn(3, 3)
    with torch.no_grad():
        layer.inject.bias.zero_()
    x[1] = 0  # z = 0 at once
    layer.solver = PeacemanRachford(max_iter=3)
    with pytest.raises(ConvergenceError) as raised:
        layer(x)
    assert raised.value.indices == (0, 2)


def test_a_gradient_that_does_not_arrive_is_an_error() -> None:
    layer = dense(5.0)
    z = layer(torch.randn(3, 3))
    layer.solver = PeacemanRachford(max_iter=3)
    with pytest.raises(LinearSolveError, match=r"EquilibriumLayer: .* larger max_iter"):
        z.sum().backward()


@LAYERS
def test_transformations(make) -> None:
    layer = make()
    x = inputs(layer)
    parameters = dict(layer.named_parameters())
    jacobian = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(jacrev(layer)(x), jacobian, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(jacfwd(layer)(x), jacobian, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(vmap(lambda a: layer(a[None])[0])(x), layer(x), rtol=1e-8, atol=1e-9)

    def loss(p, a):
        return (functional_call(layer, p, (a,)) ** 2).sum()

    (layer(x) ** 2).sum().backward()
    each = vmap(grad(loss), (None, 0))(parameters, x[:, None])
    for name, parameter in parameters.items():
        torch.testing.assert_close(grad(loss)(parameters, x)[name], parameter.grad, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-7, atol=1e-8)


@LAYERS
def test_an_ensemble_under_vmap(make) -> None:
    layers = [make() for _ in range(3)]
    x = inputs(layers[0])
    stacked, _ = stack_module_state(layers)
    together = vmap(lambda p: functional_call(layers[0], p, (x,)))(stacked)
    torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]), rtol=1e-8, atol=1e-9)


def test_second_derivatives_and_forward_mode_with_a_linear_solver() -> None:
    layer = dense()
    layer.linear = Dense()
    x = torch.randn(2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: layer(a).tanh(), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda a: layer(a).tanh(), x)
    second = hessian(lambda a: layer(a).pow(2).sum())(x.detach())
    torch.testing.assert_close(second.reshape(6, 6), second.reshape(6, 6).T)


def test_single_precision_and_empty_batches() -> None:
    layer = dense()
    x = torch.randn(4, 3)
    exact = layer(x).detach()
    layer = layer.float()
    z = layer(x.float())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.double(), exact, rtol=1e-4, atol=1e-5)
    z.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters())
    empty = torch.zeros(0, 3, dtype=torch.float32, requires_grad=True)
    assert layer(empty).shape == (0, 6)
    layer(empty).sum().backward()
    assert empty.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: monotone_linear(3, 6, m=0.0), "m: got 0.0, expected a number in"),
        (lambda: monotone_convolution(1, 2, (4, 4), kernel=2), "kernel: got 2, expected an odd number"),
        (lambda: monotone_convolution(1, 2, (4, 4), kernel=5), "kernel: got 5, expected an odd number of at most 4"),
        (lambda: PeacemanRachford(alpha=-1.0), "alpha: got -1.0, expected a positive number"),
        (lambda: PeacemanRachford(tol=2.0), "tol: got 2.0, expected a number between 0 and 1"),
        (lambda: PeacemanRachford(max_iter=0), "max_iter: got 0, expected a positive integer"),
        (
            lambda: EquilibriumLayer(DenseOperator(6), torch.nn.Linear(3, 5))(torch.randn(2, 3)),
            r"inject: got an output of shape \(5,\) for each instance, expected \(6,\)",
        ),
        (
            lambda: EquilibriumLayer(DenseOperator(6), torch.nn.Identity())(torch.full((2, 6), torch.nan)),
            "at batch index 0, 1",
        ),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises((ValueError, ConvergenceError), match=message):
        make()


def test_digits_are_read(monkeypatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "examples"), *sys.path])
    import equilibrium_network as example

    torch.manual_seed(0)
    assert example.train(example.connected(), example.digits(), 12)[-1] >= 0.97
