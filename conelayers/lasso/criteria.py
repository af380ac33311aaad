"""Criteria that choose the hyperparameters: an error on data that the model has not seen, and its gradient in θ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from conelayers.lasso.checks import checked_data, signs
from conelayers.lasso.folds import checked_splits
from conelayers.lasso.prediction_errors import Error, SquaredError
from conelayers.lasso.problem import Model, Problem, checked_model
from conelayers.lasso.solution import Solution
from conelayers.lasso.verdicts import Side
from conelayers.support.arguments import described
from conelayers.support.errors import as_member

__all__ = ["Criterion", "CrossValidation", "Evaluation", "HoldOut"]


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """A criterion at θ.

    log_hyperparameters: θ (m,).
    value: the criterion, the mean over the folds.
    gradient: its gradient in θ, (m,).
    folds: the value on each fold.
    solutions: the folds' solutions, from which the next evaluation may start.
    """

    log_hyperparameters: np.ndarray
    value: float
    gradient: np.ndarray
    folds: tuple[float, ...]
    solutions: tuple[Solution, ...]

    @property
    def converged(self) -> bool:
        """Whether every solution has converged."""
        return all(s.converged for s in self.solutions)

    @property
    def justified(self) -> bool:
        """Whether the derivative of every solution is certified; it takes a rank decision for each."""
        return all(s.certify().justified for s in self.solutions)


class Criterion(ABC):
    """A function of θ (m,), with its gradient."""

    @property
    @abstractmethod
    def problems(self) -> Sequence[Problem]:
        """The problems that are solved, one for each fold."""

    @abstractmethod
    def _unseen(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """For each problem, the data that it has not seen."""

    @property
    @abstractmethod
    def _error(self) -> Error: ...

    @property
    def hyperparameters(self) -> int:
        """The number of hyperparameters, m."""
        return self.problems[0].hyperparameters

    @property
    def largest(self) -> np.ndarray:
        """θ (m,) at and above which no fold has anything left to tune; infinite where there is no such value."""
        return np.max([p.largest for p in self.problems], axis=0)

    def evaluate(
        self, log_hyperparameters: np.ndarray, start: Evaluation | None = None, side: Side | str = Side.OWN
    ) -> Evaluation:
        """The value and the gradient at θ (m,); the gradient takes one linear solve a fold, whatever m is.

        start: an evaluation of this criterion at a θ nearby, for a warm start.
        side: which derivative is taken at a kink (``Solution``).
        """
        side = as_member(Side, "side", side)
        if start is not None and not isinstance(start, Evaluation):
            raise TypeError(f"start: got {described(start)}, expected an Evaluation of this criterion, or None")
        if start is not None and len(start.solutions) != len(self.problems):
            raise ValueError(
                f"start: got an evaluation with {len(start.solutions)} folds, expected {len(self.problems)}; start "
                "from one of this criterion"
            )
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
    """The error on held-out data X_val (n', p), y_val (n',), of the model fitted to X (n, p), y (n,).

    Raises ValueError for data that do not fit together.
    """

    model: Model
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    error: Error = SquaredError()  # noqa: RUF009  (immutable)
    fit_intercept: bool = True
    solver: str = "scikit-learn"

    def __post_init__(self) -> None:
        _targets(self.model, self.error, checked_data(self.X, self.y)[1], "y")
        _ = self._held_out

    @cached_property
    def problems(self) -> Sequence[Problem]:
        X, y = checked_data(self.X, self.y)
        y = _targets(self.model, self.error, y, "y")
        return (self.model.problem(X, y, fit_intercept=self.fit_intercept, solver=self.solver),)

    @cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        X, y = checked_data(self.X_val, self.y_val, ("X_val", "y_val"))
        if X.shape[1] != np.shape(self.X)[1]:
            raise ValueError(f"X_val: got {X.shape[1]} columns, expected {np.shape(self.X)[1]}, those of X")
        return X, _targets(self.model, self.error, y, "y_val")

    def _unseen(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return (self._held_out,)

    @property
    def _error(self) -> Error:
        return self.error


@final
@dataclass(frozen=True, eq=False)
class CrossValidation(Criterion):
    """The mean, over the folds, of the error on the fold that was left out.

    cv: a number of folds, a splitter of scikit-learn's, or pairs of index arrays, as
    ``sklearn.model_selection.check_cv`` takes them. For classification the folds are stratified.

    Every fold's problem is set up once and kept. Raises ValueError for data that do not fit together, and for splits
    that are none.
    """

    model: Model
    X: np.ndarray
    y: np.ndarray
    error: Error = SquaredError()  # noqa: RUF009  (immutable)
    cv: Any = 5
    fit_intercept: bool = True
    solver: str = "scikit-learn"

    def __post_init__(self) -> None:
        _ = self.splits

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        X, y = checked_data(self.X, self.y)
        return X, _targets(self.model, self.error, y, "y")

    @cached_property
    def splits(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows to which a model is fitted and the rows by which it is judged, one pair for each fold."""
        return checked_splits(self.cv, *self._data, self.error.classification)

    @cached_property
    def _folds(self) -> tuple[list[Problem], list[tuple[np.ndarray, np.ndarray]]]:
        X, y = self._data
        problems, unseen = [], []
        for train, test in self.splits:
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


def _targets(model: Model, error: Error, y: np.ndarray, name: str) -> np.ndarray:
    """y as the error takes it: signs for a classification. Raises TypeError or ValueError if they do not fit."""
    checked_model(model)
    if not isinstance(error, Error):
        raise TypeError(
            f"error: got {described(error)}, expected SquaredError(), LogisticError(), SquaredHinge() or another Error"
        )
    if model.classification and not error.classification:
        raise ValueError(
            f"error: got {error!r} for {type(model).__name__}, a classifier, expected LogisticError() or SquaredHinge()"
        )
    return signs(y, name) if error.classification else y
