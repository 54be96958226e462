"""The features of a case, in the words that a deviations file uses in its conditions."""

from __future__ import annotations

import numpy as np

from lossspec.cases.case import Case
from lossspec.dtypes import precision
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex

#: The words of `features` that contain no name of an axis, a tensor or a parameter.
#:
#: - exponentials overflow: for some number x, exp(x) or exp(-x) exceeds the dtype's largest number.
#: - small norms: some vector along a last axis has a norm in (0, 0.1).
#: - large norms: the fourth power of some such norm exceeds the dtype's largest number. The product
#:   of two squared norms of that size overflows.
#: - norms of 0: some vector along a last axis is 0.
FEATURES = (
    *("no batch", "k-d", "empty", "many rows", "square", "non-finite", "ties"),
    *("zero cotangent in front", "all ignored", "some ignored", "leading ignored"),
    *("exponentials overflow", "small norms", "large norms", "norms of 0"),
)
#: The largest norm that counts as small. Its fourth power is 1e-4, near which float16 loses digits.
#: An epsilon of 1e-12 that is added to its square has a relative size of 1e-10.
SMALL_NORM = 0.1


def features(case: Case, loss: Loss | None = None) -> frozenset[str]:
    """Return the features of a case that a bug may depend on, as words for deviations files.

    Args:
        case: The case.
        loss: The spec of its loss; the one of the catalogue by default.
    """
    loss = catalogue()[case.loss] if loss is None else loss
    found = {f"{name} {layout}" for name, layout in case.layouts.items()}
    found |= {f"{name} not contiguous" for name in case.layouts}
    found |= {f"with {name}" for name in list(case.tensors)[len(case.shape.inputs) :]}
    found |= _shape_features(case, loss) | _numbers(case) | _magnitudes(case)
    return frozenset(found | _marks(case, loss) | _ignored(case, loss))


def _shape_features(case: Case, loss: Loss) -> set[str]:
    """Return the features of the axes and of their sizes."""
    shape, first = case.shape, next(iter(case.tensors.values()))
    words = {
        f"{first.ndim}-d": True,
        "no batch": bool(shape.core) and not loss.batched(shape),
        "k-d": bool(case.spread and shape.core),
        "empty": any(array.size == 0 for array in case.tensors.values()),
        "many rows": bool(first.shape) and first.shape[0] > 64,
        "square": first.ndim > 1 and len(set(first.shape)) == 1 and first.shape[0] > 1,
    }
    return {word for word, present in words.items() if present}


def _numbers(case: Case) -> set[str]:
    """Return the features of single numbers: not finite, ties, or a first cotangent of 0."""
    found = set()
    reals = [array for array in case.tensors.values() if array.dtype.kind not in "iub"]
    sizes = [array.astype(np.float64) for array in reals]
    if any((~np.isfinite(values)).any() for values in sizes):
        found.add("non-finite")
    for i, x in enumerate(sizes):
        for y in sizes[i + 1 :]:
            if x.shape == y.shape and (x == y).any():
                found.add("ties")
    if case.cotangent.size > 1 and case.cotangent.flat[0] == 0:
        found.add("zero cotangent in front")
    return found


def _magnitudes(case: Case) -> set[str]:
    """Return the features of numbers or norms that may overflow or lose digits in a formula."""
    found, largest = set(), precision(case.dtype).largest
    with np.errstate(all="ignore"):
        for array in case.tensors.values():
            if array.dtype.kind in "iub" or not array.size:
                continue
            numbers = np.abs(array.astype(np.float64))
            if (numbers > np.log(largest)).any():
                found.add("exponentials overflow")
            squares = (numbers**2).sum(-1) if numbers.ndim else numbers**2
            if ((squares > 0) & (squares < SMALL_NORM**2)).any():
                found.add("small norms")
            if (squares == 0).any():
                found.add("norms of 0")
            if (squares > np.sqrt(largest)).any():
                found.add("large norms")
    return found


def _marks(case: Case, loss: Loss) -> set[str]:
    """Return the features of tensors with numbers that a formula or kernel may special-case."""
    found, roles = set(), loss.roles(loss.form(case.form))
    dtype = precision(case.dtype)
    near = np.sqrt(dtype.smallest / (2 * dtype.unit))  # squares of smaller numbers are subnormal
    limits = {
        name: value
        for name, value in case.parameters.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for name, array in case.tensors.items():
        if not array.size:
            continue
        role = roles[name]
        numbers = array.astype(np.float64)
        found |= {f"{name} holds {value}" for value in (-1, 0, 1) if (numbers == value).any()}
        found |= {f"{name} below {other}" for other in limits if (numbers < limits[other]).any()}
        if ((numbers != 0) & (np.abs(numbers) < near)).any() and not role.integer:
            found.add(f"{name} near 0")
        if ((numbers == role.low) | (numbers == role.high)).any():
            found.add(f"{name} at an end of its domain")
        if isinstance(role, ClassIndex) and role.ends is not None and (array == role.ends).any():
            found.add(f"{name} ends early")
    return found


def _ignored(case: Case, loss: Loss) -> set[str]:
    """Return the features of the ignored class indices."""
    found = set()
    for name, role in loss.form(case.form).tensors.items():
        if not isinstance(role, ClassIndex) or role.ignored_by is None:
            continue
        ignored = case.tensors[name] == case.parameters[role.ignored_by]
        if ignored.all() and ignored.size:
            found.add("all ignored")
        elif ignored.any():
            found.add("some ignored")
        if ignored.any() and (ignored.ndim == 0 or ignored.flat[0]):
            found.add("leading ignored")
    return found
