"""Wrong and right implementations of l1_loss, written without sight of the suite."""
import warnings
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


def _prep(input, target, weight):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.", stacklevel=3)
    x, t = torch.broadcast_tensors(input, target)
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    return x, t


def _finish(loss, weight, reduction):
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean() if weight is None else loss.sum() / weight.sum()
    raise ValueError(f"{reduction} is not a valid value for reduction")


def wrong_half_mean_overflow(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """mean is sum().div(n) in the input's dtype: in float16 the sum overflows long before the mean does."""
    reduction = _legacy(size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    loss = (x - t).abs()
    if weight is None and reduction == "mean":
        return loss.sum() / loss.numel()
    return _finish(loss, weight, reduction)


def witness_wrong_half_mean_overflow():
    x, t = torch.full((8000,), 20., dtype=torch.half), torch.zeros(8000, dtype=torch.half)
    return bool(torch.isinf(wrong_half_mean_overflow(x, t))) and bool(torch.isfinite(F.l1_loss(x, t)))


def wrong_sqrt_of_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|d| as sqrt(d*d): NaN gradient where prediction equals target."""
    reduction = _legacy(size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    d = x - t
    loss = d.abs() if d.is_complex() else torch.sqrt(d * d)
    return _finish(loss, weight, reduction)


def witness_wrong_sqrt_of_square():
    x = torch.tensor([1., 2.], requires_grad=True)
    wrong_sqrt_of_square(x, torch.tensor([1., 0.])).backward()
    return bool(torch.isnan(x.grad).any())


def wrong_complex_manhattan(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Complex values are viewed as pairs of reals: |re| + |im| instead of the modulus."""
    reduction = _legacy(size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    d = x - t
    loss = torch.view_as_real(d).abs().sum(-1) if d.is_complex() else d.abs()
    return _finish(loss, weight, reduction)


def witness_wrong_complex_manhattan():
    x, t = torch.tensor([3 + 4j]), torch.tensor([0j])
    return not torch.allclose(wrong_complex_manhattan(x, t), F.l1_loss(x, t))


def wrong_weight_drops_legacy(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The deprecated words are translated on the unweighted path only."""
    if weight is None:
        return F.l1_loss(input, target, size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    return _finish((x - t).abs(), weight, reduction)


def witness_wrong_weight_drops_legacy():
    x, t, w = torch.tensor([1., 2.]), torch.zeros(2), torch.tensor([1., 3.])
    return not torch.allclose(wrong_weight_drops_legacy(x, t, size_average=False, weight=w),
                              F.l1_loss(x, t, size_average=False, weight=w))


def wrong_broadcast_divisor(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With a broadcast target the mean divides by input.numel(), not by the number of elements of the output."""
    reduction = _legacy(size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    loss = (x - t).abs()
    if weight is None and reduction == "mean" and loss.numel():
        return (loss.double().sum() / input.numel()).to(loss.dtype) if not loss.is_complex() else loss.sum() / input.numel()
    return _finish(loss, weight, reduction)


def witness_wrong_broadcast_divisor():
    x, t = torch.ones(1, 3), torch.zeros(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return not torch.allclose(wrong_broadcast_divisor(x, t), F.l1_loss(x, t))


class WrongL1Loss(torch.nn.Module):
    """Keeps every loss for a running average without detaching: all graphs stay alive."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)
        self._history = []

    @property
    def running(self):
        return sum(h.mean().item() for h in self._history) / max(len(self._history), 1)

    def forward(self, input, target):
        x, t = _prep(input, target, None)
        loss = _finish((x - t).abs(), None, self.reduction)
        self._history.append(loss)
        return loss


def witness_WrongL1Loss():
    import gc
    import weakref
    m = WrongL1Loss()
    x = torch.randn(4, requires_grad=True)
    h = x * 2
    y = m(h, torch.zeros(4))
    r = weakref.ref(y)
    del y, h
    gc.collect()
    return r() is not None


def right_by_relu_parts(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|d| = relu(d) + relu(-d); complex by abs."""
    reduction = _legacy(size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    d = x - t
    loss = d.abs() if d.is_complex() else torch.relu(d) + torch.relu(-d)
    return _finish(loss, weight, reduction)


class _L1Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        d = x - t
        ctx.save_for_backward(x, t)
        return d.abs()

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        s = (x - t).sgn() * g
        return s, -s


def right_by_function(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Own autograd function with analytic gradient."""
    reduction = _legacy(size_average, reduce, reduction)
    x, t = _prep(input, target, weight)
    if x.dtype != t.dtype:
        dt = torch.result_type(x, t)
        x, t = x.to(dt), t.to(dt)
    if x.is_complex():
        return _finish((x - t).abs(), weight, reduction)
    return _finish(_L1Fn.apply(x, t), weight, reduction)
