import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss, _WeightedLoss


def _mode(size_average, reduce, reduction):
    """The reduction asked for, with the deprecated pair taking precedence as documented."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _apply(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _autocast_on(t):
    dev = t.device.type
    return dev in ("cpu", "cuda") and torch.is_autocast_enabled(dev)


def _fp32(*ts):
    """What autocast does for an op on its float32 list."""
    if not _autocast_on(ts[0]):
        return ts
    return tuple(
        t.float() if t is not None and t.is_floating_point() and t.dtype is not torch.float64 else t
        for t in ts
    )


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check(input1, input2, target):
    if target.dim() not in (0, 1):
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    want = target.dim() + 1
    if input1.dim() != want or input2.dim() != want:
        raise RuntimeError(
            f"{target.dim()}D target tensor expects {want}D input tensors, "
            f"but found inputs with sizes {list(input1.shape)} and {list(input2.shape)}."
        )


_EPS = 9.999999960041972e-13  # torch's constant: 1e-12 as a float32


def _cos(x1, x2):
    dot = (x1 * x2).sum(-1)
    m1 = (x1 * x1).sum(-1) + _EPS
    m2 = (x2 * x2).sum(-1) + _EPS
    return dot / (m1 * m2).sqrt()


def _select(pos, neg, target):
    zero = torch.zeros_like(pos)
    return torch.where(target == 1, pos, zero) + torch.where(target == -1, neg, zero)


# ---------------------------------------------------------------- wrong

def wrong_keras_sign(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Positive pairs get -cos (Keras' CosineSimilarity convention) instead of 1 - cos: every positive pair is off by one."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    cos = _cos(input1, input2)
    return _apply(_select(-cos, (cos - margin).clamp_min(0), target), mode)


def witness_wrong_keras_sign():
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    y = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    t = torch.tensor([1, 1])
    a, b = wrong_keras_sign(x, y, t), F.cosine_embedding_loss(x, y, t)
    return abs((b - a).item() - 1) < 1e-5


def wrong_mean_over_active(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """'mean' divides by the number of pairs with a non-zero loss rather than by the number of elements: shows once a negative pair is already far enough."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    cos = _cos(input1, input2)
    out = _select(1 - cos, (cos - margin).clamp_min(0), target)
    if mode == "mean":
        n = torch.where((out > 0).any(), (out > 0).sum(), out.numel())
        return out.sum() / n
    return _apply(out, mode)


def witness_wrong_mean_over_active():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    t = torch.tensor([1, -1])
    return wrong_mean_over_active(x, y, t).item() > 0.9 and F.cosine_embedding_loss(x, y, t).item() < 0.6


def wrong_negative_margin_clamped(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """A margin in the documented range [-1, 0) is silently raised to 0, so negative pairs are pushed only to orthogonality."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    margin = max(float(margin), 0.0)
    cos = _cos(input1, input2)
    return _apply(_select(1 - cos, (cos - margin).clamp_min(0), target), mode)


def witness_wrong_negative_margin_clamped():
    x, y, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([-1])
    a = wrong_negative_margin_clamped(x, y, t, margin=-0.5)
    b = F.cosine_embedding_loss(x, y, t, margin=-0.5)
    return a.item() == 0 and abs(b.item() - 0.5) < 1e-5


def wrong_detached_norms(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The norms are treated as constants (a stop_gradient from the ported code): the value is right, the gradient has a radial part it must not have."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    dot = (input1 * input2).sum(-1)
    m1 = (input1 * input1).sum(-1) + _EPS
    m2 = (input2 * input2).sum(-1) + _EPS
    cos = dot / (m1 * m2).sqrt().detach()
    return _apply(_select(1 - cos, (cos - margin).clamp_min(0), target), mode)


def witness_wrong_detached_norms():
    t = torch.tensor([1, -1])
    gs = []
    for f in (wrong_detached_norms, F.cosine_embedding_loss):
        x = torch.tensor([[1.0, 2.0], [3.0, 1.0]], requires_grad=True)
        y = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
        f(x, y, t).backward()
        gs.append(x.grad)
    return not torch.allclose(gs[0], gs[1], atol=1e-3)


def wrong_unbatched_keeps_batch(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """A batch-less pair (D) with a 0-D target is run as a batch of one and not squeezed again: reduction='none' gives shape (1,) instead of ()."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    if target.dim() == 0:
        input1, input2, target = input1.unsqueeze(0), input2.unsqueeze(0), target.unsqueeze(0)
    cos = _cos(input1, input2)
    return _apply(_select(1 - cos, (cos - margin).clamp_min(0), target), mode)


def witness_wrong_unbatched_keeps_batch():
    x, y, t = torch.ones(3), torch.arange(3.0), torch.tensor(1)
    a = wrong_unbatched_keeps_batch(x, y, t, reduction="none")
    b = F.cosine_embedding_loss(x, y, t, reduction="none")
    return a.shape == (1,) and b.shape == ()


def wrong_float32_core(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """float64 inputs are computed in float32 and the result cast back: the dtype is right, half the digits are noise (gradcheck fails)."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    dtype = torch.promote_types(input1.dtype, input2.dtype)
    if dtype is torch.float64:
        input1, input2 = input1.float(), input2.float()
    cos = _cos(input1, input2)
    out = _apply(_select(1 - cos, (cos - margin).clamp_min(0), target), mode)
    return out.double() if dtype is torch.float64 else out


def witness_wrong_float32_core():
    x = torch.tensor([[0.1, 0.7, 0.3]], dtype=torch.float64)
    y = torch.tensor([[0.9, 0.2, 0.6]], dtype=torch.float64)
    t = torch.tensor([1])
    a, b = wrong_float32_core(x, y, t), F.cosine_embedding_loss(x, y, t)
    return a.dtype is torch.float64 and abs((a - b).item()) > 1e-10


class WrongCachedNorm(_Loss):
    """Squared norms are cached per tensor storage for no-grad inputs (a frozen bank): after the bank is changed in place the old norms are still used."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin
        self._bank = None

    def _mag(self, x):
        if (x.requires_grad or torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)):
            return (x * x).sum(-1) + _EPS
        if self._bank is not None and self._bank[0] is x:
            return self._bank[1]
        m = (x * x).sum(-1) + _EPS
        self._bank = (x, m)
        return m

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        c1, c2 = _fp32(input1, input2)
        m1 = (c1 * c1).sum(-1) + _EPS
        m2 = self._mag(input2) if c2 is input2 else (c2 * c2).sum(-1) + _EPS
        cos = (c1 * c2).sum(-1) / (m1 * m2).sqrt()
        return _apply(_select(1 - cos, (cos - self.margin).clamp_min(0), target), mode)


def witness_WrongCachedNorm():
    f = WrongCachedNorm()
    x, y, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]]), torch.tensor([1])
    first = torch.allclose(f(x, y, t), F.cosine_embedding_loss(x, y, t))
    y.mul_(3)
    return first and not torch.allclose(f(x, y, t), F.cosine_embedding_loss(x, y, t), atol=1e-3)


class WrongInplaceNormalise(_Loss):
    """When no gradient is needed the inputs are normalised in place to save memory: the caller's embeddings are overwritten by unit vectors."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        input1, input2 = _fp32(input1, input2)
        plain = not (input1.requires_grad or input2.requires_grad) and input1.is_floating_point() \
            and input2.is_floating_point() and input1 is not input2 and not torch.compiler.is_compiling() \
            and not torch._C._functorch.is_functorch_wrapped_tensor(input1) \
            and not torch._C._functorch.is_functorch_wrapped_tensor(input2)
        if plain:
            n1 = ((input1 * input1).sum(-1, keepdim=True) + _EPS).sqrt()
            n2 = ((input2 * input2).sum(-1, keepdim=True) + _EPS).sqrt()
            cos = (input1.div_(n1) * input2.div_(n2)).sum(-1)
        else:
            cos = _cos(input1, input2)
        return _apply(_select(1 - cos, (cos - self.margin).clamp_min(0), target), mode)


def witness_WrongInplaceNormalise():
    x, y, t = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 1.0]]), torch.tensor([1])
    keep = x.clone()
    b = F.cosine_embedding_loss(x, y, t)
    a = WrongInplaceNormalise()(x, y, t)
    return torch.allclose(a, b, atol=1e-5) and not torch.equal(x, keep)


# ---------------------------------------------------------------- right

def right_unit_vectors_einsum(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Both inputs are scaled by the rsqrt of their eps-guarded squared norm in a wider dtype, the cosine is an einsum, the branches are chosen by masking."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    input1, input2 = _fp32(input1, input2)
    dtype = torch.promote_types(input1.dtype, input2.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    wide = _acc(dtype)
    with torch.autocast(input1.device.type, enabled=False):
        u, v = torch.broadcast_tensors(input1.to(wide), input2.to(wide))
        u = u * torch.rsqrt(u.square().sum(-1, keepdim=True) + _EPS)
        v = v * torch.rsqrt(v.square().sum(-1, keepdim=True) + _EPS)
        cos = torch.einsum("...d,...d->...", u, v)
    pos = (1 - cos).masked_fill(target != 1, 0)
    neg = (cos - margin).clamp_min(0).masked_fill(target != -1, 0)
    return _apply(pos + neg, mode).to(dtype)


class RightPolarisation(_Loss):
    """The cosine comes from the polarisation identity on unit vectors, (|u|^2 + |v|^2 - |u - v|^2) / 2, in float64."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        input1, input2 = _fp32(input1, input2)
        dtype = torch.promote_types(input1.dtype, input2.dtype)
        if not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        u, v = input1.double(), input2.double()
        u = u / torch.sqrt((u * u).sum(-1, keepdim=True) + _EPS)
        v = v / torch.sqrt((v * v).sum(-1, keepdim=True) + _EPS)
        gap = (u - v)
        cos = ((u * u).sum(-1) + (v * v).sum(-1) - (gap * gap).sum(-1)) * 0.5
        out = _select(1 - cos, (cos - self.margin).clamp_min(0), target)
        return _apply(out, mode).to(dtype)
