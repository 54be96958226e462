"""Wrong and right implementations of multilabel_soft_margin_loss, written without sight of the suite."""
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


def _finish(loss, weight, word):
    if weight is not None:
        loss = loss * weight
    return _reduced(loss.mean(-1), word)


def _softplus(z):
    return torch.logaddexp(z, torch.zeros_like(z))


def wrong_probability_detour(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """sigmoid, then binary_cross_entropy: log is clamped at -100, and 1 - sigmoid(20) is 0 in float32."""
    word = _word(size_average, reduce, reduction)
    prob = torch.sigmoid(input)
    loss = F.binary_cross_entropy(prob, target.to(prob.dtype), reduction="none")
    return _finish(loss, weight, word)


def witness_wrong_probability_detour():
    x, t = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    return not torch.allclose(wrong_probability_detour(x, t), F.multilabel_soft_margin_loss(x, t), rtol=1e-2)


def wrong_gradient_at_zero_logit(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """relu(x) - x y + log1p(exp(-|x|)): the value is right, the gradient at x == 0 is -y instead of 1/2 - y."""
    word = _word(size_average, reduce, reduction)
    loss = F.relu(input) - input * target + torch.log1p(torch.exp(-input.abs()))
    return _finish(loss, weight, word)


def witness_wrong_gradient_at_zero_logit():
    x, t = torch.zeros(2, 3, requires_grad=True), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    (a,) = torch.autograd.grad(wrong_gradient_at_zero_logit(x, t), x)
    (b,) = torch.autograd.grad(F.multilabel_soft_margin_loss(x, t), x)
    return not torch.allclose(a, b)


def wrong_weight_by_row_if_it_fits(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A convenience: a weight of length N weights the rows. In a batch with N == C the class weights do so."""
    word = _word(size_average, reduce, reduction)
    if weight is not None and weight.dim() == 1 and input.dim() == 2 and weight.numel() == input.size(0):
        weight = weight.unsqueeze(1)
    return _finish(_softplus(-input) * target + _softplus(input) * (1 - target), weight, word)


def witness_wrong_weight_by_row_if_it_fits():
    x, t, w = torch.randn(3, 3), torch.eye(3), torch.tensor([0.1, 1.0, 5.0])
    return not torch.allclose(wrong_weight_by_row_if_it_fits(x, t, w), F.multilabel_soft_margin_loss(x, t, w))


class WrongSumOverClasses(torch.nn.Module):
    """reduction 'sum' adds up everything; the division by C happens in 'mean' and 'none' only."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input, target):
        loss = _softplus(-input) * target + _softplus(input) * (1 - target)
        if self.weight is not None:
            loss = loss * self.weight
        if self.reduction == "sum":
            return loss.sum()
        loss = loss.mean(-1)
        return loss.mean() if self.reduction == "mean" else loss


def witness_WrongSumOverClasses():
    x, t = torch.randn(2, 3), torch.ones(2, 3)
    return not torch.allclose(WrongSumOverClasses(reduction="sum")(x, t), F.multilabel_soft_margin_loss(x, t, reduction="sum"))


def wrong_weight_as_pos_weight(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """weight is taken for BCEWithLogits' pos_weight: it scales the positive term only."""
    word = _word(size_average, reduce, reduction)
    loss = F.binary_cross_entropy_with_logits(input, target.to(input.dtype), reduction="none", pos_weight=weight)
    return _finish(loss, None, word)


def witness_wrong_weight_as_pos_weight():
    x, t, w = torch.randn(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([2.0, 3.0, 0.5])
    return not torch.allclose(wrong_weight_as_pos_weight(x, t, w), F.multilabel_soft_margin_loss(x, t, w))


def right_logaddexp(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """softplus by logaddexp."""
    word = _word(size_average, reduce, reduction)
    return _finish(_softplus(-input) * target + _softplus(input) * (1 - target), weight, word)


class _Logistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return x.clamp_min(0) - x * t + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        return g * (torch.sigmoid(x) - t), (-x * g if ctx.needs_input_grad[1] else None)


def right_own_backward(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function: sigmoid(x) - y; the class average as a product with weight / C."""
    word = _word(size_average, reduce, reduction)
    x, t = torch.broadcast_tensors(input, target)
    return _finish(_Logistic.apply(x, t), weight, word)
