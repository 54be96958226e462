"""Wrong and right implementations of `gaussian_nll_loss`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    Composition,
    ComputesInFloat32,
    FloatResult,
    InOwnDtype,
    PartsInFloat64,
    ZeroWhenEmpty,
)
from tests.defects.overlap import ReadsUninitialised


def one_axis_of(x: Tensor, y: Tensor) -> bool:
    """Return whether x has the size of y, except for at most one axis of size 1."""
    if x.ndim != y.ndim:
        return False
    other = [size for size, like in zip(x.shape, y.shape, strict=True) if size != like]
    return other in ([], [1])


class Gaussian(Composition):
    """`gaussian_nll_loss`."""

    loss = "gaussian_nll_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        full: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.gaussian_nll_loss`."""
        self.check_reduction(reduction)
        if not isinstance(var, Tensor):
            var = torch.full_like(input, var)
        self.check_variance(var)
        var = self.fitted(var, input)
        self.check_target(target, input)
        x, y, v = self.work(input), self.work(target), self.work(var)
        losses = self.element(x, y, self.bounded(v, eps))
        if full:
            losses = losses + self.constant()
        return self.leave(losses, reduction, input)

    def check_variance(self, var: Tensor) -> None:
        """Check that the variance is not negative."""
        if (var < 0).any():
            raise ValueError("var has negative entry/entries")

    def check_target(self, target: Tensor, input: Tensor) -> None:
        """Check that input and target have one size, except for one axis of size 1 in either."""
        if not (one_axis_of(target, input) or one_axis_of(input, target)):
            raise ValueError(f"target {target.shape} does not fit input {input.shape}")

    def fitted(self, var: Tensor, input: Tensor) -> Tensor:
        """Expand the variance to the input; the last axis may be missing, or one have size 1."""
        if var.shape == input.shape:
            return var
        if var.shape == input.shape[:-1]:
            return var.unsqueeze(-1)
        if one_axis_of(var, input):
            return var
        raise ValueError(f"var {var.shape} does not fit input {input.shape}")

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        """Raise the variance to at least epsilon, without autograd recording it."""
        return v + (v.detach().clamp(min=eps) - v.detach())

    def element(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Return the unreduced loss without its constant."""
        return 0.5 * (v.log() + (x - y) ** 2 / v)

    def constant(self) -> float:
        """Return the constant term of the loss."""
        return 0.5 * math.log(2 * math.pi)


# === wrong ===============================================================================


class OnlyLastAxisBroadcasts(Gaussian):
    """A variance with an axis of size 1 other than the last is refused."""

    def fitted(self, var: Tensor, input: Tensor) -> Tensor:
        right = super().fitted(var, input)
        if right.shape[:-1] != input.shape[:-1]:
            raise ValueError("var is of incorrect size")
        return right


class VarianceMustBeTensor(Gaussian):
    """A variance that is a Python number raises."""

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        full: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
    ) -> Tensor:
        assert isinstance(var, Tensor)
        return super().__call__(input, target, var, full, eps, reduction)


WRONG = (
    wrong(Gaussian, ZeroWhenEmpty, source="EMP-04, pytorch/pytorch#144104", needs="no elements"),
    wrong(Gaussian, FloatResult, source="DTY-08, pytorch/pytorch#176844", needs="not float32"),
    wrong(Gaussian, ComputesInFloat32, source="DTY-03, pytorch/pytorch#64163", needs="float64"),
    wrong(
        Gaussian,
        "summed-over-last",
        "Without a reduction the last axis is summed.",
        source="SHP-08, pytorch/pytorch#56469",
        needs="no reduction, two axes",
        reduce=lambda self, losses, reduction: (
            losses.sum(-1)
            if reduction == "none" and losses.ndim > 1
            else Gaussian.reduce(self, losses, reduction)
        ),
    ),
    wrong(
        Gaussian,
        OnlyLastAxisBroadcasts,
        source="SHP-09, pytorch/pytorch#147521",
        needs="a variance for all channels",
    ),
    wrong(
        Gaussian,
        "variance-transposed",
        "A variance for each sample is used for each feature if their counts are equal.",
        source="SHP-11, pytorch/pytorch#53392",
        needs="as many samples as features, and a variance for each sample",
        fitted=lambda self, var, input: (
            var
            if var.ndim == 1 and input.ndim == 2 and var.shape[0] == input.shape[1]
            else Gaussian.fitted(self, var, input)
        ),
    ),
    wrong(
        Gaussian,
        VarianceMustBeTensor,
        source="ERR-16, pytorch/pytorch#149131",
        needs="a number for the variance",
    ),
    wrong(
        Gaussian,
        "clamp-seen-by-autograd",
        "A variance below epsilon gets no gradient.",
        source="GRD-17, paiml/aprender#2188",
        needs="a variance below epsilon",
        bounded=lambda self, v, eps: torch.where(v < eps, eps, v),
    ),
    wrong(
        Gaussian,
        "variance-not-bounded",
        "Epsilon has no effect.",
        source="STB-11, pytorch/pytorch#3336",
        needs="a variance below epsilon",
        bounded=lambda self, v, eps: v,
    ),
    wrong(
        Gaussian,
        "epsilon-plus-variance",
        "Epsilon is added to the variance.",
        source="EMP-12, KevinMusgrave/pytorch-metric-learning#98",
        needs="an epsilon",
        bounded=lambda self, v, eps: v + eps,
    ),
    wrong(
        Gaussian,
        "constant-dropped",
        "The constant is never added.",
        source="VAL-01, pytorch/pytorch#28575",
        needs="full",
        constant=lambda self: 0.0,
    ),
    wrong(
        Gaussian,
        "constant-twice",
        "The constant is log 2π instead of half of it.",
        source="VAL-01, pytorch/pytorch#28575",
        needs="full",
        constant=lambda self: math.log(2 * math.pi),
    ),
    wrong(
        Gaussian,
        "variance-unchecked",
        "A negative variance counts as epsilon.",
        source="CMP-02, pytorch/pytorch#194501",
        needs="a variance below 0",
        check_variance=lambda self, var: None,
    ),
    wrong(
        Gaussian,
        ReadsUninitialised,
        source="IGN-01, pytorch/pytorch#20406",
        needs="deterministic algorithms",
    ),
)


# === right ===============================================================================


class ClampedInPlace(Gaussian):
    """A clone of the variance, clamped in place without autograd recording it."""

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        v = v.clone()
        with torch.no_grad():
            v.clamp_(min=eps)
        return v


class StandardScore(Gaussian):
    """The square of the standard score (x - y) / σ, and the logarithm of σ."""

    def element(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        deviation = v.sqrt()
        return deviation.log() + 0.5 * ((x - y) / deviation) ** 2


RIGHT = (
    right(Gaussian, "composite", "Plain torch operations, half precisions in float32."),
    right(Gaussian, PartsInFloat64),
    right(Gaussian, InOwnDtype),
    right(Gaussian, ClampedInPlace),
    right(Gaussian, StandardScore),
)
