"""Cases: complete calls as data, and how they are drawn from a spec."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import prod
from random import Random
from typing import Any, Protocol, TypeVar

import numpy as np

from lossspec.budget import precision
from lossspec.spec import (
    REAL_DTYPES,
    ClassIndex,
    Distribution,
    Example,
    Factor,
    Form,
    Length,
    Loss,
    Role,
    Shape,
    SpecError,
    blaming,
    written_out,
)

T = TypeVar("T")

#: How a tensor may lie in memory; `contiguous` first, so that shrinking ends there.
LAYOUTS = ("contiguous", "permuted", "sliced", "pitched", "offset", "expanded", "channels_last")


#: Dtypes that a stored tensor may have.
STORED = (
    *REAL_DTYPES,
    *("complex64", "complex128", "bool", "uint8", "int8", "int16", "int32", "int64"),
)
#: Numbers of a stored tensor, and its axes: as many as the largest call that a clause makes
#: (`ROOM` of `large-batch`), and two more axes than the contract with the most (`spreads`).
MOST_NUMBERS, MOST_AXES = 2**22, 8


class CaseError(ValueError):
    """A stored case that is none; the message says which part of it, and what it should be."""


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
        _settle(loss, form, self.shape, np.random.default_rng(0), tensors, parameters)
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


def dtype_name(array: np.ndarray) -> str:
    """Torch's name for the dtype of an array."""
    return _name_of(array.dtype)


@cache
def _name_of(dtype: Any) -> str:
    return str(dtype)  # numpy takes its time


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


# === dense values =========================================================================

#: Styles of dense values for each role style; the first is the one that shrinking ends at.
STYLES: dict[str, tuple[str, ...]] = {
    "real": ("grid", "normal", "wide", "offset", "tiny", "rows", "logarithmic"),
    "factor": ("grid", "normal", "wide", "offset", "tiny", "rows", "logarithmic"),
    "logit": ("grid", "normal", "wide", "offset", "saturated", "rows", "tiny"),
    "log_probability": ("grid", "normal", "wide", "softmax", "tiny"),
    "probability": ("grid", "uniform", "edges", "binary"),
    "distribution": ("one_hot", "softmax", "sparse", "smooth"),
    "positive": ("grid", "uniform", "logarithmic", "tiny"),
    "non_negative": ("grid", "uniform", "logarithmic", "tiny"),
    "count": ("small", "large", "fractional"),
    "sign": ("sign",),
    "binary": ("binary",),
    "weight": ("grid", "ones", "uniform", "zeros"),
}


def _dense(
    rng: np.random.Generator, role: str, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Float64 values of a style; `axis` is the class axis, if there is one."""
    match role:
        case "real" | "factor" | "logit":
            return _reals(rng, style, shape)
        case "log_probability":
            if style == "softmax" and axis is not None and shape[axis]:
                x = rng.standard_normal(shape) * 3
                return np.asarray(x - np.log(np.exp(x).sum(axis, keepdims=True)))
            return -np.abs(_reals(rng, "normal" if style == "softmax" else style, shape))
        case "probability":
            return _probabilities(rng, style, shape)
        case "distribution":
            return _distributions(rng, style, shape, axis)
        case "positive":
            if style == "uniform":
                return rng.uniform(0.1, 3, shape)
            if style == "grid":
                return rng.integers(1, 9, shape) / 4
            return 10 ** rng.uniform(-6 if style == "tiny" else -3, 2, shape)
        case "non_negative":
            if style == "grid":
                return rng.integers(0, 9, shape) / 4
            if style == "tiny":
                return np.where(rng.random(shape) < 0.2, 0, 10 ** rng.uniform(-9, 0, shape))
            return _dense(rng, "positive", style, shape, axis)
        case "count":
            if style == "fractional":  # about 1 too, where a count starts to be many
                return rng.choice([0.0, 0.25, 0.5, 1 - 2.0**-8, 1.0, 1 + 2.0**-7, 1.5, 2.5], shape)
            return rng.integers(0, 4 if style == "small" else 60, shape).astype(float)
        case "sign":
            return rng.choice([-1.0, 1.0], shape)
        case "binary":
            return rng.choice([0.0, 1.0], shape)
        case "weight":
            if style == "uniform":
                return rng.uniform(0.05, 3, shape)
            if style == "ones":
                return np.ones(shape)
            grid = [0.0, 0.0, 2.0] if style == "zeros" else [0.5, 1.0, 2.0, 3.0, 0.0]
            return rng.choice(grid, shape)
    raise ValueError(f"no dense values for role style {role!r}; known: {', '.join(STYLES)}")


def _reals(rng: np.random.Generator, style: str, shape: tuple[int, ...]) -> np.ndarray:
    match style:
        case "grid":
            return rng.integers(-8, 9, shape) / 4
        case "wide":
            return rng.standard_normal(shape) * rng.choice([30.0, 300.0])
        case "offset":
            return rng.standard_normal(shape) + rng.choice([50.0, -1e3, 1e4, 1e8])
        case "saturated":
            return rng.choice([-1.0, 1.0], shape) * rng.uniform(12, 120, shape)
        case "tiny":
            return rng.standard_normal(shape) * rng.choice([1e-3, 1e-8])
        case "rows":
            scale = 10 ** rng.uniform(-3, 3, (*shape[:1], *(1 for _ in shape[1:])))
            return rng.standard_normal(shape) * scale
        case "logarithmic":
            return rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-6, 4, shape)
        case _:
            return rng.standard_normal(shape)


def _probabilities(rng: np.random.Generator, style: str, shape: tuple[int, ...]) -> np.ndarray:
    match style:
        case "uniform":
            return rng.uniform(0, 1, shape)
        case "edges":
            near = 2.0 ** -rng.integers(1, rng.choice([12, 40, 160]), shape).astype(float)
            return np.where(rng.random(shape) < 0.5, near, 1 - near)
        case "binary":
            return rng.integers(0, 2, shape).astype(float)
        case _:
            return rng.integers(0, 5, shape) / 4


def _distributions(
    rng: np.random.Generator, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    axis = axis or 0
    scores = rng.standard_normal(shape)
    if shape[axis] == 0:
        return scores
    if style in ("one_hot", "smooth"):
        certain = (scores == scores.max(axis, keepdims=True)).astype(float)
        return certain if style == "one_hot" else 0.75 * certain + 0.25 / shape[axis]
    soft = np.exp(scores * 2)
    if style == "sparse":
        few = np.where(rng.random(shape) < 0.4, 0, soft)
        soft = np.where(few.sum(axis, keepdims=True) > 0, few, soft)
    return np.asarray(soft / soft.sum(axis, keepdims=True))


def _cast(values: np.ndarray, role: Role, dtype: str) -> np.ndarray:
    """Into the case's dtype, finite and inside the role's domain."""
    info = precision(dtype)
    largest = info.largest / 8
    low, high = max(role.low, -largest), min(role.high, largest)
    with np.errstate(all="ignore"):
        if isinstance(role, Factor):
            limit = (32 * info.unit) ** (-1 / role.count)
            values = values * min(1.0, limit / max(np.abs(values).max(initial=0), limit))
        cast = np.clip(values, low, high).astype(info.numpy)
        if role.style == "positive":
            cast = np.where(cast > 0, cast, info.numpy(info.smallest * 2**10)).astype(info.numpy)
    return np.asarray(cast)


# === structure ============================================================================

_KINDS = (
    *(["small"] * 3 + ["distinct"] * 2 + ["square"] * 2 + ["empty"] * 2),
    *("ones", "rows", "wide"),
)
#: More than whole blocks of them, by one or a few.
_ROWS = (67, 257, 1025, 4099)
_SOME_ROWS = (5, 9, 17, 33, 65, 131)
#: More features or classes than a byte counts.
_WIDE = 131
_TIES = ("none", "none", "some", "all", "threshold")
_IGNORED = ("none", "some", "some", "leading", "all")
_FILLS = ("plain", "plain", "nan", "inf", "-inf", "large")


_EITHER = (False, True)
_SELDOM = (False, False, False, False, False, True)


class Choices(Protocol):
    """Where the structure of a case comes from: `choose("layout of input", LAYOUTS)`."""

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """One of the options, the first being the simplest."""

    def seed(self) -> int:
        """What dense values are made from."""


class Dealt:
    """Choices dealt from shuffled decks, one for each kind of choice.

    Of n options each comes up once in every n choices of its kind, so that a short stream has seen
    them all, and the stream depends on nothing but the name that it is shuffled by.
    """

    def __init__(self, name: str) -> None:
        self._random = Random(name)
        self._decks: dict[tuple[str, int], list[int]] = {}

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """The next card of the deck of this kind of choice."""
        if len(options) == 1:
            return options[0]
        deck = self._decks.setdefault((what, len(options)), [])
        if not deck:
            # Several packs of few cards: two options that took turns would pair up with others.
            deck += list(range(len(options))) * max(1, 6 // len(options))
            self._random.shuffle(deck)
        return options[deck.pop()]

    def seed(self) -> int:
        """A new number each time."""
        return self._random.getrandbits(32)


def drawn(choose: Choices, loss: Loss, dtypes: tuple[str, ...] | None = None) -> Case:
    """A valid call of a loss: structure from `choose`, dense values in bulk from a seed."""
    form = choose("form", loss.forms)
    known = loss.parameters_of(form)
    # Fast paths are for the plain call: a batch, and nothing but one thing that is not default.
    plain = choose("plain", _SELDOM)
    besides = choose(f"plain but for, {form.name}", ("", *known, *loss.options)) if plain else None
    contract = form.contracts[0] if plain else choose(f"contract of {form.name}", form.contracts)
    spread = choose("spread", contract.spreads)
    shape = written_out(contract.text, spread)
    sizes = _axis_sizes(choose, shape, plain, form.widest)
    dtype = choose("dtype", dtypes or loss.dtypes)
    parameters = {
        name: parameter.values[0] if plain and name != besides else choose(name, parameter.values)
        for name, parameter in known.items()
    }
    for axis, rule in form.sizes.items():
        if callable(rule):
            with blaming(loss.name, f"sizes[{axis!r}]", sizes=sizes):
                sizes[axis] = rule(sizes, parameters)
        elif any(axis in axes for axes in shape.inputs):
            # What compares every pair of classes needs the square of their number for each row.
            many = any(size >= _ROWS[1] for other, size in sizes.items() if other != axis)
            few = [n for n in rule if n <= 8 or not many]
            sizes[axis] = choose(f"size of {axis}", few or [min(rule)])
    reduction = choose("reduction", loss.reductions[::-1])
    rng = np.random.default_rng(choose.seed())

    tensors: dict[str, np.ndarray] = {}
    for (name, role), axes in zip(form.tensors.items(), shape.inputs, strict=True):
        dims = tuple(sizes[axis] for axis in axes)
        if isinstance(role, ClassIndex):
            ignored = "none" if plain and role.ignored_by != besides else None
            parameters, tensors[name] = _class_indices(
                choose, rng, role, dims, sizes, parameters, ignored
            )
        elif isinstance(role, Length):
            tensors[name] = _lengths(choose, rng, role, dims, sizes[role.of])
        else:
            style = _style(choose, name, role, dims)
            class_axis = next((i for i, a in enumerate(axes) if a in shape.core), None)
            tensors[name] = _cast(_dense(rng, role.style, style, dims, class_axis), role, dtype)
    _tie(choose, rng, form, tensors, parameters)
    if form.settle is not None:  # after ties, which make vectors short that were not
        _settle(loss, form, shape, rng, tensors, parameters)
    _mask_classes(choose, rng, form, shape, tensors, parameters)
    _fill_ignored(choose, form, shape, tensors, parameters)
    for name, role in loss.options.items():
        if name == besides if plain else choose(f"with {name}", _EITHER):
            dims = _option_shape(choose, loss, form, shape, sizes, name, tensors)
            style = _style(choose, name, role, dims)
            tensors[name] = _cast(_dense(rng, role.style, style, dims, None), role, dtype)

    roles = loss.roles(form)
    layouts = {} if plain else _lay_out(choose, form, shape, roles, tensors)
    wanted = [n for n in tensors if roles[n].differentiable and not roles[n].scalar]
    requires = choose(
        "requires_grad", [tuple(wanted), tuple(wanted[:1]), tuple(wanted), tuple(wanted[1:]), ()]
    )
    cotangent = _cotangent(choose, rng, tuple(sizes[axis] for axis in shape.result))
    omitted = frozenset(
        name
        for name, parameter in known.items()
        if parameters[name] == parameter.default and (plain or choose(f"{name} left out", _EITHER))
    )
    return Case(
        loss=loss.name,
        form=form.name,
        contract=contract.text,
        spread=spread,
        dtype=dtype,
        tensors=tensors,
        parameters=parameters,
        reduction=reduction,
        cotangent=np.asarray(cotangent).astype(precision(dtype).numpy),
        scale=choose("scale", [1.0, 2.0, -0.5, 3.0]),
        omitted=omitted,
        layouts=layouts,
        requires_grad=requires,
    )


def _settle(
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


def _lay_out(
    choose: Choices,
    form: Form,
    shape: Shape,
    roles: Mapping[str, Role],
    tensors: dict[str, np.ndarray],
) -> dict[str, str]:
    """How tensors that are not contiguous lie in memory; expanded ones get the numbers for it."""
    laid = choose("layouts", ("none", "each", "one", "each"))
    if laid == "none":
        return {}
    first = {name: axes[:1] for name, axes in zip(form.tensors, shape.inputs, strict=True)}
    layouts = {}
    for name in list(tensors) if laid == "each" else [choose("laid out", list(tensors))]:
        array = tensors[name]
        layout = choose(f"layout of {name}", _layouts(array.ndim))
        # What is settled must stay so, and so many equal terms make a serial sum drift.
        repeatable = form.settle is None and (not array.ndim or len(array) < _WIDE)
        if layout == "expanded" and repeatable:
            tensors[name] = _repeated(array)
            if isinstance(roles[name], Distribution) and set(first[name]) & set(shape.core):
                tensors[name] = np.full_like(array, 1 / max(len(array), 1))
        elif layout == "expanded" or roles[name].scalar:
            layout = "contiguous"
        if layout != "contiguous":
            layouts[name] = layout
    return layouts


def _layouts(ndim: int) -> Sequence[str]:
    """Those that a tensor of so many axes can have; few tensors can have the last one."""
    return (*LAYOUTS, *LAYOUTS[-1:] * 3) if ndim in (4, 5) else LAYOUTS[:-1]


def _cotangent(choose: Choices, rng: np.random.Generator, loop: tuple[int, ...]) -> Any:
    """What comes back to an unreduced loss: of every size and sign, with a 0, or all the same."""
    cotangent = rng.choice([-1.5, -0.25, 0.5, 1.0, 3.0], loop) * rng.uniform(0.5, 1, loop)
    kind = choose("cotangent", ("varied", "zero in front", "even", "zero in front"))
    if cotangent.size > 1 and kind == "zero in front":
        cotangent.flat[0] = 0  # the row that a per-row bug reads for all of them
    elif cotangent.size > 1 and kind == "even":
        cotangent[...] = cotangent.flat[0]
    return cotangent


def _style(choose: Choices, name: str, role: Role, dims: tuple[int, ...]) -> str:
    style = choose(f"style of {name}", STYLES[role.style])
    # So many terms that are nearly equal make a serial sum drift beyond the budget.
    equal = style == "tiny" or isinstance(role, Factor)  # an offset hides how its factors differ
    drifts = equal and max(dims, default=0) >= _WIDE and "normal" in STYLES[role.style]
    return "normal" if drifts else style


def _axis_sizes(choose: Choices, shape: Shape, plain: bool, widest: int) -> dict[str, int]:
    axes = list(
        dict.fromkeys(a for axes in (*shape.inputs, shape.result) for a in axes if a != "1")
    )
    return {"1": 1} | (_named_sizes(choose, shape, axes, plain, widest) if axes else {})


def _named_sizes(
    choose: Choices, shape: Shape, axes: list[str], plain: bool, widest: int
) -> dict[str, int]:
    core = [axis for axis in axes if axis in shape.core]
    loop = [axis for axis in axes if axis not in core]
    if plain and loop:  # so many rows that the last block of them is a short one
        sizes = {axis: choose(f"plain size of {axis}", (3, 5, 2)) for axis in axes}
        return sizes | {loop[0]: choose("plain rows", _SOME_ROWS)}
    kind = choose("sizes", _KINDS)
    if kind == "ones":
        return dict.fromkeys(axes, 1)
    if kind == "square":
        return dict.fromkeys(axes, choose("square", [2, 3, 4]))
    if kind == "rows" and loop:
        sizes = dict.fromkeys(axes, 2)
        sizes |= dict.fromkeys(loop, 1)
        sizes[loop[-1]] = choose("columns", (1, 2))
        sizes[loop[0]] = choose("rows", _ROWS)
        return sizes
    if kind == "wide" and core and len(loop) < 2:  # along more axes kernels add up one by one
        sizes = dict.fromkeys(axes, choose("breadth", (5, 2)))
        axis = choose("wide axis", core)
        return sizes | {axis: choose(f"width of {axis}", (_WIDE, widest)) if axis == "C" else _WIDE}
    pool = [2, 3, 1, 4, 5, 7] if len(axes) < 4 else [2, 1, 3]
    if kind == "distinct":
        order = [2, 3, 4, 5, 1, 7, 6, 8][: max(len(axes), 3)]
        first = choose("distinct", range(len(order)))
        return dict(zip(axes, order[first:] + order[:first], strict=False))
    sizes = {axis: choose(f"size of {axis}", pool) for axis in axes}
    if kind == "empty" and loop:
        sizes[choose("empty", loop)] = 0
    return sizes


def _class_indices(
    choose: Choices,
    rng: np.random.Generator,
    role: ClassIndex,
    dims: tuple[int, ...],
    sizes: Mapping[str, int],
    parameters: dict[str, Any],
    kind: str | None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Targets of every kind: any class, the sentinel nowhere, somewhere, in front, everywhere."""
    target = rng.integers(0, sizes[role.classes], dims)
    if target.size and sizes[role.classes] >= _WIDE:
        target.flat[-1] = sizes[role.classes] - 1  # among so many, chance seldom takes the last
    # Mostly the documented ones.
    dtype = choose("target dtype", role.dtypes * 6 + role.tolerated)
    if sizes[role.classes] > np.iinfo(dtype).max:
        dtype = role.dtypes[0]
    if role.ignored_by is None:
        return parameters, target.astype(dtype)
    kind = kind or choose("ignored", _IGNORED)
    sentinel = parameters[role.ignored_by]
    if dtype == "uint8" and not 0 <= sentinel <= 255:
        sentinel = 255
        parameters = {**parameters, role.ignored_by: sentinel}
    ignored = np.zeros(dims, bool)
    if kind == "all":
        ignored[...] = True
    elif kind == "leading" and dims:
        ignored[: max(1, dims[0] // 2)] = True
    elif kind == "some":
        ignored = rng.random(dims) < 0.4
    return parameters, np.where(ignored, sentinel, target).astype(dtype)


def _lengths(
    choose: Choices, rng: np.random.Generator, role: Length, dims: tuple[int, ...], size: int
) -> np.ndarray:
    """Whole, nearly whole, or of any length from 0."""
    shortest = choose("shortest", (size, max(size - 1, 0), 0))
    return rng.integers(shortest, size + 1, dims).astype(choose("length dtype", role.dtypes))


def _tie(
    choose: Choices,
    rng: np.random.Generator,
    form: Form,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Make tensors of one role meet: exactly, a parameter's value apart, or an ulp off that."""
    names = list(form.tensors)
    first = names[0]
    for name in names[1:]:
        x, y = tensors[first], tensors[name]
        if form.tensors[name].style != form.tensors[first].style or x.shape != y.shape:
            continue
        kind = choose(f"ties of {name}", _TIES)
        if kind == "none":
            continue
        step = np.zeros(x.shape)
        if kind == "threshold":
            apart = [v for v in parameters.values() if isinstance(v, float)] or [1.0]
            step = rng.choice([-1.0, 1.0], x.shape) * rng.choice(apart, x.shape)
        with np.errstate(all="ignore"):
            met = (x.astype(np.float64) + step).astype(x.dtype)
            if kind == "threshold":
                nudge = rng.integers(-1, 2, x.shape)
                ends = np.nextafter(met, (nudge * np.inf).astype(x.dtype))
                met = np.where(nudge == 0, met, ends)
            role = form.tensors[name]
            usable = np.isfinite(met) & (met >= role.low) & (met <= role.high)
        chosen = usable & ((rng.random(x.shape) < 0.5) | (kind == "all"))
        tensors[name] = np.where(chosen, met, y).astype(y.dtype)


def _mask_classes(
    choose: Choices,
    rng: np.random.Generator,
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """Rule out classes other than the target, as decoders do: of probability 0."""
    (first, role), *others = form.tensors.items()
    indices = [
        name
        for name, other in others
        if isinstance(other, ClassIndex) and (other.one_hot or role.style == "log_probability")
    ]
    scores = role.style in ("logit", "log_probability") and role.through is None
    labels = scores and len(indices) == 1
    if not labels or parameters.get("label_smoothing"):
        return
    if choose("masked", ("no", "no", "no", "no", "some")) == "no":
        return
    target = tensors[indices[0]]
    axis = next(i for i, name in enumerate(shape.inputs[0]) if name in shape.core)
    x = np.moveaxis(tensors[first].copy(), axis, -1)
    wanted = np.arange(x.shape[-1]) == target[..., None]
    x[(rng.random(x.shape) < 0.4) & ~wanted & wanted.any(-1, keepdims=True)] = -np.inf
    tensors[first] = np.moveaxis(x, -1, axis)


def _fill_ignored(
    choose: Choices,
    form: Form,
    shape: Shape,
    tensors: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
) -> None:
    """What an ignored row holds must not matter: nan, infinity, large numbers."""
    for mask in ignored_rows(form, shape, tensors, parameters):
        fill = choose("filled", _FILLS)
        # A layer's weights meet every row, and 0 times infinity is no gradient.
        if fill == "plain" or any(role.state for role in form.tensors.values()):
            continue
        first = next(iter(form.tensors))
        x = tensors[first]
        value = precision_limit(x) / 2 if fill == "large" else float(fill)
        tensors[first] = np.where(mask, np.asarray(value).astype(x.dtype), x)


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


def precision_limit(array: np.ndarray) -> float:
    """The largest finite number of an array's dtype."""
    return precision(dtype_name(array)).largest


def _option_shape(
    choose: Choices,
    loss: Loss,
    form: Form,
    shape: Shape,
    sizes: Mapping[str, int],
    name: str,
    tensors: Mapping[str, np.ndarray],
) -> tuple[int, ...]:
    declared = loss.options[name].shape or ""
    if declared.startswith("("):
        return tuple(sizes[axis] for axis in shape.axes(declared))
    like = tensors[declared.rsplit(" ", 1)[-1]].shape
    if declared.startswith("like") or not like:
        return like
    shapes = [like, like[-1:], like[1:], (1,), ()]
    if like[-1] > 1 and like[-1] in like[:-1]:  # in which a row is as long as a column
        shapes += [like[-1:]] * 4
    kept = choose(f"shape of {name}", shapes)
    if kept == like and choose(f"one axis of {name}", _EITHER):
        axis = choose(f"axis of {name}", range(len(like)))
        kept = (*like[:axis], 1, *like[axis + 1 :])
    return kept


def _repeated(array: np.ndarray) -> np.ndarray:
    """The values of an expanded tensor: the first slice, again and again."""
    if array.ndim == 0 or 0 in array.shape:
        return array
    return np.broadcast_to(array[:1], array.shape).copy()


# === what a case shows ====================================================================


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
