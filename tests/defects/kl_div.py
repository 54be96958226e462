"""Wrong and right implementations of `kl_div`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.catalogue import right, wrong
from tests.defects.elementwise import (
    AnalyticGradient,
    EachByVmap,
    Elements,
    Elementwise,
    Flattened,
    InBlocks,
    InOwnDtype,
    ZerosForTarget,
)
from tests.defects.numerics import REDUCTIONS, together
from tests.defects.overlap import LatestCallOnly, LowerPrecision


class KLDiv(Elementwise):
    """`kl_div`."""

    loss = "kl_div"

    reductions = (*REDUCTIONS, "batchmean")

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.kl_div`."""
        return self.run(Elements(input, target, None, reduction, log_target))

    def check_shapes(self, c: Elements) -> None:
        """Check that input and target have one size."""
        if c.input.shape != c.target.shape:
            raise ValueError(f"sizes differ: {c.input.shape}, {c.target.shape}")

    def element(self, c: Elements) -> Tensor:
        """Return the pointwise divergence."""
        if c.parameter:
            return c.y.exp() * (c.y - c.x)
        return torch.xlogy(c.y, c.y) - c.y * c.x

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        """Return the number of elements, or the batch size for batchmean."""
        if c.reduction == "batchmean":
            return losses.new_tensor(float(losses.shape[0] if losses.ndim else 1))
        return super().divisor(c, losses)


# === wrong ===============================================================================


class FirstBatchSizeKept(torch.nn.KLDivLoss):
    """The size of the first batch is the divisor of batchmean in every later call."""

    size: int | None = None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.reduction != "batchmean" or not input.ndim:
            return super().forward(input, target)
        if self.size is None:
            self.size = len(input)
        return F.kl_div(input, target, reduction="sum", log_target=self.log_target) / self.size


class LogTargetDetached(KLDiv):
    """A target given as logarithms gets no gradient."""

    def element(self, c: Elements) -> Tensor:
        c.y = c.y.detach() if c.parameter else c.y
        return super().element(c)


class NegativeTargetIsZero(KLDiv):
    """A negative target, which is not a probability, counts as 0 instead of giving nan."""

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


class CrossTermLost(KLDiv):
    """The gradient of the input treats the target as a constant, so a second derivative is lost."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter:
            return super().element(c)
        x, y = together(c.x, c.y)
        result: Tensor = _FrozenDivergence.apply(x, y)  # type: ignore[no-untyped-call]
        return result


class ViewOfInput(KLDiv):
    """A non-contiguous input raises because it is flattened with view."""

    def element(self, c: Elements) -> Tensor:
        c.input.detach().view(-1)
        return super().element(c)


WRONG = (
    wrong(
        "kl_div",
        FirstBatchSizeKept,
        source="MOD-03, pytorch/rl#1594",
        needs="one module that is called with batches of two sizes",
        surface="class",
    ),
    wrong(
        KLDiv,
        "batchmean-is-mean",
        "batchmean divides by all elements.",
        source="RED-18, apache/mxnet#18506",
        needs="more than one axis",
        divisor=lambda self, c, losses: losses.new_tensor(float(losses.numel())),
    ),
    wrong(
        KLDiv,
        LogTargetDetached,
        source="GRD-09, linkedin/Liger-Kernel#1021",
        needs="a target given as logarithms that requires a gradient",
    ),
    wrong(
        KLDiv,
        NegativeTargetIsZero,
        source="ERR-04, pytorch/pytorch#69230",
        needs="a negative target",
        awaits="cases outside the domain: a negative target gives nan",
        witness=lambda loss: loss(torch.zeros(2), torch.tensor([-1.0, 1.0]), reduction="none"),
    ),
    wrong(
        KLDiv,
        CrossTermLost,
        source="DBL-03, pytorch/pytorch#65466",
        needs="the second derivative by input and target",
    ),
    wrong(KLDiv, ViewOfInput, source="LAY-06, kornia/kornia#499", needs="a permuted input"),
    wrong(
        KLDiv,
        ZerosForTarget,
        source="GRD-09, linkedin/Liger-Kernel#1021",
        needs="a target that requires a gradient",
    ),
    wrong(
        KLDiv,
        LatestCallOnly,
        source="ROCm/torch_migraphx#247",
        needs="two graphs that live at once",
    ),
    wrong(
        KLDiv,
        LowerPrecision,
        source="MouseLand/cellpose#1253",
        needs="a look at the settings of the process",
    ),
)


# === right ===============================================================================


class PartsInFloat64(KLDiv):
    """Plain torch operations in float64, cast back."""

    def element(self, c: Elements) -> Tensor:
        c.x, c.y = c.x.double(), c.y.double()
        return super().element(c)


class FactoredOut(KLDiv):
    """y·(log y - x), with log 1 in place of log 0."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter:
            return super().element(c)
        safe = torch.where(c.y == 0, 1, c.y)
        return c.y * (safe.log() - c.x)


class MultipliedOut(KLDiv):
    """Entropy and cross entropy separately, also for a target given as logarithms."""

    def element(self, c: Elements) -> Tensor:
        if not c.parameter:
            entropy: Tensor = torch.special.entr(c.y)
            return -entropy - c.y * c.x
        p = c.y.exp()
        return p * c.y - p * c.x


RIGHT = (
    right(KLDiv, "composite", "Plain torch operations, half precisions in float32."),
    right(KLDiv, InOwnDtype),
    right(KLDiv, InBlocks),
    right(KLDiv, Flattened),
    right(KLDiv, AnalyticGradient),
    right(KLDiv, EachByVmap),
    right(KLDiv, PartsInFloat64),
    right(KLDiv, FactoredOut),
    right(KLDiv, MultipliedOut),
)
