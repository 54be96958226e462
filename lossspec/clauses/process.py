"""Clauses on the settings of torch and of the process: those a call leaves, and those users set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.precondition import conforms, precondition, raises_nothing, works
from lossspec.clauses.trial import Deviation, Trial, Unsupported, failed
from lossspec.excuse import Excuse
from lossspec.execution.call import Call, arguments, ready
from lossspec.execution.global_state import Changed, preserved
from lossspec.execution.outcome import Outcome, backward_from, differentiable, perform
from lossspec.execution.process_state import other_process_settings, process_preserved
from lossspec.execution.tensors import dtype_of, to_extended
from lossspec.execution.torch_private import set_deterministic


@clause(stateless, enough=10, requires=[works])
def process_state(trial: Trial) -> Judgement:
    """A call leaves every other setting of torch and of the process as it is (subnormal numbers,
    precisions, backends, default device, printing, warnings, logs, NumPy's errors)."""
    found = _changed(trial)
    # An import at the first use of an option may add warning filters. It happens only once.
    again = {each.switch.name for each in _changed(trial)} if found else set()
    for each in found:
        if each.switch.name in again:
            what = f"{each.switch.name}, set to another value than its default, was changed"
            raise Deviation(what, each.after, each.before, check=None)
    return True


def _changed(trial: Trial) -> list[Changed]:
    """Return the settings that a call and its backward change."""
    changed: list[Changed] = []
    with warnings.catch_warnings(), other_process_settings(), process_preserved(changed):
        call, _ = ready(trial.under_test, trial.case, trial.device)
        value = call()
        if differentiable(value) and trial.outcome.error is None:
            backward_from(value, trial.case)
    return changed


DETERMINISM = "deterministic algorithms"
_FLOAT64 = "the default dtype float64"
#: The settings that users change, by the words for them in a report.
_SWITCHES: Mapping[str, Callable[[], object]] = {
    # Warn only: torch documents that some losses raise on accelerators.
    DETERMINISM: partial(set_deterministic, True, warn_only=True),
    _FLOAT64: lambda: torch.set_default_dtype(torch.float64),
    # Without the search for nan, for which torch documents an error.
    "anomaly detection": lambda: torch.set_anomaly_enabled(True, False),
}


@contextmanager
def _switched(names: Sequence[str]) -> Iterator[None]:
    """Set some of the settings that users change, and restore them at the end."""
    with preserved():
        for name in names:
            _SWITCHES[name]()
        yield


@clause(enough=10, requires=[works, raises_nothing, conforms])
def user_settings(trial: Trial) -> Judgement:
    """With deterministic algorithms, the default dtype float64 and anomaly detection, the value,
    its dtype and the gradients are right."""
    # A device may lack float64.
    names = [name for name in _SWITCHES if name != _FLOAT64 or trial.holds("float64")]
    try:
        return _judge_under(trial, names)
    except Deviation:
        taken = [name for name in names if _takes(trial, name)]
        for name in taken:  # name the setting, if a single one breaks the call
            _judge_under(trial, [name])
        if taken == names:
            raise
    return _judge_under(trial, taken)


def _takes(trial: Trial, name: str) -> bool:
    """Return whether a call may run under a setting: torch documents a refusal for some.

    Code that was compiled without deterministic algorithms refuses to run with them.
    """
    if name != DETERMINISM:
        return True
    with _switched([name]):
        outcome = perform(trial.under_test, trial.case, trial.device)
    refused = isinstance(outcome.error, RuntimeError) and "deterministic" in str(outcome.error)
    if refused:
        trial.skipped[Excuse.NOT_SUPPORTED] += 1
    return not refused


def _judge_under(trial: Trial, names: Sequence[str]) -> bool:
    """Judge the call of a trial under some settings."""
    under = f"under {', '.join(names)}"
    with _switched(names):
        outcome = perform(trial.under_test, trial.case, trial.device)
    if outcome.error is not None:
        raise failed(f"the call {under}", outcome.error, "a tensor")
    return _judge_outcome(trial, outcome, under)


def _judge_outcome(trial: Trial, outcome: Outcome, under: str) -> bool:
    """Judge the value, its dtype and the gradients of a variant of a trial's call."""
    value = trial.number(outcome)
    if value is None:
        raise Deviation(f"the value {under}", outcome.value, "a tensor", check=None)
    if trial.precise and dtype_of(outcome.value) != trial.case.dtype:
        dtype = dtype_of(outcome.value)
        raise Deviation(f"the dtype of the value {under}", dtype, trial.case.dtype, check=None)
    want = trial.expected.value(trial.case.reduction)
    informative = trial.agree(value, want, f"the value {under}", of=None)
    for name, bounded in trial.expected.gradients().items():
        gradient = outcome.gradients.get(name)
        if gradient is None:
            continue  # clause `gradient` reports a missing gradient
        what = f"the gradient of {name} {under}"
        got = to_extended(gradient)
        informative |= trial.agree(got, bounded, what, of=None, gradient_of=name)
    return informative


@precondition()
def _has_a_constant(trial: Trial) -> bool:
    """The call passes a tensor that requires no gradient."""
    return bool(_constants(trial))


def _constants(trial: Trial) -> list[str]:
    """Return the names of the tensors that can be inference tensors: those without a gradient."""
    owned = Call.of(trial.under_test, trial.case).owned
    return [n for n in trial.case.tensors if n not in trial.case.requires_grad and n not in owned]


@clause(enough=10, requires=[works, raises_nothing, _has_a_constant, conforms])
def inference_tensors(trial: Trial) -> Judgement:
    """If the tensors without a gradient were made under `torch.inference_mode`, such as weights,
    the value and the gradients are right."""
    case = trial.case
    tensors = arguments(trial.under_test, case, trial.device)
    with torch.inference_mode():
        made = arguments(trial.under_test, case.with_(requires_grad=()), trial.device)
    tensors |= {name: made[name] for name in _constants(trial)}
    outcome = _performed(trial, tensors)
    if outcome.error is not None and "nference" in str(outcome.error):
        # torch documents that autograd cannot save an inference tensor.
        raise Unsupported("autograd cannot save an inference tensor")
    if outcome.error is not None:
        raise failed("the call with inference tensors", outcome.error, "a tensor")
    return _judge_outcome(trial, outcome, "with inference tensors")


def _performed(trial: Trial, tensors: dict[str, Any]) -> Outcome:
    """Call the case of a trial on other tensors of the same numbers, and go backward."""
    outcome, call = Outcome(), Call.of(trial.under_test, trial.case)
    try:
        with preserved():
            outcome.value = call.constructed(tensors)(call.handed(tensors))
        if differentiable(outcome.value):
            backward_from(outcome.value, trial.case)
    except Exception as error:
        outcome.error = error
    outcome.gradients = {
        name: None
        if (grad := tensors[name].grad) is None
        else grad.reshape(trial.case.tensors[name].shape)
        for name in trial.case.requires_grad
    }
    return outcome
