import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = ("mean" if size_average else "sum") if reduce else "none"
    warnings.warn(
        "size_average and reduce args will be deprecated, please use "
        f"reduction='{name}' instead.",
        stacklevel=3,
    )
    return name


def _expand(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to "
            "broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _mode(reduction):
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _same_size(weight, input):
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _weigh(e, weight, reduction):
    if weight is not None:
        e = e * weight
    return e if reduction == "none" else e.sum() if reduction == "sum" else e.mean()


def _start(input, target, reduction, delta, weight):
    """-> input and target of one size and dtype, the dtype of the elements, the reduction"""
    x, y = _expand(input, target)
    if weight is not None:
        _same_size(weight, input)
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    reduction = _mode(reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    t = torch.result_type(x, y)
    if not t.is_floating_point:
        raise NotImplementedError(f"huber_loss is not implemented for {t}")
    return x.to(t), y.to(t), (x.dtype if x.dtype.is_floating_point else t), reduction


def _elements(x, y, delta, dtype):
    d = _wide(x) - _wide(y)
    a = d.abs()
    m = torch.where(a > delta, delta, a)
    return (m * (a - 0.5 * m)).to(dtype) if delta == 1 else (0.5 * m * m + delta * (a - m)).to(dtype)


# ----------------------------------------------------------------- wrong


def wrong_pseudo_huber(input, target, reduction="mean", delta=1.0, weight=None):
    """The smooth pseudo-Huber loss delta^2 (sqrt(1 + (d / delta)^2) - 1); shows always, least for small differences."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    d = x - y
    return _weigh((delta**2 * ((1 + (d / delta) ** 2).sqrt() - 1)).to(dt), weight, reduction)


def witness_wrong_pseudo_huber():
    a, b = torch.zeros(2), torch.tensor([0.5, 3.0])
    return not torch.allclose(wrong_pseudo_huber(a, b), F.huber_loss(a, b))


def wrong_weighted_mean_normalised(input, target, reduction="mean", delta=1.0, weight=None):
    """The weighted mean divides by the sum of the weights; huber_loss documents the mean of the (weighted) output."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    e = _elements(x, y, delta, dt)
    if weight is not None and reduction == "mean":
        return (e * weight).sum() / weight.sum()
    return _weigh(e, weight, reduction)


def witness_wrong_weighted_mean_normalised():
    a, b, w = torch.zeros(2), torch.tensor([0.5, 3.0]), torch.tensor([1.0, 3.0])
    return not torch.allclose(wrong_weighted_mean_normalised(a, b, weight=w), F.huber_loss(a, b, weight=w))


def wrong_delta_lost_with_weight(input, target, reduction="mean", delta=1.0, weight=None):
    """The weighted path computes the elements with the default delta of 1; shows only when both weight and another delta are given."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    e = _elements(x, y, delta, dt) if weight is None else _elements(x, y, 1.0, dt)
    return _weigh(e, weight, reduction)


def witness_wrong_delta_lost_with_weight():
    a, b, w = torch.zeros(2), torch.tensor([0.5, 3.0]), torch.tensor([1.0, 3.0])
    return not torch.allclose(
        wrong_delta_lost_with_weight(a, b, weight=w, delta=2.0), F.huber_loss(a, b, weight=w, delta=2.0)
    )


def wrong_weight_on_residual(input, target, reduction="mean", delta=1.0, weight=None):
    """The weight multiplies the difference before the loss instead of the loss; weights of 0 and 1 are right, all others wrong."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    if weight is not None:
        t = torch.result_type(x, weight)
        return _weigh(_elements(x.to(t) * weight, y.to(t) * weight, delta, t), None, reduction)
    return _weigh(_elements(x, y, delta, dt), None, reduction)


def witness_wrong_weight_on_residual():
    a, b, w = torch.zeros(2), torch.tensor([0.5, 3.0]), torch.tensor([0.5, 0.3])
    return not torch.allclose(wrong_weight_on_residual(a, b, weight=w), F.huber_loss(a, b, weight=w))


def wrong_writes_into_weight(input, target, reduction="mean", delta=1.0, weight=None):
    """A constant weight of the right size serves as the output buffer of the multiplication when nothing requires grad, so the caller's weights are changed."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    e = _elements(x, y, delta, dt)
    if weight is not None and not (e.requires_grad or weight.requires_grad) and weight.shape == e.shape:
        if torch.result_type(e, weight) == weight.dtype:
            e = weight.mul_(e)
            return e.clone() if reduction == "none" else _weigh(e, None, reduction)
    return _weigh(e, weight, reduction)


def witness_wrong_writes_into_weight():
    a, b, w = torch.zeros(2), torch.tensor([0.5, 3.0]), torch.tensor([0.5, 0.3])
    keep = w.clone()
    wrong_writes_into_weight(a, b, weight=w)
    return not torch.equal(w, keep)


def wrong_returns_float32(input, target, reduction="mean", delta=1.0, weight=None):
    """Low precision is widened to float32 inside and the unweighted result is never cast back, so float16 and bfloat16 inputs give a float32 loss."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    if weight is None and dt in (torch.float16, torch.bfloat16):
        dt = torch.float32
    return _weigh(_elements(x, y, delta, dt), weight, reduction)


def witness_wrong_returns_float32():
    a, b = torch.zeros(2).half(), torch.ones(2).half()
    return wrong_returns_float32(a, b).dtype != F.huber_loss(a, b).dtype


class WrongDeltaBuffer(nn.Module):
    """delta is registered as a persistent buffer, so the criterion's state_dict is not empty and a strict load of a checkpoint made with torch.nn.HuberLoss fails."""

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__()
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        self.reduction = reduction
        self.register_buffer("delta", torch.tensor(float(delta), dtype=torch.float64))

    def forward(self, input, target):
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta.item())


def witness_WrongDeltaBuffer():
    return len(WrongDeltaBuffer().state_dict()) != len(nn.HuberLoss().state_dict())


class _OpenSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, delta, dtype):
        ctx.save_for_backward(x, y)
        ctx.delta = delta
        return _elements(x, y, delta, dtype)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        d = x - y
        s = g.to(d.dtype) * torch.where(d.abs() < ctx.delta, d, d.sign())
        return s, -s, None, None


def wrong_linear_slope_one(input, target, reduction="mean", delta=1.0, weight=None):
    """The hand-written backward uses slope 1 in the linear part as Smooth L1 does, instead of delta; the value is right, the gradient wrong for delta other than 1."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    return _weigh(_OpenSlope.apply(x, y, delta, dt), weight, reduction)


def witness_wrong_linear_slope_one():
    x = torch.tensor([3.0, -0.1], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_linear_slope_one(x, torch.zeros(2), delta=0.5), x)
    (r,) = torch.autograd.grad(F.huber_loss(x, torch.zeros(2), delta=0.5), x)
    return not torch.allclose(g, r)


# ----------------------------------------------------------------- right


def right_clamped_parts(input, target, reduction="mean", delta=1.0, weight=None):
    """m = min(|d|, delta): 0.5 m^2 + delta (|d| - m), in float32 inside."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    a = torch.abs(_wide(x) - _wide(y))
    m = torch.where(a > delta, delta, a)  # NaN stays
    e = 0.5 * m.square() + delta * (a - m)
    if weight is not None:
        out = torch.promote_types(dt, weight.dtype)
        e = e * _wide(weight)
    else:
        out = dt
    return _weigh(e, None, reduction).to(out)


def right_selected_branches(input, target, reduction="mean", delta=1.0, weight=None):
    """Selects between the two branches after the unused part of the quadratic one is zeroed."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    d = x - y
    small = ~(d.abs() >= delta)  # NaN stays in the quadratic branch
    q = d.masked_fill(~small, 0)
    e = torch.where(small, 0.5 * q * q, delta * (d.abs() - 0.5 * delta)).to(dt)
    if weight is not None:
        e = torch.mul(e, weight)
    if reduction == "none":
        return e
    total = e.reshape(-1).sum(0)
    if reduction == "sum":
        return total
    # the mean of the elements, not total / n: the sum of float16 may overflow
    return _wide(e).mean().to(e.dtype)


class _Huber(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, delta):
        a = d.abs()
        return torch.where(a < delta, 0.5 * d * d, delta * (a - 0.5 * delta))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.delta = inputs[1]

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved_tensors
        return g * d.clamp(-ctx.delta, ctx.delta), None

    @staticmethod
    def jvp(ctx, td, _):
        (d,) = ctx.saved_tensors
        return td * d.clamp(-ctx.delta, ctx.delta)


def right_own_function(input, target, reduction="mean", delta=1.0, weight=None):
    """Hand-written backward: the clamped difference."""
    x, y, dt, reduction = _start(input, target, reduction, delta, weight)
    e = _Huber.apply(x - y, delta).to(dt)
    if weight is not None:
        e = weight * e
    if reduction == "none":
        return e
    return e.sum() if reduction == "sum" else e.mean()


class RightHuberLoss(nn.Module):
    """Module: the difference times its clamped self, less half the clamped square; sums by chunks."""

    __constants__ = ["reduction", "delta"]

    def __init__(self, reduction="mean", delta=1.0):
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__()
        self.reduction = reduction
        self.delta = delta

    def forward(self, input, target):
        x, y, dt, how = _start(input, target, self.reduction, self.delta, None)
        d = _wide(x) - _wide(y)
        c = d.clamp(-self.delta, self.delta)
        e = c * (d - 0.5 * c)
        if how == "none":
            return e.to(dt)
        n = e.numel()
        total = sum((p.sum() for p in e.reshape(-1).split(777)), e.new_zeros(()))
        if how == "mean":
            total = total / e.new_full((), n)
        return total.to(dt)
