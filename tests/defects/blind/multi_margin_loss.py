"""Wrong and right implementations of multi_margin_loss, written without sight of the suite."""

import torch
from torch.nn import _reduction as _Reduction
from torch.nn import functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input, target, p, weight):
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() not in (1, 2) or input.size(-1) == 0:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}"
        )
    n = input.size(0) if input.dim() == 2 else 1
    if target.dim() > 1 or target.numel() != n:
        raise RuntimeError(
            f"inconsistent target size: {list(target.shape)} for input of size {list(input.shape)}"
        )
    if weight is not None and weight.numel() != input.size(-1):
        raise RuntimeError(
            f"inconsistent weight size, expected {input.size(-1)} but got {list(weight.shape)}"
        )


def _hinges(input, target, margin):
    """(N, C) of max(0, margin - x[y] + x[i]), 0 at i = y; input 2-d, target 1-d."""
    own = input.gather(1, target[:, None])
    z = (margin - own + input).relu()
    here = torch.arange(input.size(1), device=input.device) == target[:, None]
    return z.masked_fill(here, 0)


def _rows(input, target):
    return (input[None], target.reshape(1)) if input.dim() == 1 else (input, target)


def wrong_weight_inside_power(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The weight is applied before the power: with p = 2 it is squared."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    h = _hinges(x, y, margin)
    if weight is not None:
        h = h * weight[y][:, None]
    return _finish((h.pow(p).sum(1) / x.size(1)).reshape(target.shape), mode)


def witness_wrong_weight_inside_power():
    x, y, w = (
        torch.tensor([[0.1, 0.2, 0.4], [1.0, 0.3, 0.2]]),
        torch.tensor([2, 1]),
        torch.tensor([1.0, 2.0, 3.0]),
    )
    ok = torch.allclose(
        wrong_weight_inside_power(x, y, weight=w), F.multi_margin_loss(x, y, weight=w)
    )
    ok &= torch.allclose(wrong_weight_inside_power(x, y, p=2), F.multi_margin_loss(x, y, p=2))
    return ok and not torch.allclose(
        wrong_weight_inside_power(x, y, p=2, weight=w), F.multi_margin_loss(x, y, p=2, weight=w)
    )


class _GradInForward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, target, p, margin, weight, mode):
        h = _hinges(input, target, margin)
        w = 1.0 if weight is None else weight[target]
        loss = h.pow(p).sum(1) / input.size(1) * w
        g = (h > 0).to(h.dtype) if p == 1 else 2 * h
        g = g / input.size(1) * (w[:, None] if weight is not None else 1.0)
        g = g.scatter(1, target[:, None], -g.sum(1, keepdim=True))
        if mode == "mean":
            g, loss = g / input.size(0), loss.mean()
        elif mode == "sum":
            loss = loss.sum()
        return loss, g

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, grad_output, _):
        (g,) = ctx.saved_tensors
        if grad_output.dim() == 1:
            g = g * grad_output[:, None]
        return g, None, None, None, None, None  # a reduced loss is the last layer: grad_output is 1


def wrong_incoming_gradient_taken_as_one(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The gradient is made in the forward and handed out as it is: a loss that is scaled (loss
    scaling, accumulation steps, one term among several) has the gradient of the unscaled.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    loss, _ = _GradInForward.apply(x, y, p, margin, weight, mode)
    return loss.reshape(target.shape) if mode == "none" else loss


def witness_wrong_incoming_gradient_taken_as_one():
    x = torch.tensor([[0.1, 0.2, 0.4], [1.0, 0.3, 0.2]], requires_grad=True)
    y = torch.tensor([2, 1])
    g = [
        torch.autograd.grad(f(x, y, p=2) * s, x)[0]
        for s in (1, 0.25)
        for f in (wrong_incoming_gradient_taken_as_one, F.multi_margin_loss)
    ]
    return torch.allclose(g[0], g[1]) and not torch.allclose(g[2], g[3])


def wrong_mean_by_weight_sum(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """With weights 'mean' divides by the weights of the targets, as cross_entropy does."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    loss = _hinges(x, y, margin).pow(p).sum(1) / x.size(1)
    if weight is None:
        return _finish(loss.reshape(target.shape), mode)
    w = weight[y]
    if mode == "mean":
        return (w * loss).sum() / w.sum()
    return _finish((w * loss).reshape(target.shape), mode)


def witness_wrong_mean_by_weight_sum():
    x, y, w = (
        torch.tensor([[0.1, 0.2, 0.4], [1.0, 0.3, 0.2]]),
        torch.tensor([2, 1]),
        torch.tensor([1.0, 2.0, 3.0]),
    )
    ok = torch.allclose(
        wrong_mean_by_weight_sum(x, y, weight=w, reduction="sum"),
        F.multi_margin_loss(x, y, weight=w, reduction="sum"),
    )
    return ok and not torch.allclose(
        wrong_mean_by_weight_sum(x, y, weight=w), F.multi_margin_loss(x, y, weight=w)
    )


def wrong_row_major_assumed(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Addresses the scores as base + row * C + column, like a kernel that never asks for the
    strides: right for contiguous scores only (a transposed or sliced view is misread).
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    n, c = x.shape
    x = torch.as_strided(x, (n, c), (c, 1), x.storage_offset())
    loss = _hinges(x, y, margin).pow(p).sum(1) / c
    if weight is not None:
        loss = loss * weight[y]
    return _finish(loss.reshape(target.shape), mode)


def witness_wrong_row_major_assumed():
    x = torch.tensor([[0.1, 0.2, 0.4], [1.0, 0.3, 0.2], [2.0, -1.0, 0.7]])
    y = torch.tensor([2, 1, 0])
    return torch.allclose(
        wrong_row_major_assumed(x, y), F.multi_margin_loss(x, y)
    ) and not torch.allclose(wrong_row_major_assumed(x.t(), y), F.multi_margin_loss(x.t(), y))


def wrong_unbatched_keeps_row(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """One unbatched sample (C) with a 0-d target gives shape (1) for 'none', not the target's ()."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    loss = _hinges(x, y, margin).pow(p).sum(1) / x.size(1)
    if weight is not None:
        loss = loss * weight[y]
    return _finish(loss, mode)


def witness_wrong_unbatched_keeps_row():
    x, y = torch.tensor([0.1, 0.2, 0.4]), torch.tensor(1)
    return (
        wrong_unbatched_keeps_row(x, y, reduction="none").shape == (1,)
        and F.multi_margin_loss(x, y, reduction="none").shape == ()
    )


def wrong_eval_writes_scores(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """When no gradient is wanted it saves a copy and masks the target's score in place: after a
    validation step the caller's logits hold -inf at the label.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    own = x.gather(1, y[:, None])
    if not (torch.is_grad_enabled() and input.requires_grad):
        x = x.contiguous()
    else:
        x = x.clone()
    x.scatter_(1, y[:, None], float("-inf"))
    loss = (margin - own + x).relu().pow(p).sum(1) / x.size(1)
    if weight is not None:
        loss = loss * weight[y]
    return _finish(loss.reshape(target.shape), mode)


def witness_wrong_eval_writes_scores():
    x, y = torch.tensor([[0.1, 0.2, 0.4], [1.0, 0.3, 0.2]]), torch.tensor([2, 1])
    before = x.clone()
    v = wrong_eval_writes_scores(x, y)
    xg = before.clone().requires_grad_()
    wrong_eval_writes_scores(xg, y).backward()
    return (
        torch.allclose(v, F.multi_margin_loss(before, y))
        and torch.equal(xg.detach(), before)
        and not torch.equal(x, before)
    )


class WrongTrainableWeight(torch.nn.Module):
    """Registers the class weight as a Parameter: an optimizer over the criterion's (or the enclosing
    model's) parameters trains it, and it shows up in parameters().
    """

    def __init__(
        self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
    ):
        super().__init__()
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("weight must be one-dimensional")
        self.p, self.margin = p, margin
        self.reduction = _mode(size_average, reduce, reduction)
        if weight is None:
            self.register_parameter("weight", None)
        else:
            self.weight = torch.nn.Parameter(weight.clone())

    def forward(self, input, target):
        _check(input, target, self.p, self.weight)
        x, y = _rows(input, target)
        loss = _hinges(x, y, self.margin).pow(self.p).sum(1) / x.size(1)
        if self.weight is not None:
            loss = loss * self.weight[y]
        return _finish(loss.reshape(target.shape), self.reduction)


def witness_WrongTrainableWeight():
    w = torch.tensor([1.0, 2.0, 3.0])
    return (
        len(list(WrongTrainableWeight(weight=w).parameters())) == 1
        and len(list(torch.nn.MultiMarginLoss(weight=w).parameters())) == 0
    )


class _Rowwise(torch.autograd.Function):
    """(N, C), (N) -> (N); analytic backward; no data-dependent control flow."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, target, p, margin):
        h = _hinges(input, target, margin)
        return (h if p == 1 else h * h).sum(1) / input.size(1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, target, ctx.p, ctx.margin = inputs
        ctx.save_for_backward(input, target)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        h = _hinges(input, target, ctx.margin)
        g = (h > 0).to(h.dtype) if ctx.p == 1 else 2 * h
        own = torch.arange(input.size(1), device=input.device) == target[:, None]
        g = torch.where(own, -g.sum(1, keepdim=True), g) / input.size(1)
        return g * grad_output[:, None], None, None, None


def right_analytic_backward(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """A row-wise autograd.Function that recomputes in the backward and stores only its inputs."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    loss = _Rowwise.apply(x, y, p, margin)
    if weight is not None:
        loss = loss * weight.gather(0, y)
    return _finish(loss.reshape(target.shape), mode)


def right_by_masks(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """One-hot masks throughout, no indexing; in float64 inside."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, p, weight)
    x, y = _rows(input, target)
    x.detach().gather(1, y[:, None])  # range and dtype of the target
    own = torch.arange(x.size(1), device=x.device).unsqueeze(0) == y.unsqueeze(1)
    x = x.double()
    score = torch.where(own, x, torch.zeros_like(x)).sum(1, keepdim=True)
    z = torch.where(own, torch.zeros_like(x), margin - score + x)
    h = torch.where(z > 0, z, torch.zeros_like(z))
    if p == 2:
        h = h.square()
    loss = h.mean(1)
    if weight is not None:
        loss = loss * (own.to(loss.dtype) @ weight.double())
    return _finish(loss.reshape(target.shape), mode).to(input.dtype)
