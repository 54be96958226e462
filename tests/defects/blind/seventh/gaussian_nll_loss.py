import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn


def _legacy(size_average, reduce, reduction):
    if size_average is None and reduce is None:
        return reduction
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = ("mean" if size_average else "sum") if reduce else "none"
    warnings.warn(
        "size_average and reduce args will be deprecated, please use "
        f"reduction='{name}' instead.",
        stacklevel=3,
    )
    return name


def _expand(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to "
            "broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _mode(reduction):
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _same_size(weight, input):
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")


def _wide(t):
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _var(input, var):
    """The documented checks of var; a variance that broadcasts against input."""
    if isinstance(var, (float, int)):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        return torch.full_like(input, var) if input.is_floating_point() else torch.full(
            input.shape, float(var), device=input.device
        )
    if bool((var < 0).any()):
        raise ValueError("var has negative entry/entries")
    if var.size() == input.size():
        return var
    if var.size() == input.size()[:-1]:
        return var.unsqueeze(-1)
    if var.dim() == input.dim():
        odd = [v for i, v in zip(input.size(), var.size()) if i != v]
        if sum(odd) == 1:
            return var
    raise ValueError("var is of incorrect size")


def _known(reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")


def _floor(var, eps):
    """max(var, eps) with the gradient of var passed through."""
    return torch.where(var < eps, eps + (var - var.detach()), var)


def _reduce(e, reduction):
    return e if reduction == "none" else e.sum() if reduction == "sum" else e.mean()


# ----------------------------------------------------------------- wrong


def wrong_var_is_std(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Takes var for the standard deviation in the quadratic term (divides by var squared); shows for variances other than 1."""
    v = _var(input, var)
    _known(reduction)
    v = _floor(v, eps)
    e = 0.5 * (v.log() + ((input - target) / v) ** 2)
    if full:
        e = e + 0.5 * math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_var_is_std():
    a, t, v = torch.zeros(3), torch.ones(3), torch.full((3,), 2.0)
    return not torch.allclose(wrong_var_is_std(a, t, v), F.gaussian_nll_loss(a, t, v))


def wrong_clamp_stops_gradient(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var is clamped under autograd, so a variance below eps gets gradient 0; the documentation says that the gradients are unaffected by the clamp."""
    v = _var(input, var)
    _known(reduction)
    v = v.clamp(min=eps)
    e = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        e = e + 0.5 * math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_clamp_stops_gradient():
    v = torch.tensor([1e-9, 1.0], requires_grad=True)
    (g,) = torch.autograd.grad(wrong_clamp_stops_gradient(torch.zeros(2), torch.ones(2), v), v)
    (r,) = torch.autograd.grad(F.gaussian_nll_loss(torch.zeros(2), torch.ones(2), v), v)
    return not torch.allclose(g, r)


def wrong_full_constant(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """full=True adds log(2 pi) instead of half of it (the constant stands outside the bracket with the 1/2)."""
    v = _var(input, var)
    _known(reduction)
    v = _floor(v, eps)
    e = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        e = e + math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_full_constant():
    a, t, v = torch.zeros(3), torch.ones(3), torch.full((3,), 2.0)
    return not torch.allclose(wrong_full_constant(a, t, v, full=True), F.gaussian_nll_loss(a, t, v, full=True))


def wrong_short_var_axis(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A var with one dimension fewer than input gets its new axis only where plain broadcasting fails, so for square trailing sizes, input (N, N) and var (N,), the variances go to the columns instead of the rows."""
    v = _var(input, var)
    _known(reduction)
    if not isinstance(var, (float, int)) and var.dim() == input.dim() - 1 and var.dim() > 0:
        if all(a == b or a == 1 for a, b in zip(var.shape, input.shape[1:])):
            v = var.unsqueeze(0)
    v = _floor(v, eps)
    e = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        e = e + 0.5 * math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_short_var_axis():
    a, t, v = torch.zeros(3, 3), torch.arange(9.0).view(3, 3), torch.tensor([1.0, 2.0, 3.0])
    return not torch.allclose(wrong_short_var_axis(a, t, v), F.gaussian_nll_loss(a, t, v))


def wrong_negative_tensor_accepted(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The refusal of negative variances looks only at the mean of the tensor, so one negative entry among positive ones is clamped silently."""
    if isinstance(var, torch.Tensor) and var.numel() and var.is_floating_point():
        if var.detach().mean() < 0:
            raise ValueError("var has negative entry/entries")
        v = _var(input, torch.where(var < 0, var - var.detach(), var))
    else:
        v = _var(input, var)
    _known(reduction)
    v = _floor(v, eps)
    e = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        e = e + 0.5 * math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_negative_tensor_accepted():
    try:
        wrong_negative_tensor_accepted(torch.zeros(3), torch.ones(3), torch.tensor([-0.1, 1.0, 1.0]))
    except ValueError:
        return False
    return True


def wrong_clamps_caller_var(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The clamp works in place on the caller's var without a clone (where var is no autograd intermediate), so variances below eps are changed in the caller's tensor."""
    v = _var(input, var)
    _known(reduction)
    if v.requires_grad:
        v = _floor(v, eps)
    else:
        v.clamp_(min=eps)
    e = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        e = e + 0.5 * math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_clamps_caller_var():
    v = torch.tensor([0.0, 1.0])
    wrong_clamps_caller_var(torch.zeros(2), torch.ones(2), v)
    return bool(v[0] != 0)


def wrong_log_var_counted_once(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Under 'sum' and 'mean' log(var) is summed over var's own entries and not over the entries of the output, so a shared variance (N, 1) or (N,) is counted once instead of once per element."""
    v = _var(input, var)
    _known(reduction)
    v = _floor(v, eps)
    q = (input - target) ** 2 / v
    c = 0.5 * math.log(2 * math.pi) if full else 0.0
    if reduction == "none":
        return 0.5 * (v.log() + q) + c
    logs = v.log()
    if v.dim() == input.dim() and input.shape == v.shape:
        logs = logs.expand_as(q)
    n = q.numel()
    if reduction == "mean":
        return _reduce(0.5 * q, "mean") + 0.5 * logs.sum() / (n if n else float("nan")) + c
    return 0.5 * logs.sum() + 0.5 * q.sum() + c * n


def witness_wrong_log_var_counted_once():
    a, t, v = torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([[2.0], [3.0]])
    return not torch.allclose(wrong_log_var_counted_once(a, t, v), F.gaussian_nll_loss(a, t, v))


def wrong_scalar_var_dtype(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A float var becomes a float32 tensor whatever the input's dtype: float16 inputs give a float32 loss and float64 inputs use a variance rounded to float32."""
    if isinstance(var, (float, int)):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        v = torch.full(input.shape, float(var), dtype=torch.float32, device=input.device)
    else:
        v = _var(input, var)
    _known(reduction)
    v = _floor(v, eps)
    e = 0.5 * (v.log() + (input - target) ** 2 / v)
    if full:
        e = e + 0.5 * math.log(2 * math.pi)
    return _reduce(e, reduction)


def witness_wrong_scalar_var_dtype():
    a, t = torch.zeros(2).half(), torch.ones(2).half()
    return wrong_scalar_var_dtype(a, t, 0.5).dtype != F.gaussian_nll_loss(a, t, 0.5).dtype


class WrongCachedVariance(nn.Module):
    """The tensor made from a float var is kept and reused as long as the input's shape, dtype and device stay the same, so a second call with another float var uses the first one's."""

    def __init__(self, *, full=False, eps=1e-6, reduction="mean"):
        super().__init__()
        self.full = full
        self.eps = eps
        self.reduction = reduction
        self._cache = {}

    def forward(self, input, target, var):
        if isinstance(var, float):
            if var < 0:
                raise ValueError("var has negative entry/entries")
            key = (tuple(input.shape), input.dtype, input.device)
            if key not in self._cache:
                self._cache[key] = torch.full_like(input, var, requires_grad=False)
            var = self._cache[key]
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


def witness_WrongCachedVariance():
    m = WrongCachedVariance()
    a, t = torch.zeros(2), torch.ones(2)
    m(a, t, 1.0)
    return not torch.allclose(m(a, t, 4.0), F.gaussian_nll_loss(a, t, 4.0))


# ----------------------------------------------------------------- right


def right_precision(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Multiplies by the reciprocal of the floored variance."""
    v = _var(input, var)
    _known(reduction)
    d = input - target
    out = torch.result_type(d, v)
    # the reciprocal of a small variance does not fit in float16
    d, v = _wide(d), _floor(_wide(v), eps)
    e = torch.log(v).add(d.mul(d).mul(v.reciprocal())).mul(0.5)
    if full:
        e = e + math.log(2 * math.pi) / 2
    e = _reduce(e, reduction)
    return e.to(out) if out in (torch.float16, torch.bfloat16) else e


class _Gauss(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, v, eps, const):
        v = v.clamp(min=eps)
        return 0.5 * ((x - t).square() / v + v.log()) + const

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.eps = inputs[3]

    @staticmethod
    def backward(ctx, g):
        x, t, v = ctx.saved_tensors
        v = _floor(v, ctx.eps)
        z = (x - t) / v
        gx = g * z
        gv = 0.5 * g * (1 / v - z * z) if ctx.needs_input_grad[2] else None
        return gx, -gx, gv, None, None


def right_own_function(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Hand-written backward for input, target and var on tensors expanded beforehand."""
    v = _var(input, var)
    _known(reduction)
    x, t, v = torch.broadcast_tensors(input, target, v)
    dt = torch.promote_types(torch.promote_types(x.dtype, t.dtype), v.dtype)
    if not dt.is_floating_point:
        dt = torch.get_default_dtype()
    const = 0.5 * math.log(2 * math.pi) if full else 0.0
    e = _Gauss.apply(_wide(x.to(dt)), _wide(t.to(dt)), _wide(v.to(dt)), eps, const)
    return _reduce(e, reduction).to(dt)


def right_standard_score(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Half the squared standard score plus the log of the standard deviation; float32 inside for the low precisions."""
    v = _var(input, var)
    _known(reduction)
    out = torch.result_type(input - target, v)
    if not out.is_floating_point:
        out = torch.get_default_dtype()
    v = _floor(_wide(v), eps)
    s = v.sqrt()
    z = (_wide(input) - _wide(target)) / s
    e = 0.5 * z * z + 0.5 * v.log()
    if full:
        e = e + 0.9189385332046727
    return _reduce(e, reduction).to(out)


class RightGaussianNLLLoss(nn.Module):
    """Module: the terms are reduced separately over the common shape and put together afterwards."""

    __constants__ = ["full", "eps", "reduction"]

    def __init__(self, *, full=False, eps=1e-6, reduction="mean"):
        super().__init__()
        self.full = full
        self.eps = eps
        self.reduction = reduction

    def forward(self, input, target, var):
        v = _var(input, var)
        _known(self.reduction)
        v = _floor(v, self.eps)
        d = input - target
        q = d * d / v
        logs = v.log().expand_as(q)
        const = 0.5 * math.log(2 * math.pi) if self.full else 0.0
        if self.reduction == "none":
            return 0.5 * q + 0.5 * logs + const
        if self.reduction == "sum":
            w = 0.5 * _wide(q).sum() + 0.5 * _wide(logs).sum() + const * q.numel()
        else:
            w = 0.5 * _wide(q).mean() + 0.5 * _wide(logs).mean() + const
        return w.to(q.dtype)
