"""The solution of one call of a layer, with its tangents and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conelayers.derivatives.certificate import Certificates
from conelayers.derivatives.linearization import SolutionMap
from conelayers.derivatives.regularity import certify
from conelayers.layer.outcome import CallInfo, react
from conelayers.layer.output_derivative import OutputDerivative
from conelayers.layer.program_derivative import ProgramDerivative
from conelayers.layer.solved_batch import SolvedBatch
from conelayers.problem.input_map import InputMap
from conelayers.problem.numpy_values import ARRAYS
from conelayers.problem.parameters import Batch
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.cones import Cones
from conelayers.program.solution import Residuals, Solution
from conelayers.support.arguments import as_array, as_flags, as_real, check_count
from conelayers.support.display import html_table
from conelayers.support.errors import Status

__all__ = ["LayerSolution"]


def _shown(values: np.ndarray) -> str:
    return np.array2string(values, precision=4, threshold=12, edgeitems=3, separator=", ").replace("\n", "")


@dataclass(frozen=True, repr=False)
class LayerSolution:
    """The solution of one call, and its derivatives.

    variables: the requested variables, in their order, each (*shape) or (B, *shape).
    x, y, s: the cone program's solution, (n,), (m,) and (m,), with a leading B in a batched call.
    status: a Status, or a tuple of B.
    residuals: the relative errors in the optimality conditions.

    The linear system is factored at the first derivative and kept. If ``on_failure`` lets a call return although some
    instances have no solution, their values and tangents are NaN, and their gradients NaN, or zero if their cotangents
    are zero.
    """

    variables: tuple[np.ndarray, ...]
    _derivative: OutputDerivative
    _user_map: InputMap | None = None  # from the user's parameters and variables; None if they are the program's
    _given: tuple[Any, ...] = ()  # the user's values, for an input map that is not the identity

    @classmethod
    def of(cls, derivative: OutputDerivative) -> LayerSolution:
        """The solution of a call in the program's own parameters and outputs."""
        values = derivative.solved.variables()
        variables = tuple(values) if derivative.batch.batched else tuple(np.asarray(v[0]) for v in values)
        return cls(variables, derivative)

    @property
    def _compiled(self) -> ParametricProgram:
        return self._derivative.compiled

    @property
    def _batch(self) -> Batch:
        return self._derivative.batch

    @property
    def _solved(self) -> SolvedBatch:
        return self._derivative.solved

    @property
    def _solution(self) -> Solution:
        return self._solved.solution

    @property
    def _linearization(self) -> SolutionMap:
        return self._solved.linearization

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {v.shape}" for name, v in zip(self._names(), self.variables, strict=True))
        return f"LayerSolution({shapes}; {self.info.counts()})"

    def _repr_html_(self) -> str:
        rows = [(name, str(v.shape), _shown(v)) for name, v in zip(self._names(), self.variables, strict=True)]
        value = f"optimal value {_shown(np.asarray(self.value))}"
        return html_table("Solution", ("variable", "shape", "values"), rows, [value]) + self.info._repr_html_()

    def _names(self) -> list[str]:
        return [self._compiled.outputs[positions[0]].name for positions in self._input_map.outputs]

    @property
    def _input_map(self) -> InputMap:
        return self._user_map or self._compiled.identity

    def for_user(self, input_map: InputMap, given: Sequence[Any]) -> LayerSolution:
        """The same solution in the user's parameters and variables.

        given: the user's values, of which the input map made the values of the program's parameters.
        """
        if input_map.is_identity:
            return self
        variables = input_map.recover(self.variables, ARRAYS)
        return replace(self, variables=variables, _user_map=input_map, _given=tuple(given))

    def _unbatch(self, values: Any) -> Any:
        if self._batch.batched:
            return values
        return np.asarray(values[0]) if isinstance(values, np.ndarray) else values[0]

    @property
    def x(self) -> np.ndarray:
        """The cone program's x."""
        return self._unbatch(self._solved.points[0])

    @property
    def y(self) -> np.ndarray:
        """The cone program's y ∈ K*."""
        return self._unbatch(self._solved.points[1])

    @property
    def s(self) -> np.ndarray:
        """The cone program's s ∈ K."""
        return self._unbatch(self._solved.points[2])

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (B, n), y (B, m) and s (B, m) of the batch."""
        return self._solved.points

    @property
    def program_derivative(self) -> ProgramDerivative:
        """The derivative in the program's own terms: from its parameters θ to its outputs, x, y and s."""
        return self._derivative.of_program

    @property
    def solved(self) -> np.ndarray:
        """Which instances have a solution, (B,) bool."""
        return self._solved.solved

    @property
    def linearization(self) -> SolutionMap:
        """The solution map of the cone program, linearized here."""
        return self._linearization

    @property
    def status(self) -> Status | tuple[Status, ...]:
        """The Status of the instance, or of each instance in a batched call."""
        return self._unbatch(self._solution.status)

    @property
    def solver(self) -> str | tuple[str, ...]:
        """The name of the backend that solved the instance, or each instance in a batched call."""
        return self._unbatch(self._solution.solver)

    @property
    def info(self) -> CallInfo:
        """How each instance ended: its status and residuals, and which solvers were tried."""
        return CallInfo.of(self._solution)

    @property
    def residuals(self) -> Residuals:
        """The backward errors in the optimality conditions, recomputed from the data."""
        r = self._solution.residuals
        return r if self._batch.batched else r.take(0)

    @property
    def worst(self) -> str | tuple[str, ...]:
        """Where the largest residual is, by the user's names.

        That is a constraint with its entry, a variable's optimality condition, or the gap.
        """
        residuals, names = self._solution.residuals, self._compiled.names
        return self._unbatch(tuple(residuals.named(i, names) for i in range(len(self._solution.status))))

    @property
    def value(self) -> np.ndarray:
        """The optimal value of the user's problem, () or (B,)."""
        return self._unbatch(self._solved.value)

    def react(self) -> None:
        """Raise or warn if an instance has no solution, as ``on_failure`` says.

        An InaccurateSolutionWarning is given if a solution misses the accuracy.
        """
        if not self._solved.all_exact:
            react(self._solution, self._derivative.on_failure, self._compiled.naming)

    def certify(self) -> Certificates:
        """Whether the derivative is justified: a Certificate for each instance, by at most three factorizations."""
        return certify(self._linearization, self._solution, self._compiled.names)

    @property
    def cones(self) -> Cones:
        """The cone program's cone K."""
        return self._compiled.structure.cones

    def flat_variables(self) -> np.ndarray:
        """The requested variables of the batch side by side, (B, size)."""
        x, y, _ = self.points
        return np.concatenate([np.empty((len(x), 0)), *(o.value(x, y) for o in self._compiled.outputs)], axis=1)

    def predict(self, direction: np.ndarray) -> np.ndarray:
        """DΔ (B, size) for Δ = ``direction`` (B, p), in least squares where J is singular; never warns."""
        moved = self.program_derivative.exact_tangents(direction)
        return np.concatenate([np.empty((len(direction), 0)), *moved], axis=1)

    def jvp(self, *dtheta: Any) -> tuple[np.ndarray, ...]:
        """The tangents of the variables along dθ, one array (or None for zero) of the parameter's value's shape each.

        Raises ValueError for a wrong number or shape; warns SingularDerivativeWarning where J is singular.
        """
        input_map = self._input_map
        check_count("jvp", "tangents", dtheta, len(input_map.parameters), "parameter")
        tangents = [
            None if d is None else _shaped(f"jvp: tangent {i} ({spec.label})", d, shape, spec.is_complex)
            for i, (d, spec, shape) in enumerate(zip(dtheta, input_map.parameters, self._given_shapes(), strict=True))
        ]
        moved = input_map.push_tangents(self._given, tangents)
        parts = self._derivative.tangents(moved)
        return input_map.recover([self._unbatch(part) for part in parts], ARRAYS)

    def _given_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the values that the user gave."""
        if self._given:
            return [value.shape for value in self._given]
        batch, specs = self._batch, self._compiled.parameters
        return [
            (batch.size, *spec.shape) if batched else spec.shape
            for spec, batched in zip(specs, batch.batched_parameters, strict=True)
        ]

    def vjp(self, *cotangents: Any, needed: Sequence[bool] | None = None) -> tuple[np.ndarray | None, ...]:
        """The gradients with respect to the parameters for cotangents of the variables (None for zero).

        needed: for each parameter, whether its gradient is computed; the others are None.

        Each gradient has the shape of the parameter's value. An unbatched parameter in a batched call gets the sum over
        the batch, a symmetric one its symmetric gradient, a complex one ∂/∂Re + i ∂/∂Im (cotangents of complex
        variables are of this form too). Raises ValueError for a wrong number or shape; warns SingularDerivativeWarning
        where J is singular.
        """
        input_map = self._input_map
        check_count("vjp", "cotangents", cotangents, len(input_map.outputs), "variable")
        wanted = as_flags("vjp: needed", needed, len(input_map.parameters), "parameter")
        names = self._names()
        shaped = [
            None if g is None else _shaped(f"vjp: cotangent {i} ({names[i]})", g, value.shape, len(positions) > 1)
            for i, (g, value, positions) in enumerate(zip(cotangents, self.variables, input_map.outputs, strict=True))
        ]
        parts = input_map.split(shaped)
        if not self._batch.batched:
            parts = [None if g is None else g[None] for g in parts]
        gradients = self._derivative.gradients(parts, input_map.needed(wanted))
        pulled = input_map.pull(self._given, gradients)
        return tuple(g if want else None for g, want in zip(pulled, wanted, strict=True))

    def vjp_points(
        self, gx: Any = None, gy: Any = None, gs: Any = None, *, needed: Sequence[bool] | None = None
    ) -> tuple[np.ndarray | None, ...]:
        """The gradients with respect to the program's parameters for cotangents of its own solution x, y and s.

        needed: for each of the program's parameters, whether its gradient is computed; the others are None.
        """
        wanted = as_flags("vjp_points: needed", needed, len(self._compiled.parameters), "parameter")
        cotangents = zip(("x", "y", "s"), (gx, gy, gs), self.points, strict=True)
        batched = self._batch.batched
        shaped = [
            None if g is None else _shaped(f"vjp_points: g{name}", g, h.shape if batched else h.shape[1:])
            for name, g, h in cotangents
        ]
        gx, gy, gs = (
            np.zeros_like(h) if g is None else g if batched else g[None]
            for g, h in zip(shaped, self.points, strict=True)
        )
        return tuple(self._derivative.gradients_of_points(gx, gy, gs, wanted))

    def jacobian(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """∂variable/∂parameter for each of them: (*variable.shape, *parameter.shape), with B in front in a batch.

        In a batch every instance has its own Jacobian, also for unbatched parameters. It takes one factorization, and a
        solve for each entry of the variables or of the parameters, whichever are fewer. Raises NotImplementedError for
        complex parameters.
        """
        input_map = self._input_map
        for spec in input_map.parameters:
            if spec.is_complex:
                raise NotImplementedError(
                    f"jacobian: parameter {spec.label} is complex; use jvp and vjp, or a real parameter for each of "
                    "its parts"
                )
        blocks = self.program_derivative.jacobian()
        if not input_map.is_identity:
            blocks = input_map.pull_jacobian(self._given, self._batch.size, self._compiled.parameters, blocks)
        return tuple(tuple(np.asarray(self._unbatch(block)) for block in row) for row in blocks)


def _shaped(what: str, value: Any, shape: tuple[int, ...], complex_too: bool = False) -> np.ndarray:
    value = as_array(what, value, complex_too=True) if complex_too else as_real(what, value)
    if value.shape != shape:
        raise ValueError(f"{what}: got shape {value.shape}, expected {shape}")
    return value
