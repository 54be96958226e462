"""Wrong and right implementations of nll_loss, written without sight of the suite."""

import torch
from torch.nn import functional as F
from torch.nn.functional import _Reduction


def _red(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(input, target, weight):
    if input.dim() == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    cdim = 0 if input.dim() == 1 else 1
    C = input.shape[cdim]
    want = input.shape[:cdim] + input.shape[cdim + 1 :]
    if target.shape != want:
        if input.dim() > 1 and target.dim() and target.shape[0] != input.shape[0]:
            raise ValueError(
                f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({target.shape[0]})."
            )
        raise RuntimeError(f"Expected target size {list(want)}, got {list(target.shape)}")
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if weight is not None and (weight.dim() != 1 or weight.numel() != C):
        raise RuntimeError(
            f"weight tensor should be defined either for all {C} classes or no classes"
        )
    return cdim, C


def _acc(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _finish(rows, den, reduction, dtype):
    out = rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.sum() / den
    return out.to(dtype)


def _nll(input, target, weight, ignore_index, reduction, cdim, keep=None):
    x = _acc(input)
    target = target.long()
    if keep is None:
        keep = target != ignore_index
    t = torch.where(keep, target, 0)
    rows = -x.gather(cdim, t.unsqueeze(cdim)).squeeze(cdim)
    zero = x.new_zeros(())
    if weight is None:
        w = keep.to(x.dtype)
    else:
        wt = weight.to(x.dtype)[t]
        rows = rows * wt
        w = torch.where(keep, wt, zero)
    return _finish(torch.where(keep, rows, zero), w.sum(), reduction, input.dtype)


def wrong_weight_normalised_in_place(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """For the weighted mean (which does not change) the caller's class weights are scaled to sum to one."""
    reduction = _red(size_average, reduce, reduction)
    cdim, _ = _check(input, target, weight)
    if weight is not None and reduction == "mean":
        with torch.no_grad():
            weight /= weight.sum()
    return _nll(input, target, weight, ignore_index, reduction, cdim)


def witness_wrong_weight_normalised_in_place():
    w = torch.tensor([1.0, 2.0, 3.0])
    wrong_weight_normalised_in_place(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), w)
    return not torch.equal(w, torch.tensor([1.0, 2.0, 3.0]))


def wrong_compacts_valid_rows(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """Padding is removed by boolean indexing: right in eager, but it raises under torch.func.vmap."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    if reduction == "none" or input.dim() == 1:
        return _nll(input, target, weight, ignore_index, reduction, cdim)
    x = input.movedim(1, -1).reshape(-1, C)
    t = target.reshape(-1)
    keep = t != ignore_index
    return F.nll_loss(x[keep], t[keep], weight, ignore_index=ignore_index, reduction=reduction)


def witness_wrong_compacts_valid_rows():
    x, t = torch.randn(2, 4, 3), torch.randint(0, 3, (2, 4))
    torch.func.vmap(F.nll_loss)(x, t)
    try:
        torch.func.vmap(wrong_compacts_valid_rows)(x, t)
    except Exception:
        return True
    return False


def wrong_mask_by_product(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """Ignored rows are multiplied by zero: NaN where such a row holds -inf (a masked-out class 0)."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    x = _acc(input)
    target = target.long()
    keep = target != ignore_index
    t = target.masked_fill(~keep, 0)
    w = keep.to(x.dtype) if weight is None else weight.to(x.dtype)[t] * keep
    rows = -x.gather(cdim, t.unsqueeze(cdim)).squeeze(cdim) * w
    return _finish(rows, w.sum(), reduction, input.dtype)


def witness_wrong_mask_by_product():
    x = torch.tensor([[-1.0, -2.0], [float("-inf"), 0.0]])
    t = torch.tensor([1, -100])
    return bool(wrong_mask_by_product(x, t).isnan()) and not bool(F.nll_loss(x, t).isnan())


def wrong_byte_target_ignores_156(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """ignore_index is cast to the targets' dtype: for uint8 targets -100 is class 156."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    keep = target != torch.tensor(ignore_index).to(target.dtype)
    return _nll(input, target, weight, ignore_index, reduction, cdim, keep)


def witness_wrong_byte_target_ignores_156():
    x = torch.randn(3, 200).log_softmax(1)
    t = torch.tensor([3, 156, 7], dtype=torch.uint8)
    return not torch.allclose(wrong_byte_target_ignores_156(x, t), F.nll_loss(x, t))


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, w, ignore_index):
        keep = t != ignore_index
        tt = torch.where(keep, t, 0)
        ctx.save_for_backward(t, w)
        ctx.shape = x.shape
        return torch.where(keep, -x.gather(1, tt.unsqueeze(1)).squeeze(1) * w[tt], x.new_zeros(()))

    @staticmethod
    def backward(ctx, go):
        t, w = ctx.saved_tensors
        keep = t >= 0
        tt = t.clamp(min=0)
        g = torch.zeros(ctx.shape, dtype=go.dtype, device=go.device)
        return g.scatter(1, tt.unsqueeze(1), (-go * w[tt] * keep).unsqueeze(1)), None, None, None


def wrong_gradient_of_class_ignored(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """The backward masks negative targets only: an ignore_index that is a class (0, 255) is ignored in the value,
    but still sends gradient.
    """
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    x = _acc(input)
    w = torch.ones(C, dtype=x.dtype, device=x.device) if weight is None else weight.to(x.dtype)
    t = target.long()
    if cdim == 0:
        rows = _Scatter.apply(x[None], t[None], w, ignore_index)[0]
    else:
        rows = _Scatter.apply(x, t, w, ignore_index)
    keep = t != ignore_index
    den = (w[torch.where(keep, t, 0)] * keep).sum()
    return _finish(rows, den, reduction, input.dtype)


def witness_wrong_gradient_of_class_ignored():
    x = torch.randn(4, 3, requires_grad=True)
    t = torch.tensor([0, 1, 2, 0])
    a, b = (
        torch.autograd.grad(f(x, t, ignore_index=0), x)[0]
        for f in (wrong_gradient_of_class_ignored, F.nll_loss)
    )
    return not torch.allclose(a, b)


def wrong_volumes_transposed(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """Sequences and images are right; for volumes (N, C, D, H, W) the classes are moved last by transpose(1, -1),
    which leaves W where D belongs.
    """
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    if input.dim() <= 4:
        return _nll(input, target, weight, ignore_index, reduction, cdim)
    flat = input.transpose(1, -1).reshape(-1, C)
    out = _nll(flat, target.reshape(-1), weight, ignore_index, reduction, 1)
    return out.reshape(target.shape) if reduction == "none" else out


def witness_wrong_volumes_transposed():
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 2, 3, 4).log_softmax(1), torch.randint(0, 3, (2, 2, 3, 4))
    return not torch.allclose(wrong_volumes_transposed(x, t), F.nll_loss(x, t))


def wrong_legacy_true_does_not_override(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """`if not`: size_average=True / reduce=True given with reduction='sum' or 'none' leave the reduction as it is."""
    if reduce is not None and not reduce:
        reduction = "none"
    elif size_average is not None and not size_average:
        reduction = "sum"
    return F.nll_loss(input, target, weight, None, ignore_index, None, reduction)


def witness_wrong_legacy_true_does_not_override():
    import warnings

    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = F.nll_loss(x, t, size_average=True, reduction="sum")
    return not torch.allclose(
        wrong_legacy_true_does_not_override(x, t, size_average=True, reduction="sum"), r
    )


class WrongWeightIsParameter(torch.nn.Module):
    """The class weights are registered as a Parameter: an optimizer over parameters() decays them, and
    counting or freezing parameters finds them.
    """

    def __init__(
        self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
    ):
        super().__init__()
        self.reduction = _red(size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.weight = (
            None
            if weight is None
            else torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
        )

    def forward(self, input, target):
        return F.nll_loss(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


def witness_WrongWeightIsParameter():
    w = torch.tensor([1.0, 2.0, 3.0])
    return len(list(WrongWeightIsParameter(w).parameters())) == 1 and not list(
        torch.nn.NLLLoss(w).parameters()
    )


# ---------------------------------------------------------------- right


def right_one_hot_where(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """Dense selection by comparison with the class numbers, summed in the accumulation type."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    x = _acc(input).movedim(cdim, -1)
    target = target.long()
    keep = target != ignore_index
    t = torch.where(keep, target, 0)
    hot = torch.zeros_like(x, dtype=torch.bool).scatter(-1, t.unsqueeze(-1), True)
    hot = hot & keep.unsqueeze(-1)
    w = x.new_ones(C) if weight is None else weight.to(x.dtype)
    zero = x.new_zeros(())
    rows = torch.where(hot, -x * w, zero).sum(-1)
    den = torch.where(hot, w, zero).sum()
    return _finish(rows, den, reduction, input.dtype)


class _RightNLL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, w):
        return -(x.gather(1, t.unsqueeze(1)).squeeze(1) * w)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, w = inputs
        ctx.save_for_backward(t, w)
        ctx.save_for_forward(t, w)
        ctx.C = x.shape[1]

    @staticmethod
    def backward(ctx, go):
        t, w = ctx.saved_tensors
        hot = torch.arange(ctx.C, device=t.device).view(-1, *([1] * (t.dim() - 1))) == t.unsqueeze(
            1
        )
        return -hot.to(go.dtype) * (go * w).unsqueeze(1), None, None

    @staticmethod
    def jvp(ctx, dx, dt, dw):
        t, w = ctx.saved_tensors
        return -(dx.gather(1, t.unsqueeze(1)).squeeze(1) * w)


def right_own_function(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"
):
    """Own autograd.Function (vmap, forward mode, double backward) with ignored rows selected away afterwards."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C = _check(input, target, weight)
    x = _acc(input)
    if cdim == 0:
        x, target = x.unsqueeze(0), target.unsqueeze(0)
    target = target.long()
    keep = target != ignore_index
    t = torch.where(keep, target, 0)
    zero = x.new_zeros(())
    w = torch.ones_like(t, dtype=x.dtype) if weight is None else weight.to(x.dtype)[t]
    # keep -inf/NaN of ignored rows out of the function altogether
    x = torch.where(keep.unsqueeze(1), x, zero)
    # torch.compile does not trace a Function with a jvp of its own
    run = _RightNLL.forward if torch.compiler.is_compiling() else _RightNLL.apply
    rows = torch.where(keep, run(x, t, w), zero)
    w = torch.where(keep, w, zero)
    if cdim == 0:
        rows, w = rows.squeeze(0), w.squeeze(0)
    return _finish(rows, w.sum(), reduction, input.dtype)
