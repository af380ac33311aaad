"""The layer as a torch.nn.Module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import cvxpy as cp
import torch

from conelayers.derivatives.certificate import Certificates
from conelayers.layer.layer import Layer
from conelayers.layer.options import Options, describe_options, takes_options
from conelayers.layer.outcome import CallInfo, OnFailure
from conelayers.layer.problem_data import ProblemData
from conelayers.layer.solution import LayerSolution
from conelayers.layer.traced_program import TracedProgram
from conelayers.problem.input_map import InputMap, Replacement
from conelayers.torch.call import Call
from conelayers.torch.compiled import register, solve_in_graph
from conelayers.torch.conversion import from_array, output_type
from conelayers.torch.functions import solve
from conelayers.torch.inputs import checked_tensors, host_value
from conelayers.torch.operations import traced_program
from conelayers.torch.optimal_value import optimal_value
from conelayers.torch.outside_graphs import outside_graphs
from conelayers.torch.solve_parameters import phi_of, solve_parameters, transformed
from conelayers.torch.values import TENSORS

__all__ = ["ConeLayer", "CvxpyLayer"]


@final
@describe_options
class ConeLayer(torch.nn.Module):
    """A parametric convex problem as a differentiable layer: parameters in, solution out, gradients through.

    problem: a cvxpy.Problem that is DCP for all values of its parameters.
    parameters: all of them, in the order of the call's tensors.
    variables: variables of the problem or ``constraint.dual_variables[i]``, in the order of the returned tensors.
    Options: see conelayers.layer.options.Options.

    Tensors may be (*shape) or (B, *shape); unbatched ones are broadcast in a batched call and get the sum of the
    gradients. Computation is in float64; the outputs have the inputs' dtype and device, gradients each input's own.

    torch.func's transformations, forward mode and second derivatives work on it, in any composition; third derivatives
    where all constraints are linear.

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
        super().__init__()
        self.engine = Layer(problem, parameters, variables, **vars(options))
        self._known: list[TracedProgram] = []  # one for each program that options asked for
        self._number = register(self.engine)

    def forward(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The solution for these parameter values, a tuple with one tensor for each of ``variables``.

        The values come by position or, all of them, by the parameters' names. Raises ValueError for bad values,
        TypeError for anything that is not a real floating-point tensor, SolveError naming the instances that have no
        solution.
        """
        if torch.compiler.is_exporting():
            raise NotImplementedError(
                "ConeLayer: torch.export was asked for, but the solver lives in this Python process; pickle the model "
                "instead"
            )
        asked = (solver_args, warm_start, on_failure)
        if torch.compiler.is_compiling() and all(a is None for a in asked) and not transformed():
            input_map = self.engine.compiled_for().input_map
            inner = self._pushed(input_map, self._checked(params, named))
            return input_map.recover(solve_in_graph(inner, self._number), TENSORS)
        return self.solve(*params, solver_args=solver_args, warm_start=warm_start, on_failure=on_failure, **named)[0]

    @outside_graphs  # NumPy: the compiled graph breaks here, and the call runs between two graphs
    def solve(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], LayerSolution]:
        """The result of the call, and the engine's LayerSolution: statuses, residuals, value, x, y, s.

        Under ``torch.func.vmap`` the mapped axis is folded into the batch, of which the LayerSolution is.
        """
        params = self._checked(params, named)
        options = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        call = Call(self.engine, lambda: self._traced(solver_args), options)
        input_map = self.engine.compiled_for(solver_args).input_map
        outputs = input_map.recover(solve_parameters(call, self._pushed(input_map, params)), TENSORS)
        solution = call.solution
        assert solution is not None
        if not input_map.is_identity and not transformed():  # copies the tensors' values
            solution = solution.for_user(input_map, [host_value(p) for p in params])
        return outputs, solution

    @outside_graphs
    def value(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: torch.Tensor,
    ) -> torch.Tensor:
        """The optimal value, () or (B,), with its exact gradient by the envelope theorem, without a linear solve.

        dV/dθ = ∂L/∂θ at the solution, L the Lagrangian; it exists where the solution and its multipliers are unique.
        It takes and raises what the call does.
        """
        params = self._checked(params, named)
        options = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        call = Call(self.engine, lambda: self._traced(solver_args), options)
        phi, batch = phi_of(call, self._pushed(self.engine.compiled_for(solver_args).input_map, params))
        x, y, _ = solve(call, phi)
        value = call.traced.user_value(optimal_value(call, phi, x, y))
        dtype, device = output_type([p.real for p in params])
        return (value[0] if batch is None else value).to(dtype=dtype, device=device)

    @outside_graphs
    def jacobian(
        self, *params: torch.Tensor, solver_args: Mapping[str, Any] | None = None, **named: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], ...]:
        """∂variable/∂parameter for each of them: (*variable.shape, *parameter.shape), with B in front in a batch.

        They take one factorization and are detached; ``torch.func.jacrev`` and ``jacfwd`` give differentiable ones.
        """
        params = self._checked(params, named)
        blocks = self.engine.solve(*map(host_value, params), solver_args=solver_args).jacobian()
        dtype, device = output_type(params)
        return tuple(tuple(from_array(b, dtype, device) for b in row) for row in blocks)

    @outside_graphs
    def certify(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        **named: torch.Tensor,
    ) -> Certificates:
        """Whether the gradient at these parameter values is justified: a Certificate for each instance (docs/trust.md).

        It takes what the call takes, solves, and adds at most three factorizations an instance; nothing of it enters
        the graph. An instance without a solution gets a certificate that says so.
        """
        params = self._checked(params, named)
        return self.engine.certify(*map(host_value, params), solver_args=solver_args, warm_start=warm_start)

    def problem_data(
        self, *params: torch.Tensor, solver_args: Mapping[str, Any] | None = None, **named: torch.Tensor
    ) -> ProblemData:
        """The cone program (P, q, A, b, cones) at these values, for NumPy and SciPy; see Layer.problem_data."""
        return self.engine.problem_data(*map(host_value, self._checked(params, named)), solver_args=solver_args)

    def _pushed(self, input_map: InputMap, params: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The values of the program's own parameters."""
        input_map.check_finite(params, TENSORS)
        return input_map.push(params, TENSORS, validate=self.engine.validate)

    def _traced(self, solver_args: Mapping[str, Any] | None) -> TracedProgram:
        compiled = self.engine.compiled_for(solver_args)
        for traced in self._known:
            if traced.compiled is compiled:
                return traced
        self._known.append(traced_program(compiled, self.engine.selection))
        return self._known[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = register(self.engine)

    def _checked(self, params: tuple[torch.Tensor, ...], named: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return checked_tensors(self.engine.parameters, params, named)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints of models with a layer of cvxpylayers carry its matrices as buffers; this layer has no state.
        for name in ("P", "q", "A"):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def last(self) -> CallInfo | None:
        """How each instance of this thread's last call ended; None before the first call."""
        return self.engine.last

    @property
    def lifted(self) -> tuple[Replacement, ...]:
        """What was replaced to make the problem's data affine in its parameters."""
        return self.engine.lifted

    def _repr_html_(self) -> str:
        return self.engine._repr_html_()

    def extra_repr(self) -> str:
        """The names and shapes of the parameters."""
        return ", ".join(f"{spec.name}{list(spec.shape)}" for spec in self.engine.parameters)


CvxpyLayer = ConeLayer  # the name that people coming from cvxpylayers import
