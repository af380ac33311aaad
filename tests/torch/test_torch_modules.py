"""The layer among what torch users build: compiled graphs, copies, worker processes, autocast, distributed training."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import cvxpy as cp
import pytest
import torch
import torch._dynamo.testing
from torch.utils.data import DataLoader, Dataset

from conelayers import SolveError
from conelayers.torch import ConeLayer, compiled

Tensor = torch.Tensor
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")


def _layer() -> ConeLayer:
    x, A, b = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4)
    return ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0]), parameters=[A, b], variables=[x])


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(5, 4, dtype=torch.float64)
        self.A = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        self.layer = _layer()

    def forward(self, u: Tensor) -> Tensor:
        return self.layer(self.A, self.linear(u))[0].tanh()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    torch._dynamo.reset()
    return Model()


def _inputs(batch: int = 7) -> Tensor:
    return torch.randn(batch, 5, dtype=torch.float64)


def _results(function, model: Model, inputs: Tensor) -> list[Tensor]:
    model.zero_grad()
    outputs = function(inputs)
    outputs.sum().backward()
    return [outputs.detach(), *(p.grad.clone() for p in model.parameters())]


def test_a_model_compiles_into_one_graph(model: Model) -> None:
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = _inputs()
    for got, expected in zip(_results(fast, model, inputs), _results(model, model, inputs), strict=True):
        torch.testing.assert_close(got, expected)
        assert expected.abs().max() > 1e-3
    # The gradient solves again where its solution has been forgotten.
    outputs = fast(inputs)
    compiled.KEPT.clear()
    model.zero_grad()
    outputs.sum().backward()
    torch.testing.assert_close(model.A.grad, _results(model, model, inputs)[1])


def test_batch_sizes_do_not_compile_each_anew(model: Model) -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    fast = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (2, 3, 4, 5, 9, 17):
        inputs = _inputs(batch)
        torch.testing.assert_close(fast(inputs), model(inputs))
    assert counter.frame_count <= 2


def test_opcheck(model: Model) -> None:
    values = [torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, dtype=torch.float64)]
    number = model.layer._number
    torch.library.opcheck(torch.ops.conelayers.solve.default, (values, number))
    *_, handle = torch.ops.conelayers.solve(values, number)
    cotangents = [torch.ones(2, 3, dtype=torch.float64)]
    detached = [v.detach() for v in values]
    arguments = (detached, cotangents, handle, [True, False], number)
    torch.library.opcheck(torch.ops.conelayers.solve_backward.default, arguments)


def test_failures_in_a_compiled_graph_are_ours() -> None:
    torch._dynamo.reset()
    x, b = cp.Variable(2), cp.Parameter(2)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, x <= 1]), [b], [x])
    fast = torch.compile(lambda t: layer(t)[0] * 2, fullgraph=True, backend="aot_eager")
    with pytest.raises(SolveError, match="batch index 1"):
        fast(torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
def test_transformations_inside_compile_are_right_or_refused(model: Model, transform: str) -> None:
    loss = lambda b: model.layer(model.A.detach(), b)[0].sum()  # noqa: E731
    functions = {
        "grad": torch.func.grad(loss),
        "jvp": lambda b: torch.func.jvp(loss, (b,), (torch.ones_like(b),))[1],
        "vmap": lambda b: torch.vmap(loss)(torch.stack([b, 2 * b])),
    }
    function, b = functions[transform], torch.randn(4, dtype=torch.float64)
    expected = function(b)
    assert expected.abs().max() > 1e-3
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(function, fullgraph=True, backend="aot_eager")(b)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(function, backend="aot_eager")(b), expected)


def test_forward_mode_inside_compile_is_right_or_refused(model: Model) -> None:
    def tangent(b: Tensor) -> Tensor:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(b, torch.ones_like(b))
            return torch.autograd.forward_ad.unpack_dual(model.layer(model.A.detach(), dual)[0]).tangent

    b = torch.randn(4, dtype=torch.float64)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(tangent, fullgraph=True, backend="aot_eager")(b)


def test_export_is_refused(model: Model) -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.export"):
        torch.export.export(model, (_inputs(),))


def test_copies_pickles_and_states(model: Model, tmp_path: Path) -> None:
    inputs = _inputs()
    expected = model(inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(inputs), expected)
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(other, fullgraph=True, backend="aot_eager")(inputs), expected)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh = Model()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt"))
    torch.testing.assert_close(fresh(inputs), expected)
    assert set(model.state_dict()) == {"A", "linear.weight", "linear.bias"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_inputs_dtype_of_exact_solutions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, linear = _layer(), torch.nn.Linear(5, 4)
    A, u = torch.randn(4, 3), torch.randn(2, 5)
    with torch.autocast("cpu", dtype=dtype):
        h = linear(u)
        assert h.dtype is dtype
        out = layer(A.to(dtype), h)[0]
        assert out.dtype is dtype
        out.float().sum().backward()
    exact = layer(A.to(dtype).double(), h.detach().double())[0]
    torch.testing.assert_close(out.detach(), exact.to(dtype))
    assert linear.weight.grad is not None
    assert linear.weight.grad.abs().max() > 0


class _Solutions(Dataset):
    """A dataset whose items are solutions: the layer runs in the workers."""

    def __init__(self, layer: ConeLayer, values: Tensor) -> None:
        self._layer, self._values = layer, values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, i: int) -> Tensor:
        return self._layer(torch.eye(4, 3, dtype=torch.float64), self._values[i])[0]


# JAX, where a test of its own has been collected, warns of its threads; they start after this (conftest.py).
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(method: str) -> None:
    layer, values = _layer(), torch.arange(24, dtype=torch.float64).reshape(6, 4) - 10
    loader = DataLoader(
        _Solutions(layer, values), batch_size=3, num_workers=2, multiprocessing_context=method, timeout=60
    )
    torch.testing.assert_close(torch.cat(list(loader)), values[:, :3].clamp(min=0))


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Model()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    inputs = _inputs(8)
    parallel(inputs[rank::2]).sum().backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], f"{folder}/gradients.pt")
    # gloo's threads may wait for a process that is gone: all leave together, and nothing of theirs outlives the group.
    torch.distributed.barrier()
    del parallel, model
    torch.distributed.destroy_process_group()
    os._exit(0)


def test_distributed_data_parallel(tmp_path: Path) -> None:
    """Two processes on one machine: the averaged gradient is that of the whole batch."""
    processes = torch.multiprocessing.spawn(_train, args=(str(tmp_path),), nprocs=2, join=False)
    for process in processes.processes:
        process.join(60)
        assert process.exitcode == 0
    torch.manual_seed(0)
    model = Model()
    (model(_inputs(8)).sum() / 2).backward()
    for got, p in zip(torch.load(tmp_path / "gradients.pt"), model.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad)
