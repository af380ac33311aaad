"""A first guess by a fast, well-kept solver: scikit-learn's, or celer's or skglm's where they are installed.

They work to a moderate accuracy (coordinate descent crawls at the end); polish.py does the rest, and does everything where none of
them knows the problem (groups).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, lasso_path

from conelayers.lasso.fit import Fit
from conelayers.lasso.penalties import Grouped, Penalty, Separable
from conelayers.lasso.requirements import optional

__all__ = ["SOLVERS", "check_solver", "first_guess"]

SOLVERS = ("scikit-learn", "celer", "skglm")
_TOLERANCE = 1e-4  # loose: the polish does the rest
_FAR = 100.0  # liblinear penalizes the intercept; as a feature of this size that hardly counts


def check_solver(solver: str) -> None:
    """Raises ValueError for an unknown solver, ImportError for one that is not installed."""
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, expected one of {', '.join(map(repr, SOLVERS))}")
    if solver != "scikit-learn":
        optional(solver, f"solver={solver!r}")


def first_guess(fit: Fit, penalty: Penalty, solver: str) -> np.ndarray:
    """z (d,), near the minimizer of f + penalty where the solver knows the problem, zero elsewhere."""
    z = np.zeros(fit.X.shape[1])
    known = {"scikit-learn": _scikit_learn, "celer": _celer, "skglm": _skglm}[solver](fit, penalty)
    if known is None:
        return z
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the polish finishes, and checks
        coef = known()
    z[: fit.features] = coef
    if fit.intercept and fit.quadratic:
        z[-1] = fit.y.mean()
    return z if np.isfinite(z).all() else np.zeros_like(z)


def _scaled(fit: Fit, penalty: Separable) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """X, y, column scales and λ such that w = scales·u, u the Lasso on X·scales with one λ; the ridge is part of X."""
    p = fit.features
    l1, ridge = penalty.l1[:p], penalty.ridge[:p]
    if not (l1 > 0).all():
        return None
    level = float(np.exp(np.mean(np.log(l1))))
    X, y = fit.X[:, :p], fit.y - (fit.y.mean() if fit.intercept else 0.0)
    R = None
    if fit.gram is not None and len(y) > 4 * p:
        # The same Gram matrix and moments on p rows: a pass costs p² and not np. n enters by the means only.
        try:
            R = np.linalg.cholesky((fit.gram[:p, :p] + np.diag(ridge)) * len(y)).T
        except np.linalg.LinAlgError:
            R = None
    if R is not None:
        X, y = R, solve_triangular(R, fit.moment[:p] * len(y), trans="T")
    elif ridge.any():
        X = np.vstack([X, np.diag(np.sqrt(len(y) * ridge))])
    scales = level / l1
    rows = X.shape[0]
    return X * scales, np.append(y, np.zeros(rows - len(y))), scales, level * len(fit.y) / rows


def _scikit_learn(fit: Fit, penalty: Penalty) -> Callable[[], np.ndarray] | None:
    if not isinstance(penalty, Separable):
        return None
    if not fit.quadratic:
        return lambda: _liblinear(fit, penalty)
    scaled = _scaled(fit, penalty)
    if scaled is None:
        return None
    X, y, scales, level = scaled
    return lambda: scales * lasso_path(np.asfortranarray(X), y, alphas=[level], tol=_TOLERANCE, max_iter=1000)[1][:, 0]


def _liblinear(fit: Fit, penalty: Separable) -> np.ndarray:
    p = fit.features
    l1 = penalty.l1[:p]
    level = float(np.exp(np.mean(np.log(l1))))
    kind: dict[str, Any] = {"l1_ratio": 1.0} if _version() >= (1, 8) else {"penalty": "l1"}
    model = LogisticRegression(
        solver="liblinear", C=1 / (len(fit.y) * level), tol=1e-3, max_iter=200, random_state=0,
        fit_intercept=fit.intercept, intercept_scaling=_FAR, **kind,
    )  # fmt: skip
    scales = level / l1
    return scales * model.fit(fit.X[:, :p] * scales, fit.y).coef_[0]


def _version() -> tuple[int, int]:
    major, minor = sklearn.__version__.split(".")[:2]
    return int(major), int(minor)


def _celer(fit: Fit, penalty: Penalty) -> Callable[[], np.ndarray] | None:
    if not isinstance(penalty, Separable) or not fit.quadratic or (scaled := _scaled(fit, penalty)) is None:
        return None
    X, y, scales, level = scaled
    model = optional("celer", "solver='celer'").Lasso(alpha=level, fit_intercept=False, tol=_TOLERANCE)
    return lambda: scales * model.fit(np.asfortranarray(X), y).coef_


def _skglm(fit: Fit, penalty: Penalty) -> Callable[[], np.ndarray] | None:
    skglm = optional("skglm", "solver='skglm'")
    p = fit.features
    if isinstance(penalty, Grouped):
        return _skglm_groups(skglm, fit, penalty) if fit.quadratic else None
    if not isinstance(penalty, Separable) or (scaled := _scaled(fit, penalty)) is None:
        return None
    X, y, scales, level = scaled
    if fit.quadratic:
        model = skglm.Lasso(alpha=level, fit_intercept=False, tol=_TOLERANCE)
        return lambda: scales * model.fit(np.asfortranarray(X), y).coef_
    X = np.asfortranarray(fit.X[:, :p] * scales)
    logistic = skglm.SparseLogisticRegression(alpha=level, fit_intercept=fit.intercept, tol=_TOLERANCE)
    return lambda: scales * logistic.fit(X, fit.y).coef_[0]


def _skglm_groups(skglm: Any, fit: Fit, penalty: Grouped) -> Callable[[], np.ndarray]:
    p = fit.features
    members = [np.flatnonzero(penalty.groups[:p] == k).tolist() for k in range(penalty.levels.size)]
    model = skglm.GroupLasso(
        groups=members, alpha=1.0, weights=penalty.levels.copy(), fit_intercept=False, tol=_TOLERANCE
    )
    y = fit.y - (fit.y.mean() if fit.intercept else 0.0)
    return lambda: model.fit(np.asfortranarray(fit.X[:, :p]), y).coef_
