"""The layer for JAX."""

from conelayers.jax.layer import ConeLayer, CvxpyLayer, SolveInfo

__all__ = ["ConeLayer", "CvxpyLayer", "SolveInfo"]
