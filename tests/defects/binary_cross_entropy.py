"""Wrong and right implementations of `binary_cross_entropy`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    Composition,
    InOwnDtype,
    MeanSumsInHalf,
    PartsInFloat64,
    RaisesWhenEmpty,
    SizesUnchecked,
)
from tests.defects.numerics import shares_memory
from tests.defects.overlap import Unversioned

#: The lower bound of the logarithms in binary_cross_entropy.
LOWEST = -100.0


class BCE(Composition):
    """`binary_cross_entropy`."""

    loss = "binary_cross_entropy"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.binary_cross_entropy`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        self.check_range(input, target)
        losses = self.element(self.work(input), self.work(target))
        return self.leave(self.weighted(losses, weight), reduction, input)

    def check_range(self, *tensors: Tensor) -> None:
        """Check that all elements are from 0 to 1."""
        for tensor in tensors:
            if ((tensor < 0) | (tensor > 1)).any():
                raise RuntimeError("all elements should be between 0 and 1")

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        """Multiply each element by its weight."""
        return losses if weight is None else losses * self.work(weight).expand(losses.shape)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the unreduced, unweighted loss."""
        return -(y * self.log(x) + (1 - y) * self.log(1 - x))

    def log(self, p: Tensor) -> Tensor:
        """Return the logarithm, bounded below by -100, with a gradient of 0 below the bound."""
        # Half precisions would round the bound to 0.
        tiny = p <= math.exp(LOWEST)
        return torch.where(tiny, LOWEST, torch.where(tiny, 1, p).log())


class AnalyticBCE(torch.autograd.Function):
    """Binary cross entropy with gradients written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        log_p, log_q = x.log().clamp(min=LOWEST), torch.log1p(-x).clamp(min=LOWEST)
        return -(y * log_p + (1 - y) * log_q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y = ctx.saved_tensors
        inside = x * (1 - x)
        by_x = torch.where(inside < 1e-12, 0, (x - y) / torch.where(inside < 1e-12, 1, inside))
        log_p, log_q = x.log().clamp(min=LOWEST), torch.log1p(-x).clamp(min=LOWEST)
        return grads[0] * by_x, grads[0] * (log_q - log_p)


# === wrong ===============================================================================


class InputUnchecked(BCE):
    """An input below 0 or above 1 is accepted instead of raising."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors[1:])


class TargetGradientRaises(BCE):
    """A target that requires a gradient raises."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors)
        if tensors[1].requires_grad:
            raise RuntimeError("the derivative for 'target' is not implemented")


class TargetSmoothedInPlace(BCE):
    """The target is smoothed towards 1/2 in the caller's tensor."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors)
        if not shares_memory(tensors[1]):
            tensors[1].data.mul_(0.75).add_(0.125)


class DividesByWeight(BCE):
    """The mean divides by the sum of the weights instead of the number of elements."""

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        self.weight = None if weight is None else self.work(weight).expand(losses.shape)
        return super().weighted(losses, weight)

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses) if self.weight is None else self.weight.sum()


class WeightOfPositive(BCE):
    """The weight multiplies only the positive part."""

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        return losses * self.positive + super().weighted(losses, weight) * (1 - self.positive)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        self.positive = 1 - y.detach()
        return super().element(x, y)


class _SummedSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(slope, grad)
        return slope * grad

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        slope, grad = ctx.saved_tensors
        return (grads[0] * grad).sum().expand(slope.shape), grads[0] * slope


class _SummedBCE(AnalyticBCE):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        by_x, by_y = AnalyticBCE.backward(ctx, torch.ones_like(grads[0]))
        summed = _SummedSlope.apply(by_x, grads[0])  # type: ignore[no-untyped-call]
        return summed, grads[0] * by_y


WRONG = (
    wrong(
        BCE,
        MeanSumsInHalf,
        source="AUT-03, huggingface/transformers#25938",
        needs="float16, and a sum above its largest number",
    ),
    wrong(BCE, RaisesWhenEmpty, source="EMP-06, pytorch/pytorch#196204", needs="no elements"),
    wrong(BCE, SizesUnchecked, source="SHP-02, pytorch/pytorch#1939", needs="(N, 1) and (N)"),
    wrong(
        BCE,
        "no-floor",
        "The logarithms have no lower bound, so 0 times -inf gives nan.",
        source="STB-02, pytorch/pytorch#13773",
        needs="an input of 0 or 1",
        log=lambda self, p: p.log(),
    ),
    wrong(
        BCE,
        "floor-behind-logarithm",
        "The bound is applied after the logarithm, so the gradient at 0 is nan.",
        source="GRD-12, google-deepmind/optax#1786",
        needs="an input of 0 or 1",
        log=lambda self, p: p.log().clamp(min=LOWEST),
    ),
    wrong(
        BCE,
        "probability-clamped",
        "Probabilities are clamped to at least 1e-7.",
        source="STB-17, fizyr/keras-retinanet#706",
        needs="an input near 0 or 1",
        log=lambda self, p: p.clamp(min=1e-7).log(),
    ),
    wrong(
        BCE,
        "epsilon-added",
        "An epsilon is added to each probability instead of a bound on the logarithm.",
        source="EMP-12, KevinMusgrave/pytorch-metric-learning#98",
        needs="a small input",
        log=lambda self, p: (p + 1e-12).log(),
    ),
    wrong(
        BCE, InputUnchecked, source="ERR-09, pytorch/pytorch#51866", needs="an input outside [0, 1]"
    ),
    wrong(
        BCE,
        TargetGradientRaises,
        source="GRD-10, pytorch/pytorch#56683",
        needs="a target with a gradient",
    ),
    wrong(
        BCE,
        "target-detached",
        "The target gets no gradient.",
        source="GRD-09, linkedin/Liger-Kernel#1021",
        needs="a target with a gradient",
        element=lambda self, x, y: BCE.element(self, x, y.detach()),
    ),
    wrong(
        BCE,
        TargetSmoothedInPlace,
        source="MUT-04, eladhoffer/utils.pytorch#13",
        needs="a second call",
    ),
    wrong(BCE, DividesByWeight, source="RED-04, tensorflow/tensorflow#34491", needs="weight"),
    wrong(
        BCE,
        "weight-ignored",
        "The weight is accepted and not used.",
        source="LSM-03, huggingface/transformers#43240",
        needs="weight",
        weighted=lambda self, losses, weight: losses,
    ),
    wrong(
        BCE,
        WeightOfPositive,
        source="VAL-07, qubvel/segmentation_models#187",
        needs="weight, and a target",
    ),
    wrong(
        BCE,
        "second-derivative-summed",
        "The second derivative of each element is the sum over all elements.",
        source="DBL-01, pytorch/pytorch#59477",
        needs="the second derivative",
        element=lambda self, x, y: _SummedBCE.apply(x, y),  # type: ignore[no-untyped-call]
    ),
    wrong(
        BCE,
        Unversioned,
        source="pyro-ppl/pyro#1049",
        needs="a target that is changed before backward",
    ),
)


# === right ===============================================================================


class LogOfOnePlus(BCE):
    """The negative part by log1p, and the lower bound by torch.maximum before the logarithm."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        zero, one = x <= 0, x >= 1
        log_p = torch.where(zero, LOWEST, torch.where(zero, 1, x).log())
        log_q = torch.where(one, LOWEST, torch.log1p(-torch.where(one, 0, x)))
        floor = x.new_tensor(LOWEST)
        return -(y * torch.maximum(log_p, floor) + (1 - y) * torch.maximum(log_q, floor))


RIGHT = (
    right(BCE, "composite", "Plain torch operations, half precisions in float32."),
    right(BCE, PartsInFloat64),
    right(BCE, InOwnDtype),
    right(BCE, LogOfOnePlus),
    right(
        BCE,
        "analytic-gradient",
        "An autograd.Function with the gradient written by hand.",
        element=lambda self, x, y: AnalyticBCE.apply(x, y),  # type: ignore[no-untyped-call]
    ),
)
