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


def _fit_var(input, var, need_check=True):
    """Validate var and bring it to a shape that broadcasts, as torch does."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = var * torch.ones_like(input)
    elif need_check and torch.any(var < 0):
        raise ValueError("var has negative entry/entries")
    if var.size() != input.size():
        if input.size()[:-1] == var.size():
            var = var.unsqueeze(-1)
        elif not (
            input.ndim == var.ndim and sum(b for a, b in zip(input.size(), var.size()) if a != b) == 1
        ):
            raise ValueError("var is of incorrect size")
    return var


def _check_reduction(reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction + " is not valid")


def _loss(input, target, var, full, reduction):
    """The documented formula; var is clamped already."""
    loss = 0.5 * (torch.log(var) + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduced(loss, reduction)


def _clamped(var, eps):
    var = var.clone()
    with torch.no_grad():
        var.clamp_(min=eps)
    return var


# --------------------------------------------------------------------------- wrong


def wrong_clamp_gradient(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var is clamped with autograd recording, so variances below eps get no gradient although the documentation says the clamp is ignored by autograd."""
    var = _fit_var(input, var)
    _check_reduction(reduction)
    return _loss(input, target, var.clamp(min=eps), full, reduction)


def witness_wrong_clamp_gradient():
    x, y = torch.zeros(3), torch.ones(3)
    v = torch.tensor([1e-9, 1.0, 2.0], requires_grad=True)
    a = torch.autograd.grad(wrong_clamp_gradient(x, y, v), v)[0]
    b = torch.autograd.grad(F.gaussian_nll_loss(x, y, v), v)[0]
    return a[0].item() == 0 and b[0].item() != 0


class WrongGaussianNLLLossSquare(nn.GaussianNLLLoss):
    """A var with one dimension less is only unsqueezed if it does not broadcast already, so with input (N, N) var (N,) goes along the columns instead of the rows."""

    def forward(self, input, target, var):
        if not isinstance(var, float) and input.size()[:-1] == var.size() and var.ndim > 0:
            if var.size() == input.size()[1:]:
                var = var.unsqueeze(0).expand_as(input)
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


def witness_WrongGaussianNLLLossSquare():
    torch.manual_seed(0)
    x, y, v = torch.randn(3, 3), torch.randn(3, 3), torch.tensor([0.1, 1.0, 10.0])
    return not torch.allclose(WrongGaussianNLLLossSquare()(x, y, v), nn.GaussianNLLLoss()(x, y, v))


def wrong_min_check(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Negative variances are looked for with var.min(), which raises on empty tensors and overlooks them next to a nan."""
    if not isinstance(var, float) and var.min() < 0:
        raise ValueError("var has negative entry/entries")
    var = _fit_var(input, var, need_check=False)
    _check_reduction(reduction)
    return _loss(input, target, _clamped(var, eps), full, reduction)


def witness_wrong_min_check():
    e = torch.zeros(0, 3)
    F.gaussian_nll_loss(e, e, e, reduction="sum")
    try:
        wrong_min_check(e, e, e, reduction="sum")
    except RuntimeError:
        return True
    return False


class WrongGaussianNLLLossInPlace(nn.GaussianNLLLoss):
    """var is clamped in place without a clone, so the caller's tensor changes (and an exp() before it can not run backward)."""

    def forward(self, input, target, var):
        var = _fit_var(input, var)
        _check_reduction(self.reduction)
        with torch.no_grad():
            var.clamp_(min=self.eps)
        return _loss(input, target, var, self.full, self.reduction)


def witness_WrongGaussianNLLLossInPlace():
    v = torch.tensor([0.0, 1.0])
    WrongGaussianNLLLossInPlace()(torch.zeros(2), torch.ones(2), v)
    return v[0].item() != 0.0


def wrong_float_var_rounded(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A float var becomes a tensor of the default dtype, so with float64 input it is rounded to float32."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = torch.tensor(var, device=input.device).to(input.dtype).expand(input.size())
    var = _fit_var(input, var)
    _check_reduction(reduction)
    return _loss(input, target, _clamped(var, eps), full, reduction)


def witness_wrong_float_var_rounded():
    x, y = torch.zeros(3, dtype=torch.double), torch.full((3,), 2.0, dtype=torch.double)
    got, want = wrong_float_var_rounded(x, y, 0.1).item(), F.gaussian_nll_loss(x, y, 0.1).item()
    return abs(got - want) > 1e-9 * abs(want)


# --------------------------------------------------------------------------- right


class RightGaussianNLLLossStandardised(nn.GaussianNLLLoss):
    """log of the standard deviation plus half the square of the standardised residual, in float32 at least, with a clamp made by torch.where that lets the gradient pass."""

    def forward(self, input, target, var):
        var = _fit_var(input, var)
        _check_reduction(self.reduction)
        if not var.is_floating_point():
            raise RuntimeError(f"result type Float can't be cast to the desired output type {var.dtype}")
        residual_dtype = torch.result_type(input, target)
        dtype = torch.promote_types(residual_dtype, var.dtype)
        if not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        acc = _acc(dtype)
        x, y, v = input.to(acc), target.to(acc), var.to(acc)
        v = torch.where(v < self.eps, self.eps + (v - v.detach()), v)
        std = v.sqrt()
        z = (x - y) / std
        loss = std.log() + 0.5 * z.square()
        if self.full:
            loss = loss + 0.5 * math.log(2 * math.pi)
        return _reduced(loss.to(dtype), self.reduction)
