"""A cross entropy that processes the batch in chunks and computes its gradient in forward.

`pytest suites/timing --impl=benchmarks.chunked_cross_entropy` times it. Forward keeps the gradient
for backward, while torch keeps the log-softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: The number of scores in a chunk; forward holds one chunk in addition to the gradient.
CHUNK = 2**18


class _Chunked(torch.autograd.Function):
    """The mean or the sum over rows that are not ignored, for class indices without options."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, target: Tensor, ignore_index: int, mean: bool, learns: bool
    ) -> Tensor:
        rows, classes = scores.shape
        gradient = torch.empty_like(scores) if learns else None
        counts = target != ignore_index
        labels = torch.where(counts, target, 0)
        divisor = counts.sum() if mean else 1
        wide = torch.promote_types(scores.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=scores.device)
        for chunk in torch.arange(rows).split(max(1, CHUNK // classes)):
            part = slice(int(chunk[0]), int(chunk[-1]) + 1)
            label, count = labels[part, None], counts[part, None]
            logs = scores[part].to(wide).log_softmax(1)
            picked = logs.gather(1, label)
            total -= torch.where(count, picked, 0).sum()
            if gradient is not None:
                logs.exp_().scatter_add_(1, label, torch.full_like(picked, -1))
                gradient[part] = torch.where(count, logs / divisor, 0).to(scores.dtype)
        ctx.gradient = gradient
        return (total / divisor).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return ctx.gradient * upstream[0], None, None, None, None


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return what torch's cross entropy returns; calls without a chunked form are passed to it."""
    plain = input.ndim == 2 and target.shape == input.shape[:1] and not target.is_floating_point()
    if not plain or not len(target) or weight is not None or label_smoothing or reduction == "none":
        return functional.cross_entropy(
            input,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    learns = torch.is_grad_enabled() and input.requires_grad
    return _Chunked.apply(input, target.long(), ignore_index, reduction == "mean", learns)
