"""Wrong and right implementations of cosine_embedding_loss, written without sight of the suite."""
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


def _check(input1, input2, target):
    if target.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if input1.size() != input2.size():
        raise RuntimeError(f"input tensors must have the same size, but found {input1.size()} and {input2.size()}")
    if input1.dim() != target.dim() + 1:
        raise RuntimeError(f"{target.dim()}D target tensor expects {target.dim() + 1}D input tensors, "
                           f"but found inputs with sizes {input1.size()} and {input2.size()}.")


def _finish(loss, reduction):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _cos(a, b):
    return (a * b).sum(-1) / ((a.square().sum(-1) + 1e-12) * (b.square().sum(-1) + 1e-12)).sqrt()


def _pieces(cos, target, margin):
    zero = torch.zeros_like(cos)
    return torch.where(target == 1, 1 - cos, zero) + torch.where(target == -1, (cos - margin).clamp(min=0), zero)


def wrong_negative_margin(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The margin is clipped at zero: negative margins (documented range -1..1) act as zero."""
    _check(input1, input2, target)
    loss = _pieces(_cos(input1, input2), target, max(margin, 0))
    return _finish(loss, _legacy(size_average, reduce, reduction))


def witness_wrong_negative_margin():
    a, b, t = torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]]), torch.tensor([-1])
    return not torch.allclose(wrong_negative_margin(a, b, t, margin=-0.5), F.cosine_embedding_loss(a, b, t, margin=-0.5))


def wrong_mean_over_active(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The mean leaves out pairs whose loss is zero (hard mining habit)."""
    _check(input1, input2, target)
    loss = _pieces(_cos(input1, input2), target, margin)
    reduction = _legacy(size_average, reduce, reduction)
    if reduction == "mean" and loss.dim():
        return loss.sum() / (loss > 0).sum().clamp(min=1)
    return _finish(loss, reduction)


def witness_wrong_mean_over_active():
    a, b, t = torch.tensor([[1., 0.], [1., 0.]]), torch.tensor([[1., 1.], [-1., 0.]]), torch.tensor([1, -1])
    return not torch.allclose(wrong_mean_over_active(a, b, t), F.cosine_embedding_loss(a, b, t))


def wrong_target_column(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """No shape check: a target of shape (N, 1) broadcasts to an N x N loss, silently."""
    loss = _pieces(_cos(input1, input2), target, margin) if target.dim() < 2 else \
        torch.where(target == 1, 1 - _cos(input1, input2), (_cos(input1, input2) - margin).clamp(min=0))
    return _finish(loss, _legacy(size_average, reduce, reduction))


def witness_wrong_target_column():
    a, b, t = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([[1], [-1], [1]])
    try:
        F.cosine_embedding_loss(a, b, t)
    except RuntimeError:
        return wrong_target_column(a, b, t, reduction="none").shape == (3, 3)
    return False


def wrong_zero_vector_nan(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Divides by the product of norms clamped from below: the value survives an all-zero (padding) row, its gradient is NaN."""
    _check(input1, input2, target)
    n = input1.square().sum(-1).sqrt() * input2.square().sum(-1).sqrt()
    cos = (input1 * input2).sum(-1) / n.clamp(min=1e-8)
    return _finish(_pieces(cos, target, margin), _legacy(size_average, reduce, reduction))


def witness_wrong_zero_vector_nan():
    r = []
    for f in (wrong_zero_vector_nan, F.cosine_embedding_loss):
        a = torch.tensor([[0., 0.], [1., 2.]], requires_grad=True)
        f(a, torch.ones(2, 2), torch.tensor([1, 1])).backward()
        r.append(bool(a.grad.isfinite().all()))
    return r == [False, True]


class WrongCosineEmbeddingLoss(torch.nn.Module):
    """normalizes its second argument in place once ('references are fixed'): the caller's embeddings change."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.margin = margin
        self.reduction = _legacy(size_average, reduce, reduction)

    def forward(self, input1, input2, target):
        _check(input1, input2, target)
        if not input2.requires_grad:
            input2.div_(input2.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        return _finish(_pieces(_cos(input1, input2), target, self.margin), self.reduction)


def witness_WrongCosineEmbeddingLoss():
    b = torch.tensor([[3., 4.]])
    WrongCosineEmbeddingLoss()(torch.ones(1, 2), b, torch.tensor([1]))
    return not torch.equal(b, torch.tensor([[3., 4.]]))


def right_einsum_rsqrt(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Dot products by einsum, one rsqrt per side."""
    _check(input1, input2, target)
    dot = torch.einsum("...d,...d->...", input1, input2)
    ra = (torch.einsum("...d,...d->...", input1, input1) + 1e-12).rsqrt()
    rb = (torch.einsum("...d,...d->...", input2, input2) + 1e-12).rsqrt()
    cos = dot * ra * rb
    loss = (1 - cos).masked_fill(target != 1, 0) + (cos - margin).clamp(min=0).masked_fill(target != -1, 0)
    return _finish(loss, _legacy(size_average, reduce, reduction))
