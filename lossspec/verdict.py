"""Verdicts, cells and the report: the one artifact of a run, strict in both directions."""

import json
import math
import numbers
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin

from lossspec.safe_text import clip, foreign_error, json_text, one_line

SCHEMA_VERSION = "1"
SCHEMA = Path(__file__).with_name("conformance.schema.json")  # of the artifact, for other tools
#: Bytes of a file that is read: 50 times the report on torch.nn (1,495 cells in 1.3 MB).
LARGEST_FILE = 64 * 2**20
#: Levels of nesting in a report: one uses 15 (artifact, cells, cell, case, tensors, tensor, data
#: and an axis of a tensor each, of which there are at most 8).
DEEPEST = 64
#: Characters of an error message: keys of a file that is no report may be of any length.
_MESSAGE = 2_000


class Verdict(StrEnum):
    """What a run says about one cell; eight words, the same in every rendering."""

    CONFORMS = "conforms"
    DEVIATES = "deviates"
    KNOWN = "known"
    UNSUPPORTED = "unsupported"
    NOT_APPLICABLE = "not-applicable"
    INCONCLUSIVE = "inconclusive"
    CRASH = "crash"
    NOT_RUN = "not-run"

    @property
    def fails(self) -> bool:
        """Whether one such cell fails the run."""
        return self in (Verdict.DEVIATES, Verdict.CRASH, Verdict.NOT_RUN)

    @property
    def judges(self) -> bool:
        """Whether such a cell was judged at all: the others say why it was not."""
        return self.fails or self in (Verdict.CONFORMS, Verdict.KNOWN)

    @property
    def sign(self) -> str:
        """One character that tells the verdict without colour."""
        return _SIGNS[self]


# None of these has an emoji form, so that fonts render them alike.
_SIGNS = {
    Verdict.CONFORMS: "✓",
    Verdict.DEVIATES: "✗",
    Verdict.KNOWN: "◆",
    Verdict.UNSUPPORTED: "○",
    Verdict.NOT_APPLICABLE: "–",
    Verdict.INCONCLUSIVE: "?",
    Verdict.CRASH: "!",
    Verdict.NOT_RUN: "∅",
}


class ReportError(ValueError):
    """A report that cannot be made, read or merged; says where and what is wrong."""

    def __init__(self, problem: str, where: str = "") -> None:
        message = f"{where.removeprefix('.')}: {problem}" if where else problem
        super().__init__(clip(one_line(message), _MESSAGE))
        self.problem = problem
        self.where = where

    def within(self, outer: str) -> "ReportError":
        """The same error, seen from one level further out."""
        return ReportError(self.problem, outer + self.where)


@dataclass(frozen=True)
class _Record:
    """A frozen dataclass of JSON data: every field is checked and normalised when it is made."""

    def __post_init__(self) -> None:
        for field in fields(self):
            try:
                value = _decode(field.type, getattr(self, field.name))
            except ReportError as error:
                raise error.within(f".{field.name}") from None
            object.__setattr__(self, field.name, value)

    def to_data(self) -> dict[str, Any]:
        """The record as strict JSON data: only dicts, lists, strings, finite numbers, None."""
        return {name: _plain(getattr(self, name)) for name in _names(self)}

    @cached_property
    def line(self) -> str:
        """The record as one line of JSON; a run writes its artifact again for every loss."""
        return _dumps(self.to_data())

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """The record that ``data`` holds; ReportError names unknown and missing keys."""
        names = _names(cls)
        if not isinstance(data, Mapping):
            raise ReportError(f"got {reprlib.repr(data)}, want an object")
        if unknown := [str(key) for key in data if key not in names]:
            raise ReportError(f"got unknown keys {', '.join(unknown)}; known: {', '.join(names)}")
        if missing := [name for name in names if name not in data]:
            raise ReportError(f"lacks the keys {', '.join(missing)}")
        return cls(**data)


@dataclass(frozen=True)
class Tested(_Record):
    """What was tested: the name given, its version, and the import path it resolved to."""

    name: str
    version: str | None
    target: str


@dataclass(frozen=True)
class Oracle(_Record):
    """The arithmetic in which the right answers were computed."""

    dtype: str
    mantissa_bits: int


@dataclass(frozen=True)
class Environment(_Record):
    """Where and when the run took place; ``devices`` maps each device to its hardware name."""

    lossspec: str
    python: str
    platform: str
    processor: str
    torch: str
    numpy: str
    hypothesis: str
    devices: dict[str, str]
    threads: int
    started: str
    command: str
    oracle: Oracle
    git_commit: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", self.started):
            raise ReportError(
                f"got {self.started!r}, want an ISO-8601 time in UTC such as 2026-01-31T12:00:00Z",
                ".started",
            )


@dataclass(frozen=True)
class Selection(_Record):
    """Which part of the suite was asked for; None is all of it. Shards count from 1."""

    losses: tuple[str, ...] | None
    clauses: tuple[str, ...] | None
    dtypes: tuple[str, ...] | None
    devices: tuple[str, ...]
    shard: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None:
            numbers_ = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", self.shard)
            if not numbers_ or int(numbers_[1]) > int(numbers_[2]):
                raise ReportError(f"got {self.shard!r}, want i/n with 1 <= i <= n", ".shard")


@dataclass(frozen=True)
class Listed(_Record):
    """The entry of a deviations file that makes a failing cell a known one."""

    reason: str
    link: str | None
    file: str | None


@dataclass(frozen=True)
class Cell(_Record):
    """One clause judged for one loss on one surface and device."""

    id: str
    loss: str
    surface: Literal["function", "class"]
    clause: str
    theme: str
    device: str
    says: str
    dtypes: tuple[str, ...]
    verdict: Verdict
    reason: str | None
    examples: int
    informative: int
    worst: float | None
    case: dict[str, Any] | None
    call: str | None
    got: str | None
    want: str | None
    budget: str | None
    repeat: str | None
    script: str | None
    deviation: Listed | None
    seconds: float
    extra: dict[str, Any]

    @property
    def absent(self) -> bool:
        """Whether the implementation lacks the loss, and nobody asked that it has all of them."""
        return self.extra.get("absent") is True and not self.verdict.fails

    def __post_init__(self) -> None:
        super().__post_init__()
        want = cell_id(self.loss, self.clause, self.surface, self.device)
        if self.id != want:
            raise ReportError(f"got {self.id!r}, want {want!r}", ".id")
        for name in ("examples", "informative", "seconds"):
            got = getattr(self, name)
            if not 0 <= got < 2**63:
                raise ReportError(f"got {got}, want a finite number of at least 0", f".{name}")

    def __repr__(self) -> str:
        """Return the id and the verdict, with the reason where there is one; on one line."""
        text = f"{self.id}: {self.verdict}" + (f" ({self.reason})" if self.reason else "")
        text = one_line(text)
        return f"<Cell {text if len(text) <= 150 else text[:149] + '…'}>"


@dataclass(frozen=True)
class Artifact(_Record):
    """What a run writes: one strict JSON file, which holds its cells one a line."""

    def to_data(self) -> dict[str, Any]:
        """The artifact as strict JSON data."""
        return {"schema_version": SCHEMA_VERSION, **super().to_data()}

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """The report that ``data`` holds; ReportError says where and how it breaks the schema."""
        if not isinstance(data, Mapping) or "schema_version" not in data:
            raise ReportError("is not a lossspec report: it has no schema_version")
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise ReportError(
                f"got schema_version {reprlib.repr(version)}; "
                f"this lossspec reads {SCHEMA_VERSION!r}"
            )
        return super().from_data(
            {key: value for key, value in data.items() if key != "schema_version"}
        )

    def to_json(self) -> str:
        """The artifact as text: one line per entry and per cell, so that grep and git diff work."""
        data = {"schema_version": SCHEMA_VERSION}
        data |= {name: _plain(getattr(self, name)) for name in _names(self) if name != "cells"}
        cells: Iterable[_Record] = getattr(self, "cells")  # noqa: B009  # each artifact has some
        lines = ",\n".join(cell.line for cell in cells)
        head = "".join(f"{_dumps(key)}: {_dumps(value)},\n" for key, value in data.items())
        return f'{{\n{head}"cells": [\n{lines}\n]\n}}\n'

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The report written in ``text``; ReportError where it is not strict JSON or not ours."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
        except ReportError:
            raise
        except RecursionError:  # of the parser, which stops later than we do
            raise _too_deep() from None
        except ValueError as error:
            raise ReportError(f"is not complete JSON ({foreign_error(error)})") from None
        return cls.from_data(data)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact to ``path``, whole or not at all."""
        replace_file(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The report in the file ``path``; ReportError names the file and what is wrong with it."""
        try:
            return cls.from_json(read_file(path))
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Report(Artifact):
    """The artifact: everything a run found, with its cells in one stable order."""

    implementation: Tested
    environment: Environment
    profile: Literal["quick", "standard", "deep"]
    seed: int
    selection: Selection
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        order = sorted(self.cells, key=lambda c: (c.loss, c.surface, c.clause, c.device))
        object.__setattr__(self, "cells", tuple(order))
        if twice := _repeated(cell.id for cell in order):
            raise ReportError(f"got the same cell twice: {_some(twice)}", ".cells")

    @property
    def present(self) -> tuple[Cell, ...]:
        """The cells of losses that the implementation has: what every count is about."""
        return tuple(cell for cell in self.cells if not cell.absent)

    @property
    def absent_losses(self) -> tuple[str, ...]:
        """The losses of the run that the implementation does not have."""
        present = {cell.loss for cell in self.present}
        absent = dict.fromkeys(cell.loss for cell in self.cells if cell.absent)
        return tuple(loss for loss in absent if loss not in present)

    @property
    def counts(self) -> dict[Verdict, int]:
        """The number of cells per verdict, zeros included; cells of absent losses do not count."""
        counts = dict.fromkeys(Verdict, 0)
        for cell in self.present:
            counts[cell.verdict] += 1
        return counts

    @property
    def total(self) -> int:
        """The number of clauses that the counts are out of."""
        return len(self.present) - self.counts[Verdict.NOT_APPLICABLE]

    @property
    def failing(self) -> tuple[Cell, ...]:
        """The cells that fail the run."""
        return tuple(cell for cell in self.cells if cell.verdict.fails)

    @property
    def judged(self) -> bool:
        """Whether any cell was judged; a report in which none was must not look green."""
        return any(cell.verdict.judges for cell in self.cells)

    @property
    def exit_status(self) -> int:
        """0: something was judged and nothing fails; 1: a cell fails; 4: nothing was judged."""
        return 1 if self.failing else 0 if self.judged else 4

    @property
    def headline(self) -> str:
        """Such as "412 of 418 clauses conform, 4 known, 2 deviate": counts, never percentages."""
        counts = self.counts
        text = f"{counts[Verdict.CONFORMS]} of {self.total} clauses conform"
        words = {Verdict.DEVIATES: ("deviates", "deviate"), Verdict.CRASH: ("crashes", "crash")}
        for verdict in _IN_HEADLINE:
            if count := counts[verdict]:
                one, many = words.get(verdict, (str(verdict).replace("-", " "),) * 2)
                text += f", {count} {one if count == 1 else many}"
        if apart := counts[Verdict.NOT_APPLICABLE]:
            text += f"; {apart} not applicable"
        if absent := len(self.absent_losses):
            text += f"; {absent} loss{'' if absent == 1 else 'es'} absent"
        return text


_IN_HEADLINE = (
    Verdict.KNOWN,
    Verdict.DEVIATES,
    Verdict.CRASH,
    Verdict.NOT_RUN,
    Verdict.INCONCLUSIVE,
    Verdict.UNSUPPORTED,
)


def own_version() -> str:
    """The version of lossspec, or `checkout` where it is not installed."""
    try:
        return version("lossspec")
    except PackageNotFoundError:
        return "checkout"


def cell_id(loss: str, clause: str, surface: str, device: str) -> str:
    """The id of a cell, such as ``cross_entropy/value[function-cpu]``."""
    return f"{loss}/{clause}[{surface}-{device}]"


def merge(reports: Iterable[Report]) -> Report:
    """
    One report from the parts of one run: shards, or the same selection on several devices.

    ReportError where the parts tell of different runs, hold the same cell twice, or lack a shard.
    """
    parts = list(reports)
    if not parts:
        raise ReportError("got no report to merge, want at least one")
    first = parts[0]
    for part in parts[1:]:
        for name, here in _identity(part).items():
            if here != (there := _identity(first)[name]):
                raise ReportError(f"cannot merge: {name} differs, got {here!r} and {there!r}")
    if twice := _repeated(cell.id for part in parts for cell in part.cells):
        raise ReportError(f"cannot merge: the same cell twice, {_some(twice)}")
    if missing := _missing_shards(parts):
        raise ReportError(f"cannot merge: the shards {', '.join(missing)} are missing")
    devices = tuple(dict.fromkeys(name for part in parts for name in part.selection.devices))
    return replace(
        first,
        environment=_joined([part.environment for part in parts]),
        selection=replace(first.selection, devices=devices, shard=None),
        cells=tuple(cell for part in parts for cell in part.cells),
    )


def _identity(report: Report) -> dict[str, Any]:
    """What all parts of one run share."""
    environment, selection = report.environment, report.selection
    return {
        "implementation": report.implementation.name,
        "version": report.implementation.version,
        "target": report.implementation.target,
        "profile": report.profile,
        "seed": report.seed,
        "lossspec": environment.lossspec,
        "torch": environment.torch,
        "oracle": environment.oracle,
        "git_commit": environment.git_commit,
        "losses": selection.losses,
        "clauses": selection.clauses,
        "dtypes": selection.dtypes,
    }


def _joined(parts: list[Environment]) -> Environment:
    """The environment of a merged run: differing texts stand side by side."""

    def texts(values: Iterable[str]) -> str:
        return " | ".join(dict.fromkeys(values))

    devices = dict.fromkeys(name for part in parts for name in part.devices)
    return replace(
        parts[0],
        python=texts(part.python for part in parts),
        platform=texts(part.platform for part in parts),
        processor=texts(part.processor for part in parts),
        numpy=texts(part.numpy for part in parts),
        hypothesis=texts(part.hypothesis for part in parts),
        devices={
            name: texts(part.devices[name] for part in parts if name in part.devices)
            for name in devices
        },
        threads=max(part.threads for part in parts),
        started=min(part.started for part in parts),
        command=texts(part.command for part in parts),
    )


def _missing_shards(parts: list[Report]) -> list[str]:
    """A shard left out would shrink the report to green, so every n/n set must be whole."""
    shards: dict[tuple[str, ...], set[str]] = {}
    for part in parts:
        if part.selection.shard is not None:
            shards.setdefault(part.selection.devices, set()).add(part.selection.shard)
    missing = []
    for present in shards.values():
        count = max(int(shard.partition("/")[2]) for shard in present)
        missing += [s for i in range(count) if (s := f"{i + 1}/{count}") not in present]
    return missing


def read_file(path: str | os.PathLike[str], limit: int = LARGEST_FILE) -> bytes:
    """Return the bytes of a file; ReportError when it cannot be read or holds more than `limit`.

    No more than that is read, so that a device such as /dev/zero ends too.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ReportError(f"cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise ReportError(f"is larger than {limit // 2**20} MiB, which is the limit")
    return data


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, making its folder; a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A lone surrogate is not UTF-8; its backslash form is what JSON writes for it anyway.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _names(record: _Record | type[_Record]) -> list[str]:
    return [field.name for field in fields(record)]


def _decode(kind: Any, value: Any) -> Any:
    """``value`` as the annotated ``kind``; ReportError where it is something else."""
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
            return _plain(value)
        return dict(zip(_plain(value), _items(arguments[1], value.items()), strict=True))
    if kind is float and isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    abstract = {float: numbers.Real, int: numbers.Integral}.get(kind, kind)
    if isinstance(value, abstract) and not isinstance(value, bool):
        try:
            return kind(value) if kind in (int, float, str) else value
        except OverflowError:
            raise ReportError("got a whole number that is too large, want a number") from None
    if isinstance(kind, type) and issubclass(kind, _Record):
        return kind.from_data(value)
    raise ReportError(f"got {reprlib.repr(value)}, want {_WORDS[kind]}")


_WORDS = {str: "a string", int: "a whole number", float: 'a number, "inf", "-inf" or "nan"'}


def _items(kind: Any, items: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    for key, item in items:
        try:
            yield _decode(kind, item)
        except ReportError as error:
            raise error.within(f"[{key}]") from None


def _too_deep() -> ReportError:
    return ReportError(f"is nested deeper than {DEEPEST} levels, which is the limit")


def _plain(value: Any, level: int = 0) -> Any:
    """
    ``value`` as strict JSON data; a non-finite number becomes the string "inf", "-inf" or "nan".

    NumPy scalars become Python numbers: one that leaks into an xdist report kills its worker.
    """
    if level > DEEPEST:
        raise _too_deep()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, _Record):
        return value.to_data()
    if isinstance(value, list | tuple):
        return [_plain(item, level + 1) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(item, level + 1) for key, item in value.items()}
    raise ReportError(f"got {reprlib.repr(value)} ({type(value).__name__}), want JSON data")


def _dumps(data: Any) -> str:
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return json_text(text)


def _refuse_constant(name: str) -> Any:
    raise ReportError(f"holds {name}, which is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := _repeated(key for key, _ in pairs):
        raise ReportError(f"got the same key twice: {_some(twice)}")
    return dict(pairs)


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
