"""Errors of predictions on data that a model has not seen: means over the samples, and their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.lasso.losses import Logistic

__all__ = ["Error", "LogisticError", "SquaredError", "SquaredHinge"]


class Error(ABC):
    """A mean error of predictions η = Xw + c on unseen data; y, η (n,).

    classification: whether y are labels, read as −1 and 1.
    """

    classification: bool = True

    @abstractmethod
    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        """The mean error."""

    @abstractmethod
    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Its gradient in η, (n,)."""


@final
@dataclass(frozen=True)
class SquaredError(Error):
    """(1/n) Σ (ηᵢ − yᵢ)²."""

    classification = False

    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        return float(np.mean((eta - y) ** 2))

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return 2 * (eta - y) / len(y)


@final
@dataclass(frozen=True)
class LogisticError(Error):
    """(1/n) Σ log(1 + exp(−yᵢηᵢ)), y ∈ {−1, 1} or {0, 1}."""

    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        return Logistic().value(y, eta)

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return Logistic().slope(y, eta)


@final
@dataclass(frozen=True)
class SquaredHinge(Error):
    """(1/n) Σ max(0, 1 − yᵢηᵢ)², y ∈ {−1, 1} or {0, 1}; unlike the hinge it is differentiable."""

    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        return float(np.mean(np.maximum(0, 1 - y * eta) ** 2))

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return -2 * y * np.maximum(0, 1 - y * eta) / len(y)
