"""Wrong and right implementations of soft_margin_loss, written without sight of the suite."""
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


def _elements(input, target):
    z = -target.broadcast_to(input.shape).to(input.dtype) * input
    return torch.logaddexp(z, torch.zeros_like(z))


def wrong_mean_over_rows(input, target, size_average=None, reduce=None, reduction="mean"):
    """'mean' divides by the batch size, not by nelement."""
    word = _word(size_average, reduce, reduction)
    loss = _elements(input, target)
    if word == "mean" and loss.dim() > 1:
        return loss.sum() / loss.size(0)
    return _reduced(loss, word)


def witness_wrong_mean_over_rows():
    x, y = torch.randn(3, 4), torch.ones(3, 4)
    return torch.allclose(wrong_mean_over_rows(x[0], y[0]), F.soft_margin_loss(x[0], y[0])) and not torch.allclose(
        wrong_mean_over_rows(x, y), F.soft_margin_loss(x, y))


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        z = -y * x
        ctx.save_for_backward(-y * torch.sigmoid(z))
        return torch.logaddexp(z, torch.zeros_like(z))

    @staticmethod
    def backward(ctx, g):
        (slope,) = ctx.saved_tensors
        return g * slope, None


def wrong_gradient_penalty_constant(input, target, size_average=None, reduce=None, reduction="mean"):
    """The slope is saved from forward as a constant: gradients with create_graph=True carry no second derivative."""
    word = _word(size_average, reduce, reduction)
    return _reduced(_FirstOrder.apply(input, target.broadcast_to(input.shape).to(input.dtype)), word)


def witness_wrong_gradient_penalty_constant():
    y = torch.tensor([1.0, -1.0])
    def penalised(fn):
        x = torch.tensor([0.3, -0.7], requires_grad=True)
        loss = fn(x, y)
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + g.square().sum()).backward()
        return x.grad
    return not torch.allclose(penalised(wrong_gradient_penalty_constant), penalised(F.soft_margin_loss))


def wrong_other_words_are_none(input, target, size_average=None, reduce=None, reduction="mean"):
    """if mean / elif sum / else: a misspelt reduction, or None, gives the unreduced loss instead of a ValueError."""
    if size_average is not None or reduce is not None:
        reduction = F._Reduction.legacy_get_string(size_average, reduce)
    return _reduced(_elements(input, target), reduction)


def witness_wrong_other_words_are_none():
    x, y = torch.randn(3), torch.ones(3)
    wrong_other_words_are_none(x, y, reduction="avg")
    try:
        F.soft_margin_loss(x, y, reduction="avg")
    except ValueError:
        return True
    return False


def wrong_result_in_target_dtype(input, target, size_average=None, reduce=None, reduction="mean"):
    """The result is cast to the target's dtype, as a kernel does that allocates empty_like(target):
    for float64 labels the loss is float64, for integer labels truncated."""
    word = _word(size_average, reduce, reduction)
    return _reduced(_elements(input, target), word).to(target.dtype)


def witness_wrong_result_in_target_dtype():
    x, y = torch.tensor([0.2, -1.5]), torch.tensor([1, 1])
    want = F.soft_margin_loss(x, y, reduction="none")
    got = wrong_result_in_target_dtype(x, y, reduction="none")
    return got.dtype != want.dtype


class WrongLegacyAlone(torch.nn.Module):
    """The deprecated pair is honoured only if both are given: reduce=False alone still averages."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None and reduce is not None:
            reduction = F._Reduction.legacy_get_string(size_average, reduce)
        self.reduction = _word(None, None, reduction)

    def forward(self, input, target):
        return _reduced(_elements(input, target), self.reduction)


def witness_WrongLegacyAlone():
    x, y = torch.randn(3), torch.ones(3)
    return WrongLegacyAlone(reduce=False)(x, y).shape != torch.nn.SoftMarginLoss(reduce=False)(x, y).shape


def right_logaddexp(input, target, size_average=None, reduce=None, reduction="mean"):
    """logaddexp(0, -y x)."""
    word = _word(size_average, reduce, reduction)
    return _reduced(_elements(input, target), word)


class _Logistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        z = -y * x
        return z.clamp_min(0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = torch.sigmoid(-y * x)
        return -y * s * g, (-x * s * g if ctx.needs_input_grad[1] else None)


class RightOwnBackward(torch.nn.Module):
    """autograd.Function, differentiable twice."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input, target):
        return _reduced(_Logistic.apply(input, target.broadcast_to(input.shape).to(input.dtype)), self.reduction)
