import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _setup(input, target, size_average, reduce, reduction):
    if size_average is None and reduce is None and reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=3,
        )
    mode = _mode(reduction, size_average, reduce, extra=("batchmean",))
    for t in (input, target):
        if t.is_complex():
            raise RuntimeError("kl_div: Complex inputs not supported.")
        if not t.is_floating_point():
            raise RuntimeError("kl_div: Integral inputs not supported.")
    x, t = _autocast(input, target)
    dt = torch.result_type(x, t)
    return x.to(_wide(dt)), t.to(_wide(dt)), dt, mode


def _pointwise(x, t, log_target):
    if log_target:
        return t.exp() * (t - x)
    return torch.xlogy(t, t) - t * x


def _finish(loss, x, mode, dt):
    if mode == "batchmean":
        total = loss.sum()
        return (total / x.size(0) if x.dim() else total).to(dt)
    return _reduce(loss, mode).to(dt)


# --------------------------------------------------------------------- wrong


def wrong_batchmean_counts_positions(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """'batchmean' divides by the number of distributions, the product of all dimensions but the last,
    which for inputs of three and more dimensions is not input.size(0)."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(x, t, log_target)
    if mode == "batchmean" and x.dim() > 2:
        return (loss.sum() / math.prod(x.shape[:-1])).to(dt)
    return _finish(loss, x, mode, dt)


def witness_wrong_batchmean_counts_positions():
    x, t = torch.randn(2, 3, 4).log_softmax(-1), torch.rand(2, 3, 4).softmax(-1)
    return not torch.allclose(
        wrong_batchmean_counts_positions(x, t, reduction="batchmean"), F.kl_div(x, t, reduction="batchmean")
    )


def wrong_log_of_clamped_target(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """To avoid log(0) the logarithm is taken of max(target, 1e-7), so that target probabilities
    below 1e-7 get the wrong entropy term."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if log_target:
        loss = _pointwise(x, t, True)
    else:
        loss = t * (t.clamp_min(1e-7).log() - x)
    return _finish(loss, x, mode, dt)


def witness_wrong_log_of_clamped_target():
    x, t = torch.tensor([-20.0]), torch.tensor([1e-10])
    return not torch.allclose(
        wrong_log_of_clamped_target(x, t, reduction="sum"), F.kl_div(x, t, reduction="sum"), rtol=1e-2, atol=0
    )


def wrong_log_target_entropy_detached(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """For log_target=True the factor (target - input) uses a detached target, so the gradient for
    a differentiable log-target lacks the term exp(target)."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = t.exp() * (t.detach() - x) if log_target else _pointwise(x, t, False)
    return _finish(loss, x, mode, dt)


def witness_wrong_log_target_entropy_detached():
    x = torch.randn(3).log_softmax(-1)
    t = torch.randn(3).log_softmax(-1).requires_grad_()
    a = torch.autograd.grad(wrong_log_target_entropy_detached(x, t, reduction="sum", log_target=True), t)[0]
    b = torch.autograd.grad(F.kl_div(x, t, reduction="sum", log_target=True), t)[0]
    return not torch.allclose(a, b)


def wrong_exponentiates_target_in_place(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """With log_target=True and a target that needs no gradient, exp_() is applied to the caller's own
    tensor: the first call is right, but afterwards the log-probabilities have become probabilities."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if (
        log_target
        and not t.requires_grad
        and t.is_contiguous()
        and _plain(t)
        and (torch.is_inference_mode_enabled() or not t.is_inference())
    ):
        gap = t - x
        return _finish(t.exp_() * gap, x, mode, dt)
    return _finish(_pointwise(x, t, log_target), x, mode, dt)


def witness_wrong_exponentiates_target_in_place():
    x, t = torch.randn(3).log_softmax(-1), torch.randn(3).log_softmax(-1)
    before = t.clone()
    ok = torch.allclose(
        wrong_exponentiates_target_in_place(x, t, reduction="sum", log_target=True),
        F.kl_div(x, before, reduction="sum", log_target=True),
    )
    return ok and not torch.equal(t, before)


def wrong_support_tail_dropped(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """If the last dimension exceeds 1024 it is summed in whole blocks of 1024 and the remainder of
    the support is left out of the reduced losses."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(x, t, log_target)
    if mode != "none" and loss.dim() and loss.size(-1) > 1024:
        total = sum(loss[..., i : i + 1024].sum() for i in range(0, loss.size(-1) - 1023, 1024))
        count = {"sum": 1, "batchmean": x.size(0), "mean": loss.numel()}[mode]
        return (total / count).to(dt)
    return _finish(loss, x, mode, dt)


def witness_wrong_support_tail_dropped():
    x, t = torch.randn(2, 1500).log_softmax(-1), torch.rand(2, 1500).softmax(-1)
    ok = torch.allclose(
        wrong_support_tail_dropped(x[:, :900], t[:, :900], reduction="sum"), F.kl_div(x[:, :900], t[:, :900], reduction="sum")
    )
    return ok and not torch.allclose(
        wrong_support_tail_dropped(x, t, reduction="sum"), F.kl_div(x, t, reduction="sum"), rtol=1e-2
    )


def wrong_nan_swallowed(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """The 0*log(0) problem is solved by nan_to_num on the pointwise loss, which also turns a NaN in the
    model's log-probabilities into a loss of zero."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = torch.nan_to_num(_pointwise(x, t, log_target), nan=0.0, posinf=math.inf, neginf=-math.inf)
    return _finish(loss, x, mode, dt)


def witness_wrong_nan_swallowed():
    x, t = torch.tensor([float("nan"), -1.0]), torch.tensor([0.5, 0.5])
    return bool(F.kl_div(x, t, reduction="sum").isnan()) and not bool(wrong_nan_swallowed(x, t, reduction="sum").isnan())


# --------------------------------------------------------------------- right


def right_ratio_form(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """target*(log target - input) in one product, with the limit 0 where target is 0."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if log_target:
        loss = -((x - t) * t.exp())
    else:
        loss = torch.where(t == 0, -(t * x), t * (t.log() - x))
    return _finish(loss, x, mode, dt)


class _KL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t):
        return torch.xlogy(t, t) - t * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        gx = -(g * t) if ctx.needs_input_grad[0] else None
        gt = g * (t.log() + 1 - x) if ctx.needs_input_grad[1] else None
        return gx, gt

    @staticmethod
    def jvp(ctx, tx, tt):
        x, t = ctx.saved_tensors
        out = torch.zeros_like(x)
        if tx is not None:
            out = out - t * tx
        if tt is not None:
            out = out + (t.log() + 1 - x) * tt
        return out


class _KLLog(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t):
        return t.exp() * (t - x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        p = t.exp()
        gx = -(g * p) if ctx.needs_input_grad[0] else None
        gt = g * (p * (t - x + 1)) if ctx.needs_input_grad[1] else None
        return gx, gt

    @staticmethod
    def jvp(ctx, tx, tt):
        x, t = ctx.saved_tensors
        p = t.exp()
        out = torch.zeros_like(x)
        if tx is not None:
            out = out - p * tx
        if tt is not None:
            out = out + p * (t - x + 1) * tt
        return out


def right_custom_function(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Own autograd functions with analytic gradients for input and target, summed slice by slice."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    xb, tb = torch.broadcast_tensors(x, t)
    loss = (_KLLog if log_target else _KL).apply(xb, tb)
    if mode == "none" or loss.numel() == 0:
        return _finish(loss, x, mode, dt)
    total = torch.stack([s.sum() for s in loss.reshape(-1).split(2048)]).sum()
    if mode == "mean":
        total = total / loss.numel()
    elif mode == "batchmean" and x.dim():
        total = total / x.size(0)
    return total.to(dt)
