"""Which Clarke element is taken at a kink."""

from __future__ import annotations

from enum import Enum
from typing import Any

from conelayers.support.errors import as_member

__all__ = ["Selection", "as_selection", "between", "middle"]


class Selection(Enum):
    """The choice of a Clarke element at a kink.

    - DEFAULT: the element that each cone documents.
    - LOW, HIGH: all kink eigenvalues 0, or 1.
    - MID: the mean of these two, in the user's units.
    """

    DEFAULT = "default"
    LOW = "low"
    HIGH = "high"
    MID = "mid"

    @property
    def opposite(self) -> Selection:
        """The selection for D_K(−v) that gives this one for D_{K*}(v) = I − D_K(−v)."""
        return {Selection.LOW: Selection.HIGH, Selection.HIGH: Selection.LOW}.get(self, self)


def as_selection(value: Selection | str) -> Selection:
    """A Selection from itself or its string. Raises ValueError naming the strings."""
    return as_member(Selection, "selection", value)


def between(low: Any, high: Any, selection: Selection) -> Any:
    """The chosen eigenvalues. For DEFAULT ``low`` and ``high`` have to be equal."""
    if selection is Selection.HIGH:
        return high
    return (low + high) / 2 if selection is Selection.MID else low


def middle(low: Any, high: Any, balance: Any) -> Any:
    """The mean of two eigenvalues of D in units in which y/s is ``balance`` times smaller.

    In those units λ becomes λ/(λ + balance·(1 − λ)).
    """
    mean = sum(h / (h + balance * (1 - h)) for h in (low, high)) / 2
    return balance * mean / (1 - mean + balance * mean)
