"""Tensor operations that several right and wrong losses are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")


class _Passed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.change = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.change(grads[0]), None


def passed(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the tensor itself; its gradient passes through `change` in backward."""
    result: Tensor = _Passed.apply(x, change)  # type: ignore[no-untyped-call]
    return result


def dense_reading(x: Tensor) -> Tensor:
    """Return what a kernel reads that assumes a contiguous tensor, within its storage."""
    end = x.storage_offset() + x.numel()
    if x.untyped_storage().nbytes() // x.element_size() < end:
        return x
    return x.as_strided(x.shape, torch.empty(x.shape).stride())


def shares_memory(x: Tensor) -> bool:
    """Return whether two elements share memory, which rules out writing."""
    return any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True))


def together(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Expand two tensors to their common broadcast shape."""
    x, y = torch.broadcast_tensors(x, y)  # type: ignore[no-untyped-call]
    return x, y


def serial_sum(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a running sum that is rounded to a dtype at each step, with the gradient of a sum."""
    total = torch.zeros((), dtype=dtype)
    for value in x.detach().to(dtype).flatten():
        total = total + value
    exact = x.sum()
    return exact + (total - exact).detach()


def first_gradient(loss: Any, *tensors: Tensor, **parameters: Any) -> Tensor:
    """Return the gradient of the sum by the first tensor."""
    x = tensors[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, *tensors[1:], reduction="sum", **parameters), x)
    return gradient


def second_gradient(loss: Any, *tensors: Tensor) -> Tensor:
    """Return the gradient of the sum of that gradient; raise a RuntimeError without one."""
    x = tensors[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(x, *tensors[1:], reduction="sum"), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return second


def with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """Return the value of one tensor with the gradient of another."""
    return value.detach() + (other - other.detach())
