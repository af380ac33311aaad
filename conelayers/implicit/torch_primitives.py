"""Functions with kinks whose derivatives in PyTorch are Clarke elements, chosen by ``selection``: soft-thresholding and projections.

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
from typing import Any, NamedTuple, final

import torch

from conelayers.arguments import as_flag, described
from conelayers.cones import Cones, Selection, as_selection
from conelayers.implicit.arguments import check_bounds, check_like, check_not_negative, check_radius, check_rows
from conelayers.implicit.cone_element import ConeElement
from conelayers.torch.conversion import from_array, to_array
from conelayers.torch.functions import derivative

__all__ = ["project_box", "project_cone", "project_l1_ball", "project_l2_ball", "project_simplex", "soft_threshold"]

Tensor = torch.Tensor


@final
class _Edge(NamedTuple):
    """h > 0 with kinks counted as outside (low) and as inside (high)."""

    low: Tensor
    high: Tensor


def _edge(h: Tensor, v: Tensor) -> _Edge:
    size = torch.where(torch.isfinite(v), v, torch.zeros_like(v)).detach().abs()
    near = (1e-9 if v.dtype == torch.float64 else 1e-5) * (size.amax(-1, keepdim=True) if size.numel() else size)
    return _Edge(h > near, h >= -near)


def _selected(selection: Selection | str, piece: Callable[[int | None], Tensor]) -> Tensor:
    """``piece(None)`` is the default's; its value with the derivatives of piece(0), the low one, piece(1), the high one, or their mean."""
    chosen = as_selection(selection)
    value = piece(None)
    if chosen is Selection.DEFAULT:
        return value
    taken = (piece(0) + piece(1)) / 2 if chosen is Selection.MID else piece(int(chosen is Selection.HIGH))
    return value.detach() + torch.nan_to_num(taken - taken.detach(), nan=0.0)  # inf − inf


def soft_threshold(v: Tensor, threshold: Tensor | float, selection: Selection | str = "default") -> Tensor:
    """sign(v)·max(|v| − threshold, 0), the proximal operator of threshold·‖·‖₁; threshold ≥ 0 broadcasts with v (..., n).

    D = diag(m), m = 1 where |v| > threshold; −m sign(v) for the threshold. At |v| = threshold, m is 0 by default.
    """
    _check("soft_threshold", v)
    check_not_negative("soft_threshold: threshold", threshold)
    t = _not_negative(_like("soft_threshold: threshold", threshold, v))
    room = v.detach().abs() - t.detach()
    masks = (room > 0, *_edge(room, v))

    def piece(side: int | None) -> Tensor:
        mask = masks[0 if side is None else 1 + side] | torch.isnan(room)
        return torch.where(mask, v - v.detach().sign() * t, torch.zeros_like(v))

    return _selected(selection, piece)


def project_box(
    v: Tensor, lower: Tensor | float, upper: Tensor | float, selection: Selection | str = "default"
) -> Tensor:
    """min(max(v, lower), upper) for v (..., n), the projection onto a box; lower ≤ upper broadcast with v, infinite ones included.

    D = diag(m), m = 1 where lower < v < upper; the bounds' derivatives are 1 where v is beyond them. At a bound, m is 0 by default.
    """
    _check("project_box", v)
    check_bounds(lower, upper)
    lo, hi = _like("project_box: lower", lower, v), _like("project_box: upper", upper, v)
    above, below = v.detach() - lo.detach(), hi.detach() - v.detach()
    left, right = _edge(above, v), _edge(below, v)
    void = torch.isnan(v) | torch.isnan(lo) | torch.isnan(hi) | (lo > hi)

    def piece(side: int | None) -> Tensor:
        a, b = (above > 0, below > 0) if side is None else (left[side], right[side])
        moved = torch.where(a & b & (lo < hi), v, torch.where(~a, lo, hi))
        return torch.where(void, torch.full_like(v, torch.nan), moved)

    return _selected(selection, piece)


def project_simplex(v: Tensor, radius: Tensor | float = 1.0, selection: Selection | str = "default") -> Tensor:
    """The projection of v (..., n) onto {x ≥ 0, Σx = radius}: max(v − τ, 0); radius ≥ 0, a number or (..., 1).

    D = diag(m) − m mᵀ/Σm, m = 1 where v > τ, and m/Σm for the radius. At v = τ, m is 0 by default. Source: Held, Wolfe, Crowder (1974).
    """
    r = _radius("project_simplex", radius, v)
    h = _excess(v.detach(), r.detach())
    masks = (h > 0, *_edge(h, v))
    return _selected(selection, lambda side: _on_face(v, r, h, masks[0 if side is None else 1 + side]))


def project_l1_ball(v: Tensor, radius: Tensor | float = 1.0, selection: Selection | str = "default") -> Tensor:
    """The projection of v (..., n) onto {‖x‖₁ ≤ radius}: v inside, else sign(v)·max(|v| − τ, 0); radius ≥ 0, a number or (..., 1).

    D = I inside, else diag(m) − s sᵀ/Σm with s = m∘sign(v), m = 1 where |v| > τ. On the boundary D = I by default, and for "high".
    """
    r = _radius("project_l1_ball", radius, v)
    a, sign = v.detach().abs(), torch.where(v.detach() < 0, -1.0, 1.0).to(v.dtype)
    room = r.detach() - a.sum(-1, keepdim=True)
    h = torch.minimum(_excess(a, r.detach()), a)  # τ ≥ 0
    masks = (h > 0, *_edge(h, v))
    inside = (room >= 0, *_edge(room, v))

    def piece(side: int | None) -> Tensor:
        place = 0 if side is None else 1 + side
        outer = sign * _on_face(sign * v, r, h, masks[place])
        return torch.where(inside[place], v, outer)

    return _selected(selection, piece)


def project_l2_ball(v: Tensor, radius: Tensor | float = 1.0, selection: Selection | str = "default") -> Tensor:
    """The projection of v (..., n) onto {‖x‖ ≤ radius}: v inside, else radius·v/‖v‖; radius ≥ 0, a number or (..., 1).

    D = I inside, else (radius/‖v‖)(I − wwᵀ), w = v/‖v‖. On the boundary D = I by default, and for "high".
    """
    r = _radius("project_l2_ball", radius, v)
    size = v.detach().abs().amax(-1, keepdim=True)
    w = v / torch.where(size > 0, size, torch.ones_like(size))  # whose square does not overflow
    room = r.detach() - size * w.detach().norm(dim=-1, keepdim=True)
    inside = (room >= 0, *_edge(room, v))

    def piece(side: int | None) -> Tensor:
        mask = inside[0 if side is None else 1 + side]
        safe = torch.where(mask | (size == 0), torch.ones_like(w), w)
        return torch.where(mask, v, r * safe / (safe * safe).sum(-1, keepdim=True).sqrt())

    return _selected(selection, piece)


def project_cone(
    v: Tensor, cones: Cones | dict[str, Any], selection: Selection | str = "default", *, dual: bool = False
) -> Tensor:
    """Π_K(v) for v (..., m), K a product of cones (``conelayers.Cones``); Π_{K*}(v) if ``dual``.

    Its derivative is the Clarke element that the cones' own projections give: Π_K(v) = v + Π_{K*}(−v) (Moreau), D = I − D_{K*}(−v);
    each cone's class says which is its default. Second derivatives where Π is twice differentiable; a third is refused for curved
    cones. Computed in double precision on the host.
    """
    _check("project_cone", v)
    as_flag("project_cone: dual", dual)
    element = ConeElement.of(cones, selection, dual)
    m = element.cones.dimension
    if v.ndim == 0 or v.shape[-1] != m:
        raise ValueError(
            f"project_cone: v: got the shape {tuple(v.shape)}, expected (..., {m}), the dimension of cones"
        )
    wide = v.to(torch.float64)
    projected = _Project.apply(element, wide) if dual else wide + _Project.apply(element, -wide)
    return projected.to(v.dtype)


class _Project(torch.autograd.Function):
    """Π_{K*}; its derivative is a function of (v, h) with rules of its own."""

    @staticmethod
    def forward(element: ConeElement, v: Tensor) -> Tensor:
        return from_array(element.project(to_array(v)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.element = inputs[0]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        return None, derivative(ctx.element, ctx.saved_tensors[0], g)

    @staticmethod
    def jvp(ctx: Any, _: None, dv: Tensor) -> Tensor:
        with torch.autograd.forward_ad._set_fwd_grad_enabled(True):
            v = torch.autograd.forward_ad.unpack_dual(ctx.saved_tensors[0]).primal
            return derivative(ctx.element, v, dv)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], element: ConeElement, v: Tensor) -> tuple[Tensor, int]:
        return _Project.apply(element, v.movedim(in_dims[1], 0)), 0


def _check(name: str, v: Any) -> None:
    if not isinstance(v, Tensor) or not v.is_floating_point():
        got = f"a tensor of {v.dtype}" if isinstance(v, Tensor) else described(v)
        raise TypeError(f"{name}: v: got {got}, expected a floating-point tensor")


def _like(name: str, value: Tensor | float, v: Tensor) -> Tensor:
    check_like(name, value, v.shape, "a tensor")
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=v.dtype, device=v.device)


def _not_negative(t: Tensor) -> Tensor:
    return torch.where(t < 0, torch.nan, t)


def _radius(name: str, value: Tensor | float, v: Tensor) -> Tensor:
    """(..., 1), or a number; v is checked too."""
    _check(name, v)
    check_rows(name, v.shape)
    check_radius(name, value, getattr(value, "shape", ()))
    r = _like(f"{name}: radius", value, v)
    return _not_negative(r)


def _excess(v: Tensor, radius: Tensor) -> Tensor:
    """v − τ with Σ max(v − τ, 0) = radius. τ is the mean excess of the largest j entries, for the last j at which it is below the j-th.

    Counted from the largest entry, so that no digits are lost where v is large.
    """
    w = v - v.amax(-1, keepdim=True)
    ordered = w.sort(dim=-1, descending=True).values
    count = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    tau = (ordered.cumsum(-1) - radius) / count
    last = (ordered > tau).sum(-1, keepdim=True).clamp_min(1) - 1
    return w - tau.gather(-1, last)


def _on_face(v: Tensor, radius: Tensor, excess: Tensor, mask: Tensor) -> Tensor:
    """The affine piece m∘(v − (Σ m v − radius)/Σm); NaN where the excess has one."""
    w = v - v.detach().amax(-1, keepdim=True)
    total = torch.where(mask, w, torch.zeros_like(w)).sum(-1, keepdim=True)
    tau = (total - radius) / mask.sum(-1, keepdim=True).clamp_min(1)
    void = torch.isnan(excess).any(-1, keepdim=True)
    return torch.where(void, torch.full_like(w, torch.nan), torch.where(mask, w - tau, torch.zeros_like(w)))
