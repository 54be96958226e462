"""Make the numbers of a failing case simpler: Hypothesis shrinks the call, not its numbers.

Dense values come from a seed, which gives a generic shrinker nothing to work on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lossspec.cases.axes import axes_of, simplex
from lossspec.cases.case import Case
from lossspec.cases.ignored import ignored_rows
from lossspec.dtypes import dtype_name, precision
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Length, Role
from lossspec.thresholds import SLACK

#: How often the predicate may be asked: a second or so for a small case.
ATTEMPTS = 400


def simpler_numbers(
    loss: Loss, case: Case, fails: Callable[[Case], bool], attempts: int = ATTEMPTS
) -> Case:
    """The case with the simplest numbers found that still fails; `case` itself if none are."""
    left = attempts
    sound = _sound(loss, case)
    progress = True
    while progress and left > 0:
        progress = False
        for candidate in _plainer(loss, case):
            if not fits(loss, candidate):  # first, since `settle` may rely on the contract
                continue
            simpler = _normalized(loss, candidate.settled(loss))
            if not _valid(loss, simpler) or _same(simpler, case):
                continue
            if sound and not _sound(loss, simpler):
                continue
            if left <= 0:
                break
            left -= 1
            if fails(simpler):
                case, progress = simpler, True
                break
    return case


def fits(loss: Loss, case: Case) -> bool:
    """Whether each axis has one size in all tensors, and one that the spec allows."""
    form, shape = loss.form(case.form), case.shape
    sizes: dict[str, int] = {"1": 1}
    for name, array in case.tensors.items():
        declared = (loss.options[name].shape or "") if name in loss.options else ""
        axes = axes_of(loss, form, shape, name, array.ndim)
        if len(axes) != array.ndim:
            return False
        for axis, size in zip(axes, array.shape, strict=True):
            if declared.startswith("broadcasts") and size == 1:
                continue
            if sizes.setdefault(axis, size) != size:
                return False
    result = tuple(sizes.get(axis, 0) for axis in shape.result)
    return case.cotangent.shape == result and loss.allows(form, sizes, case.parameters)


def _valid(loss: Loss, case: Case) -> bool:
    """Whether the call is one that the contract allows, its class indices and lengths as well."""
    if not fits(loss, case):
        return False
    form, sizes = loss.form(case.form), case.axis_sizes(loss)
    for name, role in form.tensors.items():
        array = case.tensors[name]
        if isinstance(role, ClassIndex):
            fine = role.allows(array, sizes[role.classes], case.parameters)
            if form.settle is not None:
                fine |= array < 0  # what it marks so is no class
            if not fine.all():
                return False
        elif isinstance(role, Length) and not (array <= sizes[role.of]).all():
            return False
    return True


def _sound(loss: Loss, case: Case) -> bool:
    """Whether nan and infinity are in ignored rows only, as where they stand for what they hold."""
    form = loss.form(case.form)
    x = next(iter(case.tensors.values())).astype(np.float64)
    wild = np.isnan(x) | np.isposinf(x)
    for mask in ignored_rows(form, case.shape, case.tensors, case.parameters):
        wild = wild & ~mask
    return not wild.any()


def _normalized(loss: Loss, case: Case) -> Case:
    """A case in which what is left of a distribution is one: all in the first class, if nothing."""
    tensors = dict(case.tensors)
    for name, axis in simplex(loss, case).items():
        shares = tensors[name].astype(np.float64)
        if not shares.shape[axis]:
            continue
        shares = np.moveaxis(shares, axis, -1)
        shares[..., 0] += shares.sum(-1) == 0
        total = shares.sum(-1, keepdims=True)
        # One that was drawn is off by no more than rounding.
        rounded = SLACK * precision(dtype_name(tensors[name])).unit
        shares = np.where(np.abs(total - 1) > rounded, shares / total, shares)
        tensors[name] = np.moveaxis(shares, -1, axis).astype(tensors[name].dtype)
    return case.with_(tensors=tensors)


def _same(x: Case, y: Case) -> bool:
    """Whether nothing was made simpler."""
    plain = ("contract", "spread", "parameters", "omitted", "scale", "layouts", "requires_grad")
    if set(x.tensors) != set(y.tensors) or any(getattr(x, n) != getattr(y, n) for n in plain):
        return False
    pairs = [(x.cotangent, y.cotangent), *((x.tensors[n], y.tensors[n]) for n in x.tensors)]
    return all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes() for a, b in pairs
    )


def _plainer(loss: Loss, case: Case) -> Iterator[Case]:
    """Shorter numbers: whole tensors rounded first, then one element at a time."""
    ones = np.ones_like(case.cotangent)
    if not np.array_equal(case.cotangent, ones):
        yield case.with_(cotangent=ones)
    roles = loss.roles(loss.form(case.form))
    for name, array in case.tensors.items():
        role = roles[name]
        if isinstance(role, ClassIndex | Length):
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
    """Which numbers a role's domain holds; what ignored rows are filled with is none of its."""
    x = np.asarray(numbers).astype(np.float64)
    inside = ~np.isfinite(x) | ((x >= role.low) & (x <= role.high))
    if role.style in ("sign", "positive"):
        inside &= x != 0
    return np.asarray(inside)
