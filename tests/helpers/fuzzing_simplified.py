"""Random cvxpy problems in cvxpy's own form and simplified: the same points, multipliers and gradients."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzzing import heard, require, within
from fuzzing_problems import ProblemSpec, problems
from hypothesis import strategies as st

from conelayers import CanonicalizationError, Layer, SolveError, Status, Verdict

__all__ = ["SimplifiedSpec", "check_simplified", "simplified_problems"]

_SAME = 1e-8  # relative to the largest entry, where both derivatives are classical
_CONDITIONED = 1e-13  # and for each unit of the condition of J


@dataclass(frozen=True)
class SimplifiedSpec:
    """A problem whose repr is the example."""

    problem: ProblemSpec

    @property
    def kind(self) -> str:
        return self.problem.kind

    @property
    def seed(self) -> int:
        return self.problem.seed


def simplified_problems() -> st.SearchStrategy[SimplifiedSpec]:
    return st.builds(SimplifiedSpec, problem=problems())


def check_simplified(spec: SimplifiedSpec, counts: Counter | None = None) -> None:
    """A Finding where the two forms of a problem differ in what can be read of them."""
    counts = Counter() if counts is None else counts
    with within():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's own
            built = spec.problem.build()
        try:
            with heard():
                small, large = (
                    Layer(built.problem, built.parameters, built.outputs, simplify=h, singular="least_squares")
                    for h in (True, False)
                )
        except CanonicalizationError:
            counts["cvxpy's own reduction fails"] += 1
            return
        sizes = [layer._compiled.structure.n + layer._compiled.structure.m for layer in (small, large)]
        require(sizes[0] <= sizes[1], "size", f"{sizes[0]} rows and columns, not more than {sizes[1]}")
        counts["smaller" if sizes[0] < sizes[1] else "of the same size"] += 1
        ends = [_solved(layer, built.values) for layer in (small, large)]
        status = [end if isinstance(end, Status) else end.status for end in ends]
        if any(isinstance(end, Status) for end in ends):
            require(status[0] is status[1], "status", f"{status[0].value}, and in cvxpy's form {status[1].value}")
            counts[status[0].value] += 1
            return
        _compare(spec, built, ends, counts)


def _solved(layer: Layer, values: list[np.ndarray]) -> Any:
    """The solution, or the status of a failure."""
    try:
        with heard():
            return layer.solve(*values)
    except SolveError as error:
        return error.statuses[0]


def _compare(spec: SimplifiedSpec, built: Any, ends: list[Any], counts: Counter) -> None:
    certificates = [end.certify()[0] for end in ends]
    verdicts = [c.verdict for c in certificates]
    if any(end.status is not Status.SOLVED for end in ends) or {*verdicts} != {Verdict.CLASSICAL}:
        counts[f"{verdicts[0].value}, in cvxpy's form {verdicts[1].value}"] += 1
        return
    condition = max(c.condition for c in certificates)
    tolerance = max(_SAME, _CONDITIONED * condition)
    rng = np.random.default_rng(spec.seed)
    g = [np.asarray(rng.standard_normal(v.shape)) for v in ends[0].variables]
    d = [rng.standard_normal(v.shape) for v in built.values]
    with heard():
        read = [
            {
                "variables and multipliers": end.variables,
                "gradients": end.vjp(*g),
                "tangents": end.jvp(
                    *(
                        0.5 * (h + np.swapaxes(h, -1, -2)) if _mirrored(p) else h
                        for h, p in zip(d, built.parameters, strict=True)
                    )
                ),
            }
            for end in ends
        ]
    for what in read[0]:
        pairs = list(zip(read[0][what], read[1][what], strict=True))
        size = 1 + max((float(np.abs(b).max(initial=0)) for _, b in pairs), default=0.0)
        error = max((float(np.abs(a - b).max(initial=0)) for a, b in pairs), default=0.0) / size
        require(error <= tolerance, what, f"differ by {error:.1e}, condition {condition:.1e}")
    counts["the same where classical"] += 1


def _mirrored(parameter: Any) -> bool:
    return bool(parameter.attributes["symmetric"] or parameter.attributes["PSD"])
