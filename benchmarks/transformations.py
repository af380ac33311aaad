"""torch's transformations of a layer against the plain call, in one process: ``python -m benchmarks.transformations``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cvxpy as cp
import torch

from conelayers.torch import ConeLayer

ROUNDS = 15
Tensor = torch.Tensor


def _qp(n: int) -> tuple[ConeLayer, list[Tensor]]:
    x, b, h = cp.Variable(n), cp.Parameter(n), cp.Parameter(n)
    A = torch.randn(n, n, dtype=torch.float64).numpy()
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x <= h]), [b, h], [x])
    return layer, [torch.randn(32, n, dtype=torch.float64), torch.rand(32, n, dtype=torch.float64)]


def _soc(n: int) -> tuple[ConeLayer, list[Tensor]]:
    x, c, r = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r]), [c, r], [x])
    return layer, [2 + torch.randn(32, n, dtype=torch.float64), torch.rand(32, dtype=torch.float64)]


def _median(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Medians over rounds in which everybody takes a turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(ROUNDS + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def _times(layer: ConeLayer, values: list[Tensor]) -> dict[str, float]:
    leaves = [v.clone().requires_grad_() for v in values]
    one, first = [v[0] for v in values], [v[0].clone().requires_grad_() for v in values]
    tangents = [torch.randn_like(v) for v in values]

    def variable(*t: Tensor) -> Tensor:
        return layer(*t)[0]

    def loss(*t: Tensor) -> Tensor:
        return (variable(*t) ** 2).sum()

    return _median(
        {
            "plain forward": lambda: layer(*values),
            "plain forward + backward": lambda: loss(*leaves).backward(),
            "vmap": lambda: torch.func.vmap(variable)(*values),
            "vmap of grad": lambda: torch.func.vmap(torch.func.grad(loss))(*values),
            "jvp": lambda: torch.func.jvp(variable, tuple(values), tuple(tangents)),
            "one instance, forward + backward": lambda: loss(*first).backward(),
            "one instance, jacrev": lambda: torch.func.jacrev(variable)(*one),
            "one instance, jacobian()": lambda: layer.jacobian(*one),
            "one instance, Hessian": lambda: torch.func.hessian(loss)(*one),
            "one instance, value + gradient": lambda: layer.value(*first).backward(),
        }
    )


def main() -> None:
    torch.manual_seed(0)
    for name, problem in {"QP 10, batch 32": _qp(10), "SOC 10, batch 32": _soc(10)}.items():
        results = _times(*problem)
        print(name)
        for what, seconds in results.items():
            base = results["one instance, forward + backward" if what.startswith("one") else "plain forward + backward"]
            print(f"  {what:36}{1e3 * seconds:8.2f} ms  {seconds / base:6.2f}× forward + backward")


if __name__ == "__main__":
    main()
