"""The framework-free engine: a parametric problem as a layer over NumPy arrays."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NamedTuple, Self, final

import cvxpy as cp
import numpy as np

from conelayers.derivatives.certificate import Certificates
from conelayers.derivatives.linearization import Linearization, SolutionMap
from conelayers.derivatives.policies import Policies
from conelayers.derivatives.smoothing import LPGD, Base, Resolver, Smoothing
from conelayers.layer.options import Options, describe_options, takes_options
from conelayers.layer.origin import ConicForm, CvxpyProblem, Origin
from conelayers.layer.outcome import CallInfo, OnFailure, PartialLinearization, as_on_failure
from conelayers.layer.solution import LayerSolution
from conelayers.layer.workers import Spread, check_executor
from conelayers.numerics.bounds import emptied, missing
from conelayers.numerics.cones import Selection, product_cone
from conelayers.numerics.presolve import presolve
from conelayers.numerics.residual import evaluate
from conelayers.numerics.scaling import equilibrate_program
from conelayers.problem.input_map import Replacement
from conelayers.problem.numpy_values import ARRAYS
from conelayers.problem.parameter_checks import check_theta, check_values, combine_batch, given_arrays
from conelayers.problem.parameters import Batch, ParameterSpec, flatten, moved_array, unflatten
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.cone_program import ConeProgram
from conelayers.program.cones import Cones
from conelayers.program.patterns import instance_values
from conelayers.program.solution import Solution
from conelayers.solve.backends import (
    Solver,
    SolverArguments,
    choose_solver,
    find_solver,
    merge_solver_args,
    parse_solver_args,
)
from conelayers.solve.batch import WarmStart, solve_batch
from conelayers.solve.order import StartingOrder
from conelayers.support.arguments import as_flag, check_count, described
from conelayers.support.display import html_table
from conelayers.support.errors import usable_mask

__all__ = ["ConicLayer", "Layer", "Observer", "ProblemData"]


@final
class ProblemData(NamedTuple):
    """The data of a cone program; see ``Layer.problem_data``."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    cones: Cones


_STAYS_HERE = frozenset({"_last", "_derivative_policies", "_observers", "_executor", "_spread"})  # not pickled

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
        self._solver, self._solver_args = options.solver, options.call_defaults
        self._compiled, self._origin = compiled, origin
        self._linear: ParametricProgram | None = None
        self._default_arguments = parse_solver_args(self._solver_args, self._solver)
        self._default = self._solver_for(self._default_arguments)
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
            f"{self._solver or 'default'}"
        )

    def _repr_html_(self) -> str:
        structure = self._compiled.structure
        rows = [(spec.name, str(spec.shape), ", ".join(sorted(spec.attributes))) for spec in self.parameters]
        notes = [
            f"cone program: {structure.n} variables, {structure.m} rows, {structure.A.nnz} entries in A, "
            f"{structure.P.nnz} in P; {structure.cones.described()}",
            f"solver: {self._solver or 'default'}",
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
        """Forget all calls, observers and warnings that were given."""
        self._last = threading.local()
        self._derivative_policies = Policies(*self._policies, self._compiled.naming)
        self._observers: list[Observer] = []
        self.executor = self._executor

    @property
    def executor(self) -> Executor | None:
        """Where batches are solved; another one may take its place."""
        return self._executor

    @executor.setter
    def executor(self, executor: Executor | None) -> None:
        self._executor = check_executor(executor)
        wanted = executor is not None or self.progress
        self._spread = Spread(self, executor, self.chunk_size, self.progress) if wanted else None

    def _with_linear_objective(self, solver: str) -> ParametricProgram:
        """The program for a backend named at the call that takes no quadratic objective."""
        if self._linear is None:
            self._linear = self._origin.linear(solver)
        return self._linear

    def _solver_for(self, arguments: SolverArguments) -> tuple[Solver, ParametricProgram]:
        """The backend for these arguments, and the program in the form that it takes."""
        name = arguments.method or self._solver
        compiled = self._compiled
        if name is not None and compiled.structure.P.nnz > 0 and not find_solver(name).quadratic:
            compiled = self._with_linear_objective(name)
        structure = compiled.structure
        solver = choose_solver(name, structure.cones, structure.P.nnz > 0, arguments.native_names)
        arguments.for_solver(solver)
        return solver, compiled

    @property
    def last(self) -> CallInfo | None:
        """How each instance of this thread's last call ended, also if it raised; None before the first."""
        return getattr(self._last, "info", None)

    def solve(
        self,
        *theta: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
    ) -> LayerSolution:
        """Solve for parameter values, one array (*shape) or (B, *shape) each; unbatched ones are broadcast.

        solver_args, on_failure: for this call, over the layer's.

        Returns a LayerSolution. Raises ValueError for bad values
        (naming the parameter and the instance), SolveError naming the instances without a solution; warns
        InaccurateSolutionWarning where the residuals miss 1e−9.
        """
        options: dict[str, Any] = {"solver_args": solver_args, "warm_start": warm_start, "on_failure": on_failure}
        compiled = self.compiled_for(solver_args)
        given, values = self._pushed(theta, compiled)
        return self.solve_parts(*values, **options).seen_through(compiled.input_map, given)

    def _pushed(self, theta: Sequence[Any], compiled: ParametricProgram) -> tuple[Sequence[Any], Sequence[Any]]:
        """The user's values as arrays, and the values of the program's parameters made of them."""
        input_map = compiled.input_map
        if input_map.is_identity:  # the program makes arrays of its values itself
            return theta, theta
        given = input_map.arrays(theta)
        input_map.check_finite(given, ARRAYS)
        with np.errstate(all="ignore"):
            return given, input_map.push(given, ARRAYS, validate=self.validate)

    def solve_parts(
        self,
        *values: Any,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
    ) -> LayerSolution:
        """Solve for values of the program's own parameters, which the input map makes of the user's (input_map.py)."""
        return self._observed(self._batch(values, self.compiled_for(solver_args)), solver_args, warm_start, on_failure)

    def _observed(
        self,
        batch: Batch,
        solver_args: Mapping[str, Any] | None,
        warm_start: bool | None,
        on_failure: OnFailure | str | None,
    ) -> LayerSolution:
        solution = self._solve(batch, solver_args, warm_start, self.policy_for(on_failure, solver_args))
        solution.react()
        # A part of the batch is not what a monitor compares with other calls.
        for observer in tuple(self._observers) if solution.solved.all() else ():
            observer(batch.theta, solution)
        return solution

    def observe(self, observer: Observer) -> None:
        """Call ``observer(θ (B, p), solution)`` after every solve of a whole batch from now on; see monitor.py."""
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

        P and A are sparse matrices, lists of B in a batched call; q (n,) or (B, n), b (m,) or (B, m). The program is a
        minimization also where the user's is a maximization, in logarithms for a geometric program, simplified (unless
        the layer was made with ``simplify=False``), and before equilibration and presolve. Takes what ``solve`` takes.
        """
        compiled = self.compiled_for(solver_args)
        _, values = self._pushed(theta, compiled)
        batch = self._batch(values, compiled)
        program = compiled.program(batch.theta)
        structure = program.structure
        P, A = (
            [pattern.matrix(instance_values(values, i)) for i in range(len(batch.theta))]
            for pattern, values in ((structure.P, program.P), (structure.A, program.A))
        )
        if batch.batched:
            return ProblemData(P, program.q, A, program.b, structure.cones)
        return ProblemData(P[0], program.q[0], A[0], program.b[0], structure.cones)

    def certify(
        self, *theta: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool | None = None
    ) -> Certificates:
        """Whether the derivative at these parameter values is justified: a Certificate for each instance (regularity.py).

        Takes what ``solve`` takes, and solves. An instance without a solution gets a certificate that says so.
        """
        compiled = self.compiled_for(solver_args)
        _, values = self._pushed(theta, compiled)
        return self._solve(self._batch(values, compiled), solver_args, warm_start, OnFailure.NAN).certify()

    def _batch(self, values: Sequence[Any], compiled: ParametricProgram) -> Batch:
        arrays = given_arrays(compiled.parameters, values)
        batch = combine_batch(compiled.parameters, arrays, validate=self.validate, infinite=compiled.infinite)
        compiled.check_bounds(batch.theta, batch.batched)
        return batch

    def solve_flat(
        self,
        theta: np.ndarray,
        *,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
        on_failure: OnFailure | str | None = None,
    ) -> LayerSolution:
        """Solve for θ (B, p): the program's parameters flattened column by column; adapters use it."""
        compiled = self.compiled_for(solver_args)
        specs = compiled.parameters
        given = theta = check_theta(specs, theta)
        for spec in specs:
            values, infinite = unflatten(theta[:, spec.columns], spec.shape), compiled.infinite[spec.columns]
            check_values(spec, values, True, attributes=self.validate, infinite=infinite)
            if self.validate and spec.moved:
                theta = theta.copy() if theta is given else theta
                theta[:, spec.columns] = flatten(moved_array(spec, values))
        compiled.check_bounds(theta, True)
        batch = Batch(theta, True, (True,) * len(specs))
        return self._observed(batch, solver_args, warm_start, on_failure)

    def policy_for(self, on_failure: OnFailure | str | None, solver_args: Mapping[str, Any] | None = None) -> OnFailure:
        """What a call with these options does about instances without a solution: what it says, or else the layer."""
        if on_failure is not None:
            return as_on_failure(on_failure)
        silent = self.on_failure is OnFailure.RAISE and not self._arguments_for(solver_args).raises
        return OnFailure.NAN if silent else self.on_failure

    def _arguments_for(self, solver_args: Mapping[str, Any] | None) -> SolverArguments:
        if not solver_args:
            return self._default_arguments
        return parse_solver_args(merge_solver_args(self._solver_args, solver_args), self._solver)

    def smoothing_for(self, solver_args: Mapping[str, Any] | None = None) -> Smoothing | None:
        """What stands in for the exact derivative in a call with these options."""
        return self._smoothing_of(self._arguments_for(solver_args))

    def _smoothing_of(self, arguments: SolverArguments) -> Smoothing | None:
        return self.smoothing if arguments.lpgd is None else LPGD(*arguments.lpgd)

    def compiled_for(self, solver_args: Mapping[str, Any] | None = None) -> ParametricProgram:
        """The parametric cone program that a call with these options solves."""
        if not solver_args:
            return self._default[1]
        return self._solver_for(self._arguments_for(solver_args))[1]

    def linearize(
        self, compiled: ParametricProgram, theta: np.ndarray, v: np.ndarray, x: np.ndarray | None = None
    ) -> Linearization | PartialLinearization:
        """The solution map linearized at θ (B, p) and a solution's v = y − s (B, m), whoever found it; NaN for none.

        Certificates need x (B, n) too: they ask how exact the solution is.
        """
        members = np.flatnonzero(~np.isnan(v).any(axis=1))
        made = self._linearized(compiled, theta[members], v[members], None if x is None else x[members])
        return made if members.size == len(v) else PartialLinearization(made, members, len(v))

    def _linearized(
        self, compiled: ParametricProgram, theta: np.ndarray, v: np.ndarray, x: np.ndarray | None
    ) -> Linearization:
        program = compiled.program(theta)
        scaled, scaling, _ = equilibrate_program(program)
        presolved = presolve(emptied(scaled, missing(program)))
        v = np.where(np.isfinite(program.b), v, -1.0)
        y, s, _ = product_cone(program.structure.cones).decompose(v)
        x, y, s = scaling.scale(np.zeros_like(program.q) if x is None else x, y, s)
        point = evaluate(presolved.whole, x, y - s)
        arguments = self._default_arguments
        made = Linearization(
            presolved,
            point,
            scaling,
            arguments.jobs_backward,
            open_rows=missing(program),
            max_seconds=arguments.max_seconds,
        )
        return self._derivative_policies.apply_at_point(made)

    def _solve(
        self, batch: Batch, solver_args: Mapping[str, Any] | None, warm_start: bool | None, policy: OnFailure
    ) -> LayerSolution:
        arguments, order, compiled = self._order_for(solver_args)
        program = compiled.program(batch.theta)
        warm = self._warm_start if warm_start is None else as_flag("warm_start", warm_start)
        last = getattr(self._last, "solution", None) if warm and program.batch else None
        # A backend named at the call may have another program.
        fits = last is not None and last.x.shape[1:] == program.q.shape[1:] and last.y.shape[1:] == program.b.shape[1:]
        start = WarmStart.of(last, program.batch) if last is not None and fits else None
        linearization: SolutionMap
        if self._spread is not None and program.batch > 1:
            solution, remote = self._spread.solve(
                program.structure, batch.theta, solver_args, start, arguments.max_seconds
            )
            linearization = replace(remote, on_trouble=self._derivative_policies.on_trouble(solution))
        else:
            solution, linearization = self._run(program, order, arguments, start)
        self._last.info = CallInfo.of(solution)
        if warm and solution.x.size:
            self._last.solution = solution
        smoothing = self._smoothing_of(arguments)
        linear = program.structure.cones.kinds <= {"zero", "nonneg"} and not program.P.any()
        may_vanish = (linear or isinstance(smoothing, LPGD)) and self._derivative_policies.asks_for_zeros(smoothing)
        values = [o.value(solution.x, solution.y) for o in compiled.outputs]
        shaped = [unflatten(v, o.shape) for v, o in zip(values, compiled.outputs, strict=True)]
        return LayerSolution(
            variables=tuple(v if batch.batched else np.asarray(v[0]) for v in shaped),
            _compiled=compiled,
            # θ is kept only where the derivative needs it: for the logarithms of geometric programs, and where it may
            # be zero.
            _batch=batch if compiled.gp or may_vanish else batch._replace(theta=np.empty((program.batch, 0))),
            _value=compiled.value(batch.theta, program, solution.x),
            _solution=solution,
            _linearization=linearization,
            _on_failure=policy,
            _smoothing=smoothing,
            _base=self._base(program, order, solution, compiled, arguments) if smoothing is not None else None,
            _policies=self._derivative_policies if may_vanish else None,
        )

    def _order_for(
        self, solver_args: Mapping[str, Any] | None
    ) -> tuple[SolverArguments, StartingOrder, ParametricProgram]:
        """The options of a call, how it is solved, and what."""
        if solver_args:
            arguments = self._arguments_for(solver_args)
            solver, compiled = self._solver_for(arguments)
        else:
            arguments, (solver, compiled) = self._default_arguments, self._default
        return (
            arguments,
            StartingOrder(
                solver,
                arguments.for_solver(solver),
                (arguments.method or self._solver) is not None,
                arguments.max_seconds,
                arguments.fallback,
            ),
            compiled,
        )

    def _run(
        self, program: ConeProgram, order: StartingOrder, arguments: SolverArguments, start: WarmStart | None
    ) -> tuple[Solution, SolutionMap]:
        solved = solve_batch(program, order, arguments.jobs_forward, start, arguments.jobs_backward)
        solution, linearization = self._derivative_policies.apply(solved.solution, Linearization.of(solved))
        linearization = replace(linearization, max_seconds=arguments.max_seconds)
        return solution, PartialLinearization.of(linearization, solution)

    def run(
        self, theta: np.ndarray, solver_args: Mapping[str, Any] | None, start: WarmStart | None
    ) -> tuple[Solution, SolutionMap]:
        """Solve for θ (B, p) in this process: what an executor's worker does with its chunk (workers.py)."""
        arguments, order, compiled = self._order_for(solver_args)
        return self._run(compiled.program(theta), order, arguments, start)

    def relinearize(
        self,
        theta: np.ndarray,
        v: np.ndarray,
        solver_args: Mapping[str, Any] | None,
        x: np.ndarray | None = None,
    ) -> SolutionMap:
        """The solution map that ``run`` gave, made anew from its solution."""
        made = self.linearize(self.compiled_for(solver_args), theta, v, x)
        if not solver_args:
            return made
        limit = self._arguments_for(solver_args).max_seconds
        if isinstance(made, PartialLinearization):
            return replace(made, inner=replace(made.inner, max_seconds=limit))
        return replace(made, max_seconds=limit)

    def _base(
        self,
        program: ConeProgram,
        order: StartingOrder,
        solution: Solution,
        compiled: ParametricProgram,
        arguments: SolverArguments,
    ) -> Base:
        """What a smoothed derivative needs to solve perturbed problems: those of the instances that have a solution."""
        resolver = Resolver(order, arguments.jobs_forward, arguments.jobs_backward, self._derivative_policies)
        usable = np.flatnonzero(usable_mask(solution.status))
        if usable.size < program.batch:
            program, solution = program.take(usable), solution.take(usable.tolist())
        return Base(program, solution, compiled.naming, resolver)

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
