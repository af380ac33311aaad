"""The linear support vector machine, polished and differentiated in its hyperparameter C.

    minimize over w, c:   ½‖w‖² + C Σᵢ max(0, 1 − yᵢ(xᵢᵀw + c))

With zᵢ = yᵢ(xᵢ, 1) and multipliers 0 ≤ aᵢ ≤ C, w = Σ aᵢ yᵢ xᵢ and Σ aᵢ yᵢ = 0. Samples on the margin (zᵢᵀ(w, c) = 1, the free ones F) have
0 < aᵢ < C, those within it (B) aᵢ = C, the others none. On F the conditions are one symmetric linear system in (w, c, a_F), H = diag(I, 0):

    [ H   −Z_Fᵀ ] [ w, c ]   [ C Z_Bᵀ1 ]
    [ −Z_F   0  ] [ a_F  ] = [   −1    ]
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, LinearSVC

from conelayers.lasso.fit import checked_data
from conelayers.lasso.losses import signs
from conelayers.lasso.margins import MarginConditions, Samples
from conelayers.lasso.problem import Model, Problem, checked_logarithms, checked_start
from conelayers.lasso.solution import Solution
from conelayers.parallel import one_blas_thread

__all__ = ["LinearSVM"]

_ACCEPTED = 1e-9
_REPAIRS = 2000  # changes of the sets
_ENTERING = 5  # samples that may enter at once


@final
@dataclass(frozen=True)
class LinearSVM(Model):
    """½‖w‖² + C Σ hinge(yᵢ(xᵢᵀw + c)), y ∈ {−1, 1} or {0, 1}; θ = log C, m = 1. (Cortes and Vapnik, 1995; scikit-learn's ``SVC``.)

    The first guess is libsvm's (liblinear's without an intercept), so ``solver`` can only be "scikit-learn".
    """

    def problem(
        self, X: np.ndarray, y: np.ndarray, *, fit_intercept: bool = True, solver: str = "scikit-learn"
    ) -> Problem:
        if solver != "scikit-learn":
            raise ValueError(f"solver: got {solver!r}, expected 'scikit-learn', the only one for LinearSVM")
        X, y = checked_data(X, y)
        y = signs(y)
        Z = y[:, None] * (np.column_stack([X, np.ones(len(y))]) if fit_intercept else X)
        return _Machine(Samples(Z, y, fit_intercept))


@final
@dataclass(frozen=True, eq=False)
class _Machine(Problem):
    samples: Samples

    @property
    def hyperparameters(self) -> int:
        return 1

    @property
    def largest(self) -> np.ndarray:
        return np.array([np.inf])

    def solve(self, log_hyperparameters: np.ndarray, start: Solution | None = None) -> Solution:
        theta = checked_logarithms(log_hyperparameters, 1)
        C = float(np.exp(theta[0]))
        conditions = None
        with one_blas_thread():
            if start is not None and isinstance(start.conditions, MarginConditions):
                before = start.conditions
                a = checked_start(start, len(self.samples.y)) * (
                    C / before.C
                )  # feasible: 0 ≤ a ≤ C and Σ aᵢyᵢ = 0 scale
                conditions = self._polished(C, before.point, a, before.free, before.full)
            if conditions is None or conditions.residual > _ACCEPTED:
                conditions = self._polished(C, *self._guess(C))
        coef, intercept = conditions.split(conditions.point)
        return Solution(coef, intercept, theta, conditions.residual, conditions.residual <= _ACCEPTED, conditions)

    def _guess(self, C: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        X, n = self.samples.Z * self.samples.y[:, None], len(self.samples.y)
        if self.samples.intercept:
            machine = SVC(kernel="linear", C=C, tol=1e-6).fit(X[:, :-1], self.samples.y)
            a = np.zeros(n)
            a[machine.support_] = np.abs(machine.dual_coef_[0])
            point = np.append(machine.coef_[0], machine.intercept_)
            free, full = (a > 1e-7 * C) & (a < C * (1 - 1e-7)), a >= C * (1 - 1e-7)
        else:
            point = self._without_intercept(X, C)
            slack = 1 - self.samples.Z @ point
            free, full = np.abs(slack) < 1e-4, slack >= 1e-4
            a = np.where(full, C, 0.0)
        return point, a, free, full

    def _without_intercept(self, X: np.ndarray, C: float) -> np.ndarray:
        machine = LinearSVC(loss="hinge", C=C, fit_intercept=False, tol=1e-6, max_iter=20_000, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the polish finishes, and checks
            return machine.fit(X, self.samples.y).coef_[0]

    def _polished(
        self, C: float, point: np.ndarray, a: np.ndarray, free: np.ndarray, full: np.ndarray
    ) -> MarginConditions:
        """An active-set method on the dual: to the minimum on the free samples, or to the first bound on the way; then the worst enter.

        Every step lowers the dual objective and keeps 0 ≤ a ≤ C; the guess is near, so that few sets are visited.
        """
        a = np.where(full, C, np.where(free, np.clip(a, 0.0, C), 0.0))
        found = None
        for _ in range(_REPAIRS):
            found = MarginConditions.solved(self.samples, C, point, a, free, full)
            step = np.where(free, found.multipliers - a, 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(step > 0, (C - a) / step, np.where(step < 0, -a / step, np.inf))
            t = float(max(room.min(), 0.0))
            if t < 1:
                point = point + t * (found.point - point)
                stopped = free & (room <= t)
                full = full | (stopped & (step > 0))
                free = free & ~stopped
                a = np.where(full, C, np.where(free, np.clip(a + t * step, 0.0, C), 0.0))
                continue
            point, a = found.point, found.multipliers
            slack = 1 - self.samples.Z @ point
            wrong = np.where(free, 0.0, np.where(full, -slack, slack))
            if wrong.max() <= 1e-11:
                break
            entering = wrong >= max(
                1e-11, float(np.partition(wrong, -_ENTERING)[-_ENTERING:].min()) if wrong.size > _ENTERING else 0.0
            )
            free, full = free | entering, full & ~entering
        assert found is not None
        return found
