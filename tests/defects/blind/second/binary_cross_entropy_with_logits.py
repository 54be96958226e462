"""Wrong and right implementations of binary_cross_entropy_with_logits, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    if not reduce:
        return "none"
    return "mean" if size_average else "sum"


def _check(input, target):
    if target.size() != input.size():
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")


def _finish(loss, weight, reduction):
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _pointwise(x, t, pos_weight):
    ls = F.logsigmoid(x)
    if pos_weight is None:
        return (1 - t) * x - ls
    return (1 - t) * x - (1 + (pos_weight - 1) * t) * ls


def wrong_log_of_one_plus(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """'Stable' form max(-x, 0) + log(1 + exp(-|x|)) with log instead of log1p: confident right answers lose all digits."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    sp = (-input).clamp(min=0) + (1 + (-input.abs()).exp()).log()
    lw = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    return _finish((1 - target) * input + lw * sp, weight, reduction)


def witness_wrong_log_of_one_plus():
    x, t = torch.tensor([18.]), torch.tensor([1.])
    return not torch.allclose(wrong_log_of_one_plus(x, t), F.binary_cross_entropy_with_logits(x, t), rtol=1e-2, atol=0)


def wrong_pos_weight_soft(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """pos_weight scales the whole loss of elements with target > 0.5: the same for hard labels only."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    loss = _pointwise(input, target, None)
    if pos_weight is not None:
        loss = torch.where(target > 0.5, pos_weight * loss, loss)
    return _finish(loss, weight, reduction)


def witness_wrong_pos_weight_soft():
    x, t, p = torch.randn(4), torch.tensor([.1, .3, .7, .9]), torch.tensor(3.)
    return not torch.allclose(wrong_pos_weight_soft(x, t, pos_weight=p), F.binary_cross_entropy_with_logits(x, t, pos_weight=p))


def wrong_mean_over_unmasked(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """A weight with zeros is taken for a mask: the mean divides by the number of nonzero weights."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    loss = _pointwise(input, target, pos_weight)
    if weight is not None and reduction == "mean" and bool((weight == 0).any()):
        w = weight.expand_as(loss)
        return (loss * w).sum() / (w != 0).sum().clamp(min=1)
    return _finish(loss, weight, reduction)


def witness_wrong_mean_over_unmasked():
    x, t, w = torch.randn(4), torch.rand(4), torch.tensor([1., 0., 1., 1.])
    return not torch.allclose(wrong_mean_over_unmasked(x, t, w), F.binary_cross_entropy_with_logits(x, t, w))


def wrong_pos_weight_dim1(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """pos_weight of shape (C,) is laid along dim 1 of (B, C, ...); torch broadcasts it against the last dimension."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    if pos_weight is not None and pos_weight.dim() == 1 and input.dim() > 2 and pos_weight.size(0) == input.size(1):
        pos_weight = pos_weight.reshape(-1, *[1] * (input.dim() - 2))
    return _finish(_pointwise(input, target, pos_weight), weight, reduction)


def witness_wrong_pos_weight_dim1():
    x, t, p = torch.randn(2, 3, 3), torch.rand(2, 3, 3), torch.tensor([1., 2., 3.])
    return not torch.allclose(wrong_pos_weight_dim1(x, t, pos_weight=p), F.binary_cross_entropy_with_logits(x, t, pos_weight=p))


class _SavedSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, pw):
        s = torch.sigmoid(x)
        ctx.save_for_backward(s, x, t, pw)
        return _pointwise(x, t, pw)

    @staticmethod
    def backward(ctx, g):
        s, x, t, pw = ctx.saved_tensors
        ls = F.logsigmoid(x)
        gx = g * ((1 - t) - (1 + (pw - 1) * t) * (1 - s))
        gt = g * (-x - (pw - 1) * ls)
        gp = (-g * t * ls).sum_to_size(pw.shape)
        return gx, gt, gp


def wrong_second_derivative(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """The sigmoid is computed in forward and saved; second derivatives see it as a constant and come out zero."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    pw = torch.ones((), dtype=input.dtype, device=input.device) if pos_weight is None else pos_weight
    return _finish(_SavedSigmoid.apply(input, target, pw), weight, reduction)


def witness_wrong_second_derivative():
    x, t = torch.tensor([0.3, -1.2], requires_grad=True), torch.tensor([1., 0.])
    r = []
    for f in (wrong_second_derivative, F.binary_cross_entropy_with_logits):
        g, = torch.autograd.grad(f(x, t, reduction="sum"), x, create_graph=True)
        if not g.requires_grad:
            return True
        r.append(torch.autograd.grad(g.pow(2).sum(), x, allow_unused=True)[0])
    return r[0] is None or not torch.allclose(*r)


def right_two_softplus(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """t * pos_weight * softplus(-x) + (1 - t) * softplus(x), each by logsigmoid."""
    reduction = _legacy(size_average, reduce, reduction)
    _check(input, target)
    zero = torch.zeros((), dtype=input.dtype, device=input.device)
    pos = target * -F.logsigmoid(input)
    if pos_weight is not None:
        pos = pos * pos_weight
    return _finish(pos + (1 - target) * -F.logsigmoid(zero - input), weight, reduction)


class RightBCEWithLogitsLoss(torch.nn.Module):
    """Module with both weights as buffers."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
        super().__init__()
        self.reduction = _legacy(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input, target):
        _check(input, target)
        return _finish(_pointwise(input, target, self.pos_weight), self.weight, self.reduction)
