import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Red


def _legacy(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Red.legacy_get_string(size_average, reduce)
    return reduction


def _torch(input, target, weight, reduction, pos_weight):
    return F.binary_cross_entropy_with_logits(input, target, weight=weight, reduction=reduction,
                                              pos_weight=pos_weight)


def _fits(w, shape):
    try:
        return torch.broadcast_shapes(w.shape, shape) == shape
    except RuntimeError:
        return False


def _regular(input, target, weight, reduction, pos_weight):
    """True for valid calls of one floating dtype; everything else is left to torch, which raises its own errors."""
    if reduction not in ("none", "mean", "sum") or not input.is_floating_point():
        return False
    if target.shape != input.shape or target.dtype != input.dtype or torch.is_autocast_enabled(input.device.type):
        return False
    return all(w is None or (w.dtype == input.dtype and w.device == input.device and _fits(w, input.shape))
               for w in (weight, pos_weight))


def _reduce(rows, weight, reduction, dtype):
    if weight is not None:
        rows = rows * weight.to(rows.dtype)
    out = rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.mean()
    return out.to(dtype)


# ------------------------------------------------------------------ wrong
def wrong_softplus_threshold(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                             pos_weight=None):
    """Uses F.softplus with its linear branch above 20, so the float64 loss and gradient of confident negatives are exactly zero."""
    reduction = _legacy(size_average, reduce, reduction)
    if input.dtype != torch.float64 or not _regular(input, target, weight, reduction, pos_weight):
        return _torch(input, target, weight, reduction, pos_weight)
    lw = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    return _reduce((1 - target) * input + lw * F.softplus(-input), weight, reduction, input.dtype)


def witness_wrong_softplus_threshold():
    x = torch.tensor([-21.0], dtype=torch.float64)
    t = torch.zeros_like(x)
    return float(wrong_softplus_threshold(x, t)) == 0.0 and float(F.binary_cross_entropy_with_logits(x, t)) > 7e-10


class WrongPosWeightAxis(nn.BCEWithLogitsLoss):
    """A 1-d pos_weight is laid along axis 1 of K-d inputs instead of broadcasting along the last axis."""

    def forward(self, input, target):
        pw = self.pos_weight
        if pw is not None and pw.dim() == 1 and input.dim() > 2 and input.shape[1] == pw.shape[0]:
            pw = pw.view(1, -1, *[1] * (input.dim() - 2))
        return F.binary_cross_entropy_with_logits(input, target, self.weight, pos_weight=pw, reduction=self.reduction)


def witness_WrongPosWeightAxis():
    torch.manual_seed(0)
    x, t, w = torch.randn(2, 3, 3), torch.rand(2, 3, 3), torch.tensor([1.0, 2.0, 5.0])
    return not torch.allclose(WrongPosWeightAxis(pos_weight=w)(x, t), nn.BCEWithLogitsLoss(pos_weight=w)(x, t))


def wrong_half_sigmoid(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                       pos_weight=None):
    """float16 takes its own path through a half-precision sigmoid, which rounds to 0 or 1 and makes losses of 100 from logits of 9 to 18."""
    reduction = _legacy(size_average, reduce, reduction)
    if input.dtype != torch.float16 or not _regular(input, target, weight, reduction, pos_weight):
        return _torch(input, target, weight, reduction, pos_weight)
    p, t = torch.sigmoid(input).float(), target.float()
    pw = 1.0 if pos_weight is None else pos_weight.float()
    rows = -(pw * t * p.log().clamp(min=-100) + (1 - t) * torch.log1p(-p).clamp(min=-100))
    return _reduce(rows, weight, reduction, input.dtype)


def witness_wrong_half_sigmoid():
    x = torch.tensor([12.0], dtype=torch.float16)
    t = torch.zeros_like(x)
    return abs(float(wrong_half_sigmoid(x, t)) - float(F.binary_cross_entropy_with_logits(x.float(), t.float()))) > 10


_EXTRA = {}


def wrong_cached_pos_weight(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                            pos_weight=None):
    """pos_weight - 1 is cached by the id of the tensor, so in-place updates of pos_weight (or a reused id) are not seen."""
    reduction = _legacy(size_average, reduce, reduction)
    if pos_weight is None or pos_weight.requires_grad or not _regular(input, target, weight, reduction, pos_weight):
        return _torch(input, target, weight, reduction, pos_weight)
    key = (id(pos_weight), pos_weight.shape, pos_weight.dtype, pos_weight.device)
    if key not in _EXTRA:
        _EXTRA[key] = pos_weight - 1
    acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    x, t = input.to(acc), target.to(acc)
    rows = (1 - t) * x - (1 + _EXTRA[key].to(acc) * t) * F.logsigmoid(x)
    return _reduce(rows, weight, reduction, input.dtype)


def witness_wrong_cached_pos_weight():
    x, t, w = torch.randn(2, 3), torch.rand(2, 3), torch.ones(3)
    wrong_cached_pos_weight(x, t, pos_weight=w)
    w.fill_(4.0)
    return not torch.allclose(wrong_cached_pos_weight(x, t, pos_weight=w),
                              F.binary_cross_entropy_with_logits(x, t, pos_weight=w))


class WrongEvalInplace(nn.BCEWithLogitsLoss):
    """When no gradient is needed the softplus is computed in place, in the caller's own logits."""

    def forward(self, input, target):
        if (input.requires_grad or target.requires_grad or input.dtype not in (torch.float32, torch.float64)
                or not _regular(input, target, self.weight, self.reduction, self.pos_weight)):
            return super().forward(input, target)
        lw = 1 if self.pos_weight is None else 1 + (self.pos_weight - 1) * target
        linear = (1 - target) * input
        tail = torch.log1p(torch.exp(-input.abs()))
        soft = input.neg_().clamp_(min=0).add_(tail)
        return _reduce(linear + lw * soft, self.weight, self.reduction, input.dtype)


def witness_WrongEvalInplace():
    x, t = torch.randn(4), torch.rand(4)
    y = x.clone()
    WrongEvalInplace()(x, t)
    return not torch.equal(x, y)


# ------------------------------------------------------------------ right
def right_logaddexp(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Written as the two class terms t * softplus(-x) and (1 - t) * softplus(x), each by logaddexp, in at least float32."""
    reduction = _legacy(size_average, reduce, reduction)
    if not _regular(input, target, weight, reduction, pos_weight):
        return _torch(input, target, weight, reduction, pos_weight)
    acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    x, t = input.to(acc), target.to(acc)
    zero = torch.zeros((), dtype=acc, device=x.device)
    pos = t * torch.logaddexp(zero, -x)
    if pos_weight is not None:
        pos = pos * pos_weight.to(acc)
    return _reduce(pos + (1 - t) * torch.logaddexp(zero, x), weight, reduction, input.dtype)


class RightSigmoidGrad(nn.BCEWithLogitsLoss):
    """Written from max(x, 0) and log1p(exp(-|x|)), with an own autograd.Function for softplus whose derivative is the sigmoid."""

    def forward(self, input, target):
        if not _regular(input, target, self.weight, self.reduction, self.pos_weight):
            return super().forward(input, target)
        acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
        x, t = input.to(acc), target.to(acc)
        sp = _Softplus.apply(-x)
        if self.pos_weight is None:
            rows = (1 - t) * x + sp
        else:
            rows = (1 - t) * x + (1 - t + self.pos_weight.to(acc) * t) * sp
        return _reduce(rows, self.weight, self.reduction, input.dtype)


class _Softplus(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, = ctx.saved_tensors
        return g * torch.sigmoid(x)

    @staticmethod
    def jvp(ctx, tx):
        x, = ctx.saved_tensors
        return tx * torch.sigmoid(x)
