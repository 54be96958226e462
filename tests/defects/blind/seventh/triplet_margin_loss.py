import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce):
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = "none" if not reduce else ("mean" if size_average else "sum")
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{name}' instead.",
        stacklevel=4,
    )
    return name


def _resolve(size_average, reduce, reduction, extra=()):
    if size_average is not None or reduce is not None:
        return _legacy(size_average, reduce)
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum") + tuple(extra):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _quiet(fn, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **kwargs)


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def _t_check(anchor, positive, negative, margin):
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    _t_dims(anchor, positive, negative)


def _t_dims(anchor, positive, negative):
    if not (anchor.dim() == positive.dim() == negative.dim()):
        raise RuntimeError(
            f"The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
            f"but got: anchor {anchor.dim()}D, positive {positive.dim()}D, and negative {negative.dim()}D inputs"
        )


def _sample(n=6, d=4, seed=0, dtype=torch.float32):
    g = _gen(seed)
    return tuple(torch.randn(n, d, generator=g, dtype=dtype) for _ in range(3))


# ---------------------------------------------------------------- wrong


def wrong_squared_distance(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The Euclidean distance is left squared (as in the FaceNet paper); shows for every input with p=2."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)

    def dist(x, y):
        if p == 2:
            return (x - y + eps).square().sum(-1)
        return F.pairwise_distance(x, y, p, eps)

    dn = dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduce((margin + dist(anchor, positive) - dn).clamp_min(0), red)


def witness_wrong_squared_distance():
    t = _sample()
    return not torch.allclose(wrong_squared_distance(*t), F.triplet_margin_loss(*t))


def wrong_mean_over_active(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """'mean' is taken over the triplets with a loss above zero only, as mining libraries do; shows when some triplets meet the margin."""
    red = _resolve(size_average, reduce, reduction)
    loss = F.triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, reduction="none")
    if red == "mean" and loss.numel():
        return loss.sum() / (loss > 0).sum().clamp_min(1)
    return _reduce(loss, red)


def witness_wrong_mean_over_active():
    a = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    n = torch.tensor([[5.0, 0.0], [0.5, 0.0]])
    return not torch.allclose(wrong_mean_over_active(a, a, n), F.triplet_margin_loss(a, a, n))


def wrong_swap_distance_norm(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The distance between positive and negative for the swap is always the Euclidean one, p is forgotten there; shows with swap=True and p other than 2."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)
    dp = F.pairwise_distance(anchor, positive, p, eps)
    dn = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, F.pairwise_distance(positive, negative, eps=eps))
    return _reduce((margin + dp - dn).clamp_min(0), red)


def witness_wrong_swap_distance_norm():
    t = _sample()
    x = wrong_swap_distance_norm(*t, p=1, swap=True)
    return not torch.allclose(x, F.triplet_margin_loss(*t, p=1, swap=True))


def wrong_vector_as_batch(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """Inputs go through view(size(0), -1), so a single vector (D) is taken for D samples of one number; shows for 1-D inputs."""
    if anchor.dim() == 1 and positive.dim() == 1 and negative.dim() == 1:
        anchor, positive, negative = (t.reshape(t.size(0), -1) for t in (anchor, positive, negative))
    return F.triplet_margin_loss(
        anchor, positive, negative, margin, p, eps, swap, size_average=size_average, reduce=reduce, reduction=reduction
    )


def witness_wrong_vector_as_batch():
    a, b, c = (t[0] for t in _sample())
    x = wrong_vector_as_batch(a, b, c, reduction="none")
    return x.shape != F.triplet_margin_loss(a, b, c, reduction="none").shape


def wrong_zero_margin_accepted(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """Only a negative margin is refused, although the margin has to be greater than 0; shows with margin=0."""
    red = _resolve(size_average, reduce, reduction)
    if margin < 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    _t_dims(anchor, positive, negative)
    dp = F.pairwise_distance(anchor, positive, p, eps)
    dn = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, F.pairwise_distance(positive, negative, p, eps))
    return _reduce((margin + dp - dn).clamp_min(0), red)


def witness_wrong_zero_margin_accepted():
    t = _sample()
    try:
        F.triplet_margin_loss(*t, margin=0)
        return False
    except ValueError:
        return bool(wrong_zero_margin_accepted(*t, margin=0).isfinite())


def wrong_expanded_square(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The Euclidean distance is computed as |x|^2 + |y|^2 - 2 x.y, which cancels; shows for embeddings that are close together but far from the origin."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)

    def dist(x, y):
        if p != 2:
            return F.pairwise_distance(x, y, p, eps)
        x, y = torch.broadcast_tensors(x + eps, y)
        sq = (x * x).sum(-1) + (y * y).sum(-1) - 2 * (x * y).sum(-1)
        on = ~(sq <= 0)
        return torch.where(on, torch.where(on, sq, torch.ones_like(sq)).sqrt(), torch.zeros_like(sq))

    dn = dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduce((margin + dist(anchor, positive) - dn).clamp_min(0), red)


def witness_wrong_expanded_square():
    a, b, c = (1000 + 0.01 * t for t in _sample())
    x = wrong_expanded_square(a, b, c, reduction="none")
    return bool((x - F.triplet_margin_loss(a, b, c, reduction="none")).abs().max() > 1e-2)


def wrong_root_of_zero(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The distance is sqrt(sum(d * d)) in the input dtype; where that sum is 0 the gradient is 0 * inf = NaN; shows for an anchor equal to its positive with eps=0."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)

    def dist(x, y):
        if p != 2:
            return F.pairwise_distance(x, y, p, eps)
        d = x - y + eps
        return (d * d).sum(-1).sqrt()

    dn = dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduce((margin + dist(anchor, positive) - dn).clamp_min(0), red)


def witness_wrong_root_of_zero():
    a = torch.tensor([[1.0, 2.0]], requires_grad=True)
    b, c = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 2.0]])
    (x,) = torch.autograd.grad(wrong_root_of_zero(a, b, c, eps=0.0), a)
    (z,) = torch.autograd.grad(F.triplet_margin_loss(a, b, c, eps=0.0), a)
    return bool(x.isnan().any()) and bool(z.isfinite().all())


# ---------------------------------------------------------------- right


def _rows(*ts):
    return tuple(t.unsqueeze(0) if t.dim() == 0 else t for t in ts)


def _ct(*ts):
    ct = ts[0].dtype
    for t in ts[1:]:
        ct = torch.promote_types(ct, t.dtype)
    return ct if ct.is_floating_point else torch.get_default_dtype()


def _formula_norm(d, p):
    ab = d.abs()
    if p == 1:
        return ab.sum(-1)
    if p in (float("inf"), -float("inf")):
        return ab.amax(-1) if p > 0 else ab.amin(-1)
    if p == 0 or p < 0 or d.shape[-1] == 0:
        return torch.linalg.vector_norm(d, p, dim=-1)
    top = ab.detach().amax(-1, keepdim=True)
    top = torch.where((top == 0) | top.isinf(), torch.ones_like(top), top)
    q = ab / top
    off = q == 0
    s = torch.where(off, torch.ones_like(q), q).pow(p).masked_fill(off, 0).sum(-1)
    none = s == 0
    root = torch.where(none, torch.ones_like(s), s).pow(1.0 / p).masked_fill(none, 0)
    return root * top.squeeze(-1)


def right_scaled_formula(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The written formula of the p-norm, scaled by the largest part of each row so that nothing overflows."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)
    ct = _ct(anchor, positive, negative)
    a, q, n = _rows(*(t.to(_wide(ct)) for t in (anchor, positive, negative)))
    dn = _formula_norm(a - n + eps, p)
    if swap:
        dn = torch.minimum(dn, _formula_norm(q - n + eps, p))
    z = _formula_norm(a - q + eps, p) - dn + margin
    z = torch.where(z < 0, torch.zeros_like(z), z)
    if anchor.dim() == 0:
        z = z.reshape(())
    return _reduce(z, red).to(ct)


class _PNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, p):
        return torch.linalg.vector_norm(d, p, dim=-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        d, ctx.p = inputs
        ctx.save_for_backward(d, output)

    @staticmethod
    def backward(ctx, g):
        d, r = ctx.saved_tensors
        p, g, r = ctx.p, g.unsqueeze(-1), r.unsqueeze(-1)
        if p == 0:
            return torch.zeros_like(d), None
        if p == 1:
            return g * d.sgn(), None
        if math.isinf(p):
            hit = d.abs() == r
            return g * d.sgn() * hit / hit.sum(-1, keepdim=True), None
        flat = r == 0
        safe = torch.where(flat, torch.ones_like(r), r)
        if p == 2:
            return (g * d / safe).masked_fill(flat, 0), None
        zero = d == 0
        q = torch.where(zero, torch.ones_like(d), d.abs() / safe).pow(p - 1).masked_fill(zero, 0)
        return (g * d.sgn() * q).masked_fill(flat, 0), None


def right_function(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The norm as an own autograd.Function with a hand-written backward."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)
    ct = _ct(anchor, positive, negative)
    a, q, n = _rows(*(t.to(_wide(ct)) for t in (anchor, positive, negative)))
    p = float(p)
    dp = _PNorm.apply((a - q).add(eps), p)
    dn = _PNorm.apply((a - n).add(eps), p)
    if swap:
        dn = torch.stack(torch.broadcast_tensors(dn, _PNorm.apply((q - n).add(eps), p))).amin(0)
    loss = torch.clamp(dp - dn + margin, min=0)
    if anchor.dim() == 0:
        loss = loss.squeeze(0)
    return _reduce(loss, red).to(ct)


def right_row_blocks(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """Blocks of rows, each row's product with itself for the Euclidean norm, partial sums in float64."""
    red = _resolve(size_average, reduce, reduction)
    _t_check(anchor, positive, negative, margin)
    ct = _ct(anchor, positive, negative)
    a, q, n = torch.broadcast_tensors(*_rows(*(t.to(_wide(ct)) for t in (anchor, positive, negative))))
    lead = a.shape[:-1]
    a, q, n = (t.reshape(math.prod(lead), t.shape[-1]) for t in (a, q, n))

    def dist(x, y):
        d = x - y + eps
        if p == 1:
            return d.abs().sum(-1)
        if p != 2:
            return torch.linalg.vector_norm(d, p, dim=-1)
        sq = torch.linalg.vecdot(d, d)
        off = sq == 0
        return torch.where(off, torch.ones_like(sq), sq).sqrt().masked_fill(off, 0)

    step = max(2, -(-a.shape[0] // 3))
    parts = []
    for u, v, w in zip(a.split(step), q.split(step), n.split(step)):
        dn = dist(u, w)
        if swap:
            dn = torch.min(dn, dist(v, w))
        parts.append(torch.relu(dist(u, v) - dn + margin))
    if red == "none":
        return torch.cat(parts).reshape(lead if anchor.dim() else ()).to(ct)
    total = sum(x.sum(dtype=torch.float64) for x in parts)
    if red == "mean":
        total = total / a.shape[0] if a.shape[0] else total * float("nan")
    return total.to(ct)


class RightTripletMarginLoss(nn.Module):
    """A module that stacks the differences and takes all norms at once."""

    __constants__ = ["margin", "p", "eps", "swap", "reduction"]

    def __init__(
        self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
    ):
        super().__init__()
        self.reduction = _legacy(size_average, reduce) if (size_average is not None or reduce is not None) else reduction
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor, positive, negative):
        red = _resolve(None, None, self.reduction)
        _t_check(anchor, positive, negative, self.margin)
        ct = _ct(anchor, positive, negative)
        a, q, n = torch.broadcast_tensors(*_rows(*(t.to(_wide(ct)) for t in (anchor, positive, negative))))
        left, right = ([a, a, q], [q, n, n]) if self.swap else ([a, a], [q, n])
        gaps = torch.stack(left).sub_(torch.stack(right)).add_(self.eps)
        d = torch.linalg.vector_norm(gaps, self.p, dim=-1)
        loss = d[0] - d[1:].amin(0) + self.margin
        loss = loss.clamp(min=0)
        if anchor.dim() == 0:
            loss = loss.squeeze(0)
        if red == "none":
            return loss.to(ct)
        return (loss.sum() if red == "sum" else loss.mean()).to(ct)
