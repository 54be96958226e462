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


def _setup(input, target, size_average, reduce, reduction):
    mode = _mode(reduction, size_average, reduce)
    x, y = _autocast(input, target)
    return x, y, mode


def _pointwise(x, y, margin):
    if x.dtype in _LOW:
        return _pointwise(x.float(), y, margin).to(x.dtype)
    far = margin - x
    zero = torch.zeros_like(far)
    return torch.where(y != -1, x, zero) + torch.where(y != 1, torch.where(far < 0, zero, far), zero)


# --------------------------------------------------------------------- wrong


def wrong_pairs_counted_in_label_dtype(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The mean divides by the number of labelled pairs, target.abs().sum(), which for integer labels is taken
    in the labels' own dtype: with int8 labels it overflows from 128 pairs on."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(x, y, margin)
    if mode == "mean" and loss.is_floating_point() and not y.is_floating_point() and y.shape == loss.shape and y.numel():
        total = loss.sum(dtype=_wide(loss.dtype))
        return (total / y.abs().sum(dtype=y.dtype)).to(loss.dtype)
    return _reduce(loss, mode)


def witness_wrong_pairs_counted_in_label_dtype():
    x, y = torch.ones(200), torch.ones(200, dtype=torch.int8)
    f = wrong_pairs_counted_in_label_dtype
    return f(x[:100], y[:100]).item() == 1.0 and F.hinge_embedding_loss(x, y).item() == 1.0 and f(x, y).item() < 0


def wrong_zero_margin_is_default(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The default is applied by `margin or 1.0`, so that an explicit margin of 0 becomes 1."""
    margin = margin or 1.0
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    return _reduce(_pointwise(x, y, margin), mode)


def witness_wrong_zero_margin_is_default():
    x, y = torch.tensor([0.5]), torch.tensor([-1.0])
    return wrong_zero_margin_is_default(x, y, margin=0.0).item() == 0.5 and F.hinge_embedding_loss(x, y, margin=0.0).item() == 0


def wrong_branches_blended(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The branches are blended arithmetically with the masks as factors: an infinite distance with
    target -1, whose loss is 0, gives 0*inf = NaN."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    wide = x.to(_wide(x.dtype))
    far = margin - wide
    far = torch.where(far < 0, torch.zeros_like(far), far)
    similar, other = (y != -1).to(wide.dtype), (y != 1).to(wide.dtype)
    return _reduce((similar * wide + other * far).to(x.dtype), mode)


def witness_wrong_branches_blended():
    x, y = torch.tensor([float("inf"), 0.5]), torch.tensor([-1.0, -1.0])
    return F.hinge_embedding_loss(x, y).item() == 0.25 and bool(wrong_branches_blended(x, y).isnan())


class WrongHingeEmbeddingLossKeepsLast(nn.Module):
    """The last loss, graph included, is kept as an attribute for logging; after one training step
    copy.deepcopy(criterion) (EMA copies, checkpoints of the whole model) raises an error."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=1.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _R.legacy_get_string(size_average, reduce)
        self.margin = margin
        self.reduction = reduction
        self.last_loss = None

    def forward(self, input, target):
        x, y, mode = _setup(input, target, None, None, self.reduction)
        self.last_loss = _reduce(_pointwise(x, y, self.margin), mode)
        return self.last_loss


def witness_WrongHingeEmbeddingLossKeepsLast():
    import copy

    m = WrongHingeEmbeddingLossKeepsLast()
    copy.deepcopy(m)
    m(torch.rand(3, requires_grad=True), torch.ones(3)).backward()
    try:
        copy.deepcopy(m)
        return False
    except RuntimeError:
        return True


def wrong_sum_from_mean(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """'sum' is computed as mean times count; for an empty batch that is NaN*0 = NaN where the sum is 0."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(x, y, margin)
    if mode == "sum" and loss.is_floating_point():
        wide = loss.to(_wide(loss.dtype))
        return (wide.mean() * loss.numel()).to(loss.dtype)
    return _reduce(loss, mode)


def witness_wrong_sum_from_mean():
    e = torch.zeros(0, 3)
    return bool(wrong_sum_from_mean(e, e, reduction="sum").isnan()) and F.hinge_embedding_loss(e, e, reduction="sum").item() == 0


def wrong_validates_labels_in_python(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The labels are looked at by a Python `if`, to take a shorter path when all pairs are dissimilar, so that the
    loss cannot be mapped by torch.func.vmap over targets, as torch's own can."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    if y.shape == x.shape and bool((y == -1).all()):
        far = margin - x.to(_wide(x.dtype))
        return _reduce(torch.where(far < 0, torch.zeros_like(far), far).to(x.dtype), mode)
    return _reduce(_pointwise(x, y, margin), mode)


def witness_wrong_validates_labels_in_python():
    x, y = torch.rand(2, 3), torch.ones(2, 3)
    torch.func.vmap(F.hinge_embedding_loss)(x, y)
    try:
        torch.func.vmap(wrong_validates_labels_in_python)(x, y)
        return False
    except RuntimeError:
        return True


# --------------------------------------------------------------------- right


def right_nested_where(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """One selection per element, by label and by margin; a label that is neither 1 nor -1 gets both terms."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    dt, x = x.dtype, x.to(_wide(x.dtype))
    far = torch.where(x > margin, torch.zeros_like(x), margin - x)
    loss = torch.where(y == 1, x, torch.where(y == -1, far, x + far))
    return _reduce(loss, mode).to(dt) if dt in _LOW else _reduce(loss, mode)


class _Hinge(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, margin):
        far = (margin - x).clamp(min=0)
        return torch.where(y == 1, x, torch.where(y == -1, far, x + far))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, margin = inputs
        one = torch.ones_like(x)
        slope = torch.where(margin - x >= 0, -one, one - 1)
        slope = torch.where(y == 1, one, torch.where(y == -1, slope, one + slope))
        ctx.save_for_backward(slope)
        ctx.save_for_forward(slope)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None

    @staticmethod
    def jvp(ctx, tx, _y, _m):
        return tx * ctx.saved_tensors[0]


def right_custom_function(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Own autograd function; the loss is piecewise linear, so the kept slope is a true constant."""
    x, y, mode = _setup(input, target, size_average, reduce, reduction)
    if not x.is_floating_point():
        return _reduce(_pointwise(x, y, margin), mode)
    xb, yb = torch.broadcast_tensors(x.to(_wide(x.dtype)), y)
    loss = _Hinge.apply(xb, yb.detach(), margin)
    if mode == "none" or loss.numel() == 0:
        return _reduce(loss, mode).to(x.dtype)
    total = torch.stack([s.sum() for s in loss.reshape(-1).split(4096)]).sum()
    return (total / loss.numel() if mode == "mean" else total).to(x.dtype)
