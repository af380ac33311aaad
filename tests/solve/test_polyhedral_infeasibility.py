"""Small programs on orthants: what array operations prove of a whole batch is true, and it is proven before anything
dear is tried.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from conelayers import Cones
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import Pattern
from conelayers.solve.infeasibility.contradictory_bounds import contradiction_of_bounds
from conelayers.solve.infeasibility.polyhedra import examined, infeasible
from conelayers.solve.infeasibility.polyhedral_rays import FALLS, lead_to_dual_rays, lead_to_primal_rays

BATCH = 64


def as_program(P, q, A, b, zero: int) -> ConeProgram:
    (batch, m, n) = A.shape
    full = [Pattern.of(sp.csc_array(np.ones(shape))) for shape in ((n, n), (m, n))]
    structure = Structure(full[0], full[1], Cones(zero=zero, nonneg=m - zero))
    values = [np.swapaxes(h, 1, 2).reshape(batch, -1) for h in (P, A)]
    return ConeProgram(structure, values[0], q, values[1], b)


def integers(seed: int, decades: int):
    """Programs in small integers with an optimal point, so that they are solvable exactly, not just to rounding; then
    units of powers of two, which change nothing about that. Many are degenerate: tight rows, dependent equalities,
    repeated rows.
    """
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 15))
    zero = int(rng.integers(0, min(m, 4)))
    A = rng.integers(-3, 4, (BATCH, m, n)).astype(float)
    if zero > 1:
        A[::2, 1] = -2 * A[::2, 0]
    if m > zero + 2:
        A[1::3, m - 1] = A[1::3, zero]
    half = rng.integers(-1, 2, (BATCH, n, int(rng.integers(0, n + 1)))).astype(float)
    P = half @ np.swapaxes(half, 1, 2)
    x, y = rng.integers(-4, 5, (BATCH, n)).astype(float), rng.integers(0, 4, (BATCH, m)).astype(float)
    slack = rng.integers(0, 3, (BATCH, m)) * (y == 0) * (np.arange(m) >= zero)
    b = np.einsum("bij,bj->bi", A, x) + slack
    q = -np.einsum("bij,bj->bi", P, x) - np.einsum("bij,bi->bj", A, y)
    return in_units(rng, decades, P, q, A, b, zero)


def in_units(rng, decades: int, P, q, A, b, zero: int):
    rows, columns = (2.0 ** rng.integers(-decades, decades + 1, h.shape) for h in (b, q))
    P, A = P * columns[:, :, None] * columns[:, None], A * rows[:, :, None] * columns[:, None]
    return P, q * columns, A, b * rows, zero


@pytest.mark.parametrize("decades", [0, 3, 10])
def test_what_has_a_solution_is_never_told_to_have_none(decades: int) -> None:
    for seed in range(60):
        program = as_program(*integers(seed, decades))
        assert infeasible(program) == [None] * BATCH, f"{seed=}"
        assert not contradiction_of_bounds(program).any()
        # Nor are noise and a point that is no ray refined to one.
        rng = np.random.default_rng(seed)
        y, x = rng.standard_normal(program.b.shape), rng.standard_normal(program.q.shape)
        assert not lead_to_primal_rays(program, y).any()
        assert not lead_to_dual_rays(program, x).any()


def contradictory(seed: int, decades: int, gap: float):
    """Aᵀy = 0 for some y ≥ 0 in small integers, exactly, and bᵀy = −gap·|b|ᵀy: barely infeasible, or for gap ≤ 0 barely
    feasible.
    """
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 7)), int(rng.integers(3, 15))
    zero = int(rng.integers(0, 3))
    A, x = rng.integers(-3, 4, (BATCH, m, n)).astype(float), rng.integers(-4, 5, (BATCH, n)).astype(float)
    y = rng.integers(0, 4, (BATCH, m)).astype(float)
    y[:, -1] = 1.0
    A[:, -1] = -np.einsum("bij,bi->bj", A[:, :-1], y[:, :-1])
    b = np.einsum("bij,bj->bi", A, x) + rng.integers(0, 3, (BATCH, m)) * (y == 0) * (np.arange(m) >= zero)
    b[:, -1] -= gap * 2.0 ** np.ceil(np.log2(1 + np.sum(np.abs(b) * y, axis=1)))
    return in_units(rng, decades, np.zeros((BATCH, n, n)), np.zeros((BATCH, n)), A, b, zero)


@pytest.mark.parametrize("decades", [0, 3])
@pytest.mark.parametrize("bits", [2, 10, 20, 30, 40])
def test_by_however_little(bits: int, decades: int) -> None:
    """Barely feasible is not infeasible, barely infeasible is not unbounded, and what is infeasible by 1e−6 is found
    nearly always.
    """
    found = total = 0
    for seed in range(40):
        for gap in (2.0**-bits, -(2.0**-bits), 0.0):
            empty, has_point = examined(as_program(*contradictory(seed, decades, gap)))
            assert not (empty & has_point).any()
            if gap > 0:
                # From 1e−9 of its terms on a contradiction is one; 2⁻³⁰ is less, and what is so near counts as feasible.
                assert gap < FALLS or not has_point.any(), f"{seed=} {gap=}"
                found, total = found + empty.sum(), total + BATCH
            else:
                assert not empty.any(), f"{seed=} {gap=}"
    if bits <= 20:
        assert found >= 0.99 * total, f"{found} of {total}"
