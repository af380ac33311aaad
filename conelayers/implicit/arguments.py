"""Checks of the projections' arguments: numbers and shapes that do not fit raise an error.

Values in arrays that do not fit raise nothing; the results are NaN there.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from conelayers.support.arguments import described

__all__ = ["check_bounds", "check_like", "check_not_negative", "check_radius", "check_rows"]


def check_like(name: str, value: Any, shape: Sequence[int], kind: str) -> None:
    """Raises unless a threshold, radius or bound is a number, or an array that broadcasts with v of that ``shape``.

    kind: what messages call the array.
    """
    if isinstance(value, (str, bytes, type, dict)) or value is None:
        raise TypeError(f"{name}: got {described(value)}, expected a number or {kind}")
    given = tuple(getattr(value, "shape", ()))
    try:
        np.broadcast_shapes(given, tuple(shape))
    except ValueError:
        raise ValueError(
            f"{name}: got the shape {given}, expected a number or {kind} that broadcasts with v's {tuple(shape)}"
        ) from None


def check_not_negative(name: str, value: Any) -> None:
    """Raises for a negative number; ``name`` is the function's and the argument's."""
    if isinstance(value, numbers.Real) and not float(value) >= 0:
        raise ValueError(f"{name}: got {value}, expected a number ≥ 0")


def check_bounds(lower: Any, upper: Any) -> None:
    """Raises where the numbers ``lower`` and ``upper`` describe no box."""
    if isinstance(lower, numbers.Real) and isinstance(upper, numbers.Real) and not float(lower) <= float(upper):
        raise ValueError(f"project_box: lower, upper: got {lower} and {upper}, expected lower ≤ upper; exchange them")


def check_rows(name: str, shape: Sequence[int]) -> None:
    """Raises unless v has a last axis with entries."""
    if not shape or not shape[-1]:
        raise ValueError(f"{name}: v: got the shape {tuple(shape)}, expected (..., n) with n ≥ 1")


def check_radius(name: str, value: Any, shape: Sequence[int]) -> None:
    """Raises unless the radius is one number, or one for each row; a shape (N,) would broadcast along the rows."""
    check_not_negative(f"{name}: radius", value)
    if shape and shape[-1] != 1:
        raise ValueError(
            f"{name}: radius: got the shape {tuple(shape)}, expected a number or (..., 1), one for each row of v; "
            "write radius[..., None]"
        )
