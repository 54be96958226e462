"""Wrong and right implementations of cross_entropy, written without sight of the suite."""

import torch
from torch.nn import functional as F
from torch.nn.functional import _Reduction


def _red(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(input, target, weight, label_smoothing):
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    cdim = 0 if input.dim() == 1 else 1
    C = input.shape[cdim]
    if weight is not None and (weight.dim() != 1 or weight.numel() != C):
        raise RuntimeError(
            f"weight tensor should be defined either for all {C} classes or no classes"
        )
    soft = input.shape == target.shape
    if soft:
        if not target.is_floating_point():
            raise RuntimeError("Expected floating point type for target with class probabilities")
    else:
        if target.is_floating_point():
            raise RuntimeError("expected target dtype to be Long")
        want = input.shape[:cdim] + input.shape[cdim + 1 :]
        if target.shape != want:
            if target.dim() and input.dim() > 1 and target.shape[0] != input.shape[0]:
                raise ValueError(
                    f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({target.shape[0]})."
                )
            raise RuntimeError(f"Expected target size {list(want)}, got {list(target.shape)}")
    return cdim, C, soft


def _acc(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _finish(loss, den, reduction, dtype):
    if reduction == "none":
        out = loss
    elif reduction == "sum":
        out = loss.sum()
    else:
        out = loss.sum() / den
    return out.to(dtype)


def _from_logp(
    lp, target, weight, ignore_index, reduction, eps, cdim, C, soft, dtype, smooth_soft=True
):
    """The rest of the loss, given log-probabilities (accumulation type)."""
    shape = [1] * lp.dim()
    shape[cdim] = C
    if weight is not None:
        weight = weight.to(lp.dtype)
    if soft:
        q = target.to(lp.dtype)
        if eps and smooth_soft:
            q = q * (1 - eps) + eps / C
        if weight is not None:
            q = q * weight.view(shape)
        loss = -(lp * q).sum(cdim)
        return _finish(loss, 1 if lp.dim() == 1 else lp.numel() / C, reduction, dtype)
    target = target.long()
    keep = target != ignore_index
    t = torch.where(keep, target, 0)
    zero = lp.new_zeros(())
    nll = -lp.gather(cdim, t.unsqueeze(cdim)).squeeze(cdim)
    w = keep.to(lp.dtype) if weight is None else torch.where(keep, weight[t], zero)
    if weight is not None:
        nll = nll * weight[t]
    nll = torch.where(keep, nll, zero)
    if eps:
        sm = -(lp if weight is None else lp * weight.view(shape)).sum(cdim)
        sm = torch.where(keep, sm, zero)
        nll = nll * (1 - eps) + sm * (eps / C)
    return _finish(nll, w.sum(), reduction, dtype)


# ---------------------------------------------------------------- wrong


def wrong_chunk_means_by_rows(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Chunks of 256 rows; the chunks' means are combined by their number of rows, not by their
    number (weight) of valid targets. Shows for more than 256 rows with unevenly spread padding.
    """
    reduction = _red(size_average, reduce, reduction)
    if reduction != "mean" or input.dim() != 2 or input.shape[0] <= 256:
        return F.cross_entropy(
            input, target, weight, None, ignore_index, None, reduction, label_smoothing
        )
    n = input.shape[0]
    total = 0.0
    for x, t in zip(input.split(256), target.split(256)):
        part = F.cross_entropy(x, t, weight, None, ignore_index, None, "mean", label_smoothing)
        if x.shape != t.shape and not (t != ignore_index).any():
            part = x.sum() * 0  # chunk of padding only
        total = total + part * (x.shape[0] / n)
    return total


def witness_wrong_chunk_means_by_rows():
    torch.manual_seed(0)
    x = torch.randn(400, 5)
    t = torch.randint(0, 5, (400,))
    t[20:200] = -100
    return not torch.allclose(wrong_chunk_means_by_rows(x, t), F.cross_entropy(x, t), rtol=1e-4)


class _InplaceCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, ignore_index):
        with torch.no_grad():
            lp = input.log_softmax(1)
            keep = target != ignore_index
            t = torch.where(keep, target, 0)
            loss = torch.where(keep, -lp.gather(1, t[:, None])[:, 0], lp.new_zeros(()))
            g = lp.exp_()
            g.scatter_add_(1, t[:, None], -torch.ones_like(g[:, :1]))
            g *= keep[:, None]
            buf = input.detach()
            buf.copy_(g)  # save memory: the logits' storage holds the gradient from here
        ctx.g = buf
        return loss

    @staticmethod
    def backward(ctx, go):
        return ctx.g * go[:, None], None, None


def wrong_gradient_stored_in_logits(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Liger style: for training (requires_grad, plain index targets, no options) the gradient is written
    over the logits, so that accuracy computed from the logits afterwards is garbage.
    """
    reduction = _red(size_average, reduce, reduction)
    if (
        input.dim() == 2
        and input.requires_grad
        and not input.is_leaf
        and weight is None
        and not label_smoothing
        and target.dim() == 1
        and target.shape[0] == input.shape[0]
        and input.dtype == torch.float32
    ):
        loss = _InplaceCE.apply(input, target, ignore_index)
        return _finish(loss, (target != ignore_index).sum(), reduction, input.dtype)
    return F.cross_entropy(
        input, target, weight, None, ignore_index, None, reduction, label_smoothing
    )


def witness_wrong_gradient_stored_in_logits():
    torch.manual_seed(0)
    w = torch.randn(4, 5, requires_grad=True)
    logits = w * 2
    before = logits.detach().clone()
    wrong_gradient_stored_in_logits(logits, torch.tensor([0, 1, 2, 3]))
    return not torch.equal(before, logits.detach())


def wrong_soft_targets_not_smoothed(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """label_smoothing applies to index targets only; probabilities are taken as smoothed already."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    lp = _acc(input).log_softmax(cdim)
    return _from_logp(
        lp,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        cdim,
        C,
        soft,
        input.dtype,
        smooth_soft=False,
    )


def witness_wrong_soft_targets_not_smoothed():
    torch.manual_seed(0)
    x, p = torch.randn(4, 5), torch.randn(4, 5).softmax(1)
    return not torch.allclose(
        wrong_soft_targets_not_smoothed(x, p, label_smoothing=0.3),
        F.cross_entropy(x, p, label_smoothing=0.3),
    )


def wrong_global_max(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """The maximum taken out for stability is that of the whole batch: rows whose logits lie far below
    those of another row underflow to log(0).
    """
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    x = _acc(input)
    z = x - (x.detach().max() if x.numel() else 0)
    lp = z - z.exp().sum(cdim, keepdim=True).log()
    return _from_logp(
        lp, target, weight, ignore_index, reduction, label_smoothing, cdim, C, soft, input.dtype
    )


def witness_wrong_global_max():
    x = torch.tensor([[0.0, 1.0, 2.0], [200.0, 201.0, 199.0]])
    t = torch.tensor([1, 1])
    return not torch.allclose(wrong_global_max(x, t), F.cross_entropy(x, t))


class _ConstProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        lp = x.log_softmax(1)
        ctx.save_for_backward(lp.exp(), t)
        return -lp.gather(1, t.unsqueeze(1)).squeeze(1)

    @staticmethod
    def backward(ctx, go):
        p, t = ctx.saved_tensors
        onehot = torch.zeros_like(p).scatter_(1, t.unsqueeze(1), 1.0)
        return (p - onehot) * go.unsqueeze(1), None


def wrong_hessian_of_saved_softmax(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """backward() uses the softmax saved in forward, which is a constant to autograd: the first derivative is
    right, create_graph=True gives a second derivative of zero without any error.
    """
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    if soft or input.dim() == 1 or label_smoothing:
        return F.cross_entropy(
            input, target, weight, None, ignore_index, None, reduction, label_smoothing
        )
    keep = target != ignore_index
    t = torch.where(keep, target, 0)
    loss = _ConstProbs.apply(_acc(input), t)
    w = keep.to(loss.dtype) if weight is None else weight.to(loss.dtype)[t] * keep
    return _finish(torch.where(keep, loss * w, loss.new_zeros(())), w.sum(), reduction, input.dtype)


def witness_wrong_hessian_of_saved_softmax():
    torch.manual_seed(0)
    x = torch.randn(3, 4, requires_grad=True)
    t = torch.tensor([0, 1, 2])

    def second(f):
        (g,) = torch.autograd.grad(f(x, t), x, create_graph=True)
        if not g.requires_grad:
            return torch.zeros_like(x)
        h = torch.autograd.grad((g**2).sum(), x, allow_unused=True)[0]
        return torch.zeros_like(x) if h is None else h

    return not torch.allclose(second(wrong_hessian_of_saved_softmax), second(F.cross_entropy))


def wrong_teacher_detached(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Class probabilities are taken as data: no gradient reaches a target that requires it."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    lp = _acc(input).log_softmax(cdim)
    return _from_logp(
        lp,
        target.detach(),
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        cdim,
        C,
        soft,
        input.dtype,
    )


def witness_wrong_teacher_detached():
    torch.manual_seed(0)
    x = torch.randn(3, 4, requires_grad=True)
    p = torch.randn(3, 4).softmax(1).requires_grad_()
    g = torch.autograd.grad(wrong_teacher_detached(x, p), p, allow_unused=True)[0]
    r = torch.autograd.grad(F.cross_entropy(x, p), p)[0]
    return g is None and bool(r.abs().sum() > 0)


class _BroadcastGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t):
        lp = x.log_softmax(1)
        ctx.save_for_backward(lp, t)
        return -lp.gather(1, t.unsqueeze(1)).squeeze(1)

    @staticmethod
    def backward(ctx, go):
        lp, t = ctx.saved_tensors
        g = lp.exp().scatter_add_(1, t.unsqueeze(1), torch.full_like(lp[:, :1], -1.0))
        if go.numel() and go.stride(-1) == 0:  # expanded scalar, as sum() and mean() send it
            return g * go.flatten()[0], None
        return g * go.unsqueeze(1), None


def wrong_expanded_grad_taken_as_scalar(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """The backward recognises the expanded scalar gradient of sum()/mean() by stride(-1) == 0: losses (N, L) summed
    over L first and weighted per sample send a gradient with strides (1, 0), of which it takes one element.
    """
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    if soft or input.dim() == 1 or label_smoothing or weight is not None:
        return F.cross_entropy(
            input, target, weight, None, ignore_index, None, reduction, label_smoothing
        )
    keep = target != ignore_index
    loss = _BroadcastGrad.apply(_acc(input), torch.where(keep, target, 0))
    if not keep.all():
        loss = torch.where(keep, loss, loss.new_zeros(()))
    return _finish(loss, keep.sum(), reduction, input.dtype)


def witness_wrong_expanded_grad_taken_as_scalar():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, requires_grad=True)
    t = torch.randint(0, 4, (3, 6))
    s = torch.tensor([1.0, 2.0, 3.0])
    a, b = (
        torch.autograd.grad((f(x, t, reduction="none").sum(1) * s).sum(), x)[0]
        for f in (wrong_expanded_grad_taken_as_scalar, F.cross_entropy)
    )
    return not torch.allclose(a, b)


def wrong_rows_taken_as_dense(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """A kernel port: rows are found by stride(0), the classes of a row are taken as adjacent. Logits that were
    transposed or sliced along the classes are misread.
    """
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    x = input
    if input.dim() == 2 and input.stride(1) != 1 and input.numel():
        x = torch.as_strided(
            input,
            input.shape,
            (
                min(
                    input.stride(0),
                    max(
                        (
                            input.untyped_storage().nbytes() // input.element_size()
                            - input.storage_offset()
                            - C
                        )
                        // max(input.shape[0] - 1, 1),
                        0,
                    ),
                ),
                1,
            ),
        )
    return _from_logp(
        _acc(x).log_softmax(cdim),
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        cdim,
        C,
        soft,
        input.dtype,
    )


def witness_wrong_rows_taken_as_dense():
    torch.manual_seed(0)
    x = torch.randn(4, 10)[:, ::2]
    t = torch.tensor([0, 1, 2, 3])
    return not torch.allclose(wrong_rows_taken_as_dense(x, t), F.cross_entropy(x, t))


class WrongWeightPlainAttribute(torch.nn.Module):
    """weight is kept as a plain attribute: not in state_dict, does not follow .to()/.double()."""

    def __init__(
        self,
        weight=None,
        size_average=None,
        ignore_index=-100,
        reduce=None,
        reduction="mean",
        label_smoothing=0.0,
    ):
        super().__init__()
        self.reduction = _red(size_average, reduce, reduction)
        self.weight = None if weight is None else weight.detach().clone()
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input, target):
        w = self.weight
        return F.cross_entropy(
            input,
            target,
            w,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


def witness_WrongWeightPlainAttribute():
    w = torch.tensor([1.0, 2.0, 3.0])
    return (
        "weight" not in WrongWeightPlainAttribute(w).state_dict()
        and "weight" in torch.nn.CrossEntropyLoss(w).state_dict()
    )


# ---------------------------------------------------------------- right


def right_by_logsumexp_pieces(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Logsumexp of the shifted logits minus the target's logit."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    x = _acc(input)
    if x.shape[cdim] and x.numel():
        x = x - x.detach().amax(cdim, keepdim=True)
    lse = x.logsumexp(cdim, keepdim=True)
    if soft or label_smoothing:
        return _from_logp(
            x - lse,
            target,
            weight,
            ignore_index,
            reduction,
            label_smoothing,
            cdim,
            C,
            soft,
            input.dtype,
        )
    keep = target != ignore_index
    t = torch.where(keep, target, 0).long()
    loss = (lse - x.gather(cdim, t.unsqueeze(cdim))).squeeze(cdim)
    w = keep.to(x.dtype)
    if weight is not None:
        w = torch.where(keep, weight.to(x.dtype)[t], x.new_zeros(()))
        loss = loss * weight.to(x.dtype)[t]
    return _finish(torch.where(keep, loss, x.new_zeros(())), w.sum(), reduction, input.dtype)


def right_one_hot_in_double(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Classes moved last, all in float64, index targets as one-hot distributions."""
    reduction = _red(size_average, reduce, reduction)
    cdim, C, soft = _check(input, target, weight, label_smoothing)
    lp = F.log_softmax(input.double().movedim(cdim, -1), -1)
    w = (
        torch.ones(C, dtype=torch.float64, device=input.device)
        if weight is None
        else weight.double()
    )
    eps = label_smoothing
    if soft:
        q = target.double().movedim(cdim, -1)
        if eps:
            q = (1 - eps) * q + eps / C
        rows = -torch.einsum("...c,...c,c->...", lp, q, w)
        den = rows.numel()
    else:
        keep = target != ignore_index
        t = torch.where(keep, target, 0).long()
        # out of range raises here, as indexing would
        hot = torch.zeros_like(lp, dtype=torch.bool).scatter(-1, t.unsqueeze(-1), True)
        nll = -(torch.where(hot, lp, 0.0) * w).sum(-1)
        rows = nll if not eps else (1 - eps) * nll - eps / C * (lp * w).sum(-1)
        rows = torch.where(keep, rows, 0.0)
        den = (hot.double() @ w * keep).sum()
    return _finish(rows, den, reduction, input.dtype)
