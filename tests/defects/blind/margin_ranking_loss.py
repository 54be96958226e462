"""Wrong and right implementations of margin_ranking_loss, written without sight of the suite."""

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


def _check(input1, input2, target):
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )


def wrong_softplus_hinge(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """'Smooth, equal for all practical purposes': softplus of beta 50 in place of the hinge; near
    the hinge point the loss is up to 0.014 too large and the gradient is a half.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    return _finish(F.softplus(-target * (input1 - input2) + margin, beta=50.0), mode)


def witness_wrong_softplus_hinge():
    x, y, t = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0]), torch.tensor([1.0, -1.0])
    ok = torch.allclose(wrong_softplus_hinge(x, y, t), F.margin_ranking_loss(x, y, t))
    return ok and not torch.allclose(
        wrong_softplus_hinge(x, x + 0.01, t), F.margin_ranking_loss(x, x + 0.01, t)
    )


def wrong_margin_follows_label(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """-y * (x1 - x2 - margin): for y = -1 a margin other than 0 is subtracted."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    return _finish((-target * (input1 - input2 - margin)).clamp_min(0), mode)


def witness_wrong_margin_follows_label():
    x, y, t = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0])
    ok = torch.allclose(wrong_margin_follows_label(x, y, t), F.margin_ranking_loss(x, y, t))
    return ok and not torch.allclose(
        wrong_margin_follows_label(x, y, t, margin=0.5), F.margin_ranking_loss(x, y, t, margin=0.5)
    )


def wrong_margin_tensor_promotes(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The margin is a 0-d float64 tensor: harmless for batches, but 0-d float32 (or half) inputs
    are promoted to float64.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    m = torch.as_tensor(margin, dtype=torch.float64, device=input1.device)
    return _finish((m - target * (input1 - input2)).clamp_min(0), mode)


def witness_wrong_margin_tensor_promotes():
    x = torch.tensor(1.0)
    b = torch.ones(3)
    return (
        wrong_margin_tensor_promotes(b, b, b).dtype == torch.float32
        and wrong_margin_tensor_promotes(x, x, x).dtype == torch.float64
        and F.margin_ranking_loss(x, x, x).dtype == torch.float32
    )


class _OneFlag(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input1, input2, target, margin):
        return (-target * (input1 - input2) + margin).clamp_min(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input1, input2, target, margin = inputs
        active = (-target * (input1 - input2) + margin) >= 0
        ctx.save_for_backward(active, target)
        ctx.save_for_forward(active, target)
        ctx.shapes = input1.shape, input2.shape

    @staticmethod
    def jvp(ctx, d1, d2, *_):
        active, target = ctx.saved_tensors
        d = sum(t for t in (d1, -d2 if d2 is not None else None) if t is not None)
        return -target * d * active

    @staticmethod
    def backward(ctx, g):
        active, target = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        g1 = -target * g * active
        return g1.sum_to_size(ctx.shapes[0]), (-g1).sum_to_size(ctx.shapes[1]), None, None


def wrong_gradient_skipped_by_first(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """The backward looks at needs_input_grad[0] for both inputs: with input1 frozen input2 gets none."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    return _finish(_OneFlag.apply(input1, input2, target, margin), mode)


def witness_wrong_gradient_skipped_by_first():
    x, t = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    y = torch.tensor([3.0, 1.0], requires_grad=True)
    x2 = x.clone().requires_grad_()
    wrong_gradient_skipped_by_first(x2, y, t).backward()
    a = y.grad
    y.grad = None
    F.margin_ranking_loss(x2, y, t).backward()
    ok = torch.allclose(a, y.grad)
    y.grad = None
    wrong_gradient_skipped_by_first(x, y, t).backward()
    return ok and y.grad is None


def wrong_half_mean_overflow(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Mean = sum / count in the dtype of the inputs: in float16 the sum passes 65504 and mean is inf."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    loss = (-target * (input1 - input2) + margin).clamp_min(0)
    if mode == "mean":
        return loss.sum() / loss.numel()
    return _finish(loss, mode)


def witness_wrong_half_mean_overflow():
    x = torch.full((3000,), -20.0, dtype=torch.float16)
    y, t = -x, torch.ones(3000, dtype=torch.float16)
    return (
        bool(torch.isinf(wrong_half_mean_overflow(x, y, t)))
        and F.margin_ranking_loss(x, y, t).item() == 40.0
    )


def wrong_mean_of_chunk_means(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Above 4096 pairs the batch is done in chunks and 'mean' averages the chunks' means, though
    the last chunk is shorter.
    """
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    if input1.dim() == 0 or mode == "none" or not (input1.shape == input2.shape == target.shape):
        return _finish((-target * (input1 - input2) + margin).clamp_min(0), mode)
    parts = [
        _finish((-t * (a - b) + margin).clamp_min(0), mode)
        for a, b, t in zip(input1.split(4096), input2.split(4096), target.split(4096))
    ]
    parts = torch.stack(parts)
    return parts.sum() if mode == "sum" else parts.mean()


def witness_wrong_mean_of_chunk_means():
    x = torch.arange(5000.0) / 5000
    y, t = torch.zeros(5000), -torch.ones(5000)
    a, b = wrong_mean_of_chunk_means(x, y, t), F.margin_ranking_loss(x, y, t)
    ok = torch.allclose(
        wrong_mean_of_chunk_means(x[:4096], y[:4096], t[:4096]),
        F.margin_ranking_loss(x[:4096], y[:4096], t[:4096]),
    )
    return ok and abs(a - b).item() > 0.05


class WrongUnpicklable(torch.nn.Module):
    """Keeps its hinge as a lambda: torch.save(module), and sending it to workers, fails."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.margin = margin
        self.reduction = _mode(size_average, reduce, reduction)
        self._hinge = lambda d, m: torch.clamp_min(d + m, 0)

    def forward(self, input1, input2, target):
        _check(input1, input2, target)
        return _finish(self._hinge(-target * (input1 - input2), self.margin), self.reduction)


def witness_WrongUnpicklable():
    import io

    torch.save(torch.nn.MarginRankingLoss(), io.BytesIO())
    try:
        torch.save(WrongUnpicklable(), io.BytesIO())
    except Exception:
        return True
    return False


def right_by_addcmul(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Margin + y * (x2 - x1) by addcmul, the hinge by where."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    diff = input2 - input1
    m = torch.full((), margin, dtype=diff.dtype, device=diff.device)
    z = torch.addcmul(m, target.to(diff.dtype), diff)
    return _finish(torch.where(z < 0, torch.zeros_like(z), z), mode)


class RightInFloat64(torch.nn.Module):
    """Works in float64 inside; the pairs' sign is applied to each input before the subtraction."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        self.margin = margin
        self.reduction = reduction

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        out = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
        a, b, y = input1.double(), input2.double(), target.double()
        loss = (y * b - y * a + self.margin).clamp_min(0)
        return _finish(loss, mode).to(out)
