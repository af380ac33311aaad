"""Certificates of infeasibility on orthants, a whole batch at once: what counts as one, and how a rough one is refined.

    y ≥ 0 on the inequality rows, Aᵀy = 0, bᵀy < 0                no x has b − Ax ∈ K
    Px = 0, Ax = 0 on the equality rows, Ax ≤ 0, qᵀx < 0          the objective falls for ever where it is feasible

They are believed to the standard of certificates.py, which has it for one instance and for all cones. The equations
that a ray h ought to fulfil are N h = 0. With h = |h| d, and M the matrix N diag(|h|) with rows of size one, the
nearest d that does is d − M⁺M d: relative to each entry, so that what is small keeps its digits. A ridge takes the
place of the rank decision in M⁺, and repetitions take its effect out.
"""

from __future__ import annotations

import numpy as np

from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import largest

__all__ = [
    "FALLS",
    "FAR",
    "NOISE",
    "ROUNDING",
    "are_primal_rays",
    "is_polyhedral",
    "lead_to_dual_rays",
    "lead_to_primal_rays",
    "near_dual_rays",
    "near_primal_rays",
]

ROUNDING = 1e-12  # of an equation's own terms, and of a block's own size
# Of the sum's own absolute values: what bᵀy or qᵀx have to be at least, as what is within 1e−9 counts as solved
FALLS = 1e-9
FAR = 1e-4  # what is left of an equation lets only points that are so many times larger than b or q ask for be feasible
NOISE = 1e-8  # of the largest block: what may be left of one that has to vanish
_TIGHT = 1e-6  # of its own terms: what is left of a row's Ax that is to be zero
_RIDGE = 1e-12  # of the trace of MMᵀ: more than its rounding
_REPETITIONS = 3


def is_polyhedral(structure: Structure) -> bool:
    """Whether all cones are orthants."""
    return structure.cones.kinds <= {"zero", "nonneg"}


def near_primal_rays(program: ConeProgram, y: np.ndarray, tolerance: float) -> np.ndarray:
    """Which y (B, m), negative parts left out, fulfil each of the equations Aᵀy = 0 up to this part of its terms, and
    fall, (B,) bool.
    """
    y = y.copy()
    y[:, program.structure.cones.zero :] = np.maximum(y[:, program.structure.cones.zero :], 0.0)
    terms = program.magnitudes.A.rmatvec(np.abs(y))
    return (_falls(program.b, y) > 0) & (np.abs(program.ATy(y)) <= tolerance * terms).all(axis=1)


def near_dual_rays(program: ConeProgram, x: np.ndarray, tolerance: float) -> np.ndarray:
    """Which x (B, n) fulfil Px = 0 and −Ax ∈ K up to this part of the largest terms, and fall, (B,) bool."""
    left, zero = program.Ax(x), program.structure.cones.zero
    left[:, zero:] = np.maximum(left[:, zero:], 0.0)
    inside = largest(left) <= tolerance * largest(program.magnitudes.A.matvec(np.abs(x)))
    if program.structure.P.nnz:
        inside &= largest(program.Px(x)) <= tolerance * largest(program.magnitudes.P.matvec(np.abs(x)))
    return (_falls(program.q, x) > 0) & inside


def lead_to_primal_rays(program: ConeProgram, y: np.ndarray) -> np.ndarray:
    """Which y (B, m) show, as they are or refined on dense matrices, that no x has b − Ax ∈ K, (B,) bool."""
    y = _cleaned(y)
    shown = are_primal_rays(program, y)
    open_ = np.flatnonzero(~shown)
    if open_.size:
        shown[open_] = _nearby_primal(program.take(open_), y[open_])
    return shown


def lead_to_dual_rays(program: ConeProgram, x: np.ndarray) -> np.ndarray:
    """Which x (B, n) are, as they are or refined on dense matrices, directions in which the objective falls for ever,
    (B,) bool.
    """
    x = _cleaned(x)
    shown = _are_dual_rays(program, x)
    open_ = np.flatnonzero(~shown)
    if open_.size:
        shown[open_] = _nearby_dual(program.take(open_), x[open_])
    return shown


def are_primal_rays(program: ConeProgram, y: np.ndarray) -> np.ndarray:
    """Which y (B, m) show, to rounding, that no x has b − Ax ∈ K, (B,) bool."""
    terms = program.magnitudes.A.rmatvec(np.abs(y))
    falls = _falls(program.b, y)
    inside = (y[:, program.structure.cones.zero :] >= 0).all(axis=1)
    return np.isfinite(y).all(axis=1) & (falls > FALLS) & inside & _vanishes(program.ATy(y), terms, falls)


def _are_dual_rays(program: ConeProgram, x: np.ndarray) -> np.ndarray:
    falls, zero = _falls(program.q, x), program.structure.cones.zero
    curvature = program.magnitudes.P.matvec(np.abs(x)) if program.structure.P.nnz else np.zeros_like(x)
    terms, left = program.magnitudes.A.matvec(np.abs(x)), program.Ax(x)
    left[:, zero:] = np.maximum(left[:, zero:], 0.0)
    flat = _vanishes(program.Px(x), curvature, falls) & _vanishes(left, terms, falls)
    return np.isfinite(x).all(axis=1) & (falls > FALLS) & flat


def _falls(values: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """By what part of the sum of its terms' absolute values −valuesᵀray is positive, (B,)."""
    terms = values * ray
    total = np.sum(np.abs(terms), axis=1)
    return np.divide(-terms.sum(axis=1), total, out=np.zeros_like(total), where=total > 0)


def _vanishes(left: np.ndarray, terms: np.ndarray, falls: np.ndarray) -> np.ndarray:
    return (np.abs(left) <= np.minimum(ROUNDING, FAR * falls)[:, None] * terms).all(axis=1)


def _cleaned(h: np.ndarray) -> np.ndarray:
    """h without the entries that may be noise: where the others add up to nothing in bᵀy or qᵀx, that would be all that
    counts.
    """
    return np.where(np.abs(h) > NOISE * largest(h)[:, None], h, 0.0)


def _nearby_primal(program: ConeProgram, y: np.ndarray) -> np.ndarray:
    y = np.where(np.isfinite(y).all(axis=1)[:, None], y, 0.0)
    y[:, program.structure.cones.zero :] = np.maximum(y[:, program.structure.cones.zero :], 0.0)
    return are_primal_rays(program, _onto_null_space(np.swapaxes(program.dense_A, 1, 2), y))


def _nearby_dual(program: ConeProgram, x: np.ndarray) -> np.ndarray:
    x = np.where(np.isfinite(x).all(axis=1)[:, None], x, 0.0)
    tight = program.Ax(x) >= -_TIGHT * program.magnitudes.A.matvec(np.abs(x))
    tight[:, : program.structure.cones.zero] = True
    rows = np.where(tight[:, :, None], program.dense_A, 0.0)
    if program.structure.P.nnz:
        P = np.broadcast_to(program.dense_P, (len(x), *program.dense_P.shape[1:]))
        rows = np.concatenate([P, rows], axis=1)
    return _are_dual_rays(program, _onto_null_space(rows, x))


def _onto_null_space(N: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The vectors near h (B, k), entry by entry, that N (B, r, k) or (1, r, k) makes zero; h itself where that is not
    found.
    """
    M = N * np.abs(h)[:, None, :]
    sizes = np.sum(np.abs(M), axis=2, keepdims=True)
    M = np.divide(M, sizes, out=np.zeros_like(M), where=sizes > 0)
    Mt, d = np.swapaxes(M, 1, 2), np.sign(h)[:, :, None]
    wide = M.shape[1] <= M.shape[2]
    gram = M @ Mt if wide else Mt @ M
    order = np.arange(gram.shape[1])
    gram[:, order, order] += _RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None] + np.finfo(float).tiny
    for _ in range(_REPETITIONS):
        left = M @ d
        try:
            d = d - (Mt @ np.linalg.solve(gram, left) if wide else np.linalg.solve(gram, Mt @ left))
        except np.linalg.LinAlgError:
            return h
    return np.abs(h) * np.where(np.abs(d[:, :, 0]) > NOISE, d[:, :, 0], 0.0)
