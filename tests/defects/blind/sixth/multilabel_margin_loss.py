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


def _open(input, target):
    """Checked, as x (N, C) in a dtype wide enough to add in, t (N, C), the output's shape and the dtype to return."""
    (input,) = _fp32(input)
    if input.dim() > 2 or (input.dim() > 0 and input.shape[-1] == 0):
        raise RuntimeError("Expected non-empty vector or matrix with optional 0-dim batch size, "
                           f"but got: {list(input.shape)}")
    if input.dim() == 2:
        ok = target.shape == input.shape
    else:
        ok = target.dim() <= 1 and target.numel() == input.numel()
    if not ok:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    if target.dtype is not torch.long:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"multilabel_margin_loss not implemented for {input.dtype}")
    n = input.shape[0] if input.dim() == 2 else 1
    c = input.shape[-1] if input.dim() > 0 else 1
    x, t = input.reshape(n, c).to(_acc(input.dtype)), target.reshape(n, c)
    return x, t, input.shape[:-1] if input.dim() == 2 else (), input.dtype


def _front(t):
    """Which labels belong to the block before the first -1."""
    return (t == -1).cumsum(1) == 0


def _label_scores(x, t):
    """x[y[j]], with 0 standing in for -1; refuses labels that are out of range, wherever they are."""
    return x.gather(1, torch.where(t == -1, torch.zeros_like(t), t))


def _is_target(t, keep, c):
    """(N, C): which classes are among the kept labels."""
    return ((t[:, :, None] == torch.arange(c, device=t.device)) & keep[:, :, None]).any(1)


def _pairs(x, scores, mask):
    """sum over j, i of relu(1 - scores_j + x_i) where mask (N, j, i)."""
    z = 1 - scores[:, :, None] + x[:, None, :]
    return torch.where((z > 0) & mask, z, torch.zeros_like(z)).sum((1, 2))


def _close(loss, shape, mode, dtype):
    if mode == "mean":
        return loss.mean().to(dtype)
    if mode == "sum":
        return loss.sum().to(dtype)
    return loss.reshape(shape).to(dtype)


# ---------------------------------------------------------------- wrong

def wrong_multi_hot_target(input, target, size_average=None, reduce=None, reduction="mean"):
    """The target is read as a multi-hot row (as the soft variant wants it) instead of a list of class indices."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    _label_scores(x, t)
    hot = t > 0
    return _close(_pairs(x, x, hot[:, :, None] & ~hot[:, None, :]) / x.shape[1], shape, mode, dtype)


def witness_wrong_multi_hot_target():
    x, t = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[1, 3, -1, 0]])
    return not torch.allclose(wrong_multi_hot_target(x, t), F.multilabel_margin_loss(x, t), atol=1e-2)


def wrong_positives_detached(input, target, size_average=None, reduce=None, reduction="mean"):
    """The scores of the target classes are detached: the value is right, but no gradient raises them."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    keep = _front(t)
    mask = keep[:, :, None] & ~_is_target(t, keep, x.shape[1])[:, None, :]
    return _close(_pairs(x, _label_scores(x, t).detach(), mask) / x.shape[1], shape, mode, dtype)


def witness_wrong_positives_detached():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]], requires_grad=True)
    t = torch.tensor([[3, 0, -1, 1]])
    (a,) = torch.autograd.grad(wrong_positives_detached(x, t), x)
    (b,) = torch.autograd.grad(F.multilabel_margin_loss(x, t), x)
    return a[0, 3].item() == 0 and b[0, 3].item() < 0


def wrong_skips_minus_one(input, target, size_average=None, reduce=None, reduction="mean"):
    """-1 entries are skipped instead of ending the list: labels behind the first -1 still count."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    keep = t != -1
    mask = keep[:, :, None] & ~_is_target(t, keep, x.shape[1])[:, None, :]
    return _close(_pairs(x, _label_scores(x, t), mask) / x.shape[1], shape, mode, dtype)


def witness_wrong_skips_minus_one():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    pad, tail = torch.tensor([[3, 0, -1, -1]]), torch.tensor([[3, 0, -1, 1]])
    return (torch.allclose(wrong_skips_minus_one(x, pad), F.multilabel_margin_loss(x, pad))
            and not torch.allclose(wrong_skips_minus_one(x, tail), F.multilabel_margin_loss(x, tail), atol=1e-3))


def wrong_other_labels_as_negatives(input, target, size_average=None, reduce=None, reduction="mean"):
    """For each label only that label itself is left out of the sum: a sample's other labels are pushed down as negatives (one label per sample is right)."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    mask = _front(t)[:, :, None] & (t[:, :, None] != torch.arange(x.shape[1], device=t.device))
    return _close(_pairs(x, _label_scores(x, t), mask) / x.shape[1], shape, mode, dtype)


def witness_wrong_other_labels_as_negatives():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    one, two = torch.tensor([[3, -1, -1, -1]]), torch.tensor([[3, 0, -1, -1]])
    return (torch.allclose(wrong_other_labels_as_negatives(x, one), F.multilabel_margin_loss(x, one))
            and not torch.allclose(wrong_other_labels_as_negatives(x, two), F.multilabel_margin_loss(x, two), atol=1e-2))


def wrong_padding_hits_class_zero(input, target, size_average=None, reduce=None, reduction="mean"):
    """Padding is clamped to 0 before the is-target mask is scattered: class 0 is never a negative in any sample that has padding."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    keep = _front(t)
    scores = _label_scores(x, t)
    hot = torch.zeros_like(t, dtype=torch.bool).scatter(1, torch.where(keep, t, torch.zeros_like(t)), True)
    return _close(_pairs(x, scores, keep[:, :, None] & ~hot[:, None, :]) / x.shape[1], shape, mode, dtype)


def witness_wrong_padding_hits_class_zero():
    x = torch.tensor([[0.9, 0.2, 0.4, 0.8]])
    with0, without0 = torch.tensor([[3, 0, -1, -1]]), torch.tensor([[3, 1, -1, -1]])
    return (torch.allclose(wrong_padding_hits_class_zero(x, with0), F.multilabel_margin_loss(x, with0))
            and not torch.allclose(wrong_padding_hits_class_zero(x, without0),
                                   F.multilabel_margin_loss(x, without0), atol=1e-2))


def wrong_label_range_clamped(input, target, size_average=None, reduce=None, reduction="mean"):
    """Labels outside of -1 .. C - 1 are clamped into range instead of refused: a label of C silently means the last class."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    t = t.clamp(-1, x.shape[1] - 1)
    keep = _front(t)
    mask = keep[:, :, None] & ~_is_target(t, keep, x.shape[1])[:, None, :]
    return _close(_pairs(x, _label_scores(x, t), mask) / x.shape[1], shape, mode, dtype)


def witness_wrong_label_range_clamped():
    x, t = torch.tensor([[0.1, 0.2, 0.4]]), torch.tensor([[3, 0, -1]])
    try:
        F.multilabel_margin_loss(x, t)
        return False
    except RuntimeError:
        pass
    return torch.allclose(wrong_label_range_clamped(x, t), F.multilabel_margin_loss(x, torch.tensor([[2, 0, -1]])))


class WrongUnbatchedNone(_Loss):
    """A single sample (C) is unsqueezed and stays so: reduction='none' returns shape (1,) instead of a scalar."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t, shape, dtype = _open(input, target)
        keep = _front(t)
        mask = keep[:, :, None] & ~_is_target(t, keep, x.shape[1])[:, None, :]
        return _close(_pairs(x, _label_scores(x, t), mask) / x.shape[1], (x.shape[0],), mode, dtype)


def witness_WrongUnbatchedNone():
    x, t = torch.tensor([0.1, 0.2, 0.4, 0.8]), torch.tensor([3, 0, -1, 1])
    return (WrongUnbatchedNone(reduction="none")(x, t).shape == (1,)
            and nn.MultiLabelMarginLoss(reduction="none")(x, t).shape == ())


class WrongTargetBlanked(_Loss):
    """Everything behind the first -1 is blanked in the caller's own target tensor, which a data set held in memory then keeps."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t, shape, dtype = _open(input, target)
        scores = _label_scores(x, t)
        keep = _front(t)
        mask = keep[:, :, None] & ~_is_target(t, keep, x.shape[1])[:, None, :]
        loss = _close(_pairs(x, scores, mask) / x.shape[1], shape, mode, dtype)
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        if torch.compiler.is_compiling() or not (wrapped(x) or wrapped(t)):
            target.masked_fill_(~keep.reshape(target.shape), -1)
        return loss


def witness_WrongTargetBlanked():
    x, t = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    keep = t.clone()
    a, b = WrongTargetBlanked()(x, t.clone()), nn.MultiLabelMarginLoss()(x, keep)
    WrongTargetBlanked()(x, t)
    return torch.allclose(a, b) and not torch.equal(t, keep)


# ---------------------------------------------------------------- right

def right_multiplicity(input, target, size_average=None, reduce=None, reduction="mean"):
    """Class against class in float64: how often each class is a label, times its hinge against the classes that are none, in chunks of rows."""
    mode = _mode(size_average, reduce, reduction)
    x, t, shape, dtype = _open(input, target)
    _label_scores(x, t)
    c = x.shape[1]
    slot = torch.where(_front(t), t, torch.full_like(t, c))
    count = torch.zeros(x.shape[0], c + 1, dtype=torch.float64, device=x.device)
    count = count.scatter_add(1, slot, torch.ones_like(t, dtype=torch.float64))[:, :c]
    done = []
    k = max(1, (x.shape[0] + 2) // 3)
    for xs, n in zip(x.double().split(k), count.split(k)):
        z = (xs[:, None, :] - xs[:, :, None]) + 1
        z = z.masked_fill(~(z > 0), 0).masked_fill((n > 0)[:, None, :], 0).masked_fill((n == 0)[:, :, None], 0)
        done.append((z * n[:, :, None]).sum((1, 2)) / c)
    return _close(torch.cat(done), shape, mode, dtype)


class RightLabelByLabel(_Loss):
    """One pass per label position: the running total adds that label's hinge against the non-label classes, in O(N * C) memory."""

    __constants__ = ["reduction"]

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t, shape, dtype = _open(input, target)
        n, c = x.shape
        scores = _label_scores(x, t)
        live = _front(t)
        padded = torch.zeros(n, c + 1, dtype=torch.bool, device=x.device)
        rest = ~padded.scatter(1, torch.where(live, t, torch.full_like(t, c)), True)[:, :c]
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        total = x.new_zeros(n)
        for j in range(c):
            z = x + (1 - scores[:, j:j + 1])
            on = rest & live[:, j:j + 1] & (z > 0)
            total = total + torch.where(on, z, zero).sum(1)
        return _close(total / c, shape, mode, dtype)
