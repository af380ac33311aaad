"""Operator splitting for a whole batch of small dense programs at once: the algorithm of SCS, in array operations.

A solution u = (x, y) is a zero of M u + p + N_C(u), M = [P, Aᵀ; −A, 0], p = (q, b), C = Rⁿ × K*. Douglas-Rachford
splitting in the metric R = diag(ρ_x I, ρ_y) (O'Donoghue 2021, without the embedding) iterates

    ũ = (R + M)⁻¹(R w − p),   u = Π_C(2ũ − w),   w ← w + α(u − ũ),   and v = (2ũ − w)_y.

Its linear system has one matrix for all iterations: H = P + ρ_x I + Aᵀ diag(1/ρ_y) A is inverted once. Newton's steps
need a rough v only, so the iterations are few; ρ_y is chosen anew, by the balance of the residuals, after each of some
rounds.

Without a solution the differences of u tend to a certificate of that, y's to one that no point is feasible, x's to a
direction in which the objective falls for ever (Banjac, Goulart, Stellato, Boyd, "Infeasibility detection in the
alternating direction method of multipliers for convex optimization", 2019). After so few iterations they are rough, but
tell where a certificate is worth looking for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.cones import Array, product_cone
from conelayers.numerics.cones.arrays import namespace
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.cones import Cones
from conelayers.solve.infeasibility.polyhedra import infeasible, is_small
from conelayers.solve.infeasibility.polyhedral_rays import near_dual_rays, near_primal_rays
from conelayers.solve.starting_methods import Start, StartingMethod
from conelayers.support.errors import Status
from conelayers.support.limits import out_of_time

__all__ = ["Iterates", "Splitting", "iterate", "split"]

# Least batch, largest n + m and largest matrix order for which SCS, instance by instance, took longer on two cores.
_BATCH, _ORDER, _MATRIX = 16, 100, 8
_ALPHA = 1.6  # over-relaxation, SCS's too
_RHO_X = 1e-6  # SCS's default
_REGULAR = 1e-13  # ρ_x is at least this much of the largest entry of H, so that H is regular
_EQUALITY = 1e-3  # ρ_y of the zero cone's rows, relative to that of the others
# Relative residual of the equations of a ray up to which the last differences may be one; with a solution it is 0.15 or
# more.
_SUSPICIOUS = 0.1
_LARGEST = 1e4  # largest factor by which ρ_y changes from one round to the next


@final
@dataclass(frozen=True)
class Splitting(StartingMethod):
    """``rounds`` times ``iterations`` steps from zero for all instances; ρ_y is adapted after each round."""

    iterations: int = 15
    rounds: int = 3
    name: str = "SPLITTING"
    trusted: bool = False
    proximal_steps: int = 6
    patience: int | None = None

    @staticmethod
    def suits(structure: Structure, batch: int) -> bool:
        """Whether array operations on the batch cost less than a solver's call for each instance, and end near."""
        # Projections onto exponential and power cones cost as much as Clarabel's iterations; from a rough point of a
        # linear
        # program Newton's steps seldom find the vertex.
        kinds = structure.cones.kinds
        small = (
            structure.n + structure.m <= _ORDER
            and max((*structure.cones.psd, *structure.cones.hermitian), default=0) <= _MATRIX
        )
        curved = structure.P.nnz > 0 or bool(kinds & {"soc", "psd"})
        return batch >= _BATCH and small and curved and kinds <= {"zero", "nonneg", "soc", "psd"}

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        """A rough point for every instance; Newton's steps and the residuals decide whether it leads to a solution."""
        cones = program.structure.cones
        x, v, dx, dy = iterate(
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
            near = near_primal_rays(program, dy, _SUSPICIOUS) | near_dual_rays(program, dx, _SUSPICIOUS)
            suspicious = np.flatnonzero(near & usable)
            if suspicious.size:
                # This comes before Newton's steps, which cost more at a hopeless point than at a good one.
                found = infeasible(program.take(suspicious), jobs)
                for i, certified in zip(suspicious.tolist(), found, strict=True):
                    if certified is not None:
                        status[i], x[i], v[i] = certified, 0.0, 0.0
        return Start(x, v, status, ["by operator splitting"] * len(status))


@final
class Iterates(NamedTuple):
    """(x, v) at the end of the iterations, and by how much x and y moved since the middle of the last round."""

    x: Array
    v: Array
    dx: Array
    dy: Array


def split(P: Array, q: Array, A: Array, b: Array, cones: Cones, *, rounds: int, iterations: int) -> tuple[Array, Array]:
    """(x, v) near a solution of every instance, for P (B, n, n), q (B, n), A (B, m, n), b (B, m) of any array library.

    If the call's time ends, the point at that moment.
    """
    return iterate(P, q, A, b, cones, rounds=rounds, iterations=iterations)[:2]


def iterate(P: Array, q: Array, A: Array, b: Array, cones: Cones, *, rounds: int, iterations: int) -> Iterates:
    """The point of ``split``, and the last differences."""
    xp = namespace(P, q, A, b)
    n = q.shape[1]
    At = xp.matrix_transpose(A)
    relative = xp.ones_like(b)
    relative[:, : cones.zero] = _EQUALITY
    rho = xp.ones_like(b[:, :1]) if b.shape[1] else xp.zeros_like(b)
    w_x, w_y, v = xp.zeros_like(q), xp.zeros_like(b), xp.zeros_like(b)
    middle = w_x, w_y
    identity = xp.eye(n, dtype=q.dtype)
    for k in range(rounds):
        rho_y = rho * relative
        H = P + At @ (A / rho_y[:, :, None])
        # Far from 1, ρ_y would leave nothing of a small ρ_x.
        rho_x = _RHO_X + _REGULAR * xp.max(xp.abs(H), axis=(1, 2))[:, None]
        inverse = xp.linalg.inv(H + rho_x[:, :, None] * identity)
        for step in range(iterations):
            r_y = rho_y * w_y - b
            half_x = _times(inverse, rho_x * w_x - q - _times(At, r_y / rho_y))
            half_y = (r_y + _times(A, half_x)) / rho_y
            v = 2 * half_y - w_y
            y = product_cone(cones).project_dual(v)[0]
            w_x = w_x + _ALPHA * (half_x - w_x)
            w_y = w_y + _ALPHA * (y - half_y)
            if 2 * (step + 1) <= iterations:
                middle = half_x, y
            if out_of_time():
                return Iterates(half_x, y - (y - v) * rho_y, half_x - middle[0], y - middle[1])
        if k + 1 < rounds:
            s = y - v  # in K; Ax + s − b against Px + Aᵀy + q tells which of the two converges more slowly
            primal = _ratio(_times(A, half_x) + s * rho_y - b, b, _times(A, half_x))
            dual = _ratio(_times(P, half_x) + _times(At, y) + q, q, _times(P, half_x))
            factor = xp.clip(xp.sqrt(dual / primal), 1 / _LARGEST, _LARGEST)
            w_y = y - (y - w_y) / factor
            rho = rho * factor
    s = (y - v) * rho_y
    return Iterates(half_x, y - s, half_x - middle[0], y - middle[1])


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
