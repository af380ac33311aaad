"""A solved model with its derivatives in the logarithms of its hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from conelayers.lasso.linearization import Linearization
from conelayers.lasso.verdicts import Conditions, Side, SupportCertificate, certify
from conelayers.support.arguments import as_real
from conelayers.support.errors import as_member
from conelayers.support.parallel import one_blas_thread

__all__ = ["Solution"]


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """w, c and how they move with θ = log λ.

    coef, intercept: the solution, w (p,) and c.
    log_hyperparameters: θ (m,).
    residual: the largest violation of the optimality conditions over all features, relative to the scale of the data.
    converged: whether the residual is rounding.
    conditions: the optimality conditions at the solution.

    At a kink (``certify().kinks``) the derivative is a conservative one, which ``side`` chooses. Of the features at a
    kink, "own" counts those as active that have a nonzero coefficient, "low" none and "high" all. If one feature is at
    a kink, "low" and "high" are the derivatives to either side.
    """

    coef: np.ndarray
    intercept: float
    log_hyperparameters: np.ndarray
    residual: float
    converged: bool
    conditions: Conditions = field(repr=False)

    @property
    def hyperparameters(self) -> np.ndarray:
        """λ = e^θ, (m,)."""
        return np.exp(self.log_hyperparameters)

    @property
    def support(self) -> np.ndarray:
        """The features with a nonzero coefficient, (s,) int."""
        return np.flatnonzero(self.coef)

    @cached_property
    def _own(self) -> Linearization:
        return self.conditions.linearized(Side.OWN)

    def linearization(self, side: Side | str = Side.OWN) -> Linearization:
        """M, B and U of the linearized optimality conditions."""
        side = as_member(Side, "side", side)
        return self._own if side is Side.OWN else self.conditions.linearized(side)

    def jvp(self, direction: np.ndarray, side: Side | str = Side.OWN) -> tuple[np.ndarray, float]:
        """(dw (p,), dc) for dθ (m,): forward mode."""
        direction = self._checked(direction)
        with one_blas_thread():
            return self.conditions.split(self.linearization(side).forward(direction))

    def jacobian(self, side: Side | str = Side.OWN) -> np.ndarray:
        """dw/dθ, (p, m)."""
        m, p = self.log_hyperparameters.size, self.coef.size
        with one_blas_thread():
            return self.linearization(side).forward(np.eye(m))[:p]

    def vjp(self, coef_bar: np.ndarray, intercept_bar: float = 0.0, side: Side | str = Side.OWN) -> np.ndarray:
        """θ̄ (m,) = (∂w/∂θ)ᵀw̄ + (∂c/∂θ)c̄: the hypergradient, by one linear solve for any m."""
        coef_bar = as_real("coef_bar", coef_bar)
        if isinstance(intercept_bar, str) or np.ndim(intercept_bar) or np.iscomplexobj(intercept_bar):
            raise TypeError(f"intercept_bar: got {intercept_bar!r}, expected a number")
        if coef_bar.shape != self.coef.shape:
            raise ValueError(
                f"coef_bar: got shape {coef_bar.shape}, expected {self.coef.shape}, the gradient of a loss in coef"
            )
        with one_blas_thread():
            return self.linearization(side).adjoint(self.conditions.pull_back(coef_bar, float(intercept_bar)))

    def certify(self, names: Sequence[str] | None = None) -> SupportCertificate:
        """Whether the derivative is justified, and which features stand in the way; names: what to call them."""
        size = self.coef.size if self.conditions.item == "feature" else self.conditions.start.size
        if names is not None and len(names) != size:
            raise ValueError(f"names: got {len(names)}, expected {size}, one for each {self.conditions.item}")
        with one_blas_thread():
            return certify(self.conditions, self.residual, self.converged, names)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Xw + c, (n,)."""
        X = as_real("X", X)
        if X.ndim != 2 or X.shape[1] != self.coef.size:
            raise ValueError(
                f"X: got shape {X.shape}, expected (n, {self.coef.size}), the features that the model was fitted to"
            )
        return X @ self.coef + self.intercept

    def _checked(self, direction: np.ndarray) -> np.ndarray:
        direction = as_real("direction", direction)
        if direction.shape != self.log_hyperparameters.shape:
            raise ValueError(
                f"direction: got shape {direction.shape}, expected {self.log_hyperparameters.shape}, one entry a "
                "hyperparameter"
            )
        return direction
