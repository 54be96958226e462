"""Wrong and right implementations of `binary_cross_entropy_with_logits`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import logsigmoid

from lossspec.baselines.reduction import wide
from tests.defects.any_loss import InFloat64
from tests.defects.catalogue import right, wrong
from tests.defects.elementwise import (
    AnalyticGradient,
    EachByVmap,
    Elements,
    Elementwise,
    Flattened,
    InBlocks,
    InOwnDtype,
    MeanSumsInHalf,
)
from tests.defects.numerics import first_gradient


class BCEWithLogits(Elementwise):
    """`binary_cross_entropy_with_logits`."""

    loss = "binary_cross_entropy_with_logits"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.binary_cross_entropy_with_logits`."""
        return self.run(Elements(input, target, weight, reduction, pos_weight=pos_weight))

    def check_shapes(self, c: Elements) -> None:
        """Check that input and target have one size, to which the weights broadcast."""
        if c.input.shape != c.target.shape:
            raise ValueError(f"target size {c.target.shape} must be input size {c.input.shape}")
        for factor in (c.weight, c.pos_weight):
            if factor is not None:
                factor.expand(c.input.shape)

    def element(self, c: Elements) -> Tensor:
        """Return the loss from its positive and its negative part, without cancellation."""
        log_p = torch.nn.functional.logsigmoid(c.x)
        log_q = torch.nn.functional.logsigmoid(-c.x)
        return -(self.positive(c) * log_p + (1 - c.y) * log_q)

    def positive(self, c: Elements) -> Tensor:
        """Return the factor of the positive part."""
        return c.y if c.pos_weight is None else c.y * wide(c.pos_weight)


# === wrong ===============================================================================


class _ConstantSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (-x).sigmoid()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return tangents[0] * (1 - (-x).sigmoid())


class WrongForwardRule(BCEWithLogits):
    """The forward-mode rule uses the sigmoid of the wrong sign."""

    def element(self, c: Elements) -> Tensor:
        log_p, log_q = (_ConstantSigmoid.apply(x) for x in (c.x, -c.x))  # type: ignore[no-untyped-call]
        result: Tensor = -(self.positive(c) * log_p + (1 - c.y) * log_q)
        return result


class PosWeightOnWholeLoss(BCEWithLogits):
    """pos_weight p scales the whole loss by 1 + (p - 1)·y, which is right only for y = 0 or 1."""

    def element(self, c: Elements) -> Tensor:
        losses = -(c.y * logsigmoid(c.x) + (1 - c.y) * logsigmoid(-c.x))
        return losses if c.pos_weight is None else losses * (1 + (wide(c.pos_weight) - 1) * c.y)


class FlatAtZero(BCEWithLogits):
    """The gradient at a logit of 0 lacks the half of the sigmoid."""

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


class GradientCancels(BCEWithLogits):
    """The gradient is computed as σ(x) - y, which is 0 for a correct and certain prediction."""

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


class SigmoidFrozen(BCEWithLogits):
    """Backward treats the sigmoid as a constant, so the second derivative is lost."""

    def element(self, c: Elements) -> Tensor:
        log_p: Tensor = _Frozen.apply(c.x)  # type: ignore[no-untyped-call]
        log_q: Tensor = _Frozen.apply(-c.x)  # type: ignore[no-untyped-call]
        return -(self.positive(c) * log_p + (1 - c.y) * log_q)


class ShiftWithWrongSign(BCEWithLogits):
    """log(1 + exp(-x)) is shifted by max(x, 0) instead of max(-x, 0): inf for large negative x."""

    def element(self, c: Elements) -> Tensor:
        shift = c.x.clamp(min=0)
        log_p = shift + ((-shift).exp() + (-c.x - shift).exp()).log()
        return self.positive(c) * log_p + (1 - c.y) * (c.x + log_p)


class PosWeightOverflows(BCEWithLogits):
    """With pos_weight, log(1 + exp(-x)) is computed without a shift and overflows."""

    def element(self, c: Elements) -> Tensor:
        if c.pos_weight is None:
            return super().element(c)
        log_p = (1 + (-c.x).exp()).log()
        return self.positive(c) * log_p + (1 - c.y) * (c.x + log_p)


class PosWeightOnTailOnly(BCEWithLogits):
    """pos_weight multiplies only log(1 + exp(-|x|)), not the linear part."""

    def element(self, c: Elements) -> Tensor:
        if c.pos_weight is None:
            return super().element(c)
        factor = 1 + (wide(c.pos_weight) - 1) * c.y
        tail = (-c.x.abs()).exp().log1p()
        return (1 - c.y) * c.x + factor * tail + (-c.x).relu()


class TargetSmoothedInPlace(BCEWithLogits):
    """The target is smoothed in the caller's tensor after its use."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        result = super().leave(c, result)
        if 0 not in c.target.stride():
            c.target.data.add_(0.5).div_(2.0)
        return result


WRONG = (
    wrong(
        BCEWithLogits,
        "nan-is-zero",
        "A nan is treated as 0 times infinity and replaced by 0.",
        source="STB-21, pytorch/pytorch#51906",
        needs="a nan",
        element=lambda self, c: BCEWithLogits.element(self, c).nan_to_num(
            nan=0.0, posinf=torch.inf, neginf=-torch.inf
        ),
    ),
    wrong(
        BCEWithLogits,
        WrongForwardRule,
        source="DBL-02, pytorch/pytorch#79609",
        needs="forward-mode derivatives",
    ),
    wrong(
        BCEWithLogits,
        PosWeightOnWholeLoss,
        source="VAL-03, paiml/aprender#2204",
        needs="pos_weight, and a target between 0 and 1",
    ),
    wrong(
        BCEWithLogits,
        FlatAtZero,
        source="GRD-05, pytorch/pytorch#2298",
        needs="a logit of exactly 0",
    ),
    wrong(
        BCEWithLogits,
        GradientCancels,
        source="GRD-26, pytorch/pytorch#195677",
        needs="a large logit with the matching target",
        awaits=(
            "a definition without cancellation in its gradient (the budget allows for cancellation)"
        ),
        witness=lambda loss: first_gradient(loss, torch.tensor([20.0]), torch.tensor([1.0])),
    ),
    wrong(
        BCEWithLogits,
        SigmoidFrozen,
        source="DBL-02, pytorch/pytorch#79609",
        needs="the second derivative",
    ),
    wrong(
        BCEWithLogits,
        "always-single",
        "The result is float32 for every dtype of the inputs.",
        source="DTY-08, pytorch/pytorch#176844",
        needs="not only float32",
        leave=lambda self, c, result: result.float(),
    ),
    wrong(
        BCEWithLogits,
        "silent-broadcast",
        "An input of shape (N, 1) and a target of shape (N) broadcast without an error.",
        source="SHP-02, pytorch/pytorch#1939",
        needs="(N, 1) and (N)",
        check_shapes=lambda self, c: None,
    ),
    wrong(
        BCEWithLogits,
        "empty-mean-is-zero",
        "The mean of an empty input is 0 instead of nan.",
        source="EMP-04, pytorch/pytorch#144104",
        needs="empty",
        reduce=lambda self, c, losses: (
            losses.sum()
            if not losses.numel() and c.reduction == "mean"
            else BCEWithLogits.reduce(self, c, losses)
        ),
    ),
    wrong(
        BCEWithLogits,
        ShiftWithWrongSign,
        source="STB-01, pytorch/pytorch#2221",
        needs="a logit below -88",
    ),
    wrong(
        BCEWithLogits,
        PosWeightOverflows,
        source="STB-02, pytorch/pytorch#13773",
        needs="pos_weight, and a logit below -88",
    ),
    wrong(
        BCEWithLogits,
        PosWeightOnTailOnly,
        source="STB-03, PaddlePaddle/Paddle#65859",
        needs="pos_weight, and a large negative logit",
    ),
    wrong(
        BCEWithLogits,
        TargetSmoothedInPlace,
        source="MUT-04, eladhoffer/utils.pytorch#13",
        needs="a comparison of the target before and after",
    ),
    wrong(
        BCEWithLogits,
        MeanSumsInHalf,
        source="AUT-03, huggingface/transformers#25938",
        needs="float16, and a sum above its largest number",
    ),
)


# === right ===============================================================================


class TwoClassSoftmax(BCEWithLogits):
    """The log-softmax of the logit and 0."""

    def element(self, c: Elements) -> Tensor:
        log = torch.stack([torch.zeros_like(c.x), c.x], -1).log_softmax(-1)
        return -(self.positive(c) * log[..., 1] + (1 - c.y) * log[..., 0])


class BySoftplus(BCEWithLogits):
    """softplus(x) and softplus(-x) by logaddexp with 0."""

    def element(self, c: Elements) -> Tensor:
        zero = torch.zeros_like(c.x)
        positive, negative = torch.logaddexp(zero, -c.x), torch.logaddexp(zero, c.x)
        return self.positive(c) * positive + (1 - c.y) * negative


class TwoSoftplus(BCEWithLogits):
    """torch's softplus of the logit and of its negative, each linear above 20."""

    def element(self, c: Elements) -> Tensor:
        positive, negative = F.softplus(-c.x), F.softplus(c.x)
        return self.positive(c) * positive + (1 - c.y) * negative


RIGHT = (
    right(BCEWithLogits, "composite", "Plain torch operations, half precisions in float32."),
    right(BCEWithLogits, InFloat64),
    right(BCEWithLogits, InOwnDtype),
    right(BCEWithLogits, InBlocks),
    right(BCEWithLogits, Flattened),
    right(BCEWithLogits, AnalyticGradient),
    right(BCEWithLogits, EachByVmap),
    right(BCEWithLogits, TwoClassSoftmax),
    right(BCEWithLogits, BySoftplus),
    right(BCEWithLogits, TwoSoftplus),
)
