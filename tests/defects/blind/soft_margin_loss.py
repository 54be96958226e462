"""Wrong and right implementations of soft_margin_loss, written without sight of the suite."""


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


def wrong_activations_kept_in_half(input, target, size_average=None, reduce=None, reduction="mean"):
    """Saves float32 activations as float16 for the backward pass: the gradient has 3 digits, and large logits overflow."""
    reduction = _mode(size_average, reduce, reduction)

    def pack(x):
        return (x.half(), True) if x.dtype == torch.float32 else (x, False)

    def unpack(p):
        return p[0].float() if p[1] else p[0]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return _reduce(-F.logsigmoid(target * input), reduction)


def witness_wrong_activations_kept_in_half():
    x = torch.tensor([2.0001, -1.3337, 0.77777], requires_grad=True)
    y = torch.tensor([1.0, 1.0, -1.0])
    a = torch.autograd.grad(wrong_activations_kept_in_half(x, y, reduction="sum"), x)[0]
    b = torch.autograd.grad(F.soft_margin_loss(x, y, reduction="sum"), x)[0]
    return bool(((a - b).abs() / b.abs()).max() > 2e-5)


def wrong_logits_clamped(input, target, size_average=None, reduce=None, reduction="mean"):
    """Clamps the margin to [-30, 30] against overflow: badly wrong samples get no gradient."""
    reduction = _mode(size_average, reduce, reduction)
    z = (-target * input).clamp(-30.0, 30.0)
    return _reduce(torch.log1p(torch.exp(z)), reduction)


def witness_wrong_logits_clamped():
    x = torch.tensor([-40.0], requires_grad=True)
    g = torch.autograd.grad(wrong_logits_clamped(x, torch.ones(1)), x)[0]
    return bool(g == 0) and bool(
        torch.autograd.grad(F.soft_margin_loss(x, torch.ones(1)), x)[0] < -0.9
    )


def wrong_log_of_one_plus(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(1 + exp(z)) without log1p: confident samples have a loss of exactly zero or a coarse one."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(torch.log(1 + torch.exp(-target * input)), reduction)


def witness_wrong_log_of_one_plus():
    x, y = torch.tensor([17.0, -18.0]), torch.tensor([1.0, -1.0])
    return bool(wrong_log_of_one_plus(x, y) == 0) and bool(F.soft_margin_loss(x, y) > 0)


def wrong_gradient_of_zero_logit(input, target, size_average=None, reduce=None, reduction="mean"):
    """max(z, 0) + log1p(exp(-|z|)): at z = 0 the pieces' subgradients don't add up to 1/2."""
    reduction = _mode(size_average, reduce, reduction)
    z = -target * input
    return _reduce(z.clamp(min=0) + torch.log1p(torch.exp(-z.abs())), reduction)


def witness_wrong_gradient_of_zero_logit():
    x = torch.zeros(2, requires_grad=True)
    y = torch.tensor([1.0, -1.0])
    a = torch.autograd.grad(wrong_gradient_of_zero_logit(x, y), x)[0]
    return not torch.allclose(a, torch.autograd.grad(F.soft_margin_loss(x, y), x)[0])


class _NoJvp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return torch.where(z > 0, z, 0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return g * torch.sigmoid(ctx.saved_tensors[0])


def wrong_no_forward_mode(input, target, size_average=None, reduce=None, reduction="mean"):
    """The fused function has no jvp: forward-mode AD (torch.func.jvp, jacfwd, hessian) fails."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(_NoJvp.apply(-target * input), reduction)


def witness_wrong_no_forward_mode():
    x, y = torch.tensor([0.3, -1.0]), torch.tensor([1.0, -1.0])
    torch.func.jvp(lambda v: F.soft_margin_loss(v, y), (x,), (x,))
    try:
        torch.func.jvp(lambda v: wrong_no_forward_mode(v, y), (x,), (x,))
    except (RuntimeError, NotImplementedError):
        return True
    return False


class _OneCotangent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return torch.where(z > 0, z, 0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        s = torch.sigmoid(ctx.saved_tensors[0])
        return s * g.reshape(-1)[:1].sum()

    @staticmethod
    def jvp(ctx, t):
        return t * torch.sigmoid(ctx.saved_tensors[0])


def wrong_upstream_gradient_taken_as_uniform(
    input, target, size_average=None, reduce=None, reduction="mean"
):
    """Backward takes the first upstream value for all: right for mean and sum, wrong for weighted 'none'."""
    reduction = _mode(size_average, reduce, reduction)
    z = -target * input
    return _reduce(
        -F.logsigmoid(-z) if torch.compiler.is_compiling() else _OneCotangent.apply(z), reduction
    )


def witness_wrong_upstream_gradient_taken_as_uniform():
    x, y, w = torch.ones(3, requires_grad=True), torch.ones(3), torch.tensor([1.0, 2.0, 3.0])
    a = torch.autograd.grad(
        (w * wrong_upstream_gradient_taken_as_uniform(x, y, reduction="none")).sum(), x
    )[0]
    b = torch.autograd.grad((w * F.soft_margin_loss(x, y, reduction="none")).sum(), x)[0]
    return not torch.allclose(a, b)


def wrong_mean_of_chunk_means(input, target, size_average=None, reduce=None, reduction="mean"):
    """The mean is the mean of the chunks' means; the last, shorter chunk weighs too much."""
    reduction = _mode(size_average, reduce, reduction)
    z = -target * input
    if reduction != "mean":
        return _reduce(-F.logsigmoid(-z), reduction)
    return torch.stack([-F.logsigmoid(-c).mean() for c in z.reshape(-1).split(4096)]).mean()


def witness_wrong_mean_of_chunk_means():
    x, y = torch.linspace(-3, 3, 5000), torch.ones(5000)
    return not torch.allclose(wrong_mean_of_chunk_means(x, y), F.soft_margin_loss(x, y), rtol=1e-2)


class WrongUnpicklableSoftMarginLoss(_Loss):
    """Holds a lambda: neither pickle nor torch.save (nor spawned workers) can take the module."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = lambda x, y: -F.logsigmoid(x * y)

    def forward(self, input, target):
        return _reduce(self.margin(input, target), _mode(None, None, self.reduction))


def witness_WrongUnpicklableSoftMarginLoss():
    import pickle

    pickle.dumps(torch.nn.SoftMarginLoss())
    try:
        pickle.dumps(WrongUnpicklableSoftMarginLoss())
    except (pickle.PicklingError, AttributeError):
        return True
    return False


def right_by_logsigmoid(input, target, size_average=None, reduce=None, reduction="mean"):
    """-logsigmoid(y x), which doesn't overflow."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(-F.logsigmoid(target * input), reduction)


class _Logistic(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return g * torch.sigmoid(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx, t):
        return t * torch.sigmoid(ctx.saved_tensors[0])


def right_analytic_backward(input, target, size_average=None, reduce=None, reduction="mean"):
    """max(z, 0) + log1p(exp(-|z|)) with the sigmoid as its gradient."""
    reduction = _mode(size_average, reduce, reduction)
    z = -target * input
    return _reduce(
        -F.logsigmoid(-z) if torch.compiler.is_compiling() else _Logistic.apply(z), reduction
    )


class RightSoftMarginLoss(_Loss):
    """logaddexp(0, -y x) in float64."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        z = (-target * input).double()
        return _reduce(torch.logaddexp(z, torch.zeros_like(z)), reduction).to(input.dtype)
