"""Problems whose derivative is zero in every parameter, and whether one was told of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np

from conelayers import ZeroDerivativeWarning

COSTS, SEED = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0])


def simplex() -> tuple[cp.Problem, list[cp.Parameter], list[cp.Variable]]:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    return cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0]), [c], [x]


def with_total() -> tuple[cp.Problem, list[cp.Parameter], list[cp.Variable]]:
    x, c, b = cp.Variable(3, name="x"), cp.Parameter(3, name="c"), cp.Parameter(name="b")
    return cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == b, x >= 0]), [c, b], [x]


def told(action: Callable[[], Any]) -> list[str]:
    """The ZeroDerivativeWarnings of an action."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in caught if w.category is ZeroDerivativeWarning]
