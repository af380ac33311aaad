"""Batches on executors: threads, processes and a Dask cluster give what one process gives, whatever happens to workers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import warnings
import weakref
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import cvxpy as cp
import numpy as np
import pytest
import torch

import conelayers.layer.workers
from conelayers import ExecutorError, Layer, SingularDerivativeError, SingularDerivativeWarning, SolveError, Status
from conelayers.torch import ConeLayer


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def pool(request):
    return request.getfixturevalue(request.param)


both = pytest.mark.parametrize("pool", ["threads", "processes"], indirect=True)


def _problem(kind: str = "soc"):
    x, c, u = cp.Variable(4, name="x"), cp.Parameter(4, name="c"), cp.Parameter(name="u")
    constraints = {
        "soc": lambda: [cp.norm(x) <= u],
        "qp": lambda: [x <= u, x >= -u],
        "lifted": lambda: [x * u**2 <= u],  # not DPP
    }[kind]()
    return cp.Problem(cp.Minimize(cp.sum_squares(x - c)), constraints), [c, u], [x]


def _values(batch: int = 24) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, 4)), 0.5 + rng.random(batch)]


def _agree(spread, alone, batch: int) -> None:
    g = np.random.default_rng(1).normal(size=(batch, 4))
    np.testing.assert_allclose(spread.variables[0], alone.variables[0], atol=1e-12)
    np.testing.assert_allclose(spread.value, alone.value, atol=1e-12)
    for got, expected in zip(spread.vjp(g), alone.vjp(g), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11)
    tangent = np.random.default_rng(2).normal(size=(batch, 4))
    np.testing.assert_allclose(spread.jvp(tangent, None)[0], alone.jvp(tangent, None)[0], atol=1e-11)


@both
@pytest.mark.parametrize("kind", ["soc", "qp", "lifted"])
def test_the_same_as_alone(pool, kind: str) -> None:
    values = _values()
    layer = Layer(*_problem(kind), executor=pool, chunk_size=5)
    alone = Layer(*_problem(kind)).solve(*values)
    spread = layer.solve(*values)
    assert spread.status == alone.status
    _agree(spread, alone, 24)
    assert [c.verdict for c in spread.certify()] == [c.verdict for c in alone.certify()]
    assert len(layer.last.attempts) == 24
    assert all(layer.last.attempts)
    with_shared = layer.solve(values[0], values[1][0])
    np.testing.assert_allclose(
        with_shared.vjp(np.ones((24, 4)))[1],
        Layer(*_problem(kind)).solve(values[0], values[1][0]).vjp(np.ones((24, 4)))[1],
        atol=1e-10,
    )
    np.testing.assert_allclose(layer.solve(values[0][0], 1.0).variables[0].shape, (4,))  # a single instance stays here


@both
def test_failures_are_those_of_the_whole_batch(pool) -> None:
    c, u = _values()
    u[13] = -1.0
    layer = Layer(*_problem(), executor=pool, chunk_size=6)
    with pytest.raises(SolveError, match="primal infeasible at batch index 13"):
        layer.solve(c, u)
    assert layer.last.failed == (13,)
    solution = layer.solve(c, u, on_failure="nan")
    kept = np.delete(np.arange(24), 13)
    alone = Layer(*_problem()).solve(c[kept], u[kept])
    g = np.ones((24, 4))
    got = solution.vjp(g)[0]
    np.testing.assert_allclose(got[kept], alone.vjp(g[kept])[0], atol=1e-10)
    assert np.isnan(got[13]).all()
    assert solution.certify()[13].status is Status.PRIMAL_INFEASIBLE


def test_a_worker_that_lost_the_factors_linearizes_again_around_a_failed_instance() -> None:
    c, u = _values(6)
    u[1] = -1.0
    layer = Layer(*_problem())
    theta = np.column_stack([c, u])
    solution, kept = layer.run(theta, None, None)
    again = layer.relinearize(theta, solution.y - solution.s, None)
    g = np.ones_like(solution.x), np.zeros_like(solution.y), np.zeros_like(solution.s)
    for got, expected in zip(again.adjoint(*g), kept.adjoint(*g), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-10)


@both
def test_policies_of_singular_derivatives_are_applied_here(pool) -> None:
    """Two constraints say the same at instance 2 only: its multipliers, not its solution, are ambiguous."""
    x, a = cp.Variable(), cp.Parameter(2, name="a")
    problem = cp.Problem(cp.Minimize(x), [x >= a[0], x >= a[1]])
    values = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [0.0, 3.0]])
    layer = Layer(problem, [a], [x], executor=pool, chunk_size=2)
    with pytest.warns(SingularDerivativeWarning, match=r"at batch index \[2\]"):
        gradient = layer.solve(values).vjp(np.ones(4))[0]
    np.testing.assert_allclose(gradient[[0, 1, 3]], [[0, 1], [1, 0], [0, 1]], atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularDerivativeWarning)
        np.testing.assert_allclose(gradient[2], Layer(problem, [a], [x]).solve(values).vjp(np.ones(4))[0][2], atol=1e-9)
    strict = Layer(problem, [a], [x], executor=pool, chunk_size=2, singular="raise")
    with pytest.raises(SingularDerivativeError) as raised:
        strict.solve(values).vjp(np.ones(4))
    assert raised.value.certificate is not None
    # the solution's own derivative does not feel what is ambiguous
    assert np.isfinite(strict.solve(values).variables[0]).all()


class _Counting(Executor):
    """What is sent, pickled as it would be for another process."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def submit(self, fn, /, *args, **kwargs):
        data = pickle.dumps((fn, args, kwargs))
        self.sizes.append(len(data))
        future: Future = Future()
        fn, args, kwargs = pickle.loads(data)
        future.set_result(fn(*args, **kwargs))
        return future


def test_the_structure_is_shipped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker that has not got the layer: it is sent once, then chunks are their values only."""
    monkeypatch.setattr(conelayers.layer.workers, "_OWN", {})  # as in another process
    pool = _Counting()
    x, c, A = cp.Variable(20), cp.Parameter(20), np.random.default_rng(0).normal(size=(60, 20))
    layer = Layer(
        cp.Problem(cp.Minimize(cp.sum_squares(A @ x - A @ c)), [x >= 0]), [c], [x], executor=pool, chunk_size=4
    )
    monkeypatch.setattr(conelayers.layer.workers, "_OWN", {})
    structure = len(pickle.dumps(layer))
    values = np.random.default_rng(1).normal(size=(16, 20))
    for _ in range(3):
        layer.solve(values).vjp(np.ones((16, 20)))
    assert sum(size > structure for size in pool.sizes) == 1
    rest = [size for size in pool.sizes if size <= structure]
    assert len(rest) == 4 + 3 + 2 * 8 + 4
    order = 4 * (20 + 20 + 80 + 20 + 4 * 100) * 8
    assert max(rest) < order < structure


def test_a_gradient_where_the_factors_are_gone(processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conelayers.layer.workers, "_MOST_NUMBERS", 0)
    with ThreadPoolExecutor(2) as pool:
        values = _values()
        layer = Layer(*_problem(), executor=pool, chunk_size=5)
        _agree(layer.solve(*values), Layer(*_problem()).solve(*values), 24)
        assert len(conelayers.layer.workers._KEPT._maps) == 1


def test_a_killed_process_is_told_and_another_pool_takes_over() -> None:
    values, context = _values(), multiprocessing.get_context("spawn")
    alone = Layer(*_problem()).solve(*values)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        layer = Layer(*_problem(), executor=pool, chunk_size=4)
        solution = layer.solve(*values)
        os.kill(next(iter(pool._processes)), signal.SIGKILL)

        def until_the_pool_notices() -> None:
            for _ in range(100):
                layer.solve(*values)

        with pytest.raises(ExecutorError, match=r"ProcessPoolExecutor (lost the instances \d+ to \d+|takes no work)"):
            until_the_pool_notices()
        with pytest.raises(ExecutorError, match=r"layer\.executor = "):
            solution.vjp(np.ones((24, 4)))
    layer.executor = None
    _agree(layer.solve(*values), alone, 24)


@pytest.mark.filterwarnings("ignore")  # of the cluster's own
def test_a_dask_cluster_with_a_killed_worker() -> None:
    distributed = pytest.importorskip("distributed")
    values = _values(40)
    alone = Layer(*_problem()).solve(*values)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client:
        layer = Layer(*_problem(), executor=client.get_executor(), chunk_size=4)
        solution = layer.solve(*values)
        _agree(solution, alone, 40)
        victim = next(iter(cluster.workers.values())).pid
        os.kill(victim, signal.SIGKILL)
        _agree(solution, alone, 40)  # gradients at solutions whose factors died with it
        _agree(layer.solve(*values), alone, 40)


def test_torch_training_on_an_executor(processes) -> None:
    values = [torch.tensor(v) for v in _values()]
    gradients = []
    for options in ({}, {"executor": processes, "chunk_size": 6}):
        weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
        (x,) = ConeLayer(*_problem(), **options)(values[0] * weight, values[1])
        x.square().sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


def test_warm_starts_travel(threads) -> None:
    values = _values()
    layer = Layer(*_problem(), executor=threads, chunk_size=6, warm_start=True)
    first = layer.solve(*values)
    again = layer.solve(*values)
    assert set(again.solver) == {"NEWTON"}
    np.testing.assert_allclose(again.variables[0], first.variables[0], atol=1e-12)


def test_what_is_wrong_with_an_executor() -> None:
    with pytest.raises(TypeError, match=r"executor: got int, expected a concurrent\.futures\.Executor"):
        Layer(*_problem(), executor=2)
    for size in (0, True, 2.5):
        with pytest.raises(ValueError, match=f"chunk_size: got {size}, expected a positive integer"):
            Layer(*_problem(), chunk_size=size)
    pool = ThreadPoolExecutor(1)
    layer = Layer(*_problem(), executor=pool)
    pool.shutdown()
    with pytest.raises(ExecutorError, match="ThreadPoolExecutor takes no work"):
        layer.solve(*_values())


def test_layers_travel_without_their_executor_and_are_collected(threads) -> None:
    layer = Layer(*_problem(), executor=threads, chunk_size=4)
    layer.solve(*_values()).vjp(np.ones((24, 4)))
    twin = pickle.loads(pickle.dumps(layer))
    assert twin.executor is None
    np.testing.assert_allclose(twin.solve(*_values()).value, layer.solve(*_values()).value, atol=1e-12)
    token, gone = layer._chunked_solver.tasks.token, weakref.ref(layer)
    assert any(key[0] == token for key in conelayers.layer.workers._KEPT._maps)
    del layer
    gc.collect()
    assert gone() is None
    assert not any(key[0] == token for key in conelayers.layer.workers._KEPT._maps)
