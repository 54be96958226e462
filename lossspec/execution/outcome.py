"""Run one call of an implementation, and keep all that came of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeGuard

import torch

from lossspec.cases.case import Case
from lossspec.execution.call import Call, arguments
from lossspec.execution.checkpoint import under_way
from lossspec.execution.global_state import Changed, preserved
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.layouts import same_bits, without_numbers
from lossspec.execution.tensors import to_torch
from lossspec.execution.timeout import STOPS
from lossspec.thresholds import RESULT_NUMBERS

Phase = Literal["construct", "call", "backward"]


@dataclass
class Outcome:
    """What came of a call: a value and gradients, or an error and the phase that raised it.

    inputs : the tensors that were handed over, after the call. before : copies from before it.
    gradients : of the tensors that required one; None where backward left none. written : the
    gradient from upstream after backward and before it, where that has written to it. changed :
    torch's switches that were not left as they were, which they are again.
    """

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    value: Any = None
    gradients: dict[str, torch.Tensor | None] = field(default_factory=dict)
    error: BaseException | None = None
    phase: Phase = "construct"
    written: tuple[torch.Tensor, torch.Tensor] | None = None
    #: Whether the value has a wrong shape and so many elements that nothing but its shape is asked.
    oversized: bool = False
    warnings: list[str] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)

    @property
    def returned(self) -> bool:
        """Whether the call gave a value (its backward may still have failed)."""
        return self.error is None or self.phase == "backward"

    def keep(self, tensors: Mapping[str, Any]) -> None:
        """Take note of what is handed over, before it is."""
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and self.inputs.get(name) is not tensor:
                self.inputs[name] = tensor
                self.before[name] = tensor.detach().clone()

    def touched(self) -> list[str]:
        """Inputs that no longer hold the bits they were handed over with."""
        return [
            name
            for name, tensor in self.inputs.items()
            if not same_bits(tensor.detach(), self.before[name])
        ]


def perform(
    under_test: LossUnderTest,
    case: Case,
    device: str = "cpu",
    *,
    backward: bool = True,
    replaced: Mapping[str, Any] | None = None,
) -> Outcome:
    """Construct, call and go backward, catching whatever the implementation raises.

    replaced : arguments (tensors, parameters, reduction) to pass instead of the case's own.
    """
    tensors = arguments(under_test, case, device)
    if replaced:
        under_way(case, replaced)
        tensors |= {name: replaced[name] for name in replaced if name in tensors}
    outcome = Outcome()
    outcome.keep(tensors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with preserved(outcome.changed):
                call = Call.of(under_test, case, replaced)
                constructed = call.constructed(tensors)
                given = call.handed(tensors)
                outcome.keep(given)
                outcome.phase = "call"
                outcome.value = dense(constructed(given))
            outcome.phase = "backward"
            outcome.oversized = oversized(outcome.value, case)
            if backward and not outcome.oversized and differentiable(outcome.value):
                with preserved(outcome.changed):
                    outcome.written = backward_from(outcome.value, case)
        except STOPS:
            raise
        except BaseException as error:  # sys.exit too ends a call, and no more than that
            outcome.error = legible(error)
    outcome.warnings = [str(warning.message) for warning in caught]
    outcome.gradients = {
        name: tensors[name].grad
        for name in case.requires_grad
        if isinstance(tensors[name], torch.Tensor)
    }
    parameters = call.owned.keys() if outcome.error is None else set()
    for name in parameters & outcome.gradients.keys():
        gradient = outcome.gradients[name]
        if gradient is None:  # a parameter that a call makes no use of
            gradient = torch.zeros_like(tensors[name])
        outcome.gradients[name] = gradient.reshape(case.tensors[name].shape)
    return outcome


def unimplemented(error: BaseException | None) -> TypeGuard[NotImplementedError]:
    """Whether an error says that an implementation lacks something, which is no deviation."""
    return isinstance(error, NotImplementedError)


def legible(error: BaseException) -> BaseException:
    """The error or, where its message cannot be made, one of the same name that says so."""
    try:
        str(error)
    except Exception as second:
        text = f"its message cannot be read: {type(second).__name__}"
        return type(type(error).__name__, (Exception,), {})(text)
    return error


def dense(value: Any) -> Any:
    """What came back; in place of a tensor without plain numbers, a thing named after its kind."""
    kind = without_numbers(value)
    return value if kind is None else type(f"a {kind} tensor, without plain numbers", (), {})()


def oversized(value: Any, case: Case) -> bool:
    """Whether a result has another shape than the contract's and too many numbers to be read."""
    if not isinstance(value, torch.Tensor) or value.shape == case.cotangent.shape:
        return False
    return value.numel() > max(RESULT_NUMBERS, case.cotangent.size)


@cache
def _handed_over() -> type[torch.autograd.Function]:
    """What follows a result in the graph, and hands it a tensor as its gradient."""

    class HandedOver(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            ctx.gradient = gradient
            return value.new_zeros(())

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            return ctx.gradient, None

    return HandedOver


def backward_from(
    value: torch.Tensor, case: Case, *, retain_graph: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Go backward from a result with the cotangent of the case.

    Returns the cotangent as it is afterwards, and as it was, where it has been written to.
    """
    layout = case.upstream_layout(case.reduction)
    upstream = to_torch(case.upstream(case.reduction), layout, str(value.device)).to(value.dtype)
    if layout == "expanded" and value.numel():
        upstream = upstream.flatten()[0]  # as of a sum: one number for all
    if upstream.ndim and upstream.shape != value.shape:
        upstream = upstream.new_ones(())  # clause `result-shape` tells of such a result
    upstream = upstream.expand(value.shape)
    before = upstream.clone()
    if value.is_complex():
        torch.autograd.backward(value, upstream, retain_graph=retain_graph)
    else:
        # Given a cotangent, torch would import its symbolic shapes first, which takes a second.
        end: torch.Tensor = _handed_over().apply(value, upstream)  # type: ignore[no-untyped-call]
        torch.autograd.backward(end, retain_graph=retain_graph)
    return None if same_bits(upstream, before) else (upstream, before)


def differentiable(value: Any) -> bool:
    """Whether backward can start from a result."""
    return isinstance(value, torch.Tensor) and value.requires_grad
