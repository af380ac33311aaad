"""cvxpylayers with diffcp: as it comes, with its dense derivative, and as exact as it goes."""

from __future__ import annotations

from typing import Any

from cvxpylayers.torch import CvxpyLayer

from benchmarks.suite.case import Case, Model
from benchmarks.suite.conic_form import ConicForm
from benchmarks.suite.contenders.contender import Contender
from benchmarks.suite.contenders.torch_layer import TorchLayer

__all__ = ["DEFAULT", "DENSE", "EXACT"]

DENSE_ORDER = 2500  # its dense derivative factors a matrix of order n + m + 1


def _with(**solver_args: Any) -> Contender:
    def build(model: Model, case: Case) -> TorchLayer:
        return TorchLayer(CvxpyLayer(model.problem, model.parameters, model.variables, solver_args=solver_args))

    def refuses(model: Model, case: Case) -> str | None:
        if solver_args.get("mode") != "dense":
            return None
        m, n = ConicForm.compile(model).A.shape
        order = m + n + 1
        return f"its dense matrix would be of order {order}" if order > DENSE_ORDER else None

    return Contender("cvxpylayers", build, refuses)


DEFAULT, DENSE = _with(), _with(mode="dense")
EXACT = _with(mode="dense", eps=1e-9, max_iters=100_000)
