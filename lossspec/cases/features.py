"""The features of a case, in words that known deviations can name."""

from __future__ import annotations

import numpy as np

from lossspec.cases.case import Case


def features(case: Case) -> frozenset[str]:
    """What a case has that a bug may need, in words; deviations files use them."""
    found = {f"{name} {layout}" for name, layout in case.layouts.items()}
    found |= {f"with {name}" for name in list(case.tensors)[len(case.shape.inputs) :]}
    first = next(iter(case.tensors.values()))
    found.add(f"{first.ndim}-d")
    shape = case.shape
    if "N" not in shape.result and shape.core:
        found.add("no batch")
    if case.spread and shape.core:
        found.add("k-d")
    if any(array.size == 0 for array in case.tensors.values()):
        found.add("empty")
    if first.shape and first.shape[0] > 64:
        found.add("many rows")
    if first.ndim > 1 and len(set(first.shape)) == 1 and first.shape[0] > 1:
        found.add("square")
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
    for target in case.tensors.values():
        if target.dtype.kind in "iu" and "ignore_index" in case.parameters:
            ignored = target == case.parameters["ignore_index"]
            if ignored.all() and ignored.size:
                found.add("all ignored")
            elif ignored.any():
                found.add("some ignored")
            if ignored.any() and (ignored.ndim == 0 or ignored.flat[0]):
                found.add("leading ignored")
    return frozenset(found)
