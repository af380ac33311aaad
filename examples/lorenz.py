"""Gradient descent that is chaotic
================================

Gradient descent through a layer that is Lorenz's chaotic system: every derivative exact, and nothing settles.

    minimize over θ in R³   ⟨θ, s(θ)⟩,    s_i = Σ_k argmax over u between 0 and ±δ of  u(−F_i(θ) − c_k)

After Bolte, Le, Pauwels and Silveti-Falls, "Nonsmooth implicit differentiation for machine learning and optimization"
(2021); the constants are ours, and none of the paper's figures is claimed to be reproduced. F is Lorenz's field with
(σ, ρ, β) = (10, 28, 8/3), and the levels c_k = ±δ/2, ±3δ/2, … make s_i the rounding of −F_i(θ) to multiples of δ.
Each argmax is a vertex whose derivative is zero, so the gradient of the loss is s(θ) ≈ −F(θ), and gradient descent
with step h is Euler's scheme for θ' = F(θ). The loss goes up and down: it jumps wherever an F_i crosses a level, and
no derivative tells.

Beside it the well-posed layer, with −(ε/2)u² in every argmax: the stairs become ramps, and with ε = 1 s(θ) stays within
δ/2 of −F(θ) as before. The losses are nearly the same, the gradients are not: the ramps' slope brings the term
(∂s/∂θ)ᵀθ, and descent descends. What the ramps do not bring is a minimizer: −⟨θ, F(θ)⟩ = σx² + y² + βz² − (σ + ρ)xy (the
cubic terms cancel) is unbounded below. So both losses have a penalty on leaving a ball, which the chaotic run never does.
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
import torch

from conelayers import Monitor
from conelayers.torch import ConeLayer

STEP, DELTA, EPSILON = 2e-3, 0.5, 1.0
# −F_i must stay within its levels: they were chosen by the ranges of both runs, and the printed rounding error tells.
RANGES = ((-170, 170), (-350, 350), (-560, 180))
LEVELS = [np.arange(low + DELTA / 2, high, DELTA) for low, high in RANGES]
CENTRE, RADIUS, WEIGHT = torch.tensor([0.0, 0.0, 25.0], dtype=torch.float64), 32.0, 200.0
# θ moves on a grid of width hδ: from (1, 1, 15) F₁ lands on levels, where the argmax is not unique. √2 keeps off them.
START = torch.tensor([1.0, 2**0.5, 15.0], dtype=torch.float64)


def field(theta: torch.Tensor) -> torch.Tensor:
    """Lorenz's F."""
    x, y, z = theta
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def quantizer(epsilon: float) -> ConeLayer:
    """The one-variable problems of all levels as one layer: from their costs −F_i − c_k to s."""
    c = np.concatenate(LEVELS)
    u, cost, s = cp.Variable(c.size), cp.Parameter(c.size), cp.Variable(3)
    objective = cost @ u
    if epsilon:
        objective -= epsilon / 2 * cp.sum_squares(u)
    sums = sp.block_diag([np.ones((1, levels.size)) for levels in LEVELS], format="csr")
    bounds = [u >= np.minimum(DELTA * np.sign(c), 0), u <= np.maximum(DELTA * np.sign(c), 0)]
    # For a linear program of this size ECOS is the fastest; the quadratic one is solved from the previous solution.
    problem, solver = cp.Problem(cp.Maximize(objective), [*bounds, s == sums @ u]), None if epsilon else "ECOS"
    return ConeLayer(problem, [cost], [s], solver=solver, warm_start=bool(epsilon))


def costs(F: torch.Tensor) -> torch.Tensor:
    """−F_i − c_k."""
    counts = torch.tensor([c.size for c in LEVELS])
    return torch.repeat_interleave(-F, counts) - torch.tensor(np.concatenate(LEVELS))


def expected(F: np.ndarray, epsilon: float) -> np.ndarray:
    """s in closed form: a vertex or a ramp for every level."""
    sums = []
    for f, levels in zip(F.T, LEVELS, strict=True):
        cost, end = -f[:, None] - levels, DELTA * np.sign(levels)
        inside = cost / epsilon if epsilon else np.inf * np.sign(cost)
        sums.append(np.clip(inside, np.minimum(end, 0), np.maximum(end, 0)).sum(axis=1))
    return np.array(sums).T


def descend(layer: ConeLayer, start: torch.Tensor, steps: int) -> dict[str, np.ndarray]:
    """Plain gradient descent: θ, F, s, the gradient and the loss at every step."""
    theta, seen = start.clone().requires_grad_(), []
    for _ in range(steps):
        F = field(theta)
        (s,) = layer(costs(F))
        outside = torch.relu(torch.linalg.norm(theta - CENTRE) - RADIUS)
        loss = theta @ s + WEIGHT * outside**2
        theta.grad = None
        loss.backward()
        seen.append([a.detach().numpy().copy() for a in (theta, F, s, theta.grad, loss)])
        with torch.no_grad():
            theta -= STEP * theta.grad
    return {
        name: np.array(a) for name, a in zip(("θ", "F", "s", "gradient", "loss"), zip(*seen, strict=True), strict=True)
    }


def report(name: str, run: dict[str, np.ndarray], seconds: float) -> None:
    theta, loss = run["θ"], run["loss"]
    extents = ", ".join(f"{c} in [{a:.2f}, {b:.2f}]" for c, a, b in zip("xyz", theta.min(0), theta.max(0), strict=True))
    turns = np.count_nonzero(np.diff(np.sign(theta[:, 0])))
    distance = np.linalg.norm(theta - CENTRE.numpy(), axis=1).max()
    norms, rises = np.linalg.norm(run["gradient"], axis=1), np.diff(loss) > 1e-12 * np.abs(loss).max()
    print(f"{name}: {len(theta)} steps, {seconds:.1f} s")
    print(f"  {extents}; {turns} lobe changes; at most {distance:.2f} from the centre of the ball of radius {RADIUS:g}")
    rounding, slope = np.abs(run["s"] + run["F"]).max(), np.abs(run["gradient"] - run["s"]).max()
    print(f"  |s + F| ≤ {rounding:.4f}, |gradient − s| ≤ {slope:.3g}")
    print(f"  loss {loss[0]:.1f} at the start, {loss[-1]:.1f} at the end; it rose in {np.mean(rises):.1%} of the steps")
    print(
        f"  gradient norm: {norms.min():.3g} at its smallest, {norms[-1]:.3g} at the end, at θ = {theta[-1].round(3)}"
    )


def draw(picture: str, runs: dict[str, dict[str, np.ndarray]]) -> None:
    """Both trajectories, and the losses."""
    figure = plt.figure(figsize=(14, 4.6), layout="constrained")
    losses = figure.add_subplot(1, 3, 3)
    for i, (colour, (name, run)) in enumerate(zip(("tab:red", "tab:blue"), runs.items(), strict=True)):
        ax, theta = figure.add_subplot(1, 3, i + 1, projection="3d"), run["θ"]
        ax.plot(*theta.T, color=colour, linewidth=0.7)
        ax.plot(*theta[:1].T, "o", color="grey", markersize=5, label="start")
        if np.linalg.norm(run["gradient"][-1]) < 1e-3:
            ax.plot(*theta[-1:].T, "*", color=colour, markersize=14, label="critical point")
        ax.set(title=name, xlabel="x", ylabel="y", zlabel="z", xlim=(-25, 25), ylim=(-30, 30), zlim=(0, 50))
        ax.set(xticks=(-20, 0, 20), yticks=(-20, 0, 20))
        ax.set_box_aspect((1, 1, 1), zoom=0.95)
        ax.view_init(elev=15, azim=-65)
        ax.legend(loc="upper left")
        losses.plot(STEP * np.arange(len(theta)), run["loss"], color=colour, label=name)
    losses.set(title="⟨θ, s(θ)⟩ and the ball's penalty", xlabel="step size × step", ylabel="loss")
    losses.legend()
    figure.savefig(picture, dpi=150)


def main(picture: str, steps: int) -> None:
    runs = {}
    # The second run settles long before the first one would show its two lobes.
    errors, justified = [], []
    for name, epsilon, length in (
        ("linear programs", 0.0, steps),
        (f"ramps, ε = {EPSILON:g}", EPSILON, min(steps, 1500 if steps >= 4500 else 400)),
    ):
        layer, start = quantizer(epsilon), time.perf_counter()
        with Monitor(layer) as monitor:
            runs[name] = descend(layer, START, length)
        report(name, runs[name], time.perf_counter() - start)
        print(f"  monitor: {monitor}")
        some = torch.tensor(runs[name]["F"][:: max(1, length // 5)])
        certificates = [layer.certify(costs(F))[0] for F in some]
        print(f"  certificates of {len(some)} iterates: {[c.verdict.value for c in certificates]}")
        errors.append(np.abs(runs[name]["s"] - expected(runs[name]["F"], epsilon)).max())
        print(f"  largest error of s, by its closed form: {errors[-1]:.1e}")
        justified += [c.verdict.justified for c in certificates]
    draw(picture, runs)
    chaotic, settled = runs.values()
    assert max(errors) < 1e-7
    assert all(justified)
    # The chaotic run is Euler's scheme for θ' = F(θ) up to rounding, and never leaves the ball; its gradient never vanishes.
    assert np.abs(chaotic["gradient"] + chaotic["F"]).max() <= DELTA / 2 + 1e-9
    assert np.linalg.norm(chaotic["θ"] - CENTRE.numpy(), axis=1).max() < RADIUS
    if steps >= 400:
        assert np.linalg.norm(settled["gradient"][-1]) < 1e-3 < np.linalg.norm(chaotic["gradient"], axis=1).min()


# Gallery: --steps 700
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", "--out", default="lorenz.png", help="where the picture goes")
    parser.add_argument("--steps", type=int, default=1200, help="steps of the chaotic run")
    parser.add_argument("--full", action="store_true", help="4500 steps")
    arguments = parser.parse_args()
    main(arguments.picture, 4500 if arguments.full else arguments.steps)
