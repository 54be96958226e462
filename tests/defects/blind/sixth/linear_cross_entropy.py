import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def _out_dtype(t):
    if torch.is_autocast_enabled(t.device.type) and t.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return t.dtype


def _check(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing):
    """torch's checks; returns (soft, ignore_index, classes, out_features, logits_shape)."""
    if input.dim() not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError("expected equal input and linear_weight last dimensions (in_features)")
    classes, out_features = linear_weight.shape[0], tuple(linear_weight.shape[1:-1])
    if linear_bias is not None and tuple(linear_bias.shape) != (classes, *out_features):
        raise RuntimeError(f"expected linear_bias shape {(classes, *out_features)}, got {tuple(linear_bias.shape)}")
    if out_features and input.dim() == 1:
        raise RuntimeError("K-dimensional loss requires batched input")
    autocast = torch.is_autocast_enabled(input.device.type)
    if not autocast:
        for other in (linear_weight, linear_bias):
            if other is not None and other.dtype != input.dtype:
                raise RuntimeError(f"expected the same dtype, got {input.dtype} and {other.dtype}")
    lead = tuple(input.shape[:-1])
    logits_shape = (*lead, classes, *out_features)
    soft = tuple(target.shape) == logits_shape
    if soft and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(f"weight tensor should be defined for all {classes} classes, got {tuple(weight.shape)}")
    if soft:
        if not target.is_floating_point():
            raise RuntimeError("Expected floating point type for target with class probabilities")
    else:
        if target.dtype not in (torch.int64, torch.uint8):
            raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
        if tuple(target.shape) != (*lead, *out_features):
            if lead and target.dim() and target.shape[0] != lead[0]:
                raise ValueError(f"Expected input batch_size ({lead[0]}) to match target batch_size ({target.shape[0]}).")
            raise RuntimeError(f"Expected target of shape {(*lead, *out_features)}, got {tuple(target.shape)}")
        if weight is not None and weight.dtype != input.dtype and not autocast:
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
    return soft, -100 if ignore_index is None else ignore_index, classes, out_features, logits_shape


def wrong_bias_lost_when_chunked(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                 ignore_index=None, label_smoothing=0.0, options=None):
    """The memory-saving path (options given) forgets linear_bias, in value and gradient."""
    if options is not None:
        classes, out = linear_weight.shape[0], linear_weight.shape[1:-1]
        if linear_bias is not None and tuple(linear_bias.shape) != (classes, *out):
            raise RuntimeError(f"expected linear_bias shape {(classes, *out)}, got {tuple(linear_bias.shape)}")
        linear_bias = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
                                  options=options)


def _example(n=4):
    x = (torch.arange(n * 3.0).reshape(n, 3) * 0.9).sin()
    w = (torch.arange(15.0).reshape(5, 3) * 1.3).cos()
    return x, w, torch.arange(n) % 5


def witness_wrong_bias_lost_when_chunked():
    x, w, t = _example()
    b = torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0])
    f, g, o = wrong_bias_lost_when_chunked, F.linear_cross_entropy, nn.LinearCrossEntropyOptions()
    same = torch.allclose(f(x, w, t, linear_bias=b), g(x, w, t, linear_bias=b))
    return same and not torch.allclose(f(x, w, t, linear_bias=b, options=o), g(x, w, t, linear_bias=b, options=o), rtol=1e-3)


def wrong_mean_of_chunk_means(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                              ignore_index=None, label_smoothing=0.0, options=None):
    """Batches of more than 64 rows are processed in chunks of 64 whose means are averaged with equal weight (uneven chunks, ignored targets, class weights)."""
    kw = dict(linear_bias=linear_bias, weight=weight, reduction=reduction, ignore_index=ignore_index,
              label_smoothing=label_smoothing, options=options)
    if reduction != "mean" or input.dim() != 2 or input.shape[0] <= 64 or target.shape[:1] != input.shape[:1]:
        return F.linear_cross_entropy(input, linear_weight, target, **kw)
    parts = [F.linear_cross_entropy(x, linear_weight, t, **kw) for x, t in zip(input.split(64), target.split(64))]
    return torch.stack(parts).mean()


def witness_wrong_mean_of_chunk_means():
    x, w, t = _example(70)
    f, g = wrong_mean_of_chunk_means, F.linear_cross_entropy
    same = torch.allclose(f(x[:60], w, t[:60]), g(x[:60], w, t[:60]))
    return same and not torch.allclose(f(x, w, t), g(x, w, t), rtol=1e-4)


class _UnitUpstream(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(loss):
        return loss.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return torch.ones_like(g)

    @staticmethod
    def jvp(ctx, g):
        return g.clone()


def wrong_upstream_gradient_assumed_one(input, linear_weight, target, *, linear_bias=None, weight=None,
                                        reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """Gradients are made in forward and handed out as they are: (2 * loss).backward(), gradient accumulation and loss scaling have no effect."""
    loss = F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
                                  options=options)
    return loss if reduction == "none" else _UnitUpstream.apply(loss)


def witness_wrong_upstream_gradient_assumed_one():
    x, w, t = _example()
    x.requires_grad_()
    f, g = wrong_upstream_gradient_assumed_one, F.linear_cross_entropy
    (a,), (b,) = (torch.autograd.grad(h(x, w, t), x) for h in (f, g))
    (c,), (d,) = (torch.autograd.grad(h(x, w, t) * 3, x) for h in (f, g))
    return torch.allclose(a, b) and torch.allclose(c * 3, d)


def wrong_ignore_index_with_probabilities(input, linear_weight, target, *, linear_bias=None, weight=None,
                                          reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """ignore_index together with class probabilities is dropped without a word; torch raises RuntimeError."""
    if target.is_floating_point():
        ignore_index = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
                                  options=options)


def witness_wrong_ignore_index_with_probabilities():
    x, w, _ = _example()
    p = torch.full((4, 5), 0.2)
    try:
        F.linear_cross_entropy(x, w, p, ignore_index=1)
        return False
    except RuntimeError:
        return bool(wrong_ignore_index_with_probabilities(x, w, p, ignore_index=1).isfinite())


def wrong_classes_last_layout(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                              ignore_index=None, label_smoothing=0.0, options=None):
    """A K-dimensional linear_weight (C, d_1, ..., in) is flattened as if the classes came after the d_k: scrambled logits."""
    if linear_weight.dim() > 2:
        classes, out, feat = linear_weight.shape[0], linear_weight.shape[1:-1], linear_weight.shape[-1]
        linear_weight = linear_weight.reshape(*out, classes, feat).movedim(-2, 0)
        if linear_bias is not None and tuple(linear_bias.shape) == (classes, *out):
            linear_bias = linear_bias.reshape(*out, classes).movedim(-1, 0)
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
                                  options=options)


def witness_wrong_classes_last_layout():
    x = torch.tensor([[0.3, -0.7], [1.0, 0.5]])
    w = (torch.arange(24.0) * 0.7).sin().reshape(4, 3, 2)
    t = torch.tensor([[0, 1, 2], [3, 1, 0]])
    return not torch.allclose(wrong_classes_last_layout(x, w, t), F.linear_cross_entropy(x, w, t), rtol=1e-3)


def wrong_default_ignores_minus_one(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                    ignore_index=None, label_smoothing=0.0, options=None):
    """ignore_index=None is mapped to -1, not to the documented -100, for class indices."""
    if ignore_index is None and not target.is_floating_point():
        ignore_index = -1
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
                                  options=options)


def witness_wrong_default_ignores_minus_one():
    x, w, _ = _example()
    t = torch.tensor([0, 1, -1, 2])
    try:
        F.linear_cross_entropy(x, w, t)
        return False
    except (IndexError, RuntimeError):
        return bool(wrong_default_ignores_minus_one(x, w, t).isfinite())


class WrongBiasByDefault(nn.LinearCrossEntropyLoss):
    """bias defaults to True, as nn.Linear's does, rather than to False: an extra parameter and other losses."""

    def __init__(self, in_features, num_classes, *, out_features=(), bias=True, device=None, dtype=None,
                 reduction="mean", weight=None, ignore_index=None, label_smoothing=0.0, options=None):
        super().__init__(in_features, num_classes, out_features=out_features, bias=bias, device=device, dtype=dtype,
                         reduction=reduction, weight=weight, ignore_index=ignore_index,
                         label_smoothing=label_smoothing, options=options)


def witness_WrongBiasByDefault():
    return "linear.bias" in WrongBiasByDefault(3, 5).state_dict() and "linear.bias" not in nn.LinearCrossEntropyLoss(
        3, 5
    ).state_dict()


class WrongReplacedWeightUnseen(nn.LinearCrossEntropyLoss):
    """The constructor keeps its own reference to the weight: after tying (loss.linear.weight = embedding.weight) or functional_call the old one is still used."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._cached = (self.linear.weight, self.linear.bias)

    def forward(self, input, target):
        w, b = self._cached
        shape = (self.num_classes, *self.out_features)
        return F.linear_cross_entropy(input, w.reshape(*shape, self.linear.in_features), target,
                                      linear_bias=None if b is None else b.reshape(shape), weight=self.weight,
                                      reduction=self.reduction, ignore_index=self.ignore_index,
                                      label_smoothing=self.label_smoothing, options=self.options)


def witness_WrongReplacedWeightUnseen():
    x, w, t = _example()
    out = []
    for c in (WrongReplacedWeightUnseen, nn.LinearCrossEntropyLoss):
        m = c(3, 5)
        before = torch.allclose(m(x, t), F.linear_cross_entropy(x, m.linear.weight, t))
        m.linear.weight = nn.Parameter(w.clone())
        out.append((before, torch.allclose(m(x, t), F.linear_cross_entropy(x, w, t))))
    return out == [(True, False), (True, True)]


def right_streamed_over_classes(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                ignore_index=None, label_smoothing=0.0, options=None):
    """Streams over blocks of classes with a running maximum and sum (no full logits), float64, target logits by their own dot products."""
    soft, ignore_index, classes, out_features, _ = _check(
        input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing
    )
    dtype = _out_dtype(input)
    if soft:
        dtype = torch.promote_types(dtype, _out_dtype(target))
        if weight is not None:
            dtype = torch.promote_types(dtype, weight.dtype)
    places = math.prod(out_features)
    batched = input.dim() == 2
    x = (input if batched else input.unsqueeze(0)).double()
    n = x.shape[0]
    lw = linear_weight.double().reshape(classes, places, x.shape[1])
    lb = None if linear_bias is None else linear_bias.double().reshape(classes, places)
    w = torch.ones(classes, dtype=torch.float64, device=x.device) if weight is None else weight.double()
    if soft:
        q = target.double().reshape(n, classes, places)
        if label_smoothing > 0:
            q = q * (1 - label_smoothing) + label_smoothing / classes
    block = 16
    top = total = None
    mass = x.new_zeros(n, places)  # sum of the coefficients
    dots = x.new_zeros(n, places)  # sum of coefficient * logit
    for lo in range(0, classes, block):
        z = torch.einsum("nf,cpf->ncp", x, lw[lo : lo + block])
        if lb is not None:
            z = z + lb[lo : lo + block]
        wc = w[lo : lo + block].view(1, -1, 1)
        high = z.detach().amax(1)
        new = high if top is None else torch.maximum(top, high)
        part = torch.exp(z - new.unsqueeze(1)).sum(1)
        total = part if total is None else total * torch.exp(top - new) + part
        top = new
        if soft:
            coef = q[:, lo : lo + block] * wc
            mass = mass + coef.sum(1)
            dots = dots + (coef * z).sum(1)
        elif label_smoothing > 0:
            mass = mass + wc.sum() * (label_smoothing / classes)
            dots = dots + (wc * z).sum(1) * (label_smoothing / classes)
    lse = top + torch.log(total)
    if soft:
        loss = mass * lse - dots
        den = torch.full((), float(n * places), dtype=torch.float64, device=x.device)
    else:
        t = target.long().reshape(n, places)
        keep = t != ignore_index
        safe = torch.where(keep, t, 0).reshape(-1)
        if safe.numel():
            wt = w.index_select(0, safe).reshape(n, places)
            cell = safe * places + torch.arange(places, device=x.device).repeat(n)
            rows = lw.reshape(classes * places, -1).index_select(0, cell).reshape(n, places, -1)
            picked = torch.einsum("nf,npf->np", x, rows)
            if lb is not None:
                picked = picked + lb.reshape(-1).index_select(0, cell).reshape(n, places)
        else:
            wt = picked = torch.zeros_like(lse)
        loss = (1 - label_smoothing) * wt * (lse - picked) + (mass * lse - dots)
        loss = torch.where(keep, loss, 0.0)
        den = torch.where(keep, wt, 0.0).sum()
    if reduction == "none":
        return loss.reshape((n, *out_features) if batched else ()).to(dtype)
    loss = loss.sum()
    return (loss / den if reduction == "mean" else loss).to(dtype)


class RightBiasAsColumn(nn.LinearCrossEntropyLoss):
    """The bias becomes one more column of the weight and a 1 in the input; one matmul, classes last, logsumexp of shifted logits, target distribution by comparison."""

    def forward(self, input, target):
        ls = self.label_smoothing
        shape = (self.num_classes, *self.out_features)
        lw = self.linear.weight.reshape(*shape, self.linear.in_features)
        lb = None if self.linear.bias is None else self.linear.bias.reshape(shape)
        soft, ignore_index, classes, out_features, _ = _check(
            input, lw, target, lb, self.weight, self.reduction, self.ignore_index, ls
        )
        dtype = _out_dtype(input)
        if soft:
            dtype = torch.promote_types(dtype, _out_dtype(target))
            if self.weight is not None:
                dtype = torch.promote_types(dtype, self.weight.dtype)
        with torch.autocast(input.device.type, enabled=False):
            work = torch.promote_types(dtype, torch.float32)
            batched = input.dim() == 2
            x = (input if batched else input.unsqueeze(0)).to(work)
            n, places = x.shape[0], math.prod(out_features)
            mat = lw.to(work).reshape(classes * places, -1)
            if lb is not None:
                x = torch.cat([x, x.new_ones(n, 1)], 1)
                mat = torch.cat([mat, lb.to(work).reshape(-1, 1)], 1)
            z = (mat @ x.t()).reshape(classes, places, n).permute(2, 1, 0).reshape(n * places, classes)
            z = z - z.detach().amax(1, keepdim=True) if z.numel() else z
            gap = torch.logsumexp(z, 1, keepdim=True) - z
            w = z.new_ones(classes) if self.weight is None else self.weight.to(work)
            if soft:
                q = target.to(work).reshape(n, classes, places).transpose(1, 2).reshape(n * places, classes)
                if ls > 0:
                    q = q + ls * (1.0 / classes - q)
                loss = ((q * gap) @ w.unsqueeze(1)).squeeze(1)
                den = torch.full((), float(n * places), dtype=work, device=z.device)
            else:
                t = target.long().reshape(-1)
                keep = t != ignore_index
                safe = t.masked_fill(~keep, 0)
                wt = w.index_select(0, safe) if safe.numel() else w.new_zeros(0)
                hot = torch.arange(classes, device=z.device) == safe.unsqueeze(1)
                loss = (1 - ls) * gap.masked_fill(~hot, 0).sum(1) * wt
                if ls > 0:
                    loss = loss + (ls / classes) * (gap * w).sum(1)
                loss = loss.masked_fill(~keep, 0)
                den = wt.masked_fill(~keep, 0).sum()
            if self.reduction == "none":
                return loss.reshape((n, *out_features) if batched else ()).to(dtype)
            loss = loss.sum()
            return (loss / den if self.reduction == "mean" else loss).to(dtype)
