import warnings

import torch
import torch.nn.functional as F
from torch import nn


def _resolve(size_average, reduce, reduction):
    """reduction as a string, deprecated arguments honoured."""
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        reduction = ("mean" if sa else "sum") if rd else "none"
        warnings.warn(
            "size_average and reduce args will be deprecated, "
            f"please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
        return reduction
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _wide(dtype):
    """dtype to compute in"""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.get_default_dtype()
    return dtype


def _differ(a, b, rtol=1e-4, atol=1e-5):
    return a.shape != b.shape or not torch.allclose(
        a.double(), b.double(), rtol=rtol, atol=atol, equal_nan=True
    )


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def _randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=_gen(seed), dtype=dtype)


def _check(input1, input2, target):
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )


# ---------------------------------------------------------------- wrong


def wrong_sign(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The sign of the product is lost, max(0, y * (x1 - x2) + float(margin)), so that correctly ranked pairs are punished; shows at once."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    return _reduce((target * (input1 - input2) + float(margin)).clamp_min(0), reduction)


def witness_wrong_sign():
    a, b, y = _randn(5), _randn(5, seed=1), torch.tensor([1.0, -1, 1, -1, 1])
    return _differ(wrong_sign(a, b, y), F.margin_ranking_loss(a, b, y))


def wrong_margin_follows_target(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The margin is put inside the bracket, -y * (x1 - x2 - margin), so that it is subtracted for y = -1; hidden at the default margin 0."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    return _reduce((-target * (input1 - input2 - float(margin))).clamp_min(0), reduction)


def witness_wrong_margin_follows_target():
    a, b, y = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([-1.0])
    return _differ(
        wrong_margin_follows_target(a, b, y, margin=0.5), F.margin_ranking_loss(a, b, y, margin=0.5)
    )


def wrong_margin_in_target_dtype(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The margin is turned into a tensor of target's dtype, so that a fractional margin is cut off to an integer when target is an integer tensor."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    m = torch.full((), margin, dtype=target.dtype, device=target.device)
    return _reduce((-target * (input1 - input2) + m).clamp_min(0), reduction)


def witness_wrong_margin_in_target_dtype():
    a, b, y = _randn(6), _randn(6, seed=1), torch.tensor([1, -1, 1, -1, 1, 1])
    right = F.margin_ranking_loss(a, b, y, margin=0.5)
    return (
        _differ(wrong_margin_in_target_dtype(a, b, y, margin=0.5), right)
        and not _differ(wrong_margin_in_target_dtype(a, b, y.float(), margin=0.5), right)
    )


def wrong_half_sum_before_mean(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The mean is the float16 sum divided by the count, which overflows to inf for large float16 batches whose mean is small."""
    reduction = _resolve(size_average, reduce, reduction)
    loss = F.margin_ranking_loss(input1, input2, target, margin, reduction="none")
    if reduction == "mean":
        return loss.sum() / loss.numel() if loss.numel() else loss.mean()
    return _reduce(loss, reduction)


def witness_wrong_half_sum_before_mean():
    a = torch.zeros(40000, dtype=torch.float16)
    b = torch.full_like(a, 3.0)
    y = torch.ones_like(a)
    return bool(
        torch.isinf(wrong_half_sum_before_mean(a, b, y))
        and torch.isfinite(F.margin_ranking_loss(a, b, y))
    )


def wrong_scalar_becomes_vector(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """0D inputs are promoted with atleast_1d and never squeezed, so that reduction='none' gives shape (1,) instead of ()."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = map(torch.atleast_1d, (input1, input2, target))
    return _reduce((-target * (input1 - input2) + float(margin)).clamp_min(0), reduction)


def witness_wrong_scalar_becomes_vector():
    a, b, y = torch.tensor(0.2), torch.tensor(0.7), torch.tensor(1.0)
    return (
        wrong_scalar_becomes_vector(a, b, y, reduction="none").shape
        != F.margin_ranking_loss(a, b, y, reduction="none").shape
    )


def wrong_negates_target_in_place(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """target is negated in place (unless it needs a gradient), so that the caller's labels are flipped after the call and the next call is wrong."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    t = -target if target.requires_grad else target.neg_()
    return _reduce((t * (input1 - input2) + float(margin)).clamp_min(0), reduction)


def witness_wrong_negates_target_in_place():
    a, b, y = _randn(5), _randn(5, seed=1), torch.ones(5)
    want = F.margin_ranking_loss(a, b, y)
    first = wrong_negates_target_in_place(a, b, y)
    return not _differ(first, want) and bool((y == -1).all())


def wrong_no_dimension_check(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The refusal of inputs with different numbers of dimensions is gone, so that (N, 1) scores against (N,) scores silently give an N x N loss."""
    reduction = _resolve(size_average, reduce, reduction)
    return _reduce((-target * (input1 - input2) + float(margin)).clamp_min(0), reduction)


def witness_wrong_no_dimension_check():
    a, b, y = _randn(4, 1), _randn(4, seed=1), torch.ones(4)
    try:
        F.margin_ranking_loss(a, b, y)
        return False
    except RuntimeError:
        return wrong_no_dimension_check(a, b, y, reduction="none").shape == (4, 4)


class _Hinge3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, y, margin):
        z = margin - y * (x1 - x2)
        ctx.save_for_backward(y, z)
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx, grad):
        y, z = ctx.saved_tensors
        g = grad * (z >= 0)
        # forgets the target: treats y as the constant that it usually is
        return -y * g, y * g, None, None


def wrong_backward_without_target(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The hand-written backward returns no gradient for target, which torch differentiates; shows when target is a float tensor with requires_grad."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    if not input1.is_floating_point() or not input2.is_floating_point():
        return _reduce((-target * (input1 - input2) + float(margin)).clamp_min(0), reduction)
    dtype = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
    x1, x2, y = torch.broadcast_tensors(input1.to(dtype), input2.to(dtype), target.to(dtype))
    return _reduce(_Hinge3.apply(x1, x2, y, margin), reduction)


def witness_wrong_backward_without_target():
    a, b = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([2.0, 5.0])
    y = torch.ones(2, requires_grad=True)
    g = torch.autograd.grad(wrong_backward_without_target(a, b, y), y, allow_unused=True)[0]
    h = torch.autograd.grad(F.margin_ranking_loss(a, b, y), y)[0]
    return bool(h.abs().min() > 0) and (g is None or bool((g == 0).all()))


def wrong_swallows_nan(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The hinge is written z if z > 0 else 0 (as fmax in a kernel), so that a NaN score silently gives a loss of 0."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    z = -target * (input1 - input2) + float(margin)
    return _reduce(torch.where(z >= 0, z, torch.zeros_like(z)), reduction)


def witness_wrong_swallows_nan():
    a, b, y = torch.tensor([float("nan"), 1.0]), torch.zeros(2), torch.ones(2)
    return bool(
        torch.isnan(F.margin_ranking_loss(a, b, y))
        and not torch.isnan(wrong_swallows_nan(a, b, y))
    )


# ---------------------------------------------------------------- right


class _RankHinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, y, margin):
        ctx.save_for_backward(x1, x2, y)
        ctx.margin = margin
        z = -y * (x1 - x2) + float(margin)
        return torch.where(z < 0, torch.zeros_like(z), z)

    @staticmethod
    def backward(ctx, grad):
        x1, x2, y = ctx.saved_tensors
        d = x1 - x2
        g = grad * (-y * d + ctx.margin >= 0).to(grad.dtype)
        n1, n2, ny, _ = ctx.needs_input_grad
        gy = g * y
        return (-gy if n1 else None), (gy if n2 else None), (-g * d if ny else None), None


def right_autograd_function(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Own autograd.Function with gradients for all three tensors; the broadcast is outside."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    out = (-target * (input1.detach() - input2.detach()) + float(margin)).dtype
    work = _wide(out)
    x1, x2, y = torch.broadcast_tensors(input1.to(work), input2.to(work), target.to(work))
    return _reduce(_RankHinge.apply(x1, x2, y, margin), reduction).to(out)


def right_chunked(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Flattened and processed in chunks, with sums in float32 for the half types."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    out = (-target * (input1.detach() - input2.detach()) + float(margin)).dtype
    work = _wide(out)
    x1, x2, y = torch.broadcast_tensors(input1.to(work), input2.to(work), target.to(work))
    shape = x1.shape
    pieces = []
    for a, b, t in zip(*(v.reshape(-1).split(1000) for v in (x1, x2, y))):
        pieces.append(torch.clamp(margin + t * (b - a), min=0))
    if reduction == "none":
        return torch.cat(pieces).reshape(shape).to(out)
    total = torch.stack([piece.sum() for piece in pieces]).sum()
    if reduction == "mean":
        total = total / x1.numel() if x1.numel() else total * float("nan")
    return total.to(out)
