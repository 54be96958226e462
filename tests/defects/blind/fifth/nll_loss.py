import warnings

import torch
import torch.nn.functional as F


def _reduction(size_average, reduce, reduction, allowed=("none", "mean", "sum")):
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        ret = "none" if not rd else ("mean" if sa else "sum")
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{ret}' instead.",
            stacklevel=3,
        )
        return ret
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in allowed:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check_index(input, target, weight, ignore_index):
    """input (N, C, ...), target (N, ...): refusals; returns long target with ignored -> 0, and the mask."""
    c = input.shape[1]
    if target.dtype not in (torch.long, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"not implemented for {input.dtype}")
    if input.dim() == 2 and target.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if target.dim() == 0 or input.shape[0] != target.shape[0]:
        n = 1 if target.dim() == 0 else target.shape[0]
        raise ValueError(f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({n}).")
    want = (input.shape[0],) + tuple(input.shape[2:])
    if tuple(target.shape) != want:
        raise RuntimeError(f"Expected target size {list(want)}, got {list(target.shape)}")
    if weight is not None:
        if tuple(weight.shape) != (c,):
            raise RuntimeError(
                f"weight tensor should be defined either for all {c} classes or no classes "
                f"but got weight tensor of shape: {list(weight.shape)}"
            )
        if weight.dtype != input.dtype:
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
        if weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("the loss is not differentiable with respect to argument 'weight'.")
    t = target.long()
    valid = t != ignore_index
    bad = valid & ((t < 0) | (t >= c))
    if bool(bad.any()):
        raise IndexError(f"Target {int(t[bad][0])} is out of bounds.")
    return torch.where(valid, t, torch.zeros_like(t)), valid


def _unbatched_target(target):
    if target.dim() > 1 or target.numel() != 1:
        raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {target.numel()}")
    return target.reshape(1)


# ---------------------------------------------------------------- wrong


def _valid_weight_sum(input, target, weight, ignore_index):
    valid = target != ignore_index
    if weight is None:
        return valid.sum().to(input.dtype)
    t = torch.where(valid, target, torch.zeros_like(target)).long()
    return (weight[t] * valid).sum()


def wrong_mean_ignores_weight(input, target, weight=None, size_average=None, ignore_index=-100,
                              reduce=None, reduction="mean"):
    """'mean' with weight divides by the number of non-ignored targets instead of by the sum of their weights; shows with any non-uniform weight."""
    red = _reduction(size_average, reduce, reduction)
    if red == "mean" and weight is not None:
        total = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction="sum")
        return total / (target != ignore_index).sum().to(input.dtype)
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=red)


def witness_wrong_mean_ignores_weight():
    x, y = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 1])
    w = torch.tensor([3.0, 0.5])
    return not torch.allclose(wrong_mean_ignores_weight(x, y, w), F.nll_loss(x, y, w))


def wrong_denominator_at_least_one(input, target, weight=None, size_average=None, ignore_index=-100,
                                   reduce=None, reduction="mean"):
    """'mean' clamps the sum of the weights to at least 1 (against division by zero); shows when the weights of the targets sum to less than 1, for example normalised class weights in a small batch."""
    red = _reduction(size_average, reduce, reduction)
    loss = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=red)
    if red == "mean":
        den = _valid_weight_sum(input, target, weight, ignore_index)
        if 0 < float(den) < 1:
            return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction="sum")
    return loss


def witness_wrong_denominator_at_least_one():
    x, y = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 0])
    w = torch.tensor([0.1, 0.9])
    return not torch.allclose(wrong_denominator_at_least_one(x, y, w), F.nll_loss(x, y, w))


def wrong_kd_flattened_without_permute(input, target, weight=None, size_average=None, ignore_index=-100,
                                       reduce=None, reduction="mean"):
    """K-dimensional input is reshaped to (-1, C) without moving the class axis last; shows for inputs of three or more dimensions."""
    red = _reduction(size_average, reduce, reduction)
    loss = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=red)
    if input.dim() < 3 or input.numel() == 0:
        return loss
    flat = F.nll_loss(input.reshape(-1, input.shape[1]), target.reshape(-1), weight, ignore_index=ignore_index,
                      reduction=red)
    return flat.reshape(loss.shape)


def witness_wrong_kd_flattened_without_permute():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 4, generator=g), torch.randint(3, (2, 4), generator=g)
    return not torch.allclose(wrong_kd_flattened_without_permute(x, y), F.nll_loss(x, y))


def wrong_negative_class_wraps(input, target, weight=None, size_average=None, ignore_index=-100,
                               reduce=None, reduction="mean"):
    """Targets -C .. -1 are taken as Python-like indices from the end instead of being refused; shows when a target is negative and is not ignore_index (torch raises IndexError)."""
    if target.dtype == torch.long and input.dim() > 0:
        c = input.shape[0] if input.dim() == 1 else input.shape[1]
        wrap = (target < 0) & (target >= -c) & (target != ignore_index)
        target = torch.where(wrap, target + c, target)
    return F.nll_loss(input, target, weight, size_average, ignore_index, reduce, reduction)


def witness_wrong_negative_class_wraps():
    x, y = torch.randn(2, 3), torch.tensor([0, -1])
    try:
        F.nll_loss(x, y)
    except IndexError:
        return bool(torch.isfinite(wrong_negative_class_wraps(x, y)))
    return False


def wrong_mask_by_multiplication(input, target, weight=None, size_average=None, ignore_index=-100,
                                 reduce=None, reduction="mean"):
    """Ignored positions are removed by multiplying the picked value with a 0/1 mask; shows as NaN when an ignored row holds -inf or NaN in the class that is picked in its place (the first other class)."""
    red = _reduction(size_average, reduce, reduction)
    loss = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=red)
    c = input.shape[0] if input.dim() == 1 else input.shape[1]
    fill = 0 if ignore_index != 0 else 1
    valid = target != ignore_index
    if c <= fill or bool(valid.all()):
        return loss
    safe = torch.where(valid, target, torch.full_like(target, fill))
    none = F.nll_loss(input, safe, weight, ignore_index=ignore_index, reduction="none")
    none = none * valid.to(none.dtype).reshape(none.shape)
    if red == "none":
        return none
    if red == "sum":
        return none.sum()
    return none.sum() / _valid_weight_sum(input, target, weight, ignore_index)


def witness_wrong_mask_by_multiplication():
    x = torch.tensor([[-1.0, -2.0], [float("-inf"), 0.0]])
    y = torch.tensor([0, -100])
    a, b = wrong_mask_by_multiplication(x, y), F.nll_loss(x, y)
    return bool(torch.isnan(a)) and float(b) == 1.0


def wrong_ignore_index_zero_is_none(input, target, weight=None, size_average=None, ignore_index=-100,
                                    reduce=None, reduction="mean"):
    """Writes `ignore_index or -100`, so that ignore_index=0 (padding class) ignores nothing; shows only for ignore_index=0."""
    return F.nll_loss(input, target, weight, size_average, ignore_index or -100, reduce, reduction)


def witness_wrong_ignore_index_zero_is_none():
    x, y = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 1])
    a = wrong_ignore_index_zero_is_none(x, y, ignore_index=0)
    return not torch.allclose(a, F.nll_loss(x, y, ignore_index=0))


_WEIGHTS = {}


def wrong_weight_cached(input, target, weight=None, size_average=None, ignore_index=-100,
                        reduce=None, reduction="mean"):
    """Keeps the first weight seen for a size, dtype and device and uses it in later calls; shows when a later call passes other weight values of the same size."""
    if weight is not None:
        key = (tuple(weight.shape), weight.dtype, str(weight.device), weight.requires_grad)
        weight = _WEIGHTS.setdefault(key, weight.clone())
    return F.nll_loss(input, target, weight, size_average, ignore_index, reduce, reduction)


def witness_wrong_weight_cached():
    x, y = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 1])
    bad = False
    for w in (torch.tensor([1.0, 2.0]), torch.tensor([5.0, 0.1])):
        bad |= not torch.allclose(wrong_weight_cached(x, y, w), F.nll_loss(x, y, w))
    return bad


# ---------------------------------------------------------------- right


def _prepare(input, target, weight, ignore_index):
    if input.dim() == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    one = input.dim() == 1
    if one:
        input, target = input.unsqueeze(0), _unbatched_target(target)
    t, valid = _check_index(input, target, weight, ignore_index)
    return one, input, t, valid


def _finish(loss, coef, valid, one, reduction, dtype):
    if reduction == "none":
        return (loss.squeeze(0) if one else loss).to(dtype)
    total = loss.sum()
    if reduction == "mean":
        total = total / torch.where(valid, coef, torch.zeros_like(coef)).sum()
    return total.to(dtype)


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def right_class_mask(input, target, weight=None, size_average=None, ignore_index=-100,
                     reduce=None, reduction="mean"):
    """Picks by a boolean class mask and a sum over the class axis; float32 inside for half precision."""
    red = _reduction(size_average, reduce, reduction)
    one, x, t, valid = _prepare(input, target, weight, ignore_index)
    work = _acc(x.dtype)
    classes = torch.arange(x.shape[1], device=x.device).reshape([1, -1] + [1] * (x.dim() - 2))
    hit = (classes == t.unsqueeze(1)) & valid.unsqueeze(1)
    picked = x.to(work).masked_fill(~hit, 0).sum(1)
    coef = torch.ones_like(picked) if weight is None else weight.detach().to(work)[t]
    loss = torch.where(valid, -picked * coef, torch.zeros_like(picked))
    return _finish(loss, coef.detach(), valid, one, red, x.dtype)


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, coef, valid):
        ctx.save_for_backward(t, coef, valid)
        ctx.shape = x.shape
        picked = x.gather(1, t.unsqueeze(1)).squeeze(1)
        return torch.where(valid, -picked.to(coef.dtype) * coef, torch.zeros_like(coef)).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        t, coef, valid = ctx.saved_tensors
        src = torch.where(valid, -g * coef.to(g.dtype), torch.zeros_like(g)).unsqueeze(1)
        return torch.zeros(ctx.shape, dtype=g.dtype, device=g.device).scatter(1, t.unsqueeze(1), src), None, None, None


def right_own_backward(input, target, weight=None, size_average=None, ignore_index=-100,
                       reduce=None, reduction="mean"):
    """Own autograd.Function: gather forward, scatter backward."""
    red = _reduction(size_average, reduce, reduction)
    one, x, t, valid = _prepare(input, target, weight, ignore_index)
    work = _acc(x.dtype)
    coef = torch.ones(t.shape, dtype=work, device=x.device) if weight is None else weight.detach().to(work)[t]
    if t.numel() == 0 or x.shape[1] == 0:
        loss = x.to(work).sum(1)
    else:
        loss = _Pick.apply(x.to(work), t, coef, valid)
    return _finish(loss, coef, valid, one, red, x.dtype)
