"""The compiled core of a layer, and what it gives beside what the package's engine gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from conelayers import Layer
from conelayers.core import Affine, Core, Model, Output, Parameter
from conelayers.layer.compiled_core import model_of
from conelayers.program.cone_program import ConeProgram


def core_of(layer: Layer, level: str | None = None) -> Core:
    return Core(model_of(layer._compiled), level)


@dataclass(frozen=True)
class BareProgram:
    """A cone program whose data are the parameters, as a core and in arrays."""

    core: Core
    theta: list[np.ndarray]
    batch: int

    @classmethod
    def of(cls, program: ConeProgram, level: str | None = None) -> BareProgram:
        structure = program.structure
        sizes = [structure.P.nnz, structure.n, structure.A.nnz, structure.m]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        parameters = [Parameter((k,), int(at)) for k, at in zip(sizes, offsets[:-1], strict=True)]
        maps = []
        for k, at in zip(sizes, offsets[:-1], strict=True):
            linear = selection(np.arange(at, at + k), int(offsets[-1]))
            maps.append(Affine(np.zeros(k), np.arange(k), linear))
        outputs = [Output((structure.n,), True, selection(np.arange(structure.n), structure.n))]
        P, A = ((pattern.indptr, pattern.indices) for pattern in (structure.P, structure.A))
        model = Model.of((structure.n, structure.m, structure.cones.zero), P, A, parameters, maps, outputs)
        P_values, A_values = (
            np.ascontiguousarray(h if h.shape[0] > 1 or program.batch == 1 else h[0]) for h in (program.P, program.A)
        )
        theta = [P_values, np.ascontiguousarray(program.q), A_values, np.ascontiguousarray(program.b)]
        return cls(Core(model, level), theta, program.batch)


def selection(columns: np.ndarray, width: int) -> sp.csr_array:
    return sp.csr_array((np.ones(columns.size), columns, np.arange(columns.size + 1)), shape=(columns.size, width))


def contiguous(values: Sequence) -> list[np.ndarray]:
    return [np.ascontiguousarray(v, dtype=float) for v in values]
