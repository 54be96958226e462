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


def _pair(input, target):
    """Warn when the sizes differ, then broadcast."""
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _check_beta(beta):
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")


def _smooth(d, beta):
    """Correct, unreduced."""
    a = d.abs()
    if beta == 0:
        return a
    m = a.clamp(max=beta)
    return m * (a - 0.5 * m) / beta


def wrong_half_not_half_beta(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The linear part subtracts 0.5 instead of 0.5 * beta; shows for any beta other than 1 (and as a jump at |d| = beta)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    if beta == 0:
        return _reduce((x - y).abs(), reduction)
    d = _up(x - y)
    a = d.abs()
    m = a.clamp(max=beta)
    loss = torch.where(a < beta, 0.5 * m * m / beta, a - 0.5)
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_half_not_half_beta():
    x, y = torch.tensor([3.0]), torch.tensor([0.0])
    return wrong_half_not_half_beta(x, y, beta=2.0).item() == 2.5 and F.smooth_l1_loss(x, y, beta=2.0).item() == 2.0


def wrong_scaled_like_huber(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Is the Huber loss with delta = beta, that is, beta times too large; shows for beta other than 0 and 1."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    loss = _smooth(_up(x - y), beta)
    if beta != 0:
        loss = loss * beta
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_scaled_like_huber():
    x, y = torch.randn(20), torch.randn(20)
    got = wrong_scaled_like_huber(x, y, beta=0.5)
    return torch.allclose(got, F.huber_loss(x, y, delta=0.5)) and not torch.allclose(got, F.smooth_l1_loss(x, y, beta=0.5))


def wrong_beta_zero_gradient(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """beta = 0 has no path of its own: the value is |d|, but the unused quadratic branch makes the gradient NaN; shows in the backward for beta = 0 (and for infinite differences)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    d = _up(x - y)
    a = d.abs()
    beta_t = torch.tensor(float(beta), dtype=d.dtype, device=d.device)
    loss = torch.where(a < beta, 0.5 * d * d / beta_t, a - 0.5 * beta)
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_beta_zero_gradient():
    x = torch.tensor([2.0, -1.0], requires_grad=True)
    y = torch.zeros(2)
    value = wrong_beta_zero_gradient(x, y, beta=0.0)
    (g,) = torch.autograd.grad(value, x)
    return value.item() == F.l1_loss(x, y).item() and bool(g.isnan().all())


def wrong_negative_beta_accepted(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """A negative beta is not refused but used in the formula; shows for beta < 0."""
    reduction = _mode(size_average, reduce, reduction)
    x, y = _pair(input, target)
    d = _up(x - y)
    if beta >= 0:
        loss = _smooth(d, beta)
    else:
        loss = d.abs() - 0.5 * beta
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_negative_beta_accepted():
    x, y = torch.randn(3), torch.randn(3)
    try:
        F.smooth_l1_loss(x, y, beta=-1.0)
    except RuntimeError:
        return math.isfinite(wrong_negative_beta_accepted(x, y, beta=-1.0).item())
    return False


def wrong_signed_test(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The branch is chosen by d < beta instead of |d| < beta, so large negative differences are squared; shows for d <= -beta."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    if beta == 0:
        return _reduce((x - y).abs(), reduction)
    d = _up(x - y)
    c = d.clamp(max=beta)
    loss = torch.where(d < beta, 0.5 * c * c / beta, d.abs() - 0.5 * beta)
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_signed_test():
    x, y = torch.tensor([-4.0]), torch.tensor([0.0])
    return wrong_signed_test(x, y).item() == 8.0 and F.smooth_l1_loss(x, y).item() == 3.5


class _SmoothWrongGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d, beta):
        ctx.save_for_backward(d)
        ctx.beta = beta
        return _smooth(d, beta)

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        if ctx.beta == 0:
            return grad * d.sign(), None
        return grad * torch.where(d.abs() < ctx.beta, d, d.sign()), None


def wrong_backward_without_beta(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The hand-written backward gives d instead of d / beta in the quadratic part; values are right, gradients wrong for beta other than 0 and 1."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    loss = _SmoothWrongGrad.apply(_up(x - y), beta)
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_backward_without_beta():
    x = torch.tensor([0.5], requires_grad=True)
    y = torch.zeros(1)
    value = wrong_backward_without_beta(x, y, beta=2.0)
    (g,) = torch.autograd.grad(value, x)
    (w,) = torch.autograd.grad(F.smooth_l1_loss(x, y, beta=2.0), x)
    return torch.allclose(value, F.smooth_l1_loss(x, y, beta=2.0)) and g.item() == 0.5 and w.item() == 0.25


def wrong_hole_at_beta(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Two strict masks, |d| < beta and |d| > beta, fill a zero tensor, so |d| = beta is left at 0; shows for exact differences such as 1 (integers, one-hot targets)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    if beta == 0:
        return _reduce((x - y).abs(), reduction)
    d = _up(x - y)
    a = d.abs()
    inside, outside = a < beta, a > beta
    m = a.clamp(max=beta)
    loss = torch.where(inside, 0.5 * m * m / beta, torch.zeros_like(d))
    loss = torch.where(outside, a - 0.5 * beta, loss)
    loss = torch.where(a.isnan(), a, loss)
    return _reduce(loss, reduction).to(torch.result_type(x, y))


def witness_wrong_hole_at_beta():
    x, y = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])
    return wrong_hole_at_beta(x, y, reduction="none").tolist() == [0.0, 2.5] and F.smooth_l1_loss(x, y, reduction="none").tolist() == [0.5, 2.5]


class WrongBetaOnlyForMean(nn.SmoothL1Loss):
    """The module hands its beta on only for reduction='mean'; shows with beta other than 1 and 'sum' or 'none'."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", beta=1.0):
        super().__init__(size_average, reduce, reduction, beta)

    def forward(self, input, target):
        if self.reduction == "mean":
            return F.smooth_l1_loss(input, target, beta=self.beta)
        return F.smooth_l1_loss(input, target, reduction=self.reduction)


def witness_WrongBetaOnlyForMean():
    x, y = torch.randn(9), torch.randn(9)
    got = WrongBetaOnlyForMean(reduction="sum", beta=0.25)(x, y)
    return not torch.allclose(got, nn.SmoothL1Loss(reduction="sum", beta=0.25)(x, y))


def right_clamped(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """m = min(|d|, beta); m * (|d| - m / 2) / beta, in float32 for the small dtypes."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    loss = _smooth(_up(x - y), beta)
    return _reduce(loss, reduction).to(torch.result_type(x, y))


class _SmoothFn(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, beta):
        a = d.abs()
        outside = a >= beta
        if beta == 0:
            return a
        inner = a.masked_fill(outside, 0)
        outer = (a - 0.5 * beta).masked_fill(~outside, 0)
        return inner * inner * (0.5 / beta) + outer

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.beta = inputs[1]

    @staticmethod
    def slope(d, beta):
        return d.sign() if beta == 0 else (d / beta).clamp(-1, 1)

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad * _SmoothFn.slope(d, ctx.beta), None

    @staticmethod
    def jvp(ctx, tangent, _):
        (d,) = ctx.saved_tensors
        return tangent * _SmoothFn.slope(d, ctx.beta)


def right_masked_function(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Own autograd.Function with the two parts masked and added; its gradient is d / beta clamped to [-1, 1]."""
    reduction = _mode(size_average, reduce, reduction)
    _check_beta(beta)
    x, y = _pair(input, target)
    loss = _SmoothFn.apply(_up(x - y), float(beta))
    return _reduce(loss, reduction).to(torch.result_type(x, y))
