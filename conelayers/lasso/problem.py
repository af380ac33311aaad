"""A model on its data, to be solved for any θ: a guess, the polish, and the conditions that give its derivative."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np

from conelayers.lasso.checks import checked_logarithms
from conelayers.lasso.conditions import SupportConditions
from conelayers.lasso.fit import Fit
from conelayers.lasso.linearization import Forcing
from conelayers.lasso.losses import Loss, Squares
from conelayers.lasso.penalties import Penalty
from conelayers.lasso.polish import polish
from conelayers.lasso.solution import Solution
from conelayers.lasso.solvers import check_solver, first_guess
from conelayers.support.arguments import described
from conelayers.support.errors import InaccurateSolutionWarning
from conelayers.support.parallel import one_blas_thread

__all__ = ["Model", "PenalizedModel", "Problem", "checked_model", "checked_start", "solve", "warned"]

_NEAR = 100  # Newton steps that a warm start may take before the solver makes a first guess


class Problem(ABC):
    """A model on its data, without its hyperparameters."""

    @property
    @abstractmethod
    def hyperparameters(self) -> int:
        """m."""

    @property
    @abstractmethod
    def largest(self) -> np.ndarray:
        """θ (m,) at and above which w = 0 and nothing is left to tune; infinite if there is no such value (μ, C)."""

    @abstractmethod
    def solve(self, log_hyperparameters: np.ndarray, start: Solution | None = None) -> Solution:
        """The solution at θ (m,).

        start: a solution of the same problem at a θ nearby, for a warm start.

        Warns InaccurateSolutionWarning if the optimality conditions do not hold; then ``converged`` is False.
        """


class Model(ABC):
    """A model without its data: a loss, a penalty and the hyperparameters that they have."""

    classification: bool = False

    @abstractmethod
    def problem(
        self, X: np.ndarray, y: np.ndarray, *, fit_intercept: bool = True, solver: str = "scikit-learn"
    ) -> Problem:
        """The model on X (n, p), y (n,).

        fit_intercept: whether the model has an intercept.
        solver: the solver that makes the first guess, "scikit-learn", "celer" or "skglm".

        Raises ValueError for data that do not fit, ImportError for a solver that is not installed.
        """


class PenalizedModel(Model):
    """A model that minimizes f + penalty."""

    @property
    def loss(self) -> Loss:
        """The loss f."""
        return Squares()

    @abstractmethod
    def count(self, features: int) -> int:
        """How many hyperparameters there are, m."""

    @abstractmethod
    def penalty(self, theta: np.ndarray, fit: Fit) -> Penalty:
        """The penalty at θ (m,)."""

    @abstractmethod
    def forcing(self, theta: np.ndarray, fit: Fit, z: np.ndarray, g: np.ndarray) -> Forcing:
        """∂(∇penalty)/∂θ on the support; off the support, what it were if the feature entered along −g."""

    @abstractmethod
    def largest(self, fit: Fit) -> np.ndarray:
        """θ (m,) at which w = 0; infinite for hyperparameters that have no such value."""

    def problem(
        self, X: np.ndarray, y: np.ndarray, *, fit_intercept: bool = True, solver: str = "scikit-learn"
    ) -> Problem:
        check_solver(solver)
        return _Penalized(self, Fit.of(self.loss, X, y, fit_intercept), solver)


@final
@dataclass(frozen=True, eq=False)
class _Penalized(Problem):
    model: PenalizedModel
    fit: Fit
    solver: str

    @property
    def hyperparameters(self) -> int:
        return self.model.count(self.fit.features)

    @property
    def largest(self) -> np.ndarray:
        return self.model.largest(self.fit)

    def solve(self, log_hyperparameters: np.ndarray, start: Solution | None = None) -> Solution:
        theta = checked_logarithms(log_hyperparameters, self.hyperparameters)
        penalty = self.model.penalty(theta, self.fit)
        found = None
        with one_blas_thread():
            if start is not None:
                found = polish(self.fit, penalty, checked_start(start, self.fit.X.shape[1]), _NEAR)
            if found is None or not found.converged:
                found = polish(self.fit, penalty, first_guess(self.fit, penalty, self.solver))
        coef, intercept = self.fit.split(found.z)
        forcing = partial(self.model.forcing, theta, self.fit)
        conditions = SupportConditions(self.fit, penalty, found.z, found.gradient, forcing)
        return warned(Solution(coef, intercept, theta, found.residual, found.converged, conditions))


def solve(
    model: Model, X: np.ndarray, y: np.ndarray, log_hyperparameters: np.ndarray | float, *,
    fit_intercept: bool = True, solver: str = "scikit-learn",
) -> Solution:  # fmt: skip
    """The model's solution on X (n, p), y (n,) at θ = log λ, (m,) or a number: ``model.problem(X, y).solve(θ)``."""
    problem = checked_model(model).problem(X, y, fit_intercept=fit_intercept, solver=solver)
    return problem.solve(log_hyperparameters)  # type: ignore[arg-type]


def checked_model(model: Any) -> Model:
    """The model. Raises TypeError for anything that is no model."""
    if not isinstance(model, Model):
        hint = f"; write {model.__name__}()" if isinstance(model, type) and issubclass(model, Model) else ""
        raise TypeError(f"model: got {described(model)}, expected a Model, such as Lasso() or LinearSVM(){hint}")
    return model


def checked_start(start: Solution, size: int) -> np.ndarray:
    """The coordinates of a solution to start from, (size,).

    Raises TypeError for anything that is no solution, ValueError for the solution of another problem.
    """
    if not isinstance(start, Solution):
        raise TypeError(f"start: got {described(start)}, expected a Solution of the same problem, or None")
    if start.conditions.start.shape != (size,):
        raise ValueError(
            f"start: got a solution with {start.conditions.start.size} coordinates, expected {size}; start from a "
            "solution of the same problem"
        )
    return start.conditions.start


def warned(solution: Solution) -> Solution:
    """The solution, with a warning if it did not converge."""
    if not solution.converged:
        warnings.warn(
            f"The solve stopped at a KKT residual of {solution.residual:.1e}, above 1e−9: neither the solution nor its "
            "derivative can be relied on; standardize the features, or raise the penalty.",
            InaccurateSolutionWarning,
            stacklevel=3,
        )
    return solution
