"""Roots and fixed points of functions written in PyTorch, differentiable in every mode: ``root`` and ``fixed_point``.

conelayers.implicit.equation says what the derivatives are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conelayers.implicit.options import Options
from conelayers.implicit.settings import ForwardSolver, LinearSolver
from conelayers.implicit.torch.equation import pose
from conelayers.implicit.torch.functions import solve_equation
from conelayers.torch.outside_graphs import outside_graphs

__all__ = ["fixed_point", "root"]


def root(
    F: Callable[..., Any],
    z0: Any,
    *theta: Any,
    solve: ForwardSolver | Callable[..., Any] | None = None,
    linear: LinearSolver | None = None,
    batched: bool = False,
    tol: float | None = None,
    on_failure: str = "raise",
) -> Any:
    """z with F(z, *theta) = 0, a differentiable function of theta: dz = −B⁻¹A dθ.

    F: (z, *theta) ↦ the structure and shapes of z0. It must be deterministic, leave its arguments unchanged, and is
    called again for derivatives. Tensors and ``nn.Module`` parameters that F closes over get gradients too.
    z0: where to start, a tensor or a list, tuple or dict of them; it gets no gradient. root returns what is shaped so.
    theta: tensors, or lists, tuples and dicts of them; other leaves are passed on as they are.
    solve: ``Newton()`` by default, or a callable (F, z0, theta) -> z of yours, theta a tuple. Under vmap it is called
    once, with the mapped axes in front of z0, and F takes them so.
    linear: ``Dense()`` up to 256 unknowns, ``GMRES()`` beyond, or ``BiCGStab()``.
    batched: whether the leading axis of z counts instances, each a system of its own (row i of F depends on row i of z
    only). theta has no such axis: F is given all of it.
    tol: the relative tolerance for z (conelayers.implicit.settings says relative to what); the solver's own by default,
    1e−8 for a callable.
    on_failure: "raise", or "nan": z and derivatives are NaN in the instances that failed.

    Raises ConvergenceError if the recomputed residual misses ``tol``; LinearSolveError if a derivative's system was not
    solved; TypeError or ValueError for arguments that do not fit.
    """
    return _solved(F, z0, theta, "root", False, batched, solve, linear, tol, on_failure)


def fixed_point(
    f: Callable[..., Any],
    z0: Any,
    *theta: Any,
    solve: ForwardSolver | Callable[..., Any] | None = None,
    linear: LinearSolver | None = None,
    batched: bool = False,
    tol: float | None = None,
    on_failure: str = "raise",
) -> Any:
    """z with z = f(z, *theta), a differentiable function of theta: dz = (I − ∂f/∂z)⁻¹ ∂f/∂θ dθ.

    The arguments and errors are those of ``root``, with F = f − z. solve: ``Anderson()`` by default, ``Picard()``,
    ``Newton()``, or a callable (f, z0, theta) -> z.
    """
    return _solved(f, z0, theta, "fixed_point", True, batched, solve, linear, tol, on_failure)


@outside_graphs
def _solved(function: Callable[..., Any], z0: Any, theta: tuple[Any, ...], *options: Any) -> Any:
    equation, start, leaves = pose(Options(*options), function, z0, theta)
    return equation.restored(solve_equation(equation, start, leaves))
