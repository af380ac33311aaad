"""Costs of a road network learned from paths, by LPGD
===================================================

The costs of a grid's edges are learned from shortest paths that were seen; the exact derivative learns nothing.

    minimize ⟨c, f⟩ over unit flows f from one corner of a grid to the other,     c = softplus(W ξ + w₀)

A hidden model of the same form made the paths. The predicted costs change where the path goes only when another path becomes
the cheaper one: the layer's derivative is zero almost everywhere, and exact, and useless. LPGD (Paulus, Martius and Musil, 2024)
asks instead which path would be the best if the loss had a say, by solving with the costs c ± τ∇loss, and its gradient is the
difference of the two paths. Printed for both: the share of edges of unseen paths that are found, and the regret, how much longer
the chosen paths are under the true costs. The layer's shortest paths are as long as Dijkstra's.
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import dijkstra

from conelayers import LPGD
from conelayers.torch import ConeLayer

SIDE, FEATURES, TRAIN, TEST, BATCH = 5, 5, 200, 100, 50
TAU, RATE = 1.0, 3e-2


def grid(side: int) -> tuple[sp.csr_array, np.ndarray]:
    """Incidence (nodes × edges) of the grid with edges to the right and down, and the unit of flow from corner to corner."""
    node = np.arange(side**2).reshape(side, side)
    tails = np.concatenate([node[:, :-1].ravel(), node[:-1, :].ravel()])
    heads = np.concatenate([node[:, 1:].ravel(), node[1:, :].ravel()])
    edges = np.arange(tails.size)
    ends = (np.repeat([1.0, -1.0], edges.size), (np.concatenate([tails, heads]), np.tile(edges, 2)))
    supply = np.zeros(side**2)
    supply[0], supply[-1] = 1.0, -1.0
    return sp.csr_array(ends, shape=(side**2, edges.size)), supply


def shortest_path(smoothing: LPGD | None) -> ConeLayer:
    """Costs in, flow out."""
    incidence, supply = grid(SIDE)
    flow, cost = cp.Variable(incidence.shape[1]), cp.Parameter(incidence.shape[1])
    # The last node's balance follows from the others'.
    constraints = [incidence[:-1] @ flow == supply[:-1], flow >= 0]
    problem = cp.Problem(cp.Minimize(cost @ flow), constraints)
    # "least_squares": that the exact derivative is zero is what is shown here, and need not be told.
    return ConeLayer(problem, [cost], [flow], smoothing=smoothing, singular="least_squares")


def dijkstra_lengths(costs: np.ndarray) -> np.ndarray:
    """Lengths of the shortest paths for each row of costs, by Dijkstra's algorithm."""
    incidence, _ = grid(SIDE)
    ends = incidence.toarray()
    tails, heads = ends.argmax(axis=0), ends.argmin(axis=0)
    graphs = (sp.csr_array((c, (tails, heads)), shape=2 * (SIDE**2,)) for c in costs)
    return np.array([dijkstra(graph, indices=0)[-1] for graph in graphs])


def costs_of(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """softplus(W ξ + w₀) + 0.1, for W and w₀ side by side."""
    return torch.nn.functional.softplus(features @ weights[:-1] + weights[-1]) + 0.1


def train(
    layer: ConeLayer, features: torch.Tensor, paths: torch.Tensor, epochs: int, generator: torch.Generator
) -> tuple[torch.Tensor, list[float], float]:
    """The weights, the loss of each epoch (edges in which a path differs), and the largest gradient that was seen."""
    # At zero all costs are equal and all paths tie; the layer would warn that no derivative exists.
    weights = 0.1 * torch.randn(FEATURES + 1, paths.shape[1], dtype=torch.float64, generator=generator)
    weights.requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=RATE)
    losses, largest = [], 0.0
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(features), generator=generator).split(BATCH):
            (flow,) = layer(costs_of(features[batch], weights))
            loss = ((flow - paths[batch]) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            assert weights.grad is not None
            largest = max(largest, float(weights.grad.abs().max()))
            optimizer.step()
            total += float(loss.detach())
        losses.append(total / len(features))
    return weights.detach(), losses, largest


def main(picture: str, epochs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = shortest_path(None)
    edges = exact.engine.parameters[0].size
    truth = torch.randn(FEATURES + 1, edges, dtype=torch.float64, generator=generator)
    features = torch.randn(TRAIN + TEST, FEATURES, dtype=torch.float64, generator=generator)
    true_costs = costs_of(features, truth)
    (paths,) = exact(true_costs)
    difference = np.abs((paths * true_costs).sum(dim=1).numpy() - dijkstra_lengths(true_costs.numpy())).max()
    print(f"lengths of {len(paths)} shortest paths against Dijkstra's: {difference:.0e}")
    curves, hits, gradients = {}, [], []
    for name, layer in (("exact derivative", exact), (f"LPGD, τ = {TAU:g}", shortest_path(LPGD(tau=TAU)))):
        start = time.perf_counter()
        weights, curves[name], largest = train(layer, features[:TRAIN], paths[:TRAIN], epochs, generator)
        seconds = time.perf_counter() - start
        (found,) = layer(costs_of(features[TRAIN:], weights))
        hit = float((found * paths[TRAIN:]).sum() / paths[TRAIN:].sum())
        hits.append(hit)
        gradients.append(largest)
        length, best = ((f * true_costs[TRAIN:]).sum() for f in (found, paths[TRAIN:]))
        print(f"{name}: {seconds:.1f} s, largest gradient {largest:.1e}")
        print(f"  loss {curves[name][0]:.2f} in the first epoch, {curves[name][-1]:.2f} in the last")
        print(f"  unseen: {hit:.0%} of the edges found, paths {float(length / best - 1):.1%} longer than the shortest")
    draw(picture, curves)
    assert difference < 1e-8
    assert gradients[0] < 1e-10  # the exact derivative is zero
    assert hits[1] > 1.5 * hits[0] or epochs < 10


def draw(picture: str, curves: dict[str, list[float]]) -> None:
    """The losses over the epochs."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, losses in curves.items():
        axes.plot(np.arange(1, len(losses) + 1), losses, label=name)
    axes.set(xlabel="epoch", ylabel="edges in which a path differs", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", default="shortest_path.png", help="where the picture goes")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training paths")
    arguments = parser.parse_args()
    main(arguments.picture, arguments.epochs)
