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


def _check(input, target, p, weight):
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() > 2 or (input.dim() > 0 and input.shape[-1] == 0):
        raise RuntimeError("Expected non-empty vector or matrix with optional 0-dim batch size, "
                           f"but got: {list(input.shape)}")
    n = input.shape[0] if input.dim() == 2 else 1
    c = input.shape[-1] if input.dim() > 0 else 1
    if target.dim() > 1 or target.numel() != n:
        raise RuntimeError("multi_margin_loss: target tensor should be 1-D with size equal to the number of "
                           f"input samples (batch size). Expected [{n}], got {list(target.shape)}")
    if target.dtype is not torch.long:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"multi_margin_loss not implemented for {input.dtype}")
    if weight is not None:
        if weight.numel() != c:
            raise RuntimeError(f"inconsistent weight size, expected {c} but got {list(weight.shape)}")
        if weight.dtype != input.dtype:
            raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
        if weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("multi_margin_loss is not differentiable with respect to argument 'weight'")
    return n, c


def _open(input, target, p, weight):
    """Checked and flattened: x (N, C) in a dtype wide enough to add in, y (N), w (C) or None, and the dtype to return."""
    input, weight = _fp32(input, weight)
    n, c = _check(input, target, p, weight)
    wide = _acc(input.dtype)
    x = input.reshape(n, c).to(wide)
    return x, target.reshape(n), None if weight is None else weight.to(wide), input.dtype


def _hinge(x, y, margin):
    """The hinge of every class but the target's (there it is zero)."""
    z = float(margin) - x.gather(1, y[:, None]) + x
    z = torch.where(z > 0, z, torch.zeros_like(z))
    own = torch.arange(x.shape[1], device=x.device) == y[:, None]
    return z.masked_fill(own, 0)


def _close(loss, target, mode, dtype):
    """loss (N) reduced as asked, in the shape of the target for 'none'."""
    if mode == "mean":
        return loss.mean().to(dtype)
    if mode == "sum":
        return loss.sum().to(dtype)
    return loss.reshape(target.shape).to(dtype)


# ---------------------------------------------------------------- wrong

def wrong_target_class_counted(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The sum runs over i == y as well, which adds margin**p / C to every sample: no loss ever reaches zero."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    z = float(margin) - x.gather(1, y[:, None]) + x
    h = torch.where(z > 0, z, torch.zeros_like(z)) ** p
    if w is not None:
        h = h * w[y][:, None]
    return _close(h.sum(1) / x.shape[1], target, mode, dtype)


def witness_wrong_target_class_counted():
    x, y = torch.tensor([[5.0, 0.0, 0.0, 0.0]]), torch.tensor([0])
    return F.multi_margin_loss(x, y).item() == 0 and abs(wrong_target_class_counted(x, y).item() - 0.25) < 1e-6


def wrong_crammer_singer(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Only the most violating class counts (Crammer-Singer) instead of the sum over classes divided by C."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    h = _hinge(x, y, margin) ** p
    if w is not None:
        h = h * w[y][:, None]
    return _close(h.amax(1), target, mode, dtype)


def witness_wrong_crammer_singer():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3])
    return abs(wrong_crammer_singer(x, y).item() - 0.6) < 1e-5 and abs(F.multi_margin_loss(x, y).item() - 0.325) < 1e-5


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h):
        return h * h

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad_output):
        (h,) = ctx.saved_tensors
        return grad_output * h


def wrong_p2_gradient_halved(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """For p = 2 the hand-written backward has no factor 2: the value is right, the gradient is half; p = 1 is right."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    h = _hinge(x, y, margin)
    if p == 2:
        h = _Square.apply(h)
    if w is not None:
        h = h * w[y][:, None]
    return _close(h.sum(1) / x.shape[1], target, mode, dtype)


def witness_wrong_p2_gradient_halved():
    y, g = torch.tensor([0, 2]), []
    for f in (wrong_p2_gradient_halved, F.multi_margin_loss):
        x = torch.tensor([[0.1, 0.5, -0.2], [0.3, 0.0, 0.6]], requires_grad=True)
        f(x, y, p=2).backward()
        g.append(x.grad)
    return torch.allclose(g[0] * 2, g[1], atol=1e-6) and not torch.allclose(g[0], g[1])


class WrongWeightInsideSquare(_WeightedLoss):
    """The class weight multiplies the hinge before the power: for p = 2 the weight is squared (p = 1 is right)."""

    __constants__ = ["p", "margin", "reduction"]

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("weight must be one-dimensional")
        self.p, self.margin = p, margin

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, y, w, dtype = _open(input, target, self.p, self.weight)
        h = _hinge(x, y, self.margin)
        if w is not None:
            h = h * w[y][:, None]
        return _close((h ** self.p).sum(1) / x.shape[1], target, mode, dtype)


def witness_WrongWeightInsideSquare():
    x, y, w = torch.tensor([[0.1, 0.5, -0.2], [0.3, 0.0, 0.6]]), torch.tensor([0, 2]), torch.tensor([2.0, 1.0, 0.5])
    one = torch.allclose(WrongWeightInsideSquare(1, weight=w)(x, y), nn.MultiMarginLoss(1, weight=w)(x, y))
    return one and not torch.allclose(WrongWeightInsideSquare(2, weight=w)(x, y), nn.MultiMarginLoss(2, weight=w)(x, y))


class WrongWeightNotABuffer(_Loss):
    """The weight is a plain attribute: it is missing from state_dict() and stays behind on .to() / .double()."""

    __constants__ = ["p", "margin", "reduction"]

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("weight must be one-dimensional")
        self.p, self.margin, self.weight = p, margin, weight

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, y, w, dtype = _open(input, target, self.p, self.weight)
        h = _hinge(x, y, self.margin) ** self.p
        if w is not None:
            h = h * w[y][:, None]
        return _close(h.sum(1) / x.shape[1], target, mode, dtype)


def witness_WrongWeightNotABuffer():
    w = torch.tensor([2.0, 1.0, 0.5])
    a, b = WrongWeightNotABuffer(weight=w).double(), nn.MultiMarginLoss(weight=w).double()
    return (a.weight.dtype is torch.float32 and b.weight.dtype is torch.float64
            and "weight" not in a.state_dict() and "weight" in b.state_dict())


def wrong_negative_target_wraps(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Targets are used as Python indices: -1 (an ignore or padding label) means the last class instead of an error."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    y = torch.where(y < 0, y + x.shape[1], y)
    h = _hinge(x, y, margin) ** p
    if w is not None:
        h = h * w[y][:, None]
    return _close(h.sum(1) / x.shape[1], target, mode, dtype)


def witness_wrong_negative_target_wraps():
    x, y = torch.tensor([[0.1, 0.5, -0.2]]), torch.tensor([-1])
    try:
        F.multi_margin_loss(x, y)
        return False
    except RuntimeError:
        pass
    return torch.allclose(wrong_negative_target_wraps(x, y), F.multi_margin_loss(x, torch.tensor([2])))


def wrong_ties_left_out(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The target class is found as the score equal to x[y]: every other class tied with it is left out too (all-zero logits give a loss and gradient of zero)."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    own = x.gather(1, y[:, None])
    z = float(margin) - own + x
    h = torch.where((z > 0) & (x != own), z, torch.zeros_like(z)) ** p
    if w is not None:
        h = h * w[y][:, None]
    return _close(h.sum(1) / x.shape[1], target, mode, dtype)


def witness_wrong_ties_left_out():
    x, y = torch.zeros(2, 4), torch.tensor([1, 3])
    return wrong_ties_left_out(x, y).item() == 0 and F.multi_margin_loss(x, y).item() == 0.75


def wrong_zero_margin_is_default(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """`margin or 1.0`: a margin of 0 (the perceptron loss) is taken as not given and becomes 1."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    h = _hinge(x, y, margin or 1.0) ** p
    if w is not None:
        h = h * w[y][:, None]
    return _close(h.sum(1) / x.shape[1], target, mode, dtype)


def witness_wrong_zero_margin_is_default():
    x, y = torch.tensor([[0.5, 0.2, 0.1]]), torch.tensor([0])
    return wrong_zero_margin_is_default(x, y, margin=0).item() > 0.3 and F.multi_margin_loss(x, y, margin=0).item() == 0


# ---------------------------------------------------------------- right

class _Rows(torch.autograd.Function):
    """sum_i relu(margin - x_y + x_i)^p over i != y, for each row, with its analytic gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, p, margin):
        z = margin + (x - x.gather(1, y[:, None]))
        z = torch.where(z > 0, z, torch.zeros_like(z)).scatter(1, y[:, None], 0)
        return z.sum(1) if p == 1 else (z * z).sum(1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.p, ctx.margin = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        z = ctx.margin + (x - x.gather(1, y[:, None]))
        on = (z > 0).to(x.dtype).scatter(1, y[:, None], 0)
        d = on if ctx.p == 1 else 2 * torch.where(on > 0, z, torch.zeros_like(z))
        g = d.scatter(1, y[:, None], -d.sum(1, keepdim=True))
        return g * grad_output[:, None], None, None, None


def right_analytic_rows(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """An autograd.Function with the analytic row gradient, in float64; the weight is applied to each row's sum."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _open(input, target, p, weight)
    rows = _Rows.apply(x.double(), y, int(p), float(margin)) / x.shape[1]
    if w is not None:
        rows = rows * w.double().index_select(0, y)
    return _close(rows, target, mode, dtype)


class RightOtherColumns(_WeightedLoss):
    """The C - 1 other classes of each row are gathered by index, so nothing has to be masked out; rows in chunks."""

    __constants__ = ["p", "margin", "reduction"]

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("weight must be one-dimensional")
        self.p, self.margin = p, margin

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, y, w, dtype = _open(input, target, self.p, self.weight)
        c = x.shape[1]
        k = max(1, (x.shape[0] + 1) // 2)
        done = []
        for xs, ys in zip(x.split(k), y.split(k)):
            own = xs.gather(1, ys[:, None])
            idx = torch.arange(c - 1, device=x.device)
            idx = idx + (idx >= ys[:, None]).long()
            gap = xs.gather(1, idx) - own + float(self.margin)
            h = torch.where(gap > 0, gap, torch.zeros_like(gap))
            s = h.sum(1) if self.p == 1 else torch.einsum("nc,nc->n", h, h) if not _autocast_on(h) else (h * h).sum(1)
            done.append(s / c if w is None else s * w[ys] / c)
        return _close(torch.cat(done), target, mode, dtype)
