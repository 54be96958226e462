"""Wrong and right implementations of `huber_loss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.any_loss import Compiled, InFloat64
from tests.defects.catalogue import right, wrong
from tests.defects.elementwise import (
    AnalyticGradient,
    EachByVmap,
    Elements,
    Elementwise,
    Flattened,
    InBlocks,
    InOwnDtype,
    MixedDtypesFailBackward,
    ThresholdNeedsTargetGradient,
    ThresholdUnchecked,
    UpstreamIgnored,
)
from tests.defects.numerics import passed, second_gradient, together
from tests.defects.overlap import OptionsInClass


class Huber(Elementwise):
    """`huber_loss`."""

    loss = "huber_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        reduction: str = "mean",
        delta: float = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.huber_loss`."""
        return self.run(Elements(input, target, weight, reduction, delta))

    def check_parameter(self, c: Elements) -> None:
        """Check that delta is above 0."""
        if not c.parameter > 0:
            raise RuntimeError("huber_loss does not support non-positive values for delta")

    def element(self, c: Elements) -> Tensor:
        """Return the loss: quadratic up to delta, linear above."""
        r, delta = c.residual.abs(), c.parameter
        return torch.where(r < delta, r * r / 2, delta * (r - delta / 2))


# === wrong ===============================================================================


class CompiledWithoutDelta(Huber):
    """When compiled, delta is always 1."""

    def element(self, c: Elements) -> Tensor:
        if torch.compiler.is_compiling():
            c.parameter = 1.0
        return super().element(c)


class LinearWhenPositive(Huber):
    """The linear branch tests e > d instead of |e| > d, so residuals below -d have loss 0."""

    def element(self, c: Elements) -> Tensor:
        e, d = c.residual, c.parameter
        size = e.abs()
        right = torch.where(size < d, e * e / 2, d * (size - d / 2))
        return torch.where(e <= -d, 0, right)


class BackwardWantsTwoAxes(Huber):
    """Backward raises for more than two axes."""

    def element(self, c: Elements) -> Tensor:
        def two(grad: Tensor) -> Tensor:
            if grad.ndim > 2:
                raise RuntimeError("the size of the gradient must match in all axes")
            return grad

        return passed(super().element(c), two)


class _FrozenHuber(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, delta: float) -> Tensor:
        ctx.slope = r.clamp(-delta, delta)
        size = r.abs()
        return torch.where(size < delta, r * r / 2, delta * (size - delta / 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.slope, None


class DoubleOnly(Huber):
    """Delta is a float64 tensor, and every other dtype raises."""

    def check_parameter(self, c: Elements) -> None:
        super().check_parameter(c)
        if c.input.dtype != torch.float64:
            raise RuntimeError(f"expected float64 but found {c.input.dtype}")


WRONG = (
    wrong(
        Huber,
        CompiledWithoutDelta,
        source="CMP-04, pytorch/pytorch#118090",
        needs="torch.compile, and delta",
    ),
    wrong(
        Huber,
        LinearWhenPositive,
        source="VAL-09, marlbenchmark/on-policy#47",
        needs="a residual below -delta",
    ),
    wrong(
        Huber,
        ThresholdNeedsTargetGradient,
        source="VAL-12, pytorch/pytorch#37599",
        needs="a threshold other than 1, and a target without a gradient",
    ),
    wrong(
        Huber,
        UpstreamIgnored,
        source="GRD-02, chainer/chainer#1178",
        needs="a cotangent other than 1",
    ),
    wrong(Huber, BackwardWantsTwoAxes, source="SHP-22, chainer/chainer#5493", needs="three axes"),
    wrong(
        Huber,
        "frozen-slope",
        "Backward treats the residual as a constant, so the second derivative is lost.",
        source="DBL-06, chainer/chainer#3867",
        needs="the second derivative",
        witness=lambda loss: second_gradient(loss, torch.ones(2), torch.zeros(2)),
        element=lambda self, c: _FrozenHuber.apply(c.residual, c.parameter),  # type: ignore[no-untyped-call]
    ),
    wrong(
        Huber, MixedDtypesFailBackward, source="DTY-01, pytorch/pytorch#76646", needs="mixed dtypes"
    ),
    wrong(
        Huber,
        DoubleOnly,
        source="DTY-09, deeplearning4j/deeplearning4j#9375",
        needs="not only float64",
    ),
    wrong(
        Huber,
        "double-result",
        "Delta is a float64 tensor, so the result is float64 as well.",
        source="DTY-09, deeplearning4j/deeplearning4j#9375",
        needs="not only float64",
        leave=lambda self, c, result: result.double(),
    ),
    wrong(Huber, ThresholdUnchecked, source="ERR-08, pytorch/pytorch#133796", needs="delta <= 0"),
    wrong(
        Huber,
        OptionsInClass,
        source="SciML/NeuralPDE.jl#550",
        needs="calls with two values of delta in two threads",
    ),
)


# === right ===============================================================================


class Clamped(Huber):
    """s times (|r| - s/2) with the clamped residual s, without a branch."""

    def element(self, c: Elements) -> Tensor:
        r = c.residual.abs()
        small = r.clamp(max=c.parameter)
        return small * (r - small / 2)


class ScaledSmoothL1(Huber):
    """delta times torch's smooth_l1_loss with beta = delta."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        losses: Tensor = F.smooth_l1_loss(x, y, beta=c.parameter, reduction="none")
        return losses * float(c.parameter)


RIGHT = (
    right(Huber, "composite", "Plain torch operations, half precisions in float32."),
    right(Huber, InFloat64),
    right(Huber, Compiled),
    right(Huber, InOwnDtype),
    right(Huber, InBlocks),
    right(Huber, Flattened),
    right(Huber, AnalyticGradient),
    right(Huber, EachByVmap),
    right(Huber, Clamped),
    right(Huber, ScaledSmoothL1),
)
