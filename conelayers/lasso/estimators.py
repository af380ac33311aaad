"""Scikit-learn estimators that find their own penalties by hypergradient descent on a cross-validated error.

A coarse grid of one shared λ comes first, since the criterion is not convex; the descent starts at its best point.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self, final

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from conelayers.lasso.criteria import CrossValidation, Error, Evaluation, LogisticError, SquaredError
from conelayers.lasso.models import ElasticNet, Lasso, SparseLogistic, WeightedLasso
from conelayers.lasso.problem import Model
from conelayers.lasso.tuning import best_on_grid, tune

__all__ = ["ElasticNetHyperCV", "LassoHyperCV", "LogisticHyperCV", "WeightedLassoHyperCV"]

_RATIOS = (1.0, 0.05, 0.001)  # μ/λ on the elastic net's grid
_DEPTH = 3.0  # the grid spans that many powers of ten below the λ at which w = 0


class _HyperCV(BaseEstimator):
    """What the estimators share: grid, descent, refit on all data.

    Parameters: cv, as in CrossValidation. n_alphas: points of the grid. max_iter: steps of the descent. tol: its tolerance (``tune``).
    fit_intercept. solver: "scikit-learn", "celer" or "skglm", who makes the first guesses. progress: a tqdm bar. verbose: a line an evaluation.

    Fitted: coef_ (p,), intercept_, tuning_ (a Tuning: criterion, history, convergence), solution_ (a Solution, with derivatives),
    certificate_ (of its derivative), n_iter_ (evaluations of the descent), n_features_in_, feature_names_in_.
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
        """θ of the refitted model, (m,); sets the fitted attributes that do not depend on the model."""
        if isinstance(self.n_alphas, bool) or not isinstance(self.n_alphas, int) or self.n_alphas < 1:
            raise ValueError(f"n_alphas: got {self.n_alphas!r}, expected a positive integer")
        criterion = CrossValidation(
            model,
            X,
            y,
            error,
            cv=5 if self.cv is None else self.cv,
            fit_intercept=self.fit_intercept,
            solver=self.solver,
        )
        begin = self._begin(criterion)
        self.tuning_ = tune(
            criterion, begin, steps=self.max_iter, tolerance=self.tol, progress=self.progress, verbose=self.verbose
        )
        theta = self.tuning_.log_hyperparameters
        self.solution_ = model.problem(X, y, fit_intercept=self.fit_intercept, solver=self.solver).solve(theta)
        self.certificate_ = self.solution_.certify(getattr(self, "feature_names_in_", None))
        self.n_iter_ = len(self.tuning_.history)
        return theta

    def _begin(self, criterion: CrossValidation) -> Evaluation:
        top = float(np.max(criterion.largest))
        depths = np.linspace(0.0, _DEPTH * np.log(10.0), self.n_alphas + 1)[1:]
        return best_on_grid(criterion, self._grid(top - depths, criterion.hyperparameters))

    def _grid(self, levels: np.ndarray, m: int) -> list[np.ndarray]:
        return [np.full(m, level) for level in levels]


class _Regressor(RegressorMixin, _HyperCV):
    """A linear regressor that is tuned."""

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
    """The Lasso, ‖y − Xw − c‖²/(2n) + alpha‖w‖₁, with alpha by hypergradient descent; ``alpha_`` is on the scale of ``LassoCV``'s.

    Parameters and fitted attributes: cv=None (5 folds), n_alphas=10, max_iter=50, tol=1e-4, fit_intercept=True,
    solver="scikit-learn", progress=False, verbose=False; coef_, intercept_, alpha_, tuning_, solution_, certificate_.
    """

    def _model(self) -> Model:
        return Lasso()

    def _name(self, theta: np.ndarray) -> None:
        self.alpha_ = float(np.exp(theta[0]))


@final
class ElasticNetHyperCV(_Regressor):
    """The elastic net, ‖y − Xw − c‖²/(2n) + alpha·l1_ratio‖w‖₁ + ½alpha(1 − l1_ratio)‖w‖², with both by hypergradient descent.

    The grid has 3·n_alphas points, with l1_ratio 0.5, 0.95 and 0.999. Parameters as for LassoHyperCV. Fitted: alpha_, l1_ratio_, and what LassoHyperCV has otherwise.
    """

    def _model(self) -> Model:
        return ElasticNet()

    def _grid(self, levels: np.ndarray, m: int) -> list[np.ndarray]:
        # Down the path with one ratio of the penalties, up with the next: neighbours stay near.
        return [
            np.array([level, level + np.log(ratio)])
            for k, ratio in enumerate(_RATIOS)
            for level in (levels if k % 2 == 0 else levels[::-1])
        ]

    def _name(self, theta: np.ndarray) -> None:
        l1, ridge = np.exp(theta)
        self.alpha_ = float(l1 + ridge)
        self.l1_ratio_ = float(l1 / (l1 + ridge))


@final
class WeightedLassoHyperCV(_Regressor):
    """The weighted Lasso, ‖y − Xw − c‖²/(2n) + Σⱼ alphas_ⱼ|wⱼ|, one alpha a feature, all of them by hypergradient descent.

    So many hyperparameters can fit the folds themselves: judge the result on data that took no part. Features that a shared alpha leaves
    out have no gradient and stay out; the grid therefore begins the descent at its best shared alpha. Parameters as for LassoHyperCV.
    Fitted: alphas_ (p,), and what LassoHyperCV has otherwise.
    """

    def _model(self) -> Model:
        return WeightedLasso()

    def _name(self, theta: np.ndarray) -> None:
        self.alphas_ = np.exp(theta)


@final
class LogisticHyperCV(ClassifierMixin, _HyperCV):
    """Sparse logistic regression of two classes, (1/n) Σ log(1 + exp(−yᵢ(xᵢᵀw + c))) + alpha‖w‖₁, alpha by hypergradient descent.

    The criterion is the logistic loss on the left-out folds. For more classes, put it into ``sklearn.multiclass.OneVsRestClassifier``.
    Parameters as for LassoHyperCV. Fitted: classes_, alpha_, C_ = 1/(n·alpha) (that of ``LogisticRegression``), coef_ (1, p),
    intercept_ (1,), and what LassoHyperCV has otherwise.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Choose alpha on X (n, p), y (n,) of two classes, and fit to all of it with it."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if self.classes_.size > 2:
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {type_of_target(y)}. y: got "
                f"{self.classes_.size} classes, expected 2; use sklearn.multiclass.OneVsRestClassifier(LogisticHyperCV())"
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
        """The likelier class, (n,)."""
        check_is_fitted(self)
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The classes' probabilities, (n, 2)."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithms, (n, 2)."""
        eta = self.decision_function(X)
        return -np.logaddexp(0, np.column_stack([eta, -eta]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
