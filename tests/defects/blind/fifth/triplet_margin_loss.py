import warnings

import torch
import torch.nn.functional as F
from torch import nn


def _resolve(size_average, reduce, reduction):
    """reduction as a string, deprecated arguments honoured."""
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        reduction = ("mean" if sa else "sum") if rd else "none"
        warnings.warn(
            "size_average and reduce args will be deprecated, "
            f"please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
        return reduction
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _wide(dtype):
    """dtype to compute in"""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.get_default_dtype()
    return dtype


def _differ(a, b, rtol=1e-4, atol=1e-5):
    return a.shape != b.shape or not torch.allclose(
        a.double(), b.double(), rtol=rtol, atol=atol, equal_nan=True
    )


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def _randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=_gen(seed), dtype=dtype)


def _check(anchor, positive, negative, margin):
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    a, p, n = anchor.dim(), positive.dim(), negative.dim()
    if not a == p == n:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of "
            f"dimensions, but got: anchor {a}D, positive {p}D, and negative {n}D inputs"
        )


def _hinge(dp, dn, margin, reduction):
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


# ---------------------------------------------------------------- wrong


def wrong_swap_takes_maximum(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """The distance swap takes the larger of d(a, n) and d(p, n) instead of the smaller; shows with swap=True."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    dp = F.pairwise_distance(anchor, positive, p, eps)
    dn = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        dn = torch.maximum(dn, F.pairwise_distance(positive, negative, p, eps))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_swap_takes_maximum():
    a, p, n = (_randn(4, 6, seed=i) for i in range(3))
    f, g = wrong_swap_takes_maximum, F.triplet_margin_loss
    return _differ(f(a, p, n, swap=True), g(a, p, n, swap=True)) and not _differ(
        f(a, p, n), g(a, p, n)
    )


def wrong_squared_distances(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """For p = 2 the root is left out and squared distances are compared; shows on nearly every input."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)

    def dist(x, y):
        if p == 2:
            return (x - y + eps).square().sum(-1)
        return F.pairwise_distance(x, y, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_squared_distances():
    a, p, n = (_randn(4, 6, seed=i) for i in range(3))
    return _differ(wrong_squared_distances(a, p, n), F.triplet_margin_loss(a, p, n))


def wrong_swap_ignores_p(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """p is not handed on to the swap distance, which is always Euclidean; shows with swap=True and p other than 2."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    dp = F.pairwise_distance(anchor, positive, p, eps)
    dn = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, F.pairwise_distance(positive, negative, eps=eps))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_swap_ignores_p():
    a, p, n = (_randn(4, 6, seed=i) for i in range(3))
    f, g = wrong_swap_ignores_p, F.triplet_margin_loss
    return (
        _differ(f(a, p, n, p=1, margin=5.0, swap=True), g(a, p, n, p=1, margin=5.0, swap=True))
        and not _differ(f(a, p, n, swap=True), g(a, p, n, swap=True))
        and not _differ(f(a, p, n, p=1), g(a, p, n, p=1))
    )


def wrong_gram_distance(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """The Euclidean distance is expanded to |x|^2 - 2xy + |y|^2, which cancels in float32 when the embeddings are far from the origin and close to each other."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)

    def dist(x, y):
        if p != 2:
            return F.pairwise_distance(x, y, p, eps)
        x = x + eps
        sq = x.square().sum(-1) - 2 * (x * y).sum(-1) + y.square().sum(-1)
        return sq.clamp_min(1e-12).sqrt()

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_gram_distance():
    a, p, n = (_randn(4, 6, seed=i) for i in range(3))
    f, g = wrong_gram_distance, F.triplet_margin_loss
    shift = 3000.0
    exact = g(a.double() + shift, p.double() + shift, n.double() + shift)
    return (
        not _differ(f(a, p, n), g(a, p, n))
        and _differ(f(a + shift, p + shift, n + shift), exact, rtol=2e-3)
        and not _differ(g(a + shift, p + shift, n + shift), exact, rtol=2e-3)
    )


def wrong_infinite_norm(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """The norm is always (sum |d|^p)^(1/p), which is 1 or NaN for p = inf instead of the largest |d|."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)

    def dist(x, y):
        if p == float("inf"):
            return (x - y + eps).abs().pow(p).sum(-1).pow(1.0 / p)
        return F.pairwise_distance(x, y, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_infinite_norm():
    a, p, n = (_randn(4, 6, seed=i) for i in range(3))
    inf = float("inf")
    return _differ(
        wrong_infinite_norm(a, p, n, p=inf, margin=3.0),
        F.triplet_margin_loss(a, p, n, p=inf, margin=3.0),
    )


def wrong_nan_gradient_at_zero(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """The Euclidean distance is a plain sqrt of a sum of squares, whose gradient is NaN (torch: 0) for identical vectors with eps=0 or where eps is lost."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)

    def dist(x, y):
        if p == 2:
            return (x - y + eps).square().sum(-1).sqrt()
        return F.pairwise_distance(x, y, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_nan_gradient_at_zero():
    a = _randn(3, 4).requires_grad_()
    p, n = a.detach().clone(), _randn(3, 4, seed=2)
    bad = torch.autograd.grad(wrong_nan_gradient_at_zero(a, p, n, margin=9.0, eps=0.0), a)[0]
    good = torch.autograd.grad(F.triplet_margin_loss(a, p, n, margin=9.0, eps=0.0), a)[0]
    return bool(bad.isnan().any() and good.isfinite().all())


def wrong_epsilon_under_root(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """eps is added to the sum of squares under the root instead of to the difference, so that the distance of equal or very close vectors is about 1e-3."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)

    def dist(x, y):
        if p == 2 and eps > 0:
            return ((x - y).square().sum(-1) + eps).sqrt()
        return F.pairwise_distance(x, y, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _hinge(dp, dn, margin, reduction)


def witness_wrong_epsilon_under_root():
    a, p, n = (_randn(4, 6, seed=i) for i in range(3))
    f, g = wrong_epsilon_under_root, F.triplet_margin_loss
    n2 = a + 10
    return not _differ(f(a, p, n), g(a, p, n)) and _differ(
        f(a, a, n2, margin=30.0) - g(a, a, n2, margin=30.0), torch.tensor(0.0), atol=5e-4
    )


def wrong_vector_as_batch(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """1D inputs of size D are taken for D samples of dimension 1 instead of one vector; batches (N, D) are right."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    if anchor.dim() == 1:
        anchor, positive, negative = (v.unsqueeze(1) for v in (anchor, positive, negative))
    return F.triplet_margin_loss(
        anchor, positive, negative, margin, p, eps, swap, reduction=reduction
    )


def witness_wrong_vector_as_batch():
    a, p, n = (_randn(5, seed=i) for i in range(3))
    f, g = wrong_vector_as_batch, F.triplet_margin_loss
    return _differ(f(a, p, n, reduction="none"), g(a, p, n, reduction="none")) and _differ(
        f(a, p, n, margin=9.0, p=1), g(a, p, n, margin=9.0, p=1)
    )


# ---------------------------------------------------------------- right


def _result_dtype(anchor, positive, negative):
    pairs = []
    for other in (positive, negative):
        dtype = torch.promote_types(anchor.dtype, other.dtype)
        pairs.append(dtype if dtype.is_floating_point else torch.get_default_dtype())
    return torch.promote_types(*pairs)


class _Distance(torch.autograd.Function):
    """|d|_p over the last dimension, with gradient 0 where the norm or an element is 0."""

    @staticmethod
    def forward(ctx, d, p):
        m = d.abs()
        if p == 0:
            out = (m != 0).sum(-1).to(d.dtype)
        elif p == float("inf"):
            out = m.amax(-1)
        elif p == float("-inf"):
            out = m.amin(-1)
        elif p == 1:
            out = m.sum(-1)
        elif p == 2:
            out = torch.einsum("...d,...d->...", d, d).sqrt()
        else:
            out = m.pow(p).sum(-1).pow(1.0 / p)
        ctx.p = p
        ctx.save_for_backward(d, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        d, out = ctx.saved_tensors
        p = ctx.p
        grad, norm = grad.unsqueeze(-1), out.unsqueeze(-1)
        m = d.abs()
        if p == 0:
            slope = torch.zeros_like(d)
        elif p in (float("inf"), float("-inf")):
            hit = (m == norm).to(d.dtype)
            slope = d.sign() * hit / hit.sum(-1, keepdim=True)
        elif p == 1:
            slope = d.sign()
        else:
            ratio = torch.where(norm > 0, m / norm, torch.zeros_like(m))
            on = (m > 0) & (norm > 0)
            ratio = torch.where(on, ratio, torch.ones_like(m))
            slope = torch.where(on, d.sign() * ratio.pow(p - 1), torch.zeros_like(m))
        return grad * slope, None


def right_distance_function(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """p-norm as an own autograd.Function, float32 for half types."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    out = _result_dtype(anchor, positive, negative)
    a, q, n = (v.to(_wide(out)) for v in (anchor, positive, negative))
    if a.dim() == 0:
        a, q, n = (v.reshape(1) for v in (a, q, n))
    dp = _Distance.apply(a - q + eps, p)
    dn = _Distance.apply(a - n + eps, p)
    if swap:
        dn = torch.minimum(dn, _Distance.apply(q - n + eps, p))
    return _reduce((margin + dp - dn).clamp_min(0), reduction).to(out)


def _scaled_norm(d, p):
    """|d|_p from tensor operations, scaled with the largest element where that is finite"""
    m = d.abs()
    if p == 0:
        return torch.where(m == 0, m, torch.ones_like(m)).sum(-1)
    if p == float("inf"):
        return m.amax(-1)
    if p == float("-inf"):
        return m.amin(-1)
    if p == 1:
        return m.sum(-1)
    if m.size(-1) == 0:
        return m.sum(-1)
    zero = m == 0
    if p < 0:
        # any zero element makes the norm 0
        safe = torch.where(zero, torch.ones_like(m), m)
        scale = safe.detach().amin(-1, keepdim=True)
        norm = (safe / scale).pow(p).sum(-1).pow(1.0 / p) * scale.squeeze(-1)
        return torch.where(zero.any(-1), torch.zeros_like(norm), norm)
    top = m.detach().amax(-1, keepdim=True)
    scale = torch.where((top > 0) & top.isfinite(), top, torch.ones_like(top))
    unit = torch.where(zero, torch.ones_like(m), m / scale).pow(p)
    total = torch.where(zero, torch.zeros_like(unit), unit).sum(-1)
    empty = zero.all(-1)
    norm = torch.where(empty, torch.ones_like(total), total).pow(1.0 / p) * scale.squeeze(-1)
    return torch.where(empty, torch.zeros_like(norm), norm)


def right_scaled_norm_stacked(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
    size_average=None, reduce=None, reduction="mean",
):
    """All differences stacked and one overflow-safe scaled norm with safe-where masks; swap as amin."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    out = _result_dtype(anchor, positive, negative)
    a, q, n = torch.broadcast_tensors(*(v.to(_wide(out)) for v in (anchor, positive, negative)))
    if a.dim() == 0:
        a, q, n = (v.reshape(1) for v in (a, q, n))
    diffs = [a - q, a - n] + ([q - n] if swap else [])
    dist = _scaled_norm(torch.stack(diffs) + eps, p)
    gap = margin + dist[0] - dist[1:].amin(0)
    return _reduce(torch.where(gap < 0, torch.zeros_like(gap), gap), reduction).to(out)
