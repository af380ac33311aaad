"""A parametric program's linear maps in a framework's own operations, which its transformations differentiate.

The arrays here are tensors of torch or arrays of JAX; ``Operations`` is what a framework has to provide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import scipy.sparse as sp

from conelayers.layer.projection_derivatives import ProgramProjection
from conelayers.numerics.cones import Selection
from conelayers.problem.parameters import ParameterSpec
from conelayers.problem.parametric import AffineMap, OutputSpec, ParametricProgram
from conelayers.program.data_gradients import A_gradient, P_gradient, b_gradient, q_gradient
from conelayers.program.patterns import Pattern

__all__ = ["Operations", "TracedProgram"]

Array = Any  # of the framework


class Operations(Protocol):
    """A framework's operations on arrays (B, ·) and (..., m)."""

    def constant(self, array: np.ndarray) -> Array:
        """The array as a constant of the framework that belongs to no transformation under way."""

    def take(self, h: Array, index: Array) -> Array:
        """h[:, index]."""

    def scatter(self, values: Array, target: Array, size: int) -> Array:
        """(B, size) with out[:, target] += values."""

    def log_where(self, mask: Array, h: Array) -> Array:
        """log h where the mask holds, zero elsewhere, with a derivative that is zero there too."""

    def exp(self, h: Array) -> Array:
        """eʰ entry by entry; the derivative at NaN is 1, so that gradients elsewhere do not become NaN."""

    def join(self, a: Array, b: Array) -> Array:
        """(B, p + q) from (B, p) and (B, q)."""

    def unflatten(self, flat: Array, shape: tuple[int, ...]) -> Array:
        """(B, *shape) from (B, size), column by column."""


@final
@dataclass(frozen=True)
class _Sparse:
    """A constant sparse matrix, given by its entries."""

    ops: Operations
    rows: Array
    cols: Array
    data: Array
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, ops: Operations, rows: np.ndarray, cols: np.ndarray, data: np.ndarray, shape: tuple[int, int]
    ) -> _Sparse:
        return cls(ops, _index(ops, rows), _index(ops, cols), _constant(ops, data), shape)

    def times(self, h: Array) -> Array:
        """(B, rows) from (B, cols)."""
        return self.ops.scatter(self.ops.take(h, self.cols) * self.data, self.rows, self.shape[0])

    def transposed_times(self, h: Array) -> Array:
        """(B, cols) from (B, rows)."""
        return self.ops.scatter(self.ops.take(h, self.rows) * self.data, self.cols, self.shape[1])


def _index(ops: Operations, array: np.ndarray) -> Array:
    return ops.constant(np.array(array, dtype=np.int64))


def _constant(ops: Operations, array: np.ndarray) -> Array:
    return ops.constant(np.array(array, dtype=np.float64))


@final
@dataclass(frozen=True)
class _Affine:
    """An AffineMap in the framework's arrays; the rows of its matrix are the positions of the entries."""

    constant: Array
    matrix: _Sparse

    @classmethod
    def of(cls, ops: Operations, affine: AffineMap) -> _Affine:
        coo = affine.linear.tocoo()
        rows = affine.rows[coo.row] if coo.nnz else coo.row
        shape = (affine.constant.size, affine.linear.shape[1])
        return cls(_constant(ops, affine.constant), _Sparse.of(ops, rows, coo.col, coo.data, shape))


@final
@dataclass(frozen=True)
class _Entries:
    """The rows and columns of a pattern's entries, for products with matrices of that pattern."""

    ops: Operations
    rows: Array
    cols: Array
    shape: tuple[int, int]

    @classmethod
    def of(cls, ops: Operations, pattern: Pattern) -> _Entries:
        return cls(ops, _index(ops, pattern.rows), _index(ops, pattern.cols), pattern.shape)

    def times(self, values: Array, h: Array) -> Array:
        """M h for values (B, nnz) and h (B, cols)."""
        return self.ops.scatter(values * self.ops.take(h, self.cols), self.rows, self.shape[0])

    def transposed_times(self, values: Array, h: Array) -> Array:
        """Mᵀh for values (B, nnz) and h (B, rows)."""
        return self.ops.scatter(values * self.ops.take(h, self.rows), self.cols, self.shape[1])

    def outer(self, left: Array, right: Array) -> Array:
        """The entries of left rightᵀ, (B, nnz)."""
        return self.ops.take(left, self.rows) * self.ops.take(right, self.cols)


@final
class TracedProgram:
    """A parametric program in a framework's operations, for φ = θ, or φ = (θ, log θ) of a geometric program.

    Its methods are the maps φ ↦ P, q, A, b and (x, y) ↦ outputs, and products with their derivatives.
    """

    def __init__(self, compiled: ParametricProgram, ops: Operations, selection: Selection = Selection.DEFAULT) -> None:
        self.compiled, self.ops = compiled, ops
        cones = compiled.structure.cones
        self.projection = ProgramProjection(cones, selection)
        self.P, self.q, self.A, self.b, self.constant = (
            _Affine.of(ops, getattr(compiled, name)) for name in ("P", "q", "A", "b", "constant")
        )
        self.P_entries, self.A_entries = _Entries.of(ops, compiled.structure.P), _Entries.of(ops, compiled.structure.A)
        self.outputs: list[tuple[OutputSpec, _Sparse]] = [(o, _matrix(ops, o.matrix)) for o in compiled.outputs]
        self._logarithmic = ops.constant(np.array(compiled.logarithmic, dtype=np.bool_))
        self.free = ops.constant(np.arange(cones.dimension) < cones.zero)

    @property
    def piecewise(self) -> bool:
        """Whether D is diag(v > 0 or free), which the framework's own operations can apply."""
        return not self.projection.curved and self.projection.selection is Selection.DEFAULT

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        return self.compiled.parameters

    @property
    def size(self) -> int:
        """The length of θ."""
        return sum(spec.size for spec in self.parameters)

    def phi(self, theta: Array) -> Array:
        """θ, or (θ, log θ), with zero where no logarithm is taken."""
        return self.ops.join(theta, self.ops.log_where(self._logarithmic, theta)) if self.compiled.gp else theta

    def variables(self, x: Array, y: Array) -> list[Array]:
        """The outputs (B, *shape)."""
        values = []
        for spec, matrix in self.outputs:
            flat = matrix.times(x if spec.primal else y)
            values.append(self.ops.unflatten(self.ops.exp(flat) if spec.exponential else flat, spec.shape))
        return values

    def P_values(self, phi: Array) -> Array:
        """The entries of P, (B, nnz)."""
        return self.P.constant + self.P.matrix.times(phi)

    def A_values(self, phi: Array) -> Array:
        """The entries of A, (B, nnz)."""
        return self.A.constant + self.A.matrix.times(phi)

    def q_value(self, phi: Array) -> Array:
        """q, (B, n)."""
        return self.q.constant + self.q.matrix.times(phi)

    def constant_value(self, phi: Array) -> Array:
        """The objective's constant, (B,)."""
        return (self.constant.constant + self.constant.matrix.times(phi))[:, 0]

    def user_value(self, value: Array) -> Array:
        """The user's optimal value from the cone program's."""
        value = -value if self.compiled.maximize else value
        return self.ops.exp(value) if self.compiled.gp else value

    def dP(self, dphi: Array, x: Array) -> Array:
        """dP x along dφ."""
        return self.P_entries.times(self.P.matrix.times(dphi), x)

    def dA(self, dphi: Array, x: Array) -> Array:
        """dA x along dφ."""
        return self.A_entries.times(self.A.matrix.times(dphi), x)

    def dAT(self, dphi: Array, y: Array) -> Array:
        """dAᵀy along dφ."""
        return self.A_entries.transposed_times(self.A.matrix.times(dphi), y)

    def right_hand_sides(self, dphi: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """r₁ (B, n) and r₂ (B, m) of the tangent's system J·[dx; dv] = −F_φ dφ at x and y."""
        r1 = -(self.dP(dphi, x) + self.dAT(dphi, y) + self.q.matrix.times(dphi))
        return r1, self.dA(dphi, x) - self.b.matrix.times(dphi)

    def optimal_value(self, phi: Array, x: Array) -> Array:
        """½ xᵀPx + qᵀx + c, (B,)."""
        half = 0.5 * self.P_entries.times(self.P_values(phi), x) + self.q_value(phi)
        return (half * x).sum(1) + self.constant_value(phi)

    def optimal_value_tangent(self, dphi: Array, x: Array, y: Array) -> Array:
        """dV = ½ xᵀdP x + dqᵀx + yᵀ(dA x − db) + dc, (B,): by the envelope theorem x and y stand still."""
        slope = 0.5 * self.dP(dphi, x) + self.q.matrix.times(dphi)
        rows = self.dA(dphi, x) - self.b.matrix.times(dphi)
        return (slope * x).sum(1) + (rows * y).sum(1) + self.constant.matrix.times(dphi)[:, 0]

    def P_gradient(self, left: Array, right: Array) -> Array:
        """The gradient of leftᵀ P right with respect to φ."""
        outer = 0.5 * (self.P_entries.outer(left, right) + self.P_entries.outer(right, left))
        return self.P.matrix.transposed_times(outer)

    def A_gradient(self, left: Array, right: Array) -> Array:
        """The gradient of leftᵀ A right with respect to φ."""
        return self.A.matrix.transposed_times(self.A_entries.outer(left, right))

    def gradient(self, x: Array, y: Array, lam: Array, mu: Array) -> Array:
        """The gradient with respect to φ (B, ·) of what has the adjoint λ, μ (data_gradients.py)."""
        gradient = self.A.matrix.transposed_times(A_gradient(self.A_entries.outer, x, y, lam, mu))
        gradient = gradient + self.P.matrix.transposed_times(P_gradient(self.P_entries.outer, x, lam))
        gradient = gradient + self.q.matrix.transposed_times(q_gradient(lam))
        return gradient + self.b.matrix.transposed_times(b_gradient(mu))


def _matrix(ops: Operations, matrix: sp.csr_array) -> _Sparse:
    coo = matrix.tocoo()
    return _Sparse.of(ops, coo.row, coo.col, coo.data, coo.shape)
