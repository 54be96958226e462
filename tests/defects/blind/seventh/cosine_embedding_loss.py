import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F


def _legacy(size_average, reduce):
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = "none" if not reduce else ("mean" if size_average else "sum")
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{name}' instead.",
        stacklevel=4,
    )
    return name


def _resolve(size_average, reduce, reduction, extra=()):
    if size_average is not None or reduce is not None:
        return _legacy(size_average, reduce)
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            stacklevel=3,
        )
        return "mean"
    if reduction not in ("none", "mean", "sum") + tuple(extra):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _quiet(fn, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **kwargs)


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)

EPS = 1e-12


def _ce_check(input1, input2, target):
    if target.dim() not in (0, 1):
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    want = target.dim() + 1
    if input1.dim() != want or input2.dim() != want:
        raise RuntimeError(
            f"{target.dim()}D target tensor expects {want}D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )


def _ce_type(input1, input2):
    ct = torch.promote_types(input1.dtype, input2.dtype)
    return ct if ct.is_floating_point else torch.get_default_dtype()


def _cos(a, b):
    return (a * b).sum(-1) / (((a * a).sum(-1) + EPS) * ((b * b).sum(-1) + EPS)).sqrt()


def _ce_pick(cos, target, margin):
    zero = torch.zeros((), dtype=cos.dtype, device=cos.device)
    return torch.where(target == 1, 1 - cos, zero) + torch.where(target == -1, (cos - margin).clamp_min(0), zero)


def _sample(n=6, d=4, seed=0, dtype=torch.float32):
    g = _gen(seed)
    a = torch.randn(n, d, generator=g, dtype=dtype)
    b = torch.randn(n, d, generator=g, dtype=dtype)
    y = torch.tensor([1.0, -1.0], dtype=dtype).repeat(n)[:n]
    return a, b, y


# ---------------------------------------------------------------- wrong


def wrong_no_hinge(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Dissimilar pairs give cos - margin without max(0, .), so far pairs are rewarded without end; shows for label -1 with cos below the margin."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    cos = _cos(input1.to(ct), input2.to(ct))
    zero = torch.zeros((), dtype=ct, device=cos.device)
    return _reduce(torch.where(target == 1, 1 - cos, zero) + torch.where(target == -1, cos - margin, zero), red)


def witness_wrong_no_hinge():
    a = torch.tensor([[1.0, 0.0]])
    y = -torch.ones(1)
    return not torch.allclose(wrong_no_hinge(a, -a, y), F.cosine_embedding_loss(a, -a, y))


def wrong_margin_after_hinge(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Computes max(0, cos) - margin instead of max(0, cos - margin); shows only with a margin other than the default 0, where the loss can get negative."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    cos = _cos(input1.to(ct), input2.to(ct))
    zero = torch.zeros((), dtype=ct, device=cos.device)
    return _reduce(
        torch.where(target == 1, 1 - cos, zero) + torch.where(target == -1, cos.clamp_min(0) - margin, zero), red
    )


def witness_wrong_margin_after_hinge():
    a, b, y = _sample()
    return not torch.allclose(wrong_margin_after_hinge(a, b, y, margin=0.4), F.cosine_embedding_loss(a, b, y, margin=0.4))


def wrong_single_sample_keeps_batch(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """An unbatched pair is given a batch dimension that is never taken off again; shows as shape (1,) instead of () with 1-D inputs and reduction='none'."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    if target.dim() == 0:
        input1, input2, target = input1[None], input2[None], target[None]
    return F.cosine_embedding_loss(input1, input2, target, margin=margin, reduction=red)


def witness_wrong_single_sample_keeps_batch():
    a, b, y = _sample()
    x = wrong_single_sample_keeps_batch(a[0], b[0], y[0], reduction="none")
    return x.shape != F.cosine_embedding_loss(a[0], b[0], y[0], reduction="none").shape


def wrong_eps_added_to_norms(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The vectors are divided by (norm + 1e-6), which makes the cosine depend on the length; shows for short vectors (norm below about 1e-2)."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    a, b = input1.to(ct), input2.to(ct)
    a = a / (torch.linalg.vector_norm(a, dim=-1, keepdim=True) + 1e-6)
    b = b / (torch.linalg.vector_norm(b, dim=-1, keepdim=True) + 1e-6)
    return _reduce(_ce_pick((a * b).sum(-1), target, margin), red)


def witness_wrong_eps_added_to_norms():
    a = torch.tensor([[6e-4, 8e-4]], dtype=torch.float64)
    y = torch.ones(1)
    x = wrong_eps_added_to_norms(a, a, y).item()
    return x > 1e-3 and F.cosine_embedding_loss(a, a, y).item() < 1e-5


def wrong_normalises_in_place(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """In evaluation (no gradient needed) the embeddings are divided by their norms in place; shows in the inputs after the call, and not in the loss."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    a, b = input1.to(ct), input2.to(ct)
    if a.requires_grad or b.requires_grad or a.shape != b.shape:
        cos = _cos(a, b)
    else:
        na = ((a * a).sum(-1, keepdim=True) + EPS).sqrt()
        nb = ((b * b).sum(-1, keepdim=True) + EPS).sqrt()
        cos = (a.div_(na) * (b.div_(nb) if b is not a else b)).sum(-1)
    return _reduce(_ce_pick(cos, target, margin), red)


def witness_wrong_normalises_in_place():
    a, b, y = _sample()
    before = a.clone()
    x = wrong_normalises_in_place(a, b, y)
    return torch.allclose(x, F.cosine_embedding_loss(before, b, y)) and not torch.equal(a, before)


def wrong_norms_are_constants(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The norms are computed under no_grad, so the gradient misses the part through the normalisation; shows only in gradients (they should stand at right angles to the input)."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    a, b = input1.to(ct), input2.to(ct)
    with torch.no_grad():
        den = (((a * a).sum(-1) + EPS) * ((b * b).sum(-1) + EPS)).sqrt()
    return _reduce(_ce_pick((a * b).sum(-1) / den, target, margin), red)


def witness_wrong_norms_are_constants():
    a, b, y = _sample()
    a.requires_grad_()
    (x,) = torch.autograd.grad(wrong_norms_are_constants(a, b, y), a)
    (z,) = torch.autograd.grad(F.cosine_embedding_loss(a, b, y), a)
    return not torch.allclose(x, z)


class WrongCachedMask(nn.Module):
    """The masks of the labels are kept by batch size and used again in later calls; shows in the second call with the same number of samples and other labels."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce) if (size_average is not None or reduce is not None) else reduction
        self.margin = margin
        self._masks = {}

    def forward(self, input1, input2, target):
        red = _resolve(None, None, self.reduction)
        _ce_check(input1, input2, target)
        key = (target.shape, target.device)
        if key not in self._masks:
            self._masks[key] = (target == 1, target == -1)
        pos, neg = self._masks[key]
        ct = _ce_type(input1, input2)
        cos = _cos(input1.to(ct), input2.to(ct))
        zero = torch.zeros((), dtype=ct, device=cos.device)
        return _reduce(torch.where(pos, 1 - cos, zero) + torch.where(neg, (cos - self.margin).clamp_min(0), zero), red)


def witness_WrongCachedMask():
    a, b, y = _sample()
    m = WrongCachedMask()
    first = torch.allclose(m(a, b, y), F.cosine_embedding_loss(a, b, y))
    return first and not torch.allclose(m(a, b, -y), F.cosine_embedding_loss(a, b, -y))


# ---------------------------------------------------------------- right


def right_unit_vectors(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Scales both to unit length first, then multiplies; float32 inside for the half types."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    a, b = input1.to(_wide(ct)), input2.to(_wide(ct))
    a = a * torch.rsqrt(a.square().sum(-1, keepdim=True) + EPS)
    b = b * torch.rsqrt(b.square().sum(-1, keepdim=True) + EPS)
    cos = torch.sum(a * b, -1)
    far = torch.where(cos < margin, torch.zeros_like(cos), cos - margin)
    loss = torch.where(target == 1, 1 - cos, torch.where(target == -1, far, torch.zeros_like(cos)))
    return _reduce(loss, red).to(ct)


class _CosRows(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        na = (a.pow(2).sum(-1) + EPS).sqrt()
        nb = (b.pow(2).sum(-1) + EPS).sqrt()
        return (a * b).sum(-1) / na / nb

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        ra = (a.pow(2).sum(-1, keepdim=True) + EPS).rsqrt()
        rb = (b.pow(2).sum(-1, keepdim=True) + EPS).rsqrt()
        c = (a * b).sum(-1, keepdim=True) * ra * rb
        g = g.unsqueeze(-1)
        return g * (b * rb - a * ra * c) * ra, g * (a * ra - b * rb * c) * rb


def right_function(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The cosine as an own autograd.Function with the projected gradient."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    a, b = torch.broadcast_tensors(input1.to(_wide(ct)), input2.to(_wide(ct)))
    cos = _CosRows.apply(a, b)
    return _reduce(_ce_pick(cos, target, margin), red).to(ct)


def right_einsum_chunks(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """Row blocks with einsum products and partial sums in float64."""
    red = _resolve(size_average, reduce, reduction)
    _ce_check(input1, input2, target)
    ct = _ce_type(input1, input2)
    single = target.dim() == 0
    a, b = torch.broadcast_tensors(input1.to(_wide(ct)), input2.to(_wide(ct)))
    if single:
        a, b, target = a.unsqueeze(0), b.unsqueeze(0), target.unsqueeze(0)
    n = torch.broadcast_shapes(a.shape[:1], target.shape)[0]
    a, b, y = a.expand(n, -1), b.expand(n, -1), target.expand(n)
    step = max(3, -(-n // 4))
    parts = []
    for u, v, w in zip(a.split(step), b.split(step), y.split(step)):
        uv, uu, vv = (torch.einsum("nd,nd->n", p, q) for p, q in ((u, v), (u, u), (v, v)))
        cos = uv / torch.sqrt((uu + EPS) * (vv + EPS))
        parts.append(_ce_pick(cos, w, margin))
    if red == "none":
        out = torch.cat(parts).to(ct)
        return out.squeeze(0) if single else out
    total = sum(p.sum(dtype=torch.float64) for p in parts)
    if red == "mean":
        total = total / n if n else total * float("nan")
    return total.to(ct)


class RightCosineEmbeddingLoss(nn.Module):
    """A module on top of F.cosine_similarity that turns the label into a sign and an offset."""

    __constants__ = ["margin", "reduction"]

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _legacy(size_average, reduce) if (size_average is not None or reduce is not None) else reduction
        self.margin = margin

    def forward(self, input1, input2, target):
        red = _resolve(None, None, self.reduction)
        _ce_check(input1, input2, target)
        ct = _ce_type(input1, input2)
        cos = F.cosine_similarity(input1.to(_wide(ct)), input2.to(_wide(ct)), dim=-1)
        loss = torch.where(target == 1, 1 - cos, (cos - self.margin).clamp(min=0))
        loss = loss.masked_fill((target != 1) & (target != -1), 0)
        if red == "none":
            return loss.to(ct)
        return (torch.sum(loss) if red == "sum" else torch.mean(loss)).to(ct)
