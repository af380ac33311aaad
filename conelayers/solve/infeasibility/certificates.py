"""Certificates of infeasibility: which there are, and which are believed.

    y ∈ K*, Aᵀy = 0, bᵀy < 0            no x has b − Ax ∈ K
    Px = 0, −Ax ∈ K, qᵀx < 0            the objective falls for ever where it is feasible

What a solver leaves is a rough one at best. It is refined first (farkas.py), and believed if it is one to rounding,
relative to itself: each equation to 1e−12 of the sum of the absolute values of its own terms, each block to 1e−12 of
its own size.
No units and no other part of the instance have a say. So a feasible x would have to be 1e12 times as large as what b
asks for: a large solution is not a ray.

Along the boundary of a curved cone that is not enough: a point within ε of it may be √ε away from those points of it
that fulfil the equations as well (t² ≤ x lets (x, t) = (1, √ε) be a ray up to ε). What it falls by has to be more than
moves of that size make of it.

In a presolved program (presolve.py) a certificate is that of the whole one: eliminated rows have no part in such a y,
and eliminated columns follow such an x.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones import product_cone
from conelayers.program.cone_program import ConeProgram
from conelayers.program.cones import Cones
from conelayers.program.patterns import instance_values
from conelayers.solve.infeasibility.farkas import Matrix, System, dual_system, least_violation, linear_rows, refined
from conelayers.solve.infeasibility.polyhedra import examined, infeasible, is_small
from conelayers.solve.infeasibility.polyhedral_rays import (
    FALLS,
    FAR,
    NOISE,
    ROUNDING,
    lead_to_dual_rays,
    lead_to_primal_rays,
    near_dual_rays,
    near_primal_rays,
)
from conelayers.support.errors import Status
from conelayers.support.limits import out_of_time
from conelayers.support.parallel import run_parallel

__all__ = ["Rays", "is_dual_ray", "is_primal_ray", "proven"]

_PLAY = 10.0  # times √ε: a distance of ε lets √(2ε) pass along a second-order cone, and more in larger blocks
_EPSILON = 64 * float(np.finfo(float).eps)  # rounding of a sum, relative to its terms
_ROUGH = 1e-2  # of an equation's own terms: what a solver's certificate may leave of it

Rays = Mapping[int, Sequence[tuple[np.ndarray, np.ndarray]]]


@np.errstate(over="ignore", divide="ignore", invalid="ignore")  # of rays that are none
def is_primal_ray(A: Matrix, b: np.ndarray, cones: Cones, y: np.ndarray) -> bool:
    """Whether y shows, to rounding, that no x has b − Ax ∈ K."""
    sizes = cones.block_maxima(np.abs(y))  # a block's small entries are known only as well as its large ones
    total = np.abs(b) @ sizes
    if not np.isfinite(y).all() or not b @ y < -FALLS * total:
        return False
    falls, terms = -(b @ y) / total, abs(A).T @ sizes
    if not _vanishes(A.T @ y, terms, falls) or not _inside(cones, y, np.abs(y)):
        return False
    if -(b @ y) <= _EPSILON * terms.sum() * _asked_for(A, b, y):
        return False
    width = _play(cones, y, np.abs(y))
    if width is None:
        return True
    # Moves along the boundary, but not those that only change the size of a block.
    low = product_cone(cones).extremes(y[None], width[None])[0]
    starts, sizes = cones.block_starts, cones.block_sizes
    along = np.add.reduceat(b * y, starts) / np.maximum(np.add.reduceat(y * y, starts), np.finfo(float).tiny)
    moved = low.apply((b - np.repeat(along, sizes) * y)[None])[0]
    return bool(-(b @ y) > width @ np.abs(moved))


@np.errstate(over="ignore", divide="ignore", invalid="ignore")  # of rays that are none
def is_dual_ray(P: sp.csc_array, q: np.ndarray, A: sp.csc_array, cones: Cones, x: np.ndarray) -> bool:
    """Whether the objective falls along x for ever, to rounding, and the constraints let it."""
    total = np.abs(q) @ np.abs(x)
    if not np.isfinite(x).all() or not q @ x < -FALLS * total:
        return False
    falls = -(q @ x) / total
    if not _vanishes(P @ x, abs(P) @ np.abs(x), falls):
        return False
    if not cones.dimension:
        return True
    s, terms = -(A @ x), abs(A) @ np.abs(x)
    if not _vanishes(s[: cones.zero], terms[: cones.zero], falls):
        return False
    if -(q @ x) <= _EPSILON * terms.sum() * _asked_for(A.T, q, x):
        return False
    outside = np.abs(product_cone(cones).project_dual(-s[None])[0][0])
    outside[: cones.zero] = 0.0
    if not (outside <= min(ROUNDING, FAR * falls) * cones.block_maxima(terms)).all():
        return False
    width = _play(cones, s, terms, dual=True)
    if width is None:
        return True
    # In terms of each x: what moves a block so far.
    rows = np.flatnonzero(width)
    entries = abs(A.tocsr()[rows]).tocoo()
    play = np.full(x.size, np.inf)
    np.minimum.at(
        play,
        entries.col[entries.data > 0],
        (width[rows][entries.row] / np.maximum(entries.data, 1e-300))[entries.data > 0],
    )
    return bool(-(q @ x) > np.abs(q[np.isfinite(play)]) @ play[np.isfinite(play)])


def _asked_for(A: Matrix, b: np.ndarray, y: np.ndarray) -> float:
    """The size of the x that the rows of Ax = b in which y is not zero ask for: times the rounding of Aᵀy it is what
    bᵀy may be by chance.
    """
    rows = np.asarray(abs(sp.csr_array(A)).max(axis=1).todense()).ravel()
    concerned = (y != 0) & (rows > 0)
    return float((np.abs(b[concerned]) / rows[concerned]).max(initial=0.0))


def _vanishes(left: np.ndarray, terms: np.ndarray, falls: float) -> bool:
    # Where the terms overflow, nothing is known of their sum.
    return bool(((np.abs(left) <= min(ROUNDING, FAR * falls) * terms) & (terms < np.inf)).all())


def _inside(cones: Cones, y: np.ndarray, terms: np.ndarray) -> bool:
    outside = np.abs(y - product_cone(cones).project_dual(y[None])[0][0])
    return bool((outside <= ROUNDING * cones.block_maxima(terms)).all())


def _play(cones: Cones, h: np.ndarray, terms: np.ndarray, dual: bool = False) -> np.ndarray | None:
    """How far each row of h may move, by what a distance of rounding from the boundary of its block's cone lets pass.

    None where that is nothing: in orthants, inside, and in blocks that are zero.
    """
    size = cones.block_maxima(terms)
    share = _share(cones, h, size)
    width = np.where((share > 0) & (cones.block_maxima(np.abs(h)) > ROUNDING * size), _PLAY * share * size, 0.0)
    if not width.any():
        return None
    # K and K* have the same normals: the projection on K* of −h moves where h is near the boundary of K.
    low, high, _ = product_cone(cones).extremes(
        (-h if dual else h)[None], np.where(width > 0, width, ROUNDING * size)[None]
    )
    flat = product_cone(cones).join(
        [
            np.broadcast_to(_differ(a.values, b.values), a.values.shape)
            for a, b in zip(low.elements, high.elements, strict=True)
        ]
    )
    width = np.where(flat[0], width, 0.0)
    return width if width.any() else None


def _share(cones: Cones, h: np.ndarray, size: np.ndarray) -> np.ndarray:
    """What a distance of ε = ROUNDING lets pass along the boundary, as a part of each block's size, on its rows (m,); 0
    in orthants.

    √ε, as where any surface is round. Only in power cones there are places that are flatter: near the edge on which the
    entry with the smaller exponent, κ, is zero, the third may go as far as |z| = εᵏ. Where that entry is t the
    curvature is that of z = tᵏ, which leaves √ε·t^(κ − ½).
    """
    root = float(np.sqrt(ROUNDING))
    shares = [0.0] * (cones.zero + cones.nonneg)
    shares += [0.0 if d == 1 else root for d in (*cones.soc, *cones.psd, *cones.hermitian)]
    shares += [root] * (cones.exp + cones.exp_dual + len(cones.power))
    share = np.repeat(np.array(shares), cones.block_sizes)
    first = cones.dimension - 3 * len(cones.power)
    for row, alpha in zip(range(first, cones.dimension, 3), map(abs, cones.power), strict=True):
        exponent, small = (alpha, row) if alpha <= 0.5 else (1 - alpha, row + 1)
        entry = min(max(abs(h[small]), ROUNDING * size[small]), size[small])
        if entry > 0:
            share[row : row + 3] = root * (entry / size[small]) ** (exponent - 0.5)
    return share


def _differ(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.any(low != high, axis=-1, keepdims=True)


def proven(program: ConeProgram, rays: Rays, jobs: int = 1, searched: Collection[int] = ()) -> dict[int, Status]:
    """What there is a certificate of: instance → PRIMAL_INFEASIBLE or DUAL_INFEASIBLE.

    ``rays`` are what solvers left of these instances, (x, y) in the units of ``program``, NaN where there is nothing.
    For those in ``searched`` a certificate is looked for without any. A program that has certificates of both kinds is
    PRIMAL_INFEASIBLE.
    """
    shown = _proven_at_once(program, rays, jobs, searched)
    index = sorted((set(rays) | set(searched)) - set(shown))
    found = run_parallel(lambda i: _proven(program, i, rays.get(i, ()), i in searched), index, jobs)
    return shown | {i: status for i, status in zip(index, found, strict=True) if status is not None}


def _proven_at_once(program: ConeProgram, rays: Rays, jobs: int, searched: Collection[int]) -> dict[int, Status]:
    """What array operations prove of small programs on orthants: a certificate close to a ray that was left, or an
    exact search for one, where such a ray is a rough one already, and for ``searched``.
    """
    if not is_small(program.structure) or out_of_time():
        return {}
    shown: dict[int, Status] = {}
    falling, rough = set[int](), set(searched)
    for k in range(max((len(left) for left in rays.values()), default=0)):
        index = _sorted(i for i, left in rays.items() if k < len(left) and i not in shown)
        if not index.size:
            break
        part = program.take(index)
        x, y = (np.stack([rays[int(i)][k][side] for i in index]) for side in (0, 1))
        x, y = (np.where(np.isfinite(h).all(axis=1)[:, None], h, 0.0) for h in (x, y))
        empty = lead_to_primal_rays(part, y)
        shown |= dict.fromkeys(index[empty].tolist(), Status.PRIMAL_INFEASIBLE)
        falling.update(index[~empty & lead_to_dual_rays(part, x)].tolist())
        rough.update(index[near_primal_rays(part, y, _ROUGH) | near_dual_rays(part, x, _ROUGH)].tolist())
    index = _sorted(falling - set(shown))
    if index.size:  # a direction shows nothing where there is no point to start from
        empty, has_point = examined(program.take(index), jobs)
        shown |= dict.fromkeys(index[empty].tolist(), Status.PRIMAL_INFEASIBLE)
        shown |= dict.fromkeys(index[has_point].tolist(), Status.DUAL_INFEASIBLE)
    index = _sorted(rough - set(shown))
    if index.size:
        found = zip(index.tolist(), infeasible(program.take(index), jobs), strict=True)
        shown |= {i: status for i, status in found if status is not None}
    return shown


def _sorted(instances: Iterable[int]) -> np.ndarray:
    return np.array(sorted(instances), dtype=np.int64)


def _proven(
    program: ConeProgram, i: int, rays: Sequence[tuple[np.ndarray, np.ndarray]], searched: bool
) -> Status | None:
    if out_of_time():
        return None
    structure, q = program.structure, program.q[i]
    P, A = structure.P.matrix(instance_values(program.P, i)), structure.A.matrix(instance_values(program.A, i))
    primal = System.of(A, program.b[i], structure.cones)
    if any(_shows_primal(primal, y) for _, y in rays):
        return Status.PRIMAL_INFEASIBLE
    dual = dual_system(P, q, A, structure.cones)

    def falls(x: np.ndarray) -> bool:
        if not np.isfinite(x).all() or not q @ x < 0:
            return False
        for clean in _cleaned(Cones(zero=q.size), x):
            z = dual.A[q.size :, q.size :] @ (A @ clean)
            better = refined(dual, np.concatenate([-clean, z]))
            if any(is_dual_ray(P, q, A, structure.cones, -h[: q.size]) for h in better):
                return True
        return False

    falling = any(falls(x) for x, _ in rays)
    if (falling or searched) and _violated(primal):
        return Status.PRIMAL_INFEASIBLE
    if falling or (searched and falls(-least_violation(dual)[: q.size])):
        return Status.DUAL_INFEASIBLE
    return None


def _shows_primal(system: System, y: np.ndarray) -> bool:
    """Whether y leads to a certificate that no x has b − Ax ∈ K."""
    if not np.isfinite(y).all() or not system.b @ y < 0:
        return False
    linear = linear_rows(system)
    for clean in _cleaned(system.cones, y):
        # Linear rows contradict each other more often than not, and are the cheaper ones to look at.
        part = clean[: linear.b.size]
        if part.size < y.size and linear.b @ part < 0:
            terms = abs(linear.A).T @ np.abs(part)
            if (np.abs(linear.A.T @ part) <= _ROUGH * terms).all() and _certified(linear, part):
                return True
        if _certified(system, clean):
            return True
    return False


def _certified(system: System, y: np.ndarray) -> bool:
    return any(is_primal_ray(*system, h) for h in refined(system, y))


def _violated(system: System) -> bool:
    """Whether the point of the least violation shows that there is one."""
    linear = linear_rows(system)
    if linear.b.size < system.b.size and _shows_primal(linear, least_violation(linear)):
        return True
    return _shows_primal(system, least_violation(system))


def _cleaned(cones: Cones, y: np.ndarray) -> Iterator[np.ndarray]:
    """y without the blocks that are small enough to be noise, and, where there are such, y itself."""
    size = cones.block_maxima(np.abs(y))
    large = size > NOISE * size.max()
    yield np.where(large, y, 0.0)
    if not (large | (size == 0)).all():
        yield y
