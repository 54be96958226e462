"""Named axes of a case: which tensor has which, and parts along one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lossspec.cases.case import Case
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import Distribution
from lossspec.spec.shapes import Shape


def axes_of(loss: Loss, form: Form, contract: Shape, name: str, ndim: int) -> tuple[str, ...]:
    """The contract's names for the axes of one tensor of a call."""
    tensors = list(form.tensors)
    if name in tensors:
        return contract.inputs[tensors.index(name)]
    shape = loss.options[name].shape or ""
    if shape.startswith("("):
        return contract.axes(shape)
    like = contract.inputs[tensors.index(shape.rsplit(" ", 1)[-1])]
    return like[len(like) - ndim :]


def simplex(loss: Loss, case: Case) -> dict[str, int]:
    """For each tensor of a call whose numbers sum to 1 along an axis, that axis."""
    form = loss.form(case.form)
    return {
        name: axes_of(loss, form, case.shape, name, case.tensors[name].ndim).index(loss.classes)
        for name, role in form.tensors.items()
        if isinstance(role, Distribution)
    }


def separable(loss: Loss, case: Case) -> bool:
    """Whether the batch can be cut: `settle` has fitted no tensor without a batch axis."""
    settled = loss.form(case.form).settle is not None
    return not settled or all(loss.batch in axes for axes in case.shape.inputs)


def part_along(loss: Loss, case: Case, axis: str, part: slice | np.ndarray) -> Case:
    """A case with a part of one of the contract's axes, in every tensor that has the axis."""

    def take(array: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
        where = tuple(
            part if name == axis and array.shape[i] > 1 else slice(None)
            for i, name in enumerate(axes)
        )
        return np.array(array[where])

    return each_tensor(loss, case, take)


def each_tensor(
    loss: Loss, case: Case, change: Callable[[np.ndarray, tuple[str, ...]], np.ndarray]
) -> Case:
    """A case with every tensor changed, according to the contract's names for its axes."""
    form, shape = loss.form(case.form), case.shape
    return case.with_(
        tensors={
            name: change(array, axes_of(loss, form, shape, name, array.ndim))
            for name, array in case.tensors.items()
        },
        cotangent=change(case.cotangent, shape.result),
    )
