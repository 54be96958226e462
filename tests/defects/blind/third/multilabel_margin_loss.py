"""Wrong and right forms of torch.nn.functional.multilabel_margin_loss."""
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


def _amp(x):
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _raw(t):
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def _check(input, target):
    if not input.is_floating_point():
        raise RuntimeError(f"multilabel_margin_loss is not implemented for {input.dtype}")
    if input.dim() not in (1, 2) or input.shape[-1] == 0:
        raise RuntimeError(f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}")
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    if target.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    if not torch.compiler.is_compiling():
        t = _raw(target)
        if t.device.type != "meta" and t.numel() and not bool(((t >= -1) & (t < input.shape[-1])).all()):
            raise RuntimeError("argument #2 'target' is out of range")


def _labels(target, C):
    """Rows of targets: which places hold a label (before the first -1), the labels, and how often each class occurs."""
    live = (target >= 0).long().cumprod(-1).bool()
    label = torch.where(live, target, torch.zeros_like(target))
    return live, label


def _finish(loss, shape, reduction, dtype):
    if reduction == "none":
        loss = loss.reshape(shape)
    elif reduction == "mean":
        loss = loss.mean()
    else:
        loss = loss.sum()
    return loss.to(dtype)


# ------------------------------------------------------------------- right
def _pairs(x, target):
    """(n, C) scores and targets -> (n,) losses through the (label place, class) pairs."""
    C = x.shape[-1]
    live, label = _labels(target, C)
    member = torch.zeros(x.shape, dtype=torch.long, device=x.device).scatter_add(1, label, live.long()) > 0
    hinge = torch.relu(1 - x.gather(1, label).unsqueeze(2) + x.unsqueeze(1))
    use = live.unsqueeze(2) & ~member.unsqueeze(1)
    return torch.where(use, hinge, torch.zeros_like(hinge)).sum((1, 2)) / C


def right_pair_table(input, target, size_average=None, reduce=None, reduction="mean"):
    """The whole table of (label, other class) hinges, masked and summed."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input, target)
    input = _amp(input)
    C = input.shape[-1]
    loss = _pairs(input.reshape(-1, C).to(_acc(input.dtype)), target.reshape(-1, C))
    return _finish(loss, input.shape[:-1], reduction, input.dtype)


class _ByPlace(torch.autograd.Function):
    """Loop over label places, one (n, C) hinge at a time; slope recomputed in the backward. The loss is
    piecewise linear, so the slope does not depend on x a second time."""
    generate_vmap_rule = True

    @staticmethod
    def _parts(x, target):
        live, label = _labels(target, x.shape[-1])
        other = torch.zeros(x.shape, dtype=torch.long, device=x.device).scatter_add(1, label, live.long()) == 0
        return live, label, other

    @staticmethod
    def forward(x, target):
        live, label, other = _ByPlace._parts(x, target)
        total = torch.zeros_like(x[:, 0])
        for j in range(x.shape[1]):
            own = x.gather(1, label[:, j:j + 1])
            gap = (1 - own + x).clamp(min=0)
            total = total + torch.where(other & live[:, j:j + 1], gap, torch.zeros_like(gap)).sum(1)
        return total / x.shape[1]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _slope(x, target):
        live, label, other = _ByPlace._parts(x, target)
        slope = torch.zeros_like(x)
        for j in range(x.shape[1]):
            lab = label[:, j:j + 1]
            on = (other & live[:, j:j + 1] & (1 - x.gather(1, lab) + x > 0)).to(x.dtype)
            slope = (slope + on).scatter_add(1, lab, -on.sum(1, keepdim=True))
        return slope / x.shape[1]

    @staticmethod
    def backward(ctx, g):
        x, target = ctx.saved_tensors
        # 0 * x keeps the second derivative present (and zero)
        return g.unsqueeze(1) * (_ByPlace._slope(x.detach(), target) + 0 * x), None

    @staticmethod
    def jvp(ctx, xt, _):
        x, target = ctx.saved_tensors
        return (xt * _ByPlace._slope(x, target)).sum(1)


def right_place_by_place(input, target, size_average=None, reduce=None, reduction="mean"):
    """One label place after another in a custom Function with bounded memory."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input, target)
    input = _amp(input)
    C = input.shape[-1]
    loss = _ByPlace.apply(input.reshape(-1, C).to(_acc(input.dtype)), target.reshape(-1, C))
    return _finish(loss, input.shape[:-1], reduction, input.dtype)


# ------------------------------------------------------------------- wrong
def wrong_labels_behind_the_stop(input, target, size_average=None, reduce=None, reduction="mean"):
    """All non-negative entries of a target row count as labels, also those that stand behind the first
    -1 and should be disregarded."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input, target)
    front = torch.argsort((target < 0).long(), dim=-1, stable=True)
    return right_pair_table(input, target.gather(-1, front), reduction=reduction)


def witness_wrong_labels_behind_the_stop():
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    a, b = torch.tensor([[3, 0, -1, -1]]), torch.tensor([[3, 0, -1, 1]])
    f, r = wrong_labels_behind_the_stop, F.multilabel_margin_loss
    return torch.allclose(f(x, a), r(x, a)) and not torch.allclose(f(x, b), r(x, b))


_MEMBER = {}


def wrong_scratch_left_after_refusal(input, target, size_average=None, reduce=None, reduction="mean"):
    """The table of label membership is a scratch buffer per shape that is cleared at the end of a call
    only; a call refused for a label out of range leaves its marks behind for the next call."""
    reduction = _resolve(size_average, reduce, reduction)
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(input) \
            or torch._C._functorch.is_functorch_wrapped_tensor(target):
        return right_pair_table(input, target, reduction=reduction)
    if target.shape != input.shape or target.dtype != torch.int64 or input.dim() not in (1, 2) or input.shape[-1] == 0:
        _check(input, target)
    C = input.shape[-1]
    t = target.reshape(-1, C)
    key = (tuple(t.shape), str(t.device))
    member = _MEMBER.pop(key, None)
    if member is None:
        member = torch.zeros(t.shape, dtype=torch.bool, device=t.device)
    live = (t >= 0).long().cumprod(-1).bool()
    good = live & (t < C)
    member |= torch.zeros(t.shape, dtype=torch.long, device=t.device).scatter_add(1, torch.where(good, t, 0), good.long()) > 0
    _MEMBER[key] = member
    _check(input, target)  # refuses here, after the marks
    input = _amp(input)
    x = input.reshape(-1, C).to(_acc(input.dtype))
    label = torch.where(live, t, torch.zeros_like(t))
    hinge = torch.relu(1 - x.gather(1, label).unsqueeze(2) + x.unsqueeze(1))
    use = live.unsqueeze(2) & ~member.unsqueeze(1)
    loss = torch.where(use, hinge, torch.zeros_like(hinge)).sum((1, 2)) / C
    _MEMBER.pop(key, None)
    return _finish(loss, input.shape[:-1], reduction, input.dtype)


def witness_wrong_scratch_left_after_refusal():
    torch.manual_seed(0)
    x, y, bad = torch.randn(2, 4), torch.tensor([[0, -1, -1, -1], [1, 2, -1, -1]]), torch.tensor([[3, 9, -1, -1], [0, -1, -1, -1]])
    f, r = wrong_scratch_left_after_refusal, F.multilabel_margin_loss
    ok = torch.allclose(f(x, y), r(x, y)) and torch.allclose(f(x, y), r(x, y))
    try:
        f(x, bad)
        return False
    except RuntimeError:
        pass
    wrong = not torch.allclose(f(x, y), r(x, y))
    return ok and wrong


def wrong_needs_contiguous(input, target, size_average=None, reduce=None, reduction="mean"):
    """Scores and targets are flattened with .view(-1), so non-contiguous ones (transposed, every second
    column) raise a RuntimeError."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input, target)
    x, t = input.view(-1).reshape(input.shape), target.view(-1).reshape(target.shape)
    return right_pair_table(x, t, reduction=reduction)


def witness_wrong_needs_contiguous():
    x, y = torch.randn(4, 4), torch.tensor([[0, -1, -1, -1]] * 4)
    ok = torch.allclose(wrong_needs_contiguous(x, y), F.multilabel_margin_loss(x, y))
    try:
        wrong_needs_contiguous(x.t(), y)
        return False
    except RuntimeError:
        return ok and bool(torch.isfinite(F.multilabel_margin_loss(x.t(), y)))


class _RepeatsOnce(_ByPlace):
    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, g):
        x, target = ctx.saved_tensors
        live, label, other = _ByPlace._parts(x, target)
        xd = x.detach()
        gap = (1 - xd.gather(1, label).unsqueeze(2) + xd.unsqueeze(1) > 0) & live.unsqueeze(2) & other.unsqueeze(1)
        slope = gap.sum(1).to(x.dtype)
        # written, not added, to the label's place: a label that occurs twice is written twice
        push = torch.where(live, gap.sum(2), torch.zeros_like(label)).to(x.dtype)
        first = torch.full_like(xd, 0.0)
        for j in range(x.shape[1]):
            lab = label[:, j:j + 1]
            put = first.scatter(1, lab, push[:, j:j + 1])
            first = torch.where(live[:, j:j + 1], put, first)
        slope = (slope - first) / x.shape[1]
        return g.unsqueeze(1) * (slope + 0 * x), None


def wrong_repeated_label_gradient(input, target, size_average=None, reduce=None, reduction="mean"):
    """A label that occurs twice in a row counts twice in the value, but the backward writes (does not
    add) the label's own gradient, so it is counted once."""
    reduction = _resolve(size_average, reduce, reduction)
    _check(input, target)
    input = _amp(input)
    C = input.shape[-1]
    loss = _RepeatsOnce.apply(input.reshape(-1, C).to(_acc(input.dtype)), target.reshape(-1, C))
    return _finish(loss, input.shape[:-1], reduction, input.dtype)


def witness_wrong_repeated_label_gradient():
    torch.manual_seed(0)
    x0 = torch.randn(1, 4)
    res = []
    for y in (torch.tensor([[3, 0, -1, -1]]), torch.tensor([[3, 3, -1, -1]])):
        for f in (wrong_repeated_label_gradient, F.multilabel_margin_loss):
            x = x0.clone().requires_grad_()
            o = f(x, y)
            o.backward()
            res.append((o.detach(), x.grad))
    return torch.allclose(res[0][1], res[1][1]) and torch.allclose(res[2][0], res[3][0]) and not torch.allclose(res[2][1], res[3][1])


def wrong_short_target_rows(input, target, size_average=None, reduce=None, reduction="mean"):
    """Targets of shape (N, K) with K < C are accepted and padded by -1 inside, though target and input
    must have the same size."""
    if target.dim() == input.dim() and target.dim() in (1, 2) and target.shape[:-1] == input.shape[:-1] \
            and 0 < target.shape[-1] < input.shape[-1]:
        target = F.pad(target, (0, input.shape[-1] - target.shape[-1]), value=-1)
    return right_pair_table(input, target, size_average, reduce, reduction)


def witness_wrong_short_target_rows():
    x, y = torch.randn(2, 4), torch.tensor([[0, 1], [2, -1]])
    try:
        F.multilabel_margin_loss(x, y)
        return False
    except RuntimeError:
        return bool(torch.isfinite(wrong_short_target_rows(x, y)))


def wrong_mean_skips_unlabelled_rows(input, target, size_average=None, reduce=None, reduction="mean"):
    """The 'mean' divides by the number of rows that have a label; rows without any (all -1), whose loss
    is 0, are left out of the count."""
    reduction = _resolve(size_average, reduce, reduction)
    out = right_pair_table(input, target, reduction="none" if reduction == "mean" else reduction)
    if reduction != "mean":
        return out
    some = (target[..., 0] >= 0).sum()
    acc = _acc(out.dtype)
    full = out.to(acc).mean() if out.numel() else out.mean()
    if out.numel() == 0:
        return full
    return (full * (out.numel() / some.clamp(min=1).to(acc))).to(out.dtype)


def witness_wrong_mean_skips_unlabelled_rows():
    torch.manual_seed(0)
    x, y = torch.randn(3, 3), torch.tensor([[0, 1, -1], [2, -1, -1], [1, 0, -1]])
    f, r = wrong_mean_skips_unlabelled_rows, F.multilabel_margin_loss
    z = y.clone()
    z[0] = -1
    return torch.allclose(f(x, y), r(x, y)) and not torch.allclose(f(x, z), r(x, z))


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
