import math

import torch
import torch.nn as nn
import torch.nn.functional as F

NEG_INF = -math.inf


def _lengths(value, name, n):
    if torch.is_tensor(value):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise RuntimeError(f"{name} must be integral")
        value = [int(v) for v in value.reshape(-1).tolist()]
    elif isinstance(value, int):
        value = [value]
    else:
        value = [int(v) for v in value]
    if len(value) != n:
        raise RuntimeError(f"{name} must be of size batch_size")
    return value


def _prepare(log_probs, targets, input_lengths, target_lengths, blank, reduction, *, padded_offsets=False):
    """Checks as in torch; returns log_probs (T, N, C), the labels of each sample and the lengths."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if log_probs.dim() not in (2, 3):
        raise RuntimeError("log_probs must be 2- or 3-dimensional")
    if not log_probs.is_floating_point():
        raise NotImplementedError(f"ctc_loss is not implemented for {log_probs.dtype}")
    if log_probs.numel() == 0:
        raise RuntimeError("log_probs tensor must not be empty")
    batched = log_probs.dim() == 3
    lp = log_probs if batched else log_probs.unsqueeze(1)
    steps, n, classes = lp.shape
    if not 0 <= blank < classes:
        raise RuntimeError("blank must be in label range")
    il = _lengths(input_lengths, "input_lengths", n)
    tl = _lengths(target_lengths, "target_lengths", n)
    for v in il:
        if not 0 <= v <= steps:
            raise RuntimeError(f"Expected input_lengths to have value between 0 and {steps}, but got value {v}")
    for v in tl:
        if v < 0:
            raise RuntimeError(f"Expected target_lengths to have value at least 0, but got value {v}")
    if targets.dim() == 1:
        if targets.shape[0] != sum(tl):
            raise RuntimeError(f"Expected tensor to have size {sum(tl)} at dimension 0, but got size {targets.shape[0]}")
        flat = targets.long()
        labels, start = [], 0
        for v in tl:
            labels.append(flat[start : start + v])
            start += max(tl) if padded_offsets else v
        if padded_offsets:
            labels = [torch.cat([a, flat[flat.numel() - (v - a.numel()) :]]) if a.numel() < v else a for a, v in zip(labels, tl)]
    elif targets.dim() == 2:
        if targets.shape[0] != n:
            raise RuntimeError(f"Expected tensor to have size {n} at dimension 0, but got size {targets.shape[0]}")
        if tl and max(tl) > targets.shape[1]:
            raise RuntimeError(f"Expected tensor to have size at least {max(tl)} at dimension 1, but got size {targets.shape[1]}")
        labels = [targets[i, :v].long() for i, v in enumerate(tl)]
    else:
        raise RuntimeError("targets must be 1- or 2-dimensional")
    return lp, labels, il, tl, batched


def _finish(loss, tl, batched, reduction, zero_infinity, dtype, *, clamp=True, divide=True):
    if zero_infinity:
        loss = torch.where(loss == math.inf, torch.zeros_like(loss), loss)
    if reduction == "mean":
        if divide:
            den = torch.tensor(tl, device=loss.device)
            loss = loss / (den.clamp(min=1) if clamp else den).to(loss.dtype)
        return loss.mean().to(dtype)
    if reduction == "sum":
        return loss.sum().to(dtype)
    return (loss if batched else loss.squeeze(0)).to(dtype)


def _extended(labels, blank, device):
    ext = torch.full((2 * labels.numel() + 1,), blank, dtype=torch.long, device=device)
    ext[1::2] = labels.to(device)
    return ext


class _ForwardBackward(torch.autograd.Function):
    """Loss per sample by the alpha recursion; the gradient (as torch's: for normalised log_probs) from alpha and beta."""

    @staticmethod
    def forward(ctx, lp, labels, il, blank, zero_infinity, repeats_skip, extended_blank, leak_padding):
        steps, n, classes = lp.shape
        x = lp.detach().double()
        losses, grads = [], torch.zeros_like(x)
        for i in range(n):
            t_end = il[i]
            ext = _extended(labels[i], extended_blank, lp.device)
            s = ext.numel()
            skip = torch.zeros(s, dtype=torch.bool, device=lp.device)
            if s > 2:
                skip[2:] = (ext[2:] != extended_blank) if repeats_skip else (ext[2:] != ext[:-2])
                skip[2::2] = False
            emit = x[:t_end, i].index_select(1, ext)
            if t_end == 0:
                losses.append(x.new_tensor(-0.0 if s == 1 else math.inf))
                continue

            def step(prev, allowed):
                one = torch.cat([prev.new_full((1,), NEG_INF), prev[:-1]])
                two = torch.cat([prev.new_full((2,), NEG_INF), prev])[:s]
                return torch.logsumexp(torch.stack([prev, one, two.masked_fill(~allowed, NEG_INF)]), 0)

            alpha = x.new_full((t_end, s), NEG_INF)
            alpha[0, :2] = emit[0, :2]
            for t in range(1, t_end):
                alpha[t] = step(alpha[t - 1], skip) + emit[t]
            total = torch.logsumexp(alpha[-1, -2:], 0)
            losses.append(-total)
            beta = x.new_full((t_end, s), NEG_INF)
            beta[-1, -2:] = emit[-1, -2:]
            back_skip = torch.cat([skip[2:], skip.new_zeros(2)])[:s].flip(0)
            for t in range(t_end - 2, -1, -1):
                beta[t] = step(beta[t + 1].flip(0), back_skip).flip(0) + emit[t]
            if torch.isinf(total) and zero_infinity:
                continue
            occupied = torch.exp(alpha + beta - emit - total)
            occupied = torch.where((alpha == NEG_INF) | (beta == NEG_INF), torch.zeros_like(occupied), occupied)
            grads[:t_end, i] = x[:t_end, i].exp().index_add(1, ext, -occupied)
            if not torch.isfinite(total):
                grads[:t_end, i] = math.nan
            elif leak_padding:
                grads[t_end:, i] = x[t_end:, i].exp()
        ctx.save_for_backward(grads)
        ctx.dtype = lp.dtype
        return torch.stack(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (grads,) = ctx.saved_tensors
        out = torch.where(grads == 0, grads, grads * g.view(1, -1, 1))
        return out.to(ctx.dtype), None, None, None, None, None, None, None


def _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, *, repeats_skip=False,
         hard_blank=False, padded_offsets=False, clamp=True, divide=True, leak_padding=False, nan_grad=False):
    lp, labels, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                                           padded_offsets=padded_offsets)
    autocast = torch.is_autocast_enabled(lp.device.type) and lp.dtype != torch.float64
    dtype = torch.float32 if autocast else lp.dtype
    loss = _ForwardBackward.apply(lp, labels, il, blank, zero_infinity and not nan_grad, repeats_skip,
                                  0 if hard_blank else blank, leak_padding)
    return _finish(loss, tl, batched, reduction, zero_infinity, dtype, clamp=clamp, divide=divide)


def _example():
    lp = (torch.arange(6 * 2 * 4.0).reshape(6, 2, 4) * 1.7).sin().log_softmax(2)
    return lp, torch.tensor([[1, 2, 3], [3, 1, 1]])


def wrong_mean_without_target_lengths(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                      zero_infinity=False):
    """'mean' is the plain mean over the batch: the losses are not divided by the target lengths first."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, divide=False)


def witness_wrong_mean_without_target_lengths():
    lp, tg = _example()
    a, b = (f(lp, tg, (6, 6), (3, 2)) for f in (wrong_mean_without_target_lengths, F.ctc_loss))
    return not torch.allclose(a, b, rtol=1e-3)


def wrong_blank_is_always_zero(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                               zero_infinity=False):
    """The label sequence is interleaved with class 0 whatever `blank` says."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, hard_blank=True)


def witness_wrong_blank_is_always_zero():
    lp, tg = _example()
    tg = torch.tensor([[1, 2, 0], [2, 1, 0]])
    a, b = (f(lp, tg, (6, 6), (3, 2), blank=3) for f in (wrong_blank_is_always_zero, F.ctc_loss))
    return not torch.allclose(a, b, rtol=1e-3)


def wrong_repeats_need_no_blank(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                zero_infinity=False):
    """The recursion may skip the blank between two equal labels: the loss is too small where a target repeats a label."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, repeats_skip=True)


def witness_wrong_repeats_need_no_blank():
    lp, tg = _example()
    a, b = (f(lp, tg, (6, 6), (3, 3), reduction="none") for f in (wrong_repeats_need_no_blank, F.ctc_loss))
    return torch.allclose(a[0], b[0], rtol=1e-4) and not torch.allclose(a[1], b[1], rtol=1e-3)


def wrong_concatenated_offsets(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                               zero_infinity=False):
    """Concatenated 1-D targets are cut at multiples of the longest target, as if padded: wrong for uneven lengths."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, padded_offsets=True)


def witness_wrong_concatenated_offsets():
    lp = (torch.arange(6 * 2 * 4.0).reshape(6, 2, 4) * 1.7).sin().log_softmax(2)
    f, g = wrong_concatenated_offsets, F.ctc_loss
    even = torch.tensor([1, 2, 3, 1])
    uneven = torch.tensor([3, 1, 2, 3])
    a = f(lp, even, (6, 6), (2, 2)), g(lp, even, (6, 6), (2, 2))
    b = f(lp, uneven, (6, 6), (1, 3)), g(lp, uneven, (6, 6), (1, 3))
    return torch.allclose(*a, rtol=1e-4) and not torch.allclose(*b, rtol=1e-3)


def wrong_mean_divides_by_zero_length(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                      zero_infinity=False):
    """'mean' divides by a target length of 0 as well (torch: at least 1), so one empty target makes the loss inf."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, clamp=False)


def witness_wrong_mean_divides_by_zero_length():
    lp, tg = _example()
    a, b = (f(lp, tg, (6, 6), (3, 0)) for f in (wrong_mean_divides_by_zero_length, F.ctc_loss))
    return bool(b.isfinite()) and not bool(a.isfinite())


def wrong_zero_infinity_value_only(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                   zero_infinity=False):
    """zero_infinity zeroes the infinite losses but not their gradients, which come out as nan."""
    lp, labels, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank, reduction)
    dtype = lp.dtype
    if torch.is_autocast_enabled(lp.device.type) and dtype != torch.float64:
        dtype = torch.float32
    loss = _ForwardBackward.apply(lp, labels, il, blank, False, False, blank, False)
    return _finish(loss, tl, batched, reduction, zero_infinity, dtype)


def witness_wrong_zero_infinity_value_only():
    lp, tg = _example()
    out = []
    for f in (wrong_zero_infinity_value_only, F.ctc_loss):
        x = lp.clone().requires_grad_()
        v = f(x, tg, (2, 6), (3, 2), zero_infinity=True)
        out.append((v, torch.autograd.grad(v, x)[0]))
    (a, g), (b, h) = out
    return torch.allclose(a, b, rtol=1e-4) and bool(g.isnan().any()) and bool(h.isfinite().all())


class WrongInputLengthsUnused(nn.CTCLoss):
    """Every sample is aligned with all T frames, padding included: input_lengths is checked and then not used."""

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        n = log_probs.size(1) if log_probs.dim() == 3 else 1
        if log_probs.dim() in (2, 3) and log_probs.numel():
            _lengths(input_lengths, "input_lengths", n)
            for v in _lengths(input_lengths, "input_lengths", n):
                if not 0 <= v <= log_probs.size(0):
                    raise RuntimeError(f"Expected input_lengths to have value at most {log_probs.size(0)}, got {v}")
        full = torch.full((n,), log_probs.size(0), dtype=torch.long)
        return F.ctc_loss(log_probs, targets, full, torch.as_tensor(target_lengths).reshape(n), self.blank,
                          self.reduction, self.zero_infinity)


def witness_WrongInputLengthsUnused():
    lp, tg = _example()
    a, b = (c()(lp, tg, torch.tensor([6, 4]), torch.tensor([3, 2])) for c in (WrongInputLengthsUnused, nn.CTCLoss))
    return not torch.allclose(a, b, rtol=1e-3)


class WrongZeroInfinityHidesNan(nn.CTCLoss):
    """zero_infinity=True drops nan losses (nan in log_probs) as well as infinite ones, which hides a diverged model."""

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        if not self.zero_infinity:
            return super().forward(log_probs, targets, input_lengths, target_lengths)
        lp, _, _, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction)
        bad = torch.isnan(lp.detach()).any(2).any(0)
        clean = torch.where(torch.isnan(lp), torch.zeros_like(lp), lp)
        loss = F.ctc_loss(clean, targets, torch.tensor(_lengths(input_lengths, "input_lengths", lp.size(1))),
                          torch.tensor(tl), self.blank, "none", True)
        loss = torch.where(bad, torch.zeros_like(loss), loss)
        return _finish(loss, tl, batched, self.reduction, False, loss.dtype)


def witness_WrongZeroInfinityHidesNan():
    lp, tg = _example()
    lp[0, 0] = math.nan
    a, b = (c(zero_infinity=True)(lp, tg, (6, 6), (3, 2)) for c in (WrongZeroInfinityHidesNan, nn.CTCLoss))
    return bool(a.isfinite()) and bool(b.isnan())


def right_alpha_beta_float64(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                             zero_infinity=False):
    """Own autograd.Function with the alpha and beta recursions in log space and float64, sample by sample."""
    return _ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def _safe_lse(parts):
    """logsumexp over dim 0 whose gradient is 0, not nan, where everything is -inf."""
    x = torch.stack(parts)
    top = x.detach().amax(0)
    top = torch.where(top == NEG_INF, torch.zeros_like(top), top)
    total = torch.exp(x - top).sum(0)
    some = total != 0
    return torch.where(some, torch.log(torch.where(some, total, torch.ones_like(total))) + top, NEG_INF)


class _Batched(torch.autograd.Function):
    """The whole batch in one recursion over padded label sequences; posteriors by differentiating that recursion."""

    @staticmethod
    def forward(ctx, lp, labels, il, blank, zero_infinity):
        steps, n, classes = lp.shape
        dev = lp.device
        longest = max(v.numel() for v in labels)
        s = 2 * longest + 1
        ext = torch.full((n, s), blank, dtype=torch.long, device=dev)
        for i, v in enumerate(labels):
            ext[i, 1 : 2 * v.numel() : 2] = v.to(dev)
        size = torch.tensor([2 * v.numel() + 1 for v in labels], device=dev)
        ilt = torch.tensor(il, device=dev)
        pos = torch.arange(s, device=dev)
        skip = torch.zeros(n, s, dtype=torch.bool, device=dev)
        if s > 2:
            skip[:, 2:] = (ext[:, 2:] != ext[:, :-2]) & (pos[2:] % 2 == 1)
        with torch.enable_grad():
            x = lp.detach().double().requires_grad_()
            emit = x.gather(2, ext.unsqueeze(0).expand(steps, n, s))
            ninf = torch.full((n, 2), NEG_INF, dtype=x.dtype, device=dev)
            # state before the first frame: only a virtual start, from which positions 0 and 1 may be entered
            alpha = torch.where(pos < 2, emit[0], NEG_INF)
            for t in range(1, steps):
                two = torch.cat([ninf, alpha], 1)
                nxt = _safe_lse([alpha, two[:, 1 : s + 1], torch.where(skip, two[:, :s], NEG_INF)]) + emit[t]
                alpha = torch.where((ilt > t).unsqueeze(1), nxt, alpha)
            ends = (pos == (size - 1).unsqueeze(1)) | (pos == (size - 2).unsqueeze(1))
            final = torch.where(ends, alpha, NEG_INF)
            score = _safe_lse(list(final.unbind(1)))
            score = torch.where(ilt == 0, torch.where(size == 1, torch.zeros_like(score), NEG_INF), score)
            (post,) = torch.autograd.grad(score.sum(), x)
        frames = torch.arange(steps, device=dev).unsqueeze(1) < ilt
        grad = torch.where(frames.unsqueeze(2), x.detach().exp() - post, torch.zeros_like(post))
        loss = -score.detach()
        bad = ~torch.isfinite(loss)
        grad = torch.where((bad & frames).unsqueeze(2), torch.full_like(grad, math.nan), grad)
        if zero_infinity:
            grad = torch.where((loss == math.inf).view(1, n, 1), torch.zeros_like(grad), grad)
        ctx.save_for_backward(grad)
        ctx.dtype = lp.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (grad,) = ctx.saved_tensors
        return (grad * g.view(1, -1, 1)).to(ctx.dtype), None, None, None, None


class RightBatchedRecursion(nn.CTCLoss):
    """One recursion for the whole padded batch with a nan-safe logsumexp, label posteriors from autograd over it."""

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        lp, labels, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, self.blank,
                                               self.reduction)
        dtype = lp.dtype
        if torch.is_autocast_enabled(lp.device.type) and dtype != torch.float64:
            dtype = torch.float32
        loss = _Batched.apply(lp, labels, il, self.blank, self.zero_infinity)
        return _finish(loss, tl, batched, self.reduction, self.zero_infinity, dtype)
