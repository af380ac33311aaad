"""``python -m conelayers check``: is this installation sound?

Prints the versions of what conelayers stands on, which solvers there are, which threads, and tests itself in about a
second: problems with known answers and gradients, over every kind of cone and with every solver. Exit status 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import cvxpy as cp
import numpy as np
from threadpoolctl import threadpool_info

from conelayers import Layer
from conelayers.numerics.quadratic import kernel
from conelayers.solve.backends import SOLVERS

_NEEDED = ("cvxpy", "numpy", "scipy", "clarabel", "scs", "ecos", "qdldl", "autograd", "threadpoolctl")
_OPTIONAL = ("torch", "jax", "scikit-learn", "matplotlib", "tqdm", "distributed")
_ACCURACY = 1e-7

_Case = tuple[Layer, list[np.ndarray], np.ndarray, np.ndarray]


def _ball(solver: str | None) -> _Case:
    """The projection c/‖c‖ onto the unit ball: dx = (I − xxᵀ)dc/‖c‖."""
    x, c = cp.Variable(3), cp.Parameter(3)
    given = np.array([3.0, 0.0, 4.0])
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= 1]), [c], [x], solver=solver)
    unit = given / 5
    return layer, [given], unit, (np.eye(3) - np.outer(unit, unit)) / 5


def _linear(solver: str | None) -> _Case:
    """The vertex x = (b₁, b₂ − b₁)."""
    x, b = cp.Variable(2), cp.Parameter(2)
    layer = Layer(
        cp.Problem(cp.Maximize(2 * x[0] + x[1]), [x[0] <= b[0], x[0] + x[1] <= b[1], x >= 0]), [b], [x], solver=solver
    )
    return layer, [np.array([1.0, 3.0])], np.array([1.0, 2.0]), np.array([[1.0, 0.0], [-1.0, 1.0]])


def _entropic(solver: str | None) -> _Case:
    """The softmax."""
    x, c = cp.Variable(3), cp.Parameter(3)
    given = np.array([0.3, -0.5, 1.0])
    layer = Layer(cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1]), [c], [x], solver=solver)
    p = np.exp(given) / np.exp(given).sum()
    return layer, [given], p, np.diag(p) - np.outer(p, p)


def _semidefinite(solver: str | None) -> _Case:
    """The positive part of a diagonal matrix, by its trace against it."""
    X, t = cp.Variable((2, 2), symmetric=True), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - cp.diag(t))), [X >> 0])
    layer = Layer(problem, [t], [X], solver=solver)
    jacobian = np.zeros((2, 2, 2))
    jacobian[0, 0, 0] = 1.0
    return layer, [np.array([2.0, -1.0])], np.diag([2.0, 0.0]), jacobian


def _power(solver: str | None) -> _Case:
    """maximize √(x₁x₂) over x₁ + x₂ = t."""
    x, t = cp.Variable(2), cp.Parameter()
    problem = cp.Problem(cp.Maximize(cp.geo_mean(x) - 0.01 * cp.sum_squares(x)), [cp.sum(x) == t])
    return Layer(problem, [t], [x], solver=solver), [np.array(3.0)], np.full(2, 1.5), np.full(2, 0.5)


_CASES: dict[str, Callable[[str | None], _Case]] = {
    "linear": _linear,
    "second-order": _ball,
    "semidefinite": _semidefinite,
    "exponential": _entropic,
    "power": _power,
}


def _error(make: Callable[[str | None], _Case], solver: str | None) -> float:
    """Of the solution and of the Jacobian, whichever is worse."""
    layer, values, expected, jacobian = make(solver)
    solution = layer.solve(*values)
    found = solution.jacobian()[0][0]
    return max(float(np.abs(solution.variables[0] - expected).max()), float(np.abs(found - jacobian).max()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _line(name: str, text: Any, *, good: bool = True) -> bool:
    print(f"  {name:<14} {text}" + ("" if good else "   <- PROBLEM"))
    return good


def check() -> bool:
    """Print what there is, and test it; whether all is well."""
    start = time.perf_counter()
    print(f"conelayers {_version('conelayers') or '(not installed, imported from a folder)'}")
    good = _line("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in _NEEDED:
        found = _version(package)
        good &= _line(package, found or "missing: pip install conelayers", good=found is not None)
    for package in _OPTIONAL:
        _line(package, _version(package) or "not installed (optional)")
    print("threads")
    _line("cores", os.cpu_count())
    for library in threadpool_info():
        _line(
            library["user_api"],
            f"{library['internal_api']} {library.get('version') or ''}, {library['num_threads']} threads",
        )
    _line(
        "kernel",
        "compiled"
        if kernel.AVAILABLE
        else "NumPy (no C compiler at installation): slower for small quadratic programs",
    )
    print("self-test: known solutions and Jacobians, largest error")
    for name, make in _CASES.items():
        errors = {}
        for solver in (None, *SOLVERS):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    errors[solver or "default"] = _error(make, solver)
            except ValueError:
                continue  # a solver that does not take these cones
            except Exception as error:  # whatever it is, it is what the check is for
                errors[solver or "default"] = np.inf
                print(f"  {name} by {solver or 'default'}: {type(error).__name__}: {error}")
        fine = all(e <= _ACCURACY for e in errors.values())
        good &= _line(name, ", ".join(f"{who} {e:.0e}" for who, e in errors.items()), good=fine)
    print(f"{'all is well' if good else 'something is wrong, see above'} ({time.perf_counter() - start:.1f} s)")
    return good


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m conelayers", description="Differentiable convex optimization layers."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="versions, solvers, threads, and a self-test of about a second")
    parser.parse_args(arguments)
    return 0 if check() else 1


if __name__ == "__main__":
    sys.exit(main())
