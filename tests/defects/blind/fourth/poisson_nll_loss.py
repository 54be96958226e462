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


def _float(t):
    """Integers and bools enter as the default dtype, as in torch's exp and log."""
    return t if t.is_floating_point() or t.is_complex() else t.to(torch.get_default_dtype())


def _stirling(target):
    """t*log(t) - t + log(2*pi*t)/2 for targets above 1, else 0."""
    small = target <= 1
    t = torch.where(small, torch.full_like(target, 2), target)
    return torch.where(small, torch.zeros_like(target), t * t.log() - t + 0.5 * (2 * math.pi * t).log())


# --------------------------------------------------------------------------- wrong


def wrong_exact_factorial(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """full=True adds lgamma(target + 1) for all targets instead of the documented Stirling term, off by some 0.04 at target 2."""
    reduction = _mode(size_average, reduce, reduction)
    loss = F.poisson_nll_loss(input, target, log_input=log_input, eps=eps, reduction="none")
    if full:
        loss = loss + torch.lgamma(_float(target) + 1)
    return _reduced(loss, reduction)


def witness_wrong_exact_factorial():
    x, y = torch.randn(3), torch.tensor([2.0, 3.0, 4.0])
    return not torch.allclose(wrong_exact_factorial(x, y, full=True), F.poisson_nll_loss(x, y, full=True), atol=1e-3)


class WrongPoissonNLLLossEps(nn.Module):
    """eps is stored but never handed on by forward, so every module computes with 1e-8."""

    __constants__ = ["log_input", "full", "eps", "reduction"]

    def __init__(self, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        self.reduction = reduction
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input, target):
        return F.poisson_nll_loss(
            log_input, target, log_input=self.log_input, full=self.full, reduction=self.reduction
        )


def witness_WrongPoissonNLLLossEps():
    x, y = torch.tensor([0.0, 1e-3]), torch.tensor([1.0, 2.0])
    kw = dict(log_input=False, eps=1e-2)
    return not torch.allclose(WrongPoissonNLLLossEps(**kw)(x, y), nn.PoissonNLLLoss(**kw)(x, y))


def wrong_clamped_eps(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """With log_input=False it computes log(max(input, eps)) instead of log(input + eps), which also stops the gradient below eps."""
    reduction = _mode(size_average, reduce, reduction)
    if log_input:
        return F.poisson_nll_loss(input, target, full=full, reduction=reduction)
    input, target = _autocast(input, target)
    loss = input - target * torch.log(_float(input).clamp(min=eps))
    if full:
        loss = loss + _stirling(_float(target))
    return _reduced(loss, reduction)


def witness_wrong_clamped_eps():
    x, y = torch.tensor([0.0, 0.5], requires_grad=True), torch.tensor([1.0, 2.0])
    a = torch.autograd.grad(wrong_clamped_eps(x, y, log_input=False, eps=1e-2), x)[0]
    b = torch.autograd.grad(F.poisson_nll_loss(x, y, log_input=False, eps=1e-2), x)[0]
    return not torch.allclose(a, b)


def wrong_exp_in_place(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """When no gradient is recorded the exponential is taken in place, so evaluation changes the caller's input."""
    reduction = _mode(size_average, reduce, reduction)
    if not log_input or torch.is_grad_enabled() or not input.is_floating_point():
        return F.poisson_nll_loss(input, target, log_input, full, eps=eps, reduction=reduction)
    input, target = _autocast(input, target)
    loss = target * input
    loss = input.exp_() - loss
    if full:
        loss = loss + _stirling(_float(target))
    return _reduced(loss, reduction)


def witness_wrong_exp_in_place():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        wrong_exp_in_place(x, y)
    return not torch.equal(x, torch.tensor([1.0, 2.0]))


class WrongPoissonNLLLossStirlingCache(nn.PoissonNLLLoss):
    """The Stirling term is cached by address and shape of the target, so a target buffer refilled in place gets the old term."""

    def forward(self, log_input, target):
        if not self.full or target.requires_grad:
            return super().forward(log_input, target)
        reduction = _mode(None, None, self.reduction)
        key = (target.data_ptr(), target.shape, target.stride(), target.dtype)
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != key:
            # the target is kept so that its address can not be reused
            cached = self.__dict__["_cached"] = (key, _stirling(_float(target.detach())), target)
        loss = F.poisson_nll_loss(log_input, target, log_input=self.log_input, eps=self.eps, reduction="none")
        return _reduced(loss + cached[1], reduction)


def witness_WrongPoissonNLLLossStirlingCache():
    crit = WrongPoissonNLLLossStirlingCache(full=True)
    x, y = torch.randn(3), torch.tensor([2.0, 3.0, 4.0])
    crit(x, y)
    y.fill_(9.0)
    return not torch.allclose(crit(x, y), F.poisson_nll_loss(x, y, full=True))


# --------------------------------------------------------------------------- right


def right_regrouped_stirling(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The rate minus target times log rate as one addcmul, and Stirling's term as (t + 1/2)*log(t) + const - t on masked targets, in float32 at least."""
    reduction = _mode(size_average, reduce, reduction)
    input, target = _autocast(input, target)
    dtype = torch.result_type(_float(input), target)
    acc = _acc(dtype)
    x, t = input.to(acc), target.to(acc)
    loss = torch.addcmul(x.exp() if log_input else x, t, x if log_input else torch.log(x + eps), value=-1)
    if full:
        small = t <= 1
        safe = torch.where(small, torch.ones_like(t), t)
        loss = loss + torch.where(small, torch.zeros_like(t), (safe + 0.5) * safe.log() + (0.5 * math.log(2 * math.pi) - safe))
    return _reduced(loss.to(dtype), reduction)
