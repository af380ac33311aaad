"""The test behind a certificate: is J(D) invertible for every Clarke element D ∈ ∂_C Π(v)?

Let D_min and D_max be the elements with all kink eigenvalues set to 0 and to 1. Every Clarke element lies between
them, and

    all J(D) are invertible   ⟺   J(D_min) and J(D_max) are.

Proof: let J(D)(dx, dv) = 0. Then dxᵀP dx + dvᵀD(I − D)dv = 0, so P dx = 0 and D(I − D)dv = 0, hence D A dx = 0, and
D_min A dx = 0 because D ⪰ D_min ⪰ 0. So (dx, A dx) is a null vector of J(D_min): if J(D_min) is invertible, dx = 0.
Then dv ∈ ker(I − D) ⊆ ker(I − D_max) and Aᵀdv = 0, so that (0, dv) is a null vector of J(D_max): if J(D_max) is
invertible, dv = 0. The two conditions are Robinson's strong regularity: the second-order condition, and primal
nondegeneracy. Two factorizations check the theorem's hypothesis over an infinite set of elements; with the
factorization of the chosen element there are at most three.

A solution is known up to its residual only, so a block of v counts as lying at a kink if the kink is near enough, in
the equilibrated units (scaling.py): within 100 times what a Newton step would move the block, plus 1e−12 of ‖v‖ there.
The step is J⁻¹F, for the residual F of the solution or for an F of the size of its rounding errors.

The rank of K(D_min) and of K(D_max) is decided at 1e−13 of the largest eigenvalue. Where cones curve, D is known only
as well as v is, and the rank is decided at ten times the relative error of v. Without kinks D_min = D_max = D: then the
derivative's own factorization decides, together with the residual of a solve with it.

Two kinds of null directions do no harm, and are left out:

- Variables that cvxpy introduced may be free where a constraint is inactive. Adding ½‖Nᵀ(x − x*)‖² for a basis N of
  such directions changes nothing that the user sees, and makes J regular.
- Linear constraints that no parameter enters may depend on each other by rows that cvxpy added (‖x‖₁ with x ≥ 0). Their
  multipliers are not unique, but no change of the parameters makes them contradict each other: x is determined as by an
  independent part of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, final

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

_STEPS = 100.0  # times Newton's next step: a kink within that distance counts as one
_ROUNDING = 1e-12  # times ‖v‖ of the block: the distance that is added for rounding errors
_CERTAIN = 1e-10  # times ‖v‖ of a block, or 1: up to this distance the default selection sees a block at its kink
_CLEARLY = 0.1  # times a kink's tolerance: likewise. A block farther away may lie beside its kink
_NEAR = 1e-6  # times ‖v‖ of a block, or 1, the size that the equilibration gives it: kinks beyond are not looked for
_LEAST_CUTOFF, _LARGEST_CUTOFF = 1e-13, 1e-6
_SOLVED = 1e-7  # residual of the linear solve up to which J counts as invertible
_DENSE_UP_TO = 300  # orders of J up to which its singular values are computed, not iterated for


def certify(linearization: SolutionMap, solution: Solution, names: Names) -> Certificates:
    """The certificates of a batch's solutions; ``linearization`` is the solution map linearized at them."""
    usable = np.flatnonzero(usable_mask(solution.status))
    made = [_without_solution(solution, i, linearization.structure.cones) for i in range(len(solution.status))]
    if usable.size:
        kept = linearization.take(usable)
        kinks = kept.memory.recall("kinks", lambda: Kinks.of(kept))
        margins = kink_margins(kept.program.structure.cones, solution.y[usable] - solution.s[usable])
        residual = kept.memory.recall("probe", kept.probe)
        for k, i in enumerate(usable.tolist()):
            made[i] = _certificate(kept.take([k]), kinks.take(k), solution, i, names, margins[k], float(residual[k]))
    return Certificates(made)


def kink_margins(cones: Cones, v: np.ndarray) -> np.ndarray:
    """The distance (B, blocks) of each block of v (B, m) from the nearest kink of Π_{K*}; infinite if it has none."""
    return product_cone(cones).extremes(v, np.zeros_like(v))[2][:, cones.block_starts]


def snapped(solution: Solution, linearization: Linearization, selection: Selection) -> tuple[Solution, Linearization]:
    """The solution and its linearization, with the element that ``selection`` names at the kinks.

    Under "low", "high" or "mid" a block of v that lies at the kink 0 is set to exactly 0, so that the element does not
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
        # A block that may lie beside its kink keeps its own derivative; no point is moved.
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
    """Whether in some block of a curved cone y or s is negligible against the other."""
    y, s = (cones.block_maxima(np.abs(h)) for h in (point.y, point.s))
    small = np.minimum(y, s) <= _NEAR * np.maximum(1.0, np.maximum(y, s))
    return bool(np.any(small & ~cones.orthant_rows))


def _near_kinks(cones: Cones, point: Point) -> np.ndarray:
    """Which instances may have a block at a kink, (B,) bool: a cheap test that rules most instances out."""
    v = point.v
    if not cones.dimension:
        return np.zeros(len(v), dtype=bool)
    near = np.any((np.abs(v) <= _NEAR)[:, cones.zero :] & cones.orthant_rows[cones.zero :], axis=1)
    # Near the boundary of a curved cone or of its polar, y or s is negligible. The kinks of semidefinite cones do not
    # show in the sizes of y and s: their distances are always computed.
    if cones.curved and (cones.psd or cones.hermitian or _one_sided(cones, point)):
        distances = product_cone(cones).extremes(v, np.zeros_like(v))[2]
        near |= np.any(distances <= _NEAR * np.maximum(1.0, cones.block_maxima(np.abs(v))), axis=1)
    return near


def _uncertainty(linearization: Linearization) -> np.ndarray:
    """How far off v may be, (B, m): by Newton's next step, and by an F of the size of its rounding errors."""
    return np.maximum(np.abs(linearization.newton_step()), np.abs(linearization.rounding_step()[1]))


@final
class Kinks(NamedTuple):
    """The kinks near the points of a batch, in the equilibrated units.

    low, high: D_min and D_max.
    distances: of v's blocks from their nearest kinks, (B, blocks).
    tolerances: the distances up to which a block counts as lying at a kink, (B, blocks).
    accuracy: the relative error of v in the blocks of curved cones, (B,).
    """

    low: ProductElement
    high: ProductElement
    distances: np.ndarray
    tolerances: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, linearization: Linearization) -> Kinks:
        """The kinks near the points at which the solution map is linearized, whichever element was chosen there."""
        v, cones = linearization.point.v, linearization.program.structure.cones
        step = _uncertainty(linearization)
        # At a kink the chosen element may count as a slack what by its sign is a multiplier: v is known as the less
        # certain of the two.
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
        """Which blocks lie at kinks."""
        return self.distances <= self.tolerances

    def take(self, k: int) -> Kinks:
        """The kinks of one instance."""
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
    null = linearization.memory.recall("null space", lambda: _chosen_null_space(linearization))
    conditions = None if null is None else _directions(linearization, names, null[0], null[1])
    singular = conditions is None or not (conditions.second_order and conditions.nondegenerate)
    at_kinks = bool(kinks.blocks.any())
    if not singular and at_kinks:
        cutoff = _LEAST_CUTOFF
        if structure.cones.curved:
            cutoff = float(np.clip(10 * kinks.accuracy, _LEAST_CUTOFF, _LARGEST_CUTOFF))
        low, high = linearization.memory.recall(
            "extreme null spaces",
            lambda: [null_space(linearization.presolved, D, 0, cutoff) for D in (kinks.low, kinks.high)],
        )
        conditions = None if low is None or high is None else _directions(linearization, names, low[0], high[1])
    elif residual > _SOLVED:
        conditions = None
    known = conditions or NullDirections.untested(structure.n, structure.m)
    smallest, condition = linearization.memory.recall("singular values", lambda: _singular_values(linearization))
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
    """ker J(D) for the chosen D as (dx, dy), by the derivative's own factorization.

    None if J(D) is known to be singular, but its null vectors are not.
    """
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
    """The largest eigenvalue of a symmetric positive semidefinite operator, to two digits, by Lanczos' method."""
    operator = spla.LinearOperator((order, order), matvec=apply, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(order)
    return float(spla.eigsh(operator, k=1, which="LA", tol=1e-2, v0=start, return_eigenvectors=False)[0])
