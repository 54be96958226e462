import torch
import torch.nn as nn
import torch.nn.functional as F

INF = float("inf")


def _red(reduction):
    if reduction == "elementwise_mean":
        import warnings
        warnings.warn("reduction='elementwise_mean' is deprecated. "
                      "Please use reduction='mean' instead.", stacklevel=3)
        reduction = "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _lens(v, what, N):
    if isinstance(v, torch.Tensor):
        if v.is_floating_point() or v.is_complex() or v.dtype == torch.bool:
            raise RuntimeError(f"{what} must be integral")
        if v.dim() > 1:
            raise RuntimeError(f"{what} must be of size batch_size")
        v = v.reshape(-1).tolist()
    else:
        v = [int(k) for k in v]
    if len(v) != N:
        raise RuntimeError(f"{what} must be of size batch_size")
    if any(k < 0 for k in v):
        raise RuntimeError(f"Expected {what} to have value at least 0, but got value {min(v)}")
    return v


def _prepare(log_probs, targets, input_lengths, target_lengths, blank):
    """Checks; returns (lp (T,N,C), padded targets (N,S) long, il, tl lists, batched)."""
    if not log_probs.is_floating_point():
        raise NotImplementedError(f"ctc_loss not implemented for {log_probs.dtype}")
    batched = log_probs.dim() == 3
    if log_probs.dim() not in (2, 3):
        raise RuntimeError("log_probs must have 2 or 3 dimensions")
    if log_probs.numel() == 0:
        raise RuntimeError("log_probs tensor must not be empty")
    lp = log_probs if batched else log_probs.unsqueeze(1)
    if not batched and isinstance(input_lengths, int):
        input_lengths = (input_lengths,)
    if not batched and isinstance(target_lengths, int):
        target_lengths = (target_lengths,)
    T, N, C = lp.shape
    if batched:
        for v, what in ((input_lengths, "input_lengths"), (target_lengths, "target_lengths")):
            if isinstance(v, torch.Tensor) and v.dim() == 0:
                raise RuntimeError(f"{what} must be of size batch_size")
    il = _lens(input_lengths, "input_lengths", N)
    tl = _lens(target_lengths, "target_lengths", N)
    if not 0 <= blank < C:
        raise RuntimeError("blank must be in label range")
    if max(il) > T:
        raise RuntimeError(f"Expected input_lengths to have value at most {T}, got {max(il)}")
    S = max(tl)
    if targets.dim() == 1:
        if targets.numel() != sum(tl):
            raise RuntimeError(f"Expected targets to have size {sum(tl)}, got {targets.numel()}")
    elif targets.dim() == 2:
        if targets.shape[0] != N or targets.shape[1] < S:
            raise RuntimeError(f"Expected targets of size ({N}, >={S}), got {list(targets.shape)}")
    else:
        raise RuntimeError(f"Expected 1 to 2 dimensions for targets, got {targets.dim()}")
    tg = torch.full((N, S), blank, dtype=torch.long, device=lp.device)
    pos = 0
    for n, k in enumerate(tl):
        row = targets[pos:pos + k] if targets.dim() == 1 else targets[n, :k]
        tg[n, :k] = row.to(lp.device).long()
        pos += k
    return lp, tg, il, tl, batched


def _finish(nll, tl, reduction, zero_infinity, batched, dtype):
    if zero_infinity:
        nll = torch.where(nll == INF, torch.zeros_like(nll), nll)
    if reduction == "mean":
        nll = (nll / torch.tensor(tl, dtype=nll.dtype, device=nll.device).clamp(min=1)).mean()
    elif reduction == "sum":
        nll = nll.sum()
    elif not batched:
        nll = nll.reshape(())
    return nll.to(dtype)


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _lse(parts):
    """log of the sum of exponentials of a list of tensors, with clean gradients at -inf."""
    x = torch.stack(parts)
    m = x.amax(0).detach()
    m = torch.where(m == -INF, torch.zeros_like(m), m)
    s = (x - m).exp().sum(0)
    empty = s == 0
    out = torch.where(empty, torch.ones_like(s), s).log() + m
    return torch.where(empty, torch.full_like(out, -INF), out)


class _Attach(torch.autograd.Function):
    """Identity on nll; adds to the gradient of lp what torch's convention has beyond the
    derivative of the path sum (exp(lp), as lp is taken to be a log_softmax), and NaN for an
    infinite loss that is not zeroed."""

    @staticmethod
    def forward(ctx, lp, nll, valid, add, zero_infinity):
        ctx.save_for_backward(lp, nll, valid)
        ctx.add, ctx.zero_infinity = add, zero_infinity
        return nll.clone()

    @staticmethod
    def backward(ctx, g):
        lp, nll, valid = ctx.saved_tensors
        inf = nll == INF
        gl = torch.zeros_like(lp)
        if ctx.add:
            gl = torch.where(valid & ~inf[None, :, None], g[None, :, None] * lp.exp(), gl)
        if not ctx.zero_infinity:
            gl = gl.masked_fill(valid & inf[None, :, None], float("nan"))
        return gl, torch.where(inf, torch.zeros_like(g), g), None, None, None


def _valid(T, il, device):
    t = torch.arange(T, device=device)
    return (t[:, None] < torch.tensor(il, device=device)[None]).unsqueeze(-1)


# ------------------------------------------------------------------ right ones


def right_batched_alpha(log_probs, targets, input_lengths, target_lengths, blank=0,
                        reduction="mean", zero_infinity=False):
    """Alpha recursion for the whole batch at once; gradients by autograd plus torch's exp(lp)."""
    reduction = _red(reduction)
    lp0, tg, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    lp = lp0.to(_acc(lp0.dtype))
    T, N, C = lp.shape
    S = tg.shape[1]
    dev = lp.device
    ext = torch.full((N, 2 * S + 1), blank, dtype=torch.long, device=dev)
    ext[:, 1::2] = tg
    skip = torch.zeros_like(ext, dtype=torch.bool)
    skip[:, 3::2] = tg[:, 1:] != tg[:, :-1]
    L = ext.shape[1]
    ilt, tlt = torch.tensor(il, device=dev), torch.tensor(tl, device=dev)
    neg = lp.new_full((N, 2), -INF)
    # before the first frame: a virtual state in front of the first blank
    alpha = torch.full((N, L), -INF, dtype=lp.dtype, device=dev)
    emit = lp.gather(2, ext.unsqueeze(0).expand(T, N, L))
    first = torch.zeros(N, L, dtype=torch.bool, device=dev)
    first[:, :2] = True
    for t in range(T):
        if t == 0:
            new = torch.where(first, emit[0], alpha)
        else:
            pad = torch.cat([neg, alpha], 1)
            two = torch.where(skip, pad[:, :L], torch.full_like(alpha, -INF))
            new = _lse([alpha, pad[:, 1:L + 1], two]) + emit[t]
        alpha = torch.where((t < ilt)[:, None], new, alpha)
    last = alpha.gather(1, (2 * tlt)[:, None]).squeeze(1)
    prev = alpha.gather(1, (2 * tlt - 1).clamp(min=0)[:, None]).squeeze(1)
    prev = torch.where(tlt > 0, prev, torch.full_like(prev, -INF))
    nll = -_lse([last, prev])
    nothing = (ilt == 0)
    nll = torch.where(nothing, torch.where(tlt == 0, 0.0, INF).to(nll.dtype), nll)
    nll = _Attach.apply(lp, nll, _valid(T, il, dev), True, zero_infinity)
    return _finish(nll, tl, reduction, zero_infinity, batched, log_probs.dtype)


def _alpha_beta(lp, lab, blank):
    """One sample, no autograd: nll and occupation (T, C); lp (T, C) float64."""
    T, C = lp.shape
    k = lab.numel()
    occ = torch.zeros_like(lp)
    if T == 0:
        return (0.0 if k == 0 else INF), occ
    ext = torch.full((2 * k + 1,), blank, dtype=torch.long, device=lp.device)
    ext[1::2] = lab
    L = ext.numel()
    e = lp[:, ext]
    skip = torch.zeros(L, dtype=torch.bool, device=lp.device)
    skip[2:] = (ext[2:] != blank) & (ext[2:] != ext[:-2])
    skip[2::2] = False
    if k > 1:
        skip[3::2] = lab[1:] != lab[:-1]
    a = torch.full((T, L), -INF, dtype=lp.dtype, device=lp.device)
    b = a.clone()
    a[0, :2] = e[0, :2]
    for t in range(1, T):
        p = a[t - 1]
        v = p.clone()
        v[1:] = torch.logaddexp(v[1:], p[:-1])
        if L > 2:
            v[2:] = torch.logaddexp(v[2:], p[:-2].masked_fill(~skip[2:], -INF))
        a[t] = v + e[t]
    b[T - 1, max(L - 2, 0):] = 0.0
    for t in range(T - 2, -1, -1):
        q = b[t + 1] + e[t + 1]
        v = q.clone()
        v[:-1] = torch.logaddexp(v[:-1], q[1:])
        if L > 2:
            v[:-2] = torch.logaddexp(v[:-2], q[2:].masked_fill(~skip[2:], -INF))
        b[t] = v
    ll = torch.logsumexp(a[T - 1, max(L - 2, 0):], 0)
    if ll == -INF:
        return INF, occ
    occ.index_add_(1, ext, (a + b - ll).exp())
    return -float(ll), occ


class _AlphaBeta(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lp, tg, il, tl, blank, zero_infinity):
        T, N, C = lp.shape
        x = lp.detach().double()
        occ = torch.zeros_like(x)
        out = []
        for n in range(N):
            v, o = _alpha_beta(x[:il[n], n], tg[n, :tl[n]], blank)
            occ[:il[n], n] = o
            out.append(v)
        nll = torch.tensor(out, dtype=torch.float64, device=lp.device)
        ctx.save_for_backward(x, occ, nll)
        ctx.il, ctx.zi, ctx.dt = il, zero_infinity, lp.dtype
        return nll.to(_acc(lp.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, occ, nll = ctx.saved_tensors
        grad = (x.exp() - occ) * g.double()[None, :, None]
        inf = (nll == INF)[None, :, None]
        grad = grad.masked_fill(inf, 0.0 if ctx.zi else float("nan"))
        for n, k in enumerate(ctx.il):
            grad[k:, n] = 0.0
        return grad.to(ctx.dt), None, None, None, None, None


def right_alpha_beta_function(log_probs, targets, input_lengths, target_lengths, blank=0,
                              reduction="mean", zero_infinity=False):
    """Forward-backward algorithm per sample in float64 with a hand-written gradient (torch's convention, exp(lp) minus occupation)."""
    reduction = _red(reduction)
    lp, tg, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    nll = _AlphaBeta.apply(lp, tg, il, tl, blank, zero_infinity)
    return _finish(nll, tl, reduction, zero_infinity, batched, log_probs.dtype)


def right_transition_matrix(log_probs, targets, input_lengths, target_lengths, blank=0,
                            reduction="mean", zero_infinity=False):
    """Log-semiring product with a dense transition matrix per sample; the gradient is the plain derivative with respect to log_probs (equal to torch's once it has passed through log_softmax)."""
    reduction = _red(reduction)
    lp, tg, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    x = lp.to(_acc(lp.dtype))
    T, N, C = x.shape
    dev = x.device
    L = 2 * tg.shape[1] + 1
    lab = torch.full((N, L), blank, dtype=torch.long, device=dev)
    lab[:, 1::2] = tg
    i = torch.arange(L, device=dev)
    step = i[:, None] - i[None, :]                       # [to, from]
    allowed = ((step == 0) | (step == 1)).expand(N, L, L).clone()
    two = (step == 2) & (i[:, None] % 2 == 1)
    allowed |= two & (lab[:, :, None] != lab[:, None, :])
    A = torch.where(allowed, 0.0, -INF).to(x.dtype)      # (N, to, from)
    start = torch.where(i < 2, 0.0, -INF).to(x.dtype)
    emit = torch.stack([x[:, n].index_select(1, lab[n]) for n in range(N)], 1)
    state = start + emit[0]
    kept = [state]
    for t in range(1, T):
        state = _lse(list((A + state[:, None, :]).unbind(2))) + emit[t]
        kept.append(state)
    rows = []
    for n in range(N):
        if il[n] == 0:
            rows.append(x.new_tensor(0.0 if tl[n] == 0 else -INF))
            continue
        end = kept[il[n] - 1][n]
        k = 2 * tl[n]
        rows.append(_lse([end[k]] + ([end[k - 1]] if k else [])))
    nll = -torch.stack(rows)
    nll = _Attach.apply(x, nll, _valid(T, il, dev), False, zero_infinity)
    return _finish(nll, tl, reduction, zero_infinity, batched, log_probs.dtype)


class RightBackwardRecursion(nn.Module):
    """Per sample, the recursion runs from the last frame to the first and by label instead of by extended state; the gradient is the plain derivative with respect to log_probs."""

    def __init__(self, blank=0, reduction="mean", zero_infinity=False):
        super().__init__()
        self.blank = blank
        self.reduction = reduction
        self.zero_infinity = zero_infinity

    def _one(self, x, lab):
        # B[s]: suffix sum when s labels are done and the current frame is blank
        # Y[s]: ... and the current frame emits label s
        k = len(lab)
        none = x.new_full((), -INF)
        if x.shape[0] == 0:
            return x.new_tensor(0.0) if k == 0 else x.new_tensor(INF)
        lab_t = torch.tensor(lab, dtype=torch.long, device=x.device)
        block = torch.tensor([True] * (k > 0) + [lab[j] == lab[j + 1] for j in range(k - 1)],
                             dtype=torch.bool, device=x.device)
        # block[j]: frame emitting label j-1 may not be followed directly by label j
        same = torch.cat([block[1:], block.new_ones(1)]) if k else block
        B = torch.cat([x.new_full((k,), -INF), x.new_zeros(1)])
        Y = torch.cat([x.new_full((k - 1,), -INF), x.new_zeros(1)]) if k else x.new_zeros(0)
        for t in range(x.shape[0] - 1, 0, -1):
            nb = B + x[t, self.blank]
            if k:
                ny = Y + x[t, lab_t]
                nxt = torch.cat([ny, none[None]])
                newB = _lse([nb, nxt])
                jump = torch.where(same, none, torch.cat([ny[1:], none[None]]))
                Y = _lse([ny, nb[1:], jump])
                B = newB
            else:
                B = nb
        first = [B[0] + x[0, self.blank]]
        if k:
            first.append(Y[0] + x[0, lab[0]])
        return -_lse(first)

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        reduction = _red(self.reduction)
        lp, tg, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths,
                                           self.blank)
        x = lp.to(_acc(lp.dtype))
        nll = torch.stack([self._one(x[:il[n], n], tg[n, :tl[n]].tolist())
                           for n in range(x.shape[1])])
        nll = _Attach.apply(x, nll, _valid(x.shape[0], il, x.device), False, self.zero_infinity)
        return _finish(nll, tl, reduction, self.zero_infinity, batched, log_probs.dtype)


# ------------------------------------------------------------------ wrong ones


def _recursion(lp, tg, il, tl, blank, repeat_check=True, start=None, negative=-INF,
               last_of_empty=False, lse=_lse):
    """The alpha recursion that the wrong ones below change in one point each."""
    x = lp.to(_acc(lp.dtype))
    T, N, C = x.shape
    S, dev = tg.shape[1], x.device
    ext = torch.full((N, 2 * S + 1), blank, dtype=torch.long, device=dev)
    ext[:, 1::2] = tg
    L = ext.shape[1]
    skip = torch.zeros_like(ext, dtype=torch.bool)
    skip[:, 3::2] = (tg[:, 1:] != tg[:, :-1]) if repeat_check else True
    ilt, tlt = torch.tensor(il, device=dev), torch.tensor(tl, device=dev)
    emit = x.gather(2, ext.unsqueeze(0).expand(T, N, L))
    low = x.new_full((N, L), negative)
    alpha = low
    for t in range(T):
        if t == 0:
            head = [x[0, :, blank if start is None else start][:, None], emit[0][:, 1:2]]
            new = torch.cat(head + [low[:, 2:]], 1) if L > 1 else head[0]
        else:
            pad = torch.cat([low[:, :1], low[:, :1], alpha], 1)
            two = torch.where(skip, pad[:, :L], low)
            new = lse([alpha, pad[:, 1:L + 1], two]) + emit[t]
        alpha = torch.where((t < ilt)[:, None], new, alpha)
    a = alpha.gather(1, (2 * tlt)[:, None]).squeeze(1)
    b = alpha.gather(1, (2 * tlt - 1).clamp(min=0)[:, None]).squeeze(1)
    if not last_of_empty:
        b = torch.where(tlt > 0, b, low[:, 0])
    nll = -lse([a, b])
    return torch.where(ilt == 0, torch.where(tlt == 0, 0.0, INF).to(nll.dtype), nll)


def _with(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity,
          **kw):
    reduction = _red(reduction)
    lp, tg, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    nll = _recursion(lp, tg, il, tl, blank, **kw)
    nll = _Attach.apply(lp.to(nll.dtype), nll, _valid(lp.shape[0], il, lp.device), True,
                        zero_infinity)
    return _finish(nll, tl, reduction, zero_infinity, batched, log_probs.dtype)


def _example(T=6, N=2, C=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(T, N, C, generator=g).log_softmax(2)


def wrong_repeats_may_touch(log_probs, targets, input_lengths, target_lengths, blank=0,
                            reduction="mean", zero_infinity=False):
    """The skip over a blank is allowed between two equal labels too; shows when a target repeats a label directly."""
    return _with(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                 zero_infinity, repeat_check=False)


def witness_wrong_repeats_may_touch():
    lp, tg = _example(), torch.tensor([[1, 1, 2], [3, 2, 1]])
    a = wrong_repeats_may_touch(lp, tg, (6, 6), (3, 3), reduction="none")
    b = F.ctc_loss(lp, tg, (6, 6), (3, 3), reduction="none")
    return not torch.allclose(a[0], b[0]) and torch.allclose(a[1], b[1])


def wrong_mean_over_all_labels(log_probs, targets, input_lengths, target_lengths, blank=0,
                               reduction="mean", zero_infinity=False):
    """'mean' divides the summed loss by the summed target lengths instead of averaging the losses divided each by its own length; shows when target lengths differ."""
    reduction = _red(reduction)
    if reduction != "mean":
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                          zero_infinity)
    s = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "sum", zero_infinity)
    return s / torch.as_tensor(target_lengths).clamp(min=1).sum()


def witness_wrong_mean_over_all_labels():
    lp, tg = _example(), torch.tensor([[1, 3, 2], [3, 2, 1]])
    same = torch.allclose(wrong_mean_over_all_labels(lp, tg, (6, 6), (3, 3)),
                          F.ctc_loss(lp, tg, (6, 6), (3, 3)))
    return same and not torch.allclose(wrong_mean_over_all_labels(lp, tg, (6, 6), (3, 1)),
                                       F.ctc_loss(lp, tg, (6, 6), (3, 1)))


def wrong_zero_infinity_value_only(log_probs, targets, input_lengths, target_lengths, blank=0,
                                   reduction="mean", zero_infinity=False):
    """zero_infinity zeroes the infinite losses in the value only; their gradients are still NaN."""
    reduction = _red(reduction)
    nll = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", False)
    if zero_infinity:
        nll = torch.where(nll == INF, torch.zeros_like(nll), nll)
    if reduction == "none":
        return nll
    if reduction == "sum":
        return nll.sum()
    tl = torch.as_tensor(target_lengths).clamp(min=1).to(nll)
    return (nll / tl.reshape(nll.shape)).mean()


def witness_wrong_zero_infinity_value_only():
    tg = torch.tensor([[1, 1, 2], [3, 2, 1]])
    lp = _example().requires_grad_()
    a = wrong_zero_infinity_value_only(lp, tg, (3, 6), (3, 3), zero_infinity=True)
    b = F.ctc_loss(lp, tg, (3, 6), (3, 3), zero_infinity=True)
    ga, = torch.autograd.grad(a, lp)
    gb, = torch.autograd.grad(b, lp)
    return torch.allclose(a, b) and bool(ga.isnan().any()) and not bool(gb.isnan().any())


def wrong_finite_log_zero(log_probs, targets, input_lengths, target_lengths, blank=0,
                          reduction="mean", zero_infinity=False):
    """log(0) is stored as -1e5, so a target that cannot be aligned gives a loss near 1e5 instead of infinity and zero_infinity never zeroes it."""
    return _with(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                 zero_infinity, negative=-1e5)


def witness_wrong_finite_log_zero():
    lp, tg = _example(), torch.tensor([[1, 1, 2], [3, 2, 1]])
    ok = torch.allclose(wrong_finite_log_zero(lp, tg, (6, 6), (3, 3)),
                        F.ctc_loss(lp, tg, (6, 6), (3, 3)))
    a = wrong_finite_log_zero(lp, tg, (3, 6), (3, 3), reduction="none", zero_infinity=True)
    b = F.ctc_loss(lp, tg, (3, 6), (3, 3), reduction="none", zero_infinity=True)
    return ok and float(b[0]) == 0.0 and float(a[0]) > 1e4


def wrong_start_in_column_zero(log_probs, targets, input_lengths, target_lengths, blank=0,
                               reduction="mean", zero_infinity=False):
    """The first blank state is initialised from column 0 instead of from the column of the blank label; shows with blank != 0."""
    return _with(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                 zero_infinity, start=0)


def witness_wrong_start_in_column_zero():
    lp, tg = _example(), torch.tensor([[1, 1, 2], [0, 2, 1]])
    return not torch.allclose(wrong_start_in_column_zero(lp, tg, (6, 6), (3, 3), blank=3),
                              F.ctc_loss(lp, tg, (6, 6), (3, 3), blank=3))


def wrong_empty_target_counted_twice(log_probs, targets, input_lengths, target_lengths, blank=0,
                                     reduction="mean", zero_infinity=False):
    """For a target of length 0 the only final state is added to itself (the index of the last label is clamped to 0), so the loss is log 2 too small."""
    return _with(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                 zero_infinity, last_of_empty=True)


def witness_wrong_empty_target_counted_twice():
    lp, tg = _example(), torch.tensor([[1, 1, 2], [3, 2, 1]])
    a = wrong_empty_target_counted_twice(lp, tg, (6, 6), (0, 3), reduction="none")
    b = F.ctc_loss(lp, tg, (6, 6), (0, 3), reduction="none")
    return abs(float(b[0] - a[0]) - 0.6931472) < 1e-4 and torch.allclose(a[1], b[1])


class _PadLeak(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lp, tg, il, tl, blank, zero_infinity):
        with torch.enable_grad():
            x = lp.detach().requires_grad_()
            nll = F.ctc_loss(x, tg, torch.tensor(il), torch.tensor(tl), blank, "none",
                             zero_infinity)
            g, = torch.autograd.grad(nll.sum(), x)
        for n, k in enumerate(il):
            if float(nll[n]) != INF and not (zero_infinity and float(nll[n]) == 0.0):
                g[k:, n] = lp[k:, n].exp()
        ctx.save_for_backward(g)
        return nll.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, go):
        g, = ctx.saved_tensors
        return g * go[None, :, None], None, None, None, None, None


def wrong_gradient_in_padding(log_probs, targets, input_lengths, target_lengths, blank=0,
                              reduction="mean", zero_infinity=False):
    """The gradient exp(log_probs) - occupation is not masked by input_lengths, so padding frames get a gradient although the loss does not depend on them."""
    reduction = _red(reduction)
    lp, tg, il, tl, batched = _prepare(log_probs, targets, input_lengths, target_lengths, blank)
    nll = _PadLeak.apply(lp, tg, il, tl, blank, zero_infinity)
    return _finish(nll, tl, reduction, zero_infinity, batched, log_probs.dtype)


def witness_wrong_gradient_in_padding():
    tg = torch.tensor([[1, 1, 2], [3, 2, 1]])
    lp = _example().requires_grad_()
    a = wrong_gradient_in_padding(lp, tg, (4, 6), (3, 3))
    ga, = torch.autograd.grad(a, lp)
    gb, = torch.autograd.grad(F.ctc_loss(lp, tg, (4, 6), (3, 3)), lp)
    return bool((ga[4:, 0] != 0).any()) and not bool((gb[4:, 0] != 0).any())


def wrong_probability_space(log_probs, targets, input_lengths, target_lengths, blank=0,
                            reduction="mean", zero_infinity=False):
    """The recursion multiplies plain probabilities without rescaling, so long inputs underflow and the loss becomes infinite (float32: about 60 frames of 20 classes)."""
    def plain(parts):
        s = torch.stack(parts).exp().sum(0)
        empty = s == 0
        out = torch.where(empty, torch.ones_like(s), s).log()
        return torch.where(empty, torch.full_like(out, -INF), out)
    return _with(log_probs, targets, input_lengths, target_lengths, blank, reduction,
                 zero_infinity, lse=plain)


def witness_wrong_probability_space():
    tg = torch.tensor([[1, 1, 2], [3, 2, 1]])
    lp = _example(150, 2, 20)
    short = torch.allclose(wrong_probability_space(lp, tg, (8, 8), (3, 3)),
                           F.ctc_loss(lp, tg, (8, 8), (3, 3)), rtol=1e-4)
    return short and bool(torch.isinf(wrong_probability_space(lp, tg, (150, 150), (3, 3)))) and bool(
        torch.isfinite(F.ctc_loss(lp, tg, (150, 150), (3, 3))))
