"""Conversions between tensors and NumPy arrays, and the checks of what can be converted."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["check_tensor", "from_array", "output_type", "refuse_hidden_batch", "to_array"]


def check_tensor(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    """Raises TypeError or ValueError naming the tensor, if it has no values, is on another device, or is sparse."""
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
    """The tensor's values as a float64 array, from any device, dtype and strides, expanded tensors included."""
    refuse_hidden_batch(tensor, "", "solver")
    if tensor.dtype is torch.float64 and tensor.device.type == "cpu":
        return tensor.detach().numpy()
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def refuse_hidden_batch(tensor: torch.Tensor, prefix: str, what: str) -> None:
    """Raises NotImplementedError for a tensor whose batch axis torch hides.

    prefix, what: the start of the message, and what does not see the batch.
    """
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        raise NotImplementedError(
            f"{prefix}is_grads_batched=True (and vectorize=True of torch.autograd.functional) hides its batch from the "
            f"{what}: use torch.func.vmap, jacrev or jacfwd"
        )


def from_array(
    array: np.ndarray, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """A tensor that shares the array's memory, or a copy if dtype, device or order differ."""
    plain = array.dtype == np.float64 and array.flags.c_contiguous and array.flags.writeable
    # Quicker, but modes that watch torch's functions (implicit/torch/capture.py) would not see the tensor being made.
    if plain and dtype is torch.float64 and not torch._C._len_torch_function_stack():
        return torch.from_numpy(array) if _is_host(device) else torch.from_numpy(array).to(device=device)
    return torch.as_tensor(np.asarray(array, order="C")).to(dtype=dtype, device=device)


def _is_host(device: torch.device | str) -> bool:
    return (device if isinstance(device, str) else device.type) == "cpu"


def output_type(tensors: Sequence[torch.Tensor]) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device of the outputs for these inputs.

    The dtype is the common one of the inputs that are not integers, or torch's default if all are.
    """
    if len(tensors) == 1 and tensors[0].is_floating_point():
        return tensors[0].dtype, tensors[0].device
    if not tensors:
        return torch.get_default_dtype(), torch.device("cpu")
    dtypes = [t.dtype for t in tensors if t.is_floating_point() or t.is_complex()]
    return functools.reduce(torch.promote_types, dtypes or [torch.get_default_dtype()]), tensors[0].device
