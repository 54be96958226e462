"""A drawn call: its arguments as torch tensors, and its right answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.errors import ArgumentTypeError
from lossspec.execution.call import Call, arguments, unsupported_argument, without
from lossspec.execution.call_text import call_text
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import backward_from
from lossspec.execution.tensors import to_torch
from lossspec.expectation.answer import Answer
from lossspec.spec.loss import Loss


def _takes_anything(*tensors: Any, **keywords: Any) -> Any:
    raise NotImplementedError("only the signature of this function is used; do not call it")


class DrawnCall:
    """A call of a loss as a function, ready for `loss(*call.args, **call.kwargs)`.

    Attributes:
        loss: The spec of the loss.
        case: The call as data.
        device: The device of the tensors.
        tensors: Every tensor by name; those that require a gradient are leaves.
        args: The tensors that are passed by position.
        kwargs: Optional tensors, parameters and the reduction.
    """

    def __init__(self, loss: Loss, case: Case, device: str = "cpu") -> None:
        under_test = LossUnderTest("torch", loss, "function", _takes_anything)
        self.case = _for_a_function(under_test, case)
        self.loss, self.device, self._under_test = loss, device, under_test
        self.tensors: Mapping[str, Any] = arguments(under_test, self.case, device)
        call = Call.of(under_test, self.case)
        handed = call.handed(self.tensors)
        self.args = tuple(handed[one.name] for one in call.positional)
        self.kwargs = call.meant_keywords(self.tensors)

    @cached_property
    def expected(self) -> Answer:
        """The right value and gradients with their budgets, computed when they are read."""
        return Answer(self.loss, self.case)

    @cached_property
    def cotangent(self) -> torch.Tensor:
        """The gradient that `backward` receives for the result, in the shape of the result."""
        return to_torch(self.case.upstream(self.case.reduction), device=self.device)

    def backward(self, result: Any) -> dict[str, torch.Tensor | None]:
        """Go backward from a result with the cotangent, and return the gradients.

        Nothing happens if no tensor requires a gradient.

        Args:
            result: The value that the implementation returned.

        Returns:
            The gradient of each tensor that requires one, by name. It is None if backward left
            none, which `Answer.check` reports as wrong.

        Raises:
            ArgumentTypeError: The result is not a tensor.
        """
        if not isinstance(result, torch.Tensor):
            raise ArgumentTypeError(f"result must be a torch tensor, got {type(result).__name__}")
        if self.case.requires_grad and result.requires_grad:
            backward_from(result, self.case)
        return self.gradients

    @property
    def gradients(self) -> dict[str, torch.Tensor | None]:
        """The gradient of each tensor that requires one, by name; None before backward."""
        return {name: self.tensors[name].grad for name in self.case.requires_grad}

    def __repr__(self) -> str:
        """Return the call as a person would type it."""
        return call_text(self._under_test, self.case, backward=True)


def _for_a_function(under_test: LossUnderTest, case: Case) -> Case:
    """Return the case without optional tensors that only the class takes."""
    while (name := unsupported_argument(under_test, case)) is not None:
        changed = without(under_test, case, name)
        assert changed is not None, f"{name} is optional"
        case = changed
    return case
