"""Wrong and right implementations of `soft_margin_loss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    Composition,
    FloatResult,
    InOwnDtype,
    Noisy,
    PartsInFloat64,
    UnknownReductionIsNone,
    UpstreamIgnored,
    ZeroWhenEmpty,
)
from tests.defects.numerics import first_gradient
from tests.defects.overlap import FlushesSubnormals, GradientInScratch


class SoftMargin(Composition):
    """`soft_margin_loss`."""

    loss = "soft_margin_loss"

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Compute the loss like `torch.nn.functional.soft_margin_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        losses = self.element(self.work(input), self.work(target))
        return self.leave(losses, reduction, input)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss without overflow."""
        return F.softplus(-y * x)


# === wrong ===============================================================================


class ShiftedByWrongMaximum(SoftMargin):
    """The exponentials are shifted by the maximum of the wrong sign."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = -y * x
        top = (-z).clamp(min=0).detach()
        return top + ((-top).exp() + (z - top).exp()).log()


class WrongSlopeAtZero(SoftMargin):
    """The gradient at a score of 0 is that of torch.clamp instead of the logarithm."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = -y * x
        return z.clamp(min=0) + (-z.abs()).exp().log1p()


class _Cancelling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return F.softplus(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        return grads[0] * (1 - torch.sigmoid(-z))


WRONG = (
    wrong(
        SoftMargin,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(SoftMargin, ZeroWhenEmpty, source="EMP-04, pytorch/pytorch#144104", needs="no elements"),
    wrong(
        SoftMargin,
        UpstreamIgnored,
        source="GRD-01, pytorch/pytorch#94226",
        needs="a cotangent other than 1",
    ),
    wrong(SoftMargin, FloatResult, source="DTY-08, pytorch/pytorch#176844", needs="not float32"),
    wrong(SoftMargin, Noisy, source="DET-01, pytorch/pytorch#17350", needs="a second call"),
    wrong(
        SoftMargin,
        "log-of-one-plus-exp",
        "The loss is log(1 + exp(-yx)), which overflows, and rounds to 0.",
        source="STB-09, pytorch/pytorch#77529",
        needs="a large or a small score",
        element=lambda self, x, y: (1 + (-y * x).exp()).log(),
    ),
    wrong(
        SoftMargin,
        "log-one-plus-overflows",
        "The loss is torch.log1p of an exponential that overflows.",
        source="STB-10, huggingface/sentence-transformers#4019",
        needs="a large score",
        element=lambda self, x, y: (-y * x).exp().log1p(),
    ),
    wrong(
        SoftMargin,
        "log-of-sigmoid",
        "The loss is the logarithm of the sigmoid, which rounds to 0 and 1.",
        source="STB-21, pytorch/pytorch#51906",
        needs="a large score",
        element=lambda self, x, y: -(y * x).sigmoid().log(),
    ),
    wrong(
        SoftMargin,
        ShiftedByWrongMaximum,
        source="STB-01, pytorch/pytorch#2221",
        needs="a large score",
    ),
    wrong(
        SoftMargin,
        WrongSlopeAtZero,
        source="GRD-05, pytorch/pytorch#2298",
        needs="a score of exactly 0",
    ),
    wrong(
        SoftMargin,
        "cancelling-slope",
        "The gradient is computed as 1 minus a sigmoid, which cancels for a correct score.",
        source="GRD-26, pytorch/pytorch#195677",
        needs="a large correct score",
        awaits=(
            "a definition without cancellation in its gradient (the budget allows for cancellation)"
        ),
        witness=lambda loss: first_gradient(loss, torch.tensor([20.0]), torch.tensor([1.0])),
        element=lambda self, x, y: _Cancelling.apply(-y * x),  # type: ignore[no-untyped-call]
    ),
    wrong(
        SoftMargin,
        GradientInScratch,
        source="ROCm/torch_migraphx#247",
        needs="gradients of two calls that live at once",
    ),
    wrong(
        SoftMargin,
        FlushesSubnormals,
        source="MouseLand/cellpose#1253",
        needs="a look at the settings of the process",
    ),
)


# === right ===============================================================================


class LogAddExp(SoftMargin):
    """torch.logaddexp of 0 and -yx."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = -y * x
        return torch.logaddexp(torch.zeros_like(z), z)


class TwoClassSoftmax(SoftMargin):
    """The log-softmax of the score and 0."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = y * x
        return -torch.stack([torch.zeros_like(z), z], -1).log_softmax(-1)[..., 1]


class _AnalyticSoftMargin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        z = -y * x
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y = ctx.saved_tensors
        slope = -torch.sigmoid(-y * x)
        return grads[0] * slope * y, None


class Scriptable(torch.nn.Module):
    """A module of plain torch operations that torch.jit.script takes."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if input.shape != target.shape:
            raise ValueError("input and target need the same shape")
        losses = F.softplus(-target * input)
        if self.reduction == "none":
            return losses
        if self.reduction == "mean":
            return losses.mean()
        if self.reduction == "sum":
            return losses.sum()
        raise ValueError("unknown reduction")


RIGHT = (
    right("soft_margin_loss", Scriptable, surface="class"),
    right(SoftMargin, "composite", "Plain torch operations, half precisions in float32."),
    right(SoftMargin, PartsInFloat64),
    right(SoftMargin, InOwnDtype),
    right(SoftMargin, LogAddExp),
    right(
        SoftMargin,
        "minus-log-sigmoid",
        "Minus the logarithm of the sigmoid of yx.",
        element=lambda self, x, y: -F.logsigmoid(y * x),
    ),
    right(SoftMargin, TwoClassSoftmax),
    right(
        SoftMargin,
        "binary-cross-entropy",
        "The binary cross entropy of the score, with the sign as the label.",
        element=lambda self, x, y: F.binary_cross_entropy_with_logits(
            x, (1 + y) / 2, reduction="none"
        ),
    ),
    right(
        SoftMargin,
        "sigmoid-times-sign",
        "An autograd.Function with the gradient written by hand.",
        element=lambda self, x, y: _AnalyticSoftMargin.apply(x, y),  # type: ignore[no-untyped-call]
    ),
)
