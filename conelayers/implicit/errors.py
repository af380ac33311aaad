"""The errors that are raised where an equation or a linear system was not solved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

__all__ = ["ConvergenceError", "LinearSolveError"]

_SHOWN = 10  # indices in a message
_ADVICE = (
    "Raise its max_iter, start nearer (z0), loosen tol, or pass another solve=; on_failure='nan' returns NaN instead."
)


@final
class ConvergenceError(RuntimeError):
    """The equation of some instances was not solved.

    indices: the positions of these instances in the batch.
    residuals: the relative residuals that they reached.
    tolerance: the relative residual that was asked for.
    """

    def __init__(
        self,
        name: str,
        solver: str,
        indices: Sequence[int],
        residuals: Sequence[float],
        tolerance: float,
        batch: bool = True,
        advice: str = _ADVICE,
    ) -> None:
        self.name, self.solver, self.tolerance = name, solver, float(tolerance)
        self.indices, self.residuals = tuple(int(i) for i in indices), tuple(float(r) for r in residuals)
        worst = max(self.residuals, key=lambda r: r if r == r else float("inf"), default=float("nan"))
        self.batch, self.advice = batch, advice
        of = f" at batch index {_shown(self.indices)}" if batch else ""
        super().__init__(
            f"{name}: {solver} did not converge{of}: reached the relative residual {worst:.1e}, expected at most "
            f"{self.tolerance:.1e}. {advice}"
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (
            type(self),
            (self.name, self.solver, self.indices, self.residuals, self.tolerance, self.batch, self.advice),
        )


@final
class LinearSolveError(ArithmeticError):
    """The linear system of a derivative was not solved.

    residual: the relative residual that was reached.
    tolerance: the relative residual that was asked for.
    """

    def __init__(self, name: str, solver: str, residual: float, tolerance: float, advice: str | None = None) -> None:
        self.name, self.solver, self.residual, self.tolerance = name, solver, float(residual), float(tolerance)
        self.advice = advice
        cause = (
            "∂F/∂z is singular at the solution to working precision (or, with batched=True, couples the instances): no "
            "derivative is defined by it; certify_root or certify_fixed_point says more."
            if solver.startswith("Dense")
            else "Raise max_iter or restart, loosen rtol, or pass linear=Dense() where there is memory for the matrix; "
            "a singular ∂F/∂z has no solution (certify_root or certify_fixed_point says so)."
        )
        super().__init__(
            f"{name}: linear: {solver} left the relative residual {self.residual:.1e} in the derivative's linear "
            "system, expected at "
            f"most {self.tolerance:.1e}. " + (advice or f"{cause} on_failure='nan' returns NaN instead.")
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.name, self.solver, self.residual, self.tolerance, self.advice))


def _shown(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:_SHOWN])) + (", …" if len(indices) > _SHOWN else "")
