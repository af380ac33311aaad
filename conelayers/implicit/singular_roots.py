"""Singular roots: how a B = ∂F/∂z that tends to a singular matrix is told from one that is merely small.

At a singular root, B tends to a singular matrix as z tends to the root. At a computed z, which is a little off, B is
invertible, and no number computed from that matrix alone shows that the root is singular, least of all in one unknown.
What shows it is how B *changes* near z. Let d be the uncertainty of z,

    d = B⁻¹F and B⁻¹ν together,    ν = F(z + h) − F(z) − B h,  |h| ≈ √ε|z|.

B⁻¹F is Newton's next step. B⁻¹ν is the step that F's rounding errors could cause, or its curvature on a step h that is
so short that at a regular root the curvature is rounding. At a root of F = zᵐ Newton's step is z/m, and
B(z + a d) = (1 + a/m)^{m−1}·B(z): B grows by a power of a on steps that are as short as the uncertainty of z. At a
regular root B stays the same on such steps; at a kink it jumps once, to the same matrix for every a. So the spectral
radii ρ(a) of B(z)⁻¹B(z + a d) decide, which do not depend on the units of z and F:

    singular   ⟺   ρ(10) ≥ 2½ and ρ(100) ≥ 2½ρ(10).

At a singular root the least-squares derivative is returned. With B̃ = B(z + 100 d), the singular values of B̃⁻¹B are
near 1 in the directions in which B is regular and near 0 in the others, which are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conelayers.implicit.newton import MODEL
from conelayers.implicit.rounding import PROBE, ROUNDINGS, probe

__all__ = [
    "FAR",
    "MOST_UNKNOWNS",
    "NEAR",
    "has_changed",
    "judged",
    "message",
    "suspects",
    "tested",
    "uncertainty",
    "wider_probe",
]

NEAR, FAR = 10.0, 100.0  # the two values of a
MOST_UNKNOWNS = 256  # of an instance: larger ones are not tested, since the test makes matrices
_CHANGED = 1.5  # the least |B⁻¹B(z + 100d)d − d| over |d|, in some unknown, for which the matrices are made
_GROWTH = 2.5  # the least ρ(10) and ρ(100)/ρ(10) at a singular root
_LOWERED = 0.6  # the most of F that a Newton step leaves near a root; at a singular one it leaves (1 − 1/m)ᵐ < 0.4
_NEWTON_STEPS = 60  # at most, from a point whose F is small to the root
_AT_ZERO = 1e-3  # times z: if Newton's method ends nearer to 0 than that, the root counts as 0
_SCALINGS = 8  # how often rows and columns are divided by the square roots of their largest entries
_REGULAR = 0.2  # singular values of B̃⁻¹B below this belong to singular directions


def uncertainty(xp: Any, dz: Any, noise: Any) -> Any:
    """d (N, n), from Newton's step B⁻¹F and B⁻¹ν; xp is numpy, torch or jax.numpy."""
    size = xp.abs(dz) + xp.abs(noise)
    return xp.where(dz < 0, -size, size)


def suspects(xp: Any, d: Any, z: Any, points: Any, rounding: float) -> Any:
    """Which of the ``points`` (N,) are so uncertain, in some unknown, that the change of B is tested.

    That begins at d = 2e−12 |z| in double, 1e−5 |z| in single precision.
    """
    least = min(1e4 * rounding, 1e-5)
    return points & xp.isfinite(d).all(1) & (xp.abs(d) > least * xp.abs(z)).any(1)


def has_changed(xp: Any, ahead: Any, d: Any) -> Any:
    """Whether B changes so much towards z + 100d, in some unknown, that the matrices are made.

    ahead: B⁻¹B(z + 100d)d.
    """
    return (xp.abs(ahead - d) > _CHANGED * xp.abs(d)).any(1)


def wider_probe(rounding: float, n: int) -> np.ndarray:
    """Relative steps of n unknowns, of size √ε: at a double root z is known no better than that.

    At a regular root the curvature of F on such steps is rounding.
    """
    return rounding**0.5 / PROBE * np.array(probe(n))


def judged(
    function: Callable[[np.ndarray], np.ndarray],
    matrices: Callable[[np.ndarray], np.ndarray],
    z: np.ndarray,
    F: np.ndarray,
    B: np.ndarray,
    tolerance: float,
    rounding: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which instances are singular roots, and which are roots at all, (N,) each, by what Newton's method does from z.

    function, matrices: F (N, n) and B (N, n, n) at z (N, n). z is a root where one of these holds:

    - F is rounding.
    - Newton's step is within the tolerance of z.
    - F is within the tolerance of what its rows are computed from, and the step takes it down.
    - ‖F‖∞ is within the tolerance of 1 + ‖z‖∞, and Newton's method ends within the tolerance's square root of z, in
      every unknown where the root is not 0.
    """
    there = np.isfinite(z).all(1) & np.isfinite(F).all(1) & np.isfinite(B).all((1, 2))
    singular, arrived = np.zeros(len(z), dtype=bool), np.zeros(len(z), dtype=bool)
    if not there.any() or not z.shape[1]:
        return singular, there
    h = rounding * np.array(probe(z.shape[1]))
    # Two steps, since the terms of a row may cancel on one of them.
    changed = np.maximum(*(np.abs(np.nan_to_num(function(z + z * steps) - F)) for steps in (h, np.abs(h[::-1]))))
    wide = z * wider_probe(rounding, z.shape[1])
    dz, noise = _steps(B, F), _steps(B, np.nan_to_num(function(z + wide) - F - (B @ wide[..., None])[..., 0]))
    d = uncertainty(np, dz, noise)
    suspect = suspects(np, d, z, there, rounding)
    if suspect.any() and z.shape[1] <= MOST_UNKNOWNS:
        d = np.where(suspect[:, None], d, 0.0)
        near, far = (matrices(z + a * d) for a in (NEAR, FAR))
        singular = tested(B, near, far, d, z)[0] & suspect
    rows = np.maximum(np.abs(F), np.abs(changed) / (PROBE * rounding))
    rounded = (np.abs(F) <= ROUNDINGS**2 * rounding * rows).all(1)
    small = (np.abs(dz) <= tolerance * np.abs(z)).all(1)
    down = np.abs(F).max(1) <= tolerance * (1 + np.abs(z).max(1))
    arrived = there & (rounded | small)
    weights = np.where(rows > 0, 1 / np.where(rows > 0, rows, 1.0), 0.0)
    with np.errstate(all="ignore"):
        ahead = np.abs(weights * function(z - np.where(np.isfinite(dz), dz, 0.0))).max(1)
    # A point that is neither a root nor near one is not called a singular root.
    singular &= rounded | (ahead <= _LOWERED * np.abs(weights * F).max(1))
    known = np.abs(changed) / (PROBE * rounding)  # what the rows are computed from
    arrived |= there & (np.abs(F) <= tolerance * known).all(1) & (ahead <= MODEL * np.abs(weights * F).max(1))
    left = there & down & ~arrived
    if left.any():
        end, value = z, F
        with np.errstate(all="ignore"):
            for _ in range(_NEWTON_STEPS):
                step = _steps(matrices(end), value)
                step = np.where(left[:, None] & np.isfinite(step), step, 0.0)
                end = end - step
                value = function(end)
                if not (np.abs(step) > tolerance * np.abs(end)).any():
                    break
            # An unknown that is zero already is moved off by the others' rounding, and comes back.
            at_zero = np.abs(end) <= _AT_ZERO * np.maximum(np.abs(z), np.abs(dz))
            still = (np.abs(step) <= tolerance * np.abs(end)) | at_zero
            near_z = np.abs(end - z) <= np.sqrt(tolerance) * np.abs(end)
        arrived |= left & (still & (near_z | at_zero)).all(1)
    return singular, arrived


def _steps(B: np.ndarray, F: np.ndarray) -> np.ndarray:
    """B⁻¹F of each instance, (N, n); NaN if B is singular."""
    out = np.full(F.shape, np.nan)
    for i in range(len(B)):
        if np.isfinite(B[i]).all() and np.isfinite(F[i]).all():
            try:
                out[i] = np.linalg.solve(B[i], F[i])
            except np.linalg.LinAlgError:
                continue
    return out


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
            inverses[i] = _least_squares(B[i].astype(float), far[i].astype(float))
    return singular, inverses


def _radius(B: np.ndarray, other: np.ndarray) -> float:
    try:
        return float(np.abs(np.linalg.eigvals(np.linalg.solve(B.astype(float), other.astype(float)))).max(initial=0.0))
    except np.linalg.LinAlgError:  # exactly singular: the linear solve says so
        return 0.0


def _least_squares(B: np.ndarray, regular: np.ndarray) -> np.ndarray:
    rows, columns = np.ones((len(B), 1)), np.ones((1, len(B)))
    for _ in range(_SCALINGS):  # so that the units of F and z do not matter
        scaled = np.abs(rows * regular * columns)
        rows = rows / np.sqrt(np.maximum(scaled.max(axis=1, keepdims=True), 1e-300))
        columns = columns / np.sqrt(np.maximum(scaled.max(axis=0, keepdims=True), 1e-300))
    inverse = np.linalg.pinv(rows * regular * columns)
    U, values, V = np.linalg.svd(inverse @ (rows * B * columns))
    kept = np.where(values > _REGULAR, 1 / np.where(values > _REGULAR, values, 1.0), 0.0)
    return columns.T * ((V.T * kept) @ U.T @ inverse) * rows.T


def message(name: str, indices: list[int], batch: bool) -> str:
    """The text of the warning."""
    shown = ", ".join(map(str, indices[:10])) + (", …" if len(indices) > 10 else "")
    return (
        f"{name}: the root is singular{' at batch index ' + shown if batch else ''}: ∂F/∂z shrinks to a singular "
        "matrix as z tends to it. z has only some of its digits, and no exact derivative exists; a least-squares one, "
        "which is zero in the singular directions, stands in for it. certify_root or certify_fixed_point says more."
    )
