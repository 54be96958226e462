import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _setup(input, target, reduction, delta, weight):
    mode = _mode(reduction)
    x, y = _pair(input, target)
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    _need_real_float("huber_loss", x, y)
    x, y = _autocast(x, y)
    return (x if x.is_floating_point() else x.to(_common(x, y))), y, mode


def _check_delta(delta):
    if not delta > 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")


def _finish(loss, dtype, mode, weight):
    loss = loss.to(dtype)
    return _reduce(loss if weight is None else loss * weight, mode)


def _elementwise(d, delta):
    if delta == math.inf:
        return 0.5 * d * d
    a = d.abs()
    return torch.where(a < delta, 0.5 * d * d, delta * (a - 0.5 * delta))


# --------------------------------------------------------------------- wrong


class _HuberUnitClip(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, delta):
        return _elementwise(d, delta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].clamp(-1, 1), None

    @staticmethod
    def jvp(ctx, t, _):
        return t * ctx.saved_tensors[0].clamp(-1, 1)


def wrong_gradient_clipped_at_one(input, target, reduction="mean", delta=1.0, weight=None):
    """The value is right for every delta, but the hand-written backward clips the error
    to [-1, 1] instead of [-delta, delta]."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    _check_delta(delta)
    d = x.to(_wide(_common(x, y))) - y.to(_wide(_common(x, y)))
    return _finish(_HuberUnitClip.apply(d, delta), x.dtype, mode, weight)


def witness_wrong_gradient_clipped_at_one():
    x = torch.tensor([5.0], requires_grad=True)
    loss = wrong_gradient_clipped_at_one(x, torch.zeros(1), delta=2.0)
    return loss.item() == 8.0 and torch.autograd.grad(loss, x)[0].item() == 1.0


def wrong_difference_of_squares(input, target, reduction="mean", delta=1.0, weight=None):
    """Branch-free form 0.5*(d**2 - max(|d| - delta, 0)**2): for outliers two huge squares
    cancel, the linear part loses its digits and finally becomes inf - inf = NaN."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    _check_delta(delta)
    wide = _wide(_common(x, y))
    d = x.to(wide) - y.to(wide)
    loss = 0.5 * (d * d - (d.abs() - delta).clamp(min=0) ** 2)
    return _finish(loss, x.dtype, mode, weight)


def witness_wrong_difference_of_squares():
    x = torch.tensor([30000.0])
    a = wrong_difference_of_squares(x, torch.zeros(1), delta=0.01).item()
    return abs(a / F.huber_loss(x, torch.zeros(1), delta=0.01).item() - 1) > 1e-3


def wrong_infinite_delta(input, target, reduction="mean", delta=1.0, weight=None):
    """Written with q = min(|d|, delta) as 0.5*q*q + delta*(|d| - q): with delta=inf, where the
    loss is purely quadratic, the second term is inf*0 = NaN."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    _check_delta(delta)
    wide = _wide(_common(x, y))
    d = x.to(wide) - y.to(wide)
    q = d.clamp(-delta, delta)
    return _finish(0.5 * q * q + delta * (d - q).abs(), x.dtype, mode, weight)


def witness_wrong_infinite_delta():
    x = torch.tensor([2.0])
    inf = float("inf")
    return bool(wrong_infinite_delta(x, torch.zeros(1), delta=inf).isnan()) and F.huber_loss(x, torch.zeros(1), delta=inf).item() == 2.0


def wrong_accepts_nonpositive_delta(input, target, reduction="mean", delta=1.0, weight=None):
    """A zero or negative delta, which must be refused, is accepted; delta=0 gives a loss of
    zero and a negative delta a negative loss."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    wide = _wide(_common(x, y))
    d = x.to(wide) - y.to(wide)
    return _finish(_elementwise(d, delta), x.dtype, mode, weight)


def witness_wrong_accepts_nonpositive_delta():
    x = torch.rand(3)
    try:
        F.huber_loss(x, x + 1, delta=0.0)
        return False
    except RuntimeError:
        return wrong_accepts_nonpositive_delta(x, x + 1, delta=0.0).item() == 0.0


def wrong_weighted_mean_by_weight_sum(input, target, reduction="mean", delta=1.0, weight=None):
    """With weights, reduction='mean' divides by the sum of the weights (as the weighted mse_loss does)
    instead of taking the mean of the weighted output, that is dividing by the element count."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    _check_delta(delta)
    wide = _wide(_common(x, y))
    loss = _elementwise(x.to(wide) - y.to(wide), delta).to(x.dtype)
    if weight is not None and mode == "mean":
        return (loss * weight).sum() / weight.sum()
    return _finish(loss, x.dtype, mode, weight)


def witness_wrong_weighted_mean_by_weight_sum():
    x, w = torch.rand(4), torch.full((4,), 3.0)
    return not torch.allclose(
        wrong_weighted_mean_by_weight_sum(x, x + 1, weight=w), F.huber_loss(x, x + 1, weight=w)
    )


class WrongHuberLossDeltaInState(nn.Module):
    """delta is registered as a persistent buffer, so the criterion's state_dict is no longer empty:
    models that contain the loss cannot strictly load checkpoints made with torch.nn.HuberLoss."""

    def __init__(self, reduction="mean", delta=1.0):
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__()
        self.reduction = reduction
        self.register_buffer("_delta", torch.tensor(float(delta), dtype=torch.float64))

    @property
    def delta(self):
        return self._delta.item()

    @delta.setter
    def delta(self, value):
        self._delta.fill_(value)

    def _apply(self, fn, recurse=True):
        kept = self._delta.item()
        super()._apply(fn, recurse)
        self._delta = torch.tensor(kept, dtype=torch.float64, device=self._delta.device)
        return self

    def forward(self, input, target):
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


def witness_WrongHuberLossDeltaInState():
    try:
        WrongHuberLossDeltaInState(delta=2.0).load_state_dict(nn.HuberLoss(delta=2.0).state_dict())
        return False
    except RuntimeError:
        return True


# --------------------------------------------------------------------- right


def right_signed_clamp(input, target, reduction="mean", delta=1.0, weight=None):
    """With q = clamp(d, -delta, delta) the loss is q*(d - q/2) on both sides of the threshold."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    _check_delta(delta)
    wide = _wide(_common(x, y))
    d = x.to(wide) - y.to(wide)
    q = d.clamp(-delta, delta)
    loss = q * (d - 0.5 * q)
    if weight is None:
        return _reduce(loss, mode).to(x.dtype)
    return _finish(loss, x.dtype, mode, weight)


class _Huber(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, delta):
        d = x - y
        a = d.abs()
        return torch.where(a < delta, 0.5 * d * d, delta * (a - 0.5 * delta))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.delta = inputs
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        d = x - y
        s = g * torch.where(d.abs() < ctx.delta, d, ctx.delta * d.sign())
        return s, -s, None

    @staticmethod
    def jvp(ctx, tx, ty, _):
        x, y = ctx.saved_tensors
        d = x - y
        s = torch.where(d.abs() < ctx.delta, d, ctx.delta * d.sign())
        return s * ((0 if tx is None else tx) - (0 if ty is None else ty))


def right_custom_function(input, target, reduction="mean", delta=1.0, weight=None):
    """Own autograd function; its backward consists of differentiable operations only."""
    x, y, mode = _setup(input, target, reduction, delta, weight)
    _check_delta(delta)
    wide = _wide(_common(x, y))
    loss = _Huber.apply(x.to(wide), y.to(wide), float(delta))
    if weight is None:
        return _reduce(loss, mode).to(x.dtype)
    return _finish(loss, x.dtype, mode, weight)
