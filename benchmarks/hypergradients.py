"""Time and error of a Lasso's hypergradient on hold-out data, by three ways: ``python -m benchmarks.hypergradients``.

    on the support      conelayers.lasso: solve, polish, one linear solve on the support; cold (scikit-learn's guess) and warm (a start at a
                        neighbouring λ, as in a descent)
    cone layer          the same problem as a cvxpy problem through conelayers.Layer
    central differences 2m polished solutions, started warm, for m hyperparameters

One process, one BLAS thread, medians over rounds in which everybody takes a turn. The error is that of the hypergradient, relative to its largest
entry, against the closed form in extended precision on the support. Setting up (Gram matrix; canonicalization) is not in the times, and is shown by itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cvxpy as cp
import numpy as np
from threadpoolctl import threadpool_limits

from conelayers import Layer
from conelayers.lasso import HoldOut, Lasso, WeightedLasso

ROUNDS = 9
STEP = 1e-5  # in log λ, of the differences
CASES = [  # training samples, features, whether every feature has a λ of its own
    (200, 20, False),
    (500, 100, False),
    (2000, 300, False),
    (200, 20, True),
    (500, 100, True),
    (2000, 300, True),
]


def _data(n: int, p: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2 * n, p)) + 0.5 * rng.standard_normal((2 * n, 1))
    y = X @ np.where(np.arange(p) % 5 == 0, rng.standard_normal(p), 0.0) + rng.standard_normal(2 * n)
    return X[:n], y[:n], X[n:], y[n:]


def _refined(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A⁻¹b for extended-precision A and b, from float64 factorizations."""
    inverse = np.linalg.inv(A.astype(np.float64))
    x = np.zeros_like(b)
    for _ in range(6):
        x = x + inverse @ (b - A @ x)
    return x


def _closed_form(criterion: HoldOut, theta: np.ndarray) -> np.ndarray:
    """The hypergradient in extended precision; the support and its signs are taken from the solution, whose conditions are checked."""
    solution = criterion.evaluate(theta).solutions[0]
    assert solution.certify().verdict.value == "classical"
    S, n = solution.support, len(criterion.y)
    X, y, X_val, y_val = (
        np.asarray(a, dtype=np.longdouble) for a in (criterion.X, criterion.y, criterion.X_val, criterion.y_val)
    )
    G, force = X[:, S].T @ X[:, S] / n, np.exp(np.asarray(theta, dtype=np.longdouble))
    s = np.sign(solution.coef[S]) * (force[S] if len(theta) > 1 else force)
    w = _refined(G, X[:, S].T @ y / n - s)
    a = _refined(G, 2 * X_val[:, S].T @ (X_val[:, S] @ w - y_val) / len(y_val))
    if len(theta) == 1:
        return np.array([-(a @ s)], dtype=np.float64)
    gradient = np.zeros(len(theta))
    gradient[S] = -(a * s)
    return gradient


def _cone(criterion: HoldOut, weighted: bool) -> Callable[[np.ndarray], np.ndarray]:
    n, p = criterion.X.shape
    w = cp.Variable(p)
    lam = cp.Parameter(p, nonneg=True) if weighted else cp.Parameter(nonneg=True)
    penalty = lam @ cp.abs(w) if weighted else lam * cp.norm1(w)
    layer = Layer(
        cp.Problem(cp.Minimize(cp.sum_squares(criterion.X @ w - criterion.y) / (2 * n) + penalty)), [lam], [w]
    )

    def gradient(theta: np.ndarray) -> np.ndarray:
        level = np.exp(theta if weighted else theta[0])
        solution = layer.solve(level)
        (coef,) = solution.variables
        residual = criterion.X_val @ coef - criterion.y_val
        (slope,) = solution.vjp(2 * criterion.X_val.T @ residual / len(residual))
        return np.atleast_1d(level * slope)

    return gradient


def _differences(criterion: HoldOut, theta: np.ndarray) -> np.ndarray:
    here = criterion.evaluate(theta)
    gradient = np.zeros(len(theta))
    for j in range(len(theta)):
        e = np.zeros(len(theta))
        e[j] = STEP
        gradient[j] = (criterion.evaluate(theta + e, here).value - criterion.evaluate(theta - e, here).value) / (
            2 * STEP
        )
    return gradient


def _case(n: int, p: int, weighted: bool) -> None:
    begin = time.perf_counter()
    criterion = HoldOut(WeightedLasso() if weighted else Lasso(), *_data(n, p), fit_intercept=False)
    m = criterion.hyperparameters
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    cone = _cone(criterion, weighted)
    theirs = time.perf_counter() - begin
    theta = np.full(m, float(np.log(0.1 * criterion.problems[0].fit.scale)))
    near = criterion.evaluate(theta + 0.1)
    exact = _closed_form(criterion, theta)
    functions: dict[str, Callable[[], np.ndarray]] = {
        "on the support, warm": lambda: criterion.evaluate(theta, near).gradient,
        "on the support, cold": lambda: criterion.evaluate(theta).gradient,
        "cone layer": lambda: cone(theta),
        "central differences": lambda: _differences(criterion, theta),
    }
    times: dict[str, list[float]] = {who: [] for who in functions}
    errors: dict[str, float] = {}
    for round_ in range(ROUNDS + 1):
        for who, function in functions.items():
            begin = time.perf_counter()
            got = function()
            if round_:
                times[who].append(time.perf_counter() - begin)
            errors[who] = float(np.abs(got - exact).max() / np.abs(exact).max())
    support = near.solutions[0].support.size
    print(
        f"{'weighted Lasso' if weighted else 'Lasso'}, {n} × {p}, {m} hyperparameter{'s' if m > 1 else ''}, about {support} features active; "
        f"set up in {1e3 * ours:.1f} ms, the layer in {1e3 * theirs:.0f} ms"
    )
    base = statistics.median(times["on the support, warm"])
    for who, t in times.items():
        median = statistics.median(t)
        print(f"  {who:22}{1e3 * median:10.2f} ms {median / base:8.1f}×   error {errors[who]:.0e}", flush=True)


def main() -> None:
    with threadpool_limits(limits=1, user_api="blas"):
        for case in CASES:
            _case(*case)


if __name__ == "__main__":
    main()
