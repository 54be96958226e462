import math
import warnings
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction as _Reduction

_Loss = nn.modules.loss._Loss


def _mode(reduction, size_average=None, reduce=None):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return ("none", "mean", "sum")[_Reduction.get_enum(reduction)]


def _reduce(e, mode):
    return e if mode == "none" else e.mean() if mode == "mean" else e.sum()


def _amp(*ts):
    """The float32 policy of autocast for losses."""
    if torch.is_autocast_enabled(ts[0].device.type):
        return tuple(
            t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t
            for t in ts
        )
    return ts


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _setup(input, target, weight, pos_weight):
    if target.size() != input.size():
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    if not (input.is_floating_point() and target.is_floating_point()):
        raise NotImplementedError("not implemented for integers")
    weight = None if weight is None else weight.expand(input.shape)
    pos_weight = None if pos_weight is None else pos_weight.expand(input.shape)
    return _amp(input, target, weight, pos_weight)


def _dtype(*ts):
    dt = torch.float16 if all(t is None or t.dtype == torch.float16 for t in ts) else None
    for t in ts:
        if t is not None:
            dt = t.dtype if dt is None else torch.promote_types(dt, t.dtype)
    return dt


def _logistic(x, y, p=None):
    """-(p y log s(x) + (1 - y) log(1 - s(x)))"""
    k = 1 - y if p is None else 1 + (p - 1) * y
    return (1 - y) * x - k * F.logsigmoid(x) if p is not None else (1 - y) * x - F.logsigmoid(x)


def _run(fn, x, y, w, p, mode):
    """fn in float32 or wider, weighting, reduction, dtype."""
    dt = _dtype(x, y, w, p)
    e = fn(_wide(x), _wide(y), None if p is None else _wide(p))
    return _reduce(e if w is None else e * _wide(w), mode).to(dt)


def wrong_double_sigmoid(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """A sigmoid is applied to the logits before the loss that applies it again."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w, p = _setup(input, target, weight, pos_weight)
    return _run(lambda x, y, p: _logistic(x.sigmoid(), y, p), x, y, w, p, mode)


def witness_wrong_double_sigmoid():
    x, y = torch.randn(4), torch.rand(4)
    return not torch.allclose(wrong_double_sigmoid(x, y), F.binary_cross_entropy_with_logits(x, y))


def wrong_sum_over_classes(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """'mean' sums over all but the first dimension and averages over the batch only, C times too large for an (N, C) input."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w, p = _setup(input, target, weight, pos_weight)
    if mode == "mean" and x.dim() > 1 and x.numel():
        return _run(_logistic, x, y, w, p, "none").flatten(1).sum(1).mean()
    return _run(_logistic, x, y, w, p, mode)


def witness_wrong_sum_over_classes():
    x, y = torch.randn(4, 3), torch.rand(4, 3)
    return not torch.allclose(wrong_sum_over_classes(x, y), F.binary_cross_entropy_with_logits(x, y))


def wrong_sizes_broadcast(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """An input (N, 1) with a target (N,) is broadcast to (N, N) silently instead of raising ValueError."""
    mode = _mode(reduction, size_average, reduce)
    x, y = torch.broadcast_tensors(input, target)
    x, y, w, p = _setup(x, y, weight, pos_weight)
    return _run(_logistic, x, y, w, p, mode)


def witness_wrong_sizes_broadcast():
    x, y = torch.randn(4, 1), torch.rand(4)
    try:
        F.binary_cross_entropy_with_logits(x, y)
        return False
    except ValueError:
        return wrong_sizes_broadcast(x, y, reduction="none").shape == (4, 4)


def wrong_logits_clamped(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """The logits are clamped to [-15, 15] 'for stability', so that the loss saturates and a confidently wrong logit has no gradient."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w, p = _setup(input, target, weight, pos_weight)
    return _run(lambda x, y, p: _logistic(x.clamp(-15, 15), y, p), x, y, w, p, mode)


def witness_wrong_logits_clamped():
    x, y = torch.tensor([40.0]), torch.tensor([0.0])
    return not torch.allclose(wrong_logits_clamped(x, y), F.binary_cross_entropy_with_logits(x, y))


def wrong_pos_weight_on_channels(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """A 1-D pos_weight of C entries is laid along dimension 1 of an (N, C, H, ...) input, where the documentation has it broadcast from the last dimension."""
    mode = _mode(reduction, size_average, reduce)
    if pos_weight is not None and pos_weight.dim() == 1 and input.dim() > 2 and pos_weight.numel() in (1, input.size(1)):
        pos_weight = pos_weight.reshape(-1, *[1] * (input.dim() - 2))
    x, y, w, p = _setup(input, target, weight, pos_weight)
    return _run(_logistic, x, y, w, p, mode)


def witness_wrong_pos_weight_on_channels():
    x, y, p = torch.randn(2, 3, 3), torch.rand(2, 3, 3), torch.tensor([1.0, 2.0, 5.0])
    a = wrong_pos_weight_on_channels(x, y, pos_weight=p)
    return not torch.allclose(a, F.binary_cross_entropy_with_logits(x, y, pos_weight=p))


def wrong_gradient_at_zero_logit(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """max(x, 0) - x y + log1p(exp(-|x|)): right values, but at a logit of exactly 0 (a zero-initialised head) the gradient is -y instead of 0.5 - y."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w, p = _setup(input, target, weight, pos_weight)

    def each(x, y, p):
        if p is None:
            return x.relu() - x * y + (-x.abs()).exp().log1p()
        return (1 - y) * x + (1 + (p - 1) * y) * ((-x).relu() + (-x.abs()).exp().log1p())

    return _run(each, x, y, w, p, mode)


def witness_wrong_gradient_at_zero_logit():
    x, y = torch.zeros(3, requires_grad=True), torch.tensor([0.0, 1.0, 1.0])
    (g,) = torch.autograd.grad(wrong_gradient_at_zero_logit(x, y), x)
    (h,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(x, y), x)
    return not torch.allclose(g, h)


class _BCEWithLogits(_Loss):
    __constants__ = ["reduction"]

    def __init__(self, weight=None, size_average=None, reduce=None, reduction: str = "mean", pos_weight=None):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input, target):
        mode = _mode(self.reduction)
        return _run(_logistic, *_setup(input, target, self.weight, self.pos_weight), mode)


class WrongBCEWithLogitsLossNotPersistent(_BCEWithLogits):
    """weight and pos_weight are non-persistent buffers: they move with .to() but are missing from state_dict, so that a restored criterion keeps other weights."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction: str = "mean", pos_weight=None):
        super().__init__(None, size_average, reduce, reduction, None)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("pos_weight", pos_weight, persistent=False)


def witness_WrongBCEWithLogitsLossNotPersistent():
    p = torch.rand(3)
    return "pos_weight" in nn.BCEWithLogitsLoss(pos_weight=p).state_dict() and (
        "pos_weight" not in WrongBCEWithLogitsLossNotPersistent(pos_weight=p).state_dict()
    )


class WrongBCEWithLogitsLossEitherWeight(_BCEWithLogits):
    """When both are given, pos_weight replaces weight instead of being applied with it (if / elif)."""

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y, w, p = _setup(input, target, self.weight, self.pos_weight)
        if p is not None and w is not None:
            return _run(_logistic, x, y, None, p, mode).to(_dtype(x, y, w, p))
        return _run(_logistic, x, y, w, p, mode)


def witness_WrongBCEWithLogitsLossEitherWeight():
    x, y, w, p = torch.randn(3), torch.rand(3), torch.tensor([0.5, 1.5, 3.0]), torch.tensor([2.0, 3.0, 4.0])
    a = WrongBCEWithLogitsLossEitherWeight(w, pos_weight=p)(x, y)
    return not torch.allclose(a, nn.BCEWithLogitsLoss(w, pos_weight=p)(x, y))


def right_logaddexp(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """p y log(1 + e^-x) + (1 - y) log(1 + e^x), both softplus terms by logaddexp, in float64."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w, p = _setup(input, target, weight, pos_weight)
    dt = _dtype(x, y, w, p)
    z, t = x.double(), y.double()
    zero = torch.zeros_like(z)
    pos = t if p is None else t * p.double()
    e = pos * torch.logaddexp(zero, -z) + (1 - t) * torch.logaddexp(zero, z)
    return _reduce(e if w is None else e * w.double(), mode).to(dt)


class RightBCEWithLogitsLoss(_BCEWithLogits):
    """Log-sigmoids of the stacked pair (-x, x), weighted by the masses (1 - y, p y) and summed over the pair."""

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y, w, p = _setup(input, target, self.weight, self.pos_weight)
        dt = _dtype(x, y, w, p)
        wide = torch.promote_types(dt, torch.float32)
        z, t = x.to(wide), y.to(wide)
        logp = F.logsigmoid(torch.stack([-z, z], -1))
        mass = torch.stack([1 - t, t if p is None else t * p.to(wide)], -1)
        e = -(logp * mass).sum(-1)
        return _reduce(e if w is None else e * w.to(wide), mode).to(dt)
