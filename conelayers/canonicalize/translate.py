"""cvxpy expressions of parameters and constants as graphs that every framework evaluates (conelayers/expressions)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine import binary_operators as binary
from cvxpy.atoms.affine import diag, index, upper_tri, wraps
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.affine.broadcast_to import broadcast_to
from cvxpy.atoms.affine.concatenate import Concatenate
from cvxpy.atoms.affine.conv import conv, convolve
from cvxpy.atoms.affine.hstack import Hstack
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.sum import Sum
from cvxpy.atoms.affine.trace import Trace
from cvxpy.atoms.affine.transpose import transpose
from cvxpy.atoms.affine.unary_operators import NegExpression
from cvxpy.atoms.affine.vstack import Vstack
from cvxpy.atoms.elementwise import hyperbolic, trig
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.geo_mean import GeoMean
from cvxpy.atoms.lambda_sum_largest import lambda_sum_largest
from cvxpy.atoms.matrix_frac import MatrixFrac
from cvxpy.atoms.norm_nuc import normNuc
from cvxpy.atoms.pnorm import Pnorm
from cvxpy.atoms.prod import Prod
from cvxpy.atoms.quad_form import QuadForm

from conelayers.canonicalize.lift import Factor
from conelayers.errors import CanonicalizationError
from conelayers.expressions import Node

__all__ = ["translate"]

_Rule = Callable[[Any], tuple[Any, ...]]  # from an atom to the operation and its data


def translate(expression: cp.Expression | Factor, place: Mapping[int, int], known: Mapping[int, Node]) -> Node:
    """The graph of an expression, for the positions of the user's parameters and the graphs of the ``known`` new ones, by their identifiers.

    Raises CanonicalizationError naming an atom that is not covered.
    """
    made: dict[int, Node] = {}

    def visit(e: Any) -> Node:
        if id(e) not in made:
            made[id(e)] = _node(e, visit, place, known)
        return made[id(e)]

    if isinstance(expression, Factor):
        P = visit(expression.P)
        return Node("cholesky", (P,), P.shape, (expression.sign, f"quad_form's matrix {expression.P}"))
    return visit(expression)


def _node(e: Any, visit: Callable[[Any], Node], place: Mapping[int, int], known: Mapping[int, Node]) -> Node:
    shape = tuple(e.shape)
    if isinstance(e, cp.Parameter):
        return known[e.id] if e.id in known else Node("parameter", (), shape, (place[e.id],))
    if not e.parameters():
        return Node("constant", (), shape, (np.reshape(_dense(e.value), shape),))
    children = tuple(visit(arg) for arg in e.args)
    if isinstance(e, cp.huber):
        return Node("huber", (*children, visit(e.M)), shape)
    if isinstance(e, _SELECTIONS):
        return Node("select", children, shape, (_selected(e),))
    for kind, rule in _RULES.items():
        if isinstance(e, kind):
            operation, *data = rule(e)
            return Node(operation, children, shape, tuple(data))
    reason = " has no useful derivative, and" if isinstance(e, (cp.sign, cp.ceil, cp.floor)) else ""
    raise CanonicalizationError(
        f"`{e}`: {type(e).__name__} of parameters{reason} is not computed by the layer; make its value a Parameter and pass it (lift)"
    )


def _dense(value: Any) -> np.ndarray:
    return np.asarray(value.toarray() if sp.issparse(value) else value)


# Atoms that move entries about: where each entry of the result comes from is read off by labels.
_SELECTIONS = (
    index.index,
    index.special_index,
    cp.reshape,
    transpose,
    Promote,
    broadcast_to,
    Hstack,
    Vstack,
    Concatenate,
    diag.diag_vec,
    diag.diag_mat,
    upper_tri.upper_tri,
)


def _selected(e: Any) -> np.ndarray:
    """Of each entry of the result, row by row, its place among the arguments' entries, row by row; −1 where it is zero."""
    sizes = [int(arg.size) for arg in e.args]
    ends = np.cumsum(sizes)
    labels = [
        np.arange(end - size + 1, end + 1, dtype=float).reshape(arg.shape)
        for arg, size, end in zip(e.args, sizes, ends, strict=True)
    ]
    return np.rint(np.ravel(_dense(e.numeric(labels)))).astype(np.int64) - 1


def _products(e: Any) -> tuple[Any, ...]:
    """Which product aᵢbⱼ counts in which entry of a Kronecker product or a convolution, i and j row by row."""
    a, b = e.args
    if isinstance(e, (conv, convolve)):
        return "bilinear", np.add.outer(np.arange(a.size), np.arange(b.size)).ravel()
    rows, cols = (np.arange(a.shape[i])[:, None] * b.shape[i] + np.arange(b.shape[i]) for i in (0, 1))
    place = rows[:, None, :, None] * e.shape[1] + cols[None, :, None, :]
    return "bilinear", place.ravel()


def _geometric(e: Any) -> tuple[Any, ...]:
    return "geometric_mean", np.array([float(w) for w in e.w]), e.axis


def _pnorm(e: Any) -> tuple[Any, ...]:
    p = float(e.original_p if hasattr(e, "original_p") else e.p)
    return "norm", p, e.axis


def _exponent(e: Any) -> tuple[Any, ...]:
    p = e.p.value if isinstance(e.p, cp.Expression) else e.p
    if isinstance(e.p, cp.Expression) and e.p.parameters():
        raise CanonicalizationError(f"`{e}`: the exponent is a parameter; write exp(p·log(x)) of parameters instead")
    return "power", float(p)


def _function(name: str) -> _Rule:
    return lambda e: ("elementwise", name)


_RULES: dict[type, _Rule] = {
    AddExpression: lambda e: ("add",),
    NegExpression: lambda e: ("negative",),
    binary.multiply: lambda e: ("multiply",),
    binary.DivExpression: lambda e: ("divide",),
    binary.MulExpression: lambda e: ("matmul",),
    Sum: lambda e: ("sum", e.axis),
    Trace: lambda e: ("linear", np.eye(e.args[0].shape[0]).reshape(1, -1)),
    cp.cumsum: lambda e: ("cumsum", e.axis),
    cp.kron: _products,
    conv: _products,
    convolve: _products,
    cp.real: lambda e: ("part", "real"),
    cp.imag: lambda e: ("part", "imag"),
    cp.conj: lambda e: ("part", "conj"),
    wraps.Wrap: lambda e: ("same",),
    cp.abs: lambda e: ("absolute",),
    cp.entr: lambda e: ("entropy",),
    cp.log1p: _function("log1p"),
    cp.log: _function("log"),
    cp.exp: _function("exp"),
    cp.logistic: lambda e: ("logistic",),
    cp.maximum: _function("maximum"),
    cp.minimum: _function("minimum"),
    cp.kl_div: lambda e: ("relative_entropy", True),
    cp.rel_entr: lambda e: ("relative_entropy", False),
    cp.xexp: lambda e: ("x_exp",),
    trig.sin: _function("sin"),
    trig.cos: _function("cos"),
    trig.tan: _function("tan"),
    hyperbolic.sinh: _function("sinh"),
    hyperbolic.tanh: _function("tanh"),
    hyperbolic.asinh: _function("arcsinh"),
    hyperbolic.atanh: _function("arctanh"),
    Power: _exponent,
    cp.norm1: lambda e: ("norm", 1.0, e.axis),
    cp.norm_inf: lambda e: ("norm", math.inf, e.axis),
    Pnorm: _pnorm,
    cp.max: lambda e: ("extremum", "max", e.axis),
    cp.min: lambda e: ("extremum", "min", e.axis),
    cp.sum_largest: lambda e: ("sum_largest", float(e.k), e.axis),
    cp.dotsort: lambda e: ("sorted_product",),
    cp.log_sum_exp: lambda e: ("log_sum_exp", e.axis),
    Prod: lambda e: ("product", e.axis),
    cp.cumprod: lambda e: ("accumulate", "multiply", e.axis),
    cp.cummax: lambda e: ("accumulate", "max", e.axis),
    GeoMean: _geometric,
    cp.quad_over_lin: lambda e: ("quadratic_over_linear", e.axis),
    QuadForm: lambda e: ("quadratic_form",),
    MatrixFrac: lambda e: ("matrix_fraction",),
    lambda_sum_largest: lambda e: ("eigenvalue_sum", float(e.k)),
    cp.lambda_max: lambda e: ("eigenvalue_sum", 1.0),
    cp.gen_lambda_max: lambda e: ("general_eigenvalue",),
    normNuc: lambda e: ("matrix_norm", "sum"),
    cp.sigma_max: lambda e: ("matrix_norm", "max"),
    cp.von_neumann_entr: lambda e: ("matrix_entropy",),
    cp.log_det: lambda e: ("log_determinant",),
    cp.tr_inv: lambda e: ("inverse_trace",),
    cp.one_minus_pos: lambda e: ("one_minus",),
    cp.eye_minus_inv: lambda e: ("resolvent",),
}
