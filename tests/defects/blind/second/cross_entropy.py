"""Wrong and right implementations of cross_entropy, written without sight of the suite."""
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


def _finish(loss, reduction, denom):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.sum() / denom
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _check(input, target, weight, label_smoothing):
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    C = input.shape[0 if input.dim() == 1 else 1]
    if weight is not None and weight.shape != (C,):
        raise RuntimeError(f"cross_entropy: weight tensor should be defined either for all {C} classes or no classes but got weight tensor of shape: {list(weight.shape)}")
    soft = target.shape == input.shape
    if soft and not target.is_floating_point():
        raise RuntimeError("Expected floating point type for target with class probabilities")
    if not soft:
        if target.is_floating_point() or target.dtype not in (torch.int64, torch.uint8):
            raise RuntimeError("expected target dtype long or uint8 for class indices")
        want = input.shape[:1] + input.shape[2:] if input.dim() > 1 else ()
        if tuple(target.shape) != tuple(want):
            raise (ValueError if input.dim() and target.dim() and input.shape[0] != target.shape[0] else RuntimeError)(
                f"Expected target size {list(want)}, got {list(target.shape)}")
    return soft


def _check_range(t, valid, C):
    if bool((((t < 0) | (t >= C)) & valid).any()):
        raise IndexError("Target is out of bounds.")


def _core(input, target, weight, ignore_index, ls, reduction, *, soft_mean_by_weight=False, smooth_uses_target_weight=False,
          smooth_unmasked=False, mask_negative=False, flat=False, ce=None):
    soft = _check(input, target, weight, ls)
    cd = 0 if input.dim() == 1 else 1
    C = input.shape[cd]
    lp = input.log_softmax(cd).movedim(cd, -1)
    if flat and input.dim() > 4:
        lp = input.reshape(-1, C).log_softmax(-1).reshape(*input.shape[:1], *input.shape[2:], C)
    w = torch.ones(C, dtype=lp.dtype, device=lp.device) if weight is None else weight
    if soft:
        q = target.movedim(cd, -1)
        if ls:
            q = q * (1 - ls) + ls / C
        loss = -(q * lp * w).sum(-1)
        n = loss.numel() if loss.dim() else 1
        if soft_mean_by_weight and weight is not None:
            n = (q * w).sum()
        return _finish(loss, reduction, n)
    t = target.long()
    valid = t != ignore_index
    if mask_negative:
        valid = t >= 0
    _check_range(t, valid, C)
    ts = torch.where(valid, t, torch.zeros_like(t))
    wt = w[ts] * valid.to(w.dtype)
    nll = -lp.gather(-1, ts.unsqueeze(-1)).squeeze(-1)
    loss = torch.where(valid, nll * wt, torch.zeros_like(nll))
    if ls:
        if smooth_uses_target_weight:
            sm = -lp.mean(-1) * w[ts]
        else:
            sm = -(lp * w).sum(-1) / C
        if not smooth_unmasked:
            sm = torch.where(valid, sm, torch.zeros_like(sm))
        loss = (1 - ls) * loss + ls * sm
    return _finish(loss, reduction, wt.sum())


def wrong_soft_weighted_mean(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """Class probabilities with class weights: mean divided by the total weight, not by the number of samples."""
    return _core(input, target, weight, ignore_index, label_smoothing, _legacy(size_average, reduce, reduction), soft_mean_by_weight=True)


def witness_wrong_soft_weighted_mean():
    x, t, w = torch.randn(4, 3), torch.randn(4, 3).softmax(1), torch.tensor([1., 2., 3.])
    return not torch.allclose(wrong_soft_weighted_mean(x, t, w), F.cross_entropy(x, t, w))


def wrong_smoothing_target_weight(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """Label smoothing with class weights: the uniform part is scaled by the weight of the true class only."""
    return _core(input, target, weight, ignore_index, label_smoothing, _legacy(size_average, reduce, reduction), smooth_uses_target_weight=True)


def witness_wrong_smoothing_target_weight():
    x, t, w = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([1., 2., 3.])
    return not torch.allclose(wrong_smoothing_target_weight(x, t, w, label_smoothing=0.1), F.cross_entropy(x, t, w, label_smoothing=0.1))


def wrong_smoothing_ignored_rows(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """The smoothing part is not masked: ignored rows still contribute when label_smoothing > 0."""
    return _core(input, target, weight, ignore_index, label_smoothing, _legacy(size_average, reduce, reduction), smooth_unmasked=True)


def witness_wrong_smoothing_ignored_rows():
    x, t = torch.randn(4, 3), torch.tensor([0, -100, 2, 0])
    return not torch.allclose(wrong_smoothing_ignored_rows(x, t, label_smoothing=0.1), F.cross_entropy(x, t, label_smoothing=0.1))


def wrong_negative_is_ignored(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """Every negative target is skipped and no other: an ignore_index of 0 (padding) or 255 is not honoured."""
    if ignore_index >= 0 and target.shape != input.shape:
        C = input.shape[0 if input.dim() == 1 else 1]
        if ignore_index >= C:     # out-of-range label would be an illegal address
            target = torch.where(target.long() == ignore_index, torch.full_like(target.long(), -1), target.long())
    return _core(input, target, weight, ignore_index, label_smoothing, _legacy(size_average, reduce, reduction), mask_negative=True)


def witness_wrong_negative_is_ignored():
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    return not torch.allclose(wrong_negative_is_ignored(x, t, ignore_index=0), F.cross_entropy(x, t, ignore_index=0))


def wrong_volume_reshape(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """3-D volumes (N, C, D, H, W) are reshaped to (-1, C) without moving the class dimension; 3-D and 4-D inputs are right."""
    return _core(input, target, weight, ignore_index, label_smoothing, _legacy(size_average, reduce, reduction), flat=True)


def witness_wrong_volume_reshape():
    x, t = torch.randn(2, 3, 2, 2, 2), torch.randint(3, (2, 2, 2, 2))
    return not torch.allclose(wrong_volume_reshape(x, t), F.cross_entropy(x, t))


class WrongCrossEntropyLoss(torch.nn.Module):
    """Class weights are normalized to mean 1 in the constructor: invisible under 'mean', wrong under 'sum' and 'none'."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
        super().__init__()
        self.register_buffer("weight", None if weight is None else weight / weight.mean())
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.reduction = _legacy(size_average, reduce, reduction)

    def forward(self, input, target):
        return _core(input, target, self.weight, self.ignore_index, self.label_smoothing, self.reduction)


def witness_WrongCrossEntropyLoss():
    x, t, w = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([1., 2., 6.])
    return not torch.allclose(WrongCrossEntropyLoss(w, reduction="sum")(x, t), F.cross_entropy(x, t, w, reduction="sum"))


class _InplaceCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, ignore_index, reduction):
        valid = t != ignore_index
        ts = torch.where(valid, t, torch.zeros_like(t))
        n = valid.sum() if reduction == "mean" else 1
        lse = x.logsumexp(-1, keepdim=True)
        nll = torch.where(valid, (lse - x.gather(-1, ts[:, None])).squeeze(-1), torch.zeros_like(lse.squeeze(-1)))
        g = x.detach()
        g.sub_(lse).exp_()
        g.scatter_add_(1, ts[:, None], torch.full_like(lse, -1))
        g.mul_(valid[:, None].to(g.dtype)).div_(n)
        ctx.save_for_backward(g)
        return nll if reduction == "none" else nll.sum() / n

    @staticmethod
    def backward(ctx, go):
        g, = ctx.saved_tensors
        return g * (go[:, None] if go.dim() else go), None, None, None


def wrong_gradient_over_logits(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """As in fused training kernels the gradient is stored over the logits in forward: logits used afterwards (metrics) are garbage."""
    red = _legacy(size_average, reduce, reduction)
    plain = weight is None and not label_smoothing and input.dim() == 2 and target.dim() == 1 and target.dtype == torch.int64
    if plain and input.requires_grad and torch.is_grad_enabled() and red in ("mean", "sum", "none"):
        _check(input, target, weight, label_smoothing)
        _check_range(target, target != ignore_index, input.shape[1])
        return _InplaceCE.apply(input, target, ignore_index, red)
    return _core(input, target, weight, ignore_index, label_smoothing, red)


def witness_wrong_gradient_over_logits():
    x = torch.randn(4, 3, requires_grad=True)
    y = x.detach().clone()
    wrong_gradient_over_logits(x, torch.tensor([0, 1, 2, 0])).backward()
    return not torch.equal(x.detach(), y)


def right_masked_gather(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """log_softmax with classes moved last, gather and masks."""
    return _core(input, target, weight, ignore_index, label_smoothing, _legacy(size_average, reduce, reduction))


def right_one_hot(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    """Indices turned into (weighted, smoothed) distributions, one product with logits minus logsumexp."""
    reduction = _legacy(size_average, reduce, reduction)
    soft = _check(input, target, weight, label_smoothing)
    cd = 0 if input.dim() == 1 else 1
    x = input.movedim(cd, -1)
    C = x.shape[-1]
    lp = x - x.logsumexp(-1, keepdim=True)
    if soft:
        q, denom, valid = target.movedim(cd, -1).to(lp.dtype), None, None
    else:
        valid = target != ignore_index
        _check_range(target.long(), valid, C)
        idx = torch.where(valid, target.long(), torch.zeros_like(target.long()))
        q = F.one_hot(idx, C).to(lp.dtype) * valid.unsqueeze(-1).to(lp.dtype)
        denom = (q if weight is None else q * weight).sum()
    if label_smoothing:
        q = q * (1 - label_smoothing) + label_smoothing / C
        if valid is not None:
            q = q * valid.unsqueeze(-1).to(q.dtype)
    if weight is not None:
        q = q * weight
    terms = torch.where(q == 0, torch.zeros_like(lp), q * lp) if not q.requires_grad else q * lp
    loss = -terms.sum(-1)
    if denom is None:
        denom = max(loss.numel(), 1) if loss.dim() == 0 else loss.numel()
    return _finish(loss, reduction, denom)
