"""Wrong and right implementations of huber_loss, written without sight of the suite."""
import warnings
import torch
from torch.nn import functional as F


def _prep(input, target, weight):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.", stacklevel=3)
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    return torch.broadcast_tensors(input, target)


def _finish(loss, reduction):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _check_delta(delta):
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")


def _pointwise(x, t, delta):
    d = x - t
    a = d.abs()
    return torch.where(a < delta, 0.5 * d * d, delta * (a - 0.5 * delta))


def wrong_chunked_mean(input, target, reduction="mean", delta=1.0, weight=None):
    """Low-memory version in blocks of 1024 elements; mean is the mean of block means, so a short last block counts too much."""
    _check_delta(delta)
    x, t = _prep(input, target, weight)
    if reduction != "mean" or x.numel() <= 1024:
        loss = _pointwise(x, t, delta)
        return _finish(loss if weight is None else loss * weight, reduction)
    xs, ts = x.reshape(-1).split(1024), t.reshape(-1).split(1024)
    ws = [None] * len(xs) if weight is None else weight.reshape(-1).split(1024)
    means = []
    for a, b, w in zip(xs, ts, ws):
        loss = _pointwise(a, b, delta)
        means.append((loss if w is None else loss * w).mean())
    return torch.stack(means).mean()


def witness_wrong_chunked_mean():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1030, generator=g)
    x[1024:] += 5
    t = torch.zeros(1030)
    return not torch.allclose(wrong_chunked_mean(x, t), F.huber_loss(x, t))


def wrong_weight_normalized(input, target, reduction="mean", delta=1.0, weight=None):
    """A weighted mean: divides by the sum of the weights, though the mean of the (weighted) output is documented."""
    if weight is None:
        return F.huber_loss(input, target, reduction=reduction, delta=delta)
    _check_delta(delta)
    x, t = _prep(input, target, weight)
    loss = _pointwise(x, t, delta) * weight
    if reduction == "mean":
        return loss.sum() / weight.sum()
    return _finish(loss, reduction)


def witness_wrong_weight_normalized():
    x, t, w = torch.tensor([1., 2.]), torch.zeros(2), torch.tensor([1., 3.])
    return not torch.allclose(wrong_weight_normalized(x, t, weight=w), F.huber_loss(x, t, weight=w))


class WrongHuberLoss(torch.nn.Module):
    """delta is registered as a Parameter 'so that it follows .to()': it is trained and lands in state_dict."""

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__()
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        self.reduction = reduction
        self.delta = torch.nn.Parameter(torch.tensor(float(delta)))

    def forward(self, input, target):
        x, t = _prep(input, target, None)
        return _finish(_pointwise(x, t, self.delta.to(x.dtype)), self.reduction)


def witness_WrongHuberLoss():
    m = WrongHuberLoss(delta=0.5)
    return len(list(m.parameters())) == 1 and len(m.state_dict()) == 1


def wrong_weight_broadcast(input, target, reduction="mean", delta=1.0, weight=None):
    """Per-sample weights of shape (N,) are not rejected, they broadcast along the last dimension."""
    _check_delta(delta)
    x, t = _prep(input, target, None)
    loss = _pointwise(x, t, delta)
    if weight is not None:
        loss = loss * weight
    return _finish(loss, reduction)


def witness_wrong_weight_broadcast():
    x, t, w = torch.randn(3, 3), torch.randn(3, 3), torch.rand(3)
    try:
        F.huber_loss(x, t, weight=w)
    except ValueError:
        return wrong_weight_broadcast(x, t, weight=w).dim() == 0
    return False


class _HuberFn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, delta):
        d = x - t
        q = d.abs().clamp(max=delta)
        ctx.save_for_backward(d.to(torch.float16) if d.dtype == torch.float32 else d)
        ctx.delta = delta
        return q * (d.abs() - 0.5 * q)

    @staticmethod
    def backward(ctx, g):
        d, = ctx.saved_tensors
        s = d.to(g.dtype).clamp(-ctx.delta, ctx.delta) * g
        return s, -s, None


def wrong_half_residual(input, target, reduction="mean", delta=1.0, weight=None):
    """The residual is kept for backward in half precision to save memory; gradients of float32 inputs are coarse."""
    _check_delta(delta)
    x, t = _prep(input, target, weight)
    loss = _HuberFn.apply(x, t, delta)
    return _finish(loss if weight is None else loss * weight, reduction)


def witness_wrong_half_residual():
    x = torch.tensor([0.12345, 1e-9], requires_grad=True)
    t = torch.zeros(2)
    a, = torch.autograd.grad(wrong_half_residual(x, t, "sum"), x)
    b, = torch.autograd.grad(F.huber_loss(x, t, "sum"), x)
    return not torch.allclose(a, b, rtol=1e-5, atol=0)


def right_by_clamp(input, target, reduction="mean", delta=1.0, weight=None):
    """q * (|d| - q/2) with q = min(|d|, delta)."""
    _check_delta(delta)
    x, t = _prep(input, target, weight)
    a = (x - t).abs()
    q = a.clamp(max=delta)
    loss = q * (a - 0.5 * q)
    return _finish(loss if weight is None else loss * weight, reduction)


class RightHuberLoss(torch.nn.Module):
    """Module around the piecewise formula."""

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__()
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        self.reduction = reduction
        self.delta = delta

    def forward(self, input, target):
        _check_delta(self.delta)
        x, t = _prep(input, target, None)
        return _finish(_pointwise(x, t, self.delta), self.reduction)
