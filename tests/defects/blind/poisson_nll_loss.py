"""Wrong and right implementations of poisson_nll_loss, written without sight of the suite."""

import warnings

import torch
from torch.nn import _reduction
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


import math


def _main(input, target, log_input, eps):
    if log_input:
        return torch.exp(input) - target * input
    return input - target * torch.log(input + eps)


def _stirling(target):
    big = target > 1
    t = torch.where(big, target, torch.ones_like(target))
    term = t * torch.log(t) - t + 0.5 * torch.log(2 * math.pi * t)
    return torch.where(big, term, torch.zeros_like(term))


def wrong_stirling_in_target_dtype(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """The Stirling term is cast to the target's dtype: truncated for integer counts."""
    reduction = _mode(size_average, reduce, reduction)
    loss = _main(input, target, log_input, eps)
    if full:
        loss = loss + _stirling(target).type_as(target)
    return _reduce(loss, reduction)


def witness_wrong_stirling_in_target_dtype():
    x, t = torch.zeros(3), torch.tensor([0, 2, 5])
    return not torch.allclose(
        wrong_stirling_in_target_dtype(x, t, full=True), F.poisson_nll_loss(x, t, full=True)
    )


def wrong_stirling_from_one(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """The Stirling term is added for target >= 1, not > 1."""
    reduction = _mode(size_average, reduce, reduction)
    loss = _main(input, target, log_input, eps)
    if full:
        t = target.clamp(min=1)
        term = t * torch.log(t) - t + 0.5 * torch.log(2 * math.pi * t)
        loss = loss + torch.where(target >= 1, term, torch.zeros_like(term))
    return _reduce(loss, reduction)


def witness_wrong_stirling_from_one():
    x, t = torch.zeros(2), torch.tensor([1.0, 3.0])
    return not torch.allclose(
        wrong_stirling_from_one(x, t, full=True), F.poisson_nll_loss(x, t, full=True)
    )


def wrong_exact_factorial(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """Full adds lgamma(target + 1), not the documented Stirling approximation."""
    reduction = _mode(size_average, reduce, reduction)
    loss = _main(input, target, log_input, eps)
    if full:
        loss = loss + torch.where(target > 1, torch.lgamma(target + 1.0), 0.0).to(loss.dtype)
    return _reduce(loss, reduction)


def witness_wrong_exact_factorial():
    x, t = torch.zeros(2), torch.tensor([2.0, 30.0])
    a = wrong_exact_factorial(x, t, full=True, reduction="none")
    return not torch.allclose(a, F.poisson_nll_loss(x, t, full=True, reduction="none"), rtol=1e-3)


def wrong_rate_capped(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """Exp of the log-rate is capped at exp(20) 'for stability': value and gradient are wrong beyond."""
    reduction = _mode(size_average, reduce, reduction)
    if log_input:
        loss = torch.exp(input.clamp(max=20.0)) - target * input
    else:
        loss = input - target * torch.log(input + eps)
    if full:
        loss = loss + _stirling(target)
    return _reduce(loss, reduction)


def witness_wrong_rate_capped():
    x, t = torch.tensor([22.0]), torch.tensor([1e9])
    return not torch.allclose(wrong_rate_capped(x, t), F.poisson_nll_loss(x, t))


def wrong_legacy_needs_both(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """size_average or reduce override the reduction only if both are given."""
    if size_average is None or reduce is None:
        reduction = _mode(None, None, reduction)
    else:
        reduction = _mode(size_average, reduce, reduction)
    loss = _main(input, target, log_input, eps)
    if full:
        loss = loss + _stirling(target)
    return _reduce(loss, reduction)


def witness_wrong_legacy_needs_both():
    x, t = torch.zeros(3), torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = (
            wrong_legacy_needs_both(x, t, size_average=False),
            F.poisson_nll_loss(x, t, size_average=False),
        )
    return not torch.allclose(a, b)


_STIRLING = {}


def wrong_stirling_cached_by_address(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """The target's constant term is cached by address and shape: stale once a target buffer is refilled."""
    reduction = _mode(size_average, reduce, reduction)
    loss = _main(input, target, log_input, eps)
    if full and target.requires_grad:
        loss = loss + _stirling(target)
    elif full:
        key = (target.data_ptr(), target.shape, target.stride(), target.dtype, target.device)
        if key not in _STIRLING:
            _STIRLING.clear()
            _STIRLING[key] = _stirling(target)
        loss = loss + _STIRLING[key]
    return _reduce(loss, reduction)


def witness_wrong_stirling_cached_by_address():
    x, t = torch.zeros(3), torch.tensor([2.0, 3.0, 4.0])
    wrong_stirling_cached_by_address(x, t, full=True)
    t.copy_(torch.tensor([20.0, 30.0, 40.0]))
    a = wrong_stirling_cached_by_address(x, t, full=True)
    return not torch.allclose(a, F.poisson_nll_loss(x, t, full=True))


def wrong_graph_under_no_grad(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """Computes under enable_grad: evaluation under no_grad still builds and keeps a graph."""
    reduction = _mode(size_average, reduce, reduction)
    with torch.enable_grad():
        loss = _main(input, target, log_input, eps)
        if full:
            loss = loss + _stirling(target)
        return _reduce(loss, reduction)


def witness_wrong_graph_under_no_grad():
    x = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        return wrong_graph_under_no_grad(x, torch.ones(3)).requires_grad


class WrongEpsDroppedPoissonNLLLoss(_Loss):
    """Keeps eps, shows it, and forgets to hand it on."""

    def __init__(
        self, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
    ):
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input, target):
        return F.poisson_nll_loss(
            log_input, target, log_input=self.log_input, full=self.full, reduction=self.reduction
        )


def witness_WrongEpsDroppedPoissonNLLLoss():
    a, b = WrongEpsDroppedPoissonNLLLoss(False, eps=0.1), torch.nn.PoissonNLLLoss(False, eps=0.1)
    x, t = torch.tensor([0.2, 1.0]), torch.tensor([1.0, 2.0])
    return not torch.allclose(a(x, t), b(x, t))


class _Poisson(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, log_input, eps):
        if log_input:
            return torch.exp(x) - t * x
        return x - t * torch.log(x + eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, ctx.log_input, ctx.eps = inputs
        ctx.save_for_backward(x, t)
        ctx.save_for_forward(x, t)

    @staticmethod
    def _partials(ctx):
        x, t = ctx.saved_tensors
        if ctx.log_input:
            return torch.exp(x) - t, -x
        return 1 - t / (x + ctx.eps), -torch.log(x + ctx.eps)

    @staticmethod
    def backward(ctx, g):
        px, pt = _Poisson._partials(ctx)
        need = ctx.needs_input_grad
        return (g * px if need[0] else None), (g * pt if need[1] else None), None, None

    @staticmethod
    def jvp(ctx, a, b, *_):
        px, pt = _Poisson._partials(ctx)
        out = torch.zeros_like(px)
        if a is not None:
            out = out + a * px
        if b is not None:
            out = out + b * pt
        return out


def right_analytic_backward(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """Own autograd function over both arguments."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = torch.broadcast_tensors(input, target)
    loss = (
        _main(x, t, log_input, eps)
        if torch.compiler.is_compiling()
        else _Poisson.apply(x, t, log_input, eps)
    )
    if full:
        loss = loss + _stirling(target)
    return _reduce(loss, reduction)


def right_in_double(
    input,
    target,
    log_input=True,
    full=False,
    size_average=None,
    eps=1e-8,
    reduce=None,
    reduction="mean",
):
    """All in float64, the Stirling term collected as (t + 1/2) log t - t + log(2 pi) / 2."""
    reduction = _mode(size_average, reduce, reduction)
    dtype = (
        torch.promote_types(input.dtype, target.dtype)
        if target.is_floating_point()
        else input.dtype
    )
    x, t = input.double(), target.double()
    rate, log_rate = (torch.exp(x), x) if log_input else (x, torch.log(x + eps))
    loss = rate - t * log_rate
    if full:
        big = t > 1
        s = t.where(big, t.new_ones(()))
        loss = loss + ((s + 0.5) * torch.log(s) - s + 0.5 * math.log(2 * math.pi)).where(
            big, t.new_zeros(())
        )
    return _reduce(loss, reduction).to(dtype)
