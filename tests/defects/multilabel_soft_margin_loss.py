"""Wrong and right implementations of `multilabel_soft_margin_loss`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.catalogue import right, wrong
from tests.defects.composition import Composition, InOwnDtype, PartsInFloat64, SizesUnchecked, taken
from tests.defects.numerics import passed, shares_memory


class MultiLabelSoftMargin(Composition):
    """`multilabel_soft_margin_loss`."""

    loss = "multilabel_soft_margin_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.multilabel_soft_margin_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        if weight is not None and weight.shape != input.shape[-1:]:
            raise ValueError(f"weight {weight.shape} does not fit input {input.shape}")
        losses = self.element(self.work(input), self.work(target))
        if weight is not None:
            losses = losses * self.work(weight)
        return self.leave(self.average(losses), reduction, input)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each class."""
        return -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))

    def average(self, losses: Tensor) -> Tensor:
        """Average over the classes."""
        return wide(losses).sum(-1) / losses.shape[-1]


# === wrong ===============================================================================


class BackwardWritesInput(MultiLabelSoftMargin):
    """Backward writes the gradient into the memory of the input."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        memory = x.data

        def kept(grad: Tensor) -> Tensor:
            if not shares_memory(memory):
                memory.copy_(grad)
            return grad

        return super().element(passed(x, kept), y)


class ClassesKept(MultiLabelSoftMargin):
    """Without a reduction, the losses of the classes are not averaged."""

    def average(self, losses: Tensor) -> Tensor:
        self.each = losses
        return super().average(losses)

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        return self.each if reduction == "none" else super().reduce(losses, reduction)


class LogarithmsOfSigmoids(MultiLabelSoftMargin):
    """The logarithms of sigmoids that round to 0 and 1."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        p = x.sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log())


class ClassesAddedSerially(MultiLabelSoftMargin):
    """The losses of the classes are added one after the other, in the dtype of the inputs."""

    def work(self, x: Tensor) -> Tensor:
        return x

    def average(self, losses: Tensor) -> Tensor:
        added = losses.new_zeros(losses.shape[:-1])
        for each in losses.unbind(-1):
            added = added + each
        return added / losses.shape[-1]


class _WithFactors(MultiLabelSoftMargin):
    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.multilabel_soft_margin_loss`."""
        self.weight = None if weight is None else self.work(weight)
        return super().__call__(input, target, weight, reduction)


class AveragedByWeight(_WithFactors):
    """The average over the classes divides by the sum of their weights."""

    def average(self, losses: Tensor) -> Tensor:
        if self.weight is None:
            return super().average(losses)
        return losses.sum(-1) / self.weight.sum()


class WeightOfLabels(_WithFactors):
    """The weight multiplies only labels of 1, like a pos_weight."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        if self.weight is None:
            return super().element(x, y)
        positive = -y * F.logsigmoid(x)
        return positive - (1 - y) * F.logsigmoid(-x) / torch.where(self.weight > 0, self.weight, 1)


WRONG = (
    wrong(
        MultiLabelSoftMargin,
        BackwardWritesInput,
        source="MUT-01, linkedin/Liger-Kernel#272",
        needs="a comparison of the inputs before and after backward",
    ),
    wrong(
        MultiLabelSoftMargin,
        SizesUnchecked,
        source="SHP-02, pytorch/pytorch#1939",
        needs="a target (N, 1)",
        awaits=(
            "calls with another tensor that has size 1 where the input has classes or coordinates"
        ),
        witness=lambda loss: taken(loss, torch.ones(2, 3), torch.ones(2, 1)),
    ),
    wrong(
        MultiLabelSoftMargin,
        ClassesKept,
        source="RED-17, pytorch/pytorch#9301",
        needs="no reduction",
    ),
    wrong(
        MultiLabelSoftMargin,
        LogarithmsOfSigmoids,
        source="STB-08, pytorch/pytorch#1516",
        needs="a large score",
    ),
    wrong(
        MultiLabelSoftMargin,
        "classes-summed",
        "The loss is the sum over the classes.",
        source="RED-18, apache/mxnet#18506",
        needs="more than one class",
        average=lambda self, losses: losses.sum(-1),
    ),
    wrong(
        MultiLabelSoftMargin,
        ClassesAddedSerially,
        source="DTY-07, pytorch/pytorch#55657",
        needs="hundreds of classes in float16 or bfloat16",
    ),
    wrong(
        MultiLabelSoftMargin,
        AveragedByWeight,
        source="RED-04, tensorflow/tensorflow#34491",
        needs="weight",
    ),
    wrong(
        MultiLabelSoftMargin,
        WeightOfLabels,
        source="VAL-03, paiml/aprender#2204",
        needs="weight, a label 1",
    ),
)


# === right ===============================================================================


RIGHT = (
    right(MultiLabelSoftMargin, "composite", "Plain torch operations, half precisions in float32."),
    right(MultiLabelSoftMargin, PartsInFloat64),
    right(MultiLabelSoftMargin, InOwnDtype),
    right(
        MultiLabelSoftMargin,
        "two-softplus",
        "The torch softplus of the score and of its negative.",
        element=lambda self, x, y: y * F.softplus(-x) + (1 - y) * F.softplus(x),
    ),
    right(
        MultiLabelSoftMargin,
        "with-logits",
        "The binary_cross_entropy_with_logits of torch, averaged by torch.mean.",
        element=lambda self, x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        average=lambda self, losses: losses.mean(-1),
    ),
)
