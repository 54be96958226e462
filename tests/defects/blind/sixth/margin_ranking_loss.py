import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss, _WeightedLoss


def _mode(size_average, reduce, reduction):
    """The reduction asked for, with the deprecated pair taking precedence as documented."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _apply(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _autocast_on(t):
    dev = t.device.type
    return dev in ("cpu", "cuda") and torch.is_autocast_enabled(dev)


def _fp32(*ts):
    """What autocast does for an op on its float32 list."""
    if not _autocast_on(ts[0]):
        return ts
    return tuple(
        t.float() if t is not None and t.is_floating_point() and t.dtype is not torch.float64 else t
        for t in ts
    )


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check(input1, input2, target):
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()}"
        )
    if target.dtype is torch.bool:
        raise RuntimeError("margin_ranking_loss: labels have to be 1 or -1, not bool")


# ---------------------------------------------------------------- wrong

def wrong_rank_direction(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The sign convention is reversed: y = 1 asks for input2 to rank higher."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = _fp32(input1, input2, target)
    return _apply((target * (input1 - input2) + float(margin)).clamp_min(0), mode)


def witness_wrong_rank_direction():
    a, b, t = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0])
    return wrong_rank_direction(a, b, t).item() == 1 and F.margin_ranking_loss(a, b, t).item() == 0


def wrong_ranknet(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The hinge is replaced by RankNet's softplus, so correctly ranked pairs still cost something."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = _fp32(input1, input2, target)
    return _apply(F.softplus(-target * (input1 - input2) + float(margin)), mode)


def witness_wrong_ranknet():
    a, b, t = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0])
    return wrong_ranknet(a, b, t).item() > 0.3 and F.margin_ranking_loss(a, b, t).item() == 0


def wrong_no_shape_check(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Inputs of different dimension, such as (N, 1) scores against (N) scores, are broadcast to N x N pairs instead of being refused."""
    mode = _mode(size_average, reduce, reduction)
    input1, input2, target = _fp32(input1, input2, target)
    return _apply((-target * (input1 - input2) + float(margin)).clamp_min(0), mode)


def witness_wrong_no_shape_check():
    a, b, t = torch.randn(3, 1), torch.randn(3), torch.ones(3)
    try:
        F.margin_ranking_loss(a, b, t)
        return False
    except RuntimeError:
        pass
    return wrong_no_shape_check(a, b, t, reduction="none").shape == (3, 3)


def wrong_margin_in_label_dtype(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The margin is materialised in the dtype of the labels, so with integer labels (+1 / -1 as int64) a margin of 0.5 becomes 0."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = _fp32(input1, input2, target)
    m = torch.full_like(target, margin if target.is_floating_point() else int(margin))
    out = (m - target * (input1 - input2)).clamp_min(0)
    if not out.is_floating_point():
        out = out.to(torch.get_default_dtype())
    return _apply(out, mode)


def witness_wrong_margin_in_label_dtype():
    a, b, t = torch.tensor([1.0, 2.0]), torch.tensor([1.2, 1.0]), torch.tensor([1, -1])
    same = torch.allclose(wrong_margin_in_label_dtype(a, b, t.float(), margin=0.5),
                          F.margin_ranking_loss(a, b, t.float(), margin=0.5))
    return same and not torch.allclose(wrong_margin_in_label_dtype(a, b, t, margin=0.5),
                                       F.margin_ranking_loss(a, b, t, margin=0.5), atol=0.1)


class _UnitUpstream(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return z.clamp_min(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad_output):
        (z,) = ctx.saved_tensors
        return (z >= 0).to(grad_output.dtype) * (grad_output * 0 + 1)

    @staticmethod
    def jvp(ctx, tangent):
        (z,) = ctx.saved_tensors
        return (z >= 0).to(tangent.dtype) * tangent


def wrong_upstream_gradient_dropped(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward takes the incoming gradient to be one when summing: (k * loss).backward() gives the same gradient for every k, so loss scaling and loss weights are lost ('sum' and 'none')."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = _fp32(input1, input2, target)
    z = -target * (input1 - input2) + float(margin)
    if mode == "mean":
        return z.clamp_min(0).mean()
    return _apply(_UnitUpstream.apply(z), mode)


def witness_wrong_upstream_gradient_dropped():
    b, t = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])
    g = []
    for k in (1.0, 8.0):
        a = torch.tensor([0.0, 1.0], requires_grad=True)
        (k * wrong_upstream_gradient_dropped(a, b, t, reduction="sum")).backward()
        g.append(a.grad)
    return torch.equal(g[0], g[1]) and torch.equal(g[0], torch.tensor([-1.0, -1.0]))


def wrong_margin_absorbed(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The terms are summed as (margin - y*x1) + y*x2: at large scores the margin is rounded away before the scores cancel (bfloat16 scores of a few hundred, float32 scores of 1e8)."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = _fp32(input1, input2, target)
    return _apply(((float(margin) - target * input1) + target * input2).clamp_min(0), mode)


def witness_wrong_margin_absorbed():
    a = torch.tensor([300.0, 512.0], dtype=torch.bfloat16)
    t = torch.ones(2, dtype=torch.bfloat16)
    return (F.margin_ranking_loss(a, a, t, margin=0.5).item() == 0.5
            and wrong_margin_absorbed(a, a, t, margin=0.5).item() == 0)


class WrongIntegerMargin(_Loss):
    """The constructor stores int(margin): 0.5 becomes 0 and 1.5 becomes 1, whole margins are right."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = int(margin)

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        input1, input2, target = _fp32(input1, input2, target)
        return _apply((-target * (input1 - input2) + float(self.margin)).clamp_min(0), mode)


def witness_WrongIntegerMargin():
    a, t = torch.zeros(2), torch.ones(2)
    return WrongIntegerMargin(0.5)(a, a, t).item() == 0 and nn.MarginRankingLoss(0.5)(a, a, t).item() == 0.5


class WrongReferenceDetached(_Loss):
    """input2 is taken as a fixed reference and detached: the value is right, no gradient reaches input2."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        input1, input2, target = _fp32(input1, input2, target)
        z = -target * (input1 - input2.detach()) + float(self.margin)
        return _apply(z.clamp_min(0), mode)


def witness_WrongReferenceDetached():
    a = torch.tensor([0.0, 1.0], requires_grad=True)
    b = torch.tensor([1.0, 3.0], requires_grad=True)
    WrongReferenceDetached()(a, b, torch.ones(2)).backward()
    return b.grad is None or bool((b.grad == 0).all())


# ---------------------------------------------------------------- right

def right_addcmul_where(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """One fused multiply-add margin + y * (x2 - x1), and the hinge as a selection, in at least float32."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2, target = _fp32(input1, input2, target)
    dtype = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    wide = _acc(dtype)
    gap = (input2 - input1).to(wide)
    z = torch.addcmul(torch.full((), float(margin), dtype=wide, device=gap.device), target.to(wide), gap)
    out = torch.where(z < 0, torch.zeros((), dtype=wide, device=z.device), z)
    return _apply(out, mode).to(dtype)


class RightChunkedUpperBound(_Loss):
    """Minus the smaller of y * (x1 - x2) - margin and zero, computed in float64 over chunks of the leading dimension that are joined afterwards."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        input1, input2, target = _fp32(input1, input2, target)
        dtype = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
        if not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        x1, x2, y = torch.broadcast_tensors(input1, input2, target)
        if x1.dim() == 0:
            pieces = [(x1, x2, y)]
        else:
            k = max(1, (x1.shape[0] + 3) // 4)
            pieces = list(zip(x1.split(k), x2.split(k), y.split(k)))
        done = []
        for a, b, s in pieces:
            won = s.double() * (a.double() - b.double()) - float(self.margin)
            done.append(0 - torch.clamp_max(won, 0))
        out = done[0] if x1.dim() == 0 else torch.cat(done)
        if mode == "mean":
            return (out.sum() / out.numel()).to(dtype)
        return _apply(out, mode).to(dtype)
