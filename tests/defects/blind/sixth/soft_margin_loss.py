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
    if not x.is_floating_point():
        raise RuntimeError(f"result type Float can't be cast to the desired output type {input.dtype}")
    return _amp(x, y.detach())


def _z(x, y):
    return -(_wide(y.to(x.dtype)) * _wide(x))


def wrong_sign(input, target, size_average=None, reduce=None, reduction="mean"):
    """The sign of the exponent is lost: log(1 + exp(+y x)), which rewards mistakes."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce(F.softplus(-_z(x, y), threshold=1e4).to(x.dtype), mode)


def witness_wrong_sign():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])
    return not torch.allclose(wrong_sign(x, y), F.soft_margin_loss(x, y))


def wrong_base_two(input, target, size_average=None, reduce=None, reduction="mean"):
    """The logarithm is taken to base 2, so that every value and gradient is 1.44 times too large."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce((-F.logsigmoid(-_z(x, y)) / math.log(2)).to(x.dtype), mode)


def witness_wrong_base_two():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    return not torch.allclose(wrong_base_two(x, y), F.soft_margin_loss(x, y))


def wrong_zero_one_labels(input, target, size_average=None, reduce=None, reduction="mean"):
    """Labels are first mapped by 2 y - 1 as if they were 0 and 1, so that a label of -1 counts threefold."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce(-F.logsigmoid(-_z(x, 2 * y.to(x.dtype) - 1)).to(x.dtype), mode)


def witness_wrong_zero_one_labels():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    return not torch.allclose(wrong_zero_one_labels(x, y), F.soft_margin_loss(x, y))


def wrong_early_threshold(input, target, size_average=None, reduce=None, reduction="mean"):
    """Beyond -y x = 4 the loss is taken as linear (a C++ overflow guard set too low): up to 0.018 too small, and a jump."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce(F.softplus(_z(x, y), threshold=4).to(x.dtype), mode)


def witness_wrong_early_threshold():
    x, y = torch.tensor([4.5]), torch.tensor([-1.0])
    return not torch.allclose(wrong_early_threshold(x, y), F.soft_margin_loss(x, y))


def wrong_flattened_none(input, target, size_average=None, reduce=None, reduction="mean"):
    """With reduction='none' the result is a flat vector instead of having the shape of the input."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce(-F.logsigmoid(-_z(x, y)).to(x.dtype).reshape(-1), mode)


def witness_wrong_flattened_none():
    x, y = torch.randn(2, 3), torch.ones(2, 3)
    return wrong_flattened_none(x, y, reduction="none").shape != F.soft_margin_loss(x, y, reduction="none").shape


def wrong_data_dependent_branch(input, target, size_average=None, reduce=None, reduction="mean"):
    """Picks a fast or a safe kernel by a Python if on the values, so that torch.func.vmap raises (and a full-graph compile fails)."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    z = _z(x, y)
    if z.numel() and z.max() > 20:
        e = z.relu() + (-z.abs()).exp().log1p()
    else:
        e = z.exp().log1p()
    return _reduce(e.to(x.dtype), mode)


def witness_wrong_data_dependent_branch():
    x, y = torch.randn(3, 4), torch.ones(3, 4)
    torch.func.vmap(F.soft_margin_loss)(x, y)
    same = torch.allclose(wrong_data_dependent_branch(x, y), F.soft_margin_loss(x, y))
    try:
        torch.func.vmap(wrong_data_dependent_branch)(x, y)
        return False
    except RuntimeError:
        return same


class WrongSoftMarginLossRunningMean(_Loss):
    """The module returns the running mean over the calls so far (a loss meter built in), so that every call after the first has a wrong value and gradient."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__(size_average, reduce, reduction)
        self._total, self._calls = 0.0, 0

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target)
        l = _reduce(-F.logsigmoid(-_z(x, y)).to(x.dtype), mode)
        if mode == "none":
            return l
        l = (l + self._total) / (self._calls + 1)
        self._calls += 1
        self._total = l.detach() * self._calls
        return l


def witness_WrongSoftMarginLossRunningMean():
    m = WrongSoftMarginLossRunningMean()
    x, y = torch.tensor([3.0]), torch.tensor([1.0])
    first = torch.allclose(m(x, y), F.soft_margin_loss(x, y))
    return first and not torch.allclose(m(-x, y), F.soft_margin_loss(-x, y))


class WrongSoftMarginLossSizeAverageIgnored(nn.Module):
    """size_average and reduce are accepted but ignored, where they are documented to override reduction."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction: str = "mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            _Reduction.legacy_get_string(size_average, reduce)  # the deprecation warning
        self.reduction = reduction

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target)
        return _reduce(-F.logsigmoid(-_z(x, y)).to(x.dtype), mode)


def witness_WrongSoftMarginLossSizeAverageIgnored():
    x, y = torch.randn(4), torch.ones(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = WrongSoftMarginLossSizeAverageIgnored(size_average=False)(x, y)
        return not torch.allclose(a, nn.SoftMarginLoss(size_average=False)(x, y))


def right_logsigmoid(input, target, size_average=None, reduce=None, reduction="mean"):
    """-log sigmoid(y x), which does not overflow, in float32 or wider."""
    mode = _mode(reduction, size_average, reduce)
    x, y = _setup(input, target)
    return _reduce(-F.logsigmoid(-_z(x, y)), mode).to(x.dtype)


class RightSoftMarginLoss(_Loss):
    """logaddexp(0, -y x) in float64 over flat chunks."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(self.reduction)
        x, y = _setup(input, target)
        z = -(x.double() * y.double())
        if mode == "none":
            return torch.logaddexp(torch.zeros_like(z), z).to(x.dtype)
        total = sum(torch.logaddexp(torch.zeros_like(c), c).sum() for c in z.reshape(-1).split(1000))
        if mode == "mean":
            total = total / torch.full_like(total, z.numel())
        return total.to(x.dtype)
