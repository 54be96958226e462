import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Reduction


def _mode(size_average, reduce, reduction):
    """Resolve the deprecated arguments, then check the reduction's name."""
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return ("none", "mean", "sum")[_Reduction.get_enum(reduction)]


def _reduce(loss, reduction):
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def _up(x):
    """float16 and bfloat16 are computed in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _pair(input, target):
    """Warn when the sizes differ, then broadcast."""
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _check_delta(delta):
    if not delta > 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")


def _check_weight(weight, input):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _huber(d, delta):
    """Correct, unreduced."""
    a = d.abs()
    m = a.clamp(max=delta)
    return m * (a - 0.5 * m)


def _finish(loss, weight, reduction, dtype):
    if weight is None:
        return _reduce(loss, reduction).to(dtype)
    return _reduce(loss.to(dtype) * weight, reduction)


def wrong_slope_one(input, target, reduction="mean", delta=1.0, weight=None):
    """The linear part lacks the factor delta: |d| - 0.5 * delta; shows for |d| > delta with delta other than 1."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    d = _up(x - y)
    a = d.abs()
    m = a.clamp(max=delta)
    loss = torch.where(a < delta, 0.5 * m * m, a - 0.5 * delta)
    return _finish(loss, weight, reduction, input.dtype)


def witness_wrong_slope_one():
    x, y = torch.tensor([5.0]), torch.tensor([0.0])
    return wrong_slope_one(x, y, delta=2.0).item() == 4.0 and F.huber_loss(x, y, delta=2.0).item() == 8.0


def wrong_weighted_mean_normalised(input, target, reduction="mean", delta=1.0, weight=None):
    """With a weight the mean divides by the sum of the weights, not by the number of elements ('the mean of the output is taken'); shows for weights that do not average 1."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    loss = _huber(_up(x - y), delta)
    if weight is not None and reduction == "mean":
        return (loss.to(input.dtype) * weight).sum() / weight.sum()
    return _finish(loss, weight, reduction, input.dtype)


def witness_wrong_weighted_mean_normalised():
    x, y, w = torch.randn(4, 3), torch.randn(4, 3), torch.rand(4, 3) + 2
    return not torch.allclose(wrong_weighted_mean_normalised(x, y, weight=w), F.huber_loss(x, y, weight=w))


def wrong_zero_delta_accepted(input, target, reduction="mean", delta=1.0, weight=None):
    """Refuses only a negative delta; shows for delta = 0, which must be positive and here gives 0 without a word."""
    reduction = _mode(None, None, reduction)
    if delta != 0:
        _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    return _finish(_huber(_up(x - y), delta), weight, reduction, input.dtype)


def witness_wrong_zero_delta_accepted():
    x, y = torch.randn(4), torch.randn(4)
    try:
        F.huber_loss(x, y, delta=0.0)
    except RuntimeError:
        return wrong_zero_delta_accepted(x, y, delta=0.0).item() == 0.0
    return False


def wrong_half_square_overflow(input, target, reduction="mean", delta=1.0, weight=None):
    """Squares in the input's dtype before halving; shows in float16 for 256 <= |d| < delta, where the square is inf although its half fits."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    d = x - y
    if d.dtype == torch.float16:
        inside = torch.where(d.abs() < delta, d, torch.zeros_like(d))
        loss = torch.where(d.abs() < delta, inside * inside * 0.5, _huber(d.float(), delta).half())
    else:
        loss = _huber(_up(d), delta)
    return _finish(loss, weight, reduction, input.dtype)


def witness_wrong_half_square_overflow():
    x = torch.full((3,), 300.0, dtype=torch.float16)
    y = torch.zeros_like(x)
    return math.isinf(wrong_half_square_overflow(x, y, delta=400.0).item()) and math.isfinite(F.huber_loss(x, y, delta=400.0).item())


def wrong_where_gradient(input, target, reduction="mean", delta=1.0, weight=None):
    """Both branches go through torch.where, so an infinite difference has gradient 0 * inf = NaN instead of +-delta; shows for infinite inputs or targets in the backward."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    d = _up(x - y)
    loss = torch.where(d.abs() < delta, 0.5 * d * d, delta * (d.abs() - 0.5 * delta))
    return _finish(loss, weight, reduction, input.dtype)


def witness_wrong_where_gradient():
    y = torch.tensor([float("inf"), 0.0])
    grads = []
    for f in (wrong_where_gradient, F.huber_loss):
        x = torch.zeros(2, requires_grad=True)
        grads += torch.autograd.grad(f(x, y, reduction="sum", delta=2.0), x)
    return bool(grads[0][0].isnan()) and grads[1][0].item() == -2.0


def wrong_weight_detached(input, target, reduction="mean", delta=1.0, weight=None):
    """The weight is detached and gets no gradient; shows when weights are learned."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    if weight is not None:
        weight = weight.detach()
    return _finish(_huber(_up(x - y), delta), weight, reduction, input.dtype)


def witness_wrong_weight_detached():
    x = torch.randn(4, requires_grad=True)
    w = torch.rand(4, requires_grad=True)
    wrong_weight_detached(x, torch.randn(4), weight=w).backward()
    return w.grad is None


def wrong_pseudo_huber(input, target, reduction="mean", delta=1.0, weight=None):
    """Is the smooth pseudo-Huber loss delta^2 * (sqrt(1 + (d / delta)^2) - 1); values differ everywhere but near 0."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    d = _up(x - y)
    loss = delta * delta * ((1 + (d / delta) ** 2).sqrt() - 1)
    return _finish(loss, weight, reduction, input.dtype)


def witness_wrong_pseudo_huber():
    x, y = torch.randn(10) * 3, torch.zeros(10)
    return not torch.allclose(wrong_pseudo_huber(x, y), F.huber_loss(x, y), rtol=0.02)


def _memory_order(t):
    """A flat view of a dense tensor, as a kernel sees it through data_ptr."""
    dense = torch.empty_like(t, memory_format=torch.preserve_format).stride() == t.stride()
    if dense and t.numel():
        return torch.as_strided(t, (t.numel(),), (1,), t.storage_offset())
    return t.reshape(-1)


def wrong_reads_memory_order(input, target, reduction="mean", delta=1.0, weight=None):
    """Like a kernel that takes data_ptr without contiguous(): dense tensors are read in memory order; shows when only one of input and target is transposed (or channels_last)."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    if input.shape == target.shape and input.stride() != target.stride():
        _pair(input, target)
        d = _memory_order(input) - _memory_order(target)
        loss = _huber(_up(d), delta).reshape(input.shape)
    else:
        x, y = _pair(input, target)
        loss = _huber(_up(x - y), delta)
    return _finish(loss, weight, reduction, input.dtype)


def witness_wrong_reads_memory_order():
    x, y = torch.randn(3, 5).t(), torch.randn(5, 3)
    same = torch.allclose(wrong_reads_memory_order(x.contiguous(), y), F.huber_loss(x, y))
    return same and not torch.allclose(wrong_reads_memory_order(x, y), F.huber_loss(x, y))


def right_infimal_convolution(input, target, reduction="mean", delta=1.0, weight=None):
    """Clip the difference: half the square of the clipped part plus delta times what was cut off."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    d = _up(x - y)
    c = torch.where(d.abs() > delta, delta * d.sgn(), d)
    loss = 0.5 * c * c + delta * (d - c).abs()
    return _finish(loss, weight, reduction, input.dtype)


class _HuberFn(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, delta):
        a = d.abs()
        m = torch.where(a > delta, torch.full_like(a, delta), a)
        return m * a - 0.5 * m * m

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.delta = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad * d.clamp(-ctx.delta, ctx.delta), None

    @staticmethod
    def jvp(ctx, tangent, _):
        (d,) = ctx.saved_tensors
        return tangent * d.clamp(-ctx.delta, ctx.delta)


def right_own_backward(input, target, reduction="mean", delta=1.0, weight=None):
    """Own autograd.Function (gradient: the clipped difference), in float32 for the small dtypes."""
    reduction = _mode(None, None, reduction)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y = _pair(input, target)
    loss = _HuberFn.apply(_up(x) - _up(y), float(delta))
    return _finish(loss, weight, reduction, input.dtype)
