"""Wrong and right forms of torch.nn.functional.ctc_loss.

torch's own backward adds exp(log_probs) to the gradient at log_probs (a term that vanishes once it passes
through log_softmax). right_alpha_recursion gives the plain partial derivative; right_sample_by_sample and the
wrong forms keep torch's convention. Through log_softmax all agree.
"""
import torch
import torch.nn.functional as F
from torch.nn import _reduction as _R

_INF = float("inf")


# ----------------------------------------------------------------- helpers
def _red(reduction):
    _R.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _lengths(name, v, n, low, high, dev):
    if not isinstance(v, torch.Tensor):
        v = torch.tensor([int(k) for k in v], dtype=torch.long, device=dev)
    if v.is_floating_point() or v.is_complex() or v.dtype == torch.bool:
        raise RuntimeError(f"{name} must be integral")
    v = v.reshape(-1).to(dev, torch.long) if v.dim() <= 1 else v
    if v.shape != (n,):
        raise RuntimeError(f"{name} must be of size batch_size")
    vals = v.tolist()
    if min(vals) < low or (high is not None and max(vals) > high):
        raise RuntimeError(f"Expected {name} to have values from {low} to {high}, got {vals}")
    return v, vals


def _prepare(log_probs, targets, input_lengths, target_lengths, blank, row_stride=None):
    """-> (T, N, C) log-probs, (N, S) labels, input lengths, target lengths (tensor and list each), batched."""
    if not log_probs.is_floating_point():
        raise RuntimeError(f"ctc_loss is not implemented for {log_probs.dtype}")
    if log_probs.dim() not in (2, 3):
        raise RuntimeError(f"log_probs must have 2 or 3 dims, got {log_probs.dim()}")
    batched = log_probs.dim() == 3
    lp = log_probs if batched else log_probs.unsqueeze(1)
    T, N, C = lp.shape
    if lp.numel() == 0:
        raise RuntimeError("log_probs tensor must not be empty")
    if not 0 <= blank < C:
        raise RuntimeError("blank must be in label range")
    if targets.dim() not in (1, 2):
        raise RuntimeError(f"targets must have 1 or 2 dims, got {targets.dim()}")
    il, ilist = _lengths("input_lengths", input_lengths, N, 0, T, lp.device)
    tl, tlist = _lengths("target_lengths", target_lengths, N, 0, None, lp.device)
    S = max(tlist)
    targets = targets.to(lp.device).long()
    place = torch.arange(S, device=lp.device)
    live = place < tl.unsqueeze(1)
    if targets.dim() == 2:
        if targets.shape[0] != N or targets.shape[1] < S:
            raise RuntimeError(f"Expected targets of size ({N}, at least {S}), got {tuple(targets.shape)}")
        if row_stride is not None and S > 0:
            flat = targets.reshape(-1)
            labels = flat[(torch.arange(N, device=lp.device) * row_stride(S, targets.shape[1])).unsqueeze(1) + place]
        else:
            labels = targets[:, :S]
    else:
        if targets.numel() != sum(tlist):
            raise RuntimeError(f"Expected targets of size {sum(tlist)}, got {targets.numel()}")
        start = tl.cumsum(0) - tl
        at = torch.where(live, start.unsqueeze(1) + place, torch.zeros_like(live, dtype=torch.long))
        labels = targets[at] if targets.numel() else torch.zeros((N, S), dtype=torch.long, device=lp.device)
    labels = torch.where(live, labels, torch.full_like(labels, blank))
    return lp, labels, il, ilist, tl, tlist, batched


def _extend(labels, blank):
    N, S = labels.shape
    ext = torch.full((N, 2 * S + 1), blank, dtype=torch.long, device=labels.device)
    if S:
        ext[:, 1::2] = labels
    return ext


def _lse0(parts):
    """log-sum-exp over dim 0 whose value for all -inf is -inf and whose gradient there is 0."""
    m = parts.detach().amax(0)
    m = torch.where(m == -_INF, torch.zeros_like(m), m)
    s = (parts - m).exp().sum(0)
    none = s == 0
    out = torch.where(none, torch.ones_like(s), s).log() + m
    return torch.where(none, torch.full_like(out, -_INF), out)


def _shift(a, k):
    pad = torch.full((a.shape[0], min(k, a.shape[1])), -_INF, dtype=a.dtype, device=a.device)
    return torch.cat([pad, a[:, :a.shape[1] - pad.shape[1]]], 1)


def _alphas(lp, labels, il, blank):
    """Last alphas (N, 2S+1) of the batch-wide forward recursion in log space."""
    T, N, _ = lp.shape
    ext = _extend(labels, blank)
    L = ext.shape[1]
    emit = lp.gather(2, ext.unsqueeze(0).expand(T, N, L))
    skip = torch.zeros((N, L), dtype=torch.bool, device=lp.device)
    if L > 2:
        skip[:, 2:] = ext[:, 2:] != ext[:, :-2]
    col = torch.arange(L, device=lp.device)
    a = torch.where(col < 2, emit[0], torch.full_like(emit[0], -_INF))
    low = torch.full_like(a, -_INF)
    for t in range(1, T):
        two = torch.where(skip, _shift(a, 2), low)
        new = _lse0(torch.stack([a, _shift(a, 1), two])) + emit[t]
        a = torch.where((t < il).unsqueeze(1), new, a)
    return a


def _nll(a, il, tl, guarded, wrap=False):
    """Negative log-likelihood (N,); guarded: gradient 0 where infinite, else the natural NaN."""
    L = a.shape[1]
    last = a.gather(1, (2 * tl).unsqueeze(1)).squeeze(1)
    before = a.gather(1, ((2 * tl - 1) % L).unsqueeze(1)).squeeze(1)
    if not wrap:
        before = torch.where(tl > 0, before, torch.full_like(before, -_INF))
    both = torch.stack([last, before])
    if guarded:
        ll = _lse0(both)
    else:
        m = both.detach().amax(0)
        m = torch.where(m == -_INF, torch.zeros_like(m), m)
        ll = (both - m).exp().sum(0).log() + m
    nothing = il == 0
    empty = torch.where(tl == 0, torch.zeros_like(ll), torch.full_like(ll, _INF))
    return torch.where(nothing, empty, -ll)


def _torch_term(lp, il):
    """Per sample a term of value 0 that adds exp(log_probs) of its frames to the gradient."""
    live = (torch.arange(lp.shape[0], device=lp.device).unsqueeze(1) < il).unsqueeze(2)
    mass = torch.where(live, lp.exp(), torch.zeros_like(lp)).sum((0, 2))
    return mass - mass.detach()


def _finish(loss, tl, reduction, batched, dtype):
    if reduction == "mean":
        loss = (loss / tl.clamp(min=1).to(loss.dtype)).mean()
    elif reduction == "sum":
        loss = loss.sum()
    elif not batched:
        loss = loss.squeeze(0)
    return loss.to(dtype)


def _amp(x):
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _like_torch(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, row_stride=None,
                guarded=True, wrap=False, finite_mean=False):
    reduction = _red(reduction)
    log_probs = _amp(log_probs)
    lp, labels, il, _, tl, _, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank, row_stride)
    lp = lp.to(_acc(lp.dtype))
    loss = _nll(_alphas(lp, labels, il, blank), il, tl, zero_infinity and guarded, wrap) + _torch_term(lp, il)
    bad = loss.detach() == _INF
    if zero_infinity:
        loss = torch.where(bad, torch.zeros_like(loss), loss)
        if finite_mean and reduction == "mean":
            loss = loss / tl.clamp(min=1).to(loss.dtype)
            return (loss.sum() / (~bad).sum().clamp(min=1)).to(log_probs.dtype)
    return _finish(loss, tl, reduction, batched, log_probs.dtype)


# ------------------------------------------------------------------- right
def right_alpha_recursion(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Batch-wide forward recursion in log space by plain operations; gradient at log_probs is the plain
    partial derivative (minus the posterior)."""
    reduction = _red(reduction)
    log_probs = _amp(log_probs)
    lp, labels, il, _, tl, _, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    lp = lp.to(_acc(lp.dtype))
    loss = _nll(_alphas(lp, labels, il, blank), il, tl, zero_infinity)
    if zero_infinity:
        loss = torch.where(loss.detach() == _INF, torch.zeros_like(loss), loss)
    return _finish(loss, tl, reduction, batched, log_probs.dtype)


def right_sample_by_sample(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Each sample by itself over its own frames and states, with a table of allowed state changes;
    gradient in torch's convention."""
    reduction = _red(reduction)
    log_probs = _amp(log_probs)
    lp, labels, il, ilist, tl, tlist, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    lp = lp.to(_acc(lp.dtype))
    losses = []
    for n in range(lp.shape[1]):
        Tn, Sn = ilist[n], tlist[n]
        frames = lp[:Tn, n]
        if Tn == 0:
            losses.append(lp.new_zeros(()) if Sn == 0 or zero_infinity else lp.new_full((), _INF))
            continue
        ext = _extend(labels[n:n + 1, :Sn], blank)[0]
        L = ext.numel()
        i = torch.arange(L, device=lp.device)
        d = i.unsqueeze(0) - i.unsqueeze(1)  # from row to column
        ok = (d == 0) | (d == 1) | ((d == 2) & (ext.unsqueeze(0) != ext.unsqueeze(1)))
        emit = frames.index_select(1, ext)
        a = torch.where(i < 2, emit[0], torch.full_like(emit[0], -_INF))
        for t in range(1, Tn):
            a = _lse0(torch.where(ok, a.unsqueeze(1), torch.full_like(a, -_INF).unsqueeze(1))) + emit[t]
        loss = -_lse0(a[-2:] if Sn else a[-1:])
        mass = frames.exp().sum()
        if zero_infinity:
            loss = torch.where(loss.detach() == _INF, torch.zeros_like(loss), loss + (mass - mass.detach()))
        else:
            bad = loss.detach() == _INF
            mass = mass * torch.where(bad, torch.full_like(mass, float("nan")), torch.ones_like(mass)).detach()
            loss = torch.where(loss.detach() == _INF, torch.full_like(loss, _INF), loss) + _zero_valued(mass)
        losses.append(loss)
    return _finish(torch.stack(losses), tl, reduction, batched, log_probs.dtype)


class _ZeroValued(torch.autograd.Function):
    """Value 0, derivative 1 (keeps NaN out of the value while passing it to the gradient)."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.zeros_like(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


def _zero_valued(x):
    return _ZeroValued.apply(x)


# ------------------------------------------------------------------- wrong
def wrong_zero_infinity_nan_gradient(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """zero_infinity replaces an infinite loss by 0 after the fact only; the gradient of that sample is
    0 times inf, NaN, and not 0."""
    return _like_torch(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, guarded=False)


def _example():
    torch.manual_seed(0)
    lp = torch.randn(6, 2, 5, dtype=torch.double).log_softmax(2)
    return lp, torch.tensor([[1, 2, 2], [3, 1, 4]]), torch.tensor([6, 5]), torch.tensor([3, 2])


def witness_wrong_zero_infinity_nan_gradient():
    lp, tg, il, tl = _example()
    il = torch.tensor([3, 5])
    out = []
    for f in (wrong_zero_infinity_nan_gradient, F.ctc_loss):
        z = lp.clone().requires_grad_()
        o = f(z, tg, il, tl, zero_infinity=True)
        o.backward()
        out.append((o.detach(), z.grad))
    return torch.allclose(out[0][0], out[1][0]) and bool(out[0][1].isnan().any()) and not bool(out[1][1].isnan().any())


def wrong_zero_infinity_shrinks_mean(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """With zero_infinity and 'mean' the batch mean is taken over the samples with a finite loss only, and
    not over the batch with the infinite ones as 0."""
    return _like_torch(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, finite_mean=True)


def witness_wrong_zero_infinity_shrinks_mean():
    lp, tg, il, tl = _example()
    f = wrong_zero_infinity_shrinks_mean
    ok = torch.allclose(f(lp, tg, il, tl, zero_infinity=True), F.ctc_loss(lp, tg, il, tl, zero_infinity=True))
    il = torch.tensor([3, 5])
    return ok and not torch.allclose(f(lp, tg, il, tl, zero_infinity=True), F.ctc_loss(lp, tg, il, tl, zero_infinity=True))


def wrong_rows_as_long_as_longest(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """The padded (N, S) targets are read as a flat array with rows of max(target_lengths) entries, wrong
    when the padding is wider than the longest target."""
    return _like_torch(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity,
                       row_stride=lambda longest, width: longest)


def witness_wrong_rows_as_long_as_longest():
    lp, tg, il, tl = _example()
    wide = F.pad(tg, (0, 2), value=1)
    f = wrong_rows_as_long_as_longest
    return torch.allclose(f(lp, tg, il, tl), F.ctc_loss(lp, tg, il, tl)) and not torch.allclose(f(lp, wide, il, tl), F.ctc_loss(lp, wide, il, tl))


def wrong_empty_target_wraps(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """For a target of length 0 the second end state has index -1 and wraps round to the last state of the
    padded table, whose probability is added."""
    return _like_torch(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, wrap=True)


def witness_wrong_empty_target_wraps():
    lp, tg, il, tl = _example()
    f, e = wrong_empty_target_wraps, torch.tensor([1, 0])
    return torch.allclose(f(lp, tg, il, tl), F.ctc_loss(lp, tg, il, tl)) and not torch.allclose(f(lp, tg, il, e), F.ctc_loss(lp, tg, il, e))


def wrong_probability_space(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """The recursion runs over probabilities in float64 without rescaling; over some hundred frames they
    underflow and the loss is inf (or 0 with zero_infinity)."""
    reduction = _red(reduction)
    log_probs = _amp(log_probs)
    lp, labels, il, _, tl, _, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    lp = lp.to(_acc(lp.dtype))
    T, N, _ = lp.shape
    ext = _extend(labels, blank)
    L = ext.shape[1]
    p = lp.double().gather(2, ext.unsqueeze(0).expand(T, N, L)).exp()
    skip = torch.zeros((N, L), dtype=torch.double, device=lp.device)
    if L > 2:
        skip[:, 2:] = (ext[:, 2:] != ext[:, :-2]).double()
    a = p[0] * (torch.arange(L, device=lp.device) < 2).double()
    for t in range(1, T):
        new = (a + F.pad(a, (1, 0))[:, :L] + skip * F.pad(a, (2, 0))[:, :L]) * p[t]
        a = torch.where((t < il).unsqueeze(1), new, a)
    last = a.gather(1, (2 * tl).unsqueeze(1)).squeeze(1)
    before = a.gather(1, (2 * tl - 1).clamp(min=0).unsqueeze(1)).squeeze(1) * (tl > 0).double()
    total = last + before
    if zero_infinity:
        none = total == 0
        loss = torch.where(none, torch.zeros_like(total), -torch.where(none, torch.ones_like(total), total).log())
        term = torch.where(none, torch.zeros_like(loss), _torch_term(lp, il).double())
    else:
        loss, term = -total.log(), _torch_term(lp, il).double()
    empty = torch.where((tl == 0) | torch.tensor(bool(zero_infinity), device=lp.device), torch.zeros_like(loss), torch.full_like(loss, _INF))
    loss = torch.where(il == 0, empty, loss + term).to(lp.dtype)
    return _finish(loss, tl, reduction, batched, log_probs.dtype)


def witness_wrong_probability_space():
    lp, tg, il, tl = _example()
    f = wrong_probability_space
    ok = torch.allclose(f(lp, tg, il, tl), F.ctc_loss(lp, tg, il, tl))
    torch.manual_seed(0)
    long = torch.randn(600, 1, 30).log_softmax(2)
    a = (long, torch.tensor([[1, 2, 3]]), torch.tensor([600]), torch.tensor([3]))
    return ok and f(*a).item() == _INF and F.ctc_loss(*a).item() < 1e4


def wrong_lengths_only_as_tensors(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Lengths given as tuples of ints, which the documentation admits, raise an AttributeError."""
    longest = int(input_lengths.max()) if input_lengths.numel() else 0
    if longest > log_probs.shape[0]:
        raise RuntimeError(f"Expected input_lengths to have value at most {log_probs.shape[0]}, but got value {longest}")
    return _like_torch(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def witness_wrong_lengths_only_as_tensors():
    lp, tg, il, tl = _example()
    ok = torch.allclose(wrong_lengths_only_as_tensors(lp, tg, il, tl), F.ctc_loss(lp, tg, (6, 5), (3, 2)))
    try:
        wrong_lengths_only_as_tensors(lp, tg, (6, 5), (3, 2))
        return False
    except AttributeError:
        return ok


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
