"""Fresh inputs for repeated calls, and the calls themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.execution.call import arguments, constructed, handed
from lossspec.execution.implementation import LossUnderTest

Step = Callable[[], Any]


class Inputs:
    """The tensors of one call, which every arm of a timing cell gets in turn.

    Attributes:
        case: The case of the call.
        tensors: The case's tensors, by name.
        given: The tensors that the call gets, by name.
        bytes: The bytes of the tensors that the call gets.
    """

    def __init__(self, under_test: LossUnderTest, case: Case, device: str) -> None:
        self.case = case
        self.tensors = arguments(under_test, case, device)
        self.given = {
            # A function applied before the call, such as log_softmax, must not be measured.
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
        """Construct an implementation's call on these tensors."""
        given = dict(self.given)
        made = constructed(under_test, self.case, given, {})
        # The parameters of a class share the memory of its tensors, but have their own gradients.
        self._leaves += [
            t for name, t in given.items() if t is not self.given[name] and hasattr(t, "grad")
        ]
        return lambda: made(given)

    def refill(self) -> None:
        """Restore the numbers in place, and clear the gradients."""
        with torch.no_grad():
            for tensor, master in self._masters:
                tensor.copy_(master)
        for leaf in self._leaves:
            leaf.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """Return the gradients that backward has left, in the order of the call."""
        return [leaf.grad.detach().clone() for leaf in self._leaves if leaf.grad is not None]

    def untouched(self) -> bool:
        """Return whether the tensors hold their original numbers; nan equals itself."""
        return all(
            torch.equal(tensor.detach().nan_to_num(), master.nan_to_num())
            for tensor, master in self._masters
        )


def step(call: Step, mode: str) -> Step:
    """Return one step of a timing mode.

    Args:
        call: The call, without arguments.
        mode: "full" for the call and its backward; otherwise the call alone. The cotangent is
            made before the first step.
    """
    if mode != "full":
        return call
    upstream = torch.ones_like(call())

    def full() -> Any:
        value = call()
        value.backward(upstream)
        return value

    return full
