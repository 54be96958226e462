"""Find the form and the shape contract of a call that is given as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossspec.cases.axes import axes_of
from lossspec.spec.constrained import Mask
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import Role
from lossspec.spec.shapes import Shape, root, written_out


def fit(
    loss: Loss,
    arrays: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
    forms: Sequence[Form] | None = None,
) -> tuple[Form, Shape] | None:
    """Return the first form and shape contract that a call fits; None if there is none.

    Args:
        loss: The spec of the loss.
        arrays: The tensors of the call by name.
        parameters: The values of the parameters by name.
        forms: The forms to try; all forms of the loss by default.

    Returns:
        The form, and the contract with every axis written out.
    """
    for form in loss.forms if forms is None else forms:
        if any(parameters.get(name) != value for name, value in form.fixed.items()):
            continue
        for contract in form.contracts:
            for spread in contract.spreads:
                shape = written_out(contract.text, spread)
                if _fits(loss, form, shape, arrays, parameters):
                    return form, shape
    return None


def _fits(
    loss: Loss,
    form: Form,
    shape: Shape,
    arrays: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> bool:
    sizes = dict(shape.fixed)
    for name, role in loss.roles(form).items():
        if name not in arrays:
            if name in form.tensors:
                return False
        elif (name in form.tensors or role.integer) and not _fits_dtype(role, arrays[name]):
            return False
    if arrays.keys() - loss.roles(form).keys():
        return False
    for name, array in arrays.items():
        axes = axes_of(loss, form, shape, name, array.ndim)
        declared = loss.options[name].shape if name in loss.options else None
        if len(axes) != array.ndim:
            return False
        for axis, size in zip(axes, array.shape, strict=True):
            spread = declared is not None and declared.startswith("broadcasts") and size == 1
            if not spread and sizes.setdefault(root(axis), size) != size:
                return False
    return loss.allows(form, sizes, parameters)


def _fits_dtype(role: Role, array: np.ndarray) -> bool:
    """Return whether an array has a dtype of the kind that a role wants."""
    if isinstance(role, Mask) or array.dtype.kind == "b":
        return isinstance(role, Mask) and array.dtype.kind == "b"
    return role.integer == (array.dtype.kind in "iu")
