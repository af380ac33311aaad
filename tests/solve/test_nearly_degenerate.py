"""Constraints that nearly coincide: solved to the same accuracy as others, and for not much more work."""

from __future__ import annotations

from collections import Counter

import cvxpy as cp
import numpy as np
import pytest

import conelayers.numerics.newton
import conelayers.solve.magnified
from conelayers import Layer
from conelayers.numerics.kkt import Factorization
from conelayers.numerics.newton import factorize
from conelayers.solve.backends import SOLVERS, Instance, RawSolution, Settings
from conelayers.support.errors import Status

ASSETS, BATCH = 60, 8
MOST_FACTORIZATIONS = 8  # an instance: the guarded steps that these programs took before needed more than a hundred
MOST_SOLVES = 5  # an instance: the loose one, and the magnified ones


def portfolio(risk: str) -> Layer:
    """Max μᵀw − risk − cost‖w − prev‖₁ over w ≥ 0, 1ᵀw = 1."""
    rng = np.random.default_rng(0)
    w, mean, previous = cp.Variable(ASSETS), cp.Parameter(ASSETS), cp.Parameter(ASSETS)
    if risk == "factors":
        loadings = 0.3 * rng.standard_normal((5, ASSETS)) / np.sqrt(5)
        own = 0.05 + 0.1 * rng.random(ASSETS)
        variance = cp.sum_squares(loadings @ w) + cp.sum_squares(cp.multiply(own, w))
    else:
        G = rng.standard_normal((ASSETS, ASSETS)) / np.sqrt(ASSETS)
        variance = cp.quad_form(w, cp.psd_wrap(0.1 * G @ G.T + 0.01 * np.eye(ASSETS)))
    objective = cp.Maximize(mean @ w - variance - 0.002 * cp.norm1(w - previous))
    return Layer(cp.Problem(objective, [w >= 0, cp.sum(w) == 1]), [mean, previous], [w])


def values(holdings: str) -> tuple[np.ndarray, np.ndarray]:
    """μ, and prev with four fifths of the holdings next to zero."""
    rng = np.random.default_rng(1)
    mean, previous = 0.05 * rng.standard_normal((BATCH, ASSETS)), 0.1 + rng.random((BATCH, ASSETS))
    for row in previous:
        small = rng.choice(ASSETS, 4 * ASSETS // 5, replace=False)
        sizes = {
            "zero": np.zeros(small.size),
            "spread": 10.0 ** rng.uniform(-12, -6, small.size),
            "signed": 10.0 ** rng.uniform(-12, -6, small.size) * rng.choice([-1, 1], small.size),
            "alike": 1e-9 * rng.random(small.size),
        }
        row[small] = sizes[holdings]
    return mean, previous / previous.sum(axis=1, keepdims=True)


@pytest.mark.usefixtures("without_core")
@pytest.mark.parametrize("holdings", ["spread", "signed", "alike", "zero"])
@pytest.mark.parametrize("risk", ["factors", "dense"])
def test_holdings_next_to_zero_are_solved_for_little(risk: str, holdings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a portfolio whose holdings are rounding would take a hundred times what others take, or end as
    inaccurate.
    """
    work: Counter[str] = Counter()

    def counted(program, element, jobs, delta=None) -> Factorization:  # type: ignore[no-untyped-def]
        work["factorizations"] += program.batch
        return factorize(program, element, jobs, delta)

    for backend in {type(s) for s in SOLVERS.values()}:

        def solve(  # type: ignore[no-untyped-def]
            self, instance: Instance, settings: Settings, start=None, solve=backend.solve
        ) -> RawSolution:
            work["solves"] += 1
            return solve(self, instance, settings, start)

        monkeypatch.setattr(backend, "solve", solve)
    monkeypatch.setattr(conelayers.numerics.newton, "factorize", counted)
    layer = portfolio(risk)
    mean, previous = values(holdings)
    solution = layer.solve(mean, previous)
    assert layer.last is not None
    assert set(layer.last.status) == {Status.SOLVED}
    assert layer.last.residuals.worst.max() <= 1e-9
    assert work["factorizations"] <= MOST_FACTORIZATIONS * BATCH
    assert 0 < work["solves"] <= MOST_SOLVES * BATCH
    (w,) = solution.variables
    assert w.min() >= -1e-15


def test_slacks_of_very_different_sizes_are_told_apart() -> None:
    """Bounds 1e−6 to 1e−12 apart, of which the largest one holds: an x that mixes them up would be off by their
    distance.
    """
    apart = np.array([1e-6, 1e-8, 1e-10, 1e-12])
    x, c = cp.Variable(4), cp.Parameter(4)
    far = cp.Variable(40)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x) + c @ x + cp.sum_squares(far - 1)), [x >= 0, x >= apart, x <= 2 * apart]
    )
    layer = Layer(problem, [c], [x])
    (low,) = layer.solve(np.ones(4)).variables
    (high,) = layer.solve(-np.ones(4)).variables
    np.testing.assert_allclose(low, apart, rtol=1e-9)
    np.testing.assert_allclose(high, 2 * apart, rtol=1e-9)
