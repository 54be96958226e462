"""Wrong and right forms of torch.nn.functional.triplet_margin_with_distance_loss / torch.nn.TripletMarginWithDistanceLoss."""
import torch
import torch.nn as nn
import torch.nn.functional as F


# ----------------------------------------------------------------- helpers
def _check(anchor, positive, negative, margin, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise RuntimeError(f"anchor, positive and negative must have the same number of dimensions, got "
                           f"{anchor.ndim}, {positive.ndim}, {negative.ndim}")


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss


# ------------------------------------------------------------------- right
def right_relu_form(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """relu of the margin plus the difference of the distances; the swap by torch.where on the two
    negative distances."""
    _check(anchor, positive, negative, margin, reduction)
    dist = nn.PairwiseDistance() if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        ds = dist(positive, negative)
        dn = torch.minimum(ds, dn)
    return _reduce(torch.relu(dp - dn + margin), reduction)


class _Norm(torch.autograd.Function):
    """Euclidean norm over the last dim (of vectors that the eps keeps off 0); differentiable twice, 0 at 0."""
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        big = d.abs().amax(-1, keepdim=True) if d.shape[-1] else torch.zeros_like(d.sum(-1, keepdim=True))
        ok = (big > 0) & big.isfinite()
        scale = torch.where(ok, big, torch.ones_like(big))
        return (((d / scale) ** 2).sum(-1, keepdim=True).sqrt() * scale).squeeze(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def _unit(d, n):
        n = n.unsqueeze(-1)
        return torch.where(n == 0, torch.zeros_like(d), d / torch.where(n == 0, torch.ones_like(n), n))

    @staticmethod
    def backward(ctx, g):
        return g.unsqueeze(-1) * _Norm._unit(*ctx.saved_tensors)

    @staticmethod
    def jvp(ctx, t):
        return (t * _Norm._unit(*ctx.saved_tensors)).sum(-1)


def _euclid(a, b):
    d = a - b + 1e-6
    wide = d.float() if d.dtype in (torch.float16, torch.bfloat16) else d
    return _Norm.apply(wide).to(d.dtype)


def right_scaled_norm(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The default distance by a norm Function scaled against overflow; the hinge by masked_fill."""
    _check(anchor, positive, negative, margin, reduction)
    dist = _euclid if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    gap = margin + dp - dn
    return _reduce(gap.masked_fill(gap < 0, 0.0), reduction)


# ------------------------------------------------------------------- wrong
def wrong_swap_without_gradient(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Where the swap takes the positive-negative distance its value is right, but it was computed without
    gradient, so nothing flows back through it."""
    _check(anchor, positive, negative, margin, reduction)
    dist = nn.PairwiseDistance() if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        ds = dist(positive, negative).detach()
        dn = torch.minimum(dn, ds)
    return _reduce(torch.clamp_min(margin + dp - dn, 0), reduction)


def _near():
    return (torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.5]]), torch.tensor([[1.5, 1.0]]))


def witness_wrong_swap_without_gradient():
    res = []
    for f in (wrong_swap_without_gradient, F.triplet_margin_with_distance_loss):
        a, p, n = (t.clone().requires_grad_() for t in _near())
        o = f(a, p, n, swap=True)
        o.backward()
        res.append((o.detach(), p.grad, n.grad))
    return torch.allclose(res[0][0], res[1][0]) and not (res[0][2] is not None and torch.allclose(res[0][2], res[1][2]))


def wrong_negative_distance_turned_round(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The negative distance is taken as d(negative, anchor) and not d(anchor, negative), which is wrong
    for a distance function that is not symmetric."""
    _check(anchor, positive, negative, margin, reduction)
    dist = nn.PairwiseDistance() if distance_function is None else distance_function
    dp = dist(anchor, positive)
    dn = dist(anchor, negative) if distance_function is None else dist(negative, anchor)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduce(torch.clamp_min(margin + dp - dn, 0), reduction)


def witness_wrong_negative_distance_turned_round():
    def d(x, y):
        return (x - y).clamp(min=0).sum(-1) + 0.1 * (y - x).clamp(min=0).sum(-1)
    f, r = wrong_negative_distance_turned_round, F.triplet_margin_with_distance_loss
    sym = torch.allclose(f(*_near()), r(*_near()))
    return sym and not torch.allclose(f(*_near(), distance_function=d), r(*_near(), distance_function=d))


def wrong_one_call_for_both(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """Both distances come of one call on the concatenated pairs, so a distance function that holds one
    value per sample of the batch (or looks at the batch as a whole) gets twice the batch."""
    _check(anchor, positive, negative, margin, reduction)
    dist = nn.PairwiseDistance() if distance_function is None else distance_function
    if distance_function is None or anchor.dim() < 2 or anchor.shape != positive.shape or anchor.shape != negative.shape:
        dp, dn = dist(anchor, positive), dist(anchor, negative)
    else:
        dp, dn = dist(torch.cat([anchor, anchor]), torch.cat([positive, negative])).chunk(2) if anchor.shape[0] else \
            (dist(anchor, positive), dist(anchor, negative))
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _reduce(torch.clamp_min(margin + dp - dn, 0), reduction)


def witness_wrong_one_call_for_both():
    torch.manual_seed(0)
    a, p, n = torch.randn(3, 4, 5)

    def plain(x, y):
        return 1.0 - F.cosine_similarity(x, y)

    def batch_scaled(x, y):
        d = (x - y).norm(dim=-1)
        return d / d.max()
    f, r = wrong_one_call_for_both, F.triplet_margin_with_distance_loss
    return torch.allclose(f(a, p, n, distance_function=plain), r(a, p, n, distance_function=plain)) and \
        not torch.allclose(f(a, p, n, distance_function=batch_scaled), r(a, p, n, distance_function=batch_scaled))


def _bare_norm(a, b):
    return torch.linalg.vector_norm(a - b, dim=-1)


def wrong_default_distance_without_eps(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The default distance is the bare Euclidean norm and lacks the eps of nn.PairwiseDistance: for equal
    vectors the distance is 0 and not 1e-6 sqrt(D), and so is its gradient."""
    return F.triplet_margin_with_distance_loss(anchor, positive, negative, margin=margin, swap=swap, reduction=reduction,
                                               distance_function=_bare_norm if distance_function is None else distance_function)


def witness_wrong_default_distance_without_eps():
    torch.manual_seed(0)
    f, r = wrong_default_distance_without_eps, F.triplet_margin_with_distance_loss
    ok = torch.allclose(f(*_near()), r(*_near()))
    res = []
    for g in (f, r):
        p = torch.ones(2, 3, requires_grad=True)
        g(torch.ones(2, 3), p, torch.zeros(2, 3), margin=5.0).backward()
        res.append(p.grad)
    return ok and bool((res[0] == 0).all()) and bool((res[1] != 0).all())


def wrong_margin_tensor_promotes(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
    """The margin is a full tensor of the default dtype, so with reduction='none', 'mean' or 'sum' the
    result of float16 and bfloat16 inputs comes out as float32 (and follows set_default_dtype)."""
    _check(anchor, positive, negative, margin, reduction)
    dist = nn.PairwiseDistance() if distance_function is None else distance_function
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    m = torch.full(dp.shape, float(margin), dtype=torch.get_default_dtype(), device=dp.device)
    return _reduce(torch.clamp_min(m + dp - dn, 0), reduction)


def witness_wrong_margin_tensor_promotes():
    f, r = wrong_margin_tensor_promotes, F.triplet_margin_with_distance_loss
    h = [t.bfloat16() for t in _near()]
    return f(*_near()).dtype == torch.float32 and f(*h).dtype == torch.float32 and r(*h).dtype == torch.bfloat16


class WrongDistanceModuleUnregistered(nn.TripletMarginWithDistanceLoss):
    """A distance function that is an nn.Module is wrapped in a closure: its parameters are missing from
    parameters() and state_dict(), and .to() / .eval() do not reach it."""

    def __init__(self, *, distance_function=None, margin=1.0, swap=False, reduction="mean"):
        super().__init__(margin=margin, swap=swap, reduction=reduction)
        inner = distance_function if distance_function is not None else nn.PairwiseDistance()
        del self.distance_function
        self.distance_function = (lambda x, y: inner(x, y)) if isinstance(inner, nn.Module) and distance_function is not None else inner

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_with_distance_loss(anchor, positive, negative, distance_function=self.distance_function,
                                                   margin=self.margin, swap=self.swap, reduction=self.reduction)


class _Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(2, 2)

    def forward(self, x, y):
        return (self.map(x) - self.map(y)).norm(dim=-1)


def witness_WrongDistanceModuleUnregistered():
    d = _Learned()
    m, r = WrongDistanceModuleUnregistered(distance_function=d), nn.TripletMarginWithDistanceLoss(distance_function=d)
    return torch.equal(m(*_near()), r(*_near())) and not list(m.parameters()) and len(list(r.parameters())) == 2


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
