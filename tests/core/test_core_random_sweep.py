"""Twenty thousand random programs: the core against planted solutions and dense linear algebra, in lanes and alone."""

from __future__ import annotations

import numpy as np
import pytest
from core_models import BareProgram
from core_programs import planted

from conelayers.core import Outcome, available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="conelayers.core is not built: python conelayers/core/build.py"),
]

STRUCTURES, BATCH = 200, 100
WELL_CONDITIONED = 1e6  # condition numbers of J up to which solutions are compared: δ = 1e−6 is refined away below


def shape(rng: np.random.Generator) -> dict[str, float]:
    """The sizes of a program whose solution and multipliers are unique."""
    n = int(rng.integers(1, 25))
    zero = int(rng.integers(0, min(n, 4)))
    kind = rng.choice(["linear", "definite", "between"])
    rank = {"linear": 0, "definite": n, "between": int(rng.integers(1, n + 1))}[str(kind)]
    most = n - zero
    active = most if kind == "linear" else int(rng.integers(max(0, most - rank), most + 1))
    density = 1.0 if kind != "definite" or rng.random() < 0.5 else float(rng.uniform(0.0, 0.6))
    nonneg = max(active, 1) + int(rng.integers(0, 30))
    sizes = {"n": n, "zero": zero, "nonneg": nonneg, "rank": rank, "active": active}
    return sizes | {"scale": float(rng.choice([0.0, 2.0])), "density": density}


def test_random_programs_are_solved_and_differentiated_alike_in_lanes_and_alone():
    """A wrong active set, or a lane that another one disturbs, would show in one of them."""
    seen = unsettled = 0
    for seed in range(STRUCTURES):
        rng = np.random.default_rng(seed)
        sizes = shape(rng)
        program, x, v = planted(rng, BATCH, **sizes)
        bare = BareProgram.of(program)
        found = bare.core.solve(bare.theta, BATCH)
        J, of_rows, of_columns = equilibrated(dense_system(program, v, sizes["zero"]))
        independent = np.linalg.cond(J) <= WELL_CONDITIONED
        check_optimality(program, found, sizes["zero"], (seed, sizes))
        g = rng.standard_normal(found.x.shape)
        gradients, flags = bare.core.adjoint(bare.theta, found[:3], g)
        # What the core leaves to others is no error, if it is rare.
        unsettled += int((independent & ((found.outcome != Outcome.SOLVED) | (flags != 0))).sum())
        independent &= (found.outcome == Outcome.SOLVED) & (flags == 0)
        balanced, error = (np.abs(h / of_columns[:, : x.shape[1]])[independent] for h in (x, found.x - x))
        assert (error.max(axis=1) <= 1e-7 * balanced.max(axis=1)).all(), (seed, sizes)
        # Jᵀ[λ; μ] = [g; 0], in the units in which J is equilibrated
        side = of_columns * np.concatenate([g, np.zeros_like(v)], axis=1)
        expected = np.linalg.solve(np.swapaxes(J[independent], 1, 2), side[independent, :, None])[..., 0]
        ours = -np.concatenate([gradients[1], gradients[3]], axis=1)[independent] / of_rows[independent]
        error = np.abs(ours - expected) / np.abs(expected).max(axis=1, keepdims=True)
        assert error.max(initial=0.0) <= 1e-8, (seed, sizes)
        alone = [
            bare.core.solve([h[i] if h.shape[0] == BATCH else h for h in bare.theta], 1, lanes=1) for i in range(BATCH)
        ]
        for part, whole in enumerate(found[:7]):
            np.testing.assert_array_equal(np.concatenate([one[part] for one in alone]), whole)
        seen += int(independent.sum())
    assert seen > 0.8 * STRUCTURES * BATCH
    assert unsettled <= 1e-3 * seen


def dense_system(program, v: np.ndarray, zero: int) -> np.ndarray:
    """J = [P, AᵀD; −A, I − D] of each instance."""
    structure = program.structure
    A = structure.A.dense(program.A)
    batch, m, n = A.shape
    P = structure.P.dense(program.P) if structure.P.nnz else np.zeros((batch, n, n))
    D = (v > 0).astype(float)
    D[:, :zero] = 1.0
    J = np.zeros((batch, n + m, n + m))
    J[:, :n, :n], J[:, :n, n:] = P, np.swapaxes(A, 1, 2) * D[:, None]
    J[:, n:, :n], J[:, n:, n:] = -A, np.eye(m) * (1.0 - D)[:, None]
    return J


def equilibrated(J: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R J C with entries of one size, and the diagonals of R and C."""
    rows, columns = np.ones(J.shape[:2]), np.ones(J.shape[:2])
    for _ in range(10):
        scaled = np.abs(rows[:, :, None] * J * columns[:, None])
        rows /= np.sqrt(scaled.max(axis=2))
        columns /= np.sqrt(scaled.max(axis=1))
    return rows[:, :, None] * J * columns[:, None], rows, columns


def check_optimality(program, found, zero: int, label: object) -> None:
    """What is called solved is: to 1e−7 of the terms of each equation."""
    structure, solved = program.structure, found.outcome == Outcome.SOLVED
    A = structure.A.dense(program.A)
    P = structure.P.dense(program.P) if structure.P.nnz else np.zeros((len(A), A.shape[2], A.shape[2]))
    x, y, s = (h[solved] for h in found[:3])
    A, P, q, b = (
        A[solved],
        np.broadcast_to(P, (len(solved), *P.shape[1:]))[solved],
        program.q[solved],
        program.b[solved],
    )
    rows = np.einsum("bij,bj->bi", A, x) + s - b
    columns = np.einsum("bij,bj->bi", P, x) + np.einsum("bij,bi->bj", A, y) + q
    of_rows = np.einsum("bij,bj->bi", np.abs(A), np.abs(x)) + s + np.abs(b)
    of_columns = (
        np.einsum("bij,bj->bi", np.abs(P), np.abs(x)) + np.einsum("bij,bi->bj", np.abs(A), np.abs(y)) + np.abs(q)
    )
    assert (np.abs(rows) <= 1e-7 * of_rows).all(), label
    assert (np.abs(columns) <= 1e-7 * of_columns).all(), label
    assert (y[:, zero:] >= 0).all(), label
    assert (s[:, zero:] >= 0).all(), label
    assert (y[:, zero:] * s[:, zero:] == 0).all(), label
