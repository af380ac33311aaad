"""The compiled core of a parametric program: what it is made of, which calls it serves, and how they are put to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from conelayers.core import Affine, Core, Model, Output, Parameter, Solutions
from conelayers.problem.parameters import Batch
from conelayers.problem.parametric import ParametricProgram
from conelayers.solve.warm_start import WarmStart
from conelayers.support.limits import remaining

__all__ = ["CompiledCore", "model_of"]

# Multiplications of the batch's factorizations from which a second thread pays: waking it costs some 20 µs.
_WORTH_A_THREAD = 3e5
# Bytes up to which the factors of a batch are kept for the derivative. Beyond, derivatives factor once more, and agree
# to rounding.
_MOST_KEPT = 2**26


def model_of(compiled: ParametricProgram) -> Model:
    """The program as the core's arrays."""
    structure = compiled.structure
    P, A = ((pattern.indptr, pattern.indices) for pattern in (structure.P, structure.A))
    return Model.of(
        (structure.n, structure.m, structure.cones.zero),
        P,
        A,
        [Parameter(spec.shape, spec.offset) for spec in compiled.parameters],
        [Affine(h.constant, h.rows, h.linear) for h in (compiled.P, compiled.q, compiled.A, compiled.b)],
        [Output(o.shape, o.primal, o.matrix) for o in compiled.outputs],
        [] if structure.inert is None else np.flatnonzero(structure.inert.columns).tolist(),
    )


@final
class CompiledCore:
    """The core of one program: a batch's values in, points and outputs or derivatives out, each in one call."""

    def __init__(self, compiled: ParametricProgram) -> None:
        self.core = Core(model_of(compiled))
        self.shapes = [o.shape for o in compiled.outputs]
        ends = np.cumsum([o.matrix.shape[0] for o in compiled.outputs], dtype=np.int64).tolist()
        self.columns = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self.outputs = ends[-1] if ends else 0
        self._bytes = self.core.workspace_bytes

    @staticmethod
    def of(compiled: ParametricProgram) -> CompiledCore | None:
        """The core of a program with linear constraints and real data; None for others."""
        linear = compiled.structure.cones.kinds <= {"zero", "nonneg"}
        if not linear or compiled.gp or compiled.structure.void is not None:
            return None
        return CompiledCore(compiled)

    def threads(self, batch: int, most: int) -> int:
        """How many of up to ``most`` threads a batch's work is worth; no result depends on it."""
        return max(1, min(most, int(batch * self.core.work / _WORTH_A_THREAD)))

    def solve(self, batch: Batch, most_threads: int, start: WarmStart | None) -> Solutions:
        """The points of a batch, from those of ``start`` if every instance has one, within the call's time limit."""
        seconds, points = remaining(), None
        if start is not None and start.usable.all():
            points = start.x, start.y, start.s
        return self.core.solve(
            batch.values,
            batch.size,
            start=points,
            threads=self.threads(batch.size, most_threads),
            max_seconds=None if seconds == np.inf else max(0.0, seconds),
            keep=batch.size * self._bytes <= _MOST_KEPT,
        )

    def variables(self, outputs: np.ndarray) -> list[np.ndarray]:
        """The outputs (B, *shape) of their entries side by side."""
        batch = len(outputs)
        if len(self.shapes) == 1:
            return [outputs.reshape(batch, *self.shapes[0])]
        return [
            np.ascontiguousarray(outputs[:, columns]).reshape(batch, *shape)
            for columns, shape in zip(self.columns, self.shapes, strict=True)
        ]

    def side_by_side(self, parts: Sequence[np.ndarray | None], batch: int) -> np.ndarray:
        """The entries (B, ·) of arrays (B, *shape), one for each output; None for zero."""
        if len(parts) == 1 and parts[0] is not None:
            return np.ascontiguousarray(parts[0], dtype=np.float64).reshape(batch, -1)
        flat = np.zeros((batch, self.outputs))
        for part, columns in zip(parts, self.columns, strict=True):
            if part is not None:
                flat[:, columns] = part.reshape(batch, -1)
        return flat
