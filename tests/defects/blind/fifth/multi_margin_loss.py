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


def _check(input, target, p, weight):
    """refusals; returns input as (N, C) and target as (N)"""
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() > 2 or (input.dim() > 0 and input.size(-1) == 0):
        raise RuntimeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, "
            f"but got: {list(input.shape)}"
        )
    if not input.is_floating_point():
        raise NotImplementedError(f"multi_margin_loss not implemented for {input.dtype}")
    if target.dtype != torch.long:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    x = input if input.dim() == 2 else input.reshape(1, -1)
    if target.dim() > 1 or target.numel() != x.size(0):
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of "
            f"input samples (batch size). Expected target size [{x.size(0)}], "
            f"but got {list(target.shape)}."
        )
    if weight is not None:
        if weight.requires_grad:
            raise RuntimeError(
                "The function 'multi_margin_loss' is not differentiable with respect to "
                "argument 'weight'. This input cannot have requires_grad True."
            )
        if weight.numel() != x.size(1):
            raise RuntimeError(
                f"inconsistent weight size, expected {x.size(1)} but got {list(weight.shape)}"
            )
        if weight.dtype != input.dtype:
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
    t = target.reshape(-1)
    if t.numel() and (int(t.min()) < 0 or int(t.max()) >= x.size(1)):
        raise RuntimeError("target out of range")
    return x, t


def _finish(loss, target, reduction, dtype):
    """loss of shape (N) -> result"""
    if reduction == "none":
        return loss.reshape(target.shape).to(dtype)
    return _reduce(loss, reduction).to(dtype)


# ---------------------------------------------------------------- wrong


def wrong_divides_by_other_classes(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The sum over the other classes is divided by C - 1 (their number) instead of C; shows on every input."""
    reduction = _resolve(size_average, reduce, reduction)
    loss = F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
    c = input.size(-1) if input.dim() else 1
    return loss * (c / max(c - 1, 1))


def witness_wrong_divides_by_other_classes():
    x, t = _randn(4, 3), torch.tensor([0, 1, 2, 1])
    return _differ(wrong_divides_by_other_classes(x, t), F.multi_margin_loss(x, t))


def wrong_removes_margin_not_its_power(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The target's own term is removed by subtracting margin, not margin ** p; shows for p = 2 with a margin other than 1."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    x = x.to(_wide(x.dtype))
    z = (margin - x.gather(1, t[:, None]) + x).relu()
    loss = z.pow(p).sum(1) - max(margin, 0)
    if weight is not None:
        loss = loss * weight[t]
    return _finish(loss / x.size(1), target, reduction, input.dtype)


def witness_wrong_removes_margin_not_its_power():
    x, t = _randn(4, 3), torch.tensor([0, 1, 2, 1])
    f, g = wrong_removes_margin_not_its_power, F.multi_margin_loss
    return (
        _differ(f(x, t, p=2, margin=0.5), g(x, t, p=2, margin=0.5))
        and not _differ(f(x, t, p=2), g(x, t, p=2))
        and not _differ(f(x, t, margin=0.5), g(x, t, margin=0.5))
    )


def wrong_weight_inside_power(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The weight multiplies the hinge before the power, (w * z) ** p, so that it enters squared; shows with weight and p = 2."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    x = x.to(_wide(x.dtype))
    z = (margin - x.gather(1, t[:, None]) + x).relu()
    if weight is not None:
        z = z * weight[t][:, None]
    z = z.pow(p).scatter(1, t[:, None], 0.0)
    return _finish(z.sum(1) / x.size(1), target, reduction, input.dtype)


def witness_wrong_weight_inside_power():
    x, t, w = _randn(4, 3), torch.tensor([0, 1, 2, 1]), torch.tensor([0.5, 2.0, 3.0])
    f, g = wrong_weight_inside_power, F.multi_margin_loss
    return _differ(f(x, t, 2, 1.0, w), g(x, t, 2, 1.0, w)) and not _differ(
        f(x, t, 1, 1.0, w), g(x, t, 1, 1.0, w)
    )


def wrong_weighted_mean(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """With weight the mean divides by the sum of the targets' weights, as cross_entropy does, instead of the number of samples."""
    reduction = _resolve(size_average, reduce, reduction)
    if weight is None or reduction != "mean":
        return F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
    total = F.multi_margin_loss(input, target, p, margin, weight, reduction="sum")
    return total / weight[target].sum()


def witness_wrong_weighted_mean():
    x, t, w = _randn(4, 3), torch.tensor([0, 1, 2, 1]), torch.tensor([0.5, 2.0, 3.0])
    return _differ(wrong_weighted_mean(x, t, weight=w), F.multi_margin_loss(x, t, weight=w))


def wrong_unbatched_size_zero(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """A 1D input of C classes is unsqueezed first and then divided by x.size(0) = 1 instead of C; batches are right."""
    reduction = _resolve(size_average, reduce, reduction)
    loss = F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
    return loss * input.numel() if input.dim() < 2 else loss


def witness_wrong_unbatched_size_zero():
    x, t = _randn(5), torch.tensor(3)
    return _differ(wrong_unbatched_size_zero(x, t), F.multi_margin_loss(x, t)) and not _differ(
        wrong_unbatched_size_zero(x[None], t[None]), F.multi_margin_loss(x[None], t[None])
    )


def wrong_negative_target_wraps(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Negative targets are not refused: they index from the end, so that -1 (padding, ignore) counts as class C - 1."""
    reduction = _resolve(size_average, reduce, reduction)
    c = input.size(-1) if input.dim() else 1
    wrapped = target
    if target.dtype == torch.long:
        wrapped = torch.where((target < 0) & (target >= -c), target + c, target)
    return F.multi_margin_loss(input, wrapped, p, margin, weight, reduction=reduction)


def witness_wrong_negative_target_wraps():
    x, t = _randn(2, 3), torch.tensor([0, -1])
    try:
        F.multi_margin_loss(x, t)
        return False
    except RuntimeError:
        return bool(torch.isfinite(wrong_negative_target_wraps(x, t)))


class _NoFactorTwo(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, p, margin, w):
        z = (margin - x.gather(1, t[:, None]) + x).relu().scatter(1, t[:, None], 0.0)
        ctx.save_for_backward(z, t, w)
        ctx.p = p
        return w * z.pow(p).sum(1) / x.size(1)

    @staticmethod
    def backward(ctx, grad):
        z, t, w = ctx.saved_tensors
        d = z if ctx.p == 2 else (z > 0).to(z.dtype)
        d = d * (grad * w / z.size(1))[:, None]
        return d.scatter(1, t[:, None], -d.sum(1, keepdim=True)), None, None, None, None


def wrong_backward_without_factor_two(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The hand-written backward forgets the factor 2 of the squared hinge: values are right, gradients are half for p = 2."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    x = x.to(_wide(x.dtype))
    w = torch.ones_like(t, dtype=x.dtype) if weight is None else weight.to(x.dtype)[t]
    return _finish(_NoFactorTwo.apply(x, t, p, margin, w), target, reduction, input.dtype)


def witness_wrong_backward_without_factor_two():
    x, t = _randn(4, 3).requires_grad_(), torch.tensor([0, 1, 2, 1])
    a, b = wrong_backward_without_factor_two(x, t, p=2), F.multi_margin_loss(x, t, p=2)
    return not _differ(a, b) and _differ(
        torch.autograd.grad(a, x)[0], torch.autograd.grad(b, x)[0]
    )


class WrongWeightAsList(nn.Module):
    """The class weights are kept as a Python list and not as the buffer `weight`, so that state_dict() is empty and a loaded checkpoint does not bring its weights."""

    def __init__(
        self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
    ):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _resolve(size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("expected weight to be None or 1D tensor")
        self.p, self.margin, self.reduction = p, margin, reduction
        self._weights = None if weight is None else weight.tolist()

    @property
    def weight(self):
        return None if self._weights is None else torch.tensor(self._weights)

    def forward(self, input, target):
        weight = None if self._weights is None else input.new_tensor(self._weights)
        return F.multi_margin_loss(
            input, target, self.p, self.margin, weight, reduction=self.reduction
        )


def witness_WrongWeightAsList():
    w = torch.tensor([1.0, 2.0])
    return "weight" in nn.MultiMarginLoss(weight=w).state_dict() and not len(
        WrongWeightAsList(weight=w).state_dict()
    )


# ---------------------------------------------------------------- right


def right_masked_broadcast(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Broadcast hinge with a one-hot mask and masked selection, float32 for half types."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    x = x.to(_wide(x.dtype))
    own = F.one_hot(t, x.size(1)).bool() if t.numel() else torch.zeros_like(x, dtype=torch.bool)
    correct = torch.where(own, x, torch.zeros_like(x)).sum(1, keepdim=True)
    z = margin - correct + x
    z = torch.where((z > 0) & ~own, z, torch.zeros_like(z))
    if p == 2:
        z = z * z
    loss = z.sum(1)
    if weight is not None:
        loss = loss * weight.to(x.dtype).index_select(0, t)
    return _finish(loss / x.size(1), target, reduction, input.dtype)


class _MultiMargin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, p, margin, scale):
        correct = x.gather(1, t.unsqueeze(1)).squeeze(1)
        total = torch.zeros_like(correct)
        for i in range(x.size(1)):
            z = (x[:, i] - correct + margin).clamp_min(0)
            total = total + torch.where(t == i, torch.zeros_like(z), z if p == 1 else z * z)
        ctx.save_for_backward(x, t, scale)
        ctx.p, ctx.margin = p, margin
        return total * scale

    @staticmethod
    def backward(ctx, grad):
        x, t, scale = ctx.saved_tensors
        idx = t.unsqueeze(1)
        z = x - x.gather(1, idx) + ctx.margin
        d = (z > 0).to(x.dtype) if ctx.p == 1 else 2 * z.clamp_min(0)
        d = d.scatter(1, idx, torch.zeros_like(d[:, :1]))
        d = d * (grad * scale).unsqueeze(1)
        return d.scatter_add(1, idx, -d.sum(1, keepdim=True)), None, None, None, None


def right_autograd_function(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Own autograd.Function, forward as a loop over the classes with an accumulator."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    x = x.to(_wide(x.dtype))
    scale = torch.full_like(t, 1.0 / x.size(1), dtype=x.dtype)
    if weight is not None:
        scale = scale * weight.to(x.dtype)[t]
    return _finish(_MultiMargin.apply(x, t, p, margin, scale), target, reduction, input.dtype)
