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


def _mr_check(input1, input2, target):
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError(
            f"margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )


def _sample(n=8, seed=0, dtype=torch.float32):
    g = _gen(seed)
    a = torch.randn(n, generator=g, dtype=dtype)
    b = torch.randn(n, generator=g, dtype=dtype)
    y = torch.randint(0, 2, (n,), generator=g).to(dtype) * 2 - 1
    return a, b, y


# ---------------------------------------------------------------- wrong


def wrong_sign(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The minus before y is lost, so rightly ranked pairs are punished; shows for every pair."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    return _reduce((target * (input1 - input2) + float(margin)).clamp_min(0), red)


def witness_wrong_sign():
    a, b, y = _sample()
    return not torch.allclose(wrong_sign(a, b, y), F.margin_ranking_loss(a, b, y))


def wrong_margin_times_label(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The margin stands inside the bracket, -y * (x1 - x2 - margin), so it changes its sign for y = -1; shows only with a margin that is not the default 0."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    return _reduce((-target * (input1 - input2 - float(margin))).clamp_min(0), red)


def witness_wrong_margin_times_label():
    a, b, y = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([-1.0])
    return not torch.allclose(wrong_margin_times_label(a, b, y, margin=0.3), F.margin_ranking_loss(a, b, y, margin=0.3))


def wrong_no_dimension_check(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Inputs of different dimension are broadcast instead of refused; (N, 1) scores with (N,) labels give an N x N loss."""
    red = _resolve(size_average, reduce, reduction)
    return _reduce((-target * (input1 - input2) + float(margin)).clamp_min(0), red)


def witness_wrong_no_dimension_check():
    a, b, y = _sample()
    try:
        F.margin_ranking_loss(a[:, None], b[:, None], y)
        return False
    except RuntimeError:
        pass
    return wrong_no_dimension_check(a[:, None], b[:, None], y, reduction="none").shape == (8, 8)


def wrong_legacy_truth(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """A missing reduce counts as False in the legacy translation, so size_average=False gives the unreduced loss instead of the sum; shows with size_average alone."""
    if size_average is not None or reduce is not None:
        red = _quiet(_legacy, size_average, reduce)
        red = red if reduce else "none"
        warnings.warn(f"size_average and reduce args will be deprecated, please use reduction='{red}' instead.", stacklevel=2)
    else:
        red = _resolve(None, None, reduction)
    _mr_check(input1, input2, target)
    return _reduce((-target * (input1 - input2) + float(margin)).clamp_min(0), red)


def witness_wrong_legacy_truth():
    a, b, y = _sample()
    return _quiet(wrong_legacy_truth, a, b, y, size_average=False).shape != _quiet(
        F.margin_ranking_loss, a, b, y, size_average=False
    ).shape


class WrongMarginInState(nn.Module):
    """The margin is registered as a buffer, so it turns up in state_dict, and a checkpoint of a loss with another margin overrides the one that was asked for; shows in state_dict() and load_state_dict()."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce) if (size_average is not None or reduce is not None) else reduction
        self.register_buffer("margin", torch.tensor(float(margin), dtype=torch.float64))

    def forward(self, input1, input2, target):
        return F.margin_ranking_loss(input1, input2, target, margin=self.margin.item(), reduction=self.reduction)


def witness_WrongMarginInState():
    return len(WrongMarginInState(0.5).state_dict()) == 1 and len(nn.MarginRankingLoss(0.5).state_dict()) == 0


class _MRNoTarget(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, y, margin):
        return (-y * (a - b) + margin).clamp_min(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, y, margin = inputs
        ctx.save_for_backward(y, -y * (a - b) + margin >= 0)

    @staticmethod
    def backward(ctx, g):
        y, on = ctx.saved_tensors
        ga = torch.where(on, -g * y, torch.zeros_like(g))
        return ga, -ga, None, None


def wrong_target_gets_no_gradient(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The fused backward returns None for the target, which torch differentiates (soft labels); shows only when target.requires_grad."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    ct = torch.result_type(input1 - input2, target)
    ct = ct if ct.is_floating_point else torch.get_default_dtype()
    a, b, y = torch.broadcast_tensors(input1.to(ct), input2.to(ct), target.to(ct))
    return _reduce(_MRNoTarget.apply(a, b, y, float(margin)), red)


def witness_wrong_target_gets_no_gradient():
    a, b, y = _sample()
    a.requires_grad_()
    y.requires_grad_()
    wrong_target_gets_no_gradient(a, b, y, margin=1.0).backward()
    mine, y.grad = y.grad, None
    F.margin_ranking_loss(a, b, y, margin=1.0).backward()
    return mine is None and bool((y.grad != 0).any())


def wrong_float32_inside(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Everything is computed in float32 and cast back, also for float64 scores; shows in float64 below 1e-7 and for large close scores."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    ct = torch.result_type(input1 - input2, target)
    ct = ct if ct.is_floating_point else torch.get_default_dtype()
    z = -target.float() * (input1.float() - input2.float()) + float(margin)
    return _reduce(z.clamp_min(0), red).to(ct)


def witness_wrong_float32_inside():
    a = torch.tensor([1e9, 1.0], dtype=torch.float64)
    b = torch.tensor([1e9 + 1, 1.0], dtype=torch.float64)
    y = torch.ones(2, dtype=torch.float64)
    return not torch.allclose(wrong_float32_inside(a, b, y), F.margin_ranking_loss(a, b, y))


def wrong_margin_rounded_away(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Computes (margin - y * x1) + y * x2, so the margin is added to a score before the scores are subtracted and is rounded away; shows for large scores that lie close together."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    return _reduce(((float(margin) - target * input1) + target * input2).clamp_min(0), red)


def witness_wrong_margin_rounded_away():
    a = torch.full((3,), 1e8)
    y = torch.ones(3)
    x = wrong_margin_rounded_away(a, a, y, margin=0.1)
    return x.item() == 0.0 and abs(F.margin_ranking_loss(a, a, y, margin=0.1).item() - 0.1) < 1e-6


# ---------------------------------------------------------------- right


def right_swapped_difference(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """y * (x2 - x1) + margin, kept where it is not negative."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    z = target * (input2 - input1) + float(margin)
    z = torch.where(z < 0, torch.zeros_like(z), z)
    if red == "none":
        return z
    if red == "sum":
        return torch.sum(z)
    return (z.sum(dtype=torch.float64) / z.numel()).to(z.dtype) if z.numel() else z.mean()


class _MR(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, y, margin):
        return torch.clamp(margin - y * (a - b), min=0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, y, ctx.margin = inputs
        ctx.save_for_backward(a, b, y)

    @staticmethod
    def backward(ctx, g):
        a, b, y = ctx.saved_tensors
        d = a - b
        on = g.masked_fill(ctx.margin - y * d < 0, 0)
        gy = on * y
        return -gy, gy, -(on * d), None


def right_function(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Own autograd.Function with gradients for both scores and the label."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    ct = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
    if not ct.is_floating_point:
        ct = torch.get_default_dtype()
    a, b, y = torch.broadcast_tensors(input1.to(ct), input2.to(ct), target.to(ct))
    return _reduce(_MR.apply(a, b, y, float(margin)), red)


def right_chunked_wide(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """relu (at the kink the subgradient 0) over chunks, float32 inside for the half types, partial sums in float64."""
    red = _resolve(size_average, reduce, reduction)
    _mr_check(input1, input2, target)
    ct = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
    if not ct.is_floating_point:
        ct = torch.get_default_dtype()
    a, b, y = torch.broadcast_tensors(input1, input2, target)
    shape = a.shape
    a, b, y = (t.reshape(-1).to(_wide(ct)) for t in (a, b, y))
    step = max(5, -(-a.numel() // 6))
    parts = [F.relu(torch.addcmul(torch.full_like(u, margin), w, v - u)) for u, v, w in zip(a.split(step), b.split(step), y.split(step))]
    if red == "none":
        return torch.cat(parts).reshape(shape).to(ct)
    total = torch.stack([p.sum(dtype=torch.float64) for p in parts]).sum()
    if red == "mean":
        total = total / a.numel() if a.numel() else total * float("nan")
    return total.to(ct)


class RightMarginRankingLoss(nn.Module):
    """A module that works in place on a buffer of its own and masks the negative elements out."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce) if (size_average is not None or reduce is not None) else reduction
        self.margin = margin

    def forward(self, input1, input2, target):
        red = _resolve(None, None, self.reduction)
        _mr_check(input1, input2, target)
        loss = (input2 - input1) * target
        if not loss.is_floating_point():
            loss = loss.to(torch.get_default_dtype())
        loss = loss.add_(self.margin)
        loss = loss.masked_fill_(loss.detach() < 0, 0)
        if red == "none":
            return loss
        loss = loss.flatten()
        return loss.sum(0) if red == "sum" else loss.mean(0)
