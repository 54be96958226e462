"""A case: one complete call of a loss, as data."""

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
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.shapes import Shape, written_out

#: How a tensor may lie in memory; `contiguous` first, so that shrinking ends there.
LAYOUTS = ("contiguous", "permuted", "sliced", "pitched", "offset", "expanded", "channels_last")


#: Dtypes that a stored tensor may have.
STORED = (
    *REAL_DTYPES,
    *("complex64", "complex128", "bool", "uint8", "int8", "int16", "int32", "int64"),
)
#: Numbers of a stored tensor, and its axes: as many as the largest call that a clause makes
#: (`LARGE_BATCH_ROOM`), and two more axes than the contract with the most (`spreads`).
MOST_NUMBERS, MOST_AXES = 2**22, 8


@dataclass(frozen=True)
class Case:
    """One complete call of a loss, as data: it prints, serialises and replays bit for bit.

    tensors : by name, numpy arrays in the case's dtype (or an integer one). parameters : every one
    that the form knows. omitted : parameters left out of the call, because they have their default.
    cotangent : in the shape of the unreduced result; `scale` is the one of a reduced result.
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
        """The shape contract, with every axis written out."""
        return written_out(self.contract, self.spread)

    def axis_sizes(self, loss: Loss) -> dict[str, int]:
        """The size of each axis that the contract names."""
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
        """How many parts of the batch its parameters have added up, one after the other."""
        if loss.parts is None:
            return 1
        return max(1, loss.parts(self.axis_sizes(loss), self.parameters))

    def settled(self, loss: Loss) -> Case:
        """The same case with its tensors and parameters made to fit each other, if they did not."""
        form = loss.form(self.form)
        if form.settle is None:
            return self
        tensors = {name: array.copy() for name, array in self.tensors.items()}
        parameters = dict(self.parameters)
        settle_tensors(loss, form, self.shape, np.random.default_rng(0), tensors, parameters)
        return replace(self, tensors=tensors, parameters=parameters)

    def with_(self, **changes: Any) -> Case:
        """The same case with something changed."""
        return replace(self, **changes)

    def upstream(self, reduction: str) -> np.ndarray:
        """The cotangent of the result under a reduction."""
        if reduction == "none":
            return self.cotangent
        return np.asarray(self.scale, self.cotangent.dtype)

    def upstream_layout(self, reduction: str) -> str:
        """How it lies in memory: that of a plain sum is one number for all elements."""
        if reduction == "none" and self.cotangent.size > 1:
            if (self.cotangent == self.cotangent.flat[0]).all():
                return "expanded"
            return "permuted" if self.layouts else "contiguous"
        return "contiguous"

    def to_json(self) -> dict[str, Any]:
        """Plain data, strict JSON: numbers that JSON lacks are strings."""
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
            "parameters": dict(self.parameters),
            "omitted": sorted(self.omitted),
            "reduction": self.reduction,
            "cotangent": listed(self.cotangent),
            "scale": self.scale,
            "requires_grad": list(self.requires_grad),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        """The case that `to_json` wrote, bit for bit; CaseError when it did not write it."""
        _check_stored(data)
        tensors = {name: _array(name, entry) for name, entry in data["tensors"].items()}
        spread = written_out(data["contract"], data["spread"])
        sizes: dict[str, int] = {"1": 1}
        for axes, (name, array) in zip(spread.inputs, tensors.items(), strict=False):
            if len(axes) != array.ndim:
                raise CaseError(f"tensor {name}: got {array.ndim} axes, want ({', '.join(axes)})")
            sizes |= dict(zip(axes, array.shape, strict=True))
        if strange := [axis for axis in spread.result if axis not in sizes]:
            raise CaseError(f"contract: no tensor has the axes {', '.join(strange)}")
        return cls(
            loss=data["loss"],
            form=data["form"],
            contract=data["contract"],
            spread=data["spread"],
            dtype=data["dtype"],
            tensors=tensors,
            parameters=dict(data["parameters"]),
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
                name: entry["layout"]
                for name, entry in data["tensors"].items()
                if entry["layout"] != "contiguous"
            },
            requires_grad=tuple(data["requires_grad"]),
        )


def listed(array: np.ndarray) -> Any:
    """The numbers of an array in lists, what is not finite as a word: as JSON can hold them."""
    if array.dtype.kind in "iub":
        return array.tolist()
    numbers = [x if np.isfinite(x) else str(x) for x in array.astype(np.float64).ravel().tolist()]
    return _nested(numbers, array.shape)


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    step = prod(shape[1:])
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


#: The keys of a stored case with what each holds.
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


def _check_stored(data: Any) -> None:
    """Raise CaseError unless the parts of a stored case are of the right kinds."""
    if not isinstance(data, Mapping):
        raise CaseError(f"got {reprlib.repr(data)}, want an object")
    if missing := [name for name in _STORED_KEYS if name not in data]:
        raise CaseError(f"lacks the keys {', '.join(missing)}")
    for name, kind in _STORED_KEYS.items():
        if not isinstance(data[name], kind):
            raise CaseError(f"{name}: got {reprlib.repr(data[name])}, which is of another kind")
    if not 0 <= data["spread"] <= MOST_AXES:
        raise CaseError(f"spread: got {data['spread']}, want 0 to {MOST_AXES}")
    if data["dtype"] not in STORED:
        raise CaseError(f"dtype: got {data['dtype']!r}, want one of {', '.join(STORED)}")
    for name, value in data["parameters"].items():
        plain = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(x, str | int | float | None) for x in plain):
            raise CaseError(f"parameter {name}: got {reprlib.repr(value)}, want plain data")
    for name, entry in data["tensors"].items():
        if not isinstance(entry, Mapping) or not {"dtype", "shape", "data"} <= set(entry):
            raise CaseError(f"tensor {name}: want an object with dtype, shape and data")
        if entry.get("layout", "contiguous") not in LAYOUTS:
            raise CaseError(f"tensor {name}: got layout {reprlib.repr(entry['layout'])}")


def _array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """The array of a stored tensor; CaseError when its data do not fill its shape."""
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in STORED:
        raise CaseError(f"tensor {name}: got dtype {reprlib.repr(dtype)}")
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
            f"tensor {name}: its data are not the numbers of a {dtype} tensor of shape {shape}"
        ) from None


def _flattened(data: Any, axes: int) -> list[Any]:
    """The numbers in nested lists, a level for each axis."""
    if isinstance(data, int | float | str):
        return [float(data) if isinstance(data, str) else data]
    if not isinstance(data, list):
        raise TypeError("not a number")
    if not axes:
        raise ValueError("more levels than axes")
    return [x for item in data for x in _flattened(item, axes - 1)]


def published(loss: Loss, example: Example) -> Case:
    """The call of a published example, in torch's default dtype; ValueError when no shape fits."""
    form = loss.form(example.form)
    roles = loss.roles(form)
    tensors = {
        name: np.array(value, np.int64 if roles[name].integer else np.float32)
        for name, value in example.arguments.items()
    }
    for contract in form.contracts:
        for spread in contract.spreads:
            shape = written_out(contract.text, spread)
            named = list(zip(shape.inputs, map(tensors.__getitem__, form.tensors), strict=True))
            if any(len(axes) != array.ndim for axes, array in named):
                continue
            pairs = [pair for axes, x in named for pair in zip(axes, x.shape, strict=True)]
            sizes = {"1": 1} | dict(pairs)
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
    raise ValueError(f"no shape of {loss.name} fits the example {example.source!r}")


def settle_tensors(
    loss: Loss,
    form: Form,
    shape: Shape,
    rng: np.random.Generator,
    tensors: dict[str, np.ndarray],
    parameters: dict[str, Any],
) -> None:
    """Let the spec make tensors and parameters fit each other, in place.

    SpecError where that raises, or leaves tensors that no call can have.
    """
    assert form.settle is not None
    before = dict(tensors)
    with blaming(loss.name, "settle", before):
        form.settle(rng, tensors, parameters)
    for name, axes in zip(form.tensors, shape.inputs, strict=True):
        array: Any = tensors.get(name)
        if np.ndim(array) != len(axes) or not isinstance(array, np.ndarray):
            raise SpecError(
                f"spec {loss.name!r}: settle left {name} as {type(array).__name__} of shape "
                f"{list(np.shape(array))}; it takes an array with the axes ({', '.join(axes)})"
            )
        if array.dtype != before[name].dtype:
            raise SpecError(
                f"spec {loss.name!r}: settle gave {name} the dtype {array.dtype}; "
                f"it has to keep {before[name].dtype}"
            )
