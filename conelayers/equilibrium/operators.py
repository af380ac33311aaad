"""Matrices W = (1 − m)I − AᵀA + B − Bᵀ, dense and as circular convolutions, so that ½(W + Wᵀ) ⪯ (1 − m)I.

I − W is then strongly monotone, zᵀ(I − W)z = m‖z‖² + ‖Az‖² ≥ m‖z‖², whatever A and B are. Source: Winston, Kolter,
"Monotone operator equilibrium networks" (2020); A and B are their names.
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

__all__ = ["CircularConvolution", "DenseOperator", "MonotoneOperator"]

_Apply = Callable[[Tensor], Tensor]


def positive_integer(name: str, value: Any) -> int:
    """The value as an int. Raises ValueError, naming the argument, if it is no positive integer."""
    if not _whole(value) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a positive integer")
    return int(value)


def is_real(value: Any) -> bool:
    """Whether the value is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


class MonotoneOperator(nn.Module):
    """W on z (N, *shape), with m > 0 the constant of strong monotonicity of I − W.

    Raises ValueError for an m that is not in (0, 1].
    """

    def __init__(self, shape: tuple[int, ...], m: float) -> None:
        super().__init__()
        if not is_real(m) or not 0 < m <= 1:
            raise ValueError(f"m: got {m!r}, expected a number in (0, 1], the constant of strong monotonicity")
        self.shape, self.m = shape, float(m)

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """W z for z (N, *shape)."""

    @abstractmethod
    def prepared(self, *, transposed: bool = False) -> _Apply:
        """h ↦ W h, or Wᵀh, prepared once for the present values of the parameters; it is not differentiated."""

    @abstractmethod
    def resolvent(self, alpha: float, *, transposed: bool = False) -> _Apply:
        """h ↦ (I + α(I − W))⁻¹h, or with Wᵀ instead of W, prepared once for the present values of the parameters.

        It is not differentiated.
        """

    @abstractmethod
    def constants(self) -> tuple[float, float]:
        """The smallest eigenvalue of the symmetric part of I − W, and ‖I − W‖₂, both computed from the parameters."""


@final
class DenseOperator(MonotoneOperator):
    """W as a matrix of order ``size``; A and B are size × size and start at N(0, 1/size)/2."""

    def __init__(self, size: int, m: float = 0.5) -> None:
        size = positive_integer("size", size)
        super().__init__((size,), m)
        self.A = nn.Parameter(torch.randn(size, size) / (2 * math.sqrt(size)))
        self.B = nn.Parameter(torch.randn(size, size) / (2 * math.sqrt(size)))

    def matrix(self) -> Tensor:
        """W."""
        identity = torch.eye(self.shape[0], dtype=self.A.dtype, device=self.A.device)
        return (1 - self.m) * identity - self.A.T @ self.A + self.B - self.B.T

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.matrix().T

    @torch.no_grad()
    def prepared(self, *, transposed: bool = False) -> _Apply:
        W = self.matrix() if transposed else self.matrix().T
        return lambda h: h @ W

    @torch.no_grad()
    def resolvent(self, alpha: float, *, transposed: bool = False) -> _Apply:
        W = self.matrix()
        identity = torch.eye(W.shape[0], dtype=W.dtype, device=W.device)
        inverse = torch.linalg.inv((1 + alpha) * identity - alpha * W)
        inverse = inverse if transposed else inverse.T
        return lambda h: h @ inverse

    @torch.no_grad()
    def constants(self) -> tuple[float, float]:
        I_W = torch.eye(self.shape[0], dtype=torch.float64) - self.matrix().double()
        smallest = torch.linalg.eigvalsh((I_W + I_W.T) / 2)[0]
        return float(smallest), float(torch.linalg.matrix_norm(I_W, 2))


@final
class CircularConvolution(MonotoneOperator):
    """W for images (channels, height, width): A and B are k × k convolutions with periodic boundaries.

    The Fourier transform turns them into one channels × channels matrix for each frequency ω,
    Ŵ(ω) = (1 − m)I − Â(ω)ᴴÂ(ω) + B̂(ω) − B̂(ω)ᴴ, and the resolvent into as many small inverses.
    """

    def __init__(self, channels: int, size: tuple[int, int], kernel: int = 3, m: float = 0.5) -> None:
        channels = positive_integer("channels", channels)
        if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(_whole(h) and h >= 1 for h in size):
            raise ValueError(f"size: got {size!r}, expected (height, width), two positive integers")
        super().__init__((channels, *size), m)
        if not _whole(kernel) or kernel % 2 == 0 or not 1 <= kernel <= min(size):
            raise ValueError(f"kernel: got {kernel!r}, expected an odd number of at most {min(size)}, the image's size")
        self.kernel = kernel
        scale = 1 / (2 * math.sqrt(channels * kernel**2))
        self.A = nn.Parameter(scale * torch.randn(channels, channels, kernel, kernel))
        self.B = nn.Parameter(scale * torch.randn(channels, channels, kernel, kernel))

    def _transformed(self, weights: Tensor) -> Tensor:
        """The matrices of the convolution with these weights, (height, width // 2 + 1, channels, channels).

        They are those of the half of the frequencies that real images need.
        """
        _, height, width = self.shape
        padded = torch.nn.functional.pad(weights, (0, width - self.kernel, 0, height - self.kernel))
        half = self.kernel // 2
        centred = torch.roll(padded, (-half, -half), dims=(-2, -1))
        return torch.fft.rfft2(centred).permute(2, 3, 0, 1)

    def _matrices(self) -> Tensor:
        """Ŵ at these frequencies."""
        A, B = self._transformed(self.A), self._transformed(self.B)
        identity = torch.eye(self.shape[0], dtype=A.dtype, device=A.device)
        return (1 - self.m) * identity - A.mH @ A + B - B.mH

    def _convolve(self, matrices: Tensor, z: Tensor) -> Tensor:
        products = torch.einsum("hwij,...jhw->...ihw", matrices, torch.fft.rfft2(z))
        return torch.fft.irfft2(products, s=z.shape[-2:])

    def forward(self, z: Tensor) -> Tensor:
        return self._convolve(self._matrices(), z)

    @torch.no_grad()
    def prepared(self, *, transposed: bool = False) -> _Apply:
        W = self._matrices().mH if transposed else self._matrices()
        return lambda h: self._convolve(W, h)

    @torch.no_grad()
    def resolvent(self, alpha: float, *, transposed: bool = False) -> _Apply:
        W = self._matrices()
        identity = torch.eye(self.shape[0], dtype=W.dtype, device=W.device)
        inverses = torch.linalg.inv((1 + alpha) * identity - alpha * W)
        inverses = inverses.mH if transposed else inverses
        return lambda h: self._convolve(inverses, h)

    @torch.no_grad()
    def constants(self) -> tuple[float, float]:
        W = self._matrices().to(torch.complex128)
        I_W = torch.eye(self.shape[0], dtype=W.dtype) - W
        smallest = torch.linalg.eigvalsh((I_W + I_W.mH) / 2).min()
        return float(smallest), float(torch.linalg.matrix_norm(I_W, 2).max())
