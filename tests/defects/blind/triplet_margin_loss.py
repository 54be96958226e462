"""Wrong and right implementations of triplet_margin_loss, written without sight of the suite."""

import torch
from torch.nn import _reduction as _Reduction
from torch.nn import functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(anchor, positive, negative, margin):
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not (anchor.dim() == positive.dim() == negative.dim()):
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
            f"but got: anchor {anchor.dim()}D, positive {positive.dim()}D, and negative {negative.dim()}D inputs"
        )


def _dist(x, y, p, eps):
    return torch.linalg.vector_norm(x - y + eps, ord=p, dim=-1)


def _hinge(dp, dn, margin):
    return (margin + dp - dn).clamp_min(0)


def _loss(dist, anchor, positive, negative, margin, swap):
    dp, dn = dist(anchor, positive), dist(anchor, negative)
    if swap:
        dn = torch.minimum(dn, dist(positive, negative))
    return _hinge(dp, dn, margin)


def wrong_sqrt_without_eps(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """For p = 2 the square root of the sum of squares, eps forgotten: a positive equal to its anchor
    (same image twice in a batch) gives a NaN gradient.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    dist = (
        (lambda x, y: (x - y).square().sum(-1).sqrt())
        if p == 2
        else (lambda x, y: _dist(x, y, p, eps))
    )
    return _finish(_loss(dist, anchor, positive, negative, margin, swap), mode)


def witness_wrong_sqrt_without_eps():
    a = torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    pos = torch.tensor([[1.0, 2.0], [0.5, 1.0]])
    n = torch.tensor([[1.0, 1.5], [0.1, 1.0]])
    l1, l2 = wrong_sqrt_without_eps(a, pos, n), F.triplet_margin_loss(a, pos, n)
    g1, g2 = torch.autograd.grad(l1, a)[0], torch.autograd.grad(l2, a)[0]
    return (
        torch.allclose(l1, l2, atol=1e-5) and bool(g1.isnan().any()) and not bool(g2.isnan().any())
    )


def wrong_infinity_norm_by_powers(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """(sum |d|^p)^(1/p) for every p: the maximum norm, p = inf, comes out as 1."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    if p == 2:
        return _finish(
            _loss(lambda x, y: _dist(x, y, p, eps), anchor, positive, negative, margin, swap), mode
        )
    return _finish(
        _loss(
            lambda x, y: (x - y + eps).abs().pow(p).sum(-1).pow(1.0 / p),
            anchor,
            positive,
            negative,
            margin,
            swap,
        ),
        mode,
    )


def witness_wrong_infinity_norm_by_powers():
    a, pos, n = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, -2.0]]), torch.tensor([[0.1, 1.5]])
    ok = all(
        torch.allclose(
            wrong_infinity_norm_by_powers(a, pos, n, p=p), F.triplet_margin_loss(a, pos, n, p=p)
        )
        for p in (1, 2, 3)
    )
    return ok and not torch.allclose(
        wrong_infinity_norm_by_powers(a, pos, n, p=float("inf")),
        F.triplet_margin_loss(a, pos, n, p=float("inf")),
    )


def wrong_expanded_square(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """|x|^2 + |y|^2 - 2 x.y for p = 2 (matmul friendly): cancels when embeddings are close to each
    other and far from the origin.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)

    def dist(x, y):
        if p != 2:
            return _dist(x, y, p, eps)
        x = x + eps
        sq = (x * x).sum(-1) + (y * y).sum(-1) - 2 * (x * y).sum(-1)
        return sq.clamp_min(1e-12).sqrt()

    return _finish(_loss(dist, anchor, positive, negative, margin, swap), mode)


def witness_wrong_expanded_square():
    g = torch.Generator().manual_seed(0)
    a, pos, n = (torch.randn(8, 16, generator=g) for _ in range(3))
    ok = torch.allclose(
        wrong_expanded_square(a, pos, n), F.triplet_margin_loss(a, pos, n), rtol=1e-4
    )
    a = 100 + a
    pos, n = a + 0.01 * pos, a + 0.01 * n
    return (
        ok
        and (
            wrong_expanded_square(a, pos, n, reduction="none")
            - F.triplet_margin_loss(a, pos, n, reduction="none")
        )
        .abs()
        .max()
        .item()
        > 1e-2
    )


def wrong_vector_taken_as_batch(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """An unbatched triplet (D) is read as D samples of one feature."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    if anchor.dim() == 1:
        anchor, positive, negative = anchor[:, None], positive[:, None], negative[:, None]
    return _finish(
        _loss(lambda x, y: _dist(x, y, p, eps), anchor, positive, negative, margin, swap), mode
    )


def witness_wrong_vector_taken_as_batch():
    a, pos, n = torch.tensor([1.0, 2.0]), torch.tensor([1.5, -2.0]), torch.tensor([0.1, 1.5])
    return torch.allclose(
        wrong_vector_taken_as_batch(a[None], pos[None], n[None]),
        F.triplet_margin_loss(a[None], pos[None], n[None]),
    ) and not torch.allclose(
        wrong_vector_taken_as_batch(a, pos, n), F.triplet_margin_loss(a, pos, n)
    )


def wrong_swap_lost_when_compiled(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """Has a branch for torch.compile ('no minimum, it broke fusion in an old release') which leaves
    the distance swap out.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    if torch.compiler.is_compiling():
        swap = False
    return _finish(
        _loss(lambda x, y: _dist(x, y, p, eps), anchor, positive, negative, margin, swap), mode
    )


def witness_wrong_swap_lost_when_compiled():
    a, pos, n = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -2.0]]), torch.tensor([[0.1, -1.5]])
    r = F.triplet_margin_loss(a, pos, n, swap=True)
    torch._dynamo.reset()
    f = torch.compile(lambda *t: wrong_swap_lost_when_compiled(*t, swap=True), backend="eager")
    return torch.allclose(
        wrong_swap_lost_when_compiled(a, pos, n, swap=True), r
    ) and not torch.allclose(f(a, pos, n), r)


_WORKSPACE = {}


class _SharedWorkspace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, eps):
        key = (torch.broadcast_shapes(x.shape, y.shape), x.dtype, x.device)
        if key not in _WORKSPACE:
            _WORKSPACE[key] = [
                torch.empty(key[0], dtype=x.dtype, device=x.device) for _ in range(4)
            ]
        ctx.buf = _WORKSPACE[key].pop(0)
        _WORKSPACE[key].append(ctx.buf)
        torch.sub(x, y, out=ctx.buf).add_(eps)
        d = torch.linalg.vector_norm(ctx.buf, dim=-1)
        ctx.shapes = x.shape, y.shape
        ctx.dist = d.clone()
        return d

    @staticmethod
    def backward(ctx, g):
        unit = ctx.buf / ctx.dist.clamp_min(torch.finfo(ctx.dist.dtype).tiny).unsqueeze(-1)
        g = unit * g.unsqueeze(-1)
        return g.sum_to_size(ctx.shapes[0]), -g.sum_to_size(ctx.shapes[1]), None


def wrong_workspace_shared_by_calls(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """The differences live in a ring of preallocated buffers, kept for the backward: with a few
    losses of one shape pending (multi-head, accumulation) the earlier ones' gradients are computed
    from the later ones' differences.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    if p != 2:
        return _finish(
            _loss(lambda x, y: _dist(x, y, p, eps), anchor, positive, negative, margin, swap), mode
        )
    return _finish(
        _loss(
            lambda x, y: _SharedWorkspace.apply(x, y, eps), anchor, positive, negative, margin, swap
        ),
        mode,
    )


def witness_wrong_workspace_shared_by_calls():
    g = torch.Generator().manual_seed(0)
    sets = [
        [torch.randn(3, 4, generator=g, requires_grad=True) for _ in range(3)] for _ in range(4)
    ]
    f, r = wrong_workspace_shared_by_calls, F.triplet_margin_loss

    def grads(fn, k):
        loss = sum(fn(*s, margin=5.0) for s in sets[:k])
        return torch.autograd.grad(loss, sets[0][0])[0]

    return torch.allclose(grads(f, 1), grads(r, 1), atol=1e-6) and not torch.allclose(
        grads(f, 4), grads(r, 4), atol=1e-3
    )


class WrongMarginIsABuffer(torch.nn.Module):
    """The margin is a registered buffer: the state_dict gets a key that torch's checkpoints lack, so
    that load_state_dict (strict) fails; .half() rounds it.
    """

    def __init__(
        self,
        margin=1.0,
        p=2.0,
        eps=1e-6,
        swap=False,
        size_average=None,
        reduce=None,
        reduction="mean",
    ):
        super().__init__()
        if margin <= 0:
            raise ValueError(f"expected margin to be greater than 0, got {margin} instead")
        self.register_buffer("margin", torch.tensor(margin, dtype=torch.float64))
        self.p, self.eps, self.swap = p, eps, swap
        self.reduction = _mode(size_average, reduce, reduction)

    def forward(self, anchor, positive, negative):
        _check(anchor, positive, negative, 1.0)
        return _finish(
            _loss(
                lambda x, y: _dist(x, y, self.p, self.eps),
                anchor,
                positive,
                negative,
                self.margin.to(anchor.dtype),
                self.swap,
            ),
            self.reduction,
        )


def witness_WrongMarginIsABuffer():
    m = WrongMarginIsABuffer()
    try:
        m.load_state_dict(torch.nn.TripletMarginLoss().state_dict())
    except RuntimeError:
        return len(torch.nn.TripletMarginLoss().state_dict()) == 0
    return False


def right_float64_vector_norm(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
):
    """torch.linalg.vector_norm in float64; the hinge by where."""
    mode = _mode(size_average, reduce, reduction)
    _check(anchor, positive, negative, margin)
    out = torch.promote_types(anchor.dtype, torch.promote_types(positive.dtype, negative.dtype))
    if not out.is_floating_point:
        out = torch.get_default_dtype()
    a, b, c = anchor.double(), positive.double(), negative.double()
    z = margin + _dist(a, b, p, eps)
    dn = _dist(a, c, p, eps)
    if swap:
        dn = torch.minimum(dn, _dist(b, c, p, eps))
    z = z - dn
    return _finish(torch.where(z < 0, torch.zeros_like(z), z), mode).to(out)


class RightOwnNorms(torch.nn.Module):
    """The norms written out (scaled by the largest entry), for p = 1, 2, inf and other p > 1; torch's
    for the rest.
    """

    def __init__(
        self,
        margin=1.0,
        p=2.0,
        eps=1e-6,
        swap=False,
        size_average=None,
        reduce=None,
        reduction="mean",
    ):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        if margin <= 0:
            raise ValueError(
                f"RightOwnNorms: expected margin to be greater than 0, got {margin} instead"
            )
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap
        self.reduction = reduction

    def dist(self, x, y):
        d = x - y + self.eps
        p = self.p
        if p == 1:
            return d.abs().sum(-1)
        if p == float("inf"):
            return d.abs().amax(-1)
        if not p > 1 or d.size(-1) == 0:
            return torch.linalg.vector_norm(d, ord=p, dim=-1)
        scale = d.detach().abs().amax(-1, keepdim=True)
        zero = scale == 0
        scale = torch.where(zero, torch.ones_like(scale), scale)
        zero = zero.squeeze(-1)
        r = d / scale
        s = (r * r if p == 2 else r.abs().pow(p)).sum(-1)
        root = torch.where(zero, torch.ones_like(s), s)
        root = root.sqrt() if p == 2 else root.pow(1.0 / p)
        return torch.where(zero, torch.zeros_like(s), root * scale.squeeze(-1))

    def forward(self, anchor, positive, negative):
        mode = _mode(None, None, self.reduction)
        _check(anchor, positive, negative, self.margin)
        out = torch.promote_types(anchor.dtype, torch.promote_types(positive.dtype, negative.dtype))
        if not out.is_floating_point:
            out = torch.get_default_dtype()
        a, b, c = (
            t.to(torch.float64 if t.dtype == torch.float64 else torch.float32)
            for t in (anchor, positive, negative)
        )
        dn = self.dist(a, c)
        if self.swap:
            dn = torch.minimum(dn, self.dist(b, c))
        return _finish((self.dist(a, b) - dn + self.margin).clamp_min(0), mode).to(out)
