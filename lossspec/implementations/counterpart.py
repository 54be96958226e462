"""The torch counterparts of a loss."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, wraps
from typing import Any

import torch

from lossspec.execution.implementation import LossUnderTest
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface


@cache
def torch_counterpart(loss: Loss, surface: Surface) -> LossUnderTest | None:
    """Return torch's own function or class for a loss, if it has one."""
    from lossspec.implementations import torch_nn

    torchs = torch_nn.functions if surface == "function" else torch_nn.classes
    return next(torchs.losses_under_test(loss), None)


@cache
def composed_counterpart(loss: Loss) -> LossUnderTest | None:
    """Return torch's unreduced function of a loss, followed by a mean or sum of its result."""
    unreduced = torch_counterpart(loss, "function")
    if unreduced is None or not unreduced.takes("reduction"):
        return None
    function = unreduced.target

    @wraps(function)
    def target(*tensors: torch.Tensor, reduction: str = "mean", **options: Any) -> Any:
        each = function(*tensors, reduction="none", **options)
        return each if reduction == "none" else getattr(each, reduction)()

    name = f"the mean or sum of {unreduced.implementation}'s unreduced loss"
    return replace(unreduced, implementation=name, target=target)
