"""Two limits: the solver alone on the same conic data, and one factorization of the reduced KKT matrix at the solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from benchmarks.suite.bare import ClarabelSolver, ScsSolver
from benchmarks.suite.case import Arrays, Case, Model
from benchmarks.suite.conic_form import ConeData, ConicForm
from benchmarks.suite.contenders.contender import Contender, Limit
from benchmarks.suite.reduced import factorizer, reduced_kkt, threads

__all__ = ["CLARABEL", "FACTORIZATION", "SCS"]

DISTINCT = 4  # instances whose reduced KKT matrices are computed; a batch repeats them


def _instances(arrays: Arrays, batched: bool) -> list[Arrays]:
    if not batched:
        return [arrays]
    return [[a[i] for a in arrays] for i in range(len(arrays[0]))]


@final
class Bare(Limit):
    """A solver's set-up and solve, instance by instance, at its default tolerances; the conic data are given."""

    def __init__(self, model: Model, case: Case, solver: Callable[[ConeData], Any]) -> None:
        self._form, self._case, self._solver = ConicForm.compile(model), case, solver

    def inputs(self, arrays: Arrays) -> list[ConeData]:
        return [self._form.data(values) for values in _instances(arrays, self._case.batched)]

    def forward(self, inputs: list[ConeData], warm: bool) -> list[np.ndarray]:
        return [self._solver(data).solve()[0] for data in inputs]

    def arrays(self, outputs: list[np.ndarray]) -> Arrays:
        variables = [self._form.variables(x) for x in outputs]
        return [np.stack(group) for group in zip(*variables, strict=True)] if self._case.batched else variables[0]


@final
class Factorization(Limit):
    """The factorization of one reduced KKT matrix an instance, by LAPACK or QDLDL, whichever is faster for the first."""

    def __init__(self, model: Model, case: Case) -> None:
        self._model, self._case, self._form = model, case, ConicForm.compile(model)
        self._factor: Callable[[Any], Any] | None = None

    def inputs(self, arrays: Arrays) -> list[Any]:
        instances = _instances(arrays, self._case.batched)[:DISTINCT]
        matrices = [reduced_kkt(self._model, self._form, values) for values in instances]
        _, self._factor, convert = factorizer(matrices[0])
        threads(matrices[0])  # for good: this process does nothing else
        converted = [convert(matrix) for matrix in matrices]
        return [converted[i % len(converted)] for i in range(self._case.batch)]

    def forward(self, inputs: list[Any], warm: bool) -> list[Any]:
        for matrix in inputs:
            self._factor(matrix)
        return []

    def arrays(self, outputs: list[Any]) -> Arrays:
        return []


CLARABEL = Contender("clarabel", lambda model, case: Bare(model, case, ClarabelSolver))
SCS = Contender("scs", lambda model, case: Bare(model, case, ScsSolver))
FACTORIZATION = Contender("qdldl", Factorization)
