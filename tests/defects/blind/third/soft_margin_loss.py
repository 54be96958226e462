import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _setup(input, target, size_average, reduce, reduction):
    mode = _mode(reduction, size_average, reduce)
    x, y = _autocast(input, target)
    if not x.is_floating_point():
        raise RuntimeError(f"soft_margin_loss: floating point input expected, got {x.dtype}")
    if torch.broadcast_shapes(x.shape, y.shape) != x.shape:
        raise RuntimeError(f"target of shape {tuple(y.shape)} does not fit input of shape {tuple(x.shape)}")
    dt = x.dtype
    w = _wide(dt)
    return x.to(w), y.to(w), dt, mode


def _pointwise(z):
    """log(1 + exp(-z))"""
    return -F.logsigmoid(z)


# --------------------------------------------------------------------- wrong


def wrong_log_of_one_plus(input, target, size_average=None, reduce=None, reduction="mean"):
    """The overflow of exp is avoided, but log(1 + e) is used in place of log1p(e), so that the loss of
    confident right predictions (margin above 17 in float32) is rounded to zero or a few coarse steps."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    z = y * x
    pos = torch.where(z > 0, z, torch.zeros_like(z))
    neg = torch.where(z > 0, torch.zeros_like(z), z)
    loss = torch.where(z > 0, (1 + (-pos).exp()).log(), (1 + neg.exp()).log() - neg)
    return _reduce(loss, mode).to(dt)


def witness_wrong_log_of_one_plus():
    x = torch.tensor([18.0])
    return wrong_log_of_one_plus(x, torch.ones(1)).item() == 0.0 and F.soft_margin_loss(x, torch.ones(1)).item() > 1e-8


class _FusedSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return _pointwise(z).sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return -torch.sigmoid(-z)

    @staticmethod
    def jvp(ctx, t):
        (z,) = ctx.saved_tensors
        return (-torch.sigmoid(-z) * t).sum()


def wrong_ignores_upstream_gradient(input, target, size_average=None, reduce=None, reduction="mean"):
    """For reduction='sum' the fused backward assumes that the incoming gradient is 1, so that scaling
    the loss (loss weights, gradient scaler, accumulation) does not scale the gradients."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    z = y * x
    if mode == "sum":
        return _FusedSum.apply(z).to(dt)
    return _reduce(_pointwise(z), mode).to(dt)


def witness_wrong_ignores_upstream_gradient():
    x = torch.randn(4, requires_grad=True)
    y = torch.tensor([1.0, -1.0, 1.0, -1.0])
    (a,) = torch.autograd.grad(wrong_ignores_upstream_gradient(x, y, reduction="sum") * 8, x)
    (b,) = torch.autograd.grad(F.soft_margin_loss(x, y, reduction="sum") * 8, x)
    return torch.allclose(8 * a, b)


class _ScaledInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        z = y * x
        ctx.save_for_backward(x, y)
        ctx.slope = -y * torch.sigmoid(-z)
        return _pointwise(z)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            return -(g * y) * torch.sigmoid(-(y * x)), None
        return ctx.slope.mul_(g), None


def wrong_backward_overwrites_slope(input, target, size_average=None, reduce=None, reduction="mean"):
    """The backward multiplies the slope kept from the forward pass by the incoming gradient in place: a second
    backward through the same graph (retain_graph=True) gives products of both incoming gradients."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if x.requires_grad and not y.requires_grad and _plain(x) and _plain(y) and not _forward_ad():
        loss = _ScaledInBackward.apply(x, y)
    else:
        loss = _pointwise(y * x)
    return _reduce(loss, mode).to(dt)


def _forward_ad():
    return torch.autograd.forward_ad._current_level >= 0


def witness_wrong_backward_overwrites_slope():
    x = torch.randn(4, requires_grad=True)
    loss = wrong_backward_overwrites_slope(x, torch.tensor([1.0, -1.0, 1.0, -1.0]))
    (a,) = torch.autograd.grad(loss, x, retain_graph=True)
    a = a.clone()
    (b,) = torch.autograd.grad(loss, x)
    return not torch.allclose(a, b)


def wrong_flattened_output_lost(input, target, size_average=None, reduce=None, reduction="mean"):
    """The unreduced result is filled through a flattened alias of zeros_like(input); for a transposed (dense but not
    contiguous) input zeros_like keeps the strides, ravel() copies, and zeros are returned."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(y * x)
    if mode != "none" or not _plain(loss):
        return _reduce(loss, mode).to(dt)
    out = torch.zeros_like(x.detach(), dtype=dt)
    out.ravel()[:] = loss.reshape(-1).to(dt)
    return out


def witness_wrong_flattened_output_lost():
    x = torch.randn(3, 4)
    y = torch.ones(3, 4)
    ok = torch.allclose(wrong_flattened_output_lost(x, y, reduction="none"), F.soft_margin_loss(x, y, reduction="none"))
    return ok and not wrong_flattened_output_lost(x.t(), y.t(), reduction="none").any()


def wrong_zero_dim_becomes_one_dim(input, target, size_average=None, reduce=None, reduction="mean"):
    """A 0-dimensional input is treated as a vector of one element, and with reduction='none' a tensor of
    shape (1,) is returned instead of the input's shape ()."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    return _reduce(_pointwise(torch.atleast_1d(y * x)), mode).to(dt)


def witness_wrong_zero_dim_becomes_one_dim():
    return wrong_zero_dim_becomes_one_dim(torch.tensor(0.3), torch.tensor(1.0), reduction="none").shape == (1,)


def wrong_zeros_in_default_dtype(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(exp(0) + exp(-z)) with a tensor of zeros in torch's default dtype: after
    set_default_dtype(torch.float64) a float32 input gives a float64 loss."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    z = y * x
    loss = torch.logaddexp(torch.zeros(z.shape, device=z.device), -z)
    return _reduce(loss, mode).to(loss.dtype if dt == torch.float32 else dt)


def witness_wrong_zeros_in_default_dtype():
    x = torch.randn(3)
    before = wrong_zeros_in_default_dtype(x, torch.ones(3)).dtype
    torch.set_default_dtype(torch.float64)
    try:
        return before == torch.float32 and wrong_zeros_in_default_dtype(x, torch.ones_like(x)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# --------------------------------------------------------------------- right


class _LogisticLoss(torch.autograd.Function):
    """max(-z, 0) + log1p(exp(-|z|))"""

    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return (-z).clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return -(g * torch.sigmoid(-z))

    @staticmethod
    def jvp(ctx, t):
        (z,) = ctx.saved_tensors
        return -(t * torch.sigmoid(-z))


def right_custom_function(input, target, size_average=None, reduce=None, reduction="mean"):
    """Own autograd function that neither overflows nor loses small losses."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    return _reduce(_LogisticLoss.apply(y * x), mode).to(dt)


def right_logsigmoid(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(1 + exp(-z)) = -logsigmoid(z), 16-bit inputs widened, rounded once at the end."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction)
    return _reduce(-F.logsigmoid(y * x), mode).to(dt)
