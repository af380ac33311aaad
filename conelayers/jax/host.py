"""A program's solves and linear systems on the host, over NumPy arrays: compiled functions of JAX call back to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, final

import jax
import numpy as np

from conelayers.derivatives.linearization import SolutionMap, always
from conelayers.jax.host_primitive import wide
from conelayers.layer.layer import Layer
from conelayers.layer.outcome import OnFailure, poisoned, scattered
from conelayers.layer.solution import LayerSolution
from conelayers.layer.traced_program import TracedProgram
from conelayers.support.errors import Status
from conelayers.support.recent import Recent, digest, factor_numbers

__all__ = ["STATUSES", "HostProgram"]

STATUSES = tuple(Status)  # a status array holds positions in it
_MOST_KEPT = 256  # enough for the steps of a scan
_MOST_NUMBERS = 2**24  # that the factors of the solutions kept may hold, roughly
_SAME = 1e-5  # relative distance up to which a float32 v counts as that of the solution that was kept


@final
class _Kept(NamedTuple):
    """The solution of the ``members`` of a batch, whose parameters are acceptable.

    x, y, s, status, residual: those of the whole batch; the points are NaN for instances that are no members.
    """

    members: np.ndarray
    solution: LayerSolution | None
    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: np.ndarray
    residual: np.ndarray


@final
class HostProgram:
    """A layer with the options of a call. JAX compares it by identity.

    It keeps the last solutions with their factors, where a gradient finds them by the parameters' values.
    """

    def __init__(self, layer: Layer, traced: TracedProgram, options: Mapping[str, Any], on_failure: OnFailure) -> None:
        self.layer, self.traced, self.options, self.on_failure = layer, traced, dict(options), on_failure
        self._kept: Recent[bytes, _Kept] = Recent(_MOST_KEPT, least=2)
        self._jitted: dict[Callable[..., Any], Callable[..., Any]] = {}

    def jitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of the traced program and arrays, compiled: JAX does not dispatch its operations one by one."""
        known = self._jitted.get(function)
        return known or self._jitted.setdefault(function, jax.jit(partial(function, self.traced)))

    def solve(self, phi: np.ndarray) -> tuple[np.ndarray, ...]:
        """x (B, n), y (B, m), s (B, m), the position of the Status (B,) and the worst residual (B,)."""
        kept = self._solve(self._theta(phi))
        dtype = phi.dtype
        floats = [h.astype(dtype) for h in (kept.x, kept.y, kept.s)]
        return (*floats, kept.status, kept.residual.astype(dtype))

    def linear(
        self, phi: np.ndarray, v: np.ndarray, r1: np.ndarray, r2: np.ndarray, transposed: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """J⁻¹ or J⁻ᵀ times r₁ (K, B, n), r₂ (K, B, m); for instances without a solution NaN, or zero if r₁ = r₂ = 0."""
        t1, t2 = np.empty_like(r1), np.empty_like(r2)
        members, linearization, solution = self._linearization(self._theta(phi), v)
        derivative = None if solution is None else solution.program_derivative
        gradients_move, outputs_move = (
            (always, always) if derivative is None else (derivative.gradients_move(), derivative.outputs_move())
        )
        for k in range(r1.shape[0]):
            a1, a2 = wide(r1[k], r2[k])
            others = poisoned((a1, a2))
            a1, a2 = a1[members], a2[members]
            if a1.any() or a2.any():
                if transposed:
                    # Every r₂ is D gy + (D − I) gs with gy = r₂ and gs = −r₂.
                    before = 0 if derivative is None else derivative.troubles
                    found = linearization.adjoint(a1, a2, -a2, gradients_move)
                    if derivative is not None and derivative.troubles == before:
                        derivative.warn_if_zero((a1, a2, -a2), *found)
                else:
                    dx, dy, ds = linearization.tangent(a1, a2, outputs_move)
                    found = dx, dy - ds
            else:
                found = a1, a2
            t1[k], t2[k] = (scattered(h, members, others) for h in found)
        return t1, t2

    def adjoint(self, phi: np.ndarray, *cotangents: np.ndarray) -> tuple[np.ndarray, ...]:
        """x̄, ȳ, λ, μ of smoothing.Adjoint for gx (B, n), gy (B, m), gs (B, m).

        Instances without a solution get NaN, or zero if their cotangents are zero.
        """
        theta = self._theta(phi)
        kept = self._kept.get(digest(theta))
        kept = kept or self._solve(theta)
        gx, gy, gs = wide(*cotangents)
        others, members = poisoned((gx, gy, gs)), kept.members
        found: Sequence[np.ndarray] = gx[:0], gy[:0], gx[:0], gy[:0]
        if kept.solution is not None:
            found = kept.solution.program_derivative.adjoint(gx[members], gy[members], gs[members])
        return tuple(scattered(h, members, others).astype(phi.dtype) for h in found)

    def _theta(self, phi: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(phi[:, : self.traced.size], dtype=np.float64)

    def _solve(self, theta: np.ndarray) -> _Kept:
        members = np.flatnonzero(self.traced.compiled.acceptable(theta) | (self.on_failure is OnFailure.RAISE))
        status = np.full(len(theta), STATUSES.index(Status.FAILED), dtype=np.int32)
        structure = self.traced.compiled.structure
        n, m = structure.A.shape[1], structure.A.shape[0]
        x, y, s = (np.full((len(theta), size), np.nan) for size in (n, m, m))
        residual = np.full(len(theta), np.nan)
        solution = None
        if members.size or not len(theta):
            solution = self.layer.solve_flat(theta[members], **self.options, on_failure=self.on_failure)
            x[members], y[members], s[members] = solution.points
            assert isinstance(solution.status, tuple)
            status[members] = [STATUSES.index(one) for one in solution.status]
            residual[members] = np.where(solution.solved, solution.residuals.worst, np.nan)
        kept = _Kept(members, solution, x, y, s, status, residual)
        numbers = factor_numbers(len(theta), n + m)
        return self._kept.add(digest(theta), kept, numbers=numbers, most_numbers=_MOST_NUMBERS)

    def _linearization(self, theta: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, SolutionMap, LayerSolution | None]:
        kept = self._kept.get(digest(theta))
        if kept is None and v.dtype != np.float64:
            kept = self._solve(theta)  # v alone has too few digits
        if kept is not None and kept.solution is not None:
            solution = kept.solution
            tolerance = 0.0 if v.dtype == np.float64 else _SAME
            if _alike(kept.y - kept.s, v, tolerance)[kept.members[solution.solved]].all():
                return kept.members, solution.linearization, solution
        members = np.flatnonzero(~np.isnan(v).any(axis=1))
        made = self.layer.linearize(self.traced.compiled, theta[members], v[members].astype(np.float64))
        return members, made, None


def _alike(own: np.ndarray, v: np.ndarray, tolerance: float) -> np.ndarray:
    """Where v (B, m) equals ``own`` up to a tolerance relative to the largest entry, (B, m).

    Both are −inf in rows without a bound.
    """
    here, there = (np.where(np.isneginf(h), 0.0, h) for h in (own, v))
    size = np.abs(here).max(axis=1, initial=0.0, keepdims=True)
    return (np.isneginf(own) == np.isneginf(v)) & (np.abs(here - there) <= tolerance * size)
