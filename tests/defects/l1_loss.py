"""Wrong and right implementations of `l1_loss`."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    SilentBroadcast,
    UnknownReductionIsNone,
    WeightedMeanOverCount,
    ZerosForTarget,
)
from tests.defects.numerics import shares_memory, together


class L1(Elementwise):
    """`l1_loss`."""

    loss = "l1_loss"

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.l1_loss`."""
        return self.run(Elements(input, target, weight, reduction))

    def element(self, c: Elements) -> Tensor:
        """Return the absolute residual."""
        return c.residual.abs()

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        """Return the sum of the weights as the divisor."""
        return super().divisor(c, losses) if c.w is None else c.w.sum()


# === wrong ===============================================================================


class ArraysInSingle(L1):
    """NumPy arrays of every dtype become float32 tensors."""

    def __call__(self, input: Any, target: Any, *more: Any, **options: Any) -> Tensor:
        if isinstance(input, np.ndarray):
            input, target = (torch.tensor(x, dtype=torch.float32) for x in (input, target))
        return super().__call__(input, target, *more, **options)


class _RealSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor) -> Tensor:
        return r.abs()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (r,) = ctx.saved_tensors
        return grads[0] * r.sgn().real


class InTheInputsMemory(L1):
    """If nothing requires a gradient, the losses are computed in the memory of the input."""

    def element(self, c: Elements) -> Tensor:
        if torch.is_grad_enabled() and (c.input.requires_grad or c.target.requires_grad):
            return super().element(c)
        if shares_memory(c.x) or c.input.shape != c.target.shape:
            return super().element(c)
        return c.x.detach().sub_(c.y).abs_()


class _OneAtZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor) -> Tensor:
        ctx.save_for_backward(r)
        return r.abs()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (r,) = ctx.saved_tensors
        return torch.where(r >= 0, grads[0], -grads[0])


class InPlace(L1):
    """The unreduced loss is computed in the memory of the input."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        if result.shape == c.input.shape and not shares_memory(c.input):
            c.input.data.copy_(result.detach())
        return super().leave(c, result)


WRONG = (
    wrong(
        L1, ArraysInSingle, source="DTY-03, pytorch/pytorch#64163", needs="NumPy arrays in float64"
    ),
    wrong(
        L1,
        "real-part-of-gradient",
        "Backward returns the real part of the gradient only.",
        source="DBL-05, pytorch/pytorch#65683",
        needs="complex inputs",
        element=lambda self, c: _RealSign.apply(c.residual),  # type: ignore[no-untyped-call]
        leave=lambda self, c, result: result if c.input.is_complex() else L1.leave(self, c, result),
    ),
    wrong(
        L1,
        InTheInputsMemory,
        source="MUT-01, linkedin/Liger-Kernel#272",
        needs="nothing that needs a gradient",
    ),
    wrong(
        L1,
        "sign-kept",
        "The residual keeps its sign.",
        source="VAL-10, mlpack/mlpack#2444",
        needs="a negative residual",
        element=lambda self, c: c.residual,
    ),
    wrong(L1, WeightedMeanOverCount, source="RED-04, tensorflow/tensorflow#34491", needs="weight"),
    wrong(
        L1,
        "one-at-ties",
        "The gradient is 1 instead of 0 where input and target are equal.",
        source="GRD-07, pytorch/pytorch#7172",
        needs="ties",
        element=lambda self, c: _OneAtZero.apply(c.residual),  # type: ignore[no-untyped-call]
    ),
    wrong(
        L1,
        ZerosForTarget,
        source="GRD-08, pytorch/pytorch#3876",
        needs="a target that requires a gradient",
    ),
    wrong(
        L1,
        "graph-cut",
        "The graph is cut at the absolute value, so there is no gradient.",
        source="GRD-17, paiml/aprender#2188",
        element=lambda self, c: c.residual.detach().abs(),
    ),
    wrong(
        L1,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(L1, SilentBroadcast, source="SHP-03, pytorch/pytorch#16045", needs="(N, 1) and (N)"),
    wrong(
        L1,
        InPlace,
        source="MUT-05, sollynoay/MMP-RNN#4",
        needs="a comparison of the inputs before and after",
    ),
)


# === right ===============================================================================


class SmoothWithoutBeta(L1):
    """torch's smooth_l1_loss with beta = 0."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        losses: Tensor = F.smooth_l1_loss(x, y, beta=0.0, reduction="none")
        return losses


class ArraysTaken(L1):
    """NumPy arrays, converted to tensors that share their memory."""

    def __call__(
        self, input: Any, target: Any, reduction: str = "mean", weight: Any = None
    ) -> Tensor:
        weight = None if weight is None else torch.as_tensor(weight)
        return super().__call__(torch.as_tensor(input), torch.as_tensor(target), reduction, weight)


RIGHT = (
    right(L1, "composite", "Plain torch operations, half precisions in float32."),
    right(L1, InFloat64),
    right(L1, InOwnDtype),
    right(L1, InBlocks),
    right(L1, Flattened),
    right(L1, AnalyticGradient),
    right(L1, EachByVmap),
    right(
        L1,
        "larger-of-both-signs",
        "The larger of x - y and y - x.",
        element=lambda self, c: torch.maximum(c.residual, -c.residual),
    ),
    right(L1, SmoothWithoutBeta),
    right(L1, ArraysTaken),
)
