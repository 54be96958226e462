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


def _check_dtype(input, target, name="mse"):
    dtype = torch.result_type(input, target)
    if not dtype.is_floating_point:
        raise NotImplementedError(f'"{name}" not implemented for \'{dtype}\'')
    return dtype


def _weighted(squared, weight, input, reduction):
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    weighted = squared * weight
    if reduction == "mean":
        return weighted.sum() / weight.sum()
    return _reduced(weighted, reduction)


# --------------------------------------------------------------------------- wrong


def wrong_normalised_weight(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With reduction='mean' the caller's weight tensor is normalised in place, so it is changed by the call."""
    reduction = _mode(size_average, reduce, reduction)
    if weight is None or reduction != "mean" or weight.size() != input.size():
        return F.mse_loss(input, target, reduction=reduction, weight=weight)
    _warn_sizes(input, target)
    squared = (input - target).square()
    w = weight.clone() if weight.requires_grad else weight.to(torch.result_type(squared, weight))
    w /= w.sum()
    return (squared * w).sum()


def witness_wrong_normalised_weight():
    w = torch.tensor([1.0, 2.0, 3.0])
    keep = w.clone()
    wrong_normalised_weight(torch.randn(3), torch.randn(3), weight=w)
    return not torch.equal(w, keep)


_CHUNK = 1024


def wrong_chunked_accumulator(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The chunked sum is accumulated in the input's dtype, so bfloat16 and float16 sums of many elements stagnate."""
    reduction = _mode(size_average, reduce, reduction)
    if weight is not None or reduction == "none":
        return F.mse_loss(input, target, reduction=reduction, weight=weight)
    _warn_sizes(input, target)
    input, target = _autocast(input, target)
    dtype = _check_dtype(input, target)
    input, target = torch.broadcast_tensors(input, target)
    x, y = input.reshape(-1), target.reshape(-1)
    total = torch.zeros((), dtype=dtype, device=input.device)
    for xc, yc in zip(x.split(_CHUNK), y.split(_CHUNK)):
        total = total + (xc - yc).square().sum()
    return total / x.numel() if reduction == "mean" else total


def witness_wrong_chunked_accumulator():
    x, y = torch.ones(2**20, dtype=torch.bfloat16), torch.zeros(2**20, dtype=torch.bfloat16)
    return abs(wrong_chunked_accumulator(x, y).item() - F.mse_loss(x, y).item()) > 0.1


class WrongMSELossMonitor(nn.MSELoss):
    """Keeps the last loss in a persistent buffer, so state_dict is not empty and torch's checkpoints do not load strictly."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("last_loss", torch.zeros(()))

    def forward(self, input, target):
        loss = F.mse_loss(input, target, reduction=self.reduction)
        self.last_loss = loss.detach().mean().float()
        return loss


def witness_WrongMSELossMonitor():
    try:
        WrongMSELossMonitor().load_state_dict(nn.MSELoss().state_dict())
    except RuntimeError:
        return len(WrongMSELossMonitor().state_dict()) > 0
    return False


class _SkipTarget(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, target):
        return (input - target).square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        if not ctx.needs_input_grad[0]:
            return None, None
        input, target = ctx.saved_tensors
        grad = 2 * (input - target) * grad_output
        return grad.to(input.dtype), (-grad).to(target.dtype) if ctx.needs_input_grad[1] else None


def wrong_early_return_backward(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The backward returns early when input needs no gradient, so a target that needs one gets none."""
    reduction = _mode(size_average, reduce, reduction)
    _warn_sizes(input, target)
    input, target = _autocast(input, target)
    dtype = _check_dtype(input, target)
    x, y = torch.broadcast_tensors(input, target)
    squared = _SkipTarget.apply(x.to(dtype), y.to(dtype))
    if weight is not None:
        return _weighted(squared, weight, input, reduction)
    return _reduced(squared, reduction)


def witness_wrong_early_return_backward():
    x, y = torch.randn(4), torch.randn(4, requires_grad=True)
    try:
        wrong_early_return_backward(x, y).backward()
    except RuntimeError:
        return True
    want = torch.autograd.grad(F.mse_loss(x, y), y)[0]
    return y.grad is None or not torch.allclose(y.grad, want)


class _SavedDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        diff = input - target
        ctx.save_for_backward(diff)
        return diff.square()

    @staticmethod
    def backward(ctx, grad_output):
        (diff,) = ctx.saved_tensors
        grad = 2 * diff * grad_output
        return grad, -grad if ctx.needs_input_grad[1] else None


def wrong_saved_difference(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The custom backward uses the difference saved in forward, so the second derivative with respect to input is lost."""
    reduction = _mode(size_average, reduce, reduction)
    _warn_sizes(input, target)
    input, target = _autocast(input, target)
    dtype = _check_dtype(input, target)
    x, y = torch.broadcast_tensors(input, target)
    squared = _SavedDifference.apply(x.to(dtype), y.to(dtype))
    if weight is not None:
        return _weighted(squared, weight, input, reduction)
    return _reduced(squared, reduction)


def witness_wrong_saved_difference():
    x = torch.randn(4, dtype=torch.double, requires_grad=True)
    y = torch.randn(4, dtype=torch.double)

    def penalty(loss):
        w = torch.tensor(1.0, dtype=torch.double, requires_grad=True)
        (g,) = torch.autograd.grad(w * loss(x, y), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x, allow_unused=True)[0]

    got, want = penalty(wrong_saved_difference), penalty(F.mse_loss)
    return got is None or not torch.allclose(got, want)


class WrongMSELossWorkspace(nn.MSELoss):
    """Without grad mode the result lives in a workspace kept on the module, so the next call overwrites an earlier unreduced result."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self._work = None

    def forward(self, input, target):
        if torch.is_grad_enabled() or input.size() != target.size() or input.dtype != target.dtype \
                or torch.is_autocast_enabled(input.device.type) or not input.is_floating_point():
            return F.mse_loss(input, target, reduction=self.reduction)
        work = self._work
        if work is None or work.size() != input.size() or work.dtype != input.dtype or work.device != input.device:
            work = self._work = torch.empty_like(input)
        torch.sub(input, target, out=work)
        return _reduced(work.mul_(work), _mode(None, None, self.reduction))


def witness_WrongMSELossWorkspace():
    crit = WrongMSELossWorkspace(reduction="none")
    with torch.no_grad():
        first = crit(torch.ones(3), torch.zeros(3))
        crit(torch.ones(3) * 5, torch.zeros(3))
    return not torch.equal(first, torch.ones(3))


# --------------------------------------------------------------------------- right


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, target):
        acc = _acc(input.dtype)
        return (input.to(acc) - target.to(acc)).square().to(input.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, input_t, target_t):
        input, target = ctx.saved_tensors
        diff = 2 * (input - target)
        if input_t is None:
            return -diff * target_t
        return diff * input_t if target_t is None else diff * (input_t - target_t)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        acc = _acc(input.dtype)
        grad = (2 * (input.to(acc) - target.to(acc)) * grad_output.to(acc)).to(input.dtype)
        return grad if ctx.needs_input_grad[0] else None, -grad if ctx.needs_input_grad[1] else None


def right_own_function(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """An own autograd.Function (with jvp and differentiable backward) squares in float32 at least."""
    reduction = _mode(size_average, reduce, reduction)
    _warn_sizes(input, target)
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    if weight is None:
        input, target = _autocast(input, target)
    dtype = _check_dtype(input, target)
    x, y = torch.broadcast_tensors(input, target)
    squared = _Square.apply(x.to(dtype), y.to(dtype))
    if weight is not None:
        return _weighted(squared, weight, input, reduction)
    return _reduced(squared, reduction)


class RightMSELossRows(nn.MSELoss):
    """The residual's rows are squared as products with themselves and summed row by row in float32 (float64 for double), then over the rows."""

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        _warn_sizes(input, target)
        input, target = _autocast(input, target)
        dtype = _check_dtype(input, target)
        acc = _acc(dtype)
        residual = input.to(dtype).to(acc) - target.to(dtype).to(acc)
        squared = residual * residual
        if reduction == "none":
            return squared.to(dtype)
        rows = squared.sum(-1) if squared.dim() else squared
        total = rows.sum()
        if reduction == "mean":
            total = total / squared.numel() if squared.numel() else total * float("nan")
        return total.to(dtype)
