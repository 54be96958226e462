"""Wrong and right implementations of nll_loss, written without sight of the suite."""
import torch
from torch.nn import functional as F


def _word(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return F._Reduction.legacy_get_string(size_average, reduce)
    F._Reduction.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _reduced(loss, word):
    if word == "mean":
        return loss.mean()
    return loss.sum() if word == "sum" else loss


def _checked(input, target, weight, ignore_index, in_range=True):
    """-> (N, C, M) input, (N, M) target."""
    if input.dim() == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError("expected target dtype to be Long or Byte")
    if input.dim() == 1:
        if target.dim() != 0 and target.numel() != 1:
            raise ValueError("Expected a single target")
        x, y = input.reshape(1, -1, 1), target.reshape(1, 1)
    else:
        if target.dim() == 0 or input.size(0) != target.size(0):
            raise ValueError(f"Expected input batch_size ({input.size(0)}) to match target batch_size ({tuple(target.shape)}).")
        want = input.shape[:1] + input.shape[2:]
        if target.shape != want:
            raise RuntimeError(f"Expected target size {list(want)}, got {list(target.shape)}")
        x, y = input.flatten(2) if input.dim() > 2 else input.unsqueeze(2), target.reshape(target.size(0), -1)
    y = y.long()
    if weight is not None and weight.shape != (x.size(1),):
        raise RuntimeError(f"weight tensor should be defined either for all {x.size(1)} classes or no classes "
                           f"but got weight tensor of shape: {list(weight.shape)}")
    if in_range:
        bad = ((y < 0) | (y >= x.size(1))) & (y != ignore_index)
        if bool(bad.any()):
            raise IndexError(f"Target {int(y[bad][0])} is out of bounds.")
    return x, y


def _finish(loss, w, target, word):
    if word == "none":
        return loss.reshape(target.shape)
    if word == "sum":
        return loss.sum()
    wide = torch.promote_types(loss.dtype, torch.float32)
    return (loss.sum(dtype=wide) / w.sum(dtype=wide)).to(loss.dtype)


def _weights(x, y, weight, valid):
    w = torch.ones_like(y, dtype=x.dtype) if weight is None else weight[y.masked_fill(~valid, 0)]
    return w.masked_fill(~valid, 0)


def wrong_ignored_times_zero(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Ignored rows look up class 0 and are multiplied by 0: a log-probability of -inf there makes it NaN."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index)
    valid = y != ignore_index
    w = _weights(x, y, weight, valid)
    loss = -x.gather(1, y.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1) * w
    return _finish(loss, w, target, word)


def witness_wrong_ignored_times_zero():
    x, y = torch.tensor([[-float("inf"), 0.0], [-1.0, -0.5]]), torch.tensor([-100, 1])
    return bool(wrong_ignored_times_zero(x, y).isnan()) and bool(F.nll_loss(x, y).isfinite())


def wrong_spatial_order(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """transpose(1, -1) brings the classes last: right with one extra dimension, with two H and W change places."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index)
    if input.dim() > 2:
        x = input.transpose(1, -1).reshape(input.size(0), -1, input.size(1)).transpose(1, 2)
    valid = y != ignore_index
    w = _weights(x, y, weight, valid)
    loss = (-x.gather(1, y.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)).masked_fill(~valid, 0) * w
    return _finish(loss, w, target, word)


def witness_wrong_spatial_order():
    x = torch.randn(2, 3, 4, 5).log_softmax(1)
    y = torch.randint(3, (2, 4, 5))
    one = torch.allclose(wrong_spatial_order(x[:, :, 0], y[:, 0]), F.nll_loss(x[:, :, 0], y[:, 0]))
    return one and not torch.allclose(wrong_spatial_order(x, y), F.nll_loss(x, y))


def wrong_classes_in_input_dtype(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Compares targets with arange(C) in the input's dtype: from class 257 on, bfloat16 confuses neighbours."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index)
    valid = y != ignore_index
    classes = torch.arange(x.size(1), device=x.device).to(x.dtype).reshape(1, -1, 1)
    hot = (classes == y.masked_fill(~valid, 0).to(x.dtype).unsqueeze(1)) & valid.unsqueeze(1)
    w = _weights(x, y, weight, valid)
    loss = -torch.where(hot, x, torch.zeros_like(x)).sum(1) * w
    return _finish(loss, w, target, word)


def witness_wrong_classes_in_input_dtype():
    x, y = torch.randn(3, 600).log_softmax(1).bfloat16(), torch.tensor([5, 300, 513])
    return not torch.allclose(wrong_classes_in_input_dtype(x, y), F.nll_loss(x, y), rtol=5e-2)


class WrongIgnoreIndexZero(torch.nn.Module):
    """`ignore_index or -100`: the padding class 0 is not ignored."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index or -100
        self.reduction = _word(size_average, reduce, reduction)

    def forward(self, input, target):
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


def witness_WrongIgnoreIndexZero():
    x, y = torch.randn(3, 4).log_softmax(1), torch.tensor([0, 1, 2])
    return not torch.allclose(WrongIgnoreIndexZero(ignore_index=0)(x, y), F.nll_loss(x, y, ignore_index=0))


def wrong_weight_zeroed_in_place(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """An ignored class is given weight 0, in the caller's weight tensor."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index)
    valid = y != ignore_index
    if weight is not None and 0 <= ignore_index < x.size(1):
        with torch.no_grad():
            weight[ignore_index] = 0
    w = _weights(x, y, weight, valid)
    loss = (-x.gather(1, y.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)).masked_fill(~valid, 0) * w
    return _finish(loss, w, target, word)


def witness_wrong_weight_zeroed_in_place():
    x, y, w = torch.randn(3, 4).log_softmax(1), torch.tensor([0, 1, 2]), torch.ones(4)
    got = wrong_weight_zeroed_in_place(x, y, w, ignore_index=1)
    return torch.allclose(got, F.nll_loss(x, y, torch.ones(4), ignore_index=1)) and not torch.equal(w, torch.ones(4))


def wrong_any_negative_ignored(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Every negative target is ignored, so a label of -1 by mistake raises no error."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index, in_range=False)
    valid = (y >= 0) & (y != ignore_index)
    w = _weights(x, y, weight, valid)
    loss = (-x.gather(1, y.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)).masked_fill(~valid, 0) * w
    return _finish(loss, w, target, word)


def witness_wrong_any_negative_ignored():
    x, y = torch.randn(3, 4).log_softmax(1), torch.tensor([0, -1, 2])
    wrong_any_negative_ignored(x, y)
    try:
        F.nll_loss(x, y)
    except IndexError:
        return True
    return False


def right_masked_one_hot(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """A boolean one-hot mask and where instead of gather."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index)
    valid = y != ignore_index
    hot = (torch.arange(x.size(1), device=x.device).reshape(1, -1, 1) == y.unsqueeze(1)) & valid.unsqueeze(1)
    w = _weights(x, y, weight, valid)
    loss = -torch.where(hot, x, torch.zeros_like(x)).sum(1) * w
    return _finish(loss, w, target, word)


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w, valid):
        y = y.masked_fill(~valid, 0).unsqueeze(1)
        ctx.save_for_backward(y, w, valid)
        ctx.shape = x.shape
        return (-x.gather(1, y).squeeze(1) * w).masked_fill(~valid, 0)

    @staticmethod
    def backward(ctx, g):
        y, w, valid = ctx.saved_tensors
        g = (-g * w).masked_fill(~valid, 0).unsqueeze(1)
        return torch.zeros(ctx.shape, dtype=g.dtype, device=g.device).scatter(1, y, g), None, None, None


def right_own_backward(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """autograd.Function with a scattered gradient."""
    word = _word(size_average, reduce, reduction)
    x, y = _checked(input, target, weight, ignore_index)
    valid = y != ignore_index
    w = _weights(x, y, weight, valid).detach()
    return _finish(_Pick.apply(x, y, w, valid), w, target, word)
