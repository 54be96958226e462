"""One complete call of a loss, as data."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from lossspec.dtypes import REAL_DTYPES, dtype_name, precision
from lossspec.errors import CaseError, SpecError, blaming
from lossspec.spec.loss import AnySize, Example, Form, Loss
from lossspec.spec.refusals import Refusal
from lossspec.spec.shapes import Shape, root, written_out

#: The memory layouts of a tensor; `contiguous` is first, so that shrinking ends there.
LAYOUTS = ("contiguous", "permuted", "sliced", "pitched", "offset", "expanded", "channels_last")
#: The layouts that are not drawn; a clause gives them to the tensors of a drawn case.
UNDRAWN_LAYOUTS = ("swapped", "gapped")


#: Dtypes that a stored tensor may have.
STORED = (
    *REAL_DTYPES,
    *("complex64", "complex128", "bool", "uint8", "int8", "int16", "int32", "int64"),
)
#: The most numbers and the most axes of a stored tensor. The largest tensor of a clause has a
#: quarter of the numbers (`LARGE_BATCH_NUMBERS`); the longest contract (`spreads`) has two axes
#: less.
MOST_NUMBERS, MOST_AXES = 2**22, 8


@dataclass(frozen=True)
class Case:
    """One complete call of a loss as data, which can be printed, stored and repeated bit for bit.

    Attributes:
        loss: The name of the loss.
        form: The name of the form of the call.
        contract: The shape contract, such as `(N, C), (N) -> (N)`.
        spread: The number of axes that `*` stands for in the contract.
        dtype: The dtype of the real tensors and of the cotangent, such as `float32`.
        tensors: The arrays by name, in the case's dtype or in an integer dtype.
        parameters: The values of all parameters of the form, by name.
        reduction: The reduction of the call, such as `mean`.
        cotangent: The cotangent of an unreduced result, of its shape.
        scale: The cotangent of a reduced result.
        omitted: The parameters that the call leaves out; each has its default value.
        layouts: The memory layout of each tensor that is not contiguous, one of `LAYOUTS`.
        requires_grad: The names of the tensors that require a gradient.
    """

    loss: str
    form: str
    contract: str
    spread: int
    dtype: str
    tensors: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]
    reduction: str
    cotangent: np.ndarray
    scale: float = 1.0
    omitted: frozenset[str] = frozenset()
    layouts: Mapping[str, str] = field(default_factory=dict)
    requires_grad: tuple[str, ...] = ()

    @cached_property
    def shape(self) -> Shape:
        """Return the shape contract, with every axis written out."""
        return written_out(self.contract, self.spread)

    def axis_sizes(self, loss: Loss) -> dict[str, int]:
        """Return the size of each axis that the contract names."""
        sizes: dict[str, int] = {}
        form = loss.form(self.form)
        for name, axes in zip(form.tensors, self.shape.inputs, strict=True):
            sizes |= dict(zip(axes, self.tensors[name].shape, strict=True))
        for axis, rule in form.sizes.items():
            if callable(rule) and axis not in sizes:
                with blaming(self.loss, f"sizes[{axis!r}]", sizes=sizes):
                    sizes[axis] = rule(sizes, self.parameters)
        return sizes

    def parts(self, loss: Loss) -> int:
        """Return the number of parts of the batch that the loss adds up in sequence."""
        if loss.parts is None:
            return 1
        return max(1, loss.parts(self.axis_sizes(loss), self.parameters))

    def settled(self, loss: Loss) -> Case:
        """Return the same case after the `settle` function of its form, if it has one."""
        form = loss.form(self.form)
        if form.settle is None:
            return self
        tensors = {name: array.copy() for name, array in self.tensors.items()}
        parameters = dict(self.parameters)
        settle_tensors(loss, form, self.shape, np.random.default_rng(0), tensors, parameters)
        return replace(self, tensors=tensors, parameters=parameters)

    def broken_rule(self, loss: Loss) -> Refusal | None:
        """Return the first refusal of the spec whose rule the call breaks; None if it is valid."""
        return loss.broken_rule(self.tensors, self.parameters) if loss.refusals else None

    def with_(self, **changes: Any) -> Case:
        """Return the same case with other values for some of its attributes."""
        return replace(self, **changes)

    def upstream(self, reduction: str) -> np.ndarray:
        """Return the cotangent of the result under a reduction."""
        if reduction == "none":
            return self.cotangent
        return np.asarray(self.scale, self.cotangent.dtype)

    def upstream_layout(self, reduction: str) -> str:
        """Return the memory layout of the cotangent.

        A cotangent with equal elements is expanded from one number, as the backward of `sum` does.
        One that is equal along some axes is expanded along these (`even`), as by a sum over them.
        """
        if reduction == "none" and self.cotangent.size > 1:
            if (self.cotangent == self.cotangent.flat[0]).all():
                return "expanded"
            if any(_even(self.cotangent, axis) for axis in range(self.cotangent.ndim)):
                return "even"
            return "permuted" if self.layouts else "contiguous"
        return "contiguous"

    def to_json(self) -> dict[str, Any]:
        """Return the case as data for strict JSON; nan and infinities are strings."""
        return {
            "loss": self.loss,
            "form": self.form,
            "contract": self.contract,
            "spread": self.spread,
            "dtype": self.dtype,
            "tensors": {
                name: {
                    "dtype": dtype_name(array),
                    "shape": list(array.shape),
                    "layout": self.layouts.get(name, "contiguous"),
                    "data": listed(array),
                }
                for name, array in self.tensors.items()
            },
            "parameters": {n: _stored(value) for n, value in self.parameters.items()},
            "omitted": sorted(self.omitted),
            "reduction": self.reduction,
            "cotangent": listed(self.cotangent),
            "scale": self.scale,
            "requires_grad": list(self.requires_grad),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        """Return the case that `to_json` wrote, bit for bit.

        Args:
            data: The stored case.

        Raises:
            CaseError: If `to_json` cannot have written the data.
        """
        _check_stored(data)
        tensors = {name: _array(name, entry) for name, entry in data["tensors"].items()}
        spread = written_out(data["contract"], data["spread"])
        sizes = dict(spread.fixed)
        for axes, (name, array) in zip(spread.inputs, tensors.items(), strict=False):
            if len(axes) != array.ndim:
                wanted = ", ".join(map(root, axes))
                raise CaseError(f"tensor {name}: got {array.ndim} axes, want the axes ({wanted})")
            sizes |= dict(zip(axes, array.shape, strict=True))
        if strange := [axis for axis in spread.result if axis not in sizes]:
            raise CaseError(
                f"contract: got the axes {', '.join(map(root, strange))} in the result, "
                "want only axes of the tensors"
            )
        return cls(
            loss=data["loss"],
            form=data["form"],
            contract=data["contract"],
            spread=data["spread"],
            dtype=data["dtype"],
            tensors=tensors,
            parameters={n: _unstored(value) for n, value in data["parameters"].items()},
            reduction=data["reduction"],
            cotangent=_array(
                "cotangent",
                {
                    "dtype": data["dtype"],
                    "shape": [sizes[axis] for axis in spread.result],
                    "data": data["cotangent"],
                },
            ),
            scale=data["scale"],
            omitted=frozenset(data["omitted"]),
            layouts={
                name: layout
                for name, entry in data["tensors"].items()
                if (layout := entry.get("layout", "contiguous")) != "contiguous"
            },
            requires_grad=tuple(data["requires_grad"]),
        )


def _even(array: np.ndarray, axis: int) -> bool:
    """Return whether an axis has several elements and all numbers are equal along it."""
    return array.shape[axis] > 1 and bool((array == array.take([0], axis)).all())


def _stored(parameter: Any) -> Any:
    """Return a parameter for strict JSON; an infinite number becomes `{"float": "inf"}`."""
    if isinstance(parameter, float) and not np.isfinite(parameter):
        return {"float": str(parameter)}
    return parameter


def _unstored(stored: Any) -> Any:
    """Return a parameter of a stored case; an array becomes a tuple."""
    if isinstance(stored, Mapping):
        return float(stored["float"])
    return tuple(stored) if isinstance(stored, list) else stored


def listed(array: np.ndarray) -> Any:
    """Return the numbers of an array in nested lists; nan and infinities become strings."""
    if array.dtype.kind in "iub":
        return array.tolist()
    numbers = [x if np.isfinite(x) else str(x) for x in array.astype(np.float64).ravel().tolist()]
    return _nested(numbers, array.shape)


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    step = prod(shape[1:])
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


#: The type that a stored case holds under each key.
_STORED_KEYS: dict[str, type | tuple[type, ...]] = {
    "loss": str,
    "form": str,
    "contract": str,
    "spread": int,
    "dtype": str,
    "tensors": Mapping,
    "parameters": Mapping,
    "omitted": list,
    "reduction": str,
    "cotangent": (list, int, float, str),
    "scale": (int, float),
    "requires_grad": list,
}
#: The JSON name of each of these types, for messages.
_TYPE_NAMES: dict[type | tuple[type, ...], str] = {
    str: "a string",
    int: "an integer",
    Mapping: "an object",
    list: "an array",
    (list, int, float, str): "numbers",
    (int, float): "a number",
}


def _check_stored(data: Any) -> None:
    """Raise CaseError unless the parts of a stored case have the right types."""
    if not isinstance(data, Mapping):
        raise CaseError(f"got {reprlib.repr(data)}, want an object")
    if missing := [name for name in _STORED_KEYS if name not in data]:
        raise CaseError(f"lacks the keys {', '.join(missing)}")
    for name, kind in _STORED_KEYS.items():
        if not isinstance(data[name], kind):
            raise CaseError(f"{name}: got {reprlib.repr(data[name])}, want {_TYPE_NAMES[kind]}")
    if not 0 <= data["spread"] <= MOST_AXES:
        raise CaseError(f"spread: got {data['spread']}, want 0 to {MOST_AXES}")
    if data["dtype"] not in STORED:
        raise CaseError(f"dtype: got {data['dtype']!r}, want one of {', '.join(STORED)}")
    for name, value in data["parameters"].items():
        if isinstance(value, Mapping) and value.get("float") in ("inf", "-inf", "nan"):
            continue
        plain = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(x, str | int | float | None) for x in plain):
            raise CaseError(
                f"parameter {name}: got {reprlib.repr(value)}, "
                "want a number, a string, null or an array of them"
            )
    for name, entry in data["tensors"].items():
        if not isinstance(entry, Mapping) or not {"dtype", "shape", "data"} <= set(entry):
            raise CaseError(f"tensor {name}: want an object with dtype, shape and data")
        if entry.get("layout", "contiguous") not in (*LAYOUTS, *UNDRAWN_LAYOUTS):
            raise CaseError(
                f"tensor {name}: got layout {reprlib.repr(entry['layout'])}, "
                f"want one of {', '.join((*LAYOUTS, *UNDRAWN_LAYOUTS))}"
            )


def _array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """Return the array of a stored tensor; raise CaseError if its data do not fill its shape."""
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in STORED:
        raise CaseError(
            f"tensor {name}: got dtype {reprlib.repr(dtype)}, want one of {', '.join(STORED)}"
        )
    sizes = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or len(shape) > MOST_AXES or prod(max(1, n) for n in shape) > MOST_NUMBERS:
        raise CaseError(
            f"tensor {name}: got shape {reprlib.repr(shape)}, want at most {MOST_AXES} axes and "
            f"{MOST_NUMBERS:,} numbers"
        )
    floats = dtype.startswith(("float", "bfloat"))
    numpy = precision(dtype).numpy if floats else np.dtype(dtype)
    try:
        numbers = _flattened(entry["data"], len(shape))
        flat = np.array(numbers, dtype=np.float64 if floats else numpy)
        return flat.astype(numpy).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise CaseError(
            f"tensor {name}: got data that do not fit, want arrays of {dtype} numbers in the shape "
            f"{shape}"
        ) from None


def _flattened(data: Any, axes: int) -> list[Any]:
    """Return the numbers in nested lists, with one level for each axis."""
    if isinstance(data, int | float | str):
        return [float(data) if isinstance(data, str) else data]
    if not isinstance(data, list):
        raise TypeError("not a number")
    if not axes:
        raise ValueError("more levels than axes")
    return [x for item in data for x in _flattened(item, axes - 1)]


def published(loss: Loss, example: Example) -> Case:
    """Return the call of a published example, in torch's default dtype.

    Args:
        loss: The spec of the loss.
        example: The example.

    Raises:
        ValueError: If the arrays of the example fit no shape contract of the loss.
    """
    form = loss.form(example.form)
    roles = loss.roles(form)
    tensors = {
        name: np.array(value, roles[name].dtypes[0] if roles[name].integer else np.float32)
        for name, value in example.arguments.items()
    }
    for contract in form.contracts:
        for spread in contract.spreads:
            shape = written_out(contract.text, spread)
            named = list(zip(shape.inputs, map(tensors.__getitem__, form.tensors), strict=True))
            if any(len(axes) != array.ndim for axes, array in named):
                continue
            pairs = [pair for axes, x in named for pair in zip(axes, x.shape, strict=True)]
            sizes = shape.with_tied({**dict(pairs), **shape.fixed})
            if any(sizes[axis] != size for axis, size in pairs):
                continue
            parameters = {n: p.values[0] for n, p in loss.parameters_of(form).items()}
            return Case(
                loss=loss.name,
                form=form.name,
                contract=contract.text,
                spread=spread,
                dtype="float32",
                tensors=tensors,
                parameters=parameters | dict(example.parameters),
                reduction=example.reduction,
                cotangent=np.ones([sizes[axis] for axis in shape.result], np.float32),
                omitted=frozenset(parameters.keys() - {*example.parameters, *form.fixed}),
            )
    raise ValueError(
        f"no shape contract of {loss.name} fits the arrays of the example {example.source!r}"
    )


def settle_tensors(
    loss: Loss,
    form: Form,
    shape: Shape,
    rng: np.random.Generator,
    tensors: dict[str, np.ndarray],
    parameters: dict[str, Any],
) -> None:
    """Adjust tensors and parameters to each other in place, with `settle` of the form.

    Args:
        loss: The spec of the loss.
        form: The form of the call; it must have a `settle` function.
        shape: The shape contract of the call, with every axis written out.
        rng: The generator that `settle` draws numbers from.
        tensors: The arrays by name.
        parameters: The values of the parameters by name.

    Raises:
        SpecError: If `settle` raises, or changes the dtype or the number of axes of a tensor.
    """
    assert form.settle is not None
    before = dict(tensors)
    with blaming(loss.name, "settle", before):
        form.settle(rng, tensors, parameters)
    for name, axes in zip(form.tensors, shape.inputs, strict=True):
        array: Any = tensors.get(name)
        if isinstance(array, np.generic):  # numpy's functions make one of an array without axes
            array = tensors[name] = np.asarray(array)
        if np.ndim(array) != len(axes) or not isinstance(array, np.ndarray):
            wanted = ", ".join(map(root, axes))
            raise SpecError(
                f"spec {loss.name!r}: settle set {name} to {type(array).__name__} of shape "
                f"{list(np.shape(array))}; it must be an array with the axes ({wanted})"
            )
        if array.dtype != before[name].dtype:
            raise SpecError(
                f"spec {loss.name!r}: settle set {name} to the dtype {array.dtype}; "
                f"it must keep {before[name].dtype}"
            )
    _check_settled_sizes(loss, form, shape, before, tensors, parameters)


def _check_settled_sizes(
    loss: Loss,
    form: Form,
    shape: Shape,
    before: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Raise SpecError if `settle` has made the size of an axis one that the spec excludes.

    Args:
        loss: The spec of the loss.
        form: The form of the call.
        shape: The shape contract of the call, with every axis written out.
        before: The arrays by name, before `settle`.
        tensors: The arrays by name, after `settle`.
        parameters: The values of the parameters by name, after `settle`.
    """

    def wrong(name: str, axis: str, allowed: str) -> SpecError:
        return SpecError(
            f"spec {loss.name!r}: settle changed {name} from the shape {list(before[name].shape)} "
            f"to {list(tensors[name].shape)}; {allowed}; make settle keep the size of {axis}"
        )

    sizes: dict[str, int] = {"1": 1}
    for name, axes in zip(form.tensors, shape.inputs, strict=True):
        for axis, size, old in zip(axes, tensors[name].shape, before[name].shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise wrong(name, axis, f"the other tensors have the size {sizes[axis]} of {axis}")
            rule = form.sizes.get(axis)
            listed = () if rule is None or callable(rule) or isinstance(rule, AnySize) else rule
            if listed and size not in listed:
                numbers = " or ".join(map(str, listed))
                raise wrong(name, axis, f"sizes allows {numbers} for the axis {axis}")
            if size != old and axis in shape.result:
                raise wrong(name, axis, f"the result has the axis {axis}, whose size is {old}")
    for axis, rule in form.sizes.items():
        if callable(rule) and axis in sizes:
            with blaming(loss.name, f"sizes[{axis!r}]", sizes=sizes):
                allowed = rule(sizes, parameters)
            if sizes[axis] != allowed:
                name = next(n for n, a in zip(form.tensors, shape.inputs, strict=True) if axis in a)
                raise wrong(name, axis, f"sizes computes {allowed} for the axis {axis}")
