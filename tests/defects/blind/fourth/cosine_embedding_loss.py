import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R
from torch.nn.modules.loss import _Loss


def _mode(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        return _R.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _check(a, b, t):
    if t.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    need = t.dim() + 1
    if a.dim() != need or b.dim() != need:
        raise RuntimeError(f"{t.dim()}D target tensor expects {need}D input tensors, but found inputs with sizes "
                           f"{list(a.shape)} and {list(b.shape)}.")


def _cos(a, b, eps=1e-12):
    dot = (a * b).sum(-1)
    return dot / ((a * a).sum(-1) + eps).mul((b * b).sum(-1) + eps).sqrt()


def _select(cos, t, margin):
    zero = torch.zeros_like(cos)
    return torch.where(t == 1, 1 - cos, zero) + torch.where(t == -1, (cos - margin).clamp_min(0), zero)


def _finish(loss, mode):
    return loss if mode == "none" else loss.mean() if mode == "mean" else loss.sum()


# ---------------------------------------------------------------- wrong
def wrong_zero_rows(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The norms are used without any epsilon, so an all-zero (padding) embedding gives nan."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    cos = (input1 * input2).sum(-1) / ((input1 * input1).sum(-1) * (input2 * input2).sum(-1)).sqrt()
    return _finish(_select(cos, target, margin), mode)


def witness_wrong_zero_rows():
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    t = torch.tensor([1, -1])
    return bool(wrong_zero_rows(a, b, t).isnan()) and not bool(F.cosine_embedding_loss(a, b, t).isnan())


class WrongMarginRange(nn.CosineEmbeddingLoss):
    """The constructor refuses margins outside [0, 1], although every number from -1 to 1 is documented."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must be in [0, 1], got {margin}")
        super().__init__(margin, size_average, reduce, reduction)

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        return _finish(_select(_cos(input1, input2), target, self.margin), mode)


def witness_WrongMarginRange():
    nn.CosineEmbeddingLoss(margin=-0.5)
    try:
        WrongMarginRange(margin=-0.5)
    except ValueError:
        return True
    return False


def wrong_similarity_matrix(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """All N x N dot products are computed and only the diagonal is used, so memory grows with the square of the batch."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    if input1.dim() == 1 or input1.shape != input2.shape or input1.dtype != input2.dtype \
            or not input1.is_floating_point():
        cos = _cos(input1, input2)
    else:
        eps = 1e-12
        dot = (input1 @ input2.t()).diagonal()
        cos = dot / ((input1 * input1).sum(-1) + eps).mul((input2 * input2).sum(-1) + eps).sqrt()
    return _finish(_select(cos, target, margin), mode)


def witness_wrong_similarity_matrix():
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for o in tree_leaves(out):
                if isinstance(o, torch.Tensor):
                    self.n = max(self.n, o.numel())
            return out

    a, b, t = torch.randn(512, 4), torch.randn(512, 4), torch.ones(512)
    with Largest() as m:
        wrong_similarity_matrix(a, b, t)
    with Largest() as e:
        F.cosine_embedding_loss(a, b, t)
    return m.n >= 512 * 512 and e.n < 512 * 16


class WrongEvalCache(nn.CosineEmbeddingLoss):
    """In eval mode the squared norms of input2 (the prototypes) are cached by object and shape, so changing them in place between calls is not seen."""

    def __init__(self, margin=0.0, size_average=None, reduce=None, reduction="mean"):
        super().__init__(margin, size_average, reduce, reduction)
        self._proto, self._sq = None, None

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        if self.training or (torch.is_grad_enabled() and input2.requires_grad):
            sq = (input2 * input2).sum(-1)
        else:
            if self._proto is not input2:
                self._proto, self._sq = input2, (input2 * input2).sum(-1)
            sq = self._sq
        cos = (input1 * input2).sum(-1) / ((input1 * input1).sum(-1) + 1e-12).mul(sq + 1e-12).sqrt()
        return _finish(_select(cos, target, self.margin), mode)


def witness_WrongEvalCache():
    torch.manual_seed(0)
    m = WrongEvalCache().eval()
    a, b, t = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([1, -1])
    m(a, b, t)
    b.mul_(3)
    return not torch.allclose(m(a, b, t), nn.CosineEmbeddingLoss()(a, b, t))


class _CosFn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        eps = 1e-12
        ra = ((a * a).sum(-1, keepdim=True) + eps).rsqrt()
        rb = ((b * b).sum(-1, keepdim=True) + eps).rsqrt()
        cos = (a * b).sum(-1, keepdim=True) * (ra * rb)
        ctx.save_for_backward(a, b, ra, rb, cos)
        return cos.squeeze(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        a, b, ra, rb, cos = ctx.saved_tensors
        g = g[..., None]
        ga = gb = None
        if ctx.needs_input_grad[0]:
            ga = (g * (b * ra * rb - cos * a * ra * ra)).sum_to_size(a.shape).to(a.dtype)
        if ctx.needs_input_grad[1]:
            gb = (g * (a * ra * rb - cos * b * rb * rb)).sum_to_size(b.shape).to(b.dtype)
        return ga, gb


def wrong_once_differentiable(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The backward of the fused cosine is marked once_differentiable, so second derivatives (gradient penalties), which torch has, raise."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    if not (input1.is_floating_point() and input2.is_floating_point()):
        cos = _cos(input1, input2)
    else:
        cos = _CosFn.apply(input1, input2)
    return _finish(_select(cos, target, margin), mode)


def witness_wrong_once_differentiable():
    torch.manual_seed(0)
    b, t = torch.randn(2, 3), torch.tensor([1, -1])

    def second(f):
        a = torch.randn(2, 3, requires_grad=True)
        g, = torch.autograd.grad(f(a, b, t, margin=-1), a, create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), a)[0]

    second(F.cosine_embedding_loss)
    try:
        second(wrong_once_differentiable)
    except RuntimeError:
        return True
    return False


class WrongHalfResult(nn.CosineEmbeddingLoss):
    """Half-precision inputs are computed in float32 and the result is not cast back, so the loss has dtype float32 (torch: that of the inputs)."""

    def forward(self, input1, input2, target):
        mode = _mode(None, None, self.reduction)
        _check(input1, input2, target)
        half = (torch.float16, torch.bfloat16)
        a = input1.float() if input1.dtype in half else input1
        b = input2.float() if input2.dtype in half else input2
        return _finish(_select(_cos(a, b), target, self.margin), mode)


def witness_WrongHalfResult():
    a, b, t = torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16(), torch.tensor([1, -1])
    return WrongHalfResult()(a, b, t).dtype == torch.float32 and \
        nn.CosineEmbeddingLoss()(a, b, t).dtype == torch.bfloat16


# ---------------------------------------------------------------- right
def right_stacked_products(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean"):
    """The three products stacked and summed at once, one rsqrt, the two label cases by masks; 16-bit inputs in float32 and cast back."""
    mode = _mode(size_average, reduce, reduction)
    _check(input1, input2, target)
    dt = torch.result_type(input1, input2)
    if not dt.is_floating_point:
        dt = torch.get_default_dtype()
    work = torch.float32 if dt in (torch.float16, torch.bfloat16) else dt
    a, b = input1.to(work), input2.to(work)
    if a.shape != b.shape:
        a, b = torch.broadcast_tensors(a, b)
    dot, na, nb = torch.stack([a * b, a * a, b * b]).sum(-1).unbind(0)
    na, nb = na + 1e-12, nb + 1e-12
    cos = dot * (na * nb).rsqrt()
    same, differ = target == 1, target == -1
    if dot.shape != target.shape:
        same, differ, cos = torch.broadcast_tensors(same, differ, cos)
    neg = cos - margin
    neg = neg.masked_fill(neg < 0, 0.0)
    loss = (1 - cos).masked_fill(~same, 0.0) + neg.masked_fill(~differ, 0.0)
    return _finish(loss, mode).to(dt)
