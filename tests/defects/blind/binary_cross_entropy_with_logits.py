"""Wrong and right implementations of binary_cross_entropy_with_logits, written without sight of the suite."""

import torch
from torch.nn import functional as F
from torch.nn.functional import _Reduction


def _red(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(input, target):
    if target.shape != input.shape:
        raise ValueError(
            f"Target size ({target.shape}) must be the same as input size ({input.shape})"
        )


def _finish(loss, weight, reduction):
    if weight is not None:
        loss = loss * weight
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _rows(x, y, pos_weight=None):
    lsm = F.logsigmoid(x)
    if pos_weight is None:
        return (1 - y) * x - lsm
    return (1 - y) * x - (1 + (pos_weight - 1) * y) * lsm


def wrong_pos_weight_on_hard_positives(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """pos_weight is applied where target == 1; soft labels (smoothed, mixed up) get none of it."""
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    loss = _rows(input, target)
    if pos_weight is not None:
        loss = torch.where(target == 1, loss * pos_weight, loss)
    return _finish(loss, weight, reduction)


def witness_wrong_pos_weight_on_hard_positives():
    x, y, p = torch.randn(3), torch.tensor([0.0, 1.0, 0.7]), torch.tensor(3.0)
    return not torch.allclose(
        wrong_pos_weight_on_hard_positives(x, y, pos_weight=p),
        F.binary_cross_entropy_with_logits(x, y, pos_weight=p),
    )


_PREPARED = {}


def wrong_prepared_pos_weight_is_stale(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """pos_weight - 1 is prepared once per tensor object: after an in-place update (running class balance, copy_ of a
    checkpoint) the old one is used.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    if pos_weight is None or pos_weight.requires_grad:
        return _finish(_rows(input, target, pos_weight), weight, reduction)
    hit = _PREPARED.get(id(pos_weight))
    if hit is None or hit[0] is not pos_weight:
        _PREPARED.clear()
        hit = _PREPARED[id(pos_weight)] = (pos_weight, pos_weight - 1)
    loss = (1 - target) * input - (1 + hit[1] * target) * F.logsigmoid(input)
    return _finish(loss, weight, reduction)


def witness_wrong_prepared_pos_weight_is_stale():
    x, y, p = torch.randn(3), torch.tensor([0.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 3.0])
    wrong_prepared_pos_weight_is_stale(x, y, pos_weight=p)
    p.fill_(5.0)
    return not torch.allclose(
        wrong_prepared_pos_weight_is_stale(x, y, pos_weight=p),
        F.binary_cross_entropy_with_logits(x, y, pos_weight=p),
    )


_SCRATCH = {}


def wrong_unreduced_result_is_scratch(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """Without grad the losses are written into a buffer kept per shape: the 'none' result of one call is
    overwritten by the next (collecting validation losses in a list gives the last batch n times).
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    needs = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (input, target, weight, pos_weight)
    )
    if needs or reduction != "none" or weight is not None or pos_weight is not None:
        return _finish(_rows(input, target, pos_weight), weight, reduction)
    key = (tuple(input.shape), input.dtype, input.device)
    if key not in _SCRATCH:
        _SCRATCH[key] = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    buf = _SCRATCH[key]
    with torch.no_grad():
        buf.copy_(_rows(input, target))
    return buf


def witness_wrong_unreduced_result_is_scratch():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    y = torch.ones(2, 3)
    first = wrong_unreduced_result_is_scratch(a, y, reduction="none")
    keep = first.clone()
    wrong_unreduced_result_is_scratch(b, y, reduction="none")
    return not torch.equal(first, keep)


def wrong_gradient_at_zero_logit(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """max(x, 0) - x y + log1p(exp(-|x|)), left to autograd: at a logit of exactly 0 (a zero-initialised head) relu and
    abs have derivative 0, so the gradient is -y instead of 1/2 - y.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    tail = torch.log1p(torch.exp(-input.abs()))
    if pos_weight is None:
        loss = F.relu(input) - input * target + tail
    else:
        loss = (1 - target) * input + (1 + (pos_weight - 1) * target) * (tail + F.relu(-input))
    return _finish(loss, weight, reduction)


def witness_wrong_gradient_at_zero_logit():
    x, y = torch.zeros(3, requires_grad=True), torch.tensor([0.0, 1.0, 0.3])
    a, b = (
        torch.autograd.grad(f(x, y), x)[0]
        for f in (wrong_gradient_at_zero_logit, F.binary_cross_entropy_with_logits)
    )
    return not torch.allclose(a, b)


class _OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, p):
        ctx.save_for_backward(x, y, p)
        return _rows(x, y, p)

    @staticmethod
    def backward(ctx, go):
        x, y, p = ctx.saved_tensors
        lw = 1 + (p - 1) * y
        gx = go * ((1 - y) - lw * torch.sigmoid(-x))
        gy = go * (-x - (p - 1) * F.logsigmoid(x))
        gp = go * (-y * F.logsigmoid(x))
        return gx, gy, gp


def wrong_no_forward_mode(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """Own Function without setup_context and jvp: backward() is right; torch.func transforms and forward-mode AD, which
    torch's loss supports, raise.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    p = torch.ones((), dtype=input.dtype, device=input.device) if pos_weight is None else pos_weight
    if input.shape != torch.broadcast_shapes(p.shape, input.shape):
        raise RuntimeError("pos_weight does not broadcast to the input")
    return _finish(_OldStyle.apply(input, target, p.expand_as(input)), weight, reduction)


def witness_wrong_no_forward_mode():
    x, y = torch.randn(3), torch.tensor([0.0, 1.0, 0.3])
    torch.func.jvp(lambda z: F.binary_cross_entropy_with_logits(z, y), (x,), (x,))
    try:
        torch.func.jvp(lambda z: wrong_no_forward_mode(z, y), (x,), (x,))
    except Exception:
        return True
    return False


def wrong_pos_weight_along_channels(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """A pos_weight of size C is laid along dimension 1 of (N, C, H, W) when H or W makes torch's trailing broadcasting
    apply it along W (W == C): other numbers than documented.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    p = pos_weight
    if (
        p is not None
        and p.dim() == 1
        and input.dim() > 2
        and p.numel() == input.shape[1]
        and p.numel() > 1
    ):
        p = p.view(1, -1, *([1] * (input.dim() - 2)))
    return _finish(_rows(input, target, p), weight, reduction)


def witness_wrong_pos_weight_along_channels():
    x, y, p = torch.randn(2, 3, 2, 3), torch.ones(2, 3, 2, 3), torch.tensor([1.0, 5.0, 9.0])
    return not torch.allclose(
        wrong_pos_weight_along_channels(x, y, pos_weight=p),
        F.binary_cross_entropy_with_logits(x, y, pos_weight=p),
    )


_TUNED = set()


def wrong_tuning_draws_random_numbers(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """On the first call per shape and dtype the variant to use is chosen on random data from the global generator: the
    user's seeded run is no longer the same.
    """
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    key = (tuple(input.shape), input.dtype)
    if key not in _TUNED:
        _TUNED.add(key)
        z = torch.randn(min(input.numel(), 64) or 1)
        _rows(z, (z > 0).float())
    return _finish(_rows(input, target, pos_weight), weight, reduction)


def witness_wrong_tuning_draws_random_numbers():
    _TUNED.clear()
    before = torch.get_rng_state()
    wrong_tuning_draws_random_numbers(torch.zeros(3), torch.zeros(3))
    return not torch.equal(before, torch.get_rng_state())


class WrongSqueezesColumn(torch.nn.Module):
    """Logits (N, 1) are squeezed to (N) with their target: with reduction='none' the shape is not that of the input."""

    def __init__(
        self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
    ):
        super().__init__()
        self.reduction = _red(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input, target):
        _check(input, target)
        w, p = self.weight, self.pos_weight
        if input.dim() == 2 and input.shape[1] == 1 and w is None and (p is None or p.numel() == 1):
            input, target = input.squeeze(1), target.squeeze(1)
            p = None if p is None else p.reshape(())
        return _finish(_rows(input, target, p), w, self.reduction)


def witness_WrongSqueezesColumn():
    return WrongSqueezesColumn(reduction="none")(torch.zeros(4, 1), torch.zeros(4, 1)).shape != (
        4,
        1,
    )


# ---------------------------------------------------------------- right


def _check_weight(input, weight):
    if weight is not None and torch.broadcast_shapes(weight.shape, input.shape) != input.shape:
        raise RuntimeError(
            f"weight of shape {tuple(weight.shape)} does not broadcast to {tuple(input.shape)}"
        )


def right_by_softplus_of_both_signs(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """pos_weight * y * -log s(x) + (1 - y) * -log s(-x), by logaddexp against zero."""
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    _check_weight(input, weight)
    acc = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    x, y = input.to(acc), target.to(acc)
    zero = torch.zeros_like(x)
    pos, neg = torch.logaddexp(zero, -x), torch.logaddexp(zero, x)
    if pos_weight is not None:
        pos = pos * pos_weight.to(acc)
    loss = (y * pos + (1 - y) * neg).to(input.dtype)
    if loss.shape != input.shape:
        raise RuntimeError("pos_weight does not broadcast to the input")
    return _finish(loss, weight, reduction)


class _RightBCEL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, p):
        return _rows(x, y, p)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _partials(x, y, p):
        ls = F.logsigmoid(x)
        return (1 - y) * torch.sigmoid(x) - p * y * torch.sigmoid(-x), -x - (p - 1) * ls, -y * ls

    @staticmethod
    def backward(ctx, go):
        return tuple(
            go * d if n else None
            for d, n in zip(_RightBCEL._partials(*ctx.saved_tensors), ctx.needs_input_grad)
        )

    @staticmethod
    def jvp(ctx, *tangents):
        parts = _RightBCEL._partials(*ctx.saved_tensors)
        return sum(d * t for d, t in zip(parts, tangents) if t is not None)


def right_analytic(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """Own Function with the derivative in closed form, in logits, target and pos_weight."""
    reduction = _red(size_average, reduce, reduction)
    _check(input, target)
    _check_weight(input, weight)
    p = torch.ones((), dtype=input.dtype, device=input.device) if pos_weight is None else pos_weight
    if torch.broadcast_shapes(p.shape, input.shape) != input.shape:
        raise RuntimeError("pos_weight does not broadcast to the input")
    # torch.compile does not trace a Function with a jvp of its own
    run = _rows if torch.compiler.is_compiling() else _RightBCEL.apply
    loss = run(input, target.to(input.dtype), p.to(input.dtype).expand_as(input))
    return _finish(loss, weight, reduction)
