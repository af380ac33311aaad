"""Batches of linear and quadratic programs with a planted solution, or a planted contradiction."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern


def polyhedral(
    P: np.ndarray | None,
    q: np.ndarray,
    A: np.ndarray,
    b: np.ndarray,
    zero: int,
    patterns: tuple[np.ndarray, np.ndarray] | None = None,
) -> ConeProgram:
    """The program of dense data (B, …), with ``zero`` equalities first; P None for a linear one.

    patterns: the entries of P (n, n) and A (m, n) that are stored, all of them by default.
    """
    _, m, n = A.shape
    stored = patterns or (np.full((n, n), P is not None), np.ones((m, n), dtype=bool))
    of_P, of_A = (Pattern.of(sp.csc_array(mask.astype(float))) for mask in stored)
    P = np.zeros((1, n, n)) if P is None else P
    columns = [np.swapaxes(h, 1, 2)[:, mask.T] for h, mask in zip((P, A), stored, strict=True)]
    return ConeProgram(Structure(of_P, of_A, Cones(zero=zero, nonneg=m - zero)), columns[0], q, columns[1], b)


def planted(
    rng: np.random.Generator,
    batch: int,
    n: int,
    zero: int,
    nonneg: int,
    rank: int,
    active: int,
    *,
    kinks: int = 0,
    redundant: bool = False,
    scale: float = 0.0,
    density: float = 1.0,
) -> tuple[ConeProgram, np.ndarray, np.ndarray]:
    """A program, and its solution x (B, n) and v = y − s (B, m).

    rank: of P, none for 0. active: how many inequalities are, and ``kinks`` more with neither slack nor multiplier.
    redundant: the last equality is the sum of the first two. scale: orders of magnitude of random units, either way.
    density: of A, whose rows have an entry each beside that, and below 1 P is diagonal.
    """
    m, sparse = zero + nonneg, density < 1.0
    A, x, v = rng.standard_normal((batch, m, n)), rng.standard_normal((batch, n)), rng.standard_normal((batch, m))
    of_A = rng.random((m, n)) < density
    of_A[np.arange(m), np.arange(m) % n] = True
    A *= of_A
    if redundant:
        A[:, zero - 1] = A[:, 0] + A[:, 1]
    v[:, zero:] = -np.abs(v[:, zero:]) - 0.1
    v[:, zero : zero + active] *= -1
    v[:, zero + active : zero + active + kinks] = 0.0
    y = v.copy()
    y[:, zero:] = np.maximum(v[:, zero:], 0.0)
    G = rng.standard_normal((batch, n, max(rank, 1)))
    P = G @ np.swapaxes(G, 1, 2) / max(rank, 1)
    curved_entries = np.diag(np.arange(n) < rank) if sparse else np.full((n, n), rank > 0)
    P *= curved_entries
    curved = np.einsum("bij,bj->bi", P, x) if rank else 0.0
    q, b = -np.einsum("bij,bi->bj", A, y) - curved, np.einsum("bij,bj->bi", A, x) + y - v
    if scale:
        d, e = 10 ** rng.uniform(-scale, scale, (batch, n)), 10 ** rng.uniform(-scale, scale, (batch, m))
        A, b, q, P = e[:, :, None] * A * d[:, None], e * b, d * q, d[:, :, None] * P * d[:, None]
        x, y, v = x / d, y / e, np.where(y > 0, v / e, v * e)
        v[:, :zero] = y[:, :zero]
    return polyhedral(P if rank else None, q, A, b, zero, (curved_entries, of_A) if sparse else None), x, v


def contradictory(rng: np.random.Generator, program: ConeProgram) -> ConeProgram:
    """The program, whose last inequality contradicts the sum, with random weights, of the four before it."""
    structure, batch = program.structure, program.batch
    A, b, weights = structure.A.dense(program.A).copy(), program.b.copy(), rng.uniform(0.1, 1.0, (batch, 4))
    A[:, -1] = -np.einsum("bk,bki->bi", weights, A[:, -5:-1])
    b[:, -1] = -np.einsum("bk,bk->b", weights, b[:, -5:-1]) - rng.uniform(0.1, 1.0, batch)
    P = structure.P.dense(program.P) if structure.P.nnz else None
    return polyhedral(P, program.q, A, b, structure.cones.zero)
