"""Fresh inputs for repeated calls, and the calls themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.execution.call import arguments, constructed, handed
from lossspec.execution.implementation import LossUnderTest
from lossspec.spec.loss import Loss

Step = Callable[[], Any]


class Inputs:
    """The tensors of one call, which every arm is handed in turn, and how to make them fresh."""

    def __init__(self, loss: Loss, case: Case, device: str, under_test: LossUnderTest) -> None:
        self.case = case
        self.tensors = arguments(under_test, case, device)
        self.given = {
            # What is computed on the way to the call (a log-softmax, say) is no part of it.
            name: value
            if value is self.tensors[name]
            else value.detach().requires_grad_(value.requires_grad)
            for name, value in handed(under_test, case, self.tensors).items()
        }
        plain = [t for t in self.given.values() if isinstance(t, torch.Tensor)]
        self._masters = [(tensor, tensor.detach().clone()) for tensor in plain]
        self._leaves: list[torch.Tensor] = list(plain)
        self.bytes = sum(tensor.nbytes for tensor in plain)

    def call(self, under_test: LossUnderTest) -> Step:
        """the implementation's call on these tensors, constructed."""
        given = dict(self.given)
        made = constructed(under_test, self.case, given, {})
        # A class keeps some of them as its parameters, in the same memory.
        self._leaves += [
            t for name, t in given.items() if t is not self.given[name] and hasattr(t, "grad")
        ]
        return lambda: made(given)

    def refill(self) -> None:
        """As they were: the same numbers in the same place, and no gradient."""
        with torch.no_grad():
            for tensor, master in self._masters:
                tensor.copy_(master)
        for leaf in self._leaves:
            leaf.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """What backward left, in the order of the call."""
        return [leaf.grad.detach().clone() for leaf in self._leaves if leaf.grad is not None]

    def untouched(self) -> bool:
        """Whether they hold what they were filled with; nan equals itself."""
        return all(
            torch.equal(tensor.detach().nan_to_num(), master.nan_to_num())
            for tensor, master in self._masters
        )


def step(call: Step, mode: str) -> Step:
    """One step of a mode; the gradient that a backward starts from is made beforehand."""
    if mode != "full":
        return call
    upstream = torch.ones_like(call())

    def full() -> Any:
        value = call()
        value.backward(upstream)
        return value

    return full
