"""Projections and soft-thresholding in PyTorch, with Clarke elements that ``selection`` chooses at kinks.

They act on the last axis and are batched over the others, in every mode and order of differentiation, in v and in the
thresholds and radii. conelayers.implicit.projections has the formulas, and says what each ``selection`` takes at a
kink.
"""

from __future__ import annotations

from typing import Any

import torch

from conelayers.implicit import projections
from conelayers.implicit.cone_element import ConeElement
from conelayers.implicit.torch.arrays import TENSORS
from conelayers.numerics.cones import Selection
from conelayers.program.cones import Cones
from conelayers.torch.conversion import from_array, to_array
from conelayers.torch.projection_derivatives import times_element
from conelayers.torch.rules import tangent_rule

__all__ = ["project_box", "project_cone", "project_l1_ball", "project_l2_ball", "project_simplex", "soft_threshold"]

Tensor = torch.Tensor


def soft_threshold(v: Tensor, threshold: Tensor | float, selection: Selection | str = "default") -> Tensor:
    """sign(v)·max(|v| − threshold, 0), the proximal operator of threshold·‖·‖₁, for threshold ≥ 0 that fits v (..., n).

    D = diag(m), m = 1 where |v| > threshold; −m sign(v) for the threshold. At |v| = threshold, m is 0 by default.
    """
    return projections.soft_threshold(TENSORS, v, threshold, selection)


def project_box(
    v: Tensor, lower: Tensor | float, upper: Tensor | float, selection: Selection | str = "default"
) -> Tensor:
    """min(max(v, lower), upper) for v (..., n), the projection onto a box; lower ≤ upper broadcast, infinite ones too.

    D = diag(m), m = 1 where lower < v < upper; the bounds' derivatives are 1 where v is beyond them. At a bound, m is 0
    by default.
    """
    return projections.project_box(TENSORS, v, lower, upper, selection)


def project_simplex(v: Tensor, radius: Tensor | float = 1.0, selection: Selection | str = "default") -> Tensor:
    """The projection of v (..., n) onto {x ≥ 0, Σx = radius}: max(v − τ, 0); radius ≥ 0, a number or (..., 1).

    D = diag(m) − m mᵀ/Σm, m = 1 where v > τ, and m/Σm for the radius. At v = τ, m is 0 by default. Source: Held, Wolfe,
    Crowder (1974).
    """
    return projections.project_simplex(TENSORS, v, radius, selection)


def project_l1_ball(v: Tensor, radius: Tensor | float = 1.0, selection: Selection | str = "default") -> Tensor:
    """The projection of v (..., n) onto {‖x‖₁ ≤ radius}: v inside, else sign(v)·max(|v| − τ, 0).

    radius ≥ 0: a number or (..., 1).

    D = I inside, else diag(m) − s sᵀ/Σm with s = m∘sign(v), m = 1 where |v| > τ. On the boundary D = I by default, and
    for "high".
    """
    return projections.project_l1_ball(TENSORS, v, radius, selection)


def project_l2_ball(v: Tensor, radius: Tensor | float = 1.0, selection: Selection | str = "default") -> Tensor:
    """The projection of v (..., n) onto {‖x‖ ≤ radius}: v inside, else radius·v/‖v‖; radius ≥ 0, a number or (..., 1).

    D = I inside, else (radius/‖v‖)(I − wwᵀ), w = v/‖v‖. On the boundary D = I by default, and for "high".
    """
    return projections.project_l2_ball(TENSORS, v, radius, selection)


def project_cone(
    v: Tensor, cones: Cones | dict[str, Any], selection: Selection | str = "default", *, dual: bool = False
) -> Tensor:
    """Π_K(v) for v (..., m), K a product of cones (``conelayers.Cones``); Π_{K*}(v) if ``dual``.

    Its derivative is the Clarke element that the cones' own projections give: Π_K(v) = v + Π_{K*}(−v) (Moreau), D = I −
    D_{K*}(−v); each cone's class says which is its default. It has second derivatives where Π is twice differentiable;
    a third derivative is refused for curved cones. It is computed in double precision on the host.
    """
    element, v = projections.cone_element(TENSORS, v, cones, selection, dual)
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
        return None, times_element(ctx.element, ctx.saved_tensors[0], g)

    @staticmethod
    @tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dv: Tensor) -> Tensor:
        return times_element(ctx.element, saved[0], dv)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], element: ConeElement, v: Tensor) -> tuple[Tensor, int]:
        return _Project.apply(element, v.movedim(in_dims[1], 0)), 0
