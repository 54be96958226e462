"""Which rows of a case are marked as ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lossspec.spec.loss import Form
from lossspec.spec.roles import ClassIndex
from lossspec.spec.shapes import Shape


def ignored_rows(
    form: Form, shape: Shape, tensors: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
) -> Iterator[np.ndarray]:
    """Which elements of the first tensor lead to ignored elements only, where some are ignored."""
    for name, role in form.tensors.items():
        if not isinstance(role, ClassIndex) or role.ignored_by is None:
            continue
        ignored = tensors[name] == parameters[role.ignored_by]
        if not ignored.any():
            continue
        axes, target_axes = shape.inputs[0], shape.inputs[list(form.tensors).index(name)]
        mask = ignored.all(tuple(i for i, axis in enumerate(target_axes) if axis not in axes))
        for i, axis in enumerate(axes):
            if axis not in target_axes:
                mask = np.expand_dims(mask, i)
        yield mask
