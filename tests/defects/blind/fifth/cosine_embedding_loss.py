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


_EPS = 1e-12


def _check(input1, input2, target):
    if target.dim() not in (0, 1):
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if target.dim() == 1 and not (input1.dim() == 2 and input2.dim() == 2):
        raise RuntimeError(
            "1D target tensor expects 2D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )
    if target.dim() == 0 and not (input1.dim() == 1 and input2.dim() == 1):
        raise RuntimeError(
            "0D target tensor expects 1D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )


def _cos(x1, x2, eps=_EPS):
    out = torch.promote_types(x1.dtype, x2.dtype)
    if not out.is_floating_point:
        out = torch.get_default_dtype()
    w = _wide(out)
    x1, x2 = x1.to(w), x2.to(w)
    dot = (x1 * x2).sum(-1)
    m1 = (x1 * x1).sum(-1) + eps
    m2 = (x2 * x2).sum(-1) + eps
    return (dot / (m1 * m2).sqrt()).to(out)


def _pairs(cos, target, margin):
    zero = torch.zeros_like(cos)
    pos = torch.where(target == 1, 1 - cos, zero)
    neg = torch.where(target == -1, (cos - margin).clamp_min(0), zero)
    return pos + neg


# ---------------------------------------------------------------- wrong


def wrong_margin_on_positives(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The margin also relaxes positive pairs, max(0, 1 - cos - margin), which shows for target 1 with any margin other than 0."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    cos = _cos(input1, input2)
    zero = torch.zeros_like(cos)
    pos = torch.where(target == 1, (1 - cos - margin).clamp_min(0), zero)
    neg = torch.where(target == -1, (cos - margin).clamp_min(0), zero)
    return _reduce(pos + neg, reduction)


def witness_wrong_margin_on_positives():
    a, b = _randn(4, 6), _randn(4, 6, seed=1)
    t = torch.tensor([1, -1, 1, 1])
    return _differ(
        wrong_margin_on_positives(a, b, t, margin=0.3, reduction="none"),
        F.cosine_embedding_loss(a, b, t, margin=0.3, reduction="none"),
    )


def wrong_mean_over_active_pairs(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The mean divides by the number of pairs with a non-zero loss, not by the batch size; shows when a negative pair is already satisfied."""
    reduction = _resolve(size_average, reduce, reduction)
    loss = F.cosine_embedding_loss(input1, input2, target, margin, reduction="none")
    if reduction == "mean" and loss.numel():
        return loss.sum() / (loss > 0).sum().clamp_min(1)
    return _reduce(loss, reduction)


def witness_wrong_mean_over_active_pairs():
    a = torch.eye(3)
    b = torch.tensor([[0.0, 1, 0], [-1, -1, 0], [1, 0, 1]])
    t = torch.tensor([1, -1, 1])
    return _differ(wrong_mean_over_active_pairs(a, b, t), F.cosine_embedding_loss(a, b, t))


def wrong_large_epsilon(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """1e-5 instead of 1e-12 is added to the squared norms, so that the cosine of vectors with norms around 1e-2 or less shrinks to 0."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    return _reduce(_pairs(_cos(input1, input2, eps=1e-5), target, margin), reduction)


def witness_wrong_large_epsilon():
    a = _randn(3, 4) * 1e-3
    t = torch.ones(3)
    # cos(a, 2a) = 1, hence a loss of 0
    return bool(
        wrong_large_epsilon(a, 2 * a, t) > 0.1
        and F.cosine_embedding_loss(a, 2 * a, t) < 1e-3
    )


class _UnmaskedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, target, margin):
        dot = (x1 * x2).sum(-1)
        m1 = (x1 * x1).sum(-1) + _EPS
        m2 = (x2 * x2).sum(-1) + _EPS
        cos = dot / (m1 * m2).sqrt()
        ctx.save_for_backward(x1, x2, target, cos, m1, m2)
        return _pairs(cos, target, margin)

    @staticmethod
    def backward(ctx, grad):
        x1, x2, target, cos, m1, m2 = ctx.saved_tensors
        # d loss / d cos; the hinge of the negative pairs is forgotten here
        g = torch.where(target == 1, -grad, torch.where(target == -1, grad, torch.zeros_like(grad)))
        g, cos, m1, m2 = (v.unsqueeze(-1) for v in (g, cos, m1, m2))
        r = (m1 * m2).rsqrt()
        return g * (x2 * r - cos * x1 / m1), g * (x1 * r - cos * x2 / m2), None, None


def wrong_backward_ignores_hinge(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The hand-written backward gives a gradient to negative pairs whose loss is clamped to 0 (cos < margin); the values are right."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    out = torch.promote_types(input1.dtype, input2.dtype)
    out = out if out.is_floating_point else torch.get_default_dtype()
    x1, x2 = torch.broadcast_tensors(input1.to(_wide(out)), input2.to(_wide(out)))
    shape = torch.broadcast_shapes(x1.shape[:-1], target.shape)
    x1 = x1.expand(shape + x1.shape[-1:])
    x2 = x2.expand(shape + x2.shape[-1:])
    loss = _UnmaskedBackward.apply(x1, x2, target.expand(shape), margin)
    return _reduce(loss.to(out), reduction)


def witness_wrong_backward_ignores_hinge():
    a = torch.tensor([[1.0, 0.0]], requires_grad=True)
    b = torch.tensor([[-1.0, 0.5]])
    loss = wrong_backward_ignores_hinge(a, b, torch.tensor([-1]))
    (g,) = torch.autograd.grad(loss, a)
    return loss.item() == 0 and bool(g.abs().max() > 1e-3)


def wrong_second_input_detached(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """input2 gets its gradient from positive pairs only: on the negative path it is detached as if it were a frozen memory bank."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    zero_cos = _cos(input1, input2)
    neg_cos = _cos(input1, input2.detach())
    zero = torch.zeros_like(zero_cos)
    pos = torch.where(target == 1, 1 - zero_cos, zero)
    neg = torch.where(target == -1, (neg_cos - margin).clamp_min(0), zero)
    return _reduce(pos + neg, reduction)


def witness_wrong_second_input_detached():
    a = _randn(1, 4)
    b = (a + 0.3 * _randn(1, 4, seed=3)).requires_grad_()
    t = torch.tensor([-1])
    (g,) = torch.autograd.grad(wrong_second_input_detached(a, b, t), b, allow_unused=True)
    (h,) = torch.autograd.grad(F.cosine_embedding_loss(a, b, t), b)
    return bool(h.abs().max() > 1e-3) and (g is None or bool(g.abs().max() == 0))


def wrong_normalises_in_place(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Inputs that need no gradient are normalised in place to save memory, so that the caller's tensors change; the returned loss is right."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    unit = []
    for x in (input1, input2):
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype())
        w = x.to(_wide(x.dtype))
        scale = ((w * w).sum(-1, keepdim=True) + _EPS).rsqrt()
        if x.requires_grad or w is not x:
            unit.append(w * scale)
        else:
            unit.append(x.mul_(scale))
    out = torch.promote_types(input1.dtype, input2.dtype)
    out = out if out.is_floating_point else torch.get_default_dtype()
    cos = (unit[0] * unit[1]).sum(-1).to(out)
    return _reduce(_pairs(cos, target, margin), reduction)


def witness_wrong_normalises_in_place():
    a, b = _randn(3, 4) * 5, _randn(3, 4, seed=1)
    before = a.clone()
    t = torch.tensor([1, -1, 1])
    want = F.cosine_embedding_loss(a, b, t)
    got = wrong_normalises_in_place(a, b, t)
    return not _differ(got, want) and not torch.equal(a, before)


def wrong_unbatched_margin(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The margin is not handed on when the inputs are 1D vectors with a 0D target; shows for target -1 and margin other than 0."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    if target.dim() == 0:
        loss = wrong_unbatched_margin(
            input1[None], input2[None], target[None], reduction="none"
        )
        return loss.reshape(())
    return _reduce(_pairs(_cos(input1, input2), target, margin), reduction)


def witness_wrong_unbatched_margin():
    a = torch.tensor([1.0, 2.0, 3.0])
    t = torch.tensor(-1)
    return _differ(
        wrong_unbatched_margin(a, a + 1, t, margin=0.5),
        F.cosine_embedding_loss(a, a + 1, t, margin=0.5),
    )


class WrongMarginInStateDict(nn.Module):
    """The margin is a registered buffer, so that state_dict() is not empty and loading a checkpoint of nn.CosineEmbeddingLoss fails in strict mode."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _resolve(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("margin", torch.tensor(float(margin), dtype=torch.float64))

    def forward(self, input1, input2, target):
        return F.cosine_embedding_loss(
            input1, input2, target, margin=self.margin.item(), reduction=self.reduction
        )


def witness_WrongMarginInStateDict():
    module = WrongMarginInStateDict(0.25)
    try:
        module.load_state_dict(nn.CosineEmbeddingLoss(0.25).state_dict())
    except RuntimeError:
        return len(module.state_dict()) > 0
    return False


# ---------------------------------------------------------------- right


class _CosineHinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, is_pos, is_neg, margin):
        m1 = (x1 * x1).sum(-1) + _EPS
        m2 = (x2 * x2).sum(-1) + _EPS
        cos = (x1 * x2).sum(-1) / (m1 * m2).sqrt()
        ctx.save_for_backward(x1, x2, is_pos, is_neg)
        ctx.margin = margin
        loss = torch.zeros_like(cos)
        loss = torch.where(is_pos, 1 - cos, loss)
        return torch.where(is_neg, (cos - margin).clamp_min(0), loss)

    @staticmethod
    def backward(ctx, grad):
        x1, x2, is_pos, is_neg = ctx.saved_tensors
        m1 = (x1 * x1).sum(-1, keepdim=True) + _EPS
        m2 = (x2 * x2).sum(-1, keepdim=True) + _EPS
        r = (m1 * m2).rsqrt()
        cos = (x1 * x2).sum(-1, keepdim=True) * r
        slope = is_neg.to(grad.dtype) * (cos.squeeze(-1) >= ctx.margin) - is_pos.to(grad.dtype)
        g = (grad * slope).unsqueeze(-1)
        g1 = g * (x2 * r - x1 * (cos / m1)) if ctx.needs_input_grad[0] else None
        g2 = g * (x1 * r - x2 * (cos / m2)) if ctx.needs_input_grad[1] else None
        return g1, g2, None, None, None


def right_autograd_function(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Own autograd.Function with an analytic backward, float32 inside for half types."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    out = torch.promote_types(input1.dtype, input2.dtype)
    out = out if out.is_floating_point else torch.get_default_dtype()
    x1, x2 = torch.broadcast_tensors(input1.to(_wide(out)), input2.to(_wide(out)))
    shape = torch.broadcast_shapes(x1.shape[:-1], target.shape)
    x1 = x1.expand(shape + x1.shape[-1:])
    x2 = x2.expand(shape + x2.shape[-1:])
    target = target.expand(shape)
    loss = _CosineHinge.apply(x1, x2, target == 1, target == -1, margin)
    return _reduce(loss, reduction).to(out)


def right_einsum_signed(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """einsum for dot products and norms, unit vectors first, masks as floats."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input1, input2, target)
    out = torch.promote_types(input1.dtype, input2.dtype)
    out = out if out.is_floating_point else torch.get_default_dtype()
    work = _wide(out)
    x1, x2 = torch.broadcast_tensors(input1.to(work), input2.to(work))

    def unit(x):
        return x * (torch.einsum("...d,...d->...", x, x) + _EPS).rsqrt().unsqueeze(-1)

    cos = torch.einsum("...d,...d->...", unit(x1), unit(x2))
    excess = cos - margin
    hinge = torch.where(excess < 0, torch.zeros_like(excess), excess)
    loss = torch.where(
        target == 1, 1 - cos, torch.where(target == -1, hinge, torch.zeros_like(cos))
    )
    return _reduce(loss, reduction).to(out)
