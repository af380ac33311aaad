"""Prices of power and of bandwidth, from the duals
================================================

Two classics of resource allocation, in which the dual variables are what one wants to know. Water-filling splits a transmitter's power
over channels with noise nᵢ; a network shares its links among flows, of which R says who goes where:

    maximize Σᵢ log(1 + pᵢ/nᵢ)     over p ≥ 0, 1ᵀp = P
    maximize Σᵣ wᵣ log xᵣ          over R x ≤ c

The layers return the multipliers beside the solutions, a price of power and a price for each link, and differentiate them like
anything else. The closed form of water-filling, p = max(0, ℓ − n) with the water level ℓ, says what they have to be: 1/ℓ, and
−1/(kℓ²) for the price's derivative in P, k the number of channels in use.

Then the network is planned. Capacity costs κ per unit; the best capacities are those whose prices equal their costs, and Newton's
method finds them by the layer's Jacobian of prices in capacities. At the optimum flow r has wᵣ over the costs along its route.

Sources: Cover and Thomas, "Elements of information theory", 1991; Kelly, Maulloo and Tan, "Rate control for communication networks", 1998.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np

from conelayers import Layer

NOISE = np.array([0.3, 0.9, 0.5, 1.6, 0.7, 1.2, 0.4, 2.1])
# Two long flows over several of five links, and a short one on each link.
ROUTES = np.hstack([np.array([[1, 0], [1, 1], [1, 1], [0, 1], [0, 1]]), np.eye(5)])
WEIGHTS = np.array([2.0, 1.5, 1.0, 0.5, 1.0, 0.8, 1.2])
COST = np.array([1.0, 0.5, 0.8, 0.6, 1.2])


def water_filling() -> Layer:
    """Total power and noise in; allocation and the price of power out."""
    p = cp.Variable(NOISE.size, name="p")
    total, noise = cp.Parameter(nonneg=True, name="P"), cp.Parameter(NOISE.size, pos=True, name="n")
    budget = cp.sum(p) == total
    rate = cp.sum(cp.log(noise + p) - cp.log(noise))  # the logarithm of a parameter is lifted
    return Layer(cp.Problem(cp.Maximize(rate), [budget, p >= 0]), [total, noise], [p, budget.dual_variables[0]])


def closed_form(total: float, noise: np.ndarray) -> tuple[float, np.ndarray]:
    """Water level and allocation: the level with the k quietest channels in use, for the largest k that is consistent."""
    quiet = np.sort(noise)
    levels = (total + np.cumsum(quiet)) / np.arange(1, noise.size + 1)
    level = levels[levels > quiet][-1]
    return float(level), np.maximum(0, level - noise)


def network() -> Layer:
    """Capacities in; the flows' rates and the links' prices out."""
    x, c = cp.Variable(WEIGHTS.size, name="x"), cp.Parameter(COST.size, pos=True, name="c")
    links = ROUTES @ x <= c
    return Layer(cp.Problem(cp.Maximize(WEIGHTS @ cp.log(x)), [links]), [c], [x, links.dual_variables[0]])


def check_water_filling(layer: Layer, totals: np.ndarray) -> tuple[np.ndarray, float]:
    """The prices for all totals, and the largest error of allocation, price and its derivative."""
    solution = layer.solve(totals, NOISE)
    p, price = solution.variables
    _, slope = solution.jvp(np.ones_like(totals), None)
    level = np.array([closed_form(t, NOISE)[0] for t in totals])
    exact = np.array([closed_form(t, NOISE)[1] for t in totals])
    used = (exact > 0).sum(axis=1)
    errors = [np.abs(p - exact).max(), np.abs(price - 1 / level).max(), np.abs(slope + 1 / (used * level**2)).max()]
    print("water-filling, largest errors: power {:.0e}, price {:.0e}, derivative of the price {:.0e}".format(*errors))
    return price, max(errors)


def plan(layer: Layer, capacity: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Capacities at which prices are costs, by Newton's method; the prices on the way, and the last rates."""
    prices = []
    while True:
        solution = layer.solve(capacity)
        x, price = solution.variables
        prices.append(price)
        if np.abs(price - COST).max() < 1e-11 or len(prices) > 20:
            return capacity, prices, x
        step = np.linalg.solve(solution.jacobian()[1][0], COST - price)
        capacity = capacity * np.clip(1 + step / capacity, 0.5, 2.0)


def draw(totals: np.ndarray, price: np.ndarray, prices: list[np.ndarray]) -> plt.Figure:
    figure, (water, power, links) = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    order = np.argsort(NOISE)
    water.bar(range(NOISE.size), NOISE[order], 1.0, color="0.6", label="noise")
    water.bar(range(NOISE.size), closed_form(3.0, NOISE)[1][order], 1.0, bottom=NOISE[order], label="power, P = 3")
    water.set(xlabel="channel, quietest first", ylabel="noise and power", title="water-filling", ylim=(0, 2.3))
    power.plot(totals, price, label="price from the layer")
    power.plot(totals[::4], [1 / closed_form(t, NOISE)[0] for t in totals[::4]], "o", label="closed form")
    power.set(xlabel="total power P", ylabel="price of power", title="its price", ylim=(0, None))
    for link, (path, cost) in enumerate(zip(np.array(prices).T, COST, strict=True)):
        (line,) = links.plot(path, marker=".", label=f"link {link + 1}")
        links.axhline(cost, color=line.get_color(), linestyle=":", linewidth=1)
    links.set(xlabel="Newton step", ylabel="price of a link (dotted: cost)", title="planning the network")
    for axes in (water, power, links):
        axes.legend()
    return figure


def main(out: str | None) -> None:
    totals = np.linspace(0.5, 12, 47)
    price, error = check_water_filling(water_filling(), totals)
    layer = network()
    before = np.ones_like(COST)
    h = 1e-5 * np.eye(COST.size)
    slopes = (layer.solve(before + h).value - layer.solve(before - h).value) / 2e-5
    shadow = np.abs(slopes - layer.solve(before).variables[1]).max()
    capacity, prices, x = plan(layer, before)
    best = WEIGHTS / (COST @ ROUTES)
    print(
        f"link prices against differences of the optimal value: {shadow:.0e}; {layer.certify(before)[0].verdict.value}"
    )
    print(
        f"{len(prices) - 1} Newton steps to capacities {np.round(capacity, 3)}, error of the rates {np.abs(x - best).max():.0e}"
    )
    figure = draw(totals, price, prices)
    if out:
        figure.savefig(out, dpi=150)
    assert error < 1e-9
    assert shadow < 1e-7
    assert np.abs(x - best).max() < 1e-9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="where the picture goes")
    main(parser.parse_args().out)
