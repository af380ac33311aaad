"""Layers in threads, processes and pickles, over many calls, and at their end."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from zoo import ZOO

from conelayers import Layer, Monitor, SolveError
from conelayers.support.parallel import _controller, one_blas_thread
from conelayers.torch import ConeLayer

THREADS = 8


def simplex_problem(n: int = 4) -> tuple[cp.Problem, list[cp.Parameter], list[cp.Variable]]:
    x, a = cp.Variable(n), cp.Parameter(n)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0]), [a], [x]


def conic_problem(n: int = 4) -> tuple[cp.Problem, list[cp.Parameter], list[cp.Variable]]:
    x, a = cp.Variable(n), cp.Parameter(n)
    return cp.Problem(cp.Minimize(cp.norm(x - a) + 0.3 * cp.norm1(x)), [x >= -1, cp.sum(x) <= 1]), [a], [x]


# One for each cone, and the routes: the kernel, the loose solves, SCS and ECOS.
CASES = {
    "qp": ("portfolio", {}),
    "lp": ("lp_inequality", {}),
    "socp": ("socp_norm_ball", {}),
    "socp by ECOS": ("socp_norm_ball", {"solver": "ECOS"}),
    "socp by SCS": ("socp_norm_ball", {"solver": "SCS"}),
}
for _name in ("sdp", "exp", "power"):
    CASES[_name] = (next(name for name in ZOO if _name in name), {})


def drawn(case: str, batch: int) -> tuple[Layer, list[np.ndarray]]:
    name, options = CASES[case]
    zoo = ZOO[name]()
    rng = np.random.default_rng(5)
    values = [np.stack(v) for v in zip(*(zoo.draw(rng) for _ in range(batch)), strict=True)]
    return Layer(zoo.problem, zoo.parameters, zoo.variables, **options), values


def solved(layer: Layer, values: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    """The variables and the gradients of their sum of squares."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # vertices of linear programs, whatever the thread
        solution = layer.solve(*values, **options)
        gradients = solution.vjp(*(2 * v for v in solution.variables))
    return [*solution.variables, *gradients]


def assert_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for left, right in zip(got, expected, strict=True):
        np.testing.assert_array_equal(left, right)


# ------------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("case", CASES)
def test_eight_threads_get_what_one_gets(case: str) -> None:
    """Bit for bit, values and gradients, whoever else is solving."""
    layer, values = drawn(case, 2 * THREADS)
    instances = [[v[i] for v in values] for i in range(2 * THREADS)]
    expected = [solved(layer, one) for one in instances]
    barrier = threading.Barrier(THREADS)

    def work(first: int) -> list[list[np.ndarray]]:
        barrier.wait(30)
        return [solved(layer, instances[i]) for i in range(first, 2 * THREADS, THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, range(THREADS)))
    for first, ours in enumerate(found):
        for got, i in zip(ours, range(first, 2 * THREADS, THREADS), strict=True):
            assert_same(got, expected[i])


@pytest.mark.parametrize("case", CASES)
def test_number_of_threads_changes_no_bit(case: str) -> None:
    layer, values = drawn(case, 7)
    one, *others = (
        solved(layer, values, solver_args={"n_jobs_forward": jobs, "n_jobs_backward": jobs}) for jobs in (1, 2, 4)
    )
    for other in others:
        assert_same(other, one)
    assert_same(solved(layer, values, solver_args={"n_jobs_forward": 1, "n_jobs_backward": 1}), one)


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_a_batch_are_solved_as_the_whole(case: str) -> None:
    layer, values = drawn(case, 8)
    whole = solved(layer, values)
    pieces = [solved(layer, [v[part] for v in values]) for part in (slice(0, 3), slice(3, 4), slice(4, 8))]
    for got, expected in zip(map(np.concatenate, zip(*pieces, strict=True)), whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(expected).max()))


def test_torch_layer_in_eight_threads() -> None:
    layer = ConeLayer(*conic_problem())
    values = torch.randn(2 * THREADS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def work(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        a = values[i].clone().requires_grad_()
        (x,) = layer(a)
        return x.detach(), torch.autograd.grad(x.square().sum(), a)[0]

    expected = [work(i) for i in range(len(values))]
    with ThreadPoolExecutor(THREADS) as pool:
        for got, one in zip(pool.map(work, range(len(values))), expected, strict=True):
            assert torch.equal(got[0], one[0])
            assert torch.equal(got[1], one[1])


def test_blas_threads_come_back_after_overlapping_solves() -> None:
    """threadpoolctl's own managers, overlapping in two threads, left BLAS at one thread for good."""

    def counts() -> list[int]:
        return [c.get_num_threads() for c in _controller().lib_controllers if c.user_api == "blas"]

    wanted = [max(2, n) for n in counts()]
    before = counts()
    inside, entered, left = [], threading.Event(), threading.Event()

    def second() -> None:
        with one_blas_thread():
            entered.set()
            left.wait(30)
            inside.append(counts())

    with _controller().limit(limits=2, user_api="blas"):
        wanted = counts()  # of a library without threads it is 1
        thread = threading.Thread(target=second)
        with one_blas_thread():
            thread.start()
            entered.wait(30)
        left.set()
        thread.join()
        assert set(inside[0]) == {1}
        assert counts() == wanted
    assert counts() == before


# ------------------------------------------------------------------------------------------------ processes, pickles


def _in_a_worker(layer: Layer, values: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert_same(solved(layer, values), expected)
    assert_same(solved(layer, values, solver_args={"n_jobs_forward": 2, "n_jobs_backward": 2}), expected)


# JAX, where a test of its own has been collected, warns of its threads; they start after this (conftest.py).
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_get_what_the_parent_gets(method: str) -> None:
    layer, values = drawn("socp", 4)
    worker = multiprocessing.get_context(method).Process(
        target=_in_a_worker, args=(layer, values, solved(layer, values))
    )
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("case", ["socp", "socp by ECOS"])
def test_fork_amid_solves(case: str) -> None:
    """No lock that a thread of the parent holds is waited for in the child."""
    layer, values = drawn(case, 4)
    expected, stop = solved(layer, values), threading.Event()

    def solve_on() -> None:
        while not stop.is_set():
            layer.solve(*values)

    threads = [threading.Thread(target=solve_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            worker = multiprocessing.get_context("fork").Process(target=_in_a_worker, args=(layer, values, expected))
            worker.start()
            worker.join(30)
            worker.kill()
            assert worker.exitcode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Model(torch.nn.Module):
    def __init__(self, problem: Callable[[], Any] = conic_problem) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 4, dtype=torch.float64)
        self.layer = ConeLayer(*problem())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(self.inner(inputs))[0]


def trained(model: Model, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(5, 3, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_training_goes_on_from_a_copy(how: str) -> None:
    """Layer, model and optimizer, copied in the middle, take the same steps as the originals, bit for bit."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    trained(model, optimizer, range(5))
    pair = pickle.loads(pickle.dumps((model, optimizer))) if how == "pickle" else copy.deepcopy((model, optimizer))
    losses = trained(model, optimizer, range(5, 12))
    assert len({float(loss) for loss in losses}) == 7
    assert torch.equal(torch.stack(trained(*pair, range(5, 12))), torch.stack(losses))
    for ours, theirs in zip(model.parameters(), pair[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


# ------------------------------------------------------------------------------------------------ many calls


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def torch_calls() -> Callable[[int], None]:
    layer, a = ConeLayer(*simplex_problem()), torch.zeros(4, dtype=torch.float64, requires_grad=True)
    slope = torch.arange(4, dtype=torch.float64)

    def call(i: int) -> None:
        (x,) = layer(a + i % 7 * slope)
        x.sum().backward()

    return call


def engine_calls(jobs: int, problem: Callable[[], Any]) -> Callable[[int], None]:
    arguments = {"n_jobs_forward": jobs, "n_jobs_backward": jobs}
    layer, values = Layer(*problem(), solver_args=arguments), np.random.default_rng(0).standard_normal((7, jobs, 4))

    def call(i: int) -> None:
        solution = layer.solve(values[i % 7], warm_start=i % 2 == 0)
        if i % 5 == 0:
            solution.vjp(values[i % 7])

    return call


def failing_calls() -> Callable[[int], None]:
    x, a = cp.Variable(2), cp.Parameter()
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= a, x <= 1]), [a], [x])

    def call(i: int) -> None:
        try:
            layer.solve(2.0 + i % 7)
        except SolveError:
            return
        pytest.fail("was solved")

    return call


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="measured by /proc")
@pytest.mark.parametrize(
    ("make", "calls"),
    [
        (lambda: engine_calls(1, simplex_problem), 4000),
        (lambda: engine_calls(2, conic_problem), 250),
        (torch_calls, 300),
        (failing_calls, 250),
    ],
    ids=["engine", "two threads", "torch", "failures"],
)
def test_many_calls_leave_nothing_behind(make: Callable[[], Callable[[int], None]], calls: int) -> None:
    """Threads, open files and Python's objects stay as many, and the memory does not grow throughout.

    A leak grows in each fifth of the calls, by a block of Python's or by bytes of the process; caches that fill, and an allocator that
    has other tests' memory to reuse, do not.
    """
    call = make()
    for i in range(calls // 2):
        call(i)
    gc.collect()
    before, objects = (threading.active_count(), open_files()), len(gc.get_objects())
    blocks, grown, piece = [], [], calls // 10
    for k in range(5):
        memory, allocated = resident(), sys.getallocatedblocks()
        for i in range(k * piece, (k + 1) * piece):
            call(i)
        gc.collect()
        blocks.append(sys.getallocatedblocks() - allocated)
        grown.append(resident() - memory)
    assert (threading.active_count(), open_files()) == before
    assert len(gc.get_objects()) - objects < 100
    assert min(blocks) < 0.9 * piece, blocks
    assert min(grown) < 50 * piece, grown


# ------------------------------------------------------------------------------------------------ the end


def use_nothing(layer: Layer) -> None:
    pass


def use_solve(layer: Layer) -> None:
    layer.solve(np.ones(4), warm_start=True).vjp(np.ones(4))


def use_monitor(layer: Layer) -> None:
    with Monitor(layer):
        for step in range(3):
            layer.solve(np.arange(4) + 0.1 * step)
    Monitor(layer)  # one that is never closed


def use_failure(layer: Layer) -> None:
    with pytest.raises(SolveError):
        layer.solve(np.ones(4), solver_args={"max_seconds": 1e-9, "solve_method": "SCS"})
    with pytest.raises(ValueError, match="parameter"):
        layer.solve(np.ones(3))


def use_threads(layer: Layer) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: layer.solve(np.full(4, i), warm_start=True), range(4)))
    layer.solve(np.ones((20, 4)), solver_args={"n_jobs_forward": 2})


@pytest.mark.parametrize("problem", [simplex_problem, conic_problem])
@pytest.mark.parametrize("use", [use_nothing, use_solve, use_monitor, use_failure, use_threads])
def test_layers_are_collected(use: Callable[[Layer], None], problem: Callable[[], Any]) -> None:
    layer = Layer(*problem())
    structure = layer.compiled_for().structure
    use(layer)
    references = weakref.ref(layer), weakref.ref(structure)
    del layer, structure
    gc.collect()
    assert [r() for r in references] == [None, None]


@pytest.mark.parametrize("order", ["backward", "second", "func", "compiled", "failure"])
def test_torch_layers_are_collected(order: str) -> None:
    layer = ConeLayer(*conic_problem())
    a = torch.arange(4, dtype=torch.float64, requires_grad=True)
    if order == "backward":
        layer(a)[0].sum().backward()
    elif order == "second":
        (g,) = torch.autograd.grad(layer(a)[0].square().sum(), a, create_graph=True)
        torch.autograd.grad(g.square().sum(), a)
    elif order == "func":
        torch.func.jacrev(layer)(a.detach())
    elif order == "compiled":
        torch.compile(layer, backend="eager")(a)[0].sum().backward()
        torch.compiler.reset()
    else:
        with pytest.raises(SolveError):
            layer(a, solver_args={"max_seconds": 1e-9, "solve_method": "SCS"})
    reference = weakref.ref(layer)
    del layer, a
    if order == "second":
        del g
    gc.collect()
    assert reference() is None
