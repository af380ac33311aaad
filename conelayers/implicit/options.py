"""The options of one call of root or fixed_point, their checks, and the solvers and tolerances that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

from conelayers.implicit.rounding import effective
from conelayers.implicit.settings import (
    GMRES,
    Anderson,
    BiCGStab,
    Dense,
    ForwardSolver,
    LinearSolver,
    Newton,
    Picard,
    check_kind,
    is_real,
    linear_solver_for,
)
from conelayers.support.arguments import as_flag

__all__ = ["Options"]

_OF_CALLABLES = 1e-8  # the tolerance for what a user's own solver returns


@final
@dataclass(frozen=True, eq=False)
class Options:
    """The options of a call of the public function ``name``.

    Raises TypeError or ValueError naming the option that does not fit.

    name: the public function, as messages name it.
    fixed: whether z = f(z, θ) is solved, rather than F(z, θ) = 0.
    letter: what messages call the user's function, f or F by default.
    The others are those of ``root``.
    """

    name: str
    fixed: bool
    batched: bool = False
    solve: ForwardSolver | Callable[..., Any] | None = None
    linear: LinearSolver | None = None
    tol: float | None = None
    on_failure: str = "raise"
    letter: str = ""

    def __post_init__(self) -> None:
        name, solve, tol = self.name, self.solve, self.tol
        if solve is not None and (isinstance(solve, type) or not callable(solve)):
            kinds = (Anderson, Picard, Newton) if self.fixed else (Newton,)
            if not isinstance(solve, kinds):
                names = ", ".join(k.__name__ + "()" for k in kinds)
                hint = (
                    "" if self.fixed or not isinstance(solve, (Anderson, Picard)) else "; that one is for fixed_point"
                )
                raise TypeError(
                    f"{name}: solve: got {solve!r}, expected None, {names} or a callable (function, z0, theta) -> "
                    f"z{hint}"
                )
        check_kind(f"{name}: linear", self.linear, (Dense, GMRES, BiCGStab, type(None)))
        as_flag(f"{name}: batched", self.batched)
        if tol is not None and not (is_real(tol) and 0 < tol < float("inf")):
            raise ValueError(f"{name}: tol: got {tol!r}, expected a positive number, or None for the solver's own")
        if self.on_failure not in ("raise", "nan"):
            raise ValueError(f"{name}: on_failure: got {self.on_failure!r}, expected 'raise' or 'nan'")

    @property
    def function_name(self) -> str:
        """What messages call the user's function."""
        return f"{self.name}: {self.letter or ('f' if self.fixed else 'F')}"

    @property
    def solver(self) -> ForwardSolver | Callable[..., Any]:
        """The solver that was given; else Anderson for fixed points, Newton for roots."""
        if self.solve is not None:
            return self.solve
        return Anderson() if self.fixed else Newton()

    @property
    def solver_name(self) -> str:
        """What messages call the solver."""
        return "solve" if callable(self.solver) else type(self.solver).__name__

    def tolerance(self, rounding: float) -> float:
        """The tolerance for z, in a dtype with this unit of rounding."""
        solver = self.solver
        given = self.tol if self.tol is not None else _OF_CALLABLES if callable(solver) else solver.tol
        return effective(given, rounding)

    def linear_solver(self, n: int, count: int) -> LinearSolver:
        """The linear solver for the derivatives of ``count`` instances of n unknowns."""
        return linear_solver_for(self.linear, n, count)

    def step_solver(self, n: int, count: int) -> LinearSolver:
        """The linear solver for Newton's steps."""
        solver = self.solver
        return linear_solver_for(solver.linear if isinstance(solver, Newton) else self.linear, n, count)

    def without_solver(self) -> Options:
        """The options for callers that only need derivatives, since a user's solver may hold traced arrays."""
        return replace(self, solve=None)
