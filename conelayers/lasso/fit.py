"""A loss on given data, f(z) = loss(y, X̃z): the models' objective without its penalty.

The features are centred and, with an intercept, a constant column σ is put behind them: z = (w, (c + x̄ᵀw)/σ). That is
an exact change of variables which makes the intercept orthogonal to the features for squares, and nearly so for other
losses. σ is the largest standard deviation of a feature, so that the residual and the curvature of the intercept have
the units of those of the features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from conelayers.lasso.checks import checked_data, checked_flag
from conelayers.lasso.losses import Loss, Squares

__all__ = ["Fit"]

_GRAM_UP_TO = 3000  # features: for more of them X̃ᵀX̃ is not kept
_CANCELLED = 1e-6  # times the terms of a square by the Gram matrix: below, it has lost half of its digits
_NOISE = 1e-14  # times ‖x‖‖y‖/n: smaller slopes at w = 0 are rounding, as with a constant y


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """f(z) = loss(y, X̃z), z (d,).

    X: the centred features (n, d), with a column of σ at the end if there is an intercept.
    y: (n,).
    center: the means of the features, which were subtracted, (p,); zeros without an intercept.
    intercept: whether there is one.
    size: σ.
    gram: X̃ᵀX̃/n for squares, if there are not too many features; else None.
    """

    loss: Loss
    X: np.ndarray
    y: np.ndarray
    center: np.ndarray
    intercept: bool
    size: float
    gram: np.ndarray | None = field(repr=False)

    @classmethod
    def of(cls, loss: Loss, X: np.ndarray, y: np.ndarray, fit_intercept: bool) -> Fit:
        """The fit to data as the user gives them, X (n, p), y (n,)."""
        (X, y), intercept = checked_data(X, y), checked_flag("fit_intercept", fit_intercept)
        y = loss.target(y)
        center = X.mean(axis=0) if intercept else np.zeros(X.shape[1])
        X = X - center if intercept else X
        size = float(np.sqrt(np.einsum("ij,ij->j", X, X).max() / len(y))) or 1.0
        if intercept:
            X = np.column_stack([X, np.full(len(y), size)])
        X = np.asfortranarray(X)  # columns are what is taken out of it
        n, d = X.shape
        gram = X.T @ X / n if isinstance(loss, Squares) and d <= min(n, _GRAM_UP_TO) else None
        return cls(loss, X, y, center, intercept, size, gram)

    @property
    def features(self) -> int:
        """The number of features, p."""
        return self.X.shape[1] - int(self.intercept)

    @cached_property
    def moment(self) -> np.ndarray:
        """−∇f(0), (d,)."""
        return -self.X.T @ self.loss.slope(self.y, np.zeros(len(self.y)))

    @cached_property
    def scale(self) -> float:
        """The largest slope of a feature at z = 0 once the intercept is fitted: about the least λ for which w = 0."""
        largest = float(np.abs(self.moment[: self.features]).max())
        slope = self.loss.slope(self.y, np.zeros(len(self.y)))
        bound = self.size * float(np.linalg.norm(slope)) * np.sqrt(len(self.y))
        return largest if largest > _NOISE * bound else bound or 1.0

    @cached_property
    def level(self) -> float:
        """f(0), the size of f by which its rounding errors are measured."""
        return self.loss.value(self.y, np.zeros(len(self.y))) or 1.0

    @property
    def quadratic(self) -> bool:
        """Whether f is quadratic."""
        return isinstance(self.loss, Squares)

    def gradient(self, z: np.ndarray) -> np.ndarray:
        """∇f(z), by the Gram matrix if it is kept."""
        if self.gram is not None:
            return self.gram @ z - self.moment
        return self.exact_gradient(z)

    def exact_gradient(self, z: np.ndarray) -> np.ndarray:
        """∇f(z) from the residuals of the data, which is more accurate."""
        return self.X.T @ self.loss.slope(self.y, self.X @ z)

    def weights(self, z: np.ndarray) -> np.ndarray:
        """The diagonal W (n,) of ∇²f = X̃ᵀWX̃."""
        return self.loss.curvature(self.y, self.X @ z)

    def hessian(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """∇²f(z) on the coordinates ``columns``, (k, k)."""
        if self.gram is not None:
            return self.gram[np.ix_(columns, columns)]
        S = self.root(z, columns)
        return S.T @ S

    def root(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """√W X̃ on the coordinates ``columns``, (n, k): the Hessian is its square, whose condition is squared too."""
        if self.quadratic:
            return self.X[:, columns] / np.sqrt(len(self.y))
        return np.sqrt(self.weights(z))[:, None] * self.X[:, columns]

    def hessian_vector(self, z: np.ndarray, e: np.ndarray) -> np.ndarray:
        """∇²f(z)e, (d,)."""
        if self.gram is not None:
            return self.gram @ e
        return self.X.T @ (self.weights(z) * (self.X @ e))

    def curvatures(self, z: np.ndarray) -> np.ndarray:
        """The diagonal of ∇²f(z), (d,); at least a rounding error above zero."""
        if self.gram is not None:
            diagonal = np.diag(self.gram)
        elif self.quadratic:
            diagonal = self._column_squares / len(self.y)
        else:
            diagonal = np.einsum("ij,i,ij->j", self.X, self.weights(z), self.X)
        return np.maximum(diagonal, 1e-300)

    def change(self, z: np.ndarray, gradient: np.ndarray, e: np.ndarray) -> float:
        """f(z + e) − f(z), without cancellation where f is quadratic."""
        if self.quadratic:
            curved = e @ (self.gram @ e) if self.gram is not None else 0.0
            # Along columns that are nearly dependent the Gram matrix loses the digits.
            if curved <= _CANCELLED * (self.curvatures(np.zeros(0)) @ (e * e)):
                curved = np.sum((self.X @ e) ** 2) / len(self.y)
            return float(gradient @ e + curved / 2)
        return self.loss.value(self.y, self.X @ (z + e)) - self.loss.value(self.y, self.X @ z)

    def coordinates(self, coef: np.ndarray, intercept: float) -> np.ndarray:
        """z of (w, c)."""
        return np.append(coef, (intercept + self.center @ coef) / self.size) if self.intercept else np.array(coef)

    def split(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """(w, c) of z; also of a change of z, the map being linear."""
        coef = z[: self.features]
        return coef.copy(), float(self.size * z[-1] - self.center @ coef) if self.intercept else 0.0

    def pull_back(self, coef_bar: np.ndarray, intercept_bar: float) -> np.ndarray:
        """The cotangent of z for one of (w, c)."""
        if not self.intercept:
            return np.array(coef_bar)
        return np.append(coef_bar - self.center * intercept_bar, self.size * intercept_bar)

    @cached_property
    def _column_squares(self) -> np.ndarray:
        return np.einsum("ij,ij->j", self.X, self.X)
