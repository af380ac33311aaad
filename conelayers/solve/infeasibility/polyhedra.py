"""Small programs on orthants that have no solution: both theorems of alternatives as projections, by the active set
kernel.

    minimize ½‖x‖²       subject to b − Ax ∈ K           ends at a feasible point, or with y: Aᵀy = 0, y ∈ K*, bᵀy < 0
    minimize ½‖x + q‖²   subject to Px = 0, −Ax ∈ K      ends at a ray x, for which qᵀx = −‖x‖², or at zero

Both are strictly convex whatever P is, and −q itself is the polar of the second one's rays: where there is one, it is
found. Equations that depend on each other (and Px = 0 always) are taken out first: with Π the projection on the null
space of the equations' rows E, and x₀ = E⁺e their solution of the least norm, x = x₀ + Πu fulfils them for every u.
Where Ex₀ is not e, y = Ex₀ − e is a certificate of it. The point or ray that is found is a candidate:
polyhedral_rays.py says whether it is a certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.quadratic import Code, solve_quadratic
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import largest
from conelayers.solve.infeasibility.contradictory_bounds import contradiction_of_bounds
from conelayers.solve.infeasibility.polyhedral_rays import (
    ROUNDING,
    are_primal_rays,
    is_polyhedral,
    lead_to_dual_rays,
    lead_to_primal_rays,
)
from conelayers.support.errors import Status
from conelayers.support.limits import out_of_time

__all__ = ["examined", "has_contrary_bounds", "infeasible", "is_small"]

_MOST_WORK = 2e8  # multiplications up to which the dense method is used: a tenth of a second
_AT_ONCE = 10_000_000  # largest number of entries of dense matrices in memory at a time
_RANK = 1e-13  # singular values below it, relative to the largest, are zero: the data have no more digits
_PLAY = 1e-11  # of the largest distance that b asks for: a hundredth of what bᵀy of a certificate has to be
_NOTHING = 1e-9  # of ‖q‖: the part of −q among the rays below which there is none


def is_small(structure: Structure) -> bool:
    """Whether all cones are orthants and the matrices are small enough to be dense."""
    n, m = structure.n, structure.m
    return is_polyhedral(structure) and n**3 / 6 + n * m * (n + m) / 2 <= _MOST_WORK


def infeasible(program: ConeProgram, jobs: int = 1) -> list[Status | None]:
    """PRIMAL_INFEASIBLE or DUAL_INFEASIBLE where there is a certificate, and for the latter a feasible point, None
    elsewhere.

    Orthants only. Programs too large for dense matrices are looked at for contradictions of bounds and single rows
    alone.
    """
    empty, has_point = examined(program, jobs)
    falls = np.zeros(program.batch, dtype=bool)
    for index in _in_pieces(program.structure, np.flatnonzero(has_point)):
        falls[index] = _falls_for_ever(program.take(index), jobs)
    said = {(True, False): Status.PRIMAL_INFEASIBLE, (False, True): Status.DUAL_INFEASIBLE}
    return [said.get(pair) for pair in zip(empty.tolist(), falls.tolist(), strict=True)]


def examined(program: ConeProgram, jobs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Which instances have a certificate that no point is feasible, and which a feasible point, up to rounding, each
    (B,) bool.

    What is in neither is not known: other cones, or orthants too large for dense matrices without a contradiction of
    bounds.
    """
    empty, has_point = np.zeros(program.batch, dtype=bool), np.zeros(program.batch, dtype=bool)
    finite = np.isfinite(program.q).all(axis=1) & np.isfinite(program.b).all(axis=1)
    finite &= np.isfinite(program.P).all(axis=1) & np.isfinite(program.A).all(axis=1)
    index = np.flatnonzero(finite)
    if not is_polyhedral(program.structure) or not index.size or not program.structure.m:
        return empty, has_point
    empty[index] = has_contrary_bounds(program.take(index))
    if is_small(program.structure):
        for piece in _in_pieces(program.structure, index[~empty[index]]):
            empty[piece], has_point[piece] = _projected(program.take(piece), jobs)
    return empty, has_point


def has_contrary_bounds(program: ConeProgram) -> np.ndarray:
    """Which instances have bounds, or a row and bounds, that contradict each other, (B,) bool: the cheapest test there
    is.
    """
    y = contradiction_of_bounds(program)
    shown = np.zeros(program.batch, dtype=bool)
    index = np.flatnonzero(y.any(axis=1))
    if index.size:  # exact but for the rounding of a product: there is nothing to refine
        shown[index] = are_primal_rays(program.take(index), y[index])
    return shown


def _in_pieces(structure: Structure, index: np.ndarray) -> Iterator[np.ndarray]:
    """The instances in parts whose dense matrices fit in memory, as long as there is time."""
    most = max(1, int(_AT_ONCE / ((structure.n + structure.m) * structure.n)))
    for start in range(0, index.size, most):
        if out_of_time():
            return
        yield index[start : start + most]


def _projected(program: ConeProgram, jobs: int) -> tuple[np.ndarray, np.ndarray]:
    """``examined`` by the projection of zero on the feasible set."""
    zero, n = program.structure.cones.zero, program.structure.n
    solution = solve_quadratic(np.eye(n)[None], np.zeros_like(program.q), program.dense_A, program.b, zero, None, jobs)
    x, y = solution.x, np.where((solution.code == Code.INFEASIBLE)[:, None], solution.v, 0.0)
    solved = solution.code == Code.SOLVED
    dependent = np.flatnonzero((solution.code == Code.DEPENDENT) | ((solution.code == Code.STALLED) & (zero > 0)))
    if dependent.size:
        x[dependent], y[dependent], solved[dependent] = _without_equations(program.take(dependent), jobs)
    contradicts = np.zeros(program.batch, dtype=bool)
    index = np.flatnonzero(y.any(axis=1))
    if index.size:
        contradicts[index] = lead_to_primal_rays(program.take(index), y[index])
    return contradicts, solved & _fulfils(program, x)


def _fulfils(program: ConeProgram, x: np.ndarray) -> np.ndarray:
    """Whether b − Ax ∈ K up to rounding: each row relative to its own terms, and all of them, as distances in the
    maximum norm, to the largest distance that b asks for. An x far beyond that hides contradictions in its rounding.
    """
    left, zero = program.Ax(x) - program.b, program.structure.cones.zero
    left[:, zero:] = np.maximum(left[:, zero:], 0.0)
    left, rows, b = np.abs(left), program.magnitudes.rows_of_A, np.abs(program.b)
    asked = largest(np.divide(b, rows, out=np.zeros_like(b), where=rows > 0))
    return ((left <= ROUNDING * (rows * largest(x)[:, None] + b)) & (left <= _PLAY * rows * asked[:, None])).all(axis=1)


@final
class _Equations(NamedTuple):
    """E⁺ (B or 1, n, e) and the projection Π on E's null space (B or 1, n, n)."""

    inverse: np.ndarray
    projection: np.ndarray

    @classmethod
    def of(cls, E: np.ndarray) -> _Equations:
        U, sigma, Vt = np.linalg.svd(E, full_matrices=False)
        kept = sigma > _RANK * np.max(sigma, axis=1, keepdims=True, initial=0.0)
        inverse_sigma = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=kept)
        Vt = np.where(kept[:, :, None], Vt, 0.0)
        V = np.swapaxes(Vt, 1, 2)
        return cls(V @ (inverse_sigma[:, :, None] * np.swapaxes(U, 1, 2)), np.eye(E.shape[2]) - V @ Vt)


def _without_equations(program: ConeProgram, jobs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and whether x is the projection of zero on the feasible set; y is zero without a contradiction."""
    zero = program.structure.cones.zero
    A, b = program.dense_A, program.b
    equations = _Equations.of(A[:, :zero])
    x0 = _times(equations.inverse, b[:, :zero])
    left = _times(A[:, :zero], x0) - b[:, :zero]
    y = np.zeros_like(b)
    terms = _times(np.abs(A[:, :zero]), np.abs(x0)) + np.abs(b[:, :zero])
    y[:, :zero] = np.where(np.abs(left) > ROUNDING * terms, left, 0.0)
    inner = A[:, zero:] @ equations.projection
    solution = solve_quadratic(
        np.eye(program.structure.n)[None],
        np.zeros_like(x0),
        inner,
        b[:, zero:] - _times(A[:, zero:], x0),
        0,
        None,
        jobs,
    )
    chosen = (solution.code == Code.INFEASIBLE) & ~y.any(axis=1)
    if chosen.any():
        of_equations = -_times(np.swapaxes(equations.inverse, 1, 2), _times(np.swapaxes(A[:, zero:], 1, 2), solution.v))
        y[chosen] = np.concatenate([of_equations, solution.v], axis=1)[chosen]
    return x0 + _times(equations.projection, solution.x), y, solution.solved


def _falls_for_ever(program: ConeProgram, jobs: int) -> np.ndarray:
    """Which objectives fall without bound in a direction that the constraints allow, (B,) bool."""
    structure, A, q = program.structure, program.dense_A, program.q
    zero, projection = structure.cones.zero, None
    blocks = [program.dense_P] if structure.P.nnz else []
    blocks += [A[:, :zero]] if zero else []
    if blocks:
        count = max(len(h) for h in blocks)
        E = np.concatenate([np.broadcast_to(h, (count, *h.shape[1:])) for h in blocks], axis=1)
        projection = _Equations.of(E).projection
        q = _times(projection, q)
        A = A[:, zero:] @ projection
    solution = solve_quadratic(
        np.eye(structure.n)[None], q, A, np.zeros((program.batch, structure.m - zero)), 0, None, jobs
    )
    x = solution.x if projection is None else _times(projection, solution.x)
    index = np.flatnonzero(solution.solved & (largest(x) > _NOTHING * largest(program.q)))
    shown = np.zeros(program.batch, dtype=bool)
    if index.size:
        shown[index] = lead_to_dual_rays(program.take(index), x[index])
    return shown


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[:, :, None])[:, :, 0]
