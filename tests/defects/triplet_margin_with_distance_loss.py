"""Wrong and right implementations of `triplet_margin_with_distance_loss`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.catalogue import right, wrong
from tests.defects.composition import Composition, PartsInFloat64

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class TripletWithDistance(Composition):
    """`triplet_margin_with_distance_loss`."""

    loss = "triplet_margin_with_distance_loss"

    def __call__(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        distance_function: Distance | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.triplet_margin_with_distance_loss`."""
        if margin < 0:
            raise ValueError(f"margin must not be negative, got {margin}")
        distance = distance_function or self.euclidean
        return self.run(anchor, positive, negative, distance, margin, swap, reduction)

    def run(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        distance: Distance,
        margin: float,
        swap: bool,
        reduction: str,
    ) -> Tensor:
        """Return the loss for a given distance."""
        self.check_reduction(reduction)
        self.check_sizes(anchor, positive, negative)
        a, x, y = self.work(anchor), self.work(positive), self.work(negative)
        near, far = distance(a, x), self.far(distance, a, x, y, swap)
        return self.leave(self.costs(near, far, margin), reduction, anchor)

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        """Return the distance of the negative."""
        far = distance(a, y)
        return torch.minimum(far, distance(x, y)) if swap else far

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        """Return the positive distance minus the negative one plus the margin, at least 0."""
        return (near - far + margin).relu()

    def euclidean(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the default distance."""
        return self.norm(x - y + 1e-6, 2.0)

    def norm(self, z: Tensor, p: float) -> Tensor:
        """Return the norm of each row."""
        length: Tensor = torch.linalg.vector_norm(z, p, dim=-1)
        return length


# === wrong ===============================================================================


class SwapIgnored(TripletWithDistance):
    """The distance of the negative is always that from the anchor."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        return super().far(distance, a, x, y, False)


class SwapTakesFarther(TripletWithDistance):
    """With swap, the distance of the negative is the larger one."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        far = distance(a, y)
        return torch.maximum(far, distance(x, y)) if swap else far


class SwappedDetached(TripletWithDistance):
    """With swap, the distance from the positive to the negative has no gradient."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        far = distance(a, y)
        return torch.minimum(far, distance(x, y).detach()) if swap else far


class TripletNotHinged(TripletWithDistance):
    """A triplet beyond the margin has a negative loss."""

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        return near - far + margin


class DistanceIgnored(TripletWithDistance):
    """The distance is always Euclidean."""

    def run(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        distance: Distance,
        margin: float,
        swap: bool,
        reduction: str,
    ) -> Tensor:
        if anchor.ndim == 2:
            distance = self.euclidean
        return super().run(anchor, positive, negative, distance, margin, swap, reduction)


class DistanceInList(torch.nn.Module):
    """The distance is kept in a list, where torch sees no submodule."""

    def __init__(self, distance_function: Distance | None = None, **options: Any) -> None:
        super().__init__()
        self.distances, self.options = [distance_function], options

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        tensors = anchor, positive, negative
        return TripletWithDistance()(*tensors, distance_function=self.distances[0], **self.options)


WRONG = (
    wrong(
        "triplet_margin_with_distance_loss",
        DistanceInList,
        source="LianpoWang/SLIIF#36",
        needs="a distance that is a module",
        surface="class",
    ),
    wrong(TripletWithDistance, SwapIgnored, source="LSM-03, huggingface/transformers#43240"),
    wrong(
        TripletWithDistance,
        SwapTakesFarther,
        source="VAL-07, qubvel/segmentation_models#187",
        needs="swap",
    ),
    wrong(
        TripletWithDistance, SwappedDetached, source="GRD-08, pytorch/pytorch#3876", needs="swap"
    ),
    wrong(TripletWithDistance, TripletNotHinged, source="VAL-09, marlbenchmark/on-policy#47"),
    wrong(
        TripletWithDistance,
        "triplet-softened",
        "The hinge is replaced by a softplus.",
        source="STB-10, huggingface/sentence-transformers#4019",
        needs="any triplet near its margin",
        costs=lambda self, near, far, margin: F.softplus(near - far + margin),
    ),
    wrong(
        TripletWithDistance,
        DistanceIgnored,
        source="LSM-03, huggingface/transformers#43240",
        needs="a distance function",
    ),
    wrong(
        TripletWithDistance,
        "distance-without-epsilon",
        "The default distance adds no epsilon.",
        source="STB-19, meituan/YOLOv6#582",
        needs="anchor equal to positive",
        euclidean=lambda self, x, y: self.norm(x - y, 2.0),
    ),
)


# === right ===============================================================================


class PowerSums(TripletWithDistance):
    """Sums of powers and their roots, with a gradient of 0 where the sum is 0."""

    def norm(self, z: Tensor, p: float) -> Tensor:
        if p == inf:
            return z.abs().amax(-1)
        power = (z.abs() ** p if p != 2 else z * z).sum(-1)
        return torch.where(power > 0, torch.where(power > 0, power, 1) ** (1 / p), 0)


class DistanceMatrix(TripletWithDistance):
    """torch.cdist of one row with another."""

    def norm(self, z: Tensor, p: float) -> Tensor:
        rows = z.reshape(z.shape[:-1].numel(), 1, z.shape[-1])
        mode = "donot_use_mm_for_euclid_dist"
        found = torch.cdist(rows, torch.zeros_like(rows), p, compute_mode=mode)
        return found.reshape(z.shape[:-1])


class StackedDistances(TripletWithDistance):
    """The minimum of stacked distances, and the maximum of 0 and the remaining margin."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        sides = [distance(a, y), distance(x, y)] if swap else [distance(a, y)]
        return torch.stack(sides).amin(0)

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        return torch.maximum(margin + near - far, near.new_zeros(()))


class ModuleOfDistance(torch.nn.Module):
    """A module that stores the distance as an attribute, and calls a composition."""

    def __init__(self, distance_function: Distance | None = None, **options: Any) -> None:
        super().__init__()
        self.distance_function, self.options = distance_function, options

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        tensors = anchor, positive, negative
        return TripletWithDistance()(
            *tensors, distance_function=self.distance_function, **self.options
        )


RIGHT = (
    right(TripletWithDistance, "composite", "Plain torch operations, half precisions in float32."),
    right(TripletWithDistance, PartsInFloat64),
    right(TripletWithDistance, PowerSums),
    right(TripletWithDistance, DistanceMatrix),
    right(TripletWithDistance, StackedDistances),
    right("triplet_margin_with_distance_loss", ModuleOfDistance, surface="class"),
)
