"""Second-order cone programs, nearest correlation matrices, semidefinite programs."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import lsqr

from benchmarks.suite.case import Arrays, Family, Model

__all__ = ["CORRELATION", "SDP", "SOCP"]


def socp(n: int, rng: np.random.Generator) -> Model:
    """minimize cᵀx subject to ‖Aᵢx − bᵢ‖ ≤ hᵢ for overlapping windows of x and ‖x‖ ≤ 2√n; c and b are the parameters."""
    window, rows = 10, 6
    blocks = n // 5 - 1
    matrices = rng.standard_normal((blocks, rows, window)) / np.sqrt(window)
    x, c, b = cp.Variable(n), cp.Parameter(n, name="c"), cp.Parameter((blocks, rows), name="b")
    columns = 5 * np.arange(blocks)[:, None, None] + np.arange(window)
    row = np.arange(blocks * rows).reshape(blocks, rows, 1)
    row, columns = np.broadcast_arrays(row, columns)
    entries = (matrices.ravel(), (row.ravel(), columns.ravel()))
    stacked = sp.csr_array(sp.coo_array(entries, shape=(blocks * rows, n)))
    # One constraint for all cones: with one each, cvxpy's own compilation takes more than 20 GB at n = 2000.
    norms = cp.norm(cp.reshape(stacked @ x, (blocks, rows), order="C") - b, 2, axis=1)
    radius = 2 * np.sqrt(n)
    problem = cp.Problem(cp.Minimize(c @ x), [norms <= 1, cp.norm(x) <= radius])

    def draw(rng: np.random.Generator) -> Arrays:
        center = rng.standard_normal(n)
        centers = np.stack([matrices[i] @ center[5 * i : 5 * i + window] for i in range(blocks)])
        return [rng.standard_normal(n), centers]

    def kkt(values: Arrays, variables: Arrays) -> sp.csc_array:
        """[H, Cᵀ; C, 0]: normals C of the active cones, H = Σ μᵢ/‖rᵢ‖ AᵢᵀAᵢ.

        The Hessian of ‖r‖ is (I − r̂r̂ᵀ)/‖r‖; the second term is zero where C dx = 0.
        """
        c, b, x = *values, variables[0]
        residuals = (stacked @ x).reshape(blocks, rows) - b
        sizes = np.append(np.linalg.norm(residuals, axis=1), np.linalg.norm(x))
        summed = sp.csr_array(sp.kron(sp.eye_array(blocks), np.ones((1, rows))))
        scaled = sp.diags_array((residuals / sizes[:-1, None]).ravel()) @ stacked
        normals = sp.csr_array(sp.vstack([summed @ scaled, x[None] / sizes[-1]]))
        active = sizes > np.append(np.ones(blocks), radius) - 1e-6
        multipliers = np.zeros(blocks + 1)
        multipliers[active] = lsqr(normals[active].T, -c, atol=1e-12, btol=1e-12)[0]
        weights = multipliers / sizes
        H = stacked.T @ sp.diags_array(np.repeat(weights[:-1], rows)) @ stacked + weights[-1] * sp.eye_array(n)
        return sp.csc_array(sp.block_array([[H, normals[active].T], [normals[active], None]]))

    return Model(problem, [c, b], [x], draw, kkt=kkt)


def correlation(n: int, _: np.random.Generator) -> Model:
    """The correlation matrix nearest to a symmetric one."""
    X, C = cp.Variable((n, n), PSD=True), cp.Parameter((n, n), name="C")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1])

    def draw(rng: np.random.Generator) -> Arrays:
        noise = rng.uniform(-1, 1, (n, n))
        C = (noise + noise.T) / 2
        np.fill_diagonal(C, 1.0)
        return [C]

    def kkt(values: Arrays, variables: Arrays) -> np.ndarray:
        """The Newton matrix of diag Π(C + diag λ) = 1, of order n."""
        C, X = values[0], variables[0]
        eigenvalues, Q = np.linalg.eigh(C + np.diag(np.diag((X - C) @ X)))
        up, down = np.maximum(eigenvalues, 0), np.maximum(-eigenvalues, 0)
        top = np.maximum.outer(up, up)
        omega = top / np.maximum(top + np.maximum.outer(down, down), 1e-300)
        return np.einsum("ik,il,kl,jk,jl->ij", Q, Q, omega, Q, Q, optimize=True)

    return Model(problem, [C], [X], draw, kkt=kkt, symmetric=frozenset({"C"}))


def sdp(n: int, rng: np.random.Generator) -> Model:
    """minimize tr(C X) subject to tr(Aᵢ X) = bᵢ, X ⪰ 0, with 2n/3 constraints of rank one; C is the parameter."""
    m = 2 * n // 3
    vectors = rng.standard_normal((m, n))
    matrices = [np.outer(a, a) / n for a in vectors]
    inside = np.eye(n)
    X, C = cp.Variable((n, n), PSD=True), cp.Parameter((n, n), name="C")
    equalities = [cp.trace(A @ X) == float(np.sum(A * inside)) for A in matrices]
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), equalities)

    def draw(rng: np.random.Generator) -> Arrays:
        # Positive definite, so that the minimum is attained.
        R = rng.standard_normal((n, n))
        return [R @ R.T / n + 0.5 * np.eye(n)]

    def kkt(values: Arrays, variables: Arrays) -> np.ndarray:
        """[0, Bᵀ; B, −E W⁻¹ Eᵀ] on the range of X (of rank r: r(r+1)/2 unknowns), the mixed part eliminated."""
        C, X = values[0], variables[0]
        normal_equations = np.stack([(A @ X).ravel() for A in matrices], 1)
        y = np.linalg.lstsq(normal_equations, (C @ X).ravel())[0]
        eigenvalues, Q = np.linalg.eigh(X - (C - np.tensordot(y, np.stack(matrices), 1)))
        positive = eigenvalues > 0
        rotated = np.stack([Q.T @ A @ Q for A in matrices])
        p, q = np.triu_indices(int(positive.sum()))
        inside = rotated[:, positive][:, :, positive][:, p, q] * np.where(p == q, 1.0, np.sqrt(2))
        mixed = (np.sqrt(2) * rotated[:, positive][:, :, ~positive]).reshape(m, -1)
        weights = np.divide.outer(eigenvalues[positive], -eigenvalues[~positive]).ravel()
        S = (mixed * weights) @ mixed.T
        return np.block([[np.zeros((p.size, p.size)), inside.T], [inside, -S]])

    return Model(problem, [C], [X], draw, kkt=kkt, symmetric=frozenset({"C"}))


SOCP = Family("SOCP", socp, [(50, 1), (500, 1), (2000, 1)], [(50, 1), (500, 1)])
CORRELATION = Family("correlation", correlation, [(20, 1), (40, 1)], [(20, 1)])
SDP = Family("SDP", sdp, [(15, 1), (30, 1)], [(15, 1)])
