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


class _ClampFn(torch.autograd.Function):
    """max(var, eps); the gradient passes as if there were no clamp."""

    generate_vmap_rule = True

    @staticmethod
    def forward(var, eps):
        return var.clamp(min=eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad, None

    @staticmethod
    def jvp(ctx, tangent, _):
        return tangent.clone()


def _check_sign(var):
    bad = var < 0 if isinstance(var, (int, float)) else bool(torch.any(var < 0))
    if bad:
        raise ValueError("var has negative entry/entries")


def _fit(var, input):
    """Check the variance's size and bring it to a shape that broadcasts."""
    if isinstance(var, (int, float)):
        return torch.full_like(input, var)
    if var.size() == input.size():
        return var
    if input.size()[:-1] == var.size():
        return var.unsqueeze(-1)
    if var.dim() == input.dim():
        differ = [v for v, i in zip(var.size(), input.size()) if v != i]
        if differ == [1]:
            return var
    raise ValueError("var is of incorrect size")


def _check_mode(reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(str(reduction) + " is not valid")


def _dtype(input, target, var):
    return torch.promote_types(torch.result_type(input, target), var.dtype)


_CONST = 0.5 * math.log(2 * math.pi)


def wrong_var_is_std(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Takes var for the standard deviation: log(var) and d^2 / (2 var^2); shows for any var other than 1."""
    _check_sign(var)
    var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _ClampFn.apply(_up(var), eps)
    loss = torch.log(v) + 0.5 * ((_up(input) - _up(target)) / v) ** 2
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_var_is_std():
    x, t, v = torch.randn(5), torch.randn(5), torch.full((5,), 4.0)
    return not torch.allclose(wrong_var_is_std(x, t, v), F.gaussian_nll_loss(x, t, v))


def wrong_clamp_kills_gradient(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The clamp takes part in autograd, so a variance below eps gets gradient 0; shows when a network's variance collapses to 0, where the documentation promises an unaffected gradient."""
    _check_sign(var)
    var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _up(var).clamp(min=eps)
    loss = 0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v)
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_clamp_kills_gradient():
    x, t = torch.zeros(2), torch.ones(2)
    grads = []
    for f in (wrong_clamp_kills_gradient, F.gaussian_nll_loss):
        v = torch.tensor([0.0, 1.0], requires_grad=True)
        grads += torch.autograd.grad(f(x, t, v), v)
    return grads[0][0].item() == 0 and grads[1][0].item() != 0


def wrong_constant_once(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The constant of full=True is added after the reduction, once instead of for every element; shows with full=True and reduction='sum'."""
    _check_sign(var)
    var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _ClampFn.apply(_up(var), eps)
    loss = _reduce(0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v), reduction)
    if full:
        loss = loss + _CONST
    return loss.to(dtype)


def witness_wrong_constant_once():
    x, t, v = torch.randn(3, 2), torch.randn(3, 2), torch.ones(3, 2)
    k = dict(full=True)
    same = torch.allclose(wrong_constant_once(x, t, v, **k), F.gaussian_nll_loss(x, t, v, **k))
    return same and not torch.allclose(wrong_constant_once(x, t, v, reduction="sum", **k), F.gaussian_nll_loss(x, t, v, reduction="sum", **k))


def wrong_var_clamped_in_place(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Clamps the caller's variance in place (the clone was optimised away); shows when a variance below eps is looked at after the call."""
    _check_sign(var)
    var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    with torch.no_grad():
        var.clamp_(min=eps)
    v = _up(var)
    loss = 0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v)
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_var_clamped_in_place():
    v = torch.tensor([0.0, 1.0])
    wrong_var_clamped_in_place(torch.zeros(2), torch.zeros(2), v)
    return v[0].item() > 0


def wrong_short_var_on_last_axis(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A variance with one dimension fewer is broadcast from the right if that fits, instead of getting a last dimension of 1; shows for square inputs, e.g. (3, 3) with var (3,)."""
    _check_sign(var)
    if torch.is_tensor(var) and var.dim() == input.dim() - 1 and input.size()[:-1] == var.size() and input.size()[1:] == var.size():
        var = var.unsqueeze(0)
    else:
        var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _ClampFn.apply(_up(var), eps)
    loss = 0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v)
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_short_var_on_last_axis():
    x, t, v = torch.randn(3, 3), torch.randn(3, 3), torch.rand(3) + 0.1
    k = dict(reduction="none")
    other = torch.allclose(wrong_short_var_on_last_axis(x[:, :2], t[:, :2], v, **k), F.gaussian_nll_loss(x[:, :2], t[:, :2], v, **k))
    return other and not torch.allclose(wrong_short_var_on_last_axis(x, t, v, **k), F.gaussian_nll_loss(x, t, v, **k))


def wrong_sign_checked_after_clamp(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The check for negative variances comes after the clamp and never fires; shows for negative entries of var, which must be refused."""
    var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _ClampFn.apply(_up(var), eps)
    _check_sign(v)
    loss = 0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v)
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_sign_checked_after_clamp():
    x, t, v = torch.zeros(2), torch.zeros(2), torch.tensor([1.0, -1.0])
    try:
        F.gaussian_nll_loss(x, t, v)
    except ValueError:
        return torch.is_tensor(wrong_sign_checked_after_clamp(x, t, v))
    return False


def wrong_scalar_var_default_dtype(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A scalar var becomes a tensor of the default dtype instead of the input's; shows as a float32 result for float16 and bfloat16 inputs and as lost digits for float64."""
    _check_sign(var)
    if isinstance(var, (int, float)):
        var = torch.full(input.shape, float(var), device=input.device)
    else:
        var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _ClampFn.apply(_up(var), eps)
    loss = 0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v)
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_scalar_var_default_dtype():
    x = torch.randn(4).half()
    got, want = wrong_scalar_var_default_dtype(x, x, 0.1), F.gaussian_nll_loss(x, x, 0.1)
    return got.dtype == torch.float32 and want.dtype == torch.float16


class WrongEpsFixed(nn.GaussianNLLLoss):
    """The module takes eps but clamps with the default 1e-6; shows with another eps and variances below it."""

    def __init__(self, *, full=False, eps=1e-6, reduction="mean"):
        super().__init__(full=full, eps=eps, reduction=reduction)

    def forward(self, input, target, var):
        return F.gaussian_nll_loss(input, target, var, full=self.full, reduction=self.reduction)


def witness_WrongEpsFixed():
    x, t, v = torch.zeros(2), torch.ones(2), torch.tensor([1e-3, 1.0])
    return not torch.allclose(WrongEpsFixed(eps=0.1)(x, t, v), nn.GaussianNLLLoss(eps=0.1)(x, t, v))


def right_clamp_function(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The clamp as an autograd.Function with the identity as gradient, the formula in float32 for the small dtypes."""
    _check_sign(var)
    var = _fit(var, input)
    _check_mode(reduction)
    dtype = _dtype(input, target, var)
    v = _ClampFn.apply(_up(var), eps)
    loss = 0.5 * (torch.log(v) + (_up(input) - _up(target)) ** 2 / v)
    if full:
        loss = loss + _CONST
    return _reduce(loss, reduction).to(dtype)


def right_standardised(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Standardises the residual and takes log(sd); the clamp is an added detached correction; the three terms are reduced one by one."""
    _check_mode(reduction)
    _check_sign(var)
    var = _fit(var, input)
    dtype = _dtype(input, target, var)
    v = _up(var)
    v = v + (v.clamp(min=eps) - v).masked_fill(v >= eps, 0).detach()
    sd = v.sqrt()
    residual = _up(input) - _up(target)
    z = residual / sd
    quad, logs = torch.broadcast_tensors(0.5 * z.square(), sd.log())
    loss = _reduce(quad, reduction) + _reduce(logs, reduction)
    if full:
        loss = loss + (_CONST * quad.numel() if reduction == "sum" else _CONST)
    return loss.to(dtype)
