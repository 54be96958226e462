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


def _pair(input, target):
    """Warn when the sizes differ, then broadcast."""
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _check_weight(weight, input):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _finish(loss, weight, reduction):
    """Weight, then reduce; a weighted mean divides by the sum of the weights."""
    if weight is None:
        return _reduce(loss, reduction)
    loss = loss * weight
    if reduction == "mean":
        return loss.sum() / weight.sum()
    return _reduce(loss, reduction)


def wrong_half_factor(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Computes 0.5 * d^2 as in textbooks; every value is half of what it should be."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    return _finish(0.5 * (a - b) ** 2, weight, reduction)


def witness_wrong_half_factor():
    return wrong_half_factor(torch.tensor([2.0]), torch.tensor([0.0])).item() == 2.0


def wrong_expanded_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Expands to x^2 - 2xy + y^2, which cancels; shows when input and target are large and close (regression of years, prices, pixels)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    return _finish(a * a - 2 * (a * b) + b * b, weight, reduction)


def witness_wrong_expanded_square():
    x, y = torch.tensor([10000.25]), torch.tensor([10000.0])
    want = F.mse_loss(x, y)
    return not torch.allclose(wrong_expanded_square(x, y), want, rtol=0.01)


class _ReducedSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, mean):
        ctx.save_for_backward(a, b)
        ctx.mean = mean
        d = _up(a - b)
        loss = (d * d).sum()
        if mean:
            loss = loss / d.numel() if d.numel() else loss * float("nan")
        return loss.to(a.dtype)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        scale = 2.0 / max(a.numel(), 1) if ctx.mean else 2.0
        g = scale * (a - b)
        return g, -g, None


def wrong_upstream_gradient_dropped(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The fused backward of 'mean' and 'sum' does not multiply by the incoming gradient; shows when the loss is scaled or is one term of several with factors."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    if weight is None and reduction != "none":
        dtype = torch.result_type(a, b)
        return _ReducedSquare.apply(a.to(dtype), b.to(dtype), reduction == "mean")
    return _finish((a - b) ** 2, weight, reduction)


def witness_wrong_upstream_gradient_dropped():
    x = torch.randn(6, requires_grad=True)
    y = torch.randn(6)
    (g1,) = torch.autograd.grad(wrong_upstream_gradient_dropped(x, y), x)
    (g3,) = torch.autograd.grad(3 * wrong_upstream_gradient_dropped(x, y), x)
    (w,) = torch.autograd.grad(3 * F.mse_loss(x, y), x)
    return torch.equal(g1, g3) and not torch.allclose(g3, w)


def wrong_weight_inside_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The weight multiplies the difference before squaring, so it acts squared; shows for weights other than 0 and 1."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    if weight is None:
        return _reduce((a - b) ** 2, reduction)
    loss = ((a - b) * weight) ** 2
    return loss.sum() / weight.sum() if reduction == "mean" else _reduce(loss, reduction)


def witness_wrong_weight_inside_square():
    x, y, w = torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.5])
    return wrong_weight_inside_square(x, y, reduction="sum", weight=w).item() == 1.0 and F.mse_loss(x, y, reduction="sum", weight=w).item() == 2.0


def wrong_silent_broadcast(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Broadcasts a target of another size without the warning; shows for (N, 1) against (N,)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = torch.broadcast_tensors(input, target)
    return _finish((a - b) ** 2, weight, reduction)


def witness_wrong_silent_broadcast():
    x, y = torch.randn(4, 1), torch.randn(4)
    counts = []
    for f in (wrong_silent_broadcast, F.mse_loss):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            f(x, y)
        counts.append(len(seen))
    return counts == [0, 1]


def wrong_double_through_float(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Computes in float32 whatever the dtype and casts back; shows as lost digits (and overflow) for float64."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    dtype = torch.result_type(a, b)
    d = a.float() - b.float()
    loss = d * d
    if weight is not None:
        return _finish(loss.to(dtype), weight, reduction)
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_double_through_float():
    x = torch.tensor([1.0 + 1e-9], dtype=torch.float64)
    y = torch.ones(1, dtype=torch.float64)
    got = wrong_double_through_float(x, y)
    return got.dtype == torch.float64 and got.item() == 0.0 and F.mse_loss(x, y).item() > 0


_WORKSPACE = {}


def wrong_shared_workspace(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Without grad it writes into one buffer per shape, so an unreduced result is overwritten by the next call; shows when two 'none' results are kept."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    if (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)) or not a.is_floating_point():
        return _finish((a - b) ** 2, weight, reduction)
    dtype = torch.result_type(a, b)
    key = (tuple(a.shape), dtype, a.device)
    if key not in _WORKSPACE:
        _WORKSPACE[key] = torch.empty(a.shape, dtype=dtype, device=a.device)
    buf = _WORKSPACE[key]
    torch.sub(a.detach(), b.detach(), out=buf)
    buf.mul_(buf)
    return _finish(buf, weight, reduction)


def witness_wrong_shared_workspace():
    x, y = torch.randn(3, 2), torch.randn(3, 2)
    first = wrong_shared_workspace(x, y, reduction="none")
    ok = torch.allclose(first, F.mse_loss(x, y, reduction="none"))
    wrong_shared_workspace(x + 1, y, reduction="none")
    return ok and not torch.allclose(first, F.mse_loss(x, y, reduction="none"))


class WrongCounterInStateDict(nn.MSELoss):
    """Counts its calls in a persistent buffer, so the criterion has a state_dict entry; shows when checkpoints with the plain loss are loaded strictly."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, input, target):
        self.calls += 1
        return F.mse_loss(input, target, reduction=self.reduction)


def witness_WrongCounterInStateDict():
    try:
        WrongCounterInStateDict().load_state_dict(nn.MSELoss().state_dict())
    except RuntimeError:
        return True
    return False


def right_dot_product(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """sum and mean as the dot product of the flat difference with itself."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    dtype = torch.result_type(a, b)
    d = _up(a - b) if weight is None else a - b
    if reduction == "none" or weight is not None:
        return _finish((d * d).to(dtype), weight, reduction)
    flat = d.reshape(-1)
    total = torch.dot(flat, flat)
    if reduction == "mean":
        total = total / torch.tensor(float(flat.numel()), dtype=flat.dtype, device=flat.device)
    return total.to(dtype)


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        return d.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad * (d + d)

    @staticmethod
    def jvp(ctx, tangent):
        (d,) = ctx.saved_tensors
        return tangent * (d + d)


def right_chunked(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Works through the flat tensors in chunks, with an own backward, and adds the chunks' sums."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    dtype = torch.result_type(a, b)
    shape, n = a.shape, a.numel()
    w = weight
    if w is not None:
        dtype = torch.promote_types(dtype, w.dtype)
        w = w.expand(shape).reshape(-1).split(64)
    a, b = a.reshape(-1), b.reshape(-1)
    parts = []
    for i, (p, q) in enumerate(zip(a.split(64), b.split(64))):
        part = _Square.apply(_up(p - q))
        parts.append(part if w is None else part * _up(w[i]))
    if reduction == "none":
        return torch.cat(parts).reshape(shape).to(dtype)
    total = torch.stack([p.sum() for p in parts]).sum()
    if reduction == "mean":
        total = total / (_up(weight).sum() if weight is not None else total.new_tensor(float(n)))
    return total.to(dtype)
