import functools
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R

_LOW = (torch.float16, torch.bfloat16)


def _mode(reduction, size_average=None, reduce=None, extra=()):
    """Resolve the legacy arguments and refuse unknown reductions."""
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction in extra:
        return reduction
    return ("none", "mean", "sum")[_R.get_enum(reduction)]


def _reduce(loss, mode):
    if mode == "mean":
        return loss.mean()
    return loss.sum() if mode == "sum" else loss


def _autocast(*tensors):
    """The op is on autocast's float32 list: 16-bit operands are widened there."""
    dev = tensors[0].device.type
    if torch.is_autocast_enabled(dev):
        return tuple(t.float() if t.dtype in _LOW else t for t in tensors)
    return tensors


def _common(*tensors):
    return functools.reduce(torch.promote_types, [t.dtype for t in tensors])


def _wide(dtype):
    """Type in which arithmetic for results of type `dtype` is carried out."""
    return torch.float32 if dtype in _LOW else dtype


def _pair(input, target):
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    return torch.broadcast_tensors(input, target)


def _need_real_float(name, *tensors):
    if not _common(*tensors).is_floating_point:
        raise NotImplementedError(f"{name} is not implemented for {_common(*tensors)}")


def _plain(t):
    """Not wrapped by a function transform (vmap, grad, jvp)."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


_EPS = 1e-12


def _setup(input1, input2, target, size_average, reduce, reduction):
    mode = _mode(reduction, size_average, reduce)
    if target.dim() not in (0, 1):
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if input1.dim() != target.dim() + 1 or input2.dim() != target.dim() + 1:
        raise RuntimeError(
            f"{target.dim()}D target tensor expects {target.dim() + 1}D input tensors, "
            f"but found inputs with sizes {list(input1.shape)} and {list(input2.shape)}."
        )
    a, b, y = _autocast(input1, input2, target)
    dt = _common(a, b)
    return a.to(_wide(dt)), b.to(_wide(dt)), y, dt, mode


def _cos(a, b):
    dot = (a * b).sum(-1)
    return dot / (((a * a).sum(-1) + _EPS) * ((b * b).sum(-1) + _EPS)).sqrt()


def _by_label(cos, y, margin):
    far = cos - margin
    zero = torch.zeros_like(cos)
    far = torch.where(far < 0, zero, far)
    return torch.where(y == 1, 1 - cos, zero) + torch.where(y == -1, far, zero)


# --------------------------------------------------------------------- wrong


def wrong_negative_margin(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """For dissimilar pairs the cosine is clipped at 0 before the margin is subtracted: right for margins
    from 0 upward, but for a negative margin pairs with cos between margin and 0 get the loss -margin."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    cos = _cos(a, b)
    clipped = torch.where((y == -1) & (cos < 0), torch.zeros_like(cos), cos)
    return _reduce(_by_label(clipped, y, margin), mode).to(dt)


def witness_wrong_negative_margin():
    a, b, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), -torch.ones(1)
    return wrong_negative_margin(a, b, y, margin=-0.5).item() == 0.5 and F.cosine_embedding_loss(a, b, y, margin=-0.5).item() == 0


def wrong_norms_detached(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """The norms in the denominator are treated as constants by autograd: the value is right, the gradients
    have a component along the embedding that should not be there."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    ma, mb = (a * a).sum(-1) + _EPS, (b * b).sum(-1) + _EPS
    cos = (a * b).sum(-1) / (ma * mb).sqrt().detach()
    return _reduce(_by_label(cos, y, margin), mode).to(dt)


def witness_wrong_norms_detached():
    a, b, y = torch.rand(2, 3, requires_grad=True), torch.rand(2, 3), torch.ones(2)
    p, q = wrong_norms_detached(a, b, y), F.cosine_embedding_loss(a, b, y)
    return torch.allclose(p, q) and not torch.allclose(torch.autograd.grad(p, a)[0], torch.autograd.grad(q, a)[0])


def wrong_normalises_in_place(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Embeddings that need no gradient (a frozen encoder, evaluation) are normalised in place, so that the
    caller's tensors are left with unit length."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)

    def unit(t):
        norm = ((t * t).sum(-1, keepdim=True) + _EPS).sqrt()
        frozen = not t.requires_grad and t.is_contiguous() and _plain(t)
        if frozen and (torch.is_inference_mode_enabled() or not t.is_inference()):
            return t.div_(norm)
        return t / norm

    cos = _cos(a, b) if a is b else (unit(a) * unit(b)).sum(-1)
    return _reduce(_by_label(cos, y, margin), mode).to(dt)


def witness_wrong_normalises_in_place():
    a, b, y = torch.rand(2, 3), torch.rand(2, 3), torch.ones(2)
    before = a.clone()
    ref = F.cosine_embedding_loss(a, b, y)
    return torch.allclose(wrong_normalises_in_place(a, b, y), ref, atol=1e-6) and not torch.allclose(a, before)


def wrong_always_in_float32(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """For stability in half precision all embeddings are cast to float32 and the loss back to the inputs'
    dtype, which costs float64 inputs half of their digits."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    return _reduce(_by_label(_cos(a.float(), b.float()), y, margin), mode).to(dt)


def witness_wrong_always_in_float32():
    a, b, y = torch.rand(4, 5).double(), torch.rand(4, 5).double(), torch.ones(4)
    d = abs(wrong_always_in_float32(a, b, y).item() - F.cosine_embedding_loss(a, b, y).item())
    return 1e-11 < d < 1e-5


def wrong_low_precision_under_autocast(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Under autocast, where cosine_embedding_loss is documented to run in float32, 16-bit embeddings are
    not widened: the losses are rounded to, reduced and returned in the 16-bit dtype."""
    if torch.is_autocast_enabled(input1.device.type):
        with torch.autocast(input1.device.type, enabled=False):
            a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
            return _reduce(_by_label(_cos(a, b), y, margin).to(dt), mode)
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    return _reduce(_by_label(_cos(a, b), y, margin), mode).to(dt)


def witness_wrong_low_precision_under_autocast():
    a, b, y = torch.rand(4, 5).bfloat16(), torch.rand(4, 5).bfloat16(), torch.ones(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.cosine_embedding_loss(a, b, y).dtype == torch.float32 and wrong_low_precision_under_autocast(a, b, y).dtype == torch.bfloat16


def wrong_unbatched_keeps_batch(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Unbatched embeddings (D) with a 0-dimensional target get a batch dimension that is not removed again:
    reduction='none' returns shape (1,) in place of ()."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    if y.dim() == 0:
        a, b, y = a.unsqueeze(0), b.unsqueeze(0), y.unsqueeze(0)
    return _reduce(_by_label(_cos(a, b), y, margin), mode).to(dt)


def witness_wrong_unbatched_keeps_batch():
    a, b = torch.rand(3), torch.rand(3)
    return wrong_unbatched_keeps_batch(a, b, torch.tensor(1.0), reduction="none").shape == (1,)


# --------------------------------------------------------------------- right


def right_unit_vectors(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Both embeddings are scaled to (almost) unit length first; the cosine is then a plain inner product."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    u = a * ((a * a).sum(-1, keepdim=True) + _EPS).rsqrt()
    v = b * ((b * b).sum(-1, keepdim=True) + _EPS).rsqrt()
    cos = (u * v).sum(-1)
    loss = torch.where(y == 1, 1 - cos, torch.where(cos < margin, torch.zeros_like(cos), cos - margin))
    loss = torch.where((y == 1) | (y == -1), loss, torch.zeros_like(loss))
    return _reduce(loss, mode).to(dt)


class _Cosine(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def _parts(a, b):
        ma, mb = (a * a).sum(-1) + _EPS, (b * b).sum(-1) + _EPS
        norm = ma.sqrt() * mb.sqrt()
        cos = (a * b).sum(-1) / norm
        da = b / norm.unsqueeze(-1) - a * (cos / ma).unsqueeze(-1)
        db = a / norm.unsqueeze(-1) - b * (cos / mb).unsqueeze(-1)
        return cos, da, db

    @staticmethod
    def forward(a, b):
        return (a * b).sum(-1) / (((a * a).sum(-1) + _EPS).sqrt() * ((b * b).sum(-1) + _EPS).sqrt())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        _, da, db = _Cosine._parts(*ctx.saved_tensors)
        g = g.unsqueeze(-1)
        return g * da, g * db

    @staticmethod
    def jvp(ctx, ta, tb):
        _, da, db = _Cosine._parts(*ctx.saved_tensors)
        out = 0
        if ta is not None:
            out = out + (da * ta).sum(-1)
        if tb is not None:
            out = out + (db * tb).sum(-1)
        return out


def right_custom_function(input1, input2, target, margin=0.0, size_average=None, reduce=None, reduction="mean"):
    """Cosine with its own analytic backward, made of differentiable operations."""
    a, b, y, dt, mode = _setup(input1, input2, target, size_average, reduce, reduction)
    a, b = torch.broadcast_tensors(a, b)
    return _reduce(_by_label(_Cosine.apply(a, b), y, margin), mode).to(dt)
