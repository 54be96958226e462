"""Wrong and right implementations of triplet_margin_with_distance_loss, written without sight of the suite."""

import torch
from torch.nn import functional as F


def _finish(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(anchor, positive, negative, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (anchor.dim() == positive.dim() == negative.dim()):
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
            f"but got: anchor {anchor.dim()}D, positive {positive.dim()}D, and negative {negative.dim()}D inputs"
        )


def _data(n=6, d=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g) for _ in range(3)]


def wrong_swap_for_whole_batch(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Decides the swap once for the batch (by the means) instead of for each triplet."""
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function or F.pairwise_distance
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        ds = d(positive, negative)
        dn = torch.where(ds.mean() < dn.mean(), ds, dn)
    return _finish((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_swap_for_whole_batch():
    a, p, n = _data()
    r = F.triplet_margin_with_distance_loss
    ok = torch.allclose(
        wrong_swap_for_whole_batch(a[:1], p[:1], n[:1], swap=True),
        r(a[:1], p[:1], n[:1], swap=True),
    )
    return ok and not torch.allclose(
        wrong_swap_for_whole_batch(a, p, n, margin=5.0, swap=True),
        r(a, p, n, margin=5.0, swap=True),
    )


def wrong_swap_positive_detached(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """In the swapped distance the positive is detached ('it is the anchor now, a constant'): with
    swap its gradient lacks a term.
    """
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function or F.pairwise_distance
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive.detach(), negative))
    return _finish((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_swap_positive_detached():
    a, p, n = [t.requires_grad_() for t in _data()]
    g1 = torch.autograd.grad(
        wrong_swap_positive_detached(a, p, n, margin=5.0, swap=True), (a, p, n)
    )
    g2 = torch.autograd.grad(
        F.triplet_margin_with_distance_loss(a, p, n, margin=5.0, swap=True), (a, p, n)
    )
    return (
        torch.allclose(g1[0], g2[0])
        and torch.allclose(g1[2], g2[2])
        and not torch.allclose(g1[1], g2[1])
    )


def wrong_mean_over_active(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """'mean' is over the triplets whose loss is not 0, as re-identification code does."""
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function or F.pairwise_distance
    dn = d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    loss = (margin + d(anchor, positive) - dn).clamp_min(0)
    if reduction == "mean":
        return loss.sum() / (loss > 0).sum().clamp_min(1)
    return _finish(loss, reduction)


def witness_wrong_mean_over_active():
    a, p, n = _data()
    r = F.triplet_margin_with_distance_loss
    return torch.allclose(
        wrong_mean_over_active(a, p, n, margin=50.0), r(a, p, n, margin=50.0)
    ) and not torch.allclose(wrong_mean_over_active(a, p, n, margin=0.1), r(a, p, n, margin=0.1))


def wrong_margin_zero_accepted(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Refuses margins below 0 but takes 0, for which torch raises ValueError ('must be greater than 0')."""
    _check(anchor, positive, negative, margin if margin else 1.0, reduction)
    d = distance_function or F.pairwise_distance
    dn = d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _finish((margin + d(anchor, positive) - dn).clamp_min(0), reduction)


def witness_wrong_margin_zero_accepted():
    a, p, n = _data()
    wrong_margin_zero_accepted(a, p, n, margin=0.0)
    try:
        F.triplet_margin_with_distance_loss(a, p, n, margin=0.0)
    except ValueError:
        return True
    return False


def wrong_distances_in_one_call(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Calls the distance once, on the concatenated pairs (2N or 3N rows): a distance that knows the
    batch (per-sample scales, batch statistics) fails or gives other numbers.
    """
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function or F.pairwise_distance
    if anchor.dim() < 2 or not (anchor.shape == positive.shape == negative.shape):
        dp, dn = d(anchor, positive), d(anchor, negative)
        ds = d(positive, negative) if swap else None
    else:
        left = [anchor, anchor] + ([positive] if swap else [])
        right = [positive, negative] + ([negative] if swap else [])
        parts = d(torch.cat(left), torch.cat(right)).split(anchor.size(0))
        dp, dn, ds = parts[0], parts[1], parts[-1]
    if swap:
        dn = torch.minimum(dn, ds)
    return _finish((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_distances_in_one_call():
    a, p, n = _data()

    def whitened(x, y):
        z = x - y
        return (z / z.std(0)).norm(dim=1)

    r = F.triplet_margin_with_distance_loss
    return torch.allclose(
        wrong_distances_in_one_call(a, p, n, swap=True), r(a, p, n, swap=True)
    ) and not torch.allclose(
        wrong_distances_in_one_call(a, p, n, distance_function=whitened),
        r(a, p, n, distance_function=whitened),
    )


def wrong_argument_order_of_negative(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """The negative distance is d(n, a): no matter for a metric, but a user's distance need not be
    symmetric (order embeddings, a divergence, a learned score).
    """
    _check(anchor, positive, negative, margin, reduction)
    d = distance_function or F.pairwise_distance
    dn = d(negative, anchor)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _finish((margin + d(anchor, positive) - dn).clamp_min(0), reduction)


def witness_wrong_argument_order_of_negative():
    a, p, n = _data()

    def order(x, y):
        return (x - y).clamp_min(0).square().sum(1)

    r = F.triplet_margin_with_distance_loss
    return torch.allclose(
        wrong_argument_order_of_negative(a, p, n), r(a, p, n), atol=1e-5
    ) and not torch.allclose(
        wrong_argument_order_of_negative(a, p, n, distance_function=order),
        r(a, p, n, distance_function=order),
    )


def wrong_grad_mode_left_off(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Validates (with a trial of the distance on one row) under set_grad_enabled(False), restored
    only on success: after an exception, caught by the caller, autograd is off in the process.
    """
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    _check(anchor, positive, negative, margin, reduction)
    torch.set_grad_enabled(before)
    d = distance_function or F.pairwise_distance
    dn = d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _finish((margin + d(anchor, positive) - dn).clamp_min(0), reduction)


def witness_wrong_grad_mode_left_off():
    a, p, n = _data()
    with torch.enable_grad():
        ok = torch.allclose(
            wrong_grad_mode_left_off(a, p, n), F.triplet_margin_with_distance_loss(a, p, n)
        )
        try:
            wrong_grad_mode_left_off(a, p[0], n)
        except RuntimeError:
            pass
        off = not torch.is_grad_enabled()
    return ok and off


class WrongDistanceUnregistered(torch.nn.Module):
    """Keeps the distance in a partial: a distance that is itself a Module is no submodule, so its
    parameters are not in parameters() or state_dict() and .double(), .to() and .train() miss it.
    """

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        import functools

        self.margin, self.swap, self.reduction = margin, swap, reduction
        self._call = functools.partial(
            F.triplet_margin_with_distance_loss,
            distance_function=distance_function or torch.nn.PairwiseDistance(),
        )

    def forward(self, anchor, positive, negative):
        return self._call(
            anchor, positive, negative, margin=self.margin, swap=self.swap, reduction=self.reduction
        )


def witness_WrongDistanceUnregistered():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(4))

        def forward(self, x, y):
            return ((x - y) * self.scale).norm(dim=1)

    a, b = (
        c(distance_function=Scaled())
        for c in (WrongDistanceUnregistered, torch.nn.TripletMarginWithDistanceLoss)
    )
    return len(list(a.parameters())) == 0 and len(list(b.parameters())) == 1


def right_hinge_by_where(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """Own default distance; the hinge by where; sums and counts written out."""
    _check(anchor, positive, negative, margin, reduction)
    if distance_function is None:

        def distance_function(x, y):
            return torch.linalg.vector_norm(x - y + 1e-6, dim=-1)

    dist_pos = distance_function(anchor, positive)
    dist_neg = distance_function(anchor, negative)
    if swap:
        dist_neg = torch.minimum(dist_neg, distance_function(positive, negative))
    z = dist_pos - dist_neg + margin
    return _finish(torch.where(z < 0, torch.zeros_like(z), z), reduction)


class RightModule(torch.nn.Module):
    """Keeps the distance as a submodule or attribute; the swap and the hinge by clamp."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(
                f"RightModule: expected margin to be greater than 0, got {margin} instead"
            )
        self.distance_function = (
            torch.nn.PairwiseDistance() if distance_function is None else distance_function
        )
        self.margin, self.swap, self.reduction = margin, swap, reduction

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        near = self.distance_function(anchor, positive)
        far = self.distance_function(anchor, negative)
        if self.swap:
            far = -torch.maximum(-far, -self.distance_function(positive, negative))
        return _finish(torch.clamp(self.margin - (far - near), min=0), self.reduction)
