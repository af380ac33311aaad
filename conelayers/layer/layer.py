"""The framework-free engine: a parametric problem as a layer over NumPy arrays."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Self, final

import cvxpy as cp
import numpy as np

from conelayers.derivatives.certificate import Certificates
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.lpgd import LPGD
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.smoothing import Smoothing
from conelayers.layer.call_values import batch_of_flat, batch_of_theta, batch_of_values, pushed_values
from conelayers.layer.chunk_executor import check_executor
from conelayers.layer.chunked_solver import ChunkedSolver
from conelayers.layer.options import Options, describe_options, takes_options
from conelayers.layer.origin import ConicForm, CvxpyProblem, Origin
from conelayers.layer.outcome import CallInfo, OnFailure, PartialLinearization, as_on_failure
from conelayers.layer.output_derivative import OutputDerivative
from conelayers.layer.problem_data import ProblemData, problem_data
from conelayers.layer.programs import CallSettings, Programs
from conelayers.layer.solution import LayerSolution
from conelayers.layer.solve_and_linearize import linearize
from conelayers.layer.solve_calls import solved_here, solved_in_chunks
from conelayers.layer.solved_batch import Answers, SolvedBatch
from conelayers.numerics.cones import Selection
from conelayers.problem.input_map import Replacement
from conelayers.problem.parameters import Batch, ParameterSpec
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.solution import Solution
from conelayers.solve.backends import SolverArguments, find_solver, parse_solver_args
from conelayers.solve.batch import WarmStart
from conelayers.support.arguments import as_flag, check_count, described
from conelayers.support.display import html_table

__all__ = ["ConicLayer", "Layer", "Observer"]


_STAYS_HERE = frozenset({"_last", "_derivative_policies", "_observers", "_executor", "_chunked_solver"})  # not pickled

Observer = Callable[[np.ndarray, LayerSolution], None]


@describe_options
class Layer:
    """A parametric convex problem as a differentiable map from parameters to solutions, over NumPy arrays.

    problem: a cvxpy.Problem that is DCP for all values of its parameters.
    parameters: all of its parameters, in the order in which values are passed.
    variables: its variables or ``constraint.dual_variables[i]``, in the order in which values are returned.
    Options: see conelayers.layer.options.Options.

    Raises CanonicalizationError (a ValueError) for a problem that is not DCP, cannot be made DPP, or has integer
    variables; ValueError for parameters or variables that are not the problem's, a solver that does not take it, and
    unknown options. The problem is compiled here, once; later changes to it do not reach the layer.
    """

    @takes_options
    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        options: Options,
    ) -> None:
        method = parse_solver_args(options.call_defaults, options.solver).method or options.solver
        # A list may change later; anything but lists and tuples is refused when the problem is compiled.
        parameters = tuple(parameters) if isinstance(parameters, list) else parameters
        variables = tuple(variables) if isinstance(variables, list) else variables
        origin = CvxpyProblem(
            problem, parameters, variables, options.gp, options.canon_backend, options.lift, options.simplify
        )
        quadratic = method is None or find_solver(method).quadratic
        self._begin(options, origin.compiled(quadratic=quadratic, verbose=options.verbose), origin)

    def _begin(self, options: Options, compiled: ParametricProgram, origin: Origin) -> None:
        self.validate, self.smoothing = options.validate, options.smoothing
        self.on_failure = as_on_failure(options.on_failure)
        self.chunk_size, self.progress, self._executor = options.chunk_size, options.progress, options.executor
        self._policies, self._warm_start = options.policies, options.warm_start
        self._compiled = compiled
        self._programs = Programs(compiled, origin, options.solver, options.call_defaults)
        self._start_afresh()

    @property
    def selection(self) -> Selection:
        """The Clarke element that is taken at kinks."""
        return self._policies[1]

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """Name and shape of each parameter, in the order in which values are passed."""
        return self._compiled.input_map.parameters

    @property
    def lifted(self) -> tuple[Replacement, ...]:
        """What was replaced to make the problem's data affine in its parameters; empty for a DPP-compliant problem."""
        return self._compiled.input_map.replacements

    def __repr__(self) -> str:
        return f"Layer({self._described()})"

    def _described(self) -> str:
        """Its parameters and its cone program."""
        specs = ", ".join(f"{spec.name} {spec.shape}" for spec in self.parameters) or "none"
        structure = self._compiled.structure
        return (
            f"parameters {specs}; n = {structure.n}, m = {structure.m}; {structure.cones.described()}; solver "
            f"{self._programs.solver or 'default'}"
        )

    def _repr_html_(self) -> str:
        structure = self._compiled.structure
        rows = [(spec.name, str(spec.shape), ", ".join(sorted(spec.attributes))) for spec in self.parameters]
        notes = [
            f"cone program: {structure.n} variables, {structure.m} rows, {structure.A.nnz} entries in A, "
            f"{structure.P.nnz} in P; {structure.cones.described()}",
            f"solver: {self._programs.solver or 'default'}",
            *(f"lifted: {replacement}" for replacement in self.lifted),
        ]
        return html_table("Layer", ("parameter", "shape", "attributes"), rows, notes)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in _STAYS_HERE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._executor = None
        self._start_afresh()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        clone = copy.copy(self)  # the program is never changed; the clone shares it, and cvxpy's problem
        clone.executor = self._executor
        return clone

    def _start_afresh(self) -> None:
        """Forget all earlier calls, their observers, and which warnings were given."""
        self._last = threading.local()
        self._derivative_policies = Policies(*self._policies, self._compiled.naming)
        self._observers: list[Observer] = []
        self.executor = self._executor

    @property
    def executor(self) -> Executor | None:
        """The executor on which batches are solved; it can be replaced by another one."""
        return self._executor

    @executor.setter
    def executor(self, executor: Executor | None) -> None:
        self._executor = check_executor(executor)
        wanted = executor is not None or self.progress
        self._chunked_solver = ChunkedSolver(self, executor, self.chunk_size, self.progress) if wanted else None

    @property
    def last(self) -> CallInfo | None:
        """How each instance of this thread's last call ended, also if the call raised; None before the first call."""
        answers: Answers | None = getattr(self._last, "answers", None)
        return None if answers is None else CallInfo.of(answers.solution)

    def solve(
        self,
        *theta: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
    ) -> LayerSolution:
        """Solve for parameter values, one array (*shape) or (B, *shape) each; unbatched ones are broadcast.

        solver_args, warm_start, on_failure: for this call, instead of the layer's.

        Returns a LayerSolution. Raises ValueError for bad values (naming the parameter and the instance), SolveError
        naming the instances without a solution; warns InaccurateSolutionWarning where the residuals miss 1e−9.
        """
        options: dict[str, Any] = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        compiled = self.compiled_for(solver_args)
        given, values = pushed_values(compiled, theta, validate=self.validate)
        return self.solve_parts(*values, **options).for_user(compiled.input_map, given)

    def solve_parts(
        self,
        *values: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
    ) -> LayerSolution:
        """Solve for values of the program's own parameters, which the input map makes of the user's (input_map.py)."""
        return self._observed(
            self._batch_of(values, self.compiled_for(solver_args)), solver_args, warm_start, on_failure
        )

    def _observed(
        self,
        batch: Batch,
        solver_args: Mapping[str, Any] | None,
        warm_start: bool | None,
        on_failure: OnFailure | str | None,
    ) -> LayerSolution:
        solution = self._solve(batch, solver_args, warm_start, self.policy_for(on_failure, solver_args))
        solution.react()
        # Observers compare whole batches: a call of which some instances have no solution is not shown to them.
        if self._observers and solution.solved.all():
            for observer in tuple(self._observers):
                observer(batch.theta, solution)
        return solution

    def observe(self, observer: Observer) -> None:
        """Call ``observer(θ (B, p), solution)`` after every later call that solves its whole batch (monitor.py)."""
        if not callable(observer):
            raise TypeError(f"observer: got {described(observer)}, expected a callable (theta, solution)")
        self._observers.append(observer)

    def forget(self, observer: Observer) -> None:
        """Stop calling the observer."""
        if observer not in self._observers:
            raise ValueError(
                f"observer: got {observer!r}, expected one that observes this layer; pass what observe() was given"
            )
        self._observers.remove(observer)

    def problem_data(self, *theta: Any, solver_args: Mapping[str, Any] | None = None) -> ProblemData:
        """The cone program at these parameter values: minimize ½xᵀPx + qᵀx subject to Ax + s = b, s ∈ K.

        P and A are sparse matrices, or lists of B in a batched call; q (n,) or (B, n), b (m,) or (B, m). A user's
        maximization is turned into a minimization, and a geometric program is in logarithms. The program is simplified,
        unless the layer was made with ``simplify=False``, and is neither equilibrated nor presolved. It takes what
        ``solve`` takes.
        """
        compiled = self.compiled_for(solver_args)
        _, values = pushed_values(compiled, theta, validate=self.validate)
        return problem_data(compiled, self._batch_of(values, compiled))

    def certify(
        self, *theta: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool | None = None
    ) -> Certificates:
        """Whether the derivative at these parameter values is justified: a Certificate for each instance.

        It takes what ``solve`` takes, and solves; regularity.py has the test. An instance without a solution gets a
        certificate that says so.
        """
        compiled = self.compiled_for(solver_args)
        _, values = pushed_values(compiled, theta, validate=self.validate)
        return self._solve(self._batch_of(values, compiled), solver_args, warm_start, OnFailure.NAN).certify()

    def _batch_of(self, values: Sequence[Any], compiled: ParametricProgram) -> Batch:
        return batch_of_values(compiled, values, validate=self.validate)

    def solve_flat(
        self,
        theta: np.ndarray,
        *,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
    ) -> LayerSolution:
        """Solve for θ (B, p): the program's parameters flattened column by column; adapters use it."""
        batch = batch_of_theta(self.compiled_for(solver_args), theta, validate=self.validate)
        return self._observed(batch, solver_args, warm_start, on_failure)

    def policy_for(self, on_failure: OnFailure | str | None, solver_args: Mapping[str, Any] | None = None) -> OnFailure:
        """What a call does about instances without a solution.

        The call's ``on_failure`` decides, else the layer's; ``solver_args={"raise_on_error": False}`` turns "raise"
        into "nan".
        """
        if on_failure is not None:
            return as_on_failure(on_failure)
        silent = self.on_failure is OnFailure.RAISE and not self._programs.arguments_for(solver_args).raises
        return OnFailure.NAN if silent else self.on_failure

    def smoothing_for(self, solver_args: Mapping[str, Any] | None = None) -> Smoothing | None:
        """What stands in for the exact derivative in a call with these ``solver_args``; None for the exact one."""
        return self._smoothing_of(self._programs.arguments_for(solver_args))

    def _smoothing_of(self, arguments: SolverArguments) -> Smoothing | None:
        return self.smoothing if arguments.lpgd is None else LPGD(*arguments.lpgd)

    def compiled_for(self, solver_args: Mapping[str, Any] | None = None) -> ParametricProgram:
        """The parametric cone program that a call with these ``solver_args`` solves."""
        return self._programs.compiled_for(solver_args)

    def linearize(
        self, compiled: ParametricProgram, theta: np.ndarray, v: np.ndarray, x: np.ndarray | None = None
    ) -> Linearization | PartialLinearization:
        """The solution map linearized at θ (B, p) and a solution's v = y − s (B, m), whatever solver found it.

        v is NaN in instances without a solution. Certificates need x (B, n) too, to judge how exact the solution is.
        """
        return linearize(compiled, theta, v, x, self._programs.default_arguments, self._derivative_policies)

    def _solve(
        self, batch: Batch, solver_args: Mapping[str, Any] | None, warm_start: bool | None, policy: OnFailure
    ) -> LayerSolution:
        settings = self._programs.settings_for(solver_args)
        start = self._start(settings, batch, warm_start)
        smoothing, policies = self._smoothing_of(settings.arguments), self._derivative_policies
        smoothed = smoothing is not None
        solved: SolvedBatch
        if self._chunked_solver is not None and batch.size > 1:
            solved = solved_in_chunks(self._chunked_solver, batch, settings, solver_args, start, policies, smoothed)
        else:
            solved = solved_here(self._programs, batch, settings, start, policies, smoothed)
        self._last.answers = solved.answers
        if start is not None and batch.size:
            self._last.solution = solved.solution
        compiled, asks = settings.compiled, policies.asks_for_zeros(smoothing)
        may_vanish = asks and (isinstance(smoothing, LPGD) or compiled.is_linear_at(batch))
        # θ is kept only where the derivative needs it: for the core, for the logarithms of geometric programs, and
        # where it may be zero.
        kept = batch if solved.needs_values or compiled.gp or may_vanish else batch.without_values()
        warning = policies if may_vanish else None
        return LayerSolution.of(OutputDerivative(compiled, kept, solved, policy, smoothing, warning))

    def _start(self, settings: CallSettings, batch: Batch, warm_start: bool | None) -> WarmStart | None:
        """The points of this thread's last call, where the call is to start from them; without any in the first one."""
        warm = self._warm_start if warm_start is None else as_flag("warm_start", warm_start)
        if not warm:
            return None
        last, structure = getattr(self._last, "solution", None), settings.compiled.structure
        # A call may name a backend that solves another form of the program.
        if last is None or not batch.size or (last.x.shape[1], last.y.shape[1]) != (structure.n, structure.m):
            return WarmStart.nowhere(structure.n, structure.m, batch.size)
        return WarmStart.of(last, batch.size)

    def run(
        self, theta: np.ndarray, solver_args: Mapping[str, Any] | None, start: WarmStart | None
    ) -> tuple[Solution, SolutionMap]:
        """Solve for θ (B, p) in this process; an executor's worker calls it for its chunk (workers.py)."""
        settings = self._programs.settings_for(solver_args)
        batch = batch_of_flat(settings.compiled.parameters, theta)
        solved = solved_here(self._programs, batch, settings, start, self._derivative_policies, False)
        return solved.solution, solved.linearization

    def relinearize(
        self,
        theta: np.ndarray,
        v: np.ndarray,
        solver_args: Mapping[str, Any] | None,
        x: np.ndarray | None = None,
    ) -> SolutionMap:
        """The solution map that ``run`` returned, made again from its solution."""
        made = self.linearize(self.compiled_for(solver_args), theta, v, x)
        if not solver_args:
            return made
        limit = self._programs.arguments_for(solver_args).max_seconds
        if isinstance(made, PartialLinearization):
            return replace(made, inner=replace(made.inner, max_seconds=limit))
        return replace(made, max_seconds=limit)

    def jvp(
        self, theta: Sequence[Any], dtheta: Sequence[Any], *, solver_args: Mapping[str, Any] | None = None
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """The variables at θ and their tangents along dθ."""
        check_count("jvp", "tangents", dtheta, len(self.parameters), "parameter")
        solution = self.solve(*theta, solver_args=solver_args)
        return solution.variables, solution.jvp(*dtheta)

    def vjp(
        self, theta: Sequence[Any], cotangents: Sequence[Any], *, solver_args: Mapping[str, Any] | None = None
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray | None, ...]]:
        """The variables at θ and the gradients of ⟨cotangents, variables⟩ with respect to the parameters."""
        check_count("vjp", "cotangents", cotangents, len(self._compiled.input_map.outputs), "variable")
        solution = self.solve(*theta, solver_args=solver_args)
        return solution.variables, solution.vjp(*cotangents)


@final
class ConicLayer(Layer):
    """A layer of a program that is in conic form already."""

    def __init__(self, compiled: ParametricProgram, options: Options) -> None:
        self._begin(options, compiled, ConicForm())
