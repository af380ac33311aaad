"""A first guess by a fast, well-kept solver: scikit-learn's, or celer's or skglm's if they are installed.

They work to a moderate accuracy, since coordinate descent is slow at the end. polish.py does the rest, and everything
if the solver does not know the problem (groups).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, enet_path

from conelayers.lasso.fit import Fit
from conelayers.lasso.penalties import Grouped, Penalty, Separable
from conelayers.lasso.requirements import optional

__all__ = ["SOLVERS", "check_solver", "first_guess"]

SOLVERS = ("scikit-learn", "celer", "skglm")
_TOLERANCE = 1e-4  # loose: the polish does the rest
_FAR = 100.0  # the size of the constant feature of liblinear's intercept, so large that its penalty hardly counts


def check_solver(solver: str) -> None:
    """Raises ValueError for an unknown solver, ImportError for one that is not installed."""
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, expected one of {', '.join(map(repr, SOLVERS))}")
    if solver != "scikit-learn":
        optional(solver, f"solver={solver!r}")


def first_guess(fit: Fit, penalty: Penalty, solver: str) -> np.ndarray:
    """z (d,), near the minimizer of f + penalty if the solver knows the problem, else zero."""
    z = np.zeros(fit.X.shape[1])
    known = {"scikit-learn": _scikit_learn, "celer": _celer, "skglm": _skglm}[solver](fit, penalty)
    if known is None:
        return z
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the polish goes on from here, and checks the result
        coef = known()
    z[: fit.features] = coef
    if fit.intercept and fit.quadratic:
        z[-1] = fit.y.mean() / fit.size
    return z if np.isfinite(z).all() else np.zeros_like(z)


class _Scaled(NamedTuple):
    """An elastic net (1/2n)‖y − Xu‖² + level‖u‖₁ + ½ridge‖u‖² whose solution u makes w = scales·u."""

    X: np.ndarray
    y: np.ndarray
    scales: np.ndarray
    level: float
    ridge: float

    @property
    def alpha(self) -> float:
        return self.level + self.ridge

    @property
    def ratio(self) -> float:
        return self.level / self.alpha


def _scaled(fit: Fit, penalty: Separable) -> _Scaled:
    p, n = fit.features, len(fit.y)
    level, scales = _shared_level(fit, penalty)
    ridge = penalty.ridge[:p] * scales**2
    if fit.gram is not None and n > 4 * p:
        # p rows have the same Gram matrix and moments, so that a pass costs p² instead of np. n enters the means only.
        gram = scales[:, None] * fit.gram[:p, :p] * scales + np.diag(ridge)
        try:
            R = np.linalg.cholesky(gram * n).T
        except np.linalg.LinAlgError:
            pass
        else:
            y = solve_triangular(R, scales * fit.moment[:p] * n, trans="T")
            return _Scaled(np.asfortranarray(R), y, scales, level * n / p, 0.0)
    y = fit.y - (fit.y.mean() if fit.intercept else 0.0)
    return _Scaled(np.asfortranarray(fit.X[:, :p] * scales), y, scales, level, float(ridge.mean()))


def _shared_level(fit: Fit, penalty: Separable) -> tuple[float, np.ndarray]:
    """One λ for all features of X·scales, and the scales; if all λⱼ are equal, the columns have about size 1."""
    l1 = penalty.l1[: fit.features]
    level = float(np.exp(np.mean(np.log(l1)))) / fit.size
    return level, level / l1


def _scikit_learn(fit: Fit, penalty: Penalty) -> Callable[[], np.ndarray] | None:
    if not isinstance(penalty, Separable):
        return None
    if not fit.quadratic:
        return lambda: _liblinear(fit, penalty)
    s = _scaled(fit, penalty)
    options: dict[str, Any] = {"l1_ratio": s.ratio, "alphas": [s.alpha], "tol": _TOLERANCE, "max_iter": 1000}
    # Without precompute=False the Gram matrix would cost more than everything else for p ≫ n.
    return lambda: s.scales * enet_path(s.X, s.y, precompute=False, **options)[1][:, 0]


def _liblinear(fit: Fit, penalty: Separable) -> np.ndarray:
    level, scales = _shared_level(fit, penalty)
    kind: dict[str, Any] = {"l1_ratio": 1.0} if _version() >= (1, 8) else {"penalty": "l1"}
    model = LogisticRegression(
        solver="liblinear", C=1 / (len(fit.y) * level), tol=1e-3, max_iter=200, random_state=0,
        fit_intercept=fit.intercept, intercept_scaling=_FAR, **kind,
    )  # fmt: skip
    return scales * model.fit(fit.X[:, : fit.features] * scales, fit.y).coef_[0]


def _version() -> tuple[int, int]:
    major, minor = sklearn.__version__.split(".")[:2]
    return int(major), int(minor)


def _celer(fit: Fit, penalty: Penalty) -> Callable[[], np.ndarray] | None:
    if not isinstance(penalty, Separable) or not fit.quadratic:
        return None
    s = _scaled(fit, penalty)
    model = optional("celer", "solver='celer'").ElasticNet(
        alpha=s.alpha, l1_ratio=s.ratio, fit_intercept=False, tol=_TOLERANCE
    )
    return lambda: s.scales * model.fit(s.X, s.y).coef_


def _skglm(fit: Fit, penalty: Penalty) -> Callable[[], np.ndarray] | None:
    skglm = optional("skglm", "solver='skglm'")
    if isinstance(penalty, Grouped):
        return _skglm_groups(skglm, fit, penalty) if fit.quadratic else None
    if not isinstance(penalty, Separable):
        return None
    if fit.quadratic:
        s = _scaled(fit, penalty)
        model = skglm.ElasticNet(alpha=s.alpha, l1_ratio=s.ratio, fit_intercept=False, tol=_TOLERANCE)
        return lambda: s.scales * model.fit(s.X, s.y).coef_
    level, scales = _shared_level(fit, penalty)
    X = np.asfortranarray(fit.X[:, : fit.features] * scales)
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
