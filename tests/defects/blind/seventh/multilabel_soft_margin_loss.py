"""Losses for torch.nn.functional.multilabel_soft_margin_loss: wrong ones, their witnesses, right ones."""
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
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    return reduction


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input, target, weight):
    """The refusals; returns input, target and weight at one size (classes last), and the dtype of the result."""
    if not input.is_floating_point():
        raise NotImplementedError(f"multilabel_soft_margin_loss not implemented for {input.dtype}")
    if target.dtype == torch.bool:
        raise RuntimeError("multilabel_soft_margin_loss does not take a bool target")
    if input.dim() == 0:
        raise IndexError("multilabel_soft_margin_loss needs a class dimension")
    dtype = torch.result_type(input, target)
    shape = torch.broadcast_shapes(input.shape, target.shape)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype) if weight.dim() else dtype
        shape = torch.broadcast_shapes(shape, weight.shape)
        weight = weight.expand(shape)
    dim = input.dim() - 1  # the class dimension is the input's last, whatever the others broadcast to
    tensors = [input.expand(shape), target.expand(shape), weight]
    x, y, w = (None if t is None else t.movedim(dim, -1) for t in tensors)
    return x, y, w, dtype


# ------------------------------------------------------------------ wrong


def wrong_sum_over_classes(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Sums over the classes and forgets the factor 1/C; shows always for more than one class."""
    mode = _mode(size_average, reduce, reduction)
    return F.multilabel_soft_margin_loss(input, target, weight, reduction=mode) * input.size(-1)


def witness_wrong_sum_over_classes():
    x, y = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]])
    return not torch.allclose(wrong_sum_over_classes(x, y), F.multilabel_soft_margin_loss(x, y))


def wrong_weight_only_on_positives(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Applies the class weight to the y*log(sigmoid(x)) term alone, as if it were pos_weight; shows with a weight and a label of 0."""
    mode = _mode(size_average, reduce, reduction)
    if weight is None:
        return F.multilabel_soft_margin_loss(input, target, reduction=mode)
    loss = -(weight * target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))
    return _reduce(loss.sum(dim=-1) / input.size(-1), mode)


def witness_wrong_weight_only_on_positives():
    x, y, w = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([2.0, 3.0])
    return not torch.allclose(wrong_weight_only_on_positives(x, y, w), F.multilabel_soft_margin_loss(x, y, w))


def wrong_divides_by_weight_sum(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Takes the weighted mean over the classes (divides by the sum of the class weights) instead of the sum divided by C; shows for weights that do not sum to C."""
    mode = _mode(size_average, reduce, reduction)
    if weight is None:
        return F.multilabel_soft_margin_loss(input, target, reduction=mode)
    loss = -(target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input)) * weight
    return _reduce(loss.sum(dim=-1) / weight.sum(dim=-1), mode)


def witness_wrong_divides_by_weight_sum():
    x, y, w = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([2.0, 3.0])
    return not torch.allclose(wrong_divides_by_weight_sum(x, y, w), F.multilabel_soft_margin_loss(x, y, w))


def wrong_epsilon_in_log(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Computes log(sigmoid(x) + 1e-8) and log(1 - sigmoid(x) + 1e-8), so an element's loss ends at 18.4 and its gradient dies; shows for badly wrong logits (beyond about 14)."""
    mode = _mode(size_average, reduce, reduction)
    _check(input, target, weight)
    dtype = torch.promote_types(input.dtype, torch.float32)
    s, r = torch.sigmoid(input.to(dtype)), torch.sigmoid(-input.to(dtype))
    loss = -(target * torch.log(s + 1e-8) + (1 - target) * torch.log(r + 1e-8))
    if dtype != input.dtype and target.dtype == input.dtype:
        loss = loss.to(input.dtype)
    if weight is not None:
        loss = loss * weight
    return _reduce(loss.sum(dim=-1) / loss.size(-1), mode)


def witness_wrong_epsilon_in_log():
    x, y = torch.tensor([[60.0, -1.0]]), torch.tensor([[0.0, 0.0]])
    small = torch.tensor([[1.0, -1.0]])
    f, g = wrong_epsilon_in_log, F.multilabel_soft_margin_loss
    return not torch.allclose(f(x, y), g(x, y)) and torch.allclose(f(small, y), g(small, y))


def wrong_accumulates_in_own_dtype(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Adds the classes one after the other in the result's own dtype, so a bfloat16 or float16 sum over many classes stagnates; shows for half precision with hundreds of classes only."""
    mode = _mode(size_average, reduce, reduction)
    loss = -(target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))
    if weight is not None:
        loss = loss * weight
    total = loss[..., :0].sum(dim=-1)
    for c in range(loss.size(-1)):
        total = total + loss[..., c]
    return _reduce(total / input.size(-1), mode)


def witness_wrong_accumulates_in_own_dtype():
    x, y = torch.zeros(2, 800, dtype=torch.bfloat16), torch.ones(2, 800, dtype=torch.bfloat16)
    f, g = wrong_accumulates_in_own_dtype, F.multilabel_soft_margin_loss
    half = torch.allclose(f(x, y).float(), g(x, y).float(), rtol=0.05)
    single = torch.allclose(f(x.float(), y.float()), g(x.float(), y.float()))
    return single and not half


def wrong_size_average_beats_reduce(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Looks at size_average before reduce, so reduce=False together with an explicit size_average still reduces (documented: size_average is ignored when reduce is False); shows for that pair of deprecated arguments."""
    if size_average is not None and reduce is not None and not reduce:
        mode = "mean" if size_average else "sum"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{mode}' instead.", stacklevel=2
        )
    else:
        mode = _mode(size_average, reduce, reduction)
    return F.multilabel_soft_margin_loss(input, target, weight, reduction=mode)


def witness_wrong_size_average_beats_reduce():
    x, y = torch.randn(3, 2), torch.ones(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = wrong_size_average_beats_reduce(x, y, size_average=True, reduce=False)
        good = F.multilabel_soft_margin_loss(x, y, size_average=True, reduce=False)
    return bad.shape == () and good.shape == (3,)


class WrongWeightIsAParameter(torch.nn.Module):
    """Registers the class weight as a Parameter and not as a buffer, so optimisers train it and it collects gradients; shows in parameters() and after one optimiser step."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction
        self.weight = None if weight is None else torch.nn.Parameter(weight.detach().clone())

    def forward(self, input, target):
        return F.multilabel_soft_margin_loss(input, target, self.weight, reduction=self.reduction)


def witness_WrongWeightIsAParameter():
    w = torch.tensor([2.0, 3.0])
    bad, good = WrongWeightIsAParameter(w), torch.nn.MultiLabelSoftMarginLoss(w)
    out = bad(torch.randn(2, 2), torch.ones(2, 2))
    return len(list(good.parameters())) == 0 and len(list(bad.parameters())) == 1 and out.requires_grad


# ------------------------------------------------------------------ right


def right_einsum(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Softplus by logaddexp, the sum over the classes with the weight as an einsum, at least float32 inside."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _check(input, target, weight)
    wide = torch.promote_types(dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    zero = torch.zeros((), dtype=wide, device=x.device)
    loss = y * torch.logaddexp(-x, zero) + (1 - y) * torch.logaddexp(x, zero)
    if w is None:
        rows = torch.einsum("...c->...", loss)
    else:
        rows = torch.einsum("...c,...c->...", loss, w.to(wide))
    rows = rows * (1.0 / input.size(-1) if input.size(-1) else float("nan"))
    return _reduce(rows, mode).to(dtype)


class _Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w):
        ctx.save_for_backward(x, y, w)
        loss = x.abs().neg_().exp_().log1p_().add_(x.clamp(min=0)).sub_(x * y)
        return loss if w is None else loss.mul_(w)

    @staticmethod
    def backward(ctx, g):
        x, y, w = ctx.saved_tensors
        gw = None
        if w is not None:
            if ctx.needs_input_grad[2]:
                gw = g * (-F.logsigmoid(x) + (1 - y) * x)
            g = g * w
        gx = g * (torch.sigmoid(x) - y)
        gy = -g * x if ctx.needs_input_grad[1] else None
        return gx, gy, gw


def right_function(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """autograd.Function for max(x, 0) - x*y + log1p(exp(-|x|)) with gradients for input, target and weight; mean over the last dimension."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _check(input, target, weight)
    wide = torch.promote_types(dtype, torch.float32)
    rows = _Fn.apply(x.to(wide), y.to(wide), None if w is None else w.to(wide)).mean(dim=-1)
    if x.size(-1) != input.size(-1):
        rows = rows * x.size(-1) / input.size(-1)
    return _reduce(rows, mode).to(dtype)


def right_class_by_class(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """A loop over the classes that accumulates in float64."""
    mode = _mode(size_average, reduce, reduction)
    x, y, w, dtype = _check(input, target, weight)
    total = x[..., :0].sum(dim=-1).double()
    for c in range(x.size(-1)):
        xc, yc = x[..., c].double(), y[..., c].double()
        term = torch.lerp(F.logsigmoid(-xc), F.logsigmoid(xc), yc)
        if w is not None:
            term = term * w[..., c].double()
        total = total - term
    rows = total / input.size(-1) if input.size(-1) else total * float("nan")
    return _reduce(rows, mode).to(dtype)


class RightMultiLabelSoftMarginLoss(torch.nn.Module):
    """A module with the weight as a buffer; each label is a two-class log_softmax over (x, 0); 'mean' is one sum divided by the count."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _mode(size_average, reduce, reduction)
        self.reduction = reduction
        self.register_buffer("weight", weight)

    def forward(self, input, target):
        mode = _mode(None, None, self.reduction)
        x, y, w, dtype = _check(input, target, self.weight)
        wide = torch.promote_types(dtype, torch.float32)
        x, y = x.to(wide), y.to(wide)
        logs = torch.log_softmax(torch.stack((x, torch.zeros_like(x))), dim=0)
        loss = -(logs * torch.stack((y, 1 - y))).sum(dim=0)
        if w is not None:
            loss = loss * w.to(wide)
        classes = input.size(-1)
        if mode == "none":
            return (loss.sum(dim=-1) / classes).to(dtype)
        total = loss.sum()
        if mode == "mean":
            total = total / (classes * loss[..., :1].numel()) if classes else total * float("nan")
        else:
            total = total / classes
        return total.to(dtype)
