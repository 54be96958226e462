import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _setup(anchor, positive, negative, margin, size_average, reduce, reduction):
    mode = _mode(reduction, size_average, reduce)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor.dim() == positive.dim() == negative.dim():
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {anchor.dim()}D, positive {positive.dim()}D, and negative {negative.dim()}D inputs"
        )
    a, p, n = _autocast(anchor, positive, negative)
    dt = _common(a, p, n)
    w = _wide(dt)
    return a.to(w), p.to(w), n.to(w), dt, mode


def _dist(x, y, p, eps):
    return torch.linalg.vector_norm(x - y + eps, ord=p, dim=-1)


def _relu(v):
    return torch.where(v < 0, torch.zeros_like(v), v)


def _triplet(a, p, n, margin, ord, eps, swap, dist=_dist):
    dn = dist(a, n, ord, eps)
    if swap:
        dn = torch.minimum(dn, dist(p, n, ord, eps))
    return _relu(margin + dist(a, p, ord, eps) - dn)


# --------------------------------------------------------------------- wrong


def wrong_swap_only_batched(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """The distance swap is carried out for batches of shape (N, D) only and silently ignored for an
    unbatched triplet of shape (D)."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)
    return _reduce(_triplet(a, q, n, margin, p, eps, swap and a.dim() > 1), mode).to(dt)


def witness_wrong_swap_only_batched():
    a, q, n = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([2.5, 0.0])
    batched = wrong_swap_only_batched(a[None], q[None], n[None], swap=True)
    ok = torch.allclose(batched, F.triplet_margin_loss(a[None], q[None], n[None], swap=True))
    return ok and not torch.allclose(wrong_swap_only_batched(a, q, n, swap=True), F.triplet_margin_loss(a, q, n, swap=True))


def wrong_infinite_norm(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """Norms other than p = 0, 1 and 2 are power sums (sum |d|^p)^(1/p), which for p=inf is (0 or inf)^0 = 1
    instead of the largest absolute difference."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)

    def dist(x, y, ord, eps):
        if ord != math.inf:
            return _dist(x, y, ord, eps)
        return (x - y + eps).abs().pow(ord).sum(-1).pow(1.0 / ord)

    return _reduce(_triplet(a, q, n, margin, p, eps, swap, dist), mode).to(dt)


def witness_wrong_infinite_norm():
    a, q, n = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.5]])
    inf = float("inf")
    return abs(wrong_infinite_norm(a, q, n, p=inf).item() - F.triplet_margin_loss(a, q, n, p=inf).item()) > 0.5


def wrong_shortcut_without_swaps(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """With swap=True a Python `if` asks whether any pair has to be swapped at all; because of this
    the loss cannot be mapped by torch.func.vmap with swap=True."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)
    if swap and not bool((_dist(q, n, p, eps) <= _dist(a, n, p, eps)).any()):
        swap = bool((_dist(q, n, p, eps) != _dist(q, n, p, eps)).any())
    return _reduce(_triplet(a, q, n, margin, p, eps, swap), mode).to(dt)


def witness_wrong_shortcut_without_swaps():
    a, q, n = torch.rand(3, 2, 4), torch.rand(3, 2, 4), torch.rand(3, 2, 4)
    torch.func.vmap(lambda *t: F.triplet_margin_loss(*t, swap=True))(a, q, n)
    try:
        torch.func.vmap(lambda *t: wrong_shortcut_without_swaps(*t, swap=True))(a, q, n)
        return False
    except RuntimeError:
        return True


def wrong_mean_over_active(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """'mean' averages over the triplets with a loss above zero only, as metric learning libraries do,
    instead of over all triplets."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)
    loss = _triplet(a, q, n, margin, p, eps, swap)
    if mode == "mean" and loss.numel():
        return (loss.sum() / (loss.detach() != 0).sum().clamp(min=1)).to(dt)
    return _reduce(loss, mode).to(dt)


def witness_wrong_mean_over_active():
    a, q, n = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [9.0, 0.0]])
    return abs(wrong_mean_over_active(a, q, n).item() - 2 * F.triplet_margin_loss(a, q, n).item()) < 1e-5


class WrongTripletMarginLossUnpicklable(nn.Module):
    """The distance is bound as a lambda in the constructor, so the criterion (or a model, a trainer or a spawned
    worker that contains it) cannot be pickled."""

    __constants__ = ["margin", "p", "eps", "swap", "reduction"]

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        if size_average is not None or reduce is not None:
            reduction = _R.legacy_get_string(size_average, reduce)
        self.margin, self.p, self.eps, self.swap, self.reduction = margin, p, eps, swap, reduction
        self._distance = lambda x, y, ord, eps: torch.linalg.vector_norm(x - y + eps, ord=ord, dim=-1)

    def forward(self, anchor, positive, negative):
        a, q, n, dt, mode = _setup(anchor, positive, negative, self.margin, None, None, self.reduction)
        return _reduce(_triplet(a, q, n, self.margin, self.p, self.eps, self.swap, self._distance), mode).to(dt)


def witness_WrongTripletMarginLossUnpicklable():
    import pickle

    pickle.dumps(nn.TripletMarginLoss())
    try:
        pickle.dumps(WrongTripletMarginLossUnpicklable())
        return False
    except (pickle.PicklingError, AttributeError):
        return True


def wrong_squares_overflow_in_half(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """For p=2 the distance is the square root of a sum of squares taken in the inputs' dtype: in float16 differences
    above 255 overflow to inf although the distance is representable, and inf - inf gives NaN."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)

    def dist(x, y, ord, eps):
        if ord != 2 or dt != torch.float16:
            return _dist(x, y, ord, eps)
        d = (x - y + eps).to(dt)
        return torch.where((d * d).sum(-1).isinf(), math.inf, _dist(x, y, ord, eps))

    return _reduce(_triplet(a, q, n, margin, p, eps, swap, dist), mode).to(dt)


def witness_wrong_squares_overflow_in_half():
    a = torch.zeros(1, 2, dtype=torch.float16)
    q, n = torch.full_like(a, 300.0), torch.full_like(a, 400.0)
    return bool(wrong_squares_overflow_in_half(a, q, n).isnan()) and bool(F.triplet_margin_loss(a, q, n).isfinite())


# --------------------------------------------------------------------- right


def _scaled_norm(x, y, p, eps):
    """Power sum of the differences, scaled by the largest one against over- and underflow."""
    d = x - y + eps
    if p == 0:
        return (d != 0).to(d.dtype).sum(-1)
    if p == 1:
        return d.abs().sum(-1)
    if p == math.inf or d.size(-1) == 0:
        return torch.linalg.vector_norm(d, ord=p, dim=-1)
    big = d.detach().abs().amax(-1, keepdim=True)
    big = torch.where((big > 0) & (big < math.inf), big, torch.ones_like(big))
    r = d / big
    if p == 2:
        total = (r * r).sum(-1)
    else:
        null = r == 0
        total = torch.where(null, torch.zeros_like(r), torch.where(null, torch.ones_like(r), r.abs()).pow(p)).sum(-1)
    null = total == 0
    root = torch.where(null, torch.ones_like(total), total).pow(1.0 / p)
    return torch.where(null, torch.zeros_like(root), root * big.squeeze(-1))


def right_scaled_power_sum(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """p-norms from scaled power sums, safe at distance zero and for large p."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)
    return _reduce(_triplet(a, q, n, margin, p, eps, swap, _scaled_norm), mode).to(dt)


class _Euclid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        return torch.linalg.vector_norm(d, dim=-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def _unit(d):
        n = _Euclid.apply(d).unsqueeze(-1)
        null = n == 0
        return torch.where(null, torch.zeros_like(d), d / torch.where(null, torch.ones_like(n), n))

    @staticmethod
    def backward(ctx, g):
        return g.unsqueeze(-1) * _Euclid._unit(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx, t):
        return (_Euclid._unit(ctx.saved_tensors[0]) * t).sum(-1)


def right_custom_function(
    anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction="mean"
):
    """Euclidean distance by an own autograd function whose backward can itself be differentiated;
    other norms are scaled power sums."""
    a, q, n, dt, mode = _setup(anchor, positive, negative, margin, size_average, reduce, reduction)

    def dist(x, y):
        return _Euclid.apply(x - y + eps) if p == 2 else _scaled_norm(x, y, p, eps)

    dn = dist(a, n)
    if swap:
        dn = torch.minimum(dn, dist(q, n))
    v = dist(a, q) - dn + margin
    return _reduce(torch.where(v < 0, torch.zeros_like(v), v), mode).to(dt)
