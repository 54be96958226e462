"""One call of an implementation for one case, and all that it left behind."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lossspec.cases import Case
from lossspec.implementations import Subject
from lossspec.tensors import same_bits, to_torch

Phase = Literal["construct", "call", "backward"]


@dataclass
class Outcome:
    """What came of a call: a value and gradients, or an error and the phase that raised it.

    inputs : the tensors that were handed over, after the call. before : copies from before it.
    gradients : of the tensors that required one; None where backward left none.
    """

    inputs: dict[str, torch.Tensor]
    before: dict[str, torch.Tensor]
    value: Any = None
    gradients: dict[str, torch.Tensor | None] = field(default_factory=dict)
    error: Exception | None = None
    phase: Phase = "construct"
    warnings: list[str] = field(default_factory=list)

    @property
    def returned(self) -> bool:
        """Whether the call gave a value (its backward may still have failed)."""
        return self.error is None or self.phase == "backward"

    def touched(self) -> list[str]:
        """Inputs that no longer hold the bits they were handed over with."""
        return [
            name
            for name, tensor in self.inputs.items()
            if not same_bits(tensor.detach(), self.before[name])
        ]


def lacking(subject: Subject, case: Case) -> str | None:
    """The first argument of a case that the subject's signature lacks, if any."""
    loss, form = subject.loss, subject.loss.form(case.form)
    for name in case.tensors:
        if name in form.tensors:
            continue
        if subject.surface not in loss.options[name].surfaces or not subject.takes(name):
            return name
    for name, parameter in loss.parameters_of(form).items():
        if not subject.takes(name) and case.parameters[name] != parameter.default:
            return name
    if not subject.takes("reduction") and case.reduction != loss.reductions[0]:
        return f"reduction={case.reduction!r}"
    return None


def keywords(subject: Subject, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a call passes by keyword."""
    form = subject.loss.form(case.form)
    passed = {name: tensors[name] for name in tensors if name not in form.tensors}
    passed |= {
        name: value
        for name, value in case.parameters.items()
        if name not in case.omitted and subject.takes(name)
    }
    if subject.takes("reduction"):
        passed["reduction"] = case.reduction
    return passed


def perform(
    subject: Subject,
    case: Case,
    device: str = "cpu",
    *,
    backward: bool = True,
    replaced: Mapping[str, Any] | None = None,
) -> Outcome:
    """Construct, call and go backward, catching whatever the implementation raises.

    replaced : arguments (tensors, parameters, reduction) to pass instead of the case's own.
    """
    replaced = dict(replaced or {})
    tensors: dict[str, Any] = {}
    roles = subject.loss.roles(subject.loss.form(case.form))
    for name, array in case.tensors.items():
        if roles[name].scalar:
            tensors[name] = float(array)
            continue
        tensor = to_torch(array, case.layouts.get(name, "contiguous"), device)
        if name in case.requires_grad:
            tensor.requires_grad_()
        tensors[name] = tensor
    tensors |= {name: replaced.pop(name) for name in list(replaced) if name in tensors}
    inputs = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor)}
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    outcome = Outcome(inputs, before)
    form = subject.loss.form(case.form)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            passed = {**keywords(subject, case, tensors), **replaced}
            ready = subject.construct(passed)
            outcome.phase = "call"
            outcome.value = ready(*(tensors[name] for name in form.tensors))
            outcome.phase = "backward"
            if backward and differentiable(outcome.value):
                upstream = to_torch(case.upstream(case.reduction), device=device)
                upstream = upstream.to(outcome.value.dtype)
                outcome.value.backward(upstream.expand(outcome.value.shape))
        except Exception as error:
            outcome.error = error
    outcome.warnings = [str(warning.message) for warning in caught]
    outcome.gradients = {name: inputs[name].grad for name in case.requires_grad if name in inputs}
    return outcome


def differentiable(value: Any) -> bool:
    """Whether backward can start from a result."""
    return isinstance(value, torch.Tensor) and value.requires_grad


def written(subject: Subject, case: Case, replaced: Mapping[str, Any] | None = None) -> str:
    """The call as a person would type it."""
    form = subject.loss.form(case.form)
    given = {**{name: _short(array) for name, array in case.tensors.items()}}
    passed = {
        name: repr(value)
        for name, value in case.parameters.items()
        if name not in case.omitted and subject.takes(name)
    }
    if subject.takes("reduction"):
        passed["reduction"] = repr(case.reduction)
    for name, value in (replaced or {}).items():
        short = f"<{type(value).__module__}.{type(value).__name__}>"
        text = short if hasattr(value, "shape") else repr(value)
        (given if name in given else passed)[name] = text
    lines = [f"{name} = {text}" for name, text in given.items()]
    extra = [f"{name}={name}" for name in case.tensors if name not in form.tensors]
    extra += [f"{name}={text}" for name, text in passed.items()]
    call = ", ".join(form.tensors)
    if subject.surface == "class":
        lines.append(f"{subject.loss.module}({', '.join(extra)})({call})")
    else:
        lines.append(f"{subject.loss.name}({', '.join([call, *extra])})")
    for name in case.layouts:
        lines.append(f"# {name} is stored {case.layouts[name]}")
    return "\n".join(lines)


def _short(array: Any) -> str:
    from lossspec.cases import _listed, dtype_name

    listed = repr(_listed(array)).replace("'", "")
    if len(listed) > 300:
        listed = f"{listed[:280]} ... {array.size} numbers"
    return f"tensor({listed}, dtype={dtype_name(array)})"
