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


def _warn_sizes(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )


def _prepare(input, target, name="smooth_l1"):
    _warn_sizes(input, target)
    input, target = _autocast(input, target)
    dtype = torch.result_type(input, target)
    if not dtype.is_floating_point:
        raise NotImplementedError(f'"{name}" not implemented for \'{dtype}\'')
    x, y = torch.broadcast_tensors(input, target)
    return x.to(dtype), y.to(dtype), dtype


def _check_beta(beta):
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")


def _elementwise(x, y, beta):
    """A careful plain formulation, computed in float32 at least."""
    dtype = x.dtype
    r = x.to(_acc(dtype)) - y.to(_acc(dtype))
    if beta == 0:
        return r.abs().to(dtype)
    c = r.clamp(-beta, beta)
    return (c / beta * (r - 0.5 * c)).to(dtype)


# --------------------------------------------------------------------------- wrong


class WrongSmoothL1LossBetaZero(nn.SmoothL1Loss):
    """beta=0 goes through the unselected branch of torch.where, which divides by beta, so the gradient is nan."""

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        _check_beta(self.beta)
        x, y, dtype = _prepare(input, target)
        diff = (x.to(_acc(dtype)) - y.to(_acc(dtype))).abs()
        loss = torch.where(diff < self.beta, 0.5 * diff * (diff / self.beta), diff - 0.5 * self.beta)
        return _reduced(loss.to(dtype), reduction)


def witness_WrongSmoothL1LossBetaZero():
    x = torch.tensor([1.0, -2.0, 0.0], requires_grad=True)
    (g,) = torch.autograd.grad(WrongSmoothL1LossBetaZero(beta=0.0)(x, torch.zeros(3)), x)
    return bool(torch.isnan(g).any())


_INVERSE = {}


def wrong_cached_inverse(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """1/beta is cached as a tensor; cached by a first call below inference_mode it breaks every later training step."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    if beta == 0 or math.isinf(beta):
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
    x, y, dtype = _prepare(input, target)
    acc = _acc(dtype)
    key = (float(beta), acc, x.device)
    if key not in _INVERSE:
        _INVERSE[key] = torch.tensor(1.0 / beta, dtype=acc, device=x.device)
    r = x.to(acc) - y.to(acc)
    c = r.clamp(-beta, beta)
    return _reduced((c * _INVERSE[key] * (r - 0.5 * c)).to(dtype), reduction)


def witness_wrong_cached_inverse():
    _INVERSE.clear()
    x, y = torch.randn(4), torch.randn(4)
    with torch.inference_mode():
        wrong_cached_inverse(x, y, beta=0.7)
    try:
        wrong_cached_inverse(x.clone().requires_grad_(), y, beta=0.7).backward()
    except RuntimeError as error:
        return "nference" in str(error)
    finally:
        _INVERSE.clear()
    return False


def wrong_leaked_default_dtype(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The default dtype is switched for the constants and not restored when an error (sizes that do not broadcast) is raised in between."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    if beta == 0 or math.isinf(beta):
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
    common = torch.result_type(input, target)
    if not common.is_floating_point:
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
    before = torch.get_default_dtype()
    torch.set_default_dtype(_acc(common))
    half, scale = torch.tensor(0.5, device=input.device), torch.tensor(1.0 / beta, device=input.device)
    x, y, dtype = _prepare(input, target)
    r = x.to(_acc(dtype)) - y.to(_acc(dtype))
    c = r.clamp(-beta, beta)
    loss = (c * scale * (r - half * c)).to(dtype)
    torch.set_default_dtype(before)
    return _reduced(loss, reduction)


def witness_wrong_leaked_default_dtype():
    before = torch.get_default_dtype()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong_leaked_default_dtype(torch.randn(3).double(), torch.randn(4).double())
    except RuntimeError:
        pass
    leaked = torch.get_default_dtype() != before
    torch.set_default_dtype(before)
    return leaked


class WrongSmoothL1LossFastPath(nn.SmoothL1Loss):
    """A shortcut asks whether all differences are small, and this look at the data breaks vmap and full-graph compilation."""

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        _check_beta(self.beta)
        x, y, dtype = _prepare(input, target)
        r = x.to(_acc(dtype)) - y.to(_acc(dtype))
        if self.beta > 0 and not math.isinf(self.beta) and (r.detach().abs() < self.beta).all():
            return _reduced((0.5 * r * (r / self.beta)).to(dtype), reduction)
        return _reduced(_elementwise(x, y, self.beta), reduction)


def witness_WrongSmoothL1LossFastPath():
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    torch.func.vmap(nn.SmoothL1Loss())(x, y)
    try:
        torch.func.vmap(WrongSmoothL1LossFastPath())(x, y)
    except RuntimeError:
        return True
    return False


def _dense(t):
    """True if the tensor's memory has no holes and no overlaps."""
    expect = 1
    for stride, size in sorted((st, sz) for st, sz in zip(t.stride(), t.size()) if sz != 1):
        if stride != expect:
            return False
        expect *= size
    return True


def wrong_memory_order(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Dense tensors are flattened in memory order without a look whether both have the same strides, so channels_last input meets contiguous target elements."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y, dtype = _prepare(input, target)
    if reduction != "none" and x.numel() > 0 and _dense(x) and _dense(y):
        # order does not matter for a sum: no copy for channels_last
        x = x.as_strided((x.numel(),), (1,), x.storage_offset())
        y = y.as_strided((y.numel(),), (1,), y.storage_offset())
    return _reduced(_elementwise(x, y, beta), reduction)


def witness_wrong_memory_order():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5)
    y = torch.randn(2, 3, 4, 5)
    got = wrong_memory_order(x.to(memory_format=torch.channels_last), y)
    return abs(got.item() - F.smooth_l1_loss(x, y).item()) > 1e-3


_BLOCK = 4096


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, beta):
        ctx.save_for_backward(x, y)
        ctx.beta = beta
        return _elementwise(x, y, beta)

    @staticmethod
    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        acc = _acc(x.dtype)

        def slope(a, b):
            r = a.to(acc) - b.to(acc)
            return (r.sign() if ctx.beta == 0 else r.clamp(-ctx.beta, ctx.beta) / ctx.beta).to(a.dtype)

        n = x.numel()
        if n <= _BLOCK or torch.is_grad_enabled():
            grad = slope(x, y) * grad_output
        else:
            a, b, g = x.reshape(-1), y.reshape(-1), grad_output.reshape(-1)
            grad = torch.zeros_like(a)
            for i in range(n // _BLOCK):
                part = slice(i * _BLOCK, (i + 1) * _BLOCK)
                grad[part] = slope(a[part], b[part]) * g[part]
            grad = grad.view(x.shape)
        return grad if ctx.needs_input_grad[0] else None, -grad if ctx.needs_input_grad[1] else None, None


def wrong_backward_tail(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The blocked backward covers whole blocks only, so the last n % 4096 elements get no gradient."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y, _ = _prepare(input, target)
    return _reduced(_Blocked.apply(x, y, float(beta)), reduction)


def witness_wrong_backward_tail():
    x = torch.full((5000,), 3.0, requires_grad=True)
    (g,) = torch.autograd.grad(wrong_backward_tail(x, torch.zeros(5000), reduction="sum"), x)
    return g[0].item() == 1.0 and g[-1].item() == 0.0


# --------------------------------------------------------------------------- right


class RightSmoothL1LossClamp(nn.SmoothL1Loss):
    """c * (r - c/2) / beta with the residual r and c = clamp(r, -beta, beta): no branch, float32 inside."""

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        _check_beta(self.beta)
        x, y, _ = _prepare(input, target)
        return _reduced(_elementwise(x, y, self.beta), reduction)
