"""Wrong and right implementations of triplet_margin_with_distance_loss, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _checked(a, p, n, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not a.dim() == p.dim() == n.dim():
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
                           f"but got: anchor {a.dim()}D, positive {p.dim()}D, and negative {n.dim()}D inputs")


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def wrong_distance_arguments_turned(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Calls d(negative, anchor) where d(anchor, negative) is meant: an asymmetric distance (KL) comes out wrong."""
    _checked(anchor, positive, negative, margin, reduction)
    d = F.pairwise_distance if distance_function is None else distance_function
    if distance_function is None:
        dp, dn = d(anchor, positive), d(anchor, negative)
    else:
        dp, dn = d(anchor, positive), d(negative, anchor)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _reduced((margin + dp - dn).clamp_min(0), reduction)


def _asymmetric(x, y):
    return (x - 2 * y).abs().sum(1)


def witness_wrong_distance_arguments_turned():
    a, p, n = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    k = dict(distance_function=_asymmetric, margin=20.0)
    return not torch.allclose(wrong_distance_arguments_turned(a, p, n, **k), F.triplet_margin_with_distance_loss(a, p, n, **k))


def wrong_default_flattens(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The default distance flattens each sample; PairwiseDistance is over the last dimension, so (N, T, D) gives (N, T)."""
    _checked(anchor, positive, negative, margin, reduction)

    def flat(x, y):
        return F.pairwise_distance(x.flatten(1), y.flatten(1)) if x.dim() > 2 else F.pairwise_distance(x, y)

    d = flat if distance_function is None else distance_function
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _reduced((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_default_flattens():
    a, p, n = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    return wrong_default_flattens(a, p, n, reduction="none").shape != F.triplet_margin_with_distance_loss(a, p, n, reduction="none").shape


class WrongMetricNotRegistered(torch.nn.Module):
    """Keeps the distance in a dict of options: a learnable metric is in neither parameters() nor state_dict()."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{reduction} is not a valid value for reduction")
        if margin <= 0:
            raise ValueError(f"margin must be greater than 0, got {margin}")
        self.options = {"distance_function": distance_function, "margin": margin, "swap": swap, "reduction": reduction}

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_with_distance_loss(anchor, positive, negative, **self.options)


def witness_WrongMetricNotRegistered():
    class Metric(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, x, y):
            return ((x - y) * self.scale).abs().sum(1)

    return len(list(torch.nn.TripletMarginWithDistanceLoss(distance_function=Metric()).parameters())) == 1 and \
        len(list(WrongMetricNotRegistered(distance_function=Metric()).parameters())) == 0


def wrong_batch_of_one_squeezed(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """squeeze() makes (N, 1) distances flat; a batch of one with reduction 'none' loses its dimension."""
    _checked(anchor, positive, negative, margin, reduction)
    f = F.pairwise_distance if distance_function is None else distance_function

    def d(x, y):
        out = f(x, y)
        return out.squeeze() if out.dim() == 1 else out

    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _reduced((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_batch_of_one_squeezed():
    a, p, n = torch.randn(1, 3), torch.randn(1, 3), torch.randn(1, 3)
    return wrong_batch_of_one_squeezed(a, p, n, reduction="none").shape != (1,)


def wrong_no_graph_when_all_easy(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Looks first for violating triplets without a graph; if there are none, returns a fresh zero that has no grad_fn."""
    _checked(anchor, positive, negative, margin, reduction)
    d = F.pairwise_distance if distance_function is None else distance_function

    def loss():
        dp, dn = d(anchor, positive), d(anchor, negative)
        if swap:
            dn = torch.minimum(dn, d(positive, negative))
        return (margin + dp - dn).clamp_min(0)

    with torch.no_grad():
        probe = loss()
    if not bool((probe > 0).any()):
        return _reduced(torch.zeros_like(probe), reduction)
    return _reduced(loss(), reduction)


def witness_wrong_no_graph_when_all_easy():
    a = torch.zeros(2, 3, requires_grad=True)
    p, n = torch.zeros(2, 3), torch.full((2, 3), 9.0)
    F.triplet_margin_with_distance_loss(a, p, n).backward()
    try:
        wrong_no_graph_when_all_easy(a, p, n).backward()
    except RuntimeError:
        return True
    return False


def wrong_one_call_for_both(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """One call on [a; a] and [p; n] for speed: a distance that looks at the whole batch sees twice the batch."""
    _checked(anchor, positive, negative, margin, reduction)
    d = F.pairwise_distance if distance_function is None else distance_function
    if anchor.dim() == 1 or not anchor.shape == positive.shape == negative.shape:
        dp, dn = d(anchor, positive), d(anchor, negative)
    else:
        dp, dn = d(torch.cat([anchor, anchor]), torch.cat([positive, negative])).chunk(2)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _reduced((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_one_call_for_both():
    def standardised(x, y):
        return ((x - y) / (y.std(0) + 1e-6)).abs().sum(1)

    torch.manual_seed(0)
    a, p, n = torch.randn(5, 3), torch.randn(5, 3), 4 * torch.randn(5, 3)
    k = dict(distance_function=standardised, margin=9.0)
    return not torch.allclose(wrong_one_call_for_both(a, p, n, **k), F.triplet_margin_with_distance_loss(a, p, n, **k))


def right_relu(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """relu, and vector_norm as the default distance."""
    _checked(anchor, positive, negative, margin, reduction)

    def norm(x, y):
        return torch.linalg.vector_norm(x - y + 1e-6, dim=-1)

    d = norm if distance_function is None else distance_function
    dp = d(anchor, positive)
    dn = d(anchor, negative)
    if swap:
        dn = torch.minimum(d(positive, negative), dn)
    return _reduced(F.relu(dp - dn + margin), reduction)


class RightModule(torch.nn.Module):
    """Registers the distance; max over the two hinges instead of min over the distances."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{reduction} is not a valid value for reduction")
        if margin <= 0:
            raise ValueError(f"margin must be greater than 0, got {margin}")
        self.distance_function = torch.nn.PairwiseDistance() if distance_function is None else distance_function
        self.margin, self.swap, self.reduction = margin, swap, reduction

    def forward(self, anchor, positive, negative):
        _checked(anchor, positive, negative, self.margin, self.reduction)
        dp = self.distance_function(anchor, positive)
        z = dp - self.distance_function(anchor, negative)
        if self.swap:
            z = torch.maximum(z, dp - self.distance_function(positive, negative))
        return _reduced((z + self.margin).clamp_min(0), self.reduction)
