import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce):
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = "none" if not reduce else ("mean" if size_average else "sum")
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{name}' instead.",
        stacklevel=4,
    )
    return name


def _resolve(size_average, reduce, reduction, extra=()):
    if size_average is not None or reduce is not None:
        return _legacy(size_average, reduce)
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum") + tuple(extra):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _quiet(fn, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **kwargs)


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def _kl_resolve(size_average, reduce, reduction):
    if size_average is None and reduce is None and reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=3,
        )
    return _resolve(size_average, reduce, reduction, ("batchmean",))


def _kl_check(input, target):
    for t in (input, target):
        if not (t.is_floating_point() or t.is_complex()):
            raise RuntimeError("kl_div: Integral inputs not supported.")


def _kl_point(input, target, log_target):
    if log_target:
        return target.exp() * (target - input)
    return torch.xlogy(target, target) - target * input


def _kl_reduce(loss, input, reduction):
    if reduction == "batchmean":
        total = loss.sum()
        return total / input.size(0) if input.dim() else total
    return _reduce(loss, reduction)


def _sample(n=4, c=5, seed=0, dtype=torch.float32):
    g = _gen(seed)
    x = torch.randn(n, c, generator=g, dtype=dtype).log_softmax(-1)
    t = torch.randn(n, c, generator=g, dtype=dtype).softmax(-1)
    return x, t


# ---------------------------------------------------------------- wrong


def wrong_mean_per_batch(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """reduction='mean' divides by the batch size instead of the number of elements; shows for any input with more than one column."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    loss = _kl_point(input, target, log_target)
    if red == "mean":
        red = "batchmean"
    return _kl_reduce(loss, input, red)


def witness_wrong_mean_per_batch():
    x, t = _sample()
    return not torch.allclose(_quiet(wrong_mean_per_batch, x, t), _quiet(F.kl_div, x, t))


def wrong_none_forgets_log_target(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """The unreduced path forgets log_target and reads the target as probabilities; shows with reduction='none' and log_target=True."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    if red == "none":
        return torch.xlogy(target, target) - target * input
    return _kl_reduce(_kl_point(input, target, log_target), input, red)


def witness_wrong_none_forgets_log_target():
    x, t = _sample()
    a = wrong_none_forgets_log_target(x, t.log(), reduction="none", log_target=True)
    return not torch.allclose(a, F.kl_div(x, t.log(), reduction="none", log_target=True))


class _KLMissingOne(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, log_target):
        return _kl_point(x, t, log_target)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, ctx.log_target = inputs
        ctx.save_for_backward(x, t)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        if ctx.log_target:
            return -g * t.exp(), g * t.exp() * (t - x + 1), None
        return -g * t, g * (t.log() - x), None


def wrong_target_gradient(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """The hand-written backward gives log(t) - x for the target, without the + 1 from d(t log t)/dt; shows only in the gradient of a plain (not log) target."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    ct = torch.promote_types(input.dtype, target.dtype)
    x, t = torch.broadcast_tensors(input.to(ct), target.to(ct))
    return _kl_reduce(_KLMissingOne.apply(x, t, log_target), input, red)


def witness_wrong_target_gradient():
    x, t = _sample()
    t.requires_grad_()
    (a,) = torch.autograd.grad(wrong_target_gradient(x, t, reduction="sum"), t)
    (b,) = torch.autograd.grad(F.kl_div(x, t, reduction="sum"), t)
    return not torch.allclose(a, b)


def wrong_batchmean_counts_rows(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """'batchmean' divides by the number of distributions (numel / last size) instead of input.size(0); shows only for inputs that are not 2-D, as (N, T, V)."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    loss = _kl_point(input, target, log_target)
    if red == "batchmean" and input.dim() > 1:
        return loss.sum() / math.prod(input.shape[:-1])
    return _kl_reduce(loss, input, red)


def witness_wrong_batchmean_counts_rows():
    g = _gen()
    x = torch.randn(2, 3, 4, generator=g).log_softmax(-1)
    t = torch.randn(2, 3, 4, generator=g).softmax(-1)
    a = wrong_batchmean_counts_rows(x, t, reduction="batchmean")
    return not torch.allclose(a, F.kl_div(x, t, reduction="batchmean"))


def wrong_log_target_by_exp(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """A log target is turned into probabilities at the door and its log is taken again; where exp(target) underflows (below about -104 in float32) the gradient of the target is NaN instead of 0."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    if log_target:
        target = target.exp()
    return _kl_reduce(torch.xlogy(target, target) - target * input, input, red)


def witness_wrong_log_target_by_exp():
    x = torch.tensor([[-1.0, -2.0]])
    t = torch.tensor([[0.0, -120.0]], requires_grad=True)
    (a,) = torch.autograd.grad(wrong_log_target_by_exp(x, t, reduction="sum", log_target=True), t)
    (b,) = torch.autograd.grad(F.kl_div(x, t, reduction="sum", log_target=True), t)
    return bool(b.isfinite().all()) and not bool(a.isfinite().all())


def wrong_eps_inside_log(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """log(target + 1e-7) guards against log(0); every element is off by about 1e-7, which float64 (and gradcheck) can see but float32 tests cannot."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    if log_target:
        loss = target.exp() * (target - input)
    else:
        loss = target * (torch.log(target + 1e-7) - input)
    return _kl_reduce(loss, input, red)


def witness_wrong_eps_inside_log():
    x, t = _sample(dtype=torch.float64)
    a = wrong_eps_inside_log(x, t, reduction="none")
    b = F.kl_div(x, t, reduction="none")
    return bool((a - b).abs().max() > 1e-8)


def wrong_reuses_target_buffer(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """To save a buffer the log-target path writes target - input into the caller's target when no gradient is needed; shows in the target after a call with log_target=True."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    free = not (input.requires_grad or target.requires_grad)
    if log_target and free and input.shape == target.shape and input.dtype == target.dtype:
        p = target.exp()
        loss = p.mul_(target.sub_(input))
    else:
        loss = _kl_point(input, target, log_target)
    return _kl_reduce(loss, input, red)


def witness_wrong_reuses_target_buffer():
    x, t = _sample()
    lt = t.log()
    before = lt.clone()
    wrong_reuses_target_buffer(x, lt, reduction="batchmean", log_target=True)
    return not torch.equal(lt, before)


# ---------------------------------------------------------------- right


def right_negative_entropy(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Cross entropy minus entropy, with torch.special.entr for the entropy."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    ct = torch.promote_types(input.dtype, target.dtype)
    input, target = input.to(_wide(ct)), target.to(_wide(ct))
    if log_target:
        p = target.exp()
        loss = p * target - p * input
    else:
        loss = -(target * input) - torch.special.entr(target)
        loss = loss + torch.zeros_like(target).masked_fill(target < 0, float("nan"))
    if red == "none":
        return loss.to(ct)
    acc = loss.sum()
    if red == "mean":
        acc = acc / loss.numel() if loss.numel() else acc * float("nan")
    elif red == "batchmean" and input.dim() > 0:
        acc = acc / input.size(0)
    return acc.to(ct)


class _KL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, log_target):
        w = _wide(x.dtype)
        xw, tw = x.to(w), t.to(w)
        if log_target:
            out = torch.exp(tw).mul(tw - xw)
        else:
            lg = torch.where(tw == 0, torch.zeros_like(tw), tw.log())
            out = tw * (lg - xw)
        return out.to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, ctx.log_target = inputs
        ctx.save_for_backward(x, t)

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        w = _wide(x.dtype)
        xw, tw, gw = x.to(w), t.to(w), g.to(w)
        gx = gt = None
        if ctx.log_target:
            p = tw.exp()
            if ctx.needs_input_grad[0]:
                gx = -(gw * p)
            if ctx.needs_input_grad[1]:
                gt = gw * p * (tw - xw + 1)
        else:
            if ctx.needs_input_grad[0]:
                gx = -(gw * tw)
            if ctx.needs_input_grad[1]:
                gt = gw * (tw.log() - xw + 1)
        return (None if gx is None else gx.to(x.dtype), None if gt is None else gt.to(t.dtype), None)


def right_function(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Own autograd.Function, float32 inside for the half types."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    ct = torch.promote_types(input.dtype, target.dtype)
    x, t = torch.broadcast_tensors(input.to(ct), target.to(ct))
    return _kl_reduce(_KL.apply(x, t, bool(log_target)), input, red)


def right_chunked(input, target, size_average=None, reduce=None, reduction="mean", log_target=False, _chunk=7):
    """Flat chunks, summed in float64 one after another."""
    red = _kl_resolve(size_average, reduce, reduction)
    _kl_check(input, target)
    ct = torch.promote_types(input.dtype, target.dtype)
    x, t = torch.broadcast_tensors(input, target)
    shape = x.shape
    x, t = x.reshape(-1).to(_wide(ct)), t.reshape(-1).to(_wide(ct))
    step = max(_chunk, -(-x.numel() // 8))
    parts = []
    for a, b in zip(x.split(step), t.split(step)):
        parts.append(b.exp() * (b - a) if log_target else torch.xlogy(b, b).addcmul(b, a, value=-1))
    if red == "none":
        return torch.cat(parts).reshape(shape).to(ct)
    total = sum(p.sum(dtype=torch.float64) for p in parts)
    if red == "mean":
        total = total / x.numel() if x.numel() else total * float("nan")
    elif red == "batchmean" and input.dim() > 0:
        n = input.size(0)
        total = total / n if n else total * float("nan")
    return total.to(ct)


class RightKLDivLoss(nn.Module):
    """A module that masks the zero targets and reduces dimension by dimension."""

    __constants__ = ["reduction", "log_target"]

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _legacy(size_average, reduce)
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input, target):
        red = _kl_resolve(None, None, self.reduction)
        _kl_check(input, target)
        if self.log_target:
            loss = (target - input) * torch.exp(target)
        else:
            cross = target * input
            loss = torch.where(target == 0, -cross, target * target.log() - cross)
        if red == "none":
            return loss
        out = loss.to(_wide(loss.dtype))
        while out.dim() > 1:
            out = out.sum(-1)
        out = out.sum()
        if red == "mean":
            out = out / loss.numel() if loss.numel() else out / 0
        elif red == "batchmean" and input.dim() > 0:
            out = out / input.shape[0]
        return out.to(loss.dtype)
