"""Wrong and right implementations of `multi_margin_loss`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.catalogue import right, wrong
from tests.defects.composition import Composition, InOwnDtype, PartsInFloat64, UpstreamIgnored
from tests.defects.numerics import dense_reading, with_gradient_of

#: Rows in a chunk, for losses that work in chunks.
CHUNK = 4


class MultiMargin(Composition):
    """`multi_margin_loss`."""

    loss = "multi_margin_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.multi_margin_loss`."""
        self.check_reduction(reduction)
        self.check_power(p)
        self.check_shapes(input, target, weight)
        self.check_classes(target, input.shape[-1])
        losses = self.row(self.work(input), target, p, margin)
        if weight is not None:
            losses = losses * self.work(weight)[target]
        return self.leave(losses, reduction, input)

    def check_power(self, p: int) -> None:
        """Check that the power is 1 or 2."""
        if p not in (1, 2):
            raise ValueError("only p == 1 and p == 2 supported")

    def check_shapes(self, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """Check that there is a class for each row and a weight for each class."""
        if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
            raise ValueError(f"target {target.shape} does not fit input {input.shape}")
        if weight is not None and weight.shape != input.shape[-1:]:
            raise ValueError(f"weight {weight.shape} does not fit input {input.shape}")

    def check_classes(self, target: Tensor, classes: int) -> None:
        """Check that targets are integers from 0 to C - 1."""
        if target.dtype != torch.int64:
            raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
        if ((target < 0) | (target >= classes)).any():
            raise IndexError("target out of range")

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        """Return the unweighted loss of each row."""
        own = torch.arange(x.shape[-1]) == t.unsqueeze(-1)
        gap = (margin - self.score(x, t) + x).relu()
        return wide(torch.where(own, 0, gap if p == 1 else gap * gap)).sum(-1) / x.shape[-1]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score of the target class, with an axis of size 1."""
        return x.gather(-1, t.unsqueeze(-1))


# === wrong ===============================================================================


class _Included(MultiMargin):
    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        gap = (margin - self.score(x, t) + x).relu()
        return (gap if p == 1 else gap * gap).sum(-1) / x.shape[-1]


class RightClassIncluded(_Included):
    """The target class counts as one of the others."""


class _Weighted(MultiMargin):
    """A loss with another method for the weight."""

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.multi_margin_loss`."""
        self.check_shapes(input, target, weight)
        self.weight = None if weight is None else self.seen(weight)
        return super().__call__(input, target, p, margin, None, reduction)

    def seen(self, weight: Tensor) -> Tensor:
        """Return the weight as it is read."""
        return self.work(weight)

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        losses = super().row(x, t, p, margin)
        return losses if self.weight is None else self.times(losses, self.weight[t], p)

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        """Return the weighted losses."""
        return losses * weight


class WeightNotInGradient(_Weighted):
    """Backward ignores the weight."""

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        return with_gradient_of(losses * weight, losses)


class WeightRaised(_Weighted):
    """The weight is raised to the power p as well."""

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        return losses * weight**p


class WeightStridesIgnored(_Weighted):
    """The weight is read as if it were contiguous."""

    def seen(self, weight: Tensor) -> Tensor:
        return super().seen(dense_reading(weight))


class DividesByClassWeight(_Weighted):
    """The mean divides by the sum of the weights instead of the batch size."""

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        self.total = weight.sum()
        return losses * weight

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses) if self.weight is None else self.total


class WeightLengthUnchecked(MultiMargin):
    """A weight with more entries than classes is accepted."""

    def check_shapes(self, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        if weight is not None and weight.ndim == 1:
            weight = weight[: input.shape[-1]]
        super().check_shapes(input, target, weight)


class BareAssertion(MultiMargin):
    """A weight of two axes fails an assertion without a message."""

    def check_shapes(self, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        if weight is not None and weight.ndim != 1:
            raise AssertionError  # not by `assert`, to which pytest may add a message
        super().check_shapes(input, target, weight)


class ClassClamped(MultiMargin):
    """A class out of range is replaced by the nearest class."""

    def check_classes(self, target: Tensor, classes: int) -> None:
        super().check_classes(target.clamp(0, max(0, classes - 1)), classes)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return super().score(x, t.clamp(0, x.shape[-1] - 1))


class ClassFromTheEnd(MultiMargin):
    """A negative class counts from the last class."""

    def check_classes(self, target: Tensor, classes: int) -> None:
        wraps = (target < 0) & (target >= -classes)
        super().check_classes(torch.where(wraps, target + classes, target), classes)

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t.remainder(x.shape[-1]), p, margin)


class ClassDtypeUnchecked(MultiMargin):
    """A target with a floating dtype is cast instead of raising."""

    def check_classes(self, target: Tensor, classes: int) -> None:
        super().check_classes(target.long(), classes)

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t.long(), p, margin)


WRONG = (
    wrong(
        MultiMargin,
        "sum-of-chunk-means",
        "The mean is the sum of the means of chunks.",
        source="RED-05, NVIDIA-NeMo/Automodel#3803",
        needs="more rows than a chunk",
        reduce=lambda self, losses, reduction: (
            MultiMargin.reduce(self, losses, reduction)
            if reduction != "mean" or not losses.ndim or not losses.numel()
            else torch.stack([part.mean() for part in torch.split(losses, CHUNK)]).sum()
        ),
    ),
    wrong(
        MultiMargin,
        UpstreamIgnored,
        source="GRD-01, pytorch/pytorch#94226",
        needs="a cotangent other than 1",
    ),
    wrong(
        MultiMargin,
        RightClassIncluded,
        source="IGN-16, pytorch/pytorch#185464",
        needs="a margin above 0",
    ),
    wrong(
        MultiMargin,
        "divides-by-others",
        "The sum is divided by the number of the other classes.",
        source="VAL-13, umbertogriffo/focal-loss-keras#12",
        needs="any row",
        row=lambda self, x, t, p, margin: (
            MultiMargin.row(self, x, t, p, margin) * x.shape[-1] / max(1, x.shape[-1] - 1)
        ),
    ),
    wrong(
        MultiMargin,
        "power-ignored",
        "The power is always 1.",
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="p=2",
        row=lambda self, x, t, p, margin: MultiMargin.row(self, x, t, 1, margin),
    ),
    wrong(
        MultiMargin,
        "margin-of-squares-ignored",
        "With p=2 the margin is always 1.",
        source="MOD-01, pytorch/pytorch#1378",
        needs="p=2, and another margin",
        row=lambda self, x, t, p, margin: MultiMargin.row(self, x, t, p, margin if p == 1 else 1.0),
    ),
    wrong(
        MultiMargin,
        WeightNotInGradient,
        source="IGN-21, pytorch/pytorch#104578",
        needs="weight, and a gradient",
    ),
    wrong(
        MultiMargin,
        WeightRaised,
        source="VAL-08, gokulprasadthekkel/pytorch-multi-class-focal-loss#1",
        needs="weight, and p=2",
    ),
    wrong(
        MultiMargin,
        WeightStridesIgnored,
        source="LAY-05, pytorch/pytorch#104852",
        needs="a strided weight",
    ),
    wrong(
        MultiMargin,
        DividesByClassWeight,
        source="RED-04, tensorflow/tensorflow#34491",
        needs="weight",
    ),
    wrong(
        MultiMargin,
        WeightLengthUnchecked,
        source="LAY-05, pytorch/pytorch#104852",
        needs="a weight of wrong length",
    ),
    wrong(
        MultiMargin,
        BareAssertion,
        source="ERR-17, pytorch/pytorch#106020",
        needs="a weight of two axes",
    ),
    wrong(
        MultiMargin,
        ClassClamped,
        source="ERR-10, pytorch/pytorch#88648",
        needs="a class out of range",
    ),
    wrong(
        MultiMargin,
        ClassFromTheEnd,
        source="ERR-01, pytorch/pytorch#32049",
        needs="a negative class",
    ),
    wrong(
        MultiMargin,
        ClassDtypeUnchecked,
        source="DTY-12, pytorch/pytorch#175151",
        needs="a floating target",
    ),
)


# === right ===============================================================================


class OthersGathered(MultiMargin):
    """The scores of the other classes only, selected by index."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        place = torch.arange(x.shape[-1] - 1).expand(*t.shape, -1)
        others = x.gather(-1, place + (place >= t.unsqueeze(-1)).long())
        return (others - self.score(x, t) + margin).clamp(min=0).pow(p).sum(-1) / x.shape[-1]


class OneHotScores(MultiMargin):
    """The target score as a sum under a one-hot mask, and its own term filled with 0."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        own = F.one_hot(t, x.shape[-1]).bool()
        score = x.masked_fill(~own, 0).sum(-1, keepdim=True)
        gap = (margin - score + x).masked_fill(own, 0).clamp(min=0)
        return (gap if p == 1 else gap * gap).mean(-1)


RIGHT = (
    right(MultiMargin, "composite", "Plain torch operations, half precisions in float32."),
    right(MultiMargin, PartsInFloat64),
    right(MultiMargin, InOwnDtype),
    right(MultiMargin, OthersGathered),
    right(MultiMargin, OneHotScores),
)
