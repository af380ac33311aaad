"""Certificates of infeasibility, found as the solutions of quadratic programs:

minimize ½‖y‖²  subject to  Aᵀy = 0, bᵀy = −1, y ∈ K*            no x has b − Ax ∈ K
minimize ½‖x‖²  subject to  Px = 0, qᵀx = −1, −Ax ∈ K            the objective is unbounded where it is feasible
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp

from benchmarks.public.judge import is_dual_ray, is_primal_ray
from benchmarks.public.problem import Problem
from conelayers import Cones, Singular, SolveError, Status, solve_and_differentiate

__all__ = ["certified_infeasible"]


def certified_infeasible(problem: Problem, status: Status) -> bool:
    """Whether a certificate of this kind of infeasibility was found that stands the check of judge.py."""
    primal = status is Status.PRIMAL_INFEASIBLE
    program = _primal(problem) if primal else _dual(problem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray = solve_and_differentiate(*program, singular=Singular.LEAST_SQUARES).x
    except SolveError:
        return False
    return is_primal_ray(problem, ray) if primal else is_dual_ray(problem, ray)


_Program = tuple[sp.csc_array, np.ndarray, sp.csc_array, np.ndarray, Cones]


def _primal(problem: Problem) -> _Program:
    cones, m = problem.cones, problem.b.size
    rows, scale = _unit_rows(sp.hstack([problem.A, sp.csc_array(problem.b[:, None])], format="csc").T)
    b = np.concatenate([np.zeros(problem.q.size), -scale[-1:], np.zeros(m - cones.zero)])
    A = sp.vstack([rows, -sp.eye_array(m, format="csr")[cones.zero :]], format="csc")
    dual = Cones(
        zero=problem.q.size + 1,
        nonneg=cones.nonneg,
        soc=cones.soc,
        psd=cones.psd,
        exp_dual=cones.exp,
        power=tuple(-a for a in cones.power),
    )
    return sp.eye_array(m, format="csc"), np.zeros(m), A, b, dual


def _dual(problem: Problem) -> _Program:
    cones, n = problem.cones, problem.q.size
    flat, scale = _unit_rows(sp.vstack([problem.P, sp.csc_array(problem.q[None])], format="csr"))
    equations = problem.A[: cones.zero]
    A = sp.vstack([flat, equations, problem.A[cones.zero :]], format="csc")
    b = np.concatenate([np.zeros(n), -scale[-1:], np.zeros(problem.b.size)])
    parts = Cones(
        zero=n + 1 + cones.zero, nonneg=cones.nonneg, soc=cones.soc, psd=cones.psd, exp=cones.exp, power=cones.power
    )
    return sp.eye_array(n, format="csc"), np.zeros(n), A, b, parts


def _unit_rows(rows: sp.csr_array) -> tuple[sp.csr_array, np.ndarray]:
    """The rows divided by their largest entries, and what they were multiplied with."""
    sizes = abs(rows).max(axis=1).toarray().ravel()
    scale = 1 / np.where(sizes > 0, sizes, 1.0)
    return sp.csr_array(sp.diags_array(scale) @ rows), scale
