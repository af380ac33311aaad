"""Gradient descent that circles for ever
======================================

Gradient descent through a layer that goes round in a circle for ever, though every derivative exists and is exact.

    minimize over (x, y)  (x − s₁)² + 4(y − s₂)²    where  s ∈ argmax over [0, 3] × [0, 5] of  (s₁ + s₂)(−3x + y + 2)

After Bolte, Le, Pauwels and Silveti-Falls, "Nonsmooth implicit differentiation for machine learning and optimization"
(2021); the constants are ours, and none of the paper's figures is claimed to be reproduced. The inner problem is a
linear program with one parameter, t = −3x + y + 2. Off the line t = 0 its solution is a vertex, (0, 0) or (3, 5),
whose derivative is zero: the gradient is (2(x − s₁), 8(y − s₂)), and pulls towards a vertex beyond the line, where
the other one pulls back. No iterate lands on the line, every derivative is right where it is taken, and nothing
converges: the solution jumps between two iterates, which no derivative at either of them can tell.

Beside it the well-posed problem, with −(ε/2)‖s‖² in the inner objective: its solution clip(t/ε) is Lipschitz, so that
the loss is locally so, and the layer's gradient is its gradient, except at kinks. That promises critical points, not the
best one: of 2000 random starts (computed with the closed form) all end at x = y = 2/(2 + ε), where the loss is zero,
if ε = 2; with ε = 1 or 1/2 more than a third end elsewhere.
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch

from conelayers import Monitor
from conelayers.torch import ConeLayer

STEP, EPSILON, BOX = 1e-3, 2.0, np.array([3.0, 5.0])
STARTS = torch.tensor([[0.0, 0.0], [3.0, 5.0], [2.5, -0.5], [-0.5, 4.0]], dtype=torch.float64)


def inner(epsilon: float) -> ConeLayer:
    """The inner problem as a layer: t in, s out."""
    s, t = cp.Variable(2), cp.Parameter()
    objective = cp.sum(s) * t
    if epsilon:
        objective -= epsilon / 2 * cp.sum_squares(s)
    # From one step to the next little changes: a warm start makes a call three times as fast.
    return ConeLayer(cp.Problem(cp.Maximize(objective), [s >= 0, s <= BOX]), [t], [s], warm_start=True)


def descend(layer: ConeLayer, starts: torch.Tensor, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plain gradient descent from all starts: iterates, gradients (steps, starts, 2), and losses (steps, starts)."""
    z, seen = starts.clone().requires_grad_(), []
    for _ in range(steps):
        (s,) = layer(-3 * z[:, 0] + z[:, 1] + 2)
        loss = (z[:, 0] - s[:, 0]) ** 2 + 4 * (z[:, 1] - s[:, 1]) ** 2
        z.grad = None
        loss.sum().backward()  # the starts do not interact: the gradient of the sum holds that of each
        gradient = z.grad
        seen.append([a.detach().numpy().copy() for a in (z, gradient, loss)])
        with torch.no_grad():
            z -= STEP * gradient
    iterates, gradients, losses = map(np.array, zip(*seen, strict=True))
    return iterates, gradients, losses


def expected(epsilon: float, starts: np.ndarray, steps: int) -> np.ndarray:
    """The iterates by the closed form of the inner solution: clip(t/ε), or a vertex."""
    z, seen = starts.copy(), []
    for _ in range(steps):
        seen.append(z)
        t = side(z)[:, None]
        s = np.clip(t / epsilon, 0, BOX) if epsilon else np.where(t > 0, BOX, 0)
        slope = ((s > 0) & (s < BOX)) / epsilon if epsilon else np.zeros_like(s)
        pull = np.array([2.0, 8.0]) * (z - s)
        z = z - STEP * (pull - (pull * slope).sum(axis=1, keepdims=True) * np.array([-3.0, 1.0]))
    return np.array(seen)


def side(iterates: np.ndarray) -> np.ndarray:
    """t, whose sign says on which side of the line an iterate is."""
    return -3 * iterates[..., 0] + iterates[..., 1] + 2


def laps(iterates: np.ndarray) -> tuple[int, float]:
    """The longest lap of one trajectory in its second half, in iterations, and how far apart they begin."""
    t = side(iterates)
    entries = np.flatnonzero((t[:-1] <= 0) & (t[1:] > 0)) + 1
    entries = entries[entries >= len(t) // 2]  # into t > 0
    if entries.size < 2:
        return 0, np.nan
    begun = iterates[entries]
    return int(np.diff(entries).max()), float(np.linalg.norm(begun - begun[0], axis=1).max())


def report(name: str, iterates: np.ndarray, gradients: np.ndarray, losses: np.ndarray, seconds: float) -> None:
    """The figures of the second half, when what is to settle has settled."""
    late, norms = iterates[len(iterates) // 2 :], np.linalg.norm(gradients, axis=2)
    (x_low, y_low), (x_high, y_high) = late.min((0, 1)), late.max((0, 1))
    print(f"{name}: {len(iterates)} iterations from {iterates.shape[1]} starts, {seconds:.1f} s")
    print(f"  second half: x in [{x_low:.3f}, {x_high:.3f}], y in [{y_low:.3f}, {y_high:.3f}]")
    print(f"  gradient norm: {norms[len(late) :].min():.3g} at its smallest, {norms[-1].max():.3g} at the end")
    late_losses = losses[len(late) :]
    print(
        f"  loss: {late_losses.min():.3g} at its smallest, {late_losses.max():.3g} at its largest,"
        f" {losses[-1].max():.3g} at the end"
    )
    print(f"  closest to the line t = 0: |t| = {np.abs(side(iterates)).min():.1e}")
    lap, gap = laps(iterates[:, 0])
    if lap:
        print(f"  a lap: {lap} iterations; the laps begin within {gap:.1e} of each other")


def draw(picture: str, runs: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """The trajectories of each run, and the gradient norms of all."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for ax, colour, (name, (iterates, gradients, _)) in zip(axes, ("tab:red", "tab:blue"), runs.items(), strict=False):
        for path in iterates.swapaxes(0, 1):
            ax.plot(path[:, 0], path[:, 1], color=colour, alpha=0.35, linewidth=1)
            ax.plot(*path[0], "o", color="grey", markersize=4)
            tail = path[-len(path) // 4 :]
            ax.plot(tail[:, 0], tail[:, 1], color=colour, linewidth=2)
        if np.ptp(tail, axis=0).max() < 0.1:
            ax.plot(*path[-1], "*", color=colour, markersize=14)
        x = np.array([-1.0, 3.5])
        ax.plot(x, 3 * x - 2, color="black", linestyle="--", linewidth=1, label="−3x + y + 2 = 0")
        ax.set(title=name, xlabel="x", ylabel="y", xlim=(-0.8, 3.3), ylim=(-1, 5.6))
        ax.legend(loc="upper left")
        axes[2].semilogy(np.linalg.norm(gradients, axis=2)[:, 0], color=colour, label=name)
    axes[2].set(title="from (0, 0)", xlabel="iteration", ylabel="norm of the gradient")
    axes[2].legend()
    figure.savefig(picture, dpi=150)


def main(picture: str, steps: int) -> None:
    runs, jumps, errors, certified = {}, [], [], []
    for name, epsilon in (("linear program", 0.0), (f"strongly convex, ε = {EPSILON:g}", EPSILON)):
        layer, start = inner(epsilon), time.perf_counter()
        with Monitor(layer) as monitor:
            runs[name] = descend(layer, STARTS, steps)
        report(name, *runs[name], time.perf_counter() - start)
        errors.append(np.abs(runs[name][0] - expected(epsilon, STARTS.numpy(), steps)).max())
        jumps.append(monitor.jumps)
        print(f"  largest difference from the iterates by the inner problem's closed form: {errors[-1]:.1e}")
        print(f"  monitor: {monitor}")
        certificates = layer.certify(torch.tensor(side(runs[name][0][:, 0])))
        print(f"  certificates of all iterates from (0, 0): {certificates!r}")
        certified.append(all(certificate.verdict.justified for certificate in certificates))
        monitor.plot(picture.replace(".png", f"_monitor_{'convex' if epsilon else 'linear'}.png"))
    draw(picture, runs)
    (_, cycling, _), (settled, _, _) = runs.values()
    print(f"the cycle's gradients stay above {np.linalg.norm(cycling, axis=2).min():.2f};", end=" ")
    distance = np.abs(settled[-1] - 2 / (2 + EPSILON)).max()
    print(f"the strongly convex problem's iterates end within {distance:.1e} of x = y = {2 / (2 + EPSILON):g}")
    assert max(errors) < 1e-6
    assert all(certified)
    if steps >= 2600:  # enough for a lap in the second half, and to settle
        assert np.linalg.norm(cycling, axis=2).min() > 1
        assert laps(runs["linear program"][0][:, 0])[0] == 1230
        assert jumps[0] > 0 == jumps[1]
        assert distance < 0.05


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", "--out", default="limit_cycle.png", help="where the picture goes")
    parser.add_argument("--steps", type=int, default=2600, help="iterations of each run")
    parser.add_argument("--full", action="store_true", help="10,000 iterations, which docs/trust.md reports")
    arguments = parser.parse_args()
    main(arguments.picture, 10_000 if arguments.full else arguments.steps)
