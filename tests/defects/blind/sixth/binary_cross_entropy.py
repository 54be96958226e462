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


_WeightedLoss = nn.modules.loss._WeightedLoss


def _setup(input, target, weight):
    """Errors as documented: sizes, dtypes, ranges, weight shape."""
    if target.size() != input.size():
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated. "
            "Please ensure they have the same size."
        )
    if weight is not None:
        weight = weight.expand(torch.broadcast_shapes(target.size(), weight.size()))
    with torch.no_grad():
        F.binary_cross_entropy(input.detach(), target.detach(), weight, reduction="none")
    return _amp(input, target, weight)


def _tail(e, weight, mode):
    return _reduce(e if weight is None else e * weight, mode)


def wrong_positive_term_only(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Only -y log x (categorical cross-entropy); the (1 - y) log(1 - x) term is missing."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w = _setup(input, target, weight)
    return _tail(-y * x.log().clamp(min=-100), w, mode)


def witness_wrong_positive_term_only():
    x, y = torch.tensor([0.3, 0.6]), torch.tensor([0.0, 1.0])
    return not torch.allclose(wrong_positive_term_only(x, y), F.binary_cross_entropy(x, y))


def wrong_arguments_swapped(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Called in the Keras order: the target is taken as the probability and the input as the label."""
    mode = _mode(reduction, size_average, reduce)
    _setup(input, target, weight)
    return F.binary_cross_entropy(target, input, weight, reduction=mode)


def witness_wrong_arguments_swapped():
    x, y = torch.tensor([0.3, 0.6]), torch.tensor([0.1, 0.9])
    return not torch.allclose(wrong_arguments_swapped(x, y), F.binary_cross_entropy(x, y))


def wrong_target_broadcast(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A target of another, broadcastable size, e.g. (N,) for (N, 1), is broadcast silently instead of raising ValueError."""
    mode = _mode(reduction, size_average, reduce)
    if target.size() != input.size():
        input, target = torch.broadcast_tensors(input, target)
    if weight is not None:
        weight = weight.expand(torch.broadcast_shapes(target.size(), weight.size()))
    return F.binary_cross_entropy(input, target, weight, reduction=mode)


def witness_wrong_target_broadcast():
    x, y = torch.rand(4, 1), torch.rand(4)
    try:
        F.binary_cross_entropy(x, y)
        return False
    except ValueError:
        return wrong_target_broadcast(x, y).shape == ()


def wrong_epsilon_clip(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Probabilities are clipped to [1e-7, 1 - 1e-7] (Keras), so that the loss of a confident mistake is 16.1 instead of up to 100 and its gradient 0."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w = _setup(input, target, weight)
    dt = x.dtype
    p = _wide(x).clamp(1e-7, 1 - 1e-7)
    y = _wide(y)
    return _tail((-y * p.log() - (1 - y) * (-p).log1p()).to(dt), w, mode)


def witness_wrong_epsilon_clip():
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    return not torch.allclose(wrong_epsilon_clip(x, y), F.binary_cross_entropy(x, y))


def wrong_hard_labels(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The target is thresholded at 0.5 (where instead of the weighted sum), which is wrong for soft targets, documented as numbers between 0 and 1."""
    mode = _mode(reduction, size_average, reduce)
    _setup(input, target, weight)
    if weight is not None:
        weight = weight.expand(input.shape)
    hard = (target >= 0.5).to(target.dtype) + (target - target)  # keeps the graph
    return F.binary_cross_entropy(input, hard, weight, reduction=mode)


def witness_wrong_hard_labels():
    x, y = torch.tensor([0.3, 0.6]), torch.tensor([0.0, 1.0])
    s = torch.tensor([0.2, 0.7])
    same = torch.allclose(wrong_hard_labels(x, y), F.binary_cross_entropy(x, y))
    return same and not torch.allclose(wrong_hard_labels(x, s), F.binary_cross_entropy(x, s))


def wrong_nan_gradient_at_the_ends(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The value is right (logs clamped at -100) but the gradient at an input of exactly 0 or 1 is NaN, where the documentation promises a linear backward."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w = _setup(input, target, weight)
    dt = x.dtype
    p, t = _wide(x), _wide(y)
    a = torch.maximum(p.log(), torch.full_like(p, -100))
    b = torch.maximum((-p).log1p(), torch.full_like(p, -100))
    return _tail(((t - 1) * b - t * a).to(dt), w, mode)


def witness_wrong_nan_gradient_at_the_ends():
    x, y = torch.tensor([0.0, 1.0, 0.5], requires_grad=True), torch.tensor([0.0, 1.0, 1.0])
    l = wrong_nan_gradient_at_the_ends(x, y)
    same = torch.allclose(l, F.binary_cross_entropy(x, y))
    l.backward()
    g = x.grad.clone()
    x.grad = None
    F.binary_cross_entropy(x, y).backward()
    return same and not torch.allclose(g, x.grad)


class WrongBCELossWeightedMean(_WeightedLoss):
    """With weight, 'mean' divides by the sum of the (broadcast) weights, where the documentation says the number of elements."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        if self.weight is None or _mode(self.reduction) != "mean":
            return F.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)
        e = F.binary_cross_entropy(input, target, self.weight, reduction="none")
        return e.sum() / self.weight.expand(e.shape).sum().to(e.dtype)


def witness_WrongBCELossWeightedMean():
    x, y, w = torch.rand(4), torch.rand(4), torch.tensor([1.0, 2, 3, 4])
    return not torch.allclose(WrongBCELossWeightedMean(w)(x, y), nn.BCELoss(w)(x, y))


class WrongBCELossWeightNotABuffer(_Loss):
    """weight is a plain attribute rather than a buffer: it is not in state_dict and does not follow .to() / .double()."""

    __constants__ = ["reduction"]

    def __init__(self, weight=None, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__(size_average, reduce, reduction)
        self.weight = weight

    def forward(self, input, target):
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


def witness_WrongBCELossWeightNotABuffer():
    w = torch.rand(3)
    mine, theirs = WrongBCELossWeightNotABuffer(w).double(), nn.BCELoss(w).double()
    return list(mine.state_dict()) != list(theirs.state_dict()) and mine.weight.dtype != theirs.weight.dtype


def _slope_denominator(x):
    return ((1 - x) * x).clamp(min=1e-12)


class _Slope(torch.autograd.Function):
    """g * (x - y) / max(x (1 - x), 1e-12), with the derivative torch takes of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g, x, y):
        return g * (x - y) / _slope_denominator(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, h):
        g, x, y = ctx.saved_tensors
        q = _slope_denominator(x)
        return h * (x - y) / q, h * g * (x * x - 2 * x * y + y) / (q * q), -h * g / q


class _SlopeFwd(_Slope):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tg, tx, ty):
        g, x, y = ctx.saved_tensors
        q = _slope_denominator(x)
        out = torch.zeros_like(g * x)
        if tg is not None:
            out = out + tg * (x - y) / q
        if tx is not None:
            out = out + tx * g * (x * x - 2 * x * y + y) / (q * q)
        if ty is not None:
            out = out - ty * g / q
        return out


class _Cross(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return (y - 1) * (-x).log1p().clamp(min=-100) - y * x.log().clamp(min=-100)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gy = g * ((-x).log1p() - x.log()) if ctx.needs_input_grad[1] else None
        return _Slope.apply(g, x, y), gy


class _CrossFwd(_Cross):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gy = g * ((-x).log1p() - x.log()) if ctx.needs_input_grad[1] else None
        return _SlopeFwd.apply(g, x, y), gy

    @staticmethod
    def jvp(ctx, tx, ty):
        x, y = ctx.saved_tensors
        out = torch.zeros_like(x)
        if tx is not None:
            out = out + tx * (x - y) / _slope_denominator(x)
        if ty is not None:
            out = out + ty * ((-x).log1p() - x.log())
        return out


def right_own_kernel(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Own autograd.Functions for the loss and for its slope (with its bounded denominator), in float32 or wider."""
    mode = _mode(reduction, size_average, reduce)
    x, y, w = _setup(input, target, weight)
    dt = x.dtype
    fn = _Cross if torch.compiler.is_compiling() else _CrossFwd
    e = fn.apply(_wide(x), _wide(y))
    return _tail(e, None if w is None else _wide(w), mode).to(dt)


class RightBCELoss(_WeightedLoss):
    """Sums of flat chunks of 512 elements, accumulated in float32 or wider; 'none' concatenates the chunks."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y, w = _setup(input, target, self.weight)
        dt = x.dtype
        if x.numel() == 0:
            return F.binary_cross_entropy(x, y, w, reduction=mode)
        xs, ys = (_wide(t).reshape(-1).split(512) for t in (x, y))
        ws = [None] * len(xs) if w is None else _wide(w.expand(x.shape)).reshape(-1).split(512)
        how = "none" if mode == "none" else "sum"
        parts = [F.binary_cross_entropy(a, b, c, reduction=how) for a, b, c in zip(xs, ys, ws)]
        if mode == "none":
            return torch.cat(parts).reshape(x.shape).to(dt)
        total = torch.stack(parts).sum()
        return (total.div(x.numel()) if mode == "mean" else total).to(dt)
