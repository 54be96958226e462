import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Reduction


def _mode(size_average, reduce, reduction):
    """Resolve the deprecated arguments, then check the reduction's name."""
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return ("none", "mean", "sum")[_Reduction.get_enum(reduction)]


def _reduce(loss, reduction):
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def _up(x):
    """float16 and bfloat16 are computed in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _unreduced(x, y, margin):
    """Correct: the input where y = 1, max(0, margin - input) where y = -1."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(y != 1, (margin - x).clamp(min=0), zero) + torch.where(y != -1, x, zero)


def wrong_default_margin(input, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """The margin's default is 0 (as in cosine_embedding_loss) instead of 1; shows for negative pairs when no margin is given."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(_unreduced(input, target, margin), reduction)


def witness_wrong_default_margin():
    x, y = torch.tensor([0.25]), torch.tensor([-1.0])
    return wrong_default_margin(x, y).item() == 0.0 and F.hinge_embedding_loss(x, y).item() == 0.75


def wrong_positive_clamped(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Clamps at 0 for y = 1 too; never shows for distances, only for negative inputs."""
    reduction = _mode(size_average, reduce, reduction)
    x = torch.where(target == 1, input.clamp(min=0), input)
    return _reduce(_unreduced(x, target, margin), reduction)


def witness_wrong_positive_clamped():
    x, y = torch.tensor([-2.0]), torch.tensor([1.0])
    return wrong_positive_clamped(x, y).item() == 0.0 and F.hinge_embedding_loss(x, y).item() == -2.0


def wrong_mean_of_active(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The mean is taken over the non-zero losses only; shows when a negative pair is beyond the margin."""
    reduction = _mode(size_average, reduce, reduction)
    loss = _unreduced(input, target, margin)
    if reduction == "mean":
        active = int((loss.detach() != 0).sum()) or loss.numel()
        return (_up(loss).sum() / active).to(loss.dtype) if active else loss.mean()
    return _reduce(loss, reduction)


def witness_wrong_mean_of_active():
    x, y = torch.tensor([0.5, 3.0]), torch.tensor([1.0, -1.0])
    return wrong_mean_of_active(x, y).item() == 0.5 and F.hinge_embedding_loss(x, y).item() == 0.25


class _BadHinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, margin):
        ctx.save_for_backward(x, y)
        return _unreduced(x, y, margin)

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        slope = (y != -1).to(grad.dtype) - (y != 1).to(grad.dtype)
        return (grad * slope).sum_to_size(x.shape), None, None


def wrong_backward_beyond_margin(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward forgets the max: negative pairs beyond the margin still get gradient -1; values are right."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(_BadHinge.apply(input, target, margin), reduction)


def witness_wrong_backward_beyond_margin():
    x = torch.tensor([5.0], requires_grad=True)
    y = torch.tensor([-1.0])
    (g,) = torch.autograd.grad(wrong_backward_beyond_margin(x, y), x)
    (w,) = torch.autograd.grad(F.hinge_embedding_loss(x, y), x)
    return g.item() == -1.0 and w.item() == 0.0


_MARGINS = {}


def wrong_margin_cached(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The margin's tensor is kept per dtype and device and never refreshed; shows when a second margin is used in the same process."""
    reduction = _mode(size_average, reduce, reduction)
    key = (input.dtype, input.device)
    if key not in _MARGINS:
        _MARGINS[key] = torch.tensor(float(margin), dtype=input.dtype if input.is_floating_point() else None, device=input.device)
    return _reduce(_unreduced(input, target, _MARGINS[key]), reduction)


def witness_wrong_margin_cached():
    x, y = torch.tensor([0.5]), torch.tensor([-1.0])
    values = [wrong_margin_cached(x, y, margin=m).item() for m in (1.0, 2.0, 3.0)]
    return values[1] == values[2] and F.hinge_embedding_loss(x, y, margin=3.0).item() == 2.5


def wrong_margin_truncated(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The margin passes through an int; shows for margins that are not whole numbers."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(_unreduced(input, target, int(margin)), reduction)


def witness_wrong_margin_truncated():
    x, y = torch.tensor([0.25]), torch.tensor([-1.0])
    return wrong_margin_truncated(x, y, margin=1.5).item() == 0.75 and F.hinge_embedding_loss(x, y, margin=1.5).item() == 1.25


class WrongMarginParameter(nn.HingeEmbeddingLoss):
    """The margin is an nn.Parameter, so it appears in parameters() and state_dict() and an optimizer over the module trains it away."""

    def __init__(self, margin=1.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(1.0, size_average, reduce, reduction)
        del self.margin
        self.margin = nn.Parameter(torch.tensor(float(margin)))

    def forward(self, input, target):
        return _reduce(_unreduced(input, target, self.margin.to(input.dtype)), _mode(None, None, self.reduction))


def witness_WrongMarginParameter():
    return len(list(WrongMarginParameter().parameters())) == 1 and len(list(nn.HingeEmbeddingLoss().parameters())) == 0


def right_capped(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """For y = -1, margin - min(input, margin); float32 inside for the small dtypes."""
    reduction = _mode(size_average, reduce, reduction)
    x, y = torch.broadcast_tensors(_up(input), target)
    far = margin - x.clamp(max=margin)
    loss = torch.where(y == -1, far, torch.where(y == 1, x, x + far))
    return _reduce(loss, reduction).to(input.dtype)


def right_masked(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The similar and the dissimilar pairs each fill their places in a tensor of zeros; the two are added (float32 inside)."""
    reduction = _mode(size_average, reduce, reduction)
    x, y = torch.broadcast_tensors(_up(input), target)
    similar = x.masked_fill(y == -1, 0)
    dissimilar = (margin - x).clamp(min=0).masked_fill(y == 1, 0)
    return _reduce(similar + dissimilar, reduction).to(input.dtype)
