import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _dims(a, b, t):
    if a.dim() != b.dim() or a.dim() != t.dim():
        raise RuntimeError("margin_ranking_loss : All input tensors should have same dimension but got sizes: "
                           f"input1: {a.size()}, input2: {b.size()}, target: {t.size()} ")


def _finish(loss, mode):
    return loss if mode == "none" else loss.mean() if mode == "mean" else loss.sum()


# ---------------------------------------------------------------- wrong
def wrong_squeeze(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Trailing score columns are squeezed away, so reduction='none' on (N, 1) inputs returns (N)."""
    mode = _mode(size_average, reduce, reduction)
    _dims(input1, input2, target)
    loss = (-target * (input1 - input2) + float(margin)).clamp_min(0)
    if loss.dim() > 1 and loss.size(-1) == 1:
        loss = loss.squeeze(-1)
    return _finish(loss, mode)


def witness_wrong_squeeze():
    a, b, t = torch.randn(3, 1), torch.randn(3, 1), torch.ones(3, 1)
    return wrong_squeeze(a, b, t, reduction="none").shape != F.margin_ranking_loss(a, b, t, reduction="none").shape


def wrong_margin_first(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The margin is added to one score before the scores are subtracted, so it is rounded away for large scores."""
    mode = _mode(size_average, reduce, reduction)
    _dims(input1, input2, target)
    loss = (float(margin) - target * input1) + target * input2
    return _finish(loss.clamp_min(0), mode)


def witness_wrong_margin_first():
    a = torch.full((2,), 2.0 ** 26)
    t = torch.tensor([1., -1.])
    return not torch.allclose(wrong_margin_first(a, a, t, margin=.5), F.margin_ranking_loss(a, a, t, margin=.5))


def wrong_broadcasts(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The check for equal numbers of dimensions is missing, so (N, 1) scores with an (N) target silently give an N x N loss."""
    mode = _mode(size_average, reduce, reduction)
    loss = (-target * (input1 - input2) + float(margin)).clamp_min(0)
    return _finish(loss, mode)


def witness_wrong_broadcasts():
    a, b, t = torch.randn(3, 1), torch.randn(3, 1), torch.ones(3)
    try:
        F.margin_ranking_loss(a, b, t)
        return False
    except RuntimeError:
        return wrong_broadcasts(a, b, t, reduction="none").shape == (3, 3)


class WrongActiveMean(nn.MarginRankingLoss):
    """The mean is taken over the pairs that violate the margin only, not over all pairs."""

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _dims(input1, input2, target)
        loss = (-target * (input1 - input2) + float(self.margin)).clamp_min(0)
        if mode != "mean" or loss.numel() == 0:
            return _finish(loss, mode)
        return loss.sum() / (loss > 0).sum().clamp_min(1)


def witness_WrongActiveMean():
    a, b, t = torch.tensor([1., 2.]), torch.tensor([2., 0.]), torch.ones(2)
    return not torch.allclose(WrongActiveMean()(a, b, t), nn.MarginRankingLoss()(a, b, t))


class _OutOnCtx(torch.autograd.Function):
    @staticmethod
    def forward(v):
        return v.clamp_min(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.out, ctx.tie = output, inputs[0] == 0

    @staticmethod
    def backward(ctx, g):
        return g * ((ctx.out > 0) | ctx.tie)


def wrong_out_on_ctx(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The output is kept as a plain ctx attribute for backward, so an in-place change of the unreduced result by the caller silently changes the gradient."""
    mode = _mode(size_average, reduce, reduction)
    _dims(input1, input2, target)
    return _finish(_OutOnCtx.apply(-target * (input1 - input2) + float(margin)), mode)


def witness_wrong_out_on_ctx():
    grads = []
    for f in (wrong_out_on_ctx, F.margin_ranking_loss):
        a, b = torch.tensor([1., 2.], requires_grad=True), torch.tensor([2., 0.])
        out = f(a, b, torch.ones(2), margin=.5, reduction="none")
        out.neg_()
        out.sum().backward()
        grads.append(a.grad)
    return not torch.equal(*grads)


class WrongLegacy(_Loss):
    """The deprecated reduce=False with size_average=False gives the sum, where it must give one loss per element."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(reduction=reduction)
        if size_average is not None or reduce is not None:
            _R.legacy_get_string(size_average, reduce)      # for its warning
            if size_average is False:
                self.reduction = "sum"
            elif reduce is False:
                self.reduction = "none"
            else:
                self.reduction = "mean"
        self.margin = margin

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _dims(input1, input2, target)
        return _finish((-target * (input1 - input2) + float(self.margin)).clamp_min(0), mode)


def witness_WrongLegacy():
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = torch.randn(3)
        return WrongLegacy(size_average=False, reduce=False)(a, -a, torch.ones(3)).shape != \
            nn.MarginRankingLoss(size_average=False, reduce=False)(a, -a, torch.ones(3)).shape


# ---------------------------------------------------------------- right
class _Hinge(torch.autograd.Function):
    @staticmethod
    def forward(a, b, t, margin):
        v = margin - t * (a - b)
        return torch.where(v < 0, torch.zeros_like(v), v)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, t, margin = inputs
        ctx.save_for_backward(a, b, t)
        ctx.margin = margin

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, g):
        a, b, t = ctx.saved_tensors
        d = a - b
        s = torch.where(ctx.margin - t * d >= 0, g, torch.zeros_like(g))
        na, nb, nt, _ = ctx.needs_input_grad
        ga = (-s * t).sum_to_size(a.shape).to(a.dtype) if na else None
        gb = (s * t).sum_to_size(b.shape).to(b.dtype) if nb else None
        gt = (-s * d).sum_to_size(t.shape).to(t.dtype) if nt else None
        return ga, gb, gt, None


def right_function(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Own autograd.Function with a backward out of differentiable operations, gradients for all three tensors summed back to their shapes."""
    mode = _mode(size_average, reduce, reduction)
    _dims(input1, input2, target)
    return _finish(_Hinge.apply(input1, input2, target, float(margin)), mode)
