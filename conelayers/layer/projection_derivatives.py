"""First and second derivatives of Π_{K*} over NumPy arrays: what the adapters' own rules of differentiation call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from conelayers.layer.outcome import scattered
from conelayers.numerics.cones import Selection, product_cone
from conelayers.program.cones import Cones

__all__ = ["NO_THIRD_DERIVATIVES", "ProgramProjection", "ProjectionDerivatives"]

NO_THIRD_DERIVATIVES = (
    "third derivatives of a layer with second-order, semidefinite, exponential or power cones are not available; first "
    "and second ones are, and all of them for linear and quadratic programs"
)


class ProjectionDerivatives(Protocol):
    """The derivatives of a projection, as the adapters' rules for D(v)h and D²Π(v)[a, c] ask for them."""

    @property
    def curved(self) -> bool:
        """Whether D²Π is not zero almost everywhere."""

    def derivative(self, v: np.ndarray, h: np.ndarray) -> np.ndarray:
        """D(v)h for v, h (..., m)."""

    def second_derivative(self, v: np.ndarray, a: np.ndarray, c: np.ndarray) -> np.ndarray:
        """D²Π(v)[a, c] for v, a, c (..., m)."""


@final
@dataclass(frozen=True, eq=False)
class ProgramProjection:
    """Π_{K*} of a program, at points v of which some instances may have no solution: v is NaN there."""

    cones: Cones
    selection: Selection

    @property
    def curved(self) -> bool:
        """Whether a cone curves, so that D²Π is not zero."""
        return self.cones.curved

    def derivative(self, v: np.ndarray, h: np.ndarray) -> np.ndarray:
        """D(v)h of the selected element for v, h (..., m); where v is NaN (no solution) NaN, or zero for h = 0."""
        return _where_solved(lambda v, h: product_cone(self.cones).element(v, self.selection).apply(h), v, h)

    def second_derivative(self, v: np.ndarray, a: np.ndarray, c: np.ndarray) -> np.ndarray:
        """D²Π(v)[a, c] for v, a, c (..., m); where v is NaN, NaN, or zero for a = 0 or c = 0."""
        return _where_solved(product_cone(self.cones).second_derivative, v, a, c)


def _where_solved(function: Callable[..., np.ndarray], v: np.ndarray, *others: np.ndarray) -> np.ndarray:
    if np.isfinite(v).all():
        return function(v, *others)
    v = np.where(np.isneginf(v), -1.0, v)  # where nothing bounds v is as far from the kink as with any other slack
    flat, *rest = (h.reshape(-1, h.shape[-1]) for h in (v, *others))
    members = np.flatnonzero(np.isfinite(flat).all(axis=1))
    nothing = np.zeros(len(flat), dtype=bool)
    for h in rest:
        nothing |= (h == 0).all(axis=1)
    values = function(*(h[members] for h in (flat, *rest))) if members.size else np.zeros((0, flat.shape[1]))
    return scattered(values, members, np.where(nothing, 0.0, np.nan)).reshape(v.shape)
