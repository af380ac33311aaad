"""The framework-free engine: a parametric problem as a layer over NumPy arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import cvxpy as cp
import numpy as np

from conelayers.canonicalize import canonicalize
from conelayers.derivative import Linearization
from conelayers.errors import Status
from conelayers.parameters import Batch, ParameterSpec, combine_batch, flatten, unflatten
from conelayers.parametric import ParametricProgram
from conelayers.program import ConeProgram, Residuals, Solution
from conelayers.solve import plan, raise_or_warn, solve_batch
from conelayers.solvers import Solver, SolverArguments, choose_solver, find_solver, parse_solver_args

__all__ = ["Layer", "LayerSolution"]

_SEEN = 1e-8  # relative size from which a null vector of J counts as seen by an output or a parameter


def _largest(h: np.ndarray) -> float:
    return float(np.max(np.abs(h), initial=0.0))


@final
@dataclass(frozen=True)
class LayerSolution:
    """The solution of one call, and its derivatives.

    variables: the requested variables, in their order, each (*shape) or (B, *shape). x (n,), y (m,), s (m,): the cone
    program's solution, with a leading B in a batched call; status: a Status, or a tuple of B; residuals: a Residuals.
    The factored linear system is made at the first derivative and kept.
    """

    variables: tuple[np.ndarray, ...]
    _compiled: ParametricProgram
    _batch: Batch
    _program: ConeProgram
    _solution: Solution
    _linearization: Linearization

    def _unbatch(self, values: Any) -> Any:
        if self._batch.batched:
            return values
        return np.asarray(values[0]) if isinstance(values, np.ndarray) else values[0]

    @property
    def x(self) -> np.ndarray:
        """The cone program's x."""
        return self._unbatch(self._solution.x)

    @property
    def y(self) -> np.ndarray:
        """The cone program's y ∈ K*."""
        return self._unbatch(self._solution.y)

    @property
    def s(self) -> np.ndarray:
        """The cone program's s ∈ K."""
        return self._unbatch(self._solution.s)

    @property
    def status(self) -> Status | tuple[Status, ...]:
        """The Status of the instance, or of each instance in a batched call."""
        return self._unbatch(self._solution.status)

    @property
    def solver(self) -> str | tuple[str, ...]:
        """The name of the backend that solved the instance, or each instance in a batched call."""
        return self._unbatch(self._solution.solver)

    @property
    def residuals(self) -> Residuals:
        """The relative errors in the optimality conditions, recomputed from the data."""
        r = self._solution.residuals
        return r if self._batch.batched else Residuals(r.primal[0], r.dual[0], r.gap[0], r.cone[0])

    @property
    def value(self) -> np.ndarray:
        """The optimal value of the user's problem, () or (B,)."""
        program, x = self._program, self._solution.x
        constant = self._compiled.constant.value(self._compiled.phi(self._batch.theta))[:, 0]
        value = np.einsum("bi,bi->b", 0.5 * program.Px(x) + program.q, x) + constant
        value = -value if self._compiled.maximize else value
        return self._unbatch(np.exp(value) if self._compiled.gp else value)

    def jvp(self, *dtheta: Any) -> tuple[np.ndarray, ...]:
        """The tangents of the variables along dθ, one array (or None for zero) of the parameter's value's shape each.

        Raises ValueError for a wrong number or shape; warns SingularDerivativeWarning where J is singular.
        """
        specs = self._compiled.parameters
        if len(dtheta) != len(specs):
            raise ValueError(
                f"jvp: got {len(dtheta)} tangents, expected {len(specs)}, one for each parameter (None for zero)"
            )
        theta = self._batch.theta
        direction = np.zeros_like(theta)
        for i, (spec, d, batched) in enumerate(zip(specs, dtheta, self._batch.batched_parameters, strict=True)):
            if d is not None:
                direction[:, spec.columns] = flatten(
                    self._shaped(f"jvp: tangent {i} ({spec.name})", d, spec.shape, batched)
                )
        x, y, outputs = self._solution.x, self._solution.y, self._compiled.outputs
        dprogram = self._compiled.tangent(theta, direction)
        r1 = -(dprogram.Px(x) + dprogram.ATy(y) + dprogram.q)
        r2 = dprogram.Ax(x) - dprogram.b
        values = [o.value(x, y) for o in outputs]

        def outputs_move(i: int, dx: np.ndarray, dy: np.ndarray) -> bool:
            size = max(_largest(dx), _largest(dy))
            return any(_largest(o.tangent(v[[i]], dx, dy)) > _SEEN * size for o, v in zip(outputs, values, strict=True))

        dx, dy, _ = self._linearization.tangent(r1, r2, outputs_move)
        flats = [o.tangent(v, dx, dy) for o, v in zip(outputs, values, strict=True)]
        return tuple(self._unbatch(unflatten(flat, o.shape)) for flat, o in zip(flats, outputs, strict=True))

    def vjp(self, *cotangents: Any, needed: Sequence[bool] | None = None) -> tuple[np.ndarray | None, ...]:
        """The gradients with respect to the parameters for cotangents of the variables (None for zero).

        Each gradient has the shape of the parameter's value; an unbatched parameter in a batched call gets the sum over
        the batch, a symmetric one its symmetric gradient. With ``needed``, the others are not computed and come as None.
        Raises ValueError for a wrong number or shape; warns SingularDerivativeWarning where J is singular.
        """
        compiled, outputs = self._compiled, self._compiled.outputs
        if len(cotangents) != len(outputs):
            raise ValueError(
                f"vjp: got {len(cotangents)} cotangents, expected {len(outputs)}, one for each variable (None for zero)"
            )
        specs = compiled.parameters
        wanted = tuple(bool(w) for w in needed) if needed is not None else (True,) * len(specs)
        if len(wanted) != len(specs):
            raise ValueError(f"vjp: needed: got {len(wanted)} flags, expected {len(specs)}, one for each parameter")
        theta, x, y = self._batch.theta, self._solution.x, self._solution.y
        gx, gy = np.zeros_like(x), np.zeros_like(y)
        for i, (o, g) in enumerate(zip(outputs, cotangents, strict=True)):
            if g is not None:
                flat = flatten(self._shaped(f"vjp: cotangent {i} ({o.name})", g, o.shape, self._batch.batched))
                target = gx if o.primal else gy
                target += o.adjoint(o.value(x, y), flat)
        if not any(wanted):
            return (None,) * len(specs)
        chosen = compiled.restricted(wanted)

        def gradients_move(i: int, lam: np.ndarray, mu: np.ndarray) -> bool:
            t, u, w = (np.repeat(h[[i]], len(lam), axis=0) for h in (theta, x, y))
            size = max(_largest(lam), _largest(mu)) * max(1.0, _largest(u), _largest(w))
            return _largest(chosen.adjoint(t, u, w, lam, mu)) > _SEEN * size

        lam, mu = self._linearization.adjoint(gx, gy, np.zeros_like(gy), gradients_move)
        gradient = chosen.adjoint(theta, x, y, lam, mu)
        return tuple(
            self._parameter_gradient(gradient, spec, batched) if want else None
            for spec, batched, want in zip(specs, self._batch.batched_parameters, wanted, strict=True)
        )

    def _parameter_gradient(self, gradient: np.ndarray, spec: ParameterSpec, batched: bool) -> np.ndarray:
        full = unflatten(gradient[:, spec.columns], spec.shape)
        return full if batched else np.asarray(full.sum(axis=0))

    def _shaped(self, what: str, value: Any, shape: tuple[int, ...], batched: bool) -> np.ndarray:
        value = np.asarray(value, dtype=np.float64)
        expected = (self._batch.theta.shape[0], *shape) if batched else shape
        if value.shape != expected:
            raise ValueError(f"{what}: got shape {value.shape}, expected {expected}")
        return value if batched else value[None]


@final
class Layer:
    """A parametric convex problem as a differentiable map from parameters to solutions, over NumPy arrays.

    problem: a DPP-compliant cvxpy.Problem. parameters: all of its parameters, in the order in which values are passed.
    variables: its variables or ``constraint.dual_variables[i]``, in the order in which values are returned.
    solver: "CLARABEL", "SCS", "ECOS", or None: Clarabel, for quadratic programs after a loose try with SCS. gp: the problem is a
    geometric program. solver_args: defaults for every call (see conelayers/solvers/arguments.py for the table).
    warm_start: start every solve at this thread's previous solution, where the backend can.

    Raises CanonicalizationError (a ValueError) for a problem that is not DCP or DPP, or has integer or complex
    variables; ValueError for parameters or variables that are not the problem's, a solver that does not take it, and
    unknown options. The problem is compiled here, once; later changes to it do not reach the layer.
    """

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        *,
        solver: str | None = None,
        gp: bool = False,
        solver_args: Mapping[str, Any] | None = None,
        verbose: bool = False,
        canon_backend: str | None = None,
        warm_start: bool = False,
    ) -> None:
        # "DIFFCP" is how migrants ask for the default; the names of other canonicalization backends mean nothing here.
        self._solver = None if solver is None or str(solver).upper() == "DIFFCP" else find_solver(solver).name
        self._solver_args = {"verbose": verbose, **(solver_args or {})}
        self._warm_start = bool(warm_start)
        backend = canon_backend if canon_backend in ("CPP", "SCIPY", "COO") else None
        arguments = parse_solver_args(self._solver_args, self._solver)
        method = arguments.method or self._solver
        self._compilation: dict[str, Any] = {"gp": bool(gp), "canon_backend": backend}
        quadratic = method is None or find_solver(method).quadratic
        self._compiled = canonicalize(
            problem, parameters, variables, gp=gp, quadratic=quadratic, canon_backend=backend, verbose=verbose
        )
        self._source: tuple[Any, ...] | None = (problem, tuple(parameters), tuple(variables))
        self._linear: ParametricProgram | None = None
        self._solver_for(arguments)
        self._last = threading.local()

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """Name and shape of each parameter, in the order in which values are passed."""
        return self._compiled.parameters

    def __getstate__(self) -> dict[str, Any]:
        # cvxpy's objects carry process-wide ids that can collide elsewhere: only the compiled program travels.
        return {k: v for k, v in self.__dict__.items() if k not in ("_source", "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._source = None
        self._last = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> Layer:
        clone = object.__new__(Layer)
        clone.__setstate__(dict(self.__getstate__()))
        clone._source = self._source
        return clone

    def _epigraph(self, solver: str) -> ParametricProgram:
        """The program with a linear objective, for a backend named at the call that takes no quadratic one."""
        if self._linear is None:
            if self._source is None:
                raise ValueError(
                    f"solver_args: solve_method {solver} needs the problem compiled with a linear objective, which a layer "
                    f"that was pickled cannot do; construct the layer with solver={solver!r}"
                )
            self._linear = canonicalize(*self._source, quadratic=False, **self._compilation)
        return self._linear

    def _solver_for(self, arguments: SolverArguments) -> tuple[Solver, ParametricProgram]:
        """The backend for these arguments, and the program in the form that it takes."""
        name = arguments.method or self._solver
        compiled = self._compiled
        if name is not None and compiled.structure.P.nnz > 0 and not find_solver(name).quadratic:
            compiled = self._epigraph(name)
        structure = compiled.structure
        solver = choose_solver(name, structure.cones, structure.P.nnz > 0, arguments.native_names)
        arguments.for_solver(solver)
        return solver, compiled

    def solve(
        self, *theta: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool | None = None
    ) -> LayerSolution:
        """Solve for parameter values, one array (*shape) or (B, *shape) each; unbatched ones are broadcast.

        solver_args: options for this call, over the layer's. Returns a LayerSolution. Raises ValueError for bad values
        (naming the parameter and the instance), SolveError naming the instances without a solution; warns
        InaccurateSolutionWarning where the residuals miss 1e−9.
        """
        arguments = parse_solver_args({**self._solver_args, **(solver_args or {})}, self._solver)
        solver, compiled = self._solver_for(arguments)
        batch = combine_batch(compiled.parameters, [np.asarray(value) for value in theta])
        program = compiled.program(batch.theta)
        warm = self._warm_start if warm_start is None else warm_start
        start = getattr(self._last, "solution", None) if warm else None
        if start is not None and (start.x.shape, start.y.shape) != (program.q.shape, program.b.shape):
            start = None
        attempts = plan(
            solver, arguments.for_solver(solver), program.structure, (arguments.method or self._solver) is not None
        )
        solved = solve_batch(program, attempts, arguments.jobs_forward, start)
        solution = solved.solution
        if warm:
            self._last.solution = solution
        raise_or_warn(solution)
        values = [o.value(solution.x, solution.y) for o in compiled.outputs]
        shaped = [unflatten(v, o.shape) for v, o in zip(values, compiled.outputs, strict=True)]
        return LayerSolution(
            variables=tuple(v if batch.batched else np.asarray(v[0]) for v in shaped),
            _compiled=compiled,
            _batch=batch,
            _program=program,
            _solution=solution,
            _linearization=Linearization(
                solved.program, solved.point, solved.scaling, arguments.jobs_backward, solved.factorization
            ),
        )

    def jvp(
        self, theta: Sequence[Any], dtheta: Sequence[Any], *, solver_args: Mapping[str, Any] | None = None
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """The variables at θ and their tangents along dθ."""
        solution = self.solve(*theta, solver_args=solver_args)
        return solution.variables, solution.jvp(*dtheta)

    def vjp(
        self, theta: Sequence[Any], cotangents: Sequence[Any], *, solver_args: Mapping[str, Any] | None = None
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray | None, ...]]:
        """The variables at θ and the gradients of ⟨cotangents, variables⟩ with respect to the parameters."""
        solution = self.solve(*theta, solver_args=solver_args)
        return solution.variables, solution.vjp(*cotangents)
