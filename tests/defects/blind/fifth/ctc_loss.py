import torch
import torch.nn.functional as F


def _as_list(x):
    if isinstance(x, torch.Tensor):
        return [int(v) for v in x.reshape(-1).tolist()]
    return [int(v) for v in x]


# ---------------------------------------------------------------- shared recursion


def _lse3(a, b, c):
    """logsumexp of three tensors, -inf safe in value and gradient."""
    s = torch.stack([a, b, c])
    m = s.detach().amax(0)
    none = m == float("-inf")
    m0 = torch.where(none, torch.zeros_like(m), m)
    e = (s - m0).exp().sum(0)
    out = torch.where(none, torch.ones_like(e), e).log() + m0
    return torch.where(none, torch.full_like(out, float("-inf")), out)


def _shift(a, k):
    pad = torch.full_like(a[:, :k], float("-inf"))
    return torch.cat([pad, a[:, : a.shape[1] - k]], 1)


def _extended(targets, il, tl, blank, device):
    """(N, 2S+1) labels with blanks between; targets as a list of lists."""
    n, s = len(tl), max(tl + [0])
    ext = torch.full((n, 2 * s + 1), blank, dtype=torch.long)
    for i, row in enumerate(targets):
        for j, v in enumerate(row):
            ext[i, 2 * j + 1] = v
    return ext.to(device)


def _rows_of(targets, tl):
    if targets.dim() == 1:
        out, at = [], 0
        flat = [int(v) for v in targets.tolist()]
        for k in tl:
            out.append(flat[at:at + k])
            at += k
        return out
    return [[int(v) for v in row[:k]] for row, k in zip(targets.tolist(), tl)]


def _forward_nll(lp, rows, il, tl, blank, repeats_checked=True):
    """Losses (N,) by a recursion over time that is vectorised over batch and states; lp (T, N, C)."""
    ext = _extended(rows, il, tl, blank, lp.device)
    n, width = ext.shape
    pos = torch.arange(width, device=lp.device)
    skip = (pos % 2 == 1) & (pos >= 2)
    skip = skip.unsqueeze(0).expand(n, width)
    if repeats_checked and width > 2:
        differ = torch.ones_like(ext, dtype=torch.bool)
        differ[:, 2:] = ext[:, 2:] != ext[:, :-2]
        skip = skip & differ
    ilt = torch.tensor(il, device=lp.device)
    tlt = torch.tensor(tl, device=lp.device)
    emit = lp.gather(2, ext.unsqueeze(0).expand(lp.shape[0], n, width))
    ninf = torch.full_like(emit[0], float("-inf"))
    alpha = torch.where(pos.unsqueeze(0) <= torch.where(tlt > 0, 1, 0).unsqueeze(1), emit[0], ninf)
    for t in range(1, lp.shape[0]):
        two = _shift(alpha, 2) if width > 2 else ninf
        new = _lse3(alpha, _shift(alpha, 1), torch.where(skip, two, ninf)) + emit[t]
        alpha = torch.where((ilt > t).unsqueeze(1), new, alpha)
    last = alpha.gather(1, (2 * tlt).unsqueeze(1)).squeeze(1)
    prev = alpha.gather(1, (2 * tlt - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    prev = torch.where(tlt > 0, prev, ninf[:, 0])
    loss = -_lse3(last, prev, ninf[:, 0])
    zero = torch.zeros_like(loss)
    none = ilt == 0
    return torch.where(none, torch.where(tlt > 0, zero + float("inf"), zero), loss)


def _with_softmax_convention(loss, lp, il):
    """torch's gradient is that of the loss after log_softmax, i.e. exp(log_probs) - posterior: value + 0."""
    live = torch.arange(lp.shape[0], device=lp.device).unsqueeze(1) < torch.tensor(il, device=lp.device)
    mass = (lp.exp().sum(2) * live).sum(0)
    return loss + (mass - mass.detach())


def _check(log_probs, targets, input_lengths, target_lengths, blank):
    tens = isinstance(input_lengths, torch.Tensor)
    if tens != isinstance(target_lengths, torch.Tensor) or not (
        tens or (isinstance(input_lengths, (tuple, list)) and isinstance(target_lengths, (tuple, list)))
    ):
        raise TypeError("ctc_loss() received an invalid combination of arguments")
    if tens:
        for name, v in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
            if v.is_floating_point() or v.is_complex() or v.dtype == torch.bool:
                raise RuntimeError(f"{name} must be integral")
    if log_probs.dim() not in (2, 3):
        raise RuntimeError(f"Expected 3-dimensional tensor, but got {log_probs.dim()}-dimensional log_probs")
    one = log_probs.dim() == 2
    lp = log_probs.unsqueeze(1) if one else log_probs
    if lp.numel() == 0:
        raise RuntimeError("log_probs tensor must not be empty")
    if lp.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(f'"ctc_loss" not implemented for {lp.dtype}')
    t, n, c = lp.shape
    if not 0 <= blank < c:
        raise RuntimeError("blank must be in label range")
    il, tl = _as_list(input_lengths), _as_list(target_lengths)
    if len(il) != n:
        raise RuntimeError("input_lengths must be of size batch_size")
    if len(tl) != n:
        raise RuntimeError("target_lengths must be of size batch_size")
    if targets.dim() not in (1, 2):
        raise RuntimeError(f"Expected 1 to 2 dimensions, but got {targets.dim()}-dimensional targets")
    if min(il) < 0 or max(il) > t:
        raise RuntimeError(f"Expected input_lengths to have value at least 0 and at most {t}")
    if min(tl) < 0:
        raise RuntimeError("Expected target_lengths to have value at least 0")
    if targets.dim() == 1 and targets.shape[0] != sum(tl):
        raise RuntimeError(f"Expected targets to have size {sum(tl)}, but got size {targets.shape[0]}")
    if targets.dim() == 2 and (targets.shape[0] != n or targets.shape[1] < max(tl)):
        raise RuntimeError(f"Expected targets to have size ({n}, at least {max(tl)})")
    rows = _rows_of(targets, tl)
    if any(not 0 <= v < c for r in rows for v in r):
        raise RuntimeError("targets must be class indices")
    return one, lp, rows, il, tl


def _red(reduction):
    if reduction == "elementwise_mean":
        import warnings

        warnings.warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
                      stacklevel=3)
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, tl, one, reduction):
    if reduction == "none":
        return loss.squeeze(0) if one else loss
    if reduction == "sum":
        return loss.sum()
    return (loss / torch.tensor(tl, device=loss.device, dtype=loss.dtype).clamp(min=1)).mean()


# ---------------------------------------------------------------- wrong


def _zero_inf(loss, zero_infinity):
    if not zero_infinity:
        return loss
    return torch.where(torch.isinf(loss), torch.zeros_like(loss), loss)


def wrong_skip_between_repeats(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                               zero_infinity=False):
    """Allows to jump over the blank between two equal labels; shows for targets with a repeated neighbour (loss too small, finite where the input is too short)."""
    reduction = _red(reduction)
    one, lp, rows, il, tl = _check(log_probs, targets, input_lengths, target_lengths, blank)
    loss = _zero_inf(_forward_nll(lp, rows, il, tl, blank, repeats_checked=False), zero_infinity)
    ok = torch.isfinite(loss.detach())
    loss = torch.where(ok, _with_softmax_convention(loss, lp, il), loss)
    return _finish(loss, tl, one, reduction)


def _example():
    g = torch.Generator().manual_seed(0)
    lp = torch.randn(8, 2, 5, generator=g).log_softmax(2)
    return lp, torch.tensor([[1, 2, 2], [3, 0, 0]]), torch.tensor([8, 7]), torch.tensor([3, 1])


def witness_wrong_skip_between_repeats():
    lp, t, il, tl = _example()
    return not torch.allclose(wrong_skip_between_repeats(lp, t, il, tl), F.ctc_loss(lp, t, il, tl), rtol=1e-3)


def wrong_mean_over_all_labels(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                               zero_infinity=False):
    """'mean' divides the sum of the losses by the sum of the target lengths instead of dividing each loss by its own length first; shows when the target lengths differ."""
    if reduction != "mean" or sum(_as_list(target_lengths)) == 0:
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    total = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "sum", zero_infinity)
    return total / sum(_as_list(target_lengths))


def witness_wrong_mean_over_all_labels():
    lp, t, il, tl = _example()
    return not torch.allclose(wrong_mean_over_all_labels(lp, t, il, tl), F.ctc_loss(lp, t, il, tl), rtol=1e-3)


def wrong_mean_without_lengths(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                               zero_infinity=False):
    """'mean' is the plain mean over the batch, without division by the target lengths; shows when some target is longer than 1."""
    if reduction != "mean":
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity).mean()


def witness_wrong_mean_without_lengths():
    lp, t, il, tl = _example()
    return not torch.allclose(wrong_mean_without_lengths(lp, t, il, tl), F.ctc_loss(lp, t, il, tl), rtol=1e-3)


def wrong_zero_infinity_keeps_gradient(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                       zero_infinity=False):
    """zero_infinity replaces infinite losses by zero after the fact, the gradient of these samples is NaN; shows in backward with zero_infinity=True and an input too short for its target."""
    if not zero_infinity:
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, False)
    if reduction not in ("none", "mean", "sum"):
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, True)
    loss = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", False)
    loss = torch.where(torch.isinf(loss), torch.zeros_like(loss), loss)
    return _finish(loss if loss.dim() else loss.unsqueeze(0), _as_list(target_lengths), loss.dim() == 0, reduction)


def witness_wrong_zero_infinity_keeps_gradient():
    lp, t, il, tl = _example()
    il = torch.tensor([2, 7])
    lp.requires_grad_()
    a, = torch.autograd.grad(wrong_zero_infinity_keeps_gradient(lp, t, il, tl, zero_infinity=True), lp)
    b, = torch.autograd.grad(F.ctc_loss(lp, t, il, tl, zero_infinity=True), lp)
    return bool(torch.isnan(a).any()) and not bool(torch.isnan(b).any())


def wrong_blank_forgotten_unbatched(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                    zero_infinity=False):
    """The unbatched path (T, C) does not pass blank on and uses class 0; shows for 2-D log_probs with blank != 0."""
    if log_probs.dim() == 2 and 0 <= blank < log_probs.shape[1]:
        blank = 0
    return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def witness_wrong_blank_forgotten_unbatched():
    lp, t, il, tl = _example()
    a = wrong_blank_forgotten_unbatched(lp[:, 0], t[0], il[0], tl[0], blank=4)
    return not torch.allclose(a, F.ctc_loss(lp[:, 0], t[0], il[0], tl[0], blank=4), rtol=1e-3)


class _PosteriorGrad(torch.autograd.Function):
    """Value of the first argument, gradient by the second (a tensor with torch's values)."""

    @staticmethod
    def forward(ctx, value, ref):
        return value.clone()

    @staticmethod
    def backward(ctx, g):
        return None, g


def wrong_probability_domain(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                             zero_infinity=False):
    """The recursion multiplies plain probabilities without rescaling; shows as an infinite (or with zero_infinity zero) loss for long inputs, when the path probability underflows float32 (about 100 frames of noise)."""
    if reduction not in ("none", "mean", "sum"):
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    ref = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity)
    one, lp, rows, il, tl = _check(log_probs, targets, input_lengths, target_lengths, blank)
    values = []
    with torch.no_grad():
        for i, row in enumerate(rows):
            p = lp[:, i].exp()
            ext = [blank]
            for v in row:
                ext += [v, blank]
            prob = p.new_tensor(0.0 if row else 1.0)
            if il[i] > 0:
                alpha = p.new_zeros(len(ext))
                alpha[:2] = p[0, ext[:2]]
                can = [k >= 2 and k % 2 == 1 and ext[k] != ext[k - 2] for k in range(len(ext))]
                can = torch.tensor(can, device=p.device).to(p.dtype)
                for t in range(1, il[i]):
                    new = alpha.clone()
                    new[1:] += alpha[:-1]
                    if len(ext) > 2:
                        new[2:] += alpha[:-2] * can[2:]
                    alpha = new * p[t, ext]
                prob = alpha[-2:].sum()
            values.append(-prob.log())
        value = _zero_inf(torch.stack(values), zero_infinity)
    ref = ref if ref.dim() else ref.unsqueeze(0)
    return _finish(_PosteriorGrad.apply(value, ref), tl, one, reduction)


def witness_wrong_probability_domain():
    g = torch.Generator().manual_seed(0)
    lp = torch.randn(200, 1, 20, generator=g).log_softmax(2)
    args = (lp, torch.tensor([[1, 2, 3]]), torch.tensor([200]), torch.tensor([3]))
    a, b = wrong_probability_domain(*args), F.ctc_loss(*args)
    e = _example()
    same = torch.allclose(wrong_probability_domain(*e), F.ctc_loss(*e), rtol=1e-4)
    return same and bool(torch.isinf(a)) and bool(torch.isfinite(b))


def wrong_padding_overwritten(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                              zero_infinity=False):
    """Fills the padding of 2-D targets with blank in the caller's tensor; shows when the padding holds another value and targets is looked at afterwards."""
    if targets.dim() == 2:
        for row, k in zip(targets, _as_list(target_lengths)):
            if k >= 0:
                row[k:] = blank
    return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def witness_wrong_padding_overwritten():
    lp, t, il, tl = _example()
    t[1, 1:] = -1
    before = t.clone()
    wrong_padding_overwritten(lp, t, il, tl)
    return not torch.equal(before, t)


def wrong_padding_must_be_class(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                                zero_infinity=False):
    """Checks the class range over the whole 2-D targets, padding included, and refuses padding such as -1; shows for padded targets whose padding is no class index."""
    if targets.dim() == 2 and targets.numel() and log_probs.dim() >= 2:
        if int(targets.min()) < 0 or int(targets.max()) >= log_probs.shape[-1]:
            raise RuntimeError("targets must be class indices")
    return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def witness_wrong_padding_must_be_class():
    lp, t, il, tl = _example()
    t[1, 1:] = -1
    F.ctc_loss(lp, t, il, tl)
    try:
        wrong_padding_must_be_class(lp, t, il, tl)
    except RuntimeError:
        return True
    return False


# ---------------------------------------------------------------- right


def right_vectorised_recursion(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                               zero_infinity=False):
    """Recursion over time vectorised over batch and states, differentiated by autograd; the gradient follows torch (that of log_softmax outputs)."""
    reduction = _red(reduction)
    one, lp, rows, il, tl = _check(log_probs, targets, input_lengths, target_lengths, blank)
    loss = _forward_nll(lp, rows, il, tl, blank)
    inf = torch.isinf(loss.detach())
    good = _with_softmax_convention(torch.where(inf, torch.zeros_like(loss), loss), lp, il)
    if zero_infinity:
        loss = torch.where(inf, torch.zeros_like(loss), good)
    else:
        # an infinite loss has no gradient: value inf, gradient NaN, as torch
        live = torch.arange(lp.shape[0], device=lp.device).unsqueeze(1) < torch.tensor(il, device=lp.device)
        z = (lp.clamp(min=-1e30).sum(2)).masked_fill(~live, 0).sum(0)
        u = torch.where(inf, z - z.detach(), torch.ones_like(z))
        loss = torch.where(inf, -(u * u).log(), good)
    return _finish(loss, tl, one, reduction)


class _AlphaBeta(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lp, rows, il, tl, blank, zero_infinity):
        losses, grads = [], torch.zeros_like(lp)
        for i, row in enumerate(rows):
            k = il[i]
            ext = [blank]
            for v in row:
                ext += [v, blank]
            idx = torch.tensor(ext, device=lp.device)
            width = len(ext)
            skip = torch.tensor([j >= 2 and j % 2 == 1 and ext[j] != ext[j - 2] for j in range(width)],
                                device=lp.device)
            ninf = float("-inf")
            if k == 0:
                losses.append(lp.new_tensor(float("inf") if row else 0.0))
                continue
            e = lp[:k, i].double()[:, idx]

            def step(prev, can):
                a = torch.full((3, width), ninf, dtype=prev.dtype, device=prev.device)
                a[0] = prev
                a[1, 1:] = prev[:-1]
                if width > 2:
                    a[2, 2:] = torch.where(can[2:], prev[:-2], torch.full_like(prev[:-2], ninf))
                return torch.logsumexp(a, 0)

            alpha = torch.full((k, width), ninf, dtype=e.dtype, device=e.device)
            alpha[0, :2] = e[0, :2]
            for t in range(1, k):
                alpha[t] = step(alpha[t - 1], skip) + e[t]
            # after: log-probability of the frames behind t, given state; on reversed states
            can = torch.zeros_like(skip)
            if width > 2:
                can[2:] = skip.flip(0)[:-2]
            after = torch.full((k, width), ninf, dtype=e.dtype, device=e.device)
            after[k - 1, -2:] = 0
            for t in range(k - 2, -1, -1):
                after[t] = step((after[t + 1] + e[t + 1]).flip(0), can).flip(0)
            nll = -torch.logsumexp(alpha[k - 1, -2:], 0)
            losses.append(nll.to(lp.dtype))
            if torch.isinf(nll):
                if not zero_infinity:
                    grads[:k, i] = float("nan")
                continue
            post = torch.zeros((k, lp.shape[2]), dtype=e.dtype, device=e.device)
            post.index_add_(1, idx, (alpha + after + nll).exp())
            grads[:k, i] = (lp[:k, i].double().exp() - post).to(lp.dtype)
        loss = torch.stack(losses)
        if zero_infinity:
            loss = torch.where(torch.isinf(loss), torch.zeros_like(loss), loss)
        ctx.save_for_backward(grads)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        grads, = ctx.saved_tensors
        return grads * g.reshape(1, -1, 1), None, None, None, None, None


def right_alpha_beta_backward(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                              zero_infinity=False):
    """Forward-backward per sample in float64, own autograd.Function with posteriors (gradient as torch's; no second derivative, as torch)."""
    reduction = _red(reduction)
    one, lp, rows, il, tl = _check(log_probs, targets, input_lengths, target_lengths, blank)
    return _finish(_AlphaBeta.apply(lp, rows, il, tl, blank, zero_infinity), tl, one, reduction)
