"""Forward and backward time of a batch of dense QPs, beside cvxpylayers, in one process, with the errors.

    minimize ½‖L x‖² + qᵀx  subject to  A x = b, G x ≤ h,    every one of L, q, A, b, G, h a parameter

Run ``python benchmarks/dense_qp.py`` (``--size``, ``--batch``, ``--rounds``). The contenders take turns; times are medians.
The reference solves and differentiates the KKT system of the active set, written out by hand, for a few instances.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import cvxpy as cp
import numpy as np
import torch

from conelayers.torch import ConeLayer


def build(n: int, equalities: int, inequalities: int) -> tuple[cp.Problem, list[cp.Parameter], cp.Variable]:
    x = cp.Variable(n, name="x")
    L, q = cp.Parameter((n, n), name="L"), cp.Parameter(n, name="q")
    A, b = cp.Parameter((equalities, n), name="A"), cp.Parameter(equalities, name="b")
    G, h = cp.Parameter((inequalities, n), name="G"), cp.Parameter(inequalities, name="h")
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ x) + q @ x), [A @ x == b, G @ x <= h])
    return problem, [L, q, A, b, G, h], x


def draw(n: int, equalities: int, inequalities: int, batch: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    L = rng.standard_normal((batch, n, n)) / np.sqrt(n) + np.eye(n)
    A, G = rng.standard_normal((batch, equalities, n)), rng.standard_normal((batch, inequalities, n))
    inside = rng.standard_normal((batch, n))
    b = np.einsum("bij,bj->bi", A, inside)
    h = np.einsum("bij,bj->bi", G, inside) + rng.uniform(0, 1, (batch, inequalities))
    return [L, rng.standard_normal((batch, n)), A, b, G, h]


def reference(values: list[np.ndarray], x: np.ndarray, cotangent: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """One instance from its KKT system: the solution, and the gradients with respect to all six arrays."""
    L, q, A, b, G, h = values
    n = q.size
    active = G @ x > h - 1e-7
    C, d = np.vstack([A, G[active]]), np.concatenate([b, h[active]])
    K = np.block([[L.T @ L, C.T], [C, np.zeros((len(d), len(d)))]])
    z = np.linalg.solve(K, np.concatenate([-q, d]))
    x, y = z[:n], z[n:]
    adjoint = np.linalg.solve(K, np.concatenate([cotangent, np.zeros(len(d))]))
    lam, mu = adjoint[:n], adjoint[n:]
    dC = -np.outer(y, lam) - np.outer(mu, x)
    dG, dh = np.zeros_like(G), np.zeros_like(h)
    dG[active], dh[active] = dC[len(b) :], mu[len(b) :]
    return x, [-L @ (np.outer(lam, x) + np.outer(x, lam)), -lam, dC[: len(b)], mu[: len(b)], dG, dh]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", type=int, default=100, help="variables; half as many equalities and inequalities each"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checked", type=int, default=4, help="instances compared with the reference")
    arguments = parser.parse_args()
    n, m = arguments.size, arguments.size // 2
    problem, parameters, x = build(n, m, m)
    values = draw(n, m, m, arguments.batch)
    contenders: dict[str, Callable[..., tuple[torch.Tensor, ...]]] = {}
    construction: dict[str, float] = {}

    def add(name: str, make: Callable[[], Callable[..., tuple[torch.Tensor, ...]]]) -> None:
        start = time.perf_counter()
        contenders[name] = make()
        construction[name] = time.perf_counter() - start

    add("conelayers", lambda: ConeLayer(problem, parameters, [x]))
    try:
        from cvxpylayers.torch import CvxpyLayer
    except ImportError:
        print("cvxpylayers is not installed: pip install 'conelayers[bench]'")
    else:
        add("cvxpylayers (default)", lambda: CvxpyLayer(problem, parameters, [x]))
        add(
            "cvxpylayers (Clarabel)",
            lambda: CvxpyLayer(problem, parameters, [x], solver_args={"solve_method": "Clarabel"}),
        )
        exact = {"eps": 1e-9, "max_iters": 100000, "mode": "dense"}
        add("cvxpylayers (1e-9, dense)", lambda: CvxpyLayer(problem, parameters, [x], solver_args=exact))

    cotangent = np.random.default_rng(1).standard_normal((arguments.batch, n))
    forward: dict[str, list[float]] = {name: [] for name in contenders}
    backward: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
    for round_ in range(arguments.rounds + 1):  # the first round warms up and is not counted
        for name, layer in contenders.items():
            tensors = [torch.tensor(v, requires_grad=True) for v in values]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                start = time.perf_counter()
                (solution,) = layer(*tensors)
                middle = time.perf_counter()
                solution.backward(torch.tensor(cotangent))
                end = time.perf_counter()
            if round_:
                forward[name].append(middle - start)
                backward[name].append(end - middle)
            answers[name] = solution.detach().numpy(), [t.grad.numpy() for t in tensors]

    print(
        f"dense QP, n = {n}, {m} equalities, {m} inequalities, batch {arguments.batch}; {arguments.rounds} rounds, medians"
    )
    print(
        f"{'':26}{'build s':>9}{'forward s':>11}{'backward s':>12}{'x error':>11}{'gradient error (scaled)':>25}{'ratio':>8}"
    )
    own = np.median(forward["conelayers"]) + np.median(backward["conelayers"])
    for name in contenders:
        x_error = gradient_error = 0.0
        for i in range(min(arguments.checked, arguments.batch)):
            best = answers["conelayers"][0][i]  # tells the active set only
            x_ref, g_ref = reference([v[i] for v in values], best, cotangent[i])
            x_error = max(x_error, float(np.abs(answers[name][0][i] - x_ref).max()))
            scale = max(1.0, float(np.sqrt(sum(np.sum(g**2) for g in g_ref))))
            worst = max(float(np.abs(a[i] - g).max()) for a, g in zip(answers[name][1], g_ref, strict=True))
            gradient_error = max(gradient_error, worst / scale)
        f, b = np.median(forward[name]), np.median(backward[name])
        print(
            f"{name:26}{construction[name]:9.2f}{f:11.3f}{b:12.3f}{x_error:11.1e}{gradient_error:25.1e}{(f + b) / own:8.1f}"
        )


if __name__ == "__main__":
    main()
