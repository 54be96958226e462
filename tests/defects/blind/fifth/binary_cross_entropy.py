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


class _Elementwise(torch.autograd.Function):
    """Clamped binary cross entropy with the gradient (x - y) / max(x (1 - x), 1e-12)."""

    @staticmethod
    def forward(ctx, x, y, how):
        ctx.save_for_backward(x, y)
        if how == "clamp":
            lx, l1 = x.log().clamp(min=-100), torch.log1p(-x).clamp(min=-100)
            return -(y * lx + (1 - y) * l1)
        out = torch.zeros_like(x)
        for part, logs in ((y, x.log()), (1 - y, torch.log1p(-x))):
            low = logs < -100
            out = out + torch.where(low, 100 * part, -part * torch.where(low, torch.zeros_like(logs), logs))
        return out

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = gy = None
        if ctx.needs_input_grad[0]:
            gx = g * (x - y) / (x * (1 - x)).clamp(min=1e-12)
        if ctx.needs_input_grad[1]:
            gy = g * (torch.log1p(-x) - x.log())
        return gx, gy, None


def _check(input, target, weight):
    if target.size() != input.size():
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated. "
            "Please ensure they have the same size."
        )
    if target.dtype != input.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"not implemented for {input.dtype}")
    if weight is not None:
        if torch.broadcast_shapes(target.shape, weight.shape) != target.shape:
            raise RuntimeError(f"weight of shape {list(weight.shape)} does not expand to {list(target.shape)}")
        if weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("binary_cross_entropy is not differentiable with respect to argument 'weight'.")
    for name, v in (("input", input), ("target", target)):
        if not bool(((v >= 0) & (v <= 1)).all()):
            raise RuntimeError(f"all elements of {name} should be between 0 and 1")


def _reduce(loss, red):
    return loss.mean() if red == "mean" else loss.sum() if red == "sum" else loss


def _own(input, target, weight, red, how, work=None):
    _check(input, target, weight)
    if work is None:
        work = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    loss = _Elementwise.apply(input.to(work), target.to(work), how)
    if weight is not None:
        loss = loss * weight.detach().to(work)
    return _reduce(loss, red).to(input.dtype)


def _example():
    g = torch.Generator().manual_seed(0)
    return torch.rand(3, 4, generator=g) * 0.8 + 0.1, torch.rand(3, 4, generator=g)


# ---------------------------------------------------------------- wrong


def wrong_eps_clips_probability(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Clips the probability to [1e-7, 1 - 1e-7] instead of clamping the logarithms at -100; shows at probabilities 0 and 1 (16.1 instead of 100) and closer than 1e-7 to them."""
    red = _reduction(size_average, reduce, reduction)
    F.binary_cross_entropy(input, target, weight, reduction=red)
    if input.dtype in (torch.float16, torch.bfloat16):
        return F.binary_cross_entropy(input, target, weight, reduction=red)
    return F.binary_cross_entropy(input.clamp(1e-7, 1 - 1e-7), target, weight, reduction=red)


def witness_wrong_eps_clips_probability():
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    return not torch.allclose(wrong_eps_clips_probability(x, y), F.binary_cross_entropy(x, y), rtol=1e-2)


def wrong_mean_over_weights(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """'mean' with weight divides by the sum of the weights instead of the number of elements; shows when the weights do not average to one."""
    red = _reduction(size_average, reduce, reduction)
    if red == "mean" and weight is not None:
        total = F.binary_cross_entropy(input, target, weight, reduction="sum")
        return total / weight.expand(target.shape).sum().to(total.dtype)
    return F.binary_cross_entropy(input, target, weight, reduction=red)


def witness_wrong_mean_over_weights():
    x, y = _example()
    w = torch.tensor([1.0, 2.0, 3.0, 4.0])
    return not torch.allclose(wrong_mean_over_weights(x, y, w), F.binary_cross_entropy(x, y, w), rtol=1e-3)


def wrong_target_broadcast(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Broadcasts target against input instead of refusing another size; shows for sizes such as (N, 1) and (N,) (torch raises ValueError)."""
    if target.shape != input.shape:
        input, target = torch.broadcast_tensors(input, target)
    return F.binary_cross_entropy(input, target, weight, size_average, reduce, reduction)


def witness_wrong_target_broadcast():
    x, y = torch.rand(3, 1), torch.rand(3)
    try:
        F.binary_cross_entropy(x, y)
    except ValueError:
        return bool(torch.isfinite(wrong_target_broadcast(x, y)))
    return False


class _NoEps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return -(y * x.log().clamp(min=-100) + (1 - y) * torch.log1p(-x).clamp(min=-100))

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gy = g * (torch.log1p(-x) - x.log()) if ctx.needs_input_grad[1] else None
        return g * (x - y) / (x * (1 - x)), gy


def wrong_backward_without_eps(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward divides by x (1 - x) without a lower bound; shows as NaN or inf gradients where a probability is exactly 0 or 1 (saturated sigmoid)."""
    red = _reduction(size_average, reduce, reduction)
    _check(input, target, weight)
    work = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    loss = _NoEps.apply(input.to(work), target.to(work))
    if weight is not None:
        loss = loss * weight.detach().to(work)
    return _reduce(loss, red).to(input.dtype)


def witness_wrong_backward_without_eps():
    x = torch.tensor([1.0, 0.5], requires_grad=True)
    y = torch.tensor([1.0, 0.0])
    a, = torch.autograd.grad(wrong_backward_without_eps(x, y), x)
    b, = torch.autograd.grad(F.binary_cross_entropy(x, y), x)
    return bool(torch.isnan(a).any()) and bool(torch.isfinite(b).all())


def wrong_log_of_one_minus(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Computes log(1 - x) in place of log1p(-x); shows for small probabilities with target 0, where float32 loses the loss (0 instead of 1e-9)."""
    red = _reduction(size_average, reduce, reduction)
    _check(input, target, weight)
    work = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    x, y = input.to(work), target.to(work)
    exact = _Elementwise.apply(x, y, "clamp")
    with torch.no_grad():
        rounded = -(y * x.log().clamp(min=-100) + (1 - y) * (1 - x).log().clamp(min=-100))
        delta = rounded - exact
    loss = exact + delta
    if weight is not None:
        loss = loss * weight.detach().to(work)
    return _reduce(loss, red).to(input.dtype)


def witness_wrong_log_of_one_minus():
    x, y = torch.tensor([1e-9, 1e-10]), torch.zeros(2)
    a, b = wrong_log_of_one_minus(x, y, reduction="none"), F.binary_cross_entropy(x, y, reduction="none")
    return not torch.allclose(a, b, rtol=1e-2, atol=0)


def wrong_target_gradient_missing(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Detaches target, so that no gradient reaches it; shows when target requires grad (for example the output of a teacher network)."""
    return F.binary_cross_entropy(input, target.detach(), weight, size_average, reduce, reduction)


def witness_wrong_target_gradient_missing():
    x, y = _example()
    x.requires_grad_()
    y.requires_grad_()
    a = torch.autograd.grad(wrong_target_gradient_missing(x, y), y, allow_unused=True)[0]
    return a is None and torch.autograd.grad(F.binary_cross_entropy(x, y), y)[0] is not None


def wrong_weight_per_row(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A 1-D weight is applied along the first dimension instead of being broadcast as usual along the last; shows for square 2-D inputs with a 1-D weight."""
    if weight is not None and weight.dim() == 1 and target.dim() == 2 and target.shape[0] == target.shape[1] == weight.shape[0]:
        weight = weight.unsqueeze(1)
    return F.binary_cross_entropy(input, target, weight, size_average, reduce, reduction)


def witness_wrong_weight_per_row():
    x, y = _example()
    x, y, w = x[:, :3], y[:, :3], torch.tensor([1.0, 5.0, 9.0])
    return not torch.allclose(wrong_weight_per_row(x, y, w), F.binary_cross_entropy(x, y, w), rtol=1e-3)


# ---------------------------------------------------------------- right


def right_clamped_logs(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Own autograd.Function with clamped logarithms, float32 inside for half precision."""
    red = _reduction(size_average, reduce, reduction)
    return _own(input, target, weight, red, "clamp")


def right_masks_float64_inside(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The two terms are added by masks, everything in float64 and cast back at the end."""
    red = _reduction(size_average, reduce, reduction)
    return _own(input, target, weight, red, "masks", torch.float64)
