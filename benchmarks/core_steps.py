"""The compiled core beside the engine: ``python -m benchmarks.core_steps`` (two minutes; needs the core built).

Milliseconds of process CPU time, forward and backward, medians over alternating calls in one process; the errors beside
them are the largest differences between the two, relative to the largest entry.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from benchmarks.suite.case import Case, Family
from benchmarks.suite.families.quadratic import PORTFOLIO, SPARSE_QP
from conelayers import Layer
from conelayers.core import Affine, Core, Model, Output, Parameter

ROUNDS = 15
Draw = Callable[[int], list[np.ndarray]]
Made = tuple[cp.Problem, list[cp.Parameter], list[cp.Variable], Draw]


def core_of(layer: Layer) -> Core:
    """The core of a layer's program."""
    compiled = layer._compiled
    structure = compiled.structure
    return Core(
        Model.of(
            (structure.n, structure.m, structure.cones.zero),
            (structure.P.indptr, structure.P.indices),
            (structure.A.indptr, structure.A.indices),
            [Parameter(spec.shape, spec.offset) for spec in compiled.parameters],
            [Affine(h.constant, h.rows, h.linear) for h in (compiled.P, compiled.q, compiled.A, compiled.b)],
            [Output(o.shape, o.primal, o.matrix) for o in compiled.outputs],
        )
    )


def dense_qp(n: int, m: int, rng: np.random.Generator) -> Made:
    x, q, G, h = cp.Variable(n), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    root = rng.standard_normal((n, n))
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, root @ root.T + np.eye(n)) + q @ x), [G @ x <= h])

    def draw(batch: int) -> list[np.ndarray]:
        rows = rng.standard_normal((batch, m, n))
        return [rng.standard_normal((batch, n)), rows, rows.sum(axis=2) + rng.random((batch, m))]

    return problem, [q, G, h], [x], draw


def portfolio(n: int, rng: np.random.Generator) -> Made:
    factors = rng.standard_normal((n, 15)) / np.sqrt(n)
    w, f, mu = cp.Variable(n), cp.Variable(15), cp.Parameter(n)
    objective = mu @ w - cp.sum_squares(f) - 0.1 * cp.sum_squares(w)
    problem = cp.Problem(cp.Maximize(objective), [cp.sum(w) == 1, w >= 0, f == factors.T @ w])
    return problem, [mu], [w], lambda batch: [0.1 * rng.standard_normal((batch, n))]


def linear_program(n: int, rng: np.random.Generator) -> Made:
    A = rng.standard_normal((2 * n, n))
    x, c, b = cp.Variable(n), cp.Parameter(n), cp.Parameter(2 * n)
    problem = cp.Problem(cp.Minimize(c @ x), [A @ x <= b])
    return problem, [c, b], [x], lambda batch: [-rng.random((batch, 2 * n)) @ A, 1 + rng.random((batch, 2 * n))]


def simplex(n: int, rng: np.random.Generator) -> Made:
    x, y = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [cp.sum(x) == 1, x >= 0])
    return problem, [y], [x], lambda batch: [rng.standard_normal((batch, n))]


def control(steps: int, rng: np.random.Generator) -> Made:
    dynamics, push = np.eye(4) + 0.1 * rng.standard_normal((4, 4)), 0.5 * rng.standard_normal((4, 2))
    x, u, start = cp.Variable((steps + 1, 4)), cp.Variable((steps, 2)), cp.Parameter(4)
    constraints = [x[0] == start, u <= 0.5, u >= -0.5]
    constraints += [x[k + 1] == dynamics @ x[k] + push @ u[k] for k in range(steps)]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.sum_squares(u)), constraints)
    return problem, [start], [u], lambda batch: [rng.standard_normal((batch, 4))]


def bounded_lq(bound: float) -> Made:
    """128 linear quadratic problems of 248 variables (differentiable_nmpc's linear_mpc): 20 steps of 8 states, 4 inputs.

    Shared by the batch are the dynamics (A, B, b) and the stage cost H; the initial state is each instance's own.
    """
    steps, states, inputs, batch = 20, 8, 4, 128
    random = np.random.RandomState(42)
    A_value = np.eye(states) + 0.2 * random.randn(states, states)
    B_value, b_value, starts = random.randn(states, inputs), random.randn(states), random.randn(batch, states)
    # A variable for each step: quad_form of anything else is a definition to cvxpy.
    stages, last, start = (
        [cp.Variable(states + inputs) for _ in range(steps)],
        cp.Variable(states),
        cp.Parameter(states),
    )
    x, u = [*(z[:states] for z in stages), last], [z[states:] for z in stages]
    A, B, b = cp.Parameter((states, states)), cp.Parameter((states, inputs)), cp.Parameter(states)
    H = cp.Parameter((states + inputs, states + inputs), PSD=True)
    cost = sum(cp.quad_form(z, H) for z in stages) / 2 + cp.sum_squares(last) / 2
    constraints = [x[0] == start, *(v <= bound for v in u), *(v >= -bound for v in u)]
    constraints += [x[k + 1] == A @ x[k] + B @ u[k] + b for k in range(steps)]
    H_value = np.eye(states + inputs)
    problem = cp.Problem(cp.Minimize(cost), constraints)
    return problem, [start, A, B, b, H], stages[:1], lambda size: [starts[:size], A_value, B_value, b_value, H_value]


def of_suite(family: Family, size: int) -> Made:
    """A case of ``make bench``."""
    model = Case(family, size).model()

    def draw(batch: int) -> list[np.ndarray]:
        rng = np.random.default_rng(1)
        return [np.stack(values) for values in zip(*(model.draw(rng) for _ in range(batch)), strict=True)]

    return model.problem, model.parameters, model.variables, draw


def sparse_qp(n: int, rng: np.random.Generator) -> Made:
    A = sp.random_array((n // 2, n), density=5 / n, rng=rng)
    x, q = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [A @ x <= 1, x >= -1])
    return problem, [q], [x], lambda batch: [rng.standard_normal((batch, n))]


CASES: list[tuple[str, Callable[[np.random.Generator], Made], tuple[int, ...]]] = [
    ("dense QP 10", lambda rng: dense_qp(10, 15, rng), (1, 128)),
    ("dense QP 50", lambda rng: dense_qp(50, 60, rng), (1, 32)),
    ("dense QP 100", lambda rng: dense_qp(100, 100, rng), (1, 8)),
    ("portfolio 50", lambda rng: portfolio(50, rng), (1,)),
    ("portfolio 300", lambda rng: portfolio(300, rng), (8,)),
    ("LP 20", lambda rng: linear_program(20, rng), (1, 32)),
    ("LP 50", lambda rng: linear_program(50, rng), (1,)),
    ("simplex 1000", lambda rng: simplex(1000, rng), (1, 32)),
    ("MPC 20", lambda rng: control(20, rng), (1, 64)),
    ("sparse QP 500", lambda rng: sparse_qp(500, rng), (1,)),
    ("sparse QP 2000", lambda rng: sparse_qp(2000, rng), (1,)),
    ("banded QP 1000", lambda _: of_suite(SPARSE_QP, 1000), (1,)),
    ("banded QP 5000", lambda _: of_suite(SPARSE_QP, 5000), (1,)),
    ("portfolio 2000", lambda _: of_suite(PORTFOLIO, 2000), (1,)),
    ("LQ, |u| ≤ 1e4", lambda _: bounded_lq(1e4), (128,)),
    ("LQ, |u| ≤ 1", lambda _: bounded_lq(1.0), (128,)),
]


def spent(call: Callable[[], object], repetitions: int) -> float:
    start = time.process_time()
    for _ in range(repetitions):
        call()
    return (time.process_time() - start) / repetitions * 1e3


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-3))


def measured(name: str, make: Callable[[np.random.Generator], Made], batch: int) -> str:
    """One row of the table."""
    rng = np.random.default_rng(1)
    problem, parameters, variables, draw = make(rng)
    layer = Layer(problem, parameters, variables)
    start = time.process_time()
    core = core_of(layer)
    made = (time.process_time() - start) * 1e3
    theta = [np.ascontiguousarray(v) for v in draw(batch)]
    found, engine = core.solve(theta, batch), layer.solve(*theta)
    g = rng.standard_normal(found.outputs.shape)
    shaped = g.reshape(engine.variables[0].shape)
    gradients, flags = core.adjoint(theta, found[:3], g)
    x_error = difference(found.outputs, engine.variables[0].reshape(batch, -1))
    # The engine sums over the batch what the batch shares.
    ours = [a if v.ndim == a.ndim else a.sum(axis=0) for a, v in zip(gradients, theta, strict=True)]
    g_error = max(difference(a, b.reshape(a.shape)) for a, b in zip(ours, engine.vjp(shaped), strict=True))
    points, columns = found[:3], ([], [], [], [])
    for _ in range(ROUNDS):
        quick = 20 if batch == 1 else 3
        times = (
            spent(lambda: core.solve(theta, batch), quick),
            spent(lambda: core.adjoint(theta, points, g), quick),
            spent(lambda: layer.solve(*theta), 1),
            spent(lambda: layer.solve(*theta).vjp(shaped), 1),
        )
        for column, value in zip(columns, times, strict=True):
            column.append(value)
    forward, backward, engine_forward, engine_both = map(statistics.median, columns)
    unsettled = int((found.outcome != 0).sum() + (flags != 0).sum())
    return (
        f"{name:15s} {batch:4d} {made:9.1f} {forward:10.3f} {backward:9.3f} {engine_forward:10.2f} {engine_both:10.2f} "
        f"{engine_both / (forward + backward):7.1f} {x_error:9.0e} {g_error:9.0e} {unsettled:9d}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    only = parser.parse_args().only
    print(
        f"{'case':15s} {'B':>4s} {'made':>9s} {'core fwd':>10s} {'bwd':>9s} {'engine fwd':>10s} {'fwd + bwd':>10s} "
        f"{'times':>7s} {'x error':>9s} {'g error':>9s} {'unsettled':>9s}"
    )
    for name, make, batches in CASES:
        for batch in batches if only in name else ():
            print(measured(name, make, batch), flush=True)


if __name__ == "__main__":
    main()
