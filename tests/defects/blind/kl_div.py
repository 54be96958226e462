"""Wrong and right implementations of kl_div, written without sight of the suite."""

import warnings

import torch
from torch.nn import functional as F
from torch.nn.functional import _Reduction


def _red(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if reduction not in ("none", "mean", "sum", "batchmean"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, input, reduction):
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    s = loss.sum()
    if reduction == "batchmean" and input.dim():
        s = s / input.shape[0]
    return s


def _point(input, target, log_target):
    if log_target:
        return target.exp() * (target - input)
    return torch.xlogy(target, target) - target * input


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        return torch.xlogy(t, t) - t * x

    @staticmethod
    def backward(ctx, go):
        x, t = ctx.saved_tensors
        return -go * t, go * (t.log() - x)


def wrong_target_gradient_without_one(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """Analytic backward: the derivative of t log t is taken as log t, the +1 is lost. Only the target's gradient."""
    reduction = _red(size_average, reduce, reduction)
    if log_target:
        return _finish(_point(input, target, True), input, reduction)
    a, b = torch.broadcast_tensors(input, target)
    return _finish(_Fused.apply(a, b), input, reduction)


def witness_wrong_target_gradient_without_one():
    torch.manual_seed(0)
    x = torch.randn(3, 4).log_softmax(1)
    t = torch.randn(3, 4).softmax(1).requires_grad_()
    a, b = (
        torch.autograd.grad(f(x, t, reduction="sum"), t)[0]
        for f in (wrong_target_gradient_without_one, F.kl_div)
    )
    return not torch.allclose(a, b)


def wrong_eps_vanishes_in_half(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """log(target + 1e-10) keeps one-hot targets finite in float32 and float64 (and within rounding of the truth);
    in float16 the 1e-10 is zero, and 0 * log(0) is NaN.
    """
    reduction = _red(size_average, reduce, reduction)
    if log_target:
        return _finish(_point(input, target, True), input, reduction)
    tiny = 1e-10 if target.dtype != torch.float64 else 1e-300
    return _finish(target * ((target + tiny).log() - input), input, reduction)


def witness_wrong_eps_vanishes_in_half():
    x = torch.randn(2, 3).log_softmax(1).half()
    t = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]).half()
    return bool(wrong_eps_vanishes_in_half(x, t, reduction="sum").isnan()) and bool(
        F.kl_div(x, t, reduction="sum").isfinite()
    )


def wrong_vector_is_one_sample(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """Batchmean of a 1-D input does not divide by its size (a vector is taken as one unbatched distribution)."""
    reduction = _red(size_average, reduce, reduction)
    if reduction == "batchmean" and input.dim() == 1:
        reduction = "sum"
    return _finish(_point(input, target, log_target), input, reduction)


def witness_wrong_vector_is_one_sample():
    x, t = torch.randn(5).log_softmax(0), torch.randn(5).softmax(0)
    return not torch.allclose(
        wrong_vector_is_one_sample(x, t, reduction="batchmean"),
        F.kl_div(x, t, reduction="batchmean"),
    )


def wrong_target_renormalised(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """The target is normalised along the last dimension "to be safe": wrong for distributions along another
    dimension (N, C, L), for targets that are no distribution, and for the target's gradient.
    """
    reduction = _red(size_average, reduce, reduction)
    if target.dim():
        if log_target:
            target = target - target.logsumexp(-1, keepdim=True)
        else:
            s = target.sum(-1, keepdim=True)
            target = target / torch.where(s == 0, torch.ones_like(s), s)
    return _finish(_point(input, target, log_target), input, reduction)


def witness_wrong_target_renormalised():
    x, t = torch.randn(2, 3, 4).log_softmax(1), torch.randn(2, 3, 4).softmax(1)
    return not torch.allclose(
        wrong_target_renormalised(x, t, reduction="sum"), F.kl_div(x, t, reduction="sum")
    )


def wrong_default_dtype_stays_after_error(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """The default dtype is float64 during the computation, and put back without try/finally: after a call that raises
    (shape mismatch, bad reduction) every new tensor of the process is float64.
    """
    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    reduction = _red(size_average, reduce, reduction)
    out = _finish(_point(input, target, log_target), input, reduction)
    torch.set_default_dtype(old)
    return out


def witness_wrong_default_dtype_stays_after_error():
    old = torch.get_default_dtype()
    try:
        try:
            wrong_default_dtype_stays_after_error(torch.zeros(2, 3), torch.ones(4, 5))
        except RuntimeError:
            pass
        return torch.get_default_dtype() != old
    finally:
        torch.set_default_dtype(old)


def wrong_target_clamped_in_place(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """Zeros of a target that does not require grad are lifted to the smallest normal number in place: the value is
    right, the caller's one-hot target no longer holds zeros.
    """
    reduction = _red(size_average, reduce, reduction)
    if log_target:
        return _finish(_point(input, target, True), input, reduction)
    tiny = torch.finfo(target.dtype).tiny
    t = target.clamp(min=tiny) if target.requires_grad else target.clamp_(min=tiny)
    return _finish(t * (t.log() - input), input, reduction)


def witness_wrong_target_clamped_in_place():
    t = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keep = t.clone()
    wrong_target_clamped_in_place(torch.randn(2, 2).log_softmax(1), t, reduction="sum")
    return not torch.equal(t, keep)


def wrong_warning_filter_left_behind(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """To be rid of kl_div's advice about 'mean', the process's UserWarnings are switched off for good."""
    warnings.filterwarnings("ignore", category=UserWarning)
    return F.kl_div(input, target, size_average, reduce, reduction, log_target)


def witness_wrong_warning_filter_left_behind():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        wrong_warning_filter_left_behind(torch.zeros(2, 2), torch.ones(2, 2), reduction="sum")
        warnings.warn("the user's own", UserWarning)
    return len(seen) == 0


class WrongBatchSizeOfFirstCall(torch.nn.Module):
    """'batchmean' divides by the batch size seen at the first call: the smaller last batch of an epoch is off."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False):
        super().__init__()
        self.reduction = _red(size_average, reduce, reduction)
        self.log_target = log_target
        self._scale = None

    def forward(self, input, target):
        if self.reduction != "batchmean" or not input.dim():
            return _finish(_point(input, target, self.log_target), input, self.reduction)
        if self._scale is None:
            self._scale = 1.0 / input.shape[0]
        return _point(input, target, self.log_target).sum() * self._scale


def witness_WrongBatchSizeOfFirstCall():
    m = WrongBatchSizeOfFirstCall(reduction="batchmean")
    x, t = torch.randn(4, 3).log_softmax(1), torch.randn(4, 3).softmax(1)
    m(x, t)
    return not torch.allclose(m(x[:2], t[:2]), F.kl_div(x[:2], t[:2], reduction="batchmean"))


# ---------------------------------------------------------------- right


class _RightKL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, log_target):
        return t.exp() * (t - x) if log_target else torch.xlogy(t, t) - t * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, ctx.log_target = inputs
        ctx.save_for_backward(x, t)
        ctx.save_for_forward(x, t)

    @staticmethod
    def backward(ctx, go):
        x, t = ctx.saved_tensors
        gx = gt = None
        if ctx.log_target:
            e = t.exp()
            if ctx.needs_input_grad[0]:
                gx = -go * e
            if ctx.needs_input_grad[1]:
                gt = go * e * (t - x + 1)
        else:
            if ctx.needs_input_grad[0]:
                gx = -go * t
            if ctx.needs_input_grad[1]:
                gt = go * (t.log() + 1 - x)
        return gx, gt, None

    @staticmethod
    def jvp(ctx, dx, dt, _):
        x, t = ctx.saved_tensors
        out = 0
        if dx is not None:
            out = out - dx * (t.exp() if ctx.log_target else t)
        if dt is not None:
            out = out + dt * (t.exp() * (t - x + 1) if ctx.log_target else t.log() + 1 - x)
        return out


def right_analytic(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """Own Function with the analytic derivatives in both arguments."""
    reduction = _red(size_average, reduce, reduction)
    dt = torch.promote_types(input.dtype, target.dtype)
    a, b = torch.broadcast_tensors(input.to(dt), target.to(dt))
    if torch.compiler.is_compiling():  # a Function with a jvp of its own is not traced
        return _finish(_point(a, b, log_target), input, reduction)
    return _finish(_RightKL.apply(a, b, bool(log_target)), input, reduction)


def right_entropy_and_cross_terms(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False
):
    """Negative entropy and cross term in float64, the entropy by torch.special.entr."""
    reduction = _red(size_average, reduce, reduction)
    dt = torch.promote_types(input.dtype, target.dtype)
    x, t = input.double(), target.double()
    if log_target:
        loss = torch.einsum("...,...->...", t.exp(), t - x)
    else:
        loss = -torch.special.entr(t) - t * x
    return _finish(loss, input, reduction).to(dt)
