"""Wrong and right implementations of `smooth_l1_loss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
    SilentBroadcast,
    ThresholdNeedsTargetGradient,
    ThresholdUnchecked,
    UnknownReductionIsNone,
    UpstreamIgnored,
)
from tests.defects.numerics import serial_sum, together
from tests.defects.overlap import ResultInScratch


class SmoothL1(Elementwise):
    """`smooth_l1_loss`."""

    loss = "smooth_l1_loss"

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.smooth_l1_loss`."""
        return self.run(Elements(input, target, None, reduction, beta))

    def check_parameter(self, c: Elements) -> None:
        """Check that beta is not negative."""
        if c.parameter < 0:
            raise RuntimeError("smooth_l1_loss does not support negative values for beta")

    def element(self, c: Elements) -> Tensor:
        """Return the loss: quadratic up to beta, linear above."""
        r, beta = c.residual.abs(), c.parameter
        if beta == 0:
            return r
        return torch.where(r < beta, r * r / (2 * beta), r - beta / 2)


# === wrong ===============================================================================


class CompiledUnchecked(SmoothL1):
    """When compiled, a negative beta is accepted instead of raising."""

    def check_parameter(self, c: Elements) -> None:
        if not torch.compiler.is_compiling():
            super().check_parameter(c)


class SerialSum(SmoothL1):
    """The sum runs element by element, is rounded to the inputs' dtype at each step, and drifts."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.reduction == "none":
            return losses
        total = serial_sum(losses, c.input.dtype)
        return total if c.reduction == "sum" else total / self.divisor(c, losses)


class NanAtTiesWithoutBeta(SmoothL1):
    """With beta = 0, the gradient is nan (0 / 0) where input and target are equal."""

    def element(self, c: Elements) -> Tensor:
        r, beta = c.residual.abs(), c.parameter
        return torch.where(r < beta, r * r / (2 * r.new_tensor(beta)), r - beta / 2)


class NegativeBetaIsL1(SmoothL1):
    """A negative beta gives the L1 loss instead of raising."""

    def check_parameter(self, c: Elements) -> None:
        c.parameter = max(c.parameter, 0.0)


class _HalfCurved(torch.autograd.Function):
    """The gradient of the loss, whose own derivative is 0 for differences above 1."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.beta = beta
        return (difference / beta).clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return upstream * (difference.abs() < min(1.0, ctx.beta)) / ctx.beta, None


class _OfHalfCurved(torch.autograd.Function):
    """The loss of a difference, with that gradient."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.beta = beta
        r = difference.abs()
        return torch.where(r < beta, r * r / (2 * beta), r - beta / 2)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        curved: Tensor = _HalfCurved.apply(  # type: ignore[no-untyped-call]
            difference, ctx.beta
        )
        return upstream * curved, None


class CurvatureWithoutBeta(SmoothL1):
    """The second derivative is 0 for differences from 1 to beta."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter == 0:
            return super().element(c)
        losses: Tensor = _OfHalfCurved.apply(  # type: ignore[no-untyped-call]
            c.residual, c.parameter
        )
        return losses


class ReprRaises(torch.nn.SmoothL1Loss):
    """Printing the module raises an error, since it reads an attribute that does not exist."""

    def extra_repr(self) -> str:
        return f"beta={self.threshold}"


WRONG = (
    wrong(
        "smooth_l1_loss",
        ReprRaises,
        source="torchmd/torchmd-net#23",
        needs="repr of a module",
        surface="class",
    ),
    wrong(
        SmoothL1,
        CurvatureWithoutBeta,
        source="pytorch/pytorch#44433",
        needs="a second derivative, beta > 1, and a difference from 1 to beta",
    ),
    wrong(
        SmoothL1,
        CompiledUnchecked,
        source="CMP-02, pytorch/pytorch#194501",
        needs="torch.compile, and beta < 0",
    ),
    wrong(
        SmoothL1,
        ThresholdNeedsTargetGradient,
        source="VAL-12, pytorch/pytorch#37599",
        needs="a threshold other than 1, and a target without a gradient",
    ),
    wrong(
        SmoothL1,
        MeanSumsInHalf,
        source="AUT-03, huggingface/transformers#25938",
        needs="float16, and a sum above its largest number",
    ),
    wrong(
        SmoothL1,
        SerialSum,
        source="DTY-07, pytorch/pytorch#55657",
        needs="a half precision, and more elements than it can count one by one",
    ),
    wrong(
        SmoothL1,
        UpstreamIgnored,
        source="GRD-01, pytorch/pytorch#94226",
        needs="a cotangent other than 1",
    ),
    wrong(
        SmoothL1,
        NanAtTiesWithoutBeta,
        source="GRD-06, pytorch/pytorch#96813",
        needs="beta = 0, and ties",
    ),
    wrong(
        SmoothL1,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(SmoothL1, NegativeBetaIsL1, source="ERR-05, pytorch/pytorch#45532", needs="beta < 0"),
    wrong(SmoothL1, ThresholdUnchecked, source="CMP-02, pytorch/pytorch#194501", needs="beta < 0"),
    wrong(
        SmoothL1, SilentBroadcast, source="SHP-03, pytorch/pytorch#16045", needs="(N, 1) and (N)"
    ),
    wrong(
        SmoothL1,
        ResultInScratch,
        source="ROCm/torch_migraphx#247",
        needs="two results of one shape that live at once",
    ),
)


# === right ===============================================================================


class ScaledHuber(SmoothL1):
    """torch's huber_loss with delta = beta, divided by beta."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter == 0:
            return c.residual.abs()
        x, y = together(c.x, c.y)
        losses: Tensor = F.huber_loss(x, y, delta=c.parameter, reduction="none")
        return losses / float(c.parameter)


RIGHT = (
    right(SmoothL1, "composite", "Plain torch operations, half precisions in float32."),
    right(SmoothL1, InFloat64),
    right(SmoothL1, InOwnDtype),
    right(SmoothL1, InBlocks),
    right(SmoothL1, Flattened),
    right(SmoothL1, AnalyticGradient),
    right(SmoothL1, EachByVmap),
    right(SmoothL1, ScaledHuber),
)
