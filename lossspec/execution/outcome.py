"""Run one call of an implementation, and keep its result, gradients, error and side effects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeGuard

import torch

from lossspec.cases.case import Case
from lossspec.excuse import Excuse, NotJudged
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
    """The outcome of a call: a value and gradients, or an error.

    Attributes:
        inputs: The tensors that were passed, by name, as they are after the call.
        before: Copies of these tensors from before the call.
        value: The result.
        gradients: The gradient of each tensor that required one; None if backward left none.
        error: The error of the call, if it raised.
        phase: The phase that was reached last; it raised the error, if there is one.
        written: The cotangent after and before backward, if backward has written to it.
        warnings: The messages of the warnings.
        silenced: Whether the call left other warning filters, which may have hidden a warning.
        changed: The global settings of torch that the call changed, which have been restored.
        lists: The arguments that are lists, by name, as they are after the call, and copies of
            them from before it.
    """

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    value: Any = None
    gradients: dict[str, torch.Tensor | None] = field(default_factory=dict)
    error: BaseException | None = None
    phase: Phase = "construct"
    written: tuple[torch.Tensor, torch.Tensor] | None = None
    #: Whether the value has a wrong shape and too many elements; only its shape is reported then.
    oversized: bool = False
    warnings: list[str] = field(default_factory=list)
    silenced: bool = False
    changed: list[Changed] = field(default_factory=list)
    lists: dict[str, tuple[list[Any], list[Any]]] = field(default_factory=dict)

    @property
    def returned(self) -> bool:
        """Whether the call returned a value; its backward may still have raised."""
        return self.error is None or self.phase == "backward"

    def keep(self, tensors: Mapping[str, Any]) -> None:
        """Record the tensors, and copies of them, before they are passed."""
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and self.inputs.get(name) is not tensor:
                self.inputs[name] = tensor
                self.before[name] = tensor.detach().clone()

    def touched(self) -> list[str]:
        """Return the names of the inputs whose bits the call has changed."""
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
    """Construct, call and go backward, and catch every error that the implementation raises.

    Args:
        under_test: The implementation under test.
        case: The case to run.
        device: The device of the tensors.
        backward: Whether to run backward, if the value has a gradient.
        replaced: Arguments (tensors, parameters, reduction) to pass instead of the case's own.

    Raises:
        NotJudged: The spec refuses the case by a rule, and no argument is replaced.
    """
    if not replaced and case.broken_rule(under_test.loss) is not None:
        raise NotJudged(Excuse.NOT_ABOUT, "the spec refuses the related call by a rule")
    tensors = arguments(under_test, case, device)
    if replaced:
        under_way(case, replaced)
        tensors |= {name: replaced[name] for name in replaced if name in tensors}
    outcome = Outcome()
    outcome.keep(tensors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = [*warnings.filters]
        try:
            with preserved(outcome.changed):
                call = Call.of(under_test, case, replaced)
                outcome.lists = {
                    name: (given, [*given])
                    for name, given in call.keywords.items()
                    if isinstance(given, list)
                }
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
        except BaseException as error:  # even sys.exit in a loss must not end the run
            outcome.error = legible(error)
        outcome.silenced = filters != warnings.filters
    outcome.warnings = [str(warning.message) for warning in caught]
    outcome.gradients = {
        name: tensors[name].grad
        for name in case.requires_grad
        if isinstance(tensors[name], torch.Tensor)
    }
    parameters = call.owned.keys() if outcome.error is None else set()
    for name in parameters & outcome.gradients.keys():
        gradient = outcome.gradients[name]
        if gradient is None:  # the call does not use this parameter
            gradient = torch.zeros_like(tensors[name])
        outcome.gradients[name] = gradient.reshape(case.tensors[name].shape)
    return outcome


def unimplemented(error: BaseException | None) -> TypeGuard[NotImplementedError]:
    """Return whether an error is a NotImplementedError, which is not a deviation."""
    return isinstance(error, NotImplementedError)


def legible(error: BaseException) -> BaseException:
    """Return an error unchanged, or one of the same name that says that `str` of it raises."""
    try:
        str(error)
    except Exception as second:
        text = f"its message cannot be read: {type(second).__name__}"
        return type(type(error).__name__, (Exception,), {})(text)
    return error


def dense(value: Any) -> Any:
    """Return a result; replace a nested, sparse or meta tensor by an object that names its kind."""
    kind = without_numbers(value)
    return value if kind is None else type(f"a {kind} tensor, without plain numbers", (), {})()


def oversized(value: Any, case: Case) -> bool:
    """Return whether a result has a wrong shape and too many elements to be read."""
    if not isinstance(value, torch.Tensor) or value.shape == case.cotangent.shape:
        return False
    return value.numel() > max(RESULT_NUMBERS, case.cotangent.size)


@cache
def _handed_over() -> type[torch.autograd.Function]:
    """Return the autograd function that passes a given tensor to a result as its gradient."""

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

    Args:
        value: The result.
        case: The case, which holds the cotangent.
        retain_graph: As in `torch.autograd.backward`.

    Returns:
        The cotangent after and before backward, or None if backward left it unchanged.
    """
    layout = case.upstream_layout(case.reduction)
    upstream = to_torch(case.upstream(case.reduction), layout, str(value.device)).to(value.dtype)
    if layout == "expanded" and value.numel():
        upstream = upstream.flatten()[0]  # the backward of a sum expands one number
    if upstream.ndim and upstream.shape != value.shape:
        upstream = upstream.new_ones(())  # clause `result-shape` reports the wrong shape
    upstream = upstream.expand(value.shape)
    before = upstream.clone()
    if value.is_complex():
        torch.autograd.backward(value, upstream, retain_graph=retain_graph)
    else:
        torch.autograd.backward(before_backward(value, upstream), retain_graph=retain_graph)
    return None if same_bits(upstream, before) else (upstream, before)


def before_backward(value: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    """Return a number whose backward passes a cotangent to a result.

    torch imports its symbolic shapes if it gets a cotangent, which takes a second.
    """
    end: torch.Tensor = _handed_over().apply(value, upstream)  # type: ignore[no-untyped-call]
    return end


def differentiable(value: Any) -> bool:
    """Return whether a result is a tensor that requires a gradient."""
    return isinstance(value, torch.Tensor) and value.requires_grad
