"""The layer as a torch.nn.Module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import cvxpy as cp
import scipy.sparse as sp
import torch

from conelayers.derivatives.certificate import Certificates
from conelayers.layer.layer import Layer
from conelayers.layer.options import Options, describe_options, takes_options
from conelayers.layer.outcome import CallInfo, OnFailure
from conelayers.layer.problem_data import ProblemData
from conelayers.layer.solution import LayerSolution
from conelayers.layer.traced_program import Formulas
from conelayers.problem.input_map import InputMap, Replacement
from conelayers.problem.parameter_checks import batch_sizes, in_order
from conelayers.problem.parameters import moved_values
from conelayers.torch.call import Call
from conelayers.torch.compiled import register, solve_in_graph
from conelayers.torch.conversion import from_array, output_type, to_array
from conelayers.torch.functions import optimal_value, solve
from conelayers.torch.operations import flatten, formulas_of
from conelayers.torch.smoothed import solve_smoothed
from conelayers.torch.values import TENSORS

__all__ = ["ConeLayer", "CvxpyLayer", "solve_parameters"]


class _PlainSolve(torch.autograd.Function):
    """θ ↦ variables outside of transformations: the engine's gradient, or the general one under create_graph."""

    @staticmethod
    @torch.compiler.disable
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        solution = call.layer.solve_parts(*[to_array(t) for t in tensors], **call.options)
        call.solution = ctx.solution = solution
        ctx.call = call
        ctx.save_for_backward(*tensors)
        dtype, device = output_type(tensors)
        # One gradient arrives for every output; a missing one stays None and costs nothing.
        ctx.set_materialize_grads(False)
        values = (solution.x, solution.y, solution.s) if call.points else solution.variables
        return tuple(from_array(v.copy(), dtype, device) for v in values)

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or _transformed():
            return (
                None,
                *_differentiable_gradient(ctx.call, ctx.solution, tensors, cotangents, ctx.needs_input_grad[1:]),
            )
        arrays = [None if g is None else to_array(g) for g in cotangents]
        pull = ctx.solution.vjp_points if ctx.call.points else ctx.solution.vjp
        gradients = pull(*arrays, needed=ctx.needs_input_grad[1:])
        return (
            None,
            *(None if g is None else from_array(g, t.dtype, t.device) for g, t in zip(gradients, tensors, strict=True)),
        )


def _differentiable_gradient(
    call: Call,
    solution: LayerSolution,
    tensors: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
    needed: Sequence[bool],
) -> list[torch.Tensor | None]:
    """The gradients as differentiable functions of the parameters and the cotangents (``create_graph=True``)."""
    outputs = _solve_composably(call.known(solution), tensors)
    used = [(o, g) for o, g in zip(outputs, cotangents, strict=True) if g is not None]
    wanted = [t for t, need in zip(tensors, needed, strict=True) if need]
    gradients = iter(
        torch.autograd.grad([o for o, _ in used], wanted, [g for _, g in used], create_graph=True, allow_unused=True)
        if used
        else [None] * len(wanted)
    )
    return [next(gradients) if need else None for need in needed]


def _solve_composably(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """θ ↦ variables from operations that every transformation differentiates and maps."""
    phi, batch = _phi(call, tensors)
    x, y, s = (solve if call.smoothing is None else solve_smoothed)(call, phi)
    dtype, device = output_type(tensors)
    values = [x, y, s] if call.points else call.formulas.variables(x, y)
    return tuple((v[0] if batch is None else v).to(dtype=dtype, device=device) for v in values)


def _phi(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, int | None]:
    """φ (B, ·) of a call's values, and B; None for an unbatched call."""
    f = call.formulas
    specs = f.parameters
    sizes = batch_sizes(specs, [t.shape for t in tensors])
    batch = next((size for size in sizes if size is not None), None)
    columns = []
    for t, size, spec in zip(tensors, sizes, specs, strict=True):
        value = (t.unsqueeze(0) if size is None else t).to(device="cpu", dtype=torch.float64)
        value = moved_values(TENSORS.arithmetic, spec, value) if call.layer.validate else value
        columns.append(flatten(value, spec.shape).expand(1 if batch is None else batch, spec.size))
    theta = torch.cat(columns, dim=1) if columns else torch.zeros((1, 0), dtype=torch.float64)
    return f.phi(theta), batch


def solve_parameters(call: Call, params: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs of a call, in the plain way where nothing forbids it."""
    return _solve_composably(call, params) if _transformed() else _PlainSolve.apply(call, *params)


def _transformed() -> bool:
    """Whether a transformation of torch.func, or forward mode, is under way."""
    if torch._C._are_functorch_transforms_active():
        return True
    return torch.autograd.forward_ad._current_level >= 0


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
        self._known: list[Formulas] = []  # one for each program that options asked for
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
        if torch.compiler.is_compiling() and all(a is None for a in asked) and not _transformed():
            input_map = self.engine.compiled_for().input_map
            inner = self._pushed(input_map, self._checked(params, named))
            return input_map.recover(solve_in_graph(inner, self._number), TENSORS)
        options: dict[str, Any] = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        return self.solve(*params, **options, **named)[0]

    @torch.compiler.disable  # NumPy: what is not an operator in a compiled graph is called between two graphs
    def solve(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
        **named: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], LayerSolution]:
        """Like the call, and with it the engine's LayerSolution: statuses, residuals, value, x, y, s.

        Under ``torch.func.vmap`` the LayerSolution is that of the folded batch.
        """
        params = self._checked(params, named)
        options = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        call = Call(self.engine, lambda: self._formulas(solver_args), options)
        input_map = self.engine.compiled_for(solver_args).input_map
        outputs = input_map.recover(solve_parameters(call, self._pushed(input_map, params)), TENSORS)
        solution = call.solution
        assert solution is not None
        if not input_map.is_identity and not _transformed():  # copies the tensors' values
            solution = solution.seen_through(input_map, [self._array(p) for p in params])
        return outputs, solution

    @torch.compiler.disable
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
        Takes and raises what the call does.
        """
        params = self._checked(params, named)
        options = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        call = Call(self.engine, lambda: self._formulas(solver_args), options)
        phi, batch = _phi(call, self._pushed(self.engine.compiled_for(solver_args).input_map, params))
        x, y, _ = solve(call, phi)
        value = call.formulas.user_value(optimal_value(call, phi, x, y))
        dtype, device = output_type([p.real for p in params])
        return (value[0] if batch is None else value).to(dtype=dtype, device=device)

    @torch.compiler.disable
    def jacobian(
        self, *params: torch.Tensor, solver_args: Mapping[str, Any] | None = None, **named: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], ...]:
        """∂variable/∂parameter for each of them: (*variable.shape, *parameter.shape), with B in front in a batch.

        All from one factorization, detached; ``torch.func.jacrev`` and ``jacfwd`` give differentiable ones.
        """
        params = self._checked(params, named)
        blocks = self.engine.solve(*map(self._array, params), solver_args=solver_args).jacobian()
        dtype, device = output_type(params)
        return tuple(tuple(from_array(b, dtype, device) for b in row) for row in blocks)

    @torch.compiler.disable
    def certify(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        **named: torch.Tensor,
    ) -> Certificates:
        """Whether the gradient at these parameter values is justified: a Certificate for each instance (docs/trust.md).

        Takes what the call takes, solves, and adds at most three factorizations an instance; nothing of it enters the
        graph. An instance without a solution gets a certificate that says so.
        """
        params = self._checked(params, named)
        return self.engine.certify(*map(self._array, params), solver_args=solver_args, warm_start=warm_start)

    def problem_data(
        self, *params: torch.Tensor, solver_args: Mapping[str, Any] | None = None, **named: torch.Tensor
    ) -> ProblemData:
        """The cone program (P, q, A, b, cones) at these values, for NumPy and SciPy; see Layer.problem_data."""
        return self.engine.problem_data(*map(self._array, self._checked(params, named)), solver_args=solver_args)

    def _pushed(self, input_map: InputMap, params: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The values of the program's own parameters."""
        input_map.check_finite(params, TENSORS)
        return input_map.push(params, TENSORS, validate=self.engine.validate)

    @staticmethod
    def _array(value: torch.Tensor) -> Any:
        if value.layout is not torch.strided and value.dim() == 2:
            stored = value.detach().cpu().to_sparse_coo().coalesce()
            return sp.coo_array((stored.values().double().numpy(), tuple(stored.indices().numpy())), shape=value.shape)
        array = TENSORS.dense(value.detach())
        return array.cpu().resolve_conj().numpy() if array.is_complex() else to_array(array)

    def _formulas(self, solver_args: Mapping[str, Any] | None) -> Formulas:
        compiled = self.engine.compiled_for(solver_args)
        for formulas in self._known:
            if formulas.compiled is compiled:
                return formulas
        self._known.append(formulas_of(compiled, self.engine.selection))
        return self._known[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = register(self.engine)

    def _checked(self, params: tuple[torch.Tensor, ...], named: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        specs = self.engine.parameters
        params = in_order(specs, params, named)
        for i, p in enumerate(params):
            name = specs[i].numbered(i) if i < len(specs) else f"parameter {i}"
            if not isinstance(p, torch.Tensor):
                raise TypeError(
                    f"{name}: got {type(p).__name__}, expected a torch.Tensor; wrap it with torch.as_tensor"
                )
            spec = specs[i] if i < len(specs) else None
            if p.dtype == torch.bool or (p.dtype.is_complex and not (spec is not None and spec.is_complex)):
                raise TypeError(
                    f"{name}: got dtype {p.dtype}, expected a floating-point one; convert it with .to(torch.float64)"
                )
            if p.layout is not torch.strided and not (spec is not None and spec.positions is not None):
                raise TypeError(
                    f"{name}: got a tensor of layout {p.layout}, expected a dense one; convert it with .to_dense()"
                )
            if p.is_meta:
                raise ValueError(
                    f"{name}: got one that is on meta, expected a tensor with values, on the CPU or a GPU; make it "
                    "there"
                )
            if p.device != params[0].device:
                raise ValueError(
                    f"{name}: is on {p.device}, expected {params[0].device} like parameter 0; move it there"
                )
        return params

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints of models that held a cvxpylayers layer carry its matrices as buffers; the layer has no state
        # here.
        for name in ("P", "q", "A"):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def last(self) -> CallInfo | None:
        """How each instance of this thread's last call ended; None before the first."""
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
