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


def _check(input, weight, delta):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")


def _setup(input, target, weight, delta):
    x, y = _pair(input, target)
    _check(input, weight, delta)
    if not (input.is_floating_point() and not y.is_complex()):
        raise RuntimeError(f"not supported: {input.dtype}, {target.dtype}")
    return _amp(x, y)


def _huber(x, y, delta):
    """Element-wise, in at least float32, result in the dtype of x."""
    d = _wide(x) - _wide(y)
    c = d.clamp(-delta, delta)
    return (c * (d - c / 2)).to(x.dtype)


def _tail(e, weight, mode):
    return _reduce(e if weight is None else e * weight, mode)


def wrong_smooth_l1(input, target, reduction="mean", delta=1.0, weight=None):
    """Divides by delta (it is Smooth L1, not Huber); shows for every delta other than 1."""
    mode = _mode(reduction)
    x, y = _setup(input, target, weight, delta)
    return _tail(_huber(x, y, delta) / delta, weight, mode)


def witness_wrong_smooth_l1():
    x, y = torch.randn(5), torch.randn(5)
    return not torch.allclose(wrong_smooth_l1(x, y, delta=2.0), F.huber_loss(x, y, delta=2.0))


def wrong_one_sided(input, target, reduction="mean", delta=1.0, weight=None):
    """Tests d < delta instead of |d| < delta, so that large negative errors stay quadratic."""
    mode = _mode(reduction)
    x, y = _setup(input, target, weight, delta)
    d = _wide(x) - _wide(y)
    e = torch.where(d < delta, d * d / 2, delta * (d.abs() - delta / 2)).to(x.dtype)
    return _tail(e, weight, mode)


def witness_wrong_one_sided():
    x, y = torch.tensor([-4.0]), torch.tensor([0.0])
    return not torch.allclose(wrong_one_sided(x, y), F.huber_loss(x, y))


def wrong_weighted_mean_by_weight_sum(input, target, reduction="mean", delta=1.0, weight=None):
    """The weighted 'mean' divides by sum(weight) (as l1_loss and mse_loss do) instead of taking the mean of the weighted losses as huber_loss documents."""
    mode = _mode(reduction)
    x, y = _setup(input, target, weight, delta)
    e = _huber(x, y, delta)
    if weight is not None and mode == "mean":
        return (e * weight).sum() / weight.sum()
    return _tail(e, weight, mode)


def witness_wrong_weighted_mean_by_weight_sum():
    x, y, w = torch.randn(5), torch.randn(5), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    return not torch.allclose(wrong_weighted_mean_by_weight_sum(x, y, weight=w), F.huber_loss(x, y, weight=w))


def _raw(t):
    """The tensor as a kernel sees it that ignores strides."""
    if t.is_contiguous() or t.numel() == 0 or sorted(t.stride(), reverse=True) == list(t.stride()):
        return t.contiguous()
    expect, dims = 1, sorted(range(t.dim()), key=lambda i: t.stride(i))
    for i in dims:
        if t.size(i) != 1:
            if t.stride(i) != expect:
                return t.contiguous()
            expect *= t.size(i)
    strides, s = [], 1
    for n in reversed(t.shape):
        strides.insert(0, s)
        s *= n
    return t.as_strided(t.shape, strides)


def wrong_ignores_strides(input, target, reduction="mean", delta=1.0, weight=None):
    """Reads the memory of a transposed (non-contiguous, dense) input or target in storage order, pairing the wrong elements."""
    mode = _mode(reduction)
    x, y = _setup(input, target, weight, delta)
    return _tail(_huber(_raw(x), _raw(y), delta), weight, mode)


def witness_wrong_ignores_strides():
    x, y = torch.randn(3, 4).t(), torch.randn(4, 3)
    ok = torch.allclose(wrong_ignores_strides(x.contiguous(), y), F.huber_loss(x, y))
    return ok and not torch.allclose(wrong_ignores_strides(x, y), F.huber_loss(x, y))


def wrong_autocast_low_precision(input, target, reduction="mean", delta=1.0, weight=None):
    """Under autocast it casts down to the autocast dtype and returns bfloat16, where huber_loss is on the list of ops that autocast to float32."""
    mode = _mode(reduction)
    x, y = _pair(input, target)
    _setup(input, target, weight, delta)
    dev = x.device.type
    if torch.is_autocast_enabled(dev):
        low = torch.get_autocast_dtype(dev)
        x, y = (t.to(low) if t.dtype != torch.float64 else t for t in (x, y))
    return _tail(_huber(x, y, delta), weight, mode)


def witness_wrong_autocast_low_precision():
    x, y = torch.randn(50), torch.randn(50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = wrong_autocast_low_precision(x, y), F.huber_loss(x, y)
    return a.dtype != b.dtype


def wrong_accepts_nonpositive_delta(input, target, reduction="mean", delta=1.0, weight=None):
    """delta <= 0 is accepted (taken as its absolute value) instead of raising; the documentation says it must be positive."""
    mode = _mode(reduction)
    x, y = _setup(input, target, weight, 1.0)
    return _tail(_huber(x, y, abs(delta)), weight, mode)


def witness_wrong_accepts_nonpositive_delta():
    x, y = torch.randn(5), torch.randn(5)
    try:
        F.huber_loss(x, y, delta=-1.0)
        return False
    except RuntimeError:
        return bool(torch.isfinite(wrong_accepts_nonpositive_delta(x, y, delta=-1.0)))


class _HuberModule(nn.Module):
    __constants__ = ["reduction", "delta"]

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__()
        self.reduction = reduction
        self.delta = delta

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target, None, self.delta)
        return _reduce(_huber(x, y, self.delta), mode)


class WrongHuberLossNoGradInEval(_HuberModule):
    """After module.eval() the loss is computed without a graph, so that backward fails (a frozen network's input attack, or a validation gradient)."""

    def forward(self, input, target):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return super().forward(input, target)


def witness_WrongHuberLossNoGradInEval():
    x, y = torch.randn(5, requires_grad=True), torch.randn(5)
    ok = WrongHuberLossNoGradInEval()(x, y).requires_grad
    return ok and not WrongHuberLossNoGradInEval().eval()(x, y).requires_grad and nn.HuberLoss().eval()(x, y).requires_grad


class WrongHuberLossIntegerDelta(_HuberModule):
    """The constructor rounds delta up to an integer (an int-typed config field), so that delta=0.3 acts as 1 and delta=1.5 as 2."""

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target, None, self.delta)
        delta = math.ceil(self.delta) if math.isfinite(self.delta) else self.delta
        return _reduce(_huber(x, y, delta), mode)


def witness_WrongHuberLossIntegerDelta():
    x, y = torch.tensor([3.0, 0.2]), torch.zeros(2)
    return not torch.allclose(WrongHuberLossIntegerDelta(delta=0.3)(x, y), nn.HuberLoss(delta=0.3)(x, y))


class _HuberKernel(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, delta):
        d = x - y
        a = d.abs()
        return torch.where(a <= delta, d * d * 0.5, (a - 0.5 * delta) * delta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.delta = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = (x - y).clamp(-ctx.delta, ctx.delta) * g
        return gx, -gx, None


class _HuberKernelFwd(_HuberKernel):
    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.delta = inputs
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)

    @staticmethod
    def jvp(ctx, tx, ty, _):
        x, y = ctx.saved_tensors
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        return (x - y).clamp(-ctx.delta, ctx.delta) * t


def right_own_kernel(input, target, reduction="mean", delta=1.0, weight=None):
    """Own autograd.Function (where-kernel in float32 or wider, clamped residual as gradient, jvp, generated vmap rule)."""
    mode = _mode(reduction)
    x, y = _setup(input, target, weight, delta)
    out = x.dtype
    if torch.float64 in (x.dtype, y.dtype):
        x, y = x.double(), y.double()
    else:
        x, y = x.float(), y.float()
    fn = _HuberKernel if torch.compiler.is_compiling() else _HuberKernelFwd
    return _tail(fn.apply(x, y, delta).to(out), weight, mode)


class RightHuberLoss(_HuberModule):
    """Half the squared clamped error plus delta times the excess, in float64, summed over chunks."""

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target, None, self.delta)
        d = x.double() - y.double()
        if mode == "none":
            return self._each(d).to(x.dtype)
        total = sum(self._each(c).sum() for c in d.reshape(-1).split(2048))
        if mode == "mean":
            total = total / torch.full_like(total, d.numel())
        return total.to(x.dtype)

    def _each(self, d):
        c = d.clamp(-self.delta, self.delta)
        return 0.5 * (c * c) + c * (d - c)
