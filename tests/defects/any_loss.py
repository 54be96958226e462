"""Right losses that wrap the torch function of any loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# === right ===============================================================================


# kl_div and cross_entropy of torch accept calls that the contract excludes.
class InFloat64:
    """The torch function in float64, cast back, with gradients through the casts."""

    loss: str

    def __call__(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        """Compute the loss like the function of that name in `torch.nn.functional`."""
        options = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
        target = target.double() if target.is_floating_point() else target
        result: Tensor = getattr(F, self.loss)(input.double(), target, **options)
        return result.to(input.dtype)


# smooth_l1_loss is left out: its backward of an empty mean divides by zero while traced.
class Compiled:
    """The torch function through torch.compile, traced and differentiated ahead of time."""

    loss: str

    def __init__(self) -> None:
        torch._dynamo.reset()
        # With donated buffers compiled code refuses a second backward.
        torch._functorch.config.donated_buffer = False
        self.compiled = torch.compile(getattr(F, self.loss), backend="aot_eager", dynamic=True)

    def __call__(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        """Compute the loss like the function of that name in `torch.nn.functional`."""
        result: Tensor = self.compiled(  # type: ignore[no-untyped-call]
            input, target, **options
        )
        return result
