import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(input, target):
    if input.dim() > 2 or (input.dim() > 0 and input.size(-1) == 0):
        raise RuntimeError("Expected non-empty vector or matrix with optional 0-dim batch size, "
                           f"but got: {list(input.shape)}")
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    if target.dtype != torch.long:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError("multilabel_margin_loss needs a floating point input")
    x = input.reshape(1, -1) if input.dim() < 2 else input
    t = target.reshape(1, -1) if target.dim() < 2 else target
    if t.numel():
        try:
            bad = bool(((t < -1) | (t >= x.size(1))).any())
        except RuntimeError:        # inside vmap: the values are not readable
            bad = False
        if bad:
            raise RuntimeError("argument #2 'target' is out of range")
    return x, t


def _valid(t):
    return (t >= 0).to(torch.int64).cumprod(1).bool()


def _member(t, valid, c):
    m = torch.zeros(t.size(0), c + 1, dtype=torch.bool, device=t.device)
    m = m.scatter(1, torch.where(valid, t, torch.full_like(t, c)), True)
    return m[:, :c]


def _pairs(x, t, valid, member):
    y = x.gather(1, t.clamp_min(0))
    z = 1 - y[:, :, None] + x[:, None, :]
    keep = valid[:, :, None] & ~member[:, None, :] & (z > 0)
    return torch.where(keep, z, torch.zeros_like(z))


def _finish(loss, input, mode):
    if mode == "none":
        return loss.reshape(input.shape[:-1])
    return loss.mean() if mode == "mean" else loss.sum()


# ---------------------------------------------------------------- wrong
def wrong_all_nonnegative(input, target, size_average=None, reduce=None, reduction="mean"):
    """Every non-negative entry of the target counts as a label, also those that stand after the first -1."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = t >= 0
    z = _pairs(x, t, valid, _member(t, valid, x.size(1)))
    return _finish(z.sum((1, 2)) / x.size(1), input, mode)


def witness_wrong_all_nonnegative():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    return not torch.allclose(wrong_all_nonnegative(x, y), F.multilabel_margin_loss(x, y))


def wrong_multi_hot(input, target, size_average=None, reduce=None, reduction="mean"):
    """The labels are turned into a multi-hot mask first, so a label listed twice counts once and not for each j."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    pos = _member(t, _valid(t), x.size(1))
    z = 1 - x[:, :, None] + x[:, None, :]
    keep = pos[:, :, None] & ~pos[:, None, :] & (z > 0)
    return _finish(torch.where(keep, z, torch.zeros_like(z)).sum((1, 2)) / x.size(1), input, mode)


def witness_wrong_multi_hot():
    x, y = torch.tensor([[.1, .2, .3]]), torch.tensor([[0, 0, -1]])
    return not torch.allclose(wrong_multi_hot(x, y), F.multilabel_margin_loss(x, y))


class WrongMaxLabels(_Loss):
    """Only the first 64 label slots of a row are looked at, so rows with more labels lose the rest."""
    MAX_LABELS = 64

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target)
        t = t[:, :self.MAX_LABELS]
        valid = _valid(t)
        z = _pairs(x, t, valid, _member(t, valid, x.size(1)))
        return _finish(z.sum((1, 2)) / x.size(1), input, mode)


def witness_WrongMaxLabels():
    torch.manual_seed(0)
    x, y = torch.randn(2, 100), torch.full((2, 100), -1)
    y[:, :80] = torch.arange(80)
    return not torch.allclose(WrongMaxLabels()(x, y), nn.MultiLabelMarginLoss()(x, y), rtol=1e-4)


class WrongMaskCache(_Loss):
    """The label masks of the last target are cached by storage address and shape, so a target buffer refilled in place gives stale masks."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self._key, self._masks, self._ref = None, None, None

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target)
        key = (target.data_ptr(), tuple(target.shape), target.stride(), target.device)
        if key != self._key:
            valid = _valid(t)
            self._masks = (t.clone(), valid, _member(t, valid, x.size(1)))
            self._key, self._ref = key, target
        z = _pairs(x, *self._masks)
        return _finish(z.sum((1, 2)) / x.size(1), input, mode)


def witness_WrongMaskCache():
    torch.manual_seed(0)
    x, y = torch.randn(1, 4), torch.tensor([[0, -1, 0, 0]])
    m = WrongMaskCache()
    m(x, y)
    y.copy_(torch.tensor([[2, 1, -1, 0]]))
    return not torch.allclose(m(x, y), nn.MultiLabelMarginLoss()(x, y))


def wrong_pads_target(input, target, size_average=None, reduce=None, reduction="mean"):
    """Entries after the first -1 are overwritten with -1 in the caller's own target tensor."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    valid = _valid(t)
    t.masked_fill_(~valid, -1)
    z = _pairs(x, t, valid, _member(t, valid, x.size(1)))
    return _finish(z.sum((1, 2)) / x.size(1), input, mode)


def witness_wrong_pads_target():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    y0 = y.clone()
    wrong_pads_target(x, y)
    return not torch.equal(y, y0)


class _CotangentInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        valid = _valid(t)
        z = _pairs(x, t, valid, _member(t, valid, x.size(1)))
        act = (z > 0).to(x.dtype)
        d = act.sum(1)
        d.scatter_add_(1, t.clamp_min(0), -act.sum(2))
        ctx.save_for_backward(d)
        ctx.c = x.size(1)
        return z.sum((1, 2)) / x.size(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        d, = ctx.saved_tensors
        if g.is_contiguous():
            g = g.div_(ctx.c)
        else:
            g = g / ctx.c
        return d * g[:, None], None


def wrong_cotangent_in_place(input, target, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward divides the incoming gradient by C in place, which spoils it for its other users."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    return _finish(_CotangentInPlace.apply(x, t), input, mode)


def witness_wrong_cotangent_in_place():
    torch.manual_seed(0)
    x, y = torch.randn(3, 4, requires_grad=True), torch.tensor([[0, 1, -1, 0]] * 3)
    v = torch.ones(3)
    torch.autograd.grad(wrong_cotangent_in_place(x, y, reduction="none"), x, v)
    return not torch.equal(v, torch.ones(3))


# ---------------------------------------------------------------- right
def right_label_loop(input, target, size_average=None, reduce=None, reduction="mean"):
    """A loop over label slots up to the longest label list, each slot a (N, C) hinge under masks; float32 inside for 16-bit inputs."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target)
    low = x.dtype in (torch.float16, torch.bfloat16)
    x = x.float() if low else x
    n, c = x.shape
    stop = torch.cumsum((t == -1).to(torch.int32), 1) > 0
    try:
        count = int((~stop).sum(1).max()) if n else 0
    except RuntimeError:            # inside vmap
        count = c
    free = torch.ones(n, c, dtype=torch.bool, device=x.device)
    for j in range(count):
        hit = torch.zeros_like(free).scatter(1, t[:, j:j + 1].clamp_min(0), True)
        free = free & ~(hit & ~stop[:, j:j + 1])
    loss = torch.where(torch.zeros_like(free), x, torch.zeros_like(x)).sum(1)   # zeros that hang on x
    for j in range(count):
        z = 1 - x.gather(1, t[:, j:j + 1].clamp_min(0)) + x
        z = z.masked_fill(~((z > 0) & free & ~stop[:, j:j + 1]), 0.0)
        loss = loss + z.sum(1)
    out = _finish(loss / c, input, mode)
    return out.to(input.dtype) if low else out
