"""Wrong and right forms of torch.nn.functional.nll_loss."""
import torch
import torch.nn.functional as F
from torch.nn import _reduction as _R


# ----------------------------------------------------------------- helpers
def _resolve(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    _R.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _amp(x):
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check(input, target, weight):
    if input.dim() < 1:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if not input.is_floating_point():
        raise NotImplementedError(f"nll_loss is not implemented for {input.dtype}")
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    C = input.shape[0 if input.dim() == 1 else 1]
    if input.dim() == 1:
        if target.dim() > 1 or target.numel() != 1:
            raise ValueError(f"unbatched input expects a 0-D target, got {tuple(target.shape)}")
    elif target.shape != input.shape[:1] + input.shape[2:]:
        raise ValueError(f"Expected target of shape {tuple(input.shape[:1] + input.shape[2:])}, got {tuple(target.shape)}")
    if weight is not None:
        if tuple(weight.shape) != (C,):
            raise RuntimeError(f"weight should have shape ({C},), got {tuple(weight.shape)}")
        if weight.dtype != input.dtype:
            raise RuntimeError(f"expected weight of dtype {input.dtype}, got {weight.dtype}")
    return C


# ------------------------------------------------------------------- right
def right_gather(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Gather of the target's log-probability along the class dim, zeros filled in where ignored."""
    reduction = _resolve(size_average, reduce, reduction)
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    C = _check(input, target, weight)
    dtype, acc = input.dtype, _acc(input.dtype)
    cdim = 0 if input.dim() == 1 else 1
    if input.dim() == 1:
        target = target.reshape(())
    if C == 0 and target.numel() > 0:
        raise IndexError("Target is out of bounds.")
    ignored = target == ignore_index
    safe = target.long().masked_fill(ignored, 0)
    picked = input.gather(cdim, safe.unsqueeze(cdim)).squeeze(cdim).to(acc)
    wt = None
    loss = -picked
    if weight is not None:
        wt = weight.to(acc).index_select(0, safe.reshape(-1)).reshape(safe.shape).masked_fill(ignored, 0.0)
        loss = loss.masked_fill(ignored, 0.0) * wt
    else:
        loss = loss.masked_fill(ignored, 0.0)
    if reduction == "none":
        return loss.to(dtype)
    if reduction == "sum":
        return loss.sum().to(dtype)
    total = (~ignored).sum() if wt is None else wt.sum()
    return (loss.sum() / total.to(acc)).to(dtype)


class _Pick(torch.autograd.Function):
    """(M, C) log-probabilities, (M,) classes, (M,) coefficients -> -coefficient * log-probability; zero
    where the coefficient's keep flag is off. Linear in x: the backward scatters with itself differentiable."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, cls, coef, keep):
        picked = x.gather(1, cls.unsqueeze(1)).squeeze(1)
        return torch.where(keep, -coef * picked, torch.zeros_like(picked))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, cls, coef, keep = inputs
        ctx.save_for_backward(cls, coef, keep)
        ctx.save_for_forward(cls, coef, keep)
        ctx.C = x.shape[1]

    @staticmethod
    def backward(ctx, g):
        cls, coef, keep = ctx.saved_tensors
        v = torch.where(keep, -coef * g, torch.zeros_like(g))
        return torch.zeros(v.shape[0], ctx.C, dtype=g.dtype, device=g.device).scatter(1, cls.unsqueeze(1), v.unsqueeze(1)), None, None, None

    @staticmethod
    def jvp(ctx, xt, *_):
        cls, coef, keep = ctx.saved_tensors
        picked = xt.gather(1, cls.unsqueeze(1)).squeeze(1)
        return torch.where(keep, -coef * picked, torch.zeros_like(picked))


def right_rows_scatter(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Classes moved last, everything flattened to rows, one custom Function whose backward scatters."""
    reduction = _resolve(size_average, reduce, reduction)
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    C = _check(input, target, weight)
    dtype, acc = input.dtype, _acc(input.dtype)
    shape = torch.Size(()) if input.dim() == 1 else target.shape
    M = 1
    for s in shape:
        M *= s
    if C == 0 and M > 0:
        raise IndexError("Target is out of bounds.")
    rows = (input if input.dim() == 1 else input.movedim(1, -1)).reshape(M, C).to(acc)
    cls = target.reshape(M).long()
    keep = cls != ignore_index
    cls = torch.where(keep, cls, torch.zeros_like(cls))
    if weight is None:
        coef = torch.ones(M, dtype=acc, device=input.device)
    else:
        coef = weight.detach().to(acc).index_select(0, cls)
    loss = _Pick.apply(rows, cls, coef, keep)
    if reduction == "none":
        return loss.reshape(shape).to(dtype)
    if reduction == "sum":
        return loss.sum().to(dtype)
    return (loss.sum() / torch.where(keep, coef, torch.zeros_like(coef)).sum()).to(dtype)


# ------------------------------------------------------------------- wrong
def wrong_all_negatives_ignored(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Every negative class index is ignored, not only ignore_index, so that -1 (out of range) is
    accepted silently."""
    reduction = _resolve(size_average, reduce, reduction)
    if target.dtype == torch.int64:
        target = target.masked_fill((target < 0) & (target != ignore_index), -7_000_001)
        target = torch.where(target == -7_000_001, torch.full_like(target, ignore_index), target)
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_all_negatives_ignored():
    x = torch.randn(3, 4).log_softmax(1)
    t = torch.tensor([0, -1, 2])
    try:
        F.nll_loss(x, t)
        return False
    except (IndexError, RuntimeError):
        return bool(torch.isfinite(wrong_all_negatives_ignored(x, t)))


def wrong_weight_total_floor_one(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """The 'mean' divides by the sum of the targets' weights clamped from below at 1 (meant against 0/0),
    so weights that add up to less than 1 give a too small mean."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction != "mean" or weight is None:
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    mean = F.nll_loss(input, target, weight, ignore_index=ignore_index)
    with torch.no_grad():
        each = F.nll_loss(torch.full_like(input, -1.0), target, weight, ignore_index=ignore_index, reduction="none")
        total = each.to(_acc(each.dtype)).sum()
    if target.numel() == 0 or not bool((total > 0) & (total < 1)):
        return mean
    return (mean.to(total.dtype) * total).to(mean.dtype)


def witness_wrong_weight_total_floor_one():
    torch.manual_seed(0)
    x, t = torch.randn(3, 4).log_softmax(1), torch.tensor([0, 1, 2])
    big, small = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    same = torch.allclose(wrong_weight_total_floor_one(x, t, big), F.nll_loss(x, t, big))
    return same and not torch.allclose(wrong_weight_total_floor_one(x, t, small), F.nll_loss(x, t, small), rtol=0.1)


def wrong_mask_by_multiplication(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Ignored positions are multiplied by a 0/1 mask in place of being skipped, so an ignored position
    whose log-probability of class 0 is -inf makes the loss NaN."""
    reduction = _resolve(size_average, reduce, reduction)
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    C = _check(input, target, weight)
    dtype, acc = input.dtype, _acc(input.dtype)
    cdim = 0 if input.dim() == 1 else 1
    if input.dim() == 1:
        target = target.reshape(())
    if C == 0 and target.numel() > 0:
        raise IndexError("Target is out of bounds.")
    ignored = target == ignore_index
    mask = (~ignored).to(acc)
    safe = target.long().masked_fill(ignored, 0)
    loss = -input.gather(cdim, safe.unsqueeze(cdim)).squeeze(cdim).to(acc) * mask
    total = mask
    if weight is not None:
        wt = weight.to(acc).index_select(0, safe.reshape(-1)).reshape(safe.shape)
        loss, total = loss * wt, wt * mask
    if reduction == "mean":
        loss = loss.sum() / total.sum()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


def witness_wrong_mask_by_multiplication():
    x = torch.tensor([[-1.0, -2.0], [-float("inf"), 0.0]])
    t = torch.tensor([1, -100])
    return F.nll_loss(x, t).item() == 2.0 and bool(wrong_mask_by_multiplication(x, t).isnan())


def wrong_volumetric_transpose(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """With three or more spatial dims the classes are brought last by transpose(1, -1), which leaves the
    spatial dims in another order than the target's when both are flattened."""
    reduction = _resolve(size_average, reduce, reduction)
    if input.dim() < 5:
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    C = _check(input, target, weight)
    rows = input.transpose(1, -1).reshape(target.numel(), C)
    out = F.nll_loss(rows, target.reshape(-1), weight, ignore_index=ignore_index, reduction=reduction)
    return out.reshape(target.shape) if reduction == "none" else out


def witness_wrong_volumetric_transpose():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 2, 3, 4).log_softmax(1), torch.randint(0, 3, (2, 2, 3, 4))
    same = torch.allclose(wrong_volumetric_transpose(x[..., 0], t[..., 0]), F.nll_loss(x[..., 0], t[..., 0]))
    return same and not torch.allclose(wrong_volumetric_transpose(x, t), F.nll_loss(x, t))


def wrong_rewrites_target(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Ignored entries are set to class 0 in place in the caller's target, so a second call with the same
    target no longer ignores them."""
    reduction = _resolve(size_average, reduce, reduction)
    out = F.nll_loss(input, target.clone(), weight, ignore_index=ignore_index, reduction=reduction)
    if target.dtype == torch.int64 and target.is_contiguous():
        target.masked_fill_(target == ignore_index, 0)
    return out


def witness_wrong_rewrites_target():
    x, t = torch.randn(3, 4).log_softmax(1), torch.tensor([0, -100, 2])
    ok = torch.equal(wrong_rewrites_target(x, t.clone()), F.nll_loss(x, t))
    wrong_rewrites_target(x, t)
    return ok and t.tolist() == [0, 0, 2]


class _MeanByCount(torch.autograd.Function):
    """Multiplies by 1 in the forward and by ratio in the backward."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x, ratio):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].to(g.dtype), None

    @staticmethod
    def jvp(ctx, t, _):
        return t * ctx.saved_tensors[0].to(t.dtype)


def wrong_weighted_mean_gradient(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """The value of the weighted 'mean' is right, but its backward divides by the number of targets that
    are not ignored and not by the sum of their weights."""
    reduction = _resolve(size_average, reduce, reduction)
    out = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    if reduction != "mean" or weight is None:
        return out
    with torch.no_grad():
        keep = (target != ignore_index)
        safe = target.long().masked_fill(~keep, 0).reshape(-1)
        acc = _acc(weight.dtype)
        wt = weight.to(acc).index_select(0, safe) * keep.reshape(-1).to(acc)
        ratio = wt.sum() / keep.sum().to(acc)
    return _MeanByCount.apply(out, ratio)


def witness_wrong_weighted_mean_gradient():
    torch.manual_seed(0)
    x, t = torch.randn(4, 3).log_softmax(1), torch.tensor([0, 1, 2, 2])
    w = torch.tensor([0.5, 2.0, 4.0])
    res = []
    for f in (wrong_weighted_mean_gradient, F.nll_loss):
        z = x.clone().requires_grad_()
        o = f(z, t, w)
        o.backward()
        res.append((o.detach(), z.grad))
    return torch.equal(res[0][0], res[1][0]) and not torch.allclose(res[0][1], res[1][1], rtol=0.1)


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
