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


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _check_weight(weight, input):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _weighted(e, weight, mode):
    """The tail shared by all: weighting, then reduction."""
    if weight is None:
        return _reduce(e, mode)
    e = e * weight
    return e.sum() / weight.sum() if mode == "mean" else _reduce(e, mode)


def _prepare(input, target, weight):
    x, y = _pair(input, target)
    _check_weight(weight, input)
    return (x, y) if weight is not None else _amp(x, y)


def wrong_mean_over_batch(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """'mean' divides by the batch size (dimension 0) rather than by the number of elements; shows for any input of 2+ dimensions."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    e = (x - y).abs()
    if mode == "mean" and weight is None and e.is_floating_point() and e.numel():
        return _wide(e).sum().div(e.size(0) if e.dim() else 1).to(e.dtype)
    return _weighted(e, weight, mode)


def witness_wrong_mean_over_batch():
    x, y = torch.randn(4, 5), torch.randn(4, 5)
    return not torch.allclose(wrong_mean_over_batch(x, y), F.l1_loss(x, y))


def wrong_sum_of_signed(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """reduction='sum' takes the absolute value after summing, so that errors of opposite sign cancel."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    d = x - y
    if mode == "sum":
        return (d if weight is None else d * weight).sum().abs()
    return _weighted(d.abs(), weight, mode)


def witness_wrong_sum_of_signed():
    x, y = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(3)
    return not torch.allclose(wrong_sum_of_signed(x, y, reduction="sum"), F.l1_loss(x, y, reduction="sum"))


def wrong_weighted_mean_numel(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The weighted mean divides by the number of elements instead of by the sum of the weights; shows only with weight."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    e = (x - y).abs()
    if weight is not None:
        e = e * weight
    return _reduce(e, mode)


def witness_wrong_weighted_mean_numel():
    x, y, w = torch.randn(6), torch.randn(6), torch.tensor([1.0, 2, 3, 4, 5, 6])
    return not torch.allclose(wrong_weighted_mean_numel(x, y, weight=w), F.l1_loss(x, y, weight=w))


def wrong_complex_manhattan(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """For complex inputs it adds |real| and |imag| of the error (a view as pairs of reals) instead of taking the modulus."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    d = x - y
    e = d.real.abs() + d.imag.abs() if d.is_complex() else d.abs()
    return _weighted(e, weight, mode)


def witness_wrong_complex_manhattan():
    x, y = torch.tensor([3 + 4j]), torch.tensor([0j])
    return not torch.allclose(wrong_complex_manhattan(x, y), F.l1_loss(x, y))


def wrong_gradient_at_tie(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Where input equals target the gradient is +1 (from a where on >= 0) instead of the subgradient 0."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    d = x - y
    e = d.abs() if d.is_complex() else torch.where(d < 0, -d, d)
    return _weighted(e, weight, mode)


def witness_wrong_gradient_at_tie():
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 0.0])
    wrong_gradient_at_tie(x, y, reduction="sum").backward()
    g = x.grad.clone()
    x.grad = None
    F.l1_loss(x, y, reduction="sum").backward()
    return not torch.equal(g, x.grad)


def wrong_half_sum_overflow(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean is formed as (sum in the input's dtype) / n, so that float16 overflows to inf once the sum exceeds 65504."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    e = (x - y).abs()
    if mode == "mean" and weight is None:
        if not (e.is_floating_point()):
            return e.mean()
        return e.sum() / e.numel() if e.numel() else e.mean()
    return _weighted(e, weight, mode)


def witness_wrong_half_sum_overflow():
    x, y = torch.full((2000,), 100.0).half(), torch.zeros(2000).half()
    return bool(torch.isinf(wrong_half_sum_overflow(x, y))) and bool(torch.isfinite(F.l1_loss(x, y)))


class WrongL1LossTargetFrozen(_Loss):
    """The module detaches the target (treats it as a label), so that no gradient reaches a target which requires one."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _amp(*_pair(input, target.detach()))
        return _reduce((x - y).abs(), mode)


def witness_WrongL1LossTargetFrozen():
    x, y = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    WrongL1LossTargetFrozen()(x, y).backward()
    missing = y.grad is None
    nn.L1Loss()(x, y).backward()
    return missing and y.grad is not None


class WrongL1LossSinglePrecision(_Loss):
    """The module computes in float32 throughout (as a JAX port would) and casts back, so that float64 and complex128 results keep only about 7 digits."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _amp(*_pair(input, target))
        d = x.to(_single(x.dtype)) - y.to(_single(y.dtype))
        out = torch.promote_types(x.dtype, y.dtype)
        e = d.abs()
        if out in (torch.float64, torch.complex128):
            e = e.double()
        return _reduce(e, mode)


def _single(dt):
    return {torch.float64: torch.float32, torch.complex128: torch.complex64}.get(dt, dt)


def witness_WrongL1LossSinglePrecision():
    x, y = torch.full((3,), 1.0 + 1e-9, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    return not torch.allclose(WrongL1LossSinglePrecision()(x, y), nn.L1Loss()(x, y), rtol=1e-3, atol=0)


def right_two_rectifiers(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|d| written as relu(d) + relu(-d), the reductions accumulated in a wider dtype."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    d = x - y
    e = d.abs() if d.is_complex() else torch.relu(d) + torch.relu(-d)
    if weight is not None:
        e = e * weight
    if mode == "none":
        return e
    if not (e.is_floating_point() or e.is_complex()):
        return _reduce(e, mode)
    acc = e.dtype if e.is_complex() else torch.float64
    total = e.sum(dtype=acc)
    if mode == "mean":
        total = total / (e.numel() if weight is None else weight.sum(dtype=acc))
    return total.to(e.dtype)


class RightL1Loss(_Loss):
    """Sums as vector 1-norms of flat chunks of the error, in float32 or wider; 'none' as abs."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _amp(*_pair(input, target))
        d = x - y
        if mode == "none" or not (d.is_floating_point() or d.is_complex()):
            return _reduce(d.abs(), mode)
        out = d.abs().dtype
        flat = _wide(d).reshape(-1)
        total = sum(torch.linalg.vector_norm(c, ord=1) for c in flat.split(4096))
        if mode == "mean":
            total = total / flat.numel() if flat.numel() else total / torch.zeros_like(total)
        return total.to(out)
