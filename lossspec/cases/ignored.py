"""The rows of a case that are marked as ignored."""

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
    """Yield a mask of the first tensor for each tensor of class indices with ignored elements.

    The mask is true where an element of the first tensor contributes to ignored elements only. It
    has as many axes as the first tensor, and size 1 along those that the class indices lack.

    Args:
        form: The form of the call.
        shape: The shape contract, with every axis written out.
        tensors: The arrays by name.
        parameters: The values of the parameters by name.

    Yields:
        An array of booleans.
    """
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
