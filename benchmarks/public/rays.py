"""Certificates of infeasibility: found by any means, mended, and then left to judge.py.

    y ∈ K*, Aᵀy = 0, bᵀy < 0            no x has b − Ax ∈ K
    Px = 0, −Ax ∈ K, qᵀx < 0            the objective is unbounded where it is feasible

The first is the residual of the point that violates the constraints least, as precise as our own solution of that program:
at the minimum of ½‖w‖² subject to Ax + w + s = b, s ∈ K, the multiplier is y = −w, with Aᵀy = 0 and bᵀy = −‖w‖². For linear programs
that of ‖w‖₁ is the next. Others, and all of the second kind, are rays that backends return, moved onto the equations that they are to satisfy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from benchmarks.public.judge import is_dual_ray, is_primal_ray
from benchmarks.public.problem import Problem
from conelayers import Singular, SolveError, Status, solve_and_differentiate
from conelayers.solve.backends import SOLVERS, Instance, Settings
from conelayers.solve.infeasibility.farkas import System, refined

__all__ = ["certified_infeasible"]

ZERO = 1e-6  # of the largest multiplier: what a backend's ray has there is zero
DENSE = 4_000_000  # entries up to which the equations are solved by a singular value decomposition


def certified_infeasible(problem: Problem, status: Status) -> bool:
    """Whether a certificate of this kind of infeasibility was found that stands the check of judge.py."""
    if status is Status.DUAL_INFEASIBLE:
        return any(is_dual_ray(problem, x) for x in _dual_rays(problem))
    return any(is_primal_ray(problem, y) for y in _primal_rays(problem))


def _primal_rays(problem: Problem) -> Iterator[np.ndarray]:
    n, m = problem.q.size, problem.b.size
    P = sp.diags_array(np.concatenate([np.zeros(n), np.ones(m)]), format="csc")
    A = sp.hstack([problem.A, sp.eye_array(m)], format="csc")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield solve_and_differentiate(
                P, np.zeros(n + m), A, problem.b, problem.cones, singular=Singular.LEAST_SQUARES
            ).y
    except SolveError:
        pass
    equations = sp.vstack([problem.A.T, sp.csr_array(problem.b[None])], format="csc")
    system = System.of(sp.csc_array(problem.A), problem.b, problem.cones)
    for raw in _raw(problem, Status.PRIMAL_INFEASIBLE):
        yield raw  # a ray by HiGHS is one to rounding
        # Where a ray falls by 1e−6 of its own terms, only one to rounding stands the check.
        yield from refined(system, raw)
        y = raw / -(problem.b @ raw)
        at_zero = np.zeros(m, dtype=bool)
        flat = slice(problem.cones.zero, problem.cones.zero + problem.cones.nonneg)
        at_zero[flat] = y[flat] <= ZERO * np.abs(y).max()
        yield _onto(equations, np.append(np.zeros(n), -1.0), y, ~at_zero)


def _dual_rays(problem: Problem) -> Iterator[np.ndarray]:
    """The rows at which the ray stays on the boundary stay equations."""
    cones = problem.cones
    for x in _raw(problem, Status.DUAL_INFEASIBLE):
        x = x / -(problem.q @ x)
        s = -problem.A @ x
        touched = np.zeros(s.size, dtype=bool)
        flat = slice(0, cones.zero + cones.nonneg)
        touched[flat] = s[flat] <= ZERO * np.abs(s).max(initial=0.0)
        touched[: cones.zero] = True
        parts = [problem.P, problem.A.tocsr()[touched], sp.csr_array(problem.q[None])]
        target = np.append(np.zeros(problem.q.size + int(touched.sum())), -1.0)
        yield _onto(sp.vstack(parts, format="csc"), target, x, np.ones(x.size, dtype=bool))


def _raw(problem: Problem, status: Status) -> Iterator[np.ndarray]:
    """The backends' rays of this kind."""
    instance = Instance(problem.P, problem.q, problem.A, problem.b, problem.cones)
    for solver in SOLVERS.values():
        if solver.takes(problem.cones, problem.P.nnz > 0):
            raw = solver.solve(instance, Settings(max_iters=solver.fallback_iterations))
            ray, direction = (raw.x, problem.q) if status is Status.DUAL_INFEASIBLE else (raw.y, problem.b)
            if raw.status is status and np.isfinite(ray).all() and direction @ ray < 0:
                yield ray


def _onto(equations: sp.csc_array, target: np.ndarray, ray: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The nearest point with equations·z = target, zero where it is not free."""
    near = np.where(free, ray, 0.0)
    G, gap = equations[:, free], target - equations @ near
    if G.shape[0] * G.shape[1] <= DENSE:
        step = np.linalg.lstsq(G.toarray(), gap, rcond=None)[0]
    else:
        step = spla.lsmr(G, gap, atol=1e-15, btol=1e-15, maxiter=5000)[0]
    near[free] += step
    return near
