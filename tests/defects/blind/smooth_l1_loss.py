"""Wrong and right implementations of smooth_l1_loss, written without sight of the suite."""

import warnings

import torch
from torch.nn import _reduction
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _transformed():
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _start(input, target, size_average, reduce, reduction, beta):
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    return x - t, reduction


def wrong_nan_gradient_for_beta_zero(
    input, target, size_average=None, reduce=None, reduction="mean", beta=1.0
):
    """where() picks the linear branch for beta=0, but its backward multiplies 0 by 1/0."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    a = d.abs()
    scale = torch.full_like(d, beta)
    return _reduce(torch.where(a < beta, 0.5 * d * d / scale, a - 0.5 * beta), reduction)


def witness_wrong_nan_gradient_for_beta_zero():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    loss = wrong_nan_gradient_for_beta_zero(x, torch.zeros(2), beta=0.0)
    g = torch.autograd.grad(loss, x)[0]
    h = torch.autograd.grad(F.smooth_l1_loss(x, torch.zeros(2), beta=0.0), x)[0]
    return bool(g.isnan().any()) and not bool(h.isnan().any())


def wrong_blend_overflows(
    input, target, size_average=None, reduce=None, reduction="mean", beta=1.0
):
    """Blends the branches arithmetically: an overflowing square times mask 0 is NaN (|d| > 256 in float16)."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if beta == 0:
        return _reduce(d.abs(), reduction)
    a = d.abs()
    m = (a < beta).to(d.dtype)
    return _reduce(m * (0.5 / beta) * (d * d) + (1 - m) * (a - 0.5 * beta), reduction)


def witness_wrong_blend_overflows():
    x, t = torch.tensor([400.0], dtype=torch.half), torch.zeros(1, dtype=torch.half)
    return bool(wrong_blend_overflows(x, t).isnan()) and bool(F.smooth_l1_loss(x, t).isfinite())


class _WithGrad(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, beta):
        a = d.abs()
        return torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta), (d / beta).clamp(-1, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, g, _):
        (grad,) = ctx.saved_tensors
        return g * grad, None


def _plain(d, beta):
    a = d.abs()
    return torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta)


def wrong_no_second_derivative(
    input, target, size_average=None, reduce=None, reduction="mean", beta=1.0
):
    """The gradient is made in the forward pass and is a constant for the double backward."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if beta == 0:
        return _reduce(d.abs(), reduction)
    return _reduce(_plain(d, beta) if _transformed() else _WithGrad.apply(d, beta)[0], reduction)


def witness_wrong_no_second_derivative():
    def second(f):
        x = torch.tensor([0.3, 2.0], requires_grad=True)
        g = torch.autograd.grad(f(x * x, torch.zeros(2), reduction="sum"), x, create_graph=True)[0]
        return torch.autograd.grad(g.sum(), x)[0]

    return not torch.allclose(second(wrong_no_second_derivative), second(F.smooth_l1_loss))


def wrong_l1_below_1e_5(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """As in fvcore: any beta under 1e-5 counts as zero."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    a = d.abs()
    if beta < 1e-5:
        return _reduce(a, reduction)
    return _reduce(torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta), reduction)


def witness_wrong_l1_below_1e_5():
    x, t = torch.tensor([1e-6, -2e-6], dtype=torch.double), torch.zeros(2, dtype=torch.double)
    return not torch.allclose(
        wrong_l1_below_1e_5(x, t, beta=8e-6), F.smooth_l1_loss(x, t, beta=8e-6), rtol=0.1, atol=0
    )


_INVERSE = {}


def wrong_constant_cached_in_inference_mode(
    input, target, size_average=None, reduce=None, reduction="mean", beta=1.0
):
    """1/beta is cached as a tensor; made first under inference_mode it can't be saved for a later backward."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    a = d.abs()
    if beta == 0:
        return _reduce(a, reduction)
    key = (beta, d.dtype, d.device)
    if key not in _INVERSE:
        _INVERSE[key] = torch.tensor(0.5 / beta, dtype=d.dtype, device=d.device)
    return _reduce(torch.where(a < beta, d * d * _INVERSE[key], a - 0.5 * beta), reduction)


def witness_wrong_constant_cached_in_inference_mode():
    _INVERSE.clear()
    x, t = torch.ones(3, requires_grad=True), torch.zeros(3)
    with torch.inference_mode():
        wrong_constant_cached_in_inference_mode(x, t, beta=2.0)
    try:
        wrong_constant_cached_in_inference_mode(x, t, beta=2.0).backward()
    except RuntimeError:
        return True
    finally:
        _INVERSE.clear()
    return False


def wrong_default_dtype_leaks(
    input, target, size_average=None, reduce=None, reduction="mean", beta=1.0
):
    """A helper tensor has the default dtype, so half inputs (or float32 under a float64 default) give a wider loss."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    a = d.abs()
    if beta == 0:
        return _reduce(a, reduction)
    half = torch.full(d.shape, 0.5, device=d.device)
    return _reduce(torch.where(a < beta, half * d * d / beta, a - 0.5 * beta), reduction)


def witness_wrong_default_dtype_leaks():
    x = torch.ones(2, dtype=torch.bfloat16)
    return wrong_default_dtype_leaks(x, x).dtype != F.smooth_l1_loss(x, x).dtype


class WrongFrozenBetaSmoothL1Loss(_Loss):
    """beta and reduction are bound in the constructor: a schedule that sets .beta has no effect."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", beta=1.0):
        super().__init__(size_average, reduce, reduction)
        import functools

        self.beta = beta
        self._loss = functools.partial(F.smooth_l1_loss, reduction=self.reduction, beta=beta)

    def forward(self, input, target):
        return self._loss(input, target)


def witness_WrongFrozenBetaSmoothL1Loss():
    m, n = WrongFrozenBetaSmoothL1Loss(), torch.nn.SmoothL1Loss()
    m.beta = n.beta = 0.1
    x, t = torch.tensor([0.5]), torch.zeros(1)
    return not torch.allclose(m(x, t), n(x, t))


def right_by_clamp(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """(c / beta) * (d - c / 2) with c = d clamped to [-beta, beta]."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if beta == 0:
        return _reduce(d.abs(), reduction)
    c = d.clamp(-beta, beta)
    return _reduce((c / beta) * (d - 0.5 * c), reduction)


class _Smooth(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, beta):
        a = d.abs()
        return torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        d, ctx.beta = inputs
        ctx.save_for_backward(d)
        ctx.save_for_forward(d)

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved_tensors
        return g * (d / ctx.beta).clamp(-1, 1), None

    @staticmethod
    def jvp(ctx, t, _):
        (d,) = ctx.saved_tensors
        return t * (d / ctx.beta).clamp(-1, 1)


def right_analytic_backward(
    input, target, size_average=None, reduce=None, reduction="mean", beta=1.0
):
    """Own autograd function, differentiable twice."""
    d, reduction = _start(input, target, size_average, reduce, reduction, beta)
    if beta == 0:
        return _reduce(d.abs(), reduction)
    return _reduce(
        _plain(d, beta) if torch.compiler.is_compiling() else _Smooth.apply(d, beta), reduction
    )
