"""Functions with kinks whose derivatives in JAX are Clarke elements, chosen by ``selection``: soft-thresholding and projections.

On the last axis, batched over the others, in every mode and order of differentiation, in v and in the thresholds and radii. Values are
exact whatever the selection; at a kink (within 1e−9 of ‖v‖∞, 1e−5 in single precision; none for "default", which compares exactly)

    low      the least active set: the kink coordinates do not move
    high     the largest: they do
    mid      the mean of the two
    default  that of strict comparisons: low on the set's faces; inside and on the boundary of the l1 and l2 balls the identity

Derivatives are those of the active piece in closed form: for a polyhedral set Π(v) is affine on each, and D = Π's linear part.
NaN in gives NaN out; so do thresholds, radii and bounds in arrays that describe no set, such as negative ones. Numbers raise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast, final

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.arguments import as_flag, described
from conelayers.cones import Cones, Selection, as_selection
from conelayers.implicit.arguments import check_bounds, check_like, check_not_negative, check_radius, check_rows
from conelayers.implicit.cone_element import ConeElement
from conelayers.jax.primitives import derivative

__all__ = ["project_box", "project_cone", "project_l1_ball", "project_l2_ball", "project_simplex", "soft_threshold"]

Array = jax.Array
_still = jax.lax.stop_gradient


@final
class _Edge(NamedTuple):
    """h > 0 with kinks counted as outside (low) and as inside (high)."""

    low: Array
    high: Array


def _edge(h: Array, v: Array) -> _Edge:
    size = jnp.abs(_still(jnp.where(jnp.isfinite(v), v, 0.0)))
    largest = jnp.max(size, axis=-1 if v.ndim else None, keepdims=True, initial=0.0)
    near = (1e-9 if v.dtype == jnp.float64 else 1e-5) * largest
    return _Edge(h > near, h >= -near)


def _selected(selection: Selection | str, piece: Callable[[int | None], Array]) -> Array:
    """``piece(None)`` is the default's; its value with the derivatives of piece(0), the low one, piece(1), the high one, or their mean."""
    chosen = as_selection(selection)
    value = piece(None)
    if chosen is Selection.DEFAULT:
        return value
    taken = (piece(0) + piece(1)) / 2 if chosen is Selection.MID else piece(int(chosen is Selection.HIGH))
    return _still(value) + jnp.nan_to_num(taken - _still(taken), nan=0.0)  # inf − inf


def soft_threshold(v: Array, threshold: Any, selection: Selection | str = "default") -> Array:
    """sign(v)·max(|v| − threshold, 0), the proximal operator of threshold·‖·‖₁; threshold ≥ 0 broadcasts with v (..., n).

    D = diag(m), m = 1 where |v| > threshold; −m sign(v) for the threshold. At |v| = threshold, m is 0 by default.
    """
    v = _checked("soft_threshold", v)
    check_not_negative("soft_threshold: threshold", threshold)
    check_like("soft_threshold: threshold", threshold, v.shape, "an array")
    t = _not_negative(jnp.asarray(threshold, v.dtype))
    room = jnp.abs(_still(v)) - _still(t)
    masks = (room > 0, *_edge(room, v))

    def piece(side: int | None) -> Array:
        mask = masks[0 if side is None else 1 + side] | jnp.isnan(room)
        return jnp.where(mask, v - jnp.sign(_still(v)) * t, 0.0)

    return _selected(selection, piece)


def project_box(v: Array, lower: Any, upper: Any, selection: Selection | str = "default") -> Array:
    """min(max(v, lower), upper) for v (..., n), the projection onto a box; lower ≤ upper broadcast with v, infinite ones included.

    D = diag(m), m = 1 where lower < v < upper; the bounds' derivatives are 1 where v is beyond them. At a bound, m is 0 by default.
    """
    v = _checked("project_box", v)
    check_bounds(lower, upper)
    for name, bound in (("lower", lower), ("upper", upper)):
        check_like(f"project_box: {name}", bound, v.shape, "an array")
    lo, hi = (jnp.asarray(h, v.dtype) for h in (lower, upper))
    above, below = _still(v) - _still(lo), _still(hi) - _still(v)
    left, right = _edge(above, v), _edge(below, v)
    void = jnp.isnan(v) | jnp.isnan(lo) | jnp.isnan(hi) | (lo > hi)

    def piece(side: int | None) -> Array:
        a, b = (above > 0, below > 0) if side is None else (left[side], right[side])
        return jnp.where(void, jnp.nan, jnp.where(a & b & (lo < hi), v, jnp.where(~a, lo, hi)))

    return _selected(selection, piece)


def project_simplex(v: Array, radius: Any = 1.0, selection: Selection | str = "default") -> Array:
    """The projection of v (..., n) onto {x ≥ 0, Σx = radius}: max(v − τ, 0); radius ≥ 0, a number or (..., 1).

    D = diag(m) − m mᵀ/Σm, m = 1 where v > τ, and m/Σm for the radius. At v = τ, m is 0 by default. Source: Held, Wolfe, Crowder (1974).
    """
    v, r = _with_radius("project_simplex", v, radius)
    h = _excess(_still(v), _still(r))
    masks = (h > 0, *_edge(h, v))
    return _selected(selection, lambda side: _on_face(v, r, h, masks[0 if side is None else 1 + side]))


def project_l1_ball(v: Array, radius: Any = 1.0, selection: Selection | str = "default") -> Array:
    """The projection of v (..., n) onto {‖x‖₁ ≤ radius}: v inside, else sign(v)·max(|v| − τ, 0); radius ≥ 0, a number or (..., 1).

    D = I inside, else diag(m) − s sᵀ/Σm with s = m∘sign(v), m = 1 where |v| > τ. On the boundary D = I by default, and for "high".
    """
    v, r = _with_radius("project_l1_ball", v, radius)
    a, sign = jnp.abs(_still(v)), jnp.where(_still(v) < 0, -1.0, 1.0).astype(v.dtype)
    room = _still(r) - a.sum(-1, keepdims=True)
    h = jnp.minimum(_excess(a, _still(r)), a)  # τ ≥ 0
    masks = (h > 0, *_edge(h, v))
    inside = (room >= 0, *_edge(room, v))

    def piece(side: int | None) -> Array:
        place = 0 if side is None else 1 + side
        return jnp.where(inside[place], v, sign * _on_face(sign * v, r, h, masks[place]))

    return _selected(selection, piece)


def project_l2_ball(v: Array, radius: Any = 1.0, selection: Selection | str = "default") -> Array:
    """The projection of v (..., n) onto {‖x‖ ≤ radius}: v inside, else radius·v/‖v‖; radius ≥ 0, a number or (..., 1).

    D = I inside, else (radius/‖v‖)(I − wwᵀ), w = v/‖v‖. On the boundary D = I by default, and for "high".
    """
    v, r = _with_radius("project_l2_ball", v, radius)
    size = jnp.max(jnp.abs(_still(v)), axis=-1, keepdims=True)
    w = v / jnp.where(size > 0, size, 1.0)  # whose square does not overflow
    room = _still(r) - size * jnp.linalg.norm(_still(w), axis=-1, keepdims=True)
    inside = (room >= 0, *_edge(room, v))

    def piece(side: int | None) -> Array:
        mask = inside[0 if side is None else 1 + side]
        safe = jnp.where(mask | (size == 0), 1.0, w)
        return jnp.where(mask, v, r * safe / jnp.sqrt((safe * safe).sum(-1, keepdims=True)))

    return _selected(selection, piece)


def project_cone(
    v: Array, cones: Cones | dict[str, Any], selection: Selection | str = "default", *, dual: bool = False
) -> Array:
    """Π_K(v) for v (..., m), K a product of cones (``conelayers.Cones``); Π_{K*}(v) if ``dual``.

    Its derivative is the Clarke element that the cones' own projections give: Π_K(v) = v + Π_{K*}(−v) (Moreau), D = I − D_{K*}(−v);
    each cone's class says which is its default. Second derivatives where Π is twice differentiable; a third is refused for curved
    cones. Computed in double precision on the host, by a callback where compiled.
    """
    as_flag("project_cone: dual", dual)
    element, v = ConeElement.of(cones, selection, dual), _checked("project_cone", v)
    m = element.cones.dimension
    if v.ndim == 0 or v.shape[-1] != m:
        raise ValueError(f"project_cone: v: got the shape {v.shape}, expected (..., {m}), the dimension of cones")
    return _project(element, v) if dual else v + _project(element, -v)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _project(element: ConeElement, v: Array) -> Array:
    """Π_{K*}."""
    dtype = v.dtype

    def projected(h: Any) -> np.ndarray:
        given = np.asarray(h)
        if given.dtype != dtype:
            raise TypeError(
                f"project_cone: compiled for {dtype}, but JAX handed over {given.dtype}: its context manager enable_x64 does not reach "
                'the threads of callbacks; set jax.config.update("jax_enable_x64", True) at the start'
            )
        return element.project(given)

    return jax.pure_callback(projected, jax.ShapeDtypeStruct(v.shape, dtype), v, vmap_method="expand_dims")


@_project.defjvp
def _(element: ConeElement, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (v,), (dv,) = primals, tangents
    return _project(element, v), derivative(cast(Any, element), v, dv)


def _checked(name: str, v: Any) -> Array:
    if isinstance(v, (str, type, dict)) or v is None:
        raise TypeError(f"{name}: v: got {described(v)}, expected a floating-point array")
    v = jnp.asarray(v)
    if not jnp.issubdtype(v.dtype, jnp.floating):
        raise TypeError(f"{name}: v: got an array of {v.dtype}, expected a floating-point array")
    return v


def _not_negative(t: Array) -> Array:
    return jnp.where(t < 0, jnp.nan, t)


def _with_radius(name: str, v: Any, value: Any) -> tuple[Array, Array]:
    """v, and the radius (..., 1) or a number."""
    v = _checked(name, v)
    check_rows(name, v.shape)
    check_radius(name, value, getattr(value, "shape", ()))
    check_like(f"{name}: radius", value, v.shape, "an array")
    r = jnp.asarray(value, v.dtype)
    return v, _not_negative(r)


def _excess(v: Array, radius: Array) -> Array:
    """v − τ with Σ max(v − τ, 0) = radius. τ is the mean excess of the largest j entries, for the last j at which it is below the j-th.

    Counted from the largest entry, so that no digits are lost where v is large.
    """
    w = v - jnp.max(v, axis=-1, keepdims=True)
    ordered = -jnp.sort(-w, axis=-1)
    tau = (jnp.cumsum(ordered, axis=-1) - radius) / jnp.arange(1, v.shape[-1] + 1, dtype=v.dtype)
    last = jnp.maximum((ordered > tau).sum(-1, keepdims=True), 1) - 1
    return w - jnp.take_along_axis(tau, last, axis=-1)


def _on_face(v: Array, radius: Array, excess: Array, mask: Array) -> Array:
    """The affine piece m∘(v − (Σ m v − radius)/Σm); NaN where the excess has one."""
    w = v - _still(jnp.max(v, axis=-1, keepdims=True))
    total = jnp.where(mask, w, 0.0).sum(-1, keepdims=True)
    tau = (total - radius) / jnp.maximum(mask.sum(-1, keepdims=True), 1).astype(v.dtype)
    void = jnp.isnan(excess).any(-1, keepdims=True)
    return jnp.where(void, jnp.nan, jnp.where(mask, w - tau, 0.0))
