"""The penalties by their nonsmooth geometry: where they are smooth, what moves there, and how far the nearest kink is.

The methods take z and often g = ∇f(z). A penalty is smooth on the *support*. Off the support z = 0 is optimal as long
as |g| ≤ λ, and the kinks are at |g| = λ with z = 0. With v = h z − g, where h is the curvature of f, a kink is at
|v| = λ seen from both sides, and its distance is ||v| − λ|, in the units of λ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from conelayers.lasso.linearization import Basis

__all__ = ["Grouped", "Penalty", "Separable"]

_AT_ZERO = 1e-14  # times the coordinate before a step: what is left of it at its kink is rounding


class Penalty(ABC):
    """A convex penalty on z (d,); unpenalized coordinates belong to every support."""

    @abstractmethod
    def support(self, z: np.ndarray) -> np.ndarray:
        """The coordinates in which the penalty is smooth at z, (d,) bool."""

    @abstractmethod
    def gradient(self, z: np.ndarray) -> np.ndarray:
        """Its gradient on the support, zero off it, (d,)."""

    @abstractmethod
    def curvature(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Its Hessian on coordinates of the support, (k, k)."""

    @abstractmethod
    def root(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """C (r, k), with which CᵀC is the Hessian on these coordinates."""

    @abstractmethod
    def change(self, z: np.ndarray, e: np.ndarray) -> float:
        """The change of its value from z to z + e."""

    @abstractmethod
    def project(self, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        """``new`` with zeros in coordinates that pass through a kink on the way from ``old``."""

    @abstractmethod
    def reach(self, z: np.ndarray, e: np.ndarray) -> float:
        """The least t > 0 at which ``project`` changes z + te; infinite if there is none."""

    @abstractmethod
    def entering(self, z: np.ndarray, g: np.ndarray, h: np.ndarray, tolerance: float) -> np.ndarray:
        """A direction of descent off the support, (d,); zero in coordinates whose conditions hold to the tolerance."""

    @abstractmethod
    def violation(self, z: np.ndarray, g: np.ndarray) -> float:
        """The largest violation of the optimality conditions, over all coordinates, in the units of λ."""

    @abstractmethod
    def kink_distances(self, z: np.ndarray, g: np.ndarray, h: np.ndarray) -> np.ndarray:
        """The distance of the nearest kink for each coordinate, (d,); infinite for unpenalized ones."""

    @abstractmethod
    def basis(self, z: np.ndarray, g: np.ndarray, drop: np.ndarray, add: np.ndarray) -> Basis:
        """The directions in which z moves, (d, k): those of the support without ``drop``, and of the kinks ``add``."""


@final
@dataclass(frozen=True, eq=False)
class Separable(Penalty):
    """Σⱼ λⱼ|zⱼ| + ½ Σⱼ μⱼ zⱼ².

    l1: λ (d,), zero in unpenalized coordinates.
    ridge: μ (d,).
    """

    l1: np.ndarray
    ridge: np.ndarray

    def support(self, z: np.ndarray) -> np.ndarray:
        return (z != 0) | (self.l1 == 0)

    def gradient(self, z: np.ndarray) -> np.ndarray:
        return self.l1 * np.sign(z) + self.ridge * z

    def curvature(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.diag(self.ridge[columns])

    def root(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        ridge = self.ridge[columns]
        return np.diag(np.sqrt(ridge))[ridge > 0]

    def change(self, z: np.ndarray, e: np.ndarray) -> float:
        return float(self.l1 @ (np.abs(z + e) - np.abs(z)) + (self.ridge * e) @ (z + e / 2))

    def project(self, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where((self.l1 > 0) & (old != 0) & (new * old <= _AT_ZERO * old * old), 0.0, new)

    def reach(self, z: np.ndarray, e: np.ndarray) -> float:
        towards = (self.l1 > 0) & (z * e < 0)
        return float((-z[towards] / e[towards]).min(initial=np.inf))

    def entering(self, z: np.ndarray, g: np.ndarray, h: np.ndarray, tolerance: float) -> np.ndarray:
        support = self.support(z)
        excess = np.where(support, 0.0, np.abs(g) - self.l1)
        return np.where(_largest(excess, tolerance, int(support.sum())), -np.sign(g) * excess / (h + self.ridge), 0.0)

    def violation(self, z: np.ndarray, g: np.ndarray) -> float:
        inside = np.abs(g + self.gradient(z))
        return float(np.max(np.where(self.support(z), inside, np.maximum(np.abs(g) - self.l1, 0.0)), initial=0.0))

    def kink_distances(self, z: np.ndarray, g: np.ndarray, h: np.ndarray) -> np.ndarray:
        # v = (h + μ)z − (g + μz): on the support |v| − λ is (h + μ)|z|, off it v is −g.
        active = (h + self.ridge) * np.abs(z)
        return np.where(self.l1 == 0, np.inf, np.where(z != 0, active, np.abs(self.l1 - np.abs(g))))

    def basis(self, z: np.ndarray, g: np.ndarray, drop: np.ndarray, add: np.ndarray) -> Basis:
        return Basis.units(np.flatnonzero((self.support(z) & ~drop) | add), z.size)


@final
@dataclass(frozen=True, eq=False)
class Grouped(Penalty):
    """Σ_g λ_g ‖z_g‖₂.

    groups: the number of each coordinate's group, (d,); −1 for unpenalized coordinates.
    levels: λ_g, (G,).
    """

    groups: np.ndarray
    levels: np.ndarray

    @cached_property
    def _free(self) -> np.ndarray:
        return self.groups < 0

    def norms(self, z: np.ndarray) -> np.ndarray:
        """‖z_g‖, (G,)."""
        return np.sqrt(self._sums(z * z))

    def _sums(self, values: np.ndarray) -> np.ndarray:
        weights = np.where(self._free, 0.0, values)
        return np.bincount(np.maximum(self.groups, 0), weights=weights, minlength=self.levels.size)

    def _spread(self, values: np.ndarray) -> np.ndarray:
        return values[self.groups]  # free coordinates get the value of the last group; the callers mask them

    def support(self, z: np.ndarray) -> np.ndarray:
        return self._free | self._spread(self.norms(z) > 0)

    def units(self, z: np.ndarray) -> np.ndarray:
        """z_g/‖z_g‖, zeros for zero groups and free coordinates, (d,)."""
        norm = self._spread(self.norms(z))
        return np.where(self._free | (norm == 0), 0.0, z / np.where(norm > 0, norm, 1.0))

    def gradient(self, z: np.ndarray) -> np.ndarray:
        return np.where(self._free, 0.0, self._spread(self.levels)) * self.units(z)

    def curvature(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        C = self.root(z, columns)
        return C.T @ C

    def root(self, z: np.ndarray, columns: np.ndarray) -> np.ndarray:
        # The curvature is λ_g(I − uuᵀ)/‖z_g‖ in each group, a projection times a number.
        groups, u, norms = self.groups[columns], self.units(z)[columns], self.norms(z)
        free = groups < 0
        factor = np.where(free, 0.0, (self.levels / np.where(norms > 0, norms, np.inf))[groups])
        same = (groups[:, None] == groups) & ~free
        return np.sqrt(factor)[:, None] * (np.eye(len(columns)) - np.where(same, np.outer(u, u), 0.0))

    def change(self, z: np.ndarray, e: np.ndarray) -> float:
        return float(self.levels @ (self.norms(z + e) - self.norms(z)))

    def project(self, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        ahead = self._sums(new * old)
        squares = self.norms(old) ** 2
        through = (ahead <= _AT_ZERO * squares) & (squares > 0)
        return np.where(~self._free & self._spread(through), 0.0, new)

    def reach(self, z: np.ndarray, e: np.ndarray) -> float:
        back = -self._sums(z * e)
        towards = back > 0
        return float((self.norms(z)[towards] ** 2 / back[towards]).min(initial=np.inf))

    def entering(self, z: np.ndarray, g: np.ndarray, h: np.ndarray, tolerance: float) -> np.ndarray:
        slopes, active = self.norms(g), self.norms(z) > 0
        excess = np.where(active, 0.0, slopes - self.levels)
        bound = self._sums(h)
        length = np.where(_largest(excess, tolerance, int(active.sum())), excess / bound, 0.0)
        return np.where(self._free, 0.0, -self._spread(length) * self.units(g))

    def violation(self, z: np.ndarray, g: np.ndarray) -> float:
        inside = np.where(self.support(z), np.abs(g + self.gradient(z)), 0.0)
        outside = np.where(self.norms(z) > 0, 0.0, self.norms(g) - self.levels)
        return float(max(np.max(inside, initial=0.0), np.max(outside, initial=0.0)))

    def kink_distances(self, z: np.ndarray, g: np.ndarray, h: np.ndarray) -> np.ndarray:
        norms = self.norms(z)
        bound = self._sums(h)
        distance = np.where(norms > 0, bound * norms, np.abs(self.levels - self.norms(g)))
        return np.where(self._free, np.inf, self._spread(distance))

    def basis(self, z: np.ndarray, g: np.ndarray, drop: np.ndarray, add: np.ndarray) -> Basis:
        # At ‖v‖ = λ the Clarke Jacobian of the group's soft threshold has the elements 0 and uuᵀ, u = −g/‖g‖: a kinked
        # group moves in one direction.
        support = self.support(z)
        whole = np.flatnonzero(support & ~drop)
        kinked = np.flatnonzero(add & (~support | drop) & ~self._free)
        if not kinked.size:
            return Basis.units(whole, z.size)
        u = np.where(support, self.units(z), self.units(-g))[kinked]
        found, line = np.unique(self.groups[kinked], return_inverse=True)
        return Basis(
            np.append(whole, kinked),
            np.append(np.arange(whole.size), whole.size + line),
            np.append(np.ones(whole.size), u),
            (z.size, whole.size + found.size),
        )


def _largest(excess: np.ndarray, tolerance: float, active: int) -> np.ndarray:
    """The largest entries above the tolerance: at most as many as there are active ones, or ten if that is more.

    The working set doubles at most.
    """
    chosen = excess > tolerance
    most = max(10, active)
    if chosen.sum() > most:
        chosen &= excess >= np.partition(excess, -most)[-most]
    return chosen
