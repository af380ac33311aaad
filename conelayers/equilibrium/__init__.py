"""Monotone deep equilibrium networks in PyTorch.

A layer is a fixed point, with a certificate of its forward and its backward pass.
"""

from conelayers.equilibrium.networks import (
    EquilibriumCertificate,
    EquilibriumLayer,
    monotone_convolution,
    monotone_linear,
)
from conelayers.equilibrium.operators import CircularConvolution, DenseOperator, MonotoneOperator
from conelayers.equilibrium.splitting import PeacemanRachford

__all__ = [
    "CircularConvolution",
    "DenseOperator",
    "EquilibriumCertificate",
    "EquilibriumLayer",
    "MonotoneOperator",
    "PeacemanRachford",
    "monotone_convolution",
    "monotone_linear",
]
