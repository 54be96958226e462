"""Wrong and right implementations of `margin_ranking_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    Composition,
    InOwnDtype,
    PartsInFloat64,
    UnknownReductionIsNone,
)


class MarginRanking(Composition):
    """`margin_ranking_loss`."""

    loss = "margin_ranking_loss"

    def __call__(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        margin: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.margin_ranking_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input1, input2, target)
        losses = self.element(self.work(input1), self.work(input2), self.work(target), margin)
        return self.leave(losses, reduction, input1)

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        """Return the margin minus the signed difference of the scores, at least 0."""
        return (margin - y * (a - b)).relu()


# === wrong ===============================================================================


class SizesBroadcast(MarginRanking):
    """Tensors of different sizes broadcast."""

    def check_sizes(self, *tensors: Tensor) -> None:
        torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]


WRONG = (
    wrong(
        MarginRanking,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(
        MarginRanking,
        "graph-cut",
        "No tensor gets a gradient.",
        source="GRD-17, paiml/aprender#2188",
        needs="a gradient",
        leave=lambda self, losses, reduction, like: MarginRanking.leave(
            self, losses, reduction, like
        ).detach(),
    ),
    wrong(
        MarginRanking,
        "margin-always-zero",
        "The margin is always 0.",
        source="MOD-01, pytorch/pytorch#1378",
        needs="a margin",
        element=lambda self, a, b, y, margin: MarginRanking.element(self, a, b, y, 0.0),
    ),
    wrong(
        MarginRanking,
        "margin-signed",
        "The margin is multiplied by the target.",
        source="VAL-07, qubvel/segmentation_models#187",
        needs="a margin, -1",
        element=lambda self, a, b, y, margin: (y * (margin - (a - b))).relu(),
    ),
    wrong(
        MarginRanking,
        "sign-ignored",
        "The target is ignored: the first score must always be larger.",
        source="VAL-10, mlpack/mlpack#2444",
        needs="a target of -1",
        element=lambda self, a, b, y, margin: MarginRanking.element(self, a, b, y.abs(), margin),
    ),
    wrong(
        MarginRanking,
        "second-input-detached",
        "The second score gets no gradient.",
        source="GRD-08, pytorch/pytorch#3876",
        needs="a second gradient",
        element=lambda self, a, b, y, margin: MarginRanking.element(self, a, b.detach(), y, margin),
    ),
    wrong(
        MarginRanking, SizesBroadcast, source="SHP-04, pytorch/pytorch#4938", needs="unequal shapes"
    ),
)


# === right ===============================================================================


class SortedScores(MarginRanking):
    """The higher-ranked score is selected instead of multiplying by the sign."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        gap = torch.where(y > 0, b - a, a - b) + margin
        return torch.where(gap > 0, gap, 0)


RIGHT = (
    right(MarginRanking, "composite", "Plain torch operations, half precisions in float32."),
    right(MarginRanking, PartsInFloat64),
    right(MarginRanking, InOwnDtype),
    right(MarginRanking, SortedScores),
    right(
        MarginRanking,
        "clamped-gap",
        "torch.clamp, whose gradient at the kink is 1, of a product with the sign.",
        element=lambda self, a, b, y, margin: (-y * (a - b) + margin).clamp(min=0),
    ),
)
