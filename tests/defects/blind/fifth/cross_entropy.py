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


def _check_prob(input, target, weight, ignore_index):
    c = input.shape[1]
    if not target.is_floating_point():
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, got {target.dtype}"
        )
    if not input.is_floating_point():
        raise NotImplementedError(f"not implemented for {input.dtype}")
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    if weight is not None and tuple(weight.shape) != (c,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {c} classes or no classes "
            f"but got weight tensor of shape: {list(weight.shape)}"
        )


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _ce_rows(z, logz, t, valid, q, w, ls):
    """Losses of rows; z (R, C) shifted logits, logz (R,), t / valid (R,) or q (R, C) probabilities."""
    c = z.shape[1]
    if q is not None:
        if ls > 0:
            q = q * (1 - ls) + ls / c
        logp = z - logz.unsqueeze(1)
        if w is not None:
            logp = logp * w
        return -(logp * q).sum(1), None
    hit = torch.arange(c, device=z.device) == t.unsqueeze(1)
    picked = z.masked_fill(~hit, 0).sum(1)
    loss = logz - picked
    wt = valid.to(z.dtype)
    if w is not None:
        loss = loss * w[t]
        wt = wt * w[t]
    if ls > 0:
        logp = z - logz.unsqueeze(1)
        if w is not None:
            logp = logp * w
        loss = (1 - ls) * loss - (ls / c) * logp.sum(1)
    return torch.where(valid, loss, torch.zeros_like(loss)), wt


def _shift_and_log(x, dim=1):
    m = x.detach().amax(dim, keepdim=True)
    m = torch.where(m == float("-inf"), torch.zeros_like(m), m)
    z = x - m
    return z, z.exp().sum(dim).log()


def _rows(x):
    """(N, C, d...) -> (R, C)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _own_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing, chunk=None):
    if label_smoothing < 0 or label_smoothing > 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    prob = input.shape == target.shape
    one = input.dim() == 1
    if input.dim() == 0:
        raise RuntimeError("Expected floating point type for target with class probabilities")
    if one:
        input = input.unsqueeze(0)
        target = target.unsqueeze(0) if prob else _unbatched_target(target)
    out_dtype = input.dtype
    t = valid = q = None
    if prob:
        _check_prob(input, target, weight, ignore_index)
        out_dtype = torch.promote_types(input.dtype, target.dtype)
        if weight is not None:
            out_dtype = torch.promote_types(out_dtype, weight.dtype)
        work = _wide(out_dtype)
        q = _rows(target).to(work)
    else:
        t, valid = _check_index(input, target, weight, ignore_index)
        work = _wide(out_dtype)
        t, valid = t.reshape(-1), valid.reshape(-1)
    x = _rows(input).to(work)
    w = None if weight is None else weight.to(work)
    r = x.shape[0]
    step = chunk or max(r, 1)
    losses, wts = [], []
    for a in range(0, r, step):
        b = min(a + step, r)
        z, logz = _shift_and_log(x[a:b])
        l, wt = _ce_rows(
            z, logz,
            None if t is None else t[a:b],
            None if valid is None else valid[a:b],
            None if q is None else q[a:b],
            w, label_smoothing,
        )
        losses.append(l)
        wts.append(wt)
    loss = torch.cat(losses) if losses else x.sum(1)
    if reduction == "none":
        shape = () if one else (input.shape[0],) + tuple(input.shape[2:])
        return loss.reshape(shape).to(out_dtype)
    total = loss.sum()
    if reduction == "mean":
        if prob:
            total = total / r if r else total * float("nan")
        else:
            total = total / (torch.cat(wts).sum() if wts else torch.zeros_like(total))
    return total.to(out_dtype)


# ---------------------------------------------------------------- wrong


def wrong_label_smoothing_over_other_classes(input, target, weight=None, size_average=None, ignore_index=-100,
                                             reduce=None, reduction="mean", label_smoothing=0.0):
    """Spreads label_smoothing over the C-1 other classes instead of mixing with a uniform distribution over all C classes; shows whenever label_smoothing > 0 (and C > 1)."""
    c = input.shape[0] if input.dim() == 1 else (input.shape[1] if input.dim() > 1 else 1)
    if 0.0 < label_smoothing <= 1.0 and c > 1:
        scaled = label_smoothing * c / (c - 1)
        args = dict(weight=weight, size_average=size_average, ignore_index=ignore_index, reduce=reduce,
                    reduction=reduction)
        full = F.cross_entropy(input, target, label_smoothing=1.0, **args)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hard = F.cross_entropy(input, target, **args)
        return (1 - scaled) * hard + scaled * full
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def witness_wrong_label_smoothing_over_other_classes():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 5, generator=g), torch.tensor([0, 1, 2, 3])
    a = wrong_label_smoothing_over_other_classes(x, y, label_smoothing=0.2)
    return not torch.allclose(a, F.cross_entropy(x, y, label_smoothing=0.2), rtol=1e-3)


def wrong_mean_of_chunk_means(input, target, weight=None, size_average=None, ignore_index=-100,
                              reduce=None, reduction="mean", label_smoothing=0.0):
    """Large 2-D batches are handled in chunks of 128 rows and 'mean' averages the means of the chunks; shows when the batch has more than 128 rows and the chunks differ in size, ignored targets or weight."""
    red = _reduction(size_average, reduce, reduction)
    kw = dict(weight=weight, ignore_index=ignore_index, reduction=red, label_smoothing=label_smoothing)
    if red != "mean" or input.dim() != 2 or target.dim() == 0 or input.shape[0] != target.shape[0] or input.shape[0] <= 128:
        return F.cross_entropy(input, target, **kw)
    parts = [F.cross_entropy(x, t, **kw) for x, t in zip(input.split(128), target.split(128))]
    return torch.stack(parts).mean()


def witness_wrong_mean_of_chunk_means():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(130, 5, generator=g), torch.randint(5, (130,), generator=g)
    x[128:] *= 10
    return not torch.allclose(wrong_mean_of_chunk_means(x, y), F.cross_entropy(x, y), rtol=1e-3)


def wrong_global_max_shift(input, target, weight=None, size_average=None, ignore_index=-100,
                           reduce=None, reduction="mean", label_smoothing=0.0):
    """Subtracts the maximum of the whole tensor, not that of each row, before exp; shows when a row lies about 100 below the largest logit of another row (its sum of exponentials underflows)."""
    if input.dim() >= 1 and input.numel() and input.is_floating_point():
        dim = 0 if input.dim() == 1 else 1
        up = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        z = up - up.detach().max()
        input = (z - z.exp().sum(dim, keepdim=True).log()).to(input.dtype)
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def witness_wrong_global_max_shift():
    x = torch.tensor([[0.0, 1.0, 2.0], [-300.0, -301.0, -302.0]])
    y = torch.tensor([0, 1])
    a, b = wrong_global_max_shift(x, y), F.cross_entropy(x, y)
    return bool(torch.isfinite(b)) and not torch.allclose(a, b)


def wrong_weighted_mean_for_probabilities(input, target, weight=None, size_average=None, ignore_index=-100,
                                          reduce=None, reduction="mean", label_smoothing=0.0):
    """With class probabilities and weight, 'mean' divides by the sum of the weights of the targets instead of by N; shows for probability targets with weight."""
    red = _reduction(size_average, reduce, reduction)
    kw = dict(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    if red == "mean" and weight is not None and input.shape == target.shape:
        total = F.cross_entropy(input, target, reduction="sum", **kw)
        shape = [-1] if input.dim() == 1 else [1, -1] + [1] * (input.dim() - 2)
        return total / (weight.reshape(shape) * target).sum()
    return F.cross_entropy(input, target, reduction=red, **kw)


def witness_wrong_weighted_mean_for_probabilities():
    g = torch.Generator().manual_seed(0)
    x, p = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g).softmax(1)
    w = torch.tensor([1.0, 2.0, 5.0])
    a = wrong_weighted_mean_for_probabilities(x, p, weight=w)
    return not torch.allclose(a, F.cross_entropy(x, p, weight=w), rtol=1e-3)


class _UnitGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return torch.ones_like(g)


def wrong_gradient_ignores_grad_output(input, target, weight=None, size_average=None, ignore_index=-100,
                                       reduce=None, reduction="mean", label_smoothing=0.0):
    """The fused backward returns the stored gradient without multiplying by grad_output for 'mean' and 'sum'; shows when the loss is scaled or enters another expression (2 * loss, gradient accumulation, GradScaler)."""
    red = _reduction(size_average, reduce, reduction)
    loss = F.cross_entropy(input, target, weight=weight, ignore_index=ignore_index, reduction=red,
                           label_smoothing=label_smoothing)
    return loss if red == "none" else _UnitGrad.apply(loss)


def witness_wrong_gradient_ignores_grad_output():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, generator=g).requires_grad_(), torch.tensor([0, 1, 2, 0])
    a, = torch.autograd.grad(3 * wrong_gradient_ignores_grad_output(x, y), x)
    b, = torch.autograd.grad(3 * F.cross_entropy(x, y), x)
    return not torch.allclose(a, b, rtol=1e-2)


def wrong_shifts_input_in_place(input, target, weight=None, size_average=None, ignore_index=-100,
                                reduce=None, reduction="mean", label_smoothing=0.0):
    """Subtracts the row maximum from the caller's logits in place (the loss itself stays right); shows when the caller looks at the input after the call."""
    if input.dim() >= 1 and input.numel() and input.is_floating_point():
        with torch.no_grad():
            input.sub_(input.amax(0 if input.dim() == 1 else 1, keepdim=True))
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def witness_wrong_shifts_input_in_place():
    x, y = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([1])
    before = x.clone()
    wrong_shifts_input_in_place(x, y)
    return not torch.equal(x, before)


def wrong_smoothing_mean_counts_ignored(input, target, weight=None, size_average=None, ignore_index=-100,
                                        reduce=None, reduction="mean", label_smoothing=0.0):
    """Without weight, the smoothing part of 'mean' is divided by the number of all targets, ignored ones too; shows for class indices with label_smoothing > 0 and some ignored targets."""
    red = _reduction(size_average, reduce, reduction)
    kw = dict(weight=weight, ignore_index=ignore_index)
    if red == "mean" and weight is None and 0 < label_smoothing <= 1 and input.shape != target.shape:
        hard = F.cross_entropy(input, target, reduction="mean", **kw)
        smooth = F.cross_entropy(input, target, reduction="sum", label_smoothing=1.0, **kw)
        return (1 - label_smoothing) * hard + label_smoothing * smooth / target.numel()
    return F.cross_entropy(input, target, reduction=red, label_smoothing=label_smoothing, **kw)


def witness_wrong_smoothing_mean_counts_ignored():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, generator=g), torch.tensor([0, -100, 2, -100])
    a = wrong_smoothing_mean_counts_ignored(x, y, label_smoothing=0.3)
    return not torch.allclose(a, F.cross_entropy(x, y, label_smoothing=0.3), rtol=1e-3)


def wrong_half_gives_float32(input, target, weight=None, size_average=None, ignore_index=-100,
                             reduce=None, reduction="mean", label_smoothing=0.0):
    """float16 and bfloat16 logits are upcast and the result is not cast back, so it is float32; shows in the dtype of the result for half precision."""
    if input.dtype in (torch.float16, torch.bfloat16):
        if weight is not None and weight.dtype == input.dtype:
            weight = weight.float()
        input = input.float()
        if target.is_floating_point():
            target = target.to(torch.promote_types(target.dtype, torch.float32))
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def witness_wrong_half_gives_float32():
    x, y = torch.tensor([[1.0, 2.0, 4.0]]).bfloat16(), torch.tensor([1])
    return wrong_half_gives_float32(x, y).dtype != F.cross_entropy(x, y).dtype


# ---------------------------------------------------------------- right


def right_masks_float32_inside(input, target, weight=None, size_average=None, ignore_index=-100,
                               reduce=None, reduction="mean", label_smoothing=0.0):
    """Own formula with a class mask instead of gather; half precision is computed in float32 and cast back."""
    red = _reduction(size_average, reduce, reduction)
    return _own_cross_entropy(input, target, weight, ignore_index, red, label_smoothing)


def right_row_chunks(input, target, weight=None, size_average=None, ignore_index=-100,
                                      reduce=None, reduction="mean", label_smoothing=0.0):
    """Rows in chunks of 3, each with its own shift, and one normalisation at the end."""
    red = _reduction(size_average, reduce, reduction)
    return _own_cross_entropy(input, target, weight, ignore_index, red, label_smoothing, chunk=3)
