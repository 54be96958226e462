"""The steps around every composition: a wider dtype, and the reduction."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return the same numbers with room for a sum: half precisions in float32, as kernels do."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def reduced(
    losses: Tensor, reduction: str, dtype: torch.dtype, divisor: Tensor | int | None = None
) -> Tensor:
    """Return the losses reduced, in a dtype; the mean divides by their number by default."""
    if reduction == "none":
        return losses.to(dtype)
    total = losses.sum()
    if reduction == "sum":
        return total.to(dtype)
    return (total / (losses.numel() if divisor is None else divisor)).to(dtype)
