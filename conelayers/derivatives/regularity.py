"""The test behind a certificate: is J(D) invertible for every Clarke element D ∈ ∂_C Π(v)?

Let D_min and D_max be the elements with all kink eigenvalues set to 0 and to 1. Every Clarke element lies between them, and

    all J(D) are invertible   ⟺   J(D_min) and J(D_max) are.

If J(D)(dx, dv) = 0 then dxᵀP dx + dvᵀD(I − D)dv = 0, so P dx = 0 and D(I − D)dv = 0, hence D A dx = 0, hence D_min A dx = 0
(D ⪰ D_min ⪰ 0), and dx = 0 where J(D_min) is invertible, which has the null vector (dx, A dx); then dv ∈ ker(I − D) ⊆
ker(I − D_max) and Aᵀdv = 0, so that (0, dv) is a null vector of J(D_max). This is Robinson's strong regularity: the second-order
condition, and primal nondegeneracy. Two factorizations check the theorem's hypothesis over an infinite set of elements; with
that of the chosen element there are at most three.

A solution is known up to its residual only: v is snapped to a kink that is as near as 100 times what Newton's next step, J⁻¹F, or an
F of the size of its own rounding errors, would move that block, or 1e−12 of ‖v‖ there, in the equilibrated units (scaling.py). The rank of K(D_min) and
K(D_max) is decided at 1e−13 of the largest eigenvalue; where cones curve, D is known only as well as v is, and at ten times that. Without kinks
D_min = D_max = D, and the derivative's own factorization and the residual of a solve with it decide.

Two kinds of null directions do no harm and are left out. Variables that cvxpy introduced may be free where a constraint is inactive: adding
½‖Nᵀ(x − x*)‖² for a basis N of such directions changes nothing that the user sees, and makes J regular. And where linear constraints that no
parameter enters depend on each other by rows that cvxpy added (‖x‖₁ with x ≥ 0), their multipliers are not unique, but they cannot come to
contradict each other: x is determined as by an independent part of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar, final

import numpy as np
import scipy.sparse.linalg as spla

from conelayers.derivatives.certificate import Certificate, Certificates, Verdict
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.null_directions import NullDirections
from conelayers.numerics.cones import ProductElement, Selection, product_cone
from conelayers.numerics.kkt import null_space
from conelayers.numerics.residual import Point, apply_jacobian, apply_jacobian_transpose, evaluate
from conelayers.program.cones import Cones
from conelayers.program.names import Names
from conelayers.program.solution import Solution
from conelayers.support.errors import Status, usable_mask

__all__ = ["Kinks", "certify", "kink_margins", "snapped"]

_STEPS = 100.0  # of Newton's next step
_ROUNDING = 1e-12  # of ‖v‖
_CERTAIN = 1e-10  # the same, up to which a kink is taken for one without being asked to
_CLEARLY = 0.1  # of a kink's tolerance, likewise: that of the default element may be another one
_NEAR = 1e-6  # of ‖v‖ of a block, and of the size 1 that the equilibration gives it, up to which a kink is looked for
_LEAST_CUTOFF, _LARGEST_CUTOFF = 1e-13, 1e-6
_SOLVED = 1e-7  # residual of the linear solve up to which J counts as invertible
_DENSE_UP_TO = 300  # orders of J up to which its singular values are computed, not iterated for

_Found = TypeVar("_Found")


def certify(linearization: SolutionMap, solution: Solution, names: Names) -> Certificates:
    """The certificates of a batch's solutions, at which the solution map is linearized."""
    usable = np.flatnonzero(usable_mask(solution.status))
    made = [_without_solution(solution, i, linearization.structure.cones) for i in range(len(solution.status))]
    if usable.size:
        kept = linearization.take(usable)
        kinks = _remembered(kept, "kinks", Kinks.of)
        margins = kink_margins(kept.program.structure.cones, solution.y[usable] - solution.s[usable])
        residual = _remembered(kept, "probe", Linearization.probe)
        for k, i in enumerate(usable.tolist()):
            made[i] = _certificate(kept.take([k]), kinks.take(k), solution, i, names, margins[k], float(residual[k]))
    return Certificates(made)


def _remembered(linearization: Linearization, what: str, find: Callable[[Linearization], _Found]) -> _Found:
    """What was found at this linearization before, for another certificate."""
    memory = linearization.__dict__.setdefault("remembered", {})
    if what not in memory:
        memory[what] = find(linearization)
    return memory[what]


def kink_margins(cones: Cones, v: np.ndarray) -> np.ndarray:
    """The distance of each block of v (B, m) from the nearest kink of Π_{K*}, (B, blocks); infinite where there is none."""
    return product_cone(cones).extremes(v, np.zeros_like(v))[2][:, cones.block_starts]


def snapped(solution: Solution, linearization: Linearization, selection: Selection) -> tuple[Solution, Linearization]:
    """With the selected element, and for others than the default with v exactly 0 in the blocks that lie on the kink there: no element must
    depend on rounding.
    """
    cones, point = linearization.program.structure.cones, linearization.point
    near = np.flatnonzero(_near_kinks(cones, point))
    near = near[usable_mask(solution.status)[near]] if near.size else near
    if not near.size:
        return solution, linearization.select(selection)
    kinks = Kinks.of(linearization.take(near))
    sizes = np.maximum.reduceat(np.abs(point.v[near]), cones.block_starts, axis=1)
    if selection is Selection.DEFAULT:
        # What may be no kink keeps its own derivative, and all points stay where they are.
        limits = np.minimum(_CLEARLY * kinks.tolerances, _CERTAIN * np.maximum(1.0, sizes))
        if not (kinks.distances <= limits).any():
            return solution, linearization
        tolerance = np.zeros_like(point.v)
        tolerance[near] = np.repeat(limits, cones.block_sizes, axis=1)
        return solution, linearization.at(
            point._replace(element=product_cone(cones).default_element(point.v, tolerance))
        )
    zero = np.zeros(point.v.shape, dtype=bool)
    zero[near] = np.repeat(kinks.blocks & (sizes <= kinks.tolerances), cones.block_sizes, axis=1)
    if zero.any():
        linearization = linearization.at(evaluate(linearization.program, point.x, np.where(zero, 0.0, point.v)))
        solution = replace(solution, y=np.where(zero, 0.0, solution.y), s=np.where(zero, 0.0, solution.s))
    return solution, linearization.select(selection)


def _one_sided(cones: Cones, point: Point) -> bool:
    """Whether y or s of some block of a curved cone is next to nothing."""
    y, s = (cones.block_maxima(np.abs(h)) for h in (point.y, point.s))
    small = np.minimum(y, s) <= _NEAR * np.maximum(1.0, np.maximum(y, s))
    return bool(np.any(small & ~cones.orthant_rows))


def _near_kinks(cones: Cones, point: Point) -> np.ndarray:
    """Which instances may have a block at a kink, (B,) bool: a look that costs next to nothing."""
    v = point.v
    if not cones.dimension:
        return np.zeros(len(v), dtype=bool)
    near = np.any((np.abs(v) <= _NEAR)[:, cones.zero :] & cones.orthant_rows[cones.zero :], axis=1)
    # Near the boundary of a curved cone or of its polar one of y and s is next to nothing; among eigenvalues nothing
    # shows.
    if cones.curved and (cones.psd or cones.hermitian or _one_sided(cones, point)):
        distances = product_cone(cones).extremes(v, np.zeros_like(v))[2]
        near |= np.any(distances <= _NEAR * np.maximum(1.0, cones.block_maxima(np.abs(v))), axis=1)
    return near


def _uncertainty(linearization: Linearization) -> np.ndarray:
    """How far off v may be, (B, m): what Newton's next step, and an F of the size of its rounding errors, change of it."""
    return np.maximum(np.abs(linearization.newton_step()), np.abs(linearization.rounding_step()[1]))


@final
class Kinks(NamedTuple):
    """D_min and D_max of a batch; the distances of v's blocks from kinks and the tolerances within which they count as at one, (B, blocks), in
    the equilibrated units; and how well v is known in blocks that curve, relative to ‖v‖ there, (B,).
    """

    low: ProductElement
    high: ProductElement
    distances: np.ndarray
    tolerances: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, linearization: Linearization) -> Kinks:
        """At the point of a linearization, whichever element was chosen there."""
        v, cones = linearization.point.v, linearization.program.structure.cones
        step = _uncertainty(linearization)
        # At a kink the chosen element may count as a slack what by its sign is a multiplier: v is known as the less certain of the two.
        by_sign = product_cone(cones).decompose(v)[2]
        if (by_sign.values != linearization.point.element.values).any():
            step = np.maximum(step, _uncertainty(linearization.at(linearization.point._replace(element=by_sign))))
        size = cones.block_maxima(np.abs(v))
        tolerance = cones.block_maxima(_STEPS * step + _ROUNDING * size)
        low, high, distance = product_cone(cones).extremes(v, tolerance)
        starts = cones.block_starts
        known = np.max(
            np.divide(step, size, out=np.zeros_like(step), where=~cones.orthant_rows & (size > 0)), axis=1, initial=0.0
        )
        return cls(low, high, distance[:, starts], tolerance[:, starts], known)

    @property
    def blocks(self) -> np.ndarray:
        """Which blocks lie on kinks."""
        return self.distances <= self.tolerances

    def take(self, k: int) -> Kinks:
        """Those of one instance."""
        return Kinks(self.low.take([k]), self.high.take([k]), self.distances[k], self.tolerances[k], self.accuracy[k])


def _certificate(
    linearization: Linearization,
    kinks: Kinks,
    solution: Solution,
    i: int,
    names: Names,
    margins: np.ndarray,
    residual: float,
) -> Certificate:
    structure = linearization.program.structure
    null = _remembered(linearization, "null space", _chosen_null_space)
    conditions = None if null is None else _directions(linearization, names, null[0], null[1])
    singular = conditions is None or not (conditions.second_order and conditions.nondegenerate)
    at_kinks = bool(kinks.blocks.any())
    if not singular and at_kinks:
        cutoff = _LEAST_CUTOFF
        if structure.cones.curved:
            cutoff = float(np.clip(10 * kinks.accuracy, _LEAST_CUTOFF, _LARGEST_CUTOFF))
        low, high = _remembered(
            linearization,
            "extreme null spaces",
            lambda h: [null_space(h.presolved, D, 0, cutoff) for D in (kinks.low, kinks.high)],
        )
        conditions = None if low is None or high is None else _directions(linearization, names, low[0], high[1])
    elif residual > _SOLVED:
        conditions = None
    known = conditions or NullDirections.untested(structure.n, structure.m)
    smallest, condition = _remembered(linearization, "singular values", _singular_values)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((kinks.distances > 0) & np.isfinite(kinks.distances), margins / kinks.distances, 1.0)
    return Certificate(
        verdict=_verdict(singular, at_kinks, known, solution.status[i]),
        status=solution.status[i],
        residuals=solution.residuals.take(i),
        margin=float(np.min(margins, initial=np.inf)),
        margins=margins,
        tolerances=kinks.tolerances * ratio,
        kinks=kinks.blocks,
        smallest_singular_value=smallest,
        condition=condition,
        nullity=1 if null is None else len(null[0]),
        linear_residual=residual,
        second_order=known.second_order,
        nondegenerate=known.nondegenerate,
        determined=not singular or known.second_order is True,
        variables=known.variables(names, linearization.scaling.d[0]),
        constraints=known.constraints(names),
        kink_constraints=names.rows(np.repeat(kinks.blocks.astype(float), structure.cones.block_sizes)),
    )


def _verdict(singular: bool, kinks: bool, conditions: NullDirections, status: Status) -> Verdict:
    if singular:
        return Verdict.LEAST_SQUARES
    if not (conditions.second_order and conditions.nondegenerate) or status is not Status.SOLVED:
        return Verdict.UNCERTIFIED
    return Verdict.CERTIFIED if kinks else Verdict.CLASSICAL


def _directions(linearization: Linearization, names: Names, dx: np.ndarray, dy: np.ndarray) -> NullDirections:
    return NullDirections.of(dx, dy, names, linearization.scaling.d[0])


def _chosen_null_space(linearization: Linearization) -> tuple[np.ndarray, np.ndarray] | None:
    """ker J(D) for the chosen D as (dx, dy), by the derivative's own factorization; None if only its existence is known."""
    factorization, structure = linearization.factorization, linearization.program.structure
    if not factorization.singular[0]:
        return np.zeros((0, structure.n)), np.zeros((0, structure.m))
    return linearization.null_vectors(0)


def _without_solution(solution: Solution, i: int, cones: Cones) -> Certificate:
    blocks = cones.block_starts.size
    return Certificate(
        verdict=Verdict.UNCERTIFIED,
        status=solution.status[i],
        residuals=solution.residuals.take(i),
        margin=np.nan,
        margins=np.full(blocks, np.nan),
        tolerances=np.full(blocks, np.nan),
        kinks=np.zeros(blocks, dtype=bool),
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
