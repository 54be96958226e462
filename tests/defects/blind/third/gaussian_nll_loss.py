import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _var_tensor(input, var, check=True):
    if isinstance(var, float):
        if check and var < 0:
            raise ValueError("var has negative entry/entries")
        return torch.full_like(input, var)
    if torch.any(var < 0):
        raise ValueError("var has negative entry/entries")
    return var


def _var_shape(input, var):
    if var.size() == input.size():
        return var
    if input.size()[:-1] == var.size():
        return var.unsqueeze(-1)
    if input.dim() == var.dim() and sum(v for i, v in zip(input.size(), var.size()) if i != v) == 1:
        return var
    raise ValueError("var is of incorrect size")


def _check_reduction(reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")


def _clamped(var, eps):
    """max(var, eps), with the clamp hidden from autograd."""
    var = var.clone()
    with torch.no_grad():
        var.clamp_(min=eps)
    return var


def _up(input, target, var):
    dt = _common(input, target, var)
    w = _wide(dt)
    return input.to(w), target.to(w), var.to(w), dt


def _pointwise(x, t, v, full):
    loss = 0.5 * (v.log() + (x - t) ** 2 / v)
    return loss + 0.5 * math.log(2 * math.pi) if full else loss


# --------------------------------------------------------------------- wrong


def wrong_clamp_stops_gradient(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var is clamped by an ordinary differentiable clamp, so variances below eps get no gradient,
    although the clamping is documented to be ignored by autograd."""
    var = _var_shape(input, _var_tensor(input, var))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    return _reduce(_pointwise(x, t, v.clamp(min=eps), full), reduction).to(dt)


def witness_wrong_clamp_stops_gradient():
    x, t, v = torch.ones(2), torch.zeros(2), torch.tensor([1e-3, 1.0], requires_grad=True)
    a = torch.autograd.grad(wrong_clamp_stops_gradient(x, t, v, eps=0.1), v)[0]
    b = torch.autograd.grad(F.gaussian_nll_loss(x, t, v, eps=0.1), v)[0]
    return a[0].item() == 0 and b[0].item() != 0


def wrong_square_var_axis(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A var with one dimension fewer is left to ordinary broadcasting whenever that happens to work;
    for square inputs the variance of row i is then applied to column i."""
    var = _var_tensor(input, var)
    if not (input.dim() >= 2 and var.dim() == input.dim() - 1 and input.size()[:-1] == var.size() == input.size()[1:]):
        var = _var_shape(input, var)
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    return _reduce(_pointwise(x, t, _clamped(v, eps), full), reduction).to(dt)


def witness_wrong_square_var_axis():
    x, t, v = torch.randn(3, 3), torch.randn(3, 3), torch.rand(3) + 0.1
    return not torch.allclose(wrong_square_var_axis(x, t, v), F.gaussian_nll_loss(x, t, v))


def wrong_constant_added_once(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """With full=True the constant 0.5*log(2*pi) is added after the reduction, so that 'sum' contains it
    once instead of once for each element."""
    var = _var_shape(input, _var_tensor(input, var))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    loss = _reduce(_pointwise(x, t, _clamped(v, eps), False), reduction)
    return (loss + 0.5 * math.log(2 * math.pi) if full else loss).to(dt)


def witness_wrong_constant_added_once():
    x, t, v = torch.randn(3), torch.randn(3), torch.rand(3) + 0.1
    same = torch.allclose(wrong_constant_added_once(x, t, v, full=True), F.gaussian_nll_loss(x, t, v, full=True))
    return same and not torch.allclose(
        wrong_constant_added_once(x, t, v, full=True, reduction="sum"), F.gaussian_nll_loss(x, t, v, full=True, reduction="sum")
    )


def wrong_negative_scalar_var(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A negative variance is refused in a tensor only; a negative Python float is silently clamped to eps."""
    var = _var_shape(input, _var_tensor(input, var, check=False))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    return _reduce(_pointwise(x, t, _clamped(v, eps), full), reduction).to(dt)


def witness_wrong_negative_scalar_var():
    x = torch.rand(3)
    try:
        F.gaussian_nll_loss(x, x, -1.0)
        return False
    except ValueError:
        return bool(wrong_negative_scalar_var(x, x, -1.0).isfinite())


def wrong_scalar_var_in_float32(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A scalar var goes through torch.tensor(var) in the default dtype, so that for float64 inputs it
    has only float32 precision."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = torch.tensor(var, dtype=torch.float32, device=input.device).to(input.dtype).expand(input.shape)
    var = _var_shape(input, _var_tensor(input, var))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    return _reduce(_pointwise(x, t, _clamped(v, eps), full), reduction).to(dt)


def witness_wrong_scalar_var_in_float32():
    x, t = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    return abs(wrong_scalar_var_in_float32(x, t, 0.1).item() - F.gaussian_nll_loss(x, t, 0.1).item()) > 1e-9


def wrong_refuses_broadcast_target(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A target whose sizes equal those of input except for one dimension of size 1, which the documentation
    admits for broadcasting, is refused."""
    if target.size() != input.size():
        raise ValueError(f"target of size {tuple(target.size())} does not match input of size {tuple(input.size())}")
    var = _var_shape(input, _var_tensor(input, var))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    return _reduce(_pointwise(x, t, _clamped(v, eps), full), reduction).to(dt)


def witness_wrong_refuses_broadcast_target():
    x, t, v = torch.rand(3, 4), torch.rand(3, 1), torch.rand(3, 4)
    F.gaussian_nll_loss(x, t, v)
    try:
        wrong_refuses_broadcast_target(x, t, v)
        return False
    except ValueError:
        return True


# --------------------------------------------------------------------- right


class _Floor(torch.autograd.Function):
    """max(v, eps) with the identity as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v, eps):
        return v.clamp(min=eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g.clone(), None

    @staticmethod
    def jvp(ctx, t, _):
        return t.clone()


def right_standardised(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """0.5*z*z + log(sigma) with z = (input - target)/sigma and sigma = sqrt(max(var, eps))."""
    var = _var_shape(input, _var_tensor(input, var))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    sigma = _Floor.apply(v, float(eps)).sqrt()
    z = (x - t) / sigma
    loss = 0.5 * z * z + sigma.log()
    if full:
        loss = loss + 0.9189385332046727
    return _reduce(loss, reduction).to(dt)


class _Gauss(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, v):
        return 0.5 * (v.log() + (x - t).square() / v)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, t, v = ctx.saved_tensors
        r = (x - t) / v
        return g * r, -(g * r), g * (0.5 * (1 / v - r * r))

    @staticmethod
    def jvp(ctx, tx, tt, tv):
        x, t, v = ctx.saved_tensors
        r = (x - t) / v
        out = torch.zeros_like(r)
        if tx is not None:
            out = out + r * tx
        if tt is not None:
            out = out - r * tt
        if tv is not None:
            out = out + 0.5 * (1 / v - r * r) * tv
        return out


def right_custom_function(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Own autograd function with analytic gradients for mean, target and variance."""
    var = _var_shape(input, _var_tensor(input, var))
    _check_reduction(reduction)
    x, t, v, dt = _up(input, target, var)
    x, t, v = torch.broadcast_tensors(x, t, _Floor.apply(v, float(eps)))
    loss = _Gauss.apply(x, t, v)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduce(loss, reduction).to(dt)
