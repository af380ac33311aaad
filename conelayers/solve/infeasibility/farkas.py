"""Farkas' certificates computed: the theorem of alternatives as a least-squares problem.

Either b − Ax ∈ K for some x, or, apart from limits of both, some y ∈ K* has Aᵀy = 0 and bᵀy < 0. The y that is found is
that of

    minimize over x   θ(x) = ½ dist²(b − Ax, K) = ½‖y‖²,   y = Π_{K*}(Ax − b),

a convex function without constraints, with ∇θ = Aᵀy: at its minimum y has Aᵀy = 0 and bᵀy = −‖y‖². With D ∈ ∂Π_{K*}(Ax
− b) and Dy = y a semismooth Newton step solves AᵀDA dx = −Aᵀy, which are the normal equations of

    minimize over dx   ‖√Λ Uᵀ(A dx + y)‖,   D = UΛUᵀ,

so that nothing is squared, and dependent columns do no harm (Qi and Sun, "A quadratically convergent Newton method for
computing the nearest correlation matrix", 2006, has the same method for one cone). With b = −ŷ the y that is found is
the projection of ŷ on the cone of all certificates, and its x is small where ŷ is nearly one: a few steps make a
certificate to rounding out of a rough one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lstsq
from scipy.sparse.linalg import LinearOperator, lsmr, splu

from conelayers.numerics.cones import ProductElement, product_cone
from conelayers.program.cones import Cones
from conelayers.support.limits import out_of_time

__all__ = ["Matrix", "System", "dual_system", "least_violation", "linear_rows", "refined"]

_STEPS = 50  # Newton steps: some ten lead to the minimum if there is one
_REFINING_STEPS = 12  # Newton steps from a rough certificate
_PASSES = 3  # of refinement, each in the units of the certificate that the pass before ended with
_SHORTEST = 1e-4  # shortest fraction of a Newton step
# Share of θ by which rounding may change it. If a step promises less, only the gradient tells whether it led forwards.
_HIDDEN = 1e-13
# How many such steps in a row may leave no smaller gradient than the best so far: near several kinks at once full steps
# go back and forth between the pieces of ∇θ until they meet the piece with the minimum.
_PATIENCE = 6
_LEAP = 1e3  # of v: a step there that is larger goes where rounding leads it
_FEASIBLE = 1e-10  # violations up to which, relative to the terms of their block, there are none
_RANK = 1e-13  # singular values below it, relative to the largest, are zero: the data have no more digits
# The same where a certificate is refined: a direction that only moves of 1e10 would mend did not matter in the rough
# one. What is left of its equation may pass, while such moves would spoil the other equations.
_REFINING_RANK = 1e-10
_ZERO = 4 * np.finfo(float).eps  # of the terms of Aᵀy: what rounding makes of it
_TINY = float(np.finfo(float).tiny)  # columns of Aᵀ|y| below have no inverse
_NOTHING = 1e-12  # of its size before: what is left of a block that has to vanish
_DENSE_WORK = 1e9  # multiplications of one least-squares problem up to which it is solved by a dense factorization
_PROXIMAL, _REPETITIONS = 1e-10, 8  # in place of a zero block, and how often a solve takes its effect out
_KRYLOV_STEPS = 1000


Matrix: TypeAlias = np.ndarray | sp.csc_array


class System(NamedTuple):
    """b − Ax ∈ K: one instance. A is a dense array where that is the faster one."""

    A: Matrix
    b: np.ndarray
    cones: Cones

    @classmethod
    def of(cls, A: sp.csc_array, b: np.ndarray, cones: Cones) -> System:
        """The system with A stored as it suits."""
        return cls(A.toarray() if A.shape[0] * A.shape[1] * min(A.shape) <= _DENSE_WORK else A, b, cones)


def dual_system(P: sp.csc_array, q: np.ndarray, A: sp.csc_array, cones: Cones) -> System:
    """Pu + Aᵀy = −q, y ∈ K*, whose certificates (z, …) are the directions x = −z in which the objective falls for ever.

    Rows: n equations, then the cone's, its zero rows left out, in the order that Cones has for K*.
    """
    n, zero = q.size, cones.zero
    dual = replace(cones, zero=n, exp=cones.exp_dual, exp_dual=cones.exp, power=tuple(-alpha for alpha in cones.power))
    last = cones.dimension - 3 * len(cones.power)
    first_exp, first_dual = last - 3 * (cones.exp + cones.exp_dual), last - 3 * cones.exp_dual
    rows = np.arange(cones.dimension)
    order = np.concatenate([rows[zero:first_exp], rows[first_dual:last], rows[first_exp:first_dual], rows[last:]])
    pick = sp.csr_array((-np.ones(order.size), (np.arange(order.size), order)), shape=(order.size, rows.size))
    whole = sp.block_array([[P, A.T], [None, pick]], format="csc") if rows.size else sp.csc_array(P)
    return System.of(sp.csc_array(whole), np.concatenate([-q, np.zeros(order.size)]), dual)


def linear_rows(system: System) -> System:
    """The system of the rows of the zero and the nonnegative cone alone."""
    A, b, cones = system
    flat = cones.zero + cones.nonneg
    return System(A[:flat], b[:flat], Cones(zero=cones.zero, nonneg=cones.nonneg))


def least_violation(system: System) -> np.ndarray:
    """y of the least violation of b − Ax ∈ K: zero, up to rounding, where there is none."""
    return _minimize(system, _STEPS)


def refined(system: System, y: np.ndarray) -> Iterator[np.ndarray]:
    """Ever better certificates from y: its part in K*, then the nearest one, block by block in units of the one before,
    so that what is small keeps its digits.
    """
    rough = _projected(system.cones, y)[0]
    yield rough
    for rank in (
        (_REFINING_RANK, _RANK) if isinstance(system.A, np.ndarray) else (_RANK,)
    ):  # sparse steps decide no rank
        yield from _refined(system, rough, rank)


def _refined(system: System, y: np.ndarray, rank: float) -> Iterator[np.ndarray]:
    A, _, cones = system
    for _ in range(_PASSES):
        with np.errstate(over="ignore", invalid="ignore"):  # of a rough certificate that is none
            size = cones.block_maxima(np.abs(y))
            columns = abs(A).T @ size
            kept = np.flatnonzero((columns >= _TINY) & (columns < np.inf))
            if not kept.size:
                return
            relative = np.divide(y, size, out=np.zeros_like(y), where=size > 0)
            scaled = System(_scaled(A[:, kept], size, 1 / columns[kept]), -relative, cones)
            z = _minimize(scaled, _REFINING_STEPS, rank)
            y = size * np.where(cones.block_maxima(np.abs(z)) > _NOTHING, z, 0.0)
        yield y


def _scaled(A: Matrix, rows: np.ndarray, columns: np.ndarray) -> Matrix:
    if isinstance(A, np.ndarray):
        return rows[:, None] * A * columns
    return sp.csc_array(sp.diags_array(rows) @ A @ sp.diags_array(columns))


@np.errstate(over="ignore", divide="ignore", invalid="ignore")  # steps and certificates that are not finite are dropped
def _minimize(system: System, steps: int, rank: float = _RANK) -> np.ndarray:
    """Π_{K*}(Ax − b) at the minimum of θ, or as near as so many steps come, from x = 0."""
    A, b, cones = system
    if not b.size:
        return np.zeros(0)
    magnitudes = abs(A).T
    v = -b
    y, element = _projected(cones, v)
    value = y @ y
    best, least, steps_since = y, np.inf, 0
    for _ in range(steps + 1):
        gradient = A.T @ y
        left = _largest_part(gradient, magnitudes @ cones.block_maxima(np.abs(y)))
        best, least, steps_since = (y, left, 0) if left < least else (best, least, steps_since + 1)
        if left <= _ZERO or steps_since > _PATIENCE or out_of_time():
            break
        dx = _step(A, element, y, rank)
        slope, dv = gradient @ dx, A @ dx
        hidden = -slope <= _HIDDEN * value
        if not (np.isfinite(dv).all() and slope < 0) or (hidden and np.abs(dv).max() > _LEAP * np.abs(v).max()):
            break
        length, (new_y, new_element) = 1.0, _projected(cones, v + dv)
        if not hidden:
            while new_y @ new_y > value + 2e-4 * length * slope and length > _SHORTEST:
                length /= 2
                new_y, new_element = _projected(cones, v + length * dv)
            if length <= _SHORTEST:
                break
            best, least, steps_since = new_y, np.inf, 0  # θ tells, and it has fallen
        v, y, element, value = v + length * dv, new_y, new_element, new_y @ new_y
        if (
            cones.block_maxima(np.abs(y)) <= _FEASIBLE * cones.block_maxima(np.maximum(np.abs(v + b), np.abs(b)))
        ).all():
            return np.zeros_like(y)
    return best


def _largest_part(values: np.ndarray, terms: np.ndarray) -> float:
    """The largest |value| as a part of its terms; 0/0 = 0."""
    return float(np.divide(np.abs(values), terms, out=np.zeros_like(terms), where=terms > 0).max(initial=0.0))


def _projected(cones: Cones, v: np.ndarray) -> tuple[np.ndarray, ProductElement]:
    y, element = product_cone(cones).project_dual(v[None])
    return y[0], element


def _step(A: Matrix, element: ProductElement, y: np.ndarray, rank: float) -> np.ndarray:
    """The shortest dx that minimizes ‖√Λ Uᵀ(A dx + y)‖."""
    root = np.sqrt(element.values[0])
    rows = np.flatnonzero(root)
    right = -(root * element.to_basis(y[None])[0])[rows]
    if isinstance(A, np.ndarray):
        turned = A[rows] if element.is_diagonal else element.to_basis(A.T[:, None, :])[:, 0].T[rows]
        left = root[rows, None] * turned
        return np.asarray(lstsq(left, right, cond=rank, lapack_driver="gelsy", check_finite=False)[0])
    if element.is_diagonal:
        return _sparse_step(sp.csc_array(sp.diags_array(root[rows]) @ A.tocsr()[rows]), right)
    m, n = A.shape
    across = A.T.tocsr()

    def forward(x: np.ndarray) -> np.ndarray:
        return (root * element.to_basis((A @ x.ravel())[None])[0])[rows]

    def backward(h: np.ndarray) -> np.ndarray:
        wide = np.zeros(m)
        wide[rows] = h.ravel()
        return np.asarray(across @ element.from_basis((root * wide)[None])[0])

    operator = LinearOperator((rows.size, n), matvec=forward, rmatvec=backward, dtype=float)
    return np.asarray(lsmr(operator, right, atol=1e-15, btol=1e-15, conlim=0, maxiter=min(4 * n, _KRYLOV_STEPS))[0])


def _sparse_step(left: sp.csc_array, right: np.ndarray) -> np.ndarray:
    """A least-squares solution, by proximal points: x ← argmin ‖left·x − right‖² + δ‖x − xₖ‖² tends to one."""
    r, n = left.shape
    quasidefinite = sp.block_array([[sp.eye_array(r), left], [left.T, -_PROXIMAL * sp.eye_array(n)]], format="csc")
    factors = splu(quasidefinite)
    x = np.zeros(n)
    for _ in range(_REPETITIONS):
        x = x + factors.solve(np.concatenate([right - left @ x, np.zeros(n)]))[r:]
    return x
