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


def _resolve_soft(size_average, reduce, reduction):
    if size_average is None and reduce is None and reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    return _resolve(size_average, reduce, reduction)


def _result_dtype(input, target, weight):
    dtype = torch.result_type(target, input)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype) if weight.dim() else dtype
    return dtype


def _refuse(target):
    if target.dtype == torch.bool:
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported.")


# ---------------------------------------------------------------- wrong


def wrong_log_of_sigmoid(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """log(sigmoid(x)) and log(1 - sigmoid(x)) are computed naively, so that float32 logits beyond about 17 (wrong side) give inf or NaN."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    p = torch.sigmoid(input)
    loss = -(target * torch.log(p) + (1 - target) * torch.log(1 - p))
    if weight is not None:
        loss = loss * weight
    return _reduce(loss.sum(-1) / input.size(-1), reduction)


def witness_wrong_log_of_sigmoid():
    x, y = torch.tensor([[30.0, 1.0]]), torch.zeros(1, 2)
    f, g = wrong_log_of_sigmoid, F.multilabel_soft_margin_loss
    z = _randn(3, 4)
    return (
        not bool(torch.isfinite(f(x, y)))
        and bool(torch.isfinite(g(x, y)))
        and not _differ(f(z, torch.ones(3, 4)), g(z, torch.ones(3, 4)))
    )


def wrong_sum_not_over_classes_mean(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The factor 1/C is left out when reduction is 'sum', where the element losses are summed directly."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    loss = F.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)
    return loss * input.size(-1) if reduction == "sum" else loss


def witness_wrong_sum_not_over_classes_mean():
    x, y = _randn(3, 4), torch.ones(3, 4)
    f, g = wrong_sum_not_over_classes_mean, F.multilabel_soft_margin_loss
    return _differ(f(x, y, reduction="sum"), g(x, y, reduction="sum"))


def wrong_weight_on_positives_only(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """weight acts as pos_weight: only the term of y = 1 is scaled; shows with weight and any label 0."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    pos = target * F.logsigmoid(input)
    if weight is not None:
        pos = pos * weight
    loss = -(pos + (1 - target) * F.logsigmoid(-input))
    return _reduce(loss.sum(-1) / input.size(-1), reduction)


def witness_wrong_weight_on_positives_only():
    x, y, w = _randn(3, 4), torch.eye(4)[:3], torch.tensor([0.5, 2, 3, 4])
    f, g = wrong_weight_on_positives_only, F.multilabel_soft_margin_loss
    return _differ(f(x, y, w), g(x, y, w)) and not _differ(f(x, y), g(x, y))


def wrong_divides_by_weight_sum(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """With weight the class sum is divided by weight.sum() instead of C; hidden when the weights average 1."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    loss = F.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)
    if weight is None:
        return loss
    return loss * (input.size(-1) / weight.expand(input.shape[-1:]).sum()) if weight.dim() < 2 else loss


def witness_wrong_divides_by_weight_sum():
    x, y, w = _randn(3, 4), torch.eye(4)[:3], torch.tensor([0.5, 2, 3, 4])
    f, g = wrong_divides_by_weight_sum, F.multilabel_soft_margin_loss
    return _differ(f(x, y, w), g(x, y, w)) and not _differ(f(x, y), g(x, y))


def wrong_logits_clamped(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Logits are clamped to [-20, 20] 'for stability', so that confident mistakes beyond 20 have a constant loss and no gradient."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    return F.multilabel_soft_margin_loss(
        input.clamp(-20, 20), target, weight, reduction=reduction
    )


def witness_wrong_logits_clamped():
    x = torch.tensor([[50.0, 0.0]], requires_grad=True)
    y = torch.zeros(1, 2)
    a, b = wrong_logits_clamped(x, y), F.multilabel_soft_margin_loss(x, y)
    return _differ(a, b) and torch.autograd.grad(a, x)[0][0, 0].item() == 0


def wrong_float32_inside(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The element losses are always computed in float32 and cast back, so that float64 input gives a float64 result with float32 precision."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    _refuse(target)
    dtype = _result_dtype(input, target, weight)
    w = None if weight is None else weight.float()
    t = target.float() if target.is_floating_point() else target
    loss = F.multilabel_soft_margin_loss(input.float(), t, w, reduction="none")
    return _reduce(loss.to(dtype), reduction)


def witness_wrong_float32_inside():
    x, y = _randn(50, 7, dtype=torch.float64), torch.ones(50, 7, dtype=torch.float64)
    a, b = wrong_float32_inside(x, y), F.multilabel_soft_margin_loss(x, y)
    return a.dtype == torch.float64 and 1e-12 < abs((a - b).item()) < 1e-5


class _UnweightedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w):
        ctx.save_for_backward(x, y)
        return -w * (y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        # w is missing
        return grad * (torch.sigmoid(x) - y), -grad * x, None


def wrong_backward_forgets_weight(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The fused backward sigmoid(x) - y leaves out weight: values are right, gradients are those of the unweighted loss."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    _refuse(target)
    dtype = _result_dtype(input, target, weight)
    if weight is None or weight.requires_grad:
        return F.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)
    work = _wide(dtype)
    x, y, w = torch.broadcast_tensors(input.to(work), target.to(work), weight.to(work))
    loss = _UnweightedBackward.apply(x, y, w).sum(input.dim() - 1) / input.size(-1)
    return _reduce(loss, reduction).to(dtype)


def witness_wrong_backward_forgets_weight():
    x, y, w = _randn(3, 4).requires_grad_(), torch.eye(4)[:3], torch.tensor([0.5, 2, 3, 4])
    a, b = wrong_backward_forgets_weight(x, y, w), F.multilabel_soft_margin_loss(x, y, w)
    return not _differ(a, b) and _differ(
        torch.autograd.grad(a, x)[0], torch.autograd.grad(b, x)[0]
    )


class WrongWeightNotABuffer(nn.Module):
    """weight is a plain attribute instead of a buffer, so that module.double() / .to(device) does not move it and state_dict() lacks it."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _resolve(size_average, reduce, reduction)
        self.weight = weight
        self.reduction = reduction

    def forward(self, input, target):
        return F.multilabel_soft_margin_loss(
            input, target, weight=self.weight, reduction=self.reduction
        )


def witness_WrongWeightNotABuffer():
    w = torch.tensor([0.5, 2.0])
    mine, theirs = WrongWeightNotABuffer(w), nn.MultiLabelSoftMarginLoss(w)
    return (
        "weight" in theirs.state_dict()
        and "weight" not in mine.state_dict()
        and mine.double().weight.dtype == torch.float32
        and theirs.double().weight.dtype == torch.float64
    )


# ---------------------------------------------------------------- right


def right_logaddexp(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """softplus as logaddexp(x, 0), class sum as an einsum, float32 for half types."""
    reduction = _resolve_soft(size_average, reduce, reduction)
    _refuse(target)
    dtype = _result_dtype(input, target, weight)
    work = _wide(dtype)
    x, y = input.to(work), target.to(work)
    zero = torch.zeros((), dtype=work, device=x.device)
    loss = y * torch.logaddexp(-x, zero) + (1 - y) * torch.logaddexp(x, zero)
    if weight is not None:
        loss = loss * weight.to(work)
    loss = loss.sum(dim=input.dim() - 1) / input.size(-1)
    return _reduce(loss, reduction).to(dtype)


class _SoftMargin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w):
        ctx.save_for_backward(x, y, w)
        tail = torch.log1p(torch.exp(-x.abs()))
        term = y * ((-x).clamp_min(0) + tail) + (1 - y) * (x.clamp_min(0) + tail)
        return w * term

    @staticmethod
    def backward(ctx, grad):
        x, y, w = ctx.saved_tensors
        gx = gy = gw = None
        if ctx.needs_input_grad[0]:
            gx = grad * w * ((1 - y) * torch.sigmoid(x) - y * torch.sigmoid(-x))
        if ctx.needs_input_grad[1]:
            gy = -grad * w * x
        if ctx.needs_input_grad[2]:
            gw = grad * -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))
        return gx, gy, gw


class RightFunctionModule(nn.Module):
    """The module, on an own autograd.Function with gradients for input, target and weight."""

    __constants__ = ["reduction"]

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _resolve(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)

    def forward(self, input, target):
        reduction = _resolve_soft(None, None, self.reduction)
        _refuse(target)
        weight = self.weight
        dtype = _result_dtype(input, target, weight)
        work = _wide(dtype)
        w = torch.ones((), dtype=work, device=input.device) if weight is None else weight.to(work)
        x, y, w = torch.broadcast_tensors(input.to(work), target.to(work), w)
        loss = _SoftMargin.apply(x, y, w).sum(dim=input.dim() - 1) / input.size(-1)
        return _reduce(loss, reduction).to(dtype)
