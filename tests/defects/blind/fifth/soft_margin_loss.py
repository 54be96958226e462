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


def _check_target(input, target):
    if torch.is_grad_enabled() and target.requires_grad:
        raise RuntimeError("soft_margin_loss is not differentiable with respect to argument 'target'.")
    if torch.broadcast_shapes(input.shape, target.shape) != input.shape:
        raise RuntimeError(f"output with shape {list(input.shape)} doesn't match the target's shape {list(target.shape)}")


class _Softplus(torch.autograd.Function):
    """log(1 + exp(z)), for every z."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * torch.sigmoid(z)

    @staticmethod
    def jvp(ctx, tangent):
        (z,) = ctx.saved_tensors
        return tangent * torch.sigmoid(z)


def wrong_targets_zero_one(input, target, size_average=None, reduce=None, reduction="mean"):
    """Maps the targets by 2y - 1 as if they were 0 and 1, so -1 becomes -3; shows wherever a target is -1."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    y = 2 * _up(target) - 1
    loss = _Softplus.apply(-y * _up(input))
    return _reduce(loss, reduction).to(input.dtype)


def witness_wrong_targets_zero_one():
    x, y = torch.randn(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
    return not torch.allclose(wrong_targets_zero_one(x, y), F.soft_margin_loss(x, y))


def wrong_softplus_threshold(input, target, size_average=None, reduce=None, reduction="mean"):
    """Softplus turns linear from 5 on, which drops up to 0.0067; shows where -y * x is between 5 and about 12 (confident mistakes)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    z = -_up(target) * _up(input)
    loss = torch.where(z > 5, z, _Softplus.apply(z))
    return _reduce(loss, reduction).to(input.dtype)


def witness_wrong_softplus_threshold():
    x, y = torch.tensor([5.5]), torch.tensor([-1.0])
    return (F.soft_margin_loss(x, y) - wrong_softplus_threshold(x, y)).item() > 0.003


def wrong_log_of_one_plus(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(1 + e) instead of log1p(e), in the input's dtype: the loss of well classified samples rounds to 0; shows for y * x above 17 in float32 and above 8 in float16."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    z = -target * input
    small = torch.log(1 + torch.exp(torch.where(z < 0, z, torch.zeros_like(z))))
    loss = torch.where(z < 0, small, _Softplus.apply(z))
    return _reduce(loss, reduction).to(input.dtype)


def witness_wrong_log_of_one_plus():
    x, y = torch.tensor([20.0, 25.0]), torch.ones(2)
    return wrong_log_of_one_plus(x, y).item() == 0 and F.soft_margin_loss(x, y).item() > 1e-10


class _BadSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * torch.sigmoid(-z)


def wrong_backward_sigmoid_sign(input, target, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward has sigmoid(y * x) where it needs sigmoid(-y * x); values are right, gradients wrong except at 0."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    loss = _BadSoftplus.apply(-_up(target) * _up(input))
    return _reduce(loss, reduction).to(input.dtype)


def witness_wrong_backward_sigmoid_sign():
    x = torch.tensor([2.0], requires_grad=True)
    y = torch.ones(1)
    (g,) = torch.autograd.grad(wrong_backward_sigmoid_sign(x, y), x)
    (w,) = torch.autograd.grad(F.soft_margin_loss(x, y), x)
    return torch.allclose(wrong_backward_sigmoid_sign(x, y), F.soft_margin_loss(x, y)) and not torch.allclose(g, w)


def wrong_legacy_swapped(input, target, size_average=None, reduce=None, reduction="mean"):
    """The two deprecated arguments are passed on in the wrong order; shows as no reduction for size_average=False and as a sum for reduce=False."""
    reduction = _mode(reduce, size_average, reduction)
    _check_target(input, target)
    loss = _Softplus.apply(-_up(target) * _up(input))
    return _reduce(loss, reduction).to(input.dtype)


def witness_wrong_legacy_swapped():
    x, y = torch.randn(4), torch.ones(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrong_legacy_swapped(x, y, size_average=False).dim() == 1 and F.soft_margin_loss(x, y, size_average=False).dim() == 0


def wrong_float32_result(input, target, size_average=None, reduce=None, reduction="mean"):
    """Computes float16 and bfloat16 in float32 and never casts back; shows in the result's dtype for the small dtypes."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    x = _up(input)
    loss = _Softplus.apply(-_up(target).to(x.dtype) * x)
    return _reduce(loss, reduction)


def witness_wrong_float32_result():
    x = torch.randn(4).bfloat16()
    y = torch.ones_like(x)
    return wrong_float32_result(x, y).dtype == torch.float32 and F.soft_margin_loss(x, y).dtype == torch.bfloat16


class WrongDetachedInEval(nn.SoftMarginLoss):
    """In eval mode the loss is computed without a graph; shows when criterion.eval() was called (with its parent, say) and the loss is still differentiated, e.g. for saliency or attacks."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)

    def forward(self, input, target):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return F.soft_margin_loss(input, target, reduction=self.reduction)


def witness_WrongDetachedInEval():
    x = torch.randn(3, requires_grad=True)
    y = torch.ones(3)
    return WrongDetachedInEval()(x, y).requires_grad and not WrongDetachedInEval().eval()(x, y).requires_grad and nn.SoftMarginLoss().eval()(x, y).requires_grad


def right_logaddexp(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(exp(0) + exp(-y x)) by logaddexp, in float32 for the small dtypes; stable for large negative margins."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    z = (-_up(target)) * _up(input)
    loss = torch.logaddexp(torch.zeros_like(z), z)
    return _reduce(loss, reduction).to(input.dtype)


def right_own_backward(input, target, size_average=None, reduce=None, reduction="mean"):
    """Own softplus with sigmoid as its gradient; chunks of 128 for the reductions."""
    reduction = _mode(size_average, reduce, reduction)
    _check_target(input, target)
    z = _up(input) * -_up(target)
    if reduction == "none":
        return _Softplus.apply(z).to(input.dtype)
    total = torch.stack([_Softplus.apply(c).sum() for c in z.reshape(-1).split(128)]).sum()
    if reduction == "mean":
        total = total / total.new_tensor(float(z.numel()))
    return total.to(input.dtype)
