import copy
import math
import pickle
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Reduction

_HALF = (torch.float16, torch.bfloat16)


def _mode(size_average, reduce, reduction):
    """Resolve deprecated arguments and validate, as torch does."""
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _autocast(*tensors):
    """torch runs this loss in float32 below autocast."""
    if torch.is_autocast_enabled(tensors[0].device.type):
        tensors = tuple(t.float() if t is not None and t.dtype in _HALF else t for t in tensors)
    return tensors


def _acc(dtype):
    return torch.float32 if dtype in _HALF else dtype


def _reduced(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _warn_sizes(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )


def _check_delta(delta):
    if not delta > 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")


def _prepare(input, target):
    """Broadcast; like torch's own, the result has the dtype of input."""
    input, target = _autocast(input, target)
    x, y = torch.broadcast_tensors(input, target)
    dtype = torch.result_type(x, y)
    if not dtype.is_floating_point:
        raise NotImplementedError(f'"huber" not implemented for \'{dtype}\'')
    if not input.is_floating_point():
        raise RuntimeError(f"result type {dtype} can't be cast to the desired output type {input.dtype}")
    return x, y, torch.promote_types(_acc(dtype), x.dtype)


def _finish(loss, weight, input, reduction):
    if weight is not None:
        loss = loss * weight
    return _reduced(loss, reduction)


def _check_weight(weight, input):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


# --------------------------------------------------------------------------- wrong


def wrong_weighted_mean(input, target, reduction="mean", delta=1.0, weight=None):
    """The weighted mean is divided by the sum of the weights, where torch's huber_loss divides by the number of elements."""
    if weight is None or reduction != "mean":
        return F.huber_loss(input, target, reduction=reduction, delta=delta, weight=weight)
    _check_weight(weight, input)
    weighted = F.huber_loss(input, target, reduction="none", delta=delta) * weight
    return weighted.sum() / weight.sum()


def witness_wrong_weighted_mean():
    x, y, w = torch.zeros(3), torch.full((3,), 3.0), torch.tensor([1.0, 2.0, 6.0])
    return wrong_weighted_mean(x, y, weight=w).item() != F.huber_loss(x, y, weight=w).item()


def wrong_silenced_warning(input, target, reduction="mean", delta=1.0, weight=None):
    """A filter against the size warning is installed for the whole process, so an unwanted broadcast stays silent."""
    reduction = _mode(None, None, reduction)
    warnings.filterwarnings("ignore", message="Using a target size")
    return F.huber_loss(input, target, reduction=reduction, delta=delta, weight=weight)


def witness_wrong_silenced_warning():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = len(warnings.filters)
        wrong_silenced_warning(torch.randn(3, 1), torch.randn(3))
        changed = len(warnings.filters) != before
    return not seen and changed


class WrongHuberLossDeltaBuffer(nn.Module):
    """delta is a buffer, so module.half() rounds it (1e5 becomes inf) and changes the loss of float32 inputs."""

    __constants__ = ["reduction"]

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__()
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        self.reduction = reduction
        self.register_buffer("delta", torch.tensor(float(delta), dtype=torch.float64), persistent=False)

    def forward(self, input, target):
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta.item())


def witness_WrongHuberLossDeltaBuffer():
    x, y = torch.full((3,), 3e5), torch.zeros(3)
    got = WrongHuberLossDeltaBuffer(delta=1e5).half()(x, y)
    return not torch.allclose(got, nn.HuberLoss(delta=1e5).half()(x, y))


def wrong_difference_of_squares(input, target, reduction="mean", delta=1.0, weight=None):
    """0.5 * (d^2 - relu(d - delta)^2) cancels for large differences: float32 loses three digits at d = 1e4."""
    reduction = _mode(None, None, reduction)
    _warn_sizes(input, target)
    _check_delta(delta)
    _check_weight(weight, input)
    if math.isinf(delta):
        return F.huber_loss(input, target, reduction=reduction, delta=delta, weight=weight)
    x, y, acc = _prepare(input, target)
    r = x.to(acc) - y.to(acc)
    excess = r - r.clamp(-delta, delta)
    loss = 0.5 * (r.square() - excess.square())
    return _finish(loss.to(x.dtype), weight, input, reduction)


def witness_wrong_difference_of_squares():
    x, y = torch.full((3,), 12345.0), torch.zeros(3)
    got, exact = wrong_difference_of_squares(x, y).item(), 12344.5
    return abs(F.huber_loss(x, y).item() - exact) < 0.01 and abs(got - exact) > 0.4


class WrongHuberLossLambda(nn.Module):
    """The reduction is stored as a lambda, so the module can not be pickled (torch.save, data-parallel workers)."""

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__()
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        self.reduction = reduction
        self.delta = delta
        self._point = lambda x, y: F.huber_loss(x, y, reduction=self.reduction, delta=self.delta)

    def forward(self, input, target):
        return self._point(input, target)


def witness_WrongHuberLossLambda():
    pickle.loads(pickle.dumps(nn.HuberLoss()))
    try:
        pickle.dumps(WrongHuberLossLambda())
    except Exception:
        return True
    return False


# --------------------------------------------------------------------------- right


def right_signed_clamp(input, target, reduction="mean", delta=1.0, weight=None):
    """c * (r - c/2) with the residual r and c = clamp(r, -delta, delta): no branch, float32 inside."""
    reduction = _mode(None, None, reduction)
    _warn_sizes(input, target)
    _check_delta(delta)
    _check_weight(weight, input)
    x, y, acc = _prepare(input, target)
    r = x.to(acc) - y.to(acc)
    c = r.clamp(-delta, delta)
    return _finish((c * (r - 0.5 * c)).to(x.dtype), weight, input, reduction)
