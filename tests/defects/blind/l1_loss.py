"""Wrong and right implementations of l1_loss, written without sight of the suite."""

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


def _check_weight(input, weight):
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _finish(loss, input, weight, reduction):
    _check_weight(input, weight)
    if weight is None:
        return _reduce(loss, reduction)
    loss = loss * weight
    if reduction == "mean":
        return loss.sum() / weight.sum()
    return _reduce(loss, reduction)


class _AbsNoConj(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        return d.abs()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved_tensors
        return g * d.sgn().conj()

    @staticmethod
    def jvp(ctx, t):
        (d,) = ctx.saved_tensors
        r = d.sgn().conj() * t
        return r.real if r.is_complex() else r


def wrong_complex_grad_conjugated(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """The analytic backward gives the conjugate of torch's gradient for complex inputs."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    d = x - t
    loss = d.abs() if torch.compiler.is_compiling() else _AbsNoConj.apply(d)
    return _finish(loss, input, weight, reduction)


def witness_wrong_complex_grad_conjugated():
    x = torch.tensor([1 + 2j, -0.5 + 1j], requires_grad=True)
    t = torch.zeros(2, dtype=x.dtype)
    a = torch.autograd.grad(wrong_complex_grad_conjugated(x, t), x)[0]
    b = torch.autograd.grad(F.l1_loss(x, t), x)[0]
    return not torch.allclose(a, b)


def wrong_root_of_square(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """|d| as sqrt(d * d): the gradient is NaN where prediction equals target."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    d = x - t
    loss = d.abs() if d.is_complex() else torch.sqrt(d * d)
    return _finish(loss, input, weight, reduction)


def witness_wrong_root_of_square():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    g = torch.autograd.grad(wrong_root_of_square(x, torch.tensor([1.0, 0.0])), x)[0]
    return bool(g.isnan().any())


def wrong_half_sum_then_divide(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """The mean is sum / numel in the input's own dtype: a float16 batch overflows to inf."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    loss = (x - t).abs()
    if weight is None and reduction == "mean":
        return loss.sum() / loss.numel()
    return _finish(loss, input, weight, reduction)


def witness_wrong_half_sum_then_divide():
    x = torch.full((1000,), 100.0, dtype=torch.half)
    t = torch.zeros_like(x)
    return bool(wrong_half_sum_then_divide(x, t).isinf()) and bool(F.l1_loss(x, t) == 100)


def wrong_weight_sum_at_least_one(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Guards the division by sum(weight) with clamp(min=1), as for 0/1 masks."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    loss = (x - t).abs()
    if weight is not None and reduction == "mean":
        _check_weight(input, weight)
        return (loss * weight).sum() / weight.sum().clamp(min=1.0)
    return _finish(loss, input, weight, reduction)


def witness_wrong_weight_sum_at_least_one():
    x, t, w = torch.tensor([1.0, 3.0]), torch.zeros(2), torch.tensor([0.1, 0.2])
    return not torch.allclose(
        wrong_weight_sum_at_least_one(x, t, weight=w), F.l1_loss(x, t, weight=w)
    )


def wrong_weight_normalised_in_place(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """For 'mean' the caller's weight tensor itself is normalised (when it needs no gradient)."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    loss = (x - t).abs()
    if weight is not None and reduction == "mean" and weight.numel() and not weight.requires_grad:
        _check_weight(input, weight)
        if not weight.is_floating_point():
            weight = weight.to(loss.dtype)
        weight /= weight.sum()
        return (loss * weight).sum()
    return _finish(loss, input, weight, reduction)


def witness_wrong_weight_normalised_in_place():
    x, t, w = torch.tensor([1.0, 3.0]), torch.zeros(2), torch.tensor([1.0, 2.0])
    wrong_weight_normalised_in_place(x, t, weight=w)
    return not torch.equal(w, torch.tensor([1.0, 2.0]))


def wrong_grad_mode_left_off(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Validates with grad mode off and does not restore it when the validation raises."""
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    reduction = _mode(size_average, reduce, reduction)
    _check_weight(input, weight)
    torch.set_grad_enabled(before)
    x, t = _pair(input, target)
    return _finish((x - t).abs(), input, weight, reduction)


def witness_wrong_grad_mode_left_off():
    try:
        wrong_grad_mode_left_off(torch.ones(2), torch.ones(2), reduction="batchmean")
    except ValueError:
        pass
    left_off = not torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    return left_off


class WrongKeepsGraphL1Loss(_Loss):
    """Remembers its last loss for logging, with the graph: memory of the step stays alive."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.last = None

    def forward(self, input, target):
        self.last = F.l1_loss(input, target, reduction=self.reduction)
        return self.last


def witness_WrongKeepsGraphL1Loss():
    import gc
    import weakref

    class Probe:
        pass

    def alive(module):
        probe = Probe()
        ref = weakref.ref(probe)
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        y.grad_fn.metadata["probe"] = probe
        module(y, torch.zeros(3)).backward()
        del x, y, probe
        gc.collect()
        return ref() is not None

    return alive(WrongKeepsGraphL1Loss()) and not alive(torch.nn.L1Loss())


class _Abs(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d):
        return d.abs()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved_tensors
        return g * d.sgn()

    @staticmethod
    def jvp(ctx, t):
        (d,) = ctx.saved_tensors
        r = d.sgn().conj() * t
        return r.real if r.is_complex() else r


def right_analytic_backward(
    input, target, size_average=None, reduce=None, reduction="mean", weight=None
):
    """Own autograd function with sgn as the gradient (complex included)."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    d = x - t
    loss = d.abs() if torch.compiler.is_compiling() else _Abs.apply(d)  # dynamo takes no custom jvp
    return _finish(loss, input, weight, reduction)


def right_by_maximum(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """|d| is max(d, -d); a tie splits the gradient evenly, which gives zero."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = _pair(input, target)
    d = x - t
    loss = d.abs() if d.is_complex() else torch.maximum(d, -d)
    return _finish(loss, input, weight, reduction)
