"""Wrong and right implementations of cosine_embedding_loss, written without sight of the suite."""

import torch
from torch.nn import _reduction as _Reduction
from torch.nn import functional as F


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _finish(loss, mode):
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    return loss


def _check(input1, input2, target):
    if target.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if target.dim() == 1 and (input1.dim() != 2 or input2.dim() != 2):
        raise RuntimeError("1D target tensor expects 2D input tensors")
    if target.dim() == 0 and (input1.dim() != 1 or input2.dim() != 1):
        raise RuntimeError("0D target tensor expects 1D input tensors")


_EPS = 1e-12


def _cos(x, y):
    return (x * y).sum(-1) / (((x * x).sum(-1) + _EPS) * ((y * y).sum(-1) + _EPS)).sqrt()


def _loss_of_cos(cos, target, margin):
    zero = torch.zeros_like(cos)
    return torch.where(target == 1, 1 - cos, zero) + torch.where(
        target == -1, (cos - margin).clamp_min(0), zero
    )


def wrong_negative_margin_clipped(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """A margin below 0 (documented: -1 to 1) is 'sanitised' to 0."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    margin = min(max(margin, 0.0), 1.0)
    return _finish(_loss_of_cos(_cos(input1, input2), target, margin), mode)


def witness_wrong_negative_margin_clipped():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[-0.3, 1.0], [1.0, 0.5]])
    t = torch.tensor([-1, -1])
    ok = torch.allclose(
        wrong_negative_margin_clipped(x, y, t, margin=0.25),
        F.cosine_embedding_loss(x, y, t, margin=0.25),
    )
    return ok and not torch.allclose(
        wrong_negative_margin_clipped(x, y, t, margin=-0.5),
        F.cosine_embedding_loss(x, y, t, margin=-0.5),
    )


def wrong_norm_plus_eps(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Normalises by (norm + 1e-5): the cosine of small embeddings (norm ~1e-3) shrinks."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    a = input1 / (torch.linalg.vector_norm(input1, dim=-1, keepdim=True) + 1e-5)
    b = input2 / (torch.linalg.vector_norm(input2, dim=-1, keepdim=True) + 1e-5)
    return _finish(_loss_of_cos((a * b).sum(-1), target, margin), mode)


def witness_wrong_norm_plus_eps():
    x = torch.tensor([[1.0, 2.0, 0.5]])
    y = torch.tensor([[0.8, 2.0, 0.7]])
    t = torch.tensor([-1])
    ok = torch.allclose(wrong_norm_plus_eps(x, y, t), F.cosine_embedding_loss(x, y, t), atol=1e-4)
    x, y = x * 1e-3, y * 1e-3
    return ok and abs(wrong_norm_plus_eps(x, y, t) - F.cosine_embedding_loss(x, y, t)).item() > 5e-3


def wrong_partition_order(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Splits the batch into positives and negatives and concatenates: 'none' comes back reordered."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    cos = _cos(input1, input2)
    if target.dim() == 0:
        return _finish(_loss_of_cos(cos, target, margin), mode)
    pos, neg = cos[target == 1], cos[target == -1]
    loss = torch.cat([1 - pos, (neg - margin).clamp_min(0)])
    if mode == "mean":
        return loss.sum() / cos.numel()
    return _finish(loss, mode)


def witness_wrong_partition_order():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)
    t = torch.tensor([-1, 1, -1, 1])
    ok = torch.allclose(wrong_partition_order(x, y, t), F.cosine_embedding_loss(x, y, t))
    return ok and not torch.allclose(
        wrong_partition_order(x, y, t, reduction="none"),
        F.cosine_embedding_loss(x, y, t, reduction="none"),
    )


def wrong_second_norm_detached(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Takes the second ('target') embedding's norm as a constant: only input2's gradient is wrong."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    n1 = ((input1 * input1).sum(-1) + _EPS).sqrt()
    n2 = ((input2 * input2).sum(-1) + _EPS).sqrt().detach()
    cos = (input1 * input2).sum(-1) / (n1 * n2)
    return _finish(_loss_of_cos(cos, target, margin), mode)


def witness_wrong_second_norm_detached():
    x = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    y = torch.tensor([[0.8, -2.0, 0.7]], requires_grad=True)
    t = torch.tensor([1])
    a = torch.autograd.grad(wrong_second_norm_detached(x, y, t), (x, y))
    b = torch.autograd.grad(F.cosine_embedding_loss(x, y, t), (x, y))
    return torch.allclose(a[0], b[0]) and not torch.allclose(a[1], b[1])


def wrong_full_similarity_matrix(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """One matmul for all pairs, of which the diagonal is used: memory and time grow with N squared."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    a = input1 * ((input1 * input1).sum(-1, keepdim=True) + _EPS).rsqrt()
    b = input2 * ((input2 * input2).sum(-1, keepdim=True) + _EPS).rsqrt()
    with torch.autocast(a.device.type, enabled=False):
        if target.dim() == 0:
            cos = a @ b
        else:
            a, b = torch.broadcast_tensors(a, b)
            cos = (a @ b.t()).diagonal()
    return _finish(_loss_of_cos(cos, target, margin), mode)


def witness_wrong_full_similarity_matrix():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Biggest(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for o in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(o, torch.Tensor):
                    self.n = max(self.n, o.numel())
            return out

    x, y, t = torch.randn(2000, 4), torch.randn(2000, 4), torch.ones(2000)
    with Biggest() as m:
        w = wrong_full_similarity_matrix(x, y, t)
    with Biggest() as m2:
        F.cosine_embedding_loss(x, y, t)
    return (
        m.n == 2000 * 2000
        and m2.n <= 8000
        and torch.allclose(w, F.cosine_embedding_loss(x, y, t), atol=1e-5)
    )


def wrong_squeezed_batch_of_one(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Keeps the feature dimension in its sums and squeezes at the end: a batch of one pair gives a scalar for 'none'."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)

    def dot(x, y):
        return (x * y).sum(-1, keepdim=True).squeeze()

    cos = dot(input1, input2) / ((dot(input1, input1) + _EPS) * (dot(input2, input2) + _EPS)).sqrt()
    loss = _loss_of_cos(cos, target.squeeze(), margin)
    return _finish(loss, mode)


def witness_wrong_squeezed_batch_of_one():
    x, y, t = torch.randn(1, 3), torch.randn(1, 3), torch.ones(1)
    x2, y2, t2 = torch.randn(2, 3), torch.randn(2, 3), torch.ones(2)
    ok = wrong_squeezed_batch_of_one(x2, y2, t2, reduction="none").shape == (2,)
    return (
        ok
        and wrong_squeezed_batch_of_one(x, y, t, reduction="none").shape == ()
        and F.cosine_embedding_loss(x, y, t, reduction="none").shape == (1,)
    )


class WrongMaskCachedByStorage(torch.nn.Module):
    """Caches the masks of the target by its address and shape: a target buffer refilled in place
    (static input buffers, CUDA-graph style) keeps the old labels.
    """

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.margin = margin
        self.reduction = _mode(size_average, reduce, reduction)
        self._key = None
        self._masks = None

    def forward(self, input1, input2, target):
        _check(input1, input2, target)
        key = (target.data_ptr(), tuple(target.shape), target.dtype)
        if key != self._key:
            self._key, self._masks = key, (target == 1, target == -1)
            self._keep = target  # so that the address is not given to another tensor
        pos, neg = self._masks
        cos = _cos(input1, input2)
        zero = torch.zeros_like(cos)
        loss = torch.where(pos, 1 - cos, zero) + torch.where(
            neg, (cos - self.margin).clamp_min(0), zero
        )
        return _finish(loss, self.reduction)


def witness_WrongMaskCachedByStorage():
    m = WrongMaskCachedByStorage()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)
    t = torch.tensor([1, -1, 1, 1])
    ok = torch.allclose(m(x, y, t), F.cosine_embedding_loss(x, y, t))
    t.copy_(torch.tensor([-1, 1, -1, -1]))
    return ok and not torch.allclose(m(x, y, t), F.cosine_embedding_loss(x, y, t))


def right_by_einsum(
    input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"
):
    """Dot products by einsum, in float64, the two branches selected by masks."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    out = torch.promote_types(input1.dtype, input2.dtype)
    if not out.is_floating_point:
        out = torch.get_default_dtype()
    a, b = torch.broadcast_tensors(input1.to(torch.float64), input2.to(torch.float64))
    dot = torch.einsum("...d,...d->...", a, b)
    sa = torch.einsum("...d,...d->...", a, a) + _EPS
    sb = torch.einsum("...d,...d->...", b, b) + _EPS
    cos = dot / torch.sqrt(sa * sb)
    t = target.detach()
    pos, neg = (t == 1).to(cos.dtype), (t == -1).to(cos.dtype)
    loss = pos * (1 - cos) + neg * torch.clamp_min(cos - margin, 0)
    return _finish(loss, mode).to(out)


class RightNormaliseFirst(torch.nn.Module):
    """Unit vectors first, then their product; where instead of sums of masks."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.margin = margin
        if size_average is not None or reduce is not None:
            reduction = _Reduction.legacy_get_string(size_average, reduce)
        self.reduction = reduction

    @staticmethod
    def _unit(x):
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype())
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        return x / ((x * x).sum(-1, keepdim=True) + _EPS).sqrt()

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        out = torch.promote_types(input1.dtype, input2.dtype)
        if not out.is_floating_point:
            out = torch.get_default_dtype()
        cos = (self._unit(input1) * self._unit(input2)).sum(-1)
        t = target.detach()
        loss = torch.where(
            t == 1,
            1 - cos,
            torch.where(t == -1, (cos - self.margin).clamp_min(0), 0 * cos.detach()),
        )
        return _finish(loss, mode).to(out)
