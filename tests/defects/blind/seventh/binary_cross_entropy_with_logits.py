"""Losses for torch.nn.functional.binary_cross_entropy_with_logits: wrong ones, their witnesses, right ones."""
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


def _check(input, target, weight, pos_weight):
    if target.size() != input.size():
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    if not input.is_floating_point():
        raise NotImplementedError(f'"binary_cross_entropy_with_logits" not implemented for {input.dtype}')
    if not target.is_floating_point():
        raise RuntimeError(f"binary_cross_entropy_with_logits needs a floating point target, got {target.dtype}")
    for name, w in (("weight", weight), ("pos_weight", pos_weight)):
        if w is None:
            continue
        if w.requires_grad:
            raise RuntimeError(f"binary_cross_entropy_with_logits is not differentiable with respect to argument '{name}'")
        if torch.broadcast_shapes(w.shape, input.shape) != input.shape:
            raise RuntimeError(f"{name} of size {w.shape} does not broadcast to {input.shape}")


def _wide(*tensors):
    dtype = torch.float32
    for t in tensors:
        if t is not None:
            dtype = torch.promote_types(dtype, t.dtype)
    return dtype


# ------------------------------------------------------------------ wrong


def wrong_log_of_sigmoid(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Takes the log of sigmoid(x) and of 1 - sigmoid(x) instead of a log-sum-exp form, so the loss is inf or NaN for large logits; shows for |x| above about 17 in float32."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    s = torch.sigmoid(input)
    p = 1 if pos_weight is None else pos_weight
    loss = -(p * target * torch.log(s) + (1 - target) * torch.log(1 - s))
    if weight is not None:
        loss = loss * weight
    return _reduce(loss.to(target.dtype), mode)


def witness_wrong_log_of_sigmoid():
    x, y = torch.tensor([-200.0, 30.0]), torch.tensor([1.0, 0.0])
    bad, good = wrong_log_of_sigmoid(x, y), F.binary_cross_entropy_with_logits(x, y)
    return bool(good.isfinite()) and not bool(bad.isfinite())


def wrong_sizes_broadcast(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Never compares the sizes of input and target, so a target of (N) against logits of (N, 1) silently becomes an (N, N) loss instead of a ValueError; shows for a forgotten squeeze."""
    if target.size() == input.size():
        return F.binary_cross_entropy_with_logits(input, target, weight, size_average, reduce, reduction, pos_weight)
    mode = _mode(size_average, reduce, reduction)
    log_weight = 1 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * input - log_weight * F.logsigmoid(input)
    if weight is not None:
        loss = loss * weight
    return _reduce(loss, mode)


def witness_wrong_sizes_broadcast():
    x, y = torch.randn(4, 1), torch.ones(4)
    out = wrong_sizes_broadcast(x, y, reduction="none")
    try:
        F.binary_cross_entropy_with_logits(x, y)
    except ValueError:
        return out.shape == (4, 4)
    return False


def wrong_pos_weight_on_channel_axis(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Lays a one-dimensional pos_weight along dimension 1 (the channels) for inputs of three and more dimensions instead of broadcasting it along the last one; shows for (N, C, L) or (N, C, H, W) logits only."""
    if pos_weight is not None and pos_weight.dim() == 1 and input.dim() > 2 and pos_weight.numel() in (1, input.size(1)):
        pos_weight = pos_weight.view(-1, *[1] * (input.dim() - 2))
    return F.binary_cross_entropy_with_logits(input, target, weight, size_average, reduce, reduction, pos_weight)


def witness_wrong_pos_weight_on_channel_axis():
    x, y = torch.linspace(-2, 2, 18).view(2, 3, 3), (torch.arange(18).view(2, 3, 3) % 2).float()
    p = torch.tensor([1.0, 2.0, 4.0])
    bad = wrong_pos_weight_on_channel_axis(x, y, pos_weight=p)
    flat = wrong_pos_weight_on_channel_axis(x[0], y[0], pos_weight=p)
    return not torch.allclose(bad, F.binary_cross_entropy_with_logits(x, y, pos_weight=p)) and torch.allclose(
        flat, F.binary_cross_entropy_with_logits(x[0], y[0], pos_weight=p)
    )


def wrong_pos_weight_by_hard_label(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Chooses between pos_weight and 1 by target > 0.5 and scales the whole element with it, instead of scaling only the y*log(sigmoid(x)) part; shows for soft targets together with pos_weight."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    loss = F.binary_cross_entropy_with_logits(input, target, weight, reduction="none")
    if pos_weight is not None:
        loss = loss * torch.where(target > 0.5, pos_weight.to(loss.dtype), torch.ones((), dtype=loss.dtype))
    return _reduce(loss, mode)


def witness_wrong_pos_weight_by_hard_label():
    x, p = torch.tensor([0.3, -1.0]), torch.tensor([3.0])
    soft, hard = torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0])
    f, g = wrong_pos_weight_by_hard_label, F.binary_cross_entropy_with_logits
    return not torch.allclose(f(x, soft, pos_weight=p), g(x, soft, pos_weight=p)) and torch.allclose(
        f(x, hard, pos_weight=p), g(x, hard, pos_weight=p)
    )


def wrong_gradient_without_pos_weight(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """The hand-written backward is weight * (sigmoid(x) - y) and forgets pos_weight (the value has it); shows in the gradient of the logits whenever pos_weight is not one."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)

    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return F.binary_cross_entropy_with_logits(x, y, weight, reduction="none", pos_weight=pos_weight)

        @staticmethod
        def backward(ctx, g):
            x, y = ctx.saved_tensors
            if weight is not None:
                g = g * weight
            p = 1 if pos_weight is None else pos_weight
            gx = g * (torch.sigmoid(x) - y)
            gy = g * (F.logsigmoid(-x) - p * F.logsigmoid(x))
            return gx.to(x.dtype), gy.to(y.dtype)

    return _reduce(Fn.apply(input, target), mode)


def witness_wrong_gradient_without_pos_weight():
    x = torch.tensor([0.5, -0.5], requires_grad=True)
    y, p = torch.tensor([1.0, 0.0]), torch.tensor([4.0])
    bad = wrong_gradient_without_pos_weight(x, y, pos_weight=p)
    good = F.binary_cross_entropy_with_logits(x, y, pos_weight=p)
    (a,), (b,) = torch.autograd.grad(bad, x), torch.autograd.grad(good, x)
    return torch.allclose(bad, good) and not torch.allclose(a, b)


def wrong_gradient_at_zero_logit(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Uses relu(-x) + log1p(exp(-|x|)) under autograd, whose gradient at a logit of exactly zero is 0 and not -1/2; shows in the gradient for zero-initialised heads only, every value is right."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    soft = torch.relu(-input) + torch.log1p(torch.exp(-input.abs()))
    p = 1 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * input + p * soft
    if weight is not None:
        loss = loss * weight
    return _reduce(loss.to(target.dtype), mode)


def witness_wrong_gradient_at_zero_logit():
    def grads(f, values):
        x = torch.tensor(values, requires_grad=True)
        return torch.autograd.grad(f(x, torch.ones(len(values))), x)[0]

    f, g = wrong_gradient_at_zero_logit, F.binary_cross_entropy_with_logits
    return not torch.allclose(grads(f, [0.0]), grads(g, [0.0])) and torch.allclose(grads(f, [0.1, -3.0]), grads(g, [0.1, -3.0]))


class WrongPosWeightIsNoBuffer(torch.nn.Module):
    """Keeps pos_weight as a plain attribute (torch registers it as a buffer), so .double(), .to(device) and state_dict() miss it; shows in state_dict, buffers and after a conversion of the module."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.pos_weight = pos_weight

    def forward(self, input, target):
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


def witness_WrongPosWeightIsNoBuffer():
    p = torch.tensor([1.0, 2.0])
    bad, good = WrongPosWeightIsNoBuffer(pos_weight=p), torch.nn.BCEWithLogitsLoss(pos_weight=p)
    return (
        "pos_weight" in good.state_dict()
        and "pos_weight" not in bad.state_dict()
        and bad.double().pos_weight.dtype == torch.float32
        and good.double().pos_weight.dtype == torch.float64
    )


# ------------------------------------------------------------------ right


class _Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w, p):
        ctx.save_for_backward(x, y, w, p)
        dtype = _wide(x, y)
        xx, yy = x.to(dtype), y.to(dtype)
        out = (-xx).clamp(min=0).add_(xx.abs().neg_().exp_().log1p_())
        if p is not None:
            out.mul_((p.to(dtype) - 1) * yy + 1)
        out.add_((1 - yy) * xx)
        if w is not None:
            out.mul_(w.to(dtype))
        return out.to(y.dtype)

    @staticmethod
    def backward(ctx, g):
        x, y, w, p = ctx.saved_tensors
        dtype = _wide(x, y)
        xx, yy, g = x.to(dtype), y.to(dtype), g.to(dtype)
        if w is not None:
            g = g * w.to(dtype)
        s = torch.sigmoid(xx)
        pp = 1.0 if p is None else p.to(dtype)
        gx = g * (s * (1 - yy) - pp * yy * torch.sigmoid(-xx))
        gy = g * (F.logsigmoid(-xx) - pp * F.logsigmoid(xx)) if ctx.needs_input_grad[1] else None
        return gx.to(x.dtype), None if gy is None else gy.to(y.dtype), None, None


def right_fused_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """One autograd.Function: in-place work on its own buffer, analytic backward built of differentiable operations."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    return _reduce(_Fn.apply(input, target, weight, pos_weight), mode)


def right_logaddexp(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """The documented two terms with log(1 + exp(.)) as logaddexp(., 0), at least float32 inside."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    dtype = _wide(input, target)
    x, y = input.to(dtype), target.to(dtype)
    zero = torch.zeros((), dtype=dtype, device=x.device)
    positive = y * torch.logaddexp(-x, zero)
    negative = (1 - y) * torch.logaddexp(x, zero)
    if pos_weight is not None:
        positive = positive * pos_weight.to(dtype)
    loss = positive + negative
    if weight is not None:
        loss = loss * weight.to(dtype)
    return _reduce(loss, mode).to(target.dtype)


def right_two_class_log_softmax(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """Reads the logit as the two classes (x, 0): log_softmax over the pair, contracted with the pair of coefficients by einsum."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight, pos_weight)
    dtype = _wide(input, target)
    x, y = input.to(dtype).reshape(-1), target.to(dtype).reshape(-1)
    logs = torch.log_softmax(torch.stack((x, torch.zeros_like(x)), dim=1), dim=1)
    p = y if pos_weight is None else y * pos_weight.to(dtype).expand(input.shape).reshape(-1)
    coefficients = torch.stack((p, 1 - y), dim=1)
    if weight is not None:
        coefficients = coefficients * weight.to(dtype).expand(input.shape).reshape(-1, 1)
    if mode == "none":
        return -torch.einsum("ij,ij->i", logs, coefficients).view(input.shape).to(target.dtype)
    total = -torch.einsum("ij,ij->", logs, coefficients)
    if mode == "mean":
        total = total / x.numel()
    return total.to(target.dtype)


class RightBCEWithLogitsLoss(torch.nn.Module):
    """A module: buffers for the weights, the loss gathered row by row in float64 from logsigmoid(x) and logsigmoid(-x)."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        _check(input, target, self.weight, self.pos_weight)
        columns = max(1, input.size(-1)) if input.dim() else 1
        count = input.numel()

        def rows(t):
            return None if t is None else t.expand(input.shape).reshape(-1, columns)

        x, y, w, p = rows(input), rows(target), rows(self.weight), rows(self.pos_weight)
        out = []
        for i in range(x.shape[0]):
            xi, yi = x[i].double(), y[i].double()
            positive = -yi * F.logsigmoid(xi)
            if p is not None:
                positive = positive * p[i].double()
            row = positive - (1 - yi) * F.logsigmoid(-xi)
            out.append(row if w is None else row * w[i].double())
        if not out:
            flat = (input.double() * target.double()).reshape(-1)
        else:
            flat = torch.cat(out)
        if mode == "none":
            return flat.view(input.shape).to(target.dtype)
        total = flat.sum()
        if mode == "mean":
            total = total / count if count else total * float("nan")
        return total.to(target.dtype)
