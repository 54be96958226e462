"""Wrong and right forms of torch.nn.functional.binary_cross_entropy_with_logits / torch.nn.BCEWithLogitsLoss."""
import torch
import torch.nn as nn
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


def _fits(name, t, shape):
    if t is not None and torch.broadcast_shapes(t.shape, shape) != shape:
        raise RuntimeError(f"{name} of shape {tuple(t.shape)} does not broadcast to {tuple(shape)}")


def _run(elementwise, input, target, weight, pos_weight, reduction):
    if target.size() != input.size():
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    if not (input.is_floating_point() and target.is_floating_point()):
        raise RuntimeError(f"expected floating point input and target, got {input.dtype} and {target.dtype}")
    _fits("weight", weight, input.shape)
    _fits("pos_weight", pos_weight, input.shape)
    if torch.is_autocast_enabled(input.device.type):
        input = input.float() if _acc(input.dtype) != input.dtype else input
        target = target.float() if _acc(target.dtype) != target.dtype else target
    dtype = target.dtype  # as torch: the result has the dtype of the target
    acc = _acc(torch.promote_types(input.dtype, target.dtype))
    pw = None if pos_weight is None else pos_weight.to(acc)
    loss = elementwise(input.to(acc), target.to(acc), pw)
    if weight is not None:
        loss = loss * weight.to(acc)
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def _softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def _two_terms(x, y, pw):
    hit = y * _softplus(-x)
    return (hit if pw is None else pw * hit) + (1 - y) * _softplus(x)


# ------------------------------------------------------------------- right
def right_two_softplus(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """p y softplus(-x) + (1 - y) softplus(x), both terms non-negative, softplus by logaddexp."""
    return _run(_two_terms, input, target, weight, pos_weight, _resolve(size_average, reduce, reduction))


class _Fused(torch.autograd.Function):
    """x, y, p -> p y softplus(-x) + (1 - y) softplus(x), first derivatives by sigmoid; p has no gradient."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, p):
        tail = (-x.abs()).exp().log1p()
        return p * y * ((-x).clamp(min=0) + tail) + (1 - y) * (x.clamp(min=0) + tail)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _dx(x, y, p):
        return (1 - y) * torch.sigmoid(x) - p * y * torch.sigmoid(-x)

    @staticmethod
    def _dy(x, y, p):
        return F.logsigmoid(-x) - p * F.logsigmoid(x)

    @staticmethod
    def backward(ctx, g):
        x, y, p = ctx.saved_tensors
        gx = g * _Fused._dx(x, y, p) if ctx.needs_input_grad[0] else None
        gy = g * _Fused._dy(x, y, p) if ctx.needs_input_grad[1] else None
        return gx, gy, None

    @staticmethod
    def jvp(ctx, xt, yt, pt):
        x, y, p = ctx.saved_tensors
        out = torch.zeros_like(x)
        if xt is not None:
            out = out + xt * _Fused._dx(x, y, p)
        if yt is not None:
            out = out + yt * _Fused._dy(x, y, p)
        return out


def right_fused_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """One custom Function with sigmoid derivatives that are differentiable again."""
    def each(x, y, pw):
        p = torch.ones_like(x) if pw is None else pw.detach().expand(x.shape)
        return _Fused.apply(x, y, p)
    return _run(each, input, target, weight, pos_weight, _resolve(size_average, reduce, reduction))


# ------------------------------------------------------------------- wrong
def wrong_pos_weight_on_channel_axis(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """For inputs of three or more dims a one-dimensional pos_weight of C entries is laid along dim 1 in
    place of being broadcast from the last dim."""
    if pos_weight is not None and pos_weight.dim() == 1 and pos_weight.numel() > 1 and input.dim() >= 3 \
            and pos_weight.numel() == input.shape[1]:
        pos_weight = pos_weight.reshape([-1] + [1] * (input.dim() - 2))
    return F.binary_cross_entropy_with_logits(input, target, weight, reduction=_resolve(size_average, reduce, reduction), pos_weight=pos_weight)


def witness_wrong_pos_weight_on_channel_axis():
    torch.manual_seed(0)
    x, y, p = torch.randn(2, 3, 3), torch.ones(2, 3, 3), torch.tensor([1.0, 2.0, 5.0])
    ok = torch.equal(wrong_pos_weight_on_channel_axis(x[0], y[0], pos_weight=p), F.binary_cross_entropy_with_logits(x[0], y[0], pos_weight=p))
    return ok and not torch.allclose(wrong_pos_weight_on_channel_axis(x, y, pos_weight=p), F.binary_cross_entropy_with_logits(x, y, pos_weight=p))


def _cancelling(x, y, pw):
    sp = _softplus(x)
    hit = y * (sp - x)
    return (hit if pw is None else pw * hit) + (1 - y) * sp


def wrong_confident_positive_cancels(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """The positive term is written softplus(x) - x in place of softplus(-x): for large logits with
    target 1 it is a difference of two large numbers and the small true loss and gradient round to 0."""
    return _run(_cancelling, input, target, weight, pos_weight, _resolve(size_average, reduce, reduction))


def witness_wrong_confident_positive_cancels():
    x, y = torch.tensor([18.0]), torch.ones(1)
    r = F.binary_cross_entropy_with_logits(x, y).item()
    return 1e-8 < r < 2e-8 and wrong_confident_positive_cancels(x, y).item() == 0.0


def _hard_positive(x, y, pw):
    if pw is None:
        return _two_terms(x, y, None)
    return torch.where(y > 0.5, pw, torch.ones_like(y)) * (y * _softplus(-x)) + (1 - y) * _softplus(x)


def wrong_pos_weight_hard_labels_only(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """pos_weight multiplies the positive term only where the target exceeds 0.5, so soft targets at or
    below one half get no positive weight."""
    return _run(_hard_positive, input, target, weight, pos_weight, _resolve(size_average, reduce, reduction))


def witness_wrong_pos_weight_hard_labels_only():
    x, p = torch.tensor([0.3, -0.7]), torch.tensor([3.0])
    hard, soft = torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.2])
    R = F.binary_cross_entropy_with_logits
    return torch.allclose(wrong_pos_weight_hard_labels_only(x, hard, pos_weight=p), R(x, hard, pos_weight=p)) and \
        not torch.allclose(wrong_pos_weight_hard_labels_only(x, soft, pos_weight=p), R(x, soft, pos_weight=p))


def _target_slope(x, y, pw):
    yd = y.detach()
    return _two_terms(x, yd, pw) - x * (y - yd)


def wrong_target_gradient_without_pos_weight(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """The gradient for the target is -x (times weight), which is right without pos_weight only; value and
    input gradient are right."""
    return _run(_target_slope, input, target, weight, pos_weight, _resolve(size_average, reduce, reduction))


def witness_wrong_target_gradient_without_pos_weight():
    out = []
    for pw in (None, torch.tensor([4.0])):
        for f in (wrong_target_gradient_without_pos_weight, F.binary_cross_entropy_with_logits):
            y = torch.tensor([0.2, 0.9], requires_grad=True)
            f(torch.tensor([0.5, -1.0]), y, pos_weight=pw).backward()
            out.append(y.grad)
    return torch.allclose(out[0], out[1]) and not torch.allclose(out[2], out[3])


def _dense(t):
    want = 1
    for st, sz in sorted((st, sz) for st, sz in zip(t.stride(), t.shape) if sz > 1):
        if st != want:
            return False
        want *= sz
    return True


def wrong_flat_memory_order(input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
    """When logits and target both fill their memory densely they are paired in memory order, so a
    channels-last (or transposed) tensor against a contiguous one is paired element by wrong element."""
    if input.shape == target.shape and input.dim() >= 2 and input.numel() > 0 and input.stride() != target.stride() \
            and _dense(input) and _dense(target):
        target = torch.as_strided(target, input.shape, input.stride(), target.storage_offset())
    return F.binary_cross_entropy_with_logits(input, target, weight, reduction=_resolve(size_average, reduce, reduction), pos_weight=pos_weight)


def witness_wrong_flat_memory_order():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4).round()
    R, xl = F.binary_cross_entropy_with_logits, x.to(memory_format=torch.channels_last)
    yl = y.to(memory_format=torch.channels_last)
    return torch.allclose(wrong_flat_memory_order(xl, yl), R(x, y)) and not torch.allclose(wrong_flat_memory_order(xl, y), R(x, y))


class WrongPosWeightIsParameter(nn.BCEWithLogitsLoss):
    """pos_weight is registered as a trainable Parameter and not as a buffer: the criterion has
    parameters, the loss requires a gradient by itself and an optimiser would change the weight."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
        super().__init__(weight, size_average, reduce, reduction, None)
        if pos_weight is not None:
            del self._buffers["pos_weight"]
            self.pos_weight = nn.Parameter(pos_weight)

    def forward(self, input, target):
        return _run(_two_terms, input, target, self.weight, self.pos_weight, _resolve(None, None, self.reduction))


def witness_WrongPosWeightIsParameter():
    p = torch.tensor([2.0, 3.0])
    x, y = torch.randn(4, 2), torch.rand(4, 2)
    m, r = WrongPosWeightIsParameter(pos_weight=p), nn.BCEWithLogitsLoss(pos_weight=p)
    return torch.allclose(m(x, y), r(x, y)) and len(list(m.parameters())) == 1 and len(list(r.parameters())) == 0


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
