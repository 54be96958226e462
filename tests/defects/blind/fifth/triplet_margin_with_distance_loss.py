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


def _check(anchor, positive, negative, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    a, p, n = anchor.ndim, positive.ndim, negative.ndim
    if not a == p == n:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of "
            f"dimensions, but got: anchor {a}D, positive {p}D, and negative {n}D inputs"
        )


def _three(seed=0, *shape):
    return tuple(_randn(*shape, seed=seed + i) for i in range(3))


# ---------------------------------------------------------------- wrong


def wrong_default_distance_squared(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """The default distance is the squared Euclidean distance instead of PairwiseDistance; a given distance_function works."""
    _check(anchor, positive, negative, margin, reduction)
    if distance_function is None:
        def distance_function(x, y):
            return (x - y + 1e-6).square().sum(-1)
    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance_function, margin=margin,
        swap=swap, reduction=reduction,
    )


def witness_wrong_default_distance_squared():
    a, p, n = _three(0, 4, 6)
    f, g = wrong_default_distance_squared, F.triplet_margin_with_distance_loss
    return _differ(f(a, p, n), g(a, p, n))


def wrong_margin_default(
    anchor, positive, negative, *, distance_function=None, margin=0.5, swap=False,
    reduction="mean",
):
    """margin defaults to 0.5 instead of 1; shows whenever the margin is not given."""
    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance_function, margin=margin,
        swap=swap, reduction=reduction,
    )


def witness_wrong_margin_default():
    a, p, n = _three(0, 4, 6)
    f, g = wrong_margin_default, F.triplet_margin_with_distance_loss
    return _differ(f(a, p, n), g(a, p, n))


def wrong_swap_uses_default_distance(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """The swap distance d(p, n) is always the Euclidean distance; shows with swap=True and an own distance_function."""
    _check(anchor, positive, negative, margin, reduction)
    dist = F.pairwise_distance if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, F.pairwise_distance(positive, negative))
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_swap_uses_default_distance():
    a, p, n = _three(0, 4, 6)
    f, g = wrong_swap_uses_default_distance, F.triplet_margin_with_distance_loss

    def l1(x, y):
        return (x - y).abs().sum(-1)

    def both(h, **kw):
        return h(a, p, n, margin=9.0, **kw)

    return (
        _differ(both(f, distance_function=l1, swap=True), both(g, distance_function=l1, swap=True))
        and not _differ(both(f, swap=True), both(g, swap=True))
        and not _differ(both(f, distance_function=l1), both(g, distance_function=l1))
    )


def wrong_argument_order(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """distance_function is called as d(p, a) and d(n, a) instead of d(a, p) and d(a, n); shows with an asymmetric function such as a KL divergence."""
    _check(anchor, positive, negative, margin, reduction)
    if distance_function is None:
        dist = F.pairwise_distance
    else:
        def dist(x, y):
            return distance_function(y, x)
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        other = F.pairwise_distance if distance_function is None else distance_function
        dn = torch.minimum(dn, other(positive, negative))
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_argument_order():
    a, p, n = _three(0, 4, 6)
    f, g = wrong_argument_order, F.triplet_margin_with_distance_loss

    def kl(x, y):
        return F.kl_div(y.log_softmax(-1), x.log_softmax(-1), reduction="none", log_target=True).sum(-1)

    def l1(x, y):
        return (x - y).abs().sum(-1)

    return _differ(
        f(a, p, n, distance_function=kl), g(a, p, n, distance_function=kl)
    ) and not _differ(f(a, p, n, distance_function=l1), g(a, p, n, distance_function=l1))


def wrong_flattens_samples(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """Inputs with more than two dimensions are flattened to (N, -1) before distance_function sees them, although they may be any shape that it can handle."""
    _check(anchor, positive, negative, margin, reduction)
    if anchor.ndim > 2:
        anchor, positive, negative = (v.flatten(1) for v in (anchor, positive, negative))
    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance_function, margin=margin,
        swap=swap, reduction=reduction,
    )


def witness_wrong_flattens_samples():
    a, p, n = _three(0, 4, 3, 5)
    f, g = wrong_flattens_samples, F.triplet_margin_with_distance_loss

    def per_channel(x, y):
        return (x - y).square().sum(-1).sqrt().amax(1)

    want = g(a, p, n, distance_function=per_channel, reduction="none")
    try:
        got = f(a, p, n, distance_function=per_channel, reduction="none")
    except (RuntimeError, IndexError):
        return want.shape == (4,)
    return _differ(got, want)


def wrong_swap_without_gradient(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """The swap distance is computed under no_grad, so that swapped triplets push neither positive nor negative; values are right."""
    _check(anchor, positive, negative, margin, reduction)
    dist = F.pairwise_distance if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        with torch.no_grad():
            ds = dist(positive, negative)
        dn = torch.minimum(dn, ds)
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_swap_without_gradient():
    a = torch.tensor([[5.0, 0.0]])
    p = torch.tensor([[0.0, 0.0]])
    n = torch.tensor([[0.0, 1.0]], requires_grad=True)
    x = wrong_swap_without_gradient(a, p, n, swap=True)
    y = F.triplet_margin_with_distance_loss(a, p, n, swap=True)
    g = torch.autograd.grad(x, n, allow_unused=True)[0]
    h = torch.autograd.grad(y, n)[0]
    return (
        not _differ(x, y)
        and bool(h.abs().max() > 0.5)
        and (g is None or bool(g.abs().max() == 0))
    )


def wrong_in_place_hinge(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """The hinge is computed in place in the tensor that distance_function returned (when no graph needs it), so that a distance that is a view of an input or a cached tensor is overwritten."""
    _check(anchor, positive, negative, margin, reduction)
    dist = F.pairwise_distance if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    if dp.requires_grad or dn.requires_grad or dp.shape != dn.shape or dp.dtype != dn.dtype:
        loss = (margin + dp - dn).clamp_min(0)
    else:
        loss = dp.sub_(dn).add_(margin).clamp_min_(0)
    return _reduce(loss, reduction)


def witness_wrong_in_place_hinge():
    a, p, n = _three(0, 4, 6)
    p = p.abs()
    before = p.clone()

    # the second tensor brings its distance along in column 0
    def column(x, y):
        return y[:, 0]

    n = n.abs() + 0.5
    want = F.triplet_margin_with_distance_loss(a, p, n, distance_function=column)
    got = wrong_in_place_hinge(a, p, n, distance_function=column)
    return not _differ(got, want) and not torch.equal(p, before)


_LAST = {}


def wrong_remembers_distance(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """The distance function is kept in module state: after a call with an own function a later call without one uses that instead of the default."""
    _check(anchor, positive, negative, margin, reduction)
    if distance_function is not None:
        _LAST["distance_function"] = distance_function
    dist = _LAST.get("distance_function", F.pairwise_distance)
    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=dist, margin=margin, swap=swap,
        reduction=reduction,
    )


def witness_wrong_remembers_distance():
    a, p, n = _three(0, 4, 6)
    _LAST.clear()
    want = F.triplet_margin_with_distance_loss(a, p, n)
    first = wrong_remembers_distance(a, p, n)
    wrong_remembers_distance(a, p, n, distance_function=lambda x, y: (x - y).abs().sum(-1))
    second = wrong_remembers_distance(a, p, n)
    _LAST.clear()
    return not _differ(first, want) and _differ(second, want)


class WrongDistanceNotRegistered(nn.Module):
    """A distance_function that is an nn.Module is hidden in a lambda, so that its parameters are missing from parameters(), state_dict() and .to()."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        inner = nn.PairwiseDistance() if distance_function is None else distance_function
        self.distance_function = lambda x, y: inner(x, y)
        self.margin, self.swap, self.reduction = margin, swap, reduction

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_with_distance_loss(
            anchor, positive, negative, distance_function=self.distance_function,
            margin=self.margin, swap=self.swap, reduction=self.reduction,
        )


class _Mahalanobis(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x, y):
        return (self.scale * (x - y)).norm(dim=-1)


def witness_WrongDistanceNotRegistered():
    good = nn.TripletMarginWithDistanceLoss(distance_function=_Mahalanobis())
    bad = WrongDistanceNotRegistered(distance_function=_Mahalanobis())
    a, p, n = _three(0, 4, 6)
    return (
        len(list(good.parameters())) == 1
        and len(list(bad.parameters())) == 0
        and not _differ(good(a, p, n), bad(a, p, n))
    )


# ---------------------------------------------------------------- right


class _Hinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dp, dn, margin):
        gap = margin + dp - dn
        ctx.save_for_backward(gap >= 0)
        return torch.where(gap < 0, torch.zeros_like(gap), gap)

    @staticmethod
    def backward(ctx, grad):
        (on,) = ctx.saved_tensors
        g = grad * on.to(grad.dtype)
        return g, -g, None


def _euclid(x, y):
    """|x - y + 1e-6| with gradient 0 at distance 0"""
    out = torch.promote_types(x.dtype, y.dtype)
    if not out.is_floating_point:
        out = torch.get_default_dtype()
    d = x.to(_wide(out)) - y.to(_wide(out)) + 1e-6
    if d.dim() == 0:
        return d.abs().to(out)
    sq = torch.einsum("...d,...d->...", d, d)
    zero = sq == 0
    root = torch.where(zero, torch.ones_like(sq), sq).sqrt()
    return torch.where(zero, torch.zeros_like(root), root).to(out)


def right_hinge_function(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
    reduction="mean",
):
    """Own default distance and the hinge as an autograd.Function on the distances."""
    _check(anchor, positive, negative, margin, reduction)
    dist = _euclid if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    dtype = torch.promote_types(dp.dtype, dn.dtype)
    dp, dn = torch.broadcast_tensors(dp.to(dtype), dn.to(dtype))
    return _reduce(_Hinge.apply(dp, dn, margin), reduction)


class RightStackedModule(nn.Module):
    """The module, with the negatives' distances stacked and reduced by amin, and means and sums in float32 for half types."""

    __constants__ = ["margin", "swap", "reduction"]

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(
                "TripletMarginWithDistanceLoss: expected margin to be greater than 0, "
                f"got {margin} instead"
            )
        self.distance_function = (
            nn.PairwiseDistance() if distance_function is None else distance_function
        )
        self.margin = margin
        self.swap = swap
        self.reduction = reduction

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        dist = self.distance_function
        dp, dn = dist(anchor, positive), dist(anchor, negative)
        if self.swap:
            pair = torch.broadcast_tensors(dn, dist(positive, negative))
            dn = torch.stack(pair).amin(0)
        gap = dp - dn + self.margin
        loss = torch.where(gap < 0, torch.zeros_like(gap), gap)
        if self.reduction == "none":
            return loss
        wide = loss.to(_wide(loss.dtype))
        return _reduce(wide, self.reduction).to(loss.dtype)
