"""Time per training step of the JAX layer, under jit and not, beside the plain engine and cvxpylayers' JAX layer: ``python -m benchmarks.jax_steps``.

One process, medians over rounds in which everybody takes a turn. cvxpylayers' layer is called at its defaults and at a tolerance of 1e-9,
outside of jit, which its default solver does not pass. The error is that of the gradient, relative, against the float64 engine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from conelayers import Layer
from conelayers.jax import ConeLayer

ROUNDS = 15


def _qp(n: int, batch: int) -> tuple[Any, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x, b, h = cp.Variable(n), cp.Parameter(n), cp.Parameter(n)
    A = rng.standard_normal((n, n))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x <= h])
    return (problem, [b, h], [x]), [rng.standard_normal((batch, n)), rng.random((batch, n))]


def _soc(n: int, batch: int) -> tuple[Any, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x, c, r = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r])
    return (problem, [c, r], [x]), [2 + rng.standard_normal((batch, n)), rng.random(batch)]


def _contenders(arguments: Any, values: list[np.ndarray]) -> dict[str, Callable[[], Any]]:
    layer, engine = ConeLayer(*arguments), Layer(*arguments)
    gradient = jax.grad(lambda *t: jnp.sum(layer(*t)[0] ** 3), (0, 1))
    compiled = jax.jit(gradient)

    def plain() -> Any:
        solution = engine.solve(*values)
        return solution.vjp(3 * solution.variables[0] ** 2)

    functions: dict[str, Callable[[], Any]] = {
        "engine, NumPy": plain,
        "conelayers, jit": lambda: compiled(*values),
        "conelayers, no jit": lambda: gradient(*values),
    }
    try:
        from cvxpylayers.jax import CvxpyLayer
    except ImportError:
        return functions
    theirs = CvxpyLayer(*arguments[:1], parameters=arguments[1], variables=arguments[2])
    for name, options in {"cvxpylayers, default": {}, "cvxpylayers, eps 1e-9": {"eps": 1e-9}}.items():
        other = jax.grad(lambda *t, options=options: jnp.sum(theirs(*t, solver_args=options)[0] ** 3), (0, 1))
        functions[name] = lambda other=other: other(*map(jnp.asarray, values))
    return functions


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    cases = {f"{name} 10, batch {b}": make(10, b) for b in (1, 32) for name, make in (("QP", _qp), ("SOC", _soc))}
    for name, (arguments, values) in cases.items():
        functions = _contenders(arguments, values)
        exact = functions["engine, NumPy"]()
        times: dict[str, list[float]] = {who: [] for who in functions}
        errors: dict[str, float] = {}
        for round_ in range(ROUNDS + 2):
            for who, function in list(functions.items()):
                start = time.perf_counter()
                got = jax.block_until_ready(function())
                if round_ >= 2:
                    times[who].append(time.perf_counter() - start)
                errors[who] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, exact, strict=True))
        base = statistics.median(times["conelayers, jit"])
        print(name)
        for who, t in times.items():
            median = statistics.median(t)
            print(f"  {who:24}{1e3 * median:8.2f} ms {median / base:7.2f}× jit   gradient error {errors[who]:.0e}")


if __name__ == "__main__":
    main()
