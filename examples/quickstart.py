"""Quickstart: an elastic net tuned by its gradient
================================================

The penalties of an elastic net on the diabetes data are tuned by the exact gradient of the validation error:

    minimize over w, c   (1/N) ‖X w + c − y‖² + Σⱼ λⱼ |wⱼ| + μ ‖w‖²

The regression is a cvxpy problem, its solution a layer; the ten λⱼ and μ are trained like any other weights in PyTorch. The gradient
is compared with central differences first. Where matplotlib is installed, the last lines draw what was learned.
"""

from __future__ import annotations

import argparse
import importlib.util
import time

import cvxpy as cp
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from conelayers.torch import ConeLayer

STEPS = 100


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardized training and validation data, a third of the 442 patients held out."""
    X, y = load_diabetes(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=1 / 3, random_state=0)
    mean, scale = X_train.mean(axis=0), X_train.std(axis=0)
    center, spread = y_train.mean(), y_train.std()
    return (X_train - mean) / scale, (y_train - center) / spread, (X_val - mean) / scale, (y_val - center) / spread


def draw(
    names: list[str], errors: list[float], penalties: np.ndarray, weights: np.ndarray, picture: str | None
) -> None:
    """The validation error over the steps, and the penalty and weight of each feature."""
    import matplotlib.pyplot as plt

    figure, (curve, bars) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    curve.plot(errors)
    curve.set(xlabel="step of Adam", ylabel="validation error")
    places = np.arange(len(names))
    bars.bar(places - 0.2, penalties, 0.4, label="penalty λ")
    bars.bar(places + 0.2, np.abs(weights), 0.4, label="size of the weight")
    bars.set_xticks(places, names)
    bars.set_ylim(0, 0.36)
    bars.legend()
    if picture:
        figure.savefig(picture, dpi=150)


def main(picture: str | None) -> None:
    torch.set_default_dtype(torch.float64)
    X_train, y_train, X_val, y_val = load()
    samples, features = X_train.shape

    w, c = cp.Variable(features, name="w"), cp.Variable(name="c")
    l1, l2 = cp.Parameter(features, nonneg=True, name="lambda"), cp.Parameter(nonneg=True, name="mu")
    loss = cp.sum_squares(X_train @ w + c - y_train) / samples
    problem = cp.Problem(cp.Minimize(loss + l1 @ cp.abs(w) + l2 * cp.sum_squares(w)))

    start = time.perf_counter()
    layer = ConeLayer(problem, parameters=[l1, l2], variables=[w, c])
    print(
        f"elastic net with {features} features on {samples} patients; layer built in {time.perf_counter() - start:.2f} s"
    )

    X, y = torch.tensor(X_val), torch.tensor(y_val)

    def validation_error(log_l1: torch.Tensor, log_l2: torch.Tensor) -> torch.Tensor:
        weights, intercept = layer(log_l1.exp(), log_l2.exp())
        return (X @ weights + intercept - y).square().mean()

    log_l1 = torch.full((features,), np.log(0.3), requires_grad=True)
    log_l2 = torch.tensor(np.log(0.3), requires_grad=True)

    # The gradient against central differences, in every one of the eleven hyperparameters.
    before = validation_error(log_l1, log_l2)
    before.backward()
    gradient = torch.cat([log_l1.grad, log_l2.grad[None]])
    point, h = torch.cat([log_l1, log_l2[None]]).detach(), 1e-5
    differences = torch.zeros_like(gradient)
    with torch.no_grad():
        for j, e in enumerate(torch.eye(features + 1)):
            plus, minus = point + h * e, point - h * e
            ahead = validation_error(plus[:-1], plus[-1])
            behind = validation_error(minus[:-1], minus[-1])
            differences[j] = (ahead - behind) / (2 * h)
    difference = (gradient - differences).abs().max().item()
    print(
        f"gradient check: largest entry {gradient.abs().max():.3e}, largest difference from central differences {difference:.1e}"
    )

    optimizer = torch.optim.Adam([log_l1, log_l2], lr=0.1)
    errors, start = [], time.perf_counter()
    for step in range(STEPS):
        error = validation_error(log_l1, log_l2)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
        if step % 20 == 0:
            print(f"  step {step:3d}   validation error {error.item():.5f}")
    seconds = (time.perf_counter() - start) / STEPS
    after = validation_error(log_l1, log_l2).item()
    print(
        f"validation error {before.item():.5f} before, {after:.5f} after {STEPS} steps ({1 - after / before.item():.1%} less)"
    )
    print(f"time per step (solve, gradient and update): {1e3 * seconds:.1f} ms")
    if importlib.util.find_spec("matplotlib"):
        with torch.no_grad():
            weights, _ = layer(log_l1.exp(), log_l2.exp())
            penalties = log_l1.exp().numpy()
        draw(load_diabetes().feature_names, [*errors, after], penalties, weights.numpy(), picture)
    assert difference < 1e-7 * max(1.0, gradient.abs().max().item())
    assert after < before.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", help="where the picture goes (needs matplotlib)")
    main(parser.parse_args().picture)
