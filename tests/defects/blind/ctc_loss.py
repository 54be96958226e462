"""Wrong and right implementations of ctc_loss, written without sight of the suite."""

import torch
from torch.nn import functional as F

NEG = float("-inf")


def _lengths(v, n, what, device):
    v = torch.as_tensor(v, device="cpu").reshape(-1).long()
    if v.numel() != n:
        raise RuntimeError(f"{what} must be of size batch_size")
    return v.to(device)


def _prepare(log_probs, targets, input_lengths, target_lengths, blank):
    """(T, N, C) log-probabilities, padded (N, S) targets (blank beyond the length), lengths, batched?"""
    if log_probs.dim() not in (2, 3):
        raise RuntimeError("log_probs must be (T, N, C) or (T, C)")
    if not 0 <= blank < log_probs.shape[-1]:
        raise RuntimeError("blank must be in label range")
    batched = log_probs.dim() == 3
    lp = log_probs if batched else log_probs.unsqueeze(1)
    T, N, C = lp.shape
    il = _lengths(input_lengths, N, "input_lengths", lp.device)
    tl = _lengths(target_lengths, N, "target_lengths", lp.device)
    if il.numel() and (int(il.max()) > T or int(il.min()) < 0):
        raise RuntimeError(
            f"Expected input_lengths to have value at most {T}, but got value {int(il.max())}"
        )
    if tl.numel() and int(tl.min()) < 0:
        raise RuntimeError("Expected target_lengths to be non-negative")
    S = int(tl.max()) if tl.numel() else 0
    padded = torch.full((N, S), blank, dtype=torch.long, device=lp.device)
    if targets.dim() == 1 and batched:
        if targets.numel() != int(tl.sum()):
            raise RuntimeError(
                f"Expected tensor to have size {int(tl.sum())} at dimension 0, but got size {targets.numel()}"
            )
        if targets.numel():
            valid = torch.arange(S, device=lp.device)[None] < tl[:, None]
            padded[valid] = targets.to(lp.device).long()
    elif targets.dim() in (1, 2):
        t2 = targets.reshape(1, -1) if targets.dim() == 1 else targets
        if t2.shape[0] != N or t2.shape[1] < S:
            raise RuntimeError(
                f"Expected tensor to have size at least {S} at dimension 1, but got {tuple(targets.shape)}"
            )
        valid = torch.arange(S, device=lp.device)[None] < tl[:, None]
        padded = torch.where(valid, t2[:, :S].to(lp.device).long(), padded)
    else:
        raise RuntimeError("targets must be 1D or 2D")
    return lp, padded, il, tl, batched


def _extend(padded, blank):
    N, S = padded.shape
    ext = torch.full((N, 2 * S + 1), blank, dtype=torch.long, device=padded.device)
    ext[:, 1::2] = padded
    skip = torch.zeros_like(ext, dtype=torch.bool)
    skip[:, 3::2] = ext[:, 3::2] != ext[:, 1:-2:2]
    return ext, skip


def _shift(a, k):
    return (
        torch.cat([torch.full_like(a[:, :k], NEG), a[:, : a.shape[1] - k]], 1)
        if k <= a.shape[1]
        else torch.full_like(a, NEG)
    )


def _lse3(a, b, c):
    m = torch.maximum(torch.maximum(a, b), c)
    m0 = torch.where(m.isinf() & (m < 0), torch.zeros_like(m), m)
    return (torch.exp(a - m0) + torch.exp(b - m0) + torch.exp(c - m0)).log() + m0


class _CTC(torch.autograd.Function):
    """Forward-backward in the log domain. Gradient with torch's convention exp(lp) - occupancy, which is the gradient
    of the logits when log_probs come from log_softmax.
    """

    @staticmethod
    def forward(lp, padded, il, tl, blank, zero_infinity, mask_frames, need):
        T, N, C = lp.shape
        work = lp.detach().double() if lp.dtype == torch.float64 else lp.detach().float()
        ext, skip = _extend(padded, blank)
        L = ext.shape[1]
        pos = torch.arange(L, device=lp.device)[None]
        inside = pos < (2 * tl + 1)[:, None]
        emit = work.gather(2, ext[None].expand(T, N, L))
        emit = torch.where(inside[None], emit, torch.full_like(emit, NEG))
        n = torch.arange(N, device=lp.device)
        # virtual state before the first frame
        a = torch.full((N, L), NEG, dtype=work.dtype, device=lp.device)
        alphas = []
        for t in range(T):
            if t == 0:
                new = torch.where(pos < 2, emit[0], torch.full_like(a, NEG))
            else:
                s2 = torch.where(skip, _shift(a, 2), torch.full_like(a, NEG))
                new = _lse3(a, _shift(a, 1), s2) + emit[t]
            a = new
            alphas.append(a)
        last = 2 * tl
        prev = (last - 1).clamp(min=0)
        if T:
            al = torch.stack(alphas)
            end = al[(il - 1).clamp(min=0), n]
            e1 = end[n, last]
            e2 = torch.where(tl > 0, end[n, prev], torch.full_like(e1, NEG))
            ll = _lse3(e1, e2, torch.full_like(e1, NEG))
        else:
            ll = torch.full((N,), NEG, dtype=work.dtype, device=lp.device)
        ll = torch.where(
            il > 0, ll, torch.where(tl == 0, torch.zeros_like(ll), torch.full_like(ll, NEG))
        )
        loss = -ll
        bad = loss.isinf()
        saved = torch.zeros_like(lp)
        if need and T:
            b = torch.full((N, L), NEG, dtype=work.dtype, device=lp.device)
            skipb = torch.cat([skip[:, 2:], torch.zeros_like(skip[:, :2])], 1)[:, :L]
            final = (pos == last[:, None]) | ((pos == (last - 1)[:, None]) & (tl > 0)[:, None])
            occ = torch.zeros_like(work)
            for t in range(T - 1, -1, -1):
                if t + 1 < T:
                    z = b + emit[t + 1]
                    up1 = torch.cat([z[:, 1:], torch.full_like(z[:, :1], NEG)], 1)
                    up2 = torch.cat([z[:, 2:], torch.full_like(z, NEG)], 1)[:, :L]
                    go = _lse3(z, up1, torch.where(skipb, up2, torch.full_like(z, NEG)))
                else:
                    go = torch.full_like(b, NEG)
                start = torch.where(final, torch.zeros_like(b), torch.full_like(b, NEG))
                b = torch.where((il == t + 1)[:, None], start, go)
                g = (al[t] + b - ll[:, None]).exp()
                g = torch.where(inside & (il > t)[:, None], g, torch.zeros_like(g))
                occ[t].scatter_add_(
                    1,
                    ext,
                    torch.where(bad[:, None] & torch.ones_like(inside), torch.zeros_like(g), g),
                )
            grad = work.exp() - occ
            grad = torch.where(
                bad[None, :, None],
                torch.full_like(grad, 0.0 if zero_infinity else float("nan")),
                grad,
            )
            if mask_frames:
                live = torch.arange(T, device=lp.device)[:, None] < il[None]
                grad = torch.where(live[..., None], grad, torch.zeros_like(grad))
            saved = grad.to(lp.dtype)
        if zero_infinity:
            loss = torch.where(bad, torch.zeros_like(loss), loss)
        return loss.to(lp.dtype), saved

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, go, _):
        (grad,) = ctx.saved_tensors
        return (grad * go[None, :, None],) + (None,) * 7


def _finish(loss, tl, batched, reduction):
    if reduction == "none":
        return loss if batched else loss.squeeze(0)
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return (loss / tl.clamp(min=1).to(loss.dtype)).mean()
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _ctc(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank,
    reduction,
    zero_infinity,
    mask_frames=True,
):
    lp, padded, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    loss = _CTC.apply(
        lp, padded, il, tl, blank, zero_infinity, mask_frames, torch.is_grad_enabled()
    )[0]
    return _finish(loss, tl, batched, reduction)


# ---------------------------------------------------------------- wrong


def wrong_infinity_by_lengths(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """zero_infinity zeroes the samples whose input is shorter than their target. A repeated label needs a blank between:
    'aab' in 3 frames stays infinite.
    """
    out_red, reduction_in = reduction, "none"
    loss = _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction_in, False)
    batched = log_probs.dim() == 3
    n = log_probs.shape[1] if batched else 1
    il, tl = (_lengths(v, n, "lengths", log_probs.device) for v in (input_lengths, target_lengths))
    rows = loss if batched else loss.unsqueeze(0)
    if zero_infinity:
        short = il < tl
        rows = torch.where(short, torch.zeros_like(rows), rows)
        if rows.requires_grad and bool(short.any()):
            # the gradient of the samples zeroed must not pass through the infinite loss
            lp = log_probs if batched else log_probs.unsqueeze(1)
            clean = torch.where(short[None, :, None], torch.zeros_like(lp), lp)
            ok = _CTC.apply(
                clean,
                *_prepare(lp, targets if batched else targets.reshape(1, -1), il, tl, blank)[1:4],
                blank,
                True,
                True,
                True,
            )[0]
            rows = torch.where(
                short, torch.zeros_like(ok), torch.where(rows.isinf(), rows.detach(), ok)
            )
    return _finish(rows, tl, batched, out_red)


def witness_wrong_infinity_by_lengths():
    lp = torch.zeros(3, 1, 3).log_softmax(2)
    a = (lp, torch.tensor([[1, 1, 2]]), torch.tensor([3]), torch.tensor([3]))
    return (
        bool(wrong_infinity_by_lengths(*a, zero_infinity=True).isinf())
        and float(F.ctc_loss(*a, zero_infinity=True)) == 0.0
    )


def wrong_gradient_in_padded_frames(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """The frames beyond a sample's input length get the gradient exp(log_probs): the value is right, padding trains the
    network.
    """
    return _ctc(
        log_probs,
        targets,
        input_lengths,
        target_lengths,
        blank,
        reduction,
        zero_infinity,
        mask_frames=False,
    )


def witness_wrong_gradient_in_padded_frames():
    torch.manual_seed(0)
    x = torch.randn(6, 2, 4).log_softmax(2).requires_grad_()
    a = (torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 4]), torch.tensor([2, 2]))
    (g,) = torch.autograd.grad(wrong_gradient_in_padded_frames(x, *a), x)
    (r,) = torch.autograd.grad(F.ctc_loss(x, *a), x)
    return not torch.allclose(g, r)


def wrong_padding_is_looked_up(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """Padded targets are indexed whole: a padding value that is no class (-1, -100, C) raises although it lies beyond
    target_lengths.
    """
    if targets.dim() == 2 and targets.numel():
        last = (
            log_probs[-1]
            if log_probs.shape[0]
            else log_probs.new_zeros(targets.shape[0], log_probs.shape[-1])
        )
        if last.dim() == 2 and last.shape[0] == targets.shape[0]:
            last.detach().gather(1, targets.long())
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def witness_wrong_padding_is_looked_up():
    lp = torch.randn(6, 2, 4).log_softmax(2)
    a = (lp, torch.tensor([[1, 2], [3, -1]]), torch.tensor([6, 6]), torch.tensor([2, 1]))
    F.ctc_loss(*a)
    try:
        wrong_padding_is_looked_up(*a)
    except Exception:
        return True
    return False


def wrong_lengths_must_be_tensors(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """Tuples of lengths, documented, raise AttributeError."""
    il, tl = input_lengths.long(), target_lengths.long()
    return _ctc(log_probs, targets, il, tl, blank, reduction, zero_infinity)


def witness_wrong_lengths_must_be_tensors():
    lp, t = torch.randn(6, 2, 4).log_softmax(2), torch.tensor([[1, 2], [3, 1]])
    F.ctc_loss(lp, t, (6, 6), (2, 1))
    try:
        wrong_lengths_must_be_tensors(lp, t, (6, 6), (2, 1))
    except AttributeError:
        return True
    return False


def wrong_probability_domain(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """The recursion multiplies probabilities in float64 (much faster than logsumexp): utterances of some hundred frames
    or more underflow to a loss of infinity.
    """
    lp, padded, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    T, N, C = lp.shape
    if T == 0 or int(il.min()) == 0:
        return _ctc(
            log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity
        )
    ext, skip = _extend(padded, blank)
    L = ext.shape[1]
    pos = torch.arange(L, device=lp.device)[None]
    inside = pos < (2 * tl + 1)[:, None]
    # exp(lp) - occupancy: go through log_softmax's own shape, so that the gradient follows torch's convention
    norm = lp - lp.logsumexp(2, keepdim=True) + lp.logsumexp(2, keepdim=True).detach()
    p = norm.double().exp().gather(2, ext[None].expand(T, N, L)) * inside[None]
    a = p[0] * (pos < 2)
    keep = a
    for t in range(1, T):
        a = (a + F.pad(a, (1, 0))[:, :L] + F.pad(a, (2, 0))[:, :L] * skip) * p[t]
        keep = torch.where((il > t)[:, None], a, keep)
    n = torch.arange(N, device=lp.device)
    total = keep[n, 2 * tl] + torch.where(
        tl > 0, keep[n, (2 * tl - 1).clamp(min=0)], torch.zeros_like(keep[:, 0])
    )
    bad = total <= 0
    loss = -torch.where(bad, torch.ones_like(total), total).log()
    loss = torch.where(bad, torch.full_like(loss, 0.0 if zero_infinity else float("inf")), loss).to(
        lp.dtype
    )
    return _finish(loss, tl, batched, reduction)


def witness_wrong_probability_domain():
    torch.manual_seed(0)
    lp = torch.randn(500, 1, 40).log_softmax(2)
    a = (lp, torch.randint(1, 40, (1, 20)), torch.tensor([500]), torch.tensor([20]))
    return bool(wrong_probability_domain(*a).isinf()) and bool(F.ctc_loss(*a).isfinite())


def wrong_guesses_batch_first(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """Helpful: log_probs whose first dimension equals the number of padded targets are taken as (N, T, C) and
    transposed. So are (T, N, C) ones with T == N.
    """
    if log_probs.dim() == 3 and targets.dim() == 2 and log_probs.shape[0] == targets.shape[0]:
        log_probs = log_probs.transpose(0, 1)
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def witness_wrong_guesses_batch_first():
    torch.manual_seed(0)
    lp = torch.randn(4, 4, 3).log_softmax(2)
    a = (lp, torch.tensor([[1, 2]] * 4), torch.tensor([4] * 4), torch.tensor([2, 1, 2, 1]))
    return not torch.allclose(wrong_guesses_batch_first(*a), F.ctc_loss(*a))


def wrong_target_lengths_clamped_in_place(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """For the mean the caller's target_lengths are clamped to 1 in place: an empty target has length 1 from the second
    call on.
    """
    loss = _ctc(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction != "mean":
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if torch.is_tensor(target_lengths):
        den = target_lengths.clamp_(min=1)
    else:
        den = torch.as_tensor(target_lengths).clamp(min=1)
    return (loss / den.to(loss).reshape(loss.shape)).mean()


def witness_wrong_target_lengths_clamped_in_place():
    tl = torch.tensor([0, 2])
    wrong_target_lengths_clamped_in_place(
        torch.randn(5, 2, 4).log_softmax(2),
        torch.tensor([[1, 2], [1, 3]]),
        torch.tensor([5, 5]),
        tl,
    )
    return tl.tolist() == [1, 2]


class WrongCudnnLeftOff(torch.nn.Module):
    """cuDNN is switched off around the loss (it was blamed for NaN) by setting the global flag, and left off: every
    convolution of the process is slow from then on.
    """

    def __init__(self, blank=0, reduction="mean", zero_infinity=False):
        super().__init__()
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        torch.backends.cudnn.enabled = False
        return F.ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
        )


def witness_WrongCudnnLeftOff():
    old = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = True
        WrongCudnnLeftOff()(
            torch.randn(5, 1, 4).log_softmax(2),
            torch.tensor([[1, 2]]),
            torch.tensor([5]),
            torch.tensor([2]),
        )
        return not torch.backends.cudnn.enabled
    finally:
        torch.backends.cudnn.enabled = old


# ---------------------------------------------------------------- right


def right_forward_backward(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    """Vectorised forward-backward recursion, analytic gradient."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


class RightOneByOne(torch.nn.Module):
    """Each sample by itself, cut to its own lengths, so that neither padded frames nor padded labels are seen."""

    def __init__(self, blank=0, reduction="mean", zero_infinity=False):
        super().__init__()
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        lp, padded, il, tl, batched = _prepare(
            log_probs, targets, input_lengths, target_lengths, self.blank
        )
        rows = []
        for n in range(lp.shape[1]):
            T, S = int(il[n]), int(tl[n])
            rows.append(
                _CTC.apply(
                    lp[:T, n : n + 1],
                    padded[n : n + 1, :S],
                    il[n : n + 1],
                    tl[n : n + 1],
                    self.blank,
                    self.zero_infinity,
                    True,
                    torch.is_grad_enabled(),
                )[0]
            )
        loss = torch.cat(rows) if rows else lp.sum((0, 2))
        return _finish(loss, tl, batched, self.reduction)
