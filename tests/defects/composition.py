"""The steps that most losses share, and what several losses get wrong or do otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossspec.baselines.reduction import wide
from tests.defects.numerics import REDUCTIONS, passed


class Composition:
    """Check, compute the losses, reduce, cast: each a method of its own."""

    loss = ""

    def work(self, x: Tensor) -> Tensor:
        """The same numbers in the dtype to compute in."""
        return wide(x)

    def check_reduction(self, reduction: str) -> None:
        """Only known names."""
        if reduction not in REDUCTIONS:
            raise ValueError(f"{reduction} is not a valid value for reduction")

    def check_sizes(self, *tensors: Tensor) -> None:
        """All the same."""
        if any(tensor.shape != tensors[0].shape for tensor in tensors):
            raise ValueError(f"sizes differ: {[list(tensor.shape) for tensor in tensors]}")

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        """Reduced, in the dtype of the input."""
        return self.reduce(losses, reduction).to(like.dtype)

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        """Under the reduction."""
        if reduction == "none":
            return losses
        total = wide(losses).sum()
        return total / self.divisor(losses) if reduction == "mean" else total

    def divisor(self, losses: Tensor) -> Tensor:
        """What the mean divides by; a tensor, since nothing by nothing is nan."""
        return wide(losses).new_tensor(float(losses.numel()))


# === wrong ===============================================================================


class MeanSumsInHalf(Composition):
    """The mean sums in the dtype of the inputs, which overflows in float16."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        if reduction != "mean":
            return super().leave(losses, reduction, like)
        return (losses.to(like.dtype).sum() / self.divisor(losses)).to(like.dtype)


class UnknownReductionIsNone(Composition):
    """A reduction of an unknown name returns the unreduced loss."""

    def check_reduction(self, reduction: str) -> None:
        pass

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        return super().reduce(losses, reduction if reduction in REDUCTIONS else "none")


class ZeroWhenEmpty(Composition):
    """The mean of nothing is 0, not nan."""

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses).clamp(min=1)


class RaisesWhenEmpty(Composition):
    """Nothing to sum is an error."""

    def check_sizes(self, *tensors: Tensor) -> None:
        super().check_sizes(*tensors)
        if not tensors[0].numel():
            raise RuntimeError("expected a non-empty tensor")


class UpstreamIgnored(Composition):
    """Backward takes the upstream gradient for 1."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return passed(super().leave(losses, reduction, like), torch.ones_like)


class UpstreamOfFirstRow(Composition):
    """Without a reduction backward multiplies each row by the first upstream gradient."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        def first(grad: Tensor) -> Tensor:
            return grad.flatten()[0].expand_as(grad) if grad.numel() else grad

        return passed(super().leave(losses, reduction, like), first)


class FloatResult(Composition):
    """The result is float32, whatever the inputs are."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return super().leave(losses, reduction, like).float()


class ComputesInFloat32(Composition):
    """Everything is computed in float32, float64 too."""

    def work(self, x: Tensor) -> Tensor:
        return x.float()


class ComputesInHalf(Composition):
    """Half precisions are computed in themselves, step by step."""

    def work(self, x: Tensor) -> Tensor:
        return x

    def norm(self, z: Tensor, p: float) -> Tensor:
        power: Tensor = (z.abs() ** p).sum(-1)
        return torch.where(power > 0, torch.where(power > 0, power, 1) ** (1 / p), 0)

    def length(self, a: Tensor) -> Tensor:
        return self.norm(a, 2)


class Noisy(Composition):
    """Each call adds another rounding error."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        result = super().reduce(losses, reduction)
        return result * (1 + 1e-7 * torch.rand_like(result))


def taken(loss: Any, *tensors: Tensor) -> Tensor:
    """Whether a call is accepted."""
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


# A length in float16 is beyond the largest number where its square is.
class InOwnDtype(Composition):
    """Elements in the dtype of the inputs, as written in the textbook; only the sum is wider."""

    def work(self, x: Tensor) -> Tensor:
        return x
