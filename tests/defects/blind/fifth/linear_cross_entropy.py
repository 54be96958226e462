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


def wrong_bias_forgotten_for_kdim(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                  ignore_index=None, label_smoothing=0.0, options=None):
    """linear_bias is dropped when linear_weight has more than two dimensions; shows for the K-dimensional loss with a bias."""
    if (linear_bias is not None and linear_weight.dim() > 2
            and linear_bias.shape == linear_weight.shape[:-1]):
        linear_bias = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)


def witness_wrong_bias_forgotten_for_kdim():
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 3, generator=g), torch.randn(4, 2, 3, generator=g)
    b, y = torch.randn(4, 2, generator=g), torch.randint(4, (2, 2), generator=g)
    return not torch.allclose(wrong_bias_forgotten_for_kdim(x, w, y, linear_bias=b),
                              F.linear_cross_entropy(x, w, y, linear_bias=b), rtol=1e-3)


def wrong_probabilities_accept_ignore_index(input, linear_weight, target, *, linear_bias=None, weight=None,
                                            reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """ignore_index together with class probabilities is silently dropped instead of refused; shows when a caller passes both (torch raises RuntimeError)."""
    logits_shape = tuple(input.shape[:-1]) + tuple(linear_weight.shape[:-1])
    if tuple(target.shape) == logits_shape:
        ignore_index = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)


def witness_wrong_probabilities_accept_ignore_index():
    x, w, p = torch.randn(2, 3), torch.randn(4, 3), torch.rand(2, 4).softmax(1)
    try:
        F.linear_cross_entropy(x, w, p, ignore_index=-100)
    except RuntimeError:
        return bool(torch.isfinite(wrong_probabilities_accept_ignore_index(x, w, p, ignore_index=-100)))
    return False


def wrong_ignore_index_zero_is_default(input, linear_weight, target, *, linear_bias=None, weight=None,
                                       reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """Maps a falsy ignore_index, so also 0, to the default -100; shows for ignore_index=0 with class indices."""
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index or None,
                                  label_smoothing=label_smoothing, options=options)


def witness_wrong_ignore_index_zero_is_default():
    g = torch.Generator().manual_seed(0)
    x, w, y = torch.randn(4, 3, generator=g), torch.randn(5, 3, generator=g), torch.tensor([0, 1, 2, 0])
    return not torch.allclose(wrong_ignore_index_zero_is_default(x, w, y, ignore_index=0),
                              F.linear_cross_entropy(x, w, y, ignore_index=0), rtol=1e-3)


def wrong_mean_of_chunk_means(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                              ignore_index=None, label_smoothing=0.0, options=None):
    """With options (the chunked path) 'mean' averages the means of chunks of 8 rows; shows with options when chunks differ in size, in ignored targets or in weight."""
    kw = dict(linear_bias=linear_bias, weight=weight, reduction=reduction, ignore_index=ignore_index,
              label_smoothing=label_smoothing)
    if (options is not None and reduction == "mean" and label_smoothing == 0 and input.dim() == 2
            and linear_weight.dim() == 2 and target.dim() == 1 and target.dtype == torch.long
            and input.shape[0] == target.shape[0] and input.shape[0] > 8):
        parts = [F.linear_cross_entropy(x, linear_weight, t, **kw) for x, t in zip(input.split(8), target.split(8))]
        return torch.stack(parts).mean()
    return F.linear_cross_entropy(input, linear_weight, target, options=options, **kw)


def witness_wrong_mean_of_chunk_means():
    g = torch.Generator().manual_seed(0)
    x, w, y = torch.randn(12, 3, generator=g), torch.randn(5, 3, generator=g), torch.randint(5, (12,), generator=g)
    y[:6] = -100
    o = torch.nn.LinearCrossEntropyOptions()
    return not torch.allclose(wrong_mean_of_chunk_means(x, w, y, options=o),
                              F.linear_cross_entropy(x, w, y), rtol=1e-3)


def wrong_weight_gradient_misses_last_chunk(input, linear_weight, target, *, linear_bias=None, weight=None,
                                            reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """The gradient of linear_weight is gathered over full chunks of 32 rows only, the incomplete last chunk is left out; shows in linear_weight.grad when a batch of more than 32 rows is no multiple of 32 (the loss and the other gradients are right)."""
    n = input.shape[0] if input.dim() == 2 else 0
    full = n - n % 32
    if full == 0 or full == n or linear_weight.dim() != 2 or not linear_weight.requires_grad:
        return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                      reduction=reduction, ignore_index=ignore_index,
                                      label_smoothing=label_smoothing, options=options)
    with torch.no_grad():
        F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                               reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
                               options=options)
    logits = torch.cat([F.linear(input[:full], linear_weight, linear_bias),
                        F.linear(input[full:], linear_weight.detach(), linear_bias)])
    return F.cross_entropy(logits, target, weight=weight, reduction=reduction,
                           ignore_index=-100 if ignore_index is None else ignore_index,
                           label_smoothing=label_smoothing)


def witness_wrong_weight_gradient_misses_last_chunk():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), torch.randint(5, (40,), generator=g)
    w = torch.randn(5, 3, generator=g).requires_grad_()
    a, = torch.autograd.grad(wrong_weight_gradient_misses_last_chunk(x, w, y), w)
    b, = torch.autograd.grad(F.linear_cross_entropy(x, w, y), w)
    return not torch.allclose(a, b, rtol=1e-3)


def wrong_kdim_logits_class_last(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                 ignore_index=None, label_smoothing=0.0, options=None):
    """For the K-dimensional loss the flat logits are viewed as (N, d_1, ..., d_K, C) although the weight is laid out (C, d_1, ..., d_K, in_features); shows whenever linear_weight has more than two dimensions."""
    kw = dict(weight=weight, reduction=reduction, label_smoothing=label_smoothing)
    ref = F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, ignore_index=ignore_index,
                                 options=options, **kw)
    if linear_weight.dim() == 2 or input.numel() == 0:
        return ref
    c, ds = linear_weight.shape[0], tuple(linear_weight.shape[1:-1])
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    flat = F.linear(input, linear_weight.reshape(-1, linear_weight.shape[-1]), bias)
    logits = flat.reshape((input.shape[0],) + ds + (c,)).movedim(-1, 1)
    return F.cross_entropy(logits, target, ignore_index=-100 if ignore_index is None else ignore_index, **kw)


def witness_wrong_kdim_logits_class_last():
    g = torch.Generator().manual_seed(0)
    x, w, y = torch.randn(2, 3, generator=g), torch.randn(4, 2, 3, generator=g), torch.randint(4, (2, 2), generator=g)
    return not torch.allclose(wrong_kdim_logits_class_last(x, w, y), F.linear_cross_entropy(x, w, y), rtol=1e-3)


def wrong_class_weight_forgotten_with_options(input, linear_weight, target, *, linear_bias=None, weight=None,
                                              reduction="mean", ignore_index=None, label_smoothing=0.0,
                                              options=None):
    """With options and reduction='none' the class weight is not applied; shows only for this combination."""
    if (options is not None and reduction == "none" and label_smoothing == 0 and linear_weight.dim() == 2
            and target.dtype == torch.long and weight is not None and weight.shape == linear_weight.shape[:1]):
        weight = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)


def witness_wrong_class_weight_forgotten_with_options():
    g = torch.Generator().manual_seed(0)
    x, w, y = torch.randn(4, 3, generator=g), torch.randn(5, 3, generator=g), torch.tensor([0, 1, 2, 4])
    kw = dict(weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), reduction="none",
              options=torch.nn.LinearCrossEntropyOptions())
    return not torch.allclose(wrong_class_weight_forgotten_with_options(x, w, y, **kw),
                              F.linear_cross_entropy(x, w, y, **kw), rtol=1e-3)


class WrongClassWeightNotBuffer(torch.nn.LinearCrossEntropyLoss):
    """The class weight is a plain attribute, not a buffer; shows in state_dict() and when the module is moved to another dtype or device."""

    def __init__(self, in_features, num_classes, out_features=(), bias=False, device=None, dtype=None,
                 reduction="mean", weight=None, ignore_index=None, label_smoothing=0.0, options=None):
        super().__init__(in_features, num_classes, out_features=out_features, bias=bias, device=device, dtype=dtype,
                         reduction=reduction, weight=weight, ignore_index=ignore_index,
                         label_smoothing=label_smoothing, options=options)
        del self._buffers["weight"]
        object.__setattr__(self, "weight", weight)


def witness_WrongClassWeightNotBuffer():
    m = WrongClassWeightNotBuffer(3, 4, weight=torch.ones(4))
    r = torch.nn.LinearCrossEntropyLoss(3, 4, weight=torch.ones(4))
    return set(m.state_dict()) != set(r.state_dict()) and m.double().weight.dtype != r.double().weight.dtype


# ---------------------------------------------------------------- right


def _prepare(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options):
    if input.dim() not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {input.shape[-1]} and {linear_weight.shape[-1]}, respectively"
        )
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise RuntimeError(
            f"expected linear_bias shape {tuple(linear_weight.shape[:-1])}, got {tuple(linear_bias.shape)}"
        )
    if linear_weight.dim() > 2 and input.dim() == 1:
        raise RuntimeError("K-dimensional loss requires batched input")
    for other in (linear_weight, linear_bias):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(f"expected the same dtype, but got: {input.dtype} != {other.dtype}")
    prob = tuple(target.shape) == tuple(input.shape[:-1]) + tuple(linear_weight.shape[:-1])
    if prob and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    if options is not None and (
        linear_weight.dim() > 2 or reduction not in ("none", "mean", "sum") or label_smoothing != 0.0
        or target.dtype != torch.int64
    ):
        warnings.warn("linear_cross_entropy: ``options`` ignored; using the reference path.", stacklevel=3)
    return -100 if ignore_index is None else ignore_index


def right_einsum(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                 ignore_index=None, label_smoothing=0.0, options=None):
    """Logits by einsum over (C, d..., in_features), then an own cross entropy with a class mask."""
    ignore = _prepare(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options)
    red = _reduction(None, None, reduction)
    logits = torch.einsum("...i,ki->...k", input, linear_weight.reshape(-1, linear_weight.shape[-1]))
    logits = logits.reshape(tuple(input.shape[:-1]) + tuple(linear_weight.shape[:-1]))
    if linear_bias is not None:
        logits = logits + linear_bias
    return _own_cross_entropy(logits, target, weight, ignore, red, label_smoothing)


def right_one_class_slice_at_a_time(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                    ignore_index=None, label_smoothing=0.0, options=None):
    """Logits computed from slices of two classes of the weight, loss over chunks of five rows."""
    ignore = _prepare(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options)
    red = _reduction(None, None, reduction)
    one = input.dim() == 1
    x = input.unsqueeze(0) if one else input
    parts = []
    for a in range(0, linear_weight.shape[0], 2):
        piece = linear_weight[a:a + 2]
        z = (x @ piece.reshape(-1, piece.shape[-1]).t()).reshape((x.shape[0],) + tuple(piece.shape[:-1]))
        if linear_bias is not None:
            z = z + linear_bias[a:a + 2]
        parts.append(z)
    logits = torch.cat(parts, 1)
    return _own_cross_entropy(logits.squeeze(0) if one else logits, target, weight, ignore, red, label_smoothing,
                              chunk=5)
