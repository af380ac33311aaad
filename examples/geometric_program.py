"""Gates sized by a geometric program, and what area buys in speed
===============================================================

A chain of N gates drives a large load. A gate of size xᵢ takes the time xᵢ₊₁/xᵢ to drive the next one, and costs area xᵢ:

    minimize T = x₂/x₁ + x₃/x₂ + … + L/x_N     over x₁ = 1, x₁ + … + x_N ≤ A.

This is a geometric program, convex in log x; ``gp=True`` makes it a layer of A and L. With area to spare the best sizes grow
geometrically, the rule of logical effort, and T = N L^(1/N). With a budget, the multiplier of the budget is the elasticity

    −d log T/d log A,

the per cent of speed that one per cent of area buys; the gradient of the optimal value says the same. The chain with the least
product of area and delay is where the elasticity is one. Newton's method finds it by the derivative of the multiplier, in a few steps.

Sources: Boyd, Kim, Patil and Horowitz, "Digital circuit optimization via geometric programming", 2005; Sutherland and Sproull, 1991.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import minimize_scalar

from conelayers.torch import ConeLayer

GATES, LOAD, PLENTY = 6, 500.0, 1e6


def gate_sizing() -> ConeLayer:
    """Area budget and load in; sizes and the budget's multiplier out."""
    x = cp.Variable(GATES, pos=True, name="x")
    area, load = cp.Parameter(pos=True, name="A"), cp.Parameter(pos=True, name="L")
    delay = sum(x[i + 1] / x[i] for i in range(GATES - 1)) + load / x[GATES - 1]
    budget = cp.sum(x) <= area
    problem = cp.Problem(cp.Minimize(delay), [budget, x[0] == 1])
    return ConeLayer(problem, [area, load], [x, budget.dual_variables[0]], gp=True)


def elasticities(layer: ConeLayer, area: float) -> tuple[float, float, float]:
    """d log T/d log A and d log T/d log L by the gradient of the optimal value, and the budget's multiplier."""
    A, L = (torch.tensor(v, dtype=torch.float64).log().requires_grad_() for v in (area, LOAD))
    layer.value(A.exp(), L.exp()).log().backward()
    _, multiplier = layer(A.exp(), L.exp())
    return A.grad.item(), L.grad.item(), multiplier.item()


def least_product(layer: ConeLayer, area: float) -> tuple[float, int]:
    """The area at which the multiplier is one, by Newton's method in log A; and the steps it took."""
    log_area, load = torch.tensor(np.log(area), requires_grad=True), torch.tensor(LOAD, dtype=torch.float64)
    for step in range(30):  # noqa: B007
        _, multiplier = layer(log_area.exp(), load)
        if abs(multiplier.item() - 1) < 1e-12:
            break
        (slope,) = torch.autograd.grad(multiplier, log_area)
        log_area = (log_area - ((multiplier - 1) / slope).clamp(-1, 1)).detach().requires_grad_()
    return log_area.exp().item(), step


def draw(areas: np.ndarray, delays: np.ndarray, elasticity: np.ndarray, sizes: np.ndarray, best: float) -> plt.Figure:
    figure, (tradeoff, chain) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    tradeoff.loglog(areas, delays, color="black", label="least delay")
    for k in range(4, len(areas), 12):
        near = areas[k] * np.array([0.6, 1.7])
        label = "slopes from the multiplier" if k == 4 else None
        tradeoff.plot(near, delays[k] * (near / areas[k]) ** -elasticity[k], color="tab:orange", label=label)
    tradeoff.plot(best, np.interp(best, areas, delays), "o", color="tab:red", label="least area × delay, slope −1")
    tradeoff.axhline(GATES * LOAD ** (1 / GATES), color="0.5", linestyle=":", label=r"closed form, $N L^{1/N}$")
    tradeoff.set(xlabel="area", ylabel="delay")
    stages = np.arange(1, GATES + 1)
    for k in range(4, len(areas), 12):
        chain.semilogy(stages, sizes[k], marker=".", label=f"area {areas[k]:.3g}")
    chain.semilogy(stages, LOAD ** ((stages - 1) / GATES), "k:", label="area to spare")
    chain.set(xlabel="gate", ylabel="size", xticks=stages)
    tradeoff.legend()
    chain.legend()
    return figure


def main(out: str | None) -> None:
    layer, load = gate_sizing(), torch.tensor(LOAD, dtype=torch.float64)

    sizes, _ = layer(torch.tensor(PLENTY, dtype=torch.float64), load)
    closed = LOAD ** (np.arange(GATES) / GATES)
    _, by_load, _ = elasticities(layer, PLENTY)
    rule = max(np.abs(sizes.numpy() / closed - 1).max(), abs(by_load - 1 / GATES))
    print(f"area to spare: sizes and elasticity in the load against the closed form: {rule:.0e}")

    by_area, by_load, multiplier = elasticities(layer, 60.0)
    print(f"area 60: elasticities {by_area:.4f} in area, {by_load:.4f} in load; multiplier {multiplier:.4f}")

    best, steps = least_product(layer, 60.0)
    found = minimize_scalar(
        lambda a: float(a + layer.value(torch.tensor(np.exp(a)), load).log()), bounds=(0, 6), options={"xatol": 1e-9}
    )
    print(
        f"least area × delay at area {best:.4f}, {steps} Newton steps; by a search without derivatives {np.exp(found.x):.4f}"
    )

    areas = np.geomspace(3, 1000, 60)
    (sizes, elasticity), solution = layer.solve(torch.tensor(areas), load)
    figure = draw(areas, solution.value, elasticity.numpy(), sizes.numpy(), best)
    if out:
        figure.savefig(out, dpi=150)
    assert rule < 1e-9
    assert abs(by_area + multiplier) < 1e-9
    assert abs(best / np.exp(found.x) - 1) < 1e-6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="where the picture goes")
    main(parser.parse_args().out)
