"""Textbook compositions of losses over classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lossspec.baselines.reduction import reduced, wide

__all__ = [
    "cross_entropy",
    "linear_cross_entropy",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
]


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return -w[t] x[t], and 0 where t is ignored."""
    log_p = wide(input).movedim(_class_axis(input), -1)
    w = log_p.new_ones(log_p.shape[-1]) if weight is None else wide(weight)
    kept, t = _kept(target, ignore_index)
    losses = torch.where(kept, -w[t] * _picked(log_p, t), 0)
    return reduced(losses, reduction, input.dtype, torch.where(kept, w[t], 0).sum())


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return -Σ w p log softmax(x), where p is smoothed; a class index t means p = 1 at t."""
    x = wide(input).movedim(_class_axis(input), -1)
    w = x.new_ones(x.shape[-1]) if weight is None else wide(weight)
    share = label_smoothing / max(1, x.shape[-1])
    if target.is_floating_point():
        p = wide(target).movedim(_class_axis(input), -1) * (1 - label_smoothing) + share
        return reduced(-(p * w * x.log_softmax(-1)).sum(-1), reduction, input.dtype)
    kept, t = _kept(target, ignore_index)
    # Numbers in ignored rows must not affect the gradient.
    log_p = torch.where(kept.unsqueeze(-1), x, 0).log_softmax(-1)
    losses = -w[t] * _picked(log_p, t)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - share * (w * log_p).sum(-1)
    divisor = torch.where(kept, w[t], 0).sum()
    return reduced(torch.where(kept, losses, 0), reduction, input.dtype, divisor)


def _class_axis(input: Tensor) -> int:
    return 0 if input.ndim == 1 else 1


def _kept(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return a mask of the targets that count, and the targets with class 0 for ignored ones."""
    target = target.long()  # in uint8, -100 would be the class 156
    kept = target != ignore_index
    return kept, torch.where(kept, target, 0).long()


def _picked(log_p: Tensor, t: Tensor) -> Tensor:
    return log_p.gather(-1, t.unsqueeze(-1)).squeeze(-1)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """Return the cross entropy of W x + b."""
    scores = torch.tensordot(wide(input), wide(linear_weight), ([-1], [-1]))
    scores = scores if linear_bias is None else scores + wide(linear_bias)
    ignored = -100 if ignore_index is None else ignore_index
    return cross_entropy(scores, target, weight, ignored, reduction, label_smoothing).to(
        input.dtype
    )


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return w[t] Σ max(0, m - x[t] + x[i])ᵖ / C, summed over the classes i other than t."""
    x, t = wide(input), target.unsqueeze(-1)
    gap = (margin - x.gather(-1, t) + x).relu() ** p
    own = torch.arange(x.shape[-1], device=x.device) == t
    losses = torch.where(own, 0, gap).sum(-1) / x.shape[-1]
    losses = losses if weight is None else wide(weight)[target] * losses
    return reduced(losses, reduction, input.dtype)


def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return Σ max(0, 1 - x[j] + x[i]) / C over the listed classes j and the other classes i."""
    x, classes = wide(input), torch.arange(input.shape[-1], device=input.device)
    listed = (target < 0).cumsum(-1) == 0  # up to the first -1
    t = torch.where(listed, target, 0)
    label = ((t.unsqueeze(-1) == classes) & listed.unsqueeze(-1)).any(-2, keepdim=True)
    gap = (1 - x.gather(-1, t).unsqueeze(-1) + x.unsqueeze(-2)).relu()
    losses = torch.where(listed.unsqueeze(-1) & ~label, gap, 0).sum((-2, -1)) / x.shape[-1]
    return reduced(losses, reduction, input.dtype)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the mean over the classes of -w(y log σ(x) + (1 - y) log σ(-x))."""
    x, y = wide(input), wide(target)
    losses = -(y * logsigmoid(x) + (1 - y) * logsigmoid(-x))
    losses = losses if weight is None else wide(weight) * losses
    return reduced(losses.sum(-1) / x.shape[-1], reduction, input.dtype)
