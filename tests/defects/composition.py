"""The steps of most losses, and the defects and reformulations that several losses share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossspec.baselines.reduction import wide
from tests.defects.numerics import REDUCTIONS, passed


class Composition:
    """Check, compute the losses, reduce, cast: each step is a method."""

    loss = ""

    def work(self, x: Tensor) -> Tensor:
        """Return the tensor in the dtype of the computation."""
        return wide(x)

    def check_reduction(self, reduction: str) -> None:
        """Check that the reduction has a known name."""
        if reduction not in REDUCTIONS:
            raise ValueError(f"{reduction} is not a valid value for reduction")

    def check_sizes(self, *tensors: Tensor) -> None:
        """Check that all tensors have one size."""
        if any(tensor.shape != tensors[0].shape for tensor in tensors):
            raise ValueError(f"sizes differ: {[list(tensor.shape) for tensor in tensors]}")

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        """Return the reduced loss in the dtype of the input."""
        return self.reduce(losses, reduction).to(like.dtype)

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        """Apply the reduction."""
        if reduction == "none":
            return losses
        total = wide(losses).sum()
        return total / self.divisor(losses) if reduction == "mean" else total

    def divisor(self, losses: Tensor) -> Tensor:
        """Return the divisor of the mean, as a tensor, because 0 / 0 raises for Python numbers."""
        return wide(losses).new_tensor(float(losses.numel()))


# === wrong ===============================================================================


class MeanSumsInHalf(Composition):
    """The mean sums in the dtype of the inputs, which overflows in float16."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        if reduction != "mean":
            return super().leave(losses, reduction, like)
        return (losses.to(like.dtype).sum() / self.divisor(losses)).to(like.dtype)


class UnknownReductionIsNone(Composition):
    """A reduction with an unknown name returns the unreduced loss."""

    def check_reduction(self, reduction: str) -> None:
        pass

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        return super().reduce(losses, reduction if reduction in REDUCTIONS else "none")


class ZeroWhenEmpty(Composition):
    """The mean of an empty input is 0 instead of nan."""

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses).clamp(min=1)


class RaisesWhenEmpty(Composition):
    """An empty input raises."""

    def check_sizes(self, *tensors: Tensor) -> None:
        super().check_sizes(*tensors)
        if not tensors[0].numel():
            raise RuntimeError("expected a non-empty tensor")


class UpstreamIgnored(Composition):
    """Backward treats the cotangent as 1."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return passed(super().leave(losses, reduction, like), torch.ones_like)


class UpstreamOfFirstRow(Composition):
    """Without a reduction, backward multiplies each row by the first element of the cotangent."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        def first(grad: Tensor) -> Tensor:
            return grad.flatten()[0].expand_as(grad) if grad.numel() else grad

        return passed(super().leave(losses, reduction, like), first)


class FloatResult(Composition):
    """The result is float32 for every dtype of the inputs."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return super().leave(losses, reduction, like).float()


class ComputesInFloat32(Composition):
    """Everything is computed in float32, even for float64 inputs."""

    def work(self, x: Tensor) -> Tensor:
        return x.float()


class ComputesInHalf(Composition):
    """Half precisions are computed without a wider dtype, rounded at each step."""

    def work(self, x: Tensor) -> Tensor:
        return x

    def norm(self, z: Tensor, p: float) -> Tensor:
        power: Tensor = (z.abs() ** p).sum(-1)
        return torch.where(power > 0, torch.where(power > 0, power, 1) ** (1 / p), 0)

    def length(self, a: Tensor) -> Tensor:
        return self.norm(a, 2)


class Noisy(Composition):
    """Each call has another rounding error."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        result = super().reduce(losses, reduction)
        return result * (1 + 1e-7 * torch.rand_like(result))


def taken(loss: Any, *tensors: Tensor) -> Tensor:
    """Return whether a call is accepted."""
    try:
        loss(*tensors)
    except ValueError:
        return torch.tensor(False)
    return torch.tensor(True)


class SizesUnchecked(Composition):
    """Inputs of different sizes broadcast without a warning."""

    def check_sizes(self, *tensors: Tensor) -> None:
        pass


# === right ===============================================================================


class PartsInFloat64(Composition):
    """Plain torch operations in float64, cast back."""

    def work(self, x: Tensor) -> Tensor:
        return x.double()


# The square of a length overflows in float16.
class InOwnDtype(Composition):
    """The textbook formula in the dtype of the inputs; only the sum is wider."""

    def work(self, x: Tensor) -> Tensor:
        return x
