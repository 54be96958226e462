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
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    x, t = _autocast(input, target)
    dt = torch.result_type(x, t)
    if not (dt.is_floating_point or dt.is_complex):
        dt = torch.get_default_dtype()
    if not dt.is_complex:
        x = x.to(_wide(dt))
        t = t.to(_wide(dt))
    return x, t, dt, reduction


def _stirling(t):
    """t*log(t) - t + 0.5*log(2*pi*t) above 1, zero elsewhere (no NaN in gradients)."""
    big = t > 1
    s = torch.where(big, t, torch.full_like(t, 2.0))
    return torch.where(big, s * s.log() - s + 0.5 * (2 * math.pi * s).log(), torch.zeros_like(t))


def _pointwise(x, t, log_input, full, eps):
    loss = x.exp() - t * x if log_input else x - t * (x + eps).log()
    return loss + _stirling(t) if full else loss


# --------------------------------------------------------------------- wrong


def wrong_stirling_from_one(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """With full=True the Stirling term is also added for targets equal to 1, where the documentation
    has zeros for all targets less than or equal to 1."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(x, t, log_input, False, eps)
    if full:
        big = t >= 1
        s = torch.where(big, t, torch.full_like(t, 2.0))
        loss = loss + torch.where(big, s * s.log() - s + 0.5 * (2 * math.pi * s).log(), torch.zeros_like(t))
    return _reduce(loss, mode).to(dt)


def witness_wrong_stirling_from_one():
    x, t = torch.zeros(2), torch.tensor([1.0, 3.0])
    a = wrong_stirling_from_one(x, t, full=True, reduction="none")
    b = F.poisson_nll_loss(x, t, full=True, reduction="none")
    return abs((a - b)[0].item()) > 0.05 and abs((a - b)[1].item()) < 1e-5


def wrong_eps_as_floor(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """For log_input=False eps serves as a floor, log(max(input, eps)), instead of being added,
    log(input + eps); with a larger eps or a small rate the loss differs."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if log_input:
        loss = _pointwise(x, t, True, full, eps)
    else:
        loss = x - t * x.clamp(min=eps).log()
        if full:
            loss = loss + _stirling(t)
    return _reduce(loss, mode).to(dt)


def witness_wrong_eps_as_floor():
    x, t = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 3.0])
    kw = dict(log_input=False, eps=0.1)
    return not torch.allclose(wrong_eps_as_floor(x, t, **kw), F.poisson_nll_loss(x, t, **kw))


def wrong_refuses_differentiable_target(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """A target that requires a gradient is refused with the old message of PyTorch's criterions,
    though the loss is documented for any tensor and differentiable in its target."""
    if isinstance(target, torch.Tensor) and target.requires_grad:
        raise RuntimeError("nn criterions don't compute the gradient w.r.t. targets - please mark them as not requiring gradients")
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    return _reduce(_pointwise(x, t, log_input, full, eps), mode).to(dt)


def witness_wrong_refuses_differentiable_target():
    x, t = torch.zeros(2), torch.ones(2, requires_grad=True)
    F.poisson_nll_loss(x, t).backward()
    try:
        wrong_refuses_differentiable_target(x, t)
        return False
    except RuntimeError:
        return True


def wrong_rate_capped(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """To avoid overflow the log-rate is clamped to at most 20 before exp, so that larger inputs get
    a far too small loss and no restoring gradient from the exponential."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if log_input:
        loss = (x.clamp(max=20.0) if not x.is_complex() else x).exp() - t * x
        if full:
            loss = loss + _stirling(t)
    else:
        loss = _pointwise(x, t, False, full, eps)
    return _reduce(loss, mode).to(dt)


def witness_wrong_rate_capped():
    x, t = torch.tensor([25.0]), torch.tensor([3.0])
    return not torch.allclose(wrong_rate_capped(x, t), F.poisson_nll_loss(x, t), rtol=0.1)


def wrong_running_sum_in_result_dtype(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """The reduced loss is accumulated over pieces of 64 elements in a running total of the result's dtype;
    in bfloat16 and float16 that total stops growing on long inputs."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    loss = _pointwise(x, t, log_input, full, eps)
    if mode == "none" or dt not in _LOW or loss.numel() == 0:
        return _reduce(loss, mode).to(dt)
    total = torch.zeros((), dtype=dt, device=loss.device)
    for piece in loss.reshape(-1).split(64):
        total = total + piece.sum().to(dt)
    return (total.float() / loss.numel()).to(dt) if mode == "mean" else total


def witness_wrong_running_sum_in_result_dtype():
    x = torch.full((100_000,), -0.5, dtype=torch.bfloat16)
    t = torch.zeros_like(x)
    a, b = wrong_running_sum_in_result_dtype(x, t).item(), math.exp(-0.5)
    return abs(a / b - 1) > 0.1


def wrong_positional_order(
    input, target, log_input=True, full=False, eps=1e-8, size_average=None, reduce=None, reduction="mean"
):
    """eps and size_average are exchanged in the signature, so that positional calls written for the
    documented order (..., full, size_average, eps) set the wrong parameters."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    return _reduce(_pointwise(x, t, log_input, full, eps), mode).to(dt)


def witness_wrong_positional_order():
    x, t = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 3.0])
    args = (x, t, False, False, None, 0.1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return not torch.allclose(wrong_positional_order(*args), F.poisson_nll_loss(*args))
    except TypeError:
        return True


# --------------------------------------------------------------------- right


def right_gathered_stirling(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """Stirling's term as (t + 1/2)*log(t) - t + log(2*pi)/2 with a harmless argument where it is not used."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if log_input:
        loss = x.exp() - t * x
    else:
        loss = x - t * torch.log(x + eps)
    if full:
        big = t > 1
        s = torch.where(big, t, torch.ones_like(t))
        term = (s + 0.5) * s.log() - s + 0.5 * math.log(2 * math.pi)
        loss = loss + term.masked_fill(~big, 0.0)
    return _reduce(loss, mode).to(dt)


class _PoissonLog(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t):
        return x.exp() - t * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        return g * (x.exp() - t), -(g * x)

    @staticmethod
    def jvp(ctx, tx, tt):
        x, t = ctx.saved_tensors
        return (0 if tx is None else (x.exp() - t) * tx) - (0 if tt is None else x * tt)


class _PoissonRate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, eps):
        return x - t * (x + eps).log()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.save_for_forward(inputs[0], inputs[1])
        ctx.eps = inputs[2]

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        z = x + ctx.eps
        return g * (1 - t / z), -(g * z.log()), None

    @staticmethod
    def jvp(ctx, tx, tt, _):
        x, t = ctx.saved_tensors
        z = x + ctx.eps
        return (0 if tx is None else (1 - t / z) * tx) - (0 if tt is None else z.log() * tt)


def right_custom_function(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
):
    """Own autograd functions with analytic gradients for rate and target."""
    x, t, dt, mode = _setup(input, target, size_average, reduce, reduction)
    if dt.is_complex:
        return _reduce(_pointwise(x, t, log_input, full, eps), mode)
    xb, tb = torch.broadcast_tensors(x, t)
    loss = _PoissonLog.apply(xb, tb) if log_input else _PoissonRate.apply(xb, tb, float(eps))
    if full:
        loss = loss + _stirling(t)
    return _reduce(loss, mode).to(dt)
