"""The storage of a tensor: its layout and its bits.

A reproduction script contains the source of these functions (`SCRIPTED`), so they use torch only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def laid_out(plain: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a tensor with the same numbers in another layout.

    Args:
        plain: A contiguous tensor.
        layout: The name of the layout. A tensor that cannot have it is returned unchanged.
    """
    if plain.ndim == 0 or plain.numel() == 0:
        return plain
    if layout == "permuted":
        order = list(range(plain.ndim))[::-1]
        return plain.permute(order).contiguous().permute(order)
    if layout == "swapped" and plain.ndim > 1:
        return plain.transpose(0, 1).contiguous().transpose(0, 1)
    # The gaps hold numbers that no kernel may read. An integer there is a valid class index, so
    # that a kernel which does read it stays within bounds.
    filler = 77 if plain.is_floating_point() else int(plain.max())
    if layout == "sliced":
        wide = torch.full((*plain.shape[:-1], plain.shape[-1] * 2 + 1), filler, dtype=plain.dtype)
        wide = wide.to(plain.device)
        wide[..., 1::2] = plain
        return wide[..., 1::2]
    if layout == "pitched":
        wide = torch.full((*plain.shape[:-1], plain.shape[-1] + 2), filler, dtype=plain.dtype)
        wide = wide.to(plain.device)
        wide[..., :-2] = plain
        return wide[..., :-2]
    if layout == "gapped" and plain.ndim > 2:  # a slice of the channels of a channels_last tensor
        last = plain.movedim(1, -1)
        wide = torch.full((*last.shape[:-1], last.shape[-1] + 2), filler, dtype=plain.dtype)
        wide = wide.to(plain.device)
        wide[..., :-2] = last
        return wide[..., :-2].movedim(-1, 1)
    if layout == "offset":
        store = torch.full((plain.numel() + 5,), filler, dtype=plain.dtype).to(plain.device)
        store[3:-2] = plain.reshape(-1)
        return store[3:-2].view(plain.shape)
    if layout == "even":  # expanded along each axis along which the numbers are equal
        for axis in range(plain.ndim):
            first = plain.narrow(axis, 0, 1).expand(plain.shape)
            plain = first if torch.equal(plain, first) else plain
        return plain
    if layout == "expanded":
        return plain[:1].expand(plain.shape)
    if layout == "channels_last" and plain.ndim == 4:
        return plain.contiguous(memory_format=torch.channels_last)
    if layout == "channels_last" and plain.ndim == 5:
        return plain.contiguous(memory_format=torch.channels_last_3d)
    return plain


def same_bits(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Return whether two tensors have one shape, one dtype and the same bits.

    Every NaN counts as the same, since its bits depend on how a kernel walks through memory.
    """
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.dtype.is_complex:
        x, y = torch.view_as_real(x), torch.view_as_real(y)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
    bits = integers[x.element_size()]
    x, y = x.detach().contiguous(), y.detach().contiguous()
    differ = x.view(bits) != y.view(bits)
    return not differ.any() or bool((x[differ].isnan() & y[differ].isnan()).all())


def without_numbers(value: Any) -> str | None:
    """Name the kind of a nested, sparse or meta tensor; return None for anything else."""
    if not isinstance(value, torch.Tensor):
        return None
    if value.is_nested:
        return "nested"
    if value.layout is not torch.strided:
        return str(value.layout).removeprefix("torch.")
    return "meta" if value.is_meta else None


#: The functions whose source a reproduction script contains.
SCRIPTED: tuple[Callable[..., Any], ...] = (laid_out, same_bits, without_numbers)
