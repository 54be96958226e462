import copy
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction, margin, a, p, n):
    if size_average is not None or reduce is not None:
        mode = _R.legacy_get_string(size_average, reduce)
    else:
        mode = reduction
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (a.dim() == p.dim() == n.dim()):
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the same number of "
                           f"dimensions, but got: anchor {a.dim()}D, positive {p.dim()}D, and negative {n.dim()}D "
                           "inputs")
    return mode


def _dist(a, b, p, eps):
    return torch.linalg.vector_norm(a - b + eps, ord=p, dim=-1)


def _finish(loss, mode):
    return loss if mode == "none" else loss.mean() if mode == "mean" else loss.sum()


# ---------------------------------------------------------------- wrong
def _gram_dist(a, b, p, eps):
    if p != 2:
        return _dist(a, b, p, eps)
    b = b - eps
    sq = (a * a).sum(-1) - 2 * (a * b).sum(-1) + (b * b).sum(-1)
    ok = sq > 0
    return torch.where(ok, torch.where(ok, sq, torch.ones_like(sq)).sqrt(), torch.zeros_like(sq))


def wrong_gram(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None,
               reduction="mean"):
    """Euclidean distances come from |a|^2 - 2ab + |b|^2, which cancels for close embeddings that lie far from the origin."""
    mode = _mode(size_average, reduce, reduction, margin, anchor, positive, negative)
    dp, dn = _gram_dist(anchor, positive, p, eps), _gram_dist(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, _gram_dist(positive, negative, p, eps))
    return _finish((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_gram():
    torch.manual_seed(0)
    a = torch.randn(4, 32) + 300
    pos, neg = a + .01 * torch.randn(4, 32), a + .01 * torch.randn(4, 32)
    return not torch.allclose(wrong_gram(a, pos, neg), F.triplet_margin_loss(a, pos, neg), atol=1e-3)


def _pow_dist(a, b, p, eps):
    d = (a - b + eps).abs()
    if p in (0, 1, 2):
        return torch.linalg.vector_norm(d, ord=p, dim=-1)
    return d.pow(p).sum(-1).pow(1.0 / p)


def wrong_pow_norm(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None,
                   reduction="mean"):
    """Norms other than 1 and 2 are pow-sum-root, so p=inf gives 1 or nan and not the largest difference (large p overflows)."""
    mode = _mode(size_average, reduce, reduction, margin, anchor, positive, negative)
    dp, dn = _pow_dist(anchor, positive, p, eps), _pow_dist(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, _pow_dist(positive, negative, p, eps))
    return _finish((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_pow_norm():
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 2, 4)
    return not torch.allclose(wrong_pow_norm(a, b, c, p=math.inf), F.triplet_margin_loss(a, b, c, p=math.inf))


class WrongSwapNoGrad(nn.TripletMarginLoss):
    """The swap distance is computed under no_grad as if it were only mining, so its gradient is missing where the swap is active."""

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction, self.margin, anchor, positive, negative)
        dp, dn = _dist(anchor, positive, self.p, self.eps), _dist(anchor, negative, self.p, self.eps)
        if self.swap:
            with torch.no_grad():
                ds = _dist(positive, negative, self.p, self.eps)
            dn = torch.minimum(dn, ds)
        return _finish((self.margin + dp - dn).clamp_min(0), mode)


def witness_WrongSwapNoGrad():
    torch.manual_seed(0)
    a, b, c = (v.clone().requires_grad_() for v in torch.randn(3, 6, 4))
    g, = torch.autograd.grad(WrongSwapNoGrad(swap=True, margin=3.)(a, b, c), c)
    e, = torch.autograd.grad(nn.TripletMarginLoss(swap=True, margin=3.)(a, b, c), c)
    return not torch.allclose(g, e)


class WrongKeepsDistances(nn.TripletMarginLoss):
    """The last distances are kept on the module for logging with their graph, so after a training step the module cannot be deep-copied (and the graph stays alive)."""

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
        super().__init__(margin, p, eps, swap, size_average, reduce, reduction)
        self.last_positive = self.last_negative = None

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction, self.margin, anchor, positive, negative)
        dp, dn = _dist(anchor, positive, self.p, self.eps), _dist(anchor, negative, self.p, self.eps)
        if self.swap:
            dn = torch.minimum(dn, _dist(positive, negative, self.p, self.eps))
        self.last_positive, self.last_negative = dp, dn
        return _finish((self.margin + dp - dn).clamp_min(0), mode)


def witness_WrongKeepsDistances():
    m = WrongKeepsDistances()
    a = torch.randn(2, 3, requires_grad=True)
    m(a, torch.randn(2, 3), torch.randn(2, 3)).backward()
    try:
        copy.deepcopy(m)
    except RuntimeError:
        return True
    return False


def wrong_stacked(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None,
                  reduction="mean"):
    """Positive and negative are stacked to compute both distances in one go, so shapes that only broadcast (one positive for the batch) raise."""
    mode = _mode(size_average, reduce, reduction, margin, anchor, positive, negative)
    dp, dn = _dist(anchor, torch.stack([positive, negative]), p, eps)
    if swap:
        dn = torch.minimum(dn, _dist(positive, negative, p, eps))
    return _finish((margin + dp - dn).clamp_min(0), mode)


def witness_wrong_stacked():
    a, b, c = torch.randn(2, 3), torch.randn(1, 3), torch.randn(2, 3)
    F.triplet_margin_loss(a, b, c)
    try:
        wrong_stacked(a, b, c)
    except RuntimeError:
        return True
    return False


def wrong_block_means(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None,
                      reduce=None, reduction="mean"):
    """Batches of more than 1024 rows go in blocks of 1024 and the block means are averaged, so rows of a short last block weigh too much."""
    mode = _mode(size_average, reduce, reduction, margin, anchor, positive, negative)
    if anchor.shape != positive.shape or anchor.shape != negative.shape or anchor.dim() < 2 or len(anchor) <= 1024:
        blocks = [(anchor, positive, negative)]
    else:
        blocks = list(zip(anchor.split(1024), positive.split(1024), negative.split(1024)))
    parts = []
    for a, b, c in blocks:
        dp, dn = _dist(a, b, p, eps), _dist(a, c, p, eps)
        if swap:
            dn = torch.minimum(dn, _dist(b, c, p, eps))
        parts.append(_finish((margin + dp - dn).clamp_min(0), mode))
    if len(parts) == 1:
        return parts[0]
    if mode == "none":
        return torch.cat(parts)
    parts = torch.stack(parts)
    return parts.mean() if mode == "mean" else parts.sum()


def witness_wrong_block_means():
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 1030, 4)
    return not torch.allclose(wrong_block_means(a, b, c), F.triplet_margin_loss(a, b, c), rtol=1e-4)


# ---------------------------------------------------------------- right
def right_row_blocks(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None,
                     reduce=None, reduction="mean"):
    """Broadcast once, then blocks of 512 rows with vector_norm, concatenated before one common reduction."""
    mode = _mode(size_average, reduce, reduction, margin, anchor, positive, negative)
    if not (anchor.shape == positive.shape == negative.shape):
        anchor, positive, negative = torch.broadcast_tensors(anchor, positive, negative)
    if anchor.dim() < 2 or anchor.size(0) <= 512:
        blocks = [(anchor, positive, negative)]
    else:
        blocks = zip(anchor.split(512), positive.split(512), negative.split(512))
    parts = []
    for a, b, c in blocks:
        pos = torch.linalg.vector_norm((a - b).add(eps), ord=p, dim=-1)
        neg = torch.linalg.vector_norm((a - c).add(eps), ord=p, dim=-1)
        if swap:
            neg = torch.min(neg, torch.linalg.vector_norm((b - c).add(eps), ord=p, dim=-1))
        gap = pos - neg + margin
        parts.append(torch.where(gap < 0, torch.zeros_like(gap), gap))
    return _finish(parts[0] if len(parts) == 1 else torch.cat(parts), mode)


class RightMask(nn.TripletMarginLoss):
    """Distances by amax-scaled powers under masks (own formula for every p), the hinge as a product with a detached mask; float32 inside for 16-bit inputs."""

    @staticmethod
    def _norm(d, p):
        d = d.abs()
        if p == 0:
            return torch.linalg.vector_norm(d, ord=0, dim=-1)
        if p == 1:
            return d.sum(-1)
        if math.isinf(p) or p < 1:
            return torch.linalg.vector_norm(d, ord=p, dim=-1)
        if d.size(-1) == 0:
            return d.sum(-1)
        top = d.detach().amax(-1, keepdim=True)
        usable = (top > 0) & top.isfinite()
        scale = torch.where(usable, top, torch.ones_like(top))
        s = (d / scale).pow(p).sum(-1)
        live = s != 0
        root = torch.where(live, s, torch.ones_like(s)).pow(1.0 / p)
        return torch.where(live, root, torch.zeros_like(root)) * scale.squeeze(-1)

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction, self.margin, anchor, positive, negative)
        dt = torch.result_type(anchor, positive)
        dt = torch.promote_types(dt, negative.dtype)
        low = dt in (torch.float16, torch.bfloat16)
        a, b, c = (v.float() if low else v for v in (anchor, positive, negative))
        pos = self._norm(a - b + self.eps, self.p)
        neg = self._norm(a - c + self.eps, self.p)
        if self.swap:
            neg = torch.minimum(neg, self._norm(b - c + self.eps, self.p))
        gap = self.margin + pos - neg
        loss = torch.where(gap < 0, torch.zeros_like(gap), gap)
        loss = _finish(loss, mode)
        return loss.to(dt) if low else loss
