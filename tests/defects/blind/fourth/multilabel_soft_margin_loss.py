import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _WeightedLoss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    return reduction


def _finish(loss, mode):
    if mode == "none":
        return loss
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    raise ValueError(f"{mode} is not valid")


def _terms(x, y):
    return -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))


# ---------------------------------------------------------------- wrong
def wrong_zero_logit(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The stable form max(x,0) - x*y + log1p(exp(-|x|)) is differentiated as written, so the gradient at logits exactly 0 is 1-y, not 1/2-y."""
    mode = _mode(size_average, reduce, reduction)
    if target.dtype == torch.bool:
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported.")
    loss = input.clamp_min(0) - input * target + torch.log1p(torch.exp(-input.abs()))
    if weight is not None:
        loss = loss * weight
    return _finish(loss.sum(-1) / input.size(-1), mode)


def witness_wrong_zero_logit():
    x = torch.zeros(2, 3, requires_grad=True)
    y = torch.tensor([[1., 0, 1], [0, 0, 1]])
    g, = torch.autograd.grad(wrong_zero_logit(x, y), x)
    e, = torch.autograd.grad(F.multilabel_soft_margin_loss(x, y), x)
    return not torch.allclose(g, e)


class WrongWeightSum(_WeightedLoss):
    """With a class weight the sum over classes is divided by the sum of the weights and not by C."""

    def forward(self, input, target):
        loss = _terms(input, target)
        if self.weight is None:
            loss = loss.sum(-1) / input.size(-1)
        else:
            loss = (loss * self.weight).sum(-1) / self.weight.expand(input.shape[-1:]).sum()
        return _finish(loss, self.reduction)


def witness_WrongWeightSum():
    torch.manual_seed(0)
    x, y, w = torch.randn(3, 4), torch.randint(0, 2, (3, 4)).float(), torch.tensor([1., 2, 3, 4])
    return not torch.allclose(WrongWeightSum(w)(x, y), nn.MultiLabelSoftMarginLoss(w)(x, y))


def wrong_flatten_kd(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Inputs with more than two dimensions are averaged over everything but the batch, where torch averages over the last dimension only."""
    mode = _mode(size_average, reduce, reduction)
    loss = _terms(input, target)
    if weight is not None:
        loss = loss * weight
    loss = loss.flatten(1).mean(1) if loss.dim() > 1 and loss.numel() else loss.sum(-1) / input.size(-1)
    return _finish(loss, mode)


def witness_wrong_flatten_kd():
    x, y = torch.randn(2, 3, 4), torch.ones(2, 3, 4)
    return wrong_flatten_kd(x, y, reduction="none").shape != F.multilabel_soft_margin_loss(x, y, reduction="none").shape


class _SavedSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        p = torch.sigmoid(x)
        ctx.save_for_backward(x, y, p)
        return _terms(x, y)

    @staticmethod
    def backward(ctx, g):
        x, y, p = ctx.saved_tensors
        gx = g * (p - y) if ctx.needs_input_grad[0] else None
        gy = -g * x if ctx.needs_input_grad[1] else None
        if gy is not None:
            gy = gy.sum_to_size(y.shape)
        if gx is not None:
            gx = gx.sum_to_size(x.shape).to(x.dtype)
        return gx, gy


def wrong_saved_sigmoid(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The backward uses a sigmoid saved in forward, so the second derivative with respect to the input is silently missing."""
    mode = _mode(size_average, reduce, reduction)
    loss = _SavedSigmoid.apply(input, target)
    if weight is not None:
        loss = loss * weight
    return _finish(loss.sum(-1) / input.size(-1), mode)


def _second(f):
    torch.manual_seed(0)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1., 0, 1], [0, 0, 1]], dtype=torch.float64)
    g, = torch.autograd.grad(f(x, y, reduction="sum"), x, create_graph=True)
    if not g.requires_grad:
        return torch.zeros_like(x)
    h = torch.autograd.grad(g.pow(2).sum(), x, allow_unused=True)[0]
    return torch.zeros_like(x) if h is None else h


def witness_wrong_saved_sigmoid():
    return not torch.allclose(_second(wrong_saved_sigmoid), _second(F.multilabel_soft_margin_loss))


class WrongScratch(nn.MultiLabelSoftMarginLoss):
    """Without gradients the per-sample losses go into a scratch tensor kept by shape, so the next call overwrites an earlier result."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__(weight, size_average, reduce, reduction)
        self._scratch = {}

    def forward(self, input, target):
        loss = _terms(input, target)
        if self.weight is not None:
            loss = loss * self.weight
        if torch.is_grad_enabled() or loss.dim() == 0:
            out = loss.sum(-1)
        else:
            key = (loss.shape, loss.dtype, loss.device)
            if key not in self._scratch:
                self._scratch[key] = loss.new_empty(loss.shape[:-1])
            out = torch.sum(loss, -1, out=self._scratch[key])
            out /= input.size(-1)
            return _finish(out, self.reduction)
        return _finish(out / input.size(-1), self.reduction)


def witness_WrongScratch():
    torch.manual_seed(0)
    m = WrongScratch(reduction="none")
    with torch.no_grad():
        a = m(torch.randn(3, 4), torch.ones(3, 4))
        a0 = a.clone()
        m(torch.randn(3, 4), torch.ones(3, 4))
    return not torch.equal(a, a0)


def wrong_log_clamp(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The logs are taken of a sigmoid clamped at 1e-12, so confident wrong logits (beyond about 28) stop growing and get gradient 0."""
    mode = _mode(size_average, reduce, reduction)
    p, q = torch.sigmoid(input), torch.sigmoid(-input)
    tiny = 1e-12 if input.dtype in (torch.float32, torch.float64, torch.bfloat16) else 1e-7
    loss = -(target * p.clamp_min(tiny).log() + (1 - target) * q.clamp_min(tiny).log())
    if weight is not None:
        loss = loss * weight
    return _finish(loss.sum(-1) / input.size(-1), mode)


def witness_wrong_log_clamp():
    x, y = torch.tensor([[-60., 2.]]), torch.ones(1, 2)
    return not torch.allclose(wrong_log_clamp(x, y), F.multilabel_soft_margin_loss(x, y))


# ---------------------------------------------------------------- right
def right_softplus(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Two softplus terms with a raised threshold, weighted by the (soft) labels; float32 inside for 16-bit inputs."""
    mode = _mode(size_average, reduce, reduction)
    if mode not in ("none", "mean", "sum"):
        raise ValueError(f"{mode} is not valid")
    x, y, w = input, target, weight
    dt = torch.result_type(x, y)
    if w is not None:
        dt = torch.promote_types(dt, w.dtype)
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
        y = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
    pos, neg = F.softplus(-x, threshold=40), F.softplus(x, threshold=40)
    loss = y * pos + (1 - y) * neg
    if w is not None:
        loss = loss * w
    loss = loss.sum(input.dim() - 1) / input.size(input.dim() - 1)
    return _finish(loss, mode).to(dt)
