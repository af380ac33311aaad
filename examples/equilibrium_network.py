"""Deep equilibrium networks on digits
===================================

Digits read by monotone deep equilibrium networks: layers that are fixed points, with a certificate of every gradient.

    z = σ(W z + U x + b),    W = (1 − m)I − AᵀA + B − Bᵀ,    class = argmax of V z + c

after Winston and Kolter, "Monotone operator equilibrium networks" (2020), fully connected and convolutional, on scikit-learn's 8 × 8
digits. Forward it is an operator splitting, backward one linear system by the same splitting; the hypothesis of the nonsmooth implicit
function theorem holds everywhere, as I − W is strongly monotone, and the certificate printed at the end says so. Printed too: what is
kept for the gradient, which does not depend on the number of iterations ("depth"), beside what unrolling them would keep.
"""

from __future__ import annotations

import argparse
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from conelayers.equilibrium import EquilibriumLayer, PeacemanRachford, monotone_convolution, monotone_linear

BATCH, RATE, SMOOTHING = 64, 5e-3, 0.1
TRAINING = PeacemanRachford(tol=1e-4)  # of the solves while training


def digits() -> tuple[torch.Tensor, ...]:
    """Images (N, 1, 8, 8) and classes, to train and to test with."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(images, data.target, test_size=0.25, random_state=0, stratify=data.target)
    return tuple(torch.tensor(h) for h in parts)


def connected() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Flatten(), monotone_linear(64, 96, solver=TRAINING), torch.nn.Linear(96, 10))


def convolutional() -> torch.nn.Sequential:
    equilibrium = monotone_convolution(1, 16, (8, 8), solver=TRAINING)
    return torch.nn.Sequential(equilibrium, torch.nn.Flatten(), torch.nn.Linear(16 * 64, 10))


def accuracy(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def train(network: torch.nn.Module, data: tuple[torch.Tensor, ...], epochs: int) -> list[float]:
    """The test accuracy after each epoch."""
    x, x_test, y, y_test = data
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    reached = []
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[batch]), y[batch], label_smoothing=SMOOTHING).backward()
            optimizer.step()
        schedule.step()
        reached.append(accuracy(network, x_test, y_test))
    return reached


def kept(forward: torch.nn.Module, x: torch.Tensor) -> int:
    """The bytes that a forward pass keeps for the gradient."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward(x)
    total = sum(sizes.values())
    del output  # alive until here: with it goes what it keeps, and addresses would be used again
    return total


class Unrolled(torch.nn.Module):
    """Plain damped iteration, every step of which is kept."""

    def __init__(self, layer: EquilibriumLayer, steps: int) -> None:
        super().__init__()
        self.layer, self.steps = layer, steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.layer.inject(x)
        z = torch.zeros_like(u)
        for _ in range(self.steps):
            z = 0.5 * z + 0.5 * torch.relu(self.layer.operator(z) + u)
        return z


def memory(x: torch.Tensor) -> None:
    layer = monotone_linear(64, 96)
    for tol in (1e-1, 1e-3, 1e-5):
        layer.solver = PeacemanRachford(tol=tol)
        depth = layer.solver.solve(layer.operator, layer.inject(x).detach()).iterations
        ours, theirs = kept(layer, x), kept(Unrolled(layer, depth), x)
        print(
            f"  {depth} iterations: {ours / 1024:.0f} KiB kept for the gradient, {theirs / 1024:.0f} KiB by unrolling"
        )


def main(picture: str, epochs: int) -> None:
    data, curves = digits(), {}
    for name, make in (("fully connected", connected), ("convolutional", convolutional)):
        torch.manual_seed(0)
        network, start = make(), time.perf_counter()
        curves[name] = train(network, data, epochs)
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.0f} s, test accuracy {curves[name][-1]:.1%} after {epochs} epochs")
        assert curves[name][-1] >= 0.97
        layer = next(m for m in network if isinstance(m, EquilibriumLayer)).double()
        layer.solver = PeacemanRachford()
        x = data[1][:100].double()
        certificate = layer.certify(x if name == "convolutional" else x.flatten(1))
        print("  " + str(certificate).replace("\n", "\n  "))
        assert certificate.verdict.justified
    memory(data[0][:BATCH].flatten(1))
    draw(picture, curves)


def draw(picture: str, curves: dict[str, list[float]]) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, reached in curves.items():
        axes.plot(np.arange(1, len(reached) + 1), reached, label=name)
    axes.axhline(0.97, color="grey", linestyle="--", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0.8, 1))
    axes.legend()
    figure.savefig(picture, dpi=150)


# Gallery: --epochs 8
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", "--out", default="equilibrium_network.png", help="where the picture goes")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training images")
    arguments = parser.parse_args()
    main(arguments.picture, arguments.epochs)
