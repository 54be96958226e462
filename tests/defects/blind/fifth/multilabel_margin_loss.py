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


def _check(input, target):
    """refusals; returns both as (N, C)"""
    if input.dim() > 2 or (input.dim() > 0 and input.size(-1) == 0):
        raise RuntimeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, "
            f"but got: {list(input.shape)}"
        )
    if not input.is_floating_point():
        raise NotImplementedError(f"multilabel_margin_loss not implemented for {input.dtype}")
    if target.shape != input.shape:
        raise RuntimeError(
            f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}"
        )
    if target.dtype != torch.long:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    x = input if input.dim() == 2 else input.reshape(1, -1)
    t = target if target.dim() == 2 else target.reshape(1, -1)
    if t.numel() and (int(t.min()) < -1 or int(t.max()) >= x.size(1)):
        raise RuntimeError("argument #2 'target' is out of range")
    return x, t


def _finish(loss, input, reduction):
    if reduction == "none":
        return loss.reshape(input.shape[:-1]).to(input.dtype)
    return _reduce(loss, reduction).to(input.dtype)


def _valid(t):
    """labels in front of the first -1"""
    return (t >= 0).long().cumprod(1).bool()


def _is_label(t, valid):
    hits = torch.zeros_like(t).scatter_add(1, t.clamp_min(0), valid.long())
    return hits > 0


def _rows(x, t, valid, is_label):
    """(N) losses, not yet divided by C"""
    x = x.to(_wide(x.dtype))
    z = 1 - x.gather(1, t.clamp_min(0)).unsqueeze(2) + x.unsqueeze(1)
    use = valid.unsqueeze(2) & ~is_label.unsqueeze(1)
    return torch.where(use, z.relu(), torch.zeros_like(z)).sum((1, 2))


# ---------------------------------------------------------------- wrong


def wrong_reads_behind_padding(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """All non-negative entries count as labels, also those behind the first -1; shows when something other than -1 follows a -1."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = t >= 0
    return _finish(_rows(x, t, valid, _is_label(t, valid)) / x.size(1), input, reduction)


def witness_wrong_reads_behind_padding():
    x, t = _randn(1, 4), torch.tensor([[3, 0, -1, 1]])
    f, g = wrong_reads_behind_padding, F.multilabel_margin_loss
    t2 = torch.tensor([[3, 0, -1, -1]])
    return _differ(f(x, t), g(x, t)) and not _differ(f(x, t2), g(x, t2))


def wrong_divides_by_label_count(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """Each sample is divided by its number of labels instead of C; shows on almost every input."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = _valid(t)
    rows = _rows(x, t, valid, _is_label(t, valid)) / valid.sum(1).clamp_min(1)
    return _finish(rows, input, reduction)


def witness_wrong_divides_by_label_count():
    x, t = _randn(2, 4), torch.tensor([[3, 0, -1, -1], [1, -1, -1, -1]])
    return _differ(wrong_divides_by_label_count(x, t), F.multilabel_margin_loss(x, t))


def wrong_duplicates_merged(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """Labels are turned into a multi-hot mask, so that a label listed twice counts once although the sum runs over all j."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    is_label = _is_label(t, _valid(t))
    w = x.to(_wide(x.dtype))
    z = (1 - w.unsqueeze(2) + w.unsqueeze(1)).relu()
    use = is_label.unsqueeze(2) & ~is_label.unsqueeze(1)
    rows = torch.where(use, z, torch.zeros_like(z)).sum((1, 2))
    return _finish(rows / x.size(1), input, reduction)


def witness_wrong_duplicates_merged():
    x = _randn(1, 4)
    f, g = wrong_duplicates_merged, F.multilabel_margin_loss
    t, t2 = torch.tensor([[2, 2, -1, -1]]), torch.tensor([[2, 0, -1, -1]])
    return _differ(f(x, t), g(x, t)) and not _differ(f(x, t2), g(x, t2))


def wrong_padding_marks_class_zero(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """The padding is clamped to 0 before the label mask is scattered, so that class 0 is a label of every padded sample and never a negative."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    is_label = torch.zeros_like(t).scatter(1, t.clamp_min(0), 1).bool()
    behind = _is_label(t, t >= 0) & ~_is_label(t, _valid(t))
    behind[:, :1] = False
    is_label = is_label & ~behind
    return _finish(_rows(x, t, _valid(t), is_label) / x.size(1), input, reduction)


def witness_wrong_padding_marks_class_zero():
    x = _randn(1, 4)
    f, g = wrong_padding_marks_class_zero, F.multilabel_margin_loss
    t, t2 = torch.tensor([[2, 3, -1, -1]]), torch.tensor([[2, 0, -1, -1]])
    return _differ(f(x, t), g(x, t)) and not _differ(f(x, t2), g(x, t2))


def wrong_unpadded_row_is_empty(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """The label count is argmax(target == -1), which is 0 for a row without any -1, so that a full row (only possible to matter with a repeated label) gives 0."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    count = (t == -1).long().argmax(1, keepdim=True)
    valid = torch.arange(t.size(1), device=t.device) < count
    return _finish(_rows(x, t, valid, _is_label(t, valid)) / x.size(1), input, reduction)


def witness_wrong_unpadded_row_is_empty():
    x = torch.tensor([[0.1, 0.2, 0.4]])
    f, g = wrong_unpadded_row_is_empty, F.multilabel_margin_loss
    t, t2 = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, -1]])
    return bool(f(x, t) == 0 and g(x, t) > 0.1) and not _differ(f(x, t2), g(x, t2))


def wrong_label_count_of_first_row(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """The number of labels is read from the first sample and used for the whole batch; shows when a later sample has more labels than the first."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = _valid(t)
    if t.size(0):
        valid = valid & (torch.arange(t.size(1), device=t.device) < valid[0].sum())
    return _finish(_rows(x, t, valid, _is_label(t, valid)) / x.size(1), input, reduction)


def witness_wrong_label_count_of_first_row():
    x, t = _randn(2, 4), torch.tensor([[3, -1, -1, -1], [1, 0, -1, -1]])
    f, g = wrong_label_count_of_first_row, F.multilabel_margin_loss
    return _differ(f(x, t), g(x, t)) and not _differ(f(x[:1], t[:1]), g(x[:1], t[:1]))


def wrong_target_clamped_in_place(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """The padding is replaced with clamp_ in the caller's target, so that a second call with the same target takes every entry for a label."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = _valid(t)
    is_label = _is_label(t, valid)
    t.clamp_(min=0)
    return _finish(_rows(x, t, valid, is_label) / x.size(1), input, reduction)


def witness_wrong_target_clamped_in_place():
    x, t = _randn(2, 4), torch.tensor([[3, -1, -1, -1], [1, 2, -1, -1]])
    before = t.clone()
    want = F.multilabel_margin_loss(x, t)
    return not _differ(wrong_target_clamped_in_place(x, t), want) and not torch.equal(t, before)


class _OverwritingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, valid, is_label):
        z = 1 - x.gather(1, t.clamp_min(0)).unsqueeze(2) + x.unsqueeze(1)
        z = torch.where(valid.unsqueeze(2) & ~is_label.unsqueeze(1), z.relu(), torch.zeros_like(z))
        ctx.save_for_backward((z > 0).to(x.dtype), t, valid)
        return z.sum((1, 2)) / x.size(1)

    @staticmethod
    def backward(ctx, grad):
        active, t, valid = ctx.saved_tensors
        out = active.sum(1)
        per_label = active.sum(2)
        for j in range(t.size(1)):
            rows = valid[:, j].nonzero().squeeze(1)
            # should be subtracted from what earlier equal labels left there
            out[rows, t[rows, j]] = -per_label[rows, j]
        return out * (grad / t.size(1)).unsqueeze(1), None, None, None


def wrong_backward_overwrites_labels(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """The hand-written backward writes instead of accumulates the gradient of labels, so that a repeated label gets the gradient of one occurrence only."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = _valid(t)
    loss = _OverwritingBackward.apply(x.to(_wide(x.dtype)), t, valid, _is_label(t, valid))
    return _finish(loss, input, reduction)


def witness_wrong_backward_overwrites_labels():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]], requires_grad=True)
    f, g = wrong_backward_overwrites_labels, F.multilabel_margin_loss

    def grads(t):
        a, b = f(x, t), g(x, t)
        return a, b, torch.autograd.grad(a, x)[0], torch.autograd.grad(b, x)[0]

    a, b, da, db = grads(torch.tensor([[2, 2, -1, -1]]))
    c, d, dc, dd = grads(torch.tensor([[2, 0, -1, -1]]))
    return not _differ(a, b) and _differ(da, db) and not _differ(c, d) and not _differ(dc, dd)


# ---------------------------------------------------------------- right


def right_cube_of_masks(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """(N, labels, classes) cube with masks from cumprod and scatter_add, float32 for half types."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = _valid(t)
    return _finish(_rows(x, t, valid, _is_label(t, valid)) / x.size(1), input, reduction)


class _LabelLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        stop = (t < 0).to(torch.int32).cummax(1).values.bool()
        other = torch.ones_like(t, dtype=torch.bool)
        for j in range(t.size(1)):
            live = ~stop[:, j]
            col = t[:, j].clamp_min(0).unsqueeze(1)
            other.scatter_(1, col, other.gather(1, col) & ~live.unsqueeze(1))
        total = torch.zeros_like(x[:, 0])
        for j in range(t.size(1)):
            own = x.gather(1, t[:, j].clamp_min(0).unsqueeze(1))
            z = (1 - (own - x)).clamp_min(0)
            z = torch.where(other & ~stop[:, j : j + 1], z, torch.zeros_like(z))
            total = total + z.sum(1)
        ctx.save_for_backward(x, t, stop, other)
        return total / x.size(1)

    @staticmethod
    def backward(ctx, grad):
        x, t, stop, other = ctx.saved_tensors
        g = torch.zeros_like(x)
        for j in range(t.size(1)):
            idx = t[:, j].clamp_min(0).unsqueeze(1)
            active = (1 - (x.gather(1, idx) - x) > 0) & other & ~stop[:, j : j + 1]
            active = active.to(x.dtype)
            g = g + active
            g = g.scatter_add(1, idx, -active.sum(1, keepdim=True))
        return g * (grad / x.size(1)).unsqueeze(1), None


def right_label_loop_function(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """Own autograd.Function that loops over the label columns, O(N C) memory."""
    reduction = _resolve(size_average, reduce, reduction)
    x, t = _check(input, target)
    return _finish(_LabelLoop.apply(x.to(_wide(x.dtype)), t), input, reduction)
