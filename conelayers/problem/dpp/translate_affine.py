"""Nodes of cvxpy's affine atoms.

Entries of arrays are picked by ``take`` with the positions that cvxpy's (that is, NumPy's) own rule gives for an array
of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms import affine
from cvxpy.atoms.affine.concatenate import Concatenate
from cvxpy.atoms.affine.diag import diag_mat, diag_vec
from cvxpy.atoms.affine.hstack import Hstack
from cvxpy.atoms.affine.index import index, special_index
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.vstack import Vstack

from conelayers.problem.expressions import Constant, Expression
from conelayers.problem.expressions.build import labels, matmul, multiply, node, size, take, total

__all__ = ["AFFINE", "Children", "Rule", "axes", "cumulative", "product", "reduction", "simple", "sparse_product"]

Children = list[Expression]
Rule = Callable[[Any, Children], Expression]


def simple(operation: str) -> Rule:
    """One node on all children."""
    return lambda e, children: node(operation, *children, shape=e.shape)


def axes(e: Any, rank: int) -> tuple[int, ...]:
    """The axes that an atom reduces, ascending."""
    axis = range(rank) if e.axis is None else np.atleast_1d(e.axis)
    return tuple(sorted({int(a) % rank for a in axis})) if rank else ()


def reduction(operation: str) -> Rule:
    """One node that reduces axes."""
    return lambda e, children: node(operation, children[0], shape=e.shape, axes=axes(e, len(children[0].shape)))


def cumulative(operation: str) -> Rule:
    """One node along an axis, None for all entries row by row."""

    def rule(e: Any, children: Children) -> Expression:
        axis = None if e.axis is None else int(e.axis) % max(len(children[0].shape), 1)
        return node(operation, children[0], shape=e.shape, axis=axis) if children[0].shape else children[0]

    return rule


def _picked(positions: Callable[[Any, list[np.ndarray]], np.ndarray]) -> Rule:
    return lambda e, children: take(e.shape, positions(e, labels(*children)), *children)


def product(e: Any, children: Children) -> Expression:
    """x @ y, or x y for a scalar."""
    x, y = children
    return multiply(x, y) if () in (x.shape, y.shape) else matmul(x, y)


def _quotient(e: Any, children: Children) -> Expression:
    x, y = children
    quotient = multiply(x, y, "divide")
    return quotient if quotient.shape == e.shape else node("reshape", quotient, shape=e.shape)  # of one entry


def _diag_vec(e: Any, children: Children) -> Expression:
    positions = np.diag(1 + np.arange(size(children[0])), k=e.k)
    return take(e.shape, positions, Constant(np.zeros(1)), children[0])


def _trace(e: Any, children: Children) -> Expression:
    positions = np.diagonal(labels(children[0])[0], axis1=-2, axis2=-1)
    return total(take(positions.shape, positions, children[0]), (positions.ndim - 1,), e.shape)


def _kron(e: Any, children: Children) -> Expression:
    (x, y), (i, j) = children, (labels(c)[0] for c in children)
    x = take(e.shape, np.kron(i, np.ones_like(j)), x)
    return multiply(x, take(e.shape, np.kron(np.ones_like(i), j), y))


def _convolve(e: Any, children: Children) -> Expression:
    """T(x) y with x's entries along the diagonals of T."""
    x, y = sorted(children, key=size, reverse=True)
    m, n = size(x), size(y)
    offset = np.arange(m + n - 1)[:, None] - np.arange(n)
    toeplitz = take(offset.shape, np.where((offset >= 0) & (offset < m), offset + 1, 0), Constant(np.zeros(1)), x)
    return node("reshape", matmul(toeplitz, node("reshape", y, shape=(n,))), shape=e.shape)


def sparse_product(e: Any, translate: Callable[[Any], Expression]) -> Expression | None:
    """S y, or xᵀSᵀ transposed, for a sparse constant S with few entries in every row; None otherwise.

    With r entries at most in a row, Sᵢ at the columns cᵢ₁, …, cᵢᵣ (padded by zeros): (S y)ᵢ = Σₖ Sᵢₖ y[cᵢₖ].
    """
    left, right = (isinstance(a, cp.Constant) and sp.issparse(a.value) for a in e.args)
    if left == right or not e.parameters() or any(len(a.shape) not in (1, 2) for a in e.args):
        return None
    S = sp.csr_array(e.args[0].value if left else e.args[1].value.T)
    counts = np.diff(S.indptr)
    width = int(counts.max(initial=1))
    if 4 * width > S.shape[1]:
        return None
    rows = np.repeat(np.arange(S.shape[0]), counts)
    place = np.arange(S.nnz) - np.repeat(S.indptr[:-1], counts)
    columns, weights = np.zeros((S.shape[0], width), dtype=np.int64), np.zeros((S.shape[0], width), S.dtype)
    columns[rows, place], weights[rows, place] = S.indices, S.data
    y = translate(e.args[1 if left else 0])
    (positions,) = labels(y)
    if left:
        picked = positions[columns]  # (m, r) or (m, r, k)
        weights = weights.reshape(*weights.shape, *(1,) * (positions.ndim - 1))
        return total(multiply(Constant(weights), take(picked.shape, picked, y)), (1,), e.shape)
    picked = positions[..., columns]  # (m, r) or (k, m, r)
    return total(multiply(Constant(weights), take(picked.shape, picked, y)), (picked.ndim - 1,), e.shape)


def _reshape(e: Any, children: Children) -> Expression:
    (x,) = children
    if e.order == "C":
        return node("reshape", x, shape=e.shape)
    return _transpose(node("reshape", _transpose(x), shape=e.shape[::-1]))


def _transpose(x: Expression) -> Expression:
    """All axes in reverse."""
    rank = len(x.shape)
    return node("permute", x, shape=x.shape[::-1], axes=tuple(range(rank))[::-1]) if rank > 1 else x


def _permute(e: Any, children: Children) -> Expression:
    (x,) = children
    if e.axes is None or len(x.shape) < 2:
        return _transpose(x)
    return node("permute", x, shape=e.shape, axes=tuple(int(a) % len(x.shape) for a in e.axes))


AFFINE: dict[type, Rule] = {
    affine.add_expr.AddExpression: simple("add"),
    affine.unary_operators.NegExpression: simple("negative"),
    cp.multiply: simple("multiply"),
    affine.binary_operators.DivExpression: _quotient,
    affine.binary_operators.MulExpression: product,
    index: _picked(lambda e, i: i[0][e._orig_key]),
    special_index: _picked(lambda e, i: i[0][e.key]),
    cp.reshape: _reshape,
    cp.transpose: _permute,
    Promote: simple("expand"),
    cp.broadcast_to: simple("expand"),
    cp.Sum: reduction("sum"),
    cp.cumsum: cumulative("cumsum"),
    cp.Trace: _trace,
    diag_vec: _diag_vec,
    diag_mat: _picked(lambda e, i: np.diag(i[0], k=e.k)),
    Hstack: _picked(lambda e, i: np.hstack(i)),
    Vstack: _picked(lambda e, i: np.vstack(i)),
    Concatenate: _picked(lambda e, i: np.concatenate(i, axis=e.axis)),
    cp.kron: _kron,
    cp.conv: _convolve,
    cp.convolve: _convolve,
    cp.upper_tri: _picked(lambda e, i: i[0][(..., *np.triu_indices(i[0].shape[-1], k=1))]),
    cp.real: simple("real"),
    cp.imag: simple("imag"),
    cp.conj: simple("conjugate"),
}
