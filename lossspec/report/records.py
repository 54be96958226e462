"""The records of the artifact of a run: report, cells, environment and selection."""

import json
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from lossspec.errors import ReportError
from lossspec.excuse import excused_text
from lossspec.report.files import read_file, replace_file
from lossspec.report.reader import (
    Key,
    Record,
    dump_json,
    field_names,
    first_names,
    object_without_repeats,
    plain_data,
    refuse_constant,
    repeated_names,
    too_deep_error,
)
from lossspec.report.verdict import Verdict
from lossspec.safe_text import foreign_error, one_line

SCHEMA_VERSION = "1"
#: The text for a fact that a report does not have.
UNKNOWN = "unknown"
Text = Annotated[str, Key(missing=UNKNOWN)]
MaybeText = Annotated[str | None, Key(missing=None)]
Names = Annotated[tuple[str, ...] | None, Key(missing=None)]
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"
_SHARD = r"([1-9]\d*)/([1-9]\d*)"
_AT_LEAST_0 = {"minimum": 0, "exclusiveMaximum": 2**63}
SCHEMA = Path(__file__).with_name("conformance.schema.json")  # of the artifact, for other tools


@dataclass(frozen=True)
class TestedImplementation(Record):
    """The implementation under test: the name given, the version, and the resolved import path."""

    name: Annotated[str, Key("The name given to --impl.")]
    version: Annotated[str | None, Key("The version; null if it has none.", None)]
    target: Annotated[str, Key("The import path that the name resolved to.", UNKNOWN)]


@dataclass(frozen=True)
class Oracle(Record):
    """The arithmetic in which the right answers were computed."""

    dtype: Text
    mantissa_bits: Annotated[int, Key("0 if it is not known.", 0)]


@dataclass(frozen=True)
class Environment(Record):
    """The environment of a run: software, hardware, time and command."""

    lossspec: Annotated[str, Key("The version of lossspec.", UNKNOWN)]
    python: Text
    platform: Text
    processor: Text
    torch: Text
    numpy: Text
    hypothesis: Text
    devices: Annotated[
        dict[str, str], Key("The name of the hardware of each device of the run.", {})
    ]
    threads: Annotated[
        int, Key("The number of CPU threads of the implementation; 0 if it is not known.", 0)
    ]
    started: Annotated[
        str,
        Key(
            "The time at which the run started, in UTC and ISO 8601.",
            UNKNOWN,
            {"pattern": f"^({_TIME}|{UNKNOWN})$"},
        ),
    ]
    command: Annotated[str, Key("The command line of the run.", UNKNOWN)]
    oracle: Annotated[Oracle, Key("The arithmetic in which the right answers were computed.", {})]
    git_commit: Annotated[str | None, Key("The git commit, if the run was in a repository.", None)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.started != UNKNOWN and not re.fullmatch(_TIME, self.started):
            raise ReportError(
                f"got {self.started!r}, want an ISO-8601 time in UTC such as 2026-01-31T12:00:00Z",
                ".started",
            )


@dataclass(frozen=True)
class Selection(Record):
    """The part of the suite that was selected; null selects everything. Shards count from 1.

    Every run has a device. A selection without one belongs to a report that does not say what was
    selected.
    """

    losses: Names
    clauses: Names
    dtypes: Names
    devices: Annotated[
        tuple[str, ...], Key("Empty if the report does not say what was selected.", ())
    ]
    shard: Annotated[
        str | None,
        Key(
            "i/n with 1 <= i <= n if the run was one shard of n.",
            None,
            {"pattern": f"^{_SHARD}$"},
        ),
    ]

    @property
    def known(self) -> bool:
        """Whether the report says what was selected."""
        return bool(self.devices)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None:
            numbers_ = re.fullmatch(_SHARD, self.shard)
            if not numbers_ or int(numbers_[1]) > int(numbers_[2]):
                raise ReportError(f"got {self.shard!r}, want i/n with 1 <= i <= n", ".shard")


@dataclass(frozen=True)
class KnownEntry(Record):
    """The entry of a deviations file that makes a failing cell a known deviation."""

    reason: Annotated[str, Key("Why the implementation deviates.", "")]
    link: Annotated[str | None, Key("A link to an issue or to the documentation.", None)]
    file: Annotated[str | None, Key("The path of the deviations file.", None)]


@dataclass(frozen=True)
class Cell(Record):
    """One clause judged for one loss on one surface and device.

    The `Key` of each field says what the field holds; the JSON schema has the same texts.
    """

    id: Annotated[str, Key("loss/clause[surface-device]")]
    loss: Annotated[str, Key("The name of the loss.")]
    surface: Annotated[
        Literal["function", "class"], Key("Whether the loss is a function or a module class.")
    ]
    clause: Annotated[str, Key("The name of the clause.")]
    theme: Annotated[str, Key("The group that the clause belongs to, such as gradient.", UNKNOWN)]
    device: Annotated[str, Key("The torch device of the tensors.")]
    says: Annotated[str, Key("The clause in one sentence.", "")]
    dtypes: Annotated[tuple[str, ...], Key("The dtypes of the cases.", ())]
    verdict: Annotated[Verdict, Key("The verdicts deviates, crash and not-run fail the run.")]
    reason: Annotated[
        str | None, Key("Why the clause deviates or was not judged; null if it conforms.", None)
    ]
    examples: Annotated[
        int, Key("The number of cases; 0 also if the report does not say.", 0, _AT_LEAST_0)
    ]
    informative: Annotated[
        int, Key("The number of cases in which a wrong result would be noticed.", 0, _AT_LEAST_0)
    ]
    excused: Annotated[dict[str, int], Key("The number of cases that were excused, by reason.", {})]
    worst: Annotated[float | None, Key("The largest error divided by its budget.", None)]
    case: Annotated[dict[str, Any] | None, Key("The shrunk failing case as data.", None)]
    call: Annotated[str | None, Key("The failing call as Python text.", None)]
    got: Annotated[str | None, Key("The result of the failing call.", None)]
    want: Annotated[str | None, Key("The right answer.", None)]
    budget: Annotated[str | None, Key("The largest error that is allowed.", None)]
    repeat: Annotated[str | None, Key("A shell command that repeats the failure.", None)]
    script: Annotated[
        str | None, Key("The path of the reproduction script, relative to the artifact.", None)
    ]
    deviation: Annotated[
        KnownEntry | None, Key("The entry of a deviations file that matched.", None)
    ]
    seconds: Annotated[
        float,
        Key("The time that judging took, in seconds.", 0.0, {"type": "number", **_AT_LEAST_0}),
    ]
    extra: Annotated[dict[str, Any], Key("Further facts, by key.", {})]
    cause: Annotated[
        str | None,
        Key("The cause of the deviation, if known; the same text in cells with one cause.", None),
    ] = None

    @property
    def absent(self) -> bool:
        """Whether the implementation lacks the loss, and the run did not require every loss."""
        return self.extra.get("absent") is True and not self.verdict.fails

    @property
    def tally(self) -> str:
        """The numbers of cases, such as "96 cases, 12 excused: 9 overflow, 3 same as torch"."""
        cases = f"{self.examples} {'case' if self.examples == 1 else 'cases'}"
        excused = excused_text(self.excused)
        return f"{cases}, {excused}" if excused else cases

    @property
    def former_ids(self) -> tuple[str, ...]:
        """The ids of the cell under former names of its clause."""
        names = self.extra.get("aliases")
        former = (
            [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        )
        return tuple(cell_id(self.loss, name, self.surface, self.device) for name in former)

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
        """Return the id, the verdict, and any reason and numbers of cases, on one line."""
        text = f"{self.id}: {self.verdict}" + (f" ({self.reason})" if self.reason else "")
        if self.examples or self.excused:
            text += f", {self.tally}"
        text = one_line(text)
        return f"<Cell {text if len(text) <= 150 else text[:149] + '…'}>"


@dataclass(frozen=True)
class Artifact(Record):
    """A strict JSON file that a run writes, with one cell on each line.

    Attributes:
        KIND: The kind of report, such as "conformance".
        TITLE: The description of the schema.
    """

    KIND: ClassVar[str]
    TITLE: ClassVar[str]

    def to_data(self) -> dict[str, Any]:
        """Return the artifact as strict JSON data."""
        return {"schema_version": SCHEMA_VERSION, **super().to_data()}

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the report that JSON data describes.

        Raises:
            ReportError: The data does not follow the schema; the message says where and how.
        """
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
        """Return the artifact as JSON text, with one line for each key and each cell."""
        data = {"schema_version": SCHEMA_VERSION}
        data |= {
            name: plain_data(getattr(self, name)) for name in field_names(self) if name != "cells"
        }
        cells: Iterable[Record] = getattr(self, "cells")  # noqa: B009  # each artifact has some
        lines = ",\n".join(cell.line for cell in cells)
        head = "".join(f"{dump_json(key)}: {dump_json(value)},\n" for key, value in data.items())
        return f'{{\n{head}"cells": [\n{lines}\n]\n}}\n'

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the report that JSON text describes.

        Raises:
            ReportError: The text is not strict JSON, or the data does not follow the schema.
        """
        try:
            data = json.loads(
                text, parse_constant=refuse_constant, object_pairs_hook=object_without_repeats
            )
        except ReportError:
            raise
        except RecursionError:  # the JSON parser allows more levels than a report
            raise too_deep_error() from None
        except ValueError as error:
            raise ReportError(f"is not complete JSON ({foreign_error(error)})") from None
        return cls.from_data(data)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact to a file, completely or not at all."""
        replace_file(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Return the report in a file.

        Raises:
            ReportError: The file cannot be read or holds no report; the message names the file.
        """
        try:
            return cls.from_json(read_file(path))
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Report(Artifact):
    """The report of one run on one implementation, with its cells in a fixed order."""

    KIND = "conformance"
    TITLE = "The results of one run of lossspec for one implementation."

    implementation: Annotated[TestedImplementation, Key("The implementation under test.")]
    environment: Annotated[Environment, Key("The software, the hardware and the time.", {})]
    profile: Annotated[
        Literal["quick", "standard", "deep", "unknown"],
        Key("`unknown` if the report does not say; no run writes it.", UNKNOWN),
    ]
    seed: Annotated[int | None, Key("null if it is not known.", None)]
    selection: Annotated[Selection, Key("The part of the suite that was selected.", {})]
    cells: Annotated[
        tuple[Cell, ...],
        Key("Every planned cell, ordered by loss, surface, clause and device; ids are unique."),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        order = sorted(self.cells, key=lambda c: (c.loss, c.surface, c.clause, c.device))
        object.__setattr__(self, "cells", tuple(order))
        if twice := repeated_names(cell.id for cell in order):
            raise ReportError(f"got the same cell twice: {first_names(twice)}", ".cells")

    @property
    def present(self) -> tuple[Cell, ...]:
        """The cells of losses that the implementation has; every count is about these."""
        return tuple(cell for cell in self.cells if not cell.absent)

    @property
    def absent_losses(self) -> tuple[str, ...]:
        """The losses of the run that the implementation does not have."""
        present = {cell.loss for cell in self.present}
        absent = dict.fromkeys(cell.loss for cell in self.cells if cell.absent)
        return tuple(loss for loss in absent if loss not in present)

    @property
    def counts(self) -> dict[Verdict, int]:
        """The number of cells with each verdict, without the cells of absent losses."""
        counts = dict.fromkeys(Verdict, 0)
        for cell in self.present:
            counts[cell.verdict] += 1
        return counts

    @property
    def total(self) -> int:
        """The number of cells that are counted: present and applicable."""
        return len(self.present) - self.counts[Verdict.NOT_APPLICABLE]

    @property
    def failing(self) -> tuple[Cell, ...]:
        """The cells that fail the run."""
        return tuple(cell for cell in self.cells if cell.verdict.fails)

    @property
    def judged(self) -> bool:
        """Whether any cell was judged; otherwise the run must not count as passed."""
        return any(cell.verdict.judges for cell in self.cells)

    @property
    def exit_status(self) -> int:
        """The exit status: 1 if a cell fails, 4 if no cell was judged, else 0."""
        return 1 if self.failing else 0 if self.judged else 4

    @property
    def headline(self) -> str:
        """The counts as text, such as "412 of 418 clauses conform, 4 known, 2 deviate"."""
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
    """Return the version of lossspec, or "checkout" if it is not installed."""
    try:
        return version("lossspec")
    except PackageNotFoundError:
        return "checkout"


def cell_id(loss: str, clause: str, surface: str, device: str) -> str:
    """Return the id of a cell, such as ``cross_entropy/value[function-cpu]``."""
    return f"{loss}/{clause}[{surface}-{device}]"
