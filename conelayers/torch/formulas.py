"""A parametric program's linear maps in torch's own operations, which every transformation of torch differentiates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
import torch

from conelayers.parameters import ParameterSpec
from conelayers.parametric import AffineMap, OutputSpec, ParametricProgram
from conelayers.program import Pattern

__all__ = ["Formulas", "flatten", "unflatten"]

Tensor = torch.Tensor


def flatten(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) to (B, size), column by column."""
    if len(shape) > 1:
        value = value.permute(0, *range(len(shape), 0, -1))
    return value.reshape(value.shape[0], -1) if shape else value.reshape(-1, 1)


def unflatten(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``flatten``."""
    value = flat.reshape(flat.shape[0], *reversed(shape))
    return value.permute(0, *range(len(shape), 0, -1)) if len(shape) > 1 else value


def _constant(array: np.ndarray, dtype: type = np.float64) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=dtype))


def _index(array: np.ndarray) -> Tensor:
    return _constant(array, np.int64)


@final
@dataclass(frozen=True)
class _Sparse:
    """A constant sparse matrix by its entries."""

    rows: Tensor
    cols: Tensor
    data: Tensor
    shape: tuple[int, int]

    def times(self, h: Tensor) -> Tensor:
        """(B, rows) from (B, cols)."""
        return _gather(h, self.cols, self.rows, self.data, self.shape[0])

    def transposed_times(self, h: Tensor) -> Tensor:
        """(B, cols) from (B, rows)."""
        return _gather(h, self.rows, self.cols, self.data, self.shape[1])


def _gather(h: Tensor, source: Tensor, target: Tensor, factors: Tensor, size: int) -> Tensor:
    """out[:, target] += factors · h[:, source]."""
    out = torch.zeros((), dtype=h.dtype).expand(h.shape[0], size)
    return out.index_add(1, target, h.index_select(1, source) * factors)


def _sparse(matrix: sp.csr_array) -> _Sparse:
    coo = matrix.tocoo()
    return _Sparse(_index(coo.row), _index(coo.col), _constant(coo.data), coo.shape)


@final
@dataclass(frozen=True)
class _Affine:
    """An AffineMap whose matrix has the positions ``places`` in its range."""

    constant: Tensor
    matrix: _Sparse

    @classmethod
    def of(cls, affine: AffineMap) -> _Affine:
        coo = affine.linear.tocoo()
        rows = affine.rows[coo.row] if coo.nnz else coo.row
        matrix = _Sparse(
            _index(rows),
            _index(coo.col),
            _constant(coo.data),
            (affine.constant.size, affine.linear.shape[1]),
        )
        return cls(_constant(affine.constant), matrix)


@final
@dataclass(frozen=True)
class _Entries:
    """Where a pattern's entries are."""

    rows: Tensor
    cols: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, pattern: Pattern) -> _Entries:
        return cls(_index(pattern.rows), _index(pattern.cols), pattern.shape)

    def times(self, values: Tensor, h: Tensor) -> Tensor:
        """M h for values (B, nnz) and h (B, cols)."""
        return _scatter(values * h.index_select(1, self.cols), self.rows, self.shape[0])

    def transposed_times(self, values: Tensor, h: Tensor) -> Tensor:
        """Mᵀh for values (B, nnz) and h (B, rows)."""
        return _scatter(values * h.index_select(1, self.rows), self.cols, self.shape[1])

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """The entries of left rightᵀ, (B, nnz)."""
        return left.index_select(1, self.rows) * right.index_select(1, self.cols)


def _scatter(values: Tensor, target: Tensor, size: int) -> Tensor:
    return torch.zeros((), dtype=values.dtype).expand(values.shape[0], size).index_add(1, target, values)


@final
class Formulas:
    """φ ↦ P, q, A, b; (x, y) ↦ outputs; and products with them, for φ = θ, or (θ, log θ) of a geometric program."""

    def __init__(self, compiled: ParametricProgram) -> None:
        # Tensors made under a transformation are its own, and dead when it ends.
        with torch._C._DisableFuncTorch():
            self._make(compiled)

    def _make(self, compiled: ParametricProgram) -> None:
        self.compiled = compiled
        self.cones = compiled.structure.cones
        self.P, self.q, self.A, self.b, self.constant = (
            _Affine.of(getattr(compiled, name)) for name in ("P", "q", "A", "b", "constant")
        )
        self.P_entries, self.A_entries = _Entries.of(compiled.structure.P), _Entries.of(compiled.structure.A)
        self.outputs: list[tuple[OutputSpec, _Sparse]] = [(o, _sparse(o.matrix)) for o in compiled.outputs]
        self._logarithmic = _constant(compiled.logarithmic, np.bool_)
        self.free = _constant(np.arange(self.cones.dimension) < self.cones.zero, np.bool_)

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        return self.compiled.parameters

    def phi(self, theta: Tensor) -> Tensor:
        """θ, or (θ, log θ); 1 stands where no logarithm is taken."""
        if not self.compiled.gp:
            return theta
        return torch.cat([theta, torch.where(self._logarithmic, theta, torch.ones_like(theta)).log()], dim=1)

    def variables(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The outputs (B, *shape)."""
        values = []
        for spec, matrix in self.outputs:
            flat = matrix.times(x if spec.primal else y)
            values.append(unflatten(flat.exp() if spec.exponential else flat, spec.shape))
        return values

    def P_values(self, phi: Tensor) -> Tensor:
        """The entries of P, (B, nnz)."""
        return self.P.constant + self.P.matrix.times(phi)

    def A_values(self, phi: Tensor) -> Tensor:
        """The entries of A, (B, nnz)."""
        return self.A.constant + self.A.matrix.times(phi)

    def q_value(self, phi: Tensor) -> Tensor:
        """q, (B, n)."""
        return self.q.constant + self.q.matrix.times(phi)

    def constant_value(self, phi: Tensor) -> Tensor:
        """The objective's constant, (B,)."""
        return (self.constant.constant + self.constant.matrix.times(phi))[:, 0]

    def user_value(self, value: Tensor) -> Tensor:
        """The user's optimal value from the cone program's."""
        value = -value if self.compiled.maximize else value
        return value.exp() if self.compiled.gp else value

    def dP(self, dphi: Tensor, x: Tensor) -> Tensor:
        """dP x along dφ."""
        return self.P_entries.times(self.P.matrix.times(dphi), x)

    def dA(self, dphi: Tensor, x: Tensor) -> Tensor:
        """dA x along dφ."""
        return self.A_entries.times(self.A.matrix.times(dphi), x)

    def dAT(self, dphi: Tensor, y: Tensor) -> Tensor:
        """dAᵀy along dφ."""
        return self.A_entries.transposed_times(self.A.matrix.times(dphi), y)

    def P_gradient(self, left: Tensor, right: Tensor) -> Tensor:
        """The gradient of leftᵀ P right with respect to φ."""
        outer = 0.5 * (self.P_entries.outer(left, right) + self.P_entries.outer(right, left))
        return self.P.matrix.transposed_times(outer)

    def A_gradient(self, left: Tensor, right: Tensor) -> Tensor:
        """The gradient of leftᵀ A right with respect to φ."""
        return self.A.matrix.transposed_times(self.A_entries.outer(left, right))
