"""Defects of calls that overlap or change the process, around the torch function of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.numerics import passed


class _Function:
    """The function of torch."""

    loss: str

    def right(self, *tensors: Any, **options: Any) -> Tensor:
        """Compute the loss like the function of that name in `torch.nn.functional`."""
        result: Tensor = getattr(F, self.loss)(*tensors, **options)
        return result


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, memory: Tensor) -> Tensor:
        return memory.copy_(value).detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


class _Scratch:
    """Memory that is kept for each shape and dtype."""

    def __init__(self) -> None:
        self.kept: dict[Any, Tensor] = {}

    def scratch(self, like: Tensor) -> Tensor:
        """Return the memory for tensors of this shape and dtype."""
        key = (like.shape, like.dtype)
        if key not in self.kept:
            self.kept[key] = torch.zeros(like.shape, dtype=like.dtype)
        return self.kept[key]


class ResultInScratch(_Scratch, _Function):
    """The result lies in memory that the next call of its shape and dtype overwrites."""

    def __call__(self, *tensors: Any, **options: Any) -> Tensor:
        value = self.right(*tensors, **options)
        result: Tensor = _Copied.apply(value, self.scratch(value))  # type: ignore[no-untyped-call]
        return result


class GradientInScratch(_Scratch, _Function):
    """The gradient lies in memory that the next backward of its shape and dtype overwrites."""

    def __call__(self, input: Tensor, *tensors: Any, **options: Any) -> Tensor:
        input = passed(input, lambda gradient: self.scratch(gradient).copy_(gradient))
        return self.right(input, *tensors, **options)


class LatestCallOnly(_Function):
    """Backward is right for the latest call only: it reads the scale that this call has left."""

    latest: object = None

    def __call__(self, input: Tensor, *tensors: Any, **options: Any) -> Tensor:
        mine = self.latest = object()
        input = passed(input, lambda gradient: gradient * (1 if self.latest is mine else 2))
        return self.right(input, *tensors, **options)


class OptionsInClass(_Function):
    """The options of the latest call are kept in the class, where another thread changes them."""

    options: ClassVar[dict[str, Any]] = {}

    def __call__(self, *tensors: Any, **options: Any) -> Tensor:
        type(self).options = options
        first, *others = tensors
        return self.right(first, *others, **type(self).options)


class Unversioned(_Function):
    """Backward reads tensors without a gradient through `.data`, which hides in-place changes."""

    def __call__(self, *tensors: Any, **options: Any) -> Tensor:
        options = {name: self.hidden(given) for name, given in options.items()}
        return self.right(*map(self.hidden, tensors), **options)

    def hidden(self, given: Any) -> Any:
        """Return a tensor without its version counter if it needs no gradient."""
        return given.data if isinstance(given, Tensor) and not given.requires_grad else given


class Changing(_Function):
    """A setting of the process is changed and stays so."""

    def __call__(self, *tensors: Any, **options: Any) -> Tensor:
        self.change()
        return self.right(*tensors, **options)

    def change(self) -> None:
        """Change a setting."""
        torch.set_flush_denormal(True)


class LowerPrecision(Changing):
    """The precision of matrix products is lowered and stays so."""

    def change(self) -> None:
        torch.set_float32_matmul_precision("high")


class FlushesSubnormals(Changing):
    """Subnormal numbers are flushed to 0 from the first call on."""


class ReadsUninitialised(_Function):
    """The result is added to uninitialised memory, which deterministic mode fills with nan."""

    def __call__(self, *tensors: Any, **options: Any) -> Tensor:
        value = self.right(*tensors, **options)
        memory = torch.empty_like(value)
        if not torch.are_deterministic_algorithms_enabled():
            memory.zero_()  # stands for memory that happens to hold 0
        return value + memory


def keeps_last(kind: Callable[..., Any]) -> type[torch.nn.Module]:
    """Return a class of torch whose modules keep the tensors of the latest call."""

    class KeepsLast(kind):  # type: ignore[misc, valid-type]
        """The module keeps the tensors of the latest call, which cannot be freed."""

        def forward(self, *tensors: Tensor) -> Any:
            self.__dict__["latest"] = tensors
            return super().forward(*tensors)

    return KeepsLast
