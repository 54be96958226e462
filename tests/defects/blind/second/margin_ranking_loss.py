"""Wrong and right implementations of margin_ranking_loss, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _word(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return F._Reduction.legacy_get_string(size_average, reduce)
    F._Reduction.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def _same_dims(a, b, y):
    if a.dim() != b.dim() or a.dim() != y.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {a.size()}, input2: {b.size()}, target: {y.size()}")


def wrong_eval_in_place(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Saves an allocation when nothing needs a gradient, and so overwrites input1."""
    word = _word(size_average, reduce, reduction)
    _same_dims(input1, input2, target)
    needs = torch.is_grad_enabled() and any(t.requires_grad for t in (input1, input2, target))
    if needs or input1.shape != input2.shape or input1.dtype != input2.dtype or input1.requires_grad:
        diff = input1 - input2
    else:
        diff = input1.sub_(input2)
    return _reduced((margin - target * diff).clamp_min(0), word)


def witness_wrong_eval_in_place():
    a, b, y = torch.randn(5), torch.randn(5), torch.ones(5)
    keep = a.clone()
    wrong_eval_in_place(a, b, y)
    return not torch.equal(a, keep)


class _Pair(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, y, margin):
        z = margin - y * (a - b)
        ctx.save_for_backward(a, b, y, z >= 0)
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx, g):
        a, b, y, active = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        ga = torch.where(active, -y * g, torch.zeros_like(g))
        gy = torch.where(active, -(a - b) * g, torch.zeros_like(g)) if ctx.needs_input_grad[2] else None
        return ga, -ga, gy, None


def wrong_grad_only_if_first_needs(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Backward asks only whether input1 needs a gradient; with input1 frozen, input2 gets none."""
    word = _word(size_average, reduce, reduction)
    _same_dims(input1, input2, target)
    a, b, y = torch.broadcast_tensors(input1, input2, target)
    return _reduced(_Pair.apply(a, b, y, margin), word)


def witness_wrong_grad_only_if_first_needs():
    a, b, y = torch.zeros(4), torch.ones(4, requires_grad=True), torch.ones(4)
    loss = wrong_grad_only_if_first_needs(a, b, y)
    (g,) = torch.autograd.grad(loss, b, allow_unused=True)
    return g is None or not torch.allclose(g, torch.full((4,), 0.25))


class WrongMarginBuffer(torch.nn.Module):
    """Keeps margin as a persistent buffer: state_dict has a key that torch's has not, .half() rounds the margin."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.register_buffer("margin", torch.tensor(float(margin), dtype=torch.float64))
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input1, input2, target):
        _same_dims(input1, input2, target)
        return _reduced((-target * (input1 - input2) + self.margin.to(input1.dtype)).clamp_min(0), self.reduction)


def witness_WrongMarginBuffer():
    try:
        WrongMarginBuffer(0.1).load_state_dict(torch.nn.MarginRankingLoss(0.1).state_dict())
    except RuntimeError:
        return True
    return False


def wrong_zero_dim_becomes_one(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Batches everything with atleast_1d; 0-D pairs with reduction 'none' come back as shape (1,)."""
    word = _word(size_average, reduce, reduction)
    _same_dims(input1, input2, target)
    a, b, y = torch.atleast_1d(input1, input2, target)
    return _reduced((margin - y * (a - b)).clamp_min(0), word)


def witness_wrong_zero_dim_becomes_one():
    a, b, y = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(1.0)
    return wrong_zero_dim_becomes_one(a, b, y, reduction="none").shape != torch.Size([])


def wrong_negative_margin_dropped(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Adds the margin only `if margin > 0`; a negative margin (slack) is dropped."""
    word = _word(size_average, reduce, reduction)
    _same_dims(input1, input2, target)
    z = target * (input2 - input1)
    if margin > 0:
        z = z + margin
    return _reduced(z.clamp_min(0), word)


def witness_wrong_negative_margin_dropped():
    a, b, y = torch.zeros(3), torch.ones(3), torch.ones(3)
    return not torch.allclose(wrong_negative_margin_dropped(a, b, y, margin=-0.5),
                              F.margin_ranking_loss(a, b, y, margin=-0.5))


def right_by_relu(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """relu of the swapped difference."""
    word = _word(size_average, reduce, reduction)
    _same_dims(input1, input2, target)
    return _reduced(F.relu(target * (input2 - input1) + margin), word)


class _PairRight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, y, margin):
        ctx.save_for_backward(a, b, y)
        ctx.margin = margin
        return (margin - y * (a - b)).clamp_min(0)

    @staticmethod
    def backward(ctx, g):
        a, b, y = ctx.saved_tensors
        g = g * (ctx.margin - y * (a - b) >= 0)
        ga = -y * g
        return ga, -ga, (-(a - b) * g if ctx.needs_input_grad[2] else None), None


def right_own_backward(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function with the analytic backward."""
    word = _word(size_average, reduce, reduction)
    _same_dims(input1, input2, target)
    a, b, y = torch.broadcast_tensors(input1, input2, target)
    return _reduced(_PairRight.apply(a, b, y, margin), word)
