import math
import warnings
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction as _Reduction

_Loss = nn.modules.loss._Loss


def _mode(reduction, size_average=None, reduce=None):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return ("none", "mean", "sum")[_Reduction.get_enum(reduction)]


def _reduce(e, mode):
    return e if mode == "none" else e.mean() if mode == "mean" else e.sum()


def _amp(*ts):
    """The float32 policy of autocast for losses."""
    if torch.is_autocast_enabled(ts[0].device.type):
        return tuple(
            t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t
            for t in ts
        )
    return ts


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _setup(input, target):
    x, y = torch.broadcast_tensors(input, target)
    if x.is_complex():
        raise NotImplementedError("clamp is not supported for complex types")
    return _amp(x, y)


def _hinge(x, y, margin):
    near = x.masked_fill(y == -1, 0)
    far = (margin - x).clamp_min(0).masked_fill(y == 1, 0)
    return near + far


def wrong_classification_hinge(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The hinge loss of classification, max(0, margin - y x), instead of the embedding loss."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce((margin - y.to(x.dtype) * x).clamp_min(0), mode)


def witness_wrong_classification_hinge():
    x, y = torch.tensor([0.3, 0.4]), torch.tensor([1.0, -1.0])
    return not torch.allclose(wrong_classification_hinge(x, y), F.hinge_embedding_loss(x, y))


def wrong_squared_hinge(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The negative pairs are squared, max(0, margin - x)^2 (contrastive loss); coincides only at 0 and 1."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    far = (margin - x).clamp_min(0).square()
    return _reduce(x.masked_fill(y == -1, 0) + far.masked_fill(y == 1, 0), mode)


def witness_wrong_squared_hinge():
    x, y = torch.tensor([0.3]), torch.tensor([-1.0])
    return not torch.allclose(wrong_squared_hinge(x, y), F.hinge_embedding_loss(x, y))


def wrong_positive_clamped(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """For y = 1 a negative x is clamped to 0 (a distance, it is assumed, is never negative), where the formula gives x_n itself."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    near = torch.where(x < 0, torch.zeros_like(x), x).masked_fill(y == -1, 0)
    far = (margin - x).clamp_min(0).masked_fill(y == 1, 0)
    return _reduce(near + far, mode)


def witness_wrong_positive_clamped():
    x, y = torch.tensor([-0.7]), torch.tensor([1.0])
    return not torch.allclose(wrong_positive_clamped(x, y), F.hinge_embedding_loss(x, y))


def wrong_mean_over_active(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """'mean' averages over the pairs with a non-zero loss only; shows as soon as a negative pair lies beyond the margin."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    e = _hinge(x, y, margin)
    if mode == "mean" and e.is_floating_point() and e.numel():
        return (_wide(e).sum() / (e != 0).sum().clamp_min(1)).to(e.dtype)
    return _reduce(e, mode)


def witness_wrong_mean_over_active():
    x, y = torch.tensor([0.5, 3.0]), torch.tensor([1.0, -1.0])
    return not torch.allclose(wrong_mean_over_active(x, y), F.hinge_embedding_loss(x, y))


def wrong_masked_by_multiplication(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The terms are selected by multiplying with 0 / 1 masks, so that an infinite distance of a negative pair gives NaN instead of 0."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    near, far = (y != -1).to(x.dtype), (y != 1).to(x.dtype)
    return _reduce(near * x + far * (margin - x).clamp_min(0), mode)


def witness_wrong_masked_by_multiplication():
    x, y = torch.tensor([math.inf, 0.5]), torch.tensor([-1.0, 1.0])
    return bool(wrong_masked_by_multiplication(x, y).isnan()) and bool(F.hinge_embedding_loss(x, y).isfinite())


def wrong_empty_raises(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Works in chunks that are concatenated at the end; for an input without elements there is no chunk and it raises."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    xf, yf = x.reshape(-1), y.reshape(-1)
    parts = [_hinge(xf[i : i + 4096], yf[i : i + 4096], margin) for i in range(0, xf.numel(), 4096)]
    return _reduce(torch.cat(parts).reshape(x.shape), mode)


def witness_wrong_empty_raises():
    x, y = torch.zeros(0, 3), torch.zeros(0, 3)
    if F.hinge_embedding_loss(x, y, reduction="sum").item() != 0:
        return False
    try:
        wrong_empty_raises(x, y, reduction="sum")
        return False
    except (RuntimeError, ValueError):
        return True


class WrongHingeEmbeddingLossZeroMargin(_Loss):
    """margin=0 is taken as 'not given' (margin or 1.0) and becomes 1."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin: float = 1.0, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin or 1.0

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target)
        return _reduce(_hinge(x, y, self.margin), mode)


def witness_WrongHingeEmbeddingLossZeroMargin():
    x, y = torch.tensor([0.3]), torch.tensor([-1.0])
    a = WrongHingeEmbeddingLossZeroMargin(margin=0.0)(x, y)
    return not torch.allclose(a, nn.HingeEmbeddingLoss(margin=0.0)(x, y))


class WrongHingeEmbeddingLossCachedMask(_Loss):
    """The masks of the last target object are cached, so that a target buffer refilled in place (copy_) is scored with the old labels."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin: float = 1.0, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin
        self._target = None
        self._masks = None

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target)
        if self._target is not target or self._masks[0].shape != y.shape:
            self._target, self._masks = target, (y == -1, y == 1)
        near = x.masked_fill(self._masks[0], 0)
        far = (self.margin - x).clamp_min(0).masked_fill(self._masks[1], 0)
        return _reduce(near + far, mode)


def witness_WrongHingeEmbeddingLossCachedMask():
    m = WrongHingeEmbeddingLossCachedMask()
    x, y = torch.tensor([0.3, 0.2]), torch.tensor([-1.0, 1.0])
    first = torch.allclose(m(x, y), F.hinge_embedding_loss(x, y))
    y.copy_(torch.tensor([1.0, 1.0]))
    return first and not torch.allclose(m(x, y), F.hinge_embedding_loss(x, y))


def right_masked_fills(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Each term computed everywhere and blanked by masked_fill, reduced in float64."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    e = _hinge(x, y, margin)
    if mode == "none" or not e.is_floating_point():
        return _reduce(e, mode)
    return _reduce(e.double(), mode).to(e.dtype)


class RightHingeEmbeddingLoss(_Loss):
    """A chain of two wheres over chunks: x for positive pairs, x + max(0, margin - x) = max(x, margin) for any other label, the hinge for negative ones."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin: float = 1.0, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def _each(self, x, y):
        gap = (self.margin - x).clamp(min=0)
        return torch.where(y == 1, x, torch.where(y == -1, gap, x + gap))

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target)
        if mode == "none" or not x.is_floating_point():
            return _reduce(self._each(x, y), mode)
        xs, ys = _wide(x).reshape(-1).split(3000), y.reshape(-1).split(3000)
        total = torch.stack([self._each(a, b).sum() for a, b in zip(xs, ys)]).sum()
        if mode == "mean":
            total = total / torch.full_like(total, x.numel())
        return total.to(x.dtype)
