"""Shrinking of the numbers of a failing case; Hypothesis shrinks the rest of the call.

Dense values come from a seed, so Hypothesis cannot shrink them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from lossspec.cases.axes import axes_of, part_along, simplex
from lossspec.cases.case import Case
from lossspec.cases.ignored import ignored_rows
from lossspec.dtypes import dtype_name, precision
from lossspec.spec.constrained import Constrained, Mask
from lossspec.spec.loss import AnySize, Loss
from lossspec.spec.roles import ClassIndex, Length, Role
from lossspec.spec.shapes import root
from lossspec.thresholds import SLACK

#: The most calls of the predicate; they take about a second for a small case.
ATTEMPTS = 400


def simpler_numbers(
    loss: Loss, case: Case, fails: Callable[[Case], bool], attempts: int = ATTEMPTS
) -> Case:
    """Return a case with fewer and simpler numbers that still fails, or `case` itself.

    Args:
        loss: The spec of the loss.
        case: The failing case.
        fails: The predicate; it returns whether a case still fails.
        attempts: The most calls of the predicate.
    """
    left = attempts
    progress = True
    while progress and left > 0:
        progress = False
        for candidate in chain(_shorter(loss, case), _plainer(loss, case)):
            simpler = sound_change(loss, case, candidate)
            if simpler is None:
                continue
            if left <= 0:
                break
            left -= 1
            if fails(simpler):
                case, progress = simpler, True
                break
    return case


def sound_change(loss: Loss, case: Case, candidate: Case) -> Case | None:
    """Return a changed case, settled and normalised; None if it is not valid or not different.

    If the case has nan and infinity in ignored rows only, a changed case with nan or infinity
    elsewhere is not valid.

    Args:
        loss: The spec of the loss.
        case: The case before the change.
        candidate: The changed case.
    """
    if not fits(loss, candidate):  # checked first, since `settle` may rely on the contract
        return None
    changed = _normalized(loss, candidate.settled(loss))
    if not _valid(loss, changed) or _same(changed, case):
        return None
    return changed if _sound(loss, changed) or not _sound(loss, case) else None


def fits(loss: Loss, case: Case) -> bool:
    """Return whether each axis has the same size in all tensors, and the spec allows that size."""
    form, shape = loss.form(case.form), case.shape
    sizes = dict(shape.fixed)
    for name, array in case.tensors.items():
        declared = (loss.options[name].shape or "") if name in loss.options else ""
        axes = axes_of(loss, form, shape, name, array.ndim)
        if len(axes) != array.ndim:
            return False
        for axis, size in zip(axes, array.shape, strict=True):
            if declared.startswith("broadcasts") and size == 1:
                continue
            if sizes.setdefault(root(axis), size) != size:
                return False
    sizes = shape.with_tied(sizes)
    result = tuple(sizes.get(axis, 0) for axis in shape.result)
    return case.cotangent.shape == result and loss.allows(form, sizes, case.parameters)


def _valid(loss: Loss, case: Case) -> bool:
    """Return whether the spec allows the sizes, the class indices and the lengths of a case."""
    if not fits(loss, case):
        return False
    form, sizes = loss.form(case.form), case.axis_sizes(loss)
    for name, role in form.tensors.items():
        array = case.tensors[name]
        if isinstance(role, ClassIndex):
            fine = role.allows(array, sizes[role.classes], case.parameters)
            if form.settle is not None:
                fine |= array < 0  # `settle` may write negative marks, which are not classes
            if not fine.all():
                return False
        elif isinstance(role, Length) and not (array <= sizes[role.of]).all():
            return False
    return case.broken_rule(loss) is None


def _sound(loss: Loss, case: Case) -> bool:
    """Return whether the first tensor has nan and infinity in ignored rows only."""
    form = loss.form(case.form)
    x = next(iter(case.tensors.values())).astype(np.float64)
    wild = np.isnan(x) | np.isposinf(x)
    for mask in ignored_rows(form, case.shape, case.tensors, case.parameters):
        wild = wild & ~mask
    return not wild.any()


def _normalized(loss: Loss, case: Case) -> Case:
    """Return a case whose distributions sum to 1 and whose roles allow their numbers.

    A distribution that sums to 0 becomes the first class.
    """
    tensors = dict(case.tensors)
    for name, axis in simplex(loss, case).items():
        shares = tensors[name].astype(np.float64)
        if not shares.shape[axis]:
            continue
        shares = np.moveaxis(shares, axis, -1)
        shares[..., 0] += shares.sum(-1) == 0
        total = shares.sum(-1, keepdims=True)
        # Keep a drawn distribution bit for bit: its sum differs from 1 by rounding only.
        rounded = SLACK * precision(dtype_name(tensors[name])).unit
        shares = np.where(np.abs(total - 1) > rounded, shares / total, shares)
        tensors[name] = np.moveaxis(shares, -1, axis).astype(tensors[name].dtype)
    form = loss.form(case.form)
    for name, role in loss.roles(form).items():
        if isinstance(role, Constrained) and name in tensors:
            axes = axes_of(loss, form, case.shape, name, tensors[name].ndim)
            tensors[name] = role.restored(tensors[name], role.axis(axes))
    return case.with_(tensors=tensors)


def _same(x: Case, y: Case) -> bool:
    """Return whether two cases are equal bit for bit."""
    plain = ("contract", "spread", "parameters", "omitted", "scale", "layouts", "requires_grad")
    if set(x.tensors) != set(y.tensors) or any(getattr(x, n) != getattr(y, n) for n in plain):
        return False
    pairs = [(x.cotangent, y.cotangent), *((x.tensors[n], y.tensors[n]) for n in x.tensors)]
    return all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes() for a, b in pairs
    )


def _shorter(loss: Loss, case: Case) -> Iterator[Case]:
    """Yield parts of the case along each axis that the contract names."""
    rules = loss.form(case.form).sizes
    for axis, size in case.axis_sizes(loss).items():
        rule = rules.get(axis)
        if axis in case.shape.fixed or axis in case.shape.tied:
            continue
        if rule is not None and not callable(rule) and not isinstance(rule, AnySize):
            for allowed in sorted({n for n in rule if 0 < n < size}):
                yield part_along(loss, case, axis, slice(0, allowed))
                yield _renumbered(loss, case, axis, size - allowed)
        elif size > 1:
            yield part_along(loss, case, axis, slice(0, 1))
            yield part_along(loss, case, axis, slice(0, size // 2))
            yield _renumbered(loss, case, axis, size // 2)
            yield part_along(loss, case, axis, slice(0, size - 1))
            yield _renumbered(loss, case, axis, 1)


def _renumbered(loss: Loss, case: Case, axis: str, start: int) -> Case:
    """Return the end of an axis, with class indices renumbered to the remaining classes."""
    end = part_along(loss, case, axis, slice(start, None))
    tensors = dict(end.tensors)
    for name, role in loss.form(case.form).tensors.items():
        if isinstance(role, ClassIndex) and role.classes == axis:
            classes = (tensors[name] >= start) & (tensors[name] < case.axis_sizes(loss)[axis])
            tensors[name] = tensors[name] - (classes * start).astype(tensors[name].dtype)
    return end.with_(tensors=tensors)


def _remarked(loss: Loss, case: Case) -> Iterator[Case]:
    """Yield the case with its ignored elements marked by the default of their parameter."""
    for target, role in loss.form(case.form).tensors.items():
        if not isinstance(role, ClassIndex) or role.ignored_by is None:
            continue
        name = role.ignored_by
        old, default = case.parameters[name], loss.parameters[name].default
        array = case.tensors[target]
        marked = np.where(array == old, default, array).astype(array.dtype)
        if old != default and (marked == default).any() == (array == old).any():
            yield case.with_(
                parameters={**case.parameters, name: default},
                omitted=case.omitted | {name},
                tensors={**case.tensors, target: marked},
            )


def _left_out(loss: Loss, case: Case) -> Iterator[Case]:
    """Yield the case without the parameters that have their default value."""
    form = loss.form(case.form)
    defaults = {
        name
        for name, parameter in loss.parameters_of(form).items()
        if name not in form.fixed and case.parameters[name] == parameter.default
    }
    if defaults - case.omitted:
        yield case.with_(omitted=case.omitted | defaults)


def _plainer(loss: Loss, case: Case) -> Iterator[Case]:
    """Yield the case with plainer numbers.

    First come a cotangent of ones, simple ignored elements and parameters left out. Then come, for
    each tensor, rounded numbers and single elements set to 0, 1 or -1.
    """
    ones = np.ones_like(case.cotangent)
    if not np.array_equal(case.cotangent, ones):
        yield case.with_(cotangent=ones)
    yield from _remarked(loss, case)
    yield from _left_out(loss, case)
    roles = loss.roles(loss.form(case.form))
    for name, array in case.tensors.items():
        role = roles[name]
        if isinstance(role, Mask):
            yield case.with_(tensors={**case.tensors, name: np.ones_like(array)})
        elif role.integer:
            yield case.with_(tensors={**case.tensors, name: array.astype(role.dtypes[0])})
        else:
            for digits in (0, 1, 2):
                with np.errstate(all="ignore"):
                    plain = np.round(array.astype(np.float64), digits)
                    plain = np.asarray(np.clip(plain, role.low, role.high)).astype(array.dtype)
                if _allowed(role, plain).all():
                    yield case.with_(tensors={**case.tensors, name: plain})
        if array.size > 12:
            continue
        for i in range(array.size):
            for value in (0, 1, -1):
                if array.flat[i] == value or (role.integer and value):
                    break
                simple = array.copy()
                simple.flat[i] = value
                if _allowed(role, simple.flat[i]):
                    yield case.with_(tensors={**case.tensors, name: simple})


def _allowed(role: Role, numbers: np.ndarray) -> np.ndarray:
    """Return which numbers a role allows; nan and infinity are allowed, as in ignored rows."""
    x = np.asarray(numbers).astype(np.float64)
    inside = ~np.isfinite(x) | ((x >= role.low) & (x <= role.high))
    if role.style in ("sign", "positive", "temperature"):
        inside &= x != 0
    return np.asarray(inside)
