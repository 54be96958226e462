import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Red


def _legacy(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Red.legacy_get_string(size_average, reduce)
    return reduction


def _regular(input, target, weight, ignore_index, reduction):
    """True for valid calls; everything else is left to torch, which raises its own errors."""
    if reduction not in ("none", "mean", "sum") or not input.is_floating_point() or input.dim() == 0:
        return False
    if target.dtype not in (torch.int64, torch.uint8) or target.device != input.device:
        return False
    if target.dtype == torch.uint8 and input.dim() > 2:
        return False
    c = input.shape[0] if input.dim() == 1 else input.shape[1]
    want = input.shape[1:] if input.dim() == 1 else input.shape[:1] + input.shape[2:]
    if c == 0 or target.shape != want:
        return False
    if weight is not None and (weight.shape != (c,) or weight.dtype != input.dtype or weight.requires_grad
                               or weight.device != input.device):
        return False
    if torch.compiler.is_compiling():
        return True
    try:
        t = target.long()
        return not bool(((t != ignore_index) & ((t < 0) | (t >= c))).any())
    except RuntimeError:
        return True


def _finish(rows, rw, reduction, dtype):
    if reduction == "none":
        return rows.to(dtype)
    out = rows.sum()
    if reduction == "mean":
        out = out / rw.sum()
    return out.to(dtype)


# ------------------------------------------------------------------ wrong
def wrong_dense_channels_last(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                              reduction="mean"):
    """Takes any 4-d input with channel stride 1 for a dense channels_last tensor and reads a slice of one with wrong strides."""
    reduction = _legacy(size_average, reduce, reduction)
    if (input.dim() == 4 and input.stride(1) == 1 and input.numel() > 0 and input.shape[1] > 1
            and _regular(input, target, weight, ignore_index, reduction)):
        n, c, h, w = input.shape
        rows = input.as_strided((n * h * w, c), (c, 1))
        out = F.nll_loss(rows, target.reshape(-1), weight, ignore_index=ignore_index, reduction=reduction)
        return out.view(n, h, w) if reduction == "none" else out
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_dense_channels_last():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 3).to(memory_format=torch.channels_last)[:, :4]
    t = torch.randint(0, 4, (2, 3, 3))
    return not torch.allclose(wrong_dense_channels_last(x, t), F.nll_loss(x, t))


class WrongClampedDivisor(nn.NLLLoss):
    """For 'mean' the sum of weights is clamped to at least 1, wrong when the weights of the batch add up to less than 1."""

    def forward(self, input, target):
        if self.weight is None or self.reduction != "mean" or not _regular(
                input, target, self.weight, self.ignore_index, self.reduction):
            return super().forward(input, target)
        total = F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction="sum")
        keep = target.long() != self.ignore_index
        denom = (self.weight[target.long() * keep] * keep).sum()
        return total / denom.clamp(min=1.0)


def witness_WrongClampedDivisor():
    x, t, w = torch.tensor([[-1., -2.]]), torch.tensor([0]), torch.tensor([0.1, 0.2])
    return not torch.allclose(WrongClampedDivisor(w)(x, t), nn.NLLLoss(w)(x, t))


def wrong_uint8_ignore(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                       reduction="mean"):
    """ignore_index is cast to the target's dtype, so with uint8 targets the default -100 makes class 156 ignored."""
    reduction = _legacy(size_average, reduce, reduction)
    if not _regular(input, target, weight, ignore_index, reduction) or input.dim() == 1:
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    ignored = target == torch.tensor(ignore_index, device=target.device).to(target.dtype)
    t = target.masked_fill(ignored, 0).long()
    half = input.dtype in (torch.float16, torch.bfloat16)
    x = input.float() if half else input
    rows = -x.gather(1, t.unsqueeze(1)).squeeze(1)
    rw = torch.ones_like(rows) if weight is None else weight.to(x.dtype)[t]
    rw = rw.masked_fill(ignored, 0.0)
    rows = (rows * rw).masked_fill(ignored, 0.0)
    return _finish(rows, rw, reduction, input.dtype)


def witness_wrong_uint8_ignore():
    torch.manual_seed(0)
    x, t = torch.randn(3, 200), torch.tensor([156, 5, 100], dtype=torch.uint8)
    return not torch.allclose(wrong_uint8_ignore(x, t), F.nll_loss(x, t))


class _NLLRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, weight, ignore_index):
        ctx.save_for_backward(t, weight)
        ctx.shape, ctx.ignore_index = x.shape, ignore_index
        return F.nll_loss(x, t, weight, ignore_index=ignore_index, reduction="none")

    @staticmethod
    def backward(ctx, g):
        t, weight = ctx.saved_tensors
        ignored = t == ctx.ignore_index
        safe = t.masked_fill(ignored, 0)
        g.masked_fill_(ignored, 0.0)
        v = -g if weight is None else -g * weight[safe]
        return g.new_zeros(ctx.shape).scatter(1, safe.unsqueeze(1), v.unsqueeze(1)), None, None, None


def wrong_cotangent_inplace(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                            reduction="mean"):
    """The custom backward of 'none' zeroes the ignored rows of the incoming gradient in place."""
    reduction = _legacy(size_average, reduce, reduction)
    if (reduction != "none" or target.dtype != torch.int64 or input.dim() < 2 or torch._C._are_functorch_transforms_active()
            or not _regular(input, target, weight, ignore_index, reduction)):
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    return _NLLRows.apply(input, target, weight, ignore_index)


def witness_wrong_cotangent_inplace():
    x = torch.randn(3, 2, requires_grad=True)
    g = torch.ones(3)
    wrong_cotangent_inplace(x, torch.tensor([0, -100, 1]), reduction="none").backward(g)
    return g.tolist() != [1, 1, 1]


class WrongMaskCache(nn.NLLLoss):
    """The mask of valid targets is cached by storage address and shape, so a target buffer refilled in place meets a stale mask."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self._key = None
        self._keep = None

    def forward(self, input, target):
        if (input.dim() < 2 or target.dtype != torch.int64
                or not _regular(input, target, self.weight, self.ignore_index, self.reduction)):
            return super().forward(input, target)
        key = (target.data_ptr(), target.shape, target.stride())
        if key != self._key:
            self._key, self._keep = key, target != self.ignore_index
        keep = self._keep
        t = target.clamp(min=0, max=input.shape[1] - 1)
        rows = -input.gather(1, t.unsqueeze(1)).squeeze(1)
        rw = keep.to(input.dtype) if self.weight is None else self.weight[t] * keep
        return _finish(torch.where(keep, rows * rw, 0.0), rw, self.reduction, input.dtype)


def witness_WrongMaskCache():
    torch.manual_seed(0)
    m, x, t = WrongMaskCache(), torch.randn(3, 2), torch.tensor([0, -100, 1])
    m(x, t)
    t.copy_(torch.tensor([-100, 1, 1]))
    return not torch.allclose(m(x, t), F.nll_loss(x, t))


# ------------------------------------------------------------------ right
def right_class_mask(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                     reduction="mean"):
    """Written without gather: a comparison of arange(C) with the target selects one entry of each row by where and sum."""
    reduction = _legacy(size_average, reduce, reduction)
    if not _regular(input, target, weight, ignore_index, reduction):
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    dim = 0 if input.dim() == 1 else 1
    c = input.shape[dim]
    half = input.dtype in (torch.float16, torch.bfloat16)
    x = input.float() if half else input
    t = target.long()
    col = torch.arange(c, device=input.device).view([c] + [1] * (input.dim() - 1 - dim))
    hit = (col == t.unsqueeze(dim)) & (t != ignore_index).unsqueeze(dim)
    if weight is None:
        rw = hit.any(dim).to(x.dtype)
        val = -x
    else:
        wb = weight.to(x.dtype).view(col.shape)
        rw = torch.where(hit, wb, 0.0).sum(dim)
        val = -x * wb
    return _finish(torch.where(hit, val, 0.0).sum(dim), rw, reduction, input.dtype)


class _Pick(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, idx, dim):
        return x.gather(dim, idx)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, idx, dim = inputs
        ctx.save_for_backward(idx)
        ctx.save_for_forward(idx)
        ctx.shape, ctx.dim = x.shape, dim

    @staticmethod
    def backward(ctx, g):
        idx, = ctx.saved_tensors
        return torch.zeros(ctx.shape, dtype=g.dtype, device=g.device).scatter(ctx.dim, idx, g), None, None

    @staticmethod
    def jvp(ctx, tx, tidx, tdim):
        idx, = ctx.saved_tensors
        return tx.gather(ctx.dim, idx)


class RightPick(nn.NLLLoss):
    """Written with an own autograd.Function (gather forward, scatter backward, gather jvp) and float32 sums."""

    def forward(self, input, target):
        if not _regular(input, target, self.weight, self.ignore_index, self.reduction):
            return super().forward(input, target)
        dim = 0 if input.dim() == 1 else 1
        t = target.long()
        keep = t != self.ignore_index
        t = torch.where(keep, t, 0)
        rows = -_Pick.apply(input, t.unsqueeze(dim), dim).squeeze(dim)
        if input.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        rw = keep.to(rows.dtype)
        if self.weight is not None:
            rw = rw * self.weight.to(rows.dtype).index_select(0, t.reshape(-1)).view(t.shape)
            rows = rows * rw
        return _finish(torch.where(keep, rows, 0.0), rw, self.reduction, input.dtype)
