"""What is told of programs without a solution is true and proven; what has a solution, however large, is not told to have none."""

from __future__ import annotations

from collections import Counter

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from conelayers import Cones, Layer, SolveError, Status, solve_and_differentiate
from conelayers.infeasible import is_dual_ray, is_primal_ray, proven
from conelayers.program import ConeProgram, Pattern, Structure
from conelayers.solvers import SOLVERS, RawSolution

CONES = {
    "linear": Cones(zero=2, nonneg=6),
    "second-order": Cones(zero=1, nonneg=2, soc=(3, 4)),
    "semidefinite": Cones(nonneg=2, psd=(3, 2)),
    "exponential": Cones(zero=1, nonneg=2, exp=2),
    "power": Cones(nonneg=2, power=(0.3, 0.6)),
    "mixed": Cones(zero=1, nonneg=3, soc=(3,), psd=(2,), exp=1),
}
UNITS = {"plain": 0, "mild": 2, "wild": 5}


def status_of(P, q, A, b, cones: Cones, **options) -> Status:
    try:
        return solve_and_differentiate(P, q, A, b, cones, **options).status
    except SolveError as error:
        return error.statuses[0]


def in_cone(cones: Cones, rng: np.random.Generator, *, dual: bool, boundary: bool) -> np.ndarray:
    """A random point of K or K*, in the interior but for the zero cone, or on the boundary."""
    inner = np.zeros(cones.dimension)
    for _ in range(1 if boundary else 4):  # sums of points of a cone that lie on its boundary are inside
        v = rng.standard_normal(cones.dimension)
        inner += cones.project_dual(v)[0] if dual else cones.project_dual(-v)[0] + v
    inner[: cones.zero] = rng.standard_normal(cones.zero) if dual else 0.0
    return inner


def in_units(P, q, A, b, cones: Cones, rng: np.random.Generator, decades: int):
    """The same program with columns and blocks of rows in other units."""
    columns = 10.0 ** rng.integers(-decades, decades + 1, q.size)
    rows = np.repeat(10.0 ** rng.integers(-decades, decades + 1, cones.block_sizes.size), cones.block_sizes)
    return columns[:, None] * P * columns, columns * q, rows[:, None] * A * columns, rows * b, cones


def primal_infeasible(cones: Cones, seed: int, decades: int, boundary: bool):
    """y ∈ K*, Aᵀy = 0, bᵀy = −1: planted."""
    rng = np.random.default_rng(seed)
    m, n = cones.dimension, int(rng.integers(1, 6))
    y = in_cone(cones, rng, dual=True, boundary=boundary)
    A = rng.standard_normal((m, n))
    A -= np.outer(y, y @ A) / (y @ y)
    b = rng.standard_normal(m)
    b -= y * (b @ y + 1) / (y @ y)
    half = rng.standard_normal((n, int(rng.integers(0, n + 1))))
    return in_units(half @ half.T, rng.standard_normal(n), A, b, cones, rng, decades)


def dual_infeasible(cones: Cones, seed: int, decades: int, boundary: bool):
    """Px = 0, −Ax ∈ K, qᵀx = −1, and a point with slacks inside of K: planted."""
    rng = np.random.default_rng(seed)
    m, n = cones.dimension, int(rng.integers(2, 6))
    x = rng.standard_normal(n)
    s = in_cone(cones, rng, dual=False, boundary=boundary)
    A = rng.standard_normal((m, n))
    A -= np.outer(A @ x + s, x) / (x @ x)
    b = A @ rng.standard_normal(n) + in_cone(cones, rng, dual=False, boundary=False)
    q = rng.standard_normal(n)
    q -= x * (q @ x + 1) / (x @ x)
    half = rng.standard_normal((n, int(rng.integers(0, n))))
    half -= np.outer(x, x @ half) / (x @ x)
    return in_units(half @ half.T, q, A, b, cones, rng, decades)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", CONES)
def test_planted_certificates_are_found(name: str, units: str) -> None:
    for boundary in (False, True):
        for seed in range(4):
            data = primal_infeasible(CONES[name], seed, UNITS[units], boundary)
            assert status_of(*data) is Status.PRIMAL_INFEASIBLE, f"primal, {boundary=}, {seed=}"
            data = dual_infeasible(CONES[name], seed, UNITS[units], boundary)
            assert status_of(*data) is Status.DUAL_INFEASIBLE, f"dual, {boundary=}, {seed=}"
