import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        warnings.warn("size_average and reduce args will be deprecated, please use reduction", stacklevel=3)
        size_average = True if size_average is None else size_average
        reduce = True if reduce is None else reduce
        reduction = ("mean" if size_average else "sum") if reduce else "none"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _out_dtype(t):
    if torch.is_autocast_enabled(t.device.type) and t.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return t.dtype


def _check(input, target, weight, ignore_index, label_smoothing):
    """Returns True where the target contains class probabilities."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if target.shape == input.shape:
        if not target.is_floating_point():
            raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        soft = True
    else:
        if input.dim() == 0:
            raise RuntimeError("input must have at least one dimension")
        if target.dtype not in (torch.int64, torch.uint8):
            raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
        want = input.shape[:0] if input.dim() == 1 else input.shape[:1] + input.shape[2:]
        if target.shape != want:
            if input.dim() >= 2 and target.dim() >= 1 and target.shape[0] != input.shape[0]:
                raise ValueError(
                    f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({target.shape[0]})."
                )
            raise RuntimeError(f"Expected target of shape {tuple(want)}, got {tuple(target.shape)}")
        if weight is not None and weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
        soft = False
    if weight is not None:
        classes = input.shape[0] if input.dim() == 1 else input.shape[1]
        if weight.dim() != 1 or weight.shape[0] != classes:
            raise RuntimeError(
                f"weight tensor should be defined either for all {classes} classes or no classes "
                f"but got weight tensor of shape: {list(weight.shape)}"
            )
    return soft


def _ce(
    input,
    target,
    weight,
    reduction,
    ignore_index,
    label_smoothing,
    *,
    softmax_last=False,
    shift=True,
    others_only=False,
    smooth_ignored=False,
    count_mean=False,
    soft_weighted_mean=False,
):
    soft = _check(input, target, weight, ignore_index, label_smoothing)
    cdim = 0 if input.dim() == 1 else 1
    classes = input.shape[cdim]
    x = input if not shift else input.double()
    sdim = -1 if softmax_last else cdim
    if shift and x.shape[sdim] > 0:
        x = x - x.detach().amax(sdim, keepdim=True)
    lse = x.exp().sum(sdim, keepdim=True).log()
    logp = x - lse
    view = [1] * input.dim()
    view[cdim] = classes
    wv = None if weight is None else weight.to(logp.dtype).view(view)
    if soft:
        dtype = torch.promote_types(_out_dtype(input), _out_dtype(target))
        if weight is not None:
            dtype = torch.promote_types(dtype, weight.dtype)
        q = target.to(logp.dtype)
        if label_smoothing > 0:
            q = q * (1 - label_smoothing) + label_smoothing / classes
        terms = logp * q
        if wv is not None:
            terms = terms * wv
        loss = -terms.sum(cdim)
        if reduction == "none":
            return loss.to(dtype)
        total = loss.sum()
        if reduction == "mean":
            n = input.numel() // classes if classes else 0
            den = torch.full((), float(n), dtype=logp.dtype, device=input.device)
            if soft_weighted_mean and wv is not None:
                den = (q * wv).sum()
            total = total / den
        return total.to(dtype)

    tgt = target.long()
    ignored = tgt == ignore_index
    safe = tgt.masked_fill(ignored, 0)
    # index_select checks the range of the class indices too (no wrapping of negative ones)
    w = torch.ones(classes, dtype=logp.dtype, device=input.device) if weight is None else weight.to(logp.dtype)
    wt = w.index_select(0, safe.reshape(-1)).reshape(safe.shape) if safe.numel() else w.new_zeros(safe.shape)
    keep = ~ignored
    picked = -(logp.gather(cdim, safe.unsqueeze(cdim)).squeeze(cdim)) if safe.numel() else logp.sum(cdim)
    nll = (picked * wt).masked_fill(ignored, 0)
    if label_smoothing > 0:
        smooth = -(logp if wv is None else logp * wv).sum(cdim)
        if others_only:
            smooth = (smooth - picked * wt) / max(classes - 1, 1)
        else:
            smooth = smooth / classes
        if not smooth_ignored:
            smooth = smooth.masked_fill(ignored, 0)
        loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    else:
        loss = nll
    if reduction == "none":
        return loss.to(_out_dtype(input))
    total = loss.sum()
    if reduction == "mean":
        den = keep.sum() if count_mean else wt.masked_fill(ignored, 0).sum()
        total = total / den
    return total.to(_out_dtype(input))


def wrong_smoothing_over_other_classes(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                       reduction="mean", label_smoothing=0.0):
    """Label smoothing of class indices spreads the mass over the C - 1 other classes rather than over all C."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target, weight, r, ignore_index, label_smoothing, others_only=True)


def witness_wrong_smoothing_over_other_classes():
    x = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
    t = torch.tensor([0, 2])
    a = wrong_smoothing_over_other_classes(x, t, label_smoothing=0.3)
    return not torch.allclose(a, F.cross_entropy(x, t, label_smoothing=0.3), rtol=1e-3)


def wrong_softmax_over_last_dim(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                reduction="mean", label_smoothing=0.0):
    """The softmax runs over the last dimension, not over the class dimension 1, which shows for K-dimensional input."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target, weight, r, ignore_index, label_smoothing, softmax_last=True)


def witness_wrong_softmax_over_last_dim():
    x = torch.arange(24.0).sin().reshape(2, 3, 4)
    t = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    return not torch.allclose(wrong_softmax_over_last_dim(x, t), F.cross_entropy(x, t), rtol=1e-3)


def wrong_weighted_mean_by_count(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                 reduction="mean", label_smoothing=0.0):
    """The mean over class indices divides by the number of targets kept, not by the sum of their class weights."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target, weight, r, ignore_index, label_smoothing, count_mean=True)


def witness_wrong_weighted_mean_by_count():
    x = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
    t = torch.tensor([0, 2])
    w = torch.tensor([1.0, 2.0, 5.0])
    return not torch.allclose(wrong_weighted_mean_by_count(x, t, w), F.cross_entropy(x, t, w), rtol=1e-3)


def wrong_no_max_shift(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                       reduction="mean", label_smoothing=0.0):
    """log(sum(exp(x))) without subtracting the maximum: large logits overflow to inf (float32 above about 88)."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target, weight, r, ignore_index, label_smoothing, shift=False)


def witness_wrong_no_max_shift():
    x = torch.tensor([[120.0, 100.0, 90.0]])
    t = torch.tensor([1])
    return not torch.allclose(wrong_no_max_shift(x, t), F.cross_entropy(x, t))


def wrong_ignored_still_smoothed(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                 reduction="mean", label_smoothing=0.0):
    """With label_smoothing > 0 the ignored positions still contribute their uniform part to loss and gradient."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target, weight, r, ignore_index, label_smoothing, smooth_ignored=True)


def witness_wrong_ignored_still_smoothed():
    x = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], requires_grad=True)
    t = torch.tensor([0, -100])
    a = wrong_ignored_still_smoothed(x, t, label_smoothing=0.2)
    (g,) = torch.autograd.grad(a, x)
    return (not torch.allclose(a, F.cross_entropy(x, t, label_smoothing=0.2))) and bool(g[1].abs().sum() > 0)


def wrong_soft_target_constant(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                               reduction="mean", label_smoothing=0.0):
    """Class probabilities are treated as constants: no gradient reaches a target that requires one."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target.detach(), weight, r, ignore_index, label_smoothing)


def witness_wrong_soft_target_constant():
    x = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], requires_grad=True)
    z = torch.tensor([[0.3, 0.1, -1.0], [0.7, 0.5, 0.0]], requires_grad=True)
    (want,) = torch.autograd.grad(F.cross_entropy(x, z.softmax(1)), z)
    (got,) = torch.autograd.grad(wrong_soft_target_constant(x, z.softmax(1)), z, allow_unused=True)
    return bool(want.abs().sum() > 0) and got is None


class WrongWeightPlainAttribute(nn.CrossEntropyLoss):
    """weight is kept as a plain attribute, not as a buffer: it is missing from state_dict and .to()/.double() leave it behind."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean",
                 label_smoothing=0.0):
        super().__init__(None, size_average, ignore_index, reduce, reduction, label_smoothing)
        del self._buffers["weight"]
        object.__setattr__(self, "weight", weight)


def witness_WrongWeightPlainAttribute():
    w = torch.tensor([1.0, 2.0, 3.0])
    m = WrongWeightPlainAttribute(w).double()
    r = nn.CrossEntropyLoss(w).double()
    return "weight" in r.state_dict() and "weight" not in m.state_dict() and m.weight.dtype == torch.float32


class WrongSmoothingOnlyInTraining(nn.CrossEntropyLoss):
    """label_smoothing is dropped when the module is in eval mode."""

    def forward(self, input, target):
        return F.cross_entropy(input, target, weight=self.weight, ignore_index=self.ignore_index,
                               reduction=self.reduction,
                               label_smoothing=self.label_smoothing if self.training else 0.0)


def witness_WrongSmoothingOnlyInTraining():
    x = torch.tensor([[1.0, 2.0, -1.0]])
    t = torch.tensor([0])
    m = WrongSmoothingOnlyInTraining(label_smoothing=0.4)
    want = nn.CrossEntropyLoss(label_smoothing=0.4).eval()(x, t)
    return torch.allclose(m(x, t), want) and not torch.allclose(m.eval()(x, t), want)


def right_float64_shifted(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                          reduction="mean", label_smoothing=0.0):
    """Max-shifted exp / sum / log in float64, pieces picked with gather and index_select, cast back at the end."""
    r = _legacy(size_average, reduce, reduction)
    return _ce(input, target, weight, r, ignore_index, label_smoothing)


class RightRowsAndDistributions(nn.CrossEntropyLoss):
    """Everything becomes rows (M, C) with a target distribution per row; the loss is sum_c q_c w_c (lse - x_c) by einsum."""

    def forward(self, input, target):
        reduction = _legacy(None, None, self.reduction)
        weight, ls = self.weight, self.label_smoothing
        soft = _check(input, target, weight, self.ignore_index, ls)
        dtype = _out_dtype(input)
        if soft:
            dtype = torch.promote_types(dtype, _out_dtype(target))
            if weight is not None:
                dtype = torch.promote_types(dtype, weight.dtype)
        # all of the arithmetic in at least float32, and out of autocast's reach
        with torch.autocast(input.device.type, enabled=False):
            work = torch.promote_types(dtype, torch.float32)
            x = input.to(work)
            one = x.dim() == 1
            if one:
                x = x.unsqueeze(0)
            x = x.movedim(1, -1)
            lead, classes = x.shape[:-1], x.shape[-1]
            rows = x.reshape(math.prod(lead), classes)
            top = rows.detach().amax(1, keepdim=True) if classes else rows.new_zeros(rows.shape[0], 1)
            gap = (rows - top).exp().sum(1, keepdim=True).log() - (rows - top)  # = -log softmax
            w = rows.new_ones(classes) if weight is None else weight.to(work)
            if soft:
                t = target.to(work)
                t = t.unsqueeze(0) if one else t
                q = t.movedim(1, -1).reshape(rows.shape)
                if ls > 0:
                    q = q.lerp(torch.full_like(q, 1.0 / max(classes, 1)), ls)
                loss = torch.einsum("mc,mc,c->m", gap, q, w)
                den = torch.full((), float(rows.shape[0]), dtype=work, device=rows.device)
            else:
                t = target.long().reshape(-1)
                keep = t != self.ignore_index
                safe = torch.where(keep, t, torch.zeros_like(t))
                if t.shape[0]:
                    den = torch.where(keep, w.index_select(0, safe), 0.0).sum()
                else:
                    den = w.new_zeros(())
                hot = safe.unsqueeze(1) == torch.arange(classes, device=rows.device)
                loss = torch.where(hot, gap * w, torch.zeros_like(gap)).sum(1) * (1 - ls)
                if ls > 0:
                    loss = loss + torch.einsum("mc,c->m", gap, w) * (ls / classes)
                loss = torch.where(keep, loss, torch.zeros_like(loss))
            if reduction == "none":
                out = loss.reshape(() if one else lead)
            elif reduction == "sum":
                out = loss.sum()
            else:
                out = loss.sum() / den
            return out.to(dtype)
