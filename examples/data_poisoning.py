"""Poisoning the data of logistic regression
=========================================

How should someone shift the training points a little so that the fitted classifier does worst on test points that he does not touch? Along the
gradient of the test loss with respect to the training data, which goes through the fit:

    minimize over (w, c)   (1/N) Σᵢ log(1 + exp(−yᵢ(⟨w, xᵢ⟩ + c))) + μ ‖w‖²        the xᵢ are the layer's parameter

Every point is moved by the same distance along its own gradient, the fit is repeated, and the test loss is compared with what the gradient predicted:
the two differ by a term of second order in the distance, so that halving the distance quarters the difference. The gradient is also compared
with the closed form, by the Hessian H of the training loss: −Σ ∂²/∂xᵢ∂(w, c)[loss] H⁻¹ ∇[test loss], which is the influence function of statistics.

After Biggio, Nelson and Laskov, "Poisoning attacks against support vector machines" (2012), and Agrawal et al., "Differentiable convex
optimization layers" (2019), who have this example for a similar fit.
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.func import grad, hessian, jacrev

from conelayers.torch import ConeLayer

TRAIN, TEST, PENALTY = 40, 40, 0.05
SHIFTS = 0.2 / 2.0 ** torch.arange(8, dtype=torch.float64)


def points(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two overlapping clouds, their classes ±1."""
    y = torch.ones(count).copysign(torch.arange(count) - count / 2 + 0.5)
    return y[:, None] * torch.tensor([0.8, 0.5]) + torch.randn(count, 2, generator=generator), y


def regression(y: torch.Tensor) -> ConeLayer:
    """The training points in, the weights and the intercept out."""
    X, w, c = cp.Parameter((TRAIN, 2)), cp.Variable(2), cp.Variable()
    losses = cp.logistic(cp.multiply(-y.numpy(), X @ w + c))
    return ConeLayer(cp.Problem(cp.Minimize(cp.sum(losses) / TRAIN + PENALTY * cp.sum_squares(w))), [X], [w, c])


def loss(fit: torch.Tensor, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean logistic loss of (w, c)."""
    return torch.nn.functional.softplus(-y * (X @ fit[:2] + fit[2])).mean()


def influence(fit: torch.Tensor, X: torch.Tensor, y: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """The closed form of the gradient with respect to X of a loss whose gradient in (w, c) is given."""

    def objective(fit: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        return loss(fit, X, y) + PENALTY * fit[:2].square().sum()

    step = torch.linalg.solve(hessian(objective)(fit, X), towards)
    return -torch.einsum("k,kij->ij", step, jacrev(grad(objective), argnums=1)(fit, X))


def main(picture: str | None) -> None:
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    (X, y), (X_test, y_test) = points(TRAIN, generator), points(TEST, generator)
    layer = regression(y)

    def fitted(X: torch.Tensor) -> torch.Tensor:
        w, c = layer(X)
        return torch.cat([w, c[..., None]], dim=-1)

    X.requires_grad_()
    start = time.perf_counter()
    fit = fitted(X)
    clean = loss(fit, X_test, y_test)
    (gradient,) = torch.autograd.grad(clean, X)
    seconds = time.perf_counter() - start
    X, fit, clean = X.detach(), fit.detach(), float(clean.detach())
    closed = influence(fit, X, y, grad(loss)(fit, X_test, y_test))
    error = float((gradient - closed).abs().max() / closed.abs().max())
    print(f"fit and gradient: {seconds:.2f} s; test loss {clean:.5f}; relative error of the gradient {error:.1e}")

    directions = gradient / torch.linalg.norm(gradient, dim=1, keepdim=True)
    with torch.no_grad():
        poisoned = fitted(X + SHIFTS[:, None, None] * directions)  # all distances in one batch
        rises = torch.stack([loss(f, X_test, y_test) for f in poisoned]) - clean
    predicted = SHIFTS * (gradient * directions).sum()
    differences = (rises - predicted).abs()
    orders = torch.log2(differences[:-1] / differences[1:])
    for shift, rise, expected in zip(SHIFTS, rises, predicted, strict=True):
        print(f"  every point moved by {shift:.4f}: test loss up by {rise:.3e}, predicted {expected:.3e}")
    print(f"order of the difference at the smallest distances: {orders[-1]:.3f}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    draw(left, X, y, 5 * SHIFTS[0] * directions, fit, fitted(X + 5 * SHIFTS[0] * directions))
    right.loglog(SHIFTS, rises, "o", label="rise of the test loss")
    right.loglog(SHIFTS, predicted, color="tab:blue", label="the gradient's prediction")
    right.loglog(SHIFTS, differences, "s-", color="tab:orange", markersize=4, label="difference, of second order")
    right.set(xlabel="distance by which every point is moved", ylabel="loss")
    right.legend()
    if picture:
        figure.savefig(picture, dpi=150)
    assert error < 1e-8
    assert abs(rises[-1] / predicted[-1] - 1) < 0.01
    assert abs(orders[-1] - 2) < 0.1


def draw(
    ax: plt.Axes, X: torch.Tensor, y: torch.Tensor, move: torch.Tensor, clean: torch.Tensor, bad: torch.Tensor
) -> None:
    """The training points, where they are moved to, and the boundaries of both fits."""
    for label, colour in ((-1, "tab:purple"), (1, "tab:green")):
        ax.plot(*X[y == label].T, "o", color=colour, markersize=5, label=f"training points, class {label:+d}")
    ax.quiver(*X.T, *move.T, angles="xy", scale_units="xy", scale=1, width=0.003, color="grey")
    across = np.array([-4.0, 4.0])
    for (w1, w2, c), style, label in ((clean, "-", "boundary, clean"), (bad, "--", "boundary, poisoned")):
        ax.plot(across, -(float(w1) * across + float(c)) / float(w2), style, color="black", label=label)
    ax.set(
        xlabel="x₁",
        ylabel="x₂",
        xlim=(-3.5, 3.5),
        ylim=(-3.5, 5.5),
        title=f"every point moved by {torch.linalg.norm(move[0]):g}",
    )
    ax.legend(fontsize="small", ncols=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE", help="where the picture goes")
    main(parser.parse_args().out)
