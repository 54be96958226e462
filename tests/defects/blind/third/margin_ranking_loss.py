import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _check_dims(input1, input2, target):
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError(
            f"margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )


def _relu(v):
    """max(v, 0); NaN stays NaN, slope 1 at 0 as for clamp."""
    return torch.where(v < 0, torch.zeros_like(v), v)


def _pointwise(a, b, y, margin):
    return _relu(-y * (a - b) + margin)


def _setup(input1, input2, target, size_average, reduce, reduction):
    mode = _mode(reduction, size_average, reduce)
    _check_dims(input1, input2, target)
    a, b, y = _autocast(input1, input2, target)
    return a, b, y, mode


# --------------------------------------------------------------------- wrong


def wrong_accepts_other_dims(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """The check that the three tensors have the same number of dimensions is missing: a target of shape
    (N, 1) with inputs of shape (N) is broadcast to an N x N table of losses."""
    mode = _mode(reduction, size_average, reduce)
    a, b, y = _autocast(input1, input2, target)
    return _reduce(_pointwise(a, b, y, margin), mode)


def witness_wrong_accepts_other_dims():
    a, b, y = torch.rand(3), torch.rand(3), torch.ones(3, 1)
    try:
        F.margin_ranking_loss(a, b, y)
        return False
    except RuntimeError:
        return wrong_accepts_other_dims(a, b, y, reduction="none").shape == (3, 3)


def wrong_negative_margin_dropped(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """A negative margin (a tolerated amount of misranking) is raised to 0."""
    a, b, y, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    return _reduce(_pointwise(a, b, y, max(margin, 0.0)), mode)


def witness_wrong_negative_margin_dropped():
    a, b, y = torch.tensor([1.0]), torch.tensor([1.5]), torch.ones(1)
    return wrong_negative_margin_dropped(a, b, y, margin=-1.0).item() == 0.5 and F.margin_ranking_loss(a, b, y, margin=-1.0).item() == 0


def wrong_margin_absorbed(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Evaluated as (margin - y*x1) + y*x2: for large scores the margin is rounded away before the
    scores are subtracted from each other."""
    a, b, y, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    return _reduce(_relu((margin - y * a) + y * b), mode)


def witness_wrong_margin_absorbed():
    a = torch.full((3,), 1e8)
    return wrong_margin_absorbed(a, a, torch.ones(3), margin=0.5).item() == 0 and F.margin_ranking_loss(a, a, torch.ones(3), margin=0.5).item() == 0.5


def wrong_scalar_pair_detached(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """0-dimensional scores take a shortcut in Python numbers (.item()), so that the loss of a single
    pair carries no gradient."""
    a, b, y, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    if a.dim() == 0 and _plain(a) and _plain(b) and _plain(y):
        like = _pointwise(a, b, y, margin)
        v = float(_pointwise(a.double(), b.double(), y.double(), margin))
        return torch.tensor(v, dtype=like.dtype, device=like.device)
    return _reduce(_pointwise(a, b, y, margin), mode)


def witness_wrong_scalar_pair_detached():
    a = torch.tensor(0.0, requires_grad=True)
    loss = wrong_scalar_pair_detached(a, torch.tensor(1.0), torch.tensor(1.0))
    return loss.item() == 1.0 and not loss.requires_grad


class WrongMarginRankingLossKeepsZero(nn.Module):
    """The zero tensor of max(0, .) is made at the first call and kept; if that call happens under
    torch.inference_mode (a sanity validation), later training calls fail in autograd."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _R.legacy_get_string(size_average, reduce)
        self.margin = margin
        self.reduction = reduction
        self._zero = {}

    def forward(self, input1, input2, target):
        a, b, y, mode = _setup(input1, input2, target, None, None, self.reduction)
        v = -y * (a - b) + self.margin
        if not _plain(v):
            return _reduce(_relu(v), mode)
        key = (v.dtype, v.device)
        if key not in self._zero:
            self._zero[key] = torch.zeros((), dtype=v.dtype, device=v.device)
        return _reduce(torch.clamp(v, min=self._zero[key]), mode)

    def __getstate__(self):
        return {**self.__dict__, "_zero": {}}


def witness_WrongMarginRankingLossKeepsZero():
    a, b, y = torch.rand(3, requires_grad=True), torch.rand(3), torch.ones(3)
    fresh = WrongMarginRankingLossKeepsZero(margin=0.1)
    fresh(a, b, y).backward()
    m = WrongMarginRankingLossKeepsZero(margin=0.1)
    with torch.inference_mode():
        m(torch.rand(3), torch.rand(3), torch.ones(3))
    try:
        m(a, b, y).backward()
        return False
    except RuntimeError:
        return True


def wrong_mean_over_padding(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Above 256 pairs the losses are processed in blocks of 256 with the last one padded by zeros, and
    the mean is taken over the padded length."""
    a, b, y, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    loss = _pointwise(a, b, y, margin)
    n = loss.numel()
    if mode == "mean" and n > 256:
        padded = F.pad(loss.reshape(-1), (0, -n % 256))
        return padded.reshape(-1, 256).mean(1).mean() if loss.dtype not in _LOW else padded.float().mean().to(loss.dtype)
    return _reduce(loss, mode)


def witness_wrong_mean_over_padding():
    a, b, y = torch.zeros(300), torch.ones(300), torch.ones(300)
    return abs(wrong_mean_over_padding(a, b, y).item() - 1.0) > 0.1


# --------------------------------------------------------------------- right


def right_swapped_difference(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """max(0, y*(x2 - x1) + margin) by selection, 16-bit scores widened and rounded once at the end."""
    a, b, y, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    dt = _common(a, b, y)
    if dt in _LOW:
        a, b, y = a.float(), b.float(), y.float()
    v = y * (b - a) + margin
    loss = _reduce(torch.where(v < 0, v.new_zeros(()), v), mode)
    return loss.to(dt) if dt in _LOW else loss


class _Ranking(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, y, margin):
        return (margin - y * (a - b)).clamp(min=0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, y, ctx.margin = inputs
        ctx.save_for_backward(a, b, y)
        ctx.save_for_forward(a, b, y)

    @staticmethod
    def backward(ctx, g):
        a, b, y = ctx.saved_tensors
        live = ctx.margin - y * (a - b) >= 0
        g = torch.where(live, g, torch.zeros_like(g))
        return -(g * y), g * y, -(g * (a - b)), None

    @staticmethod
    def jvp(ctx, ta, tb, ty, _):
        a, b, y = ctx.saved_tensors
        live = ctx.margin - y * (a - b) >= 0
        t = torch.zeros_like(a)
        if ta is not None:
            t = t - y * ta
        if tb is not None:
            t = t + y * tb
        if ty is not None:
            t = t - (a - b) * ty
        return torch.where(live, t, torch.zeros_like(t))


def right_custom_function(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Own autograd function, differentiable also in target, sums over pieces of 1000 pairs."""
    a, b, y, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    dt = _common(a, b, y)
    if not dt.is_floating_point:
        return _reduce(_pointwise(a, b, y, margin), mode)
    w = _wide(dt)
    a, b, y = torch.broadcast_tensors(a.to(w), b.to(w), y.to(w))
    loss = _Ranking.apply(a, b, y, margin)
    if mode == "none" or loss.numel() == 0:
        return _reduce(loss, mode).to(dt)
    total = torch.stack([s.sum() for s in loss.reshape(-1).split(1000)]).sum()
    return (total / loss.numel() if mode == "mean" else total).to(dt)
