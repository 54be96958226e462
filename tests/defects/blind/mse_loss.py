"""Wrong and right implementations of mse_loss, written without sight of the suite."""

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


def _check_weight(input, weight):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _finish(loss, input, weight, reduction):
    _check_weight(input, weight)
    if weight is None:
        return _reduce(loss, reduction)
    loss = loss * weight
    if reduction == "mean":
        return loss.sum() / weight.sum()
    return _reduce(loss, reduction)


def wrong_expanded_square(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Sum of squares as x.x - 2 x.t + t.t: cancels when values are large against the error."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    if weight is not None or reduction == "none":
        return _finish((x - t) ** 2, input, weight, reduction)
    total = (x * x).sum() - 2 * (x * t).sum() + (t * t).sum()
    return (
        total / x.numel()
        if reduction == "mean" and x.numel()
        else (total if reduction == "sum" else total / 0)
    )


def witness_wrong_expanded_square():
    t = 1000 + torch.linspace(0, 1, 50)
    x = t + 0.01
    return not torch.allclose(wrong_expanded_square(x, t), F.mse_loss(x, t), rtol=1e-2)


def wrong_inner_product_under_autocast(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """The sum of squares is d @ d, which autocast does in bfloat16."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    d = x - t
    if weight is not None or reduction == "none":
        return _finish(d * d, input, weight, reduction)
    d = d.reshape(-1)
    total = d @ d
    return (
        total
        if reduction == "sum"
        else total / torch.full((), d.numel(), dtype=d.dtype, device=d.device)
    )


def witness_wrong_inner_product_under_autocast():
    x, t = torch.linspace(0, 1, 77), torch.zeros(77)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = wrong_inner_product_under_autocast(x, t), F.mse_loss(x, t)
    return b.dtype == torch.float32 and (a.dtype != b.dtype or not torch.allclose(a, b))


def _memory_order(x):
    if x.untyped_storage().nbytes() == x.numel() * x.element_size():
        return x.as_strided((x.numel(),), (1,), 0)  # dense: the kernel may walk the memory
    return x.reshape(-1)


def wrong_pairs_by_memory_order(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Walks the memory of dense tensors; a transposed or channels_last one pairs with the wrong target."""
    reduction = _mode(size_average, reduce, reduction)
    if weight is not None or reduction == "none" or input.size() != target.size():
        x, t = _pair(input, target)
        return _finish((x - t) ** 2, input, weight, reduction)
    d = _memory_order(input) - _memory_order(target)
    return _reduce(d * d, reduction)


def witness_wrong_pairs_by_memory_order():
    x, t = torch.arange(6.0).view(2, 3), torch.zeros(3, 2).t() + torch.arange(6.0).view(2, 3)
    t = t.t().contiguous().t()
    return bool(F.mse_loss(x, t) == 0) and not bool(wrong_pairs_by_memory_order(x, t) == 0)


def wrong_root_of_weight(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Folds the weight into the residual as sqrt(w): NaN for negative weights, NaN gradient of a zero weight."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    d = x - t
    if weight is None:
        return _reduce(d * d, reduction)
    _check_weight(input, weight)
    loss = (d * weight.sqrt()) ** 2
    return loss.sum() / weight.sum() if reduction == "mean" else _reduce(loss, reduction)


def witness_wrong_root_of_weight():
    w = torch.tensor([0.0, 1.0], requires_grad=True)
    x, t = torch.tensor([1.0, 2.0]), torch.zeros(2)
    g = torch.autograd.grad(wrong_root_of_weight(x, t, weight=w), w)[0]
    h = torch.autograd.grad(F.mse_loss(x, t, weight=w), w)[0]
    return bool(g.isnan().any()) and not bool(h.isnan().any())


class _SquareInputOnly(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t):
        return (x - t) ** 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None
        gx = 2 * g * (x - t)
        return gx, (-gx if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx, a, b):
        x, t = ctx.saved_tensors
        d = 0
        if a is not None:
            d = d + a
        if b is not None:
            d = d - b
        return 2 * (x - t) * d


def wrong_no_gradient_for_target_alone(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Backward leaves early when the input needs no gradient, even if the target does."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    loss = (x - t) ** 2 if torch.compiler.is_compiling() else _SquareInputOnly.apply(x, t)
    return _finish(loss, input, weight, reduction)


def witness_wrong_no_gradient_for_target_alone():
    t = torch.tensor([1.0, 2.0], requires_grad=True)
    g = torch.autograd.grad(
        wrong_no_gradient_for_target_alone(torch.zeros(2), t), t, allow_unused=True
    )[0]
    return g is None or not torch.allclose(g, t.detach())


class _SquareOldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d):
        ctx.save_for_backward(d)
        return d * d

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved_tensors
        return 2 * d * g


def wrong_not_for_torch_func(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """An autograd function of the old style (no setup_context): torch.func.grad refuses it."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    return _finish(_SquareOldStyle.apply(x - t), input, weight, reduction)


def witness_wrong_not_for_torch_func():
    x, t = torch.ones(3), torch.zeros(3)
    torch.func.grad(F.mse_loss)(x, t)
    try:
        torch.func.grad(wrong_not_for_torch_func)(x, t)
    except RuntimeError:
        return True
    return False


def wrong_at_least_one_dimension(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """The kernel wants one dimension: a 0-dim input with 'none' comes back with shape [1]."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(input, weight)
    x, t = _pair(input, target)
    x, t = torch.atleast_1d(x), torch.atleast_1d(t)
    d = x - t
    if weight is None:
        return _reduce(d * d, reduction)
    loss = d * d * weight
    return loss.sum() / weight.sum() if reduction == "mean" else _reduce(loss, reduction)


def witness_wrong_at_least_one_dimension():
    return (
        wrong_at_least_one_dimension(torch.tensor(1.0), torch.tensor(2.0), reduction="none").dim()
        == 1
    )


class WrongNoGraphInEvalMSELoss(_Loss):
    """In eval mode the loss is computed without a graph."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)

    def forward(self, input, target):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return F.mse_loss(input, target, reduction=self.reduction)


def witness_WrongNoGraphInEvalMSELoss():
    x = torch.ones(2, requires_grad=True)
    return not WrongNoGraphInEvalMSELoss().eval()(x, torch.zeros(2)).requires_grad


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t):
        return (x - t) ** 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        gx = 2 * g * (x - t)
        return gx.to(x.dtype), (-gx).to(t.dtype) if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx, a, b):
        x, t = ctx.saved_tensors
        d = torch.zeros_like(x - t)
        if a is not None:
            d = d + a
        if b is not None:
            d = d - b
        return 2 * (x - t) * d


def right_analytic_backward(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Own autograd function over both arguments, differentiable twice."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    loss = (x - t) ** 2 if torch.compiler.is_compiling() else _Square.apply(x, t)
    return _finish(loss, input, weight, reduction)


def right_chunked_in_double(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Sums chunk by chunk in float64 and returns the promoted dtype."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    _check_weight(input, weight)
    dtype = torch.promote_types(x.dtype, t.dtype)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    if reduction == "none":
        d = x - t
        return d * d if weight is None else d * d * weight
    w = (
        torch.ones((), dtype=torch.float64, device=x.device).expand(x.shape)
        if weight is None
        else weight.expand(x.shape)
    )
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for a, b, c in zip(
        x.reshape(-1).split(1000), t.reshape(-1).split(1000), w.reshape(-1).split(1000)
    ):
        d = a.double() - b.double()
        total = total + (d * d * c.double()).sum()
    if reduction == "mean":
        total = total / (x.numel() if weight is None else weight.double().sum())
    return total.to(dtype)


class RightMSELoss(_Loss):
    """Squares its own temporary in place."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        x, t = _pair(input, target)
        return _reduce(torch.sub(x, t).square_(), reduction)
