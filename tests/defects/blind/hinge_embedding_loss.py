"""Wrong and right implementations of hinge_embedding_loss, written without sight of the suite."""

import warnings

import torch
from torch.nn import _reduction
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _transformed():
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _hinge(input, target, margin):
    return torch.where(target == 1, input, (margin - input).clamp(min=0))


def wrong_nan_hidden(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """fmax(margin - x, 0) ignores NaN: a diverged distance of a negative pair has loss 0."""
    reduction = _mode(size_average, reduce, reduction)
    gap = margin - input
    return _reduce(
        torch.where(target == 1, input, torch.fmax(gap, torch.zeros_like(gap))), reduction
    )


def witness_wrong_nan_hidden():
    x, y = torch.tensor([float("nan"), 0.5]), torch.tensor([-1.0, 1.0])
    return not bool(wrong_nan_hidden(x, y).isnan()) and bool(F.hinge_embedding_loss(x, y).isnan())


def wrong_margin_zero_is_default(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """Margin or 1.0: a margin of zero becomes one."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(_hinge(input, target, margin or 1.0), reduction)


def witness_wrong_margin_zero_is_default():
    x, y = torch.tensor([0.5, -0.5]), torch.tensor([-1.0, -1.0])
    a = wrong_margin_zero_is_default(x, y, margin=0.0)
    return not torch.allclose(a, F.hinge_embedding_loss(x, y, margin=0.0))


def wrong_labels_rewritten(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """Turns -1 labels into 0 in the caller's tensor."""
    reduction = _mode(size_average, reduce, reduction)
    if not target.requires_grad:
        target.masked_fill_(target == -1, 0)
    return _reduce(_hinge(input, target, margin), reduction)


def witness_wrong_labels_rewritten():
    y = torch.tensor([1.0, -1.0])
    wrong_labels_rewritten(torch.ones(2), y)
    return bool(y[1] == 0)


class _SharedState(torch.autograd.Function):
    local = None

    @staticmethod
    def forward(x, t, margin):
        return _hinge(x, t, margin)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, margin = inputs
        _SharedState.local = torch.where(t == 1, 1, -(x <= margin).to(x.dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * _SharedState.local, None, None


def wrong_backward_uses_last_forward(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """The mask lives on the class, not on ctx: with two forwards before backward the first gets the second's."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = torch.broadcast_tensors(input, target)
    return _reduce(
        _hinge(x, t, margin) if _transformed() else _SharedState.apply(x, t, margin), reduction
    )


def witness_wrong_backward_uses_last_forward():
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    y = torch.tensor([1.0, -1.0])
    first = wrong_backward_uses_last_forward(x, y)
    wrong_backward_uses_last_forward(x, -y)
    a = torch.autograd.grad(first, x)[0]
    return not torch.allclose(a, torch.autograd.grad(F.hinge_embedding_loss(x, y), x)[0])


def wrong_returns_the_input_itself(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """With only positive labels and 'none' the input itself is returned, not a new tensor."""
    reduction = _mode(size_average, reduce, reduction)
    if input.size() == target.size() and bool((target == 1).all()):
        return _reduce(input, reduction)
    return _reduce(_hinge(input, target, margin), reduction)


def witness_wrong_returns_the_input_itself():
    x = torch.ones(3)
    wrong_returns_the_input_itself(x, torch.ones(3), reduction="none").mul_(5)
    return bool((x == 5).all())


def wrong_diagonal_of_all_pairs(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """Sets a (N, 1) label column against (N,) distances and takes the diagonal: N x N memory and time."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = torch.broadcast_tensors(input, target)
    labels = t.reshape(-1, 1)
    pairs = _hinge(x.reshape(-1), labels, margin)
    return _reduce(pairs.diagonal().reshape(x.shape), reduction)


def witness_wrong_diagonal_of_all_pairs():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.untyped_storage().nbytes())
            return out

    def largest(f):
        with Largest() as mode:
            f(torch.ones(500), torch.ones(500))
        return mode.size

    return largest(wrong_diagonal_of_all_pairs) > 100 * largest(F.hinge_embedding_loss)


def wrong_size_average_beats_reduce(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """size_average=False means 'sum' even when reduce=False asks for no reduction."""
    if size_average is not None:
        reduction = _mode(size_average, True, reduction)
    else:
        reduction = _mode(None, reduce, reduction)
    return _reduce(_hinge(input, target, margin), reduction)


def witness_wrong_size_average_beats_reduce():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = wrong_size_average_beats_reduce(
            torch.ones(3), torch.ones(3), size_average=False, reduce=False
        )
        b = F.hinge_embedding_loss(torch.ones(3), torch.ones(3), size_average=False, reduce=False)
    return a.shape != b.shape


def wrong_negative_distance_clipped(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """Takes inputs for distances and clips positives at zero: a similarity below 0 gives 0, not x."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(torch.where(target == 1, input, margin - input).clamp(min=0), reduction)


def witness_wrong_negative_distance_clipped():
    x, y = torch.tensor([-0.5]), torch.ones(1)
    return not torch.allclose(wrong_negative_distance_clipped(x, y), F.hinge_embedding_loss(x, y))


class WrongLearnableMarginHingeEmbeddingLoss(_Loss):
    """margin is a Parameter: optimisers and weight decay move it."""

    def __init__(self, margin=1.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = torch.nn.Parameter(torch.tensor(float(margin), dtype=torch.float64))

    def forward(self, input, target):
        return _reduce(
            _hinge(input, target, self.margin.to(input.dtype)), _mode(None, None, self.reduction)
        )


def witness_WrongLearnableMarginHingeEmbeddingLoss():
    return len(list(WrongLearnableMarginHingeEmbeddingLoss().parameters())) == 1


def right_by_relu(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """Both cases with relu and where."""
    reduction = _mode(size_average, reduce, reduction)
    return _reduce(torch.where(target == -1, F.relu(margin - input), input), reduction)


class _Hinge(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, t, margin):
        return torch.where(t == 1, x, (margin - x).clamp(min=0))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, margin = inputs
        slope = torch.where(t == 1, 1, torch.where(x > margin, 0, -1)).to(x.dtype)
        ctx.save_for_backward(slope)
        ctx.save_for_forward(slope)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None

    @staticmethod
    def jvp(ctx, a, *_):
        return a * ctx.saved_tensors[0]


def right_analytic_backward(
    input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"
):
    """Own autograd function that saves the slope of each sample."""
    reduction = _mode(size_average, reduce, reduction)
    x, t = torch.broadcast_tensors(input, target)
    return _reduce(
        _hinge(x, t, margin) if torch.compiler.is_compiling() else _Hinge.apply(x, t, margin),
        reduction,
    )
