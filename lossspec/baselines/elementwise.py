"""Textbook compositions of elementwise losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from lossspec.baselines.reduction import reduced, wide

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
]

#: The lower bound of the logarithms in binary_cross_entropy, as torch documents it.
LOWEST = -100.0


def l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return w|x - y|."""
    losses = (wide(input) - wide(target)).abs()
    dtype = losses.dtype if input.is_complex() else torch.result_type(input, target)
    return _weighted_mean(losses, weight, reduction, dtype)


def mse_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return w(x - y)²."""
    losses = (wide(input) - wide(target)) ** 2
    return _weighted_mean(losses, weight, reduction, torch.result_type(input, target))


def _weighted_mean(
    losses: Tensor, weight: Tensor | None, reduction: str, dtype: torch.dtype
) -> Tensor:
    """Return the weighted losses reduced; the mean divides by the sum of the weights."""
    if weight is None:
        return reduced(losses, reduction, dtype)
    w = wide(weight)
    return reduced(w * losses, reduction, dtype, w.sum())


def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """Return r²/2β for r = |x - y| below β, else r - β/2."""
    r = (wide(input) - wide(target)).abs()
    losses = torch.where(r < beta, r * r / (2 * beta), r - beta / 2) if beta else r
    return reduced(losses, reduction, torch.result_type(input, target))


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return w r²/2 for r = |x - y| below δ, else w δ(r - δ/2)."""
    r = (wide(input) - wide(target)).abs()
    losses = torch.where(r < delta, r * r / 2, delta * (r - delta / 2))
    losses = losses if weight is None else wide(weight) * losses
    return reduced(losses, reduction, torch.result_type(input, target))


def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """Return y(log y - x), or eʸ(y - x) with `log_target`."""
    x, y = wide(input), wide(target)
    losses = y.exp() * (y - x) if log_target else torch.xlogy(y, y) - y * x
    batch = losses.shape[0] if losses.ndim else 1
    if reduction == "batchmean":
        return reduced(losses, "mean", input.dtype, batch)
    return reduced(losses, reduction, input.dtype)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return -w(y log x + (1 - y) log(1 - x)), with each logarithm at least -100."""
    x, y = wide(input), wide(target)
    losses = -(y * _bounded_log(x) + (1 - y) * _bounded_log(1 - x))
    losses = losses if weight is None else wide(weight) * losses
    return reduced(losses, reduction, input.dtype)


def _bounded_log(p: Tensor) -> Tensor:
    # The inner `where` keeps the infinite derivative of the logarithm at 0 out of the gradient.
    tiny = p <= math.exp(LOWEST)
    return torch.where(tiny, LOWEST, torch.where(tiny, 1, p).log())


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return -w(p y log σ(x) + (1 - y) log σ(-x)), where p is `pos_weight`."""
    x, y = wide(input), wide(target)
    positive = y if pos_weight is None else wide(pos_weight) * y
    losses = -(positive * logsigmoid(x) + (1 - y) * logsigmoid(-x))
    losses = losses if weight is None else wide(weight) * losses
    return reduced(losses, reduction, input.dtype)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """Return eˣ - y x, or x - y log(x + ε) without `log_input`; `full` adds Stirling's term."""
    x, y = wide(input), wide(target)
    losses = x.exp() - y * x if log_input else x - y * (x + eps).log()
    if full:
        many = torch.where(y > 1, y, 2)
        stirling = many * many.log() - many + (2 * math.pi * many).log() / 2
        losses = losses + torch.where(y > 1, stirling, 0)
    return reduced(losses, reduction, input.dtype)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return (log v + (x - y)²/v)/2 with v at least ε; `full` adds log(2π)/2."""
    var = var if isinstance(var, Tensor) else torch.full_like(input, var)
    if var.shape != input.shape and var.shape == input.shape[:-1]:
        var = var.unsqueeze(-1)
    v = wide(var)
    v = v + (v.clamp(min=eps) - v).detach()  # the gradient ignores the bound, as in torch
    losses = (v.log() + (wide(input) - wide(target)) ** 2 / v) / 2
    if full:
        losses = losses + math.log(2 * math.pi) / 2
    return reduced(losses, reduction, input.dtype)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """Return x for the target 1, and max(0, m - x) for the target -1."""
    x = wide(input)
    return reduced(torch.where(target == 1, x, (margin - x).relu()), reduction, input.dtype)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Return max(0, m - y(a - b))."""
    losses = (margin - wide(target) * (wide(input1) - wide(input2))).relu()
    return reduced(losses, reduction, input1.dtype)


def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return log(1 + exp(-y x))."""
    return reduced(softplus(-wide(target) * wide(input)), reduction, input.dtype)
