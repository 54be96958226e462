import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def _prepare(input, target, var, eps, reduction, *, negative_ok=False, unsqueeze=True):
    """torch's checks; returns var as a tensor that broadcasts against input."""
    if isinstance(var, float):
        if var < 0 and not negative_ok:
            raise ValueError("var has negative entry/entries")
        var = torch.full_like(input, var)
    elif not negative_ok and torch.any(var < 0):
        raise ValueError("var has negative entry/entries")
    if var.shape != input.shape:
        if unsqueeze and input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif not unsqueeze and input.shape[:-1] == var.shape and var.shape[-1:] == input.shape[-1:]:
            pass
        elif not unsqueeze and input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif input.dim() == var.dim() and sum(y for x, y in zip(input.shape, var.shape) if x != y) == 1:
            pass
        else:
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    return var


def _clamped(var, eps):
    """max(var, eps), the gradient passing straight through."""
    low = var < eps
    floor = var.detach().clamp(min=eps)
    return torch.where(low, var - var.detach() + floor, var)


def _finish(loss, full, reduction, dtype, const=0.5 * math.log(2 * math.pi)):
    if full:
        loss = loss + const
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def _out_dtype(input, target, var):
    dtype = torch.result_type(input, target)
    dtype = torch.promote_types(dtype, var.dtype) if var.dim() or not dtype.is_floating_point else dtype
    if input.device.type == "cuda" and torch.is_autocast_enabled("cuda") and dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return dtype


def _points(input, target, v):
    diff = input.double() - target.double()
    v = v.double()
    return 0.5 * (v.log() + diff * diff / v)


def wrong_constant_is_doubled(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """full=True adds log(2 pi) rather than half of it."""
    v = _clamped(_prepare(input, target, var, eps, reduction), eps)
    return _finish(_points(input, target, v), full, reduction, _out_dtype(input, target, v), math.log(2 * math.pi))


def witness_wrong_constant_is_doubled():
    x, t, v = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0])
    return not torch.allclose(wrong_constant_is_doubled(x, t, v, full=True), F.gaussian_nll_loss(x, t, v, full=True))


def wrong_var_is_a_std(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var is taken as a standard deviation and squared."""
    v = _clamped(_prepare(input, target, var, eps, reduction), eps)
    return _finish(_points(input, target, v.double() ** 2), full, reduction, _out_dtype(input, target, v))


def witness_wrong_var_is_a_std():
    x, t, v = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0])
    return not torch.allclose(wrong_var_is_a_std(x, t, v), F.gaussian_nll_loss(x, t, v), rtol=1e-3)


def wrong_clamp_stops_gradient(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var.clamp(min=eps) under autograd: no gradient reaches a var below eps, which then stays there (torch: unaffected)."""
    v = _prepare(input, target, var, eps, reduction).clamp(min=eps)
    return _finish(_points(input, target, v), full, reduction, _out_dtype(input, target, v))


def witness_wrong_clamp_stops_gradient():
    x, t = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])
    v = torch.tensor([1.0, 1e-8], requires_grad=True)
    a, b = (f(x, t, v) for f in (wrong_clamp_stops_gradient, F.gaussian_nll_loss))
    (g,), (h,) = torch.autograd.grad(a, v), torch.autograd.grad(b, v)
    return torch.allclose(a, b) and bool(g[1] == 0) and bool(h[1] != 0)


def wrong_eps_is_added(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """var + eps rather than max(var, eps): invisible for the default eps, wrong for a larger one."""
    v = _prepare(input, target, var, eps, reduction)
    return _finish(_points(input, target, v.double() + eps), full, reduction, _out_dtype(input, target, v))


def witness_wrong_eps_is_added():
    x, t, v = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0])
    f, g = wrong_eps_is_added, F.gaussian_nll_loss
    return torch.allclose(f(x, t, v), g(x, t, v)) and not torch.allclose(f(x, t, v, eps=0.1), g(x, t, v, eps=0.1), rtol=1e-3)


def wrong_square_input_broadcast(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A var with one dimension fewer is unsqueezed only where it would not broadcast anyway: wrong for square inputs (N, N)."""
    v = _clamped(_prepare(input, target, var, eps, reduction, unsqueeze=False), eps)
    return _finish(_points(input, target, v), full, reduction, _out_dtype(input, target, v))


def witness_wrong_square_input_broadcast():
    x, t, v = torch.arange(9.0).reshape(3, 3), torch.ones(3, 3), torch.tensor([1.0, 2.0, 3.0])
    f, g = wrong_square_input_broadcast, F.gaussian_nll_loss
    same = torch.allclose(f(x[:, :2], t[:, :2], v), g(x[:, :2], t[:, :2], v))
    return same and not torch.allclose(f(x, t, v), g(x, t, v), rtol=1e-3)


def wrong_negative_var_accepted(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A negative variance is clamped to eps without a word rather than raising ValueError."""
    v = _clamped(_prepare(input, target, var, eps, reduction, negative_ok=True), eps)
    return _finish(_points(input, target, v), full, reduction, _out_dtype(input, target, v))


def witness_wrong_negative_var_accepted():
    x, t, v = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, -2.0])
    try:
        F.gaussian_nll_loss(x, t, v)
        return False
    except ValueError:
        return bool(wrong_negative_var_accepted(x, t, v).isfinite())


class WrongClampsCallersVar(nn.GaussianNLLLoss):
    """Clamps the caller's var tensor in place: the model's own output is changed after the call."""

    def forward(self, input, target, var):
        if torch.is_tensor(var) and not torch.any(var < 0):
            with torch.no_grad():
                var.detach().clamp_(min=self.eps)
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


def witness_WrongClampsCallersVar():
    x, t = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])
    v, u = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])
    a, b = WrongClampsCallersVar()(x, t, v), nn.GaussianNLLLoss()(x, t, u)
    return torch.allclose(a, b) and bool(v[1] != 0) and bool(u[1] == 0)


class WrongEpsNotPassedOn(nn.GaussianNLLLoss):
    """The constructor stores eps but forward uses the default of 1e-6."""

    def forward(self, input, target, var):
        return F.gaussian_nll_loss(input, target, var, full=self.full, reduction=self.reduction)


def witness_WrongEpsNotPassedOn():
    x, t, v = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.01])
    return not torch.allclose(WrongEpsNotPassedOn(eps=0.5)(x, t, v), nn.GaussianNLLLoss(eps=0.5)(x, t, v), rtol=1e-3)


def right_float64_formula(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The formula in float64, the clamp as a where whose gradient passes straight through, cast back at the end."""
    v = _clamped(_prepare(input, target, var, eps, reduction), eps)
    return _finish(_points(input, target, v), full, reduction, _out_dtype(input, target, v))


class _ClampStraight(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(v, eps):
        return v.clamp(min=eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g, None

    @staticmethod
    def jvp(ctx, gv, _):
        return gv.clone()


class RightStandardScore(nn.GaussianNLLLoss):
    """Half the squared standard score z = (x - t) / sqrt(var) plus log of the deviation, straight-through clamp as an autograd.Function."""

    def forward(self, input, target, var):
        v = _prepare(input, target, var, self.eps, self.reduction)
        dtype = _out_dtype(input, target, v)
        work = torch.promote_types(dtype, torch.float32)
        with torch.autocast(input.device.type, enabled=False):
            sd = _ClampStraight.apply(v, self.eps).to(work).sqrt()
            z = (input.to(work) - target.to(work)) / sd
            loss = torch.addcmul(sd.log(), z, z, value=0.5)
            if self.full:
                loss = loss + 0.5 * math.log(2 * math.pi)
            if self.reduction == "sum":
                loss = loss.sum()
            elif self.reduction == "mean":
                loss = loss.sum() / torch.full((), float(loss.numel()), dtype=work, device=loss.device)
            return loss.to(dtype)
