"""Lasso-type models that choose their own hyperparameters, by exact derivatives on the support.

    data + θ = log λ ─ solvers ─ polish ─ Solution (w, c, jvp, vjp, certify) ─ criteria ─ tune ─ estimators

``solve(Lasso(), X, y, θ)`` is a solution with its derivatives in θ; ``tune(CrossValidation(Lasso(), X, y), θ)`` a
descent on the error of cross-validation; ``LassoHyperCV().fit(X, y)`` an estimator of scikit-learn's kind. Needs
scikit-learn, and nothing else.

After Bolte, Le, Pauwels, Silveti-Falls, "Nonsmooth implicit differentiation for machine learning and optimization"
(2021), and Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort, Salmon, "Implicit differentiation for fast
hyperparameter selection in non-smooth convex learning" (2022).
"""

from conelayers.lasso import requirements as requirements  # isort: skip  (says what to install, before anything fails)
from conelayers.lasso.criteria import Criterion, CrossValidation, Evaluation, HoldOut
from conelayers.lasso.estimators import ElasticNetHyperCV, LassoHyperCV, LogisticHyperCV, WeightedLassoHyperCV
from conelayers.lasso.models import ElasticNet, GroupLasso, Lasso, SparseLogistic, WeightedLasso
from conelayers.lasso.prediction_errors import Error, LogisticError, SquaredError, SquaredHinge
from conelayers.lasso.problem import Model, Problem, solve
from conelayers.lasso.solution import Solution
from conelayers.lasso.svm import LinearSVM
from conelayers.lasso.tuning import Descent, Record, Tuning, best_on_grid, tune
from conelayers.lasso.verdicts import Side, SupportCertificate

__all__ = [
    "Criterion",
    "CrossValidation",
    "Descent",
    "ElasticNet",
    "ElasticNetHyperCV",
    "Error",
    "Evaluation",
    "GroupLasso",
    "HoldOut",
    "Lasso",
    "LassoHyperCV",
    "LinearSVM",
    "LogisticError",
    "LogisticHyperCV",
    "Model",
    "Problem",
    "Record",
    "Side",
    "Solution",
    "SparseLogistic",
    "SquaredError",
    "SquaredHinge",
    "SupportCertificate",
    "Tuning",
    "WeightedLasso",
    "WeightedLassoHyperCV",
    "best_on_grid",
    "solve",
    "tune",
]
