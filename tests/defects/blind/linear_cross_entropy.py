"""Wrong and right implementations of linear_cross_entropy, written without sight of the suite."""

import torch
from torch.nn import functional as F


def _check(input, linear_weight, target, linear_bias, ignore_index):
    if input.dim() < 1 or input.dim() > 2:
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(
            f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}"
        )
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), got "
            f"{input.shape[-1]} and {linear_weight.shape[-1]}, respectively"
        )
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise RuntimeError(
            f"expected linear_bias shape {tuple(linear_weight.shape[:-1])}, got {tuple(linear_bias.shape)}"
        )
    if linear_weight.dim() > 2 and input.dim() == 1:
        raise RuntimeError("K-dimensional loss requires batched input")
    soft = target.shape == (*input.shape[:-1], *linear_weight.shape[:-1])
    if soft and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    return soft, -100 if ignore_index is None else ignore_index


def _logits(input, linear_weight, linear_bias):
    out = linear_weight.shape[:-1]
    z = F.linear(
        input,
        linear_weight.reshape(-1, linear_weight.shape[-1]),
        None if linear_bias is None else linear_bias.reshape(-1),
    )
    return z.reshape(*input.shape[:-1], *out)


def _plain(
    input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing
):
    return F.cross_entropy(
        _logits(input, linear_weight, linear_bias),
        target,
        weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )


def _chunkable(input, linear_weight, soft, rows):
    return input.dim() == 2 and linear_weight.dim() == 2 and not soft and input.shape[0] > rows


def wrong_last_rows_dropped(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """Batches of more than 64 rows go in N // 64 chunks of 64 rows; the remainder is never visited
    (reduction 'mean' and 'sum').
    """
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if not _chunkable(input, linear_weight, soft, 64) or reduction == "none":
        return _plain(
            input, linear_weight, target, linear_bias, weight, reduction, ii, label_smoothing
        )
    total, den = 0.0, 0.0
    for k in range(input.shape[0] // 64):
        s = slice(64 * k, 64 * k + 64)
        total = total + _plain(
            input[s], linear_weight, target[s], linear_bias, weight, "sum", ii, label_smoothing
        )
        keep = target[s] != ii
        den = den + (
            keep.sum() if weight is None else (weight[torch.where(keep, target[s], 0)] * keep).sum()
        )
    return total / den if reduction == "mean" else total


def witness_wrong_last_rows_dropped():
    torch.manual_seed(0)
    x, w, t = torch.randn(100, 4), torch.randn(5, 4), torch.randint(0, 5, (100,))
    return not torch.allclose(wrong_last_rows_dropped(x, w, t), F.linear_cross_entropy(x, w, t))


class _Chunked(torch.autograd.Function):
    """Row losses; gradients by recomputation per chunk. The flaws are switched on by the callers."""

    @staticmethod
    def forward(ctx, x, w, b, t, rows, only_with_input, low):
        ctx.save_for_backward(x, w, b, t)
        ctx.conf = rows, only_with_input, low
        return torch.cat(
            [
                F.cross_entropy(F.linear(a, w, b), c, reduction="none")
                for a, c in zip(x.split(rows), t.split(rows))
            ]
        )

    @staticmethod
    def backward(ctx, go):
        x, w, b, t = ctx.saved_tensors
        rows, only_with_input, low = ctx.conf
        acc = (
            w.dtype
            if low
            else (torch.float32 if w.dtype in (torch.float16, torch.bfloat16) else w.dtype)
        )
        gx, gw, gb = (
            torch.zeros_like(x),
            torch.zeros_like(w, dtype=acc),
            torch.zeros_like(w[:, 0], dtype=acc),
        )
        for s in range(0, x.shape[0], rows):
            a, c = x[s : s + rows], t[s : s + rows]
            p = F.linear(a, w, b).float() if low or acc != w.dtype else F.linear(a, w, b)
            p = p.softmax(1)
            p[torch.arange(len(c)), c] -= 1
            p = (p * go[s : s + rows, None]).to(x.dtype)
            gx[s : s + rows] = p @ w
            gw += (p.t() @ a).to(acc)
            gb += p.sum(0).to(acc)
        if only_with_input and not ctx.needs_input_grad[0]:
            return (None,) * 7
        return gx, gw.to(w.dtype), None if b is None else gb.to(w.dtype), None, None, None, None


def _by_function(
    input, linear_weight, target, linear_bias, weight, reduction, ii, rows, only_with_input, low
):
    keep = target != ii
    t = torch.where(keep, target, 0)
    r = _Chunked.apply(input, linear_weight, linear_bias, t, rows, only_with_input, low)
    cw = keep.to(r.dtype) if weight is None else weight[t] * keep
    r = torch.where(keep, r * cw, r.new_zeros(()))
    return r if reduction == "none" else r.sum() if reduction == "sum" else r.sum() / cw.sum()


def wrong_frozen_input_frozen_weight(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """The backward returns early when the input needs no gradient: a head trained on frozen features (linear probing)
    gets no gradient for its weight and bias.
    """
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if not _chunkable(input, linear_weight, soft, 0) or label_smoothing:
        return _plain(
            input, linear_weight, target, linear_bias, weight, reduction, ii, label_smoothing
        )
    return _by_function(
        input, linear_weight, target, linear_bias, weight, reduction, ii, 512, True, False
    )


def witness_wrong_frozen_input_frozen_weight():
    torch.manual_seed(0)
    x, w, t = torch.randn(6, 4), torch.randn(5, 4, requires_grad=True), torch.randint(0, 5, (6,))
    g = torch.autograd.grad(wrong_frozen_input_frozen_weight(x, w, t), w, allow_unused=True)[0]
    r = torch.autograd.grad(F.linear_cross_entropy(x, w, t), w)[0]
    return (g is None or not torch.allclose(g, r)) and bool(r.abs().sum() > 0)


def wrong_weight_gradient_summed_in_bfloat16(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """The weight's gradient is accumulated over chunks of 16 rows in the weight's own type: in bfloat16 and float16 small
    contributions of many chunks are lost against the sum.
    """
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if not _chunkable(input, linear_weight, soft, 16) or label_smoothing:
        return _plain(
            input, linear_weight, target, linear_bias, weight, reduction, ii, label_smoothing
        )
    return _by_function(
        input, linear_weight, target, linear_bias, weight, reduction, ii, 16, False, True
    )


def witness_wrong_weight_gradient_summed_in_bfloat16():
    torch.manual_seed(0)
    x = (torch.rand(16384, 4) + 0.5).bfloat16()
    w = torch.zeros(5, 4).bfloat16().requires_grad_()
    t = torch.zeros(16384, dtype=torch.long)
    ref = torch.autograd.grad(
        F.linear_cross_entropy(x.double(), w.double(), t, reduction="sum"), w
    )[0].double()
    a, b = (
        (torch.autograd.grad(f(x, w, t, reduction="sum"), w)[0].double() - ref).abs().max()
        / ref.abs().max()
        for f in (wrong_weight_gradient_summed_in_bfloat16, F.linear_cross_entropy)
    )
    return bool(a > 0.1) and bool(b < 0.02)


def wrong_ignore_index_zero_is_none(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """`ignore_index or -100`: padding class 0 is not ignored."""
    soft, _ = _check(input, linear_weight, target, linear_bias, ignore_index)
    return _plain(
        input,
        linear_weight,
        target,
        linear_bias,
        weight,
        reduction,
        ignore_index or -100,
        label_smoothing,
    )


def witness_wrong_ignore_index_zero_is_none():
    torch.manual_seed(0)
    x, w, t = torch.randn(6, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 3, 4])
    return not torch.allclose(
        wrong_ignore_index_zero_is_none(x, w, t, ignore_index=0),
        F.linear_cross_entropy(x, w, t, ignore_index=0),
    )


def wrong_bias_order_for_positions(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """K-dimensional loss: the bias is flattened with the classes last while the weight has them first; a bias of zeros
    or a plain (C,) one does not tell.
    """
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if linear_bias is not None and linear_bias.dim() > 1:
        linear_bias = linear_bias.movedim(0, -1).reshape(linear_bias.shape)
    return _plain(input, linear_weight, target, linear_bias, weight, reduction, ii, label_smoothing)


def witness_wrong_bias_order_for_positions():
    torch.manual_seed(0)
    x, w, b, t = (
        torch.randn(2, 4),
        torch.randn(5, 3, 4),
        torch.randn(5, 3),
        torch.randint(0, 5, (2, 3)),
    )
    return not torch.allclose(
        wrong_bias_order_for_positions(x, w, t, linear_bias=b),
        F.linear_cross_entropy(x, w, t, linear_bias=b),
    )


def wrong_options_drop_smoothing(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """With options given the chunked way is taken whether or not it can do what is asked: label_smoothing is dropped
    without a word instead of falling back to the reference.
    """
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if options is None or soft or linear_weight.dim() > 2 or input.dim() == 1 or not input.shape[0]:
        return _plain(
            input, linear_weight, target, linear_bias, weight, reduction, ii, label_smoothing
        )
    rows = options.batch_chunk_size or 64
    r = torch.cat(
        [
            _plain(a, linear_weight, c, linear_bias, weight, "none", ii, 0.0)
            for a, c in zip(input.split(rows), target.split(rows))
        ]
    )
    if reduction == "none":
        return r
    keep = target != ii
    den = keep.sum() if weight is None else (weight[torch.where(keep, target, 0)] * keep).sum()
    return r.sum() if reduction == "sum" else r.sum() / den


def witness_wrong_options_drop_smoothing():
    import warnings

    torch.manual_seed(0)
    x, w, t = torch.randn(6, 4), torch.randn(5, 4), torch.randint(0, 5, (6,))
    o = torch.nn.LinearCrossEntropyOptions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = F.linear_cross_entropy(x, w, t, label_smoothing=0.2, options=o)
    return not torch.allclose(
        wrong_options_drop_smoothing(x, w, t, label_smoothing=0.2, options=o), r
    )


class WrongSmoothingOffInEval(torch.nn.LinearCrossEntropyLoss):
    """In eval mode the plain loss is given, as some training frameworks do: label_smoothing is an option of the loss, not
    of the mode.
    """

    def forward(self, input, target):
        keep = self.label_smoothing
        if not self.training:
            self.label_smoothing = 0.0
        try:
            return super().forward(input, target)
        finally:
            self.label_smoothing = keep


def witness_WrongSmoothingOffInEval():
    torch.manual_seed(0)
    x, t = torch.randn(6, 4), torch.randint(0, 5, (6,))
    m = WrongSmoothingOffInEval(4, 5, label_smoothing=0.3)
    r = torch.nn.LinearCrossEntropyLoss(4, 5, label_smoothing=0.3)
    r.load_state_dict(m.state_dict())
    return not torch.allclose(m.eval()(x, t), r.eval()(x, t))


# ---------------------------------------------------------------- right


def _reduce(rows, den, reduction):
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    if reduction == "mean":
        return rows.sum() / den
    raise ValueError(f"{reduction} is not a valid value for reduction")


def right_chunked(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """Chunks of 32 rows under autograd (no logits of the whole batch at once in forward), rows joined at the end."""
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if input.dim() == 1 or input.shape[0] <= 32 or target.shape[:1] != input.shape[:1]:
        return _plain(
            input, linear_weight, target, linear_bias, weight, reduction, ii, label_smoothing
        )
    rows = torch.cat(
        [
            _plain(a, linear_weight, c, linear_bias, weight, "none", ii, label_smoothing)
            for a, c in zip(input.split(32), target.split(32))
        ]
    )
    if soft:
        den = rows.numel()
    else:
        keep = target != ii
        den = (
            keep.sum()
            if weight is None
            else torch.where(keep, weight[torch.where(keep, target, 0)], 0.0).sum()
        )
    out = _reduce(
        rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows, den, reduction
    )
    return out.to(rows.dtype)


def right_einsum_log_partition(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
):
    """Logits by einsum in the accumulation type, classes moved last, log-softmax over the last dimension."""
    soft, ii = _check(input, linear_weight, target, linear_bias, ignore_index)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if not soft and target.shape != (*input.shape[:-1], *linear_weight.shape[1:-1]):
        raise RuntimeError(
            f"Expected target size {[*input.shape[:-1], *linear_weight.shape[1:-1]]}, got {list(target.shape)}"
        )
    if soft != target.is_floating_point():
        raise RuntimeError("expected long class indices or floating point class probabilities")
    C = linear_weight.shape[0]
    if weight is not None and weight.shape != (C,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {C} classes or no classes"
        )
    acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    W = linear_weight.to(acc).movedim(0, -2)  # (..., C, F)
    z = torch.einsum("nf,...cf->n...c", input.to(acc).reshape(-1, input.shape[-1]), W)
    if linear_bias is not None:
        z = z + linear_bias.to(acc).movedim(0, -1)
    if input.dim() == 1:
        z = z.squeeze(0)
    lp = F.log_softmax(z, -1)
    cw = None if weight is None else weight.to(acc)
    wlp = lp if cw is None else lp * cw
    eps = label_smoothing
    if soft:
        q = target.to(acc)
        q = q.movedim(0 if input.dim() == 1 else 1, -1)
        if eps:
            q = q * (1 - eps) + eps / C
        rows = -(wlp * q).sum(-1)
        den = rows.numel()
    else:
        keep = target != ii
        t = torch.where(keep, target, 0)
        rows = -wlp.gather(-1, t.unsqueeze(-1)).squeeze(-1)
        if eps:
            rows = (1 - eps) * rows - (eps / C) * wlp.sum(-1)
        zero = lp.new_zeros(())
        rows = torch.where(keep, rows, zero)
        den = (keep.to(acc) if cw is None else torch.where(keep, cw[t], zero)).sum()
    return _reduce(rows, den, reduction).to(input.dtype)
