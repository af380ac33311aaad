"""Solves that Ctrl-C is to stop, one after the other: run by test_limits.py, which sends SIGINT after each READY."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import cvxpy as cp
import numpy as np

from conelayers import Layer


def layer_of(n: int, m: int, *, solver: str | None = None, quadratic: bool = False) -> Layer:
    x, a = cp.Variable(n), cp.Parameter(n)
    G = np.random.default_rng(0).standard_normal((m, n))
    if quadratic:
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [G @ x <= 1, x >= -1])
    else:
        problem = cp.Problem(cp.Minimize(cp.norm(x - a) + cp.norm1(G @ x)), [x >= -1, x <= 1])
    return Layer(problem, [a], [x], solver=solver)


CASES = {
    "clarabel": (layer_of(60, 40, solver="CLARABEL"), 2000),
    "scs": (layer_of(60, 40, solver="SCS"), 2000),
    "ecos": (layer_of(60, 40, solver="ECOS"), 2000),
    "default": (layer_of(60, 40), 2000),
    "kernel": (layer_of(40, 80, quadratic=True), 10000),
    "clarabel-large": (layer_of(300, 300, solver="CLARABEL"), 20),
    "scs-large": (layer_of(300, 300, solver="SCS"), 20),
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # SCS writes to the other


def hears_ctrl_c() -> bool:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    except KeyboardInterrupt:
        return True
    return False


def run(case: str, jobs: int) -> str:
    """Solve until interrupted; what was wrong then, or nothing."""
    layer, count = CASES[case]
    values = np.random.default_rng(1).standard_normal((count, layer.parameters[0].size))
    first = layer.solve(values[0]).variables[0]
    calls, begin = 0, time.monotonic()
    say("READY")
    try:
        while time.monotonic() - begin < 30:
            layer.solve(values, solver_args={"n_jobs_forward": jobs})
            calls += 1
        return "was not interrupted"
    except KeyboardInterrupt:
        say(f"STOPPED {calls}")
    if threading.active_count() != 1:
        return f"threads are left: {threading.enumerate()}"
    if not np.array_equal(layer.solve(values[0]).variables[0], first):
        return "the layer solves otherwise afterwards"
    return "" if hears_ctrl_c() else "Ctrl-C is not heard any more"


if __name__ == "__main__":
    for line in sys.stdin:
        case, jobs = line.split()
        say(f"DONE {run(case, int(jobs))}")
