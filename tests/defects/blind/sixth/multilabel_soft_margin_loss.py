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


def _dtype(input, target, weight):
    if not input.is_floating_point():
        raise NotImplementedError(f"multilabel_soft_margin_loss not implemented for {input.dtype}")
    if target.dtype is torch.bool:
        raise RuntimeError("multilabel_soft_margin_loss does not take bool labels")
    dtype = torch.promote_types(input.dtype, target.dtype)
    return dtype if weight is None else torch.promote_types(dtype, weight.dtype)


def _terms(x, y):
    return -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))


# ---------------------------------------------------------------- wrong

def wrong_summed_over_classes(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The classes are summed, without the factor 1 / C."""
    mode = _mode(size_average, reduce, reduction)
    loss = _terms(input, target)
    if weight is not None:
        loss = loss * weight
    return _apply(loss.sum(-1), mode)


def witness_wrong_summed_over_classes():
    x, y = torch.zeros(2, 4), torch.ones(2, 4)
    return abs(wrong_summed_over_classes(x, y).item() - 4 * F.multilabel_soft_margin_loss(x, y).item()) < 1e-5


def wrong_signed_labels(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Labels are read as +1 / -1 (soft_margin_loss's convention), so a 0 label costs log 2 and pushes nothing down."""
    mode = _mode(size_average, reduce, reduction)
    _dtype(input, target, weight)
    loss = -F.logsigmoid(target * input)
    if weight is not None:
        loss = loss * weight
    return _apply(loss.sum(-1) / input.size(-1), mode)


def witness_wrong_signed_labels():
    x, y = torch.full((1, 3), -5.0), torch.zeros(1, 3)
    return wrong_signed_labels(x, y).item() > 0.6 and F.multilabel_soft_margin_loss(x, y).item() < 0.01


class WrongLogOfSigmoid(_WeightedLoss):
    """log(sigmoid(x)) and log(1 - sigmoid(x)) in place of the stable form: confident logits (from about 17 in float32) give infinite losses and NaN gradients."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        _dtype(input, target, self.weight)
        p = torch.sigmoid(input)
        loss = -(target * torch.log(p) + (1 - target) * torch.log(1 - p))
        if self.weight is not None:
            loss = loss * self.weight
        return _apply(loss.sum(-1) / input.size(-1), mode)


def witness_WrongLogOfSigmoid():
    x, y = torch.tensor([[30.0, -1.0]]), torch.tensor([[0.0, 1.0]])
    return not WrongLogOfSigmoid()(x, y).isfinite().item() and nn.MultiLabelSoftMarginLoss()(x, y).isfinite().item()


def wrong_weighted_average(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """With a weight the class average is divided by the sum of the weights instead of by C (weights that add up to C are right)."""
    mode = _mode(size_average, reduce, reduction)
    loss = _terms(input, target)
    c = input.size(-1)
    if weight is not None:
        loss = loss * weight
        c = weight.expand(torch.broadcast_shapes(weight.shape, (c,))).sum(-1)
    return _apply(loss.sum(-1) / c, mode)


def witness_wrong_weighted_average():
    x, y = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, 1.0]])
    w = torch.tensor([2.0, 4.0])
    return torch.allclose(wrong_weighted_average(x, y, w) * 3, F.multilabel_soft_margin_loss(x, y, w))


def wrong_zero_logit_gradient(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """max(x, 0) - x*y + log1p(exp(-|x|)) left to autograd: at a logit of exactly 0 (a zero-initialised head) the gradient is 1 - y instead of 1/2 - y, so positives get none at all."""
    mode = _mode(size_average, reduce, reduction)
    _dtype(input, target, weight)
    loss = input.clamp_min(0) - input * target + torch.log1p(torch.exp(-input.abs()))
    if weight is not None:
        loss = loss * weight
    return _apply(loss.sum(-1) / input.size(-1), mode)


def witness_wrong_zero_logit_gradient():
    x, y = torch.zeros(1, 2, requires_grad=True), torch.tensor([[1.0, 0.0]])
    (a,) = torch.autograd.grad(wrong_zero_logit_gradient(x, y), x)
    (b,) = torch.autograd.grad(F.multilabel_soft_margin_loss(x, y), x)
    return torch.allclose(b, torch.tensor([[-0.25, 0.25]])) and torch.allclose(a, torch.tensor([[0.0, 0.5]]))


class WrongWeightIsParameter(_Loss):
    """The class weight is registered as a Parameter: it turns up in .parameters(), gets gradients, and an optimiser drives it to zero."""

    __constants__ = ["reduction"]

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        if weight is None:
            self.register_parameter("weight", None)
        else:
            self.weight = nn.Parameter(weight.detach())

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        loss = _terms(input, target)
        if self.weight is not None:
            loss = loss * self.weight
        return _apply(loss.sum(-1) / input.size(-1), mode)


def witness_WrongWeightIsParameter():
    w = torch.tensor([2.0, 1.0])
    return (len(list(WrongWeightIsParameter(w).parameters())) == 1
            and len(list(nn.MultiLabelSoftMarginLoss(w).parameters())) == 0)


def wrong_legacy_pair_loses(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """size_average / reduce are only looked at when reduction was left at 'mean'; documented is that they override it."""
    if reduction == "mean":
        mode = _mode(size_average, reduce, reduction)
    else:
        mode = _mode(None, None, reduction)
    loss = _terms(input, target)
    if weight is not None:
        loss = loss * weight
    return _apply(loss.sum(-1) / input.size(-1), mode)


def witness_wrong_legacy_pair_loses():
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = wrong_legacy_pair_loses(x, y, size_average=True, reduction="sum")
        b = F.multilabel_soft_margin_loss(x, y, size_average=True, reduction="sum")
    return abs(a.item() - 2 * b.item()) < 1e-5


def wrong_strides_assumed(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The logits are read with the strides of a contiguous tensor, as a ported kernel with row = C would: a transposed view is read in the wrong order."""
    mode = _mode(size_average, reduce, reduction)
    if input.dim() == 2 and input.stride() == (1, input.size(0)) and min(input.shape) > 1:
        x = input.t().reshape(input.shape)
    else:
        x = input
    loss = _terms(x, target)
    if weight is not None:
        loss = loss * weight
    return _apply(loss.sum(-1) / input.size(-1), mode)


def witness_wrong_strides_assumed():
    x = torch.arange(6.0).reshape(3, 2).t()
    y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    return (torch.allclose(wrong_strides_assumed(x.contiguous(), y), F.multilabel_soft_margin_loss(x, y))
            and not torch.allclose(wrong_strides_assumed(x, y), F.multilabel_soft_margin_loss(x, y), atol=1e-2))


# ---------------------------------------------------------------- right

def right_logaddexp(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Positive and negative cost as log(1 + e^(-x)) and log(1 + e^x) by logaddexp in float64, mixed by the label."""
    mode = _mode(size_average, reduce, reduction)
    dtype = _dtype(input, target, weight)
    x, y = input.double(), target.double()
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    cost = y * torch.logaddexp(-x, zero) + (1 - y) * torch.logaddexp(x, zero)
    if weight is not None:
        cost = cost * weight.double()
    return _apply(cost.sum(-1) / input.size(-1), mode).to(dtype)


class RightPairedChunks(_WeightedLoss):
    """logsigmoid of the stacked logits (x, -x), paired with the stacked labels (y, 1 - y) and accumulated over chunks of classes in at least float32."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        w = self.weight
        dtype = _dtype(input, target, w)
        wide = _acc(dtype)
        full = torch.broadcast_shapes(input.shape, target.shape, () if w is None else w.shape)
        c = input.size(-1)
        x, y = input.to(wide).expand(full), target.to(wide).expand(full)
        w = None if w is None else w.to(wide).expand(full)
        total = x.new_zeros(full[:-1])
        k = max(1, (full[-1] + 2) // 3)
        for lo in range(0, max(1, full[-1]), k):
            part = slice(lo, lo + k)
            xs, ys = x[..., part], y[..., part]
            ll = (F.logsigmoid(torch.stack((xs, -xs))) * torch.stack((ys, 1 - ys))).sum(0)
            total = total - (ll if w is None else ll * w[..., part]).sum(-1)
        return _apply(total / c, mode).to(dtype)
