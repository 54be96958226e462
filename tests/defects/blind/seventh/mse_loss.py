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


def _reduce(e, weight, reduction):
    if weight is not None:
        e = e * weight
    if reduction == "none":
        return e
    if reduction == "sum":
        return e.sum()
    return e.mean() if weight is None else e.sum() / weight.sum()


def _common(x, y, weight):
    t = torch.result_type(x, y)
    if weight is None and not t.is_floating_point:
        raise NotImplementedError(f"mse_loss is not implemented for {t}")
    return t


def _start(input, target, size_average, reduce, reduction, weight):
    x, y = _expand(input, target)
    reduction = _legacy(size_average, reduce, reduction)
    if weight is not None:
        _same_size(weight, input)
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    reduction = _mode(reduction)
    t = _common(x, y, weight)
    return x.to(t), y.to(t), reduction


# ----------------------------------------------------------------- wrong


def wrong_half_factor(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Carries the textbook factor 1/2 in front of the squared error; shows always."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    return _reduce(0.5 * (x - y) ** 2, weight, reduction)


def witness_wrong_half_factor():
    a, b = torch.zeros(3), torch.ones(3)
    return not torch.allclose(wrong_half_factor(a, b), F.mse_loss(a, b))


def wrong_mean_over_batch(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The unweighted mean divides by the batch size only, not by the number of elements; shows for two or more dimensions."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    e = (x - y) ** 2
    if weight is None and reduction == "mean" and e.dim() > 1 and e.numel():
        return e.flatten(1).sum(1).mean()
    return _reduce(e, weight, reduction)


def witness_wrong_mean_over_batch():
    a, b = torch.zeros(3, 4), torch.ones(3, 4)
    return not torch.allclose(wrong_mean_over_batch(a, b), F.mse_loss(a, b))


def wrong_expanded_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Expands the square to x*x - 2*x*y + y*y, which cancels to noise (even below zero) when the values are large and the difference is small."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    return _reduce(x * x - 2 * x * y + y * y, weight, reduction)


def witness_wrong_expanded_square():
    a = torch.linspace(1000, 1001, 50)
    b = a + 0.01
    return not torch.allclose(wrong_expanded_square(a, b), F.mse_loss(a, b), rtol=0.05, atol=0)


class _SameSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x - y) ** 2

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = 2 * (x - y) * g
        return gx, gx.clone()


def wrong_target_gradient_sign(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The hand-written backward gives the target the same gradient as the input, without the minus sign; shows only if the target requires grad."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    return _reduce(_SameSign.apply(x, y), weight, reduction)


def witness_wrong_target_gradient_sign():
    a, b = torch.zeros(3), torch.ones(3, requires_grad=True)
    (g,) = torch.autograd.grad(wrong_target_gradient_sign(a, b), b)
    (r,) = torch.autograd.grad(F.mse_loss(a, b), b)
    return not torch.allclose(g, r)


def wrong_weight_sum_detached(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The normaliser sum(weight) is detached, so the gradient for a weight under reduction='mean' lacks the quotient term."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    e = (x - y) ** 2
    if weight is not None and reduction == "mean":
        return (e * weight).sum() / weight.detach().sum()
    return _reduce(e, weight, reduction)


def witness_wrong_weight_sum_detached():
    a, b = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    w = torch.tensor([1.0, 0.5, 2.0], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_weight_sum_detached(a, b, weight=w), w)
    (r,) = torch.autograd.grad(F.mse_loss(a, b, weight=w), w)
    return not torch.allclose(g, r)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, mean):
        ctx.save_for_backward(x, y)
        ctx.mean = mean
        d = x - y
        return (d * d).mean() if mean else (d * d).sum()

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = 2 * (x - y)
        if ctx.mean:
            gx = gx / max(gx.numel(), 1)
        return gx.clone(), -gx, None


def wrong_backward_ignores_upstream(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The fused backward of the unweighted scalar reductions takes the incoming gradient to be 1, so a loss that is scaled or combined (loss * 0.1) trains with the wrong gradient."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    if weight is None and reduction != "none":
        return _Fused.apply(x, y, reduction == "mean")
    return _reduce((x - y) ** 2, weight, reduction)


def witness_wrong_backward_ignores_upstream():
    a, b = torch.ones(3, requires_grad=True), torch.zeros(3)
    (g,) = torch.autograd.grad(0.1 * wrong_backward_ignores_upstream(a, b), a)
    (r,) = torch.autograd.grad(0.1 * F.mse_loss(a, b), a)
    return not torch.allclose(g, r)


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.diff = (x - y).detach()
        return ctx.diff**2

    @staticmethod
    def backward(ctx, g):
        gx = 2 * ctx.diff * g
        return gx, -gx


def wrong_second_derivative(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Keeps the difference as a constant on the context, so the gradient of the gradient (Hessian, gradient penalty) is silently zero; first derivatives are right."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    return _reduce(_FirstOrder.apply(x, y), weight, reduction)


def witness_wrong_second_derivative():
    def second(f):
        a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        k = torch.ones((), dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(k * f(a, torch.zeros(2, dtype=torch.float64), reduction="sum"), a, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), a, allow_unused=True)
        return torch.zeros(2, dtype=torch.float64) if h is None else h

    return not torch.allclose(second(wrong_second_derivative), second(F.mse_loss))


class WrongSharedWorkspace(nn.Module):
    """Without gradients the module writes the elements into one workspace that it keeps and returns, so with reduction='none' the next call of the same size overwrites the result of the last."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)
        self._work = None

    def forward(self, input, target):
        x, y, reduction = _start(input, target, None, None, self.reduction, None)
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            return _reduce((x - y) ** 2, None, reduction)
        x, y = x.detach(), y.detach()
        w = self._work
        if w is None or w.shape != x.shape or w.dtype != x.dtype or w.device != x.device:
            w = self._work = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        torch.sub(x, y, out=w)
        w.mul_(w)
        return _reduce(w, None, reduction)


def witness_WrongSharedWorkspace():
    m = WrongSharedWorkspace(reduction="none")
    first = m(torch.zeros(3), torch.ones(3))
    keep = first.clone()
    m(torch.zeros(3), torch.full((3,), 5.0))
    return not torch.equal(first, keep)


# ----------------------------------------------------------------- right


def right_einsum(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Sum of squares as an inner product of the flattened difference with itself."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    d = x - y
    if reduction == "none":
        return d * d if weight is None else d * d * weight
    out = d.dtype if weight is None else torch.promote_types(d.dtype, weight.dtype)
    v = (_wide(x) - _wide(y)).reshape(-1)
    if weight is None:
        s = torch.einsum("i,i->", v, v)
        if reduction == "mean":
            s = s / v.new_full((), v.numel())
    else:
        w = _wide(weight)
        # the expanded difference may be larger than the weight, as in torch
        w = w.expand_as(d).reshape(-1)
        t = torch.promote_types(v.dtype, w.dtype)
        v, w = v.to(t), w.to(t)
        s = torch.einsum("i,i,i->", v, v, w)
        if reduction == "mean":
            s = s / _wide(weight).sum()
    return s.to(out) if out in (torch.float16, torch.bfloat16) else s


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return torch.square(x - y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = 2 * g * (x - y)
        return (gx if ctx.needs_input_grad[0] else None), (-gx if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx, tx, ty):
        x, y = ctx.saved_tensors
        return 2 * (x - y) * ((0 if tx is None else tx) - (0 if ty is None else ty))


def right_own_function(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Hand-written backward for the elements, reductions by ordinary operations."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    e = _Square.apply(x, y)
    if weight is None:
        return e if reduction == "none" else getattr(torch, reduction)(e)
    we = weight * e
    if reduction == "none":
        return we
    total = we.sum()
    return total if reduction == "sum" else total / weight.sum()


def right_float32_inside(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Works in float32 (or float64) and rounds the result to the promoted dtype at the end."""
    x, y, reduction = _start(input, target, size_average, reduce, reduction, weight)
    out = x.dtype
    e = torch.pow(_wide(y) - _wide(x), 2)
    if weight is not None:
        out = torch.promote_types(out, weight.dtype)
        e = e * _wide(weight)
    if reduction == "mean":
        e = e.mean() if weight is None else e.sum() / _wide(weight).sum()
    elif reduction == "sum":
        e = e.sum()
    return e.to(out) if out in (torch.float16, torch.bfloat16) else e


class RightMSELoss(nn.Module):
    """Module: per-row partial sums first, rows second."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)

    def forward(self, input, target):
        x, y, how = _start(input, target, None, None, self.reduction, None)
        d = x.sub(y)
        e = d.mul(d)
        if how == "none":
            return e
        s = _wide(e)
        n = s.numel()
        while s.dim():
            s = s.sum(-1)
        if how == "mean":
            s = s / torch.tensor(n, dtype=s.dtype, device=s.device)
        return s.to(e.dtype)
