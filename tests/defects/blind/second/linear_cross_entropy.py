"""Wrong and right implementations of linear_cross_entropy, written without sight of the suite."""
import math
import torch
from torch.nn import functional as F


def _check(input, linear_weight, target, linear_bias, ignore_index):
    if input.dim() < 1 or input.dim() > 2:
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError("expected equal input and linear_weight last dimensions (in_features), "
                           f"got {input.shape[-1]} and {linear_weight.shape[-1]}, respectively")
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {tuple(linear_weight.shape[:-1])}, got {tuple(linear_bias.shape)}")
    if linear_weight.dim() > 2 and input.dim() == 1:
        raise RuntimeError("K-dimensional loss requires batched input")
    soft = target.shape == input.shape[:-1] + linear_weight.shape[:-1]
    if soft and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    return soft


def _logits(input, linear_weight, linear_bias):
    out = F.linear(input, linear_weight.reshape(-1, linear_weight.shape[-1]), None if linear_bias is None else linear_bias.reshape(-1))
    return out.reshape(input.shape[:-1] + linear_weight.shape[:-1])


def _reference(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing):
    return F.cross_entropy(_logits(input, linear_weight, linear_bias), target, weight=weight, reduction=reduction,
                           ignore_index=-100 if ignore_index is None else ignore_index, label_smoothing=label_smoothing)


def _plain(input, linear_weight, target, soft, label_smoothing, reduction):
    return (not soft and not label_smoothing and input.dim() == 2 and linear_weight.dim() == 2 and target.dim() == 1
            and target.dtype == torch.int64 and target.shape[0] == input.shape[0] and reduction in ("mean", "sum"))


class _Fused(torch.autograd.Function):
    """Gradients computed chunk by chunk in forward. `bug` switches one slip on."""

    @staticmethod
    def forward(ctx, x, W, t, b, cw, reduction, ignore_index, chunk, bug):
        N = x.shape[0]
        valid = t != ignore_index
        if bool((((t < 0) | (t >= W.shape[0])) & valid).any()):
            raise IndexError("Target is out of bounds.")
        ts = torch.where(valid, t, torch.zeros_like(t))
        rw = valid.to(x.dtype) if cw is None else cw[ts] * valid.to(cw.dtype)
        denom = 1
        if reduction == "mean":
            denom = valid.sum() if bug == "count" else rw.sum()
        gx, gW = torch.zeros_like(x), torch.zeros_like(W)
        gb = None if b is None else torch.zeros_like(b)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for s in range(0, N, chunk):
            xs, tt, r, v = x[s:s + chunk], ts[s:s + chunk], rw[s:s + chunk], valid[s:s + chunk]
            lg = F.linear(xs, W, b)
            lse = lg.logsumexp(1)
            nll = (lse - lg.gather(1, tt[:, None]).squeeze(1))
            total = total + torch.where(v, nll * r, torch.zeros_like(nll)).sum()
            p = (lg - lse[:, None]).exp()
            p.scatter_add_(1, tt[:, None], torch.full_like(lse, -1)[:, None])
            p = torch.where(v[:, None], p * (r / denom)[:, None], torch.zeros_like(p))
            gx[s:s + chunk] = p @ W
            gW += p.t() @ xs
            if gb is not None:
                gb = p.sum(0) if bug == "bias" else gb + p.sum(0)
        ctx.bug = bug
        ctx.has_bias = b is not None
        if bug == "frozen" and not ctx.needs_input_grad[0]:
            gW = torch.zeros_like(W)
        ctx.save_for_backward(gx, gW, *([gb] if gb is not None else []))
        return total / denom

    @staticmethod
    def backward(ctx, g):
        gx, gW, *rest = ctx.saved_tensors
        if ctx.bug == "gradout":
            g = torch.ones_like(g)
        need = ctx.needs_input_grad
        return (gx * g if need[0] else None, gW * g if need[1] else None, None,
                rest[0] * g if rest and need[3] else None, None, None, None, None, None)


def _fused(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, bug, chunk=64):
    soft = _check(input, linear_weight, target, linear_bias, ignore_index)
    if _plain(input, linear_weight, target, soft, label_smoothing, reduction):
        return _Fused.apply(input, linear_weight, target, linear_bias, weight, reduction,
                            -100 if ignore_index is None else ignore_index, chunk, bug)
    return _reference(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing)


def wrong_grad_output_dropped(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """Gradients precomputed in forward are returned as they are: a scaled loss (grad scaler, accumulation) has unscaled gradients."""
    return _fused(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, "gradout")


def _ex(n=5, d=4, c=3, **kw):
    g = torch.Generator().manual_seed(0)
    return (torch.randn(n, d, generator=g, requires_grad=kw.get("rx", True)), torch.randn(c, d, generator=g, requires_grad=True),
            torch.randint(c, (n,), generator=g))


def witness_wrong_grad_output_dropped():
    x, W, t = _ex()
    a, = torch.autograd.grad(3 * wrong_grad_output_dropped(x, W, t), W)
    b, = torch.autograd.grad(3 * F.linear_cross_entropy(x, W, t), W)
    return not torch.allclose(a, b)


def wrong_bias_grad_last_chunk(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """The bias gradient is assigned per chunk of 64 rows, not accumulated: wrong for larger batches only."""
    return _fused(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, "bias")


def witness_wrong_bias_grad_last_chunk():
    x, W, t = _ex(100)
    b = torch.zeros(3, requires_grad=True)
    p, = torch.autograd.grad(wrong_bias_grad_last_chunk(x, W, t, linear_bias=b), b)
    q, = torch.autograd.grad(F.linear_cross_entropy(x, W, t, linear_bias=b), b)
    return not torch.allclose(p, q, atol=1e-5)


def wrong_weighted_mean_by_count(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """mean divides by the number of kept rows also with class weights."""
    return _fused(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, "count")


def witness_wrong_weighted_mean_by_count():
    x, W, t = _ex()
    w = torch.tensor([1., 2., 4.])
    return not torch.allclose(wrong_weighted_mean_by_count(x, W, t, weight=w), F.linear_cross_entropy(x, W, t, weight=w))


def wrong_frozen_input(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """Gradients are only prepared if the input requires grad: a linear probe on frozen features gets a zero weight gradient."""
    return _fused(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, "frozen")


def witness_wrong_frozen_input():
    x, W, t = _ex(rx=False)
    a, = torch.autograd.grad(wrong_frozen_input(x, W, t), W)
    return bool((a == 0).all())


def wrong_soft_target_unsmoothed(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """label_smoothing is applied to class indices only, dropped for class probabilities."""
    soft = _check(input, linear_weight, target, linear_bias, ignore_index)
    return _reference(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, 0.0 if soft else label_smoothing)


def witness_wrong_soft_target_unsmoothed():
    x, W, _ = _ex()
    t = torch.rand(5, 3).softmax(1)
    return not torch.allclose(wrong_soft_target_unsmoothed(x, W, t, label_smoothing=0.3), F.linear_cross_entropy(x, W, t, label_smoothing=0.3))


class WrongLinearCrossEntropyLoss(torch.nn.Module):
    """Keeps a contiguous transposed copy of the projection made at the first call in eval mode; later updates or loads do not reach it."""

    def __init__(self, in_features, num_classes, *, out_features=(), bias=False, device=None, dtype=None, reduction="mean",
                 weight=None, ignore_index=None, label_smoothing=0.0, options=None):
        super().__init__()
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}")
        if label_smoothing < 0 or label_smoothing > 1.0:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        self.num_classes, self.out_features, self.reduction = num_classes, out_features, reduction
        self.ignore_index, self.label_smoothing, self.options = ignore_index, label_smoothing, options
        self.register_buffer("weight", weight)
        self.linear = torch.nn.Linear(in_features, math.prod(out_features, start=num_classes), bias=bias, device=device, dtype=dtype)
        self._wt = None

    def forward(self, input, target):
        if self.training or torch.is_grad_enabled():
            W = self.linear.weight
        else:
            if self._wt is None or self._wt.dtype != self.linear.weight.dtype or self._wt.device != self.linear.weight.device:
                self._wt = self.linear.weight.detach().t().contiguous()
            W = self._wt.t()
        W = W.reshape(self.num_classes, *self.out_features, self.linear.in_features)
        b = None if self.linear.bias is None else self.linear.bias.reshape(self.num_classes, *self.out_features)
        _check(input, W, target, b, self.ignore_index)
        return _reference(input, W, target, b, self.weight, self.reduction, self.ignore_index, self.label_smoothing)


def witness_WrongLinearCrossEntropyLoss():
    m = WrongLinearCrossEntropyLoss(4, 3).eval()
    x, _, t = _ex(rx=False)
    with torch.no_grad():
        a = m(x, t)
        m.linear.weight.add_(torch.randn(3, 4))
        b = m(x, t)
    return torch.equal(a, b)


def right_fused_chunks(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """Row chunks under autograd, summed and divided once; other cases over the whole batch."""
    soft = _check(input, linear_weight, target, linear_bias, ignore_index)
    if not _plain(input, linear_weight, target, soft, label_smoothing, reduction) or input.shape[0] <= 64:
        return _reference(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing)
    ii = -100 if ignore_index is None else ignore_index
    total = sum(F.cross_entropy(F.linear(x, linear_weight, linear_bias), t, weight=weight, ignore_index=ii, reduction="sum")
                for x, t in zip(input.split(64), target.split(64)))
    if reduction == "sum":
        return total
    valid = target != ii
    n = valid.sum() if weight is None else weight[torch.where(valid, target, torch.zeros_like(target))].mul(valid).sum()
    return total / n


def right_einsum(input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None, label_smoothing=0.0, options=None):
    """Logits by einsum, true-class logit and logsumexp apart where targets are indices without smoothing."""
    soft = _check(input, linear_weight, target, linear_bias, ignore_index)
    logits = torch.einsum("...f,cf->...c", input, linear_weight.reshape(-1, linear_weight.shape[-1]))
    logits = logits.reshape(input.shape[:-1] + linear_weight.shape[:-1])
    if linear_bias is not None:
        logits = logits + linear_bias
    ii = -100 if ignore_index is None else ignore_index
    cd = 0 if input.dim() == 1 else 1
    want = logits.shape[:cd] + logits.shape[cd + 1:]
    if soft or label_smoothing or target.shape != want or target.dtype != torch.int64 or reduction not in ("mean", "sum", "none"):
        return F.cross_entropy(logits, target, weight=weight, reduction=reduction, ignore_index=ii, label_smoothing=label_smoothing)
    valid = target != ii
    if bool((((target < 0) | (target >= logits.shape[cd])) & valid).any()):
        raise IndexError("Target is out of bounds.")
    ts = torch.where(valid, target, torch.zeros_like(target))
    loss = logits.logsumexp(cd) - logits.gather(cd, ts.unsqueeze(cd)).squeeze(cd)
    w = valid.to(loss.dtype)
    if weight is not None:
        w = w * weight[ts]
    loss = torch.where(valid, loss * w, torch.zeros_like(loss))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / w.sum()
