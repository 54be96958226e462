import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss, _WeightedLoss


def _mode(size_average, reduce, reduction):
    """The reduction asked for, with the deprecated pair taking precedence as documented."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _apply(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _autocast_on(t):
    dev = t.device.type
    return dev in ("cpu", "cuda") and torch.is_autocast_enabled(dev)


def _fp32(*ts):
    """What autocast does for an op on its float32 list."""
    if not _autocast_on(ts[0]):
        return ts
    return tuple(
        t.float() if t is not None and t.is_floating_point() and t.dtype is not torch.float64 else t
        for t in ts
    )


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check(anchor, positive, negative, margin):
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (anchor.dim() == positive.dim() == negative.dim()):
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the same number of "
                           f"dimensions, but got: anchor {anchor.dim()}D, positive {positive.dim()}D, "
                           f"and negative {negative.dim()}D inputs")


def _dist(a, b, p, eps):
    return F.pairwise_distance(a, b, p, eps)


# ---------------------------------------------------------------- wrong

def wrong_squared_distance(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """FaceNet's squared Euclidean distances in place of the norm (p = 2; other p are right)."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    anchor, positive, negative = _fp32(anchor, positive, negative)
    power = 2 if p == 2 else 1
    dp, dn = _dist(anchor, positive, p, eps) ** power, _dist(anchor, negative, p, eps) ** power
    if swap:
        dn = torch.minimum(dn, _dist(positive, negative, p, eps) ** power)
    return _apply((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_squared_distance():
    a, b, c = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    return (abs(wrong_squared_distance(a, b, c).item() - 9) < 1e-3
            and abs(F.triplet_margin_loss(a, b, c).item() - 3) < 1e-3)


def wrong_roles_exchanged(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """The second argument is used as the negative and the third as the positive."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    anchor, negative, positive = _fp32(anchor, positive, negative)
    dp, dn = _dist(anchor, positive, p, eps), _dist(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, _dist(positive, negative, p, eps))
    return _apply((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_roles_exchanged():
    a, b, c = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.1]]), torch.tensor([[5.0, 0.0]])
    return wrong_roles_exchanged(a, b, c).item() > 5 and F.triplet_margin_loss(a, b, c).item() == 0


def wrong_swap_takes_larger(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """swap=True keeps the larger of d(a, n) and d(p, n), the easier of the two, instead of the smaller."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    anchor, positive, negative = _fp32(anchor, positive, negative)
    dp, dn = _dist(anchor, positive, p, eps), _dist(anchor, negative, p, eps)
    if swap:
        dn = torch.maximum(dn, _dist(positive, negative, p, eps))
    return _apply((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_swap_takes_larger():
    a, b, c = torch.tensor([[0.0]]), torch.tensor([[2.0]]), torch.tensor([[2.5]])
    return (abs(wrong_swap_takes_larger(a, b, c, swap=True).item() - 0.5) < 1e-4
            and abs(F.triplet_margin_loss(a, b, c, swap=True).item() - 2.5) < 1e-4)


def wrong_infinity_norm(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """The generic formula sum(|d|**p) ** (1/p) is used for p = inf too, where it gives 1 for every pair: the loss is the margin, with no usable gradient."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    anchor, positive, negative = _fp32(anchor, positive, negative)

    def dist(a, b):
        if p == math.inf:
            d = (a - b + eps).abs()
            return (d ** p).sum(-1) ** (1 / p)
        return _dist(a, b, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _apply((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_infinity_norm():
    a, b, c = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 2.0]]), torch.tensor([[1.5, 0.0]])
    return (abs(wrong_infinity_norm(a, b, c, p=math.inf).item() - 1) < 1e-4
            and abs(F.triplet_margin_loss(a, b, c, p=math.inf).item() - 2.5) < 1e-4)


def wrong_eps_forgotten(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """For p = 2 the distance is sqrt(sum(d*d)) without eps: the value agrees to 1e-6, but a sample used as its own positive gets NaN gradients."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    anchor, positive, negative = _fp32(anchor, positive, negative)

    def dist(a, b):
        return ((a - b) * (a - b)).sum(-1).sqrt() if p == 2 else _dist(a, b, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _apply((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_eps_forgotten():
    g = []
    for f in (wrong_eps_forgotten, F.triplet_margin_loss):
        a = torch.tensor([[1.0, 2.0]], requires_grad=True)
        f(a, torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 2.0]])).backward()
        g.append(a.grad)
    return bool(g[0].isnan().any()) and bool(g[1].isfinite().all())


def wrong_stays_low_precision_in_autocast(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """Under autocast half-precision embeddings are used as they come: the loss is rounded to, and returned in, bfloat16 / float16, though triplet_margin_loss is on autocast's float32 list."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    dp, dn = _dist(anchor, positive, p, eps), _dist(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, _dist(positive, negative, p, eps))
    return _apply((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_stays_low_precision_in_autocast():
    x = torch.tensor([[0.11, 0.7], [0.3, 0.9]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = wrong_stays_low_precision_in_autocast(x, x * 2, x * 3)
        b = F.triplet_margin_loss(x, x * 2, x * 3)
    return a.dtype is torch.bfloat16 and b.dtype is torch.float32


class WrongExpandedSquare(_Loss):
    """For p = 2 the distance comes from |a|^2 + |b|^2 - 2ab: for close embeddings of large norm the digits cancel (distance 0 or far off)."""

    __constants__ = ["margin", "p", "eps", "swap", "reduction"]

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def _dist(self, a, b):
        if self.p != 2:
            return _dist(a, b, self.p, self.eps)
        dtype = torch.promote_types(a.dtype, b.dtype)
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        a, b = a.to(_acc(dtype)) + self.eps, b.to(_acc(dtype))
        sq = (a * a).sum(-1) + (b * b).sum(-1) - 2 * (a * b).sum(-1)
        return sq.clamp_min(self.eps ** 2 * max(1, a.shape[-1] if a.dim() else 1)).sqrt().to(dtype)

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction)
        _check(anchor, positive, negative, self.margin)
        anchor, positive, negative = _fp32(anchor, positive, negative)
        dp, dn = self._dist(anchor, positive), self._dist(anchor, negative)
        if self.swap:
            dn = torch.minimum(dn, self._dist(positive, negative))
        return _apply((self.margin + dp - dn).clamp_min(0), mode)


def witness_WrongExpandedSquare():
    a = torch.full((1, 8), 1000.0)
    b, c = a + 0.25, a + 0.5
    f, g = WrongExpandedSquare(), nn.TripletMarginLoss()
    small = torch.allclose(f(a / 1000, b - a, c - a), g(a / 1000, b - a, c - a), atol=1e-4)
    return small and abs(f(a, b, c).item() - g(a, b, c).item()) > 0.1


class WrongMarginUnchecked(_Loss):
    """A margin of zero or below is taken without an error: margin=0 lets the collapsed solution cost nothing."""

    __constants__ = ["margin", "p", "eps", "swap", "reduction"]

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction)
        _check(anchor, positive, negative, 1.0)
        anchor, positive, negative = _fp32(anchor, positive, negative)
        dp, dn = _dist(anchor, positive, self.p, self.eps), _dist(anchor, negative, self.p, self.eps)
        if self.swap:
            dn = torch.minimum(dn, _dist(positive, negative, self.p, self.eps))
        return _apply((self.margin + dp - dn).clamp_min(0), mode)


def witness_WrongMarginUnchecked():
    try:
        nn.TripletMarginLoss(margin=0.0)
        return False
    except ValueError:
        pass
    x = torch.ones(2, 3)
    return WrongMarginUnchecked(margin=0.0)(x, x, x).item() == 0


# ---------------------------------------------------------------- right

def _scaled_norm(d, p):
    """The p-norm over the last dimension, with the largest entry taken out first and zeros kept out of the powers."""
    if p == 0:
        return torch.linalg.vector_norm(d, 0, dim=-1)
    a = d.abs()
    if p == math.inf:
        return a.amax(-1)
    if p == 1 or d.shape[-1] == 0:
        return a.sum(-1)
    top = a.detach().amax(-1, keepdim=True)
    top = torch.where((top == 0) | top.isinf(), torch.ones_like(top), top)
    r = a / top
    some = r != 0
    r = torch.where(some, torch.where(some, r, torch.ones_like(r)) ** p, torch.zeros_like(r)).sum(-1)
    some = r != 0
    r = torch.where(some, torch.where(some, r, torch.ones_like(r)) ** (1 / p), torch.zeros_like(r))
    return r * top.squeeze(-1)


def right_scaled_norm(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
    """Distances as max|d| * (sum (|d| / max|d|)^p)^(1/p), safe against overflow and at zero; hinge as a selection."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    anchor, positive, negative = _fp32(anchor, positive, negative)
    anchor, positive, negative = (t.unsqueeze(0) if t.dim() == 0 else t for t in (anchor, positive, negative))

    def dist(a, b):
        d = a - b + float(eps)
        return _scaled_norm(d.to(_acc(d.dtype)), p).to(d.dtype)

    dtype = torch.promote_types(torch.promote_types(anchor.dtype, positive.dtype), negative.dtype)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.stack(torch.broadcast_tensors(dn, dist(positive, negative))).amin(0)
    z = dp - dn + float(margin)
    return _apply(torch.where(z < 0, torch.zeros_like(z), z), mode).to(dtype)


class RightStackedPairs(_Loss):
    """All pairs are stacked and their norms taken in a single call, in float64."""

    __constants__ = ["margin", "p", "eps", "swap", "reduction"]

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction)
        _check(anchor, positive, negative, self.margin)
        anchor, positive, negative = _fp32(anchor, positive, negative)
        if anchor.dim() == 0:
            anchor, positive, negative = anchor[None], positive[None], negative[None]
        dtype = torch.promote_types(torch.promote_types(anchor.dtype, positive.dtype), negative.dtype)
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        pairs = [(anchor, positive), (anchor, negative)] + ([(positive, negative)] if self.swap else [])
        gaps = torch.broadcast_tensors(*((a - b + float(self.eps)).double() for a, b in pairs))
        d = torch.linalg.vector_norm(torch.stack(gaps), self.p, dim=-1).to(dtype).double()
        far = d[1:].amin(0)
        out = 0 - torch.clamp_max(far - d[0] - self.margin, 0)
        if mode == "mean":
            return (out.sum() / out.numel()).to(dtype)
        return _apply(out, mode).to(dtype)
