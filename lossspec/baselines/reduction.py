"""Steps that all compositions share: a wider dtype, and the reduction."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return float16 and bfloat16 numbers as float32, as kernels do, and others unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def reduced(
    losses: Tensor, reduction: str, dtype: torch.dtype, divisor: Tensor | int | None = None
) -> Tensor:
    """Return the reduced losses in a dtype.

    Args:
        losses: The losses of the elements.
        reduction: `none`, `mean` or `sum`.
        dtype: The dtype of the result.
        divisor: The divisor of the mean; the number of losses by default.
    """
    if reduction == "none":
        return losses.to(dtype)
    total = losses.sum()
    if reduction == "sum":
        return total.to(dtype)
    return (total / (losses.numel() if divisor is None else divisor)).to(dtype)
