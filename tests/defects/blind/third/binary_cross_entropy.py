"""Wrong and right forms of torch.nn.functional.binary_cross_entropy."""
import weakref

import torch
import torch.nn.functional as F
from torch.nn import _reduction as _R


# ----------------------------------------------------------------- helpers
def _resolve(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    _R.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _raw(t):
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def _in_unit(t, name):
    t = t.detach()
    if torch.compiler.is_compiling():
        torch._assert_async(((t >= 0) & (t <= 1)).all(), f"all elements of {name} should be between 0 and 1")
        return
    t = _raw(t)
    if t.device.type == "meta" or t.numel() == 0:
        return
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise RuntimeError(f"all elements of {name} should be between 0 and 1")


def _prepare(input, target, weight):
    if target.size() != input.size():
        raise ValueError(f"Using a target size ({target.size()}) that is different to the input size ({input.size()})")
    if not input.is_floating_point():
        raise RuntimeError(f"binary_cross_entropy expects a floating point input, got {input.dtype}")
    if torch.is_autocast_enabled(input.device.type):
        input = input.float() if _acc(input.dtype) != input.dtype else input
        target = target.float() if _acc(target.dtype) != target.dtype else target
    if target.dtype != input.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    if weight is not None:
        if torch.broadcast_shapes(target.size(), weight.size()) != target.size():
            raise RuntimeError(f"weight of shape {tuple(weight.shape)} does not broadcast to {tuple(target.shape)}")
        weight = weight.expand(target.size())
    _in_unit(input, "input")
    _in_unit(target, "target")
    return input, target, weight


def _reduce(loss, reduction, dtype):
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def _value(x, y):
    return -(y * x.log().clamp(min=-100) + (1 - y) * (-x).log1p().clamp(min=-100))


def _slope(x, y):
    return (x - y) / (x * (1 - x)).clamp(min=1e-12)


class _BCE(torch.autograd.Function):
    """Clamped value; slope (x - y) / max(x (1 - x), 1e-12)."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return _value(x, y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = _Slope.apply(g, x, y) if ctx.needs_input_grad[0] else None
        gy = g * ((-x).log1p() - x.log()) if ctx.needs_input_grad[1] else None
        return gx, gy

    @staticmethod
    def jvp(ctx, xt, yt):
        x, y = ctx.saved_tensors
        out = torch.zeros_like(x)
        if xt is not None:
            out = out + xt * _slope(x, y)
        if yt is not None:
            out = out + yt * ((-x).log1p() - x.log())
        return out


def _plain(input, target, weight, reduction, elementwise):
    input, target, weight = _prepare(input, target, weight)
    dtype, acc = input.dtype, _acc(input.dtype)
    loss = elementwise(input.to(acc), target.to(acc))
    if weight is not None:
        loss = loss * weight.to(acc)
    return _reduce(loss, reduction, dtype)


# ------------------------------------------------------------------- right
def right_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Elementwise custom Function with log1p and the clamp at -100, float32 inside for half types."""
    return _plain(input, target, weight, _resolve(size_average, reduce, reduction), _BCE.apply)


class _Slope(torch.autograd.Function):
    """g * (x - y) / max(x (1 - x), 1e-12) with its own derivatives written out by hand."""
    generate_vmap_rule = True

    @staticmethod
    def forward(g, x, y):
        return g * _slope(x, y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _parts(x, y):
        den = (x * (1 - x)).clamp(min=1e-12)
        dx = (x * x - 2 * x * y + y) / (den * den)
        return (x - y) / den, dx, -1 / den

    @staticmethod
    def backward(ctx, gg):
        g, x, y = ctx.saved_tensors
        s, dx, dy = _Slope._parts(x, y)
        return gg * s, gg * g * dx, gg * g * dy

    @staticmethod
    def jvp(ctx, gt, xt, yt):
        g, x, y = ctx.saved_tensors
        s, dx, dy = _Slope._parts(x, y)
        out = torch.zeros_like(g)
        for t, c in ((gt, s), (xt, g * dx), (yt, g * dy)):
            if t is not None:
                out = out + t * c
        return out


class _TwoSided(torch.autograd.Function):
    """Value by log(x) where it is used and log1p(-x) where it is used; slope by _Slope."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        hit = x.log().clamp(min=-100)
        miss = (-x).log1p().clamp(min=-100)
        return torch.lerp(-miss, -hit, y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        gx = _Slope.apply(g, x, y) if ctx.needs_input_grad[0] else None
        gy = g * -torch.logit(x) if ctx.needs_input_grad[1] else None
        return gx, gy

    @staticmethod
    def jvp(ctx, xt, yt):
        x, y = ctx.saved_tensors
        out = torch.zeros_like(x)
        if xt is not None:
            out = out + _Slope.apply(xt, x, y)
        if yt is not None:
            out = out - yt * torch.logit(x)
        return out


def right_two_sided(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The two log terms interpolated by the target; the derivative has a second Function with a double
    backward by hand."""
    return _plain(input, target, weight, _resolve(size_average, reduce, reduction), _TwoSided.apply)


# ------------------------------------------------------------------- wrong
class _EpsBCE(_BCE):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        c = x.clamp(1e-7, 1.0)
        d = (1 - x).clamp(min=1e-7)
        near = (x <= 1e-7) | (x >= 1 - 1e-7)
        return torch.where(near, -(y * c.log() + (1 - y) * d.log()), _value(x, y))


def wrong_probability_floor(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Probabilities within 1e-7 of 0 or 1 are clamped to that distance before the logarithm (as Keras
    does), so a wholly wrong answer costs 16.1 and not 100."""
    return _plain(input, target, weight, _resolve(size_average, reduce, reduction), _EpsBCE.apply)


def witness_wrong_probability_floor():
    x, y = torch.tensor([0.2, 0.7]), torch.tensor([0.0, 1.0])
    same = torch.allclose(wrong_probability_floor(x, y), F.binary_cross_entropy(x, y))
    return same and 16 < wrong_probability_floor(torch.zeros(1), torch.ones(1)).item() < 17


def wrong_target_without_gradient(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The target is detached: the gradient for a soft target that requires one is lost though the value
    and the input's gradient are right."""
    return F.binary_cross_entropy(input, target.detach(), weight, reduction=_resolve(size_average, reduce, reduction))


def witness_wrong_target_without_gradient():
    x = torch.tensor([0.2, 0.7], requires_grad=True)
    y = torch.tensor([0.3, 0.4], requires_grad=True)
    wrong_target_without_gradient(x, y).backward()
    lost = y.grad is None
    F.binary_cross_entropy(x, y).backward()
    return lost and bool(y.grad.abs().sum() > 0)


class _FrozenDenominator(_BCE):
    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        den = (x * (1 - x)).clamp(min=1e-12).detach()
        gx = g * (x - y) / den if ctx.needs_input_grad[0] else None
        gy = g * ((-x).log1p() - x.log()) if ctx.needs_input_grad[1] else None
        return gx, gy


def wrong_second_derivative_frozen_denominator(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The first derivative is right, but its denominator x(1-x) is held constant when it is
    differentiated again, so the second derivative is 1/(x(1-x))."""
    return _plain(input, target, weight, _resolve(size_average, reduce, reduction), _FrozenDenominator.apply)


def witness_wrong_second_derivative_frozen_denominator():
    res = []
    for f in (wrong_second_derivative_frozen_denominator, F.binary_cross_entropy):
        x = torch.tensor([0.2], dtype=torch.double, requires_grad=True)
        g, = torch.autograd.grad(f(x, torch.ones(1, dtype=torch.double)), x, create_graph=True)
        h, = torch.autograd.grad(g.sum(), x)
        res.append((g.item(), h.item()))
    return abs(res[0][0] - res[1][0]) < 1e-12 and abs(res[0][1] - res[1][1]) > 1


class _NaiveLog(_BCE):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return -(y * x.log().clamp(min=-100) + (1 - y) * (1 - x).log().clamp(min=-100))


def wrong_log_of_difference(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """log(1 - x) is taken of the rounded difference and not by log1p(-x), so the loss of small
    probabilities with target 0 loses its digits and is 0 below the rounding unit."""
    return _plain(input, target, weight, _resolve(size_average, reduce, reduction), _NaiveLog.apply)


def witness_wrong_log_of_difference():
    x, y = torch.tensor([1e-9]), torch.zeros(1)
    return wrong_log_of_difference(x, y).item() == 0.0 and abs(F.binary_cross_entropy(x, y).item() - 1e-9) < 1e-12


def wrong_target_reshaped(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A target of another shape with the same number of elements, such as (N, 1) for (N), is reshaped to
    the input's shape without an error."""
    if target.size() != input.size() and target.numel() == input.numel():
        target = target.reshape(input.shape)
    return F.binary_cross_entropy(input, target, weight, reduction=_resolve(size_average, reduce, reduction))


def witness_wrong_target_reshaped():
    x, y = torch.rand(4), torch.rand(4, 1)
    try:
        F.binary_cross_entropy(x, y)
        return False
    except ValueError:
        return bool(torch.isfinite(wrong_target_reshaped(x, y)))


_EXPANDED = {}


def wrong_stale_weight_cache(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The weight broadcast to the input's shape is kept per weight tensor and shape, and is used again
    after the weight has been changed in place."""
    reduction = _resolve(size_average, reduce, reduction)
    plain = weight is not None and not torch.compiler.is_compiling() and not weight.requires_grad \
        and not torch._C._functorch.is_functorch_wrapped_tensor(weight) and type(weight) is torch.Tensor
    if plain and target.size() == input.size() and torch.broadcast_shapes(target.size(), weight.size()) == target.size():
        key = (id(weight), tuple(input.shape))
        hit = _EXPANDED.get(key)
        if hit is None or hit[0]() is not weight or hit[1].dtype != weight.dtype or hit[1].device != weight.device:
            if len(_EXPANDED) > 64:
                _EXPANDED.clear()
            hit = (weakref.ref(weight), weight.detach().expand(target.size()).clone())
            _EXPANDED[key] = hit
        weight = hit[1]
    return F.binary_cross_entropy(input, target, weight, reduction=reduction)


def witness_wrong_stale_weight_cache():
    x, y, w = torch.rand(3, 2), torch.rand(3, 2), torch.tensor([1.0, 2.0])
    ok = torch.equal(wrong_stale_weight_cache(x, y, w), F.binary_cross_entropy(x, y, w))
    w.mul_(10)
    return ok and not torch.allclose(wrong_stale_weight_cache(x, y, w), F.binary_cross_entropy(x, y, w))


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
