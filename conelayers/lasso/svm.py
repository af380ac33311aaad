"""The linear support vector machine, polished and differentiated in its hyperparameter C.

    minimize over w, c:   ½‖w‖² + C Σᵢ max(0, 1 − yᵢ(xᵢᵀw + c))

With zᵢ = yᵢ(xᵢ, 1) and multipliers 0 ≤ aᵢ ≤ C, w = Σ aᵢ yᵢ xᵢ and Σ aᵢ yᵢ = 0. Samples on the margin (zᵢᵀ(w, c) = 1,
the free ones F) have 0 < aᵢ < C, those within it (B) aᵢ = C, the others none. On F the conditions are one symmetric
linear system in (w, c, a_F), H = diag(I, 0):

    [ H   −Z_Fᵀ ] [ w, c ]   [ C Z_Bᵀ1 ]
    [ −Z_F   0  ] [ a_F  ] = [   −1    ]
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.linalg import qr
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, LinearSVC

from conelayers.lasso.checks import checked_data, checked_flag, checked_logarithms, signs
from conelayers.lasso.margins import MarginConditions, Samples
from conelayers.lasso.problem import Model, Problem, checked_start, warned
from conelayers.lasso.solution import Solution
from conelayers.support.parallel import one_blas_thread

__all__ = ["LinearSVM"]

_ACCEPTED = 1e-9  # the largest residual of a solution that counts as converged
_ITERATIONS = 1_000_000  # at most, of libsvm
_REPAIRS = 10_000  # changes of the sets, at most
_DEPENDENT = 1e-10  # a diagonal entry of R over the first one, below which samples on the margin count as dependent
_ENTERING = 3  # samples that may enter the free set at once on a side


@final
@dataclass(frozen=True)
class LinearSVM(Model):
    """½‖w‖² + C Σ hinge(yᵢ(xᵢᵀw + c)), y ∈ {−1, 1} or {0, 1}; θ = log C, m = 1.

    Source: Cortes and Vapnik (1995); scikit-learn's ``SVC``. The first guess is libsvm's (liblinear's without an
    intercept), so ``solver`` can only be "scikit-learn".
    """

    classification = True

    def problem(
        self, X: np.ndarray, y: np.ndarray, *, fit_intercept: bool = True, solver: str = "scikit-learn"
    ) -> Problem:
        if solver != "scikit-learn":
            raise ValueError(f"solver: got {solver!r}, expected 'scikit-learn', the only one for LinearSVM")
        (X, y), intercept = checked_data(X, y), checked_flag("fit_intercept", fit_intercept)
        y = signs(y)
        Z = y[:, None] * (np.column_stack([X, np.ones(len(y))]) if intercept else X)
        return _Machine(Samples(Z, y, intercept))


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
            if start is not None and not isinstance(start, Solution):
                checked_start(start, len(self.samples.y))
            if start is not None and isinstance(start.conditions, MarginConditions):
                before = start.conditions
                # The scaled multipliers are feasible, since 0 ≤ a ≤ C and Σ aᵢyᵢ = 0 scale with C.
                a = checked_start(start, len(self.samples.y)) * (C / before.C)
                conditions = self._polished(C, before.point, a, before.free, before.full)
            if conditions is None or conditions.residual > _ACCEPTED:
                conditions = self._polished(C, *self._guess(C))
        coef, intercept = conditions.split(conditions.point)
        converged = conditions.residual <= _ACCEPTED
        return warned(Solution(coef, intercept, theta, conditions.residual, converged, conditions))

    def _guess(self, C: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        X, n = self.samples.Z * self.samples.y[:, None], len(self.samples.y)
        if self.samples.intercept:
            # On unscaled data libsvm would run for hours. The limit stops it at a feasible point, from which the polish
            # goes on.
            machine = SVC(kernel="linear", C=C, tol=1e-6, max_iter=_ITERATIONS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                machine.fit(X[:, :-1], self.samples.y)
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
            warnings.simplefilter("ignore", ConvergenceWarning)  # the polish goes on from here, and checks the result
            return machine.fit(X, self.samples.y).coef_[0]

    def _polished(
        self, C: float, point: np.ndarray, a: np.ndarray, free: np.ndarray, full: np.ndarray
    ) -> MarginConditions:
        """The solution by an active-set method on the dual, from a guess.

        A step goes to the minimum on the free samples, or to the first bound on the way. At the minimum the samples
        that violate their conditions most enter the free set. Every step lowers the dual objective and keeps
        0 ≤ a ≤ C; the guess is near, so that few sets are visited.
        """
        a = np.where(full, C, np.where(free, np.clip(a, 0.0, C), 0.0))
        found = None
        for _ in range(_REPAIRS):
            a, free, full = _thinned(self.samples.Z, C, a, free, full)
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
            # The side of a sample is the direction in which yᵢaᵢ would move. Since Σ aᵢyᵢ stays zero, samples have to
            # enter on both sides, or on one side if others are free.
            loose = self.samples.intercept and not (free & (a > 0) & (a < C)).any()
            if loose:
                free, full = np.zeros_like(free), a >= C
            sides = np.where(full, -self.samples.y, self.samples.y) if self.samples.intercept else np.ones(len(a))
            if loose:
                # No sample determines c, which is put half-way between the sides.
                room = self.samples.y * slack
                shift = (room[sides > 0].max(initial=-np.inf) + room[sides < 0].min(initial=np.inf)) / 2
                if np.isfinite(shift):
                    point, slack = np.append(point[:-1], point[-1] + shift), slack - self.samples.y * shift
                    found = MarginConditions(self.samples, C, point, a, free, full)
            wrong = np.where(free, 0.0, np.where(full, -slack, slack))
            if wrong.max() <= 1e-11:
                break
            entering = np.zeros_like(free)
            for side in (1, -1):
                worst = np.argsort(np.where(sides == side, -wrong, np.inf))[:_ENTERING]
                entering[worst[(wrong[worst] > 1e-11) & (sides[worst] == side)]] = True
            free, full = free | entering, full & ~entering
        assert found is not None
        return found


def _thinned(
    Z: np.ndarray, C: float, a: np.ndarray, free: np.ndarray, full: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multipliers a and sets of which the free samples are linearly independent.

    w stays the same, and the dual objective becomes no worse: along the null space of Z_Fᵀ it changes by Σ δᵢ alone. So
    a moves uphill to the first bound, the sample at the bound is no longer free, and so on.
    """
    d = Z.shape[1]
    a, free, full = a.copy(), free.copy(), full.copy()
    while (rows := np.flatnonzero(free)[: 2 * d]).size:
        Q, R, _ = qr(Z[rows], pivoting=True, check_finite=False)
        diagonal = np.abs(np.diag(R))
        N = Q[:, np.count_nonzero(diagonal > _DEPENDENT * diagonal[0]) :]
        if not N.shape[1]:
            break
        while N.shape[1]:
            delta = N @ N.sum(axis=0)
            delta = delta if np.abs(delta).max() > 1e-9 else N[:, 0]
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(delta > 0, (C - a[rows]) / delta, np.where(delta < 0, -a[rows] / delta, np.inf))
            j = int(np.argmin(room))
            a[rows] = np.clip(a[rows] + room[j] * delta, 0.0, C)
            up = bool(delta[j] > 0)
            a[rows[j]], full[rows[j]], free[rows[j]] = C if up else 0.0, up, False
            k = int(np.argmax(np.abs(N[j])))
            N = np.delete(N - np.outer(N[:, k], N[j] / N[j, k]), k, axis=1)
            N[j] = 0.0
    return a, free, full
