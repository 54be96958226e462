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


def _setup(input, target, size_average, reduce, reduction, beta):
    mode = _mode(reduction, size_average, reduce)
    x, y = _pair(input, target)
    if not beta >= 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    _need_real_float("smooth_l1_loss", x, y)
    x, y = _autocast(x, y)
    dt = _common(x, y)
    return x.to(_wide(dt)), y.to(_wide(dt)), dt, mode


def _elementwise(d, beta):
    a = d.abs()
    if beta == 0:
        return a
    return torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta)


# --------------------------------------------------------------------- wrong


def wrong_nan_gradient_for_zero_beta(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """beta=0 has no special case: torch.where never selects d*d/0, so the value is the right L1 loss,
    but the unselected branch turns the gradients into NaN."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    d = x - y
    a = d.abs()
    loss = torch.where(a < beta, 0.5 * d * d / beta, a - 0.5 * beta)
    return _reduce(loss, mode).to(dt)


def witness_wrong_nan_gradient_for_zero_beta():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    loss = wrong_nan_gradient_for_zero_beta(x, torch.zeros(2), beta=0.0)
    return loss.item() == 1.5 and bool(torch.autograd.grad(loss, x)[0].isnan().any())


def wrong_legacy_reduce_false(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """size_average=False together with reduce=False returns the sum, although size_average is to be
    ignored when reduce is False and the unreduced losses are to be returned."""
    if size_average is not None and not size_average and reduce is not None and not reduce:
        reduce = True
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    return _reduce(_elementwise(x - y, beta), mode).to(dt)


def witness_wrong_legacy_reduce_false():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrong_legacy_reduce_false(torch.rand(3), torch.rand(3), size_average=False, reduce=False).dim() == 0


class _Slope(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, beta):
        return (d / beta).clamp(-1, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.beta = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return g / ctx.beta, None

    @staticmethod
    def jvp(ctx, t, _):
        return t / ctx.beta


class _SmoothL1(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d, beta):
        return _elementwise(d, beta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.beta = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return g * _Slope.apply(ctx.saved_tensors[0], ctx.beta), None

    @staticmethod
    def jvp(ctx, t, _):
        return t * _Slope.apply(ctx.saved_tensors[0], ctx.beta)


def wrong_curvature_outside_threshold(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Value and gradient are right, but the second derivative is 1/beta everywhere, also in the linear
    part where it should be zero."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    d = x - y
    return _reduce(d.abs() if beta == 0 else _SmoothL1.apply(d, float(beta)), mode).to(dt)


def witness_wrong_curvature_outside_threshold():
    x = torch.tensor([5.0], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_curvature_outside_threshold(x, torch.zeros(1)), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    return g.item() == 1.0 and h.item() == 1.0


class WrongSmoothL1LossFrozenSlope(nn.Module):
    """The factor 0.5/beta is computed once in the constructor, so a later assignment to the public
    attribute `beta` (annealing) moves the threshold but leaves the quadratic part at the old beta."""

    __constants__ = ["reduction"]

    def __init__(self, size_average=None, reduce=None, reduction="mean", beta=1.0):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _R.legacy_get_string(size_average, reduce)
        self.reduction = reduction
        self.beta = beta
        self._factor = 0.5 / beta if beta > 0 else None

    def forward(self, input, target):
        x, y, dt, mode = _setup(input, target, None, None, self.reduction, self.beta)
        d = x - y
        if self.beta == 0:
            return _reduce(d.abs(), mode).to(dt)
        if self._factor is None:
            self._factor = 0.5 / self.beta
        a = d.abs()
        return _reduce(torch.where(a < self.beta, self._factor * d * d, a - 0.5 * self.beta), mode).to(dt)


def witness_WrongSmoothL1LossFrozenSlope():
    x, y = torch.rand(5), torch.rand(5)
    m = WrongSmoothL1LossFrozenSlope(beta=1.0)
    ok = torch.allclose(m(x, y), F.smooth_l1_loss(x, y))
    m.beta = 2.0
    return ok and not torch.allclose(m(x, y), F.smooth_l1_loss(x, y, beta=2.0))


_workspace = {}


def wrong_workspace_reused(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Without gradients, reduction='none' writes into a workspace kept per shape and dtype and returns
    it, so the result of an earlier call changes when the next batch of that shape is evaluated."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    loss = _reduce(_elementwise(x - y, beta), mode).to(dt)
    if mode == "none" and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and _plain(loss):
        key = (tuple(loss.shape), dt, loss.device)
        if key not in _workspace:
            _workspace[key] = torch.empty(loss.shape, dtype=dt, device=loss.device)
        return _workspace[key].copy_(loss)
    return loss


def witness_wrong_workspace_reused():
    with torch.no_grad():
        a = wrong_workspace_reused(torch.zeros(3), torch.ones(3), reduction="none")
        before = a.clone()
        wrong_workspace_reused(torch.zeros(3), torch.full((3,), 4.0), reduction="none")
    return not torch.equal(a, before)


class _SmoothL1InputLed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, beta):
        return _elementwise(x - y, beta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.save_for_forward(inputs[0], inputs[1])
        ctx.beta = inputs[2]

    @staticmethod
    def _slope(x, y, beta):
        d = x - y
        return d.sign() if beta == 0 else (d / beta).clamp(-1, 1)

    @staticmethod
    def backward(ctx, g):
        if not ctx.needs_input_grad[0]:
            return None, None, None
        s = g * _SmoothL1InputLed._slope(*ctx.saved_tensors, ctx.beta)
        return s, -s, None

    @staticmethod
    def jvp(ctx, tx, ty, _):
        s = _SmoothL1InputLed._slope(*ctx.saved_tensors, ctx.beta)
        return s * ((0 if tx is None else tx) - (0 if ty is None else ty))


def wrong_target_gradient_needs_input(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """The backward returns early when input needs no gradient, so a target that is the only
    differentiable argument gets no gradient (it does when both need one)."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    return _reduce(_SmoothL1InputLed.apply(x, y, float(beta)), mode).to(dt)


def witness_wrong_target_gradient_needs_input():
    x, y = torch.rand(3), torch.rand(3, requires_grad=True)
    return torch.autograd.grad(wrong_target_gradient_needs_input(x, y), y, allow_unused=True)[0] is None


# --------------------------------------------------------------------- right


def right_signed_clamp(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """With q = clamp(d, -beta, beta) the loss is (q/beta)*(d - q/2) on both sides of the threshold."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    d = x - y
    if beta == 0:
        loss = d.abs()
    else:
        q = d.clamp(-beta, beta)
        loss = (q / beta) * (d - 0.5 * q)
    return _reduce(loss, mode).to(dt)


class _SmoothL1Right(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, beta):
        return _elementwise(x - y, beta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.save_for_forward(inputs[0], inputs[1])
        ctx.beta = inputs[2]

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        s = g * _SmoothL1Right._slope(x - y, ctx.beta)
        return s, -s, None

    @staticmethod
    def _slope(d, beta):
        if beta == 0:
            return d.sign()
        inside = d.abs() < beta
        return torch.where(inside, torch.where(inside, d, torch.zeros_like(d)) / beta, d.sign())

    @staticmethod
    def jvp(ctx, tx, ty, _):
        x, y = ctx.saved_tensors
        return _SmoothL1Right._slope(x - y, ctx.beta) * ((0 if tx is None else tx) - (0 if ty is None else ty))


def right_custom_function(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Own autograd function; its backward consists of differentiable operations only."""
    x, y, dt, mode = _setup(input, target, size_average, reduce, reduction, beta)
    return _reduce(_SmoothL1Right.apply(x, y, float(beta)), mode).to(dt)
