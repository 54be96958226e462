import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss, _WeightedLoss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(input, target, p, weight):
    """validates as torch does and returns (input as (N, C), target as (N,))"""
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() > 2 or (input.dim() > 0 and input.size(-1) == 0):
        raise RuntimeError("Expected non-empty vector or matrix with optional 0-dim batch size, "
                           f"but got: {list(input.shape)}")
    if target.dtype != torch.long:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    x = input.reshape(1, -1) if input.dim() < 2 else input
    if target.dim() > 1 or target.numel() != x.size(0) or (input.dim() == 2 and target.dim() != 1):
        raise RuntimeError("multi_margin_loss: target tensor should be 1-D with size equal to the number "
                           f"of input samples. Expected target size [{x.size(0)}], but got {list(target.shape)}")
    if weight is not None:
        if weight.requires_grad:
            raise RuntimeError("multi_margin_loss is not differentiable with respect to argument 'weight'")
        if weight.numel() != x.size(1):
            raise RuntimeError(f"inconsistent weight size, expected {x.size(1)} but got {list(weight.shape)}")
        if weight.dtype != input.dtype:
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
    return x, target.reshape(-1)


def _check_range(t, c):
    if t.numel():
        try:
            bad = bool(((t < 0) | (t >= c)).any())
        except RuntimeError:        # inside vmap: the values are not readable, gather checks them
            return
        if bad:
            raise RuntimeError("target out of range")


def _finish(loss, target, mode):
    if mode == "none":
        return loss.reshape(target.shape)
    return loss.mean() if mode == "mean" else loss.sum()


def _hinge(x, t, p, margin, weight):
    z = margin - x.gather(1, t[:, None]) + x
    own = t[:, None] == torch.arange(x.size(1), device=x.device)
    z = torch.where((z > 0) & ~own, z, torch.zeros_like(z))
    if p == 2:
        z = z * z
    if weight is not None:
        z = z * weight[t][:, None]
    return z.sum(1) / x.size(1)


# ---------------------------------------------------------------- wrong
class _RowBlocks(torch.autograd.Function):
    BLOCK = 256

    @staticmethod
    def forward(ctx, x, t, p, margin, w):
        B = _RowBlocks.BLOCK
        out = torch.empty(x.size(0), dtype=x.dtype, device=x.device)
        for s in range(0, x.size(0), B):
            out[s:s + B] = _hinge(x[s:s + B], t[s:s + B], p, margin, w)
        ctx.save_for_backward(x, t, w)
        ctx.p, ctx.margin = p, margin
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, t, w = ctx.saved_tensors
        n, c = x.shape
        B = min(_RowBlocks.BLOCK, n)
        grad = torch.zeros_like(x)
        for b in range(n // B if B else 0):
            r = slice(b * B, (b + 1) * B)
            tt = t[r][:, None]
            z = ctx.margin - x[r].gather(1, tt) + x[r]
            d = torch.where(z > 0, torch.ones_like(z) if ctx.p == 1 else 2 * z, torch.zeros_like(z))
            d.scatter_(1, tt, 0.0)
            if w is not None:
                d = d * w[tt]
            d.scatter_(1, tt, -d.sum(1, keepdim=True))
            grad[r] = d * (g[r] / c)[:, None]
        return grad, None, None, None, None


def wrong_row_blocks(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None,
                     reduction="mean"):
    """The backward runs over whole blocks of 256 rows only, so rows of a ragged last block get gradient zero."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    _check_range(t, x.size(1))
    return _finish(_RowBlocks.apply(x, t, p, margin, weight), target, mode)


def witness_wrong_row_blocks():
    torch.manual_seed(0)
    x = torch.randn(300, 4, requires_grad=True)
    t = torch.randint(0, 4, (300,))
    g, = torch.autograd.grad(wrong_row_blocks(x, t, reduction="sum"), x)
    e, = torch.autograd.grad(F.multi_margin_loss(x, t, reduction="sum"), x)
    return not torch.allclose(g, e)


class WrongWeightInPower(_WeightedLoss):
    """With p=2 the class weight is multiplied in before the power, so it acts squared."""

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("expected weight to be None or 1D tensor")
        self.p, self.margin = p, margin

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target, self.p, self.weight)
        _check_range(t, x.size(1))
        z = self.margin - x.gather(1, t[:, None]) + x
        z = torch.where(z > 0, z, torch.zeros_like(z)).scatter(1, t[:, None], 0.0)
        if self.weight is not None:
            z = z * self.weight[t][:, None]
        return _finish((z ** self.p).sum(1) / x.size(1), target, mode)


def witness_WrongWeightInPower():
    torch.manual_seed(0)
    x, t, w = torch.randn(5, 4), torch.randint(0, 4, (5,)), torch.tensor([.5, 1, 2, 3])
    return not torch.allclose(WrongWeightInPower(p=2, weight=w)(x, t), nn.MultiMarginLoss(p=2, weight=w)(x, t))


def wrong_negative_index(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None,
                         reduction="mean"):
    """The score of the target is read by plain indexing, so a target of -1 silently means the last class instead of an error."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    rows = torch.arange(x.size(0), device=x.device)
    if t.numel() and int(t.max()) >= x.size(1):
        raise RuntimeError("target out of range")
    z = margin - x[rows, t][:, None] + x
    z = torch.where(z > 0, z, torch.zeros_like(z))
    keep = torch.ones_like(z)
    keep[rows, t] = 0
    z = (z * z if p == 2 else z) * keep
    if weight is not None:
        z = z * weight[t][:, None]
    return _finish(z.sum(1) / x.size(1), target, mode)


def witness_wrong_negative_index():
    x, t = torch.randn(2, 3), torch.tensor([0, -1])
    try:
        F.multi_margin_loss(x, t)
        return False
    except RuntimeError:
        pass
    try:
        wrong_negative_index(x, t)
    except (RuntimeError, IndexError):
        return False
    return True


class WrongFloatInside(nn.MultiMarginLoss):
    """The loss is computed in float32 also for float64 inputs (and cast back), so double precision is lost."""

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target, self.p, self.weight)
        _check_range(t, x.size(1))
        w = None if self.weight is None else self.weight.float()
        loss = _hinge(x.float(), t, self.p, self.margin, w)
        return _finish(loss, target, mode).to(input.dtype)


def witness_WrongFloatInside():
    torch.manual_seed(0)
    x, t = torch.randn(4, 5).double() * 1e3, torch.tensor([0, 1, 2, 3])
    return bool((WrongFloatInside()(x, t) - nn.MultiMarginLoss()(x, t)).abs() > 1e-9)


class _GradInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, p, margin, w):
        tt = t[:, None]
        z = margin - x.gather(1, tt) + x
        z = torch.where(z > 0, z, torch.zeros_like(z)).scatter(1, tt, 0.0)
        d = (z > 0).to(x.dtype) if p == 1 else 2 * z
        loss = z if p == 1 else z * z
        if w is not None:
            d, loss = d * w[tt], loss * w[tt]
        d.scatter_(1, tt, -d.sum(1, keepdim=True))
        ctx.grad = d.div_(x.size(1))
        return loss.sum(1) / x.size(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return ctx.grad.mul_(g[:, None]), None, None, None, None


def wrong_grad_in_forward(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None,
                          reduction="mean"):
    """The gradient is prepared in forward and scaled in place in backward, so a second backward (retain_graph) is scaled twice."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    _check_range(t, x.size(1))
    return _finish(_GradInForward.apply(x, t, p, margin, weight), target, mode)


def witness_wrong_grad_in_forward():
    torch.manual_seed(0)
    x, t = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 3])
    loss = wrong_grad_in_forward(x, t)
    a = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    b = torch.autograd.grad(loss, x)[0]
    return not torch.allclose(a, b)


class WrongPlainWeight(_Loss):
    """The class weight is a plain attribute and no buffer: it is missing in state_dict and does not follow .to()/.double()."""

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("expected weight to be None or 1D tensor")
        self.p, self.margin, self.weight = p, margin, weight

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target, self.p, self.weight)
        _check_range(t, x.size(1))
        return _finish(_hinge(x, t, self.p, self.margin, self.weight), target, mode)


def witness_WrongPlainWeight():
    w = torch.rand(3)
    return "weight" in nn.MultiMarginLoss(weight=w).state_dict() and \
        "weight" not in WrongPlainWeight(weight=w).state_dict()


# ---------------------------------------------------------------- right
def right_scatter_minus_inf(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None,
                            reduction="mean"):
    """Differences by broadcasting, the target column set to -inf by scatter, hinge by a mask, float32 inside for 16-bit inputs."""
    mode = _mode(size_average, reduce, reduction)
    x, t = _check(input, target, p, weight)
    if not input.is_floating_point():
        raise NotImplementedError("multi_margin_loss needs a floating point input")
    _check_range(t, x.size(1))
    low = x.dtype in (torch.float16, torch.bfloat16)
    x = x.float() if low else x
    z = (margin - x.gather(1, t[:, None]) + x).scatter(1, t[:, None], float("-inf"))
    z = z.masked_fill(~(z > 0), 0.0)
    if p == 2:
        z = z.square()
    loss = z.sum(1) / x.size(1)
    if weight is not None:
        loss = loss * weight.to(x.dtype).index_select(0, t)
    out = _finish(loss, target, mode)
    return out.to(input.dtype) if low else out


class RightComplement(nn.MultiMarginLoss):
    """The clipped differences are multiplied with the one-hot complement and the row weight and summed."""

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, t = _check(input, target, self.p, self.weight)
        if not input.is_floating_point():
            raise NotImplementedError("multi_margin_loss needs a floating point input")
        _check_range(t, x.size(1))
        low = x.dtype in (torch.float16, torch.bfloat16)
        x = x.float() if low else x
        classes = torch.arange(x.size(1), device=x.device)
        other = (t[:, None] != classes).to(x.dtype)
        z = x - x.gather(1, t[:, None]) + self.margin
        z = torch.where((z > 0) & (other > 0), z, torch.zeros((), dtype=x.dtype, device=x.device))
        w = other.new_ones(x.size(0)) if self.weight is None else self.weight.to(x.dtype)[t]
        loss = ((z if self.p == 2 else other) * z * w[:, None]).sum(1) / x.size(1)
        out = _finish(loss, target, mode)
        return out.to(input.dtype) if low else out
