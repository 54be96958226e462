"""Wrong and right implementations of multilabel_margin_loss, written without sight of the suite."""
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


def _checked(input, target):
    if input.dim() not in (1, 2) or input.size(-1) == 0:
        raise RuntimeError(f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {tuple(input.shape)}")
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {tuple(target.shape)} for input of size: {tuple(input.shape)}")
    if target.dtype != torch.int64:
        raise RuntimeError("expected scalar type Long for target")
    if target.numel() and (int(target.min()) < -1 or int(target.max()) >= input.size(-1)):
        raise RuntimeError("target out of range")
    return torch.atleast_2d(input), torch.atleast_2d(target)


def _labels(y):
    return (y >= 0).to(torch.int64).cumprod(1).bool()


def _is_label(x, y, front):
    hits = torch.zeros_like(y).scatter_add(1, y.clamp_min(0), front.to(y.dtype))
    return hits > 0


def _rows(x, y, front):
    other = ~_is_label(x, y, _labels(y))
    rows = x.new_zeros(x.size(0)) + 0 * x.sum(1).nan_to_num(0, 0, 0)
    for j in front.any(0).nonzero().flatten().tolist():
        z = 1 - x.gather(1, y[:, j:j + 1].clamp_min(0)) + x
        rows = rows + torch.where(other & front[:, j:j + 1], z, torch.zeros_like(z)).clamp_min(0).sum(1)
    return rows / x.size(1)


def _shaped(rows, input, word):
    if word != "none":
        return _reduced(rows, word)
    return rows.squeeze(0) if input.dim() == 1 else rows


def wrong_repeated_label_once(input, target, size_average=None, reduce=None, reduction="mean"):
    """Works with a multi-hot vector: a label that is listed twice counts once, where the sum is over positions j."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target)
    label = _is_label(x, y, _labels(y))
    rows = []
    for xr, lr in zip(x, label):
        rows.append((1 - xr[lr].unsqueeze(1) + xr[~lr].unsqueeze(0)).clamp_min(0).sum())
    rows = torch.stack(rows) / x.size(1) if rows else x.sum(1)
    return _shaped(rows, input, word)


def witness_wrong_repeated_label_once():
    x, y = torch.zeros(1, 4), torch.tensor([[2, 2, -1, -1]])
    return not torch.allclose(wrong_repeated_label_once(x, y), F.multilabel_margin_loss(x, y))


class WrongUnlabelledRowsSkipped(torch.nn.Module):
    """Rows without any label are left out, also of the divisor of 'mean'."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input, target):
        x, y = _checked(input, target)
        front = _labels(y)
        rows = _rows(x, y, front)
        if self.reduction == "mean":
            return rows.sum() / front.any(1).sum().clamp_min(1)
        return _shaped(rows, input, self.reduction)


def witness_WrongUnlabelledRowsSkipped():
    x, y = torch.zeros(2, 3), torch.tensor([[1, -1, -1], [-1, -1, -1]])
    return not torch.allclose(WrongUnlabelledRowsSkipped()(x, y), F.multilabel_margin_loss(x, y))


def wrong_padding_clamped_in_place(input, target, size_average=None, reduce=None, reduction="mean"):
    """Makes padding safe with clamp_ in the caller's target: the next epoch has label 0 there."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target)
    rows = _rows(x, y, _labels(y))
    y.clamp_(min=0)
    return _shaped(rows, input, word)


def witness_wrong_padding_clamped_in_place():
    x, y = torch.randn(2, 3), torch.tensor([[1, -1, -1], [2, 0, -1]])
    keep = y.clone()
    first = wrong_padding_clamped_in_place(x, y)
    return torch.allclose(first, F.multilabel_margin_loss(x, keep)) and not torch.equal(y, keep)


def wrong_all_pairs_in_memory(input, target, size_average=None, reduce=None, reduction="mean"):
    """Builds all N x C x C pairs, also for the padded positions."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target)
    front = _labels(y)
    z = (1 - x.gather(1, y.clamp_min(0)).unsqueeze(2) + x.unsqueeze(1)).clamp_min(0)
    keep = front.unsqueeze(2) & ~_is_label(x, y, front).unsqueeze(1)
    return _shaped(torch.where(keep, z, torch.zeros_like(z)).sum((1, 2)) / x.size(1), input, word)


def witness_wrong_all_pairs_in_memory():
    c = 1500
    x, y = torch.randn(1, c, requires_grad=True), torch.full((1, c), -1)
    y[0, 0] = 3
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        wrong_all_pairs_in_memory(x, y)
    return max(sizes) >= c * c


def wrong_labels_after_padding(input, target, size_average=None, reduce=None, reduction="mean"):
    """Non-labels are found from the front block, but the pairs run over the first k entries, k = number of
    non-negative entries in the row, wherever they stand."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target)
    k = (y >= 0).sum(1, keepdim=True)
    front = torch.arange(y.size(1), device=y.device).unsqueeze(0) < k
    return _shaped(_rows(x, y, front & (y >= 0)), input, word)


def witness_wrong_labels_after_padding():
    x, y = torch.zeros(1, 5), torch.tensor([[1, -1, 4, 2, -1]])
    return not torch.allclose(wrong_labels_after_padding(x, y), F.multilabel_margin_loss(x, y))


def right_label_by_label(input, target, size_average=None, reduce=None, reduction="mean"):
    """A loop over label positions, all rows at once."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target)
    return _shaped(_rows(x, y, _labels(y)), input, word)


def right_row_by_row(input, target, size_average=None, reduce=None, reduction="mean"):
    """Row by row: labels x others matrices."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target)
    rows = []
    for xr, yr in zip(x, y):
        stop = (yr < 0).nonzero()
        lab = yr[: int(stop[0])] if len(stop) else yr
        other = torch.ones_like(yr, dtype=torch.bool)
        other[lab] = False
        rows.append(F.relu(1 + xr[other].unsqueeze(0) - xr[lab].unsqueeze(1)).sum())
    rows = torch.stack(rows) / x.size(1) if rows else x.sum(1)
    return _shaped(rows, input, word)
