"""What the options of one call come to: the arguments of the solve, the order of starting methods, and the program.

A call may name a backend that takes no quadratic objective; the program is canonicalized once more for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

from conelayers.layer.compiled_core import CompiledCore
from conelayers.layer.origin import Origin
from conelayers.problem.parametric import ParametricProgram
from conelayers.solve.backends import (
    Solver,
    SolverArguments,
    choose_solver,
    find_solver,
    merge_solver_args,
    parse_solver_args,
)
from conelayers.solve.order import StartingOrder

__all__ = ["CallSettings", "Programs"]


@final
class CallSettings(NamedTuple):
    """The arguments of a call's solve, the order of its starting methods, and the program that it solves.

    own_methods: whether our own fast methods come first in that order.
    """

    arguments: SolverArguments
    order: StartingOrder
    compiled: ParametricProgram
    own_methods: bool


@final
class Programs:
    """A layer's program in the forms that backends take.

    compiled: the program of calls that name no other backend.
    origin: where the form with a linear objective comes from.
    solver: the backend that the layer names; None for the default.
    call_defaults: the ``solver_args`` of a call that has none.
    """

    def __init__(
        self, compiled: ParametricProgram, origin: Origin, solver: str | None, call_defaults: dict[str, Any]
    ) -> None:
        self.solver = solver
        self._compiled, self._origin, self._call_defaults = compiled, origin, call_defaults
        self._linear: ParametricProgram | None = None
        self._cores: list[tuple[ParametricProgram, CompiledCore | None]] = []
        self.default_arguments = parse_solver_args(call_defaults, solver)
        self._default_settings = self._settings(self.default_arguments, *self._backend_for(self.default_arguments))

    def arguments_for(self, solver_args: Mapping[str, Any] | None) -> SolverArguments:
        """The parsed ``solver_args`` of a call, over the layer's."""
        if not solver_args:
            return self.default_arguments
        return parse_solver_args(merge_solver_args(self._call_defaults, solver_args), self.solver)

    def compiled_for(self, solver_args: Mapping[str, Any] | None) -> ParametricProgram:
        """The program that a call with these ``solver_args`` solves."""
        if not solver_args:
            return self._default_settings.compiled
        return self._backend_for(self.arguments_for(solver_args))[1]

    def settings_for(self, solver_args: Mapping[str, Any] | None) -> CallSettings:
        """All that these ``solver_args`` decide."""
        if not solver_args:
            return self._default_settings
        arguments = self.arguments_for(solver_args)
        return self._settings(arguments, *self._backend_for(arguments))

    def _settings(self, arguments: SolverArguments, solver: Solver, compiled: ParametricProgram) -> CallSettings:
        order = StartingOrder(
            solver,
            arguments.for_solver(solver),
            (arguments.method or self.solver) is not None,
            arguments.max_seconds,
            arguments.fallback,
        )
        return CallSettings(arguments, order, compiled, order.begins_with_own_methods)

    def core_of(self, compiled: ParametricProgram) -> CompiledCore | None:
        """The compiled core of one of the programs, made when first asked for; None where it does not serve it."""
        for known, core in self._cores:
            if known is compiled:
                return core
        made = CompiledCore.of(compiled)
        self._cores.append((compiled, made))
        return made

    def _backend_for(self, arguments: SolverArguments) -> tuple[Solver, ParametricProgram]:
        """The backend for these arguments, and the program in the form that it takes."""
        name = arguments.method or self.solver
        compiled = self._compiled
        if name is not None and compiled.structure.P.nnz > 0 and not find_solver(name).quadratic:
            compiled = self._with_linear_objective(name)
        structure = compiled.structure
        solver = choose_solver(name, structure.cones, structure.P.nnz > 0, arguments.native_names)
        arguments.for_solver(solver)
        return solver, compiled

    def _with_linear_objective(self, solver: str) -> ParametricProgram:
        """The program for a backend, named at the call, that takes no quadratic objective."""
        if self._linear is None:
            self._linear = self._origin.linear(solver)
        return self._linear
