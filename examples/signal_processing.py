"""Bends and shifts of a series, by a filter tuned by its gradient
===============================================================

A series is a trend with a few bends, levels with a few shifts, and noise. With differences D, the ℓ1 trend filter takes it apart:

    minimize over x, u   ½ ‖y − x − u‖² + λ ‖D²x‖₁ + μ ‖D u‖₁,     u₁ = 0.

x has few bends where λ is large, u few shifts where μ is. Both penalties are learned from eight series of which the truth is known: L-BFGS
descends on the error by the layer's gradient. They are tested on eight others, against filters with one of them alone.

How much does such a filter fit? Its degrees of freedom, the trace of d(x + u)/dy, are known: 2 for a straight line, and one for each bend
and each shift that the filter puts in. The layer's Jacobian has to have exactly that trace, and to be a projection.

Sources: Kim, Koh, Boyd and Gorinevsky, "ℓ1 trend filtering", 2009; Tibshirani and Taylor, "Degrees of freedom in lasso problems", 2012.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import minimize

from conelayers.torch import ConeLayer

LENGTH, SERIES, NOISE, NEVER = 120, 8, 0.3, 1e3


def series(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Truths, each a trend with two bends and levels with two shifts at random times; and what is measured."""
    truth, t = np.zeros((count, LENGTH)), np.arange(LENGTH)
    for row in truth:
        bends, shifts = (np.sort(rng.choice(np.arange(15, LENGTH - 15, 10), 2, replace=False)) for _ in range(2))
        row += np.interp(t, [0, *bends, LENGTH - 1], 2 * rng.standard_normal(4))
        row += (t[:, None] >= shifts + 5) @ rng.choice([-2.0, 2.0], 2)
    return torch.tensor(truth), torch.tensor(truth + NOISE * rng.standard_normal(truth.shape))


def trend_filter() -> ConeLayer:
    """Series and two penalties in; trend and levels out."""
    x, u = cp.Variable(LENGTH, name="trend"), cp.Variable(LENGTH, name="levels")
    y = cp.Parameter(LENGTH, name="y")
    bend, step = cp.Parameter(nonneg=True, name="lambda"), cp.Parameter(nonneg=True, name="mu")
    objective = cp.sum_squares(y - x - u) / 2 + bend * cp.norm1(cp.diff(x, 2)) + step * cp.norm1(cp.diff(u))
    return ConeLayer(cp.Problem(cp.Minimize(objective), [u[0] == 0]), [y, bend, step], [x, u])


def error(layer: ConeLayer, log_penalties: torch.Tensor, y: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    x, u = layer(y, *log_penalties.exp())
    return (x + u - truth).square().mean()


def tune(layer: ConeLayer, y: torch.Tensor, truth: torch.Tensor) -> list[np.ndarray]:
    """The logarithms of (λ, μ) on the way from (1, 1)."""

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(point, requires_grad=True)
        value = error(layer, theta, y, truth)
        value.backward()
        return value.item(), theta.grad.numpy()

    path = [np.zeros(2)]
    options = {"ftol": 1e-5}  # the error has kinks, where a filter puts in or drops a bend
    minimize(value_and_gradient, path[0], jac=True, method="L-BFGS-B", callback=path.append, options=options)
    return path


def degrees_of_freedom(layer: ConeLayer, y: torch.Tensor, penalties: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """For each series the Jacobian's trace and the count that it should be; and how far the Jacobians are from projections."""
    x, u = layer(y, *penalties)
    J = sum(blocks[0] for blocks in layer.jacobian(y, *penalties))
    counted = 2 + sum((h.diff(n=n, dim=1).abs() > 1e-7).sum(dim=1) for h, n in ((x, 2), (u, 1)))
    return J.diagonal(dim1=1, dim2=2).sum(dim=1), counted, (J @ J - J).abs().max()


def draw(
    lines: dict[str, tuple[torch.Tensor, str]], grid: np.ndarray, errors: np.ndarray, path: np.ndarray
) -> plt.Figure:
    figure, (signal, tuning) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(3, 2))
    for label, (values, style) in lines.items():
        signal.plot(values, style, label=label)
    signal.set(xlabel="time", title="a series not trained on")
    steps = np.geomspace(errors.min(), errors.max(), 16)
    shades = tuning.contourf(np.exp(grid), np.exp(grid), errors.T, steps, norm="log", cmap="viridis")
    tuning.plot(*np.exp(path).T, ".-", color="tab:orange", label="descent by the gradient")
    tuning.plot(*np.exp(path[-1]), "*", color="tab:red", markersize=12, label="learned")
    tuning.set(xscale="log", yscale="log", xlabel="λ (bends)", ylabel="μ (shifts)", title="error in training")
    figure.colorbar(shades, ax=tuning, format="%.3f")
    signal.legend(ncols=2)
    tuning.legend()
    return figure


def main(out: str | None) -> None:
    rng, layer = np.random.default_rng(0), trend_filter()
    (truth, y), (unseen_truth, unseen) = series(SERIES, rng), series(SERIES, rng)
    path = tune(layer, y, truth)
    learned = torch.tensor(path[-1])
    print(f"λ = {learned.exp()[0]:.3f}, μ = {learned.exp()[1]:.3f} after {len(path) - 1} steps of L-BFGS")

    grid = np.log(np.geomspace(0.2, 20, 10))

    def errors_on(firsts: np.ndarray, seconds: np.ndarray, *data: torch.Tensor) -> np.ndarray:
        """The errors on a grid of penalties."""
        return np.array([[error(layer, torch.tensor([a, b]), *data).item() for b in seconds] for a in firsts])

    errors, never = errors_on(grid, grid, y, truth), np.log([NEVER])
    bends, shifts = (errors_on(*pair, unseen, unseen_truth).min() for pair in ((grid, never), (never, grid)))
    before, after = error(layer, learned, y, truth).item(), error(layer, learned, unseen, unseen_truth).item()
    print(f"mean squared error in training {before:.4f}, the best of a grid of {errors.size} {errors.min():.4f}")
    print(
        f"unseen {after:.4f}; best with bends alone {bends:.4f}, with shifts alone {shifts:.4f}; noise {NOISE**2:.4f}"
    )
    trace, counted, defect = degrees_of_freedom(layer, unseen, learned.exp())
    off = (trace - counted).abs().max().item()
    print(f"degrees of freedom {counted.min()} to {counted.max()}: the trace of the Jacobian is off by {off:.0e}")
    verdicts = {c.verdict.value for c in layer.certify(unseen, *learned.exp())}
    print(f"‖J² − J‖ up to {defect:.0e}; certificates: {', '.join(verdicts)}")

    trend, levels = (part[0] for part in layer(unseen, *learned.exp()))
    lines = {"measured": (unseen[0], "C7."), "truth": (unseen_truth[0], "k-"), "filtered": (trend + levels, "C3-")}
    figure = draw(lines | {"its trend": (trend, "C0--"), "its levels": (levels, "C2--")}, grid, errors, np.array(path))
    if out:
        figure.savefig(out, dpi=150)
    assert max(off, defect) < 1e-8
    assert before < 1.01 * errors.min()
    assert after < 0.7 * min(bends, shifts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="where the picture goes")
    main(parser.parse_args().out)
