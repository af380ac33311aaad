"""Choose penalties by hypergradient descent, by grid search and by random search, and compare the validation error against time.

    1. Lasso, diabetes (442 × 10), five-fold cross-validation: one hyperparameter
    2. sparse logistic regression, breast cancer (569 × 30), five-fold cross-validation: one hyperparameter
    3. elastic net, made-up housing data (20,000 × 8, as large as California's, all monomials up to degree 4: 494 features), hold-out: two
    4. weighted Lasso, the same data: 494 hyperparameters, one a feature

The searches fit scikit-learn's estimators; all methods see the same folds, and are judged by the same exact criterion. ``python examples/lasso_hyperparameters.py --picture picture.png``
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import Lasso as SklearnLasso
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures

from conelayers.lasso import (
    Criterion,
    CrossValidation,
    ElasticNet,
    HoldOut,
    Lasso,
    LogisticError,
    SparseLogistic,
    WeightedLasso,
    tune,
)

Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Run:
    """Best value so far after so many seconds, and what was chosen, θ = log λ."""

    name: str
    seconds: np.ndarray
    best: np.ndarray
    chosen: np.ndarray


def descend(name: str, make: Callable[[], Criterion], grid: list[np.ndarray], steps: int, tolerance: float) -> Run:
    """The set-up of the problems, a coarse grid and the descent: all of it on the clock."""
    begin = time.perf_counter()
    criterion = make()
    seconds, path = [], []
    for theta in grid:
        path.append(criterion.evaluate(theta, path[-1] if path else None))
        seconds.append(time.perf_counter() - begin)
    tuning = tune(criterion, min(path, key=lambda e: e.value), steps=steps, tolerance=tolerance)
    verdicts = sorted({s.certify().verdict.value for s in tuning.best.solutions})
    print(f"  {name:28} after a grid of {len(grid)}: {tuning}; derivatives {', '.join(verdicts)}")
    seconds += [seconds[-1] + r.seconds for r in tuning.history]
    values = [e.value for e in path] + [r.value for r in tuning.history]
    return Run(name, np.array(seconds), np.minimum.accumulate(values), tuning.log_hyperparameters)


def search(
    name: str,
    fit: Callable[[Fold, np.ndarray], float],
    folds: list[Fold],
    points: Iterable[np.ndarray],
    budget: float,
    criterion: Criterion,
) -> Run:
    """Evaluate the points one after the other until the seconds are spent.

    What is reported is the criterion, off the clock, at what was chosen so far: the fits are to scikit-learn's default tolerances.
    """
    begin, best = time.perf_counter(), np.inf
    seconds, chosen = [], []
    for theta in points:
        value = float(np.mean([fit(fold, theta) for fold in folds]))
        better = value < best
        best = min(value, best)
        seconds.append(time.perf_counter() - begin)
        chosen.append(theta if better else chosen[-1])
        if seconds[-1] > budget:
            break
    values: list[float] = []
    for i, theta in enumerate(chosen):
        values.append(values[-1] if i and theta is chosen[i - 1] else criterion.evaluate(theta).value)
    return Run(f"{name} ({len(values)} points)", np.array(seconds), np.array(values), chosen[-1])


def squared(model: BaseEstimator, fold: Fold, scales: np.ndarray | float = 1.0) -> float:
    X, y, X_val, y_val = fold
    return float(np.mean((model.fit(X * scales, y).predict(X_val * scales) - y_val) ** 2))


def lasso(fold: Fold, theta: np.ndarray) -> float:
    return squared(SklearnLasso(np.exp(theta[0]), precompute=True), fold)


def elastic_net(fold: Fold, theta: np.ndarray) -> float:
    l1, ridge = np.exp(theta)
    return squared(SklearnElasticNet(l1 + ridge, l1_ratio=l1 / (l1 + ridge), precompute=True), fold)


def weighted(fold: Fold, theta: np.ndarray) -> float:
    level = np.exp(theta.mean())
    return squared(SklearnLasso(level, precompute=True), fold, level / np.exp(theta))


def logistic(fold: Fold, theta: np.ndarray) -> float:
    X, y, X_val, y_val = fold
    model = LogisticRegression(
        C=1 / (len(y) * np.exp(theta[0])), l1_ratio=1.0, solver="liblinear", intercept_scaling=10.0, random_state=0
    )
    eta = model.fit(X, y).decision_function(X_val)
    return float(np.mean(np.logaddexp(0, -np.where(y_val == 1, 1, -1) * eta)))


def housing(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """n houses with 8 features, of which the price depends on products of few; all monomials up to degree 4, standardized."""
    rng = np.random.default_rng(0)
    raw = rng.uniform(-1, 1, (n, 8))
    a, b, c, d, e, f, *_ = raw.T
    price = 2 * a + b * c - 1.5 * a * d**2 + np.sin(3 * e) + 0.5 * np.exp(f) + a * b * c * d
    y = price + rng.standard_normal(n)
    X = PolynomialFeatures(4, include_bias=False).fit_transform(raw)
    return (X - X.mean(axis=0)) / X.std(axis=0), y - y.mean()


def grids(top: float, depth: float, points: int, m: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A grid of θ below ``top``, the product of m equal ones, and as many random points in the same box."""
    line = np.linspace(top, top - depth, points)
    product = [np.array(t) for t in np.stack(np.meshgrid(*[line] * m, indexing="ij"), axis=-1).reshape(-1, m)]
    random = list(top - depth * np.random.default_rng(0).random((len(product), m)))
    return product, random


def report(title: str, runs: list[Run]) -> None:
    print(title)
    best = min(run.best[-1] for run in runs)
    for run in runs:
        close = np.flatnonzero(run.best <= best * 1.001)
        when = f"{run.seconds[close[0]]:7.2f} s" if close.size else "   never"
        print(
            f"  {run.name:28} validation error {run.best[-1]:.6g} after {run.seconds[-1]:6.2f} s; within 0.1 % of the best: {when}"
        )


def one_dimensional() -> Iterable[tuple[str, list[Run]]]:
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(axis=0), y / y.std()
    yield "Lasso, diabetes, 1 hyperparameter", cross_validated(CrossValidation(Lasso(), X, y), lasso)
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    criterion = CrossValidation(SparseLogistic(), X, y, LogisticError())
    yield "sparse logistic regression, breast cancer, 1 hyperparameter", cross_validated(criterion, logistic)


def cross_validated(criterion: CrossValidation, fit: Callable[[Fold, np.ndarray], float]) -> list[Run]:
    X, y = criterion.X, criterion.y
    grid, random = grids(float(criterion.largest[0]), 8.0, 100, 1)
    folds = [(X[train], y[train], X[test], y[test]) for train, test in criterion.splits]
    return [
        descend("hypergradient", lambda: CrossValidation(criterion.model, X, y, criterion.error), grid[::10], 50, 1e-4),
        search("grid", fit, folds, grid, 60, criterion),
        search("random", fit, folds, random, 60, criterion),
    ]


def many_dimensional(budget: float) -> Iterable[tuple[str, list[Run]]]:
    X, y = housing()
    train, val, test = slice(0, 4000), slice(4000, 12_000), slice(12_000, None)
    fold = (X[train], y[train], X[val], y[val])
    top = float(Lasso().problem(*fold[:2]).largest[0])
    grid, random = grids(top, 8.0, 10, 2)
    criterion: Criterion = HoldOut(ElasticNet(), *fold)
    yield (
        "elastic net, housing, 2 hyperparameters",
        [
            descend("hypergradient", lambda: HoldOut(ElasticNet(), *fold), grid[::9], 50, 1e-5),
            search("grid", elastic_net, [fold], grid, budget, criterion),
            search("random", elastic_net, [fold], random, budget, criterion),
        ],
    )
    p = X.shape[1]
    line = [np.full(p, t) for t in np.linspace(top, top - 8, 30)]
    rng = np.random.default_rng(1)

    def near() -> Iterable[np.ndarray]:  # a random shared level, and random factors up to e²
        while True:
            yield top - 8 * rng.random() + rng.uniform(-2, 2, p)

    def anywhere() -> Iterable[np.ndarray]:
        while True:
            yield top - 8 * rng.random(p)

    criterion = HoldOut(WeightedLasso(), *fold)
    runs = [
        descend("hypergradient", lambda: HoldOut(WeightedLasso(), *fold), line[::3], 60, 1e-5),
        search("grid of one shared λ", weighted, [fold], line, budget, criterion),
        search("random near a shared λ", weighted, [fold], near(), budget, criterion),
        search("random", weighted, [fold], anywhere(), budget, criterion),
    ]
    yield f"weighted Lasso, housing, {p} hyperparameters", runs
    print("  test error of what was chosen, on 8,000 unseen houses (the noise alone: 1):")
    for run in runs:
        print(f"    {run.name:32} {weighted((X[train], y[train], X[test], y[test]), run.chosen):.4f}")


def draw(results: list[tuple[str, list[Run]]], picture: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    for axes, (title, runs) in zip(figure.subplots(2, 2).flat, results, strict=True):
        for run in runs:
            axes.step(run.seconds, run.best, where="post", marker=".", label=run.name)
        axes.set(xscale="log", title=title, xlabel="seconds", ylabel="validation error, best so far")
        axes.title.set_fontsize(10)
        low, high = min(run.best[-1] for run in runs), max(run.best[-1] for run in runs)
        room = max(high - low, 0.01 * low)
        axes.set_ylim(low - 0.1 * room, high + room)
        axes.legend(fontsize=8)
    figure.savefig(picture, dpi=120)


def main(picture: str, budget: float) -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)  # of the searches, at their weakest penalties
    begin = time.perf_counter()
    results = []
    for make in (one_dimensional(), many_dimensional(budget)):
        for title, runs in make:
            report(title, runs)
            results.append((title, runs))
    draw(results, picture)
    print(f"{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", default="lasso_hyperparameters.png", help="where the picture goes")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each search on the housing data")
    arguments = parser.parse_args()
    main(arguments.picture, arguments.budget)
