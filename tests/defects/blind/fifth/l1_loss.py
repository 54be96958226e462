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


def wrong_mean_over_batch(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The unweighted mean divides by the batch size instead of the number of elements; shows for inputs of two or more dimensions."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    loss = (a - b).abs()
    if weight is None and reduction == "mean":
        return loss.sum() / (loss.shape[0] if loss.dim() else 1)
    return _finish(loss, weight, reduction)


def witness_wrong_mean_over_batch():
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    return not torch.allclose(wrong_mean_over_batch(x, y), F.l1_loss(x, y))


def wrong_weight_ignored_in_sum(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With reduction='sum' the weight is forgotten; shows when a weight is given together with 'sum'."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    loss = (a - b).abs()
    if reduction == "sum":
        return loss.sum()
    return _finish(loss, weight, reduction)


def witness_wrong_weight_ignored_in_sum():
    x, y, w = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4)
    return not torch.allclose(
        wrong_weight_ignored_in_sum(x, y, reduction="sum", weight=w),
        F.l1_loss(x, y, reduction="sum", weight=w),
    )


def wrong_complex_taxicab(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """For complex differences it adds |real| and |imag| instead of taking the modulus; shows for complex inputs only."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    d = a - b
    loss = d.real.abs() + d.imag.abs() if d.is_complex() else d.abs()
    return _finish(loss, weight, reduction)


def witness_wrong_complex_taxicab():
    x = torch.tensor([3 + 4j])
    y = torch.zeros(1, dtype=torch.complex64)
    return wrong_complex_taxicab(x, y).item() == 7.0 and F.l1_loss(x, y).item() == 5.0


def wrong_target_constant(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The target is treated as a constant and gets no gradient; shows when the target requires grad (two networks, consistency losses)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target.detach())
    return _finish((a - b).abs(), weight, reduction)


def witness_wrong_target_constant():
    x = torch.randn(5, requires_grad=True)
    y = torch.randn(5, requires_grad=True)
    wrong_target_constant(x, y).backward()
    return y.grad is None and x.grad is not None


def wrong_overwrites_input(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """When no gradient is needed it subtracts in place and so overwrites the caller's input; shows in evaluation, when the input is used again."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    if not needs_grad and a.shape == input.shape and a.dtype == b.dtype and a is not b and a.is_contiguous():
        loss = input.detach().sub_(b).abs()
    else:
        loss = (a - b).abs()
    return _finish(loss, weight, reduction)


def witness_wrong_overwrites_input():
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    keep = x.clone()
    value = wrong_overwrites_input(x, y)
    return torch.allclose(value, F.l1_loss(keep, y)) and not torch.equal(x, keep)


def wrong_half_mean_overflow(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean is the sum, stored in the input's dtype, over N: in float16 the sum passes 65504 and the mean is inf; shows for large float16 tensors."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    loss = (a - b).abs()
    if weight is None and reduction == "mean" and loss.dtype == torch.float16:
        return loss.sum() / loss.numel()
    return _finish(loss, weight, reduction)


def witness_wrong_half_mean_overflow():
    x = torch.ones(70000, dtype=torch.float16)
    y = torch.zeros_like(x)
    return math.isinf(wrong_half_mean_overflow(x, y).item()) and F.l1_loss(x, y).item() == 1.0


def wrong_root_of_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The absolute value is the square root of the square, whose gradient is NaN at zero; shows where input equals target (and by overflow for huge differences)."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    d = a - b
    loss = d.abs() if d.is_complex() or not d.is_floating_point() else (d * d).sqrt()
    return _finish(loss, weight, reduction)


def witness_wrong_root_of_square():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    wrong_root_of_square(x, torch.tensor([1.0, 0.0])).backward()
    return bool(x.grad[0].isnan())


def wrong_reduction_beats_legacy(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The deprecated arguments are looked at only while reduction is 'mean'; shows with size_average or reduce next to another reduction, which they should override."""
    if reduction == "mean":
        reduction = _mode(size_average, reduce, reduction)
    else:
        if size_average is not None or reduce is not None:
            _Reduction.legacy_get_string(size_average, reduce)
        reduction = _mode(None, None, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    return _finish((a - b).abs(), weight, reduction)


def witness_wrong_reduction_beats_legacy():
    x, y = torch.randn(4), torch.randn(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = wrong_reduction_beats_legacy(x, y, size_average=False, reduction="none")
        want = F.l1_loss(x, y, size_average=False, reduction="none")
    return got.shape != want.shape


def right_max_minus_min(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Real: max(x, y) - min(x, y). Complex: the difference turned onto the real axis."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    dtype = torch.result_type(a, b)
    if dtype.is_complex:
        d = a - b
        loss = (d * d.sgn().conj()).real
    else:
        loss = torch.maximum(a, b) - torch.minimum(a, b)
    return _finish(loss, weight, reduction)


class _Abs(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        return d.abs()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad * d.sgn()

    @staticmethod
    def jvp(ctx, tangent):
        (d,) = ctx.saved_tensors
        out = tangent * d.sgn().conj()
        return out.real if out.is_complex() else out


def right_own_backward(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Own autograd.Function for |d|; the mean is the sum (float32 for the small dtypes) over N."""
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(weight, input)
    a, b = _pair(input, target)
    loss = _Abs.apply(a - b)
    if weight is not None or reduction == "none" or not loss.is_floating_point():
        return _finish(loss, weight, reduction)
    total = _up(loss).reshape(-1).sum()
    if reduction == "mean":
        total = total / loss.numel() if loss.numel() else total * float("nan")
    return total.to(loss.dtype)
