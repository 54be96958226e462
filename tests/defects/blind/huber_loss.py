"""Wrong and right implementations of huber_loss, written without sight of the suite."""

import warnings

import torch
from torch.nn import _reduction
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _transformed():
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _start(input, target, reduction, delta):
    reduction = _mode(None, None, reduction)
    x, t = _pair(input, target)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    return x - t, reduction


def _end(loss, input, weight, reduction):
    if weight is not None:
        if weight.size() != input.size():
            raise ValueError("Weights and input must have the same size.")
        loss = loss * weight
    return _reduce(loss, reduction)


def wrong_data_dependent_shortcut(input, target, reduction="mean", delta=1.0, weight=None):
    """Looks at the data to skip the linear branch: no vmap, no fullgraph compile."""
    d, reduction = _start(input, target, reduction, delta)
    a = d.abs()
    if bool((a <= delta).all()):
        return _end(0.5 * d * d, input, weight, reduction)
    return _end(
        torch.where(a < delta, 0.5 * d * d, delta * (a - 0.5 * delta)), input, weight, reduction
    )


def witness_wrong_data_dependent_shortcut():
    x, t = torch.zeros(2, 3), torch.ones(2, 3)
    torch.vmap(F.huber_loss)(x, t)
    try:
        torch.vmap(wrong_data_dependent_shortcut)(x, t)
    except RuntimeError:
        return True
    return False


class _ScalesInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d, delta):
        ctx.save_for_backward(d)
        ctx.delta = delta
        ctx.grad = d.clamp(-delta, delta)
        return ctx.grad * (d - 0.5 * ctx.grad)

    @staticmethod
    def backward(ctx, g):
        if torch.is_grad_enabled():  # create_graph
            return g * ctx.saved_tensors[0].clamp(-ctx.delta, ctx.delta), None
        return ctx.grad.mul_(g), None


def wrong_saved_gradient_scaled_in_place(input, target, reduction="mean", delta=1.0, weight=None):
    """Backward multiplies the gradient kept from the forward pass in place: a second backward is scaled twice."""
    d, reduction = _start(input, target, reduction, delta)
    if _transformed():
        return right_by_clamp(input, target, reduction, delta, weight)
    return _end(_ScalesInPlace.apply(d, delta), input, weight, reduction)


def witness_wrong_saved_gradient_scaled_in_place():
    x = torch.tensor([0.5, 3.0], requires_grad=True)
    loss = wrong_saved_gradient_scaled_in_place(x, torch.zeros(2))
    a = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    b = torch.autograd.grad(loss, x)[0]
    return not torch.allclose(a, b)


def wrong_tail_of_grid_dropped(input, target, reduction="mean", delta=1.0, weight=None):
    """The grid has n // 1024 blocks: beyond one block the remainder is never summed."""
    d, reduction = _start(input, target, reduction, delta)
    c = d.clamp(-delta, delta)
    loss = c * (d - 0.5 * c)
    if reduction == "none":
        return _end(loss, input, weight, reduction)
    loss = _end(loss, input, weight, "none").reshape(-1)
    n = loss.numel()
    if n > 1024:
        total = loss[: n // 1024 * 1024].view(-1, 1024).sum(1).sum()
    else:
        total = loss.sum()
    return total / n if reduction == "mean" and n else _reduce(loss, reduction) if not n else total


def witness_wrong_tail_of_grid_dropped():
    x, t = torch.ones(40, 30), torch.zeros(40, 30)
    return not torch.allclose(
        wrong_tail_of_grid_dropped(x, t, reduction="sum"), F.huber_loss(x, t, reduction="sum")
    )


class _TargetSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, delta):
        d = x - t
        c = d.clamp(-delta, delta)
        return c * (d - 0.5 * c)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, ctx.delta = inputs
        ctx.save_for_backward(x, t)
        ctx.save_for_forward(x, t)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        grad = g * (x - t).clamp(-ctx.delta, ctx.delta)
        return grad, grad, None

    @staticmethod
    def jvp(ctx, a, b, _):
        x, t = ctx.saved_tensors
        d = torch.zeros_like(x)
        if a is not None:
            d = d + a
        if b is not None:
            d = d - b
        return (x - t).clamp(-ctx.delta, ctx.delta) * d


def wrong_target_gradient_sign(input, target, reduction="mean", delta=1.0, weight=None):
    """The gradient of the target misses its minus."""
    _, reduction = _start(input, target, reduction, delta)
    x, t = torch.broadcast_tensors(input, target)
    if torch.compiler.is_compiling():
        return right_by_clamp(input, target, reduction, delta, weight)
    return _end(_TargetSign.apply(x, t, delta), input, weight, reduction)


def witness_wrong_target_gradient_sign():
    t = torch.tensor([0.5, 3.0], requires_grad=True)
    a = torch.autograd.grad(wrong_target_gradient_sign(torch.zeros(2), t), t)[0]
    return torch.allclose(a, -torch.autograd.grad(F.huber_loss(torch.zeros(2), t), t)[0])


def wrong_constant_on_cpu(input, target, reduction="mean", delta=1.0, weight=None):
    """The threshold tensor is made on the CPU whatever the inputs' device."""
    d, reduction = _start(input, target, reduction, delta)
    edge = torch.full(d.shape, delta, dtype=d.dtype, device="cpu")
    c = torch.minimum(torch.maximum(d, -edge), edge)
    return _end(c * (d - 0.5 * c), input, weight, reduction)


def witness_wrong_constant_on_cpu():
    x = torch.ones(3, 2, device="meta")
    F.huber_loss(x, x)
    try:
        wrong_constant_on_cpu(x, x)
    except (RuntimeError, NotImplementedError):
        return True
    return False


def wrong_scaled_residual_underflows(input, target, reduction="mean", delta=1.0, weight=None):
    """delta^2 * smooth(d / delta): with a large delta the square underflows in float16."""
    d, reduction = _start(input, target, reduction, delta)
    r = d / delta
    a = r.abs()
    return _end(torch.where(a < 1, 0.5 * r * r, a - 0.5) * delta**2, input, weight, reduction)


def witness_wrong_scaled_residual_underflows():
    x, t = torch.tensor([0.02, 0.01], dtype=torch.half), torch.zeros(2, dtype=torch.half)
    a = wrong_scaled_residual_underflows(x, t, delta=100.0, reduction="none")
    b = F.huber_loss(x, t, delta=100.0, reduction="none")
    return not torch.allclose(a, b, rtol=0.05, atol=1e-7)


class WrongDeltaBufferHuberLoss(_Loss):
    """delta is a persistent buffer: checkpoints gain a key, and .half() rounds it."""

    def __init__(self, reduction="mean", delta=1.0):
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__(reduction=reduction)
        self.register_buffer("delta", torch.tensor(float(delta), dtype=torch.float64))

    def forward(self, input, target):
        return F.huber_loss(input, target, reduction=self.reduction, delta=float(self.delta))


def witness_WrongDeltaBufferHuberLoss():
    try:
        WrongDeltaBufferHuberLoss().load_state_dict(torch.nn.HuberLoss().state_dict())
    except RuntimeError:
        return True
    return False


def right_by_clamp(input, target, reduction="mean", delta=1.0, weight=None):
    """C * (d - c / 2) with c = d clamped to [-delta, delta]."""
    d, reduction = _start(input, target, reduction, delta)
    c = d.clamp(-delta, delta)
    return _end(c * (d - 0.5 * c), input, weight, reduction)


def right_by_smooth_l1(input, target, reduction="mean", delta=1.0, weight=None):
    """Delta times the smooth L1 loss with beta = delta."""
    _, reduction = _start(input, target, reduction, delta)
    x, t = torch.broadcast_tensors(input, target)
    return _end(
        delta * F.smooth_l1_loss(x, t, reduction="none", beta=delta), input, weight, reduction
    )
