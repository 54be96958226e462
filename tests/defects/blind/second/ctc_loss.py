"""Wrong and right implementations of ctc_loss, written without sight of the suite."""
import torch
from torch.nn import functional as F

_NEG = -1e30


def _lengths(v, n):
    if isinstance(v, torch.Tensor):
        return [int(i) for i in v.reshape(-1).tolist()]
    if isinstance(v, int):
        return [v]
    return [int(i) for i in v]


def _lse(*xs):
    return torch.logsumexp(torch.stack(xs), 0)


def _nll(lp, labels, blank, skip_repeats=False, neg=_NEG):
    """-log p(labels | lp) for one (T, C) sequence, in the log domain."""
    dev = lp.device
    L = labels.numel()
    ext = torch.full((2 * L + 1,), blank, dtype=torch.long, device=dev)
    ext[1::2] = labels
    skip = torch.zeros(2 * L + 1, dtype=torch.bool, device=dev)
    if L:
        skip[3::2] = (labels[1:] != labels[:-1]) | skip_repeats
    low = torch.full((1,), neg, dtype=lp.dtype, device=dev)
    T = lp.shape[0]
    if T == 0:
        return lp.sum() + (0.0 if L == 0 else float("inf"))
    e = lp.index_select(1, ext)
    if neg == _NEG:
        e = e.clamp(min=neg)
    first = torch.arange(2 * L + 1, device=dev) < 2
    a = torch.where(first, e[0], low)
    for t in range(1, T):
        p1 = torch.cat([low, a[:-1]])
        p2 = torch.where(skip, torch.cat([low, low, a[:-2]])[:2 * L + 1], low)
        a = _lse(a, p1, p2) + e[t]
    ll = a[-1] if L == 0 else torch.logsumexp(a[-2:], 0)
    if neg == _NEG:
        ll = torch.where(ll < 0.5 * _NEG, ll.detach() * 0 - float("inf"), ll)
    return -ll


def _check(lp, targets, il, tl, N, T, C, blank):
    if not 0 <= blank < C:
        raise RuntimeError("blank must be in label range")
    if len(il) != N:
        raise RuntimeError(f"input_lengths must be of size batch_size {N}")
    if len(tl) != N:
        raise RuntimeError(f"target_lengths must be of size batch_size {N}")
    for i in il:
        if i < 0 or i > T:
            raise RuntimeError(f"Expected input_lengths to have value at most {T}, but got value {i}")
    for i in tl:
        if i < 0 or targets.dim() == 2 and i > targets.shape[1]:
            raise RuntimeError(f"Expected target_lengths to have value at most {targets.shape[-1]}, but got value {i}")


def _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, *,
          skip_repeats=False, neg=_NEG, mean="each", stride_by_max=False, floor_len=1, emit_all=False):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    single = log_probs.dim() == 2
    lp = log_probs.unsqueeze(1) if single else log_probs
    T, N, C = lp.shape
    il, tl = _lengths(input_lengths, N), _lengths(target_lengths, N)
    tg = targets.unsqueeze(0) if single and targets.dim() == 1 else targets
    _check(lp, tg, il, tl, N, T, C, blank)
    out, off = [], 0
    for n in range(N):
        if tg.dim() == 2:
            lab = tg[n, :tl[n]]
        elif stride_by_max:
            lab = tg[n * max(tl):][:tl[n]]
        else:
            lab = tg[off:off + tl[n]]
            off += tl[n]
        out.append(_nll(lp[:il[n] if not emit_all else T, n], lab.long().to(lp.device), blank, skip_repeats, neg))
    loss = torch.stack(out) if out else lp.new_zeros(0)
    if zero_infinity:
        loss = torch.where(torch.isinf(loss), torch.zeros_like(loss), loss)
    if reduction == "none":
        return loss.squeeze(0) if single else loss
    if reduction == "sum":
        return loss.sum()
    lens = torch.tensor(tl, dtype=loss.dtype, device=loss.device).clamp(min=floor_len)
    if mean == "total":
        return loss.sum() / lens.sum()
    return (loss / lens).mean()


def wrong_repeats_skip_blank(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Equal neighbouring labels may follow each other without a blank: only targets with doubled labels are wrong."""
    return _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, skip_repeats=True)


def _example(targets, T=6, C=4, lens=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    lp = torch.randn(T, len(targets), C, generator=g).log_softmax(-1)
    t = torch.tensor(targets)
    return lp, t, torch.full((len(targets),), T), torch.tensor(lens or [t.shape[1]] * len(targets))


def witness_wrong_repeats_skip_blank():
    e, ok = _example([[1, 1, 2]]), _example([[1, 3, 2]])
    return not torch.allclose(wrong_repeats_skip_blank(*e), F.ctc_loss(*e)) and torch.allclose(wrong_repeats_skip_blank(*ok), F.ctc_loss(*ok), rtol=1e-4)


def wrong_mean_by_total_length(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Per-token mean: sum of losses over the total target length; the same if all targets are equally long."""
    return _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, mean="total")


def witness_wrong_mean_by_total_length():
    e = _example([[1, 3, 2], [1, 2, 3]], lens=[3, 1])
    return not torch.allclose(wrong_mean_by_total_length(*e), F.ctc_loss(*e), rtol=1e-4)


def wrong_zero_infinity_nan_grad(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """zero_infinity replaces the value with where() after a recursion over true -inf: gradients become NaN."""
    return _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, neg=float("-inf"))


def witness_wrong_zero_infinity_nan_grad():
    lp, t, il, tl = _example([[1, 1, 1, 1], [1, 2, 3, 2]])
    lp.requires_grad_()
    wrong_zero_infinity_nan_grad(lp, t, il, tl, zero_infinity=True).backward()
    return bool(lp.grad.isnan().any())


def wrong_concatenated_stride(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Concatenated targets are addressed as n * max(target_lengths): right only if all lengths are equal."""
    return _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, stride_by_max=True)


def witness_wrong_concatenated_stride():
    lp = _example([[1, 2, 3], [1, 2, 3]])[0]
    a = (lp, torch.tensor([1, 3, 2, 1, 2]), torch.tensor([6, 6]), torch.tensor([2, 3]))
    try:
        return not torch.allclose(wrong_concatenated_stride(*a), F.ctc_loss(*a), rtol=1e-4)
    except (RuntimeError, IndexError):
        return True


def wrong_empty_target_mean(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """mean divides by a target length of zero: a batch with one empty (silent) transcript has an infinite loss."""
    return _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, floor_len=0)


def witness_wrong_empty_target_mean():
    e = _example([[1, 3, 2], [1, 2, 3]], lens=[3, 0])
    return bool(wrong_empty_target_mean(*e).isinf()) and bool(F.ctc_loss(*e).isfinite())


class WrongCTCLoss(torch.nn.Module):
    """Validates all of the padded targets: a padding of -1 beyond target_lengths raises."""

    def __init__(self, blank=0, reduction="mean", zero_infinity=False):
        super().__init__()
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= log_probs.shape[-1]):
            raise ValueError("targets must be class indices")
        return _core(log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity)


def witness_WrongCTCLoss():
    lp, t, il, tl = _example([[1, 3, 2], [1, -1, -1]], lens=[3, 1])
    F.ctc_loss(lp, t, il, tl)
    try:
        WrongCTCLoss()(lp, t, il, tl)
    except ValueError:
        return True
    return False


def right_alpha_recursion(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Forward recursion in the log domain, gradient by autograd."""
    return _core(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
