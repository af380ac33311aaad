"""The optimality conditions of f + penalty at a solution, on its support and on the extended support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import numpy as np

from conelayers.lasso.fit import Fit
from conelayers.lasso.linearization import RANK, Basis, Forcing, Linearization
from conelayers.lasso.penalties import Penalty
from conelayers.lasso.polish import newton_step
from conelayers.lasso.verdicts import Conditions, Side, Spectrum
from conelayers.program.names import NEGLIGIBLE

__all__ = ["SupportConditions"]

_STEPS = 100.0  # times Newton's next step: a kink within that distance counts as one
_ROUNDING = 1e-12  # times the data's scale: the distance that is added for rounding errors


@final
@dataclass(frozen=True, eq=False)
class SupportConditions(Conditions):
    """Stationarity on the support, ∇f(z) + ∇penalty(z, θ) = 0, at z (d,) with gradient ∇f(z) (d,).

    fit, penalty: f and the penalty at θ.
    forcing: z and ∇f(z) ↦ ∂(∇penalty)/∂θ (d, m); features off the support count as entering it along −∇f.
    """

    fit: Fit
    penalty: Penalty
    z: np.ndarray
    gradient: np.ndarray
    forcing: Callable[[np.ndarray, np.ndarray], Forcing]

    @property
    def start(self) -> np.ndarray:
        return self.z

    @property
    def support(self) -> np.ndarray:
        return np.flatnonzero(self.z[: self.fit.features])

    @cached_property
    def _curvatures(self) -> np.ndarray:
        return self.fit.curvatures(self.z)

    @cached_property
    def distances(self) -> np.ndarray:
        return self.penalty.kink_distances(self.z, self.gradient, self._curvatures)

    @cached_property
    def tolerances(self) -> np.ndarray:
        columns = np.flatnonzero(self.penalty.support(self.z))
        r = self.gradient + self.penalty.gradient(self.z)
        e = newton_step(self.fit, self.penalty, self.z, r, columns)
        step = np.abs(self._curvatures * e) + np.abs(self.fit.hessian_vector(self.z, e))
        return _STEPS * step + _ROUNDING * self.fit.scale

    def _basis(self, side: Side) -> Basis:
        none = np.zeros(self.z.size, dtype=bool)
        drop = none if side is Side.OWN else self.at_kinks
        return self.penalty.basis(self.z, self.gradient, drop, self.at_kinks if side is Side.HIGH else none)

    def linearized(self, side: Side) -> Linearization:
        U = self._basis(side)
        M = U.congruence(self._hessian(U.rows))
        return Linearization(M, self.forcing(self.z, self.gradient), U, partial(self._root, U))

    def _root(self, U: Basis) -> np.ndarray:
        """F = [√W X̃U; curvature^½ U], of which the Hessian on U's directions is the square FᵀF."""
        F = np.vstack([self.fit.root(self.z, U.rows), self.penalty.root(self.z, U.rows)])
        return F if (U.values == 1).all() and U.rows.size == U.shape[1] else F @ U.dense()

    def _hessian(self, columns: np.ndarray) -> np.ndarray:
        return self.fit.hessian(self.z, columns) + self.penalty.curvature(self.z, columns)

    def spectrum(self, side: Side) -> Spectrum:
        # The rank is decided on F, since the singular values of M = FᵀF are the squares of F's.
        U = self._basis(side)
        k = U.shape[1]
        if not k:
            return Spectrum(1.0, 1.0, RANK, ())
        F = self._root(U)
        if len(F) > 2 * k:
            F = np.asarray(np.linalg.qr(F, mode="r"))
        norms = np.sqrt(np.einsum("ij,ij->j", F, F))
        _, values, right = np.linalg.svd(F / np.where(norms > 0, norms, 1.0), full_matrices=k > F.shape[0])
        values = np.append(values, np.zeros(k - values.size))
        null = right[values <= RANK * values[0]]
        seen = np.abs(U.lift((null / np.where(norms > 0, norms, 1.0)).T)).max(axis=1, initial=0.0)
        seen = seen[: self.fit.features]
        blamed = np.flatnonzero(seen > NEGLIGIBLE * seen.max(initial=1e-300)) if null.size else np.zeros(0, int)
        return Spectrum(float(values[-1]), float(values[0]), RANK, tuple(blamed.tolist()))

    def split(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        return self.fit.split(z)

    def pull_back(self, coef_bar: np.ndarray, intercept_bar: float) -> np.ndarray:
        return self.fit.pull_back(coef_bar, intercept_bar)
