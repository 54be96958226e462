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
    if weight is None:
        x, y = _autocast(x, y)
    return x, y, mode


# --------------------------------------------------------------------- wrong


def wrong_complex_taxicab(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Complex errors are measured as |re| + |im| (L1 norm of the view_as_real pair)
    instead of the modulus |x - y|."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    d = x - y
    err = d.real.abs() + d.imag.abs() if d.is_complex() else d.abs()
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


def witness_wrong_complex_taxicab():
    x = torch.tensor([3 + 4j])
    return abs(wrong_complex_taxicab(x, torch.zeros_like(x)).item() - 5.0) > 1


def wrong_nan_gradient_at_ties(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The absolute error is taken as hypot(x - y, 0): the value is exact, but the
    gradient is 0/0 = NaN where input equals target (it should be 0)."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    d = x - y
    err = torch.hypot(d, torch.zeros_like(d)) if d.is_floating_point() else d.abs()
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


def witness_wrong_nan_gradient_at_ties():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_nan_gradient_at_ties(x, torch.tensor([1.0, 0.0])), x)
    return bool(g[0].isnan()) and not bool(g[1].isnan())


def wrong_mean_of_block_means(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """For more than 4096 elements the mean is the mean of the means of blocks of 4096,
    so that a shorter last block counts as much as a full one."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = (x - y).abs()
    if weight is not None:
        return _weighted(err, weight, mode)
    if mode == "mean" and err.numel() > 4096:
        return torch.stack([b.mean() for b in err.reshape(-1).split(4096)]).mean()
    return _reduce(err, mode)


def witness_wrong_mean_of_block_means():
    x = torch.zeros(4097)
    x[-1] = 1.0
    return abs(wrong_mean_of_block_means(x, torch.zeros(4097)).item() - 1 / 4097) > 0.1


_weight_sums = torch.utils.weak.WeakTensorKeyDictionary()


def wrong_weight_sum_cached(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The sum of a weight tensor that needs no gradient is cached per tensor object, and
    goes stale when the caller updates the weights in place between two calls."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = (x - y).abs()
    if weight is None:
        return _reduce(err, mode)
    if mode == "mean" and not weight.requires_grad and _plain(weight):
        if weight not in _weight_sums:
            _weight_sums[weight] = weight.sum()
        return (err * weight).sum() / _weight_sums[weight]
    return _weighted(err, weight, mode)


def witness_wrong_weight_sum_cached():
    x, y, w = torch.rand(5), torch.rand(5), torch.ones(5)
    first = wrong_weight_sum_cached(x, y, weight=w)
    ok = torch.allclose(first, F.l1_loss(x, y, weight=w))
    w.mul_(3.0)
    return ok and not torch.allclose(wrong_weight_sum_cached(x, y, weight=w), F.l1_loss(x, y, weight=w))


def wrong_weight_gradient_of_denominator(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With learnable weights and reduction='mean' the denominator sum(weight) is detached,
    so the gradient for the weights lacks its second term."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = (x - y).abs()
    if weight is None:
        return _reduce(err, mode)
    if mode == "mean":
        return (err * weight).sum() / weight.detach().sum()
    return _weighted(err, weight, mode)


def witness_wrong_weight_gradient_of_denominator():
    x, y, w = torch.rand(5), torch.rand(5), torch.rand(5, requires_grad=True)
    a = torch.autograd.grad(wrong_weight_gradient_of_denominator(x, y, weight=w), w)[0]
    b = torch.autograd.grad(F.l1_loss(x, y, weight=w), w)[0]
    return not torch.allclose(a, b)


def wrong_mean_from_narrow_sum(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean is computed as sum / count in the dtype of the result, so that in float16
    it is inf as soon as the sum passes 65504 although the mean is small."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    err = (x - y).abs()
    if weight is not None:
        return _weighted(err, weight, mode)
    if mode == "mean" and err.is_floating_point() and err.numel():
        return err.sum() / err.numel()
    return _reduce(err, mode)


def witness_wrong_mean_from_narrow_sum():
    x = torch.full((2000,), 100.0, dtype=torch.float16)
    return bool(wrong_mean_from_narrow_sum(x, torch.zeros_like(x)).isinf())


# --------------------------------------------------------------------- right


def right_max_minus_min(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|x - y| = max(x, y) - min(x, y) for real numbers, Euclidean norm of the
    (re, im) pair for complex ones."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    dt = _common(x, y)
    x, y = x.to(dt), y.to(dt)
    if dt.is_complex:
        err = torch.linalg.vector_norm(torch.view_as_real((x - y).resolve_conj()), dim=-1)
    else:
        err = torch.maximum(x, y) - torch.minimum(x, y)
    return _reduce(err, mode) if weight is None else _weighted(err, weight, mode)


class _AbsDiff(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return (x - y).abs()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = g * (x - y).sgn()
        return s, -s

    @staticmethod
    def jvp(ctx, tx, ty):
        x, y = ctx.saved_tensors
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        s = (x - y).sgn()
        return (s.conj() * t).real if s.is_complex() else s * t


def right_custom_function(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Own autograd function whose backward is written with differentiable operations."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction, weight)
    dt = _common(x, y)
    err = _AbsDiff.apply(x.to(dt), y.to(dt))
    if weight is not None:
        return _weighted(err, weight, mode)
    if mode == "mean" and err.dtype in _LOW:
        return (err.float().sum() / err.numel()).to(err.dtype) if err.numel() else err.mean()
    return _reduce(err, mode)
