import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Red


def _legacy(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Red.legacy_get_string(size_average, reduce)
    return reduction


def _torch(input, target, weight, ignore_index, reduction, label_smoothing):
    return F.cross_entropy(input, target, weight, ignore_index=ignore_index, reduction=reduction,
                           label_smoothing=label_smoothing)


def _regular(input, target, weight, ignore_index, reduction, label_smoothing):
    """True for valid class-index calls on (C) or (N, C, ...) floating inputs."""
    if reduction not in ("none", "mean", "sum") or not 0.0 <= label_smoothing <= 1.0:
        return False
    if not input.is_floating_point() or target.dtype not in (torch.int64, torch.uint8):
        return False
    if input.dim() == 0 or (target.dtype == torch.uint8 and (input.dim() > 2 or label_smoothing)):
        return False
    c = input.shape[0] if input.dim() == 1 else input.shape[1]
    want = input.shape[1:] if input.dim() == 1 else input.shape[:1] + input.shape[2:]
    if c == 0 or target.shape != want or target.device != input.device:
        return False
    if weight is not None and (weight.shape != (c,) or weight.dtype != input.dtype or weight.requires_grad
                               or weight.device != input.device):
        return False
    if torch.compiler.is_compiling():
        return True
    try:
        bad = (target != ignore_index) & ((target < 0) | (target >= c)) if target.dtype == torch.int64 else target >= c
        return not bool(bad.any())
    except RuntimeError:  # vmap, meta, fake tensors: values cannot be read
        return True


# ------------------------------------------------------------------ wrong
class _CEProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, ignore_index):
        logp = torch.log_softmax(x, 1)
        keep = t != ignore_index
        safe = t.masked_fill(~keep, 0)
        probs = logp.exp()
        ctx.save_for_backward(probs, safe, keep)
        return -logp.gather(1, safe.unsqueeze(1)).squeeze(1).masked_fill(~keep, 0.0)

    @staticmethod
    def backward(ctx, g):
        probs, safe, keep = ctx.saved_tensors
        d = probs - F.one_hot(safe, probs.shape[1]).to(probs.dtype)
        return d * (g * keep).unsqueeze(1), None, None


def wrong_hessian(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                  reduction="mean", label_smoothing=0.0):
    """The custom backward uses the softmax saved as a constant, so second derivatives are silently zero."""
    reduction = _legacy(size_average, reduce, reduction)
    if (weight is not None or label_smoothing or input.dim() != 2 or target.dtype != torch.int64
            or input.dtype not in (torch.float32, torch.float64) or torch._C._are_functorch_transforms_active()
            or not _regular(input, target, weight, ignore_index, reduction, label_smoothing)):
        return _torch(input, target, weight, ignore_index, reduction, label_smoothing)
    rows = _CEProbs.apply(input, target, ignore_index)
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    return rows.sum() / (target != ignore_index).sum()


def witness_wrong_hessian():
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    t = torch.tensor([0, 3, 1])

    def hv(f):
        g, = torch.autograd.grad(f(x, t), x, create_graph=True)
        s = (g * torch.arange(12.).double().view(3, 4)).sum()
        return torch.autograd.grad(s, x, allow_unused=True)[0] if s.requires_grad else None
    a = hv(wrong_hessian)
    return a is None or not torch.allclose(a, hv(F.cross_entropy))


class WrongSmoothedIgnore(nn.CrossEntropyLoss):
    """With label smoothing and reduction 'mean', the smoothing term is averaged over all rows, ignored ones included."""

    def forward(self, input, target):
        ls = self.label_smoothing
        if ls == 0.0 or self.reduction != "mean" or self.weight is not None or target.is_floating_point():
            return super().forward(input, target)
        dim = 0 if input.dim() == 1 else 1
        nll = F.cross_entropy(input, target, ignore_index=self.ignore_index)
        logp = F.log_softmax(input, dim)
        smooth = -logp.mean(dim).masked_fill(target == self.ignore_index, 0.0).mean()
        return (1 - ls) * nll + ls * smooth


def witness_WrongSmoothedIgnore():
    torch.manual_seed(0)
    x, t = torch.randn(6, 5), torch.tensor([0, -100, 2, -100, 1, 4])
    return not torch.allclose(WrongSmoothedIgnore(label_smoothing=0.2)(x, t), nn.CrossEntropyLoss(label_smoothing=0.2)(x, t))


class WrongPlainWeight(nn.Module):
    """The class weight is a plain attribute, not a buffer: it is absent from state_dict and not moved by .to()."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean",
                 label_smoothing=0.0):
        super().__init__()
        self.weight = weight
        self.ignore_index = ignore_index
        self.reduction = _legacy(size_average, reduce, reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input, target):
        return F.cross_entropy(input, target, weight=self.weight, ignore_index=self.ignore_index,
                               reduction=self.reduction, label_smoothing=self.label_smoothing)


def witness_WrongPlainWeight():
    w = torch.tensor([1., 2., 3.])
    return (set(WrongPlainWeight(w).state_dict()) != set(nn.CrossEntropyLoss(w).state_dict())
            and WrongPlainWeight(w).double().weight.dtype != torch.double)


def wrong_online_lse(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                     reduction="mean", label_smoothing=0.0):
    """Online log-sum-exp over class blocks of 1024: a leading block of only -inf logits makes the loss nan."""
    reduction = _legacy(size_average, reduce, reduction)
    block = 1024
    if (label_smoothing or input.dim() != 2 or input.shape[1] <= block
            or not _regular(input, target, weight, ignore_index, reduction, label_smoothing)):
        return _torch(input, target, weight, ignore_index, reduction, label_smoothing)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    m = torch.full_like(x[:, 0], float("-inf"))
    s = torch.zeros_like(m)
    for lo in range(0, x.shape[1], block):
        b = x[:, lo:lo + block]
        new = torch.maximum(m, b.detach().amax(1))
        s = s * (m - new).exp() + (b - new.unsqueeze(1)).exp().sum(1)
        m = new
    lse = m + s.log()
    keep = target.long() != ignore_index
    t = target.long().masked_fill(~keep, 0)
    rows = lse - x.gather(1, t.unsqueeze(1)).squeeze(1)
    w = keep.to(x.dtype) if weight is None else weight.to(x.dtype)[t] * keep
    rows = torch.where(keep, rows * w, 0.0)
    if reduction == "none":
        return rows.to(input.dtype)
    if reduction == "sum":
        return rows.sum().to(input.dtype)
    return (rows.sum() / w.sum()).to(input.dtype)


def witness_wrong_online_lse():
    x = torch.zeros(2, 2050)
    x[:, :1024] = float("-inf")
    t = torch.tensor([1500, 2049])
    return bool(wrong_online_lse(x, t).isnan()) and bool(F.cross_entropy(x, t).isfinite())


def wrong_count_dtype(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                      reduction="mean", label_smoothing=0.0):
    """For 'mean' the number of valid rows is held in the input's dtype: inf in float16 above 65504 rows, rounded in bfloat16."""
    reduction = _legacy(size_average, reduce, reduction)
    if (reduction != "mean" or weight is not None or label_smoothing or target.is_floating_point()
            or not _regular(input, target, weight, ignore_index, reduction, label_smoothing)):
        return _torch(input, target, weight, ignore_index, reduction, label_smoothing)
    rows = F.cross_entropy(input.float() if input.dtype != torch.float64 else input, target,
                           ignore_index=ignore_index, reduction="none")
    count = (target.long() != ignore_index).to(input.dtype).sum()
    return (rows.sum() / count).to(input.dtype)


def witness_wrong_count_dtype():
    x, t = torch.zeros(70000, 2, dtype=torch.float16), torch.zeros(70000, dtype=torch.long)
    return float(wrong_count_dtype(x, t)) == 0.0 and abs(float(F.cross_entropy(x.float(), t)) - 0.6931) < 1e-3


class WrongTargetOverwritten(nn.CrossEntropyLoss):
    """Ignored targets are set to 0 in place, through a view, in the caller's own tensor."""

    def forward(self, input, target):
        if (target.dtype != torch.int64 or self.label_smoothing or input.dim() < 2
                or not _regular(input, target, self.weight, self.ignore_index, self.reduction, 0.0)):
            return super().forward(input, target)
        flat = target.long().contiguous().view(-1)
        keep = flat != self.ignore_index
        flat[~keep] = 0
        logits = input.movedim(1, -1).reshape(-1, input.shape[1])
        rows = F.cross_entropy(logits, flat, self.weight, reduction="none").masked_fill(~keep, 0.0)
        if self.reduction == "none":
            return rows.view(target.shape)
        if self.reduction == "sum":
            return rows.sum()
        w = keep.to(rows.dtype) if self.weight is None else self.weight[flat] * keep
        return rows.sum() / w.sum()


def witness_WrongTargetOverwritten():
    t = torch.tensor([1, -100, 0])
    WrongTargetOverwritten()(torch.randn(3, 2), t)
    return t.tolist() != [1, -100, 0]


class _CEGradInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, weight, ignore_index, reduction):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            loss = F.cross_entropy(y, t, weight, ignore_index=ignore_index, reduction=reduction)
            ctx.grad, = torch.autograd.grad(loss, y)
        ctx.save_for_backward(x, t, weight)
        ctx.how = dict(ignore_index=ignore_index, reduction=reduction)
        return loss.detach()

    @staticmethod
    def backward(ctx, g):
        if torch.is_grad_enabled():  # create_graph
            x, t, weight = ctx.saved_tensors
            loss = F.cross_entropy(x, t, weight, **ctx.how)
            return torch.autograd.grad(loss, x, g, create_graph=True)[0], None, None, None, None
        if g.item() != 1.0:
            ctx.grad.mul_(g)
        return ctx.grad, None, None, None, None


def wrong_backward_twice(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                         reduction="mean", label_smoothing=0.0):
    """The gradient made in forward is scaled in place in backward, so a second backward with retain_graph scales it again."""
    reduction = _legacy(size_average, reduce, reduction)
    if (reduction == "none" or label_smoothing or target.is_floating_point() or not input.requires_grad
            or torch._C._are_functorch_transforms_active()):
        return _torch(input, target, weight, ignore_index, reduction, label_smoothing)
    return _CEGradInForward.apply(input, target, weight, ignore_index, reduction)


def witness_wrong_backward_twice():
    torch.manual_seed(0)
    x, t = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 1])
    loss = wrong_backward_twice(x, t) * 0.5
    a = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    b = torch.autograd.grad(loss, x)[0].clone()
    return not torch.allclose(a, b)


# ------------------------------------------------------------------ right
def right_shift_gather(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                       reduction="mean", label_smoothing=0.0):
    """Written with a detached maximum, exp-sum-log in at least float32, gather and masks, from plain differentiable operations."""
    reduction = _legacy(size_average, reduce, reduction)
    dim = 0 if input.dim() == 1 else 1
    soft = (input.dim() > 0 and target.shape == input.shape and target.dtype == input.dtype
            and input.is_floating_point() and input.shape[dim] > 0
            and reduction in ("none", "mean", "sum") and 0.0 <= label_smoothing <= 1.0 and ignore_index < 0
            and (weight is None or (weight.shape == (input.shape[dim],) and weight.dtype == input.dtype)))
    if not soft and not _regular(input, target, weight, ignore_index, reduction, label_smoothing):
        return _torch(input, target, weight, ignore_index, reduction, label_smoothing)  # torch's own errors
    half = input.dtype in (torch.float16, torch.bfloat16)
    x = input.float() if half else input
    w = weight if weight is None or not half else weight.float()
    z = x - x.detach().amax(dim, keepdim=True)
    logp = z - z.exp().sum(dim, keepdim=True).log()
    c = input.shape[dim]
    wb = None if w is None else w.view([c] + [1] * (input.dim() - 1 - dim))
    if soft:
        q = target.float() if half else target
        if label_smoothing > 0:
            q = q * (1 - label_smoothing) + label_smoothing / c
        rows = -(logp * q if wb is None else logp * q * wb).sum(dim)
        if reduction == "mean":
            out = rows.sum() / rows.numel() if rows.numel() else rows.sum() * float("nan")
        else:
            out = rows.sum() if reduction == "sum" else rows
        return out.to(input.dtype)
    t = target.long()
    keep = t != ignore_index
    t = torch.where(keep, t, 0)
    rows = -logp.gather(dim, t.unsqueeze(dim)).squeeze(dim)
    rw = keep.to(x.dtype) if w is None else w.index_select(0, t.reshape(-1)).view(t.shape) * keep
    if w is not None:
        rows = rows * rw
    rows = torch.where(keep, rows, 0.0)
    if label_smoothing > 0:
        smooth = -(logp if wb is None else logp * wb).sum(dim)
        rows = (1 - label_smoothing) * rows + (label_smoothing / c) * torch.where(keep, smooth, 0.0)
    if reduction == "none":
        return rows.to(input.dtype)
    out = rows.sum()
    if reduction == "mean":
        out = out / rw.sum()
    return out.to(input.dtype)
