"""Roots at which B = ∂F/∂z is singular, told from a B that is merely small: over arrays, for both frameworks.

At a singular root B tends to a singular matrix as z does to the root, and at a computed z, a little off, it is invertible: no number of
that matrix by itself gives it away, in one unknown least of all. What does is how B *changes*. Let d be how far z is uncertain,

    d = B⁻¹F and B⁻¹ν together,    ν the rounding errors of F near z,

Newton's next step and what rounding alone could make of it. At a root of F = zᵐ Newton's step is z/m, and B(z + a d) = (1 + a/m)^{m−1}·B(z): B grows by a
power of a on steps that are as short as the uncertainty of z. At a regular root it stays what it is; at a kink it jumps once, by the same for every a. So
the spectral radii ρ(a) of B(z)⁻¹B(z + a d) decide, which no change of the units of z or F moves:

    singular   ⟺   ρ(10) ≥ 2½ and ρ(100) ≥ 2½ρ(10).

The derivative that stands in is the least-squares one: with B̃ = B(z + 100 d), the singular values of B̃⁻¹B are near 1 in the directions in which B is
regular and near 0 in the others, which are left out.
"""

from __future__ import annotations

import numpy as np

__all__ = ["FAR", "MOST_UNKNOWNS", "NEAR", "message", "suspect_from", "tested"]

NEAR, FAR = 10.0, 100.0  # the a above
MOST_UNKNOWNS = 256  # of an instance for which the test, which takes matrices, is made
_GROWTH = 2.5
_REGULAR = 0.2  # singular values of B̃⁻¹B below this belong to singular directions


def suspect_from(rounding: float) -> float:
    """d/|z|, in some unknown, from which on the test is made: 1e−7 in double, 2e−3 in single precision; a regular B leaves it at rounding."""
    return float(7 * rounding**0.5)


def tested(
    B: np.ndarray, near: np.ndarray, far: np.ndarray, d: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which instances are singular (N,), and for those the least-squares B⁺ (N, n, n), zero for the others.

    B, near, far (N, n, n): B at z, z + 10d and z + 100d, for z, d (N, n).
    """
    singular, inverses = np.zeros(len(B), dtype=bool), np.zeros_like(B)
    for i in range(len(B)):
        if not all(np.isfinite(h[i]).all() for h in (B, near, far, d, z)):
            continue
        first, second = _radius(B[i], near[i]), _radius(B[i], far[i])
        singular[i] = first >= _GROWTH and second >= _GROWTH * first
        if singular[i]:
            inverses[i] = _least_squares(B[i].astype(float), far[i].astype(float), np.abs(z[i]) + FAR * np.abs(d[i]))
    return singular, inverses


def _radius(B: np.ndarray, other: np.ndarray) -> float:
    try:
        return float(np.abs(np.linalg.eigvals(np.linalg.solve(B.astype(float), other.astype(float)))).max(initial=0.0))
    except np.linalg.LinAlgError:  # exactly singular: the linear solve says so
        return 0.0


def _least_squares(B: np.ndarray, regular: np.ndarray, size: np.ndarray) -> np.ndarray:
    size = np.where(size > 0, size, 1.0)
    inverse = np.linalg.pinv(regular)
    U, values, V = np.linalg.svd((inverse @ B) / size[:, None] * size)
    kept = np.where(values > _REGULAR, 1 / np.where(values > _REGULAR, values, 1.0), 0.0)
    return size[:, None] * (V.T * kept) @ U.T / size @ inverse


def message(name: str, indices: list[int], batch: bool) -> str:
    """The text of the warning."""
    shown = ", ".join(map(str, indices[:10])) + (", …" if len(indices) > 10 else "")
    return (
        f"{name}: the root is singular{' at batch index ' + shown if batch else ''}: ∂F/∂z shrinks to a singular matrix as z tends to it. z has only some "
        "of its digits, and no exact derivative exists; a least-squares one, which is zero in the singular directions, stands in for it. "
        "certify_root or certify_fixed_point says more."
    )
