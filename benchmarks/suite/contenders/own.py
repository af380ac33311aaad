"""conelayers, choosing its own route and with each solver forced."""

from __future__ import annotations

from typing import Any, final

import torch

from benchmarks.suite.case import Case, Model
from benchmarks.suite.contenders.contender import Contender
from benchmarks.suite.contenders.torch_layer import TorchLayer
from conelayers.torch import ConeLayer

__all__ = ["AUTO", "CLARABEL", "ECOS", "SCS"]


@final
class Own(TorchLayer):
    """A ConeLayer."""

    warm_starts = True

    def __init__(self, model: Model, solver: str | None) -> None:
        self._layer = ConeLayer(model.problem, model.parameters, model.variables, solver=solver)
        super().__init__(self._layer)

    def call(self, tensors: list[torch.Tensor], warm: bool) -> Any:
        return self._layer(*tensors, warm_start=warm)


def _with(solver: str | None) -> Contender:
    def refuses(model: Model, case: Case) -> str | None:
        semidefinite = any(v.attributes["PSD"] for v in model.variables)
        return "takes no semidefinite cones" if solver == "ECOS" and semidefinite else None

    return Contender("conelayers", lambda model, case: Own(model, solver), refuses)


AUTO, CLARABEL, SCS, ECOS = (_with(solver) for solver in (None, "CLARABEL", "SCS", "ECOS"))
