"""Records that are read from strict JSON, checked, and written as strict JSON."""

import dataclasses
import json
import math
import numbers
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from lossspec.errors import ReportError
from lossspec.report.verdict import Verdict
from lossspec.safe_text import json_text

#: The deepest nesting that is read. A report has 15 levels: artifact, cells, cell, case, tensors,
#: tensor, data, and one for each of at most 8 axes of a tensor.
DEEPEST = 64
#: In place of a default: a report without the key cannot be read.
REQUIRED: Any = object()


@dataclass(frozen=True)
class Key:
    """The meaning of a key of a report, and the default for reports without the key.

    Attributes:
        says: One or two sentences for the schema.
        missing: The default, which means "not known"; `REQUIRED` if there is none.
        rules: Further keywords of JSON schema. If `type` is among them, they replace the keywords
            that follow from the annotation.
    """

    says: str = ""
    missing: Any = REQUIRED
    rules: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A frozen dataclass of JSON data that checks and normalises each field when it is made."""

    def __post_init__(self) -> None:
        for field in fields(self):
            try:
                value = _decode(field.type, getattr(self, field.name))
            except ReportError as error:
                raise error.within(f".{field.name}") from None
            object.__setattr__(self, field.name, value)

    def to_data(self) -> dict[str, Any]:
        """Return the record as JSON data: dicts, lists, strings, finite numbers, bools and None."""
        return {name: plain_data(getattr(self, name)) for name in field_names(self)}

    @cached_property
    def line(self) -> str:
        """The record as one line of JSON, cached because each loss writes the artifact again."""
        return dump_json(self.to_data())

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the record that JSON data describes.

        Reports of earlier and later versions of lossspec can be read: a missing key takes its
        default, and an unknown key is ignored.

        Raises:
            ReportError: A required key is missing, or a value has the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ReportError(f"got {reprlib.repr(data)}, want an object")
        given = {name: data.get(name, key.missing) for name, key in keys(cls).items()}
        if missing := [name for name, value in given.items() if value is REQUIRED]:
            raise ReportError(f"lacks the keys {', '.join(missing)}")
        return cls(**given)


def field_names(record: Record | type[Record]) -> list[str]:
    """Return the names of a record's fields."""
    return [field.name for field in fields(record)]


def keys(record: type[Record]) -> dict[str, Key]:
    """Return the key of each field of a record, by the name of the field."""
    return {field.name: plain_kind(field.type)[1] for field in fields(record)}


def plain_kind(kind: Any) -> tuple[Any, Key]:
    """Return an annotation without its `Key`, and the key; an empty key if it has none."""
    if get_origin(kind) is not Annotated:
        return kind, Key()
    plain, *notes = get_args(kind)
    return plain, next(note for note in notes if isinstance(note, Key))


def _decode(kind: Any, value: Any) -> Any:
    """Return the value converted to an annotated type.

    Raises:
        ReportError: The value does not have that type.
    """
    kind, _ = plain_kind(kind)
    if isinstance(kind, UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal or kind is Verdict:
        allowed = arguments or tuple(Verdict)
        if value not in allowed:
            raise ReportError(f"got {reprlib.repr(value)}, want one of {', '.join(allowed)}")
        return Verdict(value) if kind is Verdict else value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ReportError(f"got {reprlib.repr(value)}, want a list")
        return tuple(_items(arguments[0], enumerate(value)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ReportError(f"got {reprlib.repr(value)}, want an object")
        if arguments[1] is Any:
            return plain_data(value)
        return dict(zip(plain_data(value), _items(arguments[1], value.items()), strict=True))
    if kind is float and isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    abstract = {float: numbers.Real, int: numbers.Integral}.get(kind, kind)
    if isinstance(value, abstract) and not isinstance(value, bool):
        try:
            return kind(value) if kind in (int, float, str) else value
        except OverflowError:
            raise ReportError("got a whole number that is too large, want a number") from None
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_data(value)
    raise ReportError(f"got {reprlib.repr(value)}, want {_WORDS[kind]}")


_WORDS = {str: "a string", int: "a whole number", float: 'a number, "inf", "-inf" or "nan"'}


def _items(kind: Any, items: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    for key, item in items:
        try:
            yield _decode(kind, item)
        except ReportError as error:
            raise error.within(f"[{key}]") from None


def too_deep_error() -> ReportError:
    """Return the error for data that is nested too deep."""
    return ReportError(f"is nested deeper than {DEEPEST} levels, which is the limit")


def plain_data(value: Any, level: int = 0) -> Any:
    """Return the value as strict JSON data.

    A number that is not finite becomes the string "inf", "-inf" or "nan". NumPy scalars become
    Python numbers, because pytest-xdist cannot serialise them and its worker crashes.

    Args:
        value: Any value.
        level: The depth at which the value is nested.

    Raises:
        ReportError: The value cannot be written as JSON, or is nested too deep.
    """
    if level > DEEPEST:
        raise too_deep_error()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Record):
        return value.to_data()
    if isinstance(value, list | tuple):
        return [plain_data(item, level + 1) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): plain_data(item, level + 1) for key, item in value.items()}
    raise ReportError(f"got {reprlib.repr(value)} ({type(value).__name__}), want JSON data")


def dump_json(data: Any) -> str:
    """Return data as JSON on one line."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return json_text(text)


def refuse_constant(name: str) -> Any:
    """Raise ReportError for a number that JSON does not have, such as NaN."""
    raise ReportError(f"holds {name}, which is not JSON")


def object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ReportError: The object has a key twice.
    """
    if twice := repeated_names(key for key, _ in pairs):
        raise ReportError(f"got the same key twice: {first_names(twice)}")
    return dict(pairs)


def repeated_names(names: Iterable[str]) -> list[str]:
    """Return each repeated occurrence of a name."""
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def first_names(names: list[str]) -> str:
    """Return the first three names as text, with the number of the others."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
