"""A drawn call: its arguments as torch tensors, with the right answer beside them."""

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
    raise NotImplementedError("it stands for a function with every argument, and is not called")


class DrawnCall:
    """A call of a loss as a function, ready for `loss(*call.args, **call.kwargs)`.

    args : the tensors that go by position, some of them with `requires_grad`. kwargs : optional
    tensors, parameters and the reduction. tensors : every tensor by its name, as the leaf whose
    gradient is judged. cotangent : the gradient of the result that a backward starts from.
    case : the same as data. expected : the right answer, which is computed when it is asked for.
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
        """The right value and gradients, with the budget of each number."""
        return Answer(self.loss, self.case)

    @cached_property
    def cotangent(self) -> torch.Tensor:
        """The gradient of the result that a backward starts from, in the shape of the result."""
        return to_torch(self.case.upstream(self.case.reduction), device=self.device)

    def backward(self, result: Any) -> dict[str, torch.Tensor | None]:
        """Go backward from a result with the cotangent, and return the gradients by name.

        A gradient is None where backward left none, which `Answer.check` says is wrong. There is
        no backward, and no gradient, where no tensor requires one.
        """
        if not isinstance(result, torch.Tensor):
            raise ArgumentTypeError(f"result is a torch tensor, got {type(result).__name__}")
        if self.case.requires_grad and result.requires_grad:
            backward_from(result, self.case)
        return self.gradients

    @property
    def gradients(self) -> dict[str, torch.Tensor | None]:
        """What a backward has left in each tensor that requires a gradient."""
        return {name: self.tensors[name].grad for name in self.case.requires_grad}

    def __repr__(self) -> str:
        """Return the call as a person would type it."""
        return call_text(self._under_test, self.case, backward=True)


def _for_a_function(under_test: LossUnderTest, case: Case) -> Case:
    """The case without optional tensors that only the class takes."""
    while (name := unsupported_argument(under_test, case)) is not None:
        changed = without(under_test, case, name)
        assert changed is not None, f"{name} is optional"
        case = changed
    return case
