"""Elementwise losses in parts, and the defects and reformulations that several of them share."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.numerics import REDUCTIONS, passed, together

#: The number of blocks of rows; the last one is usually shorter.
BLOCKS = 5


@dataclass
class Elements:
    """A call of an elementwise loss: x and y in the working dtype, all else as given."""

    input: Tensor
    target: Tensor
    weight: Tensor | None
    reduction: str
    parameter: Any = None
    pos_weight: Tensor | None = None

    def __post_init__(self) -> None:
        self.x, self.y = wide(self.input), wide(self.target)
        self.w = None if self.weight is None else wide(self.weight)

    @property
    def residual(self) -> Tensor:
        """Return the input minus the target."""
        return self.x - self.y


class Elementwise:
    """Check, compute the elements, reduce, cast: each step is a method."""

    loss = ""
    reductions: tuple[str, ...] = REDUCTIONS

    def run(self, c: Elements) -> Tensor:
        """Return the loss of a call."""
        self.check(c)
        return self.leave(c, self.reduce(c, self.weighted(c, self.element(c))))

    def check(self, c: Elements) -> None:
        """Raise for calls for which torch raises, and warn where torch warns."""
        self.check_reduction(c)
        self.check_shapes(c)
        self.check_parameter(c)

    def check_reduction(self, c: Elements) -> None:
        """Check that the reduction has a known name."""
        if c.reduction not in self.reductions:
            raise ValueError(f"{c.reduction} is not a valid value for reduction")

    def check_shapes(self, c: Elements) -> None:
        """Warn about sizes that broadcast; check that a weight has the size of the input."""
        if c.input.shape != c.target.shape:
            warnings.warn(f"sizes {c.input.shape}, {c.target.shape} broadcast", stacklevel=4)
        if c.weight is not None and c.weight.shape != c.input.shape:
            raise ValueError("weight and input must have the same size")

    def check_parameter(self, c: Elements) -> None:
        """Check nothing."""

    def element(self, c: Elements) -> Tensor:
        """Return the unreduced, unweighted loss."""
        raise NotImplementedError

    def weighted(self, c: Elements, losses: Tensor) -> Tensor:
        """Multiply each element by its weight."""
        return losses if c.w is None else losses * c.w

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        """Apply the reduction of the call."""
        if c.reduction == "none":
            return losses
        if c.reduction == "sum":
            return losses.sum()
        return losses.sum() / self.divisor(c, losses)

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        """Return the divisor of the mean."""
        # A tensor, because 0 / 0 is nan in torch and an error in Python.
        return losses.new_tensor(float(losses.numel()))

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """Cast the result to the dtype of the inputs."""
        return result.to(torch.result_type(c.input, c.target))


# === wrong ===============================================================================


class ThresholdNeedsTargetGradient(Elementwise):
    """The threshold is used only if the target requires a gradient; otherwise it is 1."""

    def element(self, c: Elements) -> Tensor:
        c.parameter = c.parameter if c.target.requires_grad else 1.0
        return super().element(c)


class WeightedMeanOverCount(Elementwise):
    """The weighted mean divides by the number of elements instead of the sum of the weights."""

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        return losses.new_tensor(float(losses.numel()))


class MeanSumsInHalf(Elementwise):
    """The mean sums in the dtype of the inputs, which overflows in float16."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.reduction != "mean":
            return super().reduce(c, losses)
        return losses.to(c.input.dtype).sum() / self.divisor(c, losses)


class UpstreamIgnored(Elementwise):
    """Backward ignores the cotangent."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        return passed(super().leave(c, result), torch.ones_like)


class ZerosForTarget(Elementwise):
    """The gradient of the target is 0."""

    def run(self, c: Elements) -> Tensor:
        c.y = passed(c.y, torch.zeros_like)
        return super().run(c)


class MixedDtypesFailBackward(Elementwise):
    """Backward raises if input and target differ in dtype."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        def checked(grad: Tensor) -> Tensor:
            if c.input.dtype != c.target.dtype:
                raise RuntimeError(f"found dtype {c.target.dtype} but expected {c.input.dtype}")
            return grad

        return passed(super().leave(c, result), checked)


class UnknownReductionIsNone(Elementwise):
    """A reduction with an unknown name returns the unreduced loss."""

    def check_reduction(self, c: Elements) -> None:
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


class ThresholdUnchecked(Elementwise):
    """A threshold out of range is accepted instead of raising."""

    def check_parameter(self, c: Elements) -> None:
        pass


class SilentBroadcast(Elementwise):
    """An input of shape (N, 1) and a target of shape (N) broadcast without a warning."""

    def check_shapes(self, c: Elements) -> None:
        pass


# === right ===============================================================================


class InOwnDtype(Elementwise):
    """The textbook formula in the dtype of the inputs; only the sum is wider."""

    def run(self, c: Elements) -> Tensor:
        c.x, c.y, c.w = c.input, c.target, c.weight
        return super().run(c)

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.w is not None:
            c.w = wide(c.w)
        return super().reduce(c, wide(losses))


class InBlocks(Elementwise):
    """Rows in five blocks, concatenated afterwards."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        if not x.ndim:
            return super().element(c)
        factor = None if c.pos_weight is None else c.pos_weight.expand(x.shape)
        parts = []
        rows = 1 + x.shape[0] // BLOCKS
        for i in range(0, max(1, x.shape[0]), rows):
            part = copy.copy(c)
            part.x, part.y = x[i : i + rows], y[i : i + rows]
            part.pos_weight = None if factor is None else factor[i : i + rows]
            parts.append(super().element(part))
        return torch.cat(parts)


class Flattened(Elementwise):
    """All axes flattened into one and restored afterwards."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        flat = copy.copy(c)
        flat.x, flat.y = x.reshape(-1), y.reshape(-1)
        if c.pos_weight is not None:
            flat.pos_weight = c.pos_weight.expand(x.shape).reshape(-1)
        return super().element(flat).reshape(x.shape)


class _WithSlopes(torch.autograd.Function):
    """The value of some elements, with derivatives that can be differentiated themselves."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, slopes: Callable[..., tuple[Tensor, Tensor]], *xy: Tensor
    ) -> Tensor:
        ctx.slopes = slopes
        ctx.save_for_backward(*xy)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        by_x, by_y = ctx.slopes(*ctx.saved_tensors)
        return None, None, grads[0] * by_x, grads[0] * by_y


class AnalyticGradient(Elementwise):
    """An autograd.Function with the gradient written by hand."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        kept = copy.copy(c)
        if c.pos_weight is not None:  # backward needs it as it is now
            kept.pos_weight = c.pos_weight.detach().clone()

        def at(x: Tensor, y: Tensor) -> Elements:
            part = copy.copy(kept)
            part.x, part.y = x, y
            return part

        value = super().element(at(x.detach(), y.detach()))
        result: Tensor = _WithSlopes.apply(  # type: ignore[no-untyped-call]
            value, lambda x, y: self.slopes(at(x, y)), x, y
        )
        return result

    def slopes(self, c: Elements) -> tuple[Tensor, Tensor]:
        """Return the derivatives by x and by y."""
        if self.loss == "kl_div":
            if c.parameter:
                return -c.y.exp(), c.y.exp() * (c.y - c.x + 1)
            return -c.y, c.y.log() + 1 - c.x
        if self.loss == "binary_cross_entropy_with_logits":
            p = 1 if c.pos_weight is None else wide(c.pos_weight)
            by_x = (1 - c.y) * c.x.sigmoid() - p * c.y * (-c.x).sigmoid()
            return by_x, (1 - p) * F.logsigmoid(c.x) - c.x
        by_x = self.slope(c, c.residual)
        return by_x, -by_x

    def slope(self, c: Elements, r: Tensor) -> Tensor:
        """Return the derivative by the residual."""
        match self.loss:
            case "l1_loss":
                return r.sign()
            case "mse_loss":
                return 2 * r
            case "huber_loss":
                return r.clamp(-c.parameter, c.parameter)
        return r.sign() if c.parameter == 0 else (r / c.parameter).clamp(-1, 1)


class EachByVmap(Elementwise):
    """torch.func.vmap over the rows."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        if not x.ndim or not x.shape[0]:
            return super().element(c)
        factor = torch.ones_like(x) if c.pos_weight is None else c.pos_weight.expand(x.shape)

        def row(x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
            part = copy.copy(c)
            part.x, part.y, part.pos_weight = x, y, factor
            return super(EachByVmap, self).element(part)

        result: Tensor = torch.func.vmap(row)(x, y, factor)
        return result
