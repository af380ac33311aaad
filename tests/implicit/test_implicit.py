"""Roots and fixed points in PyTorch."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from conelayers import SingularDerivativeWarning
from conelayers.derivatives.certificate import Verdict
from conelayers.implicit import (
    GMRES,
    Anderson,
    BiCGStab,
    ConvergenceError,
    Dense,
    LinearSolveError,
    Newton,
    Picard,
    Separable,
)
from conelayers.implicit.torch import (
    certify_fixed_point,
    certify_root,
    fixed_point,
    root,
)

# torch's own, when its forward-mode rules are loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
Tensor = torch.Tensor
DOUBLE = torch.float64
gradcheck, gradgradcheck = torch.autograd.gradcheck, torch.autograd.gradgradcheck


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=DOUBLE)


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= tolerance


def tanh_layer(W: Tensor, b: Tensor, **options) -> Tensor:
    return fixed_point(lambda z, W, b: torch.tanh(W @ z + b), torch.zeros_like(b), W, b, **options)


def tanh_closure(W: Tensor, b: Tensor, **options) -> Tensor:
    return fixed_point(lambda z: torch.tanh(W @ z + b), torch.zeros_like(b), **options)


def cubic(a: Tensor, **options) -> Tensor:
    """The real root of z³ + z = a, whose derivative is 1/(3z² + 1)."""
    return root(lambda z, a: z**3 + z - a, torch.zeros_like(a), a, **options)


# derivatives


@pytest.mark.parametrize("layer", [tanh_layer, tanh_closure])
def test_both_modes_and_second_derivatives_agree_with_differences(layer):
    W, b = (0.3 * _rand(4, 4)).requires_grad_(), _rand(4).requires_grad_()
    assert gradcheck(layer, (W, b), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(layer, (W, b), fast_mode=True)


def test_a_root_has_the_closed_form_of_its_derivatives():
    a = _rand(5)
    z = cubic(a)
    _close(z**3 + z, a)
    slope = 1 / (3 * z**2 + 1)
    _close(jacrev(cubic)(a), torch.diag(slope))
    _close(jacfwd(cubic)(a), torch.diag(slope))
    _close(hessian(lambda a: cubic(a).sum())(a), torch.diag(-6 * z * slope**3))
    third = vmap(grad(grad(grad(lambda a: cubic(a)))))(a)
    _close(third, (108 * z**2 * slope - 6) * slope**4, 1e-7)


def test_the_transposed_derivative_is_the_transpose():
    W, b = 0.3 * _rand(6, 6), _rand(6)
    tangents, w = (_rand(6, 6), _rand(6)), _rand(6)
    _, forward = jvp(tanh_layer, (W, b), tangents)
    _, pull = vjp(tanh_layer, W, b)
    inner = sum((c * t).sum() for c, t in zip(pull(w), tangents, strict=True))
    _close(w @ forward, inner, 1e-12)


@pytest.mark.parametrize("layer", [tanh_layer, tanh_closure])
def test_transformations_compose_in_any_order(layer):
    W, B = 0.3 * _rand(3, 3), _rand(4, 3)
    loss = lambda b: layer(W, b).sin().sum()  # noqa: E731
    one = torch.stack([grad(loss)(b) for b in B])
    _close(vmap(grad(loss))(B), one)
    _close(grad(lambda B: vmap(loss)(B).sum())(B), one)
    b = B[0]
    wanted = hessian(loss)(b)
    for other in (jacfwd(jacfwd(loss)), jacrev(jacrev(loss)), jacrev(jacfwd(loss))):
        _close(other(b), wanted)
    step = 1e-5 * torch.eye(3, dtype=DOUBLE)
    _close(torch.stack([(grad(loss)(b + h) - grad(loss)(b - h)) / 2e-5 for h in step]), wanted, 1e-7)
    _close(vmap(vmap(layer, (None, 0)), (0, None))(torch.stack([W, -W]), B)[1, 2], layer(-W, B[2]))


@pytest.mark.parametrize("linear", [Dense(), GMRES(restart=4), BiCGStab()])
def test_every_linear_solver_gives_the_same_derivatives_for_a_batch(linear):
    W, B, w = 0.3 * _rand(5, 5), _rand(6, 5), _rand(6, 5)

    def layer(B: Tensor, **options) -> Tensor:
        return fixed_point(lambda z: torch.tanh(z @ W.T + B), _zeros(6, 5), batched=True, **options)

    single = vmap(grad(lambda b, w: tanh_layer(W, b) @ w))(B, w)
    _close(grad(lambda B: (w * layer(B, linear=linear)).sum())(B), single)
    _close(jacfwd(lambda B: layer(B, linear=linear))(B), jacrev(lambda B: layer(B))(B))


def test_a_large_system_is_solved_without_its_matrix():
    n = 400
    W, b = (_rand(n, n) / n**0.5 * 0.5), _rand(n).requires_grad_()
    z = fixed_point(lambda z, b: torch.relu(W @ z + b), _zeros(n), b)
    z.sum().backward()
    D = (W @ z.detach() + b.detach() > 0).to(DOUBLE)
    exact = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - W.T * D, torch.ones(n, dtype=DOUBLE)) * D
    _close(b.grad, exact, 1e-8)


def test_single_precision_stays_single():
    W, b = 0.3 * _rand(4, 4), _rand(4)
    z = tanh_layer(W.float(), b.float())
    assert z.dtype == torch.float32
    got = grad(lambda b: tanh_layer(W.float(), b).sum())(b.float())
    _close(got.double(), grad(lambda b: tanh_layer(W, b).sum())(b), 1e-5)


def test_theta_may_be_nested_and_hold_constants():
    theta = {"W": (0.3 * _rand(3, 3)).requires_grad_(), "power": 2, "b": [_rand(3)]}
    f = lambda z, t: torch.tanh(t["W"] @ z + t["b"][0]) / t["power"]  # noqa: E731
    fixed_point(f, _zeros(3), theta).sum().backward()
    wanted = grad(lambda W: fixed_point(lambda z: torch.tanh(W @ z + theta["b"][0]) / 2, _zeros(3)).sum())
    _close(theta["W"].grad, wanted(theta["W"].detach()))


def test_z_may_be_one_number():
    a = torch.tensor([0.5, 3.0], dtype=DOUBLE)
    one = lambda a: root(lambda z, a: z**3 + z - a, _zeros(), a)  # noqa: E731
    slope = 1 / (3 * one(a[0]) ** 2 + 1)
    _close(hessian(one)(a[0]), -6 * one(a[0]) * slope**3)
    _close(vmap(one)(a), cubic(a))


def test_complex_parameters_get_gradients():
    c = torch.randn(3, dtype=torch.complex128, requires_grad=True)
    assert gradcheck(lambda c: fixed_point(lambda z, c: 0.3 * z.tanh() + c.real * c.imag + c.abs(), _zeros(3), c), (c,))
    fixed_point(lambda z: 0.5 * z + c.imag, _zeros(3)).sum().backward()
    _close(c.grad, torch.full((3,), 2j))


# unknowns that are not one tensor


def _coupled(z: dict, a: Tensor) -> dict:
    x, (y,) = z["x"], z["y"]
    return {"x": x - 0.3 * torch.tanh(y.sum(-1, keepdim=True)) - a, "y": [y - 0.2 * x[..., :2] * a[..., :2]]}


def _joined(z: dict) -> Tensor:
    return torch.cat([z["x"], *z["y"]], -1)


def _coupled_flat(z: Tensor, a: Tensor) -> Tensor:
    return _joined(_coupled({"x": z[..., :3], "y": [z[..., 3:]]}, a))


def test_z_may_be_a_tree_of_tensors():
    A = _rand(4, 3)
    tree = lambda a: _joined(root(_coupled, {"x": _zeros(3), "y": [_zeros(2)]}, a))  # noqa: E731
    flat = lambda a: root(_coupled_flat, _zeros(5), a)  # noqa: E731
    for transformed in (lambda f: f, jacrev, jacfwd, lambda f: hessian(lambda a: f(a).sum())):
        _close(vmap(transformed(tree))(A), vmap(transformed(flat))(A))
    batch = root(_coupled, {"x": _zeros(4, 3), "y": [_zeros(4, 2)]}, A, batched=True)
    _close(_joined(batch), vmap(flat)(A))
    assert [c.verdict for c in certify_root(_coupled, batch, A, smooth=True, batched=True)] == [Verdict.CLASSICAL] * 4
    number, vector = fixed_point(lambda z: (0.5 * z[0] + 1, z[0] * z[1] / 8), (_zeros(), torch.ones(2, dtype=DOUBLE)))
    assert (number.shape, vector.shape) == ((), (2,))


def test_modules_and_solvers_see_the_tree():
    linear, shapes = torch.nn.Linear(3, 3, dtype=DOUBLE), []
    torch.nn.init.normal_(linear.weight, std=0.2)

    def f(z: tuple[Tensor, Tensor], a: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(linear(z[0])) + 0.1 * z[1] + a, 0.2 * z[0]

    def mine(f, z, theta):
        shapes.append(tuple(h.shape for h in z))
        for _ in range(60):
            z = f(z, *theta)
        return z

    layer = lambda a, **options: torch.cat(fixed_point(f, (_zeros(3), _zeros(3)), a, **options))  # noqa: E731
    A = _rand(2, 3)
    _close(vmap(jacrev(lambda a: layer(a, solve=mine)))(A), vmap(jacrev(layer))(A))
    assert shapes == [((2, 3), (2, 3))]
    a = A[0]
    layer(a).sum().backward()
    z = (_zeros(3), _zeros(3))
    for _ in range(60):
        z = f(z, a)
    _close(linear.weight.grad, torch.autograd.grad(sum(h.sum() for h in z), linear.weight)[0])
    pre = lambda z, a: (linear(z[0]) + 5, 0.2 * z[0])  # noqa: E731
    g = lambda z, a: tuple(torch.relu(v) for v in pre(z, a))  # noqa: E731
    certificate = certify_fixed_point(g, fixed_point(g, z, a), a, separable=Separable(pre))
    assert certificate.verdict is Verdict.CLASSICAL
    assert certificate.kinks.shape == (6,)


# what a function closes over


class Equilibrium(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(4, 4, dtype=DOUBLE), torch.nn.Linear(2, 4, dtype=DOUBLE)
        torch.nn.init.normal_(self.inner.weight, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        f = lambda z: torch.relu(self.inner(z) + self.outer(x))  # noqa: E731
        return fixed_point(f, x.new_zeros(*x.shape[:-1], 4), batched=x.ndim > 1)


def _by_hand(module: Equilibrium, x: Tensor) -> dict[str, Tensor]:
    """Gradients of the sum, through 200 unrolled steps."""
    z = x.new_zeros(x.shape[0], 4)
    for _ in range(200):
        z = torch.relu(module.inner(z) + module.outer(x))
    names, values = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(z.sum(), values), strict=True))


def test_parameters_of_a_module_get_the_gradients_of_the_unrolled_iteration():
    module, x = Equilibrium(), _rand(5, 2)
    wanted = _by_hand(module, x)
    module(x).sum().backward()
    for name, p in module.named_parameters():
        _close(p.grad, wanted[name])


def test_functional_call_and_per_sample_gradients_follow_the_parameters_given():
    module, x = Equilibrium(), _rand(5, 2)
    wanted = _by_hand(module, x)
    params = {k: p.detach().clone() for k, p in module.named_parameters()}
    torch.nn.init.zeros_(module.inner.weight)  # what the module itself holds must not matter
    loss = lambda p, x: functional_call(module, p, (x,)).sum()  # noqa: E731
    got = grad(loss)(params, x)
    each = vmap(grad(loss), in_dims=(None, 0))(params, x)
    forward = jacfwd(loss)(params, x)
    leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
    loss(leaves, x).backward()  # when the module holds its own again
    for name in wanted:
        for other in (got[name], each[name].sum(0), forward[name], leaves[name].grad):
            _close(other, wanted[name])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return 0.1 * a  # b is taken by no operation

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g * b, g * a


def test_a_parameter_that_is_hidden_from_torch_is_refused_not_dropped():
    p = torch.nn.Parameter(0.1 * torch.ones(3, dtype=DOUBLE))
    with pytest.raises(ValueError, match=r"tensor of shape \(3,\).*autograd Function.*pass it in theta"):
        fixed_point(lambda z: _Product.apply(z, p) + 1, _zeros(3))


def test_an_input_that_is_closed_over_too_gets_both_gradients():
    x = _rand(3)
    f = lambda x: fixed_point(lambda z, y: 0.5 * z + y + 2 * x, _zeros(3), x)  # noqa: E731
    _close(jacrev(f)(x), 6 * torch.eye(3, dtype=DOUBLE))


# solvers and failures


@pytest.mark.parametrize(
    "solve", [Anderson(), Anderson(memory=2, damping=0.5), Picard(), Newton(), Newton(linear=GMRES())]
)
def test_every_solver_finds_the_fixed_point(solve):
    W, B = 0.3 * _rand(5, 5), _rand(3, 5)
    z = fixed_point(lambda z: torch.relu(z @ W.T + B), _zeros(3, 5), batched=True, solve=solve)
    _close(z, torch.relu(z @ W.T + B), 1e-9)


def test_anderson_finds_what_plain_iteration_cannot():
    f = lambda z: 1 - 3 * z  # noqa: E731
    _close(fixed_point(f, _zeros(2)), torch.full((2,), 0.25, dtype=DOUBLE))
    with pytest.raises(ConvergenceError, match="Picard"):
        fixed_point(f, _zeros(2), solve=Picard())


def test_newton_passes_singular_points():
    _close(
        root(lambda z: (z**2 - 1) * torch.ones(1, dtype=DOUBLE), torch.full((1,), 1e-9, dtype=DOUBLE)).abs(),
        torch.ones(1, dtype=DOUBLE),
    )
    _close(
        root(lambda z: torch.relu(z) + 0.1 * z - 1, -3 * torch.ones(2, dtype=DOUBLE)),
        torch.full((2,), 1 / 1.1, dtype=DOUBLE),
    )


def test_a_solver_of_ones_own_is_called_once_for_a_whole_vmap_and_checked():
    calls = []

    def mine(f, z, theta):
        calls.append(tuple(z.shape))
        for _ in range(80):
            z = f(z, *theta)
        return z

    W, B = 0.3 * _rand(4, 4), _rand(3, 4)
    got = vmap(grad(lambda b: tanh_layer(W, b, solve=mine).sum()))(B)
    _close(got, vmap(grad(lambda b: tanh_layer(W, b).sum()))(B))
    assert calls == [(3, 4)]
    with pytest.raises(
        ConvergenceError, match=r"fixed_point: solve did not converge: reached .* expected at most 1.0e-08"
    ):
        tanh_layer(W, B[0], solve=lambda f, z, theta: z)
    with pytest.raises(ValueError, match=r"solve: it returned shape \(2,\), expected .* \(4,\)"):
        tanh_layer(W, B[0], solve=lambda f, z, theta: z[:2])


def test_what_a_solver_of_ones_own_differentiates_or_changes_stays_its_own():
    W, b, z0 = torch.nn.Parameter(0.3 * _rand(3, 3)), _rand(3).requires_grad_(), _zeros(3)

    def descent(F, z, theta):
        z = z.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [z], tolerance_grad=1e-12, tolerance_change=0, max_iter=100, line_search_fn="strong_wolfe"
        )

        def objective():
            optimizer.zero_grad()
            half = (F(z, *theta) ** 2).sum() / 2
            half.backward()
            return half

        optimizer.step(objective)
        return z

    z = root(lambda z, b: z - torch.tanh(W @ z) - b, z0, b, solve=descent)
    assert W.grad is None
    assert b.grad is None
    assert not z0.any()
    z.sum().backward()
    assert W.grad.any()
    with pytest.raises(ValueError, match=r"changes z or theta in place, expected .* start with z = z.clone"):
        fixed_point(lambda z: z.mul_(0.5).add_(1), z0)
    assert not z0.any()


def test_functions_and_layers_that_are_compiled():
    W, b = torch.nn.Parameter(0.3 * _rand(3, 3)), _rand(3)
    compiled = torch.compile(lambda z, b: torch.tanh(W @ z + b), backend="eager")
    layer = torch.compile(lambda b: fixed_point(lambda z: torch.tanh(W @ z + b), _zeros(3)), backend="eager")
    for z in (fixed_point(compiled, _zeros(3), b), layer(b)):
        _close(torch.autograd.grad(z.sum(), W)[0], grad(lambda W: tanh_layer(W, b).sum())(W.detach()))


def test_inference_mode_and_what_comes_out_of_it():
    W = torch.nn.Parameter(0.3 * _rand(3, 3))
    layer = lambda z0: fixed_point(lambda z: torch.tanh(W @ z + 1), z0)  # noqa: E731
    with torch.inference_mode():
        z = layer(_zeros(3))
    assert not z.requires_grad
    layer(z).sum().backward()
    assert W.grad.any()


def test_a_failed_solve_names_instances_residual_tolerance_and_fix_or_returns_nan():
    a = torch.tensor([1.0, -1.0, 4.0], dtype=DOUBLE)
    F = lambda z, a: z**2 - a[:, None]  # noqa: E731
    z0 = torch.ones(3, 2, dtype=DOUBLE)
    with pytest.raises(
        ConvergenceError, match=r"root: Newton .* batch index 1: .* expected at most 1.0e-10. Raise its max_iter"
    ) as caught:
        root(F, z0, a, batched=True)
    assert caught.value.indices == (1,)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    layer = lambda a: root(F, z0, a, batched=True, on_failure="nan")  # noqa: E731
    z = layer(a)
    _close(z[[0, 2], 0], torch.tensor([1.0, 2.0], dtype=DOUBLE))
    assert z[1].isnan().all()
    gradient = grad(lambda a: layer(a).sum())(a)
    _close(gradient[[0, 2]], torch.tensor([1.0, 0.5], dtype=DOUBLE))
    assert gradient[1].isnan()


def test_the_derivatives_of_a_failed_instance_are_nan_though_its_system_could_be_solved():
    a = torch.tensor([[1.0], [torch.nan]], dtype=DOUBLE)
    got = grad(lambda a: fixed_point(lambda z, a: 0.5 * z + a, _zeros(2, 1), a, batched=True, on_failure="nan").sum())(
        a
    )
    assert got[0] == 2
    assert got[1].isnan()


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_singular_system_is_seen_though_its_right_hand_side_is_consistent(n):
    M, a = _rand(n, n - 1) @ _rand(n - 1, n), _rand(n)
    layer = lambda a: root(lambda z, a: M @ (z - a), _zeros(n), a, solve=lambda F, z, theta: theta[0])  # noqa: E731
    with pytest.raises(LinearSolveError, match="singular"):
        jvp(layer, (a,), (_rand(n),))
    with pytest.raises(LinearSolveError, match="singular"):
        grad(lambda a: (M @ layer(a)).sum())(a)


def test_a_badly_scaled_system_is_not_taken_for_a_singular_one():
    scale = 10.0 ** torch.tensor([15, -15, 0], dtype=DOUBLE)
    layer = lambda a: root(lambda z, a: scale * (z - a), _zeros(3), a, solve=lambda F, z, theta: theta[0])  # noqa: E731
    _close(jacrev(layer)(_rand(3)), torch.eye(3, dtype=DOUBLE))


def test_a_batch_that_torch_hides_is_refused():
    a = _rand(3).requires_grad_()
    with pytest.raises(NotImplementedError, match=r"root: is_grads_batched.*use torch.func.vmap"):
        torch.autograd.grad(cubic(a), a, torch.eye(3, dtype=DOUBLE), is_grads_batched=True)


def test_a_singular_or_unfinished_linear_system_is_an_error_not_a_number():
    flat = lambda a, **o: root(lambda z, a: z**3 - a, _zeros(2), a, **o).sum()  # noqa: E731
    with pytest.raises(LinearSolveError, match=r"root: linear: Dense left .* singular"):
        grad(flat)(_zeros(2))
    assert grad(lambda a: flat(a, on_failure="nan"))(_zeros(2)).isnan().all()
    W, b = 0.3 * _rand(6, 6), _rand(6)
    for linear in (GMRES(restart=2, max_iter=2), BiCGStab(max_iter=1)):
        with pytest.raises(LinearSolveError, match="Raise max_iter"):
            grad(lambda b: tanh_layer(W, b, linear=linear).sum())(b)  # noqa: B023
    w = _rand(3, 2)

    def coupled(b: Tensor) -> Tensor:
        F = lambda z: z - 0.1 * z.sum(0) - b  # noqa: E731
        return (w * root(F, _zeros(3, 2), batched=True, solve=Newton(linear=GMRES()))).sum()

    with pytest.raises(LinearSolveError, match="couples the instances"):
        grad(coupled)(_rand(3, 2))


# singular roots, equations without one, units

SINGULAR = {
    "square": (lambda z, t: z**2 - t, 1.0),
    "cube": (lambda z, t: z**3 - t, 1.0),
    "fifth power": (lambda z, t: z**5 - t, 1.0),
    "sine": (lambda z, t: z - torch.sin(z) - t, 1.0),
    "not at zero": (lambda z, t: z * z - 2 * z + 1 - t, 3.0),
    "small": (lambda z, t: 1e-12 * (z**2 - t), 1.0),
    "large": (lambda z, t: 1e12 * (z**2 - t), 1.0),
    "small unknown": (lambda z, t: (1e6 * z) ** 2 - t, 1e-6),
}


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("linear", [None, GMRES(), BiCGStab()])
@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_root_is_warned_of_and_gets_the_least_squares_derivative(name, linear, dtype):
    # They gave 65536, 1.6e6, … with the verdict "classical".
    F, start = SINGULAR[name]
    t = torch.zeros((), dtype=dtype, requires_grad=True)
    with pytest.warns(SingularDerivativeWarning, match="root: the root is singular"):
        z = root(F, torch.tensor(start, dtype=dtype), t, linear=linear)
    with pytest.warns(SingularDerivativeWarning, match="least-squares"):
        z.backward()
    assert t.grad == 0
    for options in ({}, {"smooth": True}):
        assert certify_root(F, z.detach(), t.detach(), **options).verdict is Verdict.LEAST_SQUARES


@pytest.mark.parametrize("solve", [Anderson(), Newton(), Picard(tol=1e-4, max_iter=3000)])
def test_a_singular_fixed_point_is_warned_of(solve):
    f = lambda z, t: torch.sin(z) + t  # noqa: E731
    t = _zeros().requires_grad_()
    with pytest.warns(SingularDerivativeWarning, match="fixed_point: the root is singular"):
        derivative = jacfwd(lambda t: fixed_point(f, torch.ones((), dtype=DOUBLE), t, solve=solve))(t.detach())
    assert derivative == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularDerivativeWarning)
        z = fixed_point(f, torch.ones((), dtype=DOUBLE), t, solve=solve)
    assert certify_fixed_point(f, z.detach(), t.detach(), smooth=True).verdict is Verdict.LEAST_SQUARES


def test_the_regular_unknowns_beside_a_singular_one_keep_their_derivatives():
    mixed = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 1.0], [0.0, 0.5, 2.0]], dtype=DOUBLE)
    parts = lambda z, t: torch.stack([z[0] ** 2 - t, z[1] ** 3 - t, z[2] - 2 * t - 1])  # noqa: E731
    units = torch.tensor([1e-9, 1.0, 1e9], dtype=DOUBLE)
    ones = torch.ones_like(units)
    for F, scale in (
        (parts, ones),
        (lambda z, t: mixed @ parts(z, t), ones),
        (lambda z, t: units * parts(z, t), ones),
        (lambda z, t: parts(z / units, t), units),
    ):
        start = scale * torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
        with pytest.warns(SingularDerivativeWarning):
            jacobian = jacrev(lambda t: root(F, start, t))(_zeros())  # noqa: B023
        _close(jacobian / scale, torch.tensor([0.0, 0.0, 2.0], dtype=DOUBLE), 1e-4)


def test_only_the_singular_instances_of_a_batch_are_named():
    a = torch.tensor([4.0, 0.0, 9.0], dtype=DOUBLE)
    one = lambda a: root(lambda z, a: z**2 - a, torch.ones((), dtype=DOUBLE), a)  # noqa: E731
    with pytest.warns(SingularDerivativeWarning, match="singular at batch index 1:"):
        got = vmap(grad(one))(a)
    _close(got, torch.tensor([0.25, 0.0, 1 / 6], dtype=DOUBLE))


@pytest.mark.parametrize("rest", [1e-3, 1e-11, 1e-13])
@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_an_equation_without_a_root_has_not_converged(rest, unit):
    # z² + 1e−11 gave z = 7e−6 with a gradient of −69566.
    for F in (
        lambda z, t: unit * (z**2 + rest + t),
        lambda z, t: unit * torch.stack([z[0] ** 2 + rest + t, z[1] - 1]),
    ):
        start = (
            torch.tensor([1.0, 2.0], dtype=DOUBLE)
            if F.__code__.co_names[:1] == ("torch",)
            else torch.ones(1, dtype=DOUBLE)
        )
        with pytest.raises(ConvergenceError, match="Newton did not converge"):
            root(F, start, _zeros())
        assert root(F, start, _zeros(), on_failure="nan").isnan().all()
        with pytest.raises(ConvergenceError, match="solve did not converge"):
            root(F, start, _zeros(), solve=lambda F, z, theta: z * 1e-6)
    for F in (torch.exp, torch.reciprocal):
        with pytest.raises(ConvergenceError):
            root(F, torch.ones(1, dtype=DOUBLE))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e6, 1e12])
def test_units_of_the_equation_and_of_the_unknowns_do_not_matter(unit, dtype):
    # 1e−12(z³ − 8) from 1 gave z = 1 and a gradient of 1/3.
    digits = 1e-9 if dtype == DOUBLE else 1e-5
    for F, width in ((lambda z, a: unit * (z**3 - a), 1.0), (lambda z, a: (z / unit) ** 3 - a, unit)):
        for options in ({}, {"linear": GMRES()}, {"solve": lambda F, z, theta, width=width: 0 * z + 2 * width}):
            a = torch.tensor(8.0, dtype=dtype, requires_grad=True)
            z = root(F, torch.tensor(width, dtype=dtype), a, **options)
            z.backward()
            _close(z.detach() / width, torch.tensor(2.0, dtype=dtype), 2 * digits)
            _close(a.grad / width, torch.tensor(1 / 12, dtype=dtype), digits)
            assert certify_root(F, z.detach(), a.detach(), smooth=True).verdict is Verdict.CLASSICAL
        with pytest.raises(ConvergenceError):
            root(F, torch.tensor(width, dtype=dtype), a, solve=lambda F, z, theta: z)
        assert certify_root(F, torch.tensor(width, dtype=dtype), a.detach(), smooth=True).verdict is Verdict.UNCERTIFIED
    b = torch.tensor(8.0, dtype=dtype)
    _close(fixed_point(lambda z: 0.5 * z + unit * b, torch.zeros((), dtype=dtype)) / unit, 2 * b, 16 * digits)


def test_regular_roots_at_zero_and_of_any_units_are_not_taken_for_singular_ones():
    maps = [lambda y: y, lambda y: y**3 + y, torch.tanh, lambda y: torch.relu(y) + 0.3 * y, torch.expm1]
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, dtype=DOUBLE, generator=generator)  # noqa: E731
    for k in range(60):
        phi, n = maps[k % 5], 1 + k % 6
        A = draw(n, n) + 3 * torch.eye(n, dtype=DOUBLE)
        if torch.linalg.cond(A) > 100:
            continue
        rows, units = 10 ** (4 * draw(n)).clamp(-8, 8), 10 ** (4 * draw(n)).clamp(-8, 8)
        exact = torch.where(draw(n) > 0.3, torch.zeros(n, dtype=DOUBLE), draw(n))
        F = lambda z, t: rows * (A @ phi(z / units) - t)  # noqa: B023, E731
        t = (A @ phi(exact)).requires_grad_()
        z = root(F, (exact + 0.1 * draw(n)) * units, t)  # a warning would be an error
        z.div(units).sum().backward()
        _close(z.detach() / units, exact, 1e-9)
        if k % 5 != 3:
            assert certify_root(F, z.detach(), t.detach(), smooth=True).verdict is Verdict.CLASSICAL
            slope = torch.func.jacrev(phi)(exact)
            _close(t.grad, torch.linalg.inv(A @ slope).sum(0), 1e-6)


def test_misuse_names_the_argument_what_was_got_and_expected():
    z0 = _zeros(2)
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: root(3, z0), TypeError, "root: F: got int, expected a callable"),
        (
            lambda: fixed_point(lambda z: z, [0.0]),
            TypeError,
            "fixed_point: z0: got float, expected a tensor of float32 or float64, or a list, tuple or dict of them",
        ),
        (lambda: root(lambda z: z, torch.ones(2, dtype=torch.int64)), TypeError, "z0: got a tensor of torch.int64"),
        (lambda: root(lambda z: z.sum(), z0), ValueError, r"F: it returned a tensor of shape \(\), expected .* \(2,\)"),
        (
            lambda: root(lambda z: z, z0, solve=Anderson()),
            TypeError,
            "solve: got Anderson.*that one is for fixed_point",
        ),
        (lambda: root(lambda z: z, z0, linear="lu"), TypeError, r"linear: got 'lu', expected one of Dense\(\)"),
        (lambda: root(lambda z: z, z0, tol=-1), ValueError, "tol: got -1, expected a positive number"),
        (lambda: root(lambda z: z, z0, on_failure="x"), ValueError, "on_failure: got 'x', expected 'raise' or 'nan'"),
        (lambda: root(lambda z: z, _zeros(), batched=True), ValueError, "batched: got True and z0 without axes"),
        (lambda: Anderson(memory=0), ValueError, r"Anderson.memory: got 0, expected an integer"),
        (lambda: GMRES(rtol=0.0), ValueError, r"GMRES.rtol: got 0.0"),
        (
            lambda: root(lambda z: z, z0.half()),
            TypeError,
            "z0: got a tensor of torch.float16, expected a tensor of float32",
        ),
        (lambda: root(lambda z: z > 0, z0), TypeError, "F: it returned a tensor of torch.bool, expected float32"),
        (lambda: root(lambda z: 1j * z, z0), TypeError, "F: it returned a tensor of torch.complex128"),
        (
            lambda: fixed_point(lambda z: z, z0, solve=Anderson),
            TypeError,
            r"solve: got <class .*expected None, Anderson\(\)",
        ),
        (lambda: root(lambda z: z, {}), ValueError, "z0: got the shapes {}, expected at least one leaf"),
        (
            lambda: root(lambda z: z, (z0, _zeros(3, 1)), batched=True),
            ValueError,
            r"z0: got the shapes \(\(2,\), \(3, 1\)\), expected leaves with one leading axis",
        ),
        (
            lambda: root(lambda z: {"a": z["a"][:1]}, {"a": z0}),
            ValueError,
            r"F: it returned {'a': \(1,\)}, expected the structure and shapes of z0, {'a': \(2,\)}",
        ),
        (
            lambda: fixed_point(lambda z: (0.5 * z[0],), (z0,), solve=lambda f, z, theta: f(z[0])),
            ValueError,
            r"solve: it called the function with z of \(2,\), expected .* z0, \(\(2,\),\)",
        ),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind, match=text):
            call()


def test_importing_the_package_imports_no_framework():
    # cvxpy itself imports them where it finds solvers written with them.
    code = """
import sys, cvxpy
before = set(sys.modules)
import conelayers.implicit
assert not {"torch", "jax"} & (set(sys.modules) - before)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
