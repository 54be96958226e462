import threading
import time
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss


def _check(a, p, n, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (a.ndim == p.ndim == n.ndim):
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the same number of "
                           f"dimensions, but got: anchor {a.ndim}D, positive {p.ndim}D, and negative {n.ndim}D inputs")


def _finish(loss, mode):
    return loss if mode == "none" else loss.mean() if mode == "mean" else loss.sum()


def _hinge(dp, dn, margin):
    return (margin + dp - dn).clamp_min(0)


# ---------------------------------------------------------------- wrong
def wrong_one_call(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The pairs are concatenated and the distance function is called once on them, so distances that use the whole batch (batch statistics, matching) change."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    if anchor.ndim < 2 or not (anchor.shape == positive.shape == negative.shape):
        dp, dn = d(anchor, positive), d(anchor, negative)
        ds = d(positive, negative) if swap else None
    else:
        left = [anchor, anchor] + ([positive] if swap else [])
        right = [positive, negative] + ([negative] if swap else [])
        parts = d(torch.cat(left), torch.cat(right)).split(anchor.size(0)) if anchor.size(0) else \
            [d(x, y) for x, y in zip(left, right)]
        dp, dn = parts[0], parts[1]
        ds = parts[2] if swap else None
    if swap:
        dn = torch.minimum(dn, ds)
    return _finish(_hinge(dp, dn, margin), reduction)


def witness_wrong_one_call():
    torch.manual_seed(0)
    a, p, n = torch.randn(3, 5, 4)

    def whitened(x, y):
        d = x - y
        return (d / (d.std(0) + 1e-3)).norm(dim=-1)

    return not torch.allclose(wrong_one_call(a, p, 3 * n, distance_function=whitened),
                              F.triplet_margin_with_distance_loss(a, p, 3 * n, distance_function=whitened))


class WrongHiddenModule(_Loss):
    """The distance function is kept in a plain list, so a learnable distance is no submodule: its parameters are missing in parameters(), state_dict and .to()."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__(reduction=reduction)
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        self._fns = [nn.PairwiseDistance() if distance_function is None else distance_function]
        self.margin, self.swap = margin, swap

    @property
    def distance_function(self):
        return self._fns[0]

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        d = self._fns[0]
        dp, dn = d(anchor, positive), d(anchor, negative)
        if self.swap:
            dn = torch.minimum(dn, d(positive, negative))
        return _finish(_hinge(dp, dn, self.margin), self.reduction)


class _Learned(nn.Module):
    def __init__(self, k=4, dtype=None):
        super().__init__()
        self.lin = nn.Linear(k, k, dtype=dtype)

    def forward(self, x, y):
        return (self.lin(x) - self.lin(y)).abs().sum(-1)


def witness_WrongHiddenModule():
    d = _Learned()
    return len(list(nn.TripletMarginWithDistanceLoss(distance_function=d).parameters())) == 2 and \
        len(list(WrongHiddenModule(distance_function=d).parameters())) == 0


def wrong_sqrt_distance(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
                        reduction="mean"):
    """The default distance is a plain sqrt of the summed squares without eps, so a positive equal to its anchor gives nan gradients."""
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function
    if d is None:
        def d(x, y):
            return (x - y).pow(2).sum(-1).sqrt()
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _finish(_hinge(dp, dn, margin), reduction)


def witness_wrong_sqrt_distance():
    torch.manual_seed(0)
    a = torch.randn(2, 3, requires_grad=True)
    p, n = a.detach().clone(), torch.randn(2, 3) * .1 + a.detach()
    g, = torch.autograd.grad(wrong_sqrt_distance(a, p, n), a)
    e, = torch.autograd.grad(F.triplet_margin_with_distance_loss(a, p, n), a)
    return bool(g.isnan().any()) and not bool(e.isnan().any())


def wrong_nonneg_check(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
                       reduction="mean"):
    """Distances are checked to be >= 0 exactly, so a documented distance as 1 - cosine_similarity raises when rounding makes it -1e-7."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    dists = [d(anchor, positive), d(anchor, negative)]
    if swap:
        dists.append(d(positive, negative))
    if distance_function is not None:
        for v in dists:
            if bool((v < 0).any()):
                raise ValueError("distance_function must be nonnegative")
    dn = torch.minimum(dists[1], dists[2]) if swap else dists[1]
    return _finish(_hinge(dists[0], dn, margin), reduction)


def witness_wrong_nonneg_check():
    torch.manual_seed(0)
    a = torch.randn(2000, 16)
    n = torch.randn(2000, 16)

    def cosine(x, y):
        return 1.0 - F.cosine_similarity(x, y)

    if not bool((cosine(a, 3 * a) < 0).any()):
        def cosine(x, y):                       # the same rounding, made certain
            return 1.0 - F.cosine_similarity(x, y) - 6e-8
    F.triplet_margin_with_distance_loss(a, 3 * a, n, distance_function=cosine)
    try:
        wrong_nonneg_check(a, 3 * a, n, distance_function=cosine)
    except ValueError:
        return True
    return False


def wrong_upcasts(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """16-bit inputs are turned to float32 before the caller's distance function sees them, so a distance with 16-bit parameters raises a dtype error."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    dt = torch.promote_types(torch.promote_types(anchor.dtype, positive.dtype), negative.dtype)
    low = dt in (torch.float16, torch.bfloat16)
    if low:
        anchor, positive, negative = anchor.float(), positive.float(), negative.float()
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    loss = _finish(_hinge(dp, dn, margin), reduction)
    return loss.to(dt) if low else loss


def witness_wrong_upcasts():
    a, p, n = torch.randn(3, 2, 4).bfloat16()
    d = _Learned(dtype=torch.bfloat16)
    F.triplet_margin_with_distance_loss(a, p, n, distance_function=d)
    try:
        wrong_upcasts(a, p, n, distance_function=d)
    except RuntimeError:
        return True
    return False


class WrongSharedAttributes(nn.TripletMarginWithDistanceLoss):
    """The inputs of a call are passed to helper methods through attributes of the module, so two threads that share it mix their batches."""

    def _positive(self):
        return self.distance_function(self._a, self._p)

    def _negative(self):
        dn = self.distance_function(self._a, self._n)
        if self.swap:
            dn = torch.minimum(dn, self.distance_function(self._p, self._n))
        return dn

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        self._a, self._p, self._n = anchor, positive, negative
        try:
            loss = _hinge(self._positive(), self._negative(), self.margin)
        finally:
            self._a = self._p = self._n = None
        return _finish(loss, self.reduction)


def witness_WrongSharedAttributes():
    torch.manual_seed(0)

    def slow(x, y):
        time.sleep(0.05)
        return torch.pairwise_distance(x, y)

    m = WrongSharedAttributes(distance_function=slow)
    batches = [torch.randn(3, 2, 4) * (k + 1) for k in range(2)]
    got = [None, None]

    def work(k):
        time.sleep(0.02 * k)
        try:
            got[k] = m(*batches[k])
        except Exception:
            pass

    ts = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    return any(g is None or not torch.allclose(g, F.triplet_margin_with_distance_loss(*b))
               for g, b in zip(got, batches))


# ---------------------------------------------------------------- right
def right_relu_gap(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Default distance by vector_norm, swap by where on a mask with ties shared, hinge by masked_fill of the gap."""
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function
    if d is None:
        def d(x, y):
            return torch.linalg.vector_norm(x - y + 1e-6, dim=-1)
    near, far = d(anchor, positive), d(anchor, negative)
    if swap:
        other = d(positive, negative)
        if other.shape != far.shape:
            other, far = torch.broadcast_tensors(other, far)
        tie = 0.5 * (far + other)
        far = torch.where(far == other, tie, torch.where(far < other, far, torch.where(far.isnan(), far, other)))
    gap = near - far + margin
    gap = gap.masked_fill(gap < 0, 0)
    return gap if reduction == "none" else gap.sum() if reduction == "sum" else gap.mean()


class RightLogic(nn.TripletMarginWithDistanceLoss):
    """A loop over the needed pairs in a table, the hinge as the maximum of a stack with the smallest negative distance by amin."""

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        pairs = {"ap": (anchor, positive), "an": (anchor, negative)}
        if self.swap:
            pairs["pn"] = (positive, negative)
        dist = {k: self.distance_function(x, y) for k, (x, y) in pairs.items()}
        neg = [v for k, v in dist.items() if k != "ap"]
        if len(neg) == 2:
            neg = [torch.amin(torch.stack(torch.broadcast_tensors(*neg)), 0)]
        gap = dist["ap"] - neg[0] + self.margin
        loss = torch.where(gap >= 0, gap, torch.where(gap.isnan(), gap, torch.zeros_like(gap)))
        return {"none": lambda v: v, "mean": torch.mean, "sum": torch.sum}[self.reduction](loss)
