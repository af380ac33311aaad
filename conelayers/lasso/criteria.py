"""What the hyperparameters are chosen by: the error on data that the model has not seen, and its gradient in θ = log λ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy.special import expit
from sklearn.model_selection import check_cv

from conelayers.lasso.fit import checked_data
from conelayers.lasso.losses import signs
from conelayers.lasso.problem import Model, Problem
from conelayers.lasso.solution import Solution
from conelayers.lasso.verdicts import Side

__all__ = [
    "Criterion",
    "CrossValidation",
    "Error",
    "Evaluation",
    "HoldOut",
    "LogisticError",
    "SquaredError",
    "SquaredHinge",
]


class Error(ABC):
    """A mean error of predictions η = Xw + c on unseen data; y, η (n,)."""

    classification: bool = True

    @abstractmethod
    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        """The mean."""

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
        return float(np.mean(np.logaddexp(0, -y * eta)))

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return -y * expit(-y * eta) / len(y)


@final
@dataclass(frozen=True)
class SquaredHinge(Error):
    """(1/n) Σ max(0, 1 − yᵢηᵢ)², y ∈ {−1, 1} or {0, 1}: differentiable, as the hinge is not."""

    def value(self, y: np.ndarray, eta: np.ndarray) -> float:
        return float(np.mean(np.maximum(0, 1 - y * eta) ** 2))

    def slope(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        return -2 * y * np.maximum(0, 1 - y * eta) / len(y)


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """A criterion at θ: value, gradient (m,) in θ, the value on each fold, and the folds' solutions, from which a next one may start."""

    log_hyperparameters: np.ndarray
    value: float
    gradient: np.ndarray
    folds: tuple[float, ...]
    solutions: tuple[Solution, ...]

    @property
    def converged(self) -> bool:
        """Whether all of the solutions are."""
        return all(s.converged for s in self.solutions)

    @property
    def justified(self) -> bool:
        """Whether the derivative of all of them is certified; takes a rank decision for each."""
        return all(s.certify().justified for s in self.solutions)


class Criterion(ABC):
    """A function of θ (m,), with its gradient."""

    @property
    @abstractmethod
    def problems(self) -> Sequence[Problem]:
        """What is solved, one a fold."""

    @abstractmethod
    def _unseen(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """The data that each of them has not seen."""

    @property
    @abstractmethod
    def _error(self) -> Error: ...

    @property
    def hyperparameters(self) -> int:
        """m."""
        return self.problems[0].hyperparameters

    @property
    def largest(self) -> np.ndarray:
        """θ (m,) at and above which no fold has anything left to tune."""
        return np.max([p.largest for p in self.problems], axis=0)

    def evaluate(
        self, log_hyperparameters: np.ndarray, start: Evaluation | None = None, side: Side | str = Side.OWN
    ) -> Evaluation:
        """The value and the gradient at θ (m,); start: an evaluation of this criterion nearby, for a warm start.

        The gradient takes one linear solve a fold, whatever m is; side: which derivative at a kink (``Solution``).
        """
        solutions, values = [], []
        gradient = np.zeros(self.hyperparameters)
        for k, (problem, (X, y)) in enumerate(zip(self.problems, self._unseen(), strict=True)):
            solution = problem.solve(log_hyperparameters, None if start is None else start.solutions[k])
            eta = X @ solution.coef + solution.intercept
            slope = self._error.slope(y, eta)
            gradient += solution.vjp(X.T @ slope, float(slope.sum()), side)
            solutions.append(solution)
            values.append(self._error.value(y, eta))
        n = len(values)
        return Evaluation(
            solutions[0].log_hyperparameters, float(np.mean(values)), gradient / n, tuple(values), tuple(solutions)
        )


@final
@dataclass(frozen=True, eq=False)
class HoldOut(Criterion):
    """The error on held-out data: the model is fitted to X (n, p), y (n,), the error is that on X_val (n', p), y_val (n',).

    Raises ValueError for data that do not fit together.
    """

    model: Model
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    error: Error = SquaredError()
    fit_intercept: bool = True
    solver: str = "scikit-learn"

    @cached_property
    def problems(self) -> Sequence[Problem]:
        return (self.model.problem(self.X, self.y, fit_intercept=self.fit_intercept, solver=self.solver),)

    @cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        X, y = checked_data(self.X_val, self.y_val)
        if X.shape[1] != np.shape(self.X)[1]:
            raise ValueError(f"X_val: got {X.shape[1]} columns, expected {np.shape(self.X)[1]}, those of X")
        return X, signs(y) if self.error.classification else y

    def _unseen(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return (self._held_out,)

    @property
    def _error(self) -> Error:
        return self.error


@final
@dataclass(frozen=True, eq=False)
class CrossValidation(Criterion):
    """The mean over folds of the error on the fold that was left out.

    cv: a number of folds, a splitter of scikit-learn's or pairs of index arrays, as ``sklearn.model_selection.check_cv`` takes them
    (folds are stratified for classification). Every fold's problem is set up once and kept.
    """

    model: Model
    X: np.ndarray
    y: np.ndarray
    error: Error = SquaredError()
    cv: Any = 5
    fit_intercept: bool = True
    solver: str = "scikit-learn"

    @cached_property
    def _folds(self) -> tuple[list[Problem], list[tuple[np.ndarray, np.ndarray]]]:
        X, y = checked_data(self.X, self.y)
        y = signs(y) if self.error.classification else y
        problems, unseen = [], []
        for train, test in check_cv(self.cv, y, classifier=self.error.classification).split(X, y):
            problems.append(
                self.model.problem(X[train], y[train], fit_intercept=self.fit_intercept, solver=self.solver)
            )
            unseen.append((X[test], y[test]))
        return problems, unseen

    @property
    def problems(self) -> Sequence[Problem]:
        return self._folds[0]

    def _unseen(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return self._folds[1]

    @property
    def _error(self) -> Error:
        return self.error
