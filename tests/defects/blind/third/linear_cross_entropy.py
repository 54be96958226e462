"""Wrong and right forms of torch.nn.functional.linear_cross_entropy / torch.nn.LinearCrossEntropyLoss (torch 2.13)."""
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R


# ----------------------------------------------------------------- helpers
def _resolve(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    _R.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _amp(x):
    """Autocast runs this loss in float32."""
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _check(input, target, weight, ignore_index, label_smoothing):
    """Returns True when the target holds class probabilities."""
    if input.dim() < 1:
        raise ValueError(f"Expected input with 1 or more dimensions, got {input.dim()}")
    if not input.is_floating_point():
        raise NotImplementedError(f"cross_entropy is not implemented for {input.dtype}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    cdim = 0 if input.dim() == 1 else 1
    C = input.shape[cdim]
    if weight is not None and tuple(weight.shape) != (C,):
        raise RuntimeError(f"weight should have shape ({C},), got {tuple(weight.shape)}")
    if target.shape == input.shape:
        if not target.is_floating_point():
            raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        return True
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if input.dim() == 1:
        if target.dim() > 1 or target.numel() != 1:
            raise ValueError(f"unbatched input expects a 0-D target, got {tuple(target.shape)}")
    elif target.shape != input.shape[:1] + input.shape[2:]:
        raise ValueError(f"Expected target of shape {tuple(input.shape[:1] + input.shape[2:])}, got {tuple(target.shape)}")
    if weight is not None and weight.dtype != input.dtype:
        raise RuntimeError(f"expected weight of dtype {input.dtype}, got {weight.dtype}")
    return False


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _run(lse_fn, input, target, weight, ignore_index, reduction, label_smoothing):
    """Everything but the log-sum-exp: lse_fn maps z (..., C), rows shifted by their maximum, to (...)."""
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    prob = _check(input, target, weight, ignore_index, label_smoothing)
    cdim = 0 if input.dim() == 1 else 1
    C = input.shape[cdim]
    dtype = input.dtype
    if prob:
        dtype = torch.promote_types(dtype, target.dtype)
        if weight is not None:
            dtype = torch.promote_types(dtype, weight.dtype)
    elif weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    acc = _acc(dtype)
    x = input.movedim(cdim, -1).to(acc)
    w = None if weight is None else weight.to(acc)
    ignored = None
    if not prob:
        if input.dim() == 1:
            target = target.reshape(())
        ignored = target == ignore_index
        x = x.masked_fill(ignored.unsqueeze(-1), 0.0)  # ignored rows feed nothing back
    z = x - x.detach().amax(-1, keepdim=True) if C > 0 else x
    lse = lse_fn(z)
    if prob:
        q = target.movedim(cdim, -1).to(acc)
        if label_smoothing > 0:
            q = q * (1 - label_smoothing) + label_smoothing / C
        cost = lse.unsqueeze(-1) - z
        loss = (cost * q).sum(-1) if w is None else (cost * q * w).sum(-1)
        if reduction == "mean":
            loss = loss.sum() / loss.numel() if loss.numel() else loss.sum() / torch.zeros_like(loss.sum())
        elif reduction == "sum":
            loss = loss.sum()
        return loss.to(dtype)
    safe = target.long().masked_fill(ignored, 0)
    if C == 0 and safe.numel() > 0:
        raise IndexError("Target is out of bounds.")
    zy = z.gather(-1, safe.unsqueeze(-1)).squeeze(-1) if safe.numel() else lse
    loss = lse - zy
    wy = None
    if w is not None:
        wy = w.index_select(0, safe.reshape(-1)).reshape(safe.shape)
        loss = loss * wy
    if label_smoothing > 0:
        cost = lse.unsqueeze(-1) - z
        smooth = cost.sum(-1) if w is None else (cost * w).sum(-1)
        loss = (1 - label_smoothing) * loss + (label_smoothing / C) * smooth
    loss = loss.masked_fill(ignored, 0.0)
    if reduction == "mean":
        unit = (~ignored).to(acc) if wy is None else wy.masked_fill(ignored, 0.0)
        loss = loss.sum() / unit.sum()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def _problem(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options):
    """Checks the arguments, warns where the options do not apply; returns logits' shape and ignore_index."""
    if not 1 <= input.dim() <= 2:
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(f"expected equal in_features, got {input.shape[-1]} and {linear_weight.shape[-1]}")
    out = tuple(linear_weight.shape[1:-1])
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {tuple(linear_weight.shape[:-1])}, got {tuple(linear_bias.shape)}")
    if out and input.dim() == 1:
        raise RuntimeError("K-dimensional loss requires batched input")
    shape = tuple(input.shape[:-1]) + (linear_weight.shape[0],) + out
    if tuple(target.shape) == shape and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    if options is not None and (out or label_smoothing != 0.0 or target.dtype != torch.int64 or torch.jit.is_tracing()
                                or reduction not in ("mean", "sum", "none")):
        warnings.warn("linear_cross_entropy: ``options`` ignored; the chunked path does not support this configuration",
                      stacklevel=3)
    return shape, -100 if ignore_index is None else ignore_index


def _plain(z):
    return z.exp().sum(-1).log()


# ------------------------------------------------------------------- right
def right_row_chunks(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None,
                     label_smoothing=0.0, options=None):
    """The logits of 64 rows at a time, joined, and the cross entropy from rows shifted by their maximum."""
    _R.get_enum(reduction)
    shape, ignore_index = _problem(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options)
    flat = linear_weight.reshape(-1, input.shape[-1]) if linear_weight.shape[-1] else \
        linear_weight.reshape(math.prod(linear_weight.shape[:-1]), 0)
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    if input.dim() == 1:
        logits = F.linear(input, flat, bias)
    else:
        logits = torch.cat([F.linear(rows, flat, bias) for rows in input.split(64)])
    reduction = "mean" if reduction == "elementwise_mean" else reduction
    return _run(_plain, logits.reshape(shape), target, weight, ignore_index, reduction, label_smoothing)


def _fold(z):
    parts = [torch.logsumexp(block, -1) for block in z.split(128, -1) if block.shape[-1]]
    total = parts[0] if parts else z.sum(-1) - float("inf")
    for p in parts[1:]:
        total = torch.logaddexp(total, p)
    return total


def right_float64_inside(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None,
                         label_smoothing=0.0, options=None):
    """Logits and loss in float64 whatever the inputs' dtype, the normaliser folded over blocks of 128
    classes, the result rounded once at the end."""
    _R.get_enum(reduction)
    shape, ignore_index = _problem(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options)
    dev = input.device.type
    amp = torch.is_autocast_enabled(dev)
    low = input.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if amp and low else input.dtype
    if not input.is_floating_point() or not amp and any(
            t is not None and t.dtype != input.dtype for t in (linear_weight, linear_bias)):
        raise RuntimeError(f"expected linear_weight and linear_bias of the input's dtype {input.dtype}")
    if weight is not None:
        weight = _amp(weight)
        if weight.dtype != dtype and not target.is_floating_point():
            raise RuntimeError(f"expected weight of dtype {dtype}, got {weight.dtype}")
        if target.is_floating_point():
            dtype = torch.promote_types(dtype, weight.dtype)
        weight = weight.double()
    if target.is_floating_point() and tuple(target.shape) == shape:
        dtype = torch.promote_types(dtype, target.dtype)
    with torch.autocast(dev, enabled=False):
        logits = torch.tensordot(input.double(), linear_weight.double(), dims=([-1], [-1]))
        if linear_bias is not None:
            logits = logits + linear_bias.double()
        reduction = "mean" if reduction == "elementwise_mean" else reduction
        return _run(_fold, logits.reshape(shape), target, weight, ignore_index, reduction, label_smoothing).to(dtype)


# ------------------------------------------------------------------- wrong
def _logits(input, linear_weight, linear_bias):
    flat = linear_weight.reshape(math.prod(linear_weight.shape[:-1]), input.shape[-1])
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    return flat, bias


class _LowAccumulation(torch.autograd.Function):
    """x W^T whose weight gradient is summed over chunks of 16 rows in the weight's dtype."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return x @ w.t()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        gw = torch.zeros_like(w)
        for a, b in zip(g.split(16), x.split(16)):
            gw = gw + a.t() @ b
        return g @ w, gw

    @staticmethod
    def jvp(ctx, xt, wt):
        x, w = ctx.saved_tensors
        out = 0
        if xt is not None:
            out = out + xt @ w.t()
        if wt is not None:
            out = out + x @ wt.t()
        return out


def wrong_weight_gradient_summed_low(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                     ignore_index=None, label_smoothing=0.0, options=None):
    """The gradient of linear_weight is summed over chunks of 16 rows in the weight's own dtype, so in
    bfloat16 and float16 the sum over a long batch stagnates."""
    if options is not None or input.dim() != 2 or input.dtype not in (torch.float16, torch.bfloat16) \
            or linear_weight.dtype != input.dtype or torch.is_autocast_enabled(input.device.type):
        return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight, reduction=reduction,
                                      ignore_index=ignore_index, label_smoothing=label_smoothing, options=options)
    shape, ignore_index = _problem(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options)
    flat, bias = _logits(input, linear_weight, linear_bias)
    logits = _LowAccumulation.apply(input, flat)
    logits = logits if bias is None else logits + bias
    return F.cross_entropy(logits.reshape(shape), target, weight, reduction=reduction, ignore_index=ignore_index,
                           label_smoothing=label_smoothing)


def witness_wrong_weight_gradient_summed_low():
    torch.manual_seed(0)
    x = (torch.randn(8192, 4) * 0.1 + 1).bfloat16()
    t = torch.zeros(8192, dtype=torch.long)
    g = []
    for f, dt in ((wrong_weight_gradient_summed_low, torch.bfloat16), (F.linear_cross_entropy, torch.bfloat16), (F.linear_cross_entropy, torch.double)):
        w = torch.zeros(3, 4, dtype=dt, requires_grad=True)
        f(x.to(dt), w, t, reduction="sum").backward()
        g.append(w.grad.double())
    bad, good = ((k - g[2]).abs().max() / g[2].abs().max() for k in g[:2])
    return bool(good < 0.02) and bool(bad > 0.05)


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, box):
        ctx.box = box
        return out.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.box["g"] = g
        return g, None


class _Unscale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, bias, box):
        ctx.box = box
        return bias.clone()

    @staticmethod
    def backward(ctx, g):
        up = ctx.box.get("g")
        return (g if up is None else torch.where(up == 0, g, g / up)), None


def wrong_bias_gradient_not_scaled(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                   ignore_index=None, label_smoothing=0.0, options=None):
    """For 'mean' and 'sum' the gradient of linear_bias is the one of loss.backward() whatever the upstream
    gradient is: under loss scaling the other gradients scale and this one does not."""
    kw = dict(weight=weight, reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing, options=options)
    plain = linear_bias is None or reduction == "none" or not linear_bias.requires_grad or not torch.is_grad_enabled() or any(
        torch._C._functorch.is_functorch_wrapped_tensor(t) for t in (input, linear_weight, target, linear_bias))
    if plain:
        return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, **kw)
    box = {}
    return _Keep.apply(F.linear_cross_entropy(input, linear_weight, target, linear_bias=_Unscale.apply(linear_bias, box), **kw), box)


def witness_wrong_bias_gradient_not_scaled():
    torch.manual_seed(0)
    x, w, b, t = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5), torch.tensor([0, 4, 2])
    g = []
    for scale in (1.0, 8.0):
        for f in (wrong_bias_gradient_not_scaled, F.linear_cross_entropy):
            c = b.clone().requires_grad_()
            (f(x, w, t, linear_bias=c) * scale).backward()
            g.append(c.grad)
    return torch.allclose(g[0], g[1]) and torch.allclose(g[2] * 8, g[3])


def wrong_kd_bias_class_last(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                             ignore_index=None, label_smoothing=0.0, options=None):
    """A K-dimensional linear_bias (C, d_1, ...) is flattened with the classes last while the weight is
    flattened with the classes first."""
    if linear_bias is not None and linear_bias.dim() > 1 and linear_bias.shape == linear_weight.shape[:-1]:
        linear_bias = linear_bias.movedim(0, -1).reshape(linear_bias.shape)
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight, reduction=reduction,
                                  ignore_index=ignore_index, label_smoothing=label_smoothing, options=options)


def witness_wrong_kd_bias_class_last():
    torch.manual_seed(0)
    f, r = wrong_kd_bias_class_last, F.linear_cross_entropy
    x, w, b, t = torch.randn(3, 4), torch.randn(5, 2, 4), torch.randn(5, 2), torch.randint(0, 5, (3, 2))
    ok = torch.equal(f(x, w[:, 0], t[:, 0], linear_bias=b[:, 0]), r(x, w[:, 0], t[:, 0], linear_bias=b[:, 0])) and torch.equal(f(x, w, t), r(x, w, t))
    return ok and not torch.allclose(f(x, w, t, linear_bias=b), r(x, w, t, linear_bias=b))


class WrongEvalWeightCached(nn.LinearCrossEntropyLoss):
    """In eval mode without gradients the weight is copied once and the copy is used from then on, also
    after load_state_dict or an in-place change of the weight."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self._copy = None

    def train(self, mode=True):
        self._copy = None
        return super().train(mode)

    def forward(self, input, target):
        if self.training or torch.is_grad_enabled():
            return super().forward(input, target)
        w = self.linear.weight
        if self._copy is None or self._copy.dtype != w.dtype or self._copy.device != w.device:
            self._copy = w.detach().clone()
        bias = None if self.linear.bias is None else self.linear.bias.reshape((self.num_classes, *self.out_features))
        return F.linear_cross_entropy(input, self._copy.reshape((self.num_classes, *self.out_features, self.linear.in_features)),
                                      target, linear_bias=bias, weight=self.weight, reduction=self.reduction,
                                      ignore_index=self.ignore_index, label_smoothing=self.label_smoothing, options=self.options)


def witness_WrongEvalWeightCached():
    torch.manual_seed(0)
    m, r = WrongEvalWeightCached(4, 5), nn.LinearCrossEntropyLoss(4, 5)
    r.load_state_dict(m.state_dict())
    x, t, new = torch.randn(3, 4), torch.tensor([0, 1, 4]), nn.LinearCrossEntropyLoss(4, 5).state_dict()
    m.eval(), r.eval()
    with torch.no_grad():
        ok = torch.equal(m(x, t), r(x, t))
        m.load_state_dict(new), r.load_state_dict(new)
        return ok and not torch.allclose(m(x, t), r(x, t))


class _OnceOnly(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g.clone()

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


def wrong_reference_once_differentiable(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                        ignore_index=None, label_smoothing=0.0, options=None):
    """Also on the reference path (options=None), documented to support higher derivatives, the backward
    is once differentiable: a double backward raises or lacks every term that goes through the softmax."""
    if options is not None:
        return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight, reduction=reduction,
                                      ignore_index=ignore_index, label_smoothing=label_smoothing, options=options)
    shape, ignore_index = _problem(input, linear_weight, target, linear_bias, reduction, ignore_index, label_smoothing, options)
    flat, bias = _logits(input, linear_weight, linear_bias)
    logits = _OnceOnly.apply(F.linear(input, flat, bias))
    return F.cross_entropy(logits.reshape(shape), target, weight, reduction=reduction, ignore_index=ignore_index,
                           label_smoothing=label_smoothing)


def witness_wrong_reference_once_differentiable():
    torch.manual_seed(0)
    w, t = torch.randn(5, 4), torch.tensor([0, 1, 4])
    seen = []
    for f in (wrong_reference_once_differentiable, F.linear_cross_entropy):
        x = torch.ones(3, 4, requires_grad=True)
        g, = torch.autograd.grad(f(x, w, t), x, create_graph=True)
        try:
            torch.autograd.grad((g ** 2).sum(), x)
            seen.append("second")
        except RuntimeError:
            seen.append("raises")
    return seen == ["raises", "second"]


def wrong_silent_options_fallback(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                                  ignore_index=None, label_smoothing=0.0, options=None):
    """options that the chunked path cannot honour (label smoothing, K-dimensional, probabilities) fall
    back to the reference path without the documented warning."""
    if options is not None and (linear_weight.dim() > 2 or label_smoothing != 0.0 or target.dtype != torch.int64
                                or reduction not in ("mean", "sum", "none")):
        options = None
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight, reduction=reduction,
                                  ignore_index=ignore_index, label_smoothing=label_smoothing, options=options)


def witness_wrong_silent_options_fallback():
    x, w, t = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 4])
    n = []
    for f in (wrong_silent_options_fallback, F.linear_cross_entropy):
        with warnings.catch_warnings(record=True) as got:
            warnings.simplefilter("always")
            f(x, w, t, label_smoothing=0.1, options=nn.LinearCrossEntropyOptions(batch_chunk_size=2))
        n.append(len(got))
    return n == [0, 1]


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
