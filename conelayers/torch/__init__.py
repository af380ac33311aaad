"""The layer for PyTorch."""

from conelayers.torch.layer import ConeLayer, CvxpyLayer

__all__ = ["ConeLayer", "CvxpyLayer"]
