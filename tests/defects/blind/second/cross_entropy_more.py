"""More wrong implementations of cross_entropy (label smoothing, class probabilities, K dimensions)."""
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


def _ce(input, target, weight, ignore_index, word, s, smooth_by=None, prob_mean_by_weight=False, smooth_ignored=False):
    if input.dim() == 0 or not 0.0 <= s <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {s}")
    dim = 0 if input.dim() == 1 else 1
    c = input.size(dim)
    if weight is not None and weight.shape != (c,):
        raise RuntimeError(f"weight tensor should be defined either for all {c} classes or no classes")
    spatial = tuple(n for i, n in enumerate(input.shape) if i != dim)
    logp = F.log_softmax(input, dim)
    by_class = weight.reshape([1] * dim + [-1] + [1] * (input.dim() - dim - 1)) if weight is not None else None
    if target.shape == input.shape and target.is_floating_point():
        q = target * (1 - s) + s / (smooth_by or c)
        rows = logp if by_class is None else logp * by_class
        rows = -(rows * q).sum(dim)
        if word == "mean":
            if prob_mean_by_weight and by_class is not None:
                return rows.sum() / (target * by_class).sum()
            return rows.mean()
        return _reduced(rows, word)
    if target.is_floating_point():
        raise RuntimeError("expected scalar type Long but found Float")
    if input.dim() > 1 and target.dim() and input.size(0) != target.size(0):
        raise ValueError(f"Expected input batch_size ({input.size(0)}) to match target batch_size ({target.size(0)}).")
    if tuple(target.shape) != spatial:
        raise RuntimeError(f"Expected target size {list(spatial)}, got {list(target.shape)}")
    y = target.long()
    valid = y != ignore_index
    if bool((valid & ((y < 0) | (y >= c))).any()):
        raise IndexError("Target is out of bounds.")
    safe = y.masked_fill(~valid, 0)
    w = torch.ones_like(y, dtype=logp.dtype) if weight is None else weight[safe]
    w = w.masked_fill(~valid, 0)
    nll = -logp.gather(dim, safe.unsqueeze(dim)).squeeze(dim)
    rows = nll.masked_fill(~valid, 0) * w
    if s > 0:
        smooth = -(logp if by_class is None else logp * by_class).sum(dim)
        if not smooth_ignored:
            smooth = smooth.masked_fill(~valid, 0)
        rows = (1 - s) * rows + smooth * (s / (smooth_by or c))
    if word != "mean":
        return _reduced(rows, word)
    wide = torch.promote_types(rows.dtype, torch.float32)
    return (rows.sum(dtype=wide) / w.sum(dtype=wide)).to(rows.dtype)


def wrong_smoothing_by_last_size(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                 reduction="mean", label_smoothing=0.0):
    """The uniform part is label_smoothing / input.size(-1): for (N, C, d) that is the spatial size, not C."""
    word = _word(size_average, reduce, reduction)
    return _ce(input, target, weight, ignore_index, word, label_smoothing, smooth_by=input.size(-1))


def witness_wrong_smoothing_by_last_size():
    x, y = torch.randn(2, 3, 7), torch.randint(3, (2, 7))
    k = dict(label_smoothing=0.2)
    return torch.allclose(wrong_smoothing_by_last_size(x[:, :, 0], y[:, 0], **k), F.cross_entropy(x[:, :, 0], y[:, 0], **k)) and \
        not torch.allclose(wrong_smoothing_by_last_size(x, y, **k), F.cross_entropy(x, y, **k))


def wrong_probabilities_mean_by_weight(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                       reduction="mean", label_smoothing=0.0):
    """With class probabilities and weights, 'mean' divides by the expected weight; documented is N (times d1..dK)."""
    word = _word(size_average, reduce, reduction)
    return _ce(input, target, weight, ignore_index, word, label_smoothing, prob_mean_by_weight=True)


def witness_wrong_probabilities_mean_by_weight():
    x, q, w = torch.randn(4, 3), torch.randn(4, 3).softmax(1), torch.tensor([0.3, 2.0, 4.0])
    return torch.allclose(wrong_probabilities_mean_by_weight(x, q), F.cross_entropy(x, q)) and \
        not torch.allclose(wrong_probabilities_mean_by_weight(x, q, w), F.cross_entropy(x, q, w))


def wrong_ignored_rows_smoothed(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                reduction="mean", label_smoothing=0.0):
    """Ignored rows lose their likelihood term but keep the smoothing term, with its gradient."""
    word = _word(size_average, reduce, reduction)
    return _ce(input, target, weight, ignore_index, word, label_smoothing, smooth_ignored=True)


def witness_wrong_ignored_rows_smoothed():
    x, y = torch.randn(3, 4), torch.tensor([1, -100, 2])
    return torch.allclose(wrong_ignored_rows_smoothed(x, y), F.cross_entropy(x, y)) and not torch.allclose(
        wrong_ignored_rows_smoothed(x, y, label_smoothing=0.1), F.cross_entropy(x, y, label_smoothing=0.1))


def right_pieces(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                 reduction="mean", label_smoothing=0.0):
    """The same pieces, put together rightly."""
    word = _word(size_average, reduce, reduction)
    return _ce(input, target, weight, ignore_index, word, label_smoothing)
