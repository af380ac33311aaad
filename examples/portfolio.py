"""Portfolios from forecasts trained for the decision
==================================================

An investor forecasts next month's returns from five signals ξ and buys the Markowitz portfolio of the forecast,

    w(μ) = argmax  μᵀw − (γ/2) wᵀΣw    over w ≥ 0, 1ᵀw = 1,        μ = Bξ + b.

Two linear forecasts are compared on the same 300 months. One is fitted by least squares to the returns. The other is trained through the
portfolio: Adam descends on the regret, the utility lost against the best portfolio in hindsight, by the layer's gradient. The truth is
not linear in the signals; no linear forecast is right everywhere, and it pays to be right where the choice hangs on it. That small
errors and good decisions are different things is the subject of Elmachtoub and Grigas, "Smart 'Predict, then Optimize'", 2022.

Σ and the shocks are those of real monthly returns (eight series that come with matplotlib, 1997 to 2022). The signals are simulated:
mean returns are the real ones plus cubics of combinations of the signals, a quarter of the shocks is left in. With all of them
(``--shock 1``) least squares wins in all three markets: 300 noisy months are too few to learn from decisions alone.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.cbook import get_sample_data

from conelayers.torch import ConeLayer

COLUMNS = (1, 2, 3, 4, 5, 8, 9, 10)  # IBM, Apple, Microsoft, Xerox, Amazon, Adobe, S&P 500, NASDAQ
SIGNALS, TRAIN, TEST, STEPS, AVERSION, MARKETS = 5, 300, 2000, 150, 5.0, 3
WAYS = ("least squares", "decision-focused")


def monthly_returns() -> np.ndarray:
    """Returns (months × series), of the months for which all series have a price."""
    with get_sample_data("Stocks.csv") as file:
        prices = np.genfromtxt(file, delimiter=",", skip_header=2, usecols=COLUMNS)
    prices = prices[np.isfinite(prices).all(axis=1)]
    return np.diff(prices, axis=0) / prices[:-1]


def markowitz(covariance: np.ndarray) -> ConeLayer:
    """Forecast in, portfolio out."""
    w, mu = cp.Variable(len(covariance), name="w"), cp.Parameter(len(covariance), name="mu")
    utility = mu @ w - AVERSION / 2 * cp.quad_form(w, cp.psd_wrap(covariance))
    return ConeLayer(cp.Problem(cp.Maximize(utility), [w >= 0, cp.sum(w) == 1]), [mu], [w])


class Market:
    """Signals of months (and a 1 for the intercept), and the returns that follow them."""

    def __init__(self, history: np.ndarray, shock: float, seed: int) -> None:
        self.history, self.shock, self.rng = history, shock, np.random.default_rng(seed)
        self.loadings = self.rng.choice([-1.0, 1.0], (SIGNALS, history.shape[1])) / np.sqrt(SIGNALS)

    def months(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Signals, mean returns given the signals, and returns: the mean and a share of some real month's shock."""
        signals = self.rng.standard_normal((count, SIGNALS))
        mean = self.history.mean(axis=0) + 0.01 * (1 + signals @ self.loadings) ** 3
        shocks = self.rng.choice(self.history - self.history.mean(axis=0), count)
        signals = np.column_stack([signals, np.ones(count)])
        return torch.tensor(signals), torch.tensor(mean), torch.tensor(mean + self.shock * shocks)


def utility(w: torch.Tensor, returns: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Of each month."""
    return (returns * w).sum(dim=1) - AVERSION / 2 * ((w @ covariance) * w).sum(dim=1)


def decision_focused(layer: ConeLayer, signals: torch.Tensor, returns: torch.Tensor, S: torch.Tensor) -> torch.Tensor:
    """From least squares, by Adam on the regret of the observed months (less its constant, the best in hindsight)."""
    B = torch.linalg.lstsq(signals, returns).solution.requires_grad_()
    optimizer = torch.optim.Adam([B], lr=3e-3)
    for _ in range(STEPS):
        (w,) = layer(signals @ B)
        optimizer.zero_grad()
        (-utility(w, returns, S).mean()).backward()
        optimizer.step()
    return B.detach()


def experiment(history: np.ndarray, layer: ConeLayer, shock: float, seed: int) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Root-mean-square errors and regrets [way to train, (error, regret)] on unseen months; their true means, and forecasts."""
    market, S = Market(history, shock, seed), torch.tensor(np.cov(history.T))
    (signals, _, returns), (unseen, mean, _) = market.months(TRAIN), market.months(TEST)
    best = utility(layer(mean)[0], mean, S)
    table, forecasts = [], [mean]
    for B in (torch.linalg.lstsq(signals, returns).solution, decision_focused(layer, signals, returns, S)):
        forecast = unseen @ B
        regret = best - utility(layer(forecast)[0], mean, S)
        assert regret.min() > -1e-9  # nothing beats the portfolio of the true means
        table.append((float((forecast - mean).square().mean().sqrt()), float(regret.mean())))
        forecasts.append(forecast)
    return np.array(table), forecasts


def draw(results: np.ndarray, forecasts: list[torch.Tensor]) -> plt.Figure:
    figure, (bars, scatter) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    mean, *predicted = (100 * f[:250].numpy().ravel() for f in forecasts)
    for k, (name, points) in enumerate(zip(WAYS, predicted, strict=True)):
        bars.bar(np.arange(len(results)) + 0.4 * k - 0.2, 100 * results[:, k, 1], 0.38, label=name)
        scatter.plot(mean, points, ".", markersize=3, alpha=0.5, label=name)
    scatter.axline((0, 0), slope=1, color="black", linewidth=0.8, label="perfect forecast")
    bars.set(xlabel="simulated market", ylabel="regret on unseen months, % a month", xticks=range(len(results)))
    scatter.set(xlabel="true mean return, % a month", ylabel="forecast, % a month", xlim=(-15, 35), ylim=(-35, 50))
    scatter.legend(loc="upper left", markerscale=3)
    bars.legend()
    return figure


def main(shock: float, out: str | None) -> None:
    layer = markowitz(np.cov((history := monthly_returns()).T))
    print(
        layer.certify(torch.tensor(history.mean(axis=0)))[0].verdict.value, "gradient at the portfolio without signals"
    )
    runs = [experiment(history, layer, shock, seed) for seed in range(MARKETS)]
    results = np.array([table for table, _ in runs])
    for name, (error, regret) in zip(WAYS, 100 * results.mean(axis=0), strict=True):
        print(f"{name:16}: error of the forecast {error:.2f} %, regret {regret:.3f} % a month")
    ratio = results[:, 1, 1] / results[:, 0, 1]
    print(f"regret of decision-focused training over that of least squares: {', '.join(f'{r:.2f}' for r in ratio)}")
    figure = draw(results, runs[0][1])
    if out:
        figure.savefig(out, dpi=150)
    # Larger errors, better decisions, in every market.
    assert shock > 0.25 or (ratio.max() < 0.75 and (results[:, 1, 0] > results[:, 0, 0]).all())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shock", type=float, default=0.25, help="share of a real month's shock in the returns")
    parser.add_argument("--out", help="where the picture goes")
    arguments = parser.parse_args()
    main(arguments.shock, arguments.out)
