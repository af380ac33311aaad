"""proxsuite's QPLayer: dense QPs by an augmented Lagrangian method."""

from __future__ import annotations

import torch
from proxsuite.torch.qplayer import QPFunction

from benchmarks.suite.case import Case, Model
from benchmarks.suite.contenders.contender import Contender, no_dense
from benchmarks.suite.contenders.stacked_qp import TorchQP
from benchmarks.suite.contenders.torch_layer import TorchLayer

__all__ = ["QPLAYER"]

UNBOUNDED = -1e20  # what proxsuite takes for −∞


def _build(model: Model, case: Case) -> TorchLayer:
    """As it comes: ε = 1e−9 forward, 1e−4 backward. It returns whatever its last iterate is."""
    solve = QPFunction()
    data = TorchQP(model.quadratic, case)

    def layer(*tensors: torch.Tensor) -> list[torch.Tensor]:
        P, q, A, b, G, h = data.dense(tensors)
        x, *_ = solve(P, q, A, b, G, torch.full_like(h, UNBOUNDED), h)
        return data.recover(x)

    return TorchLayer(layer)


QPLAYER = Contender("proxsuite", _build, no_dense)
