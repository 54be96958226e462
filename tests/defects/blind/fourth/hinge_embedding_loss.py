import copy
import math
import pickle
import sys
import threading
import time
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import _reduction as _Reduction

_HALF = (torch.float16, torch.bfloat16)


def _mode(size_average, reduce, reduction):
    """Resolve deprecated arguments and validate, as torch does."""
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _autocast(*tensors):
    """torch runs this loss in float32 below autocast."""
    if torch.is_autocast_enabled(tensors[0].device.type):
        tensors = tuple(t.float() if t is not None and t.dtype in _HALF else t for t in tensors)
    return tensors


def _acc(dtype):
    return torch.float32 if dtype in _HALF else dtype


def _reduced(loss, reduction):
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


def _mask(target):
    """Elements that count as 'similar' and as 'dissimilar'; a target that is neither 1 nor -1 counts as both, as in torch."""
    return target != -1, target != 1


# --------------------------------------------------------------------------- wrong


def wrong_mask_product(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The cases are chosen by multiplying with 0/1 masks, so an infinite distance of a dissimilar pair gives 0 * inf = nan instead of 0."""
    reduction = _mode(size_average, reduce, reduction)
    input, target = _autocast(input, target)
    similar, dissimilar = _mask(target)
    hinge = (margin - input).clamp_min(0)
    return _reduced((similar.to(input.dtype) * input + dissimilar.to(input.dtype) * hinge).to(input.dtype), reduction)


def witness_wrong_mask_product():
    x, y = torch.tensor([math.inf, 0.5]), torch.tensor([-1.0, -1.0])
    got, want = wrong_mask_product(x, y), F.hinge_embedding_loss(x, y)
    return bool(torch.isnan(got)) and bool(torch.isfinite(want))


def wrong_half_mean(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The mean is sum / count in the input's dtype, so a float16 batch whose sum exceeds 65504 has the mean inf."""
    reduction = _mode(size_average, reduce, reduction)
    if reduction != "mean" or not input.is_floating_point():
        return F.hinge_embedding_loss(input, target, margin=margin, reduction=reduction)
    loss = F.hinge_embedding_loss(input, target, margin=margin, reduction="none")
    return loss.sum() / loss.numel()


def witness_wrong_half_mean():
    x, y = torch.full((70000,), 2.0, dtype=torch.float16), torch.ones(70000, dtype=torch.float16)
    return math.isinf(wrong_half_mean(x, y).item()) and F.hinge_embedding_loss(x, y).item() == 2.0


class WrongHingeEmbeddingLossSelfMask(nn.HingeEmbeddingLoss):
    """forward keeps the masks on self for its helper methods, so two threads that share the module mix up their targets."""

    def _similar_part(self, input):
        return torch.where(self.__dict__["_similar"], input, torch.zeros_like(input))

    def _dissimilar_part(self, input):
        hinge = (self.margin - input).clamp_min(0).to(input.dtype)
        return torch.where(self.__dict__["_dissimilar"], hinge, torch.zeros_like(hinge))

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        input, target = _autocast(input, target)
        self.__dict__["_similar"], self.__dict__["_dissimilar"] = _mask(target)
        loss = self._similar_part(input) + self._dissimilar_part(input)
        self.__dict__["_similar"] = self.__dict__["_dissimilar"] = None
        return _reduced(loss, reduction)


def witness_WrongHingeEmbeddingLossSelfMask():
    crit = WrongHingeEmbeddingLossSelfMask()
    x = torch.full((4,), 0.25)
    bad = threading.Event()
    stop = time.monotonic() + 20

    def work(sign):
        y = torch.full((4,), sign)
        want = F.hinge_embedding_loss(x, y).item()
        while not bad.is_set() and time.monotonic() < stop:
            try:
                if crit(x, y).item() != want:
                    bad.set()
            except Exception:
                bad.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(s,)) for s in (1.0, -1.0, 1.0, -1.0)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    return bad.is_set()


def wrong_boolean_indexing(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean"):
    """The two kinds of pairs are picked by boolean indexing, whose size depends on the data: vmap, meta tensors and full-graph compilation fail."""
    reduction = _mode(size_average, reduce, reduction)
    input, target = _autocast(input, target)
    x, y = torch.broadcast_tensors(input, target)
    similar, dissimilar = _mask(y)
    loss = torch.zeros_like(x)
    loss[similar] = x[similar]
    loss[dissimilar] = loss[dissimilar] + (margin - x[dissimilar]).clamp_min(0).to(x.dtype)
    return _reduced(loss, reduction)


def witness_wrong_boolean_indexing():
    x, y = torch.randn(3, 4), torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(3, 4)
    torch.func.vmap(F.hinge_embedding_loss)(x, y)
    try:
        torch.func.vmap(wrong_boolean_indexing)(x, y)
    except RuntimeError:
        return True
    return False


class WrongHingeEmbeddingLossDetach(nn.HingeEmbeddingLoss):
    """An input that does not require grad is detached 'to save history', which drops the tangent of forward-mode differentiation."""

    def forward(self, input, target):
        x = input if input.requires_grad else input.detach()
        return F.hinge_embedding_loss(x, target, margin=self.margin, reduction=self.reduction)


def witness_WrongHingeEmbeddingLossDetach():
    import torch.autograd.forward_ad as fwAD

    x, y = torch.rand(4), torch.ones(4)
    with fwAD.dual_level():
        dual = fwAD.make_dual(x, torch.ones(4))
        want = fwAD.unpack_dual(nn.HingeEmbeddingLoss()(dual, y)).tangent
        got = fwAD.unpack_dual(WrongHingeEmbeddingLossDetach()(dual, y)).tangent
    return want is not None and (got is None or not torch.allclose(got, want))


# --------------------------------------------------------------------------- right


class RightHingeEmbeddingLossStacked(nn.HingeEmbeddingLoss):
    """The similar and the dissimilar candidate are stacked, masked by where and summed over the stack, in float32 at least."""

    def forward(self, input, target):
        reduction = _mode(None, None, self.reduction)
        input, target = _autocast(input, target)
        x, y = torch.broadcast_tensors(input, target)
        v = x.to(_acc(x.dtype))
        candidates = torch.stack([v, (self.margin - v).clamp_min(0).to(v.dtype)])
        chosen = torch.where(torch.stack(_mask(y)), candidates, torch.zeros_like(candidates))
        return _reduced(chosen.sum(0).to(x.dtype), reduction)
