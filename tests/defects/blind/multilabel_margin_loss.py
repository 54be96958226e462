"""Wrong and right implementations of multilabel_margin_loss, written without sight of the suite."""

import torch
from torch.nn import _reduction as _Reduction
from torch.nn import functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input, target):
    if input.dim() not in (1, 2) or input.size(-1) == 0:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}"
        )
    if input.shape != target.shape:
        raise RuntimeError(
            f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}"
        )


def _rows(input, target):
    return (input[None], target[None]) if input.dim() == 1 else (input, target)


def _unrow(loss, input):
    return loss[0] if input.dim() == 1 else loss


def _parts(x, y):
    """Valid (N, C): the slots of the leading block; labels with 0 in the others; is_target (N, C)."""
    valid = (y >= 0).cumprod(1).bool()
    labels = torch.where(valid, y, 0)
    hits = torch.zeros(x.shape, dtype=torch.int64, device=x.device).scatter_add(
        1, labels, valid.long()
    )
    return valid, labels, hits > 0


def _longest(valid):
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(valid):
        return valid.size(1)  # no data-dependent trip count under transforms
    return int(valid.sum(1).max()) if valid.numel() else 0


def _by_slots(x, valid, labels, is_target):
    """(N) sums, one label slot after the other, up to the longest block."""
    loss = x.new_zeros(x.size(0))
    for j in range(_longest(valid)):
        z = (1 - x.gather(1, labels[:, j : j + 1]) + x).relu()
        loss = loss + torch.where(valid[:, j : j + 1] & ~is_target, z, 0).sum(1)
    return loss / x.size(1)


def wrong_pads_unmark_class_zero(input, target, size_average=None, reduce=None, reduction="mean"):
    """Marks the targets by scatter with the pads clamped to index 0 and the value False: in a row
    that has both label 0 and pads the last write unmarks class 0, which then counts as a non-target.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input, target)
    valid = (y >= 0).cumprod(1).bool()
    labels = torch.where(valid, y, 0)
    is_target = torch.zeros_like(valid).scatter(1, labels, valid)
    return _finish(_unrow(_by_slots(x, valid, labels, is_target), input), mode)


def witness_wrong_pads_unmark_class_zero():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    y1, y2 = torch.tensor([[3, 1, -1, -1]]), torch.tensor([[3, 0, -1, -1]])
    return torch.allclose(
        wrong_pads_unmark_class_zero(x, y1), F.multilabel_margin_loss(x, y1)
    ) and not torch.allclose(wrong_pads_unmark_class_zero(x, y2), F.multilabel_margin_loss(x, y2))


def wrong_cubic_memory(input, target, size_average=None, reduce=None, reduction="mean"):
    """All label slots against all classes at once: N * C * C elements, several times over, even when
    each row has one label.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input, target)
    valid, labels, is_target = _parts(x, y)
    z = (1 - x.gather(1, labels)[:, :, None] + x[:, None, :]).relu()
    keep = valid[:, :, None] & ~is_target[:, None, :]
    loss = (z * keep).sum((1, 2)) / x.size(1)
    return _finish(_unrow(loss, input), mode)


def witness_wrong_cubic_memory():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Biggest(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for o in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(o, torch.Tensor):
                    self.n = max(self.n, o.numel())
            return out

    x = torch.randn(2, 800)
    y = torch.full((2, 800), -1)
    y[:, 0] = 5
    with Biggest() as m:
        w = wrong_cubic_memory(x, y)
    with Biggest() as m2:
        r = F.multilabel_margin_loss(x, y)
    return m.n == 2 * 800 * 800 and m2.n <= 1600 and torch.allclose(w, r, rtol=1e-4)


def wrong_cleans_target_in_place(input, target, size_average=None, reduce=None, reduction="mean"):
    """Whatever follows the first -1 is overwritten with -1 in the caller's target."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input, target)
    y.masked_fill_((y < 0).cummax(1).values, -1)
    return _finish(_unrow(_by_slots(x, *_parts(x, y)), input), mode)


def witness_wrong_cleans_target_in_place():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    r = F.multilabel_margin_loss(x, y)
    w = wrong_cleans_target_in_place(x, y)
    return torch.allclose(w, r) and not torch.equal(y, torch.tensor([[3, 0, -1, 1]]))


def wrong_sixteen_label_slots(input, target, size_average=None, reduce=None, reduction="mean"):
    """The kernel's label buffer holds 16 slots: from the 17th on a row's labels are dropped from the
    sum (they still count as targets).
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input, target)
    valid, labels, is_target = _parts(x, y)
    return _finish(_unrow(_by_slots(x, valid[:, :16], labels[:, :16], is_target), input), mode)


def witness_wrong_sixteen_label_slots():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, generator=g)
    y = torch.full((2, 40), -1)
    y[:, :16] = torch.arange(16)
    ok = torch.allclose(wrong_sixteen_label_slots(x, y), F.multilabel_margin_loss(x, y))
    y[:, 16:20] = torch.arange(16, 20)
    return ok and not torch.allclose(
        wrong_sixteen_label_slots(x, y), F.multilabel_margin_loss(x, y)
    )


def wrong_float32_inside(input, target, size_average=None, reduce=None, reduction="mean"):
    """Works in float32 'for stability' and casts back: float64 inputs get 7 digits and a float64 label."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input.float(), target)
    return _finish(_unrow(_by_slots(x, *_parts(x, y)), input), mode).to(input.dtype)


def witness_wrong_float32_inside():
    x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]], dtype=torch.float64), torch.tensor([[3, 0, -1, 1]])
    a, b = wrong_float32_inside(x, y), F.multilabel_margin_loss(x, y)
    return a.dtype == b.dtype and torch.allclose(a.float(), b.float()) and abs(a - b).item() > 1e-10


def wrong_labels_as_a_set(input, target, size_average=None, reduce=None, reduction="mean"):
    """Works from the multi-hot of the labels: a label given twice in the block counts once (the
    documented sum is over the slots j of y).
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input, target)
    _, _, hot = _parts(x, y)
    order = torch.arange(x.size(1), device=x.device).expand_as(y)
    k = _longest(hot)
    first = torch.where(hot, order, x.size(1)).sort(1).values[:, :k]
    valid = first < x.size(1)
    return _finish(_unrow(_by_slots(x, valid, torch.where(valid, first, 0), hot), input), mode)


def witness_wrong_labels_as_a_set():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    y1, y2 = torch.tensor([[3, 1, -1, -1]]), torch.tensor([[3, 3, 1, -1]])
    return torch.allclose(
        wrong_labels_as_a_set(x, y1), F.multilabel_margin_loss(x, y1)
    ) and not torch.allclose(wrong_labels_as_a_set(x, y2), F.multilabel_margin_loss(x, y2))


class WrongStaleTargetMask(torch.nn.Module):
    """Allocates its is_target mask once per shape and never clears it: from the second call on the
    labels of earlier batches still count as targets.
    """

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _mode(size_average, reduce, reduction)
        self._mask = None

    def forward(self, input, target):
        _check(input, target)
        x, y = _rows(input, target)
        valid, labels, is_target = _parts(x, y)
        if (
            self._mask is None
            or self._mask.shape != is_target.shape
            or self._mask.device != x.device
        ):
            self._mask = torch.zeros_like(is_target)
        self._mask |= is_target
        return _finish(_unrow(_by_slots(x, valid, labels, self._mask), input), self.reduction)


def witness_WrongStaleTargetMask():
    m = WrongStaleTargetMask()
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    y1, y2 = torch.tensor([[3, 1, -1, -1]]), torch.tensor([[0, -1, -1, -1]])
    return torch.allclose(m(x, y1), F.multilabel_margin_loss(x, y1)) and not torch.allclose(
        m(x, y2), F.multilabel_margin_loss(x, y2)
    )


def _leading_block(y):
    return (y != -1).long().cumprod(1).bool()


def right_by_sorting(input, target, size_average=None, reduce=None, reduction="mean"):
    """Sorts the non-targets: what a label sees above its score - 1 is a suffix of them, whose sum
    comes from suffix sums (in float64). O(C log C) for each row, whatever the number of labels.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    x, y = _rows(input, target)
    c = x.size(1)
    valid = _leading_block(y)
    labels = torch.where(valid, y, torch.zeros_like(y))
    x = x.double()
    own = x.gather(1, labels)
    hits = torch.zeros_like(y).scatter_add(1, labels, valid.long())
    is_target = hits > 0
    keys, order = torch.where(
        is_target, torch.full_like(x.detach(), float("inf")), x.detach()
    ).sort(1)
    values = torch.where(is_target, torch.zeros_like(x), x).gather(1, order)
    suffix = values.flip(1).cumsum(1).flip(1)
    suffix = F.pad(suffix, (0, 1))
    count = (~is_target).sum(1, keepdim=True)
    start = torch.searchsorted(keys, (own.detach() - 1).contiguous(), right=True)
    start = torch.minimum(start, count.expand_as(start))
    active = count - start
    seen = suffix.gather(1, start)
    terms = torch.where(valid, active * (1 - own) + seen, torch.zeros_like(own))
    return _finish(_unrow(terms.sum(1) / c, input), mode).to(input.dtype)


class _SlotWise(torch.autograd.Function):
    """(N, C), (N, C) -> (N); memory of a few (N, C); the gradient is recomputed in the backward."""

    @staticmethod
    def forward(input, target):
        x, valid, labels, is_target, k = _SlotWise.prepare(input, target)
        loss = torch.zeros(x.size(0), dtype=x.dtype, device=x.device)
        for j in range(k):
            z = 1 - x.gather(1, labels[:, j : j + 1]) + x
            z = z.clamp_(min=0).masked_fill_(is_target, 0).sum(1)
            loss += z.masked_fill_(~valid[:, j], 0)
        return loss / x.size(1)

    @staticmethod
    def prepare(input, target):
        valid = _leading_block(target)
        labels = torch.where(valid, target, torch.zeros_like(target))
        is_target = torch.zeros_like(target).scatter_add(1, labels, valid.long()) > 0
        if torch.compiler.is_compiling():
            k = input.size(1)  # no data-dependent trip count in a graph
        else:
            k = int(valid.sum(1).max()) if valid.numel() else 0
        return input, valid, labels, is_target, k

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        x, valid, labels, is_target, k = _SlotWise.prepare(*ctx.saved_tensors)
        g = torch.zeros_like(x)
        for j in range(k):
            label = labels[:, j : j + 1]
            on = ((1 - x.gather(1, label) + x > 0) & ~is_target & valid[:, j : j + 1]).to(x.dtype)
            g = g + on
            g = g.scatter_add(1, label, -on.sum(1, keepdim=True))
        return g * (grad_output / x.size(1)).unsqueeze(1), None

    @staticmethod
    def vmap(info, in_dims, input, target):
        def front(t, d):
            return t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)

        x, y = front(input, in_dims[0]), front(target, in_dims[1])
        out = _SlotWise.apply(x.reshape(-1, x.size(-1)), y.reshape(-1, y.size(-1)))
        return out.reshape(x.shape[:2]), 0


def right_slot_by_slot(input, target, size_average=None, reduce=None, reduction="mean"):
    """One label slot after the other in an autograd.Function, analytic backward."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    return _finish(_unrow(_SlotWise.apply(*_rows(input, target)), input), mode)
