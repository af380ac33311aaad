"""The test behind a certificate: is J(D) invertible for every Clarke element D ∈ ∂_C Π(v)?

Let D_min and D_max be the elements with all kink eigenvalues set to 0 and to 1. Every Clarke element lies between them, and

    all J(D) are invertible   ⟺   J(D_min) and J(D_max) are.

If J(D)(dx, dv) = 0 then dxᵀP dx + dvᵀD(I − D)dv = 0, so P dx = 0 and D(I − D)dv = 0, hence D A dx = 0, hence D_min A dx = 0
(D ⪰ D_min ⪰ 0), and dx = 0 where J(D_min) is invertible, which has the null vector (dx, A dx); then dv ∈ ker(I − D) ⊆
ker(I − D_max) and Aᵀdv = 0, so that (0, dv) is a null vector of J(D_max). This is Robinson's strong regularity: the second-order
condition, and primal nondegeneracy. Two factorizations check the theorem's hypothesis over an infinite set of elements; with
that of the chosen element there are at most three.

A solution is known up to its residual only: v is snapped to a kink that is as near as 100 times what Newton's next step, J⁻¹F, would
move that block, or 1e−12 of ‖v‖, in the equilibrated units (scaling.py). The least singular values are of J there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np
import scipy.sparse.linalg as spla

from conelayers.certificate import Certificate, Certificates, Verdict
from conelayers.cones import Cones, ProductElement
from conelayers.derivative import Linearization
from conelayers.errors import Status, usable_mask
from conelayers.kkt import null_space
from conelayers.names import Names
from conelayers.program import Residuals, Solution, largest
from conelayers.residual import apply_jacobian, apply_jacobian_transpose

__all__ = ["certify", "kink_margins"]

_STEPS = 100.0  # of Newton's next step
_ROUNDING = 1e-12  # of ‖v‖
_DENSE_UP_TO = 300  # orders of J up to which its singular values are computed, not iterated for
_SEEN = 1e-8  # entries of orthonormal null vectors below this are rounding


def certify(linearization: Linearization, solution: Solution, names: Names) -> Certificates:
    """The certificates of a batch's solutions, at which the solution map is linearized."""
    usable = np.flatnonzero(usable_mask(solution.status))
    made = [_without_solution(solution, i, linearization.program.structure.cones) for i in range(len(solution.status))]
    if usable.size:
        kept = linearization.take(usable)
        kinks = _Kinks.of(kept)
        margins = kink_margins(kept.program.structure.cones, solution.y[usable] - solution.s[usable])
        residual = kept.probe()
        for k, i in enumerate(usable.tolist()):
            made[i] = _certificate(kept.take([k]), kinks.take(k), solution, i, names, margins[k], float(residual[k]))
    return Certificates(made)


def kink_margins(cones: Cones, v: np.ndarray) -> np.ndarray:
    """The distance of each block of v (B, m) from the nearest kink of Π_{K*}, (B, blocks); infinite where there is none."""
    return cones.extremes(v, np.zeros_like(v))[2][:, cones.block_starts]


@final
class _Kinks(NamedTuple):
    """D_min and D_max, the blocks that lie on kinks (blocks,), and the largest tolerance."""

    low: ProductElement
    high: ProductElement
    blocks: np.ndarray
    tolerance: np.ndarray

    @classmethod
    def of(cls, linearization: Linearization) -> _Kinks:
        v, cones = linearization.point.v, linearization.program.structure.cones
        step = np.abs(linearization.newton_step())
        tolerance = _STEPS * step + _ROUNDING * largest(v)[:, None]
        low, high, distance = cones.extremes(v, tolerance)
        starts = cones.block_starts
        limits = np.maximum.reduceat(tolerance, starts, axis=1) if starts.size else tolerance
        return cls(low, high, distance[:, starts] <= limits, largest(tolerance))

    def take(self, k: int) -> _Kinks:
        return _Kinks(self.low.take([k]), self.high.take([k]), self.blocks[k], self.tolerance[k])


def _certificate(
    linearization: Linearization,
    kinks: _Kinks,
    solution: Solution,
    i: int,
    names: Names,
    margins: np.ndarray,
    residual: float,
) -> Certificate:
    presolved, cones = linearization.presolved, linearization.program.structure.cones
    null = _chosen_null_space(linearization)
    nullity = len(null[0]) if null is not None else 1
    second_order = nondegenerate = None
    moving, dependent = np.zeros(linearization.program.structure.n), np.zeros(cones.dimension)
    conditions = None if null is None else _Conditions.of(linearization, names, null[0], null[1])
    singular = conditions is None or not (conditions.second_order and conditions.nondegenerate)
    if not singular:
        elements = (kinks.low, kinks.high) if kinks.blocks.any() else (linearization.point.element,)
        spaces = [null_space(presolved, element, 0) for element in elements]
        first, last = spaces[0], spaces[-1]
        conditions = None if first is None or last is None else _Conditions.of(linearization, names, first.dx, last.dy)
    if conditions is not None:
        second_order, nondegenerate = conditions.second_order, conditions.nondegenerate
        moving, dependent = conditions.moving, conditions.dependent
    verdict = _verdict(singular, bool(kinks.blocks.any()), second_order, nondegenerate, solution.status[i])
    smallest, condition = _singular_values(linearization)
    return Certificate(
        verdict=verdict,
        status=solution.status[i],
        residuals=_residuals(solution, i),
        margin=float(np.min(margins, initial=np.inf)),
        margins=margins,
        kinks=kinks.blocks,
        kink_tolerance=float(kinks.tolerance),
        smallest_singular_value=smallest,
        condition=condition,
        nullity=nullity,
        linear_residual=residual,
        second_order=second_order,
        nondegenerate=nondegenerate,
        determined=not singular or second_order is True,
        variables=names.columns(moving),
        constraints=names.rows(dependent),
        kink_constraints=names.rows(_spread(kinks.blocks, cones)),
    )


def _verdict(
    singular: bool, kinks: bool, second_order: bool | None, nondegenerate: bool | None, status: Status
) -> Verdict:
    if singular:
        return Verdict.LEAST_SQUARES
    if not (second_order and nondegenerate) or status is not Status.SOLVED:
        return Verdict.UNCERTIFIED
    return Verdict.CERTIFIED if kinks else Verdict.CLASSICAL


@final
class _Conditions(NamedTuple):
    """Whether the two conditions hold, and the largest entries of the null directions (n,) and (m,) in the user's units where not.

    ker J is the direct sum of {dx : P dx = 0, D A dx = 0} and {w ∈ ker(I − D) : Aᵀw = 0}. Directions dx along which no variable of
    the user's moves are left out: adding ½‖Nᵀ(x − x*)‖² for a basis N of them changes no solution that the user sees, and makes J
    regular.
    """

    second_order: bool
    nondegenerate: bool
    moving: np.ndarray
    dependent: np.ndarray

    @classmethod
    def of(cls, linearization: Linearization, names: Names, dx: np.ndarray, dy: np.ndarray) -> _Conditions:
        scaling = linearization.scaling
        moving = np.max(np.abs(names.visible(_basis(dx * scaling.d))), axis=0, initial=0.0)
        dependent = np.max(np.abs(_basis(dy) * scaling.e), axis=0, initial=0.0)
        return cls(not moving.any(), not dependent.any(), moving, dependent)


def _basis(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of vectors (k, size) of about unit length, rounding left out."""
    _, sizes, V = np.linalg.svd(vectors, full_matrices=False)
    return V[sizes > _SEEN * max(1.0, float(sizes.max(initial=0.0)))]


def _chosen_null_space(linearization: Linearization) -> tuple[np.ndarray, np.ndarray] | None:
    """ker J(D) for the chosen D as (dx, dy), by the derivative's own factorization; None if only its existence is known."""
    factorization, structure = linearization.factorization, linearization.program.structure
    if not factorization.singular[0]:
        return np.zeros((0, structure.n)), np.zeros((0, structure.m))
    known = factorization.null_vectors(0)
    if known is not None:
        return known
    found = null_space(linearization.presolved, linearization.point.element, 0)
    return None if found is None else (found.dx, found.dy)


def _spread(blocks: np.ndarray, cones: Cones) -> np.ndarray:
    """Flags of blocks on all of their rows."""
    lengths = np.diff(np.append(cones.block_starts, cones.dimension))
    return np.repeat(blocks.astype(float), lengths)


def _residuals(solution: Solution, i: int) -> Residuals:
    r = solution.residuals
    return Residuals(r.primal[i], r.dual[i], r.gap[i], r.cone[i])


def _without_solution(solution: Solution, i: int, cones: Cones) -> Certificate:
    blocks = cones.block_starts.size
    return Certificate(
        verdict=Verdict.UNCERTIFIED,
        status=solution.status[i],
        residuals=_residuals(solution, i),
        margin=np.nan,
        margins=np.full(blocks, np.nan),
        kinks=np.zeros(blocks, dtype=bool),
        kink_tolerance=np.nan,
        smallest_singular_value=np.nan,
        condition=np.nan,
        nullity=0,
        linear_residual=np.nan,
        second_order=None,
        nondegenerate=None,
        determined=False,
    )


def _singular_values(linearization: Linearization) -> tuple[float, float]:
    """The smallest singular value of J and its condition number, of one instance."""
    program, element = linearization.program, linearization.point.element
    n, m = program.structure.n, program.structure.m
    order = n + m
    if order <= _DENSE_UP_TO:
        identity = np.eye(order)
        J = np.concatenate(apply_jacobian(program, element, identity[:, :n], identity[:, n:]), axis=1)
        values = np.linalg.svd(J, compute_uv=False)
        smallest, largest_value = float(values[-1]), float(values[0])
    else:
        factorization = linearization.factorization

        def inverse(h: np.ndarray) -> np.ndarray:
            """J⁻¹J⁻ᵀh."""
            h1, h2 = h[None, :n], h[None, n:]
            lam, minus = factorization.solve(h1 + program.ATy(h2), h2)
            mu = h2 - minus
            dx, dy = factorization.solve(lam, -mu)
            return np.concatenate([dx, mu + program.Ax(dx) + dy], axis=1)[0]

        def square(h: np.ndarray) -> np.ndarray:
            """JᵀJh."""
            image = apply_jacobian(program, element, h[None, :n], h[None, n:])
            return np.concatenate(apply_jacobian_transpose(program, element, *image), axis=1)[0]

        smallest = 0.0 if factorization.singular[0] else _largest_eigenvalue(inverse, order) ** -0.5
        largest_value = _largest_eigenvalue(square, order) ** 0.5
    return smallest, largest_value / smallest if smallest > 0 else np.inf


def _largest_eigenvalue(apply: Callable[[np.ndarray], np.ndarray], order: int) -> float:
    """Of a symmetric positive semidefinite operator, to two digits, by Lanczos' method."""
    operator = spla.LinearOperator((order, order), matvec=apply, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(order)
    return float(spla.eigsh(operator, k=1, which="LA", tol=1e-2, v0=start, return_eigenvectors=False)[0])
