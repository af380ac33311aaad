"""Projections and soft-thresholding in JAX, whose derivatives at kinks are Clarke elements, chosen by ``selection``.

They act on the last axis and are batched over the others, in every mode and order of differentiation, in v and in the
thresholds and radii. conelayers.implicit.projections has the formulas, and says what each ``selection`` takes at a
kink.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from conelayers.implicit import projections
from conelayers.implicit.cone_element import ConeElement
from conelayers.implicit.jax.arrays import ARRAYS
from conelayers.jax.host_primitive import check_handed_over
from conelayers.jax.projection_derivatives import times_element
from conelayers.numerics.cones import Selection
from conelayers.program.cones import Cones

__all__ = ["project_box", "project_cone", "project_l1_ball", "project_l2_ball", "project_simplex", "soft_threshold"]

Array = jax.Array


def soft_threshold(v: Array, threshold: Any, selection: Selection | str = "default") -> Array:
    """sign(v)·max(|v| − threshold, 0), the proximal operator of threshold·‖·‖₁, for threshold ≥ 0 that fits v (..., n).

    D = diag(m), m = 1 where |v| > threshold; −m sign(v) for the threshold. At |v| = threshold, m is 0 by default.
    """
    return projections.soft_threshold(ARRAYS, v, threshold, selection)


def project_box(v: Array, lower: Any, upper: Any, selection: Selection | str = "default") -> Array:
    """min(max(v, lower), upper) for v (..., n), the projection onto a box; lower ≤ upper broadcast, infinite ones too.

    D = diag(m), m = 1 where lower < v < upper; the bounds' derivatives are 1 where v is beyond them. At a bound, m is 0
    by default.
    """
    return projections.project_box(ARRAYS, v, lower, upper, selection)


def project_simplex(v: Array, radius: Any = 1.0, selection: Selection | str = "default") -> Array:
    """The projection of v (..., n) onto {x ≥ 0, Σx = radius}: max(v − τ, 0); radius ≥ 0, a number or (..., 1).

    D = diag(m) − m mᵀ/Σm, m = 1 where v > τ, and m/Σm for the radius. At v = τ, m is 0 by default. Source: Held, Wolfe,
    Crowder (1974).
    """
    return projections.project_simplex(ARRAYS, v, radius, selection)


def project_l1_ball(v: Array, radius: Any = 1.0, selection: Selection | str = "default") -> Array:
    """The projection of v (..., n) onto {‖x‖₁ ≤ radius}: v inside, else sign(v)·max(|v| − τ, 0).

    radius ≥ 0: a number or (..., 1).

    D = I inside, else diag(m) − s sᵀ/Σm with s = m∘sign(v), m = 1 where |v| > τ. On the boundary D = I by default, and
    for "high".
    """
    return projections.project_l1_ball(ARRAYS, v, radius, selection)


def project_l2_ball(v: Array, radius: Any = 1.0, selection: Selection | str = "default") -> Array:
    """The projection of v (..., n) onto {‖x‖ ≤ radius}: v inside, else radius·v/‖v‖; radius ≥ 0, a number or (..., 1).

    D = I inside, else (radius/‖v‖)(I − wwᵀ), w = v/‖v‖. On the boundary D = I by default, and for "high".
    """
    return projections.project_l2_ball(ARRAYS, v, radius, selection)


def project_cone(
    v: Array, cones: Cones | dict[str, Any], selection: Selection | str = "default", *, dual: bool = False
) -> Array:
    """Π_K(v) for v (..., m), K a product of cones (``conelayers.Cones``); Π_{K*}(v) if ``dual``.

    Its derivative is the Clarke element that the cones' own projections give: Π_K(v) = v + Π_{K*}(−v) (Moreau), D = I −
    D_{K*}(−v); each cone's class says which is its default. It has second derivatives where Π is twice differentiable;
    a third derivative is refused for curved cones. It is computed in double precision on the host, in compiled
    functions by a callback.
    """
    element, v = projections.cone_element(ARRAYS, v, cones, selection, dual)
    return _project(element, v) if dual else v + _project(element, -v)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _project(element: ConeElement, v: Array) -> Array:
    """Π_{K*}."""
    dtype = v.dtype

    def projected(h: Any) -> np.ndarray:
        given = np.asarray(h)
        check_handed_over("project_cone", [given], [dtype])
        return element.project(given)

    return jax.pure_callback(projected, jax.ShapeDtypeStruct(v.shape, dtype), v, vmap_method="expand_dims")


@_project.defjvp
def _(element: ConeElement, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (v,), (dv,) = primals, tangents
    return _project(element, v), times_element(element, v, dv)
