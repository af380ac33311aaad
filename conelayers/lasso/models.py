"""The models: which loss, which penalty, and how the hyperparameters enter it. All of them are written in θ = log λ.

    minimize over w (p,), c:   f(w, c) + penalty(w; e^θ),   f = ‖y − Xw − c‖²/(2n) or the mean logistic loss

With scikit-learn's scaling of f, λ is its ``alpha`` (and 1/(nC) for its ``LogisticRegression``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.lasso.checks import checked_flag
from conelayers.lasso.fit import Fit
from conelayers.lasso.linearization import Forcing
from conelayers.lasso.losses import Logistic, Loss
from conelayers.lasso.penalties import Grouped, Penalty, Separable
from conelayers.lasso.problem import PenalizedModel

__all__ = ["ElasticNet", "GroupLasso", "Lasso", "SparseLogistic", "WeightedLasso"]


def _coordinates(fit: Fit, values: np.ndarray) -> np.ndarray:
    """Values of the coordinates (d,) from values of the features (p,), with zero for the intercept."""
    return np.append(values, np.zeros(fit.X.shape[1] - fit.features))


def _signs(z: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.where(z != 0, np.sign(z), -np.sign(g))


class _OneLevel(PenalizedModel):
    """λ‖w‖₁, m = 1."""

    def count(self, features: int) -> int:
        return 1

    def penalty(self, theta: np.ndarray, fit: Fit) -> Penalty:
        l1 = _coordinates(fit, np.full(fit.features, np.exp(theta[0])))
        return Separable(l1, np.zeros_like(l1))

    def forcing(self, theta: np.ndarray, fit: Fit, z: np.ndarray, g: np.ndarray) -> Forcing:
        values = _coordinates(fit, np.exp(theta[0]) * _signs(z, g)[: fit.features])[:, None]
        return Forcing(values, np.zeros(values.shape, dtype=int), 1)

    def largest(self, fit: Fit) -> np.ndarray:
        return np.log([fit.scale])


@final
@dataclass(frozen=True)
class Lasso(_OneLevel):
    """f = ‖y − Xw − c‖²/(2n), penalty λ‖w‖₁; m = 1. (Tibshirani, 1996.)"""


@final
@dataclass(frozen=True)
class SparseLogistic(_OneLevel):
    """f = (1/n) Σ log(1 + exp(−yᵢ(xᵢᵀw + c))), y ∈ {−1, 1} or {0, 1}, penalty λ‖w‖₁; m = 1."""

    classification = True

    @property
    def loss(self) -> Loss:
        return Logistic()


@final
@dataclass(frozen=True)
class ElasticNet(PenalizedModel):
    """f = ‖y − Xw − c‖²/(2n), penalty λ‖w‖₁ + ½μ‖w‖²; θ = (log λ, log μ). (Zou and Hastie, 2005.)

    In scikit-learn's words alpha = λ + μ and l1_ratio = λ/(λ + μ).
    """

    def count(self, features: int) -> int:
        return 2

    def penalty(self, theta: np.ndarray, fit: Fit) -> Penalty:
        l1, ridge = np.exp(theta)
        ones = np.ones(fit.features)
        return Separable(_coordinates(fit, l1 * ones), _coordinates(fit, ridge * ones))

    def forcing(self, theta: np.ndarray, fit: Fit, z: np.ndarray, g: np.ndarray) -> Forcing:
        l1, ridge = np.exp(theta)
        p = fit.features
        values = np.column_stack([_coordinates(fit, l1 * _signs(z, g)[:p]), _coordinates(fit, ridge * z[:p])])
        return Forcing(values, np.broadcast_to([0, 1], values.shape), 2)

    def largest(self, fit: Fit) -> np.ndarray:
        return np.array([np.log(fit.scale), np.inf])


@final
@dataclass(frozen=True)
class WeightedLasso(PenalizedModel):
    """f = ‖y − Xw − c‖²/(2n), penalty Σⱼ λⱼ|wⱼ|; one λ a feature, m = p."""

    def count(self, features: int) -> int:
        return features

    def penalty(self, theta: np.ndarray, fit: Fit) -> Penalty:
        l1 = _coordinates(fit, np.exp(theta))
        return Separable(l1, np.zeros_like(l1))

    def forcing(self, theta: np.ndarray, fit: Fit, z: np.ndarray, g: np.ndarray) -> Forcing:
        p = fit.features
        values, columns = _coordinates(fit, np.exp(theta) * _signs(z, g)[:p]), _coordinates(fit, np.arange(p))
        return Forcing(values[:, None], columns.astype(int)[:, None], p)

    def largest(self, fit: Fit) -> np.ndarray:
        return np.log(np.maximum(np.abs(fit.moment[: fit.features]), 1e-12 * fit.scale))


@final
@dataclass(frozen=True, eq=False)
class GroupLasso(PenalizedModel):
    """f = ‖y − Xw − c‖²/(2n), penalty Σ_g λ_g‖w_g‖₂ (Yuan and Lin, 2006).

    groups: the group of each feature, (p,), numbered 0 … G − 1.
    per_group: False for one λ, with λ_g = λ√(size of g) and m = 1; True for one λ for each group, m = G.
    """

    groups: np.ndarray
    per_group: bool = False

    def __post_init__(self) -> None:
        groups = np.asarray(self.groups)
        if (
            groups.ndim != 1
            or groups.dtype.kind not in "iu"
            or not np.array_equal(np.unique(groups), np.arange(groups.max(initial=-1) + 1))
        ):
            raise ValueError(
                f"groups: got {groups!r}, expected the number of each feature's group, integers from 0 with none left "
                "out; np.unique(labels, return_inverse=True)[1] makes them"
            )
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "per_group", checked_flag("per_group", self.per_group))

    def count(self, features: int) -> int:
        if features != self.groups.size:
            raise ValueError(f"groups: got {self.groups.size} entries, expected {features}, one for each column of X")
        return self._number if self.per_group else 1

    @property
    def _number(self) -> int:
        return int(self.groups.max()) + 1

    @property
    def _sizes(self) -> np.ndarray:
        return np.ones(self._number) if self.per_group else np.sqrt(np.bincount(self.groups))

    def penalty(self, theta: np.ndarray, fit: Fit) -> Grouped:
        self.count(fit.features)
        free = np.full(fit.X.shape[1] - fit.features, -1)
        return Grouped(np.append(self.groups, free), np.exp(theta) * self._sizes)

    def forcing(self, theta: np.ndarray, fit: Fit, z: np.ndarray, g: np.ndarray) -> Forcing:
        penalty, p = self.penalty(theta, fit), fit.features
        u = np.where(penalty.support(z), penalty.units(z), penalty.units(-g))[:p]
        columns = _coordinates(fit, self.groups if self.per_group else np.zeros(p)).astype(int)
        return Forcing(_coordinates(fit, penalty.levels[self.groups] * u)[:, None], columns[:, None], self.count(p))

    def largest(self, fit: Fit) -> np.ndarray:
        norms = self.penalty(np.zeros(self.count(fit.features)), fit).norms(fit.moment) / self._sizes
        return np.log(np.maximum(norms if self.per_group else norms.max(keepdims=True), 1e-12 * fit.scale))
