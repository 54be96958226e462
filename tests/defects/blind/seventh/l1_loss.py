import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = ("mean" if size_average else "sum") if reduce else "none"
    warnings.warn(
        "size_average and reduce args will be deprecated, please use "
        f"reduction='{name}' instead.",
        stacklevel=3,
    )
    return name


def _expand(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to "
            "broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _mode(reduction):
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _same_size(weight, input):
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _reduce(e, weight, reduction):
    if weight is not None:
        e = e * weight
    if reduction == "none":
        return e
    if reduction == "sum":
        return e.sum()
    return e.mean() if weight is None else e.sum() / weight.sum()


# ----------------------------------------------------------------- wrong


def wrong_sqrt_of_square(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|d| is written as sqrt(d*d), so the gradient is NaN wherever input equals target."""
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    if weight is not None:
        _same_size(weight, input)
    d = x - y
    e = d.abs() if d.is_complex() or not d.is_floating_point() else (d * d).sqrt()
    return _reduce(e, weight, reduction)


def witness_wrong_sqrt_of_square():
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    wrong_sqrt_of_square(x, torch.tensor([1.0, 0.0, 5.0])).backward()
    return bool(x.grad.isnan().any())


def wrong_complex_manhattan(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Complex differences are measured as |re| + |im| instead of the modulus; real tensors are right."""
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    if weight is not None:
        _same_size(weight, input)
    d = x - y
    e = torch.view_as_real(d.resolve_conj()).abs().sum(-1) if d.is_complex() else d.abs()
    return _reduce(e, weight, reduction)


def witness_wrong_complex_manhattan():
    a, b = torch.tensor([3 + 4j]), torch.tensor([0j])
    return abs(wrong_complex_manhattan(a, b).item() - F.l1_loss(a, b).item()) > 1


def wrong_in_place_in_eval(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With gradients disabled the difference is computed into the target's own memory, which destroys the caller's target."""
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    if weight is not None:
        _same_size(weight, input)
    if (
        not torch.is_grad_enabled()
        and input.shape == target.shape
        and x.dtype == y.dtype
        and x.is_floating_point()
    ):
        e = target.sub_(x).abs_()
        if reduction == "none" and weight is None:
            e = e.clone()
    else:
        e = (x - y).abs()
    return _reduce(e, weight, reduction)


def witness_wrong_in_place_in_eval():
    a, b = torch.zeros(3), torch.tensor([1.0, -2.0, 3.0])
    keep = b.clone()
    with torch.no_grad():
        wrong_in_place_in_eval(a, b)
    return not torch.equal(b, keep)


def wrong_half_sum_then_divide(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean is sum / count in the tensor's own dtype, so a float16 mean is inf as soon as the sum passes 65504."""
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    e = (x - y).abs()
    if weight is not None:
        _same_size(weight, input)
        return _reduce(e, weight, reduction)
    if reduction == "mean":
        if not e.is_floating_point():
            return e.mean()
        return e.sum() / max(e.numel(), 1) if e.numel() else e.mean()
    return _reduce(e, None, reduction)


def witness_wrong_half_sum_then_divide():
    a = torch.full((4096,), 20.0, dtype=torch.float16)
    b = torch.zeros_like(a)
    return bool(wrong_half_sum_then_divide(a, b).isinf()) and bool(F.l1_loss(a, b).isfinite())


def wrong_weight_detached(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The weight is treated as a constant, so a weight that requires grad (learned weights) gets no gradient."""
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    if weight is not None:
        _same_size(weight, input)
        weight = weight.detach()
    return _reduce((x - y).abs(), weight, reduction)


def witness_wrong_weight_detached():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    return F.l1_loss(torch.zeros(2), torch.ones(2), weight=w, reduction="sum").requires_grad and not (
        wrong_weight_detached(torch.zeros(2), torch.ones(2), weight=w, reduction="sum").requires_grad
    )


def wrong_reduce_false_sums(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """size_average is looked at before reduce, so size_average=False, reduce=False sums instead of returning every element."""
    x, y = _expand(input, target)
    if size_average is not None and not size_average:
        warnings.warn("size_average and reduce args will be deprecated, please use reduction='sum' instead.")
        reduction = "sum"
    else:
        reduction = _legacy(size_average, reduce, reduction)
    reduction = _mode(reduction)
    if weight is not None:
        _same_size(weight, input)
    return _reduce((x - y).abs(), weight, reduction)


def witness_wrong_reduce_false_sums():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = wrong_reduce_false_sums(torch.zeros(3), torch.ones(3), size_average=False, reduce=False)
    return out.shape != (3,)


def wrong_weight_skipped_for_none(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """With reduction='none' the unweighted errors are returned: the early return stands before the weights are applied."""
    x, y = _expand(input, target)
    reduction = _mode(_legacy(size_average, reduce, reduction))
    if weight is not None:
        _same_size(weight, input)
    e = (x - y).abs()
    if reduction == "none":
        return e
    return _reduce(e, weight, reduction)


def witness_wrong_weight_skipped_for_none():
    a, b, w = torch.zeros(2), torch.ones(2), torch.tensor([2.0, 3.0])
    return not torch.allclose(
        wrong_weight_skipped_for_none(a, b, reduction="none", weight=w), F.l1_loss(a, b, reduction="none", weight=w)
    )


# ----------------------------------------------------------------- right


def right_sign_product(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|d| as d times the conjugate of its own sign."""
    x, y = _expand(input, target)
    reduction = _legacy(size_average, reduce, reduction)
    d = x - y
    s = d.sgn()
    e = (d * s.conj()).real if d.is_complex() else d * s
    if weight is None:
        return {"none": lambda: e, "mean": e.mean, "sum": e.sum}[_mode(reduction)]()
    _same_size(weight, input)
    e = e * weight
    if reduction == "none":
        return e
    if reduction == "sum":
        return e.sum()
    if reduction == "mean":
        return e.sum().div(weight.sum())
    raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")


def right_max_minus_min(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The larger minus the smaller one; low precision is widened to float32 inside."""
    x, y = _expand(input, target)
    reduction = _legacy(size_average, reduce, reduction)
    if weight is not None:
        _same_size(weight, input)
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    reduction = _mode(reduction)
    out = torch.result_type(x, y)
    if out == torch.bool:
        raise RuntimeError("Subtraction, the `-` operator, with two bool tensors is not supported.")
    if out.is_complex:
        e, out = (x - y).abs(), out.to_real()
    else:
        p, q = _wide(x.to(out)), _wide(y.to(out))
        e = torch.maximum(p, q) - torch.minimum(p, q)
    if weight is not None:
        out = torch.promote_types(out, weight.dtype)
        e = e * _wide(weight)
    if reduction == "mean":
        e = e.mean() if weight is None else e.sum() / _wide(weight).sum()
    elif reduction == "sum":
        e = e.sum()
    return e.to(out) if out in (torch.float16, torch.bfloat16) else e


class _AbsDiff(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return torch.sub(x, y).abs()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = g * torch.sgn(x - y)
        return (s if ctx.needs_input_grad[0] else None), (-s if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx, tx, ty):
        x, y = ctx.saved_tensors
        t = (0 if tx is None else tx) - (0 if ty is None else ty)
        s = torch.sgn(x - y)
        return (t * s.conj()).real if s.is_complex() else t * s


def right_own_function(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """Hand-written backward; the weighted mean is a dot product with normalised weights."""
    x, y = _expand(input, target)
    reduction = _legacy(size_average, reduce, reduction)
    t = torch.result_type(x, y)
    e = _AbsDiff.apply(x.to(t), y.to(t))
    if weight is None:
        reduction = _mode(reduction)
        if reduction == "none":
            return e
        return torch.sum(e) if reduction == "sum" else torch.mean(e)
    _same_size(weight, input)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    we = torch.mul(weight, e)
    if reduction == "none":
        return we
    return we.sum() if reduction == "sum" else we.sum() / weight.sum()


class RightL1Loss(nn.Module):
    """Module: sums in chunks over the flattened difference, then divides by the number of elements."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)

    def forward(self, input, target):
        x, y = _expand(input, target)
        how = _mode(self.reduction)
        e = torch.abs(y - x)
        if how == "none":
            return e
        if not e.is_floating_point():
            return e.sum() if how == "sum" else e.mean()
        flat = _wide(e.reshape(-1))
        total = flat.new_zeros(())
        for part in flat.split(1000):
            total = total + part.sum()
        if how == "mean":
            total = total / flat.new_tensor(flat.numel())
        return total.to(e.dtype)
