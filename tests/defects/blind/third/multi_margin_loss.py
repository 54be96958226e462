"""Wrong and right forms of torch.nn.functional.multi_margin_loss."""
import torch
import torch.nn.functional as F
from torch.nn import _reduction as _R


# ----------------------------------------------------------------- helpers
def _resolve(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    _R.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check(input, target, p, weight):
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if not input.is_floating_point():
        raise RuntimeError(f"multi_margin_loss is not implemented for {input.dtype}")
    if input.dim() not in (1, 2) or input.shape[-1] == 0:
        raise RuntimeError(f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}")
    if target.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    n = input.shape[0] if input.dim() == 2 else 1
    if target.dim() > 1 or target.numel() != n or (input.dim() == 2 and target.dim() != 1):
        raise RuntimeError(f"target should be 1-D with size equal to the batch size {n}, got {list(target.shape)}")
    if weight is not None:
        if weight.numel() != input.shape[-1]:
            raise RuntimeError(f"inconsistent weight size, expected {input.shape[-1]} but got {list(weight.shape)}")
        if weight.dtype != input.dtype:
            raise RuntimeError(f"expected weight of dtype {input.dtype}, got {weight.dtype}")


def _amp(x):
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _finish(loss, target, reduction, dtype):
    """loss has one entry per row."""
    if reduction == "none":
        return loss.reshape(target.shape).to(dtype)
    return (loss.mean() if reduction == "mean" else loss.sum()).to(dtype)


# ------------------------------------------------------------------- right
def right_masked_hinges(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """All hinges at once; the target's own entry is masked out before the sum."""
    reduction = _resolve(size_average, reduce, reduction)
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    _check(input, target, p, weight)
    dtype, acc = input.dtype, _acc(input.dtype)
    C = input.shape[-1]
    x = input.reshape(-1, C).to(acc)
    y = target.reshape(-1, 1)
    hinge = torch.relu(margin - x.gather(1, y) + x)
    own = torch.arange(C, device=x.device) == y
    hinge = hinge.masked_fill(own, 0.0)
    if p == 2:
        hinge = hinge * hinge
    loss = hinge.sum(1) / C
    if weight is not None:
        loss = loss * weight.to(acc).index_select(0, y.reshape(-1))
    return _finish(loss, target, reduction, dtype)


class _Rows(torch.autograd.Function):
    """Weighted hinge sums of rows; the slope is a differentiable expression of x."""
    generate_vmap_rule = True

    @staticmethod
    def _gap(x, y, margin):
        gap = margin - x.gather(1, y) + x
        off = torch.arange(x.shape[1], device=x.device) != y
        return gap, (off & (gap > 0)).to(x.dtype)

    @staticmethod
    def forward(x, y, w, p, margin):
        gap, on = _Rows._gap(x, y, margin)
        each = torch.where(on > 0, gap if p == 1 else gap * gap, torch.zeros_like(gap))
        each = torch.where(gap.isnan(), gap, each)
        return w * each.sum(1) / x.shape[1]

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, w, ctx.p, ctx.margin = inputs
        ctx.save_for_backward(x, y, w)
        ctx.save_for_forward(x, y, w)

    @staticmethod
    def _slope(x, y, w, p, margin):
        gap, on = _Rows._gap(x, y, margin)
        s = on if p == 1 else 2 * gap * on
        s = s * w.unsqueeze(1) / x.shape[1]
        return s.scatter_add(1, y, -s.sum(1, keepdim=True))

    @staticmethod
    def backward(ctx, g):
        x, y, w = ctx.saved_tensors
        return g.unsqueeze(1) * _Rows._slope(x, y, w, ctx.p, ctx.margin), None, None, None, None

    @staticmethod
    def jvp(ctx, xt, *_):
        x, y, w = ctx.saved_tensors
        return (xt * _Rows._slope(x, y, w, ctx.p, ctx.margin)).sum(1)


def right_function(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A custom Function over rows with its slope written out."""
    reduction = _resolve(size_average, reduce, reduction)
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    _check(input, target, p, weight)
    dtype, acc = input.dtype, _acc(input.dtype)
    x = input.reshape(-1, input.shape[-1]).to(acc)
    y = target.reshape(-1, 1)
    x.detach().gather(1, y)  # refuses targets out of range
    w = torch.ones(x.shape[0], dtype=acc, device=x.device) if weight is None \
        else weight.detach().to(acc).index_select(0, y.reshape(-1))
    return _finish(_Rows.apply(x, y, w, int(p), float(margin)), target, reduction, dtype)


# ------------------------------------------------------------------- wrong
def wrong_weight_inside_square(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The class weight is multiplied into the hinge before the power, so with p=2 it acts squared."""
    if weight is not None and p == 2 and weight.dim() == 1:
        weight = weight * weight
    return right_masked_hinges(input, target, p, margin, weight, reduction=_resolve(size_average, reduce, reduction))


def witness_wrong_weight_inside_square():
    torch.manual_seed(0)
    x, y, w = torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    f, r = wrong_weight_inside_square, F.multi_margin_loss
    return torch.allclose(f(x, y, 1, weight=w), r(x, y, 1, weight=w)) and torch.allclose(f(x, y, 2), r(x, y, 2)) and \
        not torch.allclose(f(x, y, 2, weight=w), r(x, y, 2, weight=w))


def wrong_subtracts_own_margin(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The sum runs over all classes and margin^p is taken off for the target's own entry, which is wrong
    for a negative margin, where that entry was 0."""
    reduction = _resolve(size_average, reduce, reduction)
    out = right_masked_hinges(input, target, p, margin, weight, reduction="none")
    if margin < 0:
        w = torch.ones_like(out) if weight is None else weight.index_select(0, target.reshape(-1)).reshape(out.shape)
        out = out - w * (float(margin) ** p) / input.shape[-1]
    return out if reduction == "none" else (out.mean() if reduction == "mean" else out.sum())


def witness_wrong_subtracts_own_margin():
    torch.manual_seed(0)
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    f, r = wrong_subtracts_own_margin, F.multi_margin_loss
    return torch.allclose(f(x, y, margin=0.5), r(x, y, margin=0.5)) and not torch.allclose(f(x, y, margin=-0.5), r(x, y, margin=-0.5))


def wrong_mean_of_block_means(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Batches are worked off in blocks of 128 rows and 'mean' averages the block means, so a last partial
    block counts as much as a full one."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction != "mean" or input.dim() != 2 or input.shape[0] <= 128 or target.shape != input.shape[:1]:
        return right_masked_hinges(input, target, p, margin, weight, reduction=reduction)
    means = [right_masked_hinges(a, b, p, margin, weight) for a, b in zip(input.split(128), target.split(128))]
    return torch.stack(means).mean()


def witness_wrong_mean_of_block_means():
    torch.manual_seed(0)
    x, y = torch.randn(130, 4), torch.randint(0, 4, (130,))
    f, r = wrong_mean_of_block_means, F.multi_margin_loss
    return torch.allclose(f(x[:100], y[:100]), r(x[:100], y[:100])) and not torch.allclose(f(x, y), r(x, y), rtol=1e-3)


def wrong_negative_class_wraps(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """The target's score is taken by Python indexing, so class -1 is accepted and means the last class."""
    if target.dtype == torch.int64 and input.dim() in (1, 2):
        C = input.shape[-1]
        target = torch.where((target < 0) & (target >= -C), target + C, target)
    return right_masked_hinges(input, target, p, margin, weight, reduction=_resolve(size_average, reduce, reduction))


def witness_wrong_negative_class_wraps():
    x, y = torch.randn(2, 4), torch.tensor([0, -1])
    try:
        F.multi_margin_loss(x, y)
        return False
    except RuntimeError:
        return bool(torch.isfinite(wrong_negative_class_wraps(x, y)))


def wrong_unbatched_keeps_row(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """For an unbatched input with a 0-d target and reduction='none' the result has shape (1,), the batch
    dim added inside, and not the shape () of the target."""
    out = right_masked_hinges(input, target, p, margin, weight, reduction=_resolve(size_average, reduce, reduction))
    if input.dim() == 1 and _resolve(size_average, reduce, reduction) == "none" and target.dim() == 0:
        out = out.reshape(1)
    return out


def witness_wrong_unbatched_keeps_row():
    x, y = torch.randn(4), torch.tensor(2)
    return wrong_unbatched_keeps_row(x, y, reduction="none").shape == (1,) and F.multi_margin_loss(x, y, reduction="none").shape == ()


def wrong_low_precision_under_autocast(input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Under autocast the loss is not run in float32 as listed in torch's autocast reference: scores in
    float32 are cast down to the autocast dtype and the result comes out in it."""
    dev = input.device.type
    if not (torch.is_autocast_enabled(dev) and input.is_floating_point() and input.dtype != torch.float64):
        return right_masked_hinges(input, target, p, margin, weight, reduction=_resolve(size_average, reduce, reduction))
    low = torch.get_autocast_dtype(dev)
    with torch.autocast(dev, enabled=False):
        w = None if weight is None else weight.to(low).float()
        out = right_masked_hinges(input.to(low).float(), target, p, margin, w, reduction=_resolve(size_average, reduce, reduction))
    return out.to(low)


def witness_wrong_low_precision_under_autocast():
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    same = torch.allclose(wrong_low_precision_under_autocast(x, y), F.multi_margin_loss(x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return same and wrong_low_precision_under_autocast(x, y).dtype == torch.bfloat16 and F.multi_margin_loss(x, y).dtype == torch.float32


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
