import copy
import math
import pickle
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Reduction

_HALF = (torch.float16, torch.bfloat16)


def _mode(size_average, reduce, reduction):
    """Resolve deprecated arguments and validate, as torch does."""
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _autocast(*tensors):
    """torch runs this loss in float32 below autocast."""
    if torch.is_autocast_enabled(tensors[0].device.type):
        tensors = tuple(t.float() if t is not None and t.dtype in _HALF else t for t in tensors)
    return tensors


def _acc(dtype):
    return torch.float32 if dtype in _HALF else dtype


def _reduced(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _warn_sizes(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )


def _finish(absolute, weight, input, reduction):
    if weight is not None:
        if weight.size() != input.size():
            raise ValueError("Weights and input must have the same size.")
        absolute = absolute * weight
        if reduction == "mean":
            return absolute.sum() / weight.sum()
    return _reduced(absolute, reduction)


# --------------------------------------------------------------------------- wrong


class _SignAtTie(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, target):
        return (input - target).abs()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _slope(input, target):
        return torch.where(input > target, 1.0, -1.0).to(input.dtype)

    @staticmethod
    def jvp(ctx, input_t, target_t):
        slope = _SignAtTie._slope(*ctx.saved_tensors)
        if input_t is None:
            return -slope * target_t
        return slope * input_t if target_t is None else slope * (input_t - target_t)

    @staticmethod
    def backward(ctx, grad_output):
        grad = _SignAtTie._slope(*ctx.saved_tensors) * grad_output
        return grad if ctx.needs_input_grad[0] else None, -grad if ctx.needs_input_grad[1] else None


def wrong_tie_gradient(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The custom backward uses +1/-1 from a comparison, so where input equals target the gradient is -1 instead of 0."""
    reduction = _mode(size_average, reduce, reduction)
    if weight is None:
        input, target = _autocast(input, target)
    dtype = torch.result_type(input, target)
    if not dtype.is_floating_point or torch.bool in (input.dtype, target.dtype):
        return F.l1_loss(input, target, reduction=reduction, weight=weight)
    _warn_sizes(input, target)
    x, y = torch.broadcast_tensors(input, target)
    return _finish(_SignAtTie.apply(x.to(dtype), y.to(dtype)), weight, input, reduction)


def witness_wrong_tie_gradient():
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_tie_gradient(x, torch.tensor([1.0, 0.0, 3.0])), x)
    return g[0].item() != 0.0


def wrong_input_numel(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean divides by the number of elements of input, which is too few when target broadcasts input up."""
    reduction = _mode(size_average, reduce, reduction)
    _warn_sizes(input, target)
    if weight is None:
        input, target = _autocast(input, target)
    absolute = (input - target).abs()
    if weight is not None or reduction != "mean" or not absolute.is_floating_point():
        return _finish(absolute, weight, input, reduction)
    return (absolute.sum(dtype=_acc(absolute.dtype)) / input.numel()).to(absolute.dtype)


def witness_wrong_input_numel():
    x, y = torch.zeros(3, 1), torch.ones(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrong_input_numel(x, y).item() != F.l1_loss(x, y).item()


class WrongL1LossLegacy(nn.Module):
    """The deprecated arguments only count when both are given; size_average=False alone still means 'mean'."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None and reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        self.reduction = reduction

    def forward(self, input, target):
        return F.l1_loss(input, target, reduction=self.reduction)


def witness_WrongL1LossLegacy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = torch.zeros(4), torch.ones(4)
        return WrongL1LossLegacy(size_average=False)(x, y).item() != nn.L1Loss(size_average=False)(x, y).item()


def wrong_complex_modulus(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """For complex tensors the modulus is sqrt(re^2 + im^2), whose gradient is nan where input equals target."""
    reduction = _mode(size_average, reduce, reduction)
    _warn_sizes(input, target)
    if weight is None:
        input, target = _autocast(input, target)
    diff = input - target
    if diff.is_complex():
        absolute = torch.view_as_real(diff.resolve_conj()).square().sum(-1).sqrt()
    else:
        absolute = diff.abs()
    return _finish(absolute, weight, input, reduction)


def witness_wrong_complex_modulus():
    x = torch.tensor([1 + 1j, 2 - 1j], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_complex_modulus(x, torch.tensor([1 + 1j, 0j])), x)
    return bool(torch.isnan(torch.view_as_real(g)).any())


class WrongL1LossTargetCast(nn.L1Loss):
    """The target is cast to the input's dtype, so integer inputs truncate a fractional target and a float64 target loses its precision."""

    def forward(self, input, target):
        return F.l1_loss(input, target.to(input.dtype), reduction=self.reduction)


def witness_WrongL1LossTargetCast():
    x, y = torch.zeros(3), torch.full((3,), 0.1, dtype=torch.double)
    a, b = WrongL1LossTargetCast()(x, y), nn.L1Loss()(x, y)
    i = torch.tensor([1, 2, 3])
    c = WrongL1LossTargetCast(reduction="none")(i, i + 0.5)
    return a.dtype != b.dtype and not torch.allclose(c.float(), torch.full((3,), 0.5))


# --------------------------------------------------------------------------- right


def right_max_minus_min(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|a-b| is written max(a, b) - min(a, b) for real floating tensors."""
    reduction = _mode(size_average, reduce, reduction)
    _warn_sizes(input, target)
    if weight is None:
        input, target = _autocast(input, target)
    dtype = torch.result_type(input, target)
    if not dtype.is_floating_point or torch.bool in (input.dtype, target.dtype):
        return _finish((input - target).abs(), weight, input, reduction)
    x, y = input.to(dtype), target.to(dtype)
    return _finish(torch.maximum(x, y) - torch.minimum(x, y), weight, input, reduction)


class RightL1LossSigned(nn.L1Loss):
    """The residual is multiplied by its own detached sign and reduced in chunks, in float32 at least."""

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        _warn_sizes(input, target)
        input, target = _autocast(input, target)
        dtype = torch.result_type(input, target)
        if not dtype.is_floating_point or torch.bool in (input.dtype, target.dtype):
            return _reduced((input - target).abs(), reduction)
        acc = _acc(dtype)
        residual = input.to(dtype).to(acc) - target.to(dtype).to(acc)
        sign = residual.detach().sign()
        absolute = torch.where(sign == 0, residual * 0, torch.where(sign < 0, -residual, residual))
        if reduction == "none":
            return absolute.to(dtype)
        flat = absolute.reshape(-1)
        total = torch.stack([part.sum() for part in flat.split(65536)]).sum()
        if reduction == "mean":
            total = total / flat.numel() if flat.numel() else total * float("nan")
        return total.to(dtype)
