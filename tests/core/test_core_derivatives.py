"""The compiled core's systems with J, its Clarke element at kinks, and the same bits on every instruction set."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
from core_models import BareProgram
from core_programs import planted

from conelayers.core import Flags, Selection, available, load

pytestmark = pytest.mark.skipif(not available(), reason="conelayers.core is not built: python conelayers/core/build.py")

BATCH = 13


def levels() -> list[str]:
    """The instruction sets that are built and that this processor has."""
    fastest = importlib.import_module("conelayers.core._cpu").level()
    order, found = ["base", "v2", "v3", "v4"], []
    for level in order[: order.index(fastest) + 1]:
        try:
            load(level)
            found.append(level)
        except ImportError:
            continue
    return found


def jacobian(program, v: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J(D) of each instance and D, with D ``free`` where v is zero on the nonnegative cone's rows."""
    structure = program.structure
    P = structure.P.dense(program.P) if structure.P.nnz else np.zeros((len(v), structure.n, structure.n))
    A = structure.A.dense(program.A)
    D = np.where(v == 0, free, np.where(v > 0, 1.0, 0.0))
    D[:, : structure.cones.zero] = 1.0
    upper = np.concatenate([P, np.swapaxes(A, 1, 2) * D[:, None]], axis=2)
    lower = np.concatenate([-A, np.eye(structure.m) - D[:, :, None] * np.eye(structure.m)], axis=2)
    return np.concatenate([upper, lower], axis=1), D


@pytest.mark.parametrize("selection", list(Selection))
@pytest.mark.parametrize("rank", [0, 7])
def test_systems_with_J_are_solved_at_the_element_that_was_chosen(selection, rank):
    rng = np.random.default_rng(3)
    kinks = 0 if rank == 0 else 2  # with D = 0 or 1 at a kink a vertex is singular
    program, x, v = planted(rng, BATCH, 7, 2, 9, rank, 5 if rank == 0 else 2, kinks=kinks)
    bare = BareProgram.of(program)
    y = np.where(np.arange(11) < 2, v, np.maximum(v, 0))
    points = x, y, y - v
    r1, r2 = rng.standard_normal((BATCH, 3, 7)), rng.standard_normal((BATCH, 3, 11))
    free = {Selection.HIGH: 1.0, Selection.MID: 0.5}.get(selection, 0.0)
    J, D = jacobian(program, v, np.full(v.shape, free))
    right = np.concatenate([r1, r2], axis=2)
    solution = np.swapaxes(np.linalg.solve(J, np.swapaxes(right, 1, 2)), 1, 2)
    dv = solution[:, :, 7:]
    dx, dy, ds, flags = bare.core.linear(bare.theta, points, r1, r2, selection=selection)
    assert not flags.any()
    for ours, theirs in ((dx, solution[:, :, :7]), (dy, D[:, None] * dv), (ds, D[:, None] * dv - dv)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(solution).max())
    gx, gy, gs = r1, r2, rng.standard_normal(r2.shape)
    h = np.concatenate([gx, D[:, None] * (gy + gs) - gs], axis=2)
    solution = np.swapaxes(np.linalg.solve(np.swapaxes(J, 1, 2), np.swapaxes(h, 1, 2)), 1, 2)
    lam, mu, flags = bare.core.transposed_linear(bare.theta, points, gx, gy, gs, selection=selection)
    assert not flags.any()
    for ours, theirs in ((lam, solution[:, :, :7]), (mu, solution[:, :, 7:])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(solution).max())


def test_beside_a_kink_it_is_told_that_rounding_may_have_chosen_the_element():
    """min ½x² − px + x², x ≥ 0 beside another row: v = −p of 1e−12 is no rounding, and too small to be sure of."""
    rng = np.random.default_rng(9)
    program, x, v = planted(rng, BATCH, 7, 2, 9, 7, 2, kinks=2)
    row = int(np.flatnonzero(v[0] == 0)[0])
    v = v.copy()
    v[:, row] = -1e-12
    y = np.where(np.arange(11) < 2, v, np.maximum(v, 0))
    b = program.b.copy()
    b[:, row] += 1e-12
    bare = BareProgram.of(replace(program, b=b))
    flags = bare.core.transposed_linear(bare.theta, (x, y, y - v), *(np.ones((BATCH, 1, k)) for k in (7, 11, 11)))[2]
    assert (flags & Flags.AT_KINK).all()


def test_derivatives_are_those_of_the_solution_map():
    """Central differences of the core's own solutions."""
    rng = np.random.default_rng(5)
    program, _, _ = planted(rng, BATCH, 6, 1, 8, 6, 3)
    bare = BareProgram.of(program)
    found = bare.core.solve(bare.theta, BATCH)
    moves = [rng.standard_normal(h.shape) for h in bare.theta]
    P = moves[0].reshape(BATCH, 6, 6)
    moves[0] = np.ascontiguousarray((P + np.swapaxes(P, 1, 2)).reshape(BATCH, -1) / 2)
    tangents, flags = bare.core.tangent(bare.theta, found[:3], moves)
    assert not flags.any()
    step = 1e-6
    ahead, behind = (
        bare.core.solve([h + side * step * d for h, d in zip(bare.theta, moves, strict=True)], BATCH).x
        for side in (1, -1)
    )
    np.testing.assert_allclose(tangents, (ahead - behind) / (2 * step), rtol=0, atol=1e-6 * np.abs(tangents).max())


def test_what_a_call_keeps_gives_the_derivatives_of_its_points():
    rng = np.random.default_rng(6)
    program, _, _ = planted(rng, BATCH, 9, 2, 12, 9, 4)
    bare = BareProgram.of(program)
    found = bare.core.solve(bare.theta, BATCH, keep=True, threads=2)
    points, g = found[:3], rng.standard_normal((BATCH, 9))
    moves = [rng.standard_normal(h.shape) for h in bare.theta]
    for selection in (Selection.DEFAULT, Selection.HIGH, Selection.DEFAULT):
        ways = [
            (*bare.core.adjoint(bare.theta, points, g, selection=selection, kept=kept)[0],
             *bare.core.tangent(bare.theta, points, moves, selection=selection, kept=kept))
            for kept in (None, found.kept)
        ]  # fmt: skip
        for one, other in zip(*ways, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(one).max())
    # What is kept outlives the core's name, and other calls of the core do not touch it.
    kept, core = found.kept, bare.core
    core.solve([h + 0.1 for h in bare.theta], BATCH)
    again = core.adjoint(bare.theta, points, g, kept=kept)[0]
    np.testing.assert_array_equal(again[1], ways[1][1])
    del core, bare, found
    del kept


def test_every_instruction_set_gives_the_same_bits():
    rng = np.random.default_rng(7)
    for n, zero, nonneg, rank, active, scale, density in (
        (7, 2, 9, 7, 3, 0, 1.0),
        (12, 3, 20, 4, 6, 2, 1.0),
        (9, 2, 14, 0, 7, 2, 1.0),
        (37, 1, 44, 37, 20, 0, 1.0),
        (90, 3, 80, 90, 40, 0, 0.05),
    ):
        program, _, _ = planted(rng, BATCH, n, zero, nonneg, rank, active, scale=scale, density=density)
        cores = [BareProgram.of(program, level) for level in levels()]
        results = []
        for bare in cores:
            found = bare.core.solve(bare.theta, BATCH)
            gradients, flags = bare.core.adjoint(bare.theta, found[:3], np.ones((BATCH, n)))
            results.append([*found[:7], *gradients, flags])
        for other in results[1:]:
            for ours, theirs in zip(other, results[0], strict=True):
                np.testing.assert_array_equal(ours, theirs)
