import torch
import torch.nn as nn
import torch.nn.functional as F


# ------------------------------------------------------------------ wrong
def wrong_zero_infinity_nan(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                            zero_infinity=False):
    """zero_infinity replaces infinite losses after the fact, so their gradients are nan instead of zero."""
    if not zero_infinity or reduction not in ("none", "mean", "sum"):
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    loss = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", False)
    loss = torch.where(loss == float("inf"), torch.zeros_like(loss), loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    tl = torch.as_tensor(target_lengths, device=loss.device).reshape(loss.shape)
    return (loss / tl.clamp(min=1).to(loss.dtype)).mean()


def witness_wrong_zero_infinity_nan():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 3).log_softmax(2).requires_grad_()
    a = (torch.tensor([[1, 1]]), torch.tensor([2]), torch.tensor([2]))
    g = torch.autograd.grad(wrong_zero_infinity_nan(x, *a, zero_infinity=True), x)[0]
    r = torch.autograd.grad(F.ctc_loss(x, *a, zero_infinity=True), x)[0]
    return bool(g.isnan().any()) and not bool(r.isnan().any())


class WrongEmptyTarget(nn.CTCLoss):
    """'mean' divides by the target lengths without the minimum of one, so an empty target gives inf (or nan)."""

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        if self.reduction != "mean":
            return super().forward(log_probs, targets, input_lengths, target_lengths)
        loss = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, self.blank, "none", self.zero_infinity)
        tl = torch.as_tensor(target_lengths, device=loss.device).reshape(loss.shape)
        return (loss / tl.to(loss.dtype)).mean()


def witness_WrongEmptyTarget():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3).log_softmax(2)
    a = (x, torch.tensor([[1, 2], [1, 1]]), torch.tensor([4, 4]), torch.tensor([2, 0]))
    return not torch.allclose(WrongEmptyTarget()(*a), nn.CTCLoss()(*a))


def _padded(targets, tl, n, blank):
    """(N, S) targets, with the entries past each length set to blank."""
    s = int(tl.max()) if n else 0
    if targets.dim() == 2:
        t = targets[:, :s].long()
    else:
        start = tl.cumsum(0) - tl
        pos = start.unsqueeze(1) + torch.arange(s, device=tl.device)
        t = targets.long()[pos.clamp(max=max(targets.numel() - 1, 0))] if targets.numel() else \
            torch.full((n, s), blank, device=tl.device)
    return torch.where(torch.arange(s, device=tl.device) < tl.unsqueeze(1), t, blank)


def _lse3(a, b, c):
    """log(e^a + e^b + e^c), with a zero gradient where all are -inf."""
    s = torch.stack([a, b, c])
    m = s.detach().amax(0)
    dead = m == float("-inf")
    m = m.masked_fill(dead, 0.0)
    e = (s - m).exp().sum(0)
    return torch.where(dead, float("-inf"), m + torch.where(dead, 1.0, e).log())


def _dp(lp, t, il, tl, blank, low):
    """Negative log-likelihoods of a batch by the forward recursion; `low` stands for log 0."""
    n, s = t.shape
    ext = torch.full((n, 2 * s + 1), blank, dtype=torch.long, device=lp.device)
    ext[:, 1::2] = t
    skip = torch.zeros_like(ext, dtype=torch.bool)
    skip[:, 3::2] = t[:, 1:] != t[:, :-1]
    pos = torch.arange(2 * s + 1, device=lp.device)
    emit = lp.gather(2, ext.unsqueeze(0).expand(lp.shape[0], -1, -1))
    alpha = torch.where(pos == 0, 0.0, torch.full_like(emit[0], low)) if lp.shape[0] else None
    none = torch.full_like(alpha[:, :1], low)
    for i in range(lp.shape[0]):
        one = torch.cat([none, alpha[:, :-1]], 1)
        two = torch.where(skip, torch.cat([none, none, alpha[:, :-2]], 1)[:, :alpha.shape[1]], low)
        if i == 0:
            new = torch.where(pos < 2, 0.0, low) + emit[0]
        else:
            new = _lse3(alpha, one, two) + emit[i]
        alpha = torch.where((i < il).unsqueeze(1), new, alpha)
    end = (2 * tl).unsqueeze(1)
    last = alpha.gather(1, end).squeeze(1)
    prev = torch.where(tl > 0, alpha.gather(1, (end - 1).clamp(min=0)).squeeze(1), low)
    return -_lse3(last, prev, torch.full_like(last, low))


def _usable(log_probs, targets, input_lengths, target_lengths, blank, reduction):
    """True for valid batched calls with integer length tensors; the rest is left to torch and its errors."""
    if reduction not in ("none", "mean", "sum") or log_probs.dtype not in (torch.float32, torch.float64):
        return False
    if log_probs.dim() != 3 or log_probs.numel() == 0 or torch.compiler.is_compiling():
        return False
    t, n, c = log_probs.shape
    if not 0 <= blank < c or targets.dtype not in (torch.int64, torch.int32) or targets.dim() not in (1, 2):
        return False
    for v in (input_lengths, target_lengths):
        if not isinstance(v, torch.Tensor) or v.shape != (n,) or v.dtype not in (torch.int64, torch.int32):
            return False
    try:
        if int(input_lengths.min()) < 1 or int(input_lengths.max()) > t or int(target_lengths.min()) < 0:
            return False
        s = int(target_lengths.max())
        if targets.dim() == 2 and (targets.shape[0] != n or targets.shape[1] < s):
            return False
        if targets.dim() == 1 and targets.numel() != int(target_lengths.sum()):
            return False
        return not targets.numel() or (int(targets.min()) >= 0 and int(targets.max()) < c)
    except RuntimeError:
        return False


def _finish(loss, tl, reduction, zero_infinity):
    if zero_infinity:
        loss = torch.where(loss == float("inf"), 0.0, loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return (loss / tl.clamp(min=1).to(loss.dtype)).mean()


def wrong_finite_log_zero(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                          zero_infinity=False):
    """The forward recursion uses -1e5 for log 0, so impossible alignments have a large finite loss instead of inf and escape zero_infinity."""
    if not _usable(log_probs, targets, input_lengths, target_lengths, blank, reduction):
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    il, tl = (v.to(log_probs.device).long() for v in (input_lengths, target_lengths))
    t = _padded(targets.to(log_probs.device), tl, log_probs.shape[1], blank)
    return _finish(_dp(log_probs, t, il, tl, blank, -1e5), tl, reduction, zero_infinity)


def witness_wrong_finite_log_zero():
    torch.manual_seed(0)
    x = torch.randn(3, 1, 3).log_softmax(2)
    a = (x, torch.tensor([[1, 1, 1]]), torch.tensor([3]), torch.tensor([3]))
    return bool(F.ctc_loss(*a).isinf()) and bool(wrong_finite_log_zero(*a).isfinite())


class WrongClampedLengths(nn.CTCLoss):
    """Input lengths beyond the number of time steps are silently cut to it instead of raising RuntimeError."""

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        t = log_probs.shape[0]
        if isinstance(input_lengths, torch.Tensor) and not input_lengths.is_floating_point():
            input_lengths = input_lengths.clamp(max=t)
        elif isinstance(input_lengths, (tuple, list)):
            input_lengths = tuple(min(v, t) for v in input_lengths)
        return super().forward(log_probs, targets, input_lengths, target_lengths)


def witness_WrongClampedLengths():
    x = torch.randn(4, 1, 3).log_softmax(2)
    a = (x, torch.tensor([[1, 2]]), torch.tensor([9]), torch.tensor([2]))
    try:
        nn.CTCLoss()(*a)
        return False
    except RuntimeError:
        return bool(WrongClampedLengths()(*a).isfinite())


_WORKSPACE = {}


class _CTCWorkspace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lp, targets, il, tl, blank, zero_infinity):
        key = (lp.shape, lp.dtype, lp.device)
        buf = _WORKSPACE.get(key)
        if buf is None:
            buf = _WORKSPACE[key] = torch.empty_like(lp, memory_format=torch.contiguous_format)
        with torch.enable_grad():
            y = lp.detach().requires_grad_()
            loss = F.ctc_loss(y, targets, il, tl, blank, "none", zero_infinity)
            buf.copy_(torch.autograd.grad(loss.sum(), y)[0])
        ctx.buf = buf
        return loss.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return ctx.buf * g.view(1, -1, 1), None, None, None, None, None


def wrong_shared_workspace(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                           zero_infinity=False):
    """The gradient workspace is kept per shape and reused, so a second forward before the first backward overwrites the first gradient."""
    if (not log_probs.requires_grad or not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
            or not _usable(log_probs, targets, input_lengths, target_lengths, blank, reduction)):
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    loss = _CTCWorkspace.apply(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    return _finish(loss, target_lengths.to(loss.device), reduction, False)


def witness_wrong_shared_workspace():
    torch.manual_seed(0)
    a = (torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2]))
    x = torch.randn(5, 1, 3).log_softmax(2).requires_grad_()
    y = torch.randn(5, 1, 3).log_softmax(2).requires_grad_()
    l1 = wrong_shared_workspace(x, *a)
    wrong_shared_workspace(y, *a)
    return not torch.allclose(torch.autograd.grad(l1, x)[0], torch.autograd.grad(F.ctc_loss(x, *a), x)[0])


# ------------------------------------------------------------------ right
def right_batched_recursion(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean",
                            zero_infinity=False):
    """Written as the forward recursion over the whole batch from plain differentiable operations, with a zero-valued term that gives torch's gradient for log-softmax inputs."""
    def default():
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    if not isinstance(targets, torch.Tensor) or log_probs.dim() not in (2, 3):
        return default()
    lp, tg = log_probs, targets
    single = lp.dim() == 2
    dev = lp.device
    try:
        il, tl = (v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=torch.int64)
                  for v in (input_lengths, target_lengths))
    except (TypeError, ValueError, RuntimeError):
        return default()
    if single:
        if tg.dim() != 1 or il.numel() != 1 or tl.numel() != 1:
            return default()
        lp, tg, il, tl = lp.unsqueeze(1), tg.unsqueeze(0), il.reshape(1), tl.reshape(1)
    if not _usable(lp, tg, il, tl, blank, reduction):
        return default()
    il, tl = il.to(dev).long(), tl.to(dev).long()
    t = _padded(tg.to(dev), tl, lp.shape[1], blank)
    used = (torch.arange(lp.shape[0], device=dev).unsqueeze(1) < il).unsqueeze(2)
    # steps past each length take no part, also when they hold nan or inf
    lp = torch.where(used, lp, 0.0)
    loss = _dp(lp, t, il, tl, blank, float("-inf"))
    p = torch.where(used, lp.exp(), 0.0).sum((0, 2))
    inf = loss == float("inf")
    if zero_infinity:
        loss = torch.where(inf, 0.0, loss)
        p = torch.where(inf, 0.0, p)
    loss = loss + (p - p.detach())
    if single:
        loss, tl = loss.squeeze(0), tl.squeeze(0)
    return _finish(loss, tl, reduction, False)
