"""The derivative of a program's outputs with respect to its parameters θ, at the solutions of one call.

The exact derivative is made of the linearized solution map; with smoothing, what stands in for it takes its place.
LayerSolution leads from here to the user's own parameters and variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from conelayers.derivatives.linearization import NullTest, SolutionMap
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.smoothing import Adjoint, Base, Smoothing
from conelayers.layer.outcome import OnFailure, PartialLinearization, poisoned, scattered
from conelayers.layer.relevance import gradients_move, outputs_move
from conelayers.layer.zero_gradients import AT_A_VERTEX, is_zero
from conelayers.numerics.trouble import ignored
from conelayers.problem.parameters import unflatten
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.solution import Solution
from conelayers.support.errors import usable_mask

__all__ = ["ProgramDerivative"]

_Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


@final
@dataclass(frozen=True)
class ProgramDerivative:
    """Tangents, gradients and Jacobians of a batch's outputs in θ (B, p).

    theta: (B, p), or (B, 0) where no derivative depends on it.
    linearization: the solution map, linearized at ``solution``.
    on_failure: what the call does about instances without a solution.
    smoothing: what stands in for the exact derivative, with ``base``, the instances that have a solution; or None.
    policies: what warns of a gradient that is zero in every parameter; None where it is known not to be zero.
    """

    compiled: ParametricProgram
    theta: np.ndarray
    solution: Solution
    linearization: SolutionMap
    on_failure: OnFailure
    smoothing: Smoothing | None
    base: Base | None
    policies: Policies | None

    @cached_property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return usable_mask(self.solution.status)

    @cached_property
    def points(self) -> _Triple:
        """x (B, n), y (B, m) and s (B, m), zero where there is no solution."""
        x, y, s = self.solution.x, self.solution.y, self.solution.s
        if not self.solved.all():
            x, y, s = (np.where(self.solved[:, None], h, 0.0) for h in (x, y, s))
        return x, y, s

    def outputs_move(self) -> NullTest:
        """The test whether the outputs of instance i change along null vectors (dx, dy) of J."""
        return outputs_move(self.compiled.outputs, self.solution.x, self.solution.y)

    def gradients_move(self, chosen: ParametricProgram | None = None) -> NullTest:
        """The test whether gradients (of ``chosen`` parameters) of instance i change along null vectors of Jᵀ."""
        return gradients_move(chosen or self.compiled, self.theta, self.solution.x, self.solution.y)

    def tangents(self, direction: np.ndarray) -> list[np.ndarray]:
        """The tangents (B, size) of the outputs' values along dθ (B, p)."""
        (x, y, _), linearization = self.points, self.linearization
        if self.smoothing is not None:
            assert self.base is not None
            x, y, smoothed = self.smoothing.linearized(self.base)
            members = np.flatnonzero(self.solved)
            linearization = PartialLinearization(smoothed, members, self.solved.size)
            zero = np.zeros(self.solved.size)
            x, y = scattered(x, members, zero), scattered(y, members, zero)
        return self._tangents_at(x, y, linearization, direction)

    def exact_tangents(self, direction: np.ndarray) -> list[np.ndarray]:
        """The tangents of the exact derivative, in least squares where J is singular; never warns."""
        x, y, _ = self.points
        return self._tangents_at(x, y, self.linearization, direction, silent=True)

    def _tangents_at(
        self, x: np.ndarray, y: np.ndarray, linearization: SolutionMap, direction: np.ndarray, *, silent: bool = False
    ) -> list[np.ndarray]:
        dprogram = self.compiled.tangent(self.theta, direction)
        r1 = -(dprogram.Px(x) + dprogram.ATy(y) + dprogram.q)
        r2 = dprogram.Ax(x) - dprogram.b

        dx, dy, _ = linearization.tangent(r1, r2, self.outputs_move(), tell=ignored if silent else None)
        own_x, own_y, _ = self.points
        return [o.tangent(o.value(own_x, own_y), dx, dy) for o in self.compiled.outputs]

    def gradient(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, chosen: ParametricProgram, *, silent: bool = False
    ) -> np.ndarray:
        """The gradient of ⟨gx, x⟩ + ⟨gy, y⟩ + ⟨gs, s⟩ with respect to θ, (B, p), for the ``chosen`` parameters."""
        return chosen.adjoint(self.theta, *self.adjoint(gx, gy, gs, chosen, silent=silent))

    def adjoint(
        self,
        gx: np.ndarray,
        gy: np.ndarray,
        gs: np.ndarray,
        chosen: ParametricProgram | None = None,
        *,
        silent: bool = False,
    ) -> Adjoint:
        """What the gradient of ⟨gx, x⟩ + ⟨gy, y⟩ + ⟨gs, s⟩ is made of, (B, ·), exact or smoothed."""
        if self.smoothing is not None:
            assert self.base is not None
            others = poisoned((gx, gy, gs))
            members = np.flatnonzero(self.solved)
            nan = self.on_failure is not OnFailure.RAISE
            if members.size:
                cotangents = gx[members], gy[members], gs[members]
                found = self.smoothing.adjoint(self.base, *cotangents, nan=nan)
                if not silent:
                    exact_zeros = self.smoothing.without_rounding(found, cotangents[2])
                    self._warn_if_zero(members, cotangents, exact_zeros, chosen)
            else:
                found = Adjoint(gx[members], gy[members], gx[members], gy[members])
            return Adjoint(*(scattered(h, members, others) for h in found))
        before = self.troubles
        lam, mu = self.linearization.adjoint(gx, gy, gs, self.gradients_move(chosen))
        if not silent and self.troubles == before:
            self.warn_if_zero((gx, gy, gs), lam, mu, chosen)
        x, y, _ = self.points
        return Adjoint(x, y, lam, mu)

    @property
    def troubles(self) -> int:
        """How often the layer's derivatives were singular so far.

        If that has just happened, the user was told, and a gradient that is zero says nothing more.
        """
        return 0 if self.policies is None else self.policies.counts["trouble"]

    def warn_if_zero(
        self, cotangents: _Triple, lam: np.ndarray, mu: np.ndarray, chosen: ParametricProgram | None = None
    ) -> None:
        """Warn, once a layer, if a linear program's gradient, made of λ (B, n) and μ (B, m), is zero."""
        if self.smoothing is None and self.policies is not None:
            members, solution = np.flatnonzero(self.solved), self.solution
            found = Adjoint(solution.x[members], solution.y[members], lam[members], mu[members])
            gx, gy, gs = cotangents
            self._warn_if_zero(members, (gx[members], gy[members], gs[members]), found, chosen)

    def _warn_if_zero(
        self, members: np.ndarray, cotangents: _Triple, found: Adjoint, chosen: ParametricProgram | None
    ) -> None:
        policies, smoothing, theta = self.policies, self.smoothing, self.theta[members]
        if policies is None or not theta.size or not policies.asks_for_zeros(smoothing):
            return
        points = [h[members] for h in (self.solution.x, self.solution.y, self.solution.s)]
        if not is_zero(chosen or self.compiled, theta, points, cotangents, found):
            return
        advice = AT_A_VERTEX if smoothing is None else smoothing.advice
        policies.tell_zero(smoothing, f"The gradient is zero in every parameter: {advice} (docs/degenerate.md).")

    def jacobian(self) -> list[list[np.ndarray]]:
        """∂output/∂parameter for the outputs and parameters of the program, (B, *output.shape, *parameter.shape)."""
        outputs, specs = self.compiled.outputs, self.compiled.parameters
        x, y, _ = self.points
        values = [o.value(x, y) for o in outputs]
        sizes = [v.shape[1] for v in values]
        forward = self.smoothing is None or self.smoothing.forward_mode
        fewer_outputs = sum(sizes) <= sum(spec.size for spec in specs)
        by_gradients = fewer_outputs or not forward
        J = self._by_gradients(values, sum(sizes)) if by_gradients else self._by_tangents(sum(sizes))
        starts = np.cumsum([0, *sizes])
        return [
            [_by_entries(J[:, a : a + size, spec.columns], o.shape, spec.shape) for spec in specs]
            for o, a, size in zip(outputs, starts, sizes, strict=False)
        ]

    def _by_gradients(self, values: Sequence[np.ndarray], rows: int) -> np.ndarray:
        """The Jacobian of all outputs (B, rows, p), a row at a time; values (B, size): those of each output."""
        x, y, _ = self.points
        J = np.zeros((len(x), rows, sum(spec.size for spec in self.compiled.parameters)))
        row = 0
        for o, value in zip(self.compiled.outputs, values, strict=True):
            for k in range(value.shape[1]):
                unit = np.zeros_like(value)
                unit[:, k] = 1.0
                g = o.adjoint(value, unit)
                gx, gy = (g, np.zeros_like(y)) if o.primal else (np.zeros_like(x), g)
                J[:, row] = self.gradient(gx, gy, np.zeros_like(y), self.compiled, silent=True)
                row += 1
        return J

    def _by_tangents(self, rows: int) -> np.ndarray:
        """The Jacobian of all outputs (B, rows, p), a column at a time."""
        batch, count = len(self.solution.x), sum(spec.size for spec in self.compiled.parameters)
        J = np.zeros((batch, rows, count))
        for k in range(count):
            direction = np.zeros((batch, count))
            direction[:, k] = 1.0
            J[:, :, k] = np.concatenate(self.tangents(direction), axis=1)
        return J


def _by_entries(block: np.ndarray, outer: tuple[int, ...], inner: tuple[int, ...]) -> np.ndarray:
    """(B, rows, columns), both column-major, to (B, *outer, *inner)."""
    batch = block.shape[0]
    by_row = unflatten(block.reshape(-1, block.shape[2]), inner).reshape(batch, block.shape[1], -1)
    by_column = unflatten(np.swapaxes(by_row, 1, 2).reshape(-1, block.shape[1]), outer)
    full = by_column.reshape(batch, -1, *outer)
    return np.moveaxis(full, 1, -1).reshape(batch, *outer, *inner)
