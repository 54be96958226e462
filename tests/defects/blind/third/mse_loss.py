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


def _check_weight(weight, input):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _weighted(err, weight, mode):
    out = err * weight
    if mode == "none":
        return out
    if mode == "sum":
        return out.sum()
    return out.sum() / weight.sum()


def _setup(input, target, size_average, reduce, reduction, weight):
    mode = _mode(reduction, size_average, reduce)
    x, y = _pair(input, target)
    _check_weight(weight, input)
    _need_real_float("mse_loss", x, y)
    if weight is None:
        x, y = _autocast(x, y)
    return x, y, mode


# --------------------------------------------------------------------- wrong


def wrong_expanded_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The square is multiplied out as x*x - 2*x*y + y*y, which cancels catastrophically
    where input and target are large and close together."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = x * x - 2 * x * y + y * y
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


def witness_wrong_expanded_square():
    x, y = torch.tensor([1000.125]), torch.tensor([1000.0])
    return abs(wrong_expanded_square(x, y).item() - 0.015625) > 1e-3


def _memory_order(t):
    if any(s == 0 for s in t.stride()):
        return t.reshape(-1)
    return t.permute(sorted(range(t.dim()), key=lambda i: -t.stride(i))).reshape(-1)


def wrong_paired_in_memory_order(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """For the reduced, unweighted loss both tensors are flattened in their own memory order
    (to avoid a copy), so a channels_last or transposed input meets a contiguous target's wrong elements."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    if weight is None and mode != "none":
        x, y = _memory_order(x), _memory_order(y)
    err = (x - y) ** 2
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


def witness_wrong_paired_in_memory_order():
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    a = wrong_paired_in_memory_order(x, y)
    b = wrong_paired_in_memory_order(x.to(memory_format=torch.channels_last), y)
    return torch.allclose(a, F.mse_loss(x, y)) and not torch.allclose(b, F.mse_loss(x, y))


class _FrozenSquare(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        return d * d

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(2 * inputs[0].detach())
        ctx.save_for_forward(2 * inputs[0].detach())

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx, t):
        return t * ctx.saved_tensors[0]


def wrong_frozen_slope(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The slope 2*(x - y) is stored as a constant in the forward pass, so the second
    derivative with respect to input and target is zero instead of 2."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = _FrozenSquare.apply(x - y)
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


def witness_wrong_frozen_slope():
    def second(f):
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        (g,) = torch.autograd.grad(f(x, torch.zeros(2), reduction="sum"), x, create_graph=True)
        out = (g * g).sum()
        return torch.autograd.grad(out, x, allow_unused=True)[0] if out.requires_grad else None

    a, b = second(wrong_frozen_slope), second(F.mse_loss)
    return b is not None and (a is None or not torch.allclose(a, b))


def wrong_weighted_unknown_reduction(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With a weight tensor every string other than 'none' and 'sum' (also 'avg' or 'batchmean')
    is taken for 'mean' instead of being refused."""
    if weight is None:
        x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
        return _reduce((x - y).square(), mode)
    known = reduction if reduction in ("none", "sum") else "mean"
    x, y, mode = _setup(input, target, size_average, reduce, known, weight)
    return _weighted((x - y).square(), weight, mode)


def witness_wrong_weighted_unknown_reduction():
    x = torch.rand(3)
    try:
        F.mse_loss(x, x + 1, weight=x, reduction="batchmean")
        return False
    except ValueError:
        wrong_weighted_unknown_reduction(x, x + 1, weight=x, reduction="batchmean")
        return True


def wrong_narrow_count(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The element count that divides the (float32) sum is first put into a tensor of the result's
    dtype: in bfloat16 it is rounded to 8 bits, in float16 it is inf above 65504."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = (x - y) ** 2
    if weight is not None:
        return _weighted(err, weight, mode)
    if mode == "mean" and err.numel():
        n = torch.tensor(err.numel(), dtype=err.dtype, device=err.device)
        return (err.to(_wide(err.dtype)).sum() / n.to(_wide(err.dtype))).to(err.dtype)
    return _reduce(err, mode)


def witness_wrong_narrow_count():
    x = torch.ones(70000, dtype=torch.float16)
    return wrong_narrow_count(x, torch.zeros_like(x)).item() == 0.0


def wrong_subtracts_in_place_without_grad(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With gradients disabled the difference is formed by input.sub_(target) to save memory,
    which overwrites the caller's predictions during evaluation."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    if (
        not torch.is_grad_enabled()
        and x.dtype == _common(x, y)
        and x.is_contiguous()
        and _plain(x)
        and _plain(y)
        and (torch.is_inference_mode_enabled() or not x.is_inference())
    ):
        d = x.sub_(y)
    else:
        d = x - y
    err = d * d
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


def witness_wrong_subtracts_in_place_without_grad():
    x, y = torch.ones(3), torch.full((3,), 5.0)
    with torch.no_grad():
        ok = wrong_subtracts_in_place_without_grad(x, y).item() == 16.0
    return ok and not torch.equal(x, torch.ones(3))


# --------------------------------------------------------------------- right


def right_in_double(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Everything is formed in float64 and rounded once to the result's dtype."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    dt = _common(x, y)
    d = x.double() - y.double()
    if weight is None:
        return _reduce(d * d, mode).to(dt)
    return _weighted(d * d, weight.double(), mode).to(torch.promote_types(dt, weight.dtype))


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return (x - y).square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = g * (2 * (x - y))
        return s, -s

    @staticmethod
    def jvp(ctx, tx, ty):
        x, y = ctx.saved_tensors
        return 2 * (x - y) * ((0 if tx is None else tx) - (0 if ty is None else ty))


def right_custom_function(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Own autograd function, sums taken over pieces of 1024 elements and then over the pieces."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    dt = _common(x, y)
    wide = _wide(dt)
    err = _Square.apply(x.to(wide), y.to(wide))
    out = dt
    if weight is not None:
        out = torch.promote_types(dt, weight.dtype)
        w = weight.to(_wide(out))
        err = err * w
    if mode == "none":
        return err.to(out)
    if err.numel() == 0:
        return _reduce(err, mode).to(out) if weight is None or mode == "sum" else (err.sum() / w.sum()).to(out)
    pieces = err.reshape(-1).split(1024)
    total = torch.stack([p.sum() for p in pieces]).sum()
    if mode == "mean":
        total = total / (err.numel() if weight is None else w.sum())
    return total.to(out)
