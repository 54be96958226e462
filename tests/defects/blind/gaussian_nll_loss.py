"""Wrong and right implementations of gaussian_nll_loss, written without sight of the suite."""


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


import math


def _layout(input, var):
    if var.size() != input.size():
        if input.size()[:-1] == var.size():
            return var.unsqueeze(-1)
        differing = [v for i, v in zip(input.size(), var.size()) if i != v]
        if input.dim() != var.dim() or sum(differing) != 1:
            raise ValueError("var is of incorrect size")
    return var


def _variance(input, var):
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        return torch.full_like(input, var)
    if torch.any(var < 0):
        raise ValueError("var has negative entry/entries")
    return _layout(input, var)


def _floor(var, eps):
    var = var.clone()
    with torch.no_grad():
        var.clamp_(min=eps)
    return var


def _nll(input, target, var, full):
    loss = 0.5 * (torch.log(var) + (input - target) ** 2 / var)
    return loss + 0.5 * math.log(2 * math.pi) if full else loss


def wrong_row_variance_on_square_input(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Only unsqueezes var where plain broadcasting fails: on a square input var (N,) runs along the last dimension."""
    reduction = _mode(None, None, reduction)
    if not isinstance(var, float) and var.dim() == input.dim() - 1 and var.dim() > 0:
        if torch.any(var < 0):
            raise ValueError("var has negative entry/entries")
        if var.size() != input.size()[:-1]:
            raise ValueError("var is of incorrect size")
        try:
            var = var.expand(input.size())
        except RuntimeError:
            var = var.unsqueeze(-1)
    else:
        var = _variance(input, var)
    return _reduce(_nll(input, target, _floor(var, eps), full), reduction)


def witness_wrong_row_variance_on_square_input():
    x, t, v = torch.zeros(3, 3), torch.arange(9.0).view(3, 3), torch.tensor([1.0, 2.0, 3.0])
    return not torch.allclose(
        wrong_row_variance_on_square_input(x, t, v), F.gaussian_nll_loss(x, t, v)
    )


def wrong_clamps_callers_variance(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Clamps var in place without a clone: the caller's tensor is changed."""
    reduction = _mode(None, None, reduction)
    var = _variance(input, var)
    with torch.no_grad():
        var.clamp_(min=eps)
    return _reduce(_nll(input, target, var, full), reduction)


def witness_wrong_clamps_callers_variance():
    v = torch.tensor([0.0, 1.0])
    wrong_clamps_callers_variance(torch.zeros(2), torch.ones(2), v)
    return bool(v[0] != 0)


def wrong_clamp_stops_gradient(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The clamp takes part in autograd: no gradient for variances under eps."""
    reduction = _mode(None, None, reduction)
    var = _variance(input, var).clamp(min=eps)
    return _reduce(_nll(input, target, var, full), reduction)


def witness_wrong_clamp_stops_gradient():
    v = torch.tensor([0.01, 1.0], requires_grad=True)
    x, t = torch.zeros(2), torch.ones(2)
    a = torch.autograd.grad(wrong_clamp_stops_gradient(x, t, v, eps=0.1), v)[0]
    return not torch.allclose(a, torch.autograd.grad(F.gaussian_nll_loss(x, t, v, eps=0.1), v)[0])


def wrong_constant_added_once(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The constant is added after the reduction: with 'sum' it counts once instead of N times."""
    reduction = _mode(None, None, reduction)
    var = _floor(_variance(input, var), eps)
    loss = _reduce(_nll(input, target, var, False), reduction)
    return loss + 0.5 * math.log(2 * math.pi) if full else loss


def witness_wrong_constant_added_once():
    x, t, v = torch.zeros(3), torch.ones(3), torch.ones(3)
    kw = dict(full=True, reduction="sum")
    return not torch.allclose(
        wrong_constant_added_once(x, t, v, **kw), F.gaussian_nll_loss(x, t, v, **kw)
    )


def wrong_scalar_variance_in_single(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """A Python float variance goes through a float32 tensor: 1e-8 relative error for float64 inputs."""
    reduction = _mode(None, None, reduction)
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = (
            torch.tensor(var, dtype=torch.float32, device=input.device)
            .to(input.dtype)
            .expand(input.shape)
        )
    else:
        var = _variance(input, var)
    return _reduce(_nll(input, target, _floor(var, eps), full), reduction)


def witness_wrong_scalar_variance_in_single():
    x, t = torch.zeros(2, dtype=torch.double), torch.ones(2, dtype=torch.double)
    a, b = wrong_scalar_variance_in_single(x, t, 0.1), F.gaussian_nll_loss(x, t, 0.1)
    return not torch.allclose(a, b, rtol=1e-10, atol=0)


def wrong_raises_only_if_all_negative(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Raises only if every entry of var is negative."""
    reduction = _mode(None, None, reduction)
    if isinstance(var, float):
        var = _variance(input, var)
    else:
        if var.numel() and torch.all(var < 0):
            raise ValueError("var has negative entry/entries")
        var = _layout(input, var)
    return _reduce(_nll(input, target, _floor(var, eps), full), reduction)


def witness_wrong_raises_only_if_all_negative():
    x, v = torch.zeros(2), torch.tensor([-1.0, 1.0])
    wrong_raises_only_if_all_negative(x, x, v)
    try:
        F.gaussian_nll_loss(x, x, v)
    except ValueError:
        return True
    return False


def wrong_log1p_of_small_variance(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """log(var) as log1p(var - 1): exact near 1, but a small variance drowns in the subtraction."""
    reduction = _mode(None, None, reduction)
    var = _floor(_variance(input, var), eps)
    loss = 0.5 * (torch.log1p(var - 1) + (input - target) ** 2 / var)
    return _reduce(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def witness_wrong_log1p_of_small_variance():
    x, v = torch.zeros(2), torch.tensor([1.2e-6, 1.7e-6])
    return not torch.allclose(
        wrong_log1p_of_small_variance(x, x, v), F.gaussian_nll_loss(x, x, v), rtol=1e-4
    )


def wrong_only_last_dimension_may_be_one(
    input, target, var, full=False, eps=1e-6, reduction="mean"
):
    """Rejects a var whose dimension of size 1 isn't the last, such as (N, 1, H, W)."""
    reduction = _mode(None, None, reduction)
    if (
        not isinstance(var, float)
        and var.dim() == input.dim()
        and var.size()[:-1] != input.size()[:-1]
    ):
        raise ValueError("var is of incorrect size")
    return _reduce(_nll(input, target, _floor(_variance(input, var), eps), full), reduction)


def witness_wrong_only_last_dimension_may_be_one():
    x, v = torch.zeros(2, 3, 4), torch.ones(2, 1, 4)
    F.gaussian_nll_loss(x, x, v)
    try:
        wrong_only_last_dimension_may_be_one(x, x, v)
    except ValueError:
        return True
    return False


def wrong_mean_over_target_size(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """The mean divides by the number of targets: wrong when the target is broadcast."""
    reduction = _mode(None, None, reduction)
    loss = _nll(input, target, _floor(_variance(input, var), eps), full)
    if reduction == "mean" and target.numel():
        return loss.sum() / target.numel()
    return _reduce(loss, reduction)


def witness_wrong_mean_over_target_size():
    x, t, v = torch.ones(2, 3), torch.zeros(2, 1), torch.ones(2, 3)
    return not torch.allclose(wrong_mean_over_target_size(x, t, v), F.gaussian_nll_loss(x, t, v))


class WrongLayoutRememberedGaussianNLLLoss(_Loss):
    """Decides on the first call whether var lacks a dimension, and keeps that for all later calls."""

    def __init__(self, *, full=False, eps=1e-6, reduction="mean"):
        super().__init__(None, None, reduction)
        self.full = full
        self.eps = eps
        self._unsqueeze = None

    def forward(self, input, target, var):
        if isinstance(var, torch.Tensor):
            if self._unsqueeze is None:
                self._unsqueeze = var.dim() == input.dim() - 1
            if self._unsqueeze:
                var = var.unsqueeze(-1)
        return F.gaussian_nll_loss(
            input, target, var, full=self.full, eps=self.eps, reduction=self.reduction
        )


def witness_WrongLayoutRememberedGaussianNLLLoss():
    m = WrongLayoutRememberedGaussianNLLLoss()
    x = torch.zeros(2, 3)
    m(x, x, torch.ones(2))
    try:
        return not torch.allclose(m(x, x, torch.ones(2, 3)), torch.zeros(()))
    except ValueError:
        return True


class _Floor(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(var, eps):
        return var.clamp(min=eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g, None

    @staticmethod
    def jvp(ctx, t, _):
        return t.clone()


def right_standardised(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Half the square of the standardised residual plus the log of the scale; the clamp passes gradients."""
    reduction = _mode(None, None, reduction)
    var = _Floor.apply(_variance(input, var), eps)
    scale = var.sqrt()
    loss = torch.log(scale) + 0.5 * ((input - target) / scale) ** 2
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduce(loss, reduction)


def right_in_double(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """With the precision 1 / var, in float64; the constant inside the logarithm."""
    reduction = _mode(None, None, reduction)
    var = _variance(input, var)
    dtype = torch.promote_types(torch.promote_types(input.dtype, target.dtype), var.dtype)
    v = _Floor.apply(var.double(), eps)
    d = input.double() - target.double()
    loss = 0.5 * (torch.log(v * (2 * math.pi) if full else v) + d * d * v.reciprocal())
    return _reduce(loss, reduction).to(dtype)
