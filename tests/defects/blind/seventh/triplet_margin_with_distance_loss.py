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


def _td_check(anchor, positive, negative, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (anchor.ndim == positive.ndim == negative.ndim):
        raise RuntimeError(
            f"The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
            f"but got: anchor {anchor.ndim}D, positive {positive.ndim}D, and negative {negative.ndim}D inputs"
        )


def _sample(n=6, d=4, seed=0, dtype=torch.float32):
    g = _gen(seed)
    return tuple(torch.randn(n, d, generator=g, dtype=dtype) for _ in range(3))


def _l1(x, y):
    return (x - y).abs().sum(-1)


# ---------------------------------------------------------------- wrong


def wrong_hinge_after_mean(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """'mean' averages the differences first and takes max(0, .) of the average; shows when some triplets meet the margin and others do not."""
    _td_check(anchor, positive, negative, margin, reduction)
    dist = torch.pairwise_distance if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    z = margin + dp - dn
    if reduction == "mean":
        return z.mean().clamp_min(0)
    return _reduce(z.clamp_min(0), reduction)


def witness_wrong_hinge_after_mean():
    a = torch.zeros(2, 2)
    n = torch.tensor([[5.0, 0.0], [0.5, 0.0]])
    x = wrong_hinge_after_mean(a, a, n)
    return not torch.allclose(x, F.triplet_margin_with_distance_loss(a, a, n))


def wrong_swap_uses_default(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """The swap distance is the Euclidean one whatever distance_function is; shows with swap=True and a custom distance."""
    _td_check(anchor, positive, negative, margin, reduction)
    dist = torch.pairwise_distance if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, torch.pairwise_distance(positive, negative))
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_swap_uses_default():
    t = _sample()
    kw = dict(distance_function=_l1, swap=True)
    return not torch.allclose(wrong_swap_uses_default(*t, **kw), F.triplet_margin_with_distance_loss(*t, **kw))


def wrong_argument_order(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """The distance function is called as d(negative, anchor) for the negative; shows for distance functions that are not symmetric, such as a divergence."""
    _td_check(anchor, positive, negative, margin, reduction)
    if distance_function is None:
        dp, dn = torch.pairwise_distance(anchor, positive), torch.pairwise_distance(anchor, negative)
        ds = torch.pairwise_distance(positive, negative) if swap else None
    else:
        dp, dn = distance_function(anchor, positive), distance_function(negative, anchor)
        ds = distance_function(positive, negative) if swap else None
    if swap:
        dn = torch.minimum(dn, ds)
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_argument_order():
    t = tuple(x.softmax(-1) for x in _sample())

    def kl(x, y):
        return (x * (x / y).log()).sum(-1)

    a = wrong_argument_order(*t, distance_function=kl, reduction="none")
    b = F.triplet_margin_with_distance_loss(*t, distance_function=kl, reduction="none")
    return not torch.allclose(a, b)


def wrong_default_without_eps(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """The default distance is the plain norm of the difference, not PairwiseDistance with its eps of 1e-6; shows for identical embeddings, in float64, and in the gradient there (0 instead of a direction)."""
    if distance_function is None:

        def distance_function(x, y):
            return torch.linalg.vector_norm(x - y, dim=-1)

    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance_function, margin=margin, swap=swap, reduction=reduction
    )


def witness_wrong_default_without_eps():
    a, b, c = _sample(dtype=torch.float64)
    x = wrong_default_without_eps(a, a, 0.1 * c + a, reduction="none")
    z = F.triplet_margin_with_distance_loss(a, a, 0.1 * c + a, reduction="none")
    return bool((x - z).abs().max() > 1e-7)


def wrong_flattens(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """The inputs are flattened to (N, -1) before the distance function sees them; shows for inputs with more than two dimensions, whose shape the function relies on."""
    _td_check(anchor, positive, negative, margin, reduction)
    if anchor.ndim > 2 and distance_function is not None:
        anchor, positive, negative = (t.flatten(1) for t in (anchor, positive, negative))
    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance_function, margin=margin, swap=swap, reduction=reduction
    )


def witness_wrong_flattens():
    g = _gen()
    t = tuple(torch.randn(2, 3, 4, generator=g) for _ in range(3))

    def frames(x, y):
        return (x - y).square().sum(1).sqrt().mean(-1)

    a = wrong_flattens(*t, distance_function=frames)
    return not torch.allclose(a, F.triplet_margin_with_distance_loss(*t, distance_function=frames))


def wrong_one_call_for_both(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Positive and negative go through the distance function in one concatenated batch of 2 N; shows for functions that look at the whole batch (normalisation over samples, one weight per sample)."""
    _td_check(anchor, positive, negative, margin, reduction)
    dist = torch.pairwise_distance if distance_function is None else distance_function
    same = anchor.shape == positive.shape == negative.shape and anchor.ndim >= 2
    if same and anchor.dtype == positive.dtype == negative.dtype:
        dp, dn = dist(torch.cat([anchor, anchor]), torch.cat([positive, negative])).chunk(2) if len(anchor) else (
            dist(anchor, positive), dist(anchor, negative))
    else:
        dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduce((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_one_call_for_both():
    t = _sample()

    def scaled(x, y):
        d = (x - y).square().sum(-1)
        return d / d.mean()

    a = wrong_one_call_for_both(*t, distance_function=scaled, reduction="none")
    return not torch.allclose(a, F.triplet_margin_with_distance_loss(*t, distance_function=scaled, reduction="none"))


class WrongDistanceNotRegistered(nn.Module):
    """The distance function is kept in a tuple, so a distance that is a module is no submodule; shows in parameters(), state_dict() and to() with a learned distance."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(f"TripletMarginWithDistanceLoss: expected margin to be greater than 0, got {margin} instead")
        self._call = (distance_function if distance_function is not None else nn.PairwiseDistance(),)
        self.margin, self.swap, self.reduction = margin, swap, reduction

    @property
    def distance_function(self):
        return self._call[0]

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self._call[0],
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )


class _Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x, y):
        return (self.w * (x - y).abs()).sum(-1)


def witness_WrongDistanceNotRegistered():
    m = WrongDistanceNotRegistered(distance_function=_Learned())
    r = nn.TripletMarginWithDistanceLoss(distance_function=_Learned())
    return len(list(m.parameters())) == 0 and len(list(r.parameters())) == 1


# ---------------------------------------------------------------- right


def _euclid(x, y):
    d = x - y + 1e-6
    if d.dim() == 0:
        return d.abs()
    return torch.linalg.vector_norm(d, dim=-1)


def right_kept_where_positive(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Own default distance, the violations kept with where and a mean as sum over count in float64."""
    _td_check(anchor, positive, negative, margin, reduction)
    dist = _euclid if distance_function is None else distance_function
    near = dist(anchor, positive)
    far = dist(anchor, negative)
    if swap:
        far = torch.stack(torch.broadcast_tensors(far, dist(positive, negative)), 0).amin(0)
    z = margin + near - far
    z = torch.where(z < 0, torch.zeros_like(z), z)
    if reduction == "none":
        return z
    s = z.sum(dtype=torch.float64)
    if reduction == "mean":
        s = s / z.numel() if z.numel() else s * float("nan")
    return s.to(z.dtype)


class _Hinge(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(near, far, margin):
        return (margin + near - far).clamp_(min=0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        near, far, margin = inputs
        ctx.save_for_backward(margin + near - far < 0)

    @staticmethod
    def backward(ctx, g):
        (met,) = ctx.saved_tensors
        g = g.masked_fill(met, 0)
        return g, -g, None


def right_function(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """The hinge on the two distances as an own autograd.Function."""
    _td_check(anchor, positive, negative, margin, reduction)
    if distance_function is None:
        distance_function = nn.PairwiseDistance()
    near = distance_function(anchor, positive)
    far = distance_function(anchor, negative)
    if swap:
        far = torch.minimum(distance_function(positive, negative), far)
    ct = torch.promote_types(near.dtype, far.dtype)
    near, far = torch.broadcast_tensors(near.to(ct), far.to(ct))
    return _reduce(_Hinge.apply(near, far, float(margin)), reduction)


def right_relu_wide(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """relu (at the kink the subgradient 0); half distances are compared and reduced in float32."""
    _td_check(anchor, positive, negative, margin, reduction)
    dist = distance_function or _euclid
    near = dist(anchor, positive)
    far = dist(anchor, negative)
    swapped = dist(positive, negative) if swap else far
    ct = torch.promote_types(torch.promote_types(near.dtype, far.dtype), swapped.dtype)
    near, far, swapped = (t.to(_wide(ct)) for t in (near, far, swapped))
    if swap:
        far = torch.min(far, swapped)
    return _reduce(torch.relu(near - far + margin), reduction).to(ct)


class RightTripletMarginWithDistanceLoss(nn.Module):
    """A module that keeps the distance as a submodule and works in place on a buffer of its own."""

    __constants__ = ["margin", "swap", "reduction"]

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(f"TripletMarginWithDistanceLoss: expected margin to be greater than 0, got {margin} instead")
        self.distance_function = nn.PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap
        self.reduction = reduction

    def forward(self, anchor, positive, negative):
        _td_check(anchor, positive, negative, self.margin, self.reduction)
        pairs = [(anchor, positive), (anchor, negative)]
        if self.swap:
            pairs.append((positive, negative))
        near, *fars = [self.distance_function(x, y) for x, y in pairs]
        far = fars[0] if len(fars) == 1 else torch.minimum(*fars)
        loss = (near + self.margin) - far
        loss = loss.masked_fill_(loss.detach() < 0, 0)
        if self.reduction == "none":
            return loss
        loss = loss.flatten()
        return loss.sum(0) if self.reduction == "sum" else loss.mean(0)
