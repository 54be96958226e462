"""Wrong and right implementations of hinge_embedding_loss, written without sight of the suite."""
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


def _finish(loss, reduction):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{reduction} is not a valid value for reduction")


def wrong_margin_falsy(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """`margin or 1.0`: a margin of zero becomes the default."""
    margin = margin or 1.0
    loss = torch.where(target == 1, input, (margin - input).clamp(min=0))
    return _finish(loss, _legacy(size_average, reduce, reduction))


def witness_wrong_margin_falsy():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([-1., 1.])
    return not torch.allclose(wrong_margin_falsy(x, t, margin=0.0), F.hinge_embedding_loss(x, t, margin=0.0))


def wrong_mask_product(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Branches chosen by multiplication with 0/1 masks: an infinite distance of a negative pair gives 0 * inf = NaN."""
    pos = (target == 1).to(input.dtype)
    loss = pos * input + (1 - pos) * (margin - input).clamp(min=0)
    return _finish(loss, _legacy(size_average, reduce, reduction))


def witness_wrong_mask_product():
    x, t = torch.tensor([float("inf"), 0.2]), torch.tensor([-1., 1.])
    return bool(wrong_mask_product(x, t).isnan()) and bool(F.hinge_embedding_loss(x, t).isfinite())


def wrong_target_strides(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Port of a kernel that walks the target with the strides of the (dense) input: wrong for transposed or sliced targets."""
    if target.numel() == input.numel() and input.numel():
        x = input.contiguous()
        n = target.untyped_storage().nbytes() // target.element_size() - target.storage_offset()
        if n >= x.numel():
            target = target.as_strided(x.shape, x.stride())
    loss = torch.where(target == 1, input, (margin - input).clamp(min=0))
    return _finish(loss, _legacy(size_average, reduce, reduction))


def witness_wrong_target_strides():
    x = torch.arange(6.).reshape(2, 3) / 10
    t = torch.tensor([[1., -1.], [-1., -1.], [1., 1.]]).t()
    return not torch.allclose(wrong_target_strides(x, t, reduction="none"), F.hinge_embedding_loss(x, t, reduction="none"))


def wrong_reduce_wins(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """reduce=True is read as 'mean' before size_average is looked at: reduce=True, size_average=False is not the sum."""
    if reduce is not None:
        reduction = "mean" if reduce else "none"
    elif size_average is not None:
        reduction = "mean" if size_average else "sum"
    loss = torch.where(target == 1, input, (margin - input).clamp(min=0))
    return _finish(loss, reduction)


def witness_wrong_reduce_wins():
    x, t = torch.tensor([0.5, 0.2]), torch.tensor([-1., 1.])
    return not torch.allclose(wrong_reduce_wins(x, t, size_average=False, reduce=True),
                              F.hinge_embedding_loss(x, t, size_average=False, reduce=True))


def wrong_reuses_buffer(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Without gradients the result is written over the (contiguous) input to save a copy."""
    if torch.is_grad_enabled() and input.requires_grad:
        loss = torch.where(target == 1, input, (margin - input).clamp(min=0))
    else:
        loss = input.detach().contiguous()
        neg = (target != 1).expand_as(loss)
        loss[neg] = (margin - loss[neg]).clamp_(min=0)
    return _finish(loss, _legacy(size_average, reduce, reduction))


def witness_wrong_reuses_buffer():
    x, t = torch.tensor([0.3, 0.2]), torch.tensor([-1., 1.])
    wrong_reuses_buffer(x, t)
    return not torch.equal(x, torch.tensor([0.3, 0.2]))


def right_by_where(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Two where's, as the sum of the parts of both labels."""
    zero = torch.zeros((), dtype=input.dtype, device=input.device)
    loss = torch.where(target != -1, input, zero) + torch.where(target != 1, torch.relu(margin - input), zero)
    return _finish(loss, _legacy(size_average, reduce, reduction))


class RightHingeEmbeddingLoss(torch.nn.Module):
    """Module with masked_fill."""

    def __init__(self, margin=1.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.margin = margin
        self.reduction = _legacy(size_average, reduce, reduction)

    def forward(self, input, target):
        x, t = torch.broadcast_tensors(input, target)
        loss = x.masked_fill(t == -1, 0) + (self.margin - x).clamp(min=0).masked_fill(t == 1, 0)
        return _finish(loss, self.reduction)
