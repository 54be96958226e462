import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Red


def _legacy(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Red.legacy_get_string(size_average, reduce)
    return reduction


def _torch(input, target, weight, reduction):
    return F.binary_cross_entropy(input, target, weight=weight, reduction=reduction)


def _regular(input, target, weight, reduction):
    """True for valid calls of one floating dtype; everything else is left to torch, which raises its own errors."""
    if reduction not in ("none", "mean", "sum") or not input.is_floating_point():
        return False
    if target.shape != input.shape or target.dtype != input.dtype or target.device != input.device:
        return False
    if torch.is_autocast_enabled(input.device.type):
        return False
    if weight is not None:
        if weight.dtype != input.dtype or weight.requires_grad or weight.device != input.device:
            return False
        try:
            if torch.broadcast_shapes(target.shape, weight.shape) != target.shape:
                return False
        except RuntimeError:
            return False
    if torch.compiler.is_compiling():
        return True
    try:
        return bool(((input >= 0) & (input <= 1)).all())
    except RuntimeError:
        return True


def _reduce(rows, reduction, dtype):
    out = rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.mean()
    return out.to(dtype)


# ------------------------------------------------------------------ wrong
def wrong_eps(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Probabilities are clamped to [1e-7, 1 - 1e-7], so a certain wrong answer costs about 16 instead of the documented 100."""
    reduction = _legacy(size_average, reduce, reduction)
    if input.dtype not in (torch.float32, torch.float64) or not _regular(input, target, weight, reduction):
        return _torch(input, target, weight, reduction)
    p = input.clamp(1e-7, 1 - 1e-7)
    rows = -(target * p.log() + (1 - target) * torch.log1p(-p))
    return _reduce(rows if weight is None else rows * weight, reduction, input.dtype)


def witness_wrong_eps():
    x, t = torch.tensor([0.0]), torch.tensor([1.0])
    return not torch.allclose(wrong_eps(x, t), F.binary_cross_entropy(x, t))


class WrongMaskMean(nn.BCELoss):
    """'mean' divides by the number of elements of non-zero weight instead of the number of elements."""

    def forward(self, input, target):
        if self.weight is None or self.reduction != "mean":
            return super().forward(input, target)
        total = F.binary_cross_entropy(input, target, weight=self.weight, reduction="sum")
        return total / self.weight.expand_as(input).ne(0).sum()


def witness_WrongMaskMean():
    x, t, w = torch.tensor([0.3, 0.6]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    return not torch.allclose(WrongMaskMean(w)(x, t), nn.BCELoss(w)(x, t))


class _BCEOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, t):
        ctx.save_for_backward(p, t)
        return F.binary_cross_entropy(p, t, reduction="none")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        p, t = ctx.saved_tensors
        gp = g * (p - t) / (p * (1 - p)).clamp(min=1e-12)
        gt = g * (torch.log1p(-p) - p.log()) if ctx.needs_input_grad[1] else None
        return gp, gt


def wrong_once(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The custom backward is once_differentiable, so gradient penalties and Hessians raise where torch supports them."""
    reduction = _legacy(size_average, reduce, reduction)
    if (input.dtype not in (torch.float32, torch.float64) or torch._C._are_functorch_transforms_active()
            or not _regular(input, target, weight, reduction)):
        return _torch(input, target, weight, reduction)
    rows = _BCEOnce.apply(input, target)
    return _reduce(rows if weight is None else rows * weight, reduction, input.dtype)


def witness_wrong_once():
    x, t = torch.tensor([0.3, 0.6], requires_grad=True), torch.tensor([1.0, 0.0])

    def gg(f):
        g, = torch.autograd.grad(f(x, t), x, create_graph=True)
        return torch.autograd.grad(g.sum(), x)[0]
    gg(F.binary_cross_entropy)
    try:
        gg(wrong_once)
    except RuntimeError:
        return True
    return False


def wrong_silent_range(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Inputs outside of [0, 1] (raw logits passed by mistake) are clamped silently instead of raising RuntimeError."""
    reduction = _legacy(size_average, reduce, reduction)
    return _torch(input.clamp(0, 1), target, weight, reduction)


def witness_wrong_silent_range():
    x, t = torch.tensor([1.5]), torch.tensor([1.0])
    try:
        F.binary_cross_entropy(x, t)
        return False
    except RuntimeError:
        return bool(wrong_silent_range(x, t).isfinite())


class WrongStaleWeight(nn.BCELoss):
    """The expanded copy of the weight is cached by input shape and stays old after load_state_dict or an in-place change of the weight."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, reduce, reduction)
        self._expanded = {}

    def forward(self, input, target):
        if self.weight is None or target.shape != input.shape:
            return super().forward(input, target)
        key = (input.shape, self.weight.dtype, self.weight.device)
        if key not in self._expanded:
            self._expanded[key] = torch.ones_like(input, dtype=self.weight.dtype, requires_grad=False) * self.weight
        return F.binary_cross_entropy(input, target, weight=self._expanded[key], reduction=self.reduction)


def witness_WrongStaleWeight():
    m = WrongStaleWeight(torch.tensor([1.0, 1.0]))
    x, t = torch.tensor([[0.3, 0.6]]), torch.tensor([[1.0, 0.0]])
    m(x, t)
    m.load_state_dict({"weight": torch.tensor([5.0, 7.0])})
    return not torch.allclose(m(x, t), F.binary_cross_entropy(x, t, weight=torch.tensor([5.0, 7.0])))


# ------------------------------------------------------------------ right
class _BCE(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(p, t):
        return (t - 1) * torch.log1p(-p).clamp(min=-100) - t * p.log().clamp(min=-100)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _partials(p, t):
        return (p - t) / ((1 - p) * p).clamp(min=1e-12), torch.log1p(-p) - p.log()

    @staticmethod
    def backward(ctx, g):
        dp, dt = _BCE._partials(*ctx.saved_tensors)
        return (g * dp if ctx.needs_input_grad[0] else None), (g * dt if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx, tp, tt):
        dp, dt = _BCE._partials(*ctx.saved_tensors)
        out = torch.zeros_like(dp)
        if tp is not None:
            out = out + tp * dp
        if tt is not None:
            out = out + tt * dt
        return out


def right_closed_form(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Written with an own twice differentiable autograd.Function of closed-form derivatives, in at least float32."""
    reduction = _legacy(size_average, reduce, reduction)
    if not _regular(input, target, weight, reduction):
        return _torch(input, target, weight, reduction)
    acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    rows = _BCE.apply(input.to(acc), target.to(acc))
    if weight is not None:
        rows = rows * weight.to(acc)
    return _reduce(rows, reduction, input.dtype)
