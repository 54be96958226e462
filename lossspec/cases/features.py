"""The features of a case, in words that known deviations can name."""

from __future__ import annotations

import numpy as np

from lossspec.cases.case import Case
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex


def features(case: Case, loss: Loss | None = None) -> frozenset[str]:
    """What a case has that a bug may need, in words; deviations files use them.

    loss : the spec of the case; the one of the catalogue when it is left out.
    """
    loss = catalogue()[case.loss] if loss is None else loss
    found = {f"{name} {layout}" for name, layout in case.layouts.items()}
    found |= {f"with {name}" for name in list(case.tensors)[len(case.shape.inputs) :]}
    return frozenset(found | _shape_features(case, loss) | _numbers(case) | _ignored(case, loss))


def _shape_features(case: Case, loss: Loss) -> set[str]:
    """Say which axes a case has, and how long they are."""
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
    """Say what is special about the numbers of a case."""
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


def _ignored(case: Case, loss: Loss) -> set[str]:
    """Say which class indices of a case are marked as ignored."""
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
