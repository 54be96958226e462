import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _resolve(size_average, reduce, reduction):
    """Deprecated arguments and the name of the reduction -> 'none', 'mean', 'sum'."""
    if size_average is not None or reduce is not None:
        avg = True if size_average is None else size_average
        red = True if reduce is None else reduce
        reduction = "none" if not red else ("mean" if avg else "sum")
        warnings.warn(
            "size_average and reduce args will be deprecated, "
            f"please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        reduction = "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check_index(shape, dtype, target, weight):
    """Check an index target against scores of this shape; returns (N, C, L, out_shape)."""
    nd = len(shape)
    if nd == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if not dtype.is_floating_point:
        raise NotImplementedError(f"not implemented for {dtype}")
    C = shape[0] if nd == 1 else shape[1]
    if nd == 1:
        if target.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.numel() != 1:
            raise ValueError("Expected a single target for an unbatched input")
        N, L, out_shape = 1, 1, ()
    elif nd == 2:
        if target.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.dim() == 0 or target.shape[0] != shape[0]:
            raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size.")
        N, L, out_shape = shape[0], 1, (shape[0],)
    else:
        want = (shape[0],) + tuple(shape[2:])
        if target.dim() == 0 or target.shape[0] != shape[0]:
            raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size.")
        if tuple(target.shape) != want:
            raise RuntimeError(
                f"size mismatch (got input: {list(shape)}, target: {list(target.shape)})"
            )
        N, L, out_shape = shape[0], 1, want
        for d in shape[2:]:
            L *= d
    if target.dtype != torch.int64 and (target.dtype != torch.uint8 or nd > 2):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if weight is not None:
        if tuple(weight.shape) != (C,):
            raise RuntimeError(
                f"weight tensor should be defined either for all {C} classes or no classes "
                f"but got weight tensor of shape: {list(weight.shape)}"
            )
        if weight.dtype != dtype:
            raise RuntimeError(f"expected weight of dtype {dtype} but found {weight.dtype}")
        if weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("the loss is not differentiable with respect to argument 'weight'")
    return N, C, L, out_shape


def _bounds(t, keep, C):
    bad = keep & ((t < 0) | (t >= C))
    if bool(bad.any()):
        raise IndexError(f"Target {int(t[bad][0])} is out of bounds.")


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check_ce(input, target, weight, ignore_index, label_smoothing):
    """Returns (is_prob, class_dim)."""
    if label_smoothing > 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    dim = 0 if input.dim() == 1 else 1
    if target.shape == input.shape:
        if not target.is_floating_point():
            raise RuntimeError(
                "Expected floating point type for target with class probabilities, "
                f"got {target.dtype}"
            )
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        if not input.is_floating_point():
            raise NotImplementedError(f"not implemented for {input.dtype}")
        if weight is not None and tuple(weight.shape) != (input.shape[dim],):
            raise RuntimeError(
                f"cross_entropy: weight tensor should be defined either for all "
                f"{input.shape[dim]} classes or no classes but got weight tensor of shape: "
                f"{list(weight.shape)}"
            )
        return True, dim
    _check_index(input.shape, input.dtype, target, weight)
    return False, dim


def _result_dtype(input, target, weight, is_prob):
    if not is_prob:
        return input.dtype
    dt = torch.promote_types(input.dtype, target.dtype)
    return dt if weight is None else torch.promote_types(dt, weight.dtype)


# ------------------------------------------------------------------ right ones


def right_logsumexp(input, target, weight=None, size_average=None, ignore_index=-100,
                    reduce=None, reduction="mean", label_smoothing=0.0):
    """logsumexp minus the wanted score; the uniform part of smoothing from the mean score."""
    reduction = _resolve(size_average, reduce, reduction)
    is_prob, dim = _check_ce(input, target, weight, ignore_index, label_smoothing)
    out_dtype = _result_dtype(input, target, weight, is_prob)
    acc = _acc(out_dtype)
    eps = max(float(label_smoothing), 0.0)
    C = input.shape[dim]
    x = input.to(acc).movedim(dim, -1)
    out_shape = x.shape[:-1]
    M = out_shape.numel()
    x = x.reshape(M, C)
    if x.numel():
        x = x - x.detach().amax(1, keepdim=True)
    if is_prob:
        y = target.to(acc).movedim(dim, -1).reshape(M, C)
        if eps:
            y = y * (1 - eps) + eps / C
        if weight is not None:
            y = y * weight.to(acc)
        loss = ((x.logsumexp(1, keepdim=True) - x) * y).sum(1)
        den = torch.tensor(float(M), dtype=acc, device=x.device)
    else:
        t = target.reshape(-1).long()
        keep = t != ignore_index
        _bounds(t, keep, C)
        x = x.masked_fill(~keep[:, None], 0.0)
        t = t.masked_fill(~keep, 0)
        lse = x.logsumexp(1) if M and C else x.sum(1)
        xt = x.gather(1, t[:, None]).squeeze(1) if M and C else x.sum(1)
        wc = torch.ones(C, dtype=acc, device=x.device) if weight is None else weight.to(acc)
        w = wc[t] if C else x.sum(1).detach()
        loss = w * (lse - xt)
        if eps:
            loss = (1 - eps) * loss + (eps / C) * ((lse[:, None] - x) * wc).sum(1)
        loss = loss.masked_fill(~keep, 0.0)
        den = w.masked_fill(~keep, 0.0).sum()
    if reduction == "none":
        loss = loss.reshape(out_shape)
    elif reduction == "sum":
        loss = loss.sum()
    else:
        loss = loss.sum() / den
    return loss.to(out_dtype)


class _DenseCE(torch.autograd.Function):
    """sum_c a_c (logsumexp(x) - x_c) over the last axis."""

    @staticmethod
    def forward(ctx, x, a):
        ctx.save_for_backward(x, a)
        m = x.amax(-1, keepdim=True)
        m = m.masked_fill(m == -float("inf"), 0)
        shifted = x - m
        d = shifted.exp().sum(-1, keepdim=True).log_() - shifted
        return torch.where(a == 0, torch.where(d.isnan(), d * a, torch.zeros_like(d)), a * d).sum(-1)

    @staticmethod
    def backward(ctx, g):
        x, a = ctx.saved_tensors
        g = g.unsqueeze(-1)
        gx = ga = None
        if ctx.needs_input_grad[0]:
            gx = g * (x.softmax(-1) * a.sum(-1, keepdim=True) - a)
        if ctx.needs_input_grad[1]:
            ga = -g * x.log_softmax(-1)
        return gx, ga


def right_function(input, target, weight=None, size_average=None, ignore_index=-100,
                   reduce=None, reduction="mean", label_smoothing=0.0):
    """One autograd.Function for both kinds of targets, on dense coefficients per class."""
    reduction = _resolve(size_average, reduce, reduction)
    is_prob, dim = _check_ce(input, target, weight, ignore_index, label_smoothing)
    out_dtype = _result_dtype(input, target, weight, is_prob)
    acc = _acc(out_dtype)
    eps = max(float(label_smoothing), 0.0)
    x = input.movedim(dim, -1).to(acc)
    C = x.shape[-1]
    out_shape = x.shape[:-1]
    wc = None if weight is None else weight.to(acc)
    if is_prob:
        q = target.movedim(dim, -1).to(acc)
        if eps:
            q = torch.lerp(q, torch.full_like(q, 1.0 / C), eps)
        den = float(out_shape.numel())
        keep = None
    else:
        t = target.reshape(out_shape).long()
        keep = t != ignore_index
        _bounds(t, keep, C)
        hot = (t.unsqueeze(-1) == torch.arange(C, device=t.device)) & keep.unsqueeze(-1)
        q = hot.to(acc)
        den = (q if wc is None else q * wc).sum()
        if eps:
            q = q * (1 - eps) + keep.unsqueeze(-1).to(acc) * (eps / C)
    if wc is not None:
        q = q * wc
    if C == 0 or out_shape.numel() == 0:
        loss = (x * q).sum(-1)
    else:
        loss = _DenseCE.apply(x, q)
    if keep is not None:
        loss = torch.where(keep, loss, torch.zeros_like(loss))
    if reduction == "none":
        return loss.to(out_dtype)
    loss = loss.sum()
    if reduction == "mean":
        loss = loss / den
    return loss.to(out_dtype)


def right_shifted_einsum(input, target, weight=None, size_average=None, ignore_index=-100,
                          reduce=None, reduction="mean", label_smoothing=0.0):
    """Works with shifted scores along the original class axis, no movement of axes: einsum for the reductions over classes."""
    reduction = _resolve(size_average, reduce, reduction)
    is_prob, dim = _check_ce(input, target, weight, ignore_index, label_smoothing)
    out_dtype = _result_dtype(input, target, weight, is_prob)
    acc = _acc(out_dtype)
    eps = max(float(label_smoothing), 0.0)
    C = input.shape[dim]
    N = 1 if dim == 0 else input.shape[0]
    out_shape = input.shape[:dim] + input.shape[dim + 1:]
    L = out_shape[1:].numel() if dim else 1
    z = input.to(acc).reshape(N, C, L)
    if N * L and C:
        z = z - z.detach().amax(1, keepdim=True)
    logp = z - torch.einsum("ncl->nl", z.exp()).log().unsqueeze(1)
    w = None if weight is None else weight.to(acc)
    if is_prob:
        y = target.to(acc).reshape(N, C, L)
        if eps:
            y = (1 - eps) * y + eps / C
        if w is None:
            loss = -torch.einsum("ncl,ncl->nl", logp, y)
        else:
            loss = -torch.einsum("ncl,ncl,c->nl", logp, y, w)
        den = N * L
    else:
        t = target.reshape(N, L).long()
        keep = t != ignore_index
        _bounds(t, keep, C)
        if w is None:
            w = torch.ones(C, dtype=acc, device=z.device)
        onehot = torch.zeros(N, C + 1, L, dtype=torch.bool, device=z.device)
        onehot.scatter_(1, torch.where(keep, t, torch.full_like(t, C)).unsqueeze(1), True)
        onehot = onehot[:, :C]
        zero = torch.zeros((), dtype=acc, device=z.device)
        den = torch.where(onehot, w.view(1, C, 1), zero).sum()
        hard = torch.where(onehot, -w.view(1, C, 1) * logp, zero).sum(1)
        loss = hard
        if eps:
            soft = torch.where(keep.unsqueeze(1), -w.view(1, C, 1) * logp, zero).sum(1)
            loss = (1 - eps) * hard + eps * soft / C
        loss = torch.where(keep, loss, zero)
    if reduction == "none":
        return loss.reshape(out_shape).to(out_dtype)
    if reduction == "sum":
        return loss.sum().to(out_dtype)
    return (loss.sum() / den).to(out_dtype)


class RightBlockwise(nn.Module):
    """Blocks of rows, classes streamed one slab after another with a running maximum."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None,
                 reduction="mean", label_smoothing=0.0):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _resolve(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    @staticmethod
    def _lse(x):
        run = None
        for part in x.split(2, dim=1):
            m = part.amax(1).detach()
            cur_m = m if run is None else torch.maximum(run[0], m)
            base = torch.where(cur_m == -float("inf"), torch.zeros_like(cur_m), cur_m)
            s = (part - base[:, None]).exp().sum(1)
            if run is not None:
                s = s + run[1] * (run[0] - base).exp()
            run = (cur_m, s)
        base = torch.where(run[0] == -float("inf"), torch.zeros_like(run[0]), run[0])
        return run[1].log() + base

    def forward(self, input, target):
        reduction = _resolve(None, None, self.reduction)
        weight, eps = self.weight, max(float(self.label_smoothing), 0.0)
        is_prob, dim = _check_ce(input, target, weight, self.ignore_index, self.label_smoothing)
        out_dtype = _result_dtype(input, target, weight, is_prob)
        acc = _acc(out_dtype)
        C = input.shape[dim]
        x = input.movedim(dim, -1)
        out_shape = x.shape[:-1]
        M = out_shape.numel()
        x = x.reshape(M, C)
        y = target.movedim(dim, -1).reshape(M, C) if is_prob else target.reshape(M).long()
        if not is_prob:
            _bounds(y, y != self.ignore_index, C)
        w = None if weight is None else weight.to(acc)
        outs, den = [], torch.zeros((), dtype=acc, device=x.device)
        for i in range(0, M if C else 0, 512):
            xb, yb = x[i:i + 512].to(acc), y[i:i + 512]
            xb = xb - xb.detach().amax(1, keepdim=True)
            if is_prob:
                yb = yb.to(acc)
                if eps:
                    yb = yb - eps * (yb - 1.0 / C)
                nlp = self._lse(xb)[:, None] - xb
                if w is not None:
                    nlp = nlp * w
                outs.append((nlp * yb).sum(1))
                den = den + xb.shape[0]
                continue
            rows = (yb != self.ignore_index).nonzero().squeeze(1)
            xk, tk = xb[rows], yb[rows]
            lse = self._lse(xk) if rows.numel() else xk.sum(1)
            wk = torch.ones_like(lse) if w is None else w[tk]
            wk = wk.detach()
            hard = wk * (lse - xk[torch.arange(rows.numel(), device=x.device), tk])
            if eps:
                nlp = lse[:, None] - xk
                soft = (nlp if w is None else nlp * w).mean(1)
                hard = hard + eps * (soft - hard)
            den = den + wk.sum()
            outs.append(torch.zeros_like(xb[:, 0]).detach().index_add(0, rows, hard))
        if outs:
            loss = torch.cat(outs)
        else:
            loss = x.to(acc) * y if is_prob else x.to(acc)
            if is_prob and w is not None:
                loss = loss * w
            loss = loss.sum(1)
        if reduction == "none":
            return loss.reshape(out_shape).to(out_dtype)
        loss = loss.sum()
        if reduction == "mean":
            loss = loss / den
        return loss.to(out_dtype)


# ------------------------------------------------------------------ wrong ones


def _general(input, target, weight, ignore_index, reduction, eps, logp_fn=None, spread="all",
             detach_target=False):
    """A plain implementation in which the wrong ones below change one thing each."""
    is_prob, dim = _check_ce(input, target, weight, ignore_index, eps)
    out_dtype = _result_dtype(input, target, weight, is_prob)
    acc = _acc(out_dtype)
    eps = max(float(eps), 0.0)
    x = input.movedim(dim, -1).to(acc)
    C, out_shape = x.shape[-1], x.shape[:-1]
    logp = (logp_fn or (lambda v: F.log_softmax(v, -1)))(x)
    w = torch.ones(C, dtype=acc, device=x.device) if weight is None else weight.to(acc)
    if is_prob:
        y = target.detach() if detach_target else target
        y = y.movedim(dim, -1).to(acc)
        if eps:
            y = y * (1 - eps) + eps / C
        loss = -(logp * y * w).sum(-1)
        den = torch.tensor(float(out_shape.numel()), dtype=acc, device=x.device)
    else:
        t = target.reshape(out_shape).long()
        keep = t != ignore_index
        _bounds(t, keep, C)
        safe = torch.where(keep, t, torch.zeros_like(t))
        if t.numel() == 0 or C == 0:
            loss = logp.sum(-1)
            wt = torch.zeros_like(loss)
        else:
            wt = w[safe]
            hard = -wt * logp.gather(-1, safe.unsqueeze(-1)).squeeze(-1)
            loss = hard
            if eps:
                soft = -(logp * w).sum(-1)
                if spread == "all":
                    loss = (1 - eps) * hard + eps / C * soft
                else:
                    loss = (1 - eps) * hard + eps / max(C - 1, 1) * (soft - hard)
        loss = torch.where(keep, loss, torch.zeros_like(loss))
        wt = torch.where(keep, wt, torch.zeros_like(wt))
        den = wt.sum()
    if reduction == "none":
        return loss.to(out_dtype)
    loss = loss.sum()
    if reduction == "mean":
        loss = loss / den
    return loss.to(out_dtype)


def wrong_smoothing_over_other_classes(input, target, weight=None, size_average=None,
                                       ignore_index=-100, reduce=None, reduction="mean",
                                       label_smoothing=0.0):
    """Label smoothing of index targets spreads eps/(C-1) over the other classes instead of eps/C over all; shows with label_smoothing > 0."""
    reduction = _resolve(size_average, reduce, reduction)
    return _general(input, target, weight, ignore_index, reduction, label_smoothing,
                    spread="others")


def witness_wrong_smoothing_over_other_classes():
    torch.manual_seed(0)
    x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    return not torch.allclose(wrong_smoothing_over_other_classes(x, y, label_smoothing=0.2),
                              F.cross_entropy(x, y, label_smoothing=0.2))


def wrong_weighted_mean_by_count(input, target, weight=None, size_average=None,
                                 ignore_index=-100, reduce=None, reduction="mean",
                                 label_smoothing=0.0):
    """With class weights and index targets the mean divides by the number of non-ignored targets instead of the sum of their weights."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction == "mean" and weight is not None and target.shape != input.shape:
        s = F.cross_entropy(input, target, weight, ignore_index=ignore_index, reduction="sum",
                            label_smoothing=label_smoothing)
        return s / (target != ignore_index).sum()
    return F.cross_entropy(input, target, weight, ignore_index=ignore_index,
                           reduction=reduction, label_smoothing=label_smoothing)


def witness_wrong_weighted_mean_by_count():
    torch.manual_seed(0)
    x, y, w = torch.randn(4, 3), torch.tensor([0, 1, 2, 2]), torch.tensor([1.0, 2.0, 5.0])
    return not torch.allclose(wrong_weighted_mean_by_count(x, y, w), F.cross_entropy(x, y, w))


def wrong_log_of_softmax(input, target, weight=None, size_average=None, ignore_index=-100,
                         reduce=None, reduction="mean", label_smoothing=0.0):
    """Takes the logarithm of a finished softmax, which underflows: the loss is infinite when the target score lies more than about 104 below the largest (float32)."""
    reduction = _resolve(size_average, reduce, reduction)
    return _general(input, target, weight, ignore_index, reduction, label_smoothing,
                    logp_fn=lambda v: v.softmax(-1).log())


def witness_wrong_log_of_softmax():
    x, y = torch.tensor([[0.0, 200.0, 3.0]]), torch.tensor([0])
    return bool(torch.isinf(wrong_log_of_softmax(x, y))) and float(F.cross_entropy(x, y)) == 200.0


def wrong_smoothing_mean_counts_ignored(input, target, weight=None, size_average=None,
                                        ignore_index=-100, reduce=None, reduction="mean",
                                        label_smoothing=0.0):
    """The uniform part of label smoothing is averaged over all positions, ignored ones included; shows only with smoothing, the mean without weight and ignored targets."""
    reduction = _resolve(size_average, reduce, reduction)
    if (label_smoothing > 0 and reduction == "mean" and weight is None
            and target.shape != input.shape):
        hard = F.cross_entropy(input, target, ignore_index=ignore_index)
        dim = 0 if input.dim() == 1 else 1
        if label_smoothing > 1:
            raise RuntimeError("label_smoothing must be between 0.0 and 1.0.")
        logp = F.log_softmax(input, dim)
        soft = -logp.sum(dim)
        soft = soft.masked_fill(target.reshape(soft.shape) == ignore_index, 0.0).mean()
        return (1 - label_smoothing) * hard + label_smoothing / input.shape[dim] * soft
    return F.cross_entropy(input, target, weight, ignore_index=ignore_index,
                           reduction=reduction, label_smoothing=label_smoothing)


def witness_wrong_smoothing_mean_counts_ignored():
    torch.manual_seed(0)
    x, y = torch.randn(4, 3), torch.tensor([0, -100, 2, 2])
    return not torch.allclose(wrong_smoothing_mean_counts_ignored(x, y, label_smoothing=0.1),
                              F.cross_entropy(x, y, label_smoothing=0.1))


class _ProbCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight):
        dim = 0 if input.dim() == 1 else 1
        view = [1] * input.dim()
        view[dim] = -1
        w = weight.view(view)
        logp = F.log_softmax(input, dim)
        ctx.dim = dim
        ctx.save_for_backward(input, target, weight)
        ctx.view = view
        return -(logp * target * w).sum(dim)

    @staticmethod
    def backward(ctx, g):
        input, target, weight = ctx.saved_tensors
        logp = F.log_softmax(input, ctx.dim)
        w = weight.view(ctx.view)
        g = g.unsqueeze(ctx.dim)
        gx = g * w * (logp.exp() - target)
        gt = -g * w * logp
        gw = None
        if ctx.needs_input_grad[2]:
            gw = -(g * logp * target)
            gw = gw.movedim(ctx.dim, -1).reshape(-1, weight.shape[0]).sum(0).to(weight.dtype)
        return gx.to(logp.dtype), gt.to(target.dtype), gw


def wrong_weighted_prob_gradient(input, target, weight=None, size_average=None,
                                 ignore_index=-100, reduce=None, reduction="mean",
                                 label_smoothing=0.0):
    """The hand-written backward for probability targets uses w*(softmax - y), which is the derivative only when the weights are all equal to one; the values are right."""
    reduction = _resolve(size_average, reduce, reduction)
    if target.shape == input.shape and weight is not None:
        _, dim = _check_ce(input, target, weight, ignore_index, label_smoothing)
        y = target
        if label_smoothing > 0:
            y = y * (1 - label_smoothing) + label_smoothing / input.shape[dim]
        loss = _ProbCE.apply(input, y, weight)
        if reduction == "none":
            return loss
        return loss.sum() if reduction == "sum" else loss.sum() / loss.numel()
    return F.cross_entropy(input, target, weight, ignore_index=ignore_index,
                           reduction=reduction, label_smoothing=label_smoothing)


def witness_wrong_weighted_prob_gradient():
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    y, w = torch.randn(4, 3).softmax(1), torch.tensor([1.0, 2.0, 5.0])
    l1, l2 = wrong_weighted_prob_gradient(x, y, w), F.cross_entropy(x, y, w)
    a, = torch.autograd.grad(l1, x)
    b, = torch.autograd.grad(l2, x)
    return torch.allclose(l1, l2) and not torch.allclose(a, b)


def wrong_prob_target_detached(input, target, weight=None, size_average=None,
                               ignore_index=-100, reduce=None, reduction="mean",
                               label_smoothing=0.0):
    """Probability targets are detached, so a target that requires grad (a teacher that is trained, say) gets no gradient."""
    reduction = _resolve(size_average, reduce, reduction)
    return _general(input, target, weight, ignore_index, reduction, label_smoothing,
                    detach_target=True)


def witness_wrong_prob_target_detached():
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    y = torch.randn(4, 3).softmax(1).requires_grad_()
    wrong_prob_target_detached(x, y).backward()
    missing = y.grad is None
    F.cross_entropy(x, y).backward()
    return missing and y.grad is not None


def wrong_target_cleaned_in_place(input, target, weight=None, size_average=None,
                                  ignore_index=-100, reduce=None, reduction="mean",
                                  label_smoothing=0.0):
    """Ignored entries of the caller's target are overwritten with 0 while the mask is made, so a second call with the same target counts them as class 0."""
    reduction = _resolve(size_average, reduce, reduction)
    if target.shape != input.shape and target.dtype == torch.int64 and not label_smoothing:
        N, C, L, out_shape = _check_index(input.shape, input.dtype, target, weight)
        ignored = target == ignore_index
        target[ignored] = 0
        _bounds(target, torch.ones_like(ignored), C)
        loss = F.cross_entropy(input, target, weight, ignore_index=ignore_index
                               if ignore_index < 0 else -100, reduction="none")
        ignored = ignored.reshape(loss.shape)
        loss = loss.masked_fill(ignored, 0.0)
        if reduction == "none":
            return loss
        if reduction == "sum":
            return loss.sum()
        w = torch.ones_like(loss) if weight is None else weight[target].reshape(loss.shape)
        return loss.sum() / w.masked_fill(ignored, 0.0).sum()
    return F.cross_entropy(input, target, weight, ignore_index=ignore_index,
                           reduction=reduction, label_smoothing=label_smoothing)


def witness_wrong_target_cleaned_in_place():
    torch.manual_seed(0)
    x, y = torch.randn(4, 3), torch.tensor([0, -100, 2, 2])
    ok = torch.allclose(wrong_target_cleaned_in_place(x, y.clone()), F.cross_entropy(x, y))
    z = y.clone()
    wrong_target_cleaned_in_place(x, z)
    return ok and not torch.equal(z, y)
