"""The derivative of a call's outputs: by the compiled core where it solved the batch, in the general way elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from conelayers.derivatives.linearization import SolutionMap
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.smoothing import Smoothing
from conelayers.layer.outcome import OnFailure
from conelayers.layer.program_derivative import ProgramDerivative
from conelayers.layer.solved_batch import SolvedBatch
from conelayers.layer.zero_gradients import AT_A_VERTEX, are_zero
from conelayers.problem.parameters import Batch, flatten, unflatten
from conelayers.problem.parametric import ParametricProgram

__all__ = ["OutputDerivative"]

_Arrays = Sequence[np.ndarray | None]  # None stands for zero


@final
@dataclass(frozen=True)
class OutputDerivative:
    """Tangents and gradients of the program's outputs (B, *shape) in its parameters, (*shape) or (B, *shape).

    smoothing: what stands in for the exact derivative.
    policies: what warns of a gradient that is zero in every parameter; None for programs in which that does not happen.
    """

    compiled: ParametricProgram
    batch: Batch
    solved: SolvedBatch
    on_failure: OnFailure
    smoothing: Smoothing | None
    policies: Policies | None

    @cached_property
    def of_program(self) -> ProgramDerivative:
        """The derivative in the program's own terms: from θ to its outputs, x, y and s."""
        return self._by(self.solved.linearization)

    def _by(self, linearization: SolutionMap) -> ProgramDerivative:
        return ProgramDerivative(
            compiled=self.compiled,
            theta=self.batch.theta,
            solution=self.solved.solution,
            linearization=linearization,
            on_failure=self.on_failure,
            smoothing=self.smoothing,
            base=self.solved.base,
            policies=self.policies,
        )

    def tangents(self, dtheta: _Arrays) -> list[np.ndarray]:
        """The outputs' tangents along dθ."""
        found = self.solved.tangents([None if d is None else np.ascontiguousarray(d, np.float64) for d in dtheta])
        if found is None:
            return self._general_tangents(self.of_program, dtheta)
        parts, left = [part for part in found.parts if part is not None], found.left
        if left.size:
            general = self._general_tangents(self._by(self.solved.linearization_of(left)), dtheta)
            for whole, part in zip(parts, general, strict=True):
                whole[left] = part[left]
        return parts

    def _general_tangents(self, derivative: ProgramDerivative, dtheta: _Arrays) -> list[np.ndarray]:
        specs, batch = self.compiled.parameters, self.batch
        direction = np.zeros((batch.size, sum(spec.size for spec in specs)))
        for spec, d, batched in zip(specs, dtheta, batch.batched_parameters, strict=True):
            if d is not None:
                direction[:, spec.columns] = flatten(d if batched else d[None])
        outputs = self.compiled.outputs
        return [unflatten(flat, o.shape) for flat, o in zip(derivative.tangents(direction), outputs, strict=True)]

    def gradients(self, cotangents: _Arrays, wanted: tuple[bool, ...]) -> list[np.ndarray | None]:
        """The gradients of the ``wanted`` parameters for cotangents of the outputs; None for the others."""
        if not any(wanted):
            return [None] * len(wanted)
        found = self.solved.gradients(cotangents, wanted)
        if found is None:
            return self.gradients_of_points(*_pulled(self.of_program, cotangents), wanted)
        parts, left = found
        troubles = 0 if self.policies is None else self.policies.counts["trouble"]
        if left.size:
            derivative, chosen = self._by(self.solved.linearization_of(left)), self.compiled.restricted(wanted)
            gradient = derivative.gradient(*_pulled(derivative, cotangents), chosen, silent=True)[left]
            for part, spec in zip(parts, self.compiled.parameters, strict=True):
                if part is not None:
                    part[left] = unflatten(gradient[:, spec.columns], spec.shape)
        if self.policies is not None and self.policies.counts["trouble"] == troubles:
            self._warn_if_zero(self.policies, cotangents, parts)
        return self._summed(parts)

    def gradients_of_points(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, wanted: tuple[bool, ...]
    ) -> list[np.ndarray | None]:
        """The gradients of the ``wanted`` parameters for cotangents of x (B, n), y (B, m) and s (B, m)."""
        specs = self.compiled.parameters
        if not any(wanted):
            return [None] * len(specs)
        gradient = self.of_program.gradient(gx, gy, gs, self.compiled.restricted(wanted))
        return self._summed(
            [
                unflatten(gradient[:, spec.columns], spec.shape) if want else None
                for spec, want in zip(specs, wanted, strict=True)
            ]
        )

    def _summed(self, gradients: _Arrays) -> list[np.ndarray | None]:
        """A parameter that the batch shares gets the sum of the instances' gradients."""
        batched = self.batch.batched_parameters
        return [g if g is None or own else np.asarray(g.sum(axis=0)) for g, own in zip(gradients, batched, strict=True)]

    def _warn_if_zero(self, policies: Policies, cotangents: _Arrays, gradients: _Arrays) -> None:
        """Warn, once a layer, if the gradients of a linear program are zero in every parameter."""
        if not policies.asks_for_zeros(None):
            return
        solved, batch = self.solved.solved, self.batch
        found = [
            (value[solved] if batched else value[None], g[solved])
            for value, g, batched in zip(batch.values, gradients, batch.batched_parameters, strict=True)
            if g is not None
        ]
        outputs = zip(self.solved.variables(), cotangents, strict=True)
        if are_zero(found, [(value[solved], g[solved]) for value, g in outputs if g is not None]):
            policies.tell_zero(None, f"The gradient is zero in every parameter: {AT_A_VERTEX} (docs/degenerate.md).")


def _pulled(derivative: ProgramDerivative, cotangents: _Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cotangents of x, y and s for those of the outputs, (B, *shape)."""
    x, y, _ = derivative.points
    gx, gy = np.zeros_like(x), np.zeros_like(y)
    for o, g in zip(derivative.compiled.outputs, cotangents, strict=True):
        if g is not None:
            target = gx if o.primal else gy
            target += o.adjoint(o.value(x, y), flatten(g))
    return gx, gy, np.zeros_like(gy)
