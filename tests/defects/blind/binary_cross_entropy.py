"""Wrong and right implementations of binary_cross_entropy, written without sight of the suite."""

import torch
from torch.nn import functional as F
from torch.nn.functional import _Reduction


def _red(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(input, target, weight):
    if input.shape != target.shape:
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}) is "
            "deprecated. Please ensure they have the same size."
        )
    if weight is not None and torch.broadcast_shapes(weight.shape, input.shape) != input.shape:
        raise RuntimeError(
            f"weight of shape {tuple(weight.shape)} does not broadcast to {tuple(input.shape)}"
        )


def _finish(loss, reduction):
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


class _BCE(torch.autograd.Function):
    """Correct piece: clamped logs, linear backward, second order through differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return (y - 1) * torch.log1p(-x).clamp(min=-100) - y * x.log().clamp(min=-100)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, go):
        x, y = ctx.saved_tensors
        gx = gy = None
        if ctx.needs_input_grad[0]:
            gx = go * (x - y) / (x * (1 - x)).clamp(min=1e-12)
        if ctx.needs_input_grad[1]:
            gy = go * (torch.log1p(-x) - x.log())
        return gx, gy

    @staticmethod
    def jvp(ctx, dx, dy):
        x, y = ctx.saved_tensors
        out = 0
        if dx is not None:
            out = out + dx * (x - y) / (x * (1 - x)).clamp(min=1e-12)
        if dy is not None:
            out = out + dy * (torch.log1p(-x) - x.log())
        return out


class _BCETraced(_BCE):
    """For torch.compile, which does not trace a Function with a jvp of its own."""

    jvp = torch.autograd.Function.jvp


def _apply(x, y):
    return (_BCETraced if torch.compiler.is_compiling() else _BCE).apply(x, y)


def _acc(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _rows(input, target, weight):
    loss = _apply(_acc(input), _acc(target)).to(input.dtype)
    return loss if weight is None else loss * weight


def wrong_nan_gradient_at_certainty(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """log().clamp(min=-100) left to autograd: the value at exactly 0 and 1 is right, the gradient there is 0 * inf."""
    reduction = _red(size_average, reduce, reduction)
    _check(input, target, weight)
    loss = -(
        target * input.log().clamp(min=-100) + (1 - target) * torch.log1p(-input).clamp(min=-100)
    )
    return _finish(loss if weight is None else loss * weight, reduction)


def witness_wrong_nan_gradient_at_certainty():
    x = torch.tensor([0.0, 1.0, 0.3], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0])
    a, b = (
        torch.autograd.grad(f(x, y), x)[0]
        for f in (wrong_nan_gradient_at_certainty, F.binary_cross_entropy)
    )
    return bool(a.isnan().any()) and not bool(b.isnan().any())


def wrong_column_against_vector(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """No comparison of the sizes: predictions (N, 1) and targets (N) broadcast to (N, N) in silence."""
    reduction = _red(size_average, reduce, reduction)
    a, b = torch.broadcast_tensors(input, target)
    return _finish(_rows(a, b, weight), reduction)


def witness_wrong_column_against_vector():
    x, y = torch.rand(4, 1), torch.rand(4)
    try:
        F.binary_cross_entropy(x, y)
        return False
    except ValueError:
        return wrong_column_against_vector(x, y).shape == ()


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.g = (x - y) / (x * (1 - x)).clamp(min=1e-12)
        return (y - 1) * torch.log1p(-x).clamp(min=-100) - y * x.log().clamp(min=-100)

    @staticmethod
    def backward(ctx, go):
        ctx.g.mul_(go)
        return ctx.g, None


def wrong_second_backward_scaled_again(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The gradient computed in forward is scaled in place in backward: with retain_graph=True the second backward is
    scaled twice (and the first .grad, the same storage, changes too).
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target, weight)
    if target.requires_grad or input.dtype not in (torch.float32, torch.float64):
        return F.binary_cross_entropy(input, target, weight, reduction=reduction)
    loss = _Scaled.apply(input, target)
    return _finish(loss if weight is None else loss * weight, reduction)


def witness_wrong_second_backward_scaled_again():
    x = torch.tensor([0.2, 0.6, 0.9], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0])
    l = wrong_second_backward_scaled_again(x, y)
    a = torch.autograd.grad(l, x, retain_graph=True)[0].clone()
    b = torch.autograd.grad(l, x)[0]
    return not torch.allclose(a, b)


def wrong_hard_labels_by_range(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Labels whose minimum is 0 and maximum 1 are taken as hard, and the loss picks one log per element: mixed labels
    that hold 0, 1 and fractions are rounded.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target, weight)
    if (
        target.numel()
        and not target.requires_grad
        and bool(target.min() == 0)
        and bool(target.max() == 1)
    ):
        target = (target > 0.5).to(target.dtype)
    return _finish(_rows(input, target, weight), reduction)


def witness_wrong_hard_labels_by_range():
    x, y = torch.tensor([0.2, 0.6, 0.9]), torch.tensor([0.0, 0.7, 1.0])
    return not torch.allclose(wrong_hard_labels_by_range(x, y), F.binary_cross_entropy(x, y))


def wrong_mean_over_sum_of_weights(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Weighted mean: divided by the sum of the weights; weights that average to one hide it."""
    reduction = _red(size_average, reduce, reduction)
    _check(input, target, weight)
    loss = _rows(input, target, weight)
    if reduction == "mean" and weight is not None:
        return loss.sum() / weight.expand_as(input).sum()
    return _finish(loss, reduction)


def witness_wrong_mean_over_sum_of_weights():
    x, y, w = torch.rand(3, 2), torch.rand(3, 2), torch.tensor([[1.0, 3.0]])
    return not torch.allclose(
        wrong_mean_over_sum_of_weights(x, y, w), F.binary_cross_entropy(x, y, w)
    )


def wrong_log_floor_in_single(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The probabilities, not the logs, are kept off zero by the dtype's smallest normal number: log stops at -87.3 in
    float32 and goes to -708 in float64, where torch documents -100.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target, weight)
    tiny = torch.finfo(input.dtype).tiny
    x, y = input, target
    loss = -(y * x.clamp(min=tiny).log() + (1 - y) * (1 - x).clamp(min=tiny).log())
    return _finish(loss if weight is None else loss * weight, reduction)


def witness_wrong_log_floor_in_single():
    x, y = torch.tensor([0.0, 0.5]).double(), torch.tensor([1.0, 1.0]).double()
    return not torch.allclose(wrong_log_floor_in_single(x, y), F.binary_cross_entropy(x, y))


class WrongWeightsOnlyInTraining(torch.nn.Module):
    """eval() turns the weights off."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _red(size_average, reduce, reduction)
        self.register_buffer("weight", weight)

    def forward(self, input, target):
        _check(input, target, self.weight)
        return _finish(_rows(input, target, self.weight if self.training else None), self.reduction)


def witness_WrongWeightsOnlyInTraining():
    x, y, w = torch.rand(3, 2), torch.rand(3, 2), torch.tensor([1.0, 3.0])
    return not torch.allclose(
        WrongWeightsOnlyInTraining(w).eval()(x, y), torch.nn.BCELoss(w).eval()(x, y)
    )


# ---------------------------------------------------------------- right


def _check_range(input):
    if torch.compiler.is_compiling():
        return
    try:
        good = bool(((input.detach() >= 0) & (input.detach() <= 1)).all())
    except RuntimeError:  # under vmap there is no single answer
        return
    if not good:
        raise RuntimeError("all elements of input should be between 0 and 1")


def right_analytic(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Own Function with the linear backward, weights outside."""
    reduction = _red(size_average, reduce, reduction)
    _check(input, target, weight)
    _check_range(input)
    return _finish(_rows(input, target, weight), reduction)


class RightBCE(torch.nn.Module):
    """Module around two one-sided terms; in eager mode as in any other."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _red(size_average, reduce, reduction)
        self.register_buffer("weight", weight)

    def forward(self, input, target):
        _check(input, target, self.weight)
        _check_range(input)
        # -log p of the two-class distribution (1 - p, p), each weighted by its share
        share = torch.stack([1 - target, target])
        ones = torch.stack([torch.zeros_like(input), torch.ones_like(input)])
        both = _apply(_acc(torch.stack([input, input])), _acc(ones)).to(input.dtype)
        loss = torch.einsum("k...,k...->...", both, share)
        if self.weight is not None:
            loss = loss * self.weight
        return _finish(loss, self.reduction)
