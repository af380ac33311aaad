"""The PyTorch adapter: what a user of torch and of cvxpylayers expects of the layer."""

from __future__ import annotations

import copy
import io
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch
from zoo import ZOO

from conelayers import Layer, LayerSolution, SolveError, Status
from conelayers.torch import ConeLayer, CvxpyLayer


@pytest.fixture
def least_squares():
    x = cp.Variable(3, name="x")
    A, b = cp.Parameter((4, 3), name="A"), cp.Parameter(4, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0])
    return problem, [A, b], x


def tensors(batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(*batch, 4, 3, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    b = torch.randn(*batch, 4, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    return A, b


@pytest.mark.filterwarnings("ignore::conelayers.ZeroDerivativeWarning")  # of single entries at vertices
@pytest.mark.parametrize("name", sorted(ZOO))
def test_gradcheck(name: str) -> None:
    """torch's own differences in float64, at its default tolerances."""
    case = ZOO[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp)
    values = [torch.tensor(v, requires_grad=True) for v in case.draw(np.random.default_rng(sum(map(ord, name))))]
    free = [spec.positions is None for spec in layer.engine.parameters]
    if not all(free):  # torch moves every entry, also those that the declared sparsity fixes to zero
        pytest.skip("entries outside the declared sparsity must not move")
    assert torch.autograd.gradcheck(layer, values)


def test_gradcheck_batched_with_an_unbatched_parameter(least_squares) -> None:
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x, problem.constraints[0].dual_variables[0]])
    assert torch.autograd.gradcheck(layer, (tensors((2,))[0], tensors()[1]))


def test_dtype_is_the_inputs(least_squares) -> None:
    """float32 in, float32 out, so that a next Linear works; the gradient has each parameter's own dtype."""
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x])
    A, b = tensors(dtype=torch.float32)
    (solution,) = layer(A, b)
    assert solution.dtype is torch.float32
    torch.nn.Linear(3, 2)(solution).sum().backward()
    assert A.grad.dtype is torch.float32
    A64, b64 = tensors()
    np.testing.assert_allclose(solution.detach(), layer(A64, b64)[0].detach(), atol=1e-6)
    (mixed,) = layer(A64, b)
    mixed.sum().backward()
    assert mixed.dtype is torch.float64
    assert b.grad.dtype is torch.float32


@pytest.mark.parametrize(
    "loss", [torch.sum, torch.mean, lambda x: x[..., ::2].sum(), lambda x: x.T.reshape(-1)[:2].sum()]
)
def test_strided_cotangents(least_squares, loss) -> None:
    """x.sum().backward() sends a stride-0 cotangent."""
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x])
    A, b = tensors((2,))
    loss(layer(A, b)[0]).backward()
    g = torch.autograd.grad(loss(probe := torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)), probe)[0]
    expected = Layer(problem, parameters, [x]).solve(A.detach().numpy(), b.detach().numpy()).vjp(g.numpy())
    np.testing.assert_allclose(A.grad, expected[0], atol=1e-12)


def test_non_contiguous_inputs(least_squares) -> None:
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x])
    A, b = tensors()
    transposed = A.detach().T.contiguous().T.requires_grad_()
    assert not transposed.is_contiguous()
    layer(A, b)[0].sum().backward()
    layer(transposed, b.detach())[0].sum().backward()
    np.testing.assert_allclose(transposed.grad, A.grad, atol=1e-14)


def test_parameters_that_need_no_gradient_cost_nothing(least_squares, monkeypatch) -> None:
    """No gradient is computed for them; with none needed there is no graph, and no_grad works."""
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x])
    A, b = tensors()
    asked = []
    original = LayerSolution.vjp
    monkeypatch.setattr(
        LayerSolution, "vjp", lambda self, *g, needed: asked.append(tuple(needed)) or original(self, *g, needed=needed)
    )
    layer(A.detach(), b)[0].sum().backward()
    assert asked == [(False, True)]
    with_both = original(layer.engine.solve(A.detach().numpy(), b.detach().numpy()), np.ones(3))
    np.testing.assert_allclose(b.grad, with_both[1], atol=1e-14)
    assert not layer(A.detach(), b.detach())[0].requires_grad
    with torch.no_grad():
        assert not layer(A, b)[0].requires_grad


def test_two_outputs_one_used(least_squares) -> None:
    """The cotangent of an output that the loss does not use is zero, not an error."""
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x, problem.constraints[0].dual_variables[0]])
    A, b = tensors()
    _, y = layer(A, b)
    y.sum().backward()
    assert torch.isfinite(A.grad).all()


def test_tiny_losses_keep_their_gradient(least_squares) -> None:
    """A cotangent below 1e−8 is not a zero cotangent."""
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x])
    A, b = tensors()
    gradient = torch.autograd.grad(layer(A, b)[0].sum(), b)[0]
    tiny = torch.autograd.grad(1e-20 * layer(A, b)[0].sum(), b)[0]
    np.testing.assert_allclose(tiny * 1e20, gradient, rtol=1e-12)


def test_symmetric_parameter_has_the_symmetric_gradient() -> None:
    case = ZOO["sdp_nearest_correlation"]()
    (value,) = case.draw(np.random.default_rng(0))
    A = torch.tensor(value, requires_grad=True)
    (X, *_) = ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp)(A)
    X[0, 1].backward()
    np.testing.assert_allclose(A.grad, A.grad.T, atol=1e-14)
    assert abs(A.grad[0, 1]) > 0.1


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "torch.save"])
def test_copies_work_after_the_problem_is_gone(least_squares, copied: str) -> None:
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x], solver="SCS", solver_args={"eps": 1e-6}, warm_start=True)
    A, b = tensors()
    before = layer(A, b)[0]
    if copied == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    elif copied == "deepcopy":
        other = copy.deepcopy(layer)
    else:
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    del layer
    np.testing.assert_allclose(other(A, b)[0].detach(), before.detach(), atol=1e-12)


def test_the_layer_sits_in_a_module(least_squares) -> None:
    problem, parameters, x = least_squares

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Linear(5, 4)
            self.A = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
            self.layer = ConeLayer(problem, parameters, [x])

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return self.layer(self.A, self.features(u))[0]

    torch.manual_seed(0)
    model = Model()
    assert set(model.state_dict()) == {"features.weight", "features.bias", "A"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    u, target = (
        torch.randn(6, 5, generator=torch.Generator().manual_seed(2)),
        torch.rand(6, 3, generator=torch.Generator().manual_seed(3)),
    )
    losses = []
    for _ in range(30):
        loss = (model(u) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert "A[4, 3]" in repr(model)
    model.double()(u.double())


def test_solve_returns_the_outputs_and_the_information(least_squares) -> None:
    problem, parameters, x = least_squares
    outputs, info = ConeLayer(problem, parameters, [x]).solve(*tensors((2,)))
    assert outputs[0].shape == (2, 3)
    assert info.status == (Status.SOLVED, Status.SOLVED)
    assert info.residuals.worst.max() <= 1e-9
    assert info.value.shape == (2,)


def test_code_written_for_cvxpylayers_runs(least_squares) -> None:
    """Positional and keyword arguments of its constructor and call, the solver options included."""
    problem, (A, b), x = least_squares
    assert CvxpyLayer is ConeLayer
    A_t, b_t = tensors()
    expected = CvxpyLayer(problem, parameters=[A, b], variables=[x])(A_t, b_t)[0].detach()
    layers = [
        CvxpyLayer(
            problem,
            [A, b],
            [x],
            cp.SCS,
            False,
            False,
            None,
            {"eps": 1e-8, "max_iters": 10000, "acceleration_lookback": 0},
        ),
        CvxpyLayer(problem, [A, b], [x], solver="DIFFCP", canon_backend="diffcp"),
        CvxpyLayer(
            problem,
            parameters=(A, b),
            variables=(x,),
            gp=False,
            verbose=False,
            solver_args={"mode": "lsqr", "n_jobs_forward": 1},
        ),
    ]
    for layer in layers:
        np.testing.assert_allclose(layer(A_t, b_t)[0].detach(), expected, atol=1e-10)
    calls = [
        {"solve_method": "ECOS"},
        {"solve_method": "SCS", "eps": 1e-10, "mode": "dense", "n_jobs_backward": 2},
        {"solve_method": "Clarabel"},
        {"acceleration_lookback": 0},
    ]
    for solver_args in calls:
        (solution,) = layers[2](A_t, b_t, solver_args=solver_args)
        np.testing.assert_allclose(solution.detach(), expected, atol=1e-10)
    with pytest.raises(ValueError, match="A tensor must be provided for each CVXPY parameter"):
        layers[0](A_t)
    with pytest.raises(ValueError, match="Inconsistent batch sizes"):
        layers[0](A_t.expand(2, 4, 3), b_t.expand(3, 4))
    with pytest.raises(ValueError, match="Invalid parameter shape"):
        layers[0](A_t, b_t[:3])
    with pytest.raises(ValueError, match="Invalid parameter dimensionality"):
        layers[0](A_t, b_t.expand(2, 2, 4))


def test_what_is_not_a_tensor_is_refused(least_squares) -> None:
    problem, parameters, x = least_squares
    layer = ConeLayer(problem, parameters, [x])
    A, b = tensors()
    with pytest.raises(TypeError, match=r"parameter 1 \(b\): got ndarray"):
        layer(A, b.detach().numpy())
    with pytest.raises(TypeError, match=r"parameter 0 \(A\): got dtype torch.bool"):
        layer(A > 0, b)
    with pytest.raises(TypeError, match=r"got dtype torch\.complex128"):
        layer(A.to(torch.complex128), b)
    with pytest.raises(TypeError, match="layout"):
        layer(A.detach().to_sparse(), b)


def test_infeasible_instances_are_named() -> None:
    x, p = cp.Variable(name="x"), cp.Parameter(name="p")
    layer = ConeLayer(cp.Problem(cp.Minimize(x), [x >= p, x <= 1]), [p], [x])
    with pytest.raises(SolveError) as caught:
        layer(torch.tensor([0.0, 2.0, 0.5, 3.0]))
    assert caught.value.indices == (1, 3)
    assert caught.value.statuses[1] is Status.PRIMAL_INFEASIBLE
    assert caught.value.statuses[0] is Status.SOLVED
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.indices == (1, 3)
    assert str(again) == str(caught.value)


def test_no_parameters() -> None:
    x = cp.Variable(2)
    (solution,) = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1))), [], [x])()
    np.testing.assert_allclose(solution, [1, 1])
    assert solution.dtype is torch.get_default_dtype()
