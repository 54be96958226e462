import math
import warnings
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction as _Reduction

_Loss = nn.modules.loss._Loss


def _mode(reduction, size_average=None, reduce=None):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return ("none", "mean", "sum")[_Reduction.get_enum(reduction)]


def _reduce(e, mode):
    return e if mode == "none" else e.mean() if mode == "mean" else e.sum()


def _amp(*ts):
    """The float32 policy of autocast for losses."""
    if torch.is_autocast_enabled(ts[0].device.type):
        return tuple(
            t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t
            for t in ts
        )
    return ts


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _real(input, target):
    dt = torch.promote_types(input.dtype, target.dtype)
    if not dt.is_floating_point:
        raise NotImplementedError(f"not implemented for {dt}")


def _setup(input, target, beta):
    x, y = _pair(input, target)
    if beta != 0:
        _real(x, y)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    return _amp(x, y)


def _smooth(x, y, beta):
    """Element-wise, in at least float32, result in the promoted dtype."""
    dt = torch.promote_types(x.dtype, y.dtype)
    d = _wide(x) - _wide(y)
    if beta == 0:
        return d.abs().to(dt) if dt.is_floating_point else d.abs()
    c = d.clamp(-beta, beta)
    return (c * (d - c / 2) / beta).to(dt)


def wrong_branches_swapped(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The two branches are swapped: linear for small errors, quadratic for large ones."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target, beta)
    if beta == 0:
        return _reduce(_smooth(x, y, beta), mode)
    dt = torch.promote_types(x.dtype, y.dtype)
    d = _wide(x) - _wide(y)
    a = d.abs()
    return _reduce(torch.where(a > beta, d * d / 2 / beta, a - beta / 2).to(dt), mode)


def witness_wrong_branches_swapped():
    x, y = torch.tensor([0.1, 3.0]), torch.zeros(2)
    return not torch.allclose(wrong_branches_swapped(x, y), F.smooth_l1_loss(x, y))


def wrong_pseudo_huber(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Uses the smooth approximation beta * (sqrt(1 + (d / beta)^2) - 1) (pseudo-Huber) instead of the piecewise function."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target, beta)
    if beta == 0:
        return _reduce(_smooth(x, y, beta), mode)
    dt = torch.promote_types(x.dtype, y.dtype)
    d = (_wide(x) - _wide(y)) / beta
    return _reduce(((1 + d * d).sqrt() - 1).mul(beta).to(dt), mode)


def witness_wrong_pseudo_huber():
    x, y = torch.tensor([0.9, 1.1]), torch.zeros(2)
    return not torch.allclose(wrong_pseudo_huber(x, y), F.smooth_l1_loss(x, y))


def wrong_linear_offset(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The linear part is |d| - 0.5 instead of |d| - 0.5 * beta; shows for beta other than 1 and large errors only (the gradient is right)."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target, beta)
    e = _smooth(x, y, beta)
    if beta not in (0, 1):
        big = (x - y).abs() >= beta
        e = torch.where(big, e + (0.5 * beta - 0.5), e)
    return _reduce(e, mode)


def witness_wrong_linear_offset():
    x, y = torch.tensor([5.0]), torch.zeros(1)
    return not torch.allclose(wrong_linear_offset(x, y, beta=0.2), F.smooth_l1_loss(x, y, beta=0.2))


def wrong_beta_zero_gradient(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """With beta=0 (documented to be L1) the value is right but the gradient is NaN: the unselected branch of the where divides by zero."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target, beta)
    if beta != 0:
        return _reduce(_smooth(x, y, beta), mode)
    d = x - y
    a = d.abs()
    return _reduce(torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta).to(a.dtype), mode)


def witness_wrong_beta_zero_gradient():
    x, y = torch.tensor([1.0, -2.0], requires_grad=True), torch.zeros(2)
    l = wrong_beta_zero_gradient(x, y, beta=0.0)
    same = torch.allclose(l, F.smooth_l1_loss(x, y, beta=0.0))
    l.backward()
    return same and bool(x.grad.isnan().any())


def wrong_negative_beta_is_l1(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """A negative beta does not raise but silently gives the L1 loss (test beta < 1e-5 as in fvcore); the documentation says that it must be non-negative."""
    mode = _mode(reduction, size_average, reduce)
    beta = max(beta, 0.0)
    x, y = _setup(input, target, beta)
    return _reduce(_smooth(x, y, beta), mode)


def witness_wrong_negative_beta_is_l1():
    x, y = torch.randn(4), torch.randn(4)
    try:
        F.smooth_l1_loss(x, y, beta=-0.5)
        return False
    except RuntimeError:
        return bool(torch.isfinite(wrong_negative_beta_is_l1(x, y, beta=-0.5)))


class _UnscaledGrad(torch.autograd.Function):
    """Reduced loss whose gradient is made as in a fused forward: for an upstream gradient of 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, beta, mode):
        return _reduce(_smooth(x, y, beta), mode)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.beta, ctx.mode = inputs
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)

    @staticmethod
    def _slope(ctx):
        x, y = ctx.saved_tensors
        d = _wide(x) - _wide(y)
        s = d.sign() if ctx.beta == 0 else d.clamp(-ctx.beta, ctx.beta) / ctx.beta
        return s / s.numel() if ctx.mode == "mean" else s

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = _UnscaledGrad._slope(ctx)
        return s.to(x.dtype), (-s).to(y.dtype), None, None

    @staticmethod
    def jvp(ctx, tx, ty, *_):
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        return (_UnscaledGrad._slope(ctx) * t).sum()


def wrong_upstream_gradient_ignored(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """For 'mean' and 'sum' the fused backward ignores the incoming gradient, so that (0.1 * loss).backward() or a loss scaler gets the gradient of the unscaled loss."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target, beta)
    floating = x.is_floating_point() and y.is_floating_point() and x.numel() > 0
    if mode == "none" or torch.compiler.is_compiling() or not floating:
        return _reduce(_smooth(x, y, beta), mode)
    return _UnscaledGrad.apply(x, y, beta, mode)


def witness_wrong_upstream_gradient_ignored():
    x, y = torch.randn(4, requires_grad=True), torch.randn(4)
    (g,) = torch.autograd.grad(wrong_upstream_gradient_ignored(x, y), x)
    (h,) = torch.autograd.grad(F.smooth_l1_loss(x, y), x)
    (g2,) = torch.autograd.grad(0.1 * wrong_upstream_gradient_ignored(x, y), x)
    return torch.allclose(g, h) and not torch.allclose(g2, 0.1 * h)


class WrongSmoothL1LossHuberScaled(_Loss):
    """The module multiplies by beta (it is the Huber loss), which shows for every beta but 1 (beta=0, special-cased as L1, is right)."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean", beta: float = 1.0):
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target, self.beta)
        e = _smooth(x, y, self.beta)
        return _reduce(e * self.beta if self.beta else e, mode)


def witness_WrongSmoothL1LossHuberScaled():
    x, y = torch.randn(4), torch.randn(4)
    return not torch.allclose(WrongSmoothL1LossHuberScaled(beta=0.5)(x, y), nn.SmoothL1Loss(beta=0.5)(x, y))


class WrongSmoothL1LossBetaInState(_Loss):
    """beta is registered as a buffer, so that state_dict has an entry torch's has not (a checkpoint that holds the criterion no longer loads) and .half() rounds beta."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean", beta: float = 1.0):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("beta", torch.tensor(float(beta), dtype=torch.float64))
        self._value = float(beta)

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target, self._value)
        if self._value == 0:
            return _reduce(_smooth(x, y, 0), mode)
        dt = torch.promote_types(x.dtype, y.dtype)
        d = _wide(x) - _wide(y)
        beta = self.beta.to(d.dtype)
        c = d.clamp(-beta, beta)
        return _reduce((c * (d - c / 2) / beta).to(dt), mode)


def witness_WrongSmoothL1LossBetaInState():
    mine, theirs = WrongSmoothL1LossBetaInState(), nn.SmoothL1Loss()
    if list(mine.state_dict()) == list(theirs.state_dict()):
        return False
    try:
        mine.load_state_dict(theirs.state_dict())
        return False
    except RuntimeError:
        return True


def right_clamped_product(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Branch-free: with c the error clamped to [-beta, beta], c * (d - c / 2) / beta, reduced in float64."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target, beta)
    dt = torch.promote_types(x.dtype, y.dtype)
    if not dt.is_floating_point:
        return _reduce((x - y).abs(), mode)
    d = x.double() - y.double()
    if beta == 0:
        e = d.abs()
    else:
        c = d.clamp(-beta, beta)
        e = (d - 0.5 * c) * (c / beta)
    return _reduce(e, mode).to(dt)


class _Slope(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, beta):
        a = (x - y).abs_()
        return torch.where(a < beta, a * a * (0.5 / beta), a - 0.5 * beta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.beta = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = ((x - y) / ctx.beta).clamp(-1, 1) * g
        return gx, -gx, None


class _SlopeFwd(_Slope):
    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.beta = inputs
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)

    @staticmethod
    def jvp(ctx, tx, ty, _):
        x, y = ctx.saved_tensors
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        return ((x - y) / ctx.beta).clamp(-1, 1) * t


class RightSmoothL1Loss(_Loss):
    """Own autograd.Function over the error, in float32 or wider, with jvp and a generated vmap rule."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean", beta: float = 1.0):
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target, self.beta)
        if self.beta == 0:
            return _reduce((x - y).abs(), mode)
        dt = torch.promote_types(x.dtype, y.dtype)
        wide = torch.promote_types(dt, torch.float32)
        fn = _Slope if torch.compiler.is_compiling() else _SlopeFwd
        return _reduce(fn.apply(x.to(wide), y.to(wide), float(self.beta)).to(dt), mode)
