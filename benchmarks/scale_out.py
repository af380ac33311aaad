"""What executors cost and bring: ``python -m benchmarks.scale_out [--json FILE]``.

A training step (forward and backward of a batch) in this process, on one worker and on two, for process pools and a Dask cluster on
this machine; all of them take turns, medians over rounds. Efficiency is the time on one worker over twice that on two. The overhead of
a chunk is measured with an executor that only pickles. The gradients of all are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import cvxpy as cp
import numpy as np

from conelayers import Layer

ROUNDS = 7


def _soc(batch: int) -> tuple[Any, list[np.ndarray]]:
    """A second-order cone program with 60 variables and a matrix as parameter."""
    rng = np.random.default_rng(0)
    x, A, r = cp.Variable(60), cp.Parameter((40, 60)), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.norm(A @ x - 1) + 0.1 * cp.sum_squares(x)), [cp.norm(x) <= r, x >= -0.1])
    return (problem, [A, r], [x]), [rng.standard_normal((batch, 40, 60)), 0.5 + rng.random(batch)]


def _sdp(batch: int) -> tuple[Any, list[np.ndarray]]:
    """The nearest correlation matrix of order 15."""
    rng = np.random.default_rng(0)
    X, C = cp.Variable((15, 15), PSD=True), cp.Parameter((15, 15), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1])
    values = rng.standard_normal((batch, 15, 15))
    return (problem, [C], [X]), [values + values.transpose(0, 2, 1)]


class _Pickled(Executor):
    """Runs here what was pickled, and counts the bytes both ways."""

    def __init__(self) -> None:
        self.sent = self.received = self.calls = 0
        self.seconds = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        start = time.perf_counter()
        data = pickle.dumps((fn, args, kwargs))
        fn, args, kwargs = pickle.loads(data)
        middle = time.perf_counter()
        result = fn(*args, **kwargs)
        end = time.perf_counter()
        back = pickle.dumps(result)
        future: Future[Any] = Future()
        future.set_result(pickle.loads(back))
        self.sent, self.received, self.calls = self.sent + len(data), self.received + len(back), self.calls + 1
        self.seconds += time.perf_counter() - end + middle - start
        return future


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def _dask(workers: int) -> Iterator[Executor]:
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        yield client.get_executor()


def _step(layer: Layer, values: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    solution = layer.solve(*values)
    return solution.vjp(solution.variables[0])


def measure(arguments: Any, values: list[np.ndarray], chunk: int) -> dict[str, Any]:
    """The times of a step by each, and what a chunk costs."""
    batch = len(values[0])
    options = {"solver_args": {"n_jobs_forward": 1, "n_jobs_backward": 1}}
    with ExitStack() as stack:
        layers = {"here": Layer(*arguments, **options)}
        for name, make in (("processes", _pool), ("dask", _dask)):
            for workers in (1, 2):
                executor = stack.enter_context(make(workers))
                layers[f"{name}, {workers}"] = Layer(*arguments, executor=executor, chunk_size=chunk, **options)
        exact = _step(layers["here"], values)
        times: dict[str, list[float]] = {name: [] for name in layers}
        error = 0.0
        for round_ in range(ROUNDS + 2):
            for name, layer in layers.items():
                start = time.perf_counter()
                got = _step(layer, values)
                if round_ >= 2:  # before that, workers start and take the layer
                    times[name].append(time.perf_counter() - start)
                error = max(error, *(float(np.abs(a - b).max()) for a, b in zip(got, exact, strict=True)))
    pickled = _Pickled()
    counted = Layer(*arguments, executor=pickled, chunk_size=chunk, **options)
    for _ in range(3):
        _step(counted, values)
    return {
        "batch": batch,
        "chunk": chunk,
        "seconds": {name: statistics.median(t) for name, t in times.items()},
        "gradient_error": error,
        "bytes_per_instance": (pickled.sent + pickled.received) / (3 * batch),
        "pickling_seconds_per_chunk": pickled.seconds / pickled.calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the figures here")
    path = parser.parse_args().json
    found = {}
    for name, make in (("SOC, 60 variables, A a parameter", _soc), ("SDP, order 15", _sdp)):
        found[name] = measure(*make(256), chunk=32)
        row = found[name]
        print(f"{name}: batch {row['batch']}, chunks of {row['chunk']}, gradients agree to {row['gradient_error']:.0e}")
        seconds = row["seconds"]
        for who, t in seconds.items():
            kind, _, workers = who.partition(", ")
            gain = f", efficiency {seconds[f'{kind}, 1'] / (2 * t):.0%}" if workers == "2" else ""
            print(f"  {who:13s} {1e3 * t:8.1f} ms ({t / seconds['here']:.2f} x here{gain})")
        print(
            f"  {row['bytes_per_instance'] / 1e3:.1f} kB per instance and step, "
            f"{1e3 * row['pickling_seconds_per_chunk']:.2f} ms of pickling for each chunk's message"
        )
    if path:
        with open(path, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
