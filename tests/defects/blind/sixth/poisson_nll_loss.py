import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce, reduction, check=True):
    if size_average is not None or reduce is not None:
        warnings.warn("size_average and reduce args will be deprecated, please use reduction", stacklevel=3)
        size_average = True if size_average is None else size_average
        reduce = True if reduce is None else reduce
        reduction = ("mean" if size_average else "sum") if reduce else "none"
    if check and reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _out_dtype(*ts):
    """The promoted dtype (0-dim tensors count as such), float32 for low precision under autocast."""
    dtype = torch.result_type(ts[0], ts[1])
    if torch.is_autocast_enabled(ts[0].device.type) and dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def _stirling(t, threshold_included=False):
    big = (t >= 1) if threshold_included else ~(t <= 1)
    safe = torch.where(big, t, 1.0)
    return torch.where(big, t * safe.log() - t + 0.5 * (2 * math.pi * safe).log(), 0.0)


def _points(input, target, log_input, full, eps, *, eps_mode="add", stirling=_stirling):
    x, t = input.double(), target.double()
    if log_input:
        loss = torch.exp(x) - t * x
    elif eps_mode == "add":
        loss = x - t * torch.log(x + eps)
    elif eps_mode == "clamp":
        loss = x - t * torch.log(x.clamp(min=eps))
    else:
        loss = x - t * torch.log(x)
    if full:
        loss = loss + stirling(t)
    return loss


def _finish(loss, reduction, dtype):
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def wrong_eps_forgotten(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None,
                        reduction="mean"):
    """log_input=False takes log(input) without eps: an input of 0 gives inf or nan."""
    r = _legacy(size_average, reduce, reduction)
    return _finish(_points(input, target, log_input, full, eps, eps_mode="none"), r, _out_dtype(input, target))


def witness_wrong_eps_forgotten():
    x, t = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])
    a, b = (f(x, t, log_input=False) for f in (wrong_eps_forgotten, F.poisson_nll_loss))
    return bool(b.isfinite()) and not bool(a.isfinite())


def wrong_eps_clamps(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None,
                     reduction="mean"):
    """log(max(input, eps)) rather than log(input + eps): differs for a user's own eps, and has no gradient below it."""
    r = _legacy(size_average, reduce, reduction)
    return _finish(_points(input, target, log_input, full, eps, eps_mode="clamp"), r, _out_dtype(input, target))


def witness_wrong_eps_clamps():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 1.0])
    a, b = (f(x, t, log_input=False, eps=0.1) for f in (wrong_eps_clamps, F.poisson_nll_loss))
    return not torch.allclose(a, b, rtol=1e-2)


def wrong_full_uses_lgamma(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None,
                           reduction="mean"):
    """full=True adds the exact log(target!) = lgamma(target + 1), not the documented Stirling approximation."""
    r = _legacy(size_average, reduce, reduction)
    loss = _points(input, target, log_input, full, eps, stirling=lambda t: torch.lgamma(t + 1))
    return _finish(loss, r, _out_dtype(input, target))


def witness_wrong_full_uses_lgamma():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 3.0])
    a, b = (f(x, t, full=True) for f in (wrong_full_uses_lgamma, F.poisson_nll_loss))
    return not torch.allclose(a, b, rtol=1e-3)


def wrong_stirling_from_one(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None,
                            reduction="mean"):
    """full=True applies Stirling's term for target >= 1; torch adds 0 where the target is exactly 1."""
    r = _legacy(size_average, reduce, reduction)
    loss = _points(input, target, log_input, full, eps, stirling=lambda t: _stirling(t, True))
    return _finish(loss, r, _out_dtype(input, target))


def witness_wrong_stirling_from_one():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 1.0])
    a, b = (f(x, t, full=True, reduction="none") for f in (wrong_stirling_from_one, F.poisson_nll_loss))
    return torch.allclose(a[0], b[0]) and not torch.allclose(a[1], b[1], rtol=1e-3)


def wrong_mean_over_batch_only(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None,
                               reduction="mean"):
    """'mean' sums over the features and averages over dimension 0 only."""
    r = _legacy(size_average, reduce, reduction)
    loss = _points(input, target, log_input, full, eps)
    if r == "mean" and loss.dim() > 1:
        return (loss.sum() / loss.size(0)).to(_out_dtype(input, target))
    return _finish(loss, r, _out_dtype(input, target))


def witness_wrong_mean_over_batch_only():
    x, t = torch.tensor([[0.5, 1.0]]), torch.tensor([[2.0, 1.0]])
    a, b = (f(x, t) for f in (wrong_mean_over_batch_only, F.poisson_nll_loss))
    return not torch.allclose(a, b, rtol=1e-3)


def wrong_unknown_reduction_accepted(input, target, log_input=True, full=False, size_average=None, eps=1e-8,
                                     reduce=None, reduction="mean"):
    """An unknown reduction such as 'avg' returns the unreduced loss rather than raising ValueError."""
    r = _legacy(size_average, reduce, reduction, check=False)
    return _finish(_points(input, target, log_input, full, eps), r, _out_dtype(input, target))


def witness_wrong_unknown_reduction_accepted():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 1.0])
    try:
        F.poisson_nll_loss(x, t, reduction="avg")
        return False
    except ValueError:
        return wrong_unknown_reduction_accepted(x, t, reduction="avg").shape == (2,)


class WrongRateByDefault(nn.PoissonNLLLoss):
    """log_input defaults to False (the input is a rate, as in Keras) rather than to True."""

    def __init__(self, log_input=False, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"):
        super().__init__(log_input, full, size_average, eps, reduce, reduction)


def witness_WrongRateByDefault():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 1.0])
    return not torch.allclose(WrongRateByDefault()(x, t), nn.PoissonNLLLoss()(x, t), rtol=1e-3)


class WrongFullDetachesTarget(nn.PoissonNLLLoss):
    """full=True computes Stirling's term from target.detach(): a target that requires grad gets an incomplete gradient."""

    def forward(self, log_input, target):
        loss = F.poisson_nll_loss(log_input, target, log_input=self.log_input, full=False, eps=self.eps,
                                  reduction="none" if self.full else self.reduction)
        if not self.full:
            return loss
        r = _legacy(None, None, self.reduction)
        return _finish(loss.double() + _stirling(target.detach().double()), r, loss.dtype)


def witness_WrongFullDetachesTarget():
    x, t = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 3.0], requires_grad=True)
    a, b = (c(full=True)(x, t) for c in (WrongFullDetachesTarget, nn.PoissonNLLLoss))
    (g,), (h,) = torch.autograd.grad(a, t), torch.autograd.grad(b, t)
    return torch.allclose(a, b) and not torch.allclose(g, h, rtol=1e-3)


def right_float64_pieces(input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None,
                         reduction="mean"):
    """Every piece in float64, Stirling's term behind a double where, cast back after the reduction."""
    r = _legacy(size_average, reduce, reduction)
    return _finish(_points(input, target, log_input, full, eps), r, _out_dtype(input, target))


class RightExpectationForm(nn.PoissonNLLLoss):
    """rate - addcmul(target, log rate); Stirling's term regrouped as (t + 1/2) log t - t + log(2 pi) / 2, masked by target > 1."""

    def forward(self, log_input, target):
        r = _legacy(None, None, self.reduction)
        dtype = _out_dtype(log_input, target)
        work = torch.promote_types(dtype, torch.float32)
        with torch.autocast(log_input.device.type, enabled=False):
            x, t = torch.broadcast_tensors(log_input.to(work), target.to(work))
            # eps in the input's own precision: in half precision 1e-8 vanishes in torch as well
            rate, log_rate = (x.exp(), x) if self.log_input else (x, (x + self.eps).log())
            loss = torch.addcmul(rate, t, log_rate, value=-1)
            if self.full:
                small = t <= 1
                safe = t.masked_fill(small, 2.0)
                term = torch.addcmul(0.5 * math.log(2 * math.pi) - safe, safe + 0.5, safe.log())
                loss = loss + term.masked_fill(small, 0.0)
            if r == "mean":
                loss = loss.sum() / torch.full((), float(loss.numel()), dtype=work, device=loss.device)
            elif r == "sum":
                loss = loss.sum()
            return loss.to(dtype)
