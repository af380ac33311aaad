"""Functions of eigenvalues, by the second-order expansion at the argument's own value.

With A₀ the value of a Hermitian A as a constant, A₀ = V diag(λ) Vᴴ and N = Vᴴ(A − A₀)V, which is zero but has
derivatives,

    F(A) = Σᵢ f(λᵢ) + Σᵢ f′(λᵢ) Nᵢᵢ + ½ Σᵢⱼ f′[λᵢ, λⱼ] |Nᵢⱼ|² + O(‖N‖³),   f′[λ, μ] = (f′(λ) − f′(μ)) / (λ − μ),

has F's value and first and second derivatives; no eigenvector is differentiated, so that repeated eigenvalues do no
harm. Third derivatives are not F's.
"""

from __future__ import annotations

import numpy as np

from conelayers.problem.expressions.arithmetic import Arithmetic, Array, precision

__all__ = [
    "cholesky",
    "gen_lambda_max",
    "log_det",
    "pf_eigenvalue",
    "tr_inv",
    "von_neumann_entr",
    "weighted_eigenvalues",
]

Shape = tuple[int, ...]
_TIED = 1e-12  # relative gap of eigenvalues that are taken as equal where their order matters
_CLOSE = 1e-5  # relative gap below which a divided difference is the derivative at the middle
_SQUARINGS = 30  # powers up to 2³⁰: relative gaps from about 1e-7 on


def _adjoint(xp: Arithmetic, A: Array) -> Array:
    rank = len(A.shape)
    return xp.conjugate(xp.permute(A, (*range(rank - 2), rank - 1, rank - 2)))


def _hermitian(xp: Arithmetic, A: Array) -> Array:
    return (A + _adjoint(xp, A)) / 2


def _congruence(xp: Arithmetic, V: Array, A: Array) -> Array:
    """Vᴴ A V."""
    return xp.matmul(xp.matmul(_adjoint(xp, V), A), V)


def _diagonal(xp: Arithmetic, A: Array) -> Array:
    n = A.shape[-1]
    return xp.reshape(A, (*A.shape[:-2], n * n))[..., :: n + 1]


def _expansion(xp: Arithmetic, value: Array, N: Array, slopes: Array, second: Array) -> Array:
    """value + Σᵢ slopesᵢ Nᵢᵢ + ½ Σᵢⱼ secondᵢⱼ |Nᵢⱼ|²."""
    linear = xp.sum(slopes * xp.real(_diagonal(xp, N)), (-1,))
    return value + linear + 0.5 * xp.sum(second * xp.real(N * xp.conjugate(N)), (-2, -1))


def _gaps(xp: Arithmetic, w: Array, tolerance: float) -> tuple[Array, Array]:
    """λᵢ − λⱼ, 1 where it is taken as zero, and where that is."""
    gap = w[..., :, None] - w[..., None, :]
    size = xp.elementwise("abs", w)
    close = xp.elementwise("abs", gap) <= tolerance * xp.maximum(size[..., :, None], size[..., None, :])
    return xp.where(close, 1.0, gap), close


def _divided(xp: Arithmetic, w: Array, slopes: Array, curvature: Array) -> Array:
    """f′[λᵢ, λⱼ], where f″ is given at the middles (λᵢ + λⱼ)/2."""
    gap, close = _gaps(xp, w, _CLOSE)
    return xp.where(close, curvature, (slopes[..., :, None] - slopes[..., None, :]) / gap)


def _decomposed(xp: Arithmetic, A: Array) -> tuple[Array, Array]:
    """λ and N."""
    A = _hermitian(xp, A)
    fixed = xp.stop(A)
    w, V = xp.eigh(fixed)
    return w, _congruence(xp, V, A - fixed)


def _middles(w: Array) -> Array:
    return (w[..., :, None] + w[..., None, :]) / 2


def weighted_eigenvalues(xp: Arithmetic, shape: Shape, A: Array, weights: Array) -> Array:
    """Σ cᵢ λᵢ with λ₁ ≤ λ₂ ≤ … and fixed weights; equal eigenvalues add nothing to the second derivative."""
    w, N = _decomposed(xp, A)
    gap, tied = _gaps(xp, w, _TIED)
    slopes = weights + 0 * w
    second = xp.where(tied, 0.0, (slopes[..., :, None] - slopes[..., None, :]) / gap)
    return _expansion(xp, xp.sum(weights * w, (-1,)), N, slopes, second)


def log_det(xp: Arithmetic, shape: Shape, A: Array) -> Array:
    """Σ log λᵢ, −∞ for an A that is not positive definite."""
    w, N = _decomposed(xp, A)
    positive = -xp.amax(-w) > 0
    w = xp.where(w > 0, w, 1.0)
    second = _divided(xp, w, 1 / w, -1 / _middles(w) ** 2)
    value = _expansion(xp, xp.sum(xp.elementwise("log", w), (-1,)), N, 1 / w, second)
    return xp.where(positive, value, -np.inf)


def tr_inv(xp: Arithmetic, shape: Shape, A: Array) -> Array:
    """Σ 1/λᵢ, +∞ for an A that is not positive definite."""
    w, N = _decomposed(xp, A)
    positive = -xp.amax(-w) > 0
    w = xp.where(w > 0, w, 1.0)
    second = _divided(xp, w, -1 / w**2, 2 / _middles(w) ** 3)
    return xp.where(positive, _expansion(xp, xp.sum(1 / w, (-1,)), N, -1 / w**2, second), np.inf)


def von_neumann_entr(xp: Arithmetic, shape: Shape, A: Array) -> Array:
    """−Σ λᵢ log λᵢ; eigenvalues that are zero up to rounding count as the least ones that are not."""
    w, N = _decomposed(xp, A)
    least = float(precision(w).eps) * w.shape[-1] * xp.amax(xp.elementwise("abs", w))[..., None]
    inside = (-xp.amax(-(w + 4 * least))) >= 0
    value = xp.sum(-w * xp.elementwise("log", xp.where(w > 0, w, 1.0)), (-1,))
    w = xp.maximum(w, least + float(precision(w).tiny))
    slopes = -xp.elementwise("log", w) - 1
    return xp.where(inside, _expansion(xp, value, N, slopes, _divided(xp, w, slopes, -1 / _middles(w))), -np.inf)


def gen_lambda_max(xp: Arithmetic, shape: Shape, A: Array, B: Array) -> Array:
    """The largest λ with Av = λBv. With VᴴB₀V = I, VᴴA₀V = diag(λ) and G = Vᴴ(A − λₙB)V,

    λ = λₙ + Gₙₙ(2 − (VᴴBV)ₙₙ) + Σ_{j≠n} |Gₙⱼ|² / (λₙ − λⱼ) + O(·³).
    """
    A, B = _hermitian(xp, A), _hermitian(xp, B)
    if A.shape[0] != B.shape[0]:
        batch = max(A.shape[0], B.shape[0])
        A, B = xp.expand(A, (batch, *A.shape[1:])), xp.expand(B, (batch, *B.shape[1:]))
    d, U = xp.eigh(xp.stop(B))
    root = xp.matmul(U / xp.power(d, 0.5)[..., None, :], _adjoint(xp, U))
    w, W = xp.eigh(_congruence(xp, root, xp.stop(A)))
    V = xp.matmul(root, W)
    top = w[..., -1]
    A_hat, B_hat = _congruence(xp, V, A), _congruence(xp, V, B)
    G = A_hat[..., -1, :] - top[..., None] * B_hat[..., -1, :]
    gap, tied = _gaps(xp, w, _TIED)
    others = xp.where(tied[..., -1, :], 0.0, 1 / gap[..., -1, :])
    linear = xp.real(G[..., -1])
    second = xp.sum(others * xp.real(G * xp.conjugate(G)), (-1,))
    return top + linear * (2 - xp.real(B_hat[..., -1, -1])) + second


def cholesky(xp: Arithmetic, shape: Shape, A: Array, sign: int, name: str) -> Array:
    """L with sign·A = L Lᴴ. Raises ValueError, naming A, where sign·A is not positive definite."""
    try:
        return xp.cholesky(_hermitian(xp, sign * A))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"{name}: got a value that is not {'positive' if sign > 0 else 'negative'} definite, expected one, as its "
            "factor is a parameter of "
            "the cone program (quad_form in a constraint, or for a solver without a quadratic objective); add a small "
            "multiple of the "
            "identity, or write quad_form(x, psd_wrap(M.T @ M))"
        ) from error


def pf_eigenvalue(xp: Arithmetic, shape: Shape, A: Array, eye: Array) -> Array:
    """The Perron-Frobenius eigenvalue ρ of a nonnegative matrix that is irreducible.

    (A + sI)ᵏ tends, up to scale, to the projector P = vuᵀ/(uᵀv), and with dA = A − A₀ and S = (ρI − A₀ + P)⁻¹ − P

    ρ = tr(P A) + tr(P dA S dA) + O(‖dA‖³).
    """
    fixed = xp.stop(A)
    size = xp.amax(xp.sum(fixed, (-1,)))[..., None, None]
    size = xp.where(size > 0, size, 1.0)
    P = fixed / size + eye
    for _ in range(_SQUARINGS):
        P = xp.matmul(P, P)
        P = P / xp.amax(xp.reshape(P, (P.shape[0], -1)))[:, None, None]
    P = P / _trace(xp, P)[:, None, None]
    rho = _trace(xp, xp.matmul(P, fixed))[:, None, None]
    S = xp.inverse(rho * eye - fixed + size * P) - P / size
    dA = A - fixed
    return _trace(xp, xp.matmul(P, A) + xp.matmul(xp.matmul(P, dA), xp.matmul(S, dA)))


def _trace(xp: Arithmetic, A: Array) -> Array:
    return xp.sum(_diagonal(xp, A), (-1,))
