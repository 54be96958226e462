"""Wrong and right implementations of `hinge_embedding_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    Composition,
    InOwnDtype,
    MeanSumsInHalf,
    PartsInFloat64,
    UnknownReductionIsNone,
)
from tests.defects.numerics import dense_reading, shares_memory, with_gradient_of


class HingeEmbedding(Composition):
    """`hinge_embedding_loss`."""

    loss = "hinge_embedding_loss"

    def __call__(
        self, input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.hinge_embedding_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        losses = self.element(self.work(input), target, margin)
        return self.leave(losses, reduction, input)

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        """Return the distance of like pairs, and the margin minus the distance of unlike ones."""
        return torch.where(y == 1, x, (margin - x).relu())


# === wrong ===============================================================================


class InPlace(HingeEmbedding):
    """The unreduced loss is computed in the memory of the input."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        if not shares_memory(like):
            like.data.copy_(losses.detach())
        return super().leave(losses, reduction, like)


class MaskOfFirstColumn(HingeEmbedding):
    """Backward uses the first target of each row for the whole row."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        right = super().element(x, y, margin)
        if y.ndim < 2 or not y.numel():
            return right
        return with_gradient_of(right, super().element(x, y[..., :1].expand_as(y), margin))


WRONG = (
    wrong(
        HingeEmbedding,
        MeanSumsInHalf,
        source="AUT-03, huggingface/transformers#25938",
        needs="float16, and a sum above its largest number",
    ),
    wrong(
        HingeEmbedding,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(
        HingeEmbedding,
        InPlace,
        source="MUT-05, sollynoay/MMP-RNN#4",
        needs="a comparison of the inputs before and after",
    ),
    wrong(
        HingeEmbedding,
        "target-strides-ignored",
        "The target is read as if it were contiguous.",
        source="LAY-03, unslothai/unsloth#10713",
        needs="a strided target",
        element=lambda self, x, y, margin: HingeEmbedding.element(
            self, x, dense_reading(y), margin
        ),
    ),
    wrong(
        HingeEmbedding,
        "margin-always-one",
        "The margin is always 1.",
        source="MOD-01, pytorch/pytorch#1378",
        needs="another margin",
        element=lambda self, x, y, margin: HingeEmbedding.element(self, x, y, 1.0),
    ),
    wrong(
        HingeEmbedding, MaskOfFirstColumn, source="GRD-24, pytorch/pytorch#3773", needs="two axes"
    ),
    wrong(
        HingeEmbedding,
        "unlike-not-hinged",
        "Unlike pairs beyond the margin get a negative loss.",
        source="VAL-09, marlbenchmark/on-policy#47",
        needs="a large distance",
        element=lambda self, x, y, margin: torch.where(y == 1, x, margin - x),
    ),
    wrong(
        HingeEmbedding,
        "branches-swapped",
        "Like pairs are treated as unlike ones.",
        source="VAL-07, qubvel/segmentation_models#187",
        needs="any pair",
        element=lambda self, x, y, margin: HingeEmbedding.element(self, x, -y, margin),
    ),
    wrong(
        HingeEmbedding,
        "like-hinged",
        "Like pairs at a negative distance have loss 0.",
        source="VAL-10, mlpack/mlpack#2444",
        needs="a negative input",
        element=lambda self, x, y, margin: HingeEmbedding.element(self, x, y, margin).relu(),
    ),
)


# === right ===============================================================================


class TwoMasks(HingeEmbedding):
    """Two branches, each masked with 0 where the other applies, and added."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        unlike = torch.where(y == 1, 0, (margin - x).clamp(min=0))
        return torch.where(y == -1, 0, x) + unlike


class InPlaceBranches(HingeEmbedding):
    """A clone whose elements of unlike pairs are overwritten by index."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        losses, unlike = x.clone(), y == -1
        losses[unlike] = torch.maximum(margin - x[unlike], x.new_zeros(()))
        return losses


RIGHT = (
    right(HingeEmbedding, "composite", "Plain torch operations, half precisions in float32."),
    right(HingeEmbedding, PartsInFloat64),
    right(HingeEmbedding, InOwnDtype),
    right(HingeEmbedding, TwoMasks),
    right(HingeEmbedding, InPlaceBranches),
)
