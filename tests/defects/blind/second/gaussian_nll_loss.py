"""Wrong and right implementations of gaussian_nll_loss, written without sight of the suite."""
import math
import torch
from torch.nn import functional as F


def _var(input, var):
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        return torch.full_like(input, var, requires_grad=False)
    if bool((var < 0).any()):
        raise ValueError("var has negative entry/entries")
    if var.size() == input.size():
        return var
    if input.size()[:-1] == var.size():
        return var.unsqueeze(-1)
    if input.dim() == var.dim() and sum(y for x, y in zip(input.size(), var.size()) if x != y) == 1:
        return var
    raise ValueError("var is of incorrect size")


def _check_reduction(reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")


def _floor(var, eps):
    """max(var, eps), gradient as if it were not there."""
    v = var.clone()
    with torch.no_grad():
        v.clamp_(min=eps)
    return v


def _finish(loss, reduction):
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def wrong_clamp_with_grad(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """torch.clamp on var within autograd: no gradient for variances below eps (documented: gradients unaffected)."""
    var = _var(input, var)
    _check_reduction(reduction)
    v = var.clamp(min=eps)
    loss = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _finish(loss, reduction)


def witness_wrong_clamp_with_grad():
    v = torch.tensor([1e-8, 1.], requires_grad=True)
    wrong_clamp_with_grad(torch.zeros(2), torch.ones(2), v).backward()
    return v.grad[0].item() == 0


def wrong_clamps_callers_var(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """clamp_ under no_grad on the variance itself: the caller's tensor is altered."""
    var = _var(input, var)
    _check_reduction(reduction)
    with torch.no_grad():
        var.clamp_(min=eps)
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _finish(loss, reduction)


def witness_wrong_clamps_callers_var():
    v = torch.tensor([0., 1.])
    wrong_clamps_callers_var(torch.zeros(2), torch.ones(2), v)
    return v[0].item() != 0


def wrong_sum_counts_logvar_once(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Log term reduced apart 'before it is blown up by broadcasting': under 'sum' a shared variance is counted once per row."""
    var = _var(input, var)
    _check_reduction(reduction)
    v = _floor(var, eps)
    if reduction == "none":
        loss = 0.5 * (v.log() + (input - target) ** 2 / v)
        return loss + 0.5 * math.log(2 * math.pi) if full else loss
    red = torch.mean if reduction == "mean" else torch.sum
    sq = (input - target) ** 2 / v
    loss = 0.5 * (red(v.log()) + red(sq))
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi) * (1 if reduction == "mean" else sq.numel())
    return loss


def witness_wrong_sum_counts_logvar_once():
    x, t, v = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 1) + 0.5
    return not torch.allclose(wrong_sum_counts_logvar_once(x, t, v, reduction="sum"), F.gaussian_nll_loss(x, t, v, reduction="sum"))


def wrong_square_var(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var with one dimension fewer is broadcast from the right when that happens to fit, as in (N, N) with (N,)."""
    if not isinstance(var, float) and var.dim() == input.dim() - 1 and var.size() == input.size()[1:]:
        if bool((var < 0).any()):
            raise ValueError("var has negative entry/entries")
    else:
        var = _var(input, var)
    _check_reduction(reduction)
    v = _floor(var, eps)
    loss = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _finish(loss, reduction)


def witness_wrong_square_var():
    x, t, v = torch.randn(3, 3), torch.randn(3, 3), torch.tensor([.5, 1., 2.])
    return not torch.allclose(wrong_square_var(x, t, v), F.gaussian_nll_loss(x, t, v))


def wrong_float_var_float32(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A float var becomes torch.tensor(var) (float32): double inputs get a variance of seven digits."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = torch.tensor(var).expand(input.shape).to(input.dtype)
    else:
        var = _var(input, var)
    _check_reduction(reduction)
    v = _floor(var, eps)
    loss = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _finish(loss, reduction)


def witness_wrong_float_var_float32():
    x, t = torch.randn(3, dtype=torch.double), torch.randn(3, dtype=torch.double)
    return not torch.allclose(wrong_float_var_float32(x, t, 0.1), F.gaussian_nll_loss(x, t, 0.1), rtol=1e-10, atol=0)


class WrongGaussianNLLLoss(torch.nn.Module):
    """With full=True the constant is added after the reduction: once, also under 'sum'."""

    def __init__(self, *, full=False, eps=1e-6, reduction="mean"):
        super().__init__()
        self.full, self.eps, self.reduction = full, eps, reduction

    def forward(self, input, target, var):
        out = F.gaussian_nll_loss(input, target, var, full=False, eps=self.eps, reduction=self.reduction)
        return out + 0.5 * math.log(2 * math.pi) if self.full else out


def witness_WrongGaussianNLLLoss():
    x, t, v = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4) + 0.5
    return not torch.allclose(WrongGaussianNLLLoss(full=True, reduction="sum")(x, t, v),
                              F.gaussian_nll_loss(x, t, v, full=True, reduction="sum"))


def right_by_standard_score(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """log of the standard deviation plus half the squared score."""
    var = _var(input, var)
    _check_reduction(reduction)
    sd = _floor(var, eps).sqrt()
    z = (input - target) / sd
    loss = sd.log() + 0.5 * z * z
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _finish(loss, reduction)
