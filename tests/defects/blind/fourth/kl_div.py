import warnings
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Red

_MEAN_WARNING = (
    "reduction: 'mean' divides the total loss by both the batch size and the support size."
    "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
    "'mean' will be changed to behave the same as 'batchmean' in the next major release.")


def _mode(size_average, reduce, reduction):
    """torch's handling of the reduction: returns (none|mean|sum, divide by batch)."""
    if size_average is not None or reduce is not None:
        return _Red.legacy_get_string(size_average, reduce), reduction == "batchmean"
    if reduction == "mean" and not torch.compiler.is_compiling():
        warnings.warn(_MEAN_WARNING, stacklevel=3)
    if reduction == "batchmean":
        return "sum", True
    _Red.get_enum(reduction)
    return reduction, False


def _terms(input, target, log_target):
    if log_target:
        return target.exp() * (target - input)
    return torch.xlogy(target, target) - target * input


def _reduce(terms, mode, batch, input):
    out = terms if mode == "none" else terms.mean() if mode == "mean" else terms.sum()
    return out / input.shape[0] if batch and input.dim() else out


# ------------------------------------------------------------------ wrong
class WrongBatchOfTarget(nn.Module):
    """'batchmean' divides by target.size(0) instead of input.size(0), which differs when the target broadcasts."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False):
        super().__init__()
        self.reduction = (_Red.legacy_get_string(size_average, reduce)
                          if size_average is not None or reduce is not None else reduction)
        self.log_target = log_target

    def forward(self, input, target):
        if self.reduction != "batchmean" or target.dim() == 0 or input.dim() == 0:
            return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)
        return F.kl_div(input, target, reduction="sum", log_target=self.log_target) / target.size(0)


def witness_WrongBatchOfTarget():
    torch.manual_seed(0)
    x, t = torch.randn(4, 3).log_softmax(1), torch.rand(1, 3).softmax(1)
    return not torch.allclose(WrongBatchOfTarget(reduction="batchmean")(x, t), F.kl_div(x, t, reduction="batchmean"))


class _KLConstTarget(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, log_target):
        ctx.save_for_backward(t)
        ctx.log_target, ctx.shape = log_target, x.shape
        return _terms(x, t, log_target)

    @staticmethod
    def backward(ctx, g):
        t, = ctx.saved_tensors
        return (-g * (t.exp() if ctx.log_target else t)).sum_to_size(ctx.shape), None, None


def wrong_target_constant(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """The custom backward treats the target as a constant, so no gradient flows into it."""
    mode, batch = _mode(size_average, reduce, reduction)
    if not (input.is_floating_point() and input.dtype == target.dtype) or torch._C._are_functorch_transforms_active():
        return _reduce(_terms(input, target, log_target), mode, batch, input)
    return _reduce(_KLConstTarget.apply(input, target, log_target), mode, batch, input)


def witness_wrong_target_constant():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3).log_softmax(1), torch.rand(2, 3).requires_grad_()
    out = wrong_target_constant(x, t, reduction="sum")
    if not out.requires_grad:
        return True
    return torch.autograd.grad(out, t, allow_unused=True)[0] is None


def wrong_half_total(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """The total is rounded to the input's half dtype before the division, so mean and batchmean overflow to inf in float16."""
    mode, batch = _mode(size_average, reduce, reduction)
    if input.dtype != torch.float16 or target.dtype != torch.float16 or mode == "none":
        return _reduce(_terms(input, target, log_target), mode, batch, input)
    terms = _terms(input.float(), target.float(), log_target)
    out = terms.sum().to(input.dtype)
    if mode == "mean":
        out = out / terms.numel()
    return out / input.shape[0] if batch and input.dim() else out


def witness_wrong_half_total():
    x = torch.full((2048, 4), -20.0, dtype=torch.float16)
    t = torch.ones(2048, 4, dtype=torch.float16)
    return (bool(wrong_half_total(x, t, reduction="batchmean").isinf())
            and abs(float(F.kl_div(x.float(), t.float(), reduction="batchmean")) - 80) < 1e-3)


class WrongPositiveOnly(nn.Module):
    """The zero entries of the target are dropped by a boolean index, so 'mean' divides by the positive entries only."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False):
        super().__init__()
        self.reduction = (_Red.legacy_get_string(size_average, reduce)
                          if size_average is not None or reduce is not None else reduction)
        self.log_target = log_target

    def forward(self, input, target):
        if self.log_target or self.reduction == "none" or input.shape != target.shape or input.dim() == 0:
            return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)
        mode, batch = _mode(None, None, self.reduction)
        pos = target != 0
        t, x = target[pos], input[pos]
        if t.numel() == 0 and target.numel() > 0:
            return input.sum() * 0.0
        return _reduce(t * (t.log() - x), mode, batch, input)


def witness_WrongPositiveOnly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, t = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]])
        return not torch.allclose(WrongPositiveOnly()(x, t), F.kl_div(x, t))


def wrong_no_vmap(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """A shortcut for targets without zeros branches on the tensor's values, so torch.vmap and export of the loss fail."""
    mode, batch = _mode(size_average, reduce, reduction)
    if not log_target and target.is_floating_point() and bool((target > 0).all()):
        return _reduce(target * (target.log() - input), mode, batch, input)
    return _reduce(_terms(input, target, log_target), mode, batch, input)


def witness_wrong_no_vmap():
    x, t = torch.rand(3, 4).log_softmax(1), torch.rand(3, 4).softmax(1)
    torch.vmap(lambda a, b: F.kl_div(a, b, reduction="sum"))(x, t)
    try:
        torch.vmap(lambda a, b: wrong_no_vmap(a, b, reduction="sum"))(x, t)
    except RuntimeError:
        return True
    return False


# ------------------------------------------------------------------ right
def right_entropy(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """Written as negative entropy (torch.special.entr) minus the cross term, in at least float32, with the mean as sum over count."""
    mode, batch = _mode(size_average, reduce, reduction)
    if not input.is_floating_point():
        return _reduce(_terms(input, target, log_target), mode, batch, input)
    dtype = input.dtype if input.dtype == target.dtype else torch.result_type(input, target)
    acc = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    x, t = input.to(acc), target.to(acc)
    if log_target:
        terms = t.exp() * (t - x)
    else:
        terms = torch.where(t < 0, float("nan"), -torch.special.entr(t)) - t * x
    if mode == "none":
        out = terms
    elif mode == "sum":
        out = terms.sum()
    else:
        out = terms.sum() / terms.numel() if terms.numel() else terms.sum() * float("nan")
    if batch and input.dim():
        out = out / input.shape[0] if input.shape[0] else out * float("nan")
    return out.to(dtype)
