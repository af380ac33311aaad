"""What the null vectors of J mean to the user: variables that are not unique, constraints that are redundant.

ker J is the direct sum of {dx : P dx = 0, D A dx = 0} and {w ∈ ker(I − D) : Aᵀw = 0}: the directions in which the
minimizer is not unique, and those in which multipliers are not.
"""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.program.names import Names

__all__ = ["NullDirections", "listed"]

_SEEN = 1e-5  # singular values of unit null vectors below this belong to rounding errors
_SHOWN = 5  # names in one sentence


@final
class NullDirections(NamedTuple):
    """Whether the two conditions of strong regularity hold, and where they fail.

    second_order, nondegenerate: the conditions; None if they were not tested.
    moving: the largest entry (n,) of each x in the null directions that the user can see, in the equilibrated units.
    dependent: the same (m,) of each multiplier.
    """

    second_order: bool | None
    nondegenerate: bool | None
    moving: np.ndarray
    dependent: np.ndarray

    @classmethod
    def of(cls, dx: np.ndarray, dy: np.ndarray, names: Names, units: np.ndarray) -> NullDirections:
        """The directions of null vectors dx (k, n) and dy (k, m) that span ker J, or of a random sample of it.

        units: what the number 1 of each equilibrated x is in the user's units, (n,).
        """
        moving = np.max(np.abs(names.visible(_basis(dx), units)), axis=0, initial=0.0)
        dependent = np.max(np.abs(names.relevant_multipliers(_basis(dy))), axis=0, initial=0.0)
        return cls(not moving.any(), not dependent.any(), moving, dependent)

    @classmethod
    def untested(cls, n: int, m: int) -> NullDirections:
        """What is known if nothing was found out about the null space."""
        return cls(None, None, np.zeros(n), np.zeros(m))

    def variables(self, names: Names, units: np.ndarray) -> tuple[str, ...]:
        """The user's variables that move along the null directions."""
        return names.columns(self.moving, units)

    def constraints(self, names: Names) -> tuple[str, ...]:
        """The user's constraints whose gradients depend on each other."""
        return names.rows(self.dependent)


def listed(names: tuple[str, ...]) -> str:
    """The first of these names, and how many more there are."""
    rest = len(names) - _SHOWN
    return "; ".join(names[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _basis(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of vectors (k, size) of about unit length, without directions of rounding."""
    _, sizes, V = np.linalg.svd(vectors, full_matrices=False)
    return V[sizes > _SEEN * max(1.0, float(sizes.max(initial=0.0)))]
