"""Roots and fixed points of functions written in JAX, their certificates, and projections with Clarke elements.

Functions and start values come in; solutions go out that JAX differentiates, and certificates that say whether it may.
"""

from conelayers.implicit.jax.certify import certify_fixed_point, certify_root
from conelayers.implicit.jax.projections import (
    project_box,
    project_cone,
    project_l1_ball,
    project_l2_ball,
    project_simplex,
    soft_threshold,
)
from conelayers.implicit.jax.roots import fixed_point, root

__all__ = [
    "certify_fixed_point",
    "certify_root",
    "fixed_point",
    "project_box",
    "project_cone",
    "project_l1_ball",
    "project_l2_ball",
    "project_simplex",
    "root",
    "soft_threshold",
]
