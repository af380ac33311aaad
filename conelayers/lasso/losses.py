"""The smooth losses that the models minimize, of predictions η = Xw + c: their means, slopes and curvatures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import expit

from conelayers.lasso.checks import signs

__all__ = ["Logistic", "Loss", "Squares"]


class Loss(ABC):
    """A mean of convex, twice differentiable losses: y, η (n,)."""

    @abstractmethod
    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        """The mean over the samples."""

    @abstractmethod
    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Its gradient in η, (n,)."""

    @abstractmethod
    def curvature(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Its (diagonal) Hessian in η, (n,)."""

    @abstractmethod
    def target(self, y: np.ndarray) -> np.ndarray:
        """The target as the loss takes it, (n,). Raises ValueError if the loss does not take it."""


@final
@dataclass(frozen=True)
class Squares(Loss):
    """(1/2n) Σ (ηᵢ − yᵢ)²."""

    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        return float(np.mean((eta - y) ** 2)) / 2

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return (eta - y) / len(y)

    def curvature(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return np.full(len(y), 1 / len(y))

    def target(self, y: np.ndarray) -> np.ndarray:
        return y


@final
@dataclass(frozen=True)
class Logistic(Loss):
    """(1/n) Σ log(1 + exp(−yᵢ ηᵢ)), y ∈ {−1, 1}; 0 and 1 count as −1 and 1."""

    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, -y * eta)))

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return -y * expit(-y * eta) / len(y)

    def curvature(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return expit(eta) * expit(-eta) / len(y)

    def target(self, y: np.ndarray) -> np.ndarray:
        return signs(y)
