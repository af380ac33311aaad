"""What a predictive controller wants, recovered from its actions
==============================================================

A driver of two masses on springs is watched: its state x and the bounded force u that it applies, and nothing of why. It is a model predictive controller,
which plans T steps ahead, applies the first force of the plan, and plans again:

    minimize  Σₜ Σᵢ qᵢ xᵢ(t)² + Σₜ u(t)²   subject to  x(t+1) = A x(t) + B u(t),  −1 ≤ u(t) ≤ 1,  x(0) = x

The weights q are hidden. The plan is a layer with the parameters q and x, and what is learned is q, by Gauss-Newton steps
(Levenberg and Marquardt's) on the squared error of the first force over all demonstrations: ``layer.jacobian`` gives its derivatives from one
factorization for each plan. Where the force is at its bound its derivative is zero, and rightly: such a demonstration says nothing about the weights.

After Amos, Jimenez, Sacks, Boots and Kolter, "Differentiable MPC for end-to-end planning and control" (2018), with constants of ours.
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.linalg import expm

from conelayers.torch import ConeLayer

HORIZON, RUNS, LENGTH, STEPS, PERIOD = 8, 4, 16, 12, 0.4
HIDDEN = torch.tensor([4.0, 1.0, 0.5, 0.2], dtype=torch.float64)  # of two positions and two velocities
NAMES = [f"q{i}" for i in "₁₂₃₄"]


def masses() -> tuple[np.ndarray, np.ndarray]:
    """A and B: wall, spring, mass, spring, mass; the force acts on the second. Sampled with a constant force in between."""
    springs = np.array([[-2.0, 1.0], [1.0, -1.0]])
    drift = np.block(
        [[np.zeros((2, 2)), np.eye(2), np.zeros((2, 1))], [springs, -0.1 * np.eye(2), np.array([[0.0], [1.0]])]]
    )
    moved = expm(PERIOD * np.vstack([drift, np.zeros(5)]))
    return moved[:4, :4], moved[:4, 4]


def controller() -> ConeLayer:
    """Square roots of the weights and the state in, the plan's first force out."""
    A, B = masses()
    x, u, first = cp.Variable((HORIZON + 1, 4)), cp.Variable(HORIZON), cp.Variable()
    q, now = cp.Parameter(4), cp.Parameter(4)
    cost = sum(cp.sum_squares(cp.multiply(q, x[t])) for t in range(1, HORIZON + 1)) + cp.sum_squares(u)
    dynamics = [x[0] == now, A @ x[:-1].T + B[:, None] @ u[None, :] == x[1:].T]
    return ConeLayer(
        cp.Problem(cp.Minimize(cost), [*dynamics, first == u[0], cp.abs(u) <= 1]), [q, now], [first], warm_start=True
    )


def drive(layer: ConeLayer, weights: torch.Tensor, x: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (length, runs, 4) and forces (length, runs) of the closed loop."""
    A, B = map(torch.tensor, masses())
    seen = []
    for _ in range(length):
        (u,) = layer(weights.sqrt(), x)
        seen.append((x, u))
        x = x @ A.T + u[:, None] * B
    states, forces = zip(*seen, strict=True)
    return torch.stack(states), torch.stack(forces)


def learn(layer: ConeLayer, x: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
    """The weights after each step, by Levenberg and Marquardt's method in their logarithms."""
    logs, damping, path = torch.zeros(4), 1e-3, []

    def residual(logs: torch.Tensor) -> torch.Tensor:
        return layer((logs / 2).exp(), x)[0] - forces

    error = residual(logs)
    for _ in range(STEPS):
        path.append(logs.exp())
        roots = (logs / 2).exp()
        ((in_roots, _),) = layer.jacobian(roots, x)
        J = in_roots * roots / 2  # the chain rule for exp(·/2)
        scale = damping * torch.diag((J.T @ J).diagonal())
        trial = logs - torch.linalg.solve(J.T @ J + scale, J.T @ error).clamp(-1, 1)
        new = residual(trial)
        if new.square().sum() < error.square().sum():
            logs, error, damping = trial, new, damping / 10
        else:
            damping *= 10
    return torch.stack([*path, logs.exp()])


def main(picture: str | None) -> None:
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    layer, starts = controller(), 2 * torch.randn(RUNS + 1, 4, generator=generator)
    states, forces = drive(layer, HIDDEN, starts[:RUNS], LENGTH)
    bound = float((forces.abs() > 1 - 1e-9).double().mean())
    start = time.perf_counter()
    path = learn(layer, states.reshape(-1, 4), forces.ravel())
    seconds = time.perf_counter() - start
    errors = (path / HIDDEN - 1).abs().max(dim=1).values
    print(f"{forces.numel()} demonstrations of one force each, {bound:.0%} of them at the bound")
    print(f"{STEPS} Gauss-Newton steps: {seconds:.1f} s; relative error of the weights by step:")
    print("  " + " ".join(f"{e:.0e}" for e in errors))
    print("hidden   " + " ".join(f"{name} = {h:.4f}" for name, h in zip(NAMES, HIDDEN, strict=True)))
    print("learned  " + " ".join(f"{name} = {h:.4f}" for name, h in zip(NAMES, path[-1], strict=True)))
    runs = {
        k: drive(layer, w, starts[RUNS:], 40)[1][:, 0]
        for k, w in (("driver", HIDDEN), ("all weights one", path[0]), ("learned", path[-1]))
    }
    print(
        f"forces from an unseen start: all weights one differ by up to {(runs['all weights one'] - runs['driver']).abs().max():.2f},",
        end=" ",
    )
    print(f"the learned by {(runs['learned'] - runs['driver']).abs().max():.1e}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for i, name in enumerate(NAMES):
        left.semilogy(path[:, i], color=f"C{i}", label=name)
        left.axhline(HIDDEN[i], color=f"C{i}", linestyle=":", linewidth=1)
    left.set(xlabel="Gauss-Newton step", ylabel="weight (dotted: hidden)")
    left.legend(ncols=2, loc="lower right")
    for (name, run), style in zip(runs.items(), ("-", ":", "o"), strict=True):
        right.plot(PERIOD * np.arange(len(run)), run, style, markersize=3, label=name)
    right.set(xlabel="time", ylabel="force, from an unseen start")
    right.legend()
    if picture:
        figure.savefig(picture, dpi=150)
    assert errors[-1] < 1e-8


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE", help="where the picture goes")
    main(parser.parse_args().out)
