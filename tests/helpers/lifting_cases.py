"""Problems that are DCP for every value of their parameters but not DPP, and complex ones: makers and samplers, for several test files.

Those named after public issues are cvxpylayers' (77, 80, 122, 124, 136, 156), told in our own words.
"""

from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import numpy as np

Case = Callable[[np.random.Generator], tuple[cp.Problem, list, list, list]]


def spd(rng: np.random.Generator, n: int) -> np.ndarray:
    G = rng.standard_normal((n, n))
    return G @ G.T / n + 0.5 * np.eye(n)


def product_of_parameters(rng):
    x, p, q = cp.Variable(3), cp.Parameter(name="p"), cp.Parameter(3, name="q")
    return (
        cp.Problem(cp.Minimize(cp.sum_squares(x - p * q)), [x <= 0.7]),
        [p, q],
        [x],
        [rng.normal(), rng.normal(size=3)],
    )


def reciprocal(rng):
    x, p, b = cp.Variable(3), cp.Parameter(name="p", pos=True), cp.Parameter(3, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x / p - b)), [cp.sum(x) == 1])
    return problem, [p, b], [x], [rng.uniform(0.5, 2), rng.normal(size=3)]


def exponential_weights(rng):  # 80
    x, theta = cp.Variable(4), cp.Parameter(2, name="theta")
    F = rng.normal(size=(4, 2))
    problem = cp.Problem(cp.Minimize(cp.exp(F @ theta) @ cp.square(x) + cp.sum(x)), [x >= -0.5])
    return problem, [theta], [x], [rng.normal(size=2)]


def matrix_product(rng):
    x, A, B, b = cp.Variable(3), cp.Parameter((5, 4)), cp.Parameter((4, 3)), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ B @ x - b) + 0.1 * cp.norm1(x)))
    return problem, [A, B, b], [x], [rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=5)]


def nested_product(rng):
    x, A, B, b = cp.Variable(3), cp.Parameter((5, 4)), cp.Parameter((4, 3)), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ (B @ x + 1) - b)), [x >= 0])
    return problem, [A, B, b], [x], [rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=5)]


def ridge(rng):
    x, A, b = cp.Variable(3), cp.Parameter((5, 3), name="A"), cp.Parameter(5, name="b")
    w = cp.Parameter(nonneg=True, name="w")
    problem = cp.Problem(cp.Minimize(w * cp.sum_squares(A @ x - b) + w**2 * cp.sum_squares(x)), [cp.sum(x) == 1])
    return problem, [A, b, w], [x], [rng.normal(size=(5, 3)), rng.normal(size=5), rng.uniform(0.5, 2)]


def mean_variance(rng):  # 77, 136
    x, gamma = cp.Variable(4), cp.Parameter(nonneg=True, name="gamma")
    S, mu = cp.Parameter((4, 4), PSD=True, name="S"), cp.Parameter(4, name="mu")
    problem = cp.Problem(cp.Maximize(mu @ x - gamma * cp.quad_form(x, S)), [cp.sum(x) == 1, x >= 0])
    return problem, [mu, gamma, S], [x], [rng.normal(size=4), rng.uniform(0.5, 2), spd(rng, 4)]


def risk_limit(rng):
    x, S, mu = cp.Variable(4), cp.Parameter((4, 4), PSD=True, name="S"), cp.Parameter(4, name="mu")
    center, limit = cp.Parameter(4, name="center"), cp.Parameter(nonneg=True, name="limit")
    problem = cp.Problem(cp.Maximize(mu @ x), [cp.quad_form(x - center, S) <= limit**2])
    return (
        problem,
        [mu, S, center, limit],
        [x],
        [rng.normal(size=4), spd(rng, 4), rng.normal(size=4), rng.uniform(0.5, 2)],
    )


def gram_limit(rng):
    x, M, mu = cp.Variable(4), cp.Parameter((2, 4), name="M"), cp.Parameter(4, name="mu")
    risk = cp.quad_form(x, cp.psd_wrap(M.T @ M))
    problem = cp.Problem(cp.Maximize(mu @ x - cp.sum_squares(x)), [risk <= 0.1])
    return problem, [M, mu], [x], [rng.normal(size=(2, 4)), rng.normal(size=4)]


def advertising(rng):  # 124
    m, n = 2, 4
    D, P = cp.Variable((m, n)), cp.Parameter((m, n), nonneg=True)
    R, B = cp.Parameter(m, nonneg=True), cp.Parameter(m, nonneg=True)
    revenue = [cp.minimum(R[i] * P[i, :] @ D[i, :].T, B[i]) for i in range(m)]
    constraints = [D >= 0, D.T @ np.ones(m) <= 1 + np.arange(n), D @ np.ones(n) >= 1]
    problem = cp.Problem(cp.Maximize(sum(revenue) - 0.05 * cp.sum_squares(D)), constraints)
    return problem, [P, R, B], [D], [rng.uniform(size=(m, n)), rng.uniform(1, 2, m), rng.uniform(1, 3, m)]


def exponential_utility(rng):  # 156
    n, k = 4, 3
    w, gamma = cp.Variable(n), cp.Parameter(1, nonneg=True, name="gamma")
    pi, mus, covariances = rng.dirichlet(np.ones(k)), rng.normal(size=(k, n)), [spd(rng, n) for _ in range(k)]
    terms = [np.log(pi[i]) - gamma * (mus[i] @ w) + gamma**2 / 2 * cp.quad_form(w, covariances[i]) for i in range(k)]
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(cp.hstack(terms))), [w >= 0, cp.sum(w) == 1])
    return problem, [gamma], [w], [rng.uniform(0.5, 2, 1)]


def exponential_utility_of_parameters(rng):  # 156, the covariances too
    n, k = 3, 2
    w, gamma = cp.Variable(n), cp.Parameter(nonneg=True, name="gamma")
    S = [cp.Parameter((n, n), PSD=True, name=f"S{i}") for i in range(k)]
    mus = rng.normal(size=(k, n))
    terms = [gamma**2 / 2 * cp.quad_form(w, S[i]) - gamma * (mus[i] @ w) for i in range(k)]
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(cp.hstack(terms))), [w >= 0, cp.sum(w) == 1])
    return problem, [gamma, *S], [w], [rng.uniform(0.5, 2), *(spd(rng, n) for _ in range(k))]


def nested_bounds(rng):
    x, A, p, q = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
    inner = q * cp.norm(A @ x - 1) + q * cp.norm1(x)
    problem = cp.Problem(cp.Minimize(p * cp.maximum(inner, p * q) + 0.1 * cp.sum_squares(x - 1)))
    return problem, [A, p, q], [x], [rng.normal(size=(4, 3)), rng.uniform(0.5, 1), rng.uniform(0.5, 1)]


def norms_of_parameters(rng):
    x, p = cp.Variable(3), cp.Parameter(3, name="p")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x - p)),
        [cp.norm(x) <= cp.norm(p) / 2, cp.norm_inf(x) <= cp.max(cp.abs(p)) * cp.norm1(p)],
    )
    return problem, [p], [x], [rng.normal(size=3)]


def huber_threshold(rng):
    x, A, b = cp.Variable(2), cp.Parameter((6, 2)), cp.Parameter(6)
    p, q = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.huber(A @ x - b, p * q)) + cp.sum_squares(x)))
    return problem, [A, b, p, q], [x], [rng.normal(size=(6, 2)), rng.normal(size=6), 0.8, 0.9]


def huber_of_constants(values):
    A, b, p, q = values
    x = cp.Variable(2)
    return cp.Problem(cp.Minimize(cp.sum(cp.huber(A @ x - b, float(p * q))) + cp.sum_squares(x))), [x]


def semidefinite(rng):
    X, C, p = cp.Variable((3, 3), PSD=True), cp.Parameter((3, 3), symmetric=True), cp.Parameter(pos=True)
    problem = cp.Problem(
        cp.Minimize(cp.trace(C @ C @ X) / p + cp.sum_squares(X)), [cp.trace(X) == cp.lambda_max(C) + cp.exp(p)]
    )
    C0 = rng.normal(size=(3, 3))
    return problem, [C, p], [X], [C0 + C0.T, rng.uniform(0.5, 1)]


def convolutions(rng):
    x, c, K = cp.Variable(3), cp.Parameter(2, name="c"), cp.Parameter((2, 2), name="K")
    p = cp.Parameter(nonneg=True, name="p")
    blurred, spread = cp.convolve(c, p * x - 1), cp.kron(K, p * cp.diag(x))
    return (
        cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.norm1(blurred) + p * cp.norm(cp.vec(spread, order="F")))),
        [c, K, p],
        [x],
        [rng.normal(size=2), rng.normal(size=(2, 2)), 0.8],
    )


def scaled_gram_limit(rng):
    x, M, mu = cp.Variable(4), cp.Parameter((2, 4), name="M"), cp.Parameter(4, name="mu")
    p = cp.Parameter(nonneg=True, name="p")
    risk = p * cp.quad_form(x, cp.psd_wrap(p**2 * cp.psd_wrap(M.T @ M)))
    problem = cp.Problem(cp.Maximize(mu @ x - cp.sum_squares(x)), [risk <= 0.05])
    return problem, [M, mu, p], [x], [rng.normal(size=(2, 4)), rng.normal(size=4), 0.9]


def shapes_of_one_entry(rng):
    x, p, q = cp.Variable(3), cp.Parameter((1,), pos=True, name="p"), cp.Parameter((1, 1), pos=True, name="q")
    fit = cp.sum_squares(x / q - 1 / (p + 0.1)) + cp.sum(cp.multiply(q, cp.multiply(p, cp.norm(p * x - 1))))
    return cp.Problem(cp.Minimize(fit)), [p, q], [x], [np.array([0.7]), np.array([[1.3]])]


def geometric(rng):
    x, y = cp.Variable(pos=True), cp.Variable(pos=True)
    a, b = cp.Parameter(pos=True, name="a"), cp.Parameter(pos=True, name="b")
    problem = cp.Problem(cp.Minimize((a + b) * x / y + y / (a * a + b)), [x >= 1 / (a + 2 * b), x * y >= a])
    return problem, [a, b], [x, y], [rng.uniform(0.5, 2), rng.uniform(0.5, 2)]


REAL = [
    product_of_parameters,
    reciprocal,
    exponential_weights,
    matrix_product,
    nested_product,
    ridge,
    mean_variance,
    risk_limit,
    gram_limit,
    advertising,
    exponential_utility,
    exponential_utility_of_parameters,
    nested_bounds,
    norms_of_parameters,
    huber_threshold,
    semidefinite,
    convolutions,
    scaled_gram_limit,
    shapes_of_one_entry,
    geometric,
]


def complex_normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def hermitian(rng, n):
    H = complex_normal(rng, n, n)
    return H + H.conj().T


def beamforming(rng):
    w, a = cp.Variable(3, complex=True), cp.Parameter(3, complex=True, name="a")
    S = cp.Parameter((3, 3), hermitian=True, name="S")
    problem = cp.Problem(
        cp.Minimize(cp.quad_form(w, cp.psd_wrap(S))), [cp.real(cp.conj(a) @ w) == 1, cp.imag(a @ w) <= 0.1]
    )
    H = complex_normal(rng, 3, 3)
    return problem, [a, S], [w], [complex_normal(rng, 3), H @ H.conj().T + np.eye(3)]


def beamforming_of_constants(values):
    a, S = values
    w = cp.Variable(3, complex=True)
    return cp.Problem(cp.Minimize(cp.quad_form(w, S)), [cp.real(a.conj() @ w) == 1, cp.imag(a @ w) <= 0.1]), [w]


def complex_lasso(rng):
    x, A, b = cp.Variable(3, complex=True), cp.Parameter((4, 3), complex=True), cp.Parameter(4, complex=True)
    weight = cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + weight * cp.norm1(x)))
    return problem, [A, b, weight], [x], [complex_normal(rng, 4, 3), complex_normal(rng, 4), 0.5]


def density_matrix(rng):
    X, C = cp.Variable((3, 3), hermitian=True), cp.Parameter((3, 3), hermitian=True, name="C")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.real(cp.trace(X)) == 1])
    return problem, [C], [X], [hermitian(rng, 3)]


def complex_projection(rng):
    z, c = cp.Variable(3, complex=True), cp.Parameter(3, complex=True, name="c")
    r = cp.Parameter(nonneg=True, name="r")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - c)), [cp.abs(z) <= r, cp.sum(z) == 0.3j])
    return problem, [c, r], [z, problem.constraints[1].dual_variables[0]], [complex_normal(rng, 3), 0.8]


def phases(rng):
    z, phi = cp.Variable(3, complex=True), cp.Parameter(3, imag=True, name="phi")
    p = cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - p * phi) + cp.norm(z)))
    return problem, [phi, p], [z], [1j * rng.normal(size=3), rng.normal()]


def hermitian_products(rng):
    X, H = cp.Variable((2, 2), hermitian=True), cp.Parameter((2, 2), hermitian=True, name="H")
    p = cp.Parameter(nonneg=True, name="p")
    problem = cp.Problem(cp.Minimize(cp.lambda_max(p * (p * X + H)) + cp.sigma_max(X - H @ H) + cp.sum_squares(X)))
    return problem, [H, p], [X], [hermitian(rng, 2), 0.7]


COMPLEX = [beamforming, complex_lasso, density_matrix, complex_projection, phases, hermitian_products]
