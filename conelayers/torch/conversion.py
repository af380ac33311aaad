"""Between tensors and arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["check_tensor", "from_array", "output_type", "to_array"]


def check_tensor(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    """Raises TypeError or ValueError, naming it, for a tensor without values, on another device, or sparse."""
    if tensor.is_meta:
        raise ValueError(
            f"{name}: got one that is on meta, expected {'cpu' if device.type == 'meta' else device}: a tensor with "
            "values; make it there"
        )
    if tensor.device != device:
        raise ValueError(
            f"{name}: got one that is on {tensor.device}, expected {device} like the others; move it there"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name}: got a sparse tensor ({tensor.layout}), expected a dense one; convert it with .to_dense(), or "
            f"pass its values and {name}_pattern"
        )


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """float64 on the CPU, whatever it was: any strides, stride 0 included; bfloat16 has no NumPy counterpart."""
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        raise NotImplementedError(
            "is_grads_batched=True (and vectorize=True of torch.autograd.functional) hides its batch from the solver: "
            "use torch.func.vmap, jacrev or jacfwd"
        )
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def from_array(
    array: np.ndarray, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """A tensor over the array, or a copy of another kind."""
    return torch.as_tensor(np.asarray(array, order="C")).to(dtype=dtype, device=device)


def output_type(tensors: Sequence[torch.Tensor]) -> tuple[torch.dtype, torch.device]:
    """The common dtype of the inputs that are not integers (the default one without any), and their device."""
    if not tensors:
        return torch.get_default_dtype(), torch.device("cpu")
    dtypes = [t.dtype for t in tensors if t.is_floating_point() or t.is_complex()]
    return functools.reduce(torch.promote_types, dtypes or [torch.get_default_dtype()]), tensors[0].device
