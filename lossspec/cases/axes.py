"""The named axes of a case: which tensor has which axes, and parts of a case along one axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lossspec.cases.case import Case
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import Distribution
from lossspec.spec.shapes import Shape, root


def axes_of(loss: Loss, form: Form, contract: Shape, name: str, ndim: int) -> tuple[str, ...]:
    """Return the contract's names for the axes of one tensor of a call.

    Args:
        loss: The spec of the loss.
        form: The form of the call.
        contract: The shape contract of the call, with every axis written out.
        name: The name of the tensor.
        ndim: The number of axes of the tensor; only optional tensors that broadcast need it.
    """
    tensors = list(form.tensors)
    if name in tensors:
        return contract.inputs[tensors.index(name)]
    shape = loss.options[name].shape or ""
    if shape.startswith("("):
        return contract.axes(shape)
    like = contract.inputs[tensors.index(shape.rsplit(" ", 1)[-1])]
    return like[len(like) - ndim :]


def simplex(loss: Loss, case: Case) -> dict[str, int]:
    """Return the class axis of each tensor of a case whose numbers sum to 1 along it."""
    form = loss.form(case.form)
    return {
        name: axes_of(loss, form, case.shape, name, case.tensors[name].ndim).index(loss.classes)
        for name, role in form.tensors.items()
        if isinstance(role, Distribution)
    }


def separable(loss: Loss, case: Case) -> bool:
    """Return whether a part of the batch is a valid case.

    It is not if the form has `settle` and some tensor has no batch axis: `settle` may have adjusted
    that tensor to the whole batch. Nor is it if an axis is tied to the batch, as in `(N, N)`: then
    each row refers to all rows. The same holds for a role that restricts the numbers of all rows
    together, as sorted values of the batch.
    """
    form = loss.form(case.form)
    if loss.batch in case.shape.tied.values():
        return False
    for role, axes in zip(form.tensors.values(), case.shape.inputs, strict=True):
        at = role.axis(axes) if isinstance(role, Constrained) else None
        if at is not None and axes[at] == loss.batch:
            return False
    settled = form.settle is not None
    return not settled or all(loss.batch in axes for axes in case.shape.inputs)


def part_along(
    loss: Loss, case: Case, axis: str, part: slice | np.ndarray, *, alone: bool = False
) -> Case:
    """Return a case with a part of one axis, in every tensor that has the axis.

    Args:
        loss: The spec of the loss.
        case: The whole case.
        axis: The contract's name for the axis.
        part: The part of the axis, as a slice or as an array of indices.
        alone: Whether the axes that are tied to it stay whole. Then the result is no valid call.
    """

    def take(array: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
        where = tuple(
            part if array.shape[i] > 1 and (name if alone else root(name)) == axis else slice(None)
            for i, name in enumerate(axes)
        )
        for i, index in enumerate(where):  # two arrays of indices at once would take a diagonal
            array = array[(slice(None),) * i + (index,)]
        return np.array(array)

    known = loss.parameters_of(loss.form(case.form))
    counted = {
        name: tuple(np.asarray(value)[part].tolist())
        for name, value in case.parameters.items()
        if name in known and known[name].along == axis
    }
    return each_tensor(loss, case, take).with_(
        parameters={**case.parameters, **counted}, omitted=case.omitted - counted.keys()
    )


def each_tensor(
    loss: Loss, case: Case, change: Callable[[np.ndarray, tuple[str, ...]], np.ndarray]
) -> Case:
    """Return a case with a function applied to every tensor and to the cotangent.

    Args:
        loss: The spec of the loss.
        case: The case to change.
        change: The function; it receives an array and the contract's names for its axes.
    """
    form, shape = loss.form(case.form), case.shape
    return case.with_(
        tensors={
            name: change(array, axes_of(loss, form, shape, name, array.ndim))
            for name, array in case.tensors.items()
        },
        cotangent=change(case.cotangent, shape.result),
    )
