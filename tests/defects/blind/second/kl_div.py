"""Wrong and right implementations of kl_div, written without sight of the suite."""
import warnings
import torch
from torch.nn import functional as F

_MSG = ("reduction: 'mean' divides the total loss by both the batch size and the support size."
        "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
        "'mean' will be changed to behave the same as 'batchmean' in the next major release.")


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        if reduction == "mean":
            warnings.warn(_MSG, stacklevel=3)
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    if not reduce:
        return "none"
    return "mean" if size_average else "sum"


def _finish(loss, reduction, n):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    if reduction == "batchmean":
        return loss.sum() / n
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _rows(input):
    return input.size(0) if input.dim() else 1


def _pointwise(input, target, log_target):
    if log_target:
        return target.exp() * (target - input)
    return torch.xlogy(target, target) - target * input


def wrong_zero_target_nan(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """The formula of the docs read literally: one-hot targets give 0 * log 0 = NaN."""
    reduction = _legacy(size_average, reduce, reduction)
    loss = target.exp() * (target - input) if log_target else target * (target.log() - input)
    return _finish(loss, reduction, _rows(input))


def witness_wrong_zero_target_nan():
    x, t = torch.randn(2, 3).log_softmax(1), torch.eye(3)[:2]
    return bool(wrong_zero_target_nan(x, t, reduction="batchmean").isnan())


def wrong_batchmean_tokens(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """batchmean divides by all positions (numel / last dim): right for (N, C), not for (B, T, V)."""
    reduction = _legacy(size_average, reduce, reduction)
    n = input.numel() // input.size(-1) if input.dim() >= 2 and input.size(-1) else _rows(input)
    return _finish(_pointwise(input, target, log_target), reduction, n)


def witness_wrong_batchmean_tokens():
    x, t = torch.randn(2, 3, 4).log_softmax(-1), torch.rand(2, 3, 4).softmax(-1)
    return not torch.allclose(wrong_batchmean_tokens(x, t, reduction="batchmean"), F.kl_div(x, t, reduction="batchmean"))


def wrong_log_target_detached(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """With log_target the factor exp(target) is taken without gradient, so d/dtarget is only half of it."""
    reduction = _legacy(size_average, reduce, reduction)
    if log_target:
        with torch.no_grad():
            p = target.exp()
        loss = p * (target - input)
    else:
        loss = torch.xlogy(target, target) - target * input
    return _finish(loss, reduction, _rows(input))


def witness_wrong_log_target_detached():
    x = torch.randn(2, 3).log_softmax(1)
    t = torch.randn(2, 3).log_softmax(1).requires_grad_()
    a, = torch.autograd.grad(wrong_log_target_detached(x, t, reduction="sum", log_target=True), t)
    b, = torch.autograd.grad(F.kl_div(x, t, reduction="sum", log_target=True), t)
    return not torch.allclose(a, b)


def wrong_log_clamped(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """log of the target clamped at 1e-6 (an epsilon against log 0): off for small probabilities."""
    reduction = _legacy(size_average, reduce, reduction)
    if log_target:
        loss = target.exp() * (target - input)
    else:
        loss = target * (target.clamp(min=1e-6).log() - input)
    return _finish(loss, reduction, _rows(input))


def witness_wrong_log_clamped():
    x, t = torch.full((1, 2), -3., dtype=torch.double), torch.tensor([[1e-9, 1 - 1e-9]], dtype=torch.double)
    return not torch.allclose(wrong_log_clamped(x, t, reduction="none"), F.kl_div(x, t, reduction="none"), rtol=1e-6, atol=0)


class WrongKLDivLoss(torch.nn.Module):
    """A 1-D input is taken as a single distribution (unsqueezed): batchmean then divides by 1, not by size(0)."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _legacy(size_average, reduce, reduction)
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input, target):
        reduction = _legacy(None, None, self.reduction)
        one = input.dim() == 1
        if one:
            input, target = input.unsqueeze(0), target.unsqueeze(0)
        out = _finish(_pointwise(input, target, self.log_target), reduction, _rows(input))
        return out.squeeze(0) if one and reduction == "none" else out


def witness_WrongKLDivLoss():
    x, t = torch.randn(4).log_softmax(0), torch.rand(4).softmax(0)
    return not torch.allclose(WrongKLDivLoss(reduction="batchmean")(x, t), F.kl_div(x, t, reduction="batchmean"))


def right_safe_log(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Entropy part with the logarithm taken of 1 where the target is 0; cross part apart."""
    reduction = _legacy(size_average, reduce, reduction)
    if log_target:
        p = target.exp()
        loss = p * target - p * input
    else:
        safe = torch.where(target == 0, torch.ones_like(target), target)
        loss = target * safe.log() - target * input
    return _finish(loss, reduction, _rows(input))


class RightKLDivLoss(torch.nn.Module):
    """Module around xlogy."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _legacy(size_average, reduce, reduction)
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input, target):
        return _finish(_pointwise(input, target, self.log_target), _legacy(None, None, self.reduction), _rows(input))
