"""Losses for torch.nn.functional.multi_margin_loss: wrong ones, their witnesses, right ones."""
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


def _check(input, target, p, weight):
    """The refusals; returns input as (N, C) and target as (N)."""
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() > 2 or (input.dim() == 2 and input.size(1) == 0) or (input.dim() == 1 and input.numel() == 0):
        raise RuntimeError(f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}")
    x = input.reshape(1, -1) if input.dim() < 2 else input
    if target.dim() > 1 or target.numel() != x.size(0):
        raise RuntimeError(f"inconsistent target size, expected {x.size(0)} but got {list(target.shape)}")
    if weight is not None and weight.numel() != x.size(1):
        raise RuntimeError(f"inconsistent weight size, expected {x.size(1)} but got {list(weight.shape)}")
    if not input.is_floating_point():
        raise NotImplementedError(f"multi_margin_loss not implemented for {input.dtype}")
    if target.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    if weight is not None and weight.dtype != input.dtype:
        raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
    if weight is not None and weight.requires_grad:
        raise RuntimeError("multi_margin_loss is not differentiable with respect to argument 'weight'")
    t = target.reshape(-1)
    if t.numel() and (int(t.min()) < 0 or int(t.max()) >= x.size(1)):
        raise RuntimeError("target out of range")
    return x, t


def _finish(rows, target, mode):
    if mode == "none":
        return rows.reshape(target.shape)
    return _reduce(rows, mode)


def _violations(x, t, margin):
    """max(0, margin - x[y] + x[i]) with zero at i = y."""
    z = margin - x.gather(1, t.unsqueeze(1)) + x
    own = torch.arange(x.size(1), device=x.device) == t.unsqueeze(1)
    return torch.relu(z.masked_fill(own, 0))


# ------------------------------------------------------------------ wrong


def wrong_target_class_counted(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Includes i = y in the sum, which adds margin**p / C to every sample (times its weight); shows always for a positive margin, though never in the gradient."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    z = torch.relu(margin - x.gather(1, t.unsqueeze(1)) + x)
    rows = (z if p == 1 else z * z).sum(dim=1) / x.size(1)
    if weight is not None:
        rows = rows * weight[t]
    return _finish(rows, target, mode)


def witness_wrong_target_class_counted():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3])
    return not torch.allclose(wrong_target_class_counted(x, y), F.multi_margin_loss(x, y))


def wrong_weight_of_the_other_class(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Scales each term with the weight w[i] of the competing class and not with w[y] of the target class; shows whenever a weight with different entries is given."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    z = _violations(x, t, margin)
    z = z if p == 1 else z * z
    if weight is not None:
        z = z * weight
    return _finish(z.sum(dim=1) / x.size(1), target, mode)


def witness_wrong_weight_of_the_other_class():
    x, y, w = torch.tensor([[0.1, 0.2, 0.4]]), torch.tensor([2]), torch.tensor([1.0, 2.0, 5.0])
    f, g = wrong_weight_of_the_other_class, F.multi_margin_loss
    return torch.allclose(f(x, y), g(x, y)) and not torch.allclose(f(x, y, weight=w), g(x, y, weight=w))


def wrong_weight_inside_the_power(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Multiplies with w[y] before it takes the power, so p=2 squares the weight; shows for p=2 with a weight other than one."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    z = _violations(x, t, margin)
    if weight is not None:
        z = z * weight[t].unsqueeze(1)
    return _finish(z.pow(p).sum(dim=1) / x.size(1), target, mode)


def witness_wrong_weight_inside_the_power():
    x, y, w = torch.tensor([[0.1, 0.2, 0.4]]), torch.tensor([2]), torch.tensor([1.0, 2.0, 5.0])
    f, g = wrong_weight_inside_the_power, F.multi_margin_loss
    return torch.allclose(f(x, y, weight=w), g(x, y, weight=w)) and not torch.allclose(f(x, y, 2, weight=w), g(x, y, 2, weight=w))


def wrong_margin_forgotten_for_squares(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The path for p=2 uses a margin of 1 whatever margin was given; shows for p=2 with another margin."""
    return F.multi_margin_loss(input, target, p, margin if p == 1 else 1.0, weight, size_average, reduce, reduction)


def witness_wrong_margin_forgotten_for_squares():
    x, y = torch.tensor([[0.1, 0.2, 0.4]]), torch.tensor([2])
    f, g = wrong_margin_forgotten_for_squares, F.multi_margin_loss
    return torch.allclose(f(x, y, 1, 0.5), g(x, y, 1, 0.5)) and not torch.allclose(f(x, y, 2, 0.5), g(x, y, 2, 0.5))


def wrong_target_term_subtracted_as_power(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Sums over all classes and subtracts margin**p for i = y, although that term is max(0, margin)**p; shows for a negative margin only."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    z = torch.relu(margin - x.gather(1, t.unsqueeze(1)) + x)
    rows = ((z if p == 1 else z * z).sum(dim=1) - margin**p) / x.size(1)
    if weight is not None:
        rows = rows * weight[t]
    return _finish(rows, target, mode)


def witness_wrong_target_term_subtracted_as_power():
    x, y = torch.tensor([[0.1, 0.2, 0.4], [1.0, 0.0, 0.5]]), torch.tensor([0, 1])
    f, g = wrong_target_term_subtracted_as_power, F.multi_margin_loss
    return torch.allclose(f(x, y), g(x, y)) and not torch.allclose(f(x, y, margin=-0.25), g(x, y, margin=-0.25))


def wrong_gradient_of_squares_halved(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward for p=2 forgets the factor two (values are right, as is p=1); shows in the gradient for p=2."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)

    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return F.multi_margin_loss(x, t, p, margin, weight, reduction="none")

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            z = _violations(x, t, margin)
            slope = (z > 0).to(x.dtype) if p == 1 else z
            slope = slope.scatter_add(1, t.unsqueeze(1), -slope.sum(dim=1, keepdim=True)) / x.size(1)
            if weight is not None:
                slope = slope * weight[t].unsqueeze(1)
            return slope * g.unsqueeze(1)

    return _finish(Fn.apply(x), target, mode)


def witness_wrong_gradient_of_squares_halved():
    x = torch.tensor([[0.1, 0.2, 0.4]], requires_grad=True)
    y = torch.tensor([2])

    def grad(f, p):
        return torch.autograd.grad(f(x, y, p), x)[0]

    f, g = wrong_gradient_of_squares_halved, F.multi_margin_loss
    same = torch.allclose(f(x, y, 2), g(x, y, 2)) and torch.allclose(grad(f, 1), grad(g, 1))
    return same and torch.allclose(2 * grad(f, 2), grad(g, 2)) and not torch.allclose(grad(f, 2), grad(g, 2))


def wrong_negative_target_wraps(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Indexes with the target as Python does, so -1 means the last class instead of being refused (documented: 0 <= y <= C-1); shows for negative targets, for instance an ignore label."""
    if target.dtype == torch.int64 and input.dim() and target.numel() and -input.size(-1) <= int(target.min()) < 0:
        target = torch.where(target < 0, target + input.size(-1), target)
    return F.multi_margin_loss(input, target, p, margin, weight, size_average, reduce, reduction)


def witness_wrong_negative_target_wraps():
    x, y = torch.tensor([[0.1, 0.2, 0.4], [0.1, 0.3, 0.2]]), torch.tensor([-1, 1])
    try:
        F.multi_margin_loss(x, y)
    except RuntimeError:
        return bool(wrong_negative_target_wraps(x, y).isfinite())
    return False


def wrong_unreduced_shape_for_one_sample(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Without reduction a single sample of size (C) with a scalar target gives a tensor of size (1) instead of the target's size (); shows for one-dimensional input with 'none' (or reduce=False)."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    return F.multi_margin_loss(x, t, p, margin, weight, reduction=mode)


def witness_wrong_unreduced_shape_for_one_sample():
    x, y = torch.tensor([0.1, 0.2, 0.4]), torch.tensor(2)
    bad = wrong_unreduced_shape_for_one_sample(x, y, reduction="none")
    good = F.multi_margin_loss(x, y, reduction="none")
    return bad.shape == (1,) and good.shape == () and torch.allclose(bad[0], good)


# ------------------------------------------------------------------ right


def right_gather_and_mask(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Gathers x[y], masks i = y, sums over the classes; at least float32 inside."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    z = _violations(x.to(torch.promote_types(x.dtype, torch.float32)), t, margin)
    rows = (z if p == 1 else z.square()).mean(dim=1)
    if weight is not None:
        rows = rows * weight.to(rows.dtype).index_select(0, t)
    return _finish(rows, target, mode).to(input.dtype)


class _Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, p, margin, weight):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        index = t.unsqueeze(1)
        z = wide - wide.gather(1, index)
        z.add_(margin).clamp_(min=0).scatter_(1, index, 0.0)
        scale = torch.full_like(index, 1, dtype=z.dtype).div_(x.size(1))
        if weight is not None:
            scale.mul_(weight.to(z.dtype)[t].unsqueeze(1))
        if p == 1:
            rows = z.sum(dim=1)
            slope = z.sign()
        else:
            rows = (z * z).sum(dim=1)
            slope = z.mul_(2)
        slope.scatter_(1, index, -slope.sum(dim=1, keepdim=True))
        ctx.save_for_backward(slope.mul_(scale))
        return (rows * scale.squeeze(1)).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (slope,) = ctx.saved_tensors
        return (slope * g.unsqueeze(1).to(slope.dtype)).to(g.dtype), None, None, None, None


def right_function(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function that prepares the slopes in the forward, in place on its own buffer."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    return _finish(_Fn.apply(x, t, p, margin, weight), target, mode)


def right_competitors_only(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Picks the C-1 competitors of each sample with an index table instead of masking, float64 inside, samples in chunks of 64."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    classes = x.size(1)
    others = torch.arange(classes - 1, device=x.device)
    out = []
    for xs, ts in zip(x.split(64), t.split(64)):
        xs = xs.double()
        index = others.unsqueeze(0) + (others.unsqueeze(0) >= ts.unsqueeze(1)).to(torch.int64)
        z = margin - xs.gather(1, ts.unsqueeze(1)) + xs.gather(1, index)
        z = torch.where(z > 0, z, torch.zeros_like(z))
        rows = torch.einsum("nc->n", z) if p == 1 else torch.einsum("nc,nc->n", z, z)
        if weight is not None:
            rows = rows * weight.double()[ts]
        out.append(rows / classes)
    return _finish(torch.cat(out), target, mode).to(input.dtype)


class RightMultiMarginLoss(torch.nn.Module):
    """A module with the weight as a buffer: a loop over the competing classes, one-hot for the target score."""

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError(f"MultiMarginLoss: expected weight to be None or 1D tensor, got {weight.dim()}D instead")
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.p = p
        self.margin = margin

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target, self.p, self.weight)
        classes = x.size(1)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        one_hot = t.unsqueeze(1) == torch.arange(classes, device=x.device)
        score = wide.masked_fill(~one_hot, 0).sum(dim=1)
        rows = torch.zeros_like(score)
        for i in range(classes):
            gap = (self.margin - score + wide[:, i]).masked_fill(one_hot[:, i], 0)
            rows = rows + torch.relu(gap) ** self.p
        if self.weight is not None:
            rows = rows * one_hot.to(wide.dtype).mv(self.weight.to(wide.dtype))
        return _finish(rows / classes, target, mode).to(input.dtype)
