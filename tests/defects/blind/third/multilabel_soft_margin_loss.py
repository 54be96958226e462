"""Wrong and right forms of torch.nn.functional.multilabel_soft_margin_loss / torch.nn.MultiLabelSoftMarginLoss."""
import copy
import pickle

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R


# ----------------------------------------------------------------- helpers
def _resolve(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    return reduction


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _run(elementwise, input, target, weight, reduction, over_classes=None):
    if input.dim() < 1:
        raise IndexError("Dimension specified as -1 but tensor has no dimensions")
    if target.shape != input.shape:
        raise ValueError(f"target {tuple(target.shape)} must have the shape of the input {tuple(input.shape)}")
    if not input.is_floating_point() or target.dtype == torch.bool:
        raise RuntimeError(f"unsupported dtypes {input.dtype}, {target.dtype}")
    dtype = torch.result_type(input, target)
    if weight is not None:
        if torch.broadcast_shapes(weight.shape, input.shape) != input.shape:
            raise RuntimeError(f"weight {tuple(weight.shape)} does not fit the input {tuple(input.shape)}")
        dtype = torch.promote_types(dtype, weight.dtype)
    acc = _acc(dtype)
    loss = elementwise(input.to(acc), target)
    if weight is not None:
        loss = loss * weight.to(acc)
    loss = loss.sum(-1) / input.shape[-1] if over_classes is None else over_classes(loss)
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def _softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def _two_terms(x, y):
    y = y.to(x.dtype)
    return y * _softplus(-x) + (1 - y) * _softplus(x)


# ------------------------------------------------------------------- right
def right_two_softplus(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """y softplus(-x) + (1 - y) softplus(x), averaged over the last dim, float32 inside for half types."""
    return _run(_two_terms, input, target, weight, _resolve(size_average, reduce, reduction))


class _Sigmoidal(torch.autograd.Function):
    """Value by log1p(exp(-|x|)); slope sigmoid(x) - y from the saved input, differentiable again."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return (1 - y) * x.clamp(min=0) + y * (-x).clamp(min=0) + (-x.abs()).exp().log1p()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _dx(x, y):
        return (1 - y) * torch.sigmoid(x) - y * torch.sigmoid(-x)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return (g * _Sigmoidal._dx(x, y) if ctx.needs_input_grad[0] else None,
                -g * x if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx, xt, yt):
        x, y = ctx.saved_tensors
        out = torch.zeros_like(x)
        if xt is not None:
            out = out + xt * _Sigmoidal._dx(x, y)
        if yt is not None:
            out = out - yt * x
        return out


def right_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A custom Function for the elements, then weight and means by plain operations."""
    return _run(lambda x, y: _Sigmoidal.apply(x, y.to(x.dtype)), input, target, weight, _resolve(size_average, reduce, reduction))


# ------------------------------------------------------------------- wrong
def _eps_log(x, y):
    y = y.to(x.dtype)
    return -(y * (torch.sigmoid(x) + 1e-8).log() + (1 - y) * (torch.sigmoid(-x) + 1e-8).log())


def wrong_log_of_sigmoid_plus_eps(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The logarithm is taken of sigmoid(x) + 1e-8: a badly wrong score's loss levels off at 18.4 and its
    gradient vanishes."""
    return _run(_eps_log, input, target, weight, _resolve(size_average, reduce, reduction))


def witness_wrong_log_of_sigmoid_plus_eps():
    torch.manual_seed(0)
    x, y = torch.randn(3, 4), torch.rand(3, 4).round()
    ok = torch.allclose(wrong_log_of_sigmoid_plus_eps(x, y), F.multilabel_soft_margin_loss(x, y))
    far, one = torch.tensor([[-40.0]]), torch.ones(1, 1)
    return ok and abs(wrong_log_of_sigmoid_plus_eps(far, one).item() - 18.4) < 0.1 and F.multilabel_soft_margin_loss(far, one).item() == 40.0


def wrong_zero_weight_classes_uncounted(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The sum over classes is divided by the number of classes with a weight other than 0, and not by C."""
    reduction = _resolve(size_average, reduce, reduction)
    over = None
    if weight is not None and weight.dim() >= 1 and weight.shape[-1] == input.shape[-1]:
        count = (weight != 0).sum(-1).clamp(min=1)

        def over(loss):
            return loss.sum(-1) / count.to(loss.dtype)
    return _run(_two_terms, input, target, weight, reduction, over)


def witness_wrong_zero_weight_classes_uncounted():
    torch.manual_seed(0)
    x, y = torch.randn(3, 4), torch.rand(3, 4).round()
    a, b = torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    f, r = wrong_zero_weight_classes_uncounted, F.multilabel_soft_margin_loss
    return torch.allclose(f(x, y, a), r(x, y, a)) and not torch.allclose(f(x, y, b), r(x, y, b))


class _OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return _Sigmoidal.forward(x, y)

    @staticmethod
    def backward(ctx, g):
        return _Sigmoidal.backward(ctx, g)


def wrong_no_function_transforms(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The elements go through an old-style autograd.Function without setup_context or vmap rule, so
    torch.func.grad and torch.func.vmap raise a RuntimeError."""
    return _run(lambda x, y: _OldStyle.apply(x, y.to(x.dtype)), input, target, weight, _resolve(size_average, reduce, reduction))


def witness_wrong_no_function_transforms():
    x, y = torch.randn(3, 4), torch.rand(3, 4).round()
    ok = torch.allclose(wrong_no_function_transforms(x, y), F.multilabel_soft_margin_loss(x, y))
    torch.func.grad(lambda a: F.multilabel_soft_margin_loss(a, y))(x)
    try:
        torch.func.grad(lambda a: wrong_no_function_transforms(a, y))(x)
        return False
    except RuntimeError:
        return ok


def _signed(x, y):
    if y.is_floating_point():
        return _two_terms(x, y)
    sign = 2 * y - 1  # in the target's own integer dtype
    return _softplus(-sign * x)


def wrong_uint8_sign(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """For integer targets the sign 2 y - 1 is computed in the target's dtype; in uint8 a 0 gives 255 and
    not -1."""
    return _run(_signed, input, target, weight, _resolve(size_average, reduce, reduction))


def witness_wrong_uint8_sign():
    x, y = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[1, 0, 0]])
    f, r = wrong_uint8_sign, F.multilabel_soft_margin_loss
    return torch.allclose(f(x, y), r(x, y)) and not torch.allclose(f(x, y.byte()), r(x, y.byte()))


class WrongUnpicklable(nn.MultiLabelSoftMarginLoss):
    """The module keeps its forward kernel as a local lambda, so pickle and torch.save of the criterion
    fail."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, reduce, reduction)
        self._kernel = lambda x, y, w, r: F.multilabel_soft_margin_loss(x, y, weight=w, reduction=r)

    def forward(self, input, target):
        return self._kernel(input, target, self.weight, self.reduction)


def witness_WrongUnpicklable():
    m = WrongUnpicklable()
    x, y = torch.randn(3, 4), torch.rand(3, 4).round()
    ok = torch.equal(m(x, y), nn.MultiLabelSoftMarginLoss()(x, y)) and torch.equal(copy.deepcopy(m)(x, y), m(x, y))
    pickle.dumps(nn.MultiLabelSoftMarginLoss())
    try:
        pickle.dumps(m)
        return False
    except (AttributeError, pickle.PicklingError, TypeError):
        return ok


class _ConstantSigmoid(_Sigmoidal):
    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        slope = _Sigmoidal._dx(x.detach(), y)
        return (g * (slope + 0 * x) if ctx.needs_input_grad[0] else None,
                -g * x if ctx.needs_input_grad[1] else None)


def wrong_second_derivative_zero(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The backward uses a stored sigmoid that is a constant for autograd: the first derivative is right
    and the second with respect to the input is silently 0."""
    return _run(lambda x, y: _ConstantSigmoid.apply(x, y.to(x.dtype)), input, target, weight, _resolve(size_average, reduce, reduction))


def witness_wrong_second_derivative_zero():
    res = []
    for f in (wrong_second_derivative_zero, F.multilabel_soft_margin_loss):
        x = torch.tensor([[0.3, -0.4]], requires_grad=True)
        g, = torch.autograd.grad(f(x, torch.tensor([[1.0, 0.0]])), x, create_graph=True)
        h, = torch.autograd.grad(g.sum(), x)
        res.append((g.detach(), h))
    return torch.allclose(res[0][0], res[1][0]) and bool((res[0][1] == 0).all()) and bool((res[1][1] > 0.05).all())


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
