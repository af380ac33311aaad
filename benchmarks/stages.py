"""Where the engine's own time goes, stage by stage: ``python -m benchmarks.stages`` (a minute; --families like benchmarks.run).

Each stage's function is timed from outside, the medians over the calls are shown in ms. What is not listed (the unpacking of
parameters, the making of results) is in "other".
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import conelayers.derivatives.linearization
import conelayers.layer.layer
import conelayers.problem.parametric
import conelayers.solve.batch
import conelayers.solve.progress
from benchmarks.suite.case import Case
from benchmarks.suite.families import FAMILIES
from conelayers import Layer

CALLS = 9
CASES = [
    ("dense QP", 10, 1), ("dense QP", 10, 128), ("dense QP", 50, 32), ("dense QP", 100, 1), ("simplex", 1000, 1),
    ("simplex", 100_000, 1), ("portfolio", 2000, 1), ("sparse QP", 5000, 1), ("MPC QP", 20, 1), ("SOCP", 500, 1),
    ("correlation", 20, 1), ("SDP", 15, 1), ("logistic", 100, 1), ("entropy", 50, 1), ("LP assignment", 12, 1),
]  # fmt: skip
STAGES: list[tuple[str, Any, str]] = [
    ("parameters", conelayers.problem.parametric.ParametricProgram, "program"),
    ("equilibrate", conelayers.solve.batch, "equilibrate_program"),
    ("presolve", conelayers.solve.batch, "presolve"),
    ("start + Newton", conelayers.solve.progress.Progress, "try_method"),
    ("of it Newton", conelayers.solve.progress, "polish"),
    ("extend", conelayers.solve.batch, "_whole_point"),
    ("judge", conelayers.solve.batch, "judge"),
    ("forward", Layer, "solve"),
    ("linear solves", conelayers.derivatives.linearization.Linearization, "adjoint"),
    ("data gradients", conelayers.problem.parametric.ParametricProgram, "adjoint"),
    ("backward", conelayers.layer.layer.LayerSolution, "vjp"),
]
_WITHIN_FORWARD = ("parameters", "equilibrate", "presolve", "start + Newton", "extend", "judge")


def _watched(name: str, function: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return call


def stages(case: Case, calls: int = CALLS) -> dict[str, float]:
    """Median seconds of each stage over the calls, each at parameter values of its own."""
    model = case.model()
    layer = Layer(model.problem, model.parameters, model.variables)
    index: Any = slice(None) if case.batched else 0
    values = [[v[index] for v in case.values(model, step)] for step in range(calls + 1)]
    cotangents = [g[index] for g in case.cotangents(model)]
    layer.solve(*values[-1]).vjp(*cotangents)
    spent: dict[str, float] = defaultdict(float)
    originals = [getattr(owner, attribute) for _, owner, attribute in STAGES]
    rounds = []
    try:
        for (name, owner, attribute), original in zip(STAGES, originals, strict=True):
            setattr(owner, attribute, _watched(name, original, spent))
        for value in values[:-1]:
            spent.clear()
            layer.solve(*value).vjp(*cotangents)
            rounds.append(dict(spent))
    finally:
        for (_, owner, attribute), original in zip(STAGES, originals, strict=True):
            setattr(owner, attribute, original)
    return {name: statistics.median(r.get(name, 0.0) for r in rounds) for name, _, _ in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", help="beginnings of names, separated by commas")
    chosen = parser.parse_args().families
    prefixes = tuple(chosen.split(",")) if chosen else ("",)
    names = [name for name, _, _ in STAGES]
    print(f"{'ms':24}" + "".join(f"{name:>16}" for name in [*names, "other forward"]))
    for family, size, batch in CASES:
        if family.startswith(prefixes):
            spent = stages(Case(FAMILIES[family], size, batch))
            spent["other forward"] = spent["forward"] - sum(spent[name] for name in _WITHIN_FORWARD)
            print(
                f"{f'{family} {size}, B={batch}':24}" + "".join(f"{1e3 * s:16.2f}" for s in spent.values()), flush=True
            )


if __name__ == "__main__":
    main()
