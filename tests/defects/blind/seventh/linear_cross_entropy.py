import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import LinearCrossEntropyLoss as _TorchModule

INF = float("inf")


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class _Job:
    """Arguments after all checks, with every axis made explicit.

    x (N, F), W (C, D, F), b (C, D) or None, target (N, D) or (N, C, D), w (C) or None."""


def _setup(input, linear_weight, target, linear_bias, weight, reduction, ignore_index,
           label_smoothing, options):
    if reduction == "elementwise_mean":
        warnings.warn("reduction='elementwise_mean' is deprecated. "
                      "Please use reduction='mean' instead.", stacklevel=3)
        reduction = "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if input.dim() < 1 or input.dim() > 2:
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError("expected linear_weight with dimensionality at least 2, "
                           f"got {linear_weight.dim()}")
    feats = input.shape[-1]
    if feats != linear_weight.shape[-1]:
        raise RuntimeError("expected equal input and linear_weight last dimensions (in_features), "
                           f"got {feats} and {linear_weight.shape[-1]}, respectively")
    C, extra = linear_weight.shape[0], tuple(linear_weight.shape[1:-1])
    if linear_bias is not None and tuple(linear_bias.shape) != (C, *extra):
        raise RuntimeError(f"expected linear_bias shape {(C, *extra)}, "
                           f"got {tuple(linear_bias.shape)}")
    if extra and input.dim() == 1:
        raise RuntimeError("K-dimensional loss requires batched input")
    for other in (linear_weight, linear_bias):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(f"expected one dtype, got {input.dtype} and {other.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"not implemented for {input.dtype}")
    batch = tuple(input.shape[:-1])
    scores = batch + (C,) + extra
    j = _Job()
    j.prob = tuple(target.shape) == scores
    if j.prob and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    j.ignore = -100 if ignore_index is None else ignore_index
    if options is not None and (extra or label_smoothing != 0.0 or target.dtype != torch.int64):
        warnings.warn("linear_cross_entropy: ``options`` ignored; chunked path needs "
                      "label_smoothing == 0, target.dtype == int64, out_features == ().",
                      stacklevel=3)
    if label_smoothing > 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    j.eps = max(float(label_smoothing), 0.0)
    if weight is not None and tuple(weight.shape) != (C,):
        raise RuntimeError(f"weight tensor should be defined either for all {C} classes or no "
                           f"classes but got weight tensor of shape: {list(weight.shape)}")
    j.N = input.shape[0] if batch else 1
    j.C, j.D, j.F = C, math.prod(extra), feats
    j.out_shape = batch + extra
    j.out_dtype = input.dtype
    if j.prob:
        if not target.is_floating_point():
            raise RuntimeError("Expected floating point type for target with class probabilities, "
                               f"got {target.dtype}")
        j.out_dtype = torch.promote_types(input.dtype, target.dtype)
        if weight is not None:
            j.out_dtype = torch.promote_types(j.out_dtype, weight.dtype)
        j.acc = _acc(j.out_dtype)
        j.target = target.reshape(j.N, C, j.D).to(j.acc)
        j.keep = None
    else:
        ok_unbatched = not batch and tuple(target.shape) in ((), (1,))
        if not ok_unbatched:
            if batch and (target.dim() == 0 or target.shape[0] != j.N):
                raise ValueError(f"Expected input batch_size ({j.N}) to match target batch_size.")
            if tuple(target.shape) != batch + extra:
                raise RuntimeError(f"size mismatch: target {list(target.shape)} for scores of "
                                   f"shape {list(scores)}")
        if target.dtype != torch.int64 and (target.dtype != torch.uint8 or extra):
            raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
        if weight is not None:
            if weight.dtype != input.dtype:
                raise RuntimeError(f"expected weight of dtype {input.dtype}, got {weight.dtype}")
            if weight.requires_grad and torch.is_grad_enabled():
                raise RuntimeError("the loss is not differentiable with respect to 'weight'")
        j.acc = _acc(input.dtype)
        t = target.reshape(j.N, j.D).long()
        j.keep = t != j.ignore
        bad = j.keep & ((t < 0) | (t >= C))
        if bool(bad.any()):
            raise IndexError(f"Target {int(t[bad][0])} is out of bounds.")
        j.target = torch.where(j.keep, t, torch.zeros_like(t))
    j.x = input.reshape(j.N, feats).to(j.acc)
    j.W = linear_weight.reshape(C, j.D, feats).to(j.acc)
    j.b = None if linear_bias is None else linear_bias.reshape(C, j.D).to(j.acc)
    j.w = None if weight is None else weight.to(j.acc)
    j.reduction = reduction
    return j


def _denominator(j):
    if j.prob:
        return torch.tensor(float(j.N * j.D), dtype=j.acc, device=j.x.device)
    if j.w is None:
        return j.keep.sum().to(j.acc)
    return (j.w[j.target] * j.keep).sum()


def _close(j, loss):
    """loss (N, D) -> what the caller asked for."""
    if j.reduction == "none":
        return loss.reshape(j.out_shape).to(j.out_dtype)
    s = loss.sum()
    if j.reduction == "mean":
        s = s / _denominator(j)
    return s.to(j.out_dtype)


def _coefficients(j):
    """a (N, C, D) with loss = sum_c a_c * (logsumexp - score_c)."""
    if j.prob:
        a = j.target
        if j.eps:
            a = a * (1 - j.eps) + j.eps / j.C
    else:
        a = (torch.arange(j.C, device=j.x.device)[None, :, None] == j.target[:, None]).to(j.acc)
        if j.eps:
            a = a * (1 - j.eps) + j.eps / j.C
        a = a * j.keep[:, None]
    return a if j.w is None else a * j.w[None, :, None]


def _scores(j, x=None):
    z = torch.einsum("nf,cdf->ncd", j.x if x is None else x, j.W)
    return z if j.b is None else z + j.b


# ------------------------------------------------------------------ right ones


def right_vocabulary_stream(input, linear_weight, target, *, linear_bias=None, weight=None,
                            reduction="mean", ignore_index=None, label_smoothing=0.0,
                            options=None):
    """Slabs of classes with a running log-sum-exp; the scores of all classes are never together."""
    j = _setup(input, linear_weight, target, linear_bias, weight, reduction, ignore_index,
               label_smoothing, options)
    lse = torch.full((j.N, j.D), -INF, dtype=j.acc, device=j.x.device)
    lin = torch.zeros(j.N, j.D, dtype=j.acc, device=j.x.device)      # sum_c a_c z_c
    tot = torch.zeros(j.N, j.D, dtype=j.acc, device=j.x.device)      # sum_c a_c
    top = None                                                       # largest score
    with torch.no_grad():
        for lo in range(0, j.C, 4):
            z = torch.einsum("nf,cdf->ncd", j.x, j.W[lo:lo + 4])
            if j.b is not None:
                z = z + j.b[lo:lo + 4]
            m = z.amax(1, keepdim=True)
            top = m if top is None else torch.maximum(top, m)
    for lo in range(0, j.C, 4):
        hi = min(lo + 4, j.C)
        z = torch.einsum("nf,cdf->ncd", j.x, j.W[lo:hi])
        if j.b is not None:
            z = z + j.b[lo:hi]
        z = z - top
        part = z.logsumexp(1)
        lse = part if lo == 0 else torch.logaddexp(lse, part)
        if j.prob:
            a = j.target[:, lo:hi]
            if j.eps:
                a = a * (1 - j.eps) + j.eps / j.C
        else:
            cls = torch.arange(lo, hi, device=z.device)[None, :, None]
            a = (cls == j.target[:, None]).to(j.acc) * (1 - j.eps) + j.eps / j.C
            a = a * j.keep[:, None]
        if j.w is not None:
            a = a * j.w[None, lo:hi, None]
        az = a * z
        if not j.prob:
            az = torch.where(a == 0, torch.zeros_like(az), az)
        lin = lin + az.sum(1)
        tot = tot + a.sum(1)
    loss = tot * lse - lin
    if j.keep is not None:
        loss = torch.where(j.keep, loss, torch.zeros_like(loss))
    return _close(j, loss)


def right_checkpointed_rows(input, linear_weight, target, *, linear_bias=None, weight=None,
                            reduction="mean", ignore_index=None, label_smoothing=0.0,
                            options=None):
    """Blocks of rows; the scores of a block are computed again in the backward (activation checkpointing)."""
    from torch.utils.checkpoint import checkpoint
    j = _setup(input, linear_weight, target, linear_bias, weight, reduction, ignore_index,
               label_smoothing, options)

    def block(x, W, b, t, keep, w):
        z = torch.einsum("nf,cdf->ncd", x, W)
        if b is not None:
            z = z + b
        z = z - z.detach().amax(1, keepdim=True)
        nlp = z.logsumexp(1, keepdim=True) - z
        if keep is None:
            if j.eps:
                t = t + j.eps * (1.0 / j.C - t)
            return (nlp * t if w is None else nlp * t * w[None, :, None]).sum(1)
        hard = nlp.gather(1, t[:, None])[:, 0]
        if w is not None:
            hard = hard * w[t]
            nlp = nlp * w[None, :, None]
        if j.eps:
            hard = (1 - j.eps) * hard + j.eps * nlp.mean(1)
        return torch.where(keep, hard, torch.zeros_like(hard))

    rows = 16
    out = []
    for i in range(0, j.N, rows):
        s = slice(i, i + rows)
        out.append(checkpoint(block, j.x[s], j.W, j.b, j.target[s],
                              None if j.keep is None else j.keep[s], j.w, use_reentrant=False))
    if not out:
        out.append((_scores(j) * (j.target if j.prob else 1)).sum(1))
    return _close(j, torch.cat(out))


class _Fused(torch.autograd.Function):
    """loss (N, D) from x, W, b and the coefficients a; all gradients written by hand."""

    @staticmethod
    def forward(ctx, x, W, b, a):
        ctx.save_for_backward(x, W, b, a)
        z = torch.tensordot(x, W, ([1], [2]))
        if b is not None:
            z.add_(b)
        z.sub_(z.amax(1, keepdim=True))
        lse = z.logsumexp(1)
        return a.sum(1) * lse - torch.where(a == 0, torch.zeros_like(z), a * z).sum(1)

    @staticmethod
    def backward(ctx, g):
        x, W, b, a = ctx.saved_tensors
        z = torch.tensordot(x, W, ([1], [2]))
        if b is not None:
            z = z + b
        need = ctx.needs_input_grad
        gx = gW = gb = ga = None
        g = g.unsqueeze(1)
        if any(need[:3]):
            dz = g * (z.softmax(1) * a.sum(1, keepdim=True) - a)
            if need[0]:
                gx = torch.einsum("ncd,cdf->nf", dz, W)
            if need[1]:
                gW = torch.einsum("ncd,nf->cdf", dz, x)
            if b is not None and need[2]:
                gb = dz.sum(0)
        if need[3]:
            ga = -g * z.log_softmax(1)
        return gx, gW, gb, ga


def right_fused_function(input, linear_weight, target, *, linear_bias=None, weight=None,
                         reduction="mean", ignore_index=None, label_smoothing=0.0,
                         options=None):
    """One autograd.Function for projection and loss with hand-written gradients."""
    j = _setup(input, linear_weight, target, linear_bias, weight, reduction, ignore_index,
               label_smoothing, options)
    loss = _Fused.apply(j.x, j.W, j.b, _coefficients(j))
    if j.keep is not None:
        loss = torch.where(j.keep, loss, torch.zeros_like(loss))
    return _close(j, loss)


class RightModule(nn.Module):
    """A module that loops over the positions of a K-dimensional loss, one matrix product each, with log-probabilities from shifted scores."""

    def __init__(self, in_features, num_classes, *, out_features=(), bias=False, device=None,
                 dtype=None, reduction="mean", weight=None, ignore_index=None,
                 label_smoothing=0.0, options=None):
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, "
                               f"got {tuple(weight.shape)}")
        if label_smoothing < 0 or label_smoothing > 1.0:
            raise RuntimeError("expected label_smoothing to be in range [0, 1], "
                               f"got {label_smoothing}")
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = reduction
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = nn.Linear(in_features, math.prod(out_features, start=num_classes),
                                bias=bias, device=device, dtype=dtype)
        self.options = options

    def extra_repr(self):
        return (f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
                f"out_features={self.out_features}, bias={self.linear.bias is not None}, "
                f"reduction={self.reduction}, ignore_index={self.ignore_index}, "
                f"label_smoothing={self.label_smoothing}, options={self.options}")

    def forward(self, input, target):
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        j = _setup(input, self.linear.weight.view(*shape, self.linear.in_features), target,
                   None if bias is None else bias.view(shape), self.weight, self.reduction,
                   self.ignore_index, self.label_smoothing, self.options)
        columns = []
        for d in range(j.D):
            z = j.x @ j.W[:, d].t()
            if j.b is not None:
                z = z + j.b[:, d]
            if z.numel():
                z = z - z.detach().amax(1, keepdim=True)
            logp = z - z.exp().sum(1, keepdim=True).log()
            if j.prob:
                y = j.target[:, :, d]
                if j.eps:
                    y = (1 - j.eps) * y + j.eps / j.C
                col = -(logp * y if j.w is None else logp * y * j.w).sum(1)
            else:
                t, keep = j.target[:, d], j.keep[:, d]
                rows = keep.nonzero().squeeze(1)
                lp = logp[rows]
                hard = -lp[torch.arange(rows.numel(), device=t.device), t[rows]]
                if j.w is not None:
                    hard = hard * j.w[t[rows]]
                    lp = lp * j.w
                if j.eps:
                    hard = (1 - j.eps) * hard - (j.eps / j.C) * lp.sum(1)
                col = torch.zeros(j.N, dtype=j.acc, device=t.device).index_put((rows,), hard)
            columns.append(col)
        loss = torch.stack(columns, 1) if columns else j.x.new_zeros(j.N, 0)
        return _close(j, loss)


# ------------------------------------------------------------------ wrong ones


def wrong_flat_bias_order(input, linear_weight, target, *, linear_bias=None, weight=None,
                          reduction="mean", ignore_index=None, label_smoothing=0.0,
                          options=None):
    """For a K-dimensional loss the bias (C, d_1, ...) is flattened with the class axis last, so it is added to the wrong scores; shows only with a bias and out_features."""
    if linear_bias is not None and linear_weight.dim() > 2 and (
            linear_bias.shape == linear_weight.shape[:-1]):
        linear_bias = linear_bias.movedim(0, -1).reshape(linear_bias.shape)
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias,
                                  weight=weight, reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)


def witness_wrong_flat_bias_order():
    torch.manual_seed(0)
    x, W, b = torch.randn(3, 4), torch.randn(5, 2, 4), torch.randn(5, 2)
    t = torch.randint(5, (3, 2))
    ok = torch.allclose(wrong_flat_bias_order(x, W[:, 0], t[:, 0], linear_bias=b[:, 0]),
                        F.linear_cross_entropy(x, W[:, 0], t[:, 0], linear_bias=b[:, 0]))
    return ok and not torch.allclose(wrong_flat_bias_order(x, W, t, linear_bias=b),
                                     F.linear_cross_entropy(x, W, t, linear_bias=b))


def wrong_mean_of_block_means(input, linear_weight, target, *, linear_bias=None, weight=None,
                              reduction="mean", ignore_index=None, label_smoothing=0.0,
                              options=None):
    """The rows go in blocks of 8 and 'mean' averages the means of the blocks, which is wrong when blocks differ in size, in ignored targets or in the sum of weights."""
    kw = dict(linear_bias=linear_bias, weight=weight, ignore_index=ignore_index,
              label_smoothing=label_smoothing, options=options)
    if reduction == "mean" and input.dim() == 2 and target.dim() and (
            target.shape[0] == input.shape[0]) and input.shape[0] > 8:
        parts = [F.linear_cross_entropy(x, linear_weight, t, **kw)
                 for x, t in zip(input.split(8), target.split(8))]
        return torch.stack(parts).mean()
    return F.linear_cross_entropy(input, linear_weight, target, reduction=reduction, **kw)


def witness_wrong_mean_of_block_means():
    torch.manual_seed(0)
    x, W, t = torch.randn(20, 4), torch.randn(5, 4), torch.randint(5, (20,))
    ok = torch.allclose(wrong_mean_of_block_means(x[:16], W, t[:16]),
                        F.linear_cross_entropy(x[:16], W, t[:16]))
    return ok and not torch.allclose(wrong_mean_of_block_means(x, W, t),
                                     F.linear_cross_entropy(x, W, t))


class _LastBlockOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W, b, a):
        ctx.save_for_backward(x, W, b, a)
        z = torch.einsum("nf,cdf->ncd", x, W)
        if b is not None:
            z = z + b
        return -(a * z.log_softmax(1)).sum(1)

    @staticmethod
    def backward(ctx, g):
        x, W, b, a = ctx.saved_tensors
        gx, ga = torch.zeros_like(x), torch.zeros_like(a)
        gW = torch.zeros_like(W)
        gb = None if b is None else torch.zeros_like(b)
        for i in range(0, x.shape[0], 128):
            s = slice(i, i + 128)
            z = torch.einsum("nf,cdf->ncd", x[s], W)
            if b is not None:
                z = z + b
            gs = g[s].unsqueeze(1)
            dz = gs * (z.softmax(1) * a[s].sum(1, keepdim=True) - a[s])
            gx[s] = torch.einsum("ncd,cdf->nf", dz, W)
            gW = torch.einsum("ncd,nf->cdf", dz, x[s])
            if b is not None:
                gb += dz.sum(0)
            ga[s] = -gs * z.log_softmax(1)
        return gx, gW, gb, ga


def wrong_weight_gradient_of_last_block(input, linear_weight, target, *, linear_bias=None,
                                        weight=None, reduction="mean", ignore_index=None,
                                        label_smoothing=0.0, options=None):
    """The backward goes in blocks of 128 rows and assigns the gradient of linear_weight instead of adding to it, so with more than 128 rows only the last block counts."""
    j = _setup(input, linear_weight, target, linear_bias, weight, reduction, ignore_index,
               label_smoothing, options)
    loss = _LastBlockOnly.apply(j.x, j.W, j.b, _coefficients(j))
    if j.keep is not None:
        loss = torch.where(j.keep, loss, torch.zeros_like(loss))
    return _close(j, loss)


def witness_wrong_weight_gradient_of_last_block():
    torch.manual_seed(0)
    x, W, t = torch.randn(200, 4), torch.randn(5, 4, requires_grad=True), torch.randint(5, (200,))
    res = []
    for n in (100, 200):
        a, = torch.autograd.grad(wrong_weight_gradient_of_last_block(x[:n], W, t[:n]), W)
        b, = torch.autograd.grad(F.linear_cross_entropy(x[:n], W, t[:n]), W)
        res.append(torch.allclose(a, b, atol=1e-5))
    return res == [True, False]


def wrong_running_max_starts_at_zero(input, linear_weight, target, *, linear_bias=None,
                                     weight=None, reduction="mean", ignore_index=None,
                                     label_smoothing=0.0, options=None):
    """The running maximum of the streamed log-sum-exp starts at 0 instead of -inf, so when all scores of a row lie below about -104 (float32) everything underflows and the loss is -inf."""
    j = _setup(input, linear_weight, target, linear_bias, weight, reduction, ignore_index,
               label_smoothing, options)
    z = _scores(j)
    m = torch.zeros(j.N, j.D, dtype=j.acc, device=z.device)
    s = torch.zeros_like(m)
    for part in z.split(8, 1):
        new = torch.maximum(m, part.detach().amax(1))
        s = s * (m - new).exp() + (part - new[:, None]).exp().sum(1)
        m = new
    a = _coefficients(j)
    loss = a.sum(1) * s.log() - (a * (z - m[:, None])).sum(1)
    if j.keep is not None:
        loss = torch.where(j.keep, loss, torch.zeros_like(loss))
    return _close(j, loss)


def witness_wrong_running_max_starts_at_zero():
    torch.manual_seed(0)
    x, W, b, t = torch.randn(4, 3), torch.randn(5, 3), torch.zeros(5), torch.randint(5, (4,))
    f, r = wrong_running_max_starts_at_zero, F.linear_cross_entropy
    ok = torch.allclose(f(x, W, t, linear_bias=b), r(x, W, t, linear_bias=b))
    low = b - 200
    return ok and not bool(torch.isfinite(f(x, W, t, linear_bias=low))) and bool(
        torch.isfinite(r(x, W, t, linear_bias=low)))


def wrong_ignore_index_with_probabilities(input, linear_weight, target, *, linear_bias=None,
                                          weight=None, reduction="mean", ignore_index=None,
                                          label_smoothing=0.0, options=None):
    """An explicit ignore_index together with class probabilities is silently dropped instead of refused."""
    if target.is_floating_point():
        ignore_index = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias,
                                  weight=weight, reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)


def witness_wrong_ignore_index_with_probabilities():
    x, W, p = torch.randn(3, 4), torch.randn(5, 4), torch.randn(3, 5).softmax(1)
    try:
        F.linear_cross_entropy(x, W, p, ignore_index=2)
        return False
    except RuntimeError:
        pass
    return bool(torch.isfinite(wrong_ignore_index_with_probabilities(x, W, p, ignore_index=2)))


class _GradInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, g):
        return torch.ones_like(g)


def wrong_upstream_gradient_dropped(input, linear_weight, target, *, linear_bias=None,
                                    weight=None, reduction="mean", ignore_index=None,
                                    label_smoothing=0.0, options=None):
    """For 'mean' and 'sum' the gradients are prepared for an upstream gradient of 1 and the real one is dropped, so scaling the loss (loss scaling, gradient accumulation) does not scale the gradients."""
    loss = F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias,
                                  weight=weight, reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)
    if reduction == "none":
        return loss
    return _GradInForward.apply(loss)


def witness_wrong_upstream_gradient_dropped():
    torch.manual_seed(0)
    x, W, t = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True), torch.randint(5, (4,))
    a, = torch.autograd.grad(wrong_upstream_gradient_dropped(x, W, t), W)
    b, = torch.autograd.grad(F.linear_cross_entropy(x, W, t), W)
    c, = torch.autograd.grad(wrong_upstream_gradient_dropped(x, W, t) * 3, W)
    return torch.allclose(a, b) and not torch.allclose(c, 3 * b)


class WrongClassWeightNotBuffer(_TorchModule):
    """The class weight is kept as a plain attribute instead of a buffer, so it is missing from state_dict and does not follow module.to(dtype or device)."""

    def __init__(self, in_features, num_classes, *, out_features=(), bias=False, device=None,
                 dtype=None, reduction="mean", weight=None, ignore_index=None,
                 label_smoothing=0.0, options=None):
        super().__init__(in_features, num_classes, out_features=out_features, bias=bias,
                         device=device, dtype=dtype, reduction=reduction, weight=weight,
                         ignore_index=ignore_index, label_smoothing=label_smoothing,
                         options=options)
        del self._buffers["weight"]
        self.weight = weight


def witness_WrongClassWeightNotBuffer():
    w = torch.rand(5)
    a, b = WrongClassWeightNotBuffer(3, 5, weight=w), _TorchModule(3, 5, weight=w)
    return "weight" in b.state_dict() and "weight" not in a.state_dict() and (
        a.double().weight.dtype == torch.float32) and b.double().weight.dtype == torch.float64
