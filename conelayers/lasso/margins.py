"""The optimality conditions of a linear support vector machine on the sets of its samples, linearized in log C.

svm.py has the model and the equations.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import scipy.linalg as sla

from conelayers.lasso.linearization import Basis, Forcing, Linearization
from conelayers.lasso.verdicts import Conditions, Side, Spectrum

__all__ = ["MarginConditions", "Samples"]

_STEPS = 100.0  # times Newton's next step: a kink within that distance counts as one
_ROUNDING = 1e-12  # times the sample's scale: the distance that is added for rounding errors
_RIDGE = 1e-9  # subtracted from the multipliers' diagonal of a singular scaled system
_RANK = 1e-9  # of the scaled system's singular values, the least over the largest below which it counts as singular


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a support vector machine.

    Z: the samples times their labels, (n, d); if there is an intercept, the labels are the last column.
    y: the labels, (n,).
    intercept: whether there is one.
    """

    Z: np.ndarray
    y: np.ndarray
    intercept: bool

    @cached_property
    def quadratic(self) -> np.ndarray:
        """The diagonal of H, (d,)."""
        return np.append(np.ones(self.Z.shape[1] - 1), 0.0 if self.intercept else 1.0)


@final
@dataclass(frozen=True, eq=False)
class MarginConditions(Conditions):
    """The optimality conditions at a solution, by the sets of its samples.

    point: (w, c), (d,).
    multipliers: a (n,).
    free: the samples on the margin, (n,) bool.
    full: the samples with aᵢ = C, (n,) bool.
    """

    samples: Samples
    C: float
    point: np.ndarray
    multipliers: np.ndarray
    free: np.ndarray
    full: np.ndarray

    item = "sample"
    repair = "their multipliers are not unique: change C a little, or remove duplicate samples"

    @classmethod
    def solved(
        cls, samples: Samples, C: float, point: np.ndarray, a: np.ndarray, free: np.ndarray, full: np.ndarray
    ) -> MarginConditions:
        """The solution of the linear system on these sets; the one nearest to the guess if there are several."""
        a = np.where(full, C, np.where(free, a, 0.0))
        for _ in range(2):
            here = cls(samples, C, point, a, free, full)
            step = here._newton()
            d = len(point)
            point, a = point + step[:d], a.copy()
            a[free] += step[d:]
        return cls(samples, C, point, a, free, full)

    @property
    def start(self) -> np.ndarray:
        return self.multipliers

    @property
    def support(self) -> np.ndarray:
        return np.flatnonzero(self.free | self.full)

    @cached_property
    def _slack(self) -> np.ndarray:
        return 1 - self.samples.Z @ self.point

    @cached_property
    def residual(self) -> float:
        """The largest violation of stationarity, relative to ‖(w, c)‖, of the margins, and of 0 ≤ a ≤ C."""
        stationarity = self.samples.quadratic * self.point - self.samples.Z.T @ self.multipliers
        size = np.abs(self.samples.Z.T) @ self.multipliers
        wrong = np.where(self.free, np.abs(self._slack), np.where(self.full, -self._slack, self._slack))
        outside = np.maximum(-self.multipliers, self.multipliers - self.C) / self.C
        return float(max(np.max(np.abs(stationarity)) / max(size.max(), 1e-300), wrong.max(), outside.max(), 0.0))

    def _matrix(self, free: np.ndarray) -> np.ndarray:
        Z = self.samples.Z[free]
        return np.block([[np.diag(self.samples.quadratic), -Z.T], [-Z, np.zeros((len(Z), len(Z)))]])

    def _newton(self) -> np.ndarray:
        stationarity = self.samples.quadratic * self.point - self.samples.Z.T @ self.multipliers
        r = np.append(stationarity, self._slack[self.free])
        M, d = self._matrix(self.free), len(self.point)
        scale = 1 / np.sqrt(np.maximum(np.abs(M).max(axis=1), 1e-300))
        M, r = scale[:, None] * M * scale, scale * r
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", sla.LinAlgWarning)
                return -scale * sla.solve(M, r, check_finite=False)
        except (sla.LinAlgError, sla.LinAlgWarning):
            # There are more free samples than can be on the margin. The step goes far along their dependence, and the
            # caller stops it at a bound.
            M[d:, d:] -= _RIDGE * np.eye(len(M) - d)
            return -scale * np.linalg.lstsq(M, r, rcond=1e-14)[0]

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.einsum("ij,ij->i", self.samples.Z, self.samples.Z)

    @cached_property
    def distances(self) -> np.ndarray:
        # The condition of a sample is that the projection of v = ‖z‖²a + slack onto [0, C‖z‖²] is ‖z‖²a.
        inside = self._lengths * np.minimum(self.multipliers, self.C - self.multipliers)
        return np.where(self.free, np.abs(inside), np.abs(self._slack))

    @cached_property
    def tolerances(self) -> np.ndarray:
        step, d = self._newton(), len(self.point)
        moves = np.zeros(len(self.free))
        moves[self.free] = np.abs(step[d:])
        return _STEPS * (self._lengths * moves + np.abs(self.samples.Z @ step[:d])) + _ROUNDING * (
            1 + self.C * self._lengths
        )

    def _free_on(self, side: Side) -> np.ndarray:
        if side is Side.OWN:
            return self.free
        return self.free & ~self.at_kinks if side is Side.LOW else self.free | self.at_kinks

    def linearized(self, side: Side) -> Linearization:
        free = self._free_on(side)
        nearly = self.full | (self.multipliers > self.C / 2)  # samples at a kink that are not free have a = 0 or a = C
        d, k = len(self.point), len(self.point) + int(free.sum())
        forcing = -self.C * self.samples.Z[nearly & ~free].sum(axis=0)[:, None]
        return Linearization(
            self._matrix(free), Forcing(forcing, np.zeros((d, 1), dtype=int), 1), Basis.units(np.arange(d), d, k)
        )

    def spectrum(self, side: Side) -> Spectrum:
        free = self._free_on(side)
        M = self._matrix(free)
        scale = 1 / np.sqrt(np.maximum(np.abs(M).max(axis=1), 1e-300))
        _, values, right = np.linalg.svd(scale[:, None] * M * scale)
        null = np.abs(right[values <= _RANK * values[0]]) * scale
        seen = null[:, len(self.point) :].max(axis=0, initial=0.0)
        blamed = np.flatnonzero(free)[seen > 1e-6 * seen.max(initial=1e-300)]
        return Spectrum(float(values[-1]), float(values[0]), _RANK, tuple(blamed.tolist()))

    def split(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        return (z[:-1].copy(), float(z[-1])) if self.samples.intercept else (z.copy(), 0.0)

    def pull_back(self, coef_bar: np.ndarray, intercept_bar: float) -> np.ndarray:
        return np.append(coef_bar, intercept_bar) if self.samples.intercept else np.array(coef_bar)
