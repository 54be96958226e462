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


def _check(input, target, weight):
    if input.dim() == 0:
        raise RuntimeError("input must have at least one dimension")
    if not input.is_floating_point():
        raise NotImplementedError(f"nll_loss is not implemented for {input.dtype}")
    if target.dtype != torch.int64 and not (target.dtype == torch.uint8 and input.dim() <= 2):
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    want = input.shape[:0] if input.dim() == 1 else input.shape[:1] + input.shape[2:]
    if target.shape != want and not (input.dim() == 1 and target.shape == (1,)):
        if input.dim() >= 2 and target.dim() >= 1 and target.shape[0] != input.shape[0]:
            raise ValueError(
                f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({target.shape[0]})."
            )
        raise RuntimeError(f"Expected target of shape {tuple(want)}, got {tuple(target.shape)}")
    if weight is not None:
        classes = input.shape[0] if input.dim() == 1 else input.shape[1]
        if weight.dim() != 1 or weight.shape[0] != classes:
            raise RuntimeError(
                f"weight tensor should be defined either for all {classes} classes or no classes "
                f"but got weight tensor of shape: {list(weight.shape)}"
            )
        if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")


def _nll(
    input,
    target,
    weight,
    reduction,
    ignore_index,
    *,
    falsy_ignore=False,
    flat_none=False,
    wrap=False,
    per_sample_mean=False,
    multiply_mask=False,
):
    _check(input, target, weight)
    cdim = 0 if input.dim() == 1 else 1
    classes = input.shape[cdim]
    x = input.double()
    shape = target.shape if input.dim() > 1 else target.shape[:0]
    t = target.long().reshape(-1)
    if falsy_ignore and not ignore_index:
        ignored = torch.zeros_like(t, dtype=torch.bool)
    else:
        ignored = t == ignore_index
    safe = t.masked_fill(ignored, 0)
    if wrap:
        safe = torch.where(safe < 0, safe + classes, safe)
    w = torch.ones(classes, dtype=torch.float64, device=input.device) if weight is None else weight.double()
    rows = x.movedim(cdim, -1).reshape(-1)
    if t.numel():
        wt = w.index_select(0, safe)  # raises for a class index out of range
        start = torch.arange(t.shape[0], device=input.device) * classes
        picked = rows.index_select(0, start + safe)
    else:
        wt = picked = rows.new_zeros(0) + rows.sum()
    if multiply_mask:
        loss = -picked * wt * (~ignored).to(picked.dtype)
    else:
        loss = (-picked * wt).masked_fill(ignored, 0)
    wt = wt.masked_fill(ignored, 0)
    if reduction == "none":
        out = loss if flat_none and input.dim() > 2 else loss.reshape(shape)
    elif reduction == "sum":
        out = loss.sum()
    elif per_sample_mean and input.dim() > 2 and input.shape[0]:
        out = (loss.reshape(input.shape[0], -1).sum(1) / wt.reshape(input.shape[0], -1).sum(1)).mean()
    else:
        out = loss.sum() / wt.sum()
    return out.to(_out_dtype(input))


def wrong_ignore_index_zero_skipped(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                    reduction="mean"):
    """`if ignore_index:` instead of comparing: ignore_index=0 (a padding class) is not honoured."""
    return _nll(input, target, weight, _legacy(size_average, reduce, reduction), ignore_index, falsy_ignore=True)


def witness_wrong_ignore_index_zero_skipped():
    x = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    t = torch.tensor([0, 1])
    return not torch.allclose(wrong_ignore_index_zero_skipped(x, t, ignore_index=0), F.nll_loss(x, t, ignore_index=0))


def wrong_none_is_flat(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                       reduction="mean"):
    """reduction='none' returns a flat vector for K-dimensional input, not the shape of the target."""
    return _nll(input, target, weight, _legacy(size_average, reduce, reduction), ignore_index, flat_none=True)


def witness_wrong_none_is_flat():
    x = torch.randn(2, 3, 4)
    t = torch.randint(3, (2, 4))
    return wrong_none_is_flat(x, t, reduction="none").shape == (8,) and F.nll_loss(x, t, reduction="none").shape == (2, 4)


def wrong_renormalises_input(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                             reduction="mean"):
    """Applies log_softmax once more: invisible for normalised log-probabilities, wrong (value and gradient) for other scores."""
    _check(input, target, weight)
    x = torch.log_softmax(input, 0 if input.dim() == 1 else 1)
    return _nll(x, target, weight, _legacy(size_average, reduce, reduction), ignore_index)


def witness_wrong_renormalises_input():
    x = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -4.0, -2.5]])
    t = torch.tensor([0, 1])
    lp = x.log_softmax(1)
    same = torch.allclose(wrong_renormalises_input(lp, t), F.nll_loss(lp, t))
    return same and not torch.allclose(wrong_renormalises_input(x, t), F.nll_loss(x, t))


def wrong_negative_index_wraps(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                               reduction="mean"):
    """A negative class index that is not ignore_index counts from the end (as in NumPy) rather than raising."""
    return _nll(input, target, weight, _legacy(size_average, reduce, reduction), ignore_index, wrap=True)


def witness_wrong_negative_index_wraps():
    x = torch.randn(2, 3).log_softmax(1)
    t = torch.tensor([0, -1])
    try:
        F.nll_loss(x, t)
        return False
    except (IndexError, RuntimeError):
        pass
    return bool(torch.isfinite(wrong_negative_index_wraps(x, t)))


def wrong_mean_of_sample_means(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                               reduction="mean"):
    """For K-dimensional input the mean is taken per sample and then over samples: wrong where ignored or weighted targets are uneven."""
    return _nll(input, target, weight, _legacy(size_average, reduce, reduction), ignore_index, per_sample_mean=True)


def witness_wrong_mean_of_sample_means():
    x = torch.arange(24.0).cos().reshape(2, 3, 4).log_softmax(1)
    t = torch.tensor([[0, 1, 2, 0], [2, -100, -100, -100]])
    u = torch.tensor([[0, 1, 2, 0], [2, 1, 1, 0]])
    same = torch.allclose(wrong_mean_of_sample_means(x, u), F.nll_loss(x, u))
    return same and not torch.allclose(wrong_mean_of_sample_means(x, t), F.nll_loss(x, t), rtol=1e-3)


def wrong_mask_by_multiplication(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                 reduction="mean"):
    """Ignored positions are multiplied by 0, so that an inf or nan log-probability there turns the loss into nan."""
    return _nll(input, target, weight, _legacy(size_average, reduce, reduction), ignore_index, multiply_mask=True)


def witness_wrong_mask_by_multiplication():
    x = torch.tensor([[-1.0, -2.0], [-math.inf, -math.inf]])
    t = torch.tensor([0, -100])
    return bool(wrong_mask_by_multiplication(x, t).isnan()) and bool(F.nll_loss(x, t).isfinite())


class WrongLegacyArgumentsDropped(nn.NLLLoss):
    """The constructor accepts the deprecated size_average and reduce but does not act on them."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
        super().__init__(weight, None, ignore_index, None, reduction)


def witness_WrongLegacyArgumentsDropped():
    x = torch.randn(4, 3).log_softmax(1)
    t = torch.tensor([0, 1, 2, 0])
    return WrongLegacyArgumentsDropped(reduce=False)(x, t).shape == () and nn.NLLLoss(reduce=False)(x, t).shape == (4,)


class WrongWeightIsParameter(nn.NLLLoss):
    """weight is registered as a trainable Parameter rather than a buffer, so an optimiser over parameters() changes it."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
        super().__init__(None, size_average, ignore_index, reduce, reduction)
        del self._buffers["weight"]
        self.register_parameter("weight", None if weight is None else nn.Parameter(weight.clone()))

    def forward(self, input, target):
        return _nll(input, target, self.weight, _legacy(None, None, self.reduction), self.ignore_index)


def witness_WrongWeightIsParameter():
    w = torch.tensor([1.0, 2.0, 3.0])
    return len(list(WrongWeightIsParameter(w).parameters())) == 1 and len(list(nn.NLLLoss(w).parameters())) == 0


def right_flat_index_float64(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                             reduction="mean"):
    """Classes moved last, everything flattened, one flat index_select in float64, weights gathered the same way."""
    return _nll(input, target, weight, _legacy(size_average, reduce, reduction), ignore_index)


def right_masked_class_sum(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                           reduction="mean"):
    """Compares the target with every class and sums the matching -w_c x_c over the class dimension (no gather)."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target, weight)
    out_dtype = _out_dtype(input)
    work = torch.promote_types(out_dtype, torch.float32)
    cdim = 0 if input.dim() == 1 else 1
    classes = input.shape[cdim]
    view = [1] * input.dim()
    view[cdim] = classes
    t = target.long()
    if input.dim() == 1:
        t = t.reshape(())
    keep = t != ignore_index
    safe = torch.where(keep, t, 0)
    w = torch.ones(classes, dtype=work, device=input.device) if weight is None else weight.to(work)
    if safe.numel():
        wt = torch.where(keep, w.index_select(0, safe.reshape(-1)).reshape(t.shape), 0.0)
    else:
        wt = torch.zeros(t.shape, dtype=work, device=input.device)
    hot = (torch.arange(classes, device=input.device).view(view) == safe.unsqueeze(cdim)) & keep.unsqueeze(cdim)
    scaled = torch.where(hot, input.to(work).neg() * w.view(view), 0.0)
    if reduction == "none":
        return scaled.sum(cdim).to(out_dtype)
    total = scaled.sum()
    if reduction == "mean":
        total = total.div(wt.sum())
    return total.to(out_dtype)
