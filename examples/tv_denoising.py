"""Total-variation denoising with learned weights
==============================================

A noisy picture y is denoised by total variation, with a weight λₑ for each pair e = (i, j) of neighbouring pixels:

    minimize over x, z   ½ ‖x − y‖² + Σₑ λₑ |zₑ| + Σₑ (xᵢ − xⱼ − zₑ)²/(2δ)

A single weight leaves noise where it is small and washes out detail where it is large. Here the weights are predicted from what is
known at each place: the standard deviation σ of the noise, which grows towards the corners, and the slope g of the blurred noisy picture,

    log λₑ = θ₀ + θ₁ log σₑ + θ₂ log gₑ.

θ is trained through the layer on patches of two photographs, and tested on a third. The opponent is the single weight that is best
on the test picture itself, chosen with the clean picture at hand.

z and a small δ round off the kink of the total variation. Without them the multipliers are not unique where a picture is flat, as the
differences around a square of pixels add up to zero; with them the certificate is ``classical``.

Sources: Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", 1992; Calatroni and others, "Bilevel
approaches for learning of variational imaging models", 2017.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
import torch
from matplotlib.cbook import get_sample_data
from matplotlib.image import imread
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

from conelayers.torch import ConeLayer

PATCH, SIDE, PATCHES, STEPS, DELTA = 20, 48, 8, 40, 0.02
# The noise's standard deviation: 0.03 in the middle, 0.2 in the corners.
SIGMA = 0.03 + 0.17 * np.add.outer(*2 * [np.linspace(-1, 1, SIDE) ** 2]) / 2


def differences(n: int) -> sp.csr_array:
    """From an n × n picture to its differences along rows, then along columns."""
    d, one = sp.diags_array([-np.ones(n), np.ones(n)], offsets=[0, 1], shape=(n - 1, n)), sp.eye_array(n)
    return sp.csr_array(sp.vstack([sp.kron(one, d), sp.kron(d, one)]))


def denoiser(n: int) -> ConeLayer:
    """Noisy picture and weights in, denoised picture out."""
    x, z = cp.Variable(n * n, name="x"), cp.Variable(2 * n * (n - 1), name="z")
    y, weights = cp.Parameter(x.size, name="y"), cp.Parameter(z.size, nonneg=True, name="weights")
    objective = cp.sum_squares(x - y) / 2 + weights @ cp.abs(z) + cp.sum_squares(differences(n) @ x - z) / (2 * DELTA)
    return ConeLayer(cp.Problem(cp.Minimize(objective)), [y, weights], [x])


def photograph(pixels: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1], averaged over blocks, of the largest square in the middle."""
    block = min(pixels.shape[:2]) // SIDE
    top, left = ((length - SIDE * block) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + SIDE * block, left : left + SIDE * block] / 255
    return square.reshape(SIDE, block, SIDE, block, 3).mean(axis=(1, 3, 4))


def features(noisy: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """1, log σ and log of the blurred picture's slope, for each pair of neighbours."""
    between = abs(differences(len(noisy))) / 2
    slope = np.hypot(*np.gradient(gaussian_filter(noisy, 1.0))).ravel()
    return np.column_stack([np.ones(between.shape[0]), np.log(between @ sigma.ravel()), np.log(between @ slope + 0.01)])


def training_patches(rng: np.random.Generator) -> list[torch.Tensor]:
    """Noisy patches, features of their pairs of pixels, clean patches; from two photographs that come with scikit-learn."""
    photographs = [photograph(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")]
    rows = []
    for k in range(PATCHES):
        i, j = rng.integers(SIDE - PATCH + 1, size=2)
        window = np.s_[i : i + PATCH, j : j + PATCH]
        clean = photographs[k % 2][window]
        noisy = clean + SIGMA[window] * rng.standard_normal(clean.shape)
        rows.append((noisy.ravel(), features(noisy, SIGMA[window]), clean.ravel()))
    return [torch.tensor(np.array(column)) for column in zip(*rows, strict=True)]


def train(noisy: torch.Tensor, known: torch.Tensor, clean: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """θ by Adam, and the mean squared errors at the start and at the end."""
    layer, theta = denoiser(PATCH), torch.tensor([np.log(0.1), 0.0, 0.0], requires_grad=True)
    optimizer, errors = torch.optim.Adam([theta], lr=0.1), []
    for _ in range(STEPS):
        (x,) = layer(noisy, (known @ theta).exp())
        errors.append((x - clean).square().mean())
        optimizer.zero_grad()
        errors[-1].backward()
        optimizer.step()
    return theta.detach(), errors[0].item(), errors[-1].item()


def psnr(x: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels."""
    return float(-10 * np.log10(np.mean((x - clean) ** 2)))


def draw(pictures: dict[str, np.ndarray], weights: np.ndarray) -> plt.Figure:
    figure, axes = plt.subplots(1, len(pictures) + 1, figsize=(13, 3.2), layout="constrained")
    for ax, (title, picture) in zip(axes, (pictures | {"weights": weights}).items(), strict=True):
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
        if title != "weights":
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    figure.colorbar(axes[-1].imshow(weights, cmap="viridis", norm="log"), ax=axes[-1], shrink=0.75)
    return figure


def main(out: str | None) -> None:
    rng = np.random.default_rng(0)
    theta, first, last = train(*training_patches(rng))
    print(f"training: mean squared error {first:.5f} at first, {last:.5f} at last; θ = {theta.numpy().round(2)}")
    with get_sample_data("grace_hopper.jpg") as file:
        clean = photograph(imread(file, format="jpg"))
    layer, noisy = denoiser(SIDE), clean + SIGMA * rng.standard_normal(clean.shape)
    y, weights = torch.tensor(noisy.ravel()), (torch.tensor(features(noisy, SIGMA)) @ theta).exp()
    grid = torch.tensor(np.geomspace(0.02, 0.2, 25))
    learned, *single = (layer(y, w)[0].numpy().reshape(clean.shape) for w in (weights, *torch.outer(grid, weights**0)))
    best = max(single, key=lambda x: psnr(x, clean))
    named = {"noisy": noisy, "best single weight": best, "learned weights": learned}
    pictures = {f"{name}, {psnr(x, clean):.1f} dB": x for name, x in named.items()}
    print(f"test: {'; '.join(pictures)}; gradient {layer.certify(y, weights)[0].verdict.value}")
    pairs = abs(differences(SIDE)).T
    figure = draw({"clean": clean} | pictures, (pairs @ weights.numpy() / pairs.sum(axis=1)).reshape(clean.shape))
    if out:
        figure.savefig(out, dpi=150)
    assert psnr(learned, clean) > psnr(best, clean) + 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="where the picture goes")
    main(parser.parse_args().out)
