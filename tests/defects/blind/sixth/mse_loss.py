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


def _real(input, target):
    dt = torch.promote_types(input.dtype, target.dtype)
    if not dt.is_floating_point:
        raise NotImplementedError(f"not implemented for {dt}")


def _check_weight(weight, input):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _weighted(e, weight, mode):
    if weight is None:
        return _reduce(e, mode)
    e = e * weight
    return e.sum() / weight.sum() if mode == "mean" else _reduce(e, mode)


def _prepare(input, target, weight):
    x, y = _pair(input, target)
    _check_weight(weight, input)
    if weight is None:
        _real(x, y)
        return _amp(x, y)
    return x, y


def wrong_half_squared(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Computes 0.5 * (x - y)^2 (optax.l2_loss) instead of (x - y)^2, in every call."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    return _weighted(0.5 * (x - y).square(), weight, mode)


def witness_wrong_half_squared():
    x, y = torch.randn(5), torch.randn(5)
    return not torch.allclose(wrong_half_squared(x, y), F.mse_loss(x, y))


def wrong_mean_last_axis(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """'mean' averages only over the last axis (Keras), so that a 2-D input gives a vector instead of a scalar."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    e = (x - y).square()
    if mode == "mean" and e.dim() > 1:
        return e.mean(-1) if weight is None else (e * weight).sum(-1) / weight.sum(-1)
    return _weighted(e, weight, mode)


def witness_wrong_mean_last_axis():
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    return wrong_mean_last_axis(x, y).shape != F.mse_loss(x, y).shape


def wrong_expanded_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Expands to x^2 - 2xy + y^2, which cancels (and may turn negative) where input and target are large and close."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    x, y = x.to(torch.promote_types(x.dtype, y.dtype)), y.to(torch.promote_types(x.dtype, y.dtype))
    dt = x.dtype
    x, y = _wide(x), _wide(y)
    return _weighted((x * x - 2 * x * y + y * y).to(dt), weight, mode)


def witness_wrong_expanded_square():
    x, y = torch.tensor([3000.1, 5000.2]), torch.tensor([3000.0, 5000.0])
    return not torch.allclose(wrong_expanded_square(x, y), F.mse_loss(x, y), rtol=1e-2, atol=0)


class _FrozenGrad(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        d = x - y
        return d * d, d

    @staticmethod
    def setup_context(ctx, inputs, output):
        d = output[1]
        ctx.mark_non_differentiable(d)
        ctx.save_for_backward(d)
        ctx.save_for_forward(d)

    @staticmethod
    def backward(ctx, g, _):
        (d,) = ctx.saved_tensors
        g = 2 * g * d
        return g, -g

    @staticmethod
    def jvp(ctx, tx, ty):
        (d,) = ctx.saved_tensors
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        return 2 * d * t, None


def wrong_no_second_derivative(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """A fused autograd.Function saves the residual as a constant, so that the second derivative (gradient penalty, Hessian) is zero."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    if torch.compiler.is_compiling():
        e = (x - y).square()
    else:
        e = _FrozenGrad.apply(x, y)[0]
    return _weighted(e, weight, mode)


def witness_wrong_no_second_derivative():
    x, y = torch.randn(4, requires_grad=True), torch.randn(4)

    def second(f):
        (g,) = torch.autograd.grad(f(x, y, reduction="sum"), x, create_graph=True)
        if not g.requires_grad:
            return torch.zeros(4)
        h = torch.autograd.grad(g.sum(), x, allow_unused=True)[0]
        return torch.zeros(4) if h is None else h

    return not torch.allclose(second(wrong_no_second_derivative), second(F.mse_loss))


def wrong_target_buffer_reused(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """To save memory the residual is written into the caller's target tensor, which is thus changed by the call."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    reusable = (
        y.shape == target.shape
        and x.dtype == y.dtype
        and y.dtype == target.dtype
        and not target.requires_grad
        and target is not input
        and target.is_contiguous()
    )
    d = (target.sub_(x) if reusable else y - x)
    return _weighted(d.square(), weight, mode)


def witness_wrong_target_buffer_reused():
    x, y = torch.randn(4), torch.randn(4)
    before = y.clone()
    same = torch.allclose(F.mse_loss(x, y.clone()), wrong_target_buffer_reused(x, y))
    return same and not torch.equal(before, y)


def wrong_weight_sum_clamped(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The weighted mean divides by max(sum(weight), 1) (an 'avg_factor' guard), wrong whenever the weights sum to less than 1."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    e = (x - y).square()
    if weight is not None and mode == "mean":
        return (e * weight).sum() / weight.sum().clamp(min=1)
    return _weighted(e, weight, mode)


def witness_wrong_weight_sum_clamped():
    x, y, w = torch.randn(4), torch.randn(4), torch.full((4,), 0.1)
    return not torch.allclose(wrong_weight_sum_clamped(x, y, weight=w), F.mse_loss(x, y, weight=w))


class WrongMSELossLegacy(nn.Module):
    """The deprecated size_average=False alone is mapped to 'none' instead of to 'sum'."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__()
        if size_average is False and reduce is None:
            _Reduction.legacy_get_string(size_average, reduce)  # the deprecation warning
            reduction = "none"
        elif size_average is not None or reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        self.reduction = reduction

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _prepare(input, target, None)
        return _reduce((x - y).square(), mode)


def witness_WrongMSELossLegacy():
    x, y = torch.randn(4), torch.randn(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WrongMSELossLegacy(size_average=False)(x, y).shape != nn.MSELoss(size_average=False)(x, y).shape


class WrongMSELossStaleCount(_Loss):
    """The divisor of 'mean' is cached at the first call, so that a later batch of another size (the last, smaller one) is divided by the wrong number."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__(size_average, reduce, reduction)
        self._count = None

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _prepare(input, target, None)
        e = (x - y).square()
        if mode != "mean" or e.numel() == 0:
            return _reduce(e, mode)
        if self._count is None:
            self._count = e.numel()
        return _wide(e).sum().div(self._count).to(e.dtype)


def witness_WrongMSELossStaleCount():
    m = WrongMSELossStaleCount()
    x, y = torch.randn(8, 3), torch.randn(8, 3)
    first = torch.allclose(m(x, y), F.mse_loss(x, y))
    return first and not torch.allclose(m(x[:2], y[:2]), F.mse_loss(x[:2], y[:2]))


def right_float64_chunks(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Everything in float64, summed over flat chunks of 1024 elements, rounded once at the end."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _prepare(input, target, weight)
    out = torch.promote_types(x.dtype, y.dtype)
    if out.is_complex:
        return _weighted((x - y).square(), weight, mode)
    if weight is not None:
        out = torch.promote_types(out, weight.dtype)
    if not out.is_floating_point:
        return _weighted((x - y).square(), weight, mode)
    d = x.double() - y.double()
    if mode == "none":
        e = d * d if weight is None else d * d * weight.double()
        return e.to(out)
    parts = d.reshape(-1).split(1024)
    if weight is None:
        total = sum((c * c).sum() for c in parts)
        n = torch.full_like(total, d.numel())
    else:
        ws = weight.double().reshape(-1).split(1024)
        total = sum((c * c * w).sum() for c, w in zip(parts, ws))
        n = sum(w.sum() for w in ws)
    return (total / n if mode == "mean" else total).to(out)


class _SquaredError(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        d = x - y
        return d.mul_(d)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = (x - y) * (g + g)
        return gx.to(x.dtype), (-gx).to(y.dtype)


class _SquaredErrorFwd(_SquaredError):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tx, ty):
        x, y = ctx.saved_tensors
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        return 2 * (x - y) * t


class RightMSELoss(_Loss):
    """Own autograd.Function for the squared error, with a differentiable backward, a jvp and a generated vmap rule."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _prepare(input, target, None)
        fn = _SquaredError if torch.compiler.is_compiling() else _SquaredErrorFwd
        return _reduce(fn.apply(x, y), mode)
