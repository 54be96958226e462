"""Wrong and right implementations of binary_cross_entropy, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    if not reduce:
        return "none"
    return "mean" if size_average else "sum"


def _check(input, target):
    if target.size() != input.size():
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated. "
            "Please ensure they have the same size.")
    if input.numel() and not bool(((input >= 0) & (input <= 1)).all()):
        raise RuntimeError("all elements of input should be between 0 and 1")


def _finish(loss, weight, reduction):
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{reduction} is not a valid value for reduction")


class _BCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return -(t * x.log().clamp(min=-100) + (1 - t) * torch.log1p(-x).clamp(min=-100))

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        gx = gt = None
        if ctx.needs_input_grad[0]:
            gx = g * (x - t) / (x * (1 - x)).clamp(min=1e-12)
        if ctx.needs_input_grad[1]:
            gt = g * (torch.log1p(-x).clamp(min=-100) - x.log().clamp(min=-100))
        return gx, gt


def wrong_keras_epsilon(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Port from Keras: probabilities clipped to [1e-7, 1 - 1e-7] instead of logs clamped at -100."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    p = input + (input.detach().clamp(1e-7, 1 - 1e-7) - input.detach())
    return _finish(_BCE.apply(p, target), weight, reduction)


def witness_wrong_keras_epsilon():
    x, t = torch.tensor([0., 1.]), torch.tensor([1., 0.])
    return not torch.allclose(wrong_keras_epsilon(x, t), F.binary_cross_entropy(x, t))


def wrong_saturated_nan_grad(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Clamps the logs but leaves the gradient to autograd: NaN at probabilities of exactly 0 or 1."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    loss = -(target * input.log().clamp(min=-100) + (1 - target) * (1 - input).log().clamp(min=-100))
    return _finish(loss, weight, reduction)


def witness_wrong_saturated_nan_grad():
    x = torch.tensor([0., 0.4], requires_grad=True)
    wrong_saturated_nan_grad(x, torch.tensor([0., 1.])).backward()
    y = torch.tensor([0., 0.4], requires_grad=True)
    F.binary_cross_entropy(y, torch.tensor([0., 1.])).backward()
    return bool(x.grad.isnan().any()) and bool(y.grad.isfinite().all())


def wrong_weight_along_batch(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A 1-D weight of length N is laid along the batch dimension; documented broadcasting aligns it with the last."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    if weight is not None and weight.dim() == 1 and input.dim() > 1 and weight.size(0) == input.size(0):
        weight = weight.reshape(-1, *[1] * (input.dim() - 1))
    return _finish(_BCE.apply(input, target), weight, reduction)


def witness_wrong_weight_along_batch():
    x, t, w = torch.rand(3, 3), torch.rand(3, 3), torch.tensor([1., 2., 3.])
    return not torch.allclose(wrong_weight_along_batch(x, t, w, reduction="none"), F.binary_cross_entropy(x, t, w, reduction="none"))


def wrong_log_one_minus(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """log(1 - x) instead of log1p(-x): float32 probabilities below 6e-8 cost nothing."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)

    class Fn(_BCE):
        @staticmethod
        def forward(ctx, x, t):
            ctx.save_for_backward(x, t)
            return -(t * x.log().clamp(min=-100) + (1 - t) * (1 - x).log().clamp(min=-100))
    return _finish(Fn.apply(input, target), weight, reduction)


def witness_wrong_log_one_minus():
    x, t = torch.tensor([1e-8]), torch.tensor([0.])
    return not torch.allclose(wrong_log_one_minus(x, t), F.binary_cross_entropy(x, t), rtol=1e-3, atol=0)


class WrongBCELoss(torch.nn.Module):
    """weight is a plain attribute, no buffer: not in state_dict, not moved nor cast with the module."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)
        self.__dict__["weight"] = weight

    def forward(self, input, target):
        _check(input, target)
        return _finish(_BCE.apply(input, target), self.weight, self.reduction)


def witness_WrongBCELoss():
    m = WrongBCELoss(weight=torch.ones(2)).double()
    return m.weight.dtype == torch.float32 and "weight" in torch.nn.BCELoss(weight=torch.ones(2)).state_dict() and "weight" not in m.state_dict()


def right_by_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Own autograd function with analytic gradients for input and target."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    return _finish(_BCE.apply(input, target), weight, reduction)
