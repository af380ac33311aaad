"""Projections and soft-thresholding with Clarke elements for derivatives: the formulas, for both frameworks.

The functions with kinks act on the last axis of v (..., n) and are batched over the others. Each is written as the
affine piece of the active set, so that automatic differentiation of the piece gives its derivative in closed form, in
every mode and order: for a polyhedral set Π(v) is affine on each piece, and D is Π's linear part. Which entries are
active is decided on constants (``Arrays.constant``).

``selection`` says which element is taken at a kink. A kink is within 1e−9 of ‖v‖∞ (1e−5 in single precision):

    low      the element of the least active set: coordinates at the kink do not move
    high     the element of the largest active set: coordinates at the kink move
    mid      the mean of these two elements
    default  the element of strict comparisons, without a tolerance: low on the set's faces; inside and on the boundary
             of the l1 and l2 balls the identity

The value is that of the default's piece whatever the selection. NaN in gives NaN out, and so do thresholds, radii and
bounds in arrays that describe no set, such as negative ones; numbers that describe none raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from conelayers.implicit.arguments import check_bounds, check_like, check_not_negative, check_radius, check_rows
from conelayers.implicit.arrays import Arrays
from conelayers.implicit.cone_element import ConeElement
from conelayers.numerics.cones import Selection, as_selection
from conelayers.program.cones import Cones
from conelayers.support.arguments import as_flag, described

__all__ = ["cone_element", "project_box", "project_l1_ball", "project_l2_ball", "project_simplex", "soft_threshold"]

_KINK = {True: 1e-9, False: 1e-5}  # times ‖v‖∞: how near a kink counts, in double precision and in others
_DOUBLE = 1e-12  # units of rounding below this are of double precision
_DEFAULT, _LOW, _HIGH = 0, 1, 2  # the pieces, and places in the masks below


def soft_threshold(arrays: Arrays, v: Any, threshold: Any, selection: Selection | str) -> Any:
    """sign(v)·max(|v| − threshold, 0)."""
    xp, constant = arrays.xp, arrays.constant
    v = _checked(arrays, "soft_threshold", v)
    check_not_negative("soft_threshold: threshold", threshold)
    t = _not_negative(arrays, _like(arrays, "soft_threshold: threshold", threshold, v))
    room = xp.abs(constant(v)) - constant(t)
    masks = _masks(arrays, room > 0, room, v)

    def piece(which: int) -> Any:
        return xp.where(masks[which] | xp.isnan(room), v - xp.sign(constant(v)) * t, 0.0)

    return _selected(arrays, selection, piece)


def project_box(arrays: Arrays, v: Any, lower: Any, upper: Any, selection: Selection | str) -> Any:
    """min(max(v, lower), upper)."""
    xp, constant = arrays.xp, arrays.constant
    v = _checked(arrays, "project_box", v)
    check_bounds(lower, upper)
    lo, hi = _like(arrays, "project_box: lower", lower, v), _like(arrays, "project_box: upper", upper, v)
    above, below = constant(v) - constant(lo), constant(hi) - constant(v)
    over, under = _masks(arrays, above > 0, above, v), _masks(arrays, below > 0, below, v)
    void = xp.isnan(v) | xp.isnan(lo) | xp.isnan(hi) | (lo > hi)

    def piece(which: int) -> Any:
        free = over[which] & under[which] & (lo < hi)
        return xp.where(void, xp.nan, xp.where(free, v, xp.where(~over[which], lo, hi)))

    return _selected(arrays, selection, piece)


def project_simplex(arrays: Arrays, v: Any, radius: Any, selection: Selection | str) -> Any:
    """max(v − τ, 0) with the sum ``radius``."""
    v, r = _with_radius(arrays, "project_simplex", v, radius)
    h = _excess(arrays, arrays.constant(v), arrays.constant(r))
    masks = _masks(arrays, h > 0, h, v)
    return _selected(arrays, selection, lambda which: _on_face(arrays, v, r, h, masks[which]))


def project_l1_ball(arrays: Arrays, v: Any, radius: Any, selection: Selection | str) -> Any:
    """v inside, else sign(v)·max(|v| − τ, 0)."""
    xp, constant = arrays.xp, arrays.constant
    v, r = _with_radius(arrays, "project_l1_ball", v, radius)
    size, one = xp.abs(constant(v)), xp.ones_like(constant(v))
    sign = xp.where(constant(v) < 0, -one, one)
    room = constant(r) - size.sum(-1, keepdims=True)
    h = xp.minimum(_excess(arrays, size, constant(r)), size)  # τ ≥ 0
    masks, inside = _masks(arrays, h > 0, h, v), _masks(arrays, room >= 0, room, v)

    def piece(which: int) -> Any:
        return xp.where(inside[which], v, sign * _on_face(arrays, sign * v, r, h, masks[which]))

    return _selected(arrays, selection, piece)


def project_l2_ball(arrays: Arrays, v: Any, radius: Any, selection: Selection | str) -> Any:
    """v inside, else radius·v/‖v‖."""
    xp, constant = arrays.xp, arrays.constant
    v, r = _with_radius(arrays, "project_l2_ball", v, radius)
    size = xp.amax(xp.abs(constant(v)), axis=-1, keepdims=True)
    w = v / xp.where(size > 0, size, 1.0)  # the square of w does not overflow
    room = constant(r) - size * xp.linalg.norm(constant(w), axis=-1, keepdims=True)
    inside = _masks(arrays, room >= 0, room, v)

    def piece(which: int) -> Any:
        mask = inside[which]
        safe = xp.where(mask | (size == 0), 1.0, w)
        return xp.where(mask, v, r * safe / xp.sqrt((safe * safe).sum(-1, keepdims=True)))

    return _selected(arrays, selection, piece)


def cone_element(
    arrays: Arrays, v: Any, cones: Cones | Mapping[str, Any], selection: Selection | str, dual: bool
) -> tuple[ConeElement, Any]:
    """The element that the derivative of project_cone applies, and v as an array; both checked against each other."""
    as_flag("project_cone: dual", dual)
    element, v = ConeElement.of(cones, selection, dual), _checked(arrays, "project_cone", v)
    m = element.cones.dimension
    if v.ndim == 0 or v.shape[-1] != m:
        raise ValueError(
            f"project_cone: v: got the shape {tuple(v.shape)}, expected (..., {m}), the dimension of cones"
        )
    return element, v


def _masks(arrays: Arrays, strict: Any, h: Any, v: Any) -> tuple[Any, Any, Any]:
    """Where h > 0: strictly (the default), with kinks counted as outside (low), with kinks counted as inside (high).

    strict: h > 0. v: what sets the size of a kink.
    """
    xp = arrays.xp
    size = xp.abs(arrays.constant(xp.where(xp.isfinite(v), v, 0.0)))
    if size.ndim and size.shape[-1]:
        size = xp.amax(size, axis=-1, keepdims=True)
    near = _KINK[arrays.rounding(v) < _DOUBLE] * size
    return strict, h > near, h >= -near


def _selected(arrays: Arrays, selection: Selection | str, piece: Callable[[int], Any]) -> Any:
    """The value of the default's piece, with the derivative of the one that ``selection`` names, or their mean."""
    chosen = as_selection(selection)
    value = piece(_DEFAULT)
    if chosen is Selection.DEFAULT:
        return value
    if chosen is Selection.MID:
        taken = (piece(_LOW) + piece(_HIGH)) / 2
    else:
        taken = piece(_HIGH if chosen is Selection.HIGH else _LOW)
    # Infinite entries give inf − inf here.
    return arrays.constant(value) + arrays.xp.nan_to_num(taken - arrays.constant(taken), nan=0.0)


def _checked(arrays: Arrays, name: str, v: Any) -> Any:
    given = arrays.given(v)
    if given is None or not arrays.is_floating(given.dtype):
        got = described(v) if given is None else f"{arrays.noun} of {given.dtype}"
        raise TypeError(f"{name}: v: got {got}, expected a floating-point {arrays.noun.split()[1]}")
    return given


def _like(arrays: Arrays, name: str, value: Any, v: Any) -> Any:
    check_like(name, value, v.shape, arrays.noun)
    return arrays.parameter(value, v)


def _not_negative(arrays: Arrays, t: Any) -> Any:
    return arrays.xp.where(t < 0, arrays.xp.nan, t)


def _with_radius(arrays: Arrays, name: str, v: Any, value: Any) -> tuple[Any, Any]:
    """v, and the radius (..., 1) or a number; both checked."""
    v = _checked(arrays, name, v)
    check_rows(name, v.shape)
    check_radius(name, value, getattr(value, "shape", ()))
    return v, _not_negative(arrays, _like(arrays, f"{name}: radius", value, v))


def _excess(arrays: Arrays, v: Any, radius: Any) -> Any:
    """v − τ with Σ max(v − τ, 0) = radius.

    τ is the mean excess of the largest j entries, for the last j for which it is below the j-th entry. Entries are
    counted from the largest one, so that no digits are lost if v is large.
    """
    xp = arrays.xp
    w = v - xp.amax(v, axis=-1, keepdims=True)
    ordered = arrays.sorted_down(w)
    tau = (xp.cumsum(ordered, axis=-1) - radius) / arrays.counts(v)
    last = xp.clip((ordered > tau).sum(-1, keepdims=True), 1, None) - 1
    return w - arrays.taken(tau, last)


def _on_face(arrays: Arrays, v: Any, radius: Any, excess: Any, mask: Any) -> Any:
    """The affine piece m∘(v − (Σ m v − radius)/Σm) with m = ``mask``; NaN in rows whose excess is NaN somewhere."""
    xp = arrays.xp
    w = v - xp.amax(arrays.constant(v), axis=-1, keepdims=True)
    total = xp.where(mask, w, 0.0).sum(-1, keepdims=True)
    tau = (total - radius) / arrays.converted(xp.clip(mask.sum(-1, keepdims=True), 1, None), v)
    void = xp.isnan(excess).any(-1, keepdims=True)
    return xp.where(void, xp.nan, xp.where(mask, w - tau, 0.0))
