import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _resolve(size_average, reduce, reduction):
    """Deprecated arguments and the name of the reduction -> 'none', 'mean', 'sum'."""
    if size_average is not None or reduce is not None:
        avg = True if size_average is None else size_average
        red = True if reduce is None else reduce
        reduction = "none" if not red else ("mean" if avg else "sum")
        warnings.warn(
            "size_average and reduce args will be deprecated, "
            f"please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        reduction = "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check_index(shape, dtype, target, weight):
    """Check an index target against scores of this shape; returns (N, C, L, out_shape)."""
    nd = len(shape)
    if nd == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if not dtype.is_floating_point:
        raise NotImplementedError(f"not implemented for {dtype}")
    C = shape[0] if nd == 1 else shape[1]
    if nd == 1:
        if target.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.numel() != 1:
            raise ValueError("Expected a single target for an unbatched input")
        N, L, out_shape = 1, 1, ()
    elif nd == 2:
        if target.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.dim() == 0 or target.shape[0] != shape[0]:
            raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size.")
        N, L, out_shape = shape[0], 1, (shape[0],)
    else:
        want = (shape[0],) + tuple(shape[2:])
        if target.dim() == 0 or target.shape[0] != shape[0]:
            raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size.")
        if tuple(target.shape) != want:
            raise RuntimeError(
                f"size mismatch (got input: {list(shape)}, target: {list(target.shape)})"
            )
        N, L, out_shape = shape[0], 1, want
        for d in shape[2:]:
            L *= d
    if target.dtype != torch.int64 and (target.dtype != torch.uint8 or nd > 2):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if weight is not None:
        if tuple(weight.shape) != (C,):
            raise RuntimeError(
                f"weight tensor should be defined either for all {C} classes or no classes "
                f"but got weight tensor of shape: {list(weight.shape)}"
            )
        if weight.dtype != dtype:
            raise RuntimeError(f"expected weight of dtype {dtype} but found {weight.dtype}")
        if weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("the loss is not differentiable with respect to argument 'weight'")
    return N, C, L, out_shape


def _bounds(t, keep, C):
    bad = keep & ((t < 0) | (t >= C))
    if bool(bad.any()):
        raise IndexError(f"Target {int(t[bad][0])} is out of bounds.")


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


# ------------------------------------------------------------------ right ones


def right_gather(input, target, weight=None, size_average=None, ignore_index=-100,
                 reduce=None, reduction="mean"):
    """Gather along the class axis, float32 inside for the half types."""
    reduction = _resolve(size_average, reduce, reduction)
    N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
    x = input.reshape(N, C, L).to(_acc(input.dtype))
    t = target.reshape(N, L).long()
    keep = t != ignore_index
    _bounds(t, keep, C)
    safe = torch.where(keep, t, torch.zeros_like(t))
    if t.numel() == 0 or C == 0:
        picked = x.sum(1)
        w = torch.zeros_like(picked)
    else:
        picked = x.gather(1, safe.unsqueeze(1)).squeeze(1)
        w = torch.ones_like(picked) if weight is None else weight.to(x.dtype)[safe]
    w = torch.where(keep, w, torch.zeros_like(w)).detach()
    loss = torch.where(keep, -(w * picked), torch.zeros_like(picked))
    if reduction == "none":
        return loss.reshape(out_shape).to(input.dtype)
    total = loss.sum()
    if reduction == "mean":
        total = total / w.sum()
    return total.to(input.dtype)


def right_class_mask(input, target, weight=None, size_average=None, ignore_index=-100,
                     reduce=None, reduction="mean"):
    """Compare the target with an arange over classes and sum what is selected."""
    reduction = _resolve(size_average, reduce, reduction)
    N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
    x = input.reshape(N, C, L).movedim(1, 2).reshape(N * L, C)
    t = target.reshape(N * L).long()
    keep = t.ne(ignore_index)
    _bounds(t, keep, C)
    hit = (torch.arange(C, device=t.device) == t[:, None]) & keep[:, None]
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    neg = torch.where(hit, -x, zero)
    if weight is None:
        den = hit.sum().to(_acc(x.dtype))
    else:
        neg = torch.where(hit, neg * weight, zero)
        den = (hit.sum(0).to(_acc(x.dtype)) * weight.to(_acc(x.dtype))).sum()
    row = neg.to(_acc(x.dtype)).sum(1)
    if reduction == "none":
        return row.to(x.dtype).reshape(out_shape)
    if reduction == "sum":
        return row.sum().to(x.dtype)
    return (row.sum() / den).to(x.dtype)


class _NLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, keep, w):
        # x (M, C), t (M,) in range, keep (M,), w (M,): already 0 where ignored
        ctx.save_for_backward(t, keep, w)
        ctx.C = x.shape[1]
        out = x.new_zeros(x.shape[0])
        rows = keep.nonzero().squeeze(1)
        out[rows] = -w[rows] * x[rows, t[rows]]
        return out

    @staticmethod
    def backward(ctx, g):
        t, keep, w = ctx.saved_tensors
        gx = torch.zeros(g.shape[0], ctx.C, dtype=g.dtype, device=g.device)
        if ctx.C == 0:
            return gx, None, None, None
        contrib = torch.where(keep, -w * g, torch.zeros_like(g))
        return gx.scatter_add(1, t[:, None], contrib[:, None]), None, None, None


def right_function(input, target, weight=None, size_average=None, ignore_index=-100,
                   reduce=None, reduction="mean"):
    """A hand-written autograd.Function per element with a scatter in the backward."""
    reduction = _resolve(size_average, reduce, reduction)
    N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
    acc = _acc(input.dtype)
    x = input.reshape(N, C, L).transpose(1, 2).reshape(N * L, C).to(acc)
    t = target.reshape(-1).long()
    keep = t != ignore_index
    _bounds(t, keep, C)
    t = t * keep
    w = keep.to(acc)
    if weight is not None and C > 0:
        w = w.clone()
        rows = keep.nonzero().squeeze(1)
        w[rows] = weight.detach().to(acc).index_select(0, t[rows])
    out = _NLL.apply(x, t, keep, w)
    if reduction == "none":
        out = out.reshape(out_shape)
    elif reduction == "sum":
        out = out.sum()
    else:
        out = out.sum() / w.sum()
    return out.to(input.dtype)


class RightCompacted(nn.Module):
    """Drops the ignored elements first and works through the rest in blocks."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None,
                 reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _resolve(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.weight: torch.Tensor | None
        self.ignore_index = ignore_index

    def forward(self, input, target):
        reduction = _resolve(None, None, self.reduction)
        weight = self.weight
        N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
        acc = _acc(input.dtype)
        x = input.reshape(N, C, L).permute(0, 2, 1).reshape(N * L, C)
        t = target.reshape(-1).long()
        keep = t != self.ignore_index
        _bounds(t, keep, C)
        rows = keep.nonzero().flatten()
        cols = t[rows]
        flat = x.reshape(-1).to(acc)
        parts, den = [flat[:0]], torch.zeros((), dtype=acc, device=input.device)
        step = 1000
        for i in range(0, rows.numel(), step):
            r, c = rows[i:i + step], cols[i:i + step]
            v = -flat.index_select(0, r * C + c)
            if weight is not None:
                w = weight.detach().to(acc)[c]
                v = v * w
                den = den + w.sum()
            else:
                den = den + float(r.numel())
            parts.append(v)
        vals = torch.cat(parts)
        if reduction == "none":
            out = torch.zeros(N * L, dtype=acc, device=input.device)
            out = out.index_put((rows,), vals)
            return out.reshape(out_shape).to(input.dtype)
        s = vals.sum()
        return (s if reduction == "sum" else s / den).to(input.dtype)


# ------------------------------------------------------------------ wrong ones


def wrong_ignored_counted_in_mean(input, target, weight=None, size_average=None,
                                  ignore_index=-100, reduce=None, reduction="mean"):
    """The unweighted mean divides by the number of all targets instead of the non-ignored ones; shows when any target is ignored."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction == "mean" and weight is None:
        s = F.nll_loss(input, target, ignore_index=ignore_index, reduction="sum")
        return s / target.numel()
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_ignored_counted_in_mean():
    x = torch.randn(4, 3).log_softmax(1)
    y = torch.tensor([0, -100, 2, 1])
    return not torch.allclose(wrong_ignored_counted_in_mean(x, y), F.nll_loss(x, y))


def wrong_any_negative_is_ignored(input, target, weight=None, size_average=None,
                                  ignore_index=-100, reduce=None, reduction="mean"):
    """Every negative target is skipped, not only ignore_index, so a bad label such as -1 is silently dropped instead of refused (or, with ignore_index=-1, -100 is dropped)."""
    reduction = _resolve(size_average, reduce, reduction)
    N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
    x = input.reshape(N, C, L).to(_acc(input.dtype))
    t = target.reshape(N, L).long()
    keep = (t != ignore_index) & (t >= 0)
    _bounds(t, keep, C)
    safe = torch.where(keep, t, torch.zeros_like(t))
    if t.numel() == 0 or C == 0:
        picked = x.sum(1)
        w = torch.zeros_like(picked)
    else:
        picked = x.gather(1, safe.unsqueeze(1)).squeeze(1)
        w = torch.ones_like(picked) if weight is None else weight.to(x.dtype)[safe]
    w = torch.where(keep, w, torch.zeros_like(w))
    loss = torch.where(keep, -(w * picked), torch.zeros_like(picked))
    if reduction == "none":
        return loss.reshape(out_shape).to(input.dtype)
    total = loss.sum()
    if reduction == "mean":
        total = total / w.sum()
    return total.to(input.dtype)


def witness_wrong_any_negative_is_ignored():
    x = torch.randn(3, 4).log_softmax(1)
    y = torch.tensor([1, -1, 2])
    try:
        F.nll_loss(x, y)
        return False
    except IndexError:
        pass
    return bool(torch.isfinite(wrong_any_negative_is_ignored(x, y)))


def wrong_mask_by_multiplication(input, target, weight=None, size_average=None,
                                 ignore_index=-100, reduce=None, reduction="mean"):
    """Ignored elements are removed by multiplying with a 0 mask, so an infinite log-probability of class 0 at an ignored element makes the loss NaN."""
    reduction = _resolve(size_average, reduce, reduction)
    N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
    x = input.reshape(N, C, L).to(_acc(input.dtype))
    t = target.reshape(N, L).long()
    keep = t != ignore_index
    _bounds(t, keep, C)
    if t.numel() == 0 or C == 0:
        picked = x.sum(1)
        w = torch.zeros_like(picked)
    else:
        safe = t * keep
        picked = x.gather(1, safe.unsqueeze(1)).squeeze(1)
        w = torch.ones_like(picked) if weight is None else weight.to(x.dtype)[safe]
        w = w * keep
    loss = -(w * picked)
    if reduction == "none":
        return loss.reshape(out_shape).to(input.dtype)
    total = loss.sum()
    if reduction == "mean":
        total = total / w.sum()
    return total.to(input.dtype)


def witness_wrong_mask_by_multiplication():
    x = torch.tensor([[-float("inf"), -0.7, -0.7], [-1.0, -1.1, -1.2]])
    y = torch.tensor([-100, 1])
    return bool(torch.isfinite(F.nll_loss(x, y))) and bool(
        torch.isnan(wrong_mask_by_multiplication(x, y)))


def wrong_mean_per_sample_first(input, target, weight=None, size_average=None,
                                ignore_index=-100, reduce=None, reduction="mean"):
    """For K-dimensional input the mean is taken inside each sample and then over the batch, which differs from the mean over all elements when samples have different weight sums or numbers of ignored targets."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction == "mean" and input.dim() > 2 and input.shape[0] > 0:
        if target.shape[:1] != input.shape[:1]:
            raise ValueError("Expected input batch_size to match target batch_size.")
        per = [F.nll_loss(input[i:i + 1], target[i:i + 1], weight, ignore_index=ignore_index)
               for i in range(input.shape[0])]
        return torch.stack(per).mean()
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_mean_per_sample_first():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=g).log_softmax(1)
    y = torch.tensor([[0, 1, 2, 0], [1, -100, -100, 2]])
    return not torch.allclose(wrong_mean_per_sample_first(x, y), F.nll_loss(x, y))


class _NLLNoWeightBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight, ignore_index):
        ctx.save_for_backward(input, target)
        ctx.ignore_index = ignore_index
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction="none")

    @staticmethod
    def backward(ctx, g):
        input, target = ctx.saved_tensors
        dim = 0 if input.dim() == 1 else 1
        t = target.long().reshape(g.shape)
        keep = t != ctx.ignore_index
        gx = torch.zeros_like(input)
        if input.numel():
            src = torch.where(keep, -g, torch.zeros_like(g))
            gx = gx.scatter(dim, (t * keep).unsqueeze(dim), src.unsqueeze(dim))
        return gx, None, None, None


def wrong_weight_missing_in_backward(input, target, weight=None, size_average=None,
                                     ignore_index=-100, reduce=None, reduction="mean"):
    """The hand-written backward used for reduction='none' forgets the class weight; values are right, gradients with weight and 'none' are not."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction == "none":
        _check_index(input.shape, input.dtype, target, weight)
        return _NLLNoWeightBackward.apply(input, target, weight, ignore_index)
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_weight_missing_in_backward():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=g).log_softmax(1).requires_grad_()
    y = torch.tensor([0, 2, 1, 1])
    w = torch.tensor([0.2, 0.5, 3.0])
    a, = torch.autograd.grad(wrong_weight_missing_in_backward(x, y, w, reduction="none").sum(), x)
    b, = torch.autograd.grad(F.nll_loss(x, y, w, reduction="none").sum(), x)
    return not torch.allclose(a, b)


_WEIGHT_CACHE = {}


def wrong_cached_weight(input, target, weight=None, size_average=None, ignore_index=-100,
                        reduce=None, reduction="mean"):
    """The prepared class weight is cached by its address, size and type, so after the caller changes the weight in place the old weight is still used."""
    reduction = _resolve(size_average, reduce, reduction)
    N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
    x = input.reshape(N, C, L).to(_acc(input.dtype))
    t = target.reshape(N, L).long()
    keep = t != ignore_index
    _bounds(t, keep, C)
    safe = torch.where(keep, t, torch.zeros_like(t))
    if t.numel() == 0 or C == 0:
        picked = x.sum(1)
        w = torch.zeros_like(picked)
    else:
        picked = x.gather(1, safe.unsqueeze(1)).squeeze(1)
        if weight is None:
            w = torch.ones_like(picked)
        else:
            key = (id(weight), weight.data_ptr(), weight.numel(), weight.dtype, weight.device)
            if key not in _WEIGHT_CACHE:
                _WEIGHT_CACHE[key] = (weight, weight.detach().to(x.dtype, copy=True))
            w = _WEIGHT_CACHE[key][1][safe]
    w = torch.where(keep, w, torch.zeros_like(w))
    loss = torch.where(keep, -(w * picked), torch.zeros_like(picked))
    if reduction == "none":
        return loss.reshape(out_shape).to(input.dtype)
    total = loss.sum()
    if reduction == "mean":
        total = total / w.sum()
    return total.to(input.dtype)


def witness_wrong_cached_weight():
    x = torch.randn(4, 3).log_softmax(1)
    y = torch.tensor([0, 2, 1, 1])
    w = torch.tensor([0.2, 0.5, 3.0])
    first = torch.allclose(wrong_cached_weight(x, y, w, reduction="sum"),
                           F.nll_loss(x, y, w, reduction="sum"))
    w.mul_(2)
    second = torch.allclose(wrong_cached_weight(x, y, w, reduction="sum"),
                            F.nll_loss(x, y, w, reduction="sum"))
    return first and not second


def wrong_unbatched_forgets_weight(input, target, weight=None, size_average=None,
                                   ignore_index=-100, reduce=None, reduction="mean"):
    """The path for unbatched (C,) input does not pass the class weight on; shows for 'none' and 'sum' only (a weighted mean of one element is the same)."""
    reduction = _resolve(size_average, reduce, reduction)
    if input.dim() == 1:
        _check_index(input.shape, input.dtype, target, weight)
        return F.nll_loss(input, target, ignore_index=ignore_index, reduction=reduction)
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_unbatched_forgets_weight():
    x = torch.randn(3).log_softmax(0)
    y, w = torch.tensor(2), torch.tensor([1.0, 2.0, 3.0])
    return not torch.allclose(wrong_unbatched_forgets_weight(x, y, w, reduction="sum"),
                              F.nll_loss(x, y, w, reduction="sum"))
