"""Wrong losses between probabilities (`kl_div`, `binary_cross_entropy_with_logits`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lossspec.audit import mutant
from lossspec.audit.right import (
    BCEWithLogits,
    Elements,
    KLDiv,
    first_gradient,
    together,
    wide,
)

# === kl_div ===============================================================================


@mutant(KLDiv, row="RED-18", issue="apache/mxnet#18506", needs="more than one axis")
class BatchmeanIsMean(KLDiv):
    """batchmean divides by all elements."""

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        return losses.new_tensor(float(losses.numel()))


@mutant(
    KLDiv,
    row="GRD-09",
    issue="linkedin/Liger-Kernel#1021",
    needs="a target in logarithms that requires a gradient",
)
class LogTargetDetached(KLDiv):
    """A target in logarithms gets no gradient."""

    def element(self, c: Elements) -> Tensor:
        c.y = c.y.detach() if c.parameter else c.y
        return super().element(c)


@mutant(
    KLDiv,
    row="ERR-04",
    issue="pytorch/pytorch#69230",
    needs="a negative target",
    awaits="cases outside the domain: a negative target gives nan",
    witness=lambda loss: loss(torch.zeros(2), torch.tensor([-1.0, 1.0]), reduction="none"),
)
class NegativeTargetIsZero(KLDiv):
    """A negative target, which is no probability, counts as 0 instead of giving nan."""

    def element(self, c: Elements) -> Tensor:
        losses = super().element(c)
        return losses if c.parameter else torch.where(c.y < 0, 0, losses)


class _FrozenDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.xlogy(y, y) - y * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return -grads[0] * y.detach(), grads[0] * (y.log() + 1 - x)


@mutant(
    KLDiv,
    row="DBL-03",
    issue="pytorch/pytorch#65466",
    needs="the second derivative by input and target",
)
class CrossTermLost(KLDiv):
    """The input's gradient takes the target for a constant, so a second derivative is lost."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter:
            return super().element(c)
        x, y = together(c.x, c.y)
        result: Tensor = _FrozenDivergence.apply(x, y)  # type: ignore[no-untyped-call]
        return result


@mutant(KLDiv, row="LAY-06", issue="kornia/kornia#499", needs="a permuted input")
class ViewOfInput(KLDiv):
    """An input that does not lie densely raises, since it is flattened with view."""

    def element(self, c: Elements) -> Tensor:
        c.input.detach().view(-1)
        return super().element(c)


# === binary_cross_entropy_with_logits =====================================================


@mutant(
    BCEWithLogits,
    row="VAL-03",
    issue="paiml/aprender#2204",
    needs="pos_weight, and a target between 0 and 1",
)
class PosWeightOnWholeLoss(BCEWithLogits):
    """The whole loss is scaled by 1 + (p - 1)·y, which is right for hard targets only."""

    def element(self, c: Elements) -> Tensor:
        losses = -(c.y * logsigmoid(c.x) + (1 - c.y) * logsigmoid(-c.x))
        return losses if c.pos_weight is None else losses * (1 + (wide(c.pos_weight) - 1) * c.y)


@mutant(BCEWithLogits, row="GRD-05", issue="pytorch/pytorch#2298", needs="a logit of exactly 0")
class FlatAtZero(BCEWithLogits):
    """At a logit of 0 the gradient lacks the half of the sigmoid: that of |x| and max(x, 0)."""

    def element(self, c: Elements) -> Tensor:
        tail = (-c.x.abs()).exp().log1p()
        log_p, log_q = (-c.x).relu() + tail, c.x.relu() + tail
        return self.positive(c) * log_p + (1 - c.y) * log_q


class _Cancelling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return -(y * logsigmoid(x) + (1 - y) * logsigmoid(-x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return grads[0] * (x.sigmoid() - y), -grads[0] * x


@mutant(
    BCEWithLogits,
    row="GRD-26",
    issue="pytorch/pytorch#195677",
    needs="a large logit with the right target",
    awaits="a definition whose own gradient does not cancel (its budget allows what that loses)",
    witness=lambda loss: first_gradient(loss, torch.tensor([20.0]), torch.tensor([1.0])),
)
class GradientCancels(BCEWithLogits):
    """The gradient is σ(x) - y, which is 0 for a right and sure prediction."""

    def element(self, c: Elements) -> Tensor:
        if c.pos_weight is not None:
            return super().element(c)
        result: Tensor = _Cancelling.apply(c.x, c.y)  # type: ignore[no-untyped-call]
        return result


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = (-x).sigmoid()
        return logsigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.slope


@mutant(
    BCEWithLogits,
    row="DBL-02",
    issue="pytorch/pytorch#79609",
    needs="the second derivative",
)
class SigmoidFrozen(BCEWithLogits):
    """Backward takes the sigmoid for a constant, so the second derivative is lost."""

    def element(self, c: Elements) -> Tensor:
        log_p: Tensor = _Frozen.apply(c.x)  # type: ignore[no-untyped-call]
        log_q: Tensor = _Frozen.apply(-c.x)  # type: ignore[no-untyped-call]
        return -(self.positive(c) * log_p + (1 - c.y) * log_q)


@mutant(BCEWithLogits, row="DTY-08", issue="pytorch/pytorch#176844", needs="not only float32")
class AlwaysSingle(BCEWithLogits):
    """The result is float32 whatever the inputs are."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        return result.float()


@mutant(BCEWithLogits, row="SHP-02", issue="pytorch/pytorch#1939", needs="(N, 1) and (N)")
class SilentBroadcast(BCEWithLogits):
    """An input of shape (N, 1) and a target of shape (N) broadcast without a word."""

    def check_shapes(self, c: Elements) -> None:
        pass


@mutant(BCEWithLogits, row="EMP-04", issue="pytorch/pytorch#144104", needs="empty")
class EmptyMeanIsZero(BCEWithLogits):
    """The mean of an empty input is 0, not nan."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        return (
            losses.sum()
            if not losses.numel() and c.reduction == "mean"
            else super().reduce(c, losses)
        )


@mutant(BCEWithLogits, row="STB-01", issue="pytorch/pytorch#2221", needs="a logit below -88")
class ShiftWithWrongSign(BCEWithLogits):
    """log(1 + exp(-x)) is shifted by max(x, 0) instead of max(-x, 0): inf for large negative x."""

    def element(self, c: Elements) -> Tensor:
        shift = c.x.clamp(min=0)
        log_p = shift + ((-shift).exp() + (-c.x - shift).exp()).log()
        return self.positive(c) * log_p + (1 - c.y) * (c.x + log_p)


@mutant(
    BCEWithLogits,
    row="STB-02",
    issue="pytorch/pytorch#13773",
    needs="pos_weight, and a logit below -88",
)
class PosWeightOverflows(BCEWithLogits):
    """With pos_weight log(1 + exp(-x)) is computed as it stands."""

    def element(self, c: Elements) -> Tensor:
        if c.pos_weight is None:
            return super().element(c)
        log_p = (1 + (-c.x).exp()).log()
        return self.positive(c) * log_p + (1 - c.y) * (c.x + log_p)


@mutant(
    BCEWithLogits,
    row="STB-03",
    issue="PaddlePaddle/Paddle#65859",
    needs="pos_weight, and a large negative logit",
)
class PosWeightOnTailOnly(BCEWithLogits):
    """pos_weight reaches log(1 + exp(-|x|)) only, not the linear part."""

    def element(self, c: Elements) -> Tensor:
        if c.pos_weight is None:
            return super().element(c)
        factor = 1 + (wide(c.pos_weight) - 1) * c.y
        tail = (-c.x.abs()).exp().log1p()
        return (1 - c.y) * c.x + factor * tail + (-c.x).relu()


@mutant(
    BCEWithLogits,
    row="MUT-04",
    issue="eladhoffer/utils.pytorch#13",
    needs="a look at the target afterwards",
)
class TargetSmoothedInPlace(BCEWithLogits):
    """The target is smoothed in the caller's tensor, after its use."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        result = super().leave(c, result)
        if 0 not in c.target.stride():
            c.target.data.add_(0.5).div_(2.0)
        return result
