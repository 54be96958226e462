"""Wrong and right implementations of poisson_nll_loss, written without sight of the suite."""
import math

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


def _poisson_word(size_average, reduce, reduction):
    if size_average is None and reduce is None and reduction not in ("none", "mean", "sum"):
        raise ValueError(str(reduction) + " is not a valid value for reduction")
    return _word(size_average, reduce, reduction)


def _stirling(t, dtype):
    t = t.to(torch.promote_types(t.dtype, dtype)) if not t.is_floating_point() else t
    big = t > 1
    safe = torch.where(big, t, torch.ones_like(t))
    term = safe * safe.log() - safe + 0.5 * torch.log(2 * math.pi * safe)
    return torch.where(big, term, torch.zeros_like(term))


def wrong_eps_as_floor(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """log(max(input, eps)) instead of log(input + eps)."""
    word = _poisson_word(size_average, reduce, reduction)
    loss = input.exp() - target * input if log_input else input - target * input.clamp_min(eps).log()
    if full:
        loss = loss + _stirling(target, input.dtype)
    return _reduced(loss, word)


def witness_wrong_eps_as_floor():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([3.0, 1.0])
    return not torch.allclose(wrong_eps_as_floor(x, t, log_input=False, eps=0.1), F.poisson_nll_loss(x, t, log_input=False, eps=0.1))


def wrong_full_only_with_log_input(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The Stirling term sits in the log_input branch; with log_input=False full is silently ignored."""
    word = _poisson_word(size_average, reduce, reduction)
    if not log_input:
        loss = input - target * torch.log(input + eps)
    elif full:
        loss = input.exp() - target * input + _stirling(target, input.dtype)
    else:
        loss = input.exp() - target * input
    return _reduced(loss, word)


def witness_wrong_full_only_with_log_input():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([3.0, 5.0])
    return not torch.allclose(wrong_full_only_with_log_input(x, t, log_input=False, full=True),
                              F.poisson_nll_loss(x, t, log_input=False, full=True))


def wrong_exponent_clamped(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """exp(min(input, 20)) for stability: above, value and gradient are wrong."""
    word = _poisson_word(size_average, reduce, reduction)
    loss = input.clamp(max=20).exp() - target * input if log_input else input - target * torch.log(input + eps)
    if full:
        loss = loss + _stirling(target, input.dtype)
    return _reduced(loss, word)


def witness_wrong_exponent_clamped():
    x, t = torch.tensor([22.0, 1.0]), torch.tensor([3.0, 1.0])
    return not torch.allclose(wrong_exponent_clamped(x, t), F.poisson_nll_loss(x, t))


def wrong_stirling_in_target_dtype(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The Stirling term is written into zeros_like(target): with integer counts it is truncated."""
    word = _poisson_word(size_average, reduce, reduction)
    loss = input.exp() - target * input if log_input else input - target * torch.log(input + eps)
    if full:
        term = torch.zeros_like(target)
        big = target > 1
        t = target[big]
        term[big] = (t * t.log() - t + 0.5 * torch.log(2 * math.pi * t)).to(term.dtype)
        loss = loss + term
    return _reduced(loss, word)


def witness_wrong_stirling_in_target_dtype():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([3, 5])
    return not torch.allclose(wrong_stirling_in_target_dtype(x, t, full=True), F.poisson_nll_loss(x, t, full=True)) and \
        torch.allclose(wrong_stirling_in_target_dtype(x, t.float(), full=True), F.poisson_nll_loss(x, t.float(), full=True))


class WrongExactFactorial(torch.nn.Module):
    """full=True adds lgamma(target + 1), as other frameworks do, instead of the documented approximation."""

    def __init__(self, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
        super().__init__()
        self.log_input, self.full, self.eps = log_input, full, eps
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, log_input, target):
        loss = F.poisson_nll_loss(log_input, target, self.log_input, False, eps=self.eps, reduction="none")
        if self.full:
            loss = loss + torch.lgamma(target + 1.0)
        return _reduced(loss, self.reduction)


def witness_WrongExactFactorial():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([2.0, 3.0])
    return not torch.allclose(WrongExactFactorial(full=True)(x, t), F.poisson_nll_loss(x, t, full=True), rtol=1e-3)


def wrong_full_changes_target(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """To keep log(0) out, zero counts are lifted to 1 before both terms when full is set: -target * input
    then counts an event that was not there."""
    word = _poisson_word(size_average, reduce, reduction)
    if full:
        target = target.clamp(min=1)
    loss = input.exp() - target * input if log_input else input - target * torch.log(input + eps)
    if full:
        loss = loss + _stirling(target, input.dtype)
    return _reduced(loss, word)


def witness_wrong_full_changes_target():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([0.0, 3.0])
    return not torch.allclose(wrong_full_changes_target(x, t, full=True), F.poisson_nll_loss(x, t, full=True))


def right_xlogy(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """addcmul and xlogy."""
    word = _poisson_word(size_average, reduce, reduction)
    if log_input:
        loss = input.exp() - target * input
    else:
        loss = input - torch.xlogy(target, input + eps)
    if full:
        t = target if target.is_floating_point() else target.to(input.dtype)
        t1 = t.clamp_min(1)
        term = torch.xlogy(t1, t1) - t1 + 0.5 * (t1.log() + math.log(2 * math.pi))
        loss = loss + term * (t > 1)
    return _reduced(loss, word)


class _Poisson(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, log_input, eps):
        ctx.save_for_backward(x, t)
        ctx.log_input, ctx.eps = log_input, eps
        return x.exp() - t * x if log_input else x - t * torch.log(x + eps)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        gt = None
        if ctx.log_input:
            gx = g * (x.exp() - t)
        else:
            gx = g * (1 - t / (x + ctx.eps))
        if ctx.needs_input_grad[1]:
            gt = -g * (x if ctx.log_input else torch.log(x + ctx.eps))
        return gx, gt, None, None


def right_own_backward(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """autograd.Function with the analytic gradient."""
    word = _poisson_word(size_average, reduce, reduction)
    x, t = torch.broadcast_tensors(input, target)
    loss = _Poisson.apply(x, t, log_input, eps)
    if full:
        loss = loss + _stirling(t, input.dtype)
    return _reduced(loss, word)
