"""Answers checked against the file's own data, unscaled: nothing here is taken from what conelayers says of itself.

Only the projections onto the cones and their derivatives are conelayers' own (Cones); its equilibration, presolve,
factorizations and refinements have no part in it.
"""

from __future__ import annotations

from typing import final

import numpy as np
import scipy.sparse as sp

from benchmarks.public.problem import Problem
from conelayers import Cones
from conelayers.numerics.cones import product_cone

__all__ = ["Perturbation", "derivative_residual", "is_dual_ray", "is_primal_ray", "kkt_residual"]

RAY = 1e-8  # of the absolute values that make up a sum which has to vanish
FAR = 1e-4
ROUNDING = 1e-11


def kkt_residual(problem: Problem, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> float:
    """The largest of ‖Ax + s − b‖, ‖Px + Aᵀy + q‖, |xᵀPx + qᵀx + bᵀy| and the distances of s from K and y from K*.

    Each is relative to 1 + the largest of its terms, in the maximum norm.
    """
    P, q, A, b = problem.P, problem.q, problem.A, problem.b
    to_dual, to_primal = product_cone(problem.cones).distances(y[None], s[None])
    return max(
        _relative(A @ x, s, -b),
        _relative(P @ x, A.T @ y, q),
        _relative(np.array([x @ (P @ x)]), np.array([q @ x]), np.array([b @ y])),
        float(to_dual.max(initial=0.0)) / (1 + _size(y)),
        float(to_primal.max(initial=0.0)) / (1 + _size(s)),
    )


@final
class Perturbation:
    """(dP, dq, dA, db): every stored entry of P and A moves by about its own size, q and b by about their largest."""

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        P, A = problem.P, problem.A
        upper = sp.triu(P, format="csc")
        upper.data *= rng.standard_normal(upper.data.size)
        self.P = sp.csc_array(upper + sp.triu(upper, 1).T)
        self.A = sp.csc_array((A.data * rng.standard_normal(A.data.size), A.indices, A.indptr), shape=A.shape)
        self.q = rng.standard_normal(problem.q.size) * (_size(problem.q) or 1.0)
        self.b = rng.standard_normal(problem.b.size) * (_size(problem.b) or 1.0)


def derivative_residual(
    problem: Problem,
    solution: tuple[np.ndarray, np.ndarray, np.ndarray],
    moved: Perturbation,
    tangent: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> float:
    """The largest of the relative residuals of the three equations that the tangent (dx, dy, ds) has to solve:

    P dx + Aᵀdy = −(dP x + dAᵀy + dq),   A dx + ds = db − dA x,   dy = D(y − s)(dy − ds), D the derivative of Π_{K*}.

    Each is relative to the largest of its terms, in the maximum norm.
    """
    (x, y, s), (dx, dy, ds) = solution, tangent
    D = product_cone(problem.cones).project_dual((y - s)[None])[1]
    return max(
        _relative(problem.P @ dx, problem.A.T @ dy, moved.P @ x + moved.A.T @ y + moved.q, floor=0.0),
        _relative(problem.A @ dx, ds, moved.A @ x - moved.b, floor=0.0),
        _relative(dy, -D.apply((dy - ds)[None])[0], floor=0.0),
    )


def is_primal_ray(problem: Problem, y: np.ndarray) -> bool:
    """Whether y ∈ K*, Aᵀy = 0 and bᵀy < 0: no x has b − Ax ∈ K. Block by block, so that units do not matter.

    What is tested is the projection of y onto K*, without the blocks in which it is zero but for rounding.
    """
    A, b, cones = problem.A, problem.b, problem.cones
    y = product_cone(cones).project_dual(y[None])[0][0]
    rows = sp.hstack([abs(A), sp.csc_array(np.abs(b)[:, None])]).max(axis=1).toarray().ravel()
    felt = _block_sizes(cones, np.abs(y) * rows)
    y = np.where(felt > ROUNDING * np.max(felt, initial=0.0), y, 0.0)
    falls, terms = -(b @ y), np.abs(b) @ np.abs(y)
    # Feasible are x with −bᵀy ≤ |Aᵀy|ᵀ|x| at most: those with terms Aᵢⱼxⱼ far larger than b.
    allowed = min(RAY, FAR * falls / terms) if terms > 0 else 0.0
    left, sizes = np.abs(A.T @ y), abs(A).T @ _block_sizes(cones, np.abs(y))
    return bool(falls > RAY * terms and (left <= allowed * sizes).all())


def is_dual_ray(problem: Problem, x: np.ndarray) -> bool:
    """Whether Px = 0, −Ax ∈ K and qᵀx < 0: from any feasible point the objective falls along x for ever."""
    P, q, A, cones = problem.P, problem.q, problem.A, problem.cones
    outside = product_cone(cones).project_dual((A @ x)[None])[0][0] if cones.dimension else np.zeros(0)
    size = _block_sizes(cones, abs(A) @ np.abs(x))
    falls = -(q @ x) > RAY * (np.abs(q) @ np.abs(x))
    flat = np.abs(P @ x) <= RAY * (abs(P) @ np.abs(x))
    return bool(falls and flat.all() and (np.abs(outside) <= RAY * size).all())


def _block_sizes(cones: Cones, sizes: np.ndarray) -> np.ndarray:
    """The largest of each block, on all its rows."""
    if not sizes.size:
        return sizes
    return np.repeat(np.maximum.reduceat(sizes, cones.block_starts), cones.block_sizes)


def _size(h: np.ndarray) -> float:
    return float(np.max(np.abs(h), initial=0.0))


def _relative(*terms: np.ndarray, floor: float = 1.0) -> float:
    """The size of the terms' sum relative to the floor + the largest of them."""
    total, largest = _size(np.sum(terms, axis=0)), floor + max(map(_size, terms))
    return total / largest if largest > 0 else total
