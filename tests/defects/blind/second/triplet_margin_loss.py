"""Wrong and right implementations of triplet_margin_loss, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _word(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return F._Reduction.legacy_get_string(size_average, reduce)
    F._Reduction.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def _checked(a, p, n, margin):
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not a.dim() == p.dim() == n.dim():
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
                           f"but got: anchor {a.dim()}D, positive {p.dim()}D, and negative {n.dim()}D inputs")


def _dist(x, y, p, eps):
    return torch.linalg.vector_norm(x - y + eps, ord=p, dim=-1)


def _hinge(dp, dn, margin):
    return (margin + dp - dn).clamp_min(0)


def wrong_swapped_distance_detached(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
                                    size_average=None, reduce=None, reduction="mean"):
    """d(p, n) is mined under no_grad: where the swap is taken, positive and negative miss its gradient."""
    word = _word(size_average, reduce, reduction)
    _checked(anchor, positive, negative, margin)
    dp, dn = _dist(anchor, positive, p, eps), _dist(anchor, negative, p, eps)
    if swap:
        with torch.no_grad():
            ds = _dist(positive, negative, p, eps)
        dn = torch.minimum(dn, ds)
    return _reduced(_hinge(dp, dn, margin), word)


def witness_wrong_swapped_distance_detached():
    a, p = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    n = torch.tensor([[1.5, 0.3]], requires_grad=True)
    (x,) = torch.autograd.grad(wrong_swapped_distance_detached(a.clone().requires_grad_(), p, n, swap=True), n, allow_unused=True)
    (y,) = torch.autograd.grad(F.triplet_margin_loss(a, p, n, swap=True), n)
    return x is None or not torch.allclose(x, y)


def wrong_odd_power_signed(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
                           size_average=None, reduce=None, reduction="mean"):
    """sum(d ** p) ** (1 / p) without abs: right for even p only."""
    word = _word(size_average, reduce, reduction)
    _checked(anchor, positive, negative, margin)

    def dist(x, y):
        return _dist(x, y, p, eps) if p in (0, 1, float("inf")) else (x - y + eps).pow(p).sum(-1).pow(1 / p)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduced(_hinge(dp, dn, margin), word)


def witness_wrong_odd_power_signed():
    a, p, n = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, -0.5]])
    return torch.allclose(wrong_odd_power_signed(a, p, n, p=4), F.triplet_margin_loss(a, p, n, p=4)) and \
        not torch.allclose(wrong_odd_power_signed(a, p, n, p=3), F.triplet_margin_loss(a, p, n, p=3))


def wrong_nan_for_identical(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
                            size_average=None, reduce=None, reduction="mean"):
    """eps is accepted and not used for p=2: sqrt of a sum that is 0 when anchor is positive, gradient NaN."""
    word = _word(size_average, reduce, reduction)
    _checked(anchor, positive, negative, margin)

    def dist(x, y):
        return (x - y).square().sum(-1).sqrt() if p == 2 else _dist(x, y, p, eps)

    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduced(_hinge(dp, dn, margin), word)


def witness_wrong_nan_for_identical():
    a = torch.tensor([[1.0, 2.0]], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_nan_for_identical(a, a.detach().clone(), torch.tensor([[1.5, 2.0]])), a)
    return bool(g.isnan().any())


def wrong_mean_over_active(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
                           size_average=None, reduce=None, reduction="mean"):
    """'mean' is over the triplets with a positive loss, as metric learning libraries reduce."""
    word = _word(size_average, reduce, reduction)
    _checked(anchor, positive, negative, margin)
    dp, dn = _dist(anchor, positive, p, eps), _dist(anchor, negative, p, eps)
    if swap:
        dn = torch.minimum(dn, _dist(positive, negative, p, eps))
    loss = _hinge(dp, dn, margin)
    if word == "mean":
        return loss.sum() / (loss > 0).sum().clamp_min(1)
    return _reduced(loss, word)


def witness_wrong_mean_over_active():
    a, p, n = torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[9.0, 9.0], [1.0, 0.5]])
    return not torch.allclose(wrong_mean_over_active(a, p, n), F.triplet_margin_loss(a, p, n))


class WrongMarginUnchecked(torch.nn.Module):
    """A margin of 0 or less is taken silently, and relu turns the criterion to a constant 0."""

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, anchor, positive, negative):
        _checked(anchor, positive, negative, 1.0)
        dp, dn = _dist(anchor, positive, self.p, self.eps), _dist(anchor, negative, self.p, self.eps)
        if self.swap:
            dn = torch.minimum(dn, _dist(positive, negative, self.p, self.eps))
        return _reduced(_hinge(dp, dn, self.margin), self.reduction)


def witness_WrongMarginUnchecked():
    x = torch.randn(2, 3)
    WrongMarginUnchecked(margin=-1.0)(x, x, x)
    try:
        torch.nn.TripletMarginLoss(margin=-1.0)(x, x, x)
    except ValueError:
        return True
    return False


def right_concatenated(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
                       size_average=None, reduce=None, reduction="mean"):
    """All distances in one norm over stacked differences."""
    word = _word(size_average, reduce, reduction)
    _checked(anchor, positive, negative, margin)
    a, q, n = torch.broadcast_tensors(anchor, positive, negative)
    diffs = torch.stack([a - q, a - n] + ([q - n] if swap else [])) + eps
    d = torch.linalg.vector_norm(diffs, ord=p, dim=-1)
    return _reduced(F.relu(margin + d[0] - d[1:].amin(0)), word)


def right_by_pairwise_distance(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False,
                               size_average=None, reduce=None, reduction="mean"):
    """nn.PairwiseDistance, amin for the swap, where for the hinge."""
    word = _word(size_average, reduce, reduction)
    _checked(anchor, positive, negative, margin)
    d = torch.nn.PairwiseDistance(p=p, eps=eps)
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.stack([dn, d(positive, negative)]).amin(0)
    z = dp - dn + margin
    return _reduced(torch.where(z <= 0, torch.zeros_like(z), z), word)
