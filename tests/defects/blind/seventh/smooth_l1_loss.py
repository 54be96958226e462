import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = ("mean" if size_average else "sum") if reduce else "none"
    warnings.warn(
        "size_average and reduce args will be deprecated, please use "
        f"reduction='{name}' instead.",
        stacklevel=3,
    )
    return name


def _expand(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to "
            "broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _mode(reduction):
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _same_size(weight, input):
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _reduce(e, reduction):
    return e if reduction == "none" else e.sum() if reduction == "sum" else e.mean()


def _start(input, target, size_average, reduce, reduction, beta):
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    t = torch.result_type(x, y)
    if beta == 0:
        return x.to(t), y.to(t), reduction
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if not t.is_floating_point:
        raise NotImplementedError(f"smooth_l1_loss is not implemented for {t}")
    return x.to(t), y.to(t), reduction


# ----------------------------------------------------------------- wrong


def wrong_linear_offset(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The linear branch subtracts 0.5 instead of 0.5 * beta; shows only for beta other than 1."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    a = (x - y).abs()
    if beta == 0:
        return _reduce(a, reduction)
    return _reduce(torch.where(a < beta, 0.5 * a * a / beta, a - 0.5), reduction)


def witness_wrong_linear_offset():
    a, b = torch.zeros(2), torch.tensor([5.0, 0.1])
    return not torch.allclose(wrong_linear_offset(a, b, beta=2.0), F.smooth_l1_loss(a, b, beta=2.0))


def wrong_huber_scaling(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Computes the Huber loss: beta times too much for beta other than 1 (beta = 0 is right)."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if beta == 0:
        return _reduce((x - y).abs(), reduction)
    return F.huber_loss(x, y, reduction=reduction, delta=beta)


def witness_wrong_huber_scaling():
    a, b = torch.zeros(2), torch.tensor([5.0, 0.1])
    return not torch.allclose(wrong_huber_scaling(a, b, beta=0.5), F.smooth_l1_loss(a, b, beta=0.5))


def wrong_beta_zero_gradient(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """No special case for beta = 0: the value is right, but the division in the branch that where() drops makes every gradient NaN."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    a = (x - y).abs()
    b = torch.as_tensor(float(beta), dtype=a.dtype if a.is_floating_point() else None, device=a.device)
    if not a.is_floating_point():
        return _reduce(a, reduction)
    return _reduce(torch.where(a < b, 0.5 * a * a / b, a - 0.5 * b), reduction)


def witness_wrong_beta_zero_gradient():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_beta_zero_gradient(x, torch.zeros(2), beta=0.0), x)
    return bool(g.isnan().any())


def wrong_negative_beta_accepted(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """A negative beta, which the documentation forbids, is computed with instead of refused."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, max(beta, 0.0))
    a = (x - y).abs()
    if beta == 0:
        return _reduce(a, reduction)
    return _reduce(torch.where(a < beta, 0.5 * a * a / beta, a - 0.5 * beta), reduction)


def witness_wrong_negative_beta_accepted():
    def refuses(f):
        try:
            f(torch.zeros(2), torch.ones(2), beta=-1.0)
        except (RuntimeError, ValueError):
            return True
        return False

    return refuses(F.smooth_l1_loss) and not refuses(wrong_negative_beta_accepted)


class _ClampGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, beta):
        ctx.save_for_backward(x, y)
        ctx.beta = beta
        return F.smooth_l1_loss(x, y, reduction="none", beta=beta)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = g * (x - y).clamp(-ctx.beta, ctx.beta)
        return s, -s, None


def wrong_backward_without_division(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The hand-written backward clamps the difference to [-beta, beta] and forgets to divide by beta; the value is right, the gradient wrong for beta other than 1."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if beta == 0:
        return _reduce((x - y).abs(), reduction)
    return _reduce(_ClampGrad.apply(x, y, beta), reduction)


def witness_wrong_backward_without_division():
    x = torch.tensor([1.0, -0.1], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_backward_without_division(x, torch.zeros(2), beta=0.5), x)
    (r,) = torch.autograd.grad(F.smooth_l1_loss(x, torch.zeros(2), beta=0.5), x)
    return not torch.allclose(g, r)


def _memory_order(t):
    if t._is_view() or not t.is_contiguous():
        expect = sorted(((s, n) for s, n in zip(t.stride(), t.shape) if n > 1))
        run = 1
        for s, n in expect:
            if s != run:
                return t.contiguous().view(-1)
            run *= n
        return t.as_strided((t.numel(),), (1,), t.storage_offset())
    return t.view(-1)


def wrong_memory_order_pairs(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The kernel walks both tensors in memory order, so elements are paired wrongly when input and target are dense but laid out differently (transposed, channels_last against contiguous)."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if x.numel() == 0 or reduction == "none":
        return F.smooth_l1_loss(x, y, reduction=reduction, beta=beta)
    d = _memory_order(x) - _memory_order(y)
    a = d.abs()
    if beta != 0:
        a = torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta)
    return _reduce(a, reduction)


def witness_wrong_memory_order_pairs():
    x = torch.arange(6.0).view(2, 3)
    y = torch.arange(6.0).view(2, 3).t().contiguous().t()
    return not torch.allclose(wrong_memory_order_pairs(x, y), F.smooth_l1_loss(x, y))


def wrong_mask_product(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Blends the branches with a 0/1 mask instead of selecting, so a difference whose square overflows gives NaN (above about 360 in float16, 1e19 in float32)."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    d = x - y
    a = d.abs()
    if beta == 0:
        return _reduce(a, reduction)
    m = (a < beta).to(a.dtype)
    return _reduce(m * (0.5 * d * d / beta) + (1 - m) * (a - 0.5 * beta), reduction)


def witness_wrong_mask_product():
    a, b = torch.tensor([500.0, 1.0]).half(), torch.zeros(2).half()
    return bool(wrong_mask_product(a, b).isnan()) and bool(F.smooth_l1_loss(a, b).isfinite())


# ----------------------------------------------------------------- right


def right_clamped_product(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """With m = min(|d|, beta) the loss is (m / beta) * (|d| - m / 2); low precision is widened inside."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    out = torch.result_type(x, y)
    a = (_wide(x) - _wide(y)).abs()
    if beta != 0:
        m = a.clamp(max=beta)
        a = (m / beta) * (a - 0.5 * m)
    a = _reduce(a, reduction)
    return a.to(out) if out.is_floating_point else a


def right_selected_branches(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Selects between the branches; what the quadratic branch does not use is set to zero first."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    d = x - y
    if beta == 0:
        return _reduce(d.abs(), reduction)
    small = ~(d.abs() >= beta)  # NaN stays in the quadratic branch
    q = torch.where(small, d, torch.zeros_like(d))
    e = torch.where(small, (q * q).mul(0.5).div(beta), d.abs() - beta / 2)
    if reduction == "none":
        return e
    s = _wide(e).sum()
    if reduction == "mean":
        s = s / s.new_full((), e.numel())
    return s.to(e.dtype)


class _Smooth(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, beta):
        a = d.abs()
        if beta == 0:
            return a
        return torch.where(a < beta, 0.5 * d * (d / beta), a - 0.5 * beta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.beta = inputs[1]

    @staticmethod
    def slope(d, beta):
        return torch.sgn(d) if beta == 0 else (d / beta).clamp(-1, 1)

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved_tensors
        return g * _Smooth.slope(d, ctx.beta), None

    @staticmethod
    def jvp(ctx, td, _):
        (d,) = ctx.saved_tensors
        return td * _Smooth.slope(d, ctx.beta)


def right_own_function(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Hand-written backward: the slope is d / beta clamped to [-1, 1]."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, beta)
    d = x - y
    if d.is_complex() or not d.is_floating_point():
        return _reduce(d.abs(), reduction)
    return _reduce(_Smooth.apply(d, beta), reduction)


class RightSmoothL1Loss(nn.Module):
    """Module: splits the difference into its clamped part (quadratic) and the rest beyond beta (linear)."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction="mean", beta=1.0):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input, target):
        x, y, how = _start(input, target, None, None, self.reduction, self.beta)
        out = torch.result_type(x, y)
        d = _wide(x) - _wide(y)
        if self.beta == 0:
            e = d.abs()
        else:
            c = torch.where(d > self.beta, self.beta, torch.where(d < -self.beta, -self.beta, d))
            e = (d - c).abs() + 0.5 * c * (c / self.beta)
        e = _reduce(e, how)
        return e.to(out) if out.is_floating_point else e
