"""Workloads: the default calls of a given size that are timed, derived from a loss's spec."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any, TypeVar

from lossspec.cases.case import Case
from lossspec.cases.draw import drawn
from lossspec.spec.loss import AnySize, Form, Loss
from lossspec.spec.roles import ClassIndex, Distribution
from lossspec.spec.shapes import Shape, written_out

T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """The size of a workload.

    Attributes:
        name: The name of the size in reports, such as `large`.
        elements: The approximate number of elements of the first tensor, or of the scores that are
            computed from it.
        inner: The size of the axes within a sample.
        classes: The size of the class axis; None for `inner`.
        what: The reason for timing at this size.
    """

    name: str
    elements: int
    inner: int
    classes: int | None
    what: str


#: Factors of the number of elements; an accelerator has more memory and larger caches than a core.
_SCALE = {"cpu": 1}
_ACCELERATOR = 8


def sizes(loss: Loss, device: str) -> list[Size]:
    """Return the sizes at which a loss is timed on a device."""
    scale = _SCALE.get(device.partition(":")[0], _ACCELERATOR)
    found = [
        Size("small", 2**7, 4, None, "the cost of a call"),
        Size("cache", 2**15 * scale, 32, None, "fits a cache"),
        Size("large", 2**20 * scale, 64, None, "beyond the caches of a core"),
    ]
    if has_classes(loss):
        found.append(Size("vocabulary", 2**21 * scale, 64, 2**15, "the classes of a vocabulary"))
    return found


def has_classes(loss: Loss) -> bool:
    """Return whether the targets are classes along an axis of the inputs."""
    form, shape = _form(loss), _shape(loss)
    targets = any(isinstance(role, (ClassIndex, Distribution)) for role in form.tensors.values())
    return targets and any(loss.classes in axes for axes in shape.inputs)


def axes(loss: Loss, size: Size) -> dict[str, int]:
    """Return the size of each axis of the inputs; the batch size follows from the other sizes."""
    form, shape = _form(loss), _shape(loss)
    indices = {name for name, role in form.tensors.items() if role.integer}
    carried = {
        axis
        for name, group in zip(form.tensors, shape.inputs, strict=True)
        for axis in group
        if name not in indices
    }
    found: dict[str, int] = {}
    defaults = {name: p.values[0] for name, p in loss.parameters_of(form).items()}
    known = {**shape.fixed, **loss.counted_by(form, defaults)}
    for axis in shape.core:
        if axis in known:
            found[axis] = known[axis]
        elif axis in shape.tied:
            continue  # it has the size of the axis that it repeats
        elif axis == loss.classes and size.classes is not None:
            found[axis] = size.classes
        else:  # an axis that only indices have is a list of classes, shorter than the class axis
            found[axis] = size.inner if axis in carried else max(1, size.inner // 4)
    first = {axis: found[axis] for axis in (*shape.inputs[0], loss.classes) if axis in found}
    batch, others = _sample_axis(loss, shape), [*shape.result]
    others = [axis for axis in others if axis not in shape.tied]
    found.pop(batch, None)
    first.pop(batch, None)
    rows = max(1, size.elements // prod(first.values()))
    if loss.whole_batch(shape):  # the loss may compare each row with each other row
        rows = isqrt(size.elements)
    elif batch in shape.tied.values():  # the first tensor has the square of the rows
        rows = isqrt(rows)
    return shape.with_tied(dict.fromkeys(others, 1) | found | {batch: max(1, rows)})


def batch_axis(loss: Loss) -> str:
    """Return the axis along which samples, or the elements of an elementwise loss, are counted."""
    return _sample_axis(loss, _shape(loss))


def _sample_axis(loss: Loss, shape: Shape) -> str:
    if loss.whole_batch(shape):
        return loss.batch
    return next(iter(shape.result), "")


def workload(
    loss: Loss, sizes: Mapping[str, int], dtype: str, seed: int, shape: Shape | None = None
) -> Case:
    """Return a default call of a given size, with contiguous tensors and ordinary numbers.

    Every tensor that is learned in training requires a gradient.

    Args:
        loss: The spec of the loss.
        sizes: The sizes of the axes by name; those that follow from others may be left out.
        dtype: The dtype of the real tensors.
        seed: The seed of the numbers.
        shape: A contract of the first form, written out; None for that of a batch.
    """
    case = drawn(_Plain(loss, sizes, seed, shape or _shape(loss)), loss, (dtype,))
    # Training needs no gradient of data, even if the loss is differentiable by it.
    roles = loss.roles(_form(loss))
    learned = tuple(name for name in case.requires_grad if roles[name].learned)
    return case.with_(requires_grad=learned or case.requires_grad[:1])


def of_several_axes(loss: Loss) -> Shape | None:
    """Return a contract of the first form whose result has several axes, as few as possible."""
    shapes = (written_out(c.text, n) for c in _form(loss).contracts for n in c.spreads)
    several = (shape for shape in shapes if len(shape.result) > 1)
    return min(several, key=lambda shape: len(shape.result), default=None)


def _form(loss: Loss) -> Form:
    return loss.forms[0]


def _shape(loss: Loss) -> Shape:
    """Return the shape contract of a batch, with the fewest wildcard axes but at least one."""
    contracts = _form(loss).contracts
    free = (c for c in contracts if "*" in c.result or (loss.batched(c) and "d*" not in c.result))
    contract = next(free, contracts[0])
    return written_out(contract.text, max(1, min(contract.spreads)))


#: The styles of ordinary numbers; a role without any of them takes its first style.
_ORDINARY = ("normal", "softmax", "uniform", "small", "ones")


@dataclass
class _Plain:
    """The choices of a default call, for `lossspec.cases.draw.drawn`.

    Attributes:
        loss: The spec of the loss.
        sizes: The wanted sizes of the axes by name.
        start: The seed of the numbers.
        shape: The shape contract, written out.
    """

    loss: Loss
    sizes: Mapping[str, int]
    start: int
    shape: Shape

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """Return the choice of a workload where it has one, and the first option otherwise."""
        first: Any = options[0]
        under_test, _, name = what.partition(" of ")
        if under_test == "contract":
            first = next(c for c in _form(self.loss).contracts if c.text == self.shape.text)
        elif what == "spread":
            first = next((spread for spread in options if spread == self.shape.spread), first)
        elif under_test == "size":
            first = self._size(name, options)
        elif under_test == "style":
            first = next((style for style in options if style in _ORDINARY), first)
        elif what == "reduction":
            first = self.loss.reductions[0]
        elif what.endswith(" left out"):
            first = True
        chosen: T = first
        return chosen

    def _size(self, axis: str, options: Sequence[Any]) -> Any:
        """Return the wanted size, or the nearest one that the spec allows."""
        wanted = self.sizes.get(axis, options[0])
        rule = _form(self.loss).sizes.get(axis)
        # A rule of the spec may exclude sizes that no list of sizes names.
        ruled = any(refusal.rule is not None for refusal in self.loss.refusals)
        if rule is None or callable(rule) or (isinstance(rule, AnySize) and not ruled):
            return wanted
        return min(rule, key=lambda size: abs(size - wanted))

    def seed(self) -> int:
        """Return a seed that depends only on the loss and on `start`."""
        return zlib.crc32(f"{self.loss.name} {self.start}".encode())
