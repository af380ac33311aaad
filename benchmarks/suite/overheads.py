"""What conelayers adds to the arithmetic: five quantities of its own, each a target of the project."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import final

import cvxpy as cp
import numpy as np
import torch

from benchmarks.suite.case import Case, Model
from benchmarks.suite.conic_form import ConicForm
from benchmarks.suite.families import FAMILIES
from benchmarks.suite.reduced import factorizer, order, reduced_kkt, threads
from benchmarks.suite.summary import Target
from conelayers import Layer
from conelayers.solve.starting_methods import StartingMethod
from conelayers.torch import ConeLayer

__all__ = ["backward_over_factorization", "construction", "engine_overhead", "kept_memory", "simplex_growth"]

torch.set_num_threads(2)


def _case(family: str, size: int, batch: int = 1) -> tuple[Case, Model]:
    case = Case(FAMILIES[family], size, batch)
    return case, case.model()


def _median(function: Callable[[], object], calls: int) -> float:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@final
class Stopwatch:
    """Seconds spent inside the outermost of the watched calls."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def watch(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


@contextmanager
def _watched_routes() -> Iterator[Stopwatch]:
    """All methods' ``start``: the solve that a forward pass contains, whoever does it."""
    watch = Stopwatch()
    originals = {method: method.start for method in StartingMethod.__subclasses__() if "start" in vars(method)}
    for method, start in originals.items():
        method.start = watch.watch(start)
    try:
        yield watch
    finally:
        for method, start in originals.items():
            method.start = start


def engine_overhead() -> Target:
    """A forward pass at B = 1 on a QP with 10 variables, less the time inside the methods' solves."""
    case, model = _case("dense QP", 10)
    stream = case.stream(model)
    found = {}
    for name, solver in (("auto", None), ("Clarabel", "CLARABEL")):
        layer = ConeLayer(model.problem, model.parameters, model.variables, solver=solver)
        rests = []
        with _watched_routes() as watch:
            for step in range(200):
                tensors = [torch.tensor(v[0], requires_grad=True) for v in stream(step, 0)]
                watch.seconds = 0.0
                start = time.perf_counter()
                layer(*tensors)
                rests.append(time.perf_counter() - start - watch.seconds)
        found[name] = float(np.median(rests[20:]))
    measured = ", ".join(f"{value * 1e6:.0f} µs ({name})" for name, value in found.items())
    return Target(
        "adapter and engine at B = 1, 10-variable QP ≤ 300 µs beyond the solve", measured, found["auto"] <= 3e-4
    )


CONSTRUCTED = [
    ("dense QP", 100),
    ("simplex", 10_000),
    ("portfolio", 1000),
    ("SOCP", 500),
    ("SDP", 15),
    ("logistic", 100),
]


def construction() -> Target:
    """The constructor over cvxpy's get_problem_data on a fresh problem, in turn."""
    ratios = {}
    for family, size in CONSTRUCTED:
        own, data = [], []
        for _ in range(5):
            model = _case(family, size)[1]
            own.append(_median(partial(ConeLayer, model.problem, model.parameters, model.variables), 1))
            model = _case(family, size)[1]
            for p in model.parameters:
                p.value = np.ones(p.shape)
            data.append(_median(partial(model.problem.get_problem_data, cp.SCS), 1))
        ratios[f"{family} {size}"] = float(np.median(own) / np.median(data))
    worst = max(ratios, key=ratios.get)
    measured = f"worst {ratios[worst]:.2f}× on {worst}, median {np.median(list(ratios.values())):.2f}×"
    return Target("construction ≤ 3× cvxpy's get_problem_data", measured, ratios[worst] <= 3)


KEPT = [("dense QP", 50, 32), ("dense QP", 100, 8), ("MPC QP", 50, 8)]


def kept_memory() -> Target:
    """What a solution keeps for its backward pass, per instance, over one dense factor of the reduced KKT matrix."""
    ratios = {}
    for family, size, batch in KEPT:
        case, model = _case(family, size, batch)
        layer, stream = Layer(model.problem, model.parameters, model.variables), case.stream(model)
        layer.solve(*stream(0, 0))
        values = stream(1, 0)
        gc.collect()
        tracemalloc.start()
        solution = layer.solve(*values)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] / batch
        tracemalloc.stop()
        del solution
        form = ConicForm.compile(_case(family, size, batch)[1])
        size_of_factor = 8 * order(reduced_kkt(model, form, [v[0] for v in values])) ** 2
        ratios[f"{family} {size}"] = kept / size_of_factor
    measured = ", ".join(f"{value:.2f}× ({name})" for name, value in ratios.items())
    return Target(
        "memory kept per instance ≤ 3× one dense factorization (order² · 8)", measured, max(ratios.values()) <= 3
    )


DIFFERENTIATED = [("dense QP", 100, 1), ("dense QP", 50, 32), ("sparse QP", 5000, 1), ("portfolio", 1000, 1)]


def backward_over_factorization() -> list[Target]:
    """A backward pass that finds Newton's factors, and one that does not, over one factorization."""
    reused, fresh = {}, {}
    for family, size, batch in DIFFERENTIATED:
        case, model = _case(family, size, batch)
        layer, stream = Layer(model.problem, model.parameters, model.variables), case.stream(model)
        cotangents = case.cotangents(model)
        form = ConicForm.compile(_case(family, size, batch)[1])
        matrix = reduced_kkt(model, form, [v[0] for v in stream(0, 0)])
        _, factor, convert = factorizer(matrix)
        converted = convert(matrix)
        times: dict[str, list[float]] = {"factor": [], "reused": [], "fresh": []}
        for step in range(7):
            solution = layer.solve(*stream(step, 0))
            without = replace(solution, _linearization=replace(solution._linearization, parts=()))
            with threads(matrix):
                times["factor"].append(batch * _median(partial(factor, converted), 5))
            times["reused"].append(_median(partial(solution.vjp, *cotangents), 1))
            times["fresh"].append(_median(partial(without.vjp, *cotangents), 1))
        name = f"{family} {size}" + (f", B={batch}" if batch > 1 else "")
        medians = {k: float(np.median(v)) for k, v in times.items()}
        reused[name], fresh[name] = medians["reused"] / medians["factor"], medians["fresh"] / medians["factor"]
    targets = []
    for what, found, limit in (("reused", reused, 0.3), ("not reused", fresh, 1.5)):
        measured = ", ".join(f"{value:.2f}× ({name})" for name, value in found.items())
        met = max(found.values()) <= limit
        targets.append(
            Target(f"backward ≤ {limit:g}× one factorization of the reduced KKT matrix, {what}", measured, met)
        )
    return targets


def simplex_growth() -> Target:
    """Forward and backward on the simplex, 10⁵ over 10³ variables."""
    times = {}
    for n, calls in ((10**3, 15), (10**5, 3)):
        case, model = _case("simplex", n)
        layer = ConeLayer(model.problem, model.parameters, model.variables)
        stream, cotangent = case.stream(model), torch.tensor(case.cotangents(model)[0][0])
        found = []
        for step in range(calls + 1):
            point = torch.tensor(stream(step, 0)[0][0], requires_grad=True)
            start = time.perf_counter()
            layer(point)[0].backward(cotangent)
            found.append(time.perf_counter() - start)
        times[n] = float(np.median(found[1:]))
    ratio = times[10**5] / times[10**3]
    measured = f"{ratio:.0f}× ({times[10**3] * 1e3:.1f} ms to {times[10**5] * 1e3:.0f} ms)"
    return Target("the simplex from n = 10³ to 10⁵ grows at most 150×", measured, ratio <= 150)
