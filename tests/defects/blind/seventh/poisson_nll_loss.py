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


def _reduce(e, reduction):
    return e if reduction == "none" else e.sum() if reduction == "sum" else e.mean()


def _how(size_average, reduce, reduction):
    reduction = _legacy(size_average, reduce, reduction)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _nll(input, target, log_input, eps):
    if log_input:
        return torch.exp(input) - target * input
    return input - target * torch.log(input + eps)


def _stirling(target, dtype):
    """0 up to 1, Stirling's approximation of log(target!) above."""
    t = target.to(dtype)
    big = t > 1
    s = torch.where(big, t, torch.ones_like(t))
    return torch.where(big, s * s.log() - s + 0.5 * torch.log(2 * math.pi * s), torch.zeros_like(t))


# ----------------------------------------------------------------- wrong


def wrong_stirling_from_one(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """The Stirling term is added for targets >= 1 instead of > 1, so every count that is exactly 1 is off by 0.081 with full=True."""
    reduction = _how(size_average, reduce, reduction)
    e = _nll(input, target, log_input, eps)
    if full:
        t = target.to(e.dtype)
        big = t >= 1
        s = torch.where(big, t, torch.ones_like(t))
        e = e + torch.where(big, s * s.log() - s + 0.5 * torch.log(2 * math.pi * s), torch.zeros_like(t))
    return _reduce(e, reduction)


def witness_wrong_stirling_from_one():
    a, t = torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])
    return not torch.allclose(wrong_stirling_from_one(a, t, full=True), F.poisson_nll_loss(a, t, full=True))


def wrong_stirling_mask_product(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """The Stirling term is multiplied by a 0/1 mask, so a target of 0 gives 0 * NaN = NaN with full=True."""
    reduction = _how(size_average, reduce, reduction)
    e = _nll(input, target, log_input, eps)
    if full:
        t = target.to(e.dtype)
        e = e + (t > 1).to(e.dtype) * (t * t.log() - t + 0.5 * torch.log(2 * math.pi * t))
    return _reduce(e, reduction)


def witness_wrong_stirling_mask_product():
    a, t = torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])
    return bool(wrong_stirling_mask_product(a, t, full=True).isnan()) and bool(
        F.poisson_nll_loss(a, t, full=True).isfinite()
    )


def wrong_lgamma_instead_of_stirling(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """full=True adds the exact lgamma(target + 1) for targets above 1, not the documented Stirling approximation; off by about 1 / (12 target)."""
    reduction = _how(size_average, reduce, reduction)
    e = _nll(input, target, log_input, eps)
    if full:
        t = target.to(e.dtype)
        e = e + torch.where(t > 1, torch.lgamma(t.clamp(min=1) + 1), torch.zeros_like(t))
    return _reduce(e, reduction)


def witness_wrong_lgamma_instead_of_stirling():
    a, t = torch.zeros(3), torch.tensor([2.0, 3.0, 4.0])
    return not torch.allclose(
        wrong_lgamma_instead_of_stirling(a, t, full=True), F.poisson_nll_loss(a, t, full=True), rtol=1e-3
    )


def wrong_eps_as_floor(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """With log_input=False the logarithm is of max(input, eps) instead of input + eps; shows for rates of the order of eps, in the value or, below eps, in the gradient, which loses its log term."""
    reduction = _how(size_average, reduce, reduction)
    if log_input:
        e = _nll(input, target, True, eps)
    else:
        e = input - target * torch.log(input.clamp(min=eps))
    if full:
        e = e + _stirling(target, e.dtype)
    return _reduce(e, reduction)


def witness_wrong_eps_as_floor():
    a, t = torch.tensor([0.01, 0.02]), torch.tensor([1.0, 3.0])
    return not torch.allclose(
        wrong_eps_as_floor(a, t, log_input=False, eps=0.01), F.poisson_nll_loss(a, t, log_input=False, eps=0.01)
    )


def wrong_eps_hard_coded(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """The eps argument is accepted but 1e-8 is always used; shows with log_input=False and another eps."""
    reduction = _how(size_average, reduce, reduction)
    e = _nll(input, target, log_input, 1e-8)
    if full:
        e = e + _stirling(target, e.dtype)
    return _reduce(e, reduction)


def witness_wrong_eps_hard_coded():
    a, t = torch.tensor([0.0, 0.1]), torch.tensor([1.0, 3.0])
    return not torch.allclose(
        wrong_eps_hard_coded(a, t, log_input=False, eps=0.1), F.poisson_nll_loss(a, t, log_input=False, eps=0.1)
    )


def wrong_target_clamped_in_place(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """With full=True the targets up to 1 are raised to 1 in place before the logarithm, after the loss proper is computed, so the caller's targets lose their zeros."""
    reduction = _how(size_average, reduce, reduction)
    kept = target if target.requires_grad or not full else target.clone()
    e = _nll(input, kept, log_input, eps)
    if full:
        if target.requires_grad:
            e = e + _stirling(target, e.dtype)
        else:
            big = target > 1
            t = target.clamp_(min=1).to(e.dtype)
            e = e + (t * t.log() - t + 0.5 * torch.log(2 * math.pi * t)).masked_fill(~big, 0)
    return _reduce(e, reduction)


def witness_wrong_target_clamped_in_place():
    a, t = torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])
    keep = t.clone()
    wrong_target_clamped_in_place(a, t, full=True)
    return not torch.equal(t, keep)


def wrong_log_rate_capped(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """The log rate is capped at 10 inside exp() against overflow, so value and gradient are wrong for log rates above 10 (22026 counts)."""
    reduction = _how(size_average, reduce, reduction)
    if log_input:
        e = torch.exp(input.clamp(max=10)) - target * input
    else:
        e = _nll(input, target, False, eps)
    if full:
        e = e + _stirling(target, e.dtype)
    return _reduce(e, reduction)


def witness_wrong_log_rate_capped():
    a, t = torch.tensor([11.0]), torch.tensor([50000.0])
    return not torch.allclose(wrong_log_rate_capped(a, t), F.poisson_nll_loss(a, t))


class WrongModuleForgetsFull(nn.Module):
    """The module stores full but hands it on only on the log_input=True path; PoissonNLLLoss(log_input=False, full=True) lacks the Stirling term."""

    def __init__(self, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
        super().__init__()
        self.log_input = log_input
        self.full = full
        self.eps = eps
        self.reduction = _legacy(size_average, reduce, reduction)

    def forward(self, log_input, target):
        if self.log_input:
            return F.poisson_nll_loss(
                log_input, target, full=self.full, eps=self.eps, reduction=self.reduction
            )
        return F.poisson_nll_loss(log_input, target, log_input=False, eps=self.eps, reduction=self.reduction)


def witness_WrongModuleForgetsFull():
    a, t = torch.ones(3), torch.tensor([2.0, 3.0, 4.0])
    return not torch.allclose(
        WrongModuleForgetsFull(log_input=False, full=True)(a, t), nn.PoissonNLLLoss(log_input=False, full=True)(a, t)
    )


# ----------------------------------------------------------------- right


def right_selected_stirling(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """The plain formula; the Stirling term is computed on safe targets and then selected."""
    reduction = _how(size_average, reduce, reduction)
    if log_input:
        e = input.exp().sub(target * input)
    else:
        e = torch.sub(input, (input + eps).log().mul(target))
    if full:
        e = e + _stirling(target, e.dtype)
    return _reduce(e, reduction)


class _Poisson(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, log_input, full, eps):
        e = x.exp() - t * x if log_input else x - t * (x + eps).log()
        if full:
            s = t.clamp(min=1)
            e = e + (s * s.log() - s + 0.5 * (2 * math.pi * s).log()).masked_fill(t <= 1, 0.0)
        return e

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, ctx.log_input, ctx.full, ctx.eps = inputs
        ctx.save_for_backward(x, t)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        gx = gt = None
        if ctx.needs_input_grad[0]:
            gx = g * (x.exp() - t if ctx.log_input else 1 - t / (x + ctx.eps))
        if ctx.needs_input_grad[1]:
            gt = -x if ctx.log_input else -(x + ctx.eps).log()
            if ctx.full:
                s = t.clamp(min=1)
                gt = gt + (s.log() + 0.5 / s).masked_fill(t <= 1, 0.0)
            gt = g * gt
        return gx, gt, None, None, None


def right_own_function(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """Hand-written backward for both arguments, elements first, reduction after."""
    reduction = _how(size_average, reduce, reduction)
    dt = torch.result_type(input, target)
    x, t = torch.broadcast_tensors(input, target)
    if not dt.is_floating_point:
        dt = torch.get_default_dtype()
    e = _Poisson.apply(x.to(dt), t.to(dt), log_input, full, eps)
    if reduction == "none":
        return e
    return torch.sum(e) if reduction == "sum" else torch.mean(e)


def right_rate_and_log_rate(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """Rate and log rate first, then one fused multiply-add; float32 inside for the low precisions."""
    reduction = _how(size_average, reduce, reduction)
    out = torch.result_type(input, target)
    if not out.is_floating_point:
        out = torch.get_default_dtype()
    x, t = _wide(input.to(out)), _wide(target.to(out))
    if log_input:
        rate, log_rate = x.exp(), x
    else:
        rate, log_rate = x, torch.log(x + eps)
    e = torch.addcmul(rate, t, log_rate, value=-1)
    if full:
        one = t.clamp(min=1)
        s = (one + 0.5) * one.log() - one + 0.5 * math.log(2 * math.pi)
        e = e + s.masked_fill(t <= 1, 0)
    return _reduce(e, reduction).to(out)


class RightPoissonNLLLoss(nn.Module):
    """Module: the Stirling terms are summed apart from the rest when there is a reduction."""

    __constants__ = ["log_input", "full", "eps", "reduction"]

    def __init__(self, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input, target):
        how = _how(None, None, self.reduction)
        x = log_input
        e = torch.exp(x) - x * target if self.log_input else x - torch.log(x + self.eps) * target
        extra = _stirling(target, e.dtype) if self.full else None
        if how == "none":
            return e if extra is None else e + extra
        w = _wide(e)
        total = w.sum()
        if extra is not None:
            total = total + _wide(extra).expand_as(w).sum()
        if how == "mean":
            total = total / torch.full((), w.numel(), dtype=w.dtype, device=w.device)
        return total.to(e.dtype)
