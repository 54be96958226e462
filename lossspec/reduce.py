"""From a failing case to one that a person can read, by making it simpler as long as it fails.

Dense values come from a seed, which says nothing to a shrinker that only sees draws; so this works
on the case itself: fewer options, fewer and shorter axes, plainer numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lossspec.cases import Case
from lossspec.oracle import axes_of
from lossspec.spec import ClassIndex, Loss, Shape

#: How often the predicate may be asked: a second or so for a small case.
ATTEMPTS = 400


def reduced(
    loss: Loss, case: Case, fails: Callable[[Case], bool], attempts: int = ATTEMPTS
) -> Case:
    """The simplest case found that still fails; `case` itself when nothing simpler does."""
    left = attempts
    progress = True
    while progress and left > 0:
        progress = False
        for simpler in _simpler(loss, case):
            if left <= 0:
                break
            left -= 1
            if fails(simpler):
                case, progress = simpler, True
                break
    return case


def _simpler(loss: Loss, case: Case) -> Iterator[Case]:
    """Simpler cases, the greatest steps first; each is valid if `case` is."""
    yield from _shorter(loss, case)
    options = [name for name in case.tensors if name in loss.options]
    for name in options:
        yield _without(case, name)
    for name, parameter in loss.parameters_of(loss.form(case.form)).items():
        if case.parameters[name] != parameter.default and parameter.default in parameter.values:
            changed = case.with_(parameters={**case.parameters, name: parameter.default})
            if _valid(loss, changed):
                yield changed
    if case.layouts:
        yield case.with_(layouts={})
        for name in case.layouts:
            yield case.with_(layouts={n: v for n, v in case.layouts.items() if n != name})
    if case.scale != 1:
        yield case.with_(scale=1.0)
    if case.omitted:
        yield case.with_(omitted=frozenset())
    ones = np.ones_like(case.cotangent)
    if not np.array_equal(case.cotangent, ones):
        yield case.with_(cotangent=ones)
    if len(case.requires_grad) > 1:
        for name in case.requires_grad:
            yield case.with_(requires_grad=(name,))
    yield from _plainer(loss, case)


def _valid(loss: Loss, case: Case) -> bool:
    """Whether the class indices still lie in their range."""
    sizes = case.axis_sizes(loss)
    for name, role in loss.form(case.form).tensors.items():
        if isinstance(role, ClassIndex):
            target = case.tensors[name]
            if not role.allows(target, sizes[role.classes], case.parameters).all():
                return False
    return True


def _without(case: Case, name: str) -> Case:
    return case.with_(
        tensors={n: array for n, array in case.tensors.items() if n != name},
        layouts={n: layout for n, layout in case.layouts.items() if n != name},
        requires_grad=tuple(n for n in case.requires_grad if n != name),
    )


def _shorter(loss: Loss, case: Case) -> Iterator[Case]:
    """Parts of the case along each axis that the contract names, and without an axis of size 1."""
    sizes = case.axis_sizes(loss)
    for axis, size in sizes.items():
        for part in (
            [
                slice(0, 1),
                slice(0, size // 2),
                slice(size // 2, size),
                slice(0, size - 1),
                slice(1, size),
            ]
            if size > 1
            else []
        ):
            shorter = taken(loss, case, axis, part)
            if _valid(loss, shorter):
                yield shorter
    contract = Shape.parse(case.contract)
    if case.spread > contract.spreads[0]:
        for i in range(case.spread):
            if sizes[f"d{i + 1}"] == 1:
                yield _dropped(loss, case, f"d{i + 1}")


def taken(loss: Loss, case: Case, axis: str, part: slice | np.ndarray) -> Case:
    """A case with a part of one of the contract's axes, in every tensor that has the axis."""
    form, contract = loss.form(case.form), case.shape

    def take(array: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
        where = tuple(
            part if name == axis and array.shape[i] > 1 else slice(None)
            for i, name in enumerate(axes)
        )
        return array[where].copy()

    return case.with_(
        tensors={
            name: take(array, axes_of(loss, form, contract, name, array.ndim))
            for name, array in case.tensors.items()
        },
        cotangent=take(case.cotangent, contract.result),
    )


def _dropped(loss: Loss, case: Case, axis: str) -> Case:
    form, contract = loss.form(case.form), case.shape

    def drop(array: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
        return array.squeeze(axes.index(axis)) if axis in axes else array

    return case.with_(
        tensors={
            name: drop(array, axes_of(loss, form, contract, name, array.ndim))
            for name, array in case.tensors.items()
        },
        cotangent=drop(case.cotangent, contract.result),
        spread=case.spread - 1,
    )


def _plainer(loss: Loss, case: Case) -> Iterator[Case]:
    """Shorter numbers: whole tensors rounded first, then one element at a time."""
    roles = loss.roles(loss.form(case.form))
    for name, array in case.tensors.items():
        if roles[name].integer:
            continue
        low, high = roles[name].low, roles[name].high
        for digits in (0, 1, 2):
            with np.errstate(all="ignore"):
                plain = np.round(array.astype(np.float64), digits)
                plain = np.clip(plain, low, high).astype(array.dtype)
            if not np.array_equal(plain, array, equal_nan=True):
                yield case.with_(tensors={**case.tensors, name: plain})
        if array.size > 12:
            continue
        for i in range(array.size):
            for value in (0.0, 1.0):
                simple = array.copy()
                if simple.flat[i] in (0, 1) or not low <= value <= high:
                    continue
                simple.flat[i] = value
                yield case.with_(tensors={**case.tensors, name: simple})
