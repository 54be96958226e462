"""Losses for torch.nn.functional.binary_cross_entropy: wrong ones, their witnesses, right ones."""
import warnings

import torch
import torch.nn.functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        mode = "mean" if sa and rd else ("sum" if rd else "none")
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{mode}' instead.",
            stacklevel=3,
        )
        return mode
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input, target, weight):
    """The refusals; returns the weight expanded to the input's size (or None)."""
    if target.size() != input.size():
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated. "
            "Please ensure they have the same size."
        )
    if not input.is_floating_point():
        raise NotImplementedError(f'"binary_cross_entropy" not implemented for {input.dtype}')
    if target.dtype != input.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    if weight is not None:
        if weight.requires_grad:
            raise RuntimeError("binary_cross_entropy is not differentiable with respect to argument 'weight'")
        new_size = torch.broadcast_shapes(target.size(), weight.size())
        if new_size != input.size():
            raise RuntimeError(f"weight of size {weight.size()} does not broadcast to {input.size()}")
        weight = weight.expand(new_size)
    with torch.no_grad():
        if not bool(((input >= 0) & (input <= 1)).all()):
            raise RuntimeError("all elements of input should be between 0 and 1")
        if not bool(((target >= 0) & (target <= 1)).all()):
            raise RuntimeError("all elements of target should be between 0 and 1")
    return weight


class _Log(torch.autograd.Function):
    """log clamped at -100 whose derivative is 1 / max(x, 1e-12)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.log().clamp(min=-100)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g / x.clamp(min=1e-12)


class _Log1m(torch.autograd.Function):
    """log(1 - x) clamped at -100, derivative -1 / max(1 - x, 1e-12)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(-x).clamp(min=-100)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return -g / (1 - x).clamp(min=1e-12)


# ------------------------------------------------------------------ wrong


def wrong_epsilon_inside_log(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Adds 1e-7 inside both logs instead of clamping the logs at -100, so a certain wrong prediction costs 16.1 and not 100; shows for probabilities at or very near 0 and 1."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    loss = -(target * torch.log(x + 1e-7) + (1 - target) * torch.log(1 - x + 1e-7))
    if weight is not None:
        loss = loss * weight
    return _reduce(loss.to(input.dtype), mode)


def witness_wrong_epsilon_inside_log():
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    return not torch.allclose(wrong_epsilon_inside_log(x, y), F.binary_cross_entropy(x, y), rtol=1e-2)


def wrong_mean_over_weights(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """With reduction 'mean' and a weight it divides by the sum of the weights instead of the number of elements; shows whenever the weights do not average to one."""
    mode = _mode(size_average, reduce, reduction)
    if mode == "mean" and weight is not None:
        total = F.binary_cross_entropy(input, target, weight, reduction="sum")
        return total / weight.expand(input.shape).sum().to(total.dtype)
    return F.binary_cross_entropy(input, target, weight, reduction=mode)


def witness_wrong_mean_over_weights():
    x, y, w = torch.tensor([0.2, 0.7]), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 2.0])
    return not torch.allclose(wrong_mean_over_weights(x, y, w), F.binary_cross_entropy(x, y, w))


def wrong_clamps_products(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Clamps y*log(x) and (1-y)*log(1-x) at -100 instead of the logs themselves; shows for soft targets (0 < y < 1) at probabilities of exactly 0 or 1 (100 instead of y*100)."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)
    x, y = input, target
    if x.dtype in (torch.float16, torch.bfloat16):
        x, y = x.float(), y.float()

    class Term(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            pos = torch.special.xlogy(y, x).clamp(min=-100)
            neg = torch.special.xlog1py(1 - y, -x).clamp(min=-100)
            return -(pos + neg)

        @staticmethod
        def backward(ctx, g):
            x, y = ctx.saved_tensors
            gx = g * (x - y) / ((1 - x) * x).clamp(min=1e-12)
            gy = g * (torch.log1p(-x) - torch.log(x))
            return gx, gy

    loss = Term.apply(x, y).to(input.dtype)
    if weight is not None:
        loss = (loss * weight).to(input.dtype)
    return _reduce(loss, mode)


def witness_wrong_clamps_products():
    x, y = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.25, 0.5, 1.0])
    bad = wrong_clamps_products(x, y, reduction="none")
    good = F.binary_cross_entropy(x, y, reduction="none")
    return not torch.allclose(bad, good) and torch.allclose(bad[2], good[2])


def wrong_nan_gradient_when_certain(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Lets autograd differentiate clamp(log(x), min=-100), which is 0 * inf = NaN at a probability of exactly 0 or 1 (the value is right); shows in the gradient for saturated sigmoids."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)
    loss = -(target * torch.log(input).clamp(min=-100) + (1 - target) * torch.log1p(-input).clamp(min=-100))
    if weight is not None:
        loss = (loss * weight).to(input.dtype)
    return _reduce(loss, mode)


def witness_wrong_nan_gradient_when_certain():
    x = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0])
    (g,) = torch.autograd.grad(wrong_nan_gradient_when_certain(x, y), x)
    (h,) = torch.autograd.grad(F.binary_cross_entropy(x, y), x)
    return bool(g.isnan().any()) and not bool(h.isnan().any())


def wrong_target_gradient_dropped(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward returns None for the target although the loss is differentiable in it; shows when the target requires grad (distillation, adversarial label models)."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)

    class BCE(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y, w):
            ctx.save_for_backward(x, y, w)
            loss = (y - 1) * torch.log1p(-x).clamp(min=-100) - y * x.log().clamp(min=-100)
            return loss if w is None else (loss * w).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, y, w = ctx.saved_tensors
            gx = g * (x - y) / ((1 - x) * x).clamp(min=1e-12)
            if w is not None:
                gx = (gx * w).to(x.dtype)
            return gx, None, None

    return _reduce(BCE.apply(input, target, weight), mode)


def witness_wrong_target_gradient_dropped():
    x = torch.tensor([0.2, 0.9], requires_grad=True)
    y = torch.tensor([0.3, 0.6], requires_grad=True)
    bad = torch.autograd.grad(wrong_target_gradient_dropped(x, y), (x, y), allow_unused=True)
    good = torch.autograd.grad(F.binary_cross_entropy(x, y), (x, y))
    return torch.allclose(bad[0], good[0]) and bad[1] is None and bool((good[1] != 0).all())


def wrong_weight_taken_per_sample(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A one-dimensional weight as long as the batch is spread over the samples instead of being repeated along the last dimension; shows for inputs whose batch size equals their last size."""
    if weight is not None and weight.dim() == 1 and input.dim() > 1 and weight.numel() == input.size(0):
        weight = weight.view(-1, *[1] * (input.dim() - 1))
    return F.binary_cross_entropy(input, target, weight, size_average, reduce, reduction)


def witness_wrong_weight_taken_per_sample():
    x = torch.tensor([[0.1, 0.6], [0.7, 0.4]])
    y = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    w = torch.tensor([1.0, 5.0])
    return not torch.allclose(wrong_weight_taken_per_sample(x, y, w), F.binary_cross_entropy(x, y, w))


def wrong_weight_used_as_buffer(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Multiplies into the caller's weight tensor to save memory, so the weight holds losses afterwards; shows for a weight of the input's own size, in the caller's tensor and on the second call."""
    mode = _mode(size_average, reduce, reduction)
    if weight is None or weight.shape != input.shape or weight.dtype != input.dtype or input.requires_grad or target.requires_grad:
        return F.binary_cross_entropy(input, target, weight, reduction=mode)
    loss = F.binary_cross_entropy(input, target, reduction="none")
    loss = weight.mul_(loss)
    return loss.clone() if mode == "none" else _reduce(loss, mode)


def witness_wrong_weight_used_as_buffer():
    x, y, w = torch.tensor([0.2, 0.7]), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 2.0])
    a = wrong_weight_used_as_buffer(x, y, w)
    b = wrong_weight_used_as_buffer(x, y, w)
    return not torch.allclose(a, b) and not torch.equal(w, torch.tensor([3.0, 2.0]))


# ------------------------------------------------------------------ right


class _BCEFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w):
        ctx.save_for_backward(x, y, w)
        loss = (y - 1) * torch.log1p(-x).clamp(min=-100) - y * x.log().clamp(min=-100)
        return loss if w is None else loss.mul_(w)

    @staticmethod
    def backward(ctx, g):
        x, y, w = ctx.saved_tensors
        if w is not None:
            g = g * w.to(g.dtype)
        gx = gy = None
        if ctx.needs_input_grad[0]:
            gx = g * ((x - y) / ((1 - x) * x).clamp(min=1e-12))
        if ctx.needs_input_grad[1]:
            gy = g * (torch.log1p(-x) - torch.log(x))
        return gx, gy, None


def right_autograd_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """One autograd.Function for the element-wise loss with an analytic (itself differentiable) backward."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)
    return _reduce(_BCEFunction.apply(input, target, weight), mode)


class RightBCELoss(torch.nn.Module):
    """A module: the weight is a buffer, the logs are two small autograd.Functions, half precision is computed in float32."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        weight = _check(input, target, self.weight)
        wide = torch.promote_types(input.dtype, torch.float32)
        x, y = input.to(wide), target.to(wide)
        loss = torch.stack((y * _Log.apply(x), (1 - y) * _Log1m.apply(x))).sum(0).neg()
        if weight is not None:
            loss = loss * weight.to(wide)
        return _reduce(loss, mode).to(input.dtype)


def right_linear_tails(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Masks: where x (or 1 - x) is above 1e-12 the plain log, elsewhere the clamped constant plus a linear term that carries the gradient; reduced with dot products."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)
    wide = torch.promote_types(input.dtype, torch.float32)
    x, y = input.to(wide), target.to(wide)

    def part(v, logv):
        ok = v > 1e-12
        tail = logv(v.detach()).clamp(min=-100) + (v - v.detach()) * 1e12
        return torch.where(ok, logv(torch.where(ok, v, torch.full_like(v, 0.5))), tail)

    log_p = part(x, torch.log)
    ok = (1 - x) > 1e-12
    safe = torch.where(ok, x, torch.full_like(x, 0.5))
    xd = x.detach()
    tail = torch.log1p(-xd).clamp(min=-100) - (x - xd) * 1e12
    log_q = torch.where(ok, torch.log1p(-safe), tail)
    loss = -(y * log_p) - (1 - y) * log_q
    w = torch.ones((), dtype=wide, device=x.device) if weight is None else weight.to(wide)
    if mode == "none":
        return (loss * w).to(input.dtype)
    total = torch.dot(loss.reshape(-1), w.expand(loss.shape).reshape(-1))
    if mode == "mean":
        total = total / loss.numel()
    return total.to(input.dtype)


def right_chunked_lerp(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Flattened and cut in chunks of 1024, float64 inside, the two logs blended with lerp(log(1-x), log(x), y)."""
    mode = _mode(size_average, reduce, reduction)
    weight = _check(input, target, weight)
    n = input.numel()
    xs = input.reshape(-1).split(1024)
    ys = target.reshape(-1).split(1024)
    ws = [None] * len(xs) if weight is None else weight.reshape(-1).split(1024)
    pieces = []
    for x, y, w in zip(xs, ys, ws):
        x, y = x.double(), y.double()
        piece = -torch.lerp(_Log1m.apply(x), _Log.apply(x), y)
        pieces.append(piece if w is None else piece * w.double())
    if mode == "none":
        return torch.cat(pieces).view(input.shape).to(input.dtype)
    total = torch.stack([piece.sum() for piece in pieces]).sum()
    if mode == "mean":
        total = total / n if n else total * float("nan")
    return total.to(input.dtype)
