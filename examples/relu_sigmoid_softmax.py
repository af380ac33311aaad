"""ReLU, sigmoid and softmax are optimization layers
===================================================

Three activation functions of every network, each the solution of a convex problem, and the layer of the problem is the function:

    ReLU(x)    = argmin over y ≥ 0            of  ½(y − x)²
    sigmoid(x) = argmax over 0 ≤ y ≤ 1        of  xy + H(y) + H(1 − y)
    softmax(x) = argmax over y ≥ 0, Σᵢyᵢ = 1  of  Σᵢ xᵢyᵢ + Σᵢ H(yᵢ)              with the entropy H(y) = −y log y

Values and gradients are compared with the closed forms. They agree to the last digits wherever there is a derivative: the first problem is a quadratic program,
the others are programs over the exponential cone, and what is differentiated are their optimality conditions. At ReLU's kink there is none, and the
layer says so: the constraint is active with a zero multiplier there. The certificate is ``certified`` all the same, as every element of the generalized
Jacobian is invertible, and ``selection`` chooses among them: 0, 1, or the mean.

The problems stand in Amos, "Differentiable optimization-based modeling for machine learning" (2019).
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import torch

from conelayers import Verdict
from conelayers.torch import ConeLayer

CLASSES = 3


def relu(selection: str | None = None) -> ConeLayer:
    x, y = cp.Parameter(), cp.Variable(name="y")
    problem = cp.Problem(cp.Minimize(cp.square(y - x) / 2), [(y >= 0).set_label("y ≥ 0")])
    return ConeLayer(problem, [x], [y], **({"selection": selection} if selection else {}))


def sigmoid() -> ConeLayer:
    x, y = cp.Parameter(), cp.Variable()
    return ConeLayer(cp.Problem(cp.Maximize(x * y + cp.entr(y) + cp.entr(1 - y))), [x], [y])


def softmax() -> ConeLayer:
    x, y = cp.Parameter(CLASSES), cp.Variable(CLASSES)
    return ConeLayer(cp.Problem(cp.Maximize(x @ y + cp.sum(cp.entr(y))), [cp.sum(y) == 1]), [x], [y])


def gradient(output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(output.sum(), x)[0]


def main(picture: str | None) -> None:
    torch.set_default_dtype(torch.float64)
    # Softmax as a function of its first score, the others fixed; no point of the grid is at ReLU's kink.
    grid = torch.linspace(-5, 5, 400)
    others = torch.tensor([0.0, 1.0]).expand(len(grid), 2)
    scores = torch.cat([grid[:, None], others], dim=1)
    cases = {
        "ReLU": (relu(), torch.relu, grid),
        "sigmoid": (sigmoid(), torch.sigmoid, grid),
        "softmax": (softmax(), lambda x: torch.softmax(x, dim=1), scores),
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for ax, (name, (layer, closed, points)) in zip(axes, cases.items(), strict=True):
        x, start = points.clone().requires_grad_(), time.perf_counter()
        (y,) = layer(x)
        first = y if y.ndim == 1 else y[:, 0]  # of softmax the first class's probability
        slope = gradient(first, x)
        seconds, expected = time.perf_counter() - start, closed(x)
        expected_slope = gradient(expected if expected.ndim == 1 else expected[:, 0], x)
        errors = [float((a - b).detach().abs().max()) for a, b in ((y, expected), (slope, expected_slope))]
        print(f"{name}: {len(grid)} solves and gradients in {seconds:.2f} s,", end=" ")
        print(f"value within {errors[0]:.1e} and gradient within {errors[1]:.1e} of the closed form")
        assert max(errors) < 1e-8
        draw(ax, name, grid, expected.detach(), first.detach(), slope if slope.ndim == 1 else slope[:, 0])

    zero = torch.zeros((), requires_grad=True)
    (certificate,) = relu().certify(zero)
    print(f"\nReLU at its kink\n{certificate}\n")
    slopes = [float(gradient(relu(selection)(zero)[0], zero)) for selection in ("low", "mid", "high")]
    print("the gradient there by selection: low {:g}, mid {:g}, high {:g}".format(*slopes))
    assert certificate.verdict is Verdict.CERTIFIED
    assert sorted(slopes) == [0, 0.5, 1]
    axes[0].plot([0, 0], [0, 1], color="tab:orange", linewidth=4, alpha=0.4, label="derivatives at the kink")
    axes[0].legend(loc="upper left")
    if picture:
        figure.savefig(picture, dpi=150)


def draw(ax: plt.Axes, name: str, x: torch.Tensor, closed: torch.Tensor, y: torch.Tensor, slope: torch.Tensor) -> None:
    """The closed form as a line, one in twenty of the layer's values on it, and the layer's gradient."""
    ax.plot(x, closed if closed.ndim == 1 else closed[:, 0], color="grey", label="closed form")
    ax.plot(x[10::20], y[10::20], ".", color="tab:blue", markersize=7, label="layer")
    ax.plot(x, slope, color="tab:orange", label="layer's gradient")
    ax.set(title=name if name != "softmax" else "softmax of (x, 0, 1), first entry", xlabel="x")
    if name == "ReLU":
        ax.set(ylim=(-0.2, 3), xlim=(-3, 3))
    else:
        ax.legend(loc="upper left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE", help="where the picture goes")
    main(parser.parse_args().out)
