"""Wrong and right implementations of multilabel_soft_margin_loss, written without sight of the suite."""

import torch
from torch.nn import _reduction as _Reduction
from torch.nn import functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _terms(input, target):
    return -(target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))


def wrong_probabilities_then_bce(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """sigmoid, then binary_cross_entropy: in float32 1 - sigmoid(x) is 0 above x = 17, and the term
    of a negative is the clamp's 100 instead of x, with a wild gradient.
    """
    mode = _mode(size_average, reduce, reduction)
    loss = F.binary_cross_entropy(torch.sigmoid(input), target.to(input.dtype), reduction="none")
    if weight is not None:
        loss = loss * weight
    return _finish(loss.mean(-1), mode)


def witness_wrong_probabilities_then_bce():
    x, y = torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    ok = torch.allclose(wrong_probabilities_then_bce(x, y), F.multilabel_soft_margin_loss(x, y))
    x = x * 8
    return (
        ok
        and abs(wrong_probabilities_then_bce(x, y) - F.multilabel_soft_margin_loss(x, y)).item() > 1
    )


class _GradScaledInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight):
        w = torch.ones((), dtype=input.dtype, device=input.device) if weight is None else weight
        ctx.grad = (torch.sigmoid(input) - target) * w / input.size(-1)
        return (_terms(input, target) * w).mean(-1)

    @staticmethod
    def backward(ctx, g):
        return ctx.grad.mul_(g.unsqueeze(-1)), None, None


def wrong_second_backward_scaled(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """The gradient made in the forward is scaled in place by the incoming one: a second backward
    with retain_graph=True starts from the already scaled gradient (and the first result changes).
    """
    mode = _mode(size_average, reduce, reduction)
    return _finish(_GradScaledInPlace.apply(input, target, weight), mode)


def witness_wrong_second_backward_scaled():
    x = torch.tensor([[3.0, -2.0], [0.5, 1.0]], requires_grad=True)
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    loss = wrong_second_backward_scaled(x, y)
    a = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    b = torch.autograd.grad(loss, x)[0]
    r = torch.autograd.grad(F.multilabel_soft_margin_loss(x, y), x)[0]
    return torch.allclose(a, r) and not torch.allclose(b, r)


class _ConstantSigmoid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, target):
        return _terms(input, target)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, target = inputs
        ctx.save_for_backward(input, target)
        ctx.save_for_forward(input, target)

    @staticmethod
    def jvp(ctx, d, _):
        input, target = ctx.saved_tensors
        return d * (torch.sigmoid(input) - target)

    @staticmethod
    def backward(ctx, g):
        input, target = ctx.saved_tensors
        with torch.no_grad():
            delta = torch.sigmoid(input) - target
        return g * delta, None


def wrong_silent_second_derivative(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """sigmoid(x) - y is recomputed under no_grad, a constant: gradient penalties and Hessian products see a
    second derivative of 0, without any error.
    """
    mode = _mode(size_average, reduce, reduction)
    loss = _ConstantSigmoid.apply(input, target)
    if weight is not None:
        loss = loss * weight
    return _finish(loss.mean(-1), mode)


def witness_wrong_silent_second_derivative():
    x = torch.tensor([[3.0, -2.0], [0.5, 1.0]], requires_grad=True)
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0]])

    def hvp(f):
        (g,) = torch.autograd.grad(f(x * x, y), x, create_graph=True)
        return g.detach(), torch.autograd.grad(g.square().sum(), x)[0]

    a, b = hvp(wrong_silent_second_derivative), hvp(F.multilabel_soft_margin_loss)
    return torch.allclose(a[0], b[0]) and not torch.allclose(a[1], b[1])


def wrong_unsigned_target_wraps(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """Signs are 2 * y - 1 in the target's dtype: with uint8 multi-hot labels a 0 becomes 255."""
    mode = _mode(size_average, reduce, reduction)
    sign = 2 * target - 1
    loss = -F.logsigmoid(sign * input)
    if weight is not None:
        loss = loss * weight
    return _finish(loss.mean(-1), mode)


def witness_wrong_unsigned_target_wraps():
    x, y = torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([[0, 1], [1, 1]])
    ok = torch.allclose(wrong_unsigned_target_wraps(x, y), F.multilabel_soft_margin_loss(x, y))
    y = y.to(torch.uint8)
    return ok and not torch.allclose(
        wrong_unsigned_target_wraps(x, y), F.multilabel_soft_margin_loss(x, y)
    )


def wrong_legacy_flags_order(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """size_average=False is looked at first: together with reduce=False the loss is summed, though
    size_average is documented as ignored when reduce is False.
    """
    if size_average is not None and not size_average:
        mode = "sum"
    else:
        mode = _mode(size_average, reduce, reduction)
    loss = _terms(input, target)
    if weight is not None:
        loss = loss * weight
    return _finish(loss.mean(-1), mode)


def witness_wrong_legacy_flags_order():
    x, y = torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ok = all(
            wrong_legacy_flags_order(x, y, size_average=s, reduce=r).shape
            == F.multilabel_soft_margin_loss(x, y, size_average=s, reduce=r).shape
            for s, r in ((None, False), (True, False), (False, True), (False, None))
        )
        return (
            ok
            and wrong_legacy_flags_order(x, y, size_average=False, reduce=False).shape == ()
            and F.multilabel_soft_margin_loss(x, y, size_average=False, reduce=False).shape == (2,)
        )


def wrong_weight_by_sample_when_square(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """A weight whose length is the batch's is taken as one weight for each sample: wrong whenever
    N == C.
    """
    mode = _mode(size_average, reduce, reduction)
    loss = _terms(input, target)
    if weight is not None:
        if input.dim() == 2 and weight.dim() == 1 and weight.numel() == input.size(0):
            weight = weight[:, None]
        loss = loss * weight
    return _finish(loss.mean(-1), mode)


def witness_wrong_weight_by_sample_when_square():
    x = torch.tensor([[3.0, -2.0], [0.5, 1.0], [1.0, -1.0]])
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    w = torch.tensor([1.0, 3.0])
    return torch.allclose(
        wrong_weight_by_sample_when_square(x, y, w), F.multilabel_soft_margin_loss(x, y, w)
    ) and not torch.allclose(
        wrong_weight_by_sample_when_square(x[:2], y[:2], w),
        F.multilabel_soft_margin_loss(x[:2], y[:2], w),
    )


class WrongWeightNotABuffer(torch.nn.Module):
    """Keeps the class weight as a plain attribute: absent from state_dict(), left behind by
    .double(), .half() and .to(device).
    """

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.weight = weight
        self.reduction = _mode(size_average, reduce, reduction)

    def forward(self, input, target):
        loss = _terms(input, target)
        if self.weight is not None:
            loss = loss * self.weight
        return _finish(loss.mean(-1), self.reduction)


def witness_WrongWeightNotABuffer():
    w = torch.tensor([1.0, 3.0])
    a, b = WrongWeightNotABuffer(w).double(), torch.nn.MultiLabelSoftMarginLoss(w).double()
    return (
        a.weight.dtype == torch.float32
        and b.weight.dtype == torch.float64
        and "weight" in b.state_dict()
        and "weight" not in a.state_dict()
    )


def right_by_logaddexp(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """log(1 + e^x) and log(1 + e^-x) by logaddexp, half precisions through float32."""
    mode = _mode(size_average, reduce, reduction)
    out = torch.promote_types(input.dtype, target.dtype)
    if weight is not None:
        out = torch.promote_types(out, weight.dtype)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    zero = torch.zeros_like(x)
    loss = target * torch.logaddexp(zero, -x) + (1 - target) * torch.logaddexp(zero, x)
    if weight is not None:
        loss = loss * weight
    return _finish(loss.mean(-1), mode).to(out)


class RightLerp(torch.nn.Module):
    """Interpolates between the two log-sigmoids by the label, in float64."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        out = torch.promote_types(input.dtype, target.dtype)
        x, y = torch.broadcast_tensors(input.double(), target.double())
        loss = -torch.lerp(F.logsigmoid(-x), F.logsigmoid(x), y)
        if self.weight is not None:
            out = torch.promote_types(out, self.weight.dtype)
            loss = loss * self.weight.double()
        return _finish(loss.sum(-1) / loss.size(-1), mode).to(out)
