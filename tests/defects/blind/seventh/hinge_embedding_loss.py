import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce):
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = "none" if not reduce else ("mean" if size_average else "sum")
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{name}' instead.",
        stacklevel=4,
    )
    return name


def _resolve(size_average, reduce, reduction, extra=()):
    if size_average is not None or reduce is not None:
        return _legacy(size_average, reduce)
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum") + tuple(extra):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _quiet(fn, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **kwargs)


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def _he_point(input, target, margin):
    zero = torch.zeros((), dtype=input.dtype, device=input.device)
    pos = torch.where(target == -1, zero, input)
    neg = torch.where(target == 1, zero, (margin - input).clamp_min(0).to(input.dtype))
    return pos + neg


def _sample(shape=(4, 5), seed=0, dtype=torch.float32):
    g = _gen(seed)
    x = torch.randn(shape, generator=g, dtype=dtype)
    y = torch.randint(0, 2, shape, generator=g).to(dtype) * 2 - 1
    return x, y


# ---------------------------------------------------------------- wrong


def wrong_similar_clamped(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """max(0, .) is taken for the label 1 as well; shows for negative inputs, not for distances."""
    red = _resolve(size_average, reduce, reduction)
    return _reduce(_he_point(input, target, margin).clamp_min(0), red)


def witness_wrong_similar_clamped():
    x, y = torch.tensor([-2.0, 0.5]), torch.tensor([1.0, -1.0])
    return not torch.allclose(wrong_similar_clamped(x, y), F.hinge_embedding_loss(x, y))


def wrong_mean_over_active(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """'mean' divides by the number of non-zero losses instead of all elements; shows as soon as one dissimilar pair lies beyond the margin."""
    red = _resolve(size_average, reduce, reduction)
    loss = _he_point(input, target, margin)
    if red == "mean":
        if loss.numel() == 0 or not loss.is_floating_point():
            return loss.mean()
        active = (loss != 0).sum().clamp_min(1)
        return loss.sum() / active
    return _reduce(loss, red)


def witness_wrong_mean_over_active():
    x, y = torch.tensor([3.0, 0.5]), torch.tensor([-1.0, -1.0])
    return not torch.allclose(wrong_mean_over_active(x, y), F.hinge_embedding_loss(x, y))


def wrong_legacy_path_margin(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The branch for the deprecated arguments calls on without the margin, so it uses 1; shows with size_average or reduce together with margin != 1."""
    if size_average is not None or reduce is not None:
        return F.hinge_embedding_loss(input, target, size_average=size_average, reduce=reduce)
    return F.hinge_embedding_loss(input, target, margin=margin, reduction=reduction)


def witness_wrong_legacy_path_margin():
    x, y = torch.tensor([0.2, 0.5]), torch.tensor([-1.0, -1.0])
    a = _quiet(wrong_legacy_path_margin, x, y, margin=2.0, size_average=False)
    return not torch.allclose(a, F.hinge_embedding_loss(x, y, margin=2.0, reduction="sum"))


class _HEUnitMargin(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, margin):
        return _he_point(x, y, margin)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        zero = torch.zeros_like(g)
        gx = torch.where(y == -1, zero, g) - torch.where((y != 1) & (x <= 1), g, zero)
        return gx, None, None


def wrong_backward_margin(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward tests input against 1 instead of margin; shows in the gradient of dissimilar pairs between 1 and a margin that is not 1."""
    red = _resolve(size_average, reduce, reduction)
    x, y = torch.broadcast_tensors(input, target)
    return _reduce(_HEUnitMargin.apply(x, y, margin), red)


def witness_wrong_backward_margin():
    x = torch.tensor([1.5, 0.5], requires_grad=True)
    y = -torch.ones(2)
    (a,) = torch.autograd.grad(wrong_backward_margin(x, y, margin=2.0, reduction="sum"), x)
    (b,) = torch.autograd.grad(F.hinge_embedding_loss(x, y, margin=2.0, reduction="sum"), x)
    return not torch.allclose(a, b)


def wrong_margin_in_target_dtype(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The margin is spread with full_like(target), so an integer target cuts its fraction off; shows with int labels and a margin such as 0.5."""
    red = _resolve(size_average, reduce, reduction)
    m = torch.full_like(target, margin)
    zero = torch.zeros((), dtype=input.dtype, device=input.device)
    pos = torch.where(target == -1, zero, input)
    neg = torch.where(target == 1, zero, (m - input).clamp_min(0).to(input.dtype))
    return _reduce(pos + neg, red)


def witness_wrong_margin_in_target_dtype():
    x, y = torch.tensor([0.1, 0.2]), torch.tensor([-1, -1])
    a = wrong_margin_in_target_dtype(x, y, margin=0.5)
    return not torch.allclose(a, F.hinge_embedding_loss(x, y, margin=0.5))


def wrong_flat_view_written(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Without gradients the loss is written into input.contiguous().view(-1), which is the caller's own memory when the input is contiguous already; shows in the input after the call."""
    red = _resolve(size_average, reduce, reduction)
    if input.requires_grad or input.shape != target.shape:
        return _reduce(_he_point(input, target, margin), red)
    flat = input.contiguous().view(-1)
    flat.copy_(_he_point(flat, target.reshape(-1), margin))
    return _reduce(flat.view(input.shape), red)


def witness_wrong_flat_view_written():
    x, y = _sample()
    before = x.clone()
    wrong_flat_view_written(x, y)
    return not torch.equal(x, before)


def wrong_label_arithmetic(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The two cases are blended by multiplying with 0/1 masks, so 0 * inf gives NaN; shows for an infinite input with label -1, where the loss is 0."""
    red = _resolve(size_average, reduce, reduction)
    pos = (target != -1).to(input.dtype)
    neg = (target != 1).to(input.dtype)
    return _reduce(pos * input + neg * (margin - input).clamp_min(0), red)


def witness_wrong_label_arithmetic():
    x, y = torch.tensor([float("inf"), 0.5]), torch.tensor([-1.0, -1.0])
    return bool(wrong_label_arithmetic(x, y).isnan()) and F.hinge_embedding_loss(x, y).item() == 0.25


# ---------------------------------------------------------------- right


def right_selected(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """One nested selection, relu for the hinge (at the kink the subgradient 0), float32 inside for the half types."""
    red = _resolve(size_average, reduce, reduction)
    x = input.to(_wide(input.dtype))
    far = torch.relu(float(margin) - x).to(x.dtype)
    loss = torch.where(target == 1, x, torch.where(target == -1, far, far + x))
    return _reduce(loss, red).to(input.dtype)


class _HE(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, margin):
        gap = margin - x
        gap = torch.where(gap < 0, torch.zeros_like(gap), gap).to(x.dtype)
        return torch.where(y == 1, x, torch.where(y == -1, gap, x + gap))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, margin = inputs
        ctx.save_for_backward((y != -1).to(x.dtype) - ((y != 1) & ~(margin - x < 0)).to(x.dtype))

    @staticmethod
    def backward(ctx, g):
        (s,) = ctx.saved_tensors
        return g * s, None, None


def right_function(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Own autograd.Function that keeps only the slope of each element."""
    red = _resolve(size_average, reduce, reduction)
    x, y = torch.broadcast_tensors(input, target.detach())
    return _reduce(_HE.apply(x, y, float(margin)), red)


def right_pieces(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Gathers the similar and the dissimilar elements apart and sums the two groups (float64) or puts them back."""
    red = _resolve(size_average, reduce, reduction)
    x, y = torch.broadcast_tensors(input, target)
    shape = x.shape
    x, y = x.reshape(-1), y.reshape(-1)
    near = (y != -1).nonzero().squeeze(1)
    far = (y != 1).nonzero().squeeze(1)
    a = x.index_select(0, near)
    b = (margin - x.index_select(0, far)).clamp(min=0).to(x.dtype)
    if red == "none":
        return torch.zeros_like(x).index_add(0, near, a).index_add(0, far, b).reshape(shape)
    if red == "mean" and not x.is_floating_point():
        raise RuntimeError("mean(): the input has to be floating point")
    total = a.sum(dtype=torch.float64) + b.sum(dtype=torch.float64)
    if red == "mean":
        total = total / x.numel() if x.numel() else total * float("nan")
    return total.to(input.dtype)


class RightHingeEmbeddingLoss(nn.Module):
    """A module that works in place on a buffer of its own."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=1.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce) if (size_average is not None or reduce is not None) else reduction
        self.margin = margin

    def forward(self, input, target):
        red = _resolve(None, None, self.reduction)
        x, y = torch.broadcast_tensors(input, target)
        hinge = x.neg().add_(self.margin) if x.is_floating_point() else (self.margin - x)
        hinge = hinge.clamp_min_(0).masked_fill_(y == 1, 0).to(x.dtype)
        loss = x.masked_fill(y == -1, 0).add_(hinge)
        if red == "none":
            return loss
        s = loss.flatten()
        return s.sum(0) if red == "sum" else s.mean(0)
