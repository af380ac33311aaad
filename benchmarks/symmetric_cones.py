"""Time, memory and error of the derivative for large semidefinite and second-order cones.

    nearest positive semidefinite matrix   minimize ½‖X − A‖²  subject to X ⪰ 0,              orders up to 60
    one large ball                         minimize ½‖x − a‖²  subject to ‖x − c‖ ≤ r,        up to 10,000 dimensions

Both have closed forms. Each size runs in a process of its own. Memory: the peak of NumPy's and SciPy's arrays during a
second solve and derivative (tracemalloc), and the process's growth up to the end of construction, which is cvxpy's.
Run ``python benchmarks/symmetric_cones.py``.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import tracemalloc
from typing import NamedTuple

import cvxpy as cp
import numpy as np

from conelayers import Layer


class Figures(NamedTuple):
    forward: float
    backward: float
    arrays: float
    construction: float
    gradient: np.ndarray


def resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(layer: Layer, values: list[np.ndarray], g: np.ndarray) -> Figures:
    construction = resident()
    start = time.perf_counter()
    solution = layer.solve(*values)
    middle = time.perf_counter()
    (gradient, *_) = solution.vjp(g)
    end = time.perf_counter()
    tracemalloc.start()
    layer.solve(*values).vjp(g)
    arrays = tracemalloc.get_traced_memory()[1] / 2**20
    return Figures(middle - start, end - middle, arrays, construction, gradient)


def semidefinite(n: int) -> tuple[Figures, float]:
    rng = np.random.default_rng(0)
    X, A = cp.Variable((n, n), symmetric=True), cp.Parameter((n, n), symmetric=True)
    layer = Layer(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(X - A)), [X >> 0]), [A], [X])
    G = rng.standard_normal((n, n))
    value, g = (G + G.T) / 2, rng.standard_normal((n, n))
    figures = measure(layer, [value], g)
    eigenvalues, Q = np.linalg.eigh(value)
    up, down = np.maximum(eigenvalues, 0), np.maximum(-eigenvalues, 0)
    top = np.maximum.outer(up, up)
    omega = top / (top + np.maximum.outer(down, down))
    expected = Q @ (omega * (Q.T @ ((g + g.T) / 2) @ Q)) @ Q.T
    return figures, float(np.abs(figures.gradient - expected).max())


def second_order(n: int) -> tuple[Figures, float]:
    rng = np.random.default_rng(0)
    x, a, r = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    c = rng.standard_normal(n)
    layer = Layer(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - a)), [cp.norm(x - c) <= r]), [a, r], [x])
    value, radius, g = rng.standard_normal(n), 0.5, rng.standard_normal(n)
    figures = measure(layer, [value, np.array(radius)], g)
    u = (value - c) / np.linalg.norm(value - c)
    expected = radius / np.linalg.norm(value - c) * (g - u * (u @ g))
    return figures, float(np.abs(figures.gradient - expected).max())


def run(kind: str, n: int) -> str:
    base = resident()
    f, error = {"psd": semidefinite, "soc": second_order}[kind](n)
    return f"{kind:6}{n:8}{f.forward:12.3f}{f.backward:12.3f}{f.arrays:12.0f}{f.construction - base:18.0f}{error:12.1e}"


def main() -> None:
    print(
        f"{'cone':6}{'size':>8}{'forward s':>12}{'backward s':>12}{'arrays MiB':>12}{'construction MiB':>18}{'error':>12}"
    )
    context = multiprocessing.get_context("spawn")
    for kind, sizes in (("psd", (10, 20, 40, 60)), ("soc", (100, 1000, 10_000))):
        for n in sizes:
            with context.Pool(1) as pool:
                print(pool.apply(run, (kind, n)), flush=True)


if __name__ == "__main__":
    main()
