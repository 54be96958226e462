"""Calls that break one rule of a spec and are valid otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.cases.shrink import fits
from lossspec.dtypes import precision
from lossspec.errors import SpecError, blaming
from lossspec.spec.loss import Loss
from lossspec.spec.refusals import Refusal
from lossspec.spec.roles import ClassIndex, Length
from lossspec.thresholds import SLACK

#: The numbers that replace one element, or all elements, of a tensor.
_NUMBERS = (-1.0, 0.0, 1.0, 2.0, 0.5, -100.0, 100.0)


def broken(loss: Loss, case: Case, refusal: Refusal) -> Case | None:
    """Return a valid call changed such that the spec refuses it; None if no change was found.

    Args:
        loss: The spec of the loss.
        case: The valid call.
        refusal: The refusal. Its function `breaks` makes the change, if it has one.

    Raises:
        SpecError: `breaks` leaves a call that follows the rule.
    """
    if refusal.breaks is not None:
        return _broken_by_spec(loss, case, refusal)
    if any(name not in case.tensors and name not in case.parameters for name in refusal.arguments):
        return None
    for within in (True, False):  # a rule about the domain itself is broken outside of it
        for candidate in chain(
            _other_parameters(loss, case, refusal),
            _other_numbers(case, refusal),
            _other_order(case, refusal),
            _other_sizes(loss, case),
        ):
            if _breaks_only(loss, candidate, refusal, within):
                return candidate
    return None


def _broken_by_spec(loss: Loss, case: Case, refusal: Refusal) -> Case | None:
    """Return the call that `breaks` makes; None if it cannot change this one."""
    assert refusal.breaks is not None
    tensors = {name: array.copy() for name, array in case.tensors.items()}
    parameters = dict(case.parameters)
    with blaming(loss.name, f"breaks of the refusal {refusal.says!r}", case.tensors):
        if refusal.breaks(tensors, parameters) is False:
            return None
    asked = all(name in tensors or name in parameters for name in refusal.arguments)
    if refusal.rule is not None and asked and refusal.holds(loss.name, tensors, parameters):
        raise SpecError(
            f"spec {loss.name!r}: breaks of the refusal {refusal.says!r} made a call that follows "
            f"the rule, from {_shapes(case)}; make it break the rule, or return False for a call "
            "that it cannot change"
        )
    return case.with_(tensors=tensors, parameters=parameters)


def _shapes(case: Case) -> str:
    return ", ".join(f"{name} of shape {list(x.shape)}" for name, x in case.tensors.items())


def _breaks_only(loss: Loss, case: Case, refusal: Refusal, within: bool) -> bool:
    """Return whether a call breaks this rule, and no other rule, role or size of the spec.

    Another error in the call would leave open which one an implementation reports.

    Args:
        loss: The spec of the loss.
        case: The changed call.
        refusal: The refusal with the rule.
        within: Whether the real tensors of the rule must stay in the domain of their roles.
    """
    if not fits(loss, case) or not _broken_clearly(loss, case, refusal):
        return False
    form, sizes = loss.form(case.form), case.axis_sizes(loss)
    for name, role in loss.roles(form).items():
        if name not in case.tensors:
            continue
        array = case.tensors[name]
        fine = np.ones((), bool)
        if isinstance(role, ClassIndex):
            fine = role.allows(array, sizes[role.classes], case.parameters)
        elif isinstance(role, Length):
            fine = (array >= 0) & (array <= sizes[role.of])
        elif within or name not in refusal.arguments:
            fine = role.contains(array.astype(np.float64)) | ~np.isfinite(array.astype(np.float64))
        if not np.all(fine):
            return False
    others = [other for other in loss.refusals if other is not refusal]
    return all(other.holds(loss.name, case.tensors, case.parameters) for other in others)


def _broken_clearly(loss: Loss, case: Case, refusal: Refusal) -> bool:
    """Return whether a call breaks a rule by more than an implementation's rounding can hide."""
    if refusal.holds(loss.name, case.tensors, case.parameters):
        return False
    step = SLACK * precision(case.dtype).unit
    for first, second in ((step, step), (-step, -step), (step, -step), (-step, step)):
        moved = {}
        for name, array in case.tensors.items():
            moved[name] = array
            if array.dtype.kind not in "iub":
                steps = np.where(np.arange(array.size) % 2, first, second).reshape(array.shape)
                moved[name] = array.astype(np.float64) * (1 + steps)
        if refusal.holds(loss.name, moved, case.parameters):
            return False
        first_alone = {
            n: x if n == refusal.arguments[0] else case.tensors[n] for n, x in moved.items()
        }
        if refusal.holds(loss.name, first_alone, case.parameters):
            return False
    return True


def _other_parameters(loss: Loss, case: Case, refusal: Refusal) -> Iterator[Case]:
    """Yield the call with one parameter of the rule changed, then with two changed."""
    form = loss.form(case.form)
    drawn = {
        name: parameter.values
        for name, parameter in loss.parameters_of(form).items()
        if name in refusal.arguments and name not in form.fixed
    }

    def changed(**values: Any) -> Case:
        omitted = case.omitted - values.keys()
        return case.with_(parameters={**case.parameters, **values}, omitted=omitted)

    for name, values in drawn.items():
        for value in values:
            yield changed(**{name: value})
    for name, values in drawn.items():
        for other, others in drawn.items():
            if name < other:
                for value in values:
                    yield from (changed(**{name: value, other: also}) for also in others)


def _other_numbers(case: Case, refusal: Refusal) -> Iterator[Case]:
    """Yield the call with one element of a tensor of the rule changed, then with all changed."""
    for whole in (False, True):
        for name in refusal.arguments:
            array = case.tensors.get(name)
            if array is None or not array.size:
                continue
            places = [...] if whole else [0, array.size // 2, array.size - 1]
            for place in dict.fromkeys(places):
                for number in _NUMBERS:
                    if array.dtype.kind not in "iu" or (number >= 0 and number == int(number)):
                        yield _with_number(case, name, place, number)
                yield _with_number(case, name, place, None)


def _with_number(case: Case, name: str, place: Any, number: float | None) -> Case:
    """Return the call with a number in place of some elements, which None negates."""
    array = case.tensors[name].copy()
    flat = array.reshape(-1)
    flat[place] = -flat[place] if number is None else np.asarray(number).astype(array.dtype)
    return case.with_(tensors={**case.tensors, name: array})


def _other_order(case: Case, refusal: Refusal) -> Iterator[Case]:
    """Yield the call with a tensor reversed along an axis, and with two tensors exchanged."""
    given = {name: case.tensors[name] for name in refusal.arguments if name in case.tensors}
    for name, array in given.items():
        for axis in range(array.ndim):
            yield case.with_(tensors={**case.tensors, name: np.flip(array, axis).copy()})
    for name, array in given.items():
        for other, also in given.items():
            if name < other and (array.shape, array.dtype) == (also.shape, also.dtype):
                yield case.with_(tensors={**case.tensors, name: also, other: array})


def _other_sizes(loss: Loss, case: Case) -> Iterator[Case]:
    """Yield the call with an axis shortened, and with its first parts repeated at the end."""
    for axis, size in case.axis_sizes(loss).items():
        if axis == "1" or size < 2:
            continue
        for other in (size - 1, 1, size + 1, size + 2, 2 * size):
            yield part_along(loss, case, axis, np.arange(other) % size)
