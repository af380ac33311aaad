"""Roots and fixed points of functions written in PyTorch, their certificates, and projections with Clarke elements.

Functions and start values come in; solutions go out that PyTorch differentiates, and certificates that say whether it
may.
"""

from conelayers.implicit.torch.certify import certify_fixed_point, certify_root
from conelayers.implicit.torch.projections import (
    project_box,
    project_cone,
    project_l1_ball,
    project_l2_ball,
    project_simplex,
    soft_threshold,
)
from conelayers.implicit.torch.roots import fixed_point, root

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
