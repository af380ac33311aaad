"""From a guess to machine precision: Newton's method on the support, and a check of all optimality conditions.

On the support f + penalty is smooth, and Newton's method finds its minimum there; for squares that is one linear solve.
A coordinate or group that would pass through a kink on the way stops there and leaves the support. At the minimum,
coordinates and groups whose conditions fail enter the support by a proximal step. Every step lowers the objective, so
no support with its signs occurs twice, and there are finitely many of them (the idea of Lee, Battle, Raina, Ng,
"Efficient sparse coding algorithms", 2006, for squares).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np
import scipy.linalg as sla

from conelayers.lasso.fit import Fit
from conelayers.lasso.penalties import Penalty

__all__ = ["Polished", "newton_step", "polish"]

_KKT = 1e-12  # times the data's scale: smaller violations of the conditions are rounding
_ACCEPTED = 1e-9  # times the data's scale: the largest residual of a point that counts as converged
_ROUGH = 0.1  # times the violation: the residual at which Newton's method stops on a support that others are to enter
_ARMIJO = 1e-4  # the part of the decrease that the slope promises from which a step is accepted
_HALVINGS = 60  # of a step, in the line search
_LEVEL = 1e-13  # times f(0): smaller changes of the objective are rounding
_SQUARED = 1e-3  # Cholesky's least pivot, of columns of length one, below which M = FᵀF has lost digits that F has
_DEPENDENT = 1e-11  # the least diagonal entry of R in F = QR, below which columns of F count as dependent
_RIDGE = (
    1e-10  # added to the unit diagonal of a singular Hessian: the step along its null space is huge, and cut at a kink
)


@final
class Polished(NamedTuple):
    """The point that the polish reached.

    z: (d,).
    gradient: ∇f(z), (d,).
    residual: the largest violation of the optimality conditions, over the data's scale.
    rounds: the number of steps.
    """

    z: np.ndarray
    gradient: np.ndarray
    residual: float
    rounds: int

    @property
    def converged(self) -> bool:
        """Whether the optimality conditions hold."""
        return self.residual <= _ACCEPTED


def polish(fit: Fit, penalty: Penalty, z: np.ndarray, max_rounds: int = 1000) -> Polished:
    """The minimizer of f + penalty, from a guess z (d,); its ``residual`` says how well the conditions hold."""
    tolerance = _KKT * fit.scale
    g = fit.gradient(z)
    rounds, last = 0, False
    while rounds < max_rounds:
        goal = 0.0 if last else _ROUGH * penalty.violation(z, g)
        z, g, steps = _on_support(fit, penalty, z, g, max_rounds - rounds, goal)
        rounds += steps
        direction = penalty.entering(z, g, fit.curvatures(z), tolerance)
        if not direction.any():
            if last:
                break
            last = True
            continue
        last = False
        moved = _line_search(fit, penalty, z, g, direction, float(-np.abs(direction).max() * tolerance))
        if moved is None:
            break
        z = moved
        g = fit.gradient(z)
        rounds += 1
    z, g = _refined(fit, penalty, z)
    return Polished(z, g, penalty.violation(z, g) / fit.scale, rounds)


def newton_step(fit: Fit, penalty: Penalty, z: np.ndarray, residual: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The Newton step −M⁻¹r on the support's columns, (d,), zero elsewhere.

    M is the Hessian of f + penalty on the support; residual: r (d,), the gradient of f + penalty.
    """
    e = np.zeros_like(z)
    if columns.size:
        M = fit.hessian(z, columns) + penalty.curvature(z, columns)
        root = lambda: np.vstack([fit.root(z, columns), penalty.root(z, columns)])  # noqa: E731
        e[columns] = -_solve(M, root, residual[columns], fit.scale)
    return e


def _on_support(
    fit: Fit, penalty: Penalty, z: np.ndarray, g: np.ndarray, limit: int, goal: float
) -> tuple[np.ndarray, np.ndarray, int]:
    before = np.inf
    for steps in range(limit):
        columns = np.flatnonzero(penalty.support(z))
        r = g + penalty.gradient(z)
        size = float(np.abs(r[columns]).max(initial=0.0))
        if size <= goal or (size > before / 2 and size <= _ACCEPTED * fit.scale):
            return z, g, steps
        e = newton_step(fit, penalty, z, r, columns)
        moved = _line_search(fit, penalty, z, g, e, float(r[columns] @ e[columns]))
        if moved is None:
            return z, g, steps
        before = size if np.array_equal(penalty.support(moved), penalty.support(z)) else np.inf
        z = moved
        g = fit.gradient(z)
    return z, g, limit


def _line_search(
    fit: Fit, penalty: Penalty, z: np.ndarray, g: np.ndarray, e: np.ndarray, slope: float
) -> np.ndarray | None:
    """The first of z + e, z + e/2, …, cut at kinks, that lowers the objective enough; None if rounding hides it.

    Before the first kink on the way, z + te is not cut and e is a direction of descent, so that t has to fall to that
    kink at worst. The kink itself is tried too: if a support is too large to have a unique minimum, e is huge along the
    null space, t is tiny, and the support loses a coordinate with every step.
    """
    t, first = 1.0, penalty.reach(z, e)
    for k in range(_HALVINGS):
        new = penalty.project(z + t * e, z)
        change = fit.change(z, g, new - z) + penalty.change(z, new - z)
        rounding = change if t == first else abs(change) + abs(slope)
        if change <= _ARMIJO * t * slope or rounding <= _LEVEL * fit.level:
            return new
        t = first if t / 2 < first < t or (first < t and k == _HALVINGS // 2) else t / 2
    return None


def _refined(fit: Fit, penalty: Penalty, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z and ∇f(z) after up to two more Newton steps, with gradients from the data.

    A step is taken if it lowers the residual and crosses no kink.
    """
    columns = np.flatnonzero(penalty.support(z))
    g = fit.exact_gradient(z)
    size = np.abs((g + penalty.gradient(z))[columns]).max(initial=0.0)
    for _ in range(2):
        e = newton_step(fit, penalty, z, g + penalty.gradient(z), columns)
        new = penalty.project(z + e, z)
        gradient = fit.exact_gradient(new)
        now = np.abs((gradient + penalty.gradient(new))[columns]).max(initial=0.0)
        if not (now < size and np.array_equal(penalty.support(new), penalty.support(z))):
            break
        z, g, size = new, gradient, now
    return z, g


def _solve(M: np.ndarray, root: Callable[[], np.ndarray], r: np.ndarray, scale: float) -> np.ndarray:
    """M⁻¹r, by Cholesky's factorization, or by F = QR if M = FᵀF is nearly singular.

    root: gives F. F has digits that M has lost.
    """
    d = 1 / np.sqrt(np.maximum(np.diag(M), 1e-300))
    M = d[:, None] * M * d
    for ridge in (0.0, _RIDGE, 1e-6):
        try:
            factor = sla.cho_factor(M + ridge * np.eye(len(M)) if ridge else M, lower=True, check_finite=False)
        except sla.LinAlgError:
            factor = None
        if factor is not None and (ridge or np.diag(factor[0]).min() > _SQUARED):
            return d * sla.cho_solve(factor, d * r, check_finite=False)
        if not ridge:
            F = root() * d
            if F.shape[0] >= F.shape[1]:
                R = np.linalg.qr(F, mode="r")
                if np.abs(np.diag(R)).min() > _DEPENDENT:
                    y = sla.solve_triangular(R, d * r, trans="T", check_finite=False)
                    return d * sla.solve_triangular(R, y, check_finite=False)
    return r / scale  # rounding makes M indefinite: the step is a short one along the gradient
