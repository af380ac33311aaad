"""Warm starts: a layer that is called again with moved parameters answers as one that starts cold."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzzing import heard, require, within
from fuzzing_geometric import GeometricSpec, geometric_programs
from fuzzing_problems import ProblemSpec, problems
from hypothesis import strategies as st

from conelayers import CanonicalizationError, Layer, SolveError, Status
from conelayers.layer.solution import LayerSolution

__all__ = ["WarmSpec", "check_warm", "warm_starts"]


@dataclass(frozen=True)
class WarmSpec:
    """A problem, and where its parameters go, so that its repr is the example.

    steps: the parts of the way from the problem's own values of its parameters to others, one for each call. batch: 0,
    or how many instances a call has, each a little further.
    """

    problem: ProblemSpec | GeometricSpec
    steps: tuple[float, ...]
    batch: int


def warm_starts() -> st.SearchStrategy[WarmSpec]:
    """Two to four calls: the same again, moves too small to see, small ones, and all of the way."""
    step = st.sampled_from((0.0, 0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.3, 1.0))
    return st.builds(
        WarmSpec,
        problem=st.one_of(problems(("feasible",)), problems(("feasible",)), geometric_programs(("feasible",))),
        steps=st.lists(step, min_size=2, max_size=4).map(tuple),
        batch=st.sampled_from((0, 0, 3)),
    ).filter(lambda spec: bool(spec.problem.parameters))


def check_warm(spec: WarmSpec, counts: Counter | None = None) -> None:
    """A Finding where a warm call has another status, another value, or, where the solution is unique, another point
    than a cold one.
    """
    counts = Counter() if counts is None else counts
    with within():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's own
            built = spec.problem.build()
        if not built.values:
            counts["no parameters are left"] += 1
            return
        try:
            with heard():
                layer = Layer(built.problem, built.parameters, built.outputs, gp=built.gp, warm_start=True)
        except CanonicalizationError:
            counts["cvxpy's own reduction fails"] += 1
            return
        others = built.redrawn(np.random.default_rng(spec.problem.seed + 2))
        for step in spec.steps:
            parts = step * np.linspace(1, 1.1, spec.batch) if spec.batch else np.array(step)
            values = [
                (1 - p) * v + p * w for v, w in zip(built.values, others, strict=True) for p in (_wide(parts, v),)
            ]
            warm, cold = (_attempt(layer, values, start) for start in (True, False))
            _check_call(warm, cold, counts)


def _wide(parts: np.ndarray, value: np.ndarray) -> np.ndarray:
    """With an axis for each of the value's."""
    return parts.reshape(parts.shape + (1,) * value.ndim) if parts.ndim else parts


def _attempt(layer: Layer, values: list[np.ndarray], warm: bool) -> tuple[LayerSolution | None, list[Status]]:
    try:
        with heard():
            solution = layer.solve(*values, warm_start=warm)
    except SolveError as error:
        return None, list(error.statuses)
    return solution, [solution.status] if isinstance(solution.status, Status) else list(solution.status)


def _check_call(
    warm: tuple[LayerSolution | None, list[Status]], cold: tuple[LayerSolution | None, list[Status]], counts: Counter
) -> None:
    (ours, told), (theirs, said) = warm, cold
    for a, b in zip(told, said, strict=True):
        counts[f"cold: {b.value}"] += 1
        if b in (Status.FAILED, Status.ITERATION_LIMIT, Status.INACCURATE):
            continue
        require(a is b, "status", f"{a.value} warm, {b.value} cold")
    if ours is None or theirs is None or set(told + said) != {Status.SOLVED}:
        return
    with heard():
        certificates = theirs.certify()
    values = [np.atleast_1d(np.asarray(h.value, dtype=float)) for h in (ours, theirs)]
    for i, certificate in enumerate(certificates):
        v, w = values[0][i], values[1][i]
        require(abs(v - w) <= 1e-6 * (1 + abs(w)), "value", f"{v!r} warm, {w!r} cold")
        if not certificate.verdict.justified:
            counts[f"verdict: {certificate.verdict.value}"] += 1
            continue
        exact = max(1e-7, 1e-10 * (certificate.condition if certificate.nullity == 0 else 1e4))
        for one, other in zip(_instance(ours, i, len(told)), _instance(theirs, i, len(told)), strict=True):
            error, size = float(np.abs(one - other).max(initial=0)), 1 + float(np.abs(other).max(initial=0))
            require(
                error <= exact * size,
                "same point",
                f"off by {error:.1e}, size {size:.1e}, condition {certificate.condition:.1e}",
            )
        counts["the same point"] += 1


def _instance(solution: LayerSolution, i: int, count: int) -> list[Any]:
    """The variables of an instance, where it is one of several."""
    batched = solution.x.ndim == 2
    return [h[i] if batched else h for h in solution.variables]
