"""Textbook compositions of losses between vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lossspec.baselines.reduction import reduced, wide

__all__ = [
    "cosine_embedding_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Return 1 - cos(a, b) for the target 1, and max(0, cos(a, b) - m) for the target -1."""
    cos = (_unit(wide(input1)) * _unit(wide(input2))).sum(-1)
    return reduced(torch.where(target > 0, 1 - cos, (cos - margin).relu()), reduction, input1.dtype)


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-8)
    return unit


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, d(a, x) - d(a, y) + m) with d(u, v) = ‖u - v + ε‖ₚ."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        length: Tensor = vector_norm(x - y + eps, p, dim=-1)
        return length

    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=distance,
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, d(a, x) - d(a, y) + m); `swap` uses min(d(a, y), d(x, y)) for d(a, y)."""
    d = distance_function or (lambda x, y: vector_norm(x - y + 1e-6, dim=-1))
    a, x, y = wide(anchor), wide(positive), wide(negative)
    far = torch.minimum(d(a, y), d(x, y)) if swap else d(a, y)
    return reduced((d(a, x) - far + margin).relu(), reduction, anchor.dtype)
