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


def _dtype(input, target):
    dtype = torch.result_type(input, target)
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()


def _check(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(str(reduction) + " is not a valid value for reduction")
    return reduction


def _main(x, t, log_input, eps):
    return x.exp() - t * x if log_input else x - t * torch.log(x + eps)


def _stirling(t):
    """Correct: zero for targets up to 1, with finite gradients there."""
    mask = t > 1
    s = torch.where(mask, t, torch.full_like(t, 2))
    term = s * torch.log(s) - s + 0.5 * torch.log(2 * math.pi * s)
    return torch.where(mask, term, torch.zeros_like(term))


def wrong_stirling_everywhere(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """full=True adds the Stirling term for every target, also for those up to 1 (NaN for 0); shows with full=True and small counts."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    loss = _main(x, t, log_input, eps)
    if full:
        loss = loss + (t * torch.log(t) - t + 0.5 * torch.log(2 * math.pi * t))
    return _reduce(loss, reduction).to(_dtype(input, target))


def witness_wrong_stirling_everywhere():
    x, t = torch.zeros(2), torch.tensor([0.0, 3.0])
    return math.isnan(wrong_stirling_everywhere(x, t, full=True).item()) and math.isfinite(F.poisson_nll_loss(x, t, full=True).item())


def wrong_stirling_from_one(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The Stirling term is added for target >= 1 instead of target > 1; shows with full=True where a target is exactly 1."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    loss = _main(x, t, log_input, eps)
    if full:
        mask = t >= 1
        s = torch.where(mask, t, torch.full_like(t, 2))
        term = s * torch.log(s) - s + 0.5 * torch.log(2 * math.pi * s)
        loss = loss + torch.where(mask, term, torch.zeros_like(term))
    return _reduce(loss, reduction).to(_dtype(input, target))


def witness_wrong_stirling_from_one():
    x, t = torch.zeros(2), torch.tensor([1.0, 4.0])
    d = wrong_stirling_from_one(x, t, full=True, reduction="none") - F.poisson_nll_loss(x, t, full=True, reduction="none")
    return d[0].abs().item() > 0.05 and d[1].abs().item() < 1e-5


def wrong_exact_factorial(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """full=True adds the exact log-factorial lgamma(target + 1) for targets above 1 instead of the documented Stirling formula; shows with full=True, most for small counts."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    loss = _main(x, t, log_input, eps)
    if full:
        mask = t > 1
        s = torch.where(mask, t, torch.full_like(t, 2))
        term = torch.lgamma(s + 1)
        loss = loss + torch.where(mask, term, torch.zeros_like(term))
    return _reduce(loss, reduction).to(_dtype(input, target))


def witness_wrong_exact_factorial():
    x, t = torch.zeros(1), torch.tensor([2.0])
    return abs(wrong_exact_factorial(x, t, full=True).item() - F.poisson_nll_loss(x, t, full=True).item()) > 0.02


def wrong_full_lost_for_rates(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The branch for log_input=False returns before the Stirling term is added; shows with log_input=False and full=True."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    dtype = _dtype(input, target)
    if not log_input:
        return _reduce(x - t * torch.log(x + eps), reduction).to(dtype)
    loss = x.exp() - t * x
    if full:
        loss = loss + _stirling(t)
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_full_lost_for_rates():
    x, t = torch.ones(3), torch.tensor([5.0, 2.0, 0.0])
    k = dict(log_input=False, full=True)
    return not torch.allclose(wrong_full_lost_for_rates(x, t, **k), F.poisson_nll_loss(x, t, **k))


def wrong_eps_as_floor(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """Uses log(max(input, eps)) instead of log(input + eps); shows with log_input=False and a large eps or rates of the size of eps."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    loss = x.exp() - t * x if log_input else x - t * torch.log(x.clamp(min=eps))
    if full:
        loss = loss + _stirling(t)
    return _reduce(loss, reduction).to(_dtype(input, target))


def witness_wrong_eps_as_floor():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 1.0])
    k = dict(log_input=False, eps=0.1)
    return not torch.allclose(wrong_eps_as_floor(x, t, **k), F.poisson_nll_loss(x, t, **k))


def wrong_target_overwritten(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """With full=True it sets the small targets to 1 in place to make the logarithm safe, in the caller's tensor; shows when the targets are used again."""
    reduction = _check(size_average, reduce, reduction)
    x = _up(input)
    loss = _main(x, _up(target).clone(), log_input, eps)
    if full:
        mask = target > 1
        if not target.requires_grad:
            target.masked_fill_(~mask, 1)
        t = _up(target)
        t = torch.where(mask, t, torch.ones_like(t))
        term = t * torch.log(t) - t + 0.5 * torch.log(2 * math.pi * t)
        loss = loss + torch.where(mask, term, torch.zeros_like(term))
    return _reduce(loss, reduction).to(_dtype(input, target))


def witness_wrong_target_overwritten():
    x, t = torch.zeros(3), torch.tensor([0.0, 3.0, 0.5])
    keep = t.clone()
    value = wrong_target_overwritten(x, t, full=True)
    return torch.allclose(value, F.poisson_nll_loss(x, keep, full=True)) and not torch.equal(t, keep)


def wrong_stirling_parenthesis(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The Stirling term ends in 0.5 * log(2 * pi) * target instead of 0.5 * log(2 * pi * target); shows with full=True for targets above 1."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    loss = _main(x, t, log_input, eps)
    if full:
        mask = t > 1
        s = torch.where(mask, t, torch.full_like(t, 2))
        term = s * torch.log(s) - s + 0.5 * math.log(2 * math.pi) * s
        loss = loss + torch.where(mask, term, torch.zeros_like(term))
    return _reduce(loss, reduction).to(_dtype(input, target))


def witness_wrong_stirling_parenthesis():
    x, t = torch.zeros(1), torch.tensor([7.0])
    return abs(wrong_stirling_parenthesis(x, t, full=True).item() - F.poisson_nll_loss(x, t, full=True).item()) > 1


class WrongEpsForgotten(nn.PoissonNLLLoss):
    """The module stores eps but does not hand it to the function, which uses 1e-8; shows with log_input=False and another eps."""

    def __init__(self, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
        super().__init__(log_input, full, size_average, eps, reduce, reduction)

    def forward(self, log_input, target):
        return F.poisson_nll_loss(log_input, target, log_input=self.log_input, full=self.full, reduction=self.reduction)


def witness_WrongEpsForgotten():
    x, t = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])
    k = dict(log_input=False, eps=1e-2)
    return not torch.allclose(WrongEpsForgotten(**k)(x, t), nn.PoissonNLLLoss(**k)(x, t))


def right_safe_where(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """In float32 for the small dtypes; the Stirling term is evaluated only at safe targets."""
    reduction = _check(size_average, reduce, reduction)
    x, t = _up(input), _up(target)
    loss = _main(x, t, log_input, eps)
    if full:
        loss = loss + _stirling(t)
    return _reduce(loss, reduction).to(_dtype(input, target))


def right_factored(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
    """The Stirling term, factored as (t + 1/2) log t - t + log(2 pi) / 2, with targets up to 1 masked before and after."""
    reduction = _check(size_average, reduce, reduction)
    dtype = _dtype(input, target)
    x, t = torch.broadcast_tensors(_up(input), _up(target))
    x, t = x.to(torch.promote_types(x.dtype, dtype)), t.to(torch.promote_types(t.dtype, dtype))
    shape = x.shape
    x, t = _up(x).reshape(-1), _up(t).reshape(-1)
    loss = torch.addcmul(x.exp(), t, x, value=-1) if log_input else torch.addcmul(x, t, (x + eps).log(), value=-1)
    if full:
        none = t <= 1
        s = t.masked_fill(none, 2)
        term = (s + 0.5) * s.log() - s + 0.5 * math.log(2 * math.pi)
        loss = loss + term.masked_fill(none, 0)
    return _reduce(loss.reshape(shape), reduction).to(dtype)
