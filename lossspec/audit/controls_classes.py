"""Controls for the class losses: right ones in other formulations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.audit import control
from lossspec.audit.right import NLL, Classes, CrossEntropy, wide

#: Into how many blocks rows are cut; the last is mostly shorter.
BLOCKS = 5


@control(NLL, CrossEntropy)
class InOwnDtype(NLL):
    """Elements in the dtype of the input; only the sum is wider."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.x = c.x.to(c.input.dtype)
        c.w = c.weight
        c.t = c.t.to(c.input.dtype) if c.soft else c.t

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        c.x, c.w = wide(c.x), None if c.w is None else wide(c.w)
        return super().reduce(c, wide(losses))


@control(NLL, CrossEntropy)
class InBlocks(NLL):
    """Log-probabilities of a fifth of the rows at a time."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if c.x.ndim < 2:
            return super().log_probabilities(c)
        whole = c.x
        parts = []
        for block in torch.split(whole, 1 + whole.shape[0] // BLOCKS):
            c.x = block
            parts.append(super().log_probabilities(c))
        c.x = whole
        return torch.cat(parts)


@control(NLL, CrossEntropy)
class Flattened(NLL):
    """All positions in one axis, and put back."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        self.shape = c.x.shape[:-1]
        rows = self.shape.numel()
        c.x = c.x.reshape(rows, c.count)
        c.t = c.t.reshape(rows, c.count) if c.soft else c.t.reshape(rows)

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        return result.reshape(self.shape) if c.reduction == "none" else result


@control(NLL, CrossEntropy)
class OneHot(NLL):
    """A one-hot target in torch.einsum instead of a gather."""

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        certain = c.safe.unsqueeze(-1) == torch.arange(c.count)
        # An ignored row, or a class that is ruled out, would come through as 0 times infinity.
        log_p = torch.where(c.kept.unsqueeze(-1) & certain, log_p, 0)
        return torch.einsum("...c,...c->...", certain.to(log_p.dtype), log_p)


@control(NLL, CrossEntropy)
class KeptOnly(NLL):
    """Ignored rows are taken out before anything is computed, and zeros put in at the end."""

    def run(self, c: Classes) -> Tensor:
        self.check(c)
        self.enter(c)
        self.mask(c)
        kept = c.kept
        c.x, c.safe, c.t = c.x[kept], c.safe[kept] if not c.soft else c.safe, c.t[kept]
        c.kept = kept[kept]
        losses = self.losses(c, self.log_probabilities(c))
        if c.reduction == "none":
            losses = torch.zeros(kept.shape, dtype=losses.dtype).masked_scatter(kept, losses)
        return self.leave(c, self.reduce(c, losses))


@control(NLL)
class ByIndexing(NLL):
    """Advanced indexing in the flattened rows instead of a gather."""

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        rows = log_p.reshape(c.safe.numel(), c.count)
        return rows[torch.arange(len(rows)), c.safe.reshape(-1)].reshape(c.safe.shape)


class _AnalyticPick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_p: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = log_p.shape
        return log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        grad = grads[0].new_zeros(ctx.shape)
        return grad.scatter(-1, index.unsqueeze(-1), grads[0].unsqueeze(-1)), None


@control(NLL)
class AnalyticGradient(NLL):
    """An autograd.Function with the gradient written by hand."""

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        result: Tensor = _AnalyticPick.apply(log_p, c.safe)  # type: ignore[no-untyped-call]
        return result


# === cross_entropy ========================================================================


@control(CrossEntropy)
class PartsInFloat64(CrossEntropy):
    """Plain torch operations in float64, cast back."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.x = c.x.double()
        c.t = c.t.double() if c.soft else c.t
        c.w = None if c.w is None else c.w.double()


@control(CrossEntropy)
class ShiftedLogSumExp(CrossEntropy):
    """Scores less the largest of their row, less the logsumexp of that."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if not c.count:
            return super().log_probabilities(c)
        shifted = c.x - c.x.detach().amax(-1, keepdim=True)
        return shifted - shifted.logsumexp(-1, keepdim=True)


class _AnalyticLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        shifted = x - x.amax(-1, keepdim=True)
        log_p = shifted - shifted.exp().sum(-1, keepdim=True).log()
        ctx.save_for_backward(log_p)
        return log_p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (log_p,) = ctx.saved_tensors
        return grads[0] - log_p.exp() * grads[0].sum(-1, keepdim=True)


@control(CrossEntropy)
class SoftmaxLessTarget(CrossEntropy):
    """An autograd.Function with the gradient written by hand."""

    def log_probabilities(self, c: Classes) -> Tensor:
        result: Tensor = _AnalyticLogSoftmax.apply(c.x)  # type: ignore[no-untyped-call]
        return result


@control(CrossEntropy)
class IndicesAsProbabilities(CrossEntropy):
    """Class indices as certain distributions, with their smoothing."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        if c.soft:
            return super().losses(c, log_p)
        certain = F.one_hot(c.safe, max(1, c.count)).to(log_p.dtype)
        p = certain * (1 - c.smoothing) + c.smoothing / max(1, c.count)
        terms = torch.where(p == 0, 0, p * self.weighted(c, log_p))
        return torch.where(c.kept, -terms.sum(-1), 0)


@control(CrossEntropy)
class SharesSumToOne(CrossEntropy):
    """Log-sum-exp less the product of probabilities and scores, as they sum to 1."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        if not c.soft or c.w is not None or not c.count:
            return super().losses(c, log_p)
        shifted = c.x - c.x.detach().amax(-1, keepdim=True)
        p = c.t * (1 - c.smoothing) + c.smoothing / c.count
        return shifted.logsumexp(-1) - (p * shifted).sum(-1)


@control("cross_entropy")
class NllOfLogSoftmax:
    """Torch's nll_loss of its log_softmax; what that cannot do, torch's cross_entropy."""

    def __call__(
        self, input: Tensor, target: Tensor, label_smoothing: float = 0.0, **options: Any
    ) -> Tensor:
        """As `torch.nn.functional.cross_entropy`."""
        if label_smoothing or input.shape == target.shape:
            return F.cross_entropy(input, target, label_smoothing=label_smoothing, **options)
        log_p = wide(input).log_softmax(0 if input.ndim == 1 else 1)
        options = {k: wide(v) if isinstance(v, Tensor) else v for k, v in options.items()}
        return F.nll_loss(log_p, target, **options).to(input.dtype)
