"""Derivatives of a cvxpy problem without a framework, exact, for every cone and solver.

``backward`` and ``derivative`` fill the attributes that ``Problem.backward`` and ``Problem.derivative`` of cvxpy fill.
Those need a solve with ``requires_grad=True`` by SCS through diffcp; these need values of the parameters only.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np

from conelayers.layer.layer import Layer
from conelayers.layer.solution import LayerSolution
from conelayers.problem.canonicalize import parameter_specs
from conelayers.support.arguments import as_array, as_flag, described

__all__ = ["backward", "derivative"]

_KEPT = "_conelayers"  # the attribute of a problem that holds its layers, by their options


def backward(problem: cp.Problem, *, gp: bool = False, **options: Any) -> LayerSolution:
    """Fill ``parameter.gradient`` of all parameters with Dᵀ g, D = ∂(variables)/∂(parameters) at their present values.

    g is ``variable.gradient`` of each variable, or ones if that is None, as for ``Problem.backward``. A complex
    parameter gets ∂/∂Re + i ∂/∂Im.

    gp: the problem is a geometric program.
    options: those of Layer.

    Solves the problem and returns the LayerSolution, whose ``certify()`` says whether the gradient is justified. The
    layer is made at the first call and kept with the problem. Raises ValueError for a parameter without a value,
    SolveError where there is no solution.
    """
    _check(problem)
    cotangents = [
        np.ones(v.shape) if v.gradient is None else _given(v, v.gradient, "gradient") for v in problem.variables()
    ]
    solution = _solved(problem, gp, options)
    for parameter, gradient in zip(problem.parameters(), solution.vjp(*cotangents), strict=True):
        parameter.gradient = _scalar(gradient)
    return solution


def derivative(problem: cp.Problem, *, gp: bool = False, **options: Any) -> LayerSolution:
    """Fill ``variable.delta`` of all variables with D δ, δ = ``parameter.delta``, or zero if that is None.

    Takes, returns and raises what ``backward`` does.
    """
    _check(problem)
    tangents = [None if p.delta is None else _given(p, p.delta, "delta") for p in problem.parameters()]
    solution = _solved(problem, gp, options)
    for variable, delta in zip(problem.variables(), solution.jvp(*tangents), strict=True):
        variable.delta = _scalar(delta)
    return solution


def _check(problem: Any) -> None:
    if not isinstance(problem, cp.Problem):
        raise TypeError(f"problem: got {described(problem)}, expected a cvxpy.Problem")


def _solved(problem: cp.Problem, gp: bool, options: dict[str, Any]) -> LayerSolution:
    gp = as_flag("gp", gp)
    values = [_value(p) for p in problem.parameters()]
    specs = parameter_specs(problem.parameters())
    missing = [spec.label for spec, value in zip(specs, values, strict=True) if value is None]
    if missing:
        raise ValueError(
            f"problem: got one in which the parameters {', '.join(missing)} have no value, expected one for each; set "
            "their .value"
        )
    kept = vars(problem).setdefault(_KEPT, {})
    key = repr((gp, sorted(options.items())))
    if key not in kept:
        kept[key] = Layer(problem, problem.parameters(), problem.variables(), gp=gp, **options)
    return kept[key].solve(*values)


def _value(parameter: cp.Parameter) -> Any:
    """The parameter's value, sparse if the parameter was declared so."""
    return parameter.value_sparse if parameter.attributes["sparsity"] else parameter.value


def _given(leaf: Any, value: Any, what: str) -> np.ndarray:
    value = as_array(f"{leaf.name()}.{what}", value, complex_too=True)
    if value.shape != leaf.shape and value.size == leaf.size:
        value = value.reshape(leaf.shape, order="F")
    if value.shape != leaf.shape:
        raise ValueError(f"{leaf.name()}.{what}: got shape {value.shape}, expected {tuple(leaf.shape)}")
    if not np.isfinite(value).all():
        raise ValueError(f"{leaf.name()}.{what}: got NaN or infinite values, expected finite ones")
    return value


def _scalar(value: Any) -> Any:
    """A number for a scalar, as cvxpy's own gradients are."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
