"""Nodes of cvxpy's atoms that are not affine."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.atoms.elementwise import hyperbolic, normcdf, trig

from conelayers.problem.dpp.translate_affine import Children, Rule, axes, cumulative, product, reduction, simple
from conelayers.problem.expressions import Constant, Expression, Node
from conelayers.problem.expressions.build import function, matmul, multiply, node, size, take, total, unary

__all__ = ["FUNCTIONS"]


def _named(name: str) -> Rule:
    return lambda e, children: function(name, children[0])


def _power(e: Any, children: Children) -> Expression:
    if len(children) == 2:
        return node("variable_power", *children, shape=e.shape)
    p = float(e.p.value)
    if p == 1:
        return children[0]
    return unary("power", children[0], p=int(p) if p.is_integer() else p)


def _norm1(e: Any, children: Children) -> Expression:
    return total(function("abs", children[0]), axes(e, len(children[0].shape)), e.shape)


def _norm_inf(e: Any, children: Children) -> Expression:
    return reduction("max")(e, [function("abs", children[0])])


def _pnorm(e: Any, children: Children) -> Expression:
    p = float(e.p)
    over = axes(e, len(children[0].shape))
    return node("pnorm", children[0], shape=e.shape, axes=over, p=int(p) if p.is_integer() else p)


def _min(e: Any, children: Children) -> Expression:
    return unary("negative", reduction("max")(e, [unary("negative", children[0])]))


def _largest(k: float, n: int) -> np.ndarray:
    """Weights of n ascending numbers that sum the k largest."""
    return np.clip(k - np.arange(n - 1, -1, -1), 0.0, 1.0)


def _sum_largest(e: Any, children: Children) -> Expression:
    over = axes(e, len(children[0].shape))
    n = int(np.prod([children[0].shape[a] for a in over], dtype=np.int64))
    return node("sorted_sum", children[0], shape=e.shape, axes=over, weights=_largest(float(e.k), n))


def _dotsort(e: Any, children: Children) -> Expression:
    x, w = children
    if (extra := size(x) - size(w)) > 0:
        w = take((size(x),), np.arange(size(x)), w, Constant(np.zeros(extra)))
    x, w = (node("sort", c, shape=(size(c),)) for c in (x, w))
    return total(multiply(x, w))


def _geo_mean(e: Any, children: Children) -> Expression:
    (x,) = children
    over = axes(e, len(x.shape))
    # cvxpy counts the reduced entries column by column, the node row by row.
    weights = np.zeros(e._keep.size)
    weights[e._keep] = [float(w) for w in e.w]
    weights = weights.reshape([x.shape[a] for a in over], order="F").ravel()
    index = np.flatnonzero(weights)
    return node("geo_mean", x, shape=e.shape, axes=over, index=index, weights=weights[index])


def _quad_over_lin(e: Any, children: Children) -> Expression:
    x, y = children
    squares = total(unary("squared_modulus", x), axes(e, len(x.shape)), e.shape)
    return multiply(squares, node("reshape", y, shape=()), "divide")


def _hermitian_product(x: Expression, y: Expression) -> Node:
    """Re Σ conj(x) y."""
    return total(unary("real", multiply(unary("conjugate", x), y)))


def _quad_form(e: Any, children: Children) -> Expression:
    x, P = children
    return _hermitian_product(x, matmul(P, x))


def _matrix_frac(e: Any, children: Children) -> Expression:
    X, P = children
    return _hermitian_product(X, matmul(unary("inverse", P), X))


def _weighted_eigenvalues(A: Expression, weights: np.ndarray) -> Node:
    return node("weighted_eigenvalues", A, shape=A.shape[:-2], weights=weights)


def _lambda_max(e: Any, children: Children) -> Expression:
    return _weighted_eigenvalues(children[0], _largest(1, children[0].shape[-1]))


def _lambda_sum_largest(e: Any, children: Children) -> Expression:
    return _weighted_eigenvalues(children[0], _largest(float(e.k), children[0].shape[-1]))


def _condition_number(e: Any, children: Children) -> Expression:
    (A,) = children
    largest = _largest(1, A.shape[-1])
    return multiply(_weighted_eigenvalues(A, largest), _weighted_eigenvalues(A, largest[::-1].copy()), "divide")


def _singular_values(k: int | None) -> Rule:
    """The sum of the k largest (all of them for None): the largest eigenvalues of [0, A; Aᴴ, 0]."""

    def rule(e: Any, children: Children) -> Expression:
        (A,) = children
        A = A if len(A.shape) == 2 else node("reshape", A, shape=(size(A), 1))
        m, n = A.shape
        positions = np.zeros((m + n, m + n), dtype=np.int64)
        positions[:m, m:] = 1 + np.arange(m * n).reshape(m, n)
        positions[m:, :m] = 1 + m * n + np.arange(m * n).reshape(m, n).T
        dilation = take(positions.shape, positions, Constant(np.zeros(1)), A, unary("conjugate", A))
        return _weighted_eigenvalues(dilation, _largest(k or min(m, n), m + n))

    return rule


def _eye_minus_inv(e: Any, children: Children) -> Expression:
    return unary("inverse", _one_minus(children[0], np.eye(children[0].shape[0])))


def _one_minus(x: Expression, one: np.ndarray) -> Node:
    return node("add", Constant(one), unary("negative", x), shape=x.shape)


def _pf_eigenvalue(e: Any, children: Children) -> Expression:
    return node("pf_eigenvalue", children[0], shape=(), eye=np.eye(children[0].shape[0]))


def _gmatmul(e: Any, children: Children) -> Expression:
    X, A = children
    return function("exp", product(e, [A, function("log", X)]))


def _xexp(e: Any, children: Children) -> Expression:
    return multiply(children[0], function("exp", children[0]))


def _dist_ratio(e: Any, children: Children) -> Expression:
    x, a, b = children
    return multiply(_distance(x, a), _distance(x, b), "divide")


def _distance(x: Expression, y: Expression) -> Node:
    gap = node("add", x, unary("negative", y), shape=np.broadcast_shapes(x.shape, y.shape))
    return node("pnorm", gap, shape=(), axes=tuple(range(len(gap.shape))), p=2)


FUNCTIONS: dict[type, Rule] = {
    # elementwise
    cp.abs: _named("abs"),
    cp.entr: simple("entr"),
    cp.exp: _named("exp"),
    cp.huber: simple("huber"),
    cp.kl_div: simple("kl_div"),
    cp.log: _named("log"),
    cp.log1p: _named("log1p"),
    cp.logistic: simple("logistic"),
    cp.maximum: simple("maximum"),
    cp.minimum: simple("minimum"),
    cp.Power: _power,
    cp.PowerApprox: _power,
    cp.rel_entr: simple("rel_entr"),
    cp.xexp: _xexp,
    hyperbolic.sinh: _named("sinh"),
    hyperbolic.tanh: _named("tanh"),
    hyperbolic.asinh: _named("arcsinh"),
    hyperbolic.atanh: _named("arctanh"),
    normcdf.normcdf: _named("normcdf"),
    trig.sin: _named("sin"),
    trig.cos: _named("cos"),
    trig.tan: _named("tan"),
    # norms and other functions of vectors
    cp.norm1: _norm1,
    cp.norm_inf: _norm_inf,
    cp.Pnorm: _pnorm,
    cp.PnormApprox: _pnorm,
    cp.max: reduction("max"),
    cp.min: _min,
    cp.sum_largest: _sum_largest,
    cp.dotsort: _dotsort,
    cp.log_sum_exp: reduction("log_sum_exp"),
    cp.GeoMean: _geo_mean,
    cp.GeoMeanApprox: _geo_mean,
    cp.Prod: reduction("prod"),
    cp.cumprod: cumulative("cumprod"),
    cp.cummax: cumulative("cummax"),
    cp.quad_over_lin: _quad_over_lin,
    cp.QuadForm: _quad_form,
    cp.dist_ratio: _dist_ratio,
    cp.one_minus_pos: lambda e, children: _one_minus(children[0], np.ones(e.shape)),
    cp.gmatmul: _gmatmul,
    # matrices
    cp.MatrixFrac: _matrix_frac,
    cp.normNuc: _singular_values(None),
    cp.sigma_max: _singular_values(1),
    cp.lambda_max: _lambda_max,
    cp.lambda_sum_largest: _lambda_sum_largest,
    cp.condition_number: _condition_number,
    cp.log_det: simple("log_det"),
    cp.tr_inv: simple("tr_inv"),
    cp.von_neumann_entr: simple("von_neumann_entr"),
    cp.gen_lambda_max: simple("gen_lambda_max"),
    cp.eye_minus_inv: _eye_minus_inv,
    cp.pf_eigenvalue: _pf_eigenvalue,
}
