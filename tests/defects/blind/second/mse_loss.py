"""Wrong and right implementations of mse_loss, written without sight of the suite."""
import warnings

import torch
from torch.nn import functional as F


def _word(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return F._Reduction.legacy_get_string(size_average, reduce)
    F._Reduction.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def _pair(input, target, weight):
    if target.size() != input.size():
        warnings.warn(f"Using a target size ({target.size()}) that is different to the input size "
                      f"({input.size()}).", stacklevel=3)
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    return torch.broadcast_tensors(input, target)


def _finish(sq, weight, word):
    if weight is None:
        return _reduced(sq, word)
    sq = sq * weight
    if word != "mean":
        return _reduced(sq, word)
    wide = torch.promote_types(sq.dtype, torch.float32)
    return (sq.sum(dtype=wide) / weight.sum(dtype=wide)).to(sq.dtype)


def wrong_expanded_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """x^2 - 2xt + t^2: cancels when values are large against their difference."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    sq = (x * x - 2 * x * t + t * t).clamp_min(0)
    return _finish(sq, weight, word)


def witness_wrong_expanded_square():
    x = torch.full((6,), 4000.0)
    t = x + torch.tensor([0.01, 0.02, 0.03, 0.01, 0.02, 0.04])
    return not torch.allclose(wrong_expanded_square(x, t), F.mse_loss(x, t), rtol=1e-2)


def wrong_half_sum_overflow(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """mean = sum / numel in the input's own dtype: the sum of a large half batch is inf."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    sq = (x - t).square()
    if weight is not None:
        return _finish(sq, weight, word)
    return sq.sum() / sq.numel() if word == "mean" else _reduced(sq, word)


def witness_wrong_half_sum_overflow():
    x, t = torch.full((300, 300), 1.0, dtype=torch.half), torch.zeros(300, 300, dtype=torch.half)
    return bool(torch.isinf(wrong_half_sum_overflow(x, t))) and bool(torch.isfinite(F.mse_loss(x, t)))


def _in_memory_order(t):
    strides = sorted(zip(t.stride(), t.shape))
    want = 1
    for stride, size in strides:
        if size != 1 and stride != want:
            return t.reshape(-1)
        want *= size
    return t.as_strided((t.numel(),), (1,), t.storage_offset())


def wrong_storage_order(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Dense tensors are walked in memory order, as a kernel on data_ptr does: channels_last meets contiguous."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    if word == "none" or weight is not None:
        return _finish((x - t).square(), weight, word)
    return _reduced((_in_memory_order(x) - _in_memory_order(t)).square(), word)


def witness_wrong_storage_order():
    x, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    y = x.contiguous(memory_format=torch.channels_last)
    return torch.allclose(wrong_storage_order(x, t), F.mse_loss(x, t)) and not torch.allclose(
        wrong_storage_order(y, t), F.mse_loss(y, t))


def wrong_by_norm_hessian(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Squared vector_norm: the second derivative at a perfect fit is lost."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    d = x - t
    if word == "none" or weight is not None:
        return _finish(d * d, weight, word)
    wide = d.double() if d.dtype in (torch.half, torch.bfloat16) else d
    total = torch.linalg.vector_norm(wide).square()
    return (total / d.numel() if word == "mean" else total).to(d.dtype)


def witness_wrong_by_norm_hessian():
    t = torch.tensor([1.0, 2.0])
    x = t.clone().requires_grad_()
    def hess(fn):
        (g,) = torch.autograd.grad(fn(x, t), x, create_graph=True)
        return torch.autograd.grad(g.sum(), x)[0]
    return not torch.allclose(hess(wrong_by_norm_hessian), hess(F.mse_loss))


class _SquareNoTarget(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return (x - t).square()

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        return 2 * (x - t) * g, None


class WrongTargetIsConstant(torch.nn.Module):
    """The fused backward gives nothing to a target that requires a gradient (two trained branches)."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input, target):
        x, t = _pair(input, target, None)
        return _reduced(_SquareNoTarget.apply(x, t), self.reduction)


def witness_WrongTargetIsConstant():
    x, t = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    WrongTargetIsConstant()(x, t).backward()
    return t.grad is None


def wrong_autocast_matmul(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Reduces by a matrix product, which autocast turns to low precision; mse_loss runs in float32 there."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    d = x - t
    if word == "none" or weight is not None or d.dtype in (torch.half, torch.bfloat16):
        return _finish(d * d, weight, word)
    flat = d.reshape(-1)
    total = torch.mm(flat.unsqueeze(0), flat.unsqueeze(1)).reshape(())
    return total / d.numel() if word == "mean" else total


def witness_wrong_autocast_matmul():
    x, t = torch.randn(50), torch.randn(50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, want = wrong_autocast_matmul(x, t), F.mse_loss(x, t)
    return want.dtype == torch.float32 and got.dtype != want.dtype


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return (x - t).square()

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        gx = 2 * (x - t) * g
        return gx, (-gx if ctx.needs_input_grad[1] else None)


def right_own_backward(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """autograd.Function, differentiable twice."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    dtype = torch.result_type(x, t)
    return _finish(_Square.apply(x.to(dtype), t.to(dtype)), weight, word)


def right_in_float64(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Everything in float64, rounded once at the end."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, weight)
    dtype = torch.result_type(x, t)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
        weight = weight.double()
    d = x.double() - t.double()
    return _finish(d * d, weight, word).to(dtype)
