"""Scikit-learn estimators that find their own penalties by hypergradient descent on a cross-validated error.

The criterion is not convex. So a coarse grid of one shared λ comes first, and the descent starts at its best point.
"""

from __future__ import annotations

import dataclasses
import warnings
from abc import abstractmethod
from typing import Any, Self, final

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from conelayers.derivatives.certificate import Verdict
from conelayers.lasso.checks import checked_integer, checked_positive
from conelayers.lasso.criteria import CrossValidation, Evaluation
from conelayers.lasso.models import ElasticNet, Lasso, SparseLogistic, WeightedLasso
from conelayers.lasso.prediction_errors import Error, LogisticError, SquaredError
from conelayers.lasso.problem import Model
from conelayers.lasso.tuning import best_on_grid, tune
from conelayers.support.arguments import as_flag
from conelayers.support.errors import SingularDerivativeWarning

__all__ = ["ElasticNetHyperCV", "LassoHyperCV", "LogisticHyperCV", "WeightedLassoHyperCV"]

# The elastic net's grid has μ at these shares of the largest variance of a feature if λ is that at which w = 0.
_SHARES = (1.0, 0.05, 0.001)
_DEPTH = 3.0  # powers of ten below the λ at which w = 0 that the grid spans


class _HyperCV(BaseEstimator):
    """The parts that all estimators have: the grid, the descent, and the refit on all data.

    cv: the folds, as in CrossValidation; None for 5.
    n_alphas: the number of points of the grid.
    max_iter: the most steps of the descent.
    tol: the tolerance of the descent (``tune``).
    fit_intercept: whether the model has an intercept.
    solver: the solver that makes the first guesses, "scikit-learn", "celer" or "skglm".
    progress: whether a tqdm bar is shown.
    verbose: whether a line is printed for each evaluation.

    Fitted attributes:

    - coef_ (p,), intercept_: the model.
    - tuning_: a Tuning with criterion, history and convergence.
    - solution_: a Solution with its derivatives.
    - certificate_: the certificate of its derivative.
    - n_iter_: the number of evaluations of the descent.
    - n_features_in_, feature_names_in_: as for all of scikit-learn's estimators.
    """

    def __init__(
        self, *, cv: Any = None, n_alphas: int = 10, max_iter: int = 50, tol: float = 1e-4, fit_intercept: bool = True,
        solver: str = "scikit-learn", progress: bool = False, verbose: bool = False,
    ) -> None:  # fmt: skip
        self.cv = cv
        self.n_alphas = n_alphas
        self.max_iter = max_iter
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.progress = progress
        self.verbose = verbose

    def _tuned(self, model: Model, error: Error, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """θ of the refitted model, (m,). It sets the fitted attributes that all models have."""
        steps, tolerance = checked_integer("max_iter", self.max_iter), checked_positive("tol", self.tol)
        for name in ("verbose", "progress"):
            as_flag(name, getattr(self, name))
        criterion = CrossValidation(
            model,
            X,
            y,
            error,
            cv=5 if self.cv is None else self.cv,
            fit_intercept=self.fit_intercept,
            solver=self.solver,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularDerivativeWarning)  # one warning comes at the end, with names
            self.tuning_ = tune(
                criterion,
                self._begin(criterion, checked_integer("n_alphas", self.n_alphas), steps, tolerance),
                steps=steps,
                tolerance=tolerance,
                progress=self.progress,
                verbose=self.verbose,
            )
        theta = self.tuning_.log_hyperparameters
        self.solution_ = model.problem(X, y, fit_intercept=self.fit_intercept, solver=self.solver).solve(theta)
        self.certificate_ = self.solution_.certify(getattr(self, "feature_names_in_", None))
        self.n_iter_ = len(self.tuning_.history)
        singular = sum(s.linearization().singular for s in self.tuning_.best.solutions)
        if singular or self.certificate_.verdict is Verdict.LEAST_SQUARES:
            warnings.warn(
                f"The derivative at the chosen penalties is a least-squares solution, in {singular} of the folds and "
                f"{'' if self.solution_.linearization().singular else 'not '}on all data: features are linearly "
                f"dependent. {self.certificate_.advice}".rstrip(),
                SingularDerivativeWarning,
                stacklevel=3,
            )
        return theta

    def _begin(self, criterion: CrossValidation, points: int, steps: int, tolerance: float) -> Evaluation:
        """The evaluation at which the descent begins: the best point of the grid."""
        return best_on_grid(criterion, self._grid(criterion, points))

    def _grid(self, criterion: CrossValidation, points: int) -> list[np.ndarray]:
        return [np.full(criterion.hyperparameters, level) for level in _levels(criterion, points)]


def _levels(criterion: CrossValidation, points: int) -> np.ndarray:
    """log λ of the grid's points, which fall from the λ at which w = 0; that one is no point."""
    largest = criterion.largest
    return float(largest[np.isfinite(largest)].max()) - np.linspace(0.0, _DEPTH * np.log(10.0), points + 1)[1:]


class _Regressor(RegressorMixin, _HyperCV):
    """A linear regressor that chooses its own penalties."""

    @abstractmethod
    def _model(self) -> Model: ...

    def fit(self, X: Any, y: Any) -> Self:
        """Choose the penalties on X (n, p), y (n,), and fit to all of it with them."""
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        theta = self._tuned(self._model(), SquaredError(), X, y)
        self.coef_, self.intercept_ = self.solution_.coef, self.solution_.intercept
        self._name(theta)
        return self

    @abstractmethod
    def _name(self, theta: np.ndarray) -> None:
        """Sets the hyperparameters' own attributes."""

    def predict(self, X: Any) -> np.ndarray:
        """Xw + c, (n,)."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_ + self.intercept_


@final
class LassoHyperCV(_Regressor):
    """The Lasso, ‖y − Xw − c‖²/(2n) + alpha‖w‖₁, with alpha by hypergradient descent.

    ``alpha_`` is on the scale of ``LassoCV``'s.
    Parameters and fitted attributes: cv=None (5 folds), n_alphas=10, max_iter=50, tol=1e-4, fit_intercept=True,
    solver="scikit-learn", progress=False, verbose=False; coef_, intercept_, alpha_, tuning_, solution_, certificate_.
    """

    def _model(self) -> Model:
        return Lasso()

    def _name(self, theta: np.ndarray) -> None:
        self.alpha_ = float(np.exp(theta[0]))


@final
class ElasticNetHyperCV(_Regressor):
    """The elastic net, ‖y − Xw − c‖²/(2n) + alpha·l1_ratio‖w‖₁ + ½alpha(1 − l1_ratio)‖w‖².

    Hypergradient descent finds alpha and l1_ratio. The grid has 3·n_alphas points, on three paths on which both
    penalties fall together. Parameters as for LassoHyperCV. Fitted: alpha_, l1_ratio_, and what LassoHyperCV has
    otherwise.
    """

    def _model(self) -> Model:
        return ElasticNet()

    def _grid(self, criterion: CrossValidation, points: int) -> list[np.ndarray]:
        # μ has the units of a feature's variance, λ those of X times y, so that each has a scale of its own. The first
        # path goes down, the next one up, so that every point is near the one before it.
        X = criterion.X - criterion.X.mean(axis=0) if criterion.fit_intercept else criterion.X
        variance, levels = float(np.mean(X**2, axis=0).max()) or 1.0, _levels(criterion, points)
        offset = np.log(variance) - float(criterion.largest[0])
        return [
            np.array([level, level + offset + np.log(share)])
            for k, share in enumerate(_SHARES)
            for level in (levels if k % 2 == 0 else levels[::-1])
        ]

    def _name(self, theta: np.ndarray) -> None:
        l1, ridge = np.exp(theta)
        self.alpha_ = float(l1 + ridge)
        self.l1_ratio_ = float(l1 / (l1 + ridge))


@final
class WeightedLassoHyperCV(_Regressor):
    """The weighted Lasso, ‖y − Xw − c‖²/(2n) + Σⱼ alphas_ⱼ|wⱼ|, one alpha a feature, all by hypergradient descent.

    So many hyperparameters can overfit the folds: judge the result on data that took no part. The descent begins at the
    shared alpha that LassoHyperCV finds, and its criterion is never above that of LassoHyperCV. Features that this
    alpha leaves out have no gradient and stay out: standardize them. Parameters as for LassoHyperCV. Fitted: alphas_
    (p,), and what LassoHyperCV has otherwise.
    """

    def _model(self) -> Model:
        return WeightedLasso()

    def _begin(self, criterion: CrossValidation, points: int, steps: int, tolerance: float) -> Evaluation:
        shared = dataclasses.replace(criterion, model=Lasso(), cv=criterion.splits)
        found = tune(shared, super()._begin(shared, points, steps, tolerance), steps=steps, tolerance=tolerance).best
        return criterion.evaluate(np.full(criterion.hyperparameters, found.log_hyperparameters[0]), found)

    def _name(self, theta: np.ndarray) -> None:
        self.alphas_ = np.exp(theta)


@final
class LogisticHyperCV(ClassifierMixin, _HyperCV):
    """Sparse logistic regression of two classes, (1/n) Σ log(1 + exp(−yᵢ(xᵢᵀw + c))) + alpha‖w‖₁.

    Hypergradient descent finds alpha. The criterion is the logistic loss on the left-out folds. For more classes, put
    it into ``sklearn.multiclass.OneVsRestClassifier``. Parameters as for LassoHyperCV. Fitted: classes_, alpha_, C_ =
    1/(n·alpha) (that of ``LogisticRegression``), coef_ (1, p), intercept_ (1,), and what LassoHyperCV has otherwise.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Choose alpha on X (n, p), y (n,) of two classes, and fit to all of it with it."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if self.classes_.size > 2:
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {type_of_target(y)}. y: got "
                f"{self.classes_.size} classes, expected 2; use "
                "sklearn.multiclass.OneVsRestClassifier(LogisticHyperCV())"
            )
        if self.classes_.size < 2:
            raise ValueError(
                f"y: got the one class {self.classes_[0]!r}, expected 2 classes; fit needs examples of both"
            )
        theta = self._tuned(SparseLogistic(), LogisticError(), X, np.where(y == self.classes_[1], 1.0, -1.0))
        self.coef_, self.intercept_ = self.solution_.coef[None], np.array([self.solution_.intercept])
        self.alpha_ = float(np.exp(theta[0]))
        self.C_ = 1 / (len(y) * self.alpha_)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Xw + c, (n,): positive for classes_[1]."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_[0] + self.intercept_[0]

    def predict(self, X: Any) -> np.ndarray:
        """The more likely class of each row, (n,)."""
        check_is_fitted(self)
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The classes' probabilities, (n, 2)."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithms of the classes' probabilities, (n, 2)."""
        eta = self.decision_function(X)
        return -np.logaddexp(0, np.column_stack([eta, -eta]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
