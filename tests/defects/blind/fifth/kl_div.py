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


_MEAN_WARNING = (
    "reduction: 'mean' divides the total loss by both the batch size and the support size."
    "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
    "'mean' will be changed to behave the same as 'batchmean' in the next major release."
)
_KINDS = ("none", "mean", "sum", "batchmean")


def _kind(size_average, reduce, reduction):
    red = _reduction(size_average, reduce, reduction, _KINDS)
    if size_average is None and reduce is None and reduction == "mean":
        warnings.warn(_MEAN_WARNING, stacklevel=3)
    return red


def _reduce(loss, input, red):
    if red == "mean":
        return loss.mean()
    if red == "none":
        return loss
    total = loss.sum()
    if red == "batchmean" and input.dim() != 0:
        n = input.shape[0]
        total = total / n if n else total * float("nan")
    return total


def _torch(input, target, red, log_target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return F.kl_div(input, target, reduction=red, log_target=log_target)


# ---------------------------------------------------------------- wrong


def _example():
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=g).log_softmax(1), torch.randn(3, 4, generator=g).softmax(1)


def wrong_batchmean_divides_by_rows(input, target, size_average=None, reduce=None, reduction="mean",
                                    log_target=False):
    """'batchmean' divides by the number of distributions (all dimensions but the last) instead of by input.size(0); shows for inputs of three or more dimensions (and 1-D ones)."""
    red = _kind(size_average, reduce, reduction)
    if red == "batchmean" and input.dim() and input.shape[-1] and input.numel():
        return _torch(input, target, "sum", log_target) / (input.numel() // input.shape[-1])
    return _torch(input, target, red, log_target)


def witness_wrong_batchmean_divides_by_rows():
    lp, p = _example()
    lp, p = lp.expand(2, 3, 4), p.expand(2, 3, 4)
    return not torch.allclose(wrong_batchmean_divides_by_rows(lp, p, reduction="batchmean"),
                              F.kl_div(lp, p, reduction="batchmean"))


def wrong_mean_is_batchmean(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """'mean' divides by the batch size only, as 'batchmean'; shows for every input with more than one element per sample."""
    red = _kind(size_average, reduce, reduction)
    return _torch(input, target, "batchmean" if red == "mean" else red, log_target)


def witness_wrong_mean_is_batchmean():
    lp, p = _example()
    return not torch.allclose(wrong_mean_is_batchmean(lp, p), _torch(lp, p, "mean", False))


def wrong_eps_in_log(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Computes target * (log(target + 1e-6) - input) to avoid log(0); shows for small positive targets (1e-6 and below, summed over many classes) and in float64 comparisons, random softmax targets stay within about 1e-6."""
    red = _kind(size_average, reduce, reduction)
    plain = _torch(input, target, "none", log_target)
    if log_target or target.dtype in (torch.float16, torch.bfloat16):
        return _torch(input, target, red, log_target)
    loss = target * ((target + 1e-6).log() - input)
    return _reduce(loss.to(plain.dtype), input, red)


def witness_wrong_eps_in_log():
    p = torch.full((1, 100), 1e-7, dtype=torch.float64)
    p[0, 0] = 1 - 99e-7
    lp = torch.full((1, 100), 0.01, dtype=torch.float64).log()
    a = wrong_eps_in_log(lp, p, reduction="none")
    return not torch.allclose(a, F.kl_div(lp, p, reduction="none"), rtol=1e-2, atol=1e-9)


def wrong_log_target_detached(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """With log_target=True exp(target) is treated as a constant, the gradient of target misses a term; shows when target requires grad (self-distillation, mutual learning)."""
    red = _kind(size_average, reduce, reduction)
    ref = _torch(input, target, red, log_target)
    if not log_target or not target.requires_grad or target.dtype in (torch.float16, torch.bfloat16):
        return ref
    return _reduce(target.detach().exp() * (target - input), input, red)


def witness_wrong_log_target_detached():
    lp, p = _example()
    t = p.log().requires_grad_()
    a, = torch.autograd.grad(wrong_log_target_detached(lp, t, reduction="sum", log_target=True), t)
    b, = torch.autograd.grad(F.kl_div(lp, t, reduction="sum", log_target=True), t)
    return not torch.allclose(a, b, rtol=1e-2)


def wrong_reverse_direction(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """For log_target=True computes exp(input) * (input - target), the divergence in the other direction; shows for log targets."""
    red = _kind(size_average, reduce, reduction)
    if log_target and input.shape == target.shape:
        return _torch(target, input, red, True)
    return _torch(input, target, red, log_target)


def witness_wrong_reverse_direction():
    lp, p = _example()
    return not torch.allclose(wrong_reverse_direction(lp, p.log(), reduction="batchmean", log_target=True),
                              F.kl_div(lp, p.log(), reduction="batchmean", log_target=True), rtol=1e-2)


def wrong_renormalises_target(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Divides target by its sum over the last dimension first; shows for targets that do not sum to one there (masked targets, distributions along another axis, weighted rows)."""
    red = _kind(size_average, reduce, reduction)
    if not log_target and target.dim() and target.is_floating_point():
        target = target / target.sum(-1, keepdim=True)
    return _torch(input, target, red, log_target)


def witness_wrong_renormalises_target():
    lp, p = _example()
    return not torch.allclose(wrong_renormalises_target(lp, p * 0.5, reduction="sum"),
                              F.kl_div(lp, p * 0.5, reduction="sum"), rtol=1e-2)


def wrong_half_mean_overflows(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """'mean' is the sum, rounded to the dtype of the input, divided by the number of elements; shows in float16 as inf when the sum exceeds 65504 although the mean is small."""
    red = _kind(size_average, reduce, reduction)
    if red == "mean" and input.numel():
        none = _torch(input, target, "none", log_target)
        return none.sum() / none.numel()
    return _torch(input, target, red, log_target)


def witness_wrong_half_mean_overflows():
    lp = torch.full((64, 64), -30.0, dtype=torch.float16)
    t = torch.full((64, 64), 1.0, dtype=torch.float16)
    a, b = wrong_half_mean_overflows(lp, t), _torch(lp, t, "mean", False)
    return bool(torch.isinf(a)) and bool(torch.isfinite(b))


# ---------------------------------------------------------------- right


def _setup(input, target):
    for x in (input, target):
        if x.is_complex():
            raise RuntimeError("kl_div: Complex inputs not supported.")
    for x in (input, target):
        if not x.is_floating_point():
            raise RuntimeError("kl_div: Integral inputs not supported.")
    out = torch.promote_types(input.dtype, target.dtype)
    work = torch.float32 if out in (torch.float16, torch.bfloat16) else out
    return out, input.to(work), target.to(work)


def right_where(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Own pointwise formula with a where for zero targets, float32 inside for half precision."""
    red = _kind(size_average, reduce, reduction)
    out, x, t = _setup(input, target)
    if log_target:
        loss = t.exp() * (t - x)
    else:
        loss = torch.where(t == 0, torch.zeros_like(t), t * t.log()) - t * x
    return _reduce(loss, input, red).to(out)


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, log_target):
        ctx.save_for_backward(x, t)
        ctx.log_target = log_target
        if log_target:
            return t.exp() * (t - x)
        return torch.xlogy(t, t) - t * x

    @staticmethod
    def backward(ctx, g):
        x, t = ctx.saved_tensors
        if ctx.log_target:
            e = t.exp()
            return -e * g, e * (t - x + 1) * g, None
        gt = None
        if ctx.needs_input_grad[1]:
            gt = torch.where(t == 0, torch.full_like(t, float("nan")), t.log() + 1 - x) * g
        return -t * g, gt, None


def right_own_backward(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Own autograd.Function for both kinds of target."""
    red = _kind(size_average, reduce, reduction)
    out, x, t = _setup(input, target)
    x, t = torch.broadcast_tensors(x, t)
    return _reduce(_KL.apply(x, t, log_target), input, red).to(out)
