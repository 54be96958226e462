"""Losses for torch.nn.functional.multilabel_margin_loss: wrong ones, their witnesses, right ones."""
import warnings

import torch
import torch.nn.functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        mode = "mean" if sa and rd else ("sum" if rd else "none")
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{mode}' instead.",
            stacklevel=3,
        )
        return mode
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input, target):
    """The refusals; returns input and target as (N, C)."""
    if input.dim() > 2 or (input.dim() == 2 and input.size(1) == 0) or (input.dim() == 1 and input.numel() == 0):
        raise RuntimeError(f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}")
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    if not input.is_floating_point():
        raise NotImplementedError(f"multilabel_margin_loss not implemented for {input.dtype}")
    if target.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    classes = input.size(-1) if input.dim() else 1
    x, t = input.reshape(-1, classes), target.reshape(-1, classes)
    if t.numel() and (int(t.min()) < -1 or int(t.max()) >= classes):
        raise RuntimeError("argument #2 'target' is out of range")
    return x, t


def _finish(rows, input, mode):
    """Reduce the per-sample losses (N,); a single sample (C) gives a scalar also without reduction."""
    if mode == "none" and input.dim() < 2:
        return rows.reshape(())
    return _reduce(rows, mode)


def _pairs(x, t, front, is_target, weights=None):
    """The per-sample sums over the pairs (target j of the block, class i that is no target)."""
    picked = x.gather(1, t.clamp(min=0))
    z = 1 - picked.unsqueeze(2) + x.unsqueeze(1)
    keep = front.unsqueeze(2) & ~is_target.unsqueeze(1)
    z = torch.relu(torch.where(keep, z, torch.zeros((), dtype=z.dtype, device=z.device)))
    return z.sum(dim=(1, 2)) / x.size(1)


def _front(t):
    return (t >= 0).to(torch.int64).cumprod(dim=1).bool()


def _targets(t, front):
    n, c = t.shape
    hits = torch.zeros(n, c + 1, dtype=torch.bool, device=t.device)
    hits.scatter_(1, torch.where(front, t, torch.full_like(t, c)), True)
    return hits[:, :c]


# ------------------------------------------------------------------ wrong


def wrong_labels_after_padding_count(input, target, size_average=None, reduce=None, reduction="mean"):
    """Takes every non-negative entry of the target as a label, also those after the first -1; shows for targets with entries behind the padding, as in the documentation's example."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    front = t >= 0
    return _finish(_pairs(x, t, front, _targets(t, front)), input, mode)


def witness_wrong_labels_after_padding_count():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    return not torch.allclose(wrong_labels_after_padding_count(x, y), F.multilabel_margin_loss(x, y))


def wrong_other_labels_not_excluded(input, target, size_average=None, reduce=None, reduction="mean"):
    """Leaves out only the pair of a label with itself, so labels compete with one another (documented: i != y[j] for all i and j); shows for samples of two and more labels."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    front = _front(t)
    z = torch.relu(1 - x.gather(1, t.clamp(min=0)).unsqueeze(2) + x.unsqueeze(1))
    own = torch.arange(x.size(1), device=x.device).view(1, 1, -1) == t.unsqueeze(2)
    z = z.masked_fill(own | ~front.unsqueeze(2), 0)
    return _finish(z.sum(dim=(1, 2)) / x.size(1), input, mode)


def witness_wrong_other_labels_not_excluded():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    one, two = torch.tensor([[3, -1, -1, -1]]), torch.tensor([[3, 0, -1, -1]])
    f, g = wrong_other_labels_not_excluded, F.multilabel_margin_loss
    return torch.allclose(f(x, one), g(x, one)) and not torch.allclose(f(x, two), g(x, two))


def wrong_padding_marks_class_zero(input, target, size_average=None, reduce=None, reduction="mean"):
    """Clamps the padding to 0 before it scatters the labels into a mask, so class 0 is taken for a label of every padded sample; shows when class 0 is no label and violates the margin."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    front = _front(t)
    is_target = torch.zeros_like(front).scatter_(1, torch.where(front, t, torch.zeros_like(t)), True)
    return _finish(_pairs(x, t, front, is_target), input, mode)


def witness_wrong_padding_marks_class_zero():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    without, with_zero = torch.tensor([[3, 1, -1, -1]]), torch.tensor([[3, 0, -1, -1]])
    f, g = wrong_padding_marks_class_zero, F.multilabel_margin_loss
    return torch.allclose(f(x, with_zero), g(x, with_zero)) and not torch.allclose(f(x, without), g(x, without))


def wrong_repeated_label_counted_once(input, target, size_average=None, reduce=None, reduction="mean"):
    """Works on the set of labels (a mask), so a label that the target lists twice enters the sum over j once; shows for repeated labels only."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    is_target = _targets(t, _front(t))
    z = torch.relu(1 - x.unsqueeze(2) + x.unsqueeze(1))
    z = z.masked_fill(~(is_target.unsqueeze(2) & ~is_target.unsqueeze(1)), 0)
    return _finish(z.sum(dim=(1, 2)) / x.size(1), input, mode)


def witness_wrong_repeated_label_counted_once():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    plain, twice = torch.tensor([[3, 0, -1, -1]]), torch.tensor([[3, 3, 0, -1]])
    f, g = wrong_repeated_label_counted_once, F.multilabel_margin_loss
    return torch.allclose(f(x, plain), g(x, plain)) and not torch.allclose(f(x, twice), g(x, twice))


def wrong_vector_input_averaged_twice(input, target, size_average=None, reduce=None, reduction="mean"):
    """For a single sample of size (C) reduction 'mean' divides by input.size(0), which is C there, once more; shows for one-dimensional input with 'mean'."""
    mode = _mode(size_average, reduce, reduction)
    if mode == "mean" and input.dim() > 0:
        return F.multilabel_margin_loss(input, target, reduction="sum") / input.size(0)
    return F.multilabel_margin_loss(input, target, reduction=mode)


def witness_wrong_vector_input_averaged_twice():
    x, y = torch.tensor([0.1, 0.2, 0.4, 0.8]), torch.tensor([3, 0, -1, 1])
    f, g = wrong_vector_input_averaged_twice, F.multilabel_margin_loss
    return torch.allclose(f(x[None], y[None]), g(x[None], y[None])) and not torch.allclose(f(x, y), g(x, y))


def wrong_first_row_gradient_for_all(input, target, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward scales all rows with the incoming gradient of the first sample; shows for reduction 'none' when the samples are weighted differently afterwards (not with .sum().backward())."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)

    class Rows(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            front = _front(t)
            is_target = _targets(t, front)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                rows = _pairs(leaf, t, front, is_target)
                (jacobian,) = torch.autograd.grad(rows.sum(), leaf)
            ctx.save_for_backward(jacobian)
            return rows.detach()

        @staticmethod
        def backward(ctx, g):
            (jacobian,) = ctx.saved_tensors
            return jacobian * g[:1].unsqueeze(1)

    return _finish(Rows.apply(x), input, mode)


def witness_wrong_first_row_gradient_for_all():
    x = torch.tensor([[0.1, 0.2, 0.4], [0.3, 0.2, 0.1]], requires_grad=True)
    y = torch.tensor([[1, -1, -1], [2, 0, -1]])
    w = torch.tensor([1.0, 5.0])

    def grad(f, w):
        return torch.autograd.grad((f(x, y, reduction="none") * w).sum(), x)[0]

    f, g = wrong_first_row_gradient_for_all, F.multilabel_margin_loss
    return torch.allclose(grad(f, w * 0 + 1), grad(g, w * 0 + 1)) and not torch.allclose(grad(f, w), grad(g, w))


def wrong_rewrites_padding_in_target(input, target, size_average=None, reduce=None, reduction="mean"):
    """Overwrites everything from the first -1 on in the caller's target with -1 to normalise it; shows in the target after the call when entries follow the padding."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    if target.dim():
        target.masked_fill_((target < 0).to(torch.int64).cumsum(dim=-1) > 0, -1)
    return F.multilabel_margin_loss(input, target, reduction=mode)


def witness_wrong_rewrites_padding_in_target():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    value = torch.allclose(wrong_rewrites_padding_in_target(x, y), F.multilabel_margin_loss(x, torch.tensor([[3, 0, -1, 1]])))
    return value and y.tolist() == [[3, 0, -1, -1]]


# ------------------------------------------------------------------ right


def right_pair_mask(input, target, size_average=None, reduce=None, reduction="mean"):
    """All pairs (j, i) at once with a mask of the front block and a mask of the non-targets, at least float32 inside."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    front = _front(t)
    rows = _pairs(x.to(torch.promote_types(x.dtype, torch.float32)), t, front, _targets(t, front))
    return _finish(rows, input, mode).to(input.dtype)


class _Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        n, c = x.shape
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = torch.zeros(n, dtype=wide, device=x.device)
        slopes = torch.zeros(n, c, dtype=wide, device=x.device)
        for r, labels in enumerate(t.tolist()):
            if -1 in labels:
                labels = labels[: labels.index(-1)]
            chosen = set(labels)
            others = torch.tensor([i for i in range(c) if i not in chosen], dtype=torch.int64, device=x.device)
            xr = x[r].to(wide)
            for j in labels:
                z = 1 - xr[j] + xr[others]
                active = z > 0
                rows[r] += z[active].sum()
                slopes[r, j] -= active.sum()
                slopes[r, others] += active.to(wide)
        ctx.save_for_backward(slopes.div_(c))
        return rows.div_(c).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (slopes,) = ctx.saved_tensors
        return (slopes * g.unsqueeze(1).to(slopes.dtype)).to(g.dtype), None


def right_row_loop_function(input, target, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function with a plain loop over samples and labels that counts the active pairs for the backward."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    return _finish(_Fn.apply(x, t), input, mode)


def right_label_by_label(input, target, size_average=None, reduce=None, reduction="mean"):
    """A loop over the label positions for the whole batch: an 'alive' flag per sample dies at the first -1; float64 inside."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    wide = x.double()
    alive = torch.ones(t.shape[0], dtype=torch.bool, device=t.device)
    lives = []
    taken = torch.zeros_like(t, dtype=torch.bool)
    for j in range(t.shape[1]):
        alive = alive & (t[:, j] >= 0)
        lives.append(alive)
        taken |= (t[:, j : j + 1] == torch.arange(t.shape[1], device=t.device)) & alive.unsqueeze(1)
    total = wide[:, :0].sum(dim=1)
    for j, alive in enumerate(lives):
        own = wide.gather(1, t[:, j : j + 1].clamp(min=0))
        z = (1 - own + wide).masked_fill(taken | ~alive.unsqueeze(1), 0)
        total = total + torch.where(z > 0, z, torch.zeros_like(z)).sum(dim=1)
    return _finish(total / t.shape[1], input, mode).to(input.dtype)


class RightMultiLabelMarginLoss(torch.nn.Module):
    """A module: how often each class is listed in the front block, contracted with the class-by-class hinges by einsum."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target)
        n, c = x.shape
        stop = torch.where(t < 0, torch.arange(c, device=t.device), c).amin(dim=1, keepdim=True)
        valid = torch.arange(c, device=t.device) < stop
        wide = torch.promote_types(x.dtype, torch.float32)
        counts = torch.zeros(n, c, dtype=wide, device=x.device)
        counts.scatter_add_(1, t.clamp(min=0), valid.to(wide))
        xw = x.to(wide)
        pair = (counts > 0).unsqueeze(2) & (counts == 0).unsqueeze(1)
        hinge = torch.relu((1 - xw.unsqueeze(2) + xw.unsqueeze(1)).masked_fill(~pair, 0))
        rows = torch.einsum("nk,nki->n", counts, hinge) / c
        return _finish(rows, input, mode).to(input.dtype)
