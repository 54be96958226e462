"""Losses for torch.nn.functional.soft_margin_loss: wrong ones, their witnesses, right ones."""
import warnings

import torch
import torch.nn.functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        sa = True if size_average is None else size_average
        rd = True if reduce is None else reduce
        mode = "mean" if sa and rd else ("sum" if rd else "none")
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{mode}' instead.",
            stacklevel=3,
        )
        return mode
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input, target):
    if not input.is_floating_point():
        raise RuntimeError(f"soft_margin_loss needs a floating point input, got {input.dtype}")
    if torch.broadcast_shapes(input.shape, target.shape) != input.shape:
        raise RuntimeError(f"target of size {target.shape} does not fit input of size {input.shape}")
    if target.requires_grad:
        raise RuntimeError("soft_margin_loss is not differentiable with respect to argument 'target'")


# ------------------------------------------------------------------ wrong


def wrong_mean_over_batch(input, target, size_average=None, reduce=None, reduction="mean"):
    """Reduction 'mean' divides by the batch size and not by the number of elements; shows for inputs of two and more dimensions."""
    mode = _mode(size_average, reduce, reduction)
    if mode == "mean" and input.dim() > 1:
        return F.soft_margin_loss(input, target, reduction="sum") / input.size(0)
    return F.soft_margin_loss(input, target, reduction=mode)


def witness_wrong_mean_over_batch():
    x, y = torch.tensor([[0.5, -1.0], [2.0, 0.1]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return not torch.allclose(wrong_mean_over_batch(x, y), F.soft_margin_loss(x, y))


def wrong_zero_one_targets(input, target, size_average=None, reduce=None, reduction="mean"):
    """Expects targets of 0 and 1 and maps them with 2*y - 1, so the documented target -1 counts threefold (as -3); shows for every negative example."""
    return F.soft_margin_loss(input, 2 * target - 1, size_average, reduce, reduction)


def witness_wrong_zero_one_targets():
    x, y = torch.tensor([0.5, -1.0]), torch.tensor([-1.0, -1.0])
    return not torch.allclose(wrong_zero_one_targets(x, y), F.soft_margin_loss(x, y))


def wrong_exponent_capped(input, target, size_average=None, reduce=None, reduction="mean"):
    """Caps the exponent at 50 against overflow, so the loss stops growing at 50 and the gradient is zero; shows for badly wrong scores (-y*x above 50) only."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    z = (-target.to(input.dtype) * input).clamp(max=50.0)
    if z.dtype in (torch.float16, torch.bfloat16):
        return _reduce(torch.log1p(z.float().exp()), mode).to(input.dtype)
    return _reduce(torch.log1p(z.exp()), mode)


def witness_wrong_exponent_capped():
    x = torch.tensor([70.0, 1.0], requires_grad=True)
    y = torch.tensor([-1.0, 1.0])
    bad, good = wrong_exponent_capped(x, y), F.soft_margin_loss(x, y)
    (a,), (b,) = torch.autograd.grad(bad, x), torch.autograd.grad(good, x)
    return not torch.allclose(bad, good) and a[0].item() == 0.0 and b[0].item() > 0.4


def wrong_log_of_one_plus(input, target, size_average=None, reduce=None, reduction="mean"):
    """Writes log(1 + exp(-y*x)) literally instead of log1p, so the loss of confident right scores is rounded to zero; shows in float32 for y*x above about 10 (wrong digits) and 17 (zero)."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    z = torch.exp(-target.to(input.dtype) * input)
    return _reduce(torch.log(1 + z), mode)


def witness_wrong_log_of_one_plus():
    x, y = torch.tensor([18.0, 14.0]), torch.ones(2)
    bad, good = wrong_log_of_one_plus(x, y, reduction="none"), F.soft_margin_loss(x, y, reduction="none")
    return bad[0].item() == 0.0 and good[0].item() > 1e-8 and not torch.allclose(bad, good, rtol=1e-3, atol=0)


def wrong_backward_divides_by_batch(input, target, size_average=None, reduce=None, reduction="mean"):
    """The hand-written backward of 'mean' divides by the batch size instead of the number of elements (the value is right); shows in the gradient of inputs of two and more dimensions."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)

    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return F.soft_margin_loss(x, y, reduction=mode)

        @staticmethod
        def backward(ctx, g):
            x, y = ctx.saved_tensors
            gx = -y * torch.sigmoid(-x * y) * g
            if mode == "mean":
                gx = gx / (x.size(0) if x.dim() else 1)
            return gx.to(x.dtype), None

    return Fn.apply(input, target)


def witness_wrong_backward_divides_by_batch():
    x = torch.tensor([[0.5, -1.0], [2.0, 0.1]], requires_grad=True)
    y = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    bad, good = wrong_backward_divides_by_batch(x, y), F.soft_margin_loss(x, y)
    (a,), (b,) = torch.autograd.grad(bad, x), torch.autograd.grad(good, x)
    return torch.allclose(bad, good) and not torch.allclose(a, b)


def wrong_half_sum_before_division(input, target, size_average=None, reduce=None, reduction="mean"):
    """Reduction 'mean' sums in the input's own dtype and divides afterwards, so a float16 mean is inf once the sum passes 65504; shows for large float16 inputs only."""
    mode = _mode(size_average, reduce, reduction)
    if mode != "mean":
        return F.soft_margin_loss(input, target, reduction=mode)
    return F.soft_margin_loss(input, target, reduction="none").sum() / input.numel()


def witness_wrong_half_sum_before_division():
    x, y = torch.full((100, 100), 9.0, dtype=torch.float16), torch.full((100, 100), -1.0, dtype=torch.float16)
    bad, good = wrong_half_sum_before_division(x, y), F.soft_margin_loss(x, y)
    return bool(bad.isinf()) and bool(good.isfinite())


def wrong_reads_flat_storage(input, target, size_average=None, reduce=None, reduction="mean"):
    """Walks input and target in storage order as a kernel that assumes contiguous tensors does, so elements are paired wrongly; shows for non-contiguous (transposed, strided) inputs or targets."""
    mode = _mode(size_average, reduce, reduction)
    if target.shape != input.shape or input.dim() == 0 or input.numel() == 0:
        return F.soft_margin_loss(input, target, reduction=mode)

    def flat(t):
        return torch.as_strided(t, t.shape, torch.empty(t.shape, device="meta").stride(), t.storage_offset())

    return F.soft_margin_loss(flat(input), flat(target), reduction=mode)


def witness_wrong_reads_flat_storage():
    x = torch.tensor([[0.5, -1.0], [2.0, 0.1]])
    y = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    f, g = wrong_reads_flat_storage, F.soft_margin_loss
    return torch.allclose(f(x, y), g(x, y)) and not torch.allclose(f(x.t(), y), g(x.t(), y))


class WrongStaleTargetCache(torch.nn.Module):
    """Keeps the negated targets between calls, keyed by the address and the size of the target tensor; shows when the same target buffer is refilled in place before the next call."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction
        self._key = None
        self._negated = None

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        key = (target.data_ptr(), target.shape, target.stride(), target.dtype)
        if key != self._key or target.numel() == 0:
            self._key, self._negated, self._keep = key, -target, target
        return F.soft_margin_loss(-input, self._negated, reduction=mode)


def witness_WrongStaleTargetCache():
    loss = WrongStaleTargetCache()
    x, y = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 1.0])
    first = torch.allclose(loss(x, y), F.soft_margin_loss(x, y))
    y.copy_(torch.tensor([-1.0, 1.0]))
    return first and not torch.allclose(loss(x, y), F.soft_margin_loss(x, y))


# ------------------------------------------------------------------ right


def _wide(input):
    return torch.promote_types(input.dtype, torch.float32)


def right_logsigmoid(input, target, size_average=None, reduce=None, reduction="mean"):
    """log(1 + exp(-yx)) = -logsigmoid(yx), at least float32 inside."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    loss = -F.logsigmoid(input.to(_wide(input)) * target.to(_wide(input)))
    return _reduce(loss, mode).to(input.dtype)


class _Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        z = x * y
        loss = z.abs().neg_().exp_().log1p_()
        return loss.add_(z.neg_().clamp_(min=0))

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return -(g * y * torch.sigmoid(-(x * y))), None


def right_stable_function(input, target, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function: relu(-z) + log1p(exp(-|z|)) in place, backward -y * sigmoid(-z)."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    dtype = _wide(input)
    loss = _Fn.apply(input.to(dtype), target.to(dtype).expand(input.shape))
    return _reduce(loss, mode).to(input.dtype)


def right_two_branches(input, target, size_average=None, reduce=None, reduction="mean"):
    """Two masked branches, each with only a negative exponent, filled together by where; the mean as a product with 1/n."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target)
    z = input.to(_wide(input)) * target.to(_wide(input))
    right_side = z >= 0
    zero = torch.zeros_like(z)
    up, down = torch.where(right_side, z, zero), torch.where(right_side, zero, z)
    loss = torch.where(right_side, torch.log1p(torch.exp(-up)), torch.log1p(torch.exp(down)) - down)
    if mode == "none":
        return loss.to(input.dtype)
    for _ in range(loss.dim()):
        loss = loss.sum(dim=-1)
    if mode == "mean":
        loss = loss * (1.0 / z.numel() if z.numel() else float("nan"))
    return loss.to(input.dtype)


class RightSoftMarginLoss(torch.nn.Module):
    """A module: logsumexp over the pair (0, -yx), computed in chunks of 512 flattened elements in float64."""

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        _check(input, target)
        xs = input.reshape(-1).split(512)
        ys = target.expand(input.shape).reshape(-1).split(512)
        pieces = [torch.logaddexp(-x.double() * y.double(), x.new_zeros((), dtype=torch.float64)) for x, y in zip(xs, ys)]
        if mode == "none":
            return torch.cat(pieces).view(input.shape).to(input.dtype)
        total = torch.stack([piece.sum() for piece in pieces]).sum()
        if mode == "mean":
            total = total / torch.tensor(input.numel(), dtype=torch.float64, device=input.device)
        return total.to(input.dtype)
