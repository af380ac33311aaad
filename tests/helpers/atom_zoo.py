"""Every atom of cvxpy over parameters only: how to build it, and values at which it is smooth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.wraps import (
    hermitian_wrap,
    nonneg_wrap,
    nonpos_wrap,
    nsd_wrap,
    psd_wrap,
    skew_symmetric_wrap,
    symmetric_wrap,
)

ANY, POS, UNIT, SYM, PD, COMPLEX, HERM, HPD = "any", "pos", "unit", "symmetric", "pd", "complex", "hermitian", "hpd"
_RNG = np.random.default_rng(7)
_M = _RNG.standard_normal((3, 3))
_V = _RNG.standard_normal(3)
_C = _M + 1j * _RNG.standard_normal((3, 3))
_S = sp.random_array((12, 12), density=0.06, rng=_RNG, format="csr")


class Case(NamedTuple):
    name: str
    build: Callable[..., Any]
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def parameters(self) -> list[cp.Parameter]:
        attributes: dict[str, Any] = {
            ANY: {}, POS: {"pos": True}, UNIT: {"pos": True}, SYM: {"symmetric": True}, PD: {"PSD": True},
            COMPLEX: {"complex": True}, HERM: {"hermitian": True}, HPD: {"hermitian": True},
        }  # fmt: skip
        return [cp.Parameter(s, **attributes[k]) for k, s in zip(self.kinds, self.shapes, strict=True)]

    def draw(self, rng: np.random.Generator, batch: int) -> list[np.ndarray]:
        return [draw(rng, k, (batch, *s)) for k, s in zip(self.kinds, self.shapes, strict=True)]


def draw(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    x = rng.standard_normal(shape)
    if kind == POS:
        return 0.3 + np.abs(x)
    if kind == UNIT:
        return 0.05 + 0.25 * rng.random(shape)
    if kind in (COMPLEX, HERM, HPD):
        x = x + 1j * rng.standard_normal(shape)
    adjoint = np.conj(np.swapaxes(x, -1, -2)) if len(shape) > 2 else x
    if kind in (SYM, HERM):
        return x + adjoint
    return x @ adjoint + np.eye(shape[-1]) if kind in (PD, HPD) else x


CASES: list[Case] = []


def _add(name: str, build: Callable[..., Any], *specs: tuple[str, tuple[int, ...]]) -> None:
    CASES.append(Case(name, build, tuple(k for k, _ in specs), tuple(s for _, s in specs)))


# affine
p3, q3, P33, P23 = (ANY, (3,)), (ANY, (3,)), (ANY, (3, 3)), (ANY, (2, 3))
scalar, P234, C33, C3 = (ANY, ()), (ANY, (2, 3, 4)), (COMPLEX, (3, 3)), (COMPLEX, (3,))
_add("add", lambda p, q, s: p + q + s + _V, p3, q3, scalar)
_add("add rows", lambda P, q: P + q, P23, q3)
_add("subtract", lambda P, q: P - 2 * q, P33, P33)
_add("multiply", lambda P, Q: cp.multiply(P, Q), P33, P33)
_add("multiply vector", lambda P, q: cp.multiply(P, q), P23, q3)
_add("multiply column", lambda P, q: cp.multiply(P, q), P23, (ANY, (2, 1)))
_add("scalar times matrix", lambda s, P: s * P, scalar, P23)
_add("matrix times scalar", lambda s, P: P @ np.eye(3) * s, scalar, P23)
_add("divide", lambda P, q: P / q, P33, (POS, (3, 3)))
_add("divide by scalar", lambda s, P: P / s + 1 / s, (POS, ()), P23)
_add("matmul", lambda P, Q: P @ Q, P23, P33)
_add("matmul constant", lambda P: _M @ P @ _M[:, :2], P33)
_add("matmul vectors", lambda p, q: p @ q, p3, q3)
_add("matmul matrix vector", lambda P, q: P @ q, P23, q3)
_add("matmul vector matrix", lambda p, P: p @ P, p3, P33)
_add("matmul batched", lambda A, B: A @ B, P234, (ANY, (4, 2)))
_add("matmul batched both", lambda A, B: A @ B, P234, (ANY, (2, 4, 2)))
_add("matmul vector batched", lambda p, B: p @ B, p3, P234)
_add("sparse times vector", lambda p: _S @ p, (ANY, (12,)))
_add("sparse times matrix", lambda p: _S @ p, (ANY, (12, 2)))
_add("vector times sparse", lambda p: p @ _S, (ANY, (12,)))
_add("matrix times sparse", lambda p: p @ _S, (ANY, (2, 12)))
_add("sparse plus", lambda P: P + sp.csc_array(np.diag(_V)), P33)
_add("index", lambda P: P[1:, ::-2], P33)
_add("index entry", lambda P: P[1, -1], P33)
_add("index negative", lambda p: p[-2:], p3)
_add("index row", lambda P: P[1], P33)
_add("index newaxis", lambda p: p[:, None], p3)
_add("index N-d", lambda P: P[1, :, 1:3], P234)
_add("special index list", lambda P: P[[2, 0, 2]], P33)
_add("special index mask", lambda P: P[_M > 0], P33)
_add("special index pairs", lambda P: P[[0, 2], [1, 1]], P33)
_add("reshape F", lambda P: cp.reshape(P, (3, 2), order="F"), P23)
_add("reshape C", lambda P: cp.reshape(P, (3, 2), order="C"), P23)
_add("reshape N-d", lambda P: cp.reshape(P, (4, 3, 2), order="F"), P234)
_add("vec F", lambda P: cp.vec(P, order="F"), P23)
_add("vec C", lambda P: cp.vec(P, order="C"), P23)
_add("flatten", lambda P: P.flatten(order="F"), P234)
_add("transpose", lambda P: P.T, P23)
_add("transpose N-d", lambda P: cp.transpose(P, (2, 0, 1)), P234)
_add("permute_dims", lambda P: cp.permute_dims(P, (1, -1, 0)), P234)
_add("swapaxes", lambda P: cp.swapaxes(P, 0, 2), P234)
_add("moveaxis", lambda P: cp.moveaxis(P, 0, 2), P234)
_add("promote", lambda s: cp.promote(s, (2, 3)), scalar)
_add("broadcast_to", lambda p: cp.broadcast_to(p, (2, 3)), p3)
_add("sum", lambda P: cp.sum(P), P23)
_add("sum axis", lambda P: cp.sum(P, axis=0), P23)
_add("sum axis kept", lambda P: cp.sum(P, axis=-1, keepdims=True), P23)
_add("sum axes", lambda P: cp.sum(P, axis=(0, 2)), P234)
_add("sum of scalar", lambda s: cp.sum(s), scalar)
_add("mean", lambda P: cp.mean(P, axis=1), P23)
_add("cumsum", lambda P: cp.cumsum(P, axis=0), P33)
_add("cumsum axis 1", lambda P: cp.cumsum(P, axis=1), P23)
_add("cumsum all", lambda P: cp.cumsum(P, axis=None), P23)
_add("trace", lambda P: cp.trace(P), P33)
_add("trace N-d", lambda P: cp.trace(P), (ANY, (2, 3, 3)))
_add("diag_vec", lambda p: cp.diag(p), p3)
_add("diag_vec k", lambda p: cp.diag(p, k=-1), p3)
_add("diag_mat", lambda P: cp.diag(P), P33)
_add("diag_mat k", lambda P: cp.diag(P, k=1), P33)
_add("hstack", lambda p, s: cp.hstack([p, s, _V]), p3, scalar)
_add("hstack matrices", lambda P, Q: cp.hstack([P, Q]), P23, (ANY, (2, 1)))
_add("vstack", lambda P, q: cp.vstack([P, q]), P23, q3)
_add("concatenate", lambda P, Q: cp.concatenate([P, Q], axis=1), P234, P234)
_add("concatenate all", lambda P, q: cp.concatenate([P, q], axis=None), P23, q3)
_add("stack", lambda p, q: cp.stack([p, q], axis=1), p3, q3)
_add(
    "bmat",
    lambda P, p, s: cp.bmat([[P, cp.reshape(p, (3, 1), "F")], [np.ones((1, 3)), cp.reshape(s, (1, 1), "F")]]),
    P33,
    p3,
    scalar,
)
_add("einsum", lambda A, B: cp.einsum("ijk,kl->jl", A, B), P234, (ANY, (4, 2)))
_add("kron", lambda P, Q: cp.kron(P, Q), P23, P33)
_add("kron constant", lambda P: cp.kron(_M, P), P23)
_add("conv", lambda p, q: cp.conv(p, q), p3, (ANY, (5,)))
_add("convolve", lambda p, q: cp.convolve(p, q), p3, (ANY, (2,)))
_add("convolve constant", lambda p: cp.convolve(_V[:2], p), p3)
_add("upper_tri", lambda P: cp.upper_tri(P), P33)
_add("vec_to_upper_tri", lambda p: cp.vec_to_upper_tri(p), (ANY, (6,)))
_add("vec_to_upper_tri strict", lambda p: cp.vec_to_upper_tri(p, strict=True), p3)
_add("partial_trace", lambda P: cp.partial_trace(P, (2, 3), axis=1), (ANY, (6, 6)))
_add("partial_transpose", lambda P: cp.partial_transpose(P, (3, 2), axis=0), (ANY, (6, 6)))
_add("squeeze", lambda P: cp.squeeze(P), (ANY, (2, 1, 3)))
_add("diff", lambda p: cp.diff(p, k=2), (ANY, (5,)))
_add("diff axis", lambda P: cp.diff(P, axis=1), P23)
_add("outer", lambda p, q: cp.outer(p, q), p3, (ANY, (2,)))
_add("vdot", lambda p, q: cp.vdot(p, q), p3, q3)
_add("scalar_product", lambda p, q: cp.scalar_product(p, q), P23, P23)
_add("deep_flatten", lambda P, q: cp.deep_flatten([P, q]), P23, q3)
_add("psd_wrap", lambda P: psd_wrap(P.T @ P), P23)
_add("nsd_wrap", lambda P: nsd_wrap(-P.T @ P), P23)
_add("nonneg_wrap", lambda p: nonneg_wrap(cp.square(p)), p3)
_add("nonpos_wrap", lambda p: nonpos_wrap(-cp.square(p)), p3)
_add("symmetric_wrap", lambda P: symmetric_wrap(P + P.T), P33)
_add("skew_symmetric_wrap", lambda P: skew_symmetric_wrap(P - P.T), P33)
_add("hermitian_wrap", lambda P: hermitian_wrap(P + P.H), C33)
_add("real and imag", lambda P: cp.real(P @ P) + cp.imag(P), C33)
_add("conj", lambda P: cp.conj(P) @ _C, C33)
_add("complex from real", lambda P: P @ _C * 1j + P, P33)
_add("imag of complex from real", lambda p, q: cp.imag((p + 1j * q) * 2j), p3, q3)
_add("complex times real", lambda P, Q: P @ Q + cp.multiply(P, Q), C33, P33)
_add("complex stacked", lambda P, q: cp.hstack([P, q]), C3, q3)
_add("complex vdot", lambda p, q: cp.vdot(p, q), C3, C3)
_add("complex kron", lambda p, q: cp.kron(p, q), C33, P23)
_add("complex reshape", lambda p: cp.reshape(p.H, (9,), order="F"), C33)

# elementwise
pos = (POS, (3,))
POS23 = (POS, (2, 3))
_add("abs", lambda p: cp.abs(p), P23)
_add("abs complex", lambda p: cp.abs(p), C33)
_add("entr", lambda p: cp.entr(p), pos)
_add("exp", lambda p: cp.exp(p) @ _M, P23)
_add("huber", lambda p: cp.huber(3 * p, 1.5), P23)
_add("huber parameter", lambda p, m: cp.huber(3 * p, m), P23, (POS, ()))
_add("inv_pos", lambda p: cp.inv_pos(p), pos)
_add("power 3", lambda p: cp.power(p, 3), p3)
_add("power 2.5", lambda p: cp.power(p, 2.5), pos)
_add("power 2.5 approx", lambda p: cp.power(p, 2.503, max_denom=8, approx=True), pos)
_add("power -1.5", lambda p: cp.power(p, -1.5), pos)
_add("power -2", lambda p: p**-2, p3)
_add("power 2.5 exact", lambda p: cp.power(p, 2.5, approx=False), pos)
_add("power 1", lambda p: cp.power(p, 1), p3)
_add("power 0", lambda p: cp.power(p, 0), p3)
_add("power parameter", lambda p, e: cp.power(p, e), POS23, scalar)
_add("sqrt", lambda p: cp.sqrt(p), pos)
_add("square", lambda p: cp.square(p), p3)
_add("kl_div", lambda p, q: cp.kl_div(p, q), pos, pos)
_add("kl_div scalar", lambda p, q: cp.kl_div(p, q), POS23, (POS, ()))
_add("rel_entr", lambda p, q: cp.rel_entr(p, q), pos, (POS, ()))
_add("log", lambda p: cp.log(p), pos)
_add("log1p", lambda p: cp.log1p(p), pos)
_add("logistic", lambda p: cp.logistic(4 * p), P23)
_add("log_normcdf", lambda p: cp.log_normcdf(p), p3)
_add("loggamma", lambda p: cp.loggamma(p), pos)
_add("maximum", lambda p, q, s: cp.maximum(p, q, s, 0.1), P23, P23, scalar)
_add("minimum", lambda p, q: cp.minimum(p, q), P23, q3)
_add("neg and pos", lambda p: cp.neg(p) + 3 * cp.pos(p), P23)
_add("scalene", lambda p: cp.scalene(p, 2, 3), P23)
_add("xexp", lambda p: cp.xexp(p), pos)
for _name in ("sin", "cos", "tan", "sinh", "tanh", "asinh", "normcdf"):
    _add(_name, getattr(cp.nlp, _name), p3)
_add("atanh", lambda p: cp.nlp.atanh(p), (UNIT, (3,)))

# norms and functions of vectors
_add("norm", lambda p: cp.norm(p), p3)
_add("norm 1", lambda P: cp.norm(P, 1, axis=0), P23)
_add("norm1 all", lambda P: cp.norm1(P), P23)
_add("norm1 complex", lambda P: cp.norm1(P), C33)
_add("norm inf", lambda P: cp.norm_inf(P), P23)
_add("norm inf axis", lambda P: cp.norm(P, "inf", axis=1), P23)
_add("norm 2 axis", lambda P: cp.norm(P, 2, axis=1), P23)
_add("norm 2 axis kept", lambda P: cp.pnorm(P, 2, axis=0, keepdims=True), P23)
_add("norm complex", lambda p: cp.norm(p), C3)
_add("norm fro", lambda P: cp.norm(P, "fro"), P23)
for _p in (3, 4, 1.5, 0.5, -1, -2.5):
    _add(f"pnorm {_p}", lambda P, p=_p: cp.pnorm(P, p), POS23)
_add("pnorm 3 of any sign", lambda P: cp.pnorm(P, 3), P23)
_add("pnorm 4 of any sign", lambda P: cp.pnorm(P, 4), P23)
_add("pnorm 3.1 approx", lambda P: cp.pnorm(P, 3.1, max_denom=16, approx=True), P23)
_add("pnorm 3.1 exact", lambda P: cp.pnorm(P, 3.1, approx=False), P23)
_add("mixed_norm", lambda P: cp.mixed_norm(P, 2, 1), P23)
_add("max", lambda P: cp.max(P), P23)
_add("max axis", lambda P: cp.max(P, axis=0), P23)
_add("max axes kept", lambda P: cp.max(P, axis=(0, 2), keepdims=True), P234)
_add("min", lambda P: cp.min(P), P23)
_add("min axis", lambda P: cp.min(P, axis=1, keepdims=True), P23)
_add("sum_largest", lambda P: cp.sum_largest(P, 2), P23)
_add("sum_largest fraction", lambda P: cp.sum_largest(P, 2.5), P23)
_add("sum_largest axis", lambda P: cp.sum_largest(P, 1.5, axis=1), P23)
_add("sum_smallest", lambda P: cp.sum_smallest(P, 2), P23)
_add("cvar", lambda p: cp.cvar(p, 0.6), (ANY, (6,)))
_add("dotsort", lambda p, w: cp.dotsort(p, w), P23, (ANY, (6,)))
_add("dotsort short", lambda p: cp.dotsort(p, [0.5, -1.0]), P23)
_add("ptp", lambda P: cp.ptp(P, axis=0), P23)
_add("std", lambda P: cp.std(P), P23)
_add("std axis", lambda P: cp.std(P, axis=1, ddof=1), P23)
_add("var", lambda P: cp.var(P), P23)
_add("log_sum_exp", lambda P: cp.log_sum_exp(50 * P), P23)
_add("log_sum_exp axis", lambda P: cp.log_sum_exp(P, axis=0, keepdims=True), P23)
_add("geo_mean", lambda P: cp.geo_mean(P), pos)
_add("geo_mean weights", lambda P: cp.geo_mean(P, [1, 0, 3, 2.5, 1, 2]), POS23)
_add("geo_mean weights exact", lambda P: cp.geo_mean(P, [1, 0, 2.7], axis=1, approx=False), POS23)
_add("geo_mean axes", lambda P: cp.geo_mean(P, [1, 2, 3, 4, 5, 6], axis=(0, 1)), (POS, (2, 3, 2)))
_add("harmonic_mean", lambda P: cp.harmonic_mean(P), pos)
_add("prod", lambda P: cp.prod(P), P23)
_add("prod axis", lambda P: cp.prod(P, axis=1), P23)
_add("cumprod", lambda P: cp.cumprod(P, axis=1), P23)
_add("cummax", lambda P: cp.cummax(P, axis=1), P23)
_add("cummax axis 0", lambda P: cp.cummax(P), P33)
_add("inv_prod", lambda P: cp.inv_prod(P), pos)
_add("quad_form", lambda p, P: cp.quad_form(p, P), p3, (PD, (3, 3)))
_add("quad_form constant", lambda p: cp.quad_form(p, _M @ _M.T), p3)
_add("QuadForm", lambda p, P: cp.QuadForm(p, P), p3, (PD, (3, 3)))
_add("quad_form complex", lambda p, P: cp.QuadForm(p, P), C3, (HPD, (3, 3)))
_add("quad_over_lin", lambda P, s: cp.quad_over_lin(P, s), P23, (POS, ()))
_add("quad_over_lin axis", lambda P, s: cp.quad_over_lin(P, s, axis=0), P23, (POS, ()))
_add("quad_over_lin complex", lambda P, s: cp.quad_over_lin(P, s), C33, (POS, ()))
_add("sum_squares", lambda P: cp.sum_squares(P), P23)
_add("tv", lambda p: cp.tv(p), (ANY, (5,)))
_add("tv of images", lambda P, Q: cp.tv(P, Q), P33, P33)
_add("dist_ratio", lambda p: cp.dist_ratio(p, _V, 2 * _V), p3)
_add("one_minus_pos", lambda p: cp.one_minus_pos(p), (UNIT, (3,)))
_add("diff_pos", lambda p, q: cp.diff_pos(p + 1, q), pos, (UNIT, (3,)))
_add("gmatmul", lambda p: cp.gmatmul(_M, p), pos)
_add("gmatmul parameter", lambda p, A: cp.gmatmul(A, p), pos, P23)

# matrices
PD33, HPD33, SYM33 = (PD, (3, 3)), (HPD, (3, 3)), (SYM, (3, 3))
_add("matrix_frac", lambda X, P: cp.matrix_frac(X, P), (ANY, (3, 2)), PD33)
_add("matrix_frac vector", lambda x, P: cp.matrix_frac(x, P), p3, PD33)
_add("matrix_frac complex", lambda x, P: cp.matrix_frac(x, P), C3, HPD33)
_add("norm nuc", lambda P: cp.norm(P, "nuc"), P23)
_add("norm nuc complex", lambda P: cp.normNuc(P), C33)
_add("sigma_max", lambda P: cp.sigma_max(P), P23)
_add("norm 2 of a matrix", lambda P: cp.norm(P, 2), (COMPLEX, (3, 2)))
_add("lambda_max", lambda P: cp.lambda_max(P), SYM33)
_add("lambda_max hermitian", lambda P: cp.lambda_max(P), (HERM, (3, 3)))
_add("lambda_min", lambda P: cp.lambda_min(P), SYM33)
_add("lambda_sum_largest", lambda P: cp.lambda_sum_largest(P, 1.5), SYM33)
_add("lambda_sum_smallest", lambda P: cp.lambda_sum_smallest(P, 2), SYM33)
_add("log_det", lambda P: cp.log_det(P), PD33)
_add("log_det hermitian", lambda P: cp.log_det(P), HPD33)
_add("tr_inv", lambda P: cp.tr_inv(P), PD33)
_add("von_neumann_entr", lambda P: cp.von_neumann_entr(P), PD33)
_add("von_neumann_entr hermitian", lambda P: cp.von_neumann_entr(P), HPD33)
_add("condition_number", lambda P: cp.condition_number(P), PD33)
_add("gen_lambda_max", lambda A, B: cp.gen_lambda_max(A, B), SYM33, PD33)
_add("eye_minus_inv", lambda P: cp.eye_minus_inv(P), (UNIT, (3, 3)))
_add("resolvent", lambda P: cp.resolvent(P, 2.0), (UNIT, (3, 3)))
_add("pf_eigenvalue", lambda P: cp.pf_eigenvalue(P), (POS, (3, 3)))

BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES)
