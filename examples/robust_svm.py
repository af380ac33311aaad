"""A robust support vector machine that learns its uncertainty
===========================================================

A classifier is trained on clean measurements and used where some sensors are noisy. The robust support vector machine guards against every
perturbation in an ellipsoid with half-axes r, which is a second-order cone constraint:

    minimize   ½ ‖w‖² + C Σᵢ ξᵢ     over   yᵢ(wᵀxᵢ + b) − ‖diag(r) w‖ ≥ 1 − ξᵢ,  ξ ≥ 0.

How large is the ellipsoid, and of what shape? Here its thirty half-axes are trained by Adam on the squared hinge loss of a few hundred patients who were
measured in the field, through the layer r → (w, b). The opponents are the ordinary machine (r = 0, which has to be scikit-learn's), and the
best ball, whose radius is chosen on the test patients themselves. Data: breast cancer, 80 patients to train with; in the field
five of the thirty features have noise of 2 standard deviations, the others of 0.2, and the machine is not told which.

Sources: Shivaswamy, Bhattacharyya and Smola, "Second order cone programming approaches for handling missing and uncertain data", 2006; Xu,
Caramanis and Mannor, "Robustness and regularization of support vector machines", 2009.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.svm import SVC

from conelayers.torch import ConeLayer

TRAIN, TEST, REPEATS, C, STEPS = 80, 289, 5, 1.0, 80
Labelled = tuple[torch.Tensor, torch.Tensor]


def patients(rng: np.random.Generator) -> tuple[Labelled, Labelled, Labelled, np.ndarray]:
    """Clean patients to train with; patients in the field, each measured several times, for validation and test; the noise there."""
    X, y = load_breast_cancer(return_X_y=True)
    order = rng.permutation(len(y))
    X, y = X[order], 2.0 * y[order] - 1
    X = (X - X[:TRAIN].mean(axis=0)) / X[:TRAIN].std(axis=0)
    noise = np.where(rng.random(X.shape[1]) < 0.3, 2.0, 0.2)

    def in_the_field(who: slice) -> Labelled:
        true, labels = np.repeat(X[who], REPEATS, axis=0), np.repeat(y[who], REPEATS)
        return torch.tensor(true + noise * rng.standard_normal(true.shape)), torch.tensor(labels)

    clean = torch.tensor(X[:TRAIN]), torch.tensor(y[:TRAIN])
    return clean, in_the_field(slice(TRAIN, -TEST)), in_the_field(slice(-TEST, None)), noise


def robust_svm(X: np.ndarray, y: np.ndarray) -> ConeLayer:
    """Half-axes of the ellipsoid in; weights and intercept out."""
    w, b = cp.Variable(X.shape[1], name="w"), cp.Variable(name="b")
    margin, xi = cp.Variable(name="margin"), cp.Variable(len(y), name="xi")
    r = cp.Parameter(X.shape[1], nonneg=True, name="r")
    constraints = [cp.multiply(y, X @ w + b) - margin >= 1 - xi, xi >= 0, cp.norm(cp.multiply(r, w)) <= margin]
    return ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(w) / 2 + C * cp.sum(xi)), constraints), [r], [w, b])


def hinge(plane: tuple[torch.Tensor, torch.Tensor], data: Labelled) -> torch.Tensor:
    (w, b), (X, y) = plane, data
    return (1 - y * (X @ w + b)).clamp(min=0).square().mean()


def mistakes(plane: tuple[torch.Tensor, torch.Tensor], data: Labelled) -> float:
    """The share of patients on the wrong side."""
    (w, b), (X, y) = plane, data
    return (y * (X @ w + b) <= 0).double().mean().item()


def learn(layer: ConeLayer, features: int, validation: Labelled, test: Labelled) -> tuple[torch.Tensor, list[float]]:
    """The half-axes, and the share of mistakes in the test on the way (to draw; nothing is chosen by it)."""
    log_r, path = torch.full((features,), np.log(0.05), requires_grad=True), []
    optimizer = torch.optim.Adam([log_r], lr=0.1)
    for _ in range(STEPS):
        plane = layer(log_r.exp())
        path.append(mistakes(plane, test))
        optimizer.zero_grad()
        hinge(plane, validation).backward()
        optimizer.step()
    return log_r.detach().exp(), path


def draw(path: list[float], ordinary: float, ball: float, noise: np.ndarray, weights: list[np.ndarray]) -> plt.Figure:
    figure, (curve, bars) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    curve.plot(100 * np.array(path), color="tab:orange", label="ellipsoid, learned")
    curve.axhline(100 * ordinary, color="tab:blue", label="no robustness")
    curve.axhline(100 * ball, color="tab:blue", linestyle="--", label="best ball")
    curve.set(xlabel="step of Adam", ylabel="mistakes on unseen patients, %", ylim=(0, None))
    order = np.argsort(noise, kind="stable")
    for k, (label, w) in enumerate(zip(("no robustness", "ellipsoid, learned"), weights, strict=True)):
        bars.bar(np.arange(noise.size) + 0.4 * k, np.abs(w[order]), 0.4, label=label)
    bars.axvspan((noise < 1).sum() - 0.4, noise.size, color="0.9", zorder=0, label="noisy sensors")
    bars.set(xlabel="feature", ylabel="size of its weight")
    curve.legend(loc="lower left")
    bars.legend()
    return figure


def main(out: str | None) -> None:
    torch.set_default_dtype(torch.float64)
    clean, validation, test, noise = patients(np.random.default_rng(0))
    X, y = (t.numpy() for t in clean)
    layer = robust_svm(X, y)

    plain = layer(torch.zeros(noise.size))
    reference = SVC(kernel="linear", C=C, tol=1e-9).fit(X, y)
    difference = np.abs(plain[0].numpy() - reference.coef_[0]).max()
    ordinary = mistakes(plain, test)
    ball, radius = min((mistakes(layer(torch.full((noise.size,), s)), test), s) for s in np.geomspace(0.01, 3, 40))
    r, path = learn(layer, noise.size, validation, test)
    found = mistakes(layer(r), test)
    print(f"r = 0 against scikit-learn's machine: weights differ by {difference:.0e}")
    print(
        f"half-axes of the noisy sensors {r[noise > 1].median():.2f}, of the others {r[noise < 1].median():.3f} (medians)"
    )
    print(
        f"mistakes on unseen patients: no robustness {ordinary:.2%}, best ball (radius {radius:.2f}) {ball:.2%}, learned {found:.2%}"
    )
    print(f"gradient: {layer.certify(r)[0].verdict.value}")
    figure = draw([*path, found], ordinary, ball, noise, [plain[0].numpy(), layer(r)[0].numpy()])
    if out:
        figure.savefig(out, dpi=150)
    assert difference < 1e-6
    assert found < 0.85 * ball


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="where the picture goes")
    main(parser.parse_args().out)
