"""Wrong and right implementations of `triplet_margin_loss`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    ComputesInFloat32,
    ComputesInHalf,
    PartsInFloat64,
    UpstreamOfFirstRow,
)
from tests.defects.triplet_margin_with_distance_loss import (
    Distance,
    DistanceMatrix,
    PowerSums,
    SwapIgnored,
    SwappedDetached,
    SwapTakesFarther,
    TripletNotHinged,
    TripletWithDistance,
)


class Triplet(TripletWithDistance):
    """`triplet_margin_loss`."""

    loss = "triplet_margin_loss"

    def __call__(  # type: ignore[override]  # takes a degree, not a function
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        margin: float = 1.0,
        p: float = 2,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.triplet_margin_loss`."""
        self.check_parameters(margin, p)

        def distance(x: Tensor, y: Tensor) -> Tensor:
            return self.distance(x, y, p, eps)

        return self.run(anchor, positive, negative, distance, margin, swap, reduction)

    def check_parameters(self, margin: float, p: float) -> None:
        """Check that margin and degree are above 0."""
        if not (margin > 0 and p > 0):
            raise ValueError(f"margin and p must be above 0, got {margin}, {p}")

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        """Return the distance between rows."""
        return self.norm(x - y + eps, p)


# === wrong ===============================================================================


class MeanOfActive(Triplet):
    """The mean counts only elements with a nonzero loss."""

    def divisor(self, losses: Tensor) -> Tensor:
        active = (losses > 0).sum()
        return active.to(wide(losses).dtype) if active else super().divisor(losses)


class MarginUnchecked(Triplet):
    """Every margin is accepted."""

    def check_parameters(self, margin: float, p: float) -> None:
        super().check_parameters(1.0, p)


class RootOfSquares(Triplet):
    """The gradient of the root of a sum of 0 is nan."""

    def norm(self, z: Tensor, p: float) -> Tensor:
        power: Tensor = (z.abs() ** p).sum(-1)
        return power ** (1 / p)


WRONG = (
    wrong(
        Triplet,
        "none-sums",
        "Without a reduction the result is the sum.",
        source="SHP-15, linkedin/Liger-Kernel#435",
        needs="no reduction",
        reduce=lambda self, losses, reduction: Triplet.reduce(
            self, losses, "sum" if reduction == "none" else reduction
        ),
    ),
    wrong(
        Triplet,
        MeanOfActive,
        source="RED-01, qubvel-org/segmentation_models.pytorch#852",
        needs="a 0",
    ),
    wrong(
        Triplet,
        UpstreamOfFirstRow,
        source="GRD-03, linkedin/Liger-Kernel#1298",
        needs="no reduction, and a cotangent that differs by row",
    ),
    wrong(Triplet, ComputesInFloat32, source="DTY-03, pytorch/pytorch#64163", needs="float64"),
    wrong(
        Triplet,
        ComputesInHalf,
        source="DTY-13, NVIDIA/apex#211",
        needs="float16, and squares outside its range",
    ),
    wrong(
        Triplet,
        MarginUnchecked,
        source="ERR-07, pytorch/pytorch#83241",
        needs="a margin of 0 or below",
    ),
    wrong(
        Triplet,
        RootOfSquares,
        source="GRD-16, huggingface/sentence-transformers#4033",
        needs="anchor equal to positive, and eps=0",
    ),
    wrong(Triplet, SwapIgnored, source="LSM-03, huggingface/transformers#43240"),
    wrong(Triplet, SwapTakesFarther, source="VAL-07, qubvel/segmentation_models#187", needs="swap"),
    wrong(Triplet, SwappedDetached, source="GRD-08, pytorch/pytorch#3876", needs="swap"),
    wrong(Triplet, TripletNotHinged, source="VAL-09, marlbenchmark/on-policy#47"),
    wrong(
        Triplet,
        "degree-ignored",
        "The norm is always the Euclidean one.",
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="p other than 2",
        distance=lambda self, x, y, p, eps: Triplet.distance(self, x, y, 2, eps),
    ),
    wrong(
        Triplet,
        "eps-of-triplet-ignored",
        "Epsilon is always 1e-6.",
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="another eps",
        distance=lambda self, x, y, p, eps: Triplet.distance(self, x, y, p, 1e-6),
    ),
    wrong(
        Triplet,
        "eps-outside-norm",
        "Epsilon is added to the norm instead of the differences.",
        source="EMP-12, KevinMusgrave/pytorch-metric-learning#98",
        needs="an eps",
        distance=lambda self, x, y, p, eps: self.norm(x - y, p) + eps,
    ),
    wrong(
        Triplet,
        "eps-on-absolute-difference",
        "Epsilon is added to the absolute differences instead of the signed ones.",
        source="VAL-10, mlpack/mlpack#2444",
        needs="an eps, and a negative residual",
        distance=lambda self, x, y, p, eps: self.norm((x - y).abs() + eps, p),
    ),
)


# === right ===============================================================================


class PairwiseDistance(Triplet):
    """torch's pairwise_distance, and the swap by torch.where."""

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        return F.pairwise_distance(x, y, p, eps)

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        far, other = distance(a, y), distance(x, y)
        return torch.where(other < far, other, far) if swap else far


RIGHT = (
    right(Triplet, "composite", "Plain torch operations, half precisions in float32."),
    right(Triplet, PartsInFloat64),
    right(Triplet, PowerSums),
    right(Triplet, DistanceMatrix),
    right(Triplet, PairwiseDistance),
)
