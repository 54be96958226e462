"""Check what `settle` of a spec leaves: sizes, domains, and the names of the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lossspec.errors import SpecError
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import ClassIndex, Length, Role
from lossspec.spec.shapes import Shape, root


def check_settled(
    loss: Loss,
    form: Form,
    shape: Shape,
    sizes: Mapping[str, int],
    tensors: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Check that the tensors and parameters of a call are valid after `settle` changed them.

    Args:
        loss: The spec of the loss.
        form: The form of the call.
        shape: The shape contract of the call, with every axis written out.
        sizes: The sizes of the axes before `settle`.
        tensors: The tensors by name, after `settle`.
        parameters: The parameters by name, after `settle`.

    Raises:
        SpecError: A size, a number or the name of a parameter is not allowed.
    """
    for problem in _problems(loss, form, shape, sizes, tensors, parameters):
        raise SpecError(f"spec {loss.name!r}: settle {problem}")


def _problems(
    loss: Loss,
    form: Form,
    shape: Shape,
    sizes: Mapping[str, int],
    tensors: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> Iterator[str]:
    """Yield what `settle` broke, as the end of a sentence."""
    if strange := [name for name in tensors if name not in form.tensors]:
        yield f"set the tensor {strange[0]!r}, which the form lacks; it may change tensors in place"
    known = loss.parameters_of(form)
    if strange := [name for name in parameters if name not in known]:
        allowed = ", ".join(map(repr, known)) or "none"
        yield f"set the parameter {strange[0]!r}; known: {allowed}"
    found = dict(shape.fixed)
    of = dict.fromkeys(found, "the contract")
    for name, axes in zip(form.tensors, shape.inputs, strict=True):
        for axis, size in zip(map(root, axes), tensors[name].shape, strict=True):
            kept = sizes[axis] if axis in shape.result else size
            if found.setdefault(axis, kept) != size or kept != size:
                known_by = "the drawn call" if kept != size else of[axis]
                yield (
                    f"gave {name} the shape {list(tensors[name].shape)}, so the axis {axis!r} of "
                    f"{shape.text!r} has size {size}, but {found[axis]} in {known_by}; keep the "
                    "sizes of the axes"
                )
            of.setdefault(axis, name)
    if not loss.allows(form, shape.with_tied(found), parameters):
        said = ", ".join(f"{axis} = {size}" for axis, size in found.items() if axis != "1")
        given = "".join(f", {name} = {value!r}" for name, value in parameters.items())
        yield f"left sizes that Form.sizes does not allow: {said}{given}; keep to the sizes"
    for (name, role), axes in zip(form.tensors.items(), shape.inputs, strict=True):
        wrong = ~_allowed(role, tensors[name], axes, {**sizes, **found}, parameters)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            yield (
                f"set {name} to numbers that {type(role).__name__} does not allow, such as "
                f"{tensors[name][at]}{f' at {list(at)}' if at else ''}; keep to the domain of the "
                "role, or give the tensor another role"
            )


def _allowed(
    role: Role,
    array: np.ndarray,
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    parameters: Mapping[str, Any],
) -> np.ndarray:
    """Return which numbers a role allows after `settle`, which may also write negative marks."""
    if isinstance(role, ClassIndex):
        if role.classes not in sizes:
            return np.ones(array.shape, bool)
        return np.asarray(role.allows(array, sizes[role.classes], parameters) | (array < 0))
    if isinstance(role, Length):
        return np.asarray((array >= 0) & (array <= sizes[role.of]))
    if isinstance(role, Constrained):
        return role.holds(array, role.axis(axes))
    numbers = array.astype(np.float64)
    return np.asarray(role.contains(numbers) | ~np.isfinite(numbers))
