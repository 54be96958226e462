"""Wrong and right forms of torch.nn.functional.cross_entropy / torch.nn.CrossEntropyLoss."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _R


# ----------------------------------------------------------------- helpers
def _resolve(size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _R.legacy_get_string(size_average, reduce)
    _R.get_enum(reduction)
    return "mean" if reduction == "elementwise_mean" else reduction


def _amp(x):
    """Autocast runs this loss in float32."""
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _check(input, target, weight, ignore_index, label_smoothing):
    """Returns True when the target holds class probabilities."""
    if input.dim() < 1:
        raise ValueError(f"Expected input with 1 or more dimensions, got {input.dim()}")
    if not input.is_floating_point():
        raise NotImplementedError(f"cross_entropy is not implemented for {input.dtype}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    cdim = 0 if input.dim() == 1 else 1
    C = input.shape[cdim]
    if weight is not None and tuple(weight.shape) != (C,):
        raise RuntimeError(f"weight should have shape ({C},), got {tuple(weight.shape)}")
    if target.shape == input.shape:
        if not target.is_floating_point():
            raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        return True
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if input.dim() == 1:
        if target.dim() > 1 or target.numel() != 1:
            raise ValueError(f"unbatched input expects a 0-D target, got {tuple(target.shape)}")
    elif target.shape != input.shape[:1] + input.shape[2:]:
        raise ValueError(f"Expected target of shape {tuple(input.shape[:1] + input.shape[2:])}, got {tuple(target.shape)}")
    if weight is not None and weight.dtype != input.dtype:
        raise RuntimeError(f"expected weight of dtype {input.dtype}, got {weight.dtype}")
    return False


def _acc(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _run(lse_fn, input, target, weight, ignore_index, reduction, label_smoothing):
    """Everything but the log-sum-exp: lse_fn maps z (..., C), rows shifted by their maximum, to (...)."""
    input = _amp(input)
    weight = None if weight is None else _amp(weight)
    prob = _check(input, target, weight, ignore_index, label_smoothing)
    cdim = 0 if input.dim() == 1 else 1
    C = input.shape[cdim]
    dtype = input.dtype
    if prob:
        dtype = torch.promote_types(dtype, target.dtype)
        if weight is not None:
            dtype = torch.promote_types(dtype, weight.dtype)
    elif weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    acc = _acc(dtype)
    x = input.movedim(cdim, -1).to(acc)
    w = None if weight is None else weight.to(acc)
    ignored = None
    if not prob:
        if input.dim() == 1:
            target = target.reshape(())
        ignored = target == ignore_index
        x = x.masked_fill(ignored.unsqueeze(-1), 0.0)  # ignored rows feed nothing back
    z = x - x.detach().amax(-1, keepdim=True) if C > 0 else x
    lse = lse_fn(z)
    if prob:
        q = target.movedim(cdim, -1).to(acc)
        if label_smoothing > 0:
            q = q * (1 - label_smoothing) + label_smoothing / C
        cost = lse.unsqueeze(-1) - z
        loss = (cost * q).sum(-1) if w is None else (cost * q * w).sum(-1)
        if reduction == "mean":
            loss = loss.sum() / loss.numel() if loss.numel() else loss.sum() / torch.zeros_like(loss.sum())
        elif reduction == "sum":
            loss = loss.sum()
        return loss.to(dtype)
    safe = target.long().masked_fill(ignored, 0)
    if C == 0 and safe.numel() > 0:
        raise IndexError("Target is out of bounds.")
    zy = z.gather(-1, safe.unsqueeze(-1)).squeeze(-1) if safe.numel() else lse
    loss = lse - zy
    wy = None
    if w is not None:
        wy = w.index_select(0, safe.reshape(-1)).reshape(safe.shape)
        loss = loss * wy
    if label_smoothing > 0:
        cost = lse.unsqueeze(-1) - z
        smooth = cost.sum(-1) if w is None else (cost * w).sum(-1)
        loss = (1 - label_smoothing) * loss + (label_smoothing / C) * smooth
    loss = loss.masked_fill(ignored, 0.0)
    if reduction == "mean":
        unit = (~ignored).to(acc) if wy is None else wy.masked_fill(ignored, 0.0)
        loss = loss.sum() / unit.sum()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(dtype)


# ------------------------------------------------------------------- right
def right_centred_logsumexp(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                            reduction="mean", label_smoothing=0.0):
    """Rows shifted by their maximum, then log(sum(exp)) minus the picked logit, in float32 for half types."""
    reduction = _resolve(size_average, reduce, reduction)
    return _run(lambda z: z.exp().sum(-1).log(), input, target, weight, ignore_index, reduction, label_smoothing)


class _BlockLSE(torch.autograd.Function):
    """log-sum-exp over the last dim by an online pass over blocks of classes; z holds rows with maximum 0."""
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        m = None
        s = None
        for block in z.split(512, dim=-1):
            if block.shape[-1] == 0:
                continue
            bm = block.amax(-1)
            m_new = bm if m is None else torch.maximum(m, bm)
            shift = torch.where(m_new == -float("inf"), torch.zeros_like(m_new), m_new)
            part = (block - shift.unsqueeze(-1)).exp().sum(-1)
            s = part if s is None else s * (m - shift).exp() + part
            m = m_new
        if m is None:
            return z.sum(-1) - float("inf")
        shift = torch.where(m == -float("inf"), torch.zeros_like(m), m)
        return s.log() + shift

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx, g):
        z, lse = ctx.saved_tensors
        return g.unsqueeze(-1) * (z - lse.unsqueeze(-1)).exp()

    @staticmethod
    def jvp(ctx, zt):
        z, lse = ctx.saved_tensors
        return ((z - lse.unsqueeze(-1)).exp() * zt).sum(-1)


def right_online_blocks(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                        reduction="mean", label_smoothing=0.0):
    """Online softmax normaliser over blocks of 512 classes in a custom Function, differentiable twice."""
    reduction = _resolve(size_average, reduce, reduction)
    return _run(_BlockLSE.apply, input, target, weight, ignore_index, reduction, label_smoothing)


# ------------------------------------------------------------------- wrong
def wrong_smoothing_mean_by_count(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                  reduction="mean", label_smoothing=0.0):
    """With label smoothing, class weights and 'mean' together, the smoothing part is divided by the
    number of targets and not by the sum of their weights."""
    reduction = _resolve(size_average, reduce, reduction)
    kw = dict(weight=weight, ignore_index=ignore_index)
    if reduction != "mean" or weight is None or label_smoothing <= 0 or label_smoothing > 1 or target.is_floating_point():
        return F.cross_entropy(input, target, reduction=reduction, label_smoothing=label_smoothing, **kw)
    hard = F.cross_entropy(input, target, **kw)
    smooth = F.cross_entropy(input, target, reduction="none", label_smoothing=1.0, **kw)
    n = (target != ignore_index).sum()
    return (1 - label_smoothing) * hard + label_smoothing * (smooth.sum() / n)


def witness_wrong_smoothing_mean_by_count():
    torch.manual_seed(0)
    x, t, w = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 1]), torch.tensor([0.2, 3.0, 1.0, 0.5])
    same = torch.allclose(wrong_smoothing_mean_by_count(x, t, label_smoothing=0.1), F.cross_entropy(x, t, label_smoothing=0.1))
    a = wrong_smoothing_mean_by_count(x, t, weight=w, label_smoothing=0.3)
    b = F.cross_entropy(x, t, weight=w, label_smoothing=0.3)
    return same and not torch.allclose(a, b, rtol=1e-3)


class _FirstUpstream(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        if g.numel() == 0:
            return g.clone()
        return g.reshape(-1)[:1].reshape([1] * g.dim()).expand(g.shape).clone()

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


def wrong_uniform_upstream(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                           reduction="mean", label_smoothing=0.0):
    """With reduction='none' the backward takes the first element of the upstream gradient for all
    positions, as if every loss had the same cotangent."""
    reduction = _resolve(size_average, reduce, reduction)
    out = F.cross_entropy(input, target, weight=weight, ignore_index=ignore_index, reduction=reduction,
                          label_smoothing=label_smoothing)
    return _FirstUpstream.apply(out) if reduction == "none" else out


def witness_wrong_uniform_upstream():
    torch.manual_seed(0)
    x, t, v = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 1]), torch.tensor([1.0, 2, 3, 4, 5])
    g = []
    for f in (wrong_uniform_upstream, F.cross_entropy):
        z = x.clone().requires_grad_()
        (f(z, t, reduction="none") * v).sum().backward()
        g.append(z.grad)
    return torch.allclose(g[0][0], g[1][0]) and not torch.allclose(g[0], g[1])


def wrong_padded_vocabulary_tail(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                 reduction="mean", label_smoothing=0.0):
    """Above 1024 classes the last partial block of 1024 is padded with logit 0 and not with -inf, so
    the padding lanes enter the normaliser."""
    reduction = _resolve(size_average, reduce, reduction)

    def lse(z):
        # the rows' true maximum is not known to the kernel: it pads the raw logits
        C = z.shape[-1]
        if C > 1024 and C % 1024:
            lanes = 1024 - C % 1024
            return (z.exp().sum(-1) + lanes * (-top.to(z.dtype)).exp()).log()
        return z.exp().sum(-1).log()

    cdim = 0 if input.dim() == 1 else 1
    top = None
    if input.dim() >= 1 and input.shape[cdim] > 1024:
        top = input.detach().movedim(cdim, -1).amax(-1)
        if not target.is_floating_point() and top.shape == target.shape:
            top = top.masked_fill(target == ignore_index, 0.0)
    return _run(lse, input, target, weight, ignore_index, reduction, label_smoothing)


def witness_wrong_padded_vocabulary_tail():
    torch.manual_seed(0)
    ok = True
    for C in (10, 1024, 2048):
        x, t = torch.randn(3, C), torch.tensor([0, 1, 2])
        ok &= torch.allclose(wrong_padded_vocabulary_tail(x, t), F.cross_entropy(x, t))
    x, t = torch.randn(3, 1500), torch.tensor([0, 1, 2])
    return bool(ok) and not torch.allclose(wrong_padded_vocabulary_tail(x, t), F.cross_entropy(x, t), rtol=1e-2)


def wrong_assumes_unit_class_stride(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                                    reduction="mean", label_smoothing=0.0):
    """Two-dimensional logits are read with their row stride but a class stride of 1, so transposed or
    column-sliced logits are read from the wrong memory places."""
    reduction = _resolve(size_average, reduce, reduction)
    if input.dim() == 2 and input.shape[1] > 1 and input.shape[0] > 0 and input.stride(1) != 1:
        n, c = input.shape
        last = input.storage_offset() + (n - 1) * input.stride(0) + c - 1
        if last < input.untyped_storage().nbytes() // input.element_size():
            input = torch.as_strided(input, (n, c), (input.stride(0), 1), input.storage_offset())
    return F.cross_entropy(input, target, weight=weight, ignore_index=ignore_index, reduction=reduction,
                           label_smoothing=label_smoothing)


def witness_wrong_assumes_unit_class_stride():
    torch.manual_seed(0)
    x, t = torch.randn(4, 6).t(), torch.tensor([0, 1, 2, 3, 0, 1])
    ok = torch.allclose(wrong_assumes_unit_class_stride(x.contiguous(), t), F.cross_entropy(x, t))
    return ok and not torch.allclose(wrong_assumes_unit_class_stride(x, t), F.cross_entropy(x, t))


def wrong_count_in_half(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                        reduction="mean", label_smoothing=0.0):
    """For 'mean' without class weights the number of targets is held in the dtype of the logits, so in
    float16 a count above 65504 becomes inf and the loss 0."""
    reduction = _resolve(size_average, reduce, reduction)
    kw = dict(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    if reduction != "mean" or weight is not None or target.is_floating_point() or not input.is_floating_point():
        return F.cross_entropy(input, target, reduction=reduction, **kw)
    each = F.cross_entropy(input.to(_acc(input.dtype)), target, reduction="none", **kw)
    count = (target != ignore_index).sum().to(input.dtype)
    return (each.sum() / count.to(each.dtype)).to(_amp(input).dtype)


def witness_wrong_count_in_half():
    torch.manual_seed(0)
    x, t = torch.randn(1, 3, 300, 300).half(), torch.randint(0, 3, (1, 300, 300))
    small = torch.allclose(wrong_count_in_half(x[..., :9, :9], t[..., :9, :9]), F.cross_entropy(x[..., :9, :9], t[..., :9, :9]), rtol=2e-3)
    return small and wrong_count_in_half(x, t).item() == 0.0 and F.cross_entropy(x.float(), t).item() > 0.5


class WrongWeightPlainAttribute(nn.CrossEntropyLoss):
    """The class weight is kept as a plain attribute and not as a buffer: it is absent from state_dict
    and does not follow .to() / .double()."""

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean",
                 label_smoothing=0.0):
        super().__init__(None, size_average, ignore_index, reduce, reduction, label_smoothing)
        del self._buffers["weight"]
        self.weight = weight


def witness_WrongWeightPlainAttribute():
    w = torch.tensor([1.0, 2.0])
    x, t = torch.randn(3, 2), torch.tensor([0, 1, 1])
    m, r = WrongWeightPlainAttribute(w), nn.CrossEntropyLoss(w)
    same = torch.equal(m(x, t), r(x, t))
    return same and "weight" not in m.state_dict() and m.double().weight.dtype == torch.float32


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
