"""Memory layouts of a tensor."""

from __future__ import annotations

import torch


def laid_out(plain: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a tensor with the same numbers, stored in a layout."""
    if plain.ndim == 0 or plain.numel() == 0:
        return plain
    if layout == "permuted":
        order = list(range(plain.ndim))[::-1]
        return plain.permute(order).contiguous().permute(order)
    # What lies between must not be read; an integer there is a valid one, since a kernel that reads
    # it nevertheless may take it for an address.
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
    if layout == "offset":
        store = torch.full((plain.numel() + 5,), filler, dtype=plain.dtype).to(plain.device)
        store[3:-2] = plain.reshape(-1)
        return store[3:-2].view(plain.shape)
    if layout == "expanded":
        return plain[:1].expand(plain.shape)
    if layout == "channels_last" and plain.ndim == 4:
        return plain.contiguous(memory_format=torch.channels_last)
    if layout == "channels_last" and plain.ndim == 5:
        return plain.contiguous(memory_format=torch.channels_last_3d)
    return plain
