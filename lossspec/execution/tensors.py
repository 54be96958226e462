"""Conversion between numpy arrays and torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lossspec.dtypes import Extended, dtype_name, precision
from lossspec.execution.layouts import laid_out
from lossspec.execution.layouts import same_bits as same_bits


def to_torch(array: np.ndarray, layout: str = "contiguous", device: str = "cpu") -> torch.Tensor:
    """Convert an array to a tensor with the same bits.

    Args:
        array: The array, in a dtype that torch has.
        layout: One of `lossspec.cases.case.LAYOUTS`. The tensor is contiguous if its shape does
            not allow the layout, such as a scalar that should be expanded.
        device: The device of the tensor.
    """
    own = np.array(array, order="C")
    if dtype_name(array) == "bfloat16":
        plain = torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    else:
        plain = torch.from_numpy(own)
    if device != "cpu":
        plain = plain.to(device)
    return plain if layout == "contiguous" else laid_out(plain, layout)


def to_extended(tensor: torch.Tensor) -> np.ndarray:
    """Return the exact numbers of a tensor, in longdouble on the host.

    Expanded axes stay expanded, so that an expanded tensor of 10¹² elements takes little memory.
    """
    shape = tuple(tensor.shape)
    plain = _distinct(tensor.detach()).cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.float()
    numbers = np.asarray(plain.numpy(force=True)).astype(Extended)
    return numbers if numbers.shape == shape else np.broadcast_to(numbers, shape)


def _distinct(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with size 1 along its expanded axes."""
    if tensor.layout is not torch.strided or 0 not in tensor.stride():
        return tensor
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def first_numbers(tensor: torch.Tensor, count: int) -> list[Any]:
    """Return at most `count` numbers of a tensor of any size, in the order of its elements."""
    part = tensor.detach()
    for axis in range(part.ndim):  # elements beyond `count` along any axis come later in order
        part = part.narrow(axis, 0, min(part.shape[axis], count))
    numbers: list[Any] = part.flatten()[:count].tolist()
    return numbers


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of a name."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def dtype_of(tensor: torch.Tensor) -> str:
    """Return the name of a tensor's dtype, as in `Case.dtype`."""
    return str(tensor.dtype).removeprefix("torch.")


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Convert a tensor to an array on the host with the same bits, in numpy's dtype for it."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        return np.asarray(plain.view(torch.int16).numpy().view(precision("bfloat16").numpy)).copy()
    return np.asarray(plain.numpy()).copy()


def from_extended(numbers: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Round numbers once, to the dtype of a tensor and on its device.

    Args:
        numbers: The numbers, in longdouble.
        like: The tensor with the dtype and the device.
    """
    name = dtype_of(like)
    with np.errstate(all="ignore"):
        return to_torch(numbers.astype(precision(name).numpy), device=str(like.device))
