import warnings

import torch
import torch.nn.functional as F


def _reduction(size_average, reduce, reduction, allowed=("none", "mean", "sum")):
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        ret = "none" if not rd else ("mean" if sa else "sum")
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{ret}' instead.",
            stacklevel=3,
        )
        return ret
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in allowed:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


# ---------------------------------------------------------------- shared


def _check(input, target, weight, pos_weight):
    if target.size() != input.size():
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    if not input.is_floating_point():
        raise NotImplementedError(f"not implemented for {input.dtype}")
    if not target.is_floating_point():
        raise RuntimeError(f"result type {input.dtype} can't be cast to the desired output type {target.dtype}")
    for name, v in (("weight", weight), ("pos_weight", pos_weight)):
        if v is None:
            continue
        if torch.broadcast_shapes(target.shape, v.shape) != target.shape:
            raise RuntimeError(f"{name} of shape {list(v.shape)} does not broadcast to {list(target.shape)}")
        if v.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"the loss is not differentiable with respect to argument '{name}'.")


def _work(input, target):
    out = torch.promote_types(input.dtype, target.dtype)
    return torch.float32 if out in (torch.float16, torch.bfloat16) else out


def _finish(loss, weight, red, dtype):
    if weight is not None:
        loss = loss * weight.detach().to(loss.dtype)
    loss = loss.mean() if red == "mean" else loss.sum() if red == "sum" else loss
    return loss.to(dtype)


def _formula(x, y, pos_weight, softplus):
    """(1 - y) x + (1 + (p - 1) y) softplus(-x)"""
    factor = 1 if pos_weight is None else 1 + (pos_weight.detach().to(x.dtype) - 1) * y
    return (1 - y) * x + factor * softplus(-x)


def _logaddexp(v):
    return torch.logaddexp(torch.zeros_like(v), v)


def _example():
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=g) * 2, torch.rand(3, 4, generator=g)


# ---------------------------------------------------------------- wrong


def wrong_pos_weight_on_both_terms(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                   pos_weight=None):
    """Multiplies the whole loss of an element by 1 + (pos_weight - 1) * target, the negative term too; right for targets 0 and 1, shows for soft targets with pos_weight."""
    red = _reduction(size_average, reduce, reduction)
    if pos_weight is None:
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=red)
    F.binary_cross_entropy_with_logits(input, target, weight, reduction=red, pos_weight=pos_weight)
    loss = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    loss = loss * (1 + (pos_weight - 1) * target).to(loss.dtype)
    return _finish(loss, weight, red, loss.dtype)


def witness_wrong_pos_weight_on_both_terms():
    x, y = _example()
    p, f = torch.tensor([1.0, 2.0, 3.0, 4.0]), F.binary_cross_entropy_with_logits
    hard = y.round()
    return (torch.allclose(wrong_pos_weight_on_both_terms(x, hard, pos_weight=p), f(x, hard, pos_weight=p))
            and not torch.allclose(wrong_pos_weight_on_both_terms(x, y, pos_weight=p), f(x, y, pos_weight=p), rtol=1e-3))


def wrong_pos_weight_on_channel_axis(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                     pos_weight=None):
    """A 1-D pos_weight is put on dimension 1 of inputs with three or more dimensions instead of being broadcast on the last; shows for [B, C, ...] inputs with a pos_weight of size C (torch refuses it or applies it to the last axis)."""
    if pos_weight is not None and pos_weight.dim() == 1 and target.dim() > 2 and pos_weight.shape[0] == target.shape[1]:
        pos_weight = pos_weight.reshape([-1] + [1] * (target.dim() - 2))
    return F.binary_cross_entropy_with_logits(input, target, weight, size_average, reduce, reduction, pos_weight)


def witness_wrong_pos_weight_on_channel_axis():
    g = torch.Generator().manual_seed(0)
    x, y, p = torch.randn(2, 3, 4, 3, generator=g), torch.rand(2, 3, 4, 3, generator=g), torch.tensor([1.0, 5.0, 9.0])
    return not torch.allclose(wrong_pos_weight_on_channel_axis(x, y, pos_weight=p),
                              F.binary_cross_entropy_with_logits(x, y, pos_weight=p), rtol=1e-3)


class _PlainGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, loss):
        ctx.save_for_backward(x, y)
        return loss.clone()

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g * (torch.sigmoid(x) - y), None, None


def wrong_gradient_without_pos_weight(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                      pos_weight=None):
    """The fused backward is (sigmoid(x) - y) * weight, pos_weight is missing in it; shows in the gradient of the input with pos_weight (the loss is right)."""
    red = _reduction(size_average, reduce, reduction)
    if pos_weight is None or target.requires_grad or input.dtype != target.dtype:
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=red, pos_weight=pos_weight)
    F.binary_cross_entropy_with_logits(input, target, weight, reduction=red, pos_weight=pos_weight)
    with torch.no_grad():
        loss = F.binary_cross_entropy_with_logits(input, target, reduction="none", pos_weight=pos_weight)
    return _finish(_PlainGrad.apply(input, target, loss), weight, red, loss.dtype)


def witness_wrong_gradient_without_pos_weight():
    x, y = _example()
    x.requires_grad_()
    p = torch.tensor([1.0, 2.0, 3.0, 4.0])
    a, = torch.autograd.grad(wrong_gradient_without_pos_weight(x, y, pos_weight=p), x)
    b, = torch.autograd.grad(F.binary_cross_entropy_with_logits(x, y, pos_weight=p), x)
    return not torch.allclose(a, b, rtol=1e-2)


def wrong_log_terms_clamped_at_100(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                   pos_weight=None):
    """Clamps the log-sigmoid terms at -100 as BCELoss does; shows for logits beyond 100 on the wrong side (loss 100, gradient zero)."""
    red = _reduction(size_average, reduce, reduction)
    ref = F.binary_cross_entropy_with_logits(input, target, weight, reduction=red, pos_weight=pos_weight)
    if not bool((input.detach().abs() > 100).any()):
        return ref
    work = _work(input, target)
    x, y = input.to(work), target.to(work)
    p = 1 if pos_weight is None else pos_weight.to(work)
    loss = -(p * y * F.logsigmoid(x).clamp(min=-100) + (1 - y) * F.logsigmoid(-x).clamp(min=-100))
    return _finish(loss, weight, red, ref.dtype)


def witness_wrong_log_terms_clamped_at_100():
    x, y = torch.tensor([-150.0, 200.0]), torch.tensor([1.0, 0.0])
    return not torch.allclose(wrong_log_terms_clamped_at_100(x, y), F.binary_cross_entropy_with_logits(x, y), rtol=1e-2)


def wrong_log_of_one_plus_exp(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                              pos_weight=None):
    """Computes log(1 + exp(-|x|)) in place of log1p(exp(-|x|)); shows for confident right predictions (|x| above 17 in float32), whose loss becomes exactly 0 instead of exp(-|x|)."""
    red = _reduction(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    work = _work(input, target)
    x, y = input.to(work), target.to(work)
    exact = _formula(x, y, pos_weight, _logaddexp)
    with torch.no_grad():
        delta = _formula(x, y, pos_weight, lambda v: (1 + (-v.abs()).exp()).log() + v.clamp(min=0)) - exact
    return _finish(exact + torch.nan_to_num(delta, 0.0, 0.0, 0.0), weight, red, target.dtype)


def witness_wrong_log_of_one_plus_exp():
    x, y = torch.tensor([20.0, 30.0]), torch.ones(2)
    a = wrong_log_of_one_plus_exp(x, y, reduction="none")
    return not torch.allclose(a, F.binary_cross_entropy_with_logits(x, y, reduction="none"), rtol=1e-2, atol=0)


def wrong_soft_targets_truncated(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                 pos_weight=None):
    """Converts target to integers on the way (labels as class ids); right for 0 and 1, shows for soft or smoothed targets."""
    if target.is_floating_point() and not target.requires_grad:
        target = target.long().to(target.dtype)
    return F.binary_cross_entropy_with_logits(input, target, weight, size_average, reduce, reduction, pos_weight)


def witness_wrong_soft_targets_truncated():
    x, y = _example()
    return not torch.allclose(wrong_soft_targets_truncated(x, y), F.binary_cross_entropy_with_logits(x, y), rtol=1e-3)


def wrong_mean_over_nonzero_weights(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                    pos_weight=None):
    """'mean' divides by the number of elements with nonzero weight instead of by all elements; shows when weight holds zeros (masking)."""
    red = _reduction(size_average, reduce, reduction)
    if red == "mean" and weight is not None:
        total = F.binary_cross_entropy_with_logits(input, target, weight, reduction="sum", pos_weight=pos_weight)
        return total / (weight.expand(target.shape) != 0).sum().to(total.dtype)
    return F.binary_cross_entropy_with_logits(input, target, weight, reduction=red, pos_weight=pos_weight)


def witness_wrong_mean_over_nonzero_weights():
    x, y = _example()
    w = torch.tensor([0.0, 1.0, 2.0, 1.0])
    return not torch.allclose(wrong_mean_over_nonzero_weights(x, y, w), F.binary_cross_entropy_with_logits(x, y, w), rtol=1e-3)


def wrong_size_average_wins_over_reduce(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                        pos_weight=None):
    """size_average=False wins over reduce=False, the result is a sum instead of a loss per element; shows only when both deprecated arguments are False."""
    if size_average is not None and reduce is not None and not size_average and not reduce:
        reduce = True
    return F.binary_cross_entropy_with_logits(input, target, weight, size_average, reduce, reduction, pos_weight)


def witness_wrong_size_average_wins_over_reduce():
    x, y = _example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = wrong_size_average_wins_over_reduce(x, y, size_average=False, reduce=False)
        b = F.binary_cross_entropy_with_logits(x, y, size_average=False, reduce=False)
    return a.shape != b.shape


# ---------------------------------------------------------------- right


def right_logaddexp(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """(1 - y) x + (1 + (p - 1) y) logaddexp(0, -x), float32 inside for half precision."""
    red = _reduction(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    work = _work(input, target)
    return _finish(_formula(input.to(work), target.to(work), pos_weight, _logaddexp), weight, red, target.dtype)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, p):
        ctx.save_for_backward(x, y, p)
        tail = torch.log1p((-x.abs()).exp())
        return p * y * (tail + (-x).clamp(min=0)) + (1 - y) * (tail + x.clamp(min=0))

    @staticmethod
    def backward(ctx, g):
        x, y, p = ctx.saved_tensors
        gx = gy = None
        if ctx.needs_input_grad[0]:
            gx = g * ((1 - y) * torch.sigmoid(x) - p * y * torch.sigmoid(-x))
        if ctx.needs_input_grad[1]:
            gy = g * (F.logsigmoid(-x) - p * F.logsigmoid(x))
        return gx, gy, None


def right_two_terms_own_backward(input, target, weight=None, size_average=None, reduce=None, reduction="mean",
                                 pos_weight=None):
    """Positive and negative term apart, own autograd.Function."""
    red = _reduction(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    work = _work(input, target)
    x, y = input.to(work), target.to(work)
    p = torch.ones_like(y) if pos_weight is None else pos_weight.detach().to(work).expand(y.shape)
    return _finish(_Own.apply(x, y, p.detach()), weight, red, target.dtype)
