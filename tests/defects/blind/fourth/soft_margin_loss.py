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


def _prepare(input, target):
    """Check as torch does: the result has input's dtype and size, target is not differentiable."""
    input, target = _autocast(input, target)
    if target.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("soft_margin_loss is not differentiable with respect to argument 'target'.")
    if not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"result type Float can't be cast to the desired output type {input.dtype}")
    shape = torch.broadcast_shapes(input.size(), target.size())
    if shape != input.size():
        raise RuntimeError(f"output with shape {list(input.size())} doesn't match the broadcast shape {list(shape)}")
    return input, target


# --------------------------------------------------------------------------- wrong


def wrong_log_one_plus(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(1 + exp(-y*x)) without log1p: in float32 the loss of a well classified element is exactly 0 from a margin of 17 on."""
    reduction = _mode(size_average, reduce, reduction)
    input, target = _prepare(input, target)
    z = -input.to(_acc(input.dtype)) * target.to(_acc(input.dtype))
    return _reduced(torch.log(1 + torch.exp(z)).to(input.dtype), reduction)


def witness_wrong_log_one_plus():
    x = torch.tensor([18.0, 20.0])
    got = wrong_log_one_plus(x, torch.ones(2), reduction="none")
    return bool((got == 0).all()) and bool((F.soft_margin_loss(x, torch.ones(2), reduction="none") > 0).all())


class WrongSoftMarginLossEval(nn.SoftMarginLoss):
    """In eval mode the loss is computed without recording gradients, so attacks or saliency on an evaluated model get none."""

    def forward(self, input, target):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return F.soft_margin_loss(input, target, reduction=self.reduction)


def witness_WrongSoftMarginLossEval():
    x = torch.randn(3, requires_grad=True)
    return not WrongSoftMarginLossEval().eval()(x, torch.ones(3)).requires_grad


def wrong_silent_broadcast(input, target, size_average=None, reduce=None, reduction="mean"):
    """A target that broadcasts to more elements than input, (N, 1) against (N,), is accepted where torch raises a RuntimeError."""
    reduction = _mode(size_average, reduce, reduction)
    shape = torch.broadcast_shapes(input.size(), target.size())
    return F.soft_margin_loss(input.expand(shape), target, reduction=reduction)


def witness_wrong_silent_broadcast():
    try:
        F.soft_margin_loss(torch.randn(3, 1), torch.ones(3))
    except RuntimeError:
        return wrong_silent_broadcast(torch.randn(3, 1), torch.ones(3)).dim() == 0
    return False


class _InPlaceCotangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        acc = _acc(input.dtype)
        z = -input.to(acc) * target.to(acc)
        ctx.save_for_backward(input, target)
        return torch.logaddexp(z, torch.zeros_like(z)).to(input.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        acc = _acc(input.dtype)
        y = target.to(acc)
        slope = (-y * torch.sigmoid(-input.to(acc) * y)).to(input.dtype)
        if torch.is_grad_enabled() or not grad_output.is_contiguous():
            return grad_output * slope, None
        return grad_output.mul_(slope), None


def wrong_in_place_cotangent(input, target, size_average=None, reduce=None, reduction="mean"):
    """The custom backward multiplies the incoming gradient in place, so with reduction='none' a cotangent that is used elsewhere is corrupted."""
    reduction = _mode(size_average, reduce, reduction)
    input, target = _prepare(input, target)
    if input.is_complex():
        return F.soft_margin_loss(input, target, reduction=reduction)
    return _reduced(_InPlaceCotangent.apply(input, target), reduction)


def witness_wrong_in_place_cotangent():
    x, g = torch.randn(3, requires_grad=True), torch.ones(3)
    torch.autograd.grad(wrong_in_place_cotangent(x, torch.ones(3), reduction="none"), x, g)
    return not torch.equal(g, torch.ones(3))


class WrongSoftMarginLossEmpty(nn.SoftMarginLoss):
    """The mean of an empty batch is 0 because the divisor is kept at 1 or more, where torch's is nan."""

    def forward(self, input, target):
        if self.reduction != "mean":
            return F.soft_margin_loss(input, target, reduction=self.reduction)
        loss = F.soft_margin_loss(input, target, reduction="none")
        return (loss.sum(dtype=_acc(loss.dtype)) / max(loss.numel(), 1)).to(loss.dtype)


def witness_WrongSoftMarginLossEmpty():
    e = torch.zeros(0)
    return bool(torch.isnan(nn.SoftMarginLoss()(e, e))) and WrongSoftMarginLossEmpty()(e, e).item() == 0.0


# --------------------------------------------------------------------------- right


def right_logaddexp(input, target, size_average=None, reduce=None, reduction="mean"):
    """logaddexp(0, -y*x), stable for every margin, computed in float32 at least."""
    reduction = _mode(size_average, reduce, reduction)
    input, target = _prepare(input, target)
    if input.is_complex():
        return _reduced((-input * target).exp().log1p(), reduction)
    acc = _acc(input.dtype)
    z = -input.to(acc) * target.to(acc)
    return _reduced(torch.logaddexp(z, torch.zeros_like(z)).to(input.dtype), reduction)
