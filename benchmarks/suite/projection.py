"""Projections onto dual cones K* and an element D of their derivative, as one sparse matrix, for the reference.

Second-order and semidefinite cones are self-dual; of the exponential cone only D at a solution is needed here.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from benchmarks.suite.conic_form import ConeDims

__all__ = ["blocks_at", "element", "project"]


def project(v: np.ndarray, dims: ConeDims) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Π_{K*}(v) and D as diagonal blocks (first row, matrix); a vector stands for a diagonal one."""
    if dims.exponential:
        raise ValueError("exponential cones: no projection here, families with them have references of their own")
    z, free = dims.smooth_start, dims.zero
    positive = np.concatenate([np.ones(free), (v[free:z] > 0).astype(float)])
    p, blocks = np.array(v), [(0, positive)]
    p[:z] = positive * v[:z]
    for start, size in _ranges(z, dims.soc):
        p[start : start + size], block = _second_order(v[start : start + size])
        blocks.append((start, block))
    for start, order in _psd_ranges(z + sum(dims.soc), dims.psd):
        size = order * (order + 1) // 2
        p[start : start + size], block = _semidefinite(v[start : start + size], order)
        blocks.append((start, block))
    return p, blocks


def blocks_at(y: np.ndarray, s: np.ndarray, dims: ConeDims) -> list[tuple[int, np.ndarray]]:
    """D at a solution v = y − s, exponential cones included."""
    start = len(y) - 3 * dims.exponential
    head = ConeDims(dims.zero, dims.nonneg, dims.soc, dims.psd, 0)
    blocks = project((y - s)[:start], head)[1]
    for k in range(start, len(y), 3):
        blocks.append((k, np.eye(3) - _exponential(s[k : k + 3], y[k : k + 3])))
    return blocks


def element(blocks: list[tuple[int, np.ndarray]]) -> sp.csc_array:
    """D as one sparse matrix."""
    return sp.csc_array(sp.block_diag([sp.diags_array(b) if b.ndim == 1 else b for _, b in blocks if b.size]))


def _ranges(start: int, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    ends = np.cumsum([start, *sizes])
    return [(int(e), int(n)) for e, n in zip(ends, sizes, strict=False)]


def _psd_ranges(start: int, orders: tuple[int, ...]) -> list[tuple[int, int]]:
    ends = np.cumsum([start, *(n * (n + 1) // 2 for n in orders)])
    return [(int(e), int(n)) for e, n in zip(ends, orders, strict=False)]


def _second_order(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """‖u‖ ≤ t inside, ‖u‖ ≤ −t zero, otherwise ½(1 + t/‖u‖)(‖u‖, u) with H(w, t/‖u‖)."""
    t, u = v[0], v[1:]
    norm = np.sqrt(np.sum(u.astype(np.longdouble) ** 2)).astype(v.dtype)
    if norm <= t:
        return v, np.ones(v.size)
    if norm <= -t:
        return np.zeros_like(v), np.zeros(v.size)
    w, rho = (u / norm).astype(float), float(t / norm)
    H = np.empty((v.size, v.size))
    H[0, 0], H[0, 1:], H[1:, 0] = 1.0, w, w
    H[1:, 1:] = (1 + rho) * np.eye(u.size) - rho * np.outer(w, w)
    return (1 + t / norm) / 2 * np.concatenate([[norm], u]), H / 2


def _semidefinite(v: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The lower triangle, column-major, off-diagonals times √2; D(H) = Q(Ω ∘ QᵀHQ)Qᵀ as a matrix on such vectors."""
    cols, rows = np.triu_indices(order)
    scale = np.where(rows == cols, 1.0, np.sqrt(2.0))
    V = np.zeros((order, order))
    V[rows, cols] = V[cols, rows] = (v / scale).astype(float)
    eigenvalues, Q = np.linalg.eigh(V)
    up, down = np.maximum(eigenvalues, 0), np.maximum(-eigenvalues, 0)
    top = np.maximum.outer(up, up)
    omega = np.where(top > 0, top / np.where(top > 0, top + np.maximum.outer(down, down), 1.0), 0.0)
    projected = (Q * up) @ Q.T
    # (QᵀHQ) on scaled vectors: the symmetric Kronecker product, an orthogonal matrix.
    S = Q[rows][:, rows] * Q[cols][:, cols] + Q[rows][:, cols] * Q[cols][:, rows]
    S *= scale[:, None] * scale[None, :] / 2
    D = (S * omega[rows, cols]) @ S.T
    return (projected[rows, cols] * scale).astype(v.dtype), D


def _exponential(s: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The derivative of the projection onto {y e^{x/y} ≤ z, y > 0} at s − z, for s on its boundary and z > 0 dual to it.

    With s = y(r, 1, e^r) and z = λ(−e^r, (r − 1)e^r, 1): m̂m̂ᵀ + θ t̂t̂ᵀ, m ∝ (r, 1, e^r), t = (1, 0, e^r) less its m̂ part,
    θ = ‖t‖² / (‖t‖² + λ e^r / y).
    """
    r, y, lam = s[0] / s[1], s[1], z[2]
    m = np.array([r, 1.0, np.exp(r)])
    m /= np.linalg.norm(m)
    t = np.array([1.0, 0.0, np.exp(r)])
    t -= m * (m @ t)
    size = t @ t
    return np.outer(m, m) + np.outer(t, t) / size * (size / (size + lam * np.exp(r) / y))
