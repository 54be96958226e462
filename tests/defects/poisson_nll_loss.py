"""Wrong and right implementations of `poisson_nll_loss`."""

from __future__ import annotations

import math
from typing import Any

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
from tests.defects.numerics import passed


class Poisson(Composition):
    """`poisson_nll_loss`."""

    loss = "poisson_nll_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.poisson_nll_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        x, y = self.work(input), self.work(target)
        losses = self.of_log_rate(x, y) if log_input else self.of_rate(x, y, eps)
        if full:
            losses = losses + self.log_factorial(y)
        return self.leave(losses, reduction, input)

    def of_log_rate(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss if the input is the logarithm of the rate."""
        return x.exp() - y * x

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Return the loss if the input is the rate."""
        return x - y * (x + eps).log()

    def log_factorial(self, y: Tensor) -> Tensor:
        """Return Stirling's approximation above 1, and 0 elsewhere."""
        many = torch.where(y > 1, y, 2)
        return torch.where(y > 1, self.stirling(many), 0)

    def stirling(self, y: Tensor) -> Tensor:
        """Return Stirling's approximation of the logarithm of a factorial."""
        return y * y.log() - y + 0.5 * (2 * math.pi * y).log()


class StirlingInTargetDtype(Poisson):
    """Stirling's approximation is converted to the dtype of the target, which may be integer."""

    def __call__(self, input: Tensor, target: Tensor, *options: Any, **more: Any) -> Tensor:
        self.counts = target.dtype
        return super().__call__(input, target, *options, **more)

    def log_factorial(self, y: Tensor) -> Tensor:
        found = super().log_factorial(y)
        return found if self.counts.is_floating_point else found.to(self.counts).to(found.dtype)


# === wrong ===============================================================================


class StirlingMaskedByItself(Poisson):
    """Stirling's approximation is added where it is above 1 instead of where the target is."""

    def log_factorial(self, y: Tensor) -> Tensor:
        right = self.stirling(torch.where(y > 0, y, 1))
        return torch.where((y > 0) & (right > 1), right, 0)


WRONG = (
    wrong(
        Poisson,
        MeanSumsInHalf,
        source="AUT-03, huggingface/transformers#25938",
        needs="float16, and a sum above its largest number",
    ),
    wrong(
        Poisson,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="an unknown reduction",
    ),
    wrong(
        Poisson,
        "none-scales-gradient",
        "Without a reduction the gradient is divided by the number of elements.",
        source="RED-15, ROCm/TransformerEngine#336",
        needs="no reduction, and more than one element",
        reduce=lambda self, losses, reduction: (
            passed(losses, lambda grad: grad / max(1, grad.numel()))
            if reduction == "none"
            else Poisson.reduce(self, losses, reduction)
        ),
    ),
    wrong(
        Poisson,
        "stirling-dropped",
        "Stirling's approximation is never added.",
        source="VAL-01, pytorch/pytorch#28575",
        needs="full, and a target above 1",
        log_factorial=lambda self, y: torch.zeros_like(y),
    ),
    wrong(
        Poisson,
        StirlingMaskedByItself,
        source="VAL-02, PaddlePaddle/Paddle#56733",
        needs="full, a target around 1",
    ),
    wrong(
        Poisson,
        "stirling-unmasked",
        "Stirling's approximation is also added for targets up to 1, except 0.",
        source="VAL-02, PaddlePaddle/Paddle#56733",
        needs="full, a target below 1",
        log_factorial=lambda self, y: torch.where(
            y > 0, self.stirling(torch.where(y > 0, y, 1)), 0
        ),
    ),
    wrong(
        Poisson,
        "stirling-masked-by-factor",
        "Stirling's approximation is multiplied by the mask, which gives nan for a target of 0.",
        source="IGN-07, pytorch/pytorch#192685",
        needs="full, a target of 0",
        log_factorial=lambda self, y: self.stirling(y) * (y > 1),
    ),
    wrong(
        Poisson,
        "stirling-in-float32",
        "Stirling's approximation is computed in float32.",
        source="CMP-05, pytorch/pytorch#170745",
        needs="full, and float64",
        stirling=lambda self, y: Poisson.stirling(self, y.float()).to(y.dtype),
    ),
    wrong(
        Poisson,
        StirlingInTargetDtype,
        source="CMP-05, pytorch/pytorch#170745",
        needs="full, and an integer target",
    ),
    wrong(
        Poisson,
        "epsilon-forgotten",
        "The logarithm of the rate is taken without epsilon.",
        source="STB-11, pytorch/pytorch#3336",
        needs="a rate of 0",
        of_rate=lambda self, x, y, eps: x - y * x.log(),
    ),
    wrong(
        Poisson,
        "epsilon-fixed",
        "Epsilon is always 1e-8.",
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="another epsilon",
        of_rate=lambda self, x, y, eps: Poisson.of_rate(self, x, y, 1e-8),
    ),
    wrong(
        Poisson,
        "always-logarithm",
        "log_input has no effect: the input is always used as a logarithm.",
        source="LSM-03, huggingface/transformers#43240",
        needs="log_input=False",
        of_rate=lambda self, x, y, eps: self.of_log_rate(x, y),
    ),
    wrong(
        Poisson,
        "target-of-rate-detached",
        "For a rate, the gradient of the target is only that of Stirling's approximation.",
        source="GRD-08, pytorch/pytorch#3876",
        needs="a target with a gradient",
        of_rate=lambda self, x, y, eps: Poisson.of_rate(self, x, y.detach(), eps),
    ),
)


# === right ===============================================================================


class StirlingByIndex(Poisson):
    """Stirling's approximation only for targets above 1, written by index."""

    def log_factorial(self, y: Tensor) -> Tensor:
        many = y > 1
        return torch.zeros_like(y).masked_scatter(many, self.stirling(y[many]))


RIGHT = (
    right(Poisson, "composite", "Plain torch operations, half precisions in float32."),
    right(Poisson, PartsInFloat64),
    right(Poisson, InOwnDtype),
    right(
        Poisson,
        "logarithms-by-xlogy",
        "torch.xlogy for y log x, in the rate as in Stirling's approximation.",
        of_rate=lambda self, x, y, eps: x - torch.xlogy(y, x + eps),
        stirling=lambda self, y: (
            torch.xlogy(y, y) - y + 0.5 * y.log() + 0.5 * math.log(2 * math.pi)
        ),
    ),
    right(Poisson, StirlingByIndex),
)
