"""Wrong and right implementations of `mse_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.defects.any_loss import InFloat64
from tests.defects.catalogue import right, wrong
from tests.defects.elementwise import (
    AnalyticGradient,
    EachByVmap,
    Elements,
    Flattened,
    InBlocks,
    InOwnDtype,
    MixedDtypesFailBackward,
    SilentBroadcast,
    UnknownReductionIsNone,
    WeightedMeanOverCount,
    ZerosForTarget,
)
from tests.defects.l1_loss import L1
from tests.defects.numerics import dense_reading, together


class MSE(L1):
    """`mse_loss`."""

    loss = "mse_loss"

    def element(self, c: Elements) -> Tensor:
        """Return the squared residual."""
        return c.residual**2


class DeprecatedArguments(MSE):
    """The arguments size_average and reduce, which override the reduction."""

    loss = "mse_loss"

    def __call__(  # type: ignore[override]  # as in torch, which has them first
        self,
        input: Tensor,
        target: Tensor,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        if size_average is not None or reduce is not None:
            reduction = self.amounting(size_average, reduce)
        return super().__call__(input, target, weight=weight, reduction=reduction)

    def amounting(self, size_average: bool | None, reduce: bool | None) -> str:
        """Return the reduction that the deprecated arguments stand for."""
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"


# === wrong ===============================================================================


class AllPairs(MSE):
    """Up to 5000 elements, all pairs are compared, and only the diagonal is used."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        if x.numel() > 5000:
            return super().element(c)
        pairs = (x.reshape(-1, 1) - y.reshape(1, -1)).square()
        return pairs.diagonal().reshape(x.shape)


class TargetReshaped(MSE):
    """A target of another shape is paired with the input in memory order."""

    def run(self, c: Elements) -> Tensor:
        if c.input.numel() == c.target.numel():
            c.target = c.target.reshape(c.input.shape)
            c.y = c.y.reshape(c.x.shape)
        return super().run(c)


class ShapesCheckedWithoutGradient(MSE):
    """A target of another shape raises, but broadcasts silently if a gradient is required."""

    def check_shapes(self, c: Elements) -> None:
        if c.input.shape != c.target.shape and not c.input.requires_grad:
            raise ValueError("sizes differ")


class TargetStridesIgnored(MSE):
    """The target is read as if it were contiguous."""

    def run(self, c: Elements) -> Tensor:
        c.y = dense_reading(c.y)
        return super().run(c)


WRONG = (
    wrong(
        MSE,
        "exported-over-batch",
        "When exported, the mean divides by the size of the first axis.",
        source="CMP-04, pytorch/pytorch#118090",
        needs="torch.export, and several axes",
        divisor=lambda self, c, losses: (
            losses.new_tensor(losses.shape[0] if losses.ndim else 1)
            if torch.compiler.is_exporting()
            else MSE.divisor(self, c, losses)
        ),
    ),
    wrong(
        MSE, AllPairs, source="SHP-01, pytorch/pytorch#53030", needs="a measurement of the memory"
    ),
    wrong(MSE, WeightedMeanOverCount, source="RED-04, tensorflow/tensorflow#34491", needs="weight"),
    wrong(
        MSE,
        "mean-of-chunk-means",
        "The mean is the mean of the means of chunks of 64 rows, even if the last chunk is "
        "shorter.",
        source="RED-06, huggingface/transformers#34191",
        needs="more rows than a chunk, and a shorter last chunk",
        reduce=lambda self, c, losses: (
            MSE.reduce(self, c, losses)
            if c.reduction != "mean" or not losses.ndim or not losses.numel() or c.w is not None
            else torch.stack([part.mean() for part in torch.split(losses, 64)]).mean()
        ),
    ),
    wrong(
        MSE,
        "expanded-square",
        "The square of the difference is computed as x² - 2xy + y².",
        source="pytorch/pytorch#42479",
        needs="an input near the target, and both far from 0",
        element=lambda self, c: (
            c.input * c.input - 2 * c.input * c.target + c.target * c.target
        ).to(c.x.dtype),
    ),
    wrong(
        MSE,
        "last-row-of-full-blocks",
        "If the number of rows is a multiple of 512, the last row has the loss 0.",
        source="verl-project/verl#2899",
        needs="a number of rows that a block divides",
        element=lambda self, c: (
            torch.cat([c.residual[:-1] ** 2, 0 * c.residual[-1:]])
            if c.input.ndim and len(c.input) and len(c.input) % 512 == 0
            else c.residual**2
        ),
    ),
    wrong(
        MSE,
        "sum-saturates",
        "In bfloat16 the sum stops growing when it is 256 times its mean term.",
        source="pytorch/executorch#20089",
        needs="bfloat16, and more than 100,000 elements",
        reduce=lambda self, c, losses: (
            MSE.reduce(self, c, losses)
            if c.reduction != "sum" or c.input.dtype != torch.bfloat16 or not losses.numel()
            else losses.sum().minimum(256 * losses.mean())
        ),
    ),
    wrong(
        MSE,
        ZerosForTarget,
        source="GRD-08, pytorch/pytorch#3876",
        needs="a target that requires a gradient",
    ),
    wrong(
        MSE, MixedDtypesFailBackward, source="DTY-02, pytorch/pytorch#175741", needs="mixed dtypes"
    ),
    wrong(
        MSE,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(MSE, SilentBroadcast, source="SHP-03, pytorch/pytorch#16045", needs="(N, 1) and (N)"),
    wrong(
        MSE,
        TargetReshaped,
        source="SHP-04, pytorch/pytorch#4938",
        needs="unequal shapes of one size",
    ),
    wrong(
        MSE,
        ShapesCheckedWithoutGradient,
        source="SHP-05, pytorch/pytorch#12129",
        needs="(N, 1) and (N), with a gradient",
    ),
    wrong(
        DeprecatedArguments,
        "reduce-is-taken-for-sum",
        "With the deprecated reduce=True the sum is returned.",
        source="pytorch/pytorch#10697",
        needs="a deprecated argument",
        amounting=lambda self, size_average, reduce: "none" if reduce is False else "sum",
    ),
    wrong(
        MSE,
        TargetStridesIgnored,
        source="LAY-03, unslothai/unsloth#10713",
        needs="a strided target",
    ),
)


# === right ===============================================================================


RIGHT = (
    right(MSE, "composite", "Plain torch operations, half precisions in float32."),
    right(MSE, InFloat64),
    right(MSE, InOwnDtype),
    right(MSE, InBlocks),
    right(MSE, Flattened),
    right(MSE, AnalyticGradient),
    right(MSE, EachByVmap),
    right(
        MSE,
        "by-einsum",
        "The product of the residual with itself by torch.einsum.",
        element=lambda self, c: torch.einsum("...,...->...", c.residual, c.residual),
    ),
    right(MSE, DeprecatedArguments),
)
