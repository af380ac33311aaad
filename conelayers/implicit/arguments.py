"""What the arguments of the primitives may be: errors for numbers and shapes; values in arrays that are out of place give NaN instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["check_bounds", "check_not_negative", "check_radius", "check_rows"]


def check_not_negative(name: str, value: Any) -> None:
    """``name`` is the function's and the argument's."""
    if isinstance(value, (int, float)) and not value >= 0:
        raise ValueError(f"{name}: got {value}, expected a number ≥ 0")


def check_bounds(lower: Any, upper: Any) -> None:
    """Of a box."""
    if isinstance(lower, (int, float)) and isinstance(upper, (int, float)) and not lower <= upper:
        raise ValueError(f"project_box: lower, upper: got {lower} and {upper}, expected lower ≤ upper; exchange them")


def check_rows(name: str, shape: Sequence[int]) -> None:
    """That v has a last axis with entries."""
    if not shape or not shape[-1]:
        raise ValueError(f"{name}: v: got the shape {tuple(shape)}, expected (..., n) with n ≥ 1")


def check_radius(name: str, value: Any, shape: Sequence[int]) -> None:
    """One number, or one for each row: a shape (N,) would broadcast along the rows."""
    check_not_negative(f"{name}: radius", value)
    if shape and shape[-1] != 1:
        raise ValueError(
            f"{name}: radius: got the shape {tuple(shape)}, expected a number or (..., 1), one for each row of v; write radius[..., None]"
        )
