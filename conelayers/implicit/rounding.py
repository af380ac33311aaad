"""Units of rounding: what counts as zero, how small a tolerance may be, and how a function's rounding is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from conelayers.implicit.arrays import Arrays

__all__ = ["PROBE", "ROUNDINGS", "effective", "probe", "row_sizes"]

ROUNDINGS = 64.0  # units of rounding that count as zero
PROBE = 64.0  # units of rounding: the relative steps of z that show what F is computed from, and its rounding errors


def effective(tolerance: float, rounding: float) -> float:
    """The tolerance, or 64 units of rounding if that is more."""
    return max(tolerance, ROUNDINGS * rounding)


def probe(n: int) -> list[float]:
    """Relative steps of n unknowns, for units of rounding of 1, that show how F rounds near a point."""
    return [PROBE * (0.75 + 0.25 * math.cos(k * k)) * (-1) ** (k % 3) for k in range(n)]


def row_sizes(arrays: Arrays, function: Callable[[Any], Any], z: Any, value: Any) -> Any:
    """The sizes (N, n) of the terms from which the function's rows are computed.

    They show in how much the rows change when z changes in its last digits.
    """
    eps = arrays.rounding(z)
    steps = arrays.made(probe(z.shape[1]), z)
    return arrays.sizes((function(z + eps * steps * z) - value) / (PROBE * eps))
