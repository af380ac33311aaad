"""What the core is made of, as arrays: patterns, cones, θ ↦ (P, q, A, b), and (x, y) ↦ outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import scipy.sparse as sp

__all__ = ["Affine", "Model", "Output", "Parameter"]


@final
class Affine(NamedTuple):
    """values = constant, and values[rows] += linear θ: θ has the parameters side by side, each column by column."""

    constant: np.ndarray
    rows: np.ndarray
    linear: sp.csr_array


@final
class Output(NamedTuple):
    """matrix·x (``primal``) or matrix·y, the entries of an array of this shape column by column."""

    shape: tuple[int, ...]
    primal: bool
    matrix: sp.csr_array


@final
class Parameter(NamedTuple):
    """The shape of a parameter, and where its entries begin in θ."""

    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


@final
class Terms(NamedTuple):
    """value[k] = constant[k] + Σ coefficient · source[offset], over the terms start[k] … start[k + 1] − 1."""

    constant: np.ndarray
    start: np.ndarray
    source: np.ndarray
    offset: np.ndarray
    coefficient: np.ndarray

    @classmethod
    def of(cls, constant: np.ndarray, matrix: sp.csr_array, source: np.ndarray, offset: np.ndarray) -> Terms:
        """Those of a matrix, whose columns are the entries ``offset`` of ``source``."""
        start, of, at = (
            np.array(h, dtype=np.int32) for h in (matrix.indptr, source[matrix.indices], offset[matrix.indices])
        )
        return cls(np.array(constant, float), start, of, at, np.array(matrix.data, float))


@final
@dataclass(frozen=True)
class Model:
    """Arrays only, which pickle: patterns of P (full symmetric) and A by columns; ``zero`` equalities, then
    inequalities.

    data_terms: the values of P (by columns), q, A (by rows) and b, one after the other. output_terms: source 0 is x,
    1 is y. Both number the entries of arrays row by row, as frameworks keep them.
    inert: auxiliary columns on which nothing depends where no row of theirs is active (program/inert.py).
    """

    n: int
    m: int
    zero: int
    P: tuple[np.ndarray, np.ndarray]
    A: tuple[np.ndarray, np.ndarray]
    parameters: tuple[Parameter, ...]
    outputs: tuple[tuple[int, ...], ...]
    data_terms: Terms
    output_terms: Terms
    inert: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        size: tuple[int, int, int],
        P: tuple[np.ndarray, np.ndarray],
        A: tuple[np.ndarray, np.ndarray],
        parameters: Sequence[Parameter],
        maps: Sequence[Affine],
        outputs: Sequence[Output],
        inert: Sequence[int] = (),
    ) -> Model:
        """size: n, m, zero. P, A: (indptr, indices). maps: those to the values of P, q, A and b."""
        n, m, zero = size
        count = sum(p.size for p in parameters)
        source, offset = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        for k, parameter in enumerate(parameters):
            columns = slice(parameter.offset, parameter.offset + parameter.size)
            source[columns] = k
            offset[columns] = _by_rows(parameter.shape)
        blocks = []
        for affine in maps:
            spread = sp.csr_array(
                (np.ones(affine.rows.size), (affine.rows, np.arange(affine.rows.size))),
                shape=(affine.constant.size, affine.rows.size),
            )
            blocks.append(sp.csr_array(spread @ affine.linear))
        # The core has A by rows.
        by_rows = np.argsort(A[1], kind="stable")
        blocks[2] = blocks[2][by_rows]
        constants = [a.constant if k != 2 else a.constant[by_rows] for k, a in enumerate(maps)]
        data = Terms.of(np.concatenate(constants), sp.csr_array(sp.vstack(blocks)), source, offset)
        of_point = np.concatenate([np.zeros(n, dtype=np.int64), np.ones(m, dtype=np.int64)])
        at = np.concatenate([np.arange(n), np.arange(m)])
        parts = [_output_rows(output, n, m) for output in outputs]
        matrix = sp.csr_array(sp.vstack(parts)) if parts else sp.csr_array((0, n + m))
        taken = Terms.of(np.zeros(matrix.shape[0]), matrix, of_point, at)
        shapes = tuple(tuple(output.shape) for output in outputs)
        patterns = _integers(P), _integers(A)
        return cls(n, m, zero, *patterns, tuple(parameters), shapes, data, taken, tuple(inert))


def _integers(pattern: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    start, index = (np.array(h, dtype=np.int32) for h in pattern)
    return start, index


def _by_rows(shape: tuple[int, ...]) -> np.ndarray:
    """Where each entry, column by column, is in an array that is kept row by row."""
    return np.arange(math.prod(shape)).reshape(shape).ravel(order="F")


def _output_rows(output: Output, n: int, m: int) -> sp.csr_array:
    rows = np.empty(math.prod(output.shape), dtype=np.int64)
    rows[_by_rows(output.shape)] = np.arange(rows.size)
    matrix = sp.csr_array(output.matrix)[rows]
    none = sp.csr_array((matrix.shape[0], m if output.primal else n))
    return sp.csr_array(sp.hstack([matrix, none] if output.primal else [none, matrix]))
