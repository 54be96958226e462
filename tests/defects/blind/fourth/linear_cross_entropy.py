import torch
import torch.nn as nn
import torch.nn.functional as F


def _plain(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options):
    return F.linear_cross_entropy(input, linear_weight, target, linear_bias=linear_bias, weight=weight,
                                  reduction=reduction, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing, options=options)


def _regular(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options):
    """True for valid (N, in) x (C, in) calls with int64 class indices; the rest is left to torch."""
    if options is not None or reduction not in ("none", "mean", "sum") or label_smoothing != 0.0:
        return False
    if input.dim() != 2 or linear_weight.dim() != 2 or input.shape[1] != linear_weight.shape[1]:
        return False
    if target.dtype != torch.int64 or target.shape != input.shape[:1] or torch.is_autocast_enabled(input.device.type):
        return False
    if not input.is_floating_point() or input.dtype != linear_weight.dtype:
        return False
    c = linear_weight.shape[0]
    if c == 0 or (linear_bias is not None and (linear_bias.shape != (c,) or linear_bias.dtype != input.dtype)):
        return False
    if weight is not None and (weight.shape != (c,) or weight.dtype != input.dtype or weight.requires_grad):
        return False
    if torch.compiler.is_compiling():
        return True
    try:
        ii = -100 if ignore_index is None else ignore_index
        return not bool(((target != ii) & ((target < 0) | (target >= c))).any())
    except RuntimeError:
        return True


# ------------------------------------------------------------------ wrong
def _again(x, w, b, t, cw, g, how):
    """Gradients of the plain formula, for create_graph."""
    loss = F.cross_entropy(F.linear(x, w, b), t, cw, **how)
    need = [v for v in (x, w, b) if v is not None and v.requires_grad]
    got = iter(torch.autograd.grad(loss, need, g.to(loss.dtype), create_graph=True))
    return tuple(next(got) if v is not None and v.requires_grad else None for v in (x, w, b))


class _FusedLinearCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, t, cw, reduction, ii):
        with torch.enable_grad():
            xs, ws = x.detach().requires_grad_(), w.detach().requires_grad_()
            bs = None if b is None else b.detach().requires_grad_()
            loss = F.cross_entropy(F.linear(xs, ws, bs), t, cw, ignore_index=ii, reduction=reduction)
            gs = torch.autograd.grad(loss, [xs, ws] if bs is None else [xs, ws, bs])
        ctx.how = dict(ignore_index=ii, reduction=reduction)
        ctx.save_for_backward(x, w, b, t, cw, *gs)
        return loss.detach()

    @staticmethod
    def backward(ctx, g):
        x, w, b, t, cw, gx, gw, *gb = ctx.saved_tensors
        gb = gb[0] if gb else None
        if torch.is_grad_enabled():
            return (*_again(x, w, b, t, cw, g, ctx.how), None, None, None, None)
        return gx * g, gw * g, gb, None, None, None, None


def wrong_bias_unscaled(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                        ignore_index=None, label_smoothing=0.0, options=None):
    """Gradients are made in forward and scaled by the incoming gradient in backward, except the bias gradient."""
    a = (input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options)
    if reduction == "none" or torch._C._are_functorch_transforms_active() or not _regular(*a):
        return _plain(*a)
    return _FusedLinearCE.apply(input, linear_weight, linear_bias, target, weight, reduction,
                                -100 if ignore_index is None else ignore_index)


def witness_wrong_bias_unscaled():
    torch.manual_seed(0)
    x, w, b, t = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5, requires_grad=True), torch.tensor([0, 4, 2, 1])

    def g(f):
        return torch.autograd.grad(f(x, w, t, linear_bias=b) * 8.0, b)[0]
    return not torch.allclose(g(wrong_bias_unscaled), g(F.linear_cross_entropy))


def wrong_mean_of_chunks(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                         ignore_index=None, label_smoothing=0.0, options=None):
    """Rows are taken in chunks of 256 and the chunk means are weighted by rows, not by valid (weighted) targets."""
    a = (input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options)
    chunk = 256
    if input.dim() != 2 or input.shape[0] <= chunk or not _regular(*a):
        return _plain(*a)
    ii = -100 if ignore_index is None else ignore_index
    n, parts = input.shape[0], []
    for lo in range(0, n, chunk):
        x, t = input[lo:lo + chunk], target[lo:lo + chunk]
        part = F.cross_entropy(F.linear(x, linear_weight, linear_bias), t, weight, ignore_index=ii, reduction=reduction)
        if reduction == "mean":
            part = torch.where((t != ii).any(), part, 0.0) * (x.shape[0] / n)
        parts.append(part)
    return torch.cat(parts) if reduction == "none" else torch.stack(parts).sum()


def witness_wrong_mean_of_chunks():
    torch.manual_seed(0)
    x, w, t = torch.randn(300, 3), torch.randn(5, 3), torch.randint(0, 5, (300,))
    t[:200] = -100
    return not torch.allclose(wrong_mean_of_chunks(x, w, t), F.linear_cross_entropy(x, w, t), atol=1e-4)


class WrongUnpicklable(nn.LinearCrossEntropyLoss):
    """The loss call is bound in a lambda kept on the module, so pickle and torch.save of the module fail."""

    def __init__(self, in_features, num_classes, *, out_features=(), bias=False, device=None, dtype=None,
                 reduction="mean", weight=None, ignore_index=None, label_smoothing=0.0, options=None):
        super().__init__(in_features, num_classes, out_features=out_features, bias=bias, device=device, dtype=dtype,
                         reduction=reduction, weight=weight, ignore_index=ignore_index,
                         label_smoothing=label_smoothing, options=options)
        self._call = lambda m, x, w, t, b: F.linear_cross_entropy(
            x, w, t, linear_bias=b, weight=m.weight, reduction=m.reduction, ignore_index=m.ignore_index,
            label_smoothing=m.label_smoothing, options=m.options)

    def forward(self, input, target):
        shape = (self.num_classes, *self.out_features)
        b = self.linear.bias
        return self._call(self, input, self.linear.weight.reshape(*shape, self.linear.in_features), target,
                          None if b is None else b.reshape(shape))


def witness_WrongUnpicklable():
    import pickle
    pickle.dumps(nn.LinearCrossEntropyLoss(2, 3))
    try:
        pickle.dumps(WrongUnpicklable(2, 3))
    except Exception:
        return True
    return False


class _ChunkedGrad(torch.autograd.Function):
    CHUNK = 16

    @staticmethod
    def forward(ctx, x, w, b, t, cw, ii):
        c = w.shape[0]
        gx, gw = torch.empty_like(x), torch.zeros_like(w)
        gb = None if b is None else torch.zeros_like(b, dtype=torch.float32)
        keep = t != ii
        safe = t.masked_fill(~keep, 0)
        rw = keep.float() if cw is None else cw.float()[safe] * keep
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        for lo in range(0, x.shape[0], _ChunkedGrad.CHUNK):
            s = slice(lo, lo + _ChunkedGrad.CHUNK)
            z = F.linear(x[s], w, b).float()
            lp = z.log_softmax(1)
            total += torch.where(keep[s], -lp.gather(1, safe[s, None])[:, 0] * rw[s], 0.0).sum()
            d = ((lp.exp() - F.one_hot(safe[s], c)) * rw[s, None]).to(x.dtype)
            gx[s] = d @ w
            gw += d.t() @ x[s]
            if gb is not None:
                gb += d.float().sum(0)
        ctx.ii = ii
        ctx.save_for_backward(x, w, b, t, cw, gx, gw, None if gb is None else gb.to(b.dtype))
        return total

    @staticmethod
    def backward(ctx, g):
        x, w, b, t, cw, gx, gw, gb = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_again(x, w, b, t, cw, g, dict(ignore_index=ctx.ii, reduction="sum")), None, None, None)
        return ((gx * g).to(gx.dtype), (gw * g).to(gw.dtype), None if gb is None else (gb * g).to(gb.dtype),
                None, None, None)


def wrong_low_precision_accum(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                              ignore_index=None, label_smoothing=0.0, options=None):
    """The weight gradient is accumulated over 16-row chunks in the parameter's own dtype, so bfloat16 loses most digits on long batches."""
    a = (input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options)
    if (input.dtype != torch.bfloat16 or reduction == "none" or not input.numel()
            or torch._C._are_functorch_transforms_active() or not _regular(*a)):
        return _plain(*a)
    ii = -100 if ignore_index is None else ignore_index
    total = _ChunkedGrad.apply(input, linear_weight, linear_bias, target, weight, ii)
    if reduction == "mean":
        keep = target != ii
        total = total / (keep.float().sum() if weight is None else (weight.float()[target * keep] * keep).sum())
    return total.to(input.dtype)


def witness_wrong_low_precision_accum():
    torch.manual_seed(0)
    x = (torch.rand(16384, 4) + 0.5).bfloat16()
    w = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    t = torch.randint(0, 2, (16384,))
    g = torch.autograd.grad(wrong_low_precision_accum(x, w, t), w)[0].double()
    w64 = w.detach().double().requires_grad_()
    r = torch.autograd.grad(F.linear_cross_entropy(x.double(), w64, t), w64)[0]
    return float((g - r).abs().max() / r.abs().max()) > 0.05


class WrongProbIgnoreIndex(nn.LinearCrossEntropyLoss):
    """An explicit ignore_index beside class-probability targets is silently dropped instead of raising RuntimeError."""

    def forward(self, input, target):
        shape = (self.num_classes, *self.out_features)
        b = self.linear.bias
        ii = None if target.is_floating_point() else self.ignore_index
        return F.linear_cross_entropy(
            input, self.linear.weight.reshape(*shape, self.linear.in_features), target,
            linear_bias=None if b is None else b.reshape(shape), weight=self.weight, reduction=self.reduction,
            ignore_index=ii, label_smoothing=self.label_smoothing, options=self.options)


def witness_WrongProbIgnoreIndex():
    x, t = torch.randn(2, 3), torch.full((2, 4), 0.25)
    try:
        nn.LinearCrossEntropyLoss(3, 4, ignore_index=1)(x, t)
        return False
    except RuntimeError:
        return bool(WrongProbIgnoreIndex(3, 4, ignore_index=1)(x, t).isfinite())


# ------------------------------------------------------------------ right
def right_einsum(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean",
                 ignore_index=None, label_smoothing=0.0, options=None):
    """Written with one einsum over the possibly multi-dimensional weight in at least float32, an own log-softmax and a one-hot contraction."""
    a = (input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options)
    ok = (options is None and reduction in ("none", "mean", "sum") and 0.0 <= label_smoothing <= 1.0
          and input.dim() in (1, 2) and linear_weight.dim() >= 2 and input.is_floating_point()
          and input.dtype == linear_weight.dtype and input.shape[-1] == linear_weight.shape[-1]
          and (input.dim() == 2 or linear_weight.dim() == 2) and linear_weight.shape[0] > 0
          and (linear_bias is None or (linear_bias.dtype == input.dtype and linear_bias.shape == linear_weight.shape[:-1]))
          and (weight is None or (weight.shape == linear_weight.shape[:1] and weight.dtype == input.dtype
                                  and not weight.requires_grad))
          and not torch.is_autocast_enabled(input.device.type))
    if not ok:
        return _plain(*a)  # torch's own errors, warnings and chunked path
    c, dims = linear_weight.shape[0], linear_weight.shape[1:-1]
    soft = target.shape == (*input.shape[:-1], c, *dims)
    ii = -100 if ignore_index is None else ignore_index
    if soft:
        if target.dtype != input.dtype or ignore_index is not None:
            return _plain(*a)
    else:
        if target.dtype != torch.int64 or target.shape != (*input.shape[:-1], *dims):
            return _plain(*a)
        if not torch.compiler.is_compiling():
            try:
                if bool(((target != ii) & ((target < 0) | (target >= c))).any()):
                    return _plain(*a)
            except RuntimeError:
                pass
    acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    d = input.dim() - 1
    z = torch.einsum("...i,cki->...ck", input.to(acc), linear_weight.to(acc).reshape(c, -1, input.shape[-1]))
    if linear_bias is not None:
        z = z + linear_bias.to(acc).reshape(c, -1)
    z = z - z.detach().amax(d, keepdim=True)
    logp = z - z.exp().sum(d, keepdim=True).log()
    cw = None if weight is None else weight.to(acc).unsqueeze(1)
    shape = (*input.shape[:-1], *dims)
    if soft:
        q = target.to(acc).reshape(logp.shape)
        if label_smoothing > 0:
            q = (1 - label_smoothing) * q + label_smoothing / c
        rows = -(q * logp if cw is None else q * logp * cw).sum(d)
        den = rows.numel()
    else:
        t = target.reshape(logp.shape[:-2] + logp.shape[-1:])
        keep = t != ii
        hit = torch.arange(c, device=t.device).unsqueeze(1) == torch.where(keep, t, 0).unsqueeze(d)
        wl = logp if cw is None else logp * cw
        rows = -torch.where(hit, wl, 0.0).sum(d)
        if label_smoothing > 0:
            rows = (1 - label_smoothing) * rows - label_smoothing / c * wl.sum(d)
        rows = torch.where(keep, rows, 0.0)
        rw = keep.to(acc) if cw is None else torch.where(hit, cw, 0.0).sum(d) * keep
        den = rw.sum()
    if reduction == "none":
        return rows.reshape(shape).to(input.dtype)
    out = rows.sum()
    if reduction == "mean":
        out = out / den if not soft or den else out * float("nan")
    return out.to(input.dtype)
