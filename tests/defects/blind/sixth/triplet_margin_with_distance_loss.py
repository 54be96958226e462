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


def _check(anchor, positive, negative, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (anchor.ndim == positive.ndim == negative.ndim):
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the same number of "
                           f"dimensions, but got: anchor {anchor.ndim}D, positive {positive.ndim}D, "
                           f"and negative {negative.ndim}D inputs")


def _cosine_distance(a, b):
    return 1 - F.cosine_similarity(a, b, dim=-1)


def _l1(a, b):
    return (a - b).abs().sum(-1)


# ---------------------------------------------------------------- wrong

def wrong_distance_function_ignored(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The Euclidean distance is used whatever distance_function is passed."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _apply((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_distance_function_ignored():
    a, b, c = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    return (abs(wrong_distance_function_ignored(a, b, c, distance_function=_l1).item() - 5) < 1e-3
            and abs(F.triplet_margin_with_distance_loss(a, b, c, distance_function=_l1).item() - 7) < 1e-3)


def wrong_cosine_by_default(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Without a distance_function the cosine distance is used instead of PairwiseDistance."""
    _check(anchor, positive, negative, margin, reduction)
    d = _cosine_distance if distance_function is None else distance_function
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _apply((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_cosine_by_default():
    a, b, c = torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    return (abs(wrong_cosine_by_default(a, b, c).item() - 1) < 1e-4
            and abs(F.triplet_margin_with_distance_loss(a, b, c).item() - 3) < 1e-3)


def wrong_swap_for_whole_batch(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """swap is decided once for the batch, from the mean distances, instead of for each triplet (a batch of one is right)."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        ds = d(positive, negative)
        dn = torch.where(ds.mean() < dn.mean(), ds, dn)
    return _apply((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_swap_for_whole_batch():
    a, b, c = torch.tensor([[0.0], [0.0]]), torch.tensor([[2.0], [-2.0]]), torch.tensor([[2.5], [2.5]])
    one = torch.allclose(wrong_swap_for_whole_batch(a[:1], b[:1], c[:1], swap=True),
                         F.triplet_margin_with_distance_loss(a[:1], b[:1], c[:1], swap=True))
    return one and not torch.allclose(wrong_swap_for_whole_batch(a, b, c, swap=True),
                                      F.triplet_margin_with_distance_loss(a, b, c, swap=True), atol=0.1)


def wrong_hinge_after_reduction(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """'mean' and 'sum' clamp the reduced value instead of each triplet's: easy triplets pay for hard ones (a batch in which all violate the margin is right)."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _apply(margin + dp - dn, reduction).clamp_min(0)


def witness_wrong_hinge_after_reduction():
    a, b, c = torch.zeros(2, 1), torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [9.0]])
    hard = torch.allclose(wrong_hinge_after_reduction(a[:1], b[:1], c[:1]), F.triplet_margin_with_distance_loss(a[:1], b[:1], c[:1]))
    return (hard and wrong_hinge_after_reduction(a, b, c).item() == 0
            and abs(F.triplet_margin_with_distance_loss(a, b, c).item() - 1) < 1e-4)


def wrong_inputs_flattened(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Inputs of more than two dimensions are flattened to (N, D) before the distance function sees them, so one that uses their structure (token by token, per channel) gets another problem."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    if anchor.ndim > 2 and distance_function is not None:
        anchor, positive, negative = (t.flatten(1) for t in (anchor, positive, negative))
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    return _apply((margin + dp - dn).clamp_min(0), reduction)


def witness_wrong_inputs_flattened():
    def best_token(a, b):
        return (a - b).norm(dim=-1).reshape(a.shape[0], -1).amin(1)

    a = torch.zeros(1, 2, 2)
    b, c = torch.tensor([[[3.0, 4.0], [0.0, 12.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    x = wrong_inputs_flattened(a, b, c, distance_function=best_token)
    y = F.triplet_margin_with_distance_loss(a, b, c, distance_function=best_token)
    return abs(y.item() - 5) < 1e-4 and abs(x.item() - y.item()) > 1


def wrong_nan_hidden(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The hinge is where(z > 0, z, 0): NaN distances, from broken embeddings or a broken distance function, give a loss of zero and training goes on."""
    _check(anchor, positive, negative, margin, reduction)
    d = torch.pairwise_distance if distance_function is None else distance_function
    dp, dn = d(anchor, positive), d(anchor, negative)
    if swap:
        dn = torch.minimum(dn, d(positive, negative))
    z = margin + dp - dn
    return _apply(torch.where(z >= 0, z, torch.zeros_like(z)), reduction)


def witness_wrong_nan_hidden():
    a, b = torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2)
    return wrong_nan_hidden(a, b, b).item() == 0 and F.triplet_margin_with_distance_loss(a, b, b).isnan().item()


class WrongDistanceNotRegistered(_Loss):
    """A distance function that is a Module is kept behind a closure: its parameters are missing from .parameters(), state_dict(), .to() and .train()."""

    __constants__ = ["margin", "swap", "reduction"]

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__(None, None, reduction)
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        d = distance_function if distance_function is not None else nn.PairwiseDistance()
        self.__dict__["distance_function"] = d
        self.margin, self.swap = margin, swap

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        d = self.distance_function
        dp, dn = d(anchor, positive), d(anchor, negative)
        if self.swap:
            dn = torch.minimum(dn, d(positive, negative))
        return _apply((self.margin + dp - dn).clamp_min(0), self.reduction)


def witness_WrongDistanceNotRegistered():
    class Mahalanobis(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, a, b):
            return ((a - b) * self.scale).norm(dim=-1)

    a = WrongDistanceNotRegistered(distance_function=Mahalanobis())
    b = nn.TripletMarginWithDistanceLoss(distance_function=Mahalanobis())
    return len(list(a.parameters())) == 0 and len(list(b.parameters())) == 1


class WrongNoGradInEval(_Loss):
    """In eval mode the loss is computed under no_grad, so fine-tuning against a module in eval mode (frozen batch norm) has nothing to differentiate."""

    __constants__ = ["margin", "swap", "reduction"]

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__(None, None, reduction)
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        self.distance_function = distance_function if distance_function is not None else nn.PairwiseDistance()
        self.margin, self.swap = margin, swap

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            d = self.distance_function
            dp, dn = d(anchor, positive), d(anchor, negative)
            if self.swap:
                dn = torch.minimum(dn, d(positive, negative))
            return _apply((self.margin + dp - dn).clamp_min(0), self.reduction)


def witness_WrongNoGradInEval():
    a, b, c = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2), torch.ones(1, 2) * 2
    x = WrongNoGradInEval()
    trained = x(a, b, c).requires_grad
    x.eval()
    return trained and not x(a, b, c).requires_grad and nn.TripletMarginWithDistanceLoss().eval()(a, b, c).requires_grad


# ---------------------------------------------------------------- right

def right_stacked_minimum(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The candidate negative distances are stacked and reduced by amin, the hinge is a masked fill."""
    _check(anchor, positive, negative, margin, reduction)
    d = F.pairwise_distance if distance_function is None else distance_function
    near = d(anchor, positive)
    far = [d(anchor, negative)]
    if swap:
        far.append(d(positive, negative))
    far = torch.stack(torch.broadcast_tensors(*far)).amin(0)
    z = margin + near - far
    return _apply(z.masked_fill(z < 0, 0), reduction)


class RightSlackInFloat64(_Loss):
    """The slack far - near - margin is formed in float64 from the distances and clamped from above; 'mean' is a sum over a count."""

    __constants__ = ["margin", "swap", "reduction"]

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__(None, None, reduction)
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        self.distance_function = distance_function if distance_function is not None else nn.PairwiseDistance()
        self.margin, self.swap = margin, swap

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, self.margin, self.reduction)
        near = self.distance_function(anchor, positive)
        far = self.distance_function(anchor, negative)
        dtype = torch.promote_types(near.dtype, far.dtype)
        minus_far = -far.double()
        if self.swap:
            other = self.distance_function(positive, negative)
            dtype = torch.promote_types(dtype, other.dtype)
            minus_far = torch.maximum(minus_far, -other.double())
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        slack = -minus_far - near.double() - self.margin
        out = 0 - slack.clamp_max(0)
        if self.reduction == "mean":
            return (out.sum() / out.numel()).to(dtype)
        return _apply(out, self.reduction).to(dtype)
