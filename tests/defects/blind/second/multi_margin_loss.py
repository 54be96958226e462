"""Wrong and right implementations of multi_margin_loss, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _word(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return F._Reduction.legacy_get_string(size_average, reduce)
    F._Reduction.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def _checked(input, target, p, weight, in_range=True):
    """-> (N, C) input, (N) target."""
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() not in (1, 2) or input.size(-1) == 0:
        raise RuntimeError(f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {tuple(input.shape)}")
    x = input if input.dim() == 2 else input.unsqueeze(0)
    if target.dim() > 1 or target.numel() != x.size(0):
        raise RuntimeError(f"inconsistent target size, expected {x.size(0)} but got {tuple(target.shape)}")
    if target.dtype != torch.int64:
        raise RuntimeError("expected scalar type Long for target")
    y = target.reshape(-1)
    if in_range and y.numel() and (int(y.min()) < 0 or int(y.max()) >= x.size(1)):
        raise RuntimeError("target out of range")
    if weight is not None and weight.numel() != x.size(1):
        raise RuntimeError(f"inconsistent weight size, expected {x.size(1)} but got {tuple(weight.shape)}")
    return x, y


def _rows(x, y, p, margin, weight):
    z = (margin - x.gather(1, y.unsqueeze(1)) + x).clamp_min(0)
    z = z.scatter(1, y.unsqueeze(1), 0.0)
    if p == 2:
        z = z * z
    if weight is not None:
        z = z * weight[y].unsqueeze(1)
    return z.mean(1)


def _shaped(rows, target, word):
    return rows.reshape(target.shape) if word == "none" else _reduced(rows, word)


def wrong_equal_scores_masked(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Finds the target class by its score (x != x[y]); other classes with the same score drop out too."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight)
    right = x.gather(1, y.unsqueeze(1))
    z = torch.where(x != right, (margin - right + x).clamp_min(0), torch.zeros_like(x)) ** p
    if weight is not None:
        z = z * weight[y].unsqueeze(1)
    return _shaped(z.sum(1) / x.size(1), target, word)


def witness_wrong_equal_scores_masked():
    x, y = torch.zeros(2, 4), torch.tensor([0, 3])
    return not torch.allclose(wrong_equal_scores_masked(x, y), F.multi_margin_loss(x, y))


def wrong_target_term_subtracted(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Sums over all classes, then takes margin**p off for the target; for a negative margin that term was 0."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight)
    z = (margin - x.gather(1, y.unsqueeze(1)) + x).clamp_min(0) ** p
    rows = (z.sum(1) - margin ** p) / x.size(1)
    if weight is not None:
        rows = rows * weight[y]
    return _shaped(rows, target, word)


def witness_wrong_target_term_subtracted():
    x, y = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0])
    return not torch.allclose(wrong_target_term_subtracted(x, y, margin=-0.5), F.multi_margin_loss(x, y, margin=-0.5))


def wrong_mean_over_weights(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """With class weights, 'mean' divides by the sum of the rows' weights, as cross_entropy does."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight)
    rows = _rows(x, y, p, margin, weight)
    if word == "mean" and weight is not None:
        return rows.sum() / weight[y].sum()
    return _shaped(rows, target, word)


def witness_wrong_mean_over_weights():
    x, y, w = torch.randn(3, 3), torch.tensor([0, 1, 2]), torch.tensor([0.2, 3.0, 1.0])
    return not torch.allclose(wrong_mean_over_weights(x, y, weight=w), F.multi_margin_loss(x, y, weight=w))


class WrongWeightNotBuffer(torch.nn.Module):
    """Keeps weight in a tuple of options: .to(), .double() and state_dict do not know it."""

    def __init__(self, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError("weight must be one-dimensional")
        self.options = (p, margin, weight)
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input, target):
        p, margin, weight = self.options
        return F.multi_margin_loss(input, target, p, margin, weight, reduction=self.reduction)


def witness_WrongWeightNotBuffer():
    w = torch.ones(3)
    return "weight" in torch.nn.MultiMarginLoss(weight=w).state_dict() and "weight" not in WrongWeightNotBuffer(weight=w).state_dict()


def wrong_negative_target_wraps(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Advanced indexing x[arange, y]: a padding label -1 means the last class instead of an error."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight, in_range=False)
    n = torch.arange(x.size(0), device=x.device)
    z = (margin - x[n, y].unsqueeze(1) + x).clamp_min(0)
    keep = torch.ones_like(z)
    keep[n, y] = 0
    z = (z * keep) ** p
    if weight is not None:
        z = z * weight[y].unsqueeze(1)
    return _shaped(z.sum(1) / x.size(1), target, word)


def witness_wrong_negative_target_wraps():
    x, y = torch.randn(2, 3), torch.tensor([1, -1])
    wrong_negative_target_wraps(x, y)
    try:
        F.multi_margin_loss(x, y)
    except (RuntimeError, IndexError):
        return True
    return False


def wrong_weight_inside_power(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """(w * max(0, .)) ** p: with p=2 the weight is squared."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight)
    z = (margin - x.gather(1, y.unsqueeze(1)) + x).clamp_min(0).scatter(1, y.unsqueeze(1), 0.0)
    if weight is not None:
        z = z * weight[y].unsqueeze(1)
    return _shaped((z ** p).sum(1) / x.size(1), target, word)


def witness_wrong_weight_inside_power():
    x, y, w = torch.randn(3, 3), torch.tensor([0, 1, 2]), torch.tensor([0.2, 3.0, 2.0])
    return torch.allclose(wrong_weight_inside_power(x, y, weight=w), F.multi_margin_loss(x, y, weight=w)) and \
        not torch.allclose(wrong_weight_inside_power(x, y, p=2, weight=w), F.multi_margin_loss(x, y, p=2, weight=w))


def right_one_hot(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """One-hot masks and einsum instead of gather and scatter."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight)
    hot = F.one_hot(y, x.size(1)).to(x.dtype)
    z = F.relu(margin + x - torch.einsum("nc,nc->n", x, hot).unsqueeze(1)) * (1 - hot)
    rows = (z.square() if p == 2 else z).mean(1)
    if weight is not None:
        rows = rows * (hot @ weight)
    return _shaped(rows, target, word)


class _Hinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, p, margin, weight):
        ctx.save_for_backward(x, y, weight)
        ctx.p, ctx.margin = p, margin
        return _rows(x, y, p, margin, weight)

    @staticmethod
    def backward(ctx, g):
        x, y, weight = ctx.saved_tensors
        col = y.unsqueeze(1)
        z = (ctx.margin - x.gather(1, col) + x)
        d = 2 * z.clamp_min(0) if ctx.p == 2 else (z > 0).to(x.dtype)
        d = d.scatter(1, col, 0.0)
        d = d.scatter_add(1, col, -d.sum(1, keepdim=True))
        g = g / x.size(1)
        if weight is not None:
            g = g * weight[y]
        return d * g.unsqueeze(1), None, None, None, None


def right_own_backward(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function with the analytic gradient."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, p, weight)
    return _shaped(_Hinge.apply(x, y, p, margin, weight), target, word)
