"""The layer as a function of arrays of JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from conelayers.derivatives.certificate import Certificates
from conelayers.jax.host import STATUSES, HostProgram
from conelayers.jax.inputs import checked_values, dtype_like, host_value, output_type, traced
from conelayers.jax.operations import traced_program
from conelayers.jax.optimal_value import optimal_value
from conelayers.jax.primitives import solve, zero_where_nan
from conelayers.jax.smoothed import solve_smoothed
from conelayers.jax.values import ARRAYS
from conelayers.layer.layer import Layer
from conelayers.layer.options import Options, describe_options, takes_options
from conelayers.layer.outcome import CallInfo, OnFailure
from conelayers.layer.problem_data import ProblemData
from conelayers.layer.traced_program import TracedProgram
from conelayers.problem.input_map import InputMap, Replacement
from conelayers.problem.parameter_checks import batch_sizes
from conelayers.problem.parameters import flatten, moved_values
from conelayers.solve.backends import merge_solver_args
from conelayers.support.errors import Status

__all__ = ["ConeLayer", "CvxpyLayer", "SolveInfo"]

Array = jax.Array


class SolveInfo(NamedTuple):
    """How each instance ended: ``status`` () or (B,) int32 (see ``ConeLayer.statuses``), and the worst residual."""

    status: Array
    residual: Array


@jax.tree_util.register_static
@final
@describe_options
class ConeLayer:
    """A parametric convex problem as a differentiable layer: parameters in, solution out, gradients through.

    problem: a cvxpy.Problem that is DCP for all values of its parameters.
    parameters: all of them, in the order of the call's arrays.
    variables: variables of the problem or ``constraint.dual_variables[i]``, in the order of the returned arrays.
    Options: see conelayers.layer.options.Options.

    Arrays may be (*shape) or (B, *shape); unbatched ones are broadcast in a batched call and get the sum of the
    gradients. The solver computes in float64 on the host; the outputs have the inputs' common dtype.

    All transformations of JAX work on it, in any composition; third derivatives where all constraints are linear. It is
    hashable, compared by identity, and a pytree without leaves.

    Raises CanonicalizationError or ValueError for a problem, parameters, variables or options that do not fit.
    """

    @takes_options
    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        options: Options,
    ) -> None:
        self.engine = Layer(problem, parameters, variables, **vars(options))
        self._programs: dict[Any, HostProgram] = {}  # one for each set of options that was asked for

    def __call__(
        self,
        *params: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: Any,
    ) -> tuple[Array, ...]:
        """The solution for these parameter values, a tuple with one array for each of ``variables``.

        The values come by position, or all of them by the parameters' names, as keywords or as one dictionary. Raises
        ValueError for bad values, TypeError for anything that is not a real array or number, SolveError naming the
        instances that have no solution; in a compiled function JAX wraps errors of values in its own, with the same
        message.
        """
        return self.solve(*params, solver_args=solver_args, warm_start=warm_start, on_failure=on_failure, **named)[0]

    def solve(
        self,
        *params: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: Any,
    ) -> tuple[tuple[Array, ...], SolveInfo]:
        """The result of the call, and a SolveInfo."""
        values = self._checked(params, named)
        policy = self.engine.policy_for(on_failure, solver_args)
        dtype = output_type(values)
        if policy is OnFailure.RAISE and not traced(values):
            solution = self.engine.solve(
                *map(host_value, values), solver_args=solver_args, warm_start=warm_start, on_failure=policy
            )
            said = solution.status
            positions = [STATUSES.index(one) for one in said] if isinstance(said, tuple) else STATUSES.index(said)
            info = SolveInfo(jnp.asarray(positions, jnp.int32), jnp.asarray(solution.residuals.worst, dtype))
            return tuple(jnp.asarray(v, dtype_like(dtype, v)) for v in solution.variables), info
        program = self._program(solver_args, warm_start, policy)
        input_map = self.engine.compiled_for(solver_args).input_map
        phi, batch = _phi(program, self._pushed(input_map, values))
        x, y, _, status, residual = (solve if self.engine.smoothing_for(solver_args) is None else solve_smoothed)(
            program, phi
        )
        outputs = (*program.jitted(TracedProgram.variables)(x, y), residual)
        *parts, residual = ((v[0] if batch is None else v).astype(dtype) for v in outputs)
        info = SolveInfo(status[0] if batch is None else status, residual)
        return input_map.recover(parts, ARRAYS), info

    def value(
        self,
        *params: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: Any,
    ) -> Array:
        """The optimal value, () or (B,), with its exact gradient by the envelope theorem, without a linear solve.

        dV/dθ = ∂L/∂θ at the solution, L the Lagrangian; it exists where the solution and its multipliers are unique.
        It takes and raises what the call does.
        """
        values = self._checked(params, named)
        program = self._program(solver_args, warm_start, self.engine.policy_for(on_failure, solver_args))
        phi, batch = _phi(program, self._pushed(self.engine.compiled_for(solver_args).input_map, values))
        x, y, *_ = solve(program, phi)
        value = optimal_value(program, phi, x, y)
        if program.on_failure is not OnFailure.RAISE:
            # NaN − 0 where there is no solution: the cotangent reaches x, whose own rule gives NaN, or zero for zero.
            value = value + (x - zero_where_nan(x)).sum(axis=1)
        value = program.traced.user_value(value)
        return (value[0] if batch is None else value).astype(output_type(values))

    def jacobian(
        self, *params: Any, solver_args: Mapping[str, Any] | None = None, **named: Any
    ) -> tuple[tuple[Array, ...], ...]:
        """∂variable/∂parameter for each of them: (*variable.shape, *parameter.shape), with B in front in a batch.

        They take one factorization, and concrete arrays; in transformed and compiled functions use ``jax.jacrev`` or
        ``jax.jacfwd``.
        """
        values = self._concrete("jacobian", "use jax.jacrev or jax.jacfwd of the layer", params, named)
        blocks = self.engine.solve(*map(host_value, values), solver_args=solver_args).jacobian()
        dtype = output_type(values)
        return tuple(tuple(jnp.asarray(b, dtype_like(dtype, b)) for b in row) for row in blocks)

    def certify(
        self,
        *params: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        **named: Any,
    ) -> Certificates:
        """Whether the gradient at these parameter values is justified: a Certificate for each instance (docs/trust.md).

        It takes what the call takes (concrete arrays only), solves, and adds at most three factorizations an instance.
        An instance without a solution gets a certificate that says so.
        """
        values = self._concrete("certify", "call it outside of the transformed function", params, named)
        return self.engine.certify(*map(host_value, values), solver_args=solver_args, warm_start=warm_start)

    def problem_data(self, *params: Any, solver_args: Mapping[str, Any] | None = None, **named: Any) -> ProblemData:
        """The cone program (P, q, A, b, cones) at concrete values, for NumPy and SciPy; see Layer.problem_data."""
        values = self._concrete("problem_data", "call it outside of the transformed function", params, named)
        return self.engine.problem_data(*map(host_value, values), solver_args=solver_args)

    @property
    def lifted(self) -> tuple[Replacement, ...]:
        """What was replaced to make the problem's data affine in its parameters."""
        return self.engine.lifted

    @property
    def last(self) -> CallInfo | None:
        """How each instance of this thread's last solve ended.

        Compiled functions solve in threads of JAX's own: for them use the SolveInfo that ``solve`` returns.
        """
        return self.engine.last

    @staticmethod
    def statuses(info: SolveInfo) -> Status | tuple[Status, ...]:
        """The Status of the instance, or of each instance in a batched call, from a SolveInfo of concrete arrays."""
        positions = np.asarray(info.status)
        return tuple(STATUSES[i] for i in positions) if positions.ndim else STATUSES[int(positions)]

    def _program(
        self, solver_args: Mapping[str, Any] | None, warm_start: bool | None, policy: OnFailure
    ) -> HostProgram:
        solver_args = merge_solver_args({}, solver_args)
        key = repr(sorted((solver_args or {}).items())), warm_start, policy
        known = self._programs.get(key)
        if known is None:
            made = traced_program(self.engine.compiled_for(solver_args), self.engine.selection)
            options = {"solver_args": dict(solver_args or {}), "warm_start": warm_start}
            known = self._programs.setdefault(key, HostProgram(self.engine, made, options, policy))
        return known

    def _pushed(self, input_map: InputMap, values: Sequence[Any]) -> Sequence[Any]:
        """The values of the program's own parameters."""
        return input_map.push(values, ARRAYS, validate=self.engine.validate)

    def _concrete(self, where: str, fix: str, params: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        values = self._checked(params, named)
        if traced(values):
            raise TypeError(f"{where}: got traced arrays, expected concrete ones; {fix}")
        return values

    def _checked(self, params: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        return checked_values(self.engine.parameters, params, named)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programs": {}}

    def _repr_html_(self) -> str:
        return self.engine._repr_html_()

    def __repr__(self) -> str:
        return f"ConeLayer({', '.join(f'{spec.name}{list(spec.shape)}' for spec in self.engine.parameters)})"


def _phi(program: HostProgram, values: Sequence[Any]) -> tuple[Array, int | None]:
    """φ (B, ·) of a call's values in JAX's widest floating-point type, and B; None for an unbatched call."""
    specs = program.traced.parameters
    sizes = batch_sizes(specs, [np.shape(v) for v in values])
    batch = next((size for size in sizes if size is not None), None)
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    columns = []
    for value, size, spec in zip(values, sizes, specs, strict=True):
        wide = jnp.asarray(value).astype(dtype)
        fronted: Any = wide[None] if size is None else wide
        flat = flatten(moved_values(ARRAYS.arithmetic, spec, fronted) if program.layer.validate else fronted)
        columns.append(jnp.broadcast_to(flat, (1 if batch is None else batch, spec.size)))
    theta = jnp.concatenate(columns, axis=1) if columns else jnp.zeros((1, 0), dtype)
    return program.jitted(TracedProgram.phi)(theta), batch


CvxpyLayer = ConeLayer  # the name that people coming from cvxpylayers import
