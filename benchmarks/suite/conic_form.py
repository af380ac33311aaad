"""The cone program of a cvxpy problem as an affine function of its parameters, read off cvxpy's own compilation.

minimize ½ xᵀPx + qᵀx subject to Ax + s = b, s ∈ K, in SCS's order of the cones. Written for the reference and for
contenders that take conic data; it shares nothing with conelayers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from benchmarks.suite.case import Arrays, Model

__all__ = ["ConeData", "ConeDims", "ConicForm"]


@final
@dataclass(frozen=True)
class ConeDims:
    """Rows of each kind of cone, in this order; semidefinite ones by their order, exponential ones by their number."""

    zero: int
    nonneg: int
    soc: tuple[int, ...]
    psd: tuple[int, ...]
    exponential: int

    @property
    def smooth_start(self) -> int:
        """The first row that is not of a zero or nonnegative cone."""
        return self.zero + self.nonneg


@final
@dataclass(frozen=True)
class ConeData:
    """One instance; P is the full symmetric matrix."""

    P: sp.csc_array
    q: np.ndarray
    A: sp.csc_array
    b: np.ndarray
    dims: ConeDims


@final
@dataclass(frozen=True)
class Stored:
    """A matrix whose stored entries, in CSC order, are an affine function of the parameters."""

    shape: tuple[int, int]
    rows: np.ndarray
    cols: np.ndarray
    affine: sp.csr_array

    @classmethod
    def of(
        cls, shape: tuple[int, int], position: np.ndarray, columns: np.ndarray, data: np.ndarray, width: int
    ) -> Stored:
        """From triplets: the entry at i + j·(number of rows) is data times the parameter of that column."""
        keys, inverse = np.unique(position, return_inverse=True)
        affine = sp.csr_array(sp.coo_array((data, (inverse, columns)), shape=(keys.size, width)))
        height = max(shape[0], 1)
        return cls(shape, keys % height, keys // height, affine)

    def matrix(self, theta: np.ndarray) -> sp.csc_array:
        entries = (self.affine @ theta, (self.rows, self.cols))
        return sp.csc_array(sp.coo_array(entries, shape=self.shape))


@final
@dataclass(frozen=True)
class ConicForm:
    """θ ↦ (P, q, A, b), where θ is all parameters, column-major one after the other, and then 1."""

    P: Stored
    A: Stored
    q: sp.csr_array
    b: sp.csr_array
    dims: ConeDims
    shapes: list[tuple[int, ...]]
    columns: list[int]
    recovery: list[tuple[sp.csr_array, tuple[int, ...]]]

    @classmethod
    def compile(cls, model: Model) -> ConicForm:
        for p in model.parameters:
            p.value = np.ones(p.shape)
        program = model.problem.get_problem_data(cp.SCS, enforce_dpp=True)[0]["param_prob"]
        bounds = [h for h in (program.lower_bounds, program.upper_bounds) if h is not None]
        if program.dir_cones or any(np.isfinite(h).any() for h in bounds):
            raise ValueError("cvxpy left constraints outside of Ax + s = b")
        n, m, width = program.x.size, program.constr_size, program.total_param_size + 1
        stored = sp.coo_array(program.A)
        position = stored.row.astype(np.int64)
        in_A = position < m * n
        A = Stored.of((m, n), position[in_A], stored.col[in_A], -stored.data[in_A], width)
        b_entries = (stored.data[~in_A], (position[~in_A] - m * n, stored.col[~in_A]))
        b = sp.csr_array(sp.coo_array(b_entries, shape=(m, width)))
        if program.P is None:
            P = Stored.of((n, n), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), width)
        else:
            entries = sp.coo_array(program.P)
            i, j = entries.row.astype(np.int64) % n, entries.row.astype(np.int64) // n
            twice = np.concatenate([entries.col, entries.col]), np.concatenate([entries.data, entries.data]) / 2
            P = Stored.of((n, n), np.concatenate([i + n * j, j + n * i]), *twice, width)
        dims = program.cone_dims
        if dims.p3d:
            raise ValueError("power cones are not in the suite")
        return cls(
            P=P,
            A=A,
            q=sp.csr_array(program.q)[:n],
            b=b,
            dims=ConeDims(int(dims.zero), int(dims.nonneg), tuple(dims.soc), tuple(dims.psd), int(dims.exp)),
            shapes=[p.shape for p in model.parameters],
            columns=[program.param_id_to_col[p.id] for p in model.parameters],
            recovery=[_recovery(v, program) for v in model.variables],
        )

    def flat(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """θ of one instance."""
        theta = np.ones(self.q.shape[1])
        for value, column in zip(values, self.columns, strict=True):
            theta[column : column + value.size] = value.ravel(order="F")
        return theta

    def data(self, values: Sequence[np.ndarray]) -> ConeData:
        theta = self.flat(values)
        return ConeData(self.P.matrix(theta), self.q @ theta, self.A.matrix(theta), self.b @ theta, self.dims)

    def variables(self, x: np.ndarray) -> Arrays:
        return [(matrix @ x).reshape(shape, order="F") for matrix, shape in self.recovery]

    def replaced(self, x: np.ndarray, variables: Arrays) -> np.ndarray:
        """x with these variables in it; of a symmetric one, the mean of its two triangles."""
        x = x.copy()
        for (matrix, _), value in zip(self.recovery, variables, strict=True):
            count = matrix.sum(axis=0)
            x[count > 0] = (matrix.T @ value.ravel(order="F"))[count > 0] / count[count > 0]
        return x

    def cotangent(self, cotangents: Sequence[np.ndarray]) -> np.ndarray:
        """The adjoint of ``variables``."""
        pairs = zip(self.recovery, cotangents, strict=True)
        return sum((matrix.T @ g.ravel(order="F") for (matrix, _), g in pairs), np.zeros(self.q.shape[0]))

    def gradients(self, x: np.ndarray, y: np.ndarray, lam: np.ndarray, mu: np.ndarray) -> Arrays:
        """The adjoint of ``data`` at dP = −½(λxᵀ + xλᵀ), dq = −λ, dA = −yλᵀ + μxᵀ, db = −μ."""
        i, j = self.P.rows, self.P.cols
        total = self.P.affine.T @ (-0.5 * (lam[i] * x[j] + x[i] * lam[j]))
        i, j = self.A.rows, self.A.cols
        total = total + self.A.affine.T @ (mu[i] * x[j] - y[i] * lam[j]) - self.q.T @ lam - self.b.T @ mu
        return [
            total[column : column + int(np.prod(shape))].reshape(shape, order="F")
            for shape, column in zip(self.shapes, self.columns, strict=True)
        ]


def _recovery(variable: cp.Variable, program: Any) -> tuple[sp.csr_array, tuple[int, ...]]:
    """x ↦ the variable, column-major; a symmetric one is stored by its upper triangle, row-major."""
    start, n = program.var_id_to_col[variable.id], program.x.size
    index = np.arange(variable.size)
    if any(variable.attributes[a] for a in ("symmetric", "PSD", "NSD")):
        order = variable.shape[0]
        square = np.zeros((order, order), dtype=np.int64)
        upper = np.triu_indices(order)
        square[upper] = np.arange(upper[0].size)
        index = np.maximum(square, square.T).ravel(order="F")
    entries = (np.ones(variable.size), (np.arange(variable.size), start + index))
    return sp.csr_array(sp.coo_array(entries, shape=(variable.size, n))), variable.shape
