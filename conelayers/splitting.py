"""Operator splitting for a whole batch of small dense programs at once: the algorithm of SCS, in array operations.

A solution u = (x, y) is a zero of M u + p + N_C(u), M = [P, Aᵀ; −A, 0], p = (q, b), C = Rⁿ × K*. Douglas-Rachford splitting in
the metric R = diag(ρ_x I, ρ_y) (O'Donoghue 2021, without the embedding) iterates

    ũ = (R + M)⁻¹(R w − p),   u = Π_C(2ũ − w),   w ← w + α(u − ũ),   and v = (2ũ − w)_y.

Its linear system has one matrix for all iterations: H = P + ρ_x I + Aᵀ diag(1/ρ_y) A is inverted once. Newton's steps need a
rough v only, so the iterations are few; ρ_y is chosen anew, by the balance of the residuals, after each of some rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.cones import Array, Cones
from conelayers.cones.arrays import namespace
from conelayers.errors import Status
from conelayers.limits import out_of_time
from conelayers.polyhedra import infeasible, is_small
from conelayers.program import ConeProgram, Structure
from conelayers.residual import evaluate
from conelayers.routes import Route, Start

__all__ = ["Splitting", "split"]

_BATCH, _ORDER, _MATRIX = 16, 100, 8  # measured on two cores: where SCS one by one begins to take longer
_ALPHA = 1.6
_RHO_X = 1e-6
_REGULAR = 1e-13  # of the matrix: what ρ_x is at least
_EQUALITY = 1e-3  # ρ_y of the zero cone's rows, relative to that of the others
_SUSPICIOUS = 0.03  # rough error of a point after the iterations from which its program may have no solution
_LARGEST = 1e4  # change of ρ_y in one round, at most


@final
@dataclass(frozen=True)
class Splitting(Route):
    """Some iterations from zero for all instances; ``rounds`` times ``iterations``, ρ_y adapted in between."""

    iterations: int = 15
    rounds: int = 3
    name: str = "SPLITTING"
    trusted: bool = False
    proximal_steps: int = 6

    @staticmethod
    def suits(structure: Structure, batch: int) -> bool:
        """Whether array operations on the batch cost less than a solver's calls one by one, and lead near enough."""
        # Projections onto exponential and power cones cost as much as Clarabel's iterations; from a rough point of a linear
        # program Newton's steps seldom find the vertex.
        kinds = structure.cones.kinds
        small = (
            structure.n + structure.m <= _ORDER
            and max((*structure.cones.psd, *structure.cones.hermitian), default=0) <= _MATRIX
        )
        curved = structure.P.nnz > 0 or bool(kinds & {"soc", "psd"})
        return batch >= _BATCH and small and curved and kinds <= {"zero", "nonneg", "soc", "psd"}

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """A rough point for every instance; Newton's steps and the residuals decide what it is worth."""
        cones = program.structure.cones
        x, v = split(
            program.dense_P,
            program.q,
            program.dense_A,
            program.b,
            cones,
            rounds=self.rounds,
            iterations=self.iterations,
        )
        usable = np.isfinite(x).all(axis=1) & np.isfinite(v).all(axis=1)
        x[~usable], v[~usable] = 0.0, 0.0
        status = [Status.SOLVED if u else Status.FAILED for u in usable]
        if is_small(program.structure):
            _test_suspicious(program, x, v, status, jobs)
        return Start(x, v, status, ["by operator splitting"] * len(status))


def _test_suspicious(program: ConeProgram, x: np.ndarray, v: np.ndarray, status: list[Status], jobs: int) -> None:
    """Where the iterates diverge, put what there is a certificate of in ``status``: the polish of a hopeless point costs more."""
    suspicious = np.flatnonzero(~(evaluate(program, x, v).errors(program).rough <= _SUSPICIOUS))
    if suspicious.size:
        for i, shown in zip(suspicious.tolist(), infeasible(program.take(suspicious), jobs), strict=True):
            if shown is not None:
                status[i], x[i], v[i] = shown, 0.0, 0.0


def split(P: Array, q: Array, A: Array, b: Array, cones: Cones, *, rounds: int, iterations: int) -> tuple[Array, Array]:
    """(x, v) near a solution of every instance, or where the call's time ended, for P (B, n, n), q (B, n), A (B, m, n), b (B, m) of any array library."""
    xp = namespace(P, q, A, b)
    n = q.shape[1]
    At = xp.matrix_transpose(A)
    relative = xp.ones_like(b)
    relative[:, : cones.zero] = _EQUALITY
    rho = xp.ones_like(b[:, :1]) if b.shape[1] else xp.zeros_like(b)
    w_x, w_y, v = xp.zeros_like(q), xp.zeros_like(b), xp.zeros_like(b)
    identity = xp.eye(n, dtype=q.dtype)
    for k in range(rounds):
        rho_y = rho * relative
        H = P + At @ (A / rho_y[:, :, None])
        # Far from 1, ρ_y would leave nothing of a small ρ_x.
        rho_x = _RHO_X + _REGULAR * xp.max(xp.abs(H), axis=(1, 2))[:, None]
        inverse = xp.linalg.inv(H + rho_x[:, :, None] * identity)
        for _ in range(iterations):
            r_y = rho_y * w_y - b
            half_x = _times(inverse, rho_x * w_x - q - _times(At, r_y / rho_y))
            half_y = (r_y + _times(A, half_x)) / rho_y
            v = 2 * half_y - w_y
            y = cones.project_dual(v)[0]
            w_x = w_x + _ALPHA * (half_x - w_x)
            w_y = w_y + _ALPHA * (y - half_y)
            if out_of_time():
                return half_x, y - (y - v) * rho_y
        if k + 1 < rounds:
            s = y - v  # in K; Ax + s − b against Px + Aᵀy + q tells which of the two converges more slowly
            primal = _ratio(_times(A, half_x) + s * rho_y - b, b, _times(A, half_x))
            dual = _ratio(_times(P, half_x) + _times(At, y) + q, q, _times(P, half_x))
            factor = xp.clip(xp.sqrt(dual / primal), 1 / _LARGEST, _LARGEST)
            w_y = y - (y - w_y) / factor
            rho = rho * factor
    s = (y - v) * rho_y
    return half_x, y - s


def _times(matrix: Array, vector: Array) -> Array:
    return (matrix @ vector[:, :, None])[:, :, 0]


def _ratio(residual: Array, *sizes: Array) -> Array:
    """‖residual‖ over the largest size, (B, 1), kept away from 0."""
    xp = namespace(residual)
    norm = lambda h: xp.sqrt(xp.sum(h * h, axis=1, keepdims=True))  # noqa: E731
    scale = norm(sizes[0])
    for size in sizes[1:]:
        scale = xp.maximum(scale, norm(size))
    return (norm(residual) + 1e-12) / (scale + 1e-6)
