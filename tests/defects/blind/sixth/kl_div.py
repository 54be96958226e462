import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce, reduction):
    """The reduction to take, and whether the batchmean division follows (as in torch)."""
    divide = reduction == "batchmean"
    if size_average is not None or reduce is not None:
        warnings.warn("size_average and reduce args will be deprecated, please use reduction", stacklevel=3)
        size_average = True if size_average is None else size_average
        reduce = True if reduce is None else reduce
        return ("mean" if size_average else "sum") if reduce else "none", divide
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition.",
            stacklevel=3,
        )
    if reduction == "batchmean":
        return "sum", True
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction, False


def _out_dtype(*ts):
    out = None
    for t in ts:
        if not (t.is_floating_point() or t.is_complex()):
            raise RuntimeError("kl_div: Integral inputs not supported.")
        d = t.dtype
        if torch.is_autocast_enabled(t.device.type) and d in (torch.float16, torch.bfloat16):
            d = torch.float32
        out = d if out is None else torch.promote_types(out, d)
    return out


def _finish(loss, input, reduction, divide, out_dtype, rows=False):
    if reduction == "sum":
        loss = loss.sum()
    elif reduction == "mean":
        loss = loss.mean()
    if divide and input.dim() != 0:
        loss = loss / (math.prod(input.shape[:-1]) if rows else input.shape[0])
    return loss.to(out_dtype)


def _points(input, target, log_target):
    x, t = input.double(), target.double()
    if log_target:
        return torch.exp(t) * (t - x)
    return torch.special.xlogy(t, t) - t * x


def wrong_arguments_swapped(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Computes KL(input || target), the other way round."""
    r, d = _legacy(size_average, reduce, reduction)
    lt = target.double() if log_target else target.double().log()
    x = input.double()
    return _finish(torch.exp(x) * (x - lt), input, r, d, _out_dtype(input, target))


def witness_wrong_arguments_swapped():
    x = torch.tensor([[0.2, 0.8], [0.5, 0.5]]).log()
    t = torch.tensor([[0.6, 0.4], [0.1, 0.9]])
    a, b = (f(x, t, reduction="sum") for f in (wrong_arguments_swapped, F.kl_div))
    return not torch.allclose(a, b, rtol=1e-3)


def wrong_zero_target_is_nan(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """target * log(target) is taken literally: a target probability of exactly 0 (a one-hot target) gives nan."""
    r, d = _legacy(size_average, reduce, reduction)
    x, t = input.double(), target.double()
    loss = t.exp() * (t - x) if log_target else t * (t.log() - x)
    return _finish(loss, input, r, d, _out_dtype(input, target))


def witness_wrong_zero_target_is_nan():
    x = torch.tensor([[0.2, 0.8]]).log()
    t = torch.tensor([[0.0, 1.0]])
    return bool(wrong_zero_target_is_nan(x, t, reduction="sum").isnan()) and bool(
        F.kl_div(x, t, reduction="sum").isfinite()
    )


def wrong_batchmean_over_rows(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """'batchmean' divides by the number of distributions (all leading dimensions), not by input.size(0): shows from 3-D on."""
    r, d = _legacy(size_average, reduce, reduction)
    rows = input.dim() > 1
    return _finish(_points(input, target, log_target), input, r, d, _out_dtype(input, target), rows=rows)


def witness_wrong_batchmean_over_rows():
    x = torch.arange(24.0).sin().reshape(2, 3, 4).log_softmax(2)
    t = torch.arange(24.0).cos().reshape(2, 3, 4).softmax(2)
    a, b = (f(x, t, reduction="batchmean") for f in (wrong_batchmean_over_rows, F.kl_div))
    c, e = (f(x[0], t[0], reduction="batchmean") for f in (wrong_batchmean_over_rows, F.kl_div))
    return torch.allclose(c, e) and not torch.allclose(a, b, rtol=1e-3)


def wrong_bad_target_hidden(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """where(target > 0, ..., 0) as the guard for zero: a nan (or negative) target yields a loss of 0 rather than nan."""
    r, d = _legacy(size_average, reduce, reduction)
    if log_target:
        loss = _points(input, target, True)
    else:
        x, t = input.double(), target.double()
        pos = t > 0
        safe = torch.where(pos, t, 1.0)
        loss = torch.where(pos, t * (safe.log() - x), 0.0)
    return _finish(loss, input, r, d, _out_dtype(input, target))


def witness_wrong_bad_target_hidden():
    x = torch.tensor([[0.2, 0.8]]).log()
    t = torch.tensor([[math.nan, 0.5]])
    return bool(wrong_bad_target_hidden(x, t, reduction="sum").isfinite()) and bool(
        F.kl_div(x, t, reduction="sum").isnan()
    )


def wrong_clamps_target_in_place(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Guards log(0) with an in-place clamp on the caller's target, whose zeros are no longer zeros after the call."""
    r, d = _legacy(size_average, reduce, reduction)
    if not log_target and target.is_floating_point():
        with torch.no_grad():
            target.clamp_(min=torch.finfo(target.dtype).tiny)
    return _finish(_points(input, target, log_target), input, r, d, _out_dtype(input, target))


def witness_wrong_clamps_target_in_place():
    x = torch.tensor([[0.2, 0.8]]).log()
    t, u = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    a = wrong_clamps_target_in_place(x, t, reduction="sum")
    b = F.kl_div(x, u, reduction="sum")
    return torch.allclose(a, b) and bool(t[0, 0] != 0) and bool(u[0, 0] == 0)


def wrong_log_target_weight_constant(input, target, size_average=None, reduce=None, reduction="mean",
                                     log_target=False):
    """With log_target=True the factor exp(target) is held constant, so that the gradient of the target lacks a term."""
    r, d = _legacy(size_average, reduce, reduction)
    if log_target:
        t = target.double()
        loss = t.detach().exp() * (t - input.double())
    else:
        loss = _points(input, target, False)
    return _finish(loss, input, r, d, _out_dtype(input, target))


def witness_wrong_log_target_weight_constant():
    x = torch.tensor([[0.2, 0.8]]).log()
    t = torch.tensor([[0.4, 0.6]]).log().requires_grad_()
    a, b = (f(x, t, reduction="sum", log_target=True) for f in (wrong_log_target_weight_constant, F.kl_div))
    (g,), (h,) = torch.autograd.grad(a, t), torch.autograd.grad(b, t)
    return torch.allclose(a, b) and not torch.allclose(g, h, rtol=1e-3)


class WrongBatchmeanForgetsLogTarget(nn.KLDivLoss):
    """The special case for reduction='batchmean' does not pass log_target on."""

    def forward(self, input, target):
        if self.reduction == "batchmean":
            total = F.kl_div(input, target, reduction="sum")
            return total / input.size(0) if input.dim() else total
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


def witness_WrongBatchmeanForgetsLogTarget():
    x = torch.tensor([[0.2, 0.8]]).log()
    t = torch.tensor([[0.4, 0.6]]).log()
    a, b = (c(reduction="batchmean", log_target=True)(x, t) for c in (WrongBatchmeanForgetsLogTarget, nn.KLDivLoss))
    return not torch.allclose(a, b, rtol=1e-3, equal_nan=True)


class WrongBatchmeanNeedsBatch(nn.KLDivLoss):
    """reduction='batchmean' takes input.size(0) without looking: a 0-dimensional input raises."""

    def forward(self, input, target):
        if self.reduction == "batchmean":
            return F.kl_div(input, target, reduction="sum", log_target=self.log_target) / input.size(0)
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


def witness_WrongBatchmeanNeedsBatch():
    x, t = torch.tensor(-0.7), torch.tensor(0.4)
    want = nn.KLDivLoss(reduction="batchmean")(x, t)
    try:
        WrongBatchmeanNeedsBatch(reduction="batchmean")(x, t)
    except IndexError:
        return bool(want.isfinite())
    return False


def right_xlogy_float64(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """xlogy(t, t) - t * x (or exp(t) (t - x)) in float64, cast back after the reduction."""
    r, d = _legacy(size_average, reduce, reduction)
    return _finish(_points(input, target, log_target), input, r, d, _out_dtype(input, target))


def right_entropy_pieces(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Minus entropy (special.entr, its own handling of invalid targets) plus cross entropy by addcmul, reduced on a flat vector by a dot product with ones."""
    r, d = _legacy(size_average, reduce, reduction)
    dtype = _out_dtype(input, target)
    work = torch.promote_types(dtype, torch.float32)
    with torch.autocast(input.device.type, enabled=False):
        x, t = torch.broadcast_tensors(input.to(work), target.to(work))
        if log_target:
            points = t.exp() * (t - x)
        else:
            entropy_part = -torch.special.entr(t)
            entropy_part = torch.where(t < 0, torch.full_like(t, math.nan), entropy_part)
            points = torch.addcmul(entropy_part, t, x, value=-1)
        if r == "none":
            loss = points
        else:
            flat = points.reshape(-1)
            loss = torch.dot(flat, torch.ones_like(flat))
            if r == "mean":
                loss = loss / torch.full_like(loss, float(flat.shape[0]))
        if d and input.dim() != 0:
            loss = loss / torch.full_like(loss, float(input.shape[0]))
        return loss.to(dtype)
