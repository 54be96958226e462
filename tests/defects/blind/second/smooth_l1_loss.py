"""Wrong and right implementations of smooth_l1_loss, written without sight of the suite."""
import warnings

import torch
from torch.nn import functional as F


def _word(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return F._Reduction.legacy_get_string(size_average, reduce)
    F._Reduction.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def _pair(input, target, beta, nonnegative=True):
    if target.size() != input.size():
        warnings.warn(f"Using a target size ({target.size()}) that is different to the input size "
                      f"({input.size()}).", stacklevel=3)
    if nonnegative and beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    dtype = torch.result_type(input, target)
    return torch.broadcast_tensors(input.to(dtype), target.to(dtype))


def wrong_zero_beta_nan_gradient(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """One where for every beta: at beta=0 the unused branch divides by 0, and its gradient is NaN."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta)
    d = (x - t).abs()
    quad = 0.5 * d * d / torch.as_tensor(beta, dtype=d.dtype, device=d.device)
    return _reduced(torch.where(d < beta, quad, d - 0.5 * beta), word)


def witness_wrong_zero_beta_nan_gradient():
    x, t = torch.tensor([1.0, 2.0], requires_grad=True), torch.zeros(2)
    loss = wrong_zero_beta_nan_gradient(x, t, beta=0.0)
    (g,) = torch.autograd.grad(loss, x)
    return torch.allclose(loss, F.l1_loss(x, t)) and bool(g.isnan().any())


class _GradBuffer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, beta):
        d = x - t
        a = d.abs()
        small = a < beta
        ctx.grad = torch.where(small, d / max(beta, 1e-30), d.sign())
        return torch.where(small, 0.5 * d * d / max(beta, 1e-30), a - 0.5 * beta)

    @staticmethod
    def backward(ctx, g):
        if not bool((g == 1).all()):
            ctx.grad *= g
        return ctx.grad, -ctx.grad, None


def wrong_second_backward(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The gradient is kept from forward and multiplied in place in backward: a second backward is scaled twice."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta)
    return _reduced(_GradBuffer.apply(x, t, beta), word)


def witness_wrong_second_backward():
    x, t = torch.tensor([0.2, 2.0, 3.0], requires_grad=True), torch.zeros(3)
    loss = wrong_second_backward(x, t)
    a = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    b = torch.autograd.grad(loss, x)[0]
    return not torch.allclose(a, b)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, beta):
        ctx.save_for_backward(x, t)
        ctx.beta = beta
        d = (x - t).abs()
        return torch.where(d < beta, 0.5 * d * d / (beta or 1.0), d - 0.5 * beta)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        grad = torch.zeros_like(x)
        flat, xf, tf, gf = grad.reshape(-1), x.reshape(-1), t.reshape(-1), g.reshape(-1)
        for i in range(0, flat.numel(), 4096):
            d = xf[i:i + 4096] - tf[i:i + 4096]
            s = torch.where(d.abs() < ctx.beta, d / (ctx.beta or 1.0), d.sign())
            flat[i:i + 4096] = s * gf[i:i + 4096]
        return grad, (-grad if ctx.needs_input_grad[1] else None), None


def wrong_transposed_gradient_lost(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Backward writes by chunks to zeros_like(x).reshape(-1): for a transposed input that is a copy, the gradient is 0."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta)
    return _reduced(_Chunked.apply(x, t, beta), word)


def witness_wrong_transposed_gradient_lost():
    x = torch.randn(3, 4).t().requires_grad_()
    t = torch.zeros(4, 3)
    (a,) = torch.autograd.grad(wrong_transposed_gradient_lost(x, t), x)
    (b,) = torch.autograd.grad(F.smooth_l1_loss(x, t), x)
    return not torch.allclose(a, b)


def wrong_negative_beta_is_l1(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """`if beta <= 0` gives the L1 loss: a negative beta is no error."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta, nonnegative=False)
    d = (x - t).abs()
    if beta <= 0:
        return _reduced(d, word)
    return _reduced(torch.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta), word)


def witness_wrong_negative_beta_is_l1():
    x, t = torch.randn(3), torch.randn(3)
    wrong_negative_beta_is_l1(x, t, beta=-1.0)
    try:
        F.smooth_l1_loss(x, t, beta=-1.0)
    except RuntimeError:
        return True
    return False


class WrongNotPicklable(torch.nn.Module):
    """Binds its options in a lambda: the criterion, and a model that holds it, can't be saved or sent to a worker."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", beta=1.0):
        super().__init__()
        self.beta, self.reduction = beta, _word(size_average, reduce, reduction)
        self.criterion = lambda x, t: F.smooth_l1_loss(x, t, reduction=self.reduction, beta=self.beta)

    def forward(self, input, target):
        return self.criterion(input, target)


def witness_WrongNotPicklable():
    import pickle
    pickle.dumps(torch.nn.SmoothL1Loss())
    try:
        pickle.dumps(WrongNotPicklable())
    except Exception:
        return True
    return False


def wrong_tiny_beta_is_l1(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """beta below 1e-3 counts as 0 (as detection code does below 1e-5): the gradient near 0 is a sign."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta)
    d = (x - t).abs()
    if beta < 1e-3:
        return _reduced(d, word)
    return _reduced(torch.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta), word)


def witness_wrong_tiny_beta_is_l1():
    x, t = torch.tensor([1e-4, 2e-4], dtype=torch.double), torch.zeros(2, dtype=torch.double)
    return not torch.allclose(wrong_tiny_beta_is_l1(x, t, beta=5e-4), F.smooth_l1_loss(x, t, beta=5e-4))


def right_by_clamp(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """c = min(|d|, beta): c^2 / (2 beta) + |d| - c, without where."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta)
    a = (x - t).abs()
    if beta == 0:
        return _reduced(a, word)
    c = a.clamp(max=beta)
    return _reduced(c * (c / (2 * beta)) + (a - c), word)


class _Smooth(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, beta):
        ctx.save_for_backward(x, t)
        ctx.beta = beta
        a = (x - t).abs_()
        if beta == 0:
            return a
        return torch.where(a < beta, 0.5 * a * (a / beta), a - 0.5 * beta)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        d = x - t
        g = g * (d.sign() if ctx.beta == 0 else (d / ctx.beta).clamp(-1, 1))
        return g, (-g if ctx.needs_input_grad[1] else None), None


def right_own_backward(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """autograd.Function: clamp(d / beta, -1, 1)."""
    word = _word(size_average, reduce, reduction)
    x, t = _pair(input, target, beta)
    return _reduced(_Smooth.apply(x, t, beta), word)
