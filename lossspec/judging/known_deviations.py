"""Known deviations: a TOML file for each implementation, strict in both directions."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lossspec.cases.case import Case
from lossspec.clauses import clauses, present_id
from lossspec.clauses.trial import Deviation
from lossspec.errors import CaseError, DeviationsError, ReportError
from lossspec.judging.conditions import SURFACES, check_condition, describes, holds, in_list
from lossspec.judging.symptoms import check_symptom, shown
from lossspec.nearest import suggestion
from lossspec.report.files import read_file, replace_file
from lossspec.safe_text import foreign_error
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss

SHIPPED = Path(__file__).parents[1] / "deviations"
#: Bytes of a file that is read: 70 times the largest one that lossspec ships (114 kB).
LARGEST_FILE = 8 * 2**20
_TABLES = ("when", "shows")
_KEYS = {"loss", "clause", "reason", "link", "case", *_TABLES}
_UPDATE = "; `lossspec deviations NAME --file FILE --update` writes it"


@dataclass(frozen=True, eq=False)  # a case has no truth value in a comparison
class KnownDeviation:
    """One listed deviation, and the stored case that shows it.

    reason : why it is listed. when : the calls that it is about, see `lossspec.judging.conditions`.
    shows : what those calls show, see `lossspec.judging.symptoms`; empty only while a file without
    it is updated.
    """

    loss: str
    clause: str
    reason: str
    case: Case
    shows: Mapping[str, Any]
    link: str | None = None
    when: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""

    def holds(self, version: str | None, device: str, surface: str) -> bool:
        """Whether it is about this version, device and surface."""
        return holds(self.when, version, device, surface)

    def touches(self, dtypes: Sequence[str]) -> bool:
        """Whether it is about one of these dtypes, whichever its stored case has."""
        return not set(dtypes).isdisjoint(in_list(self.when.get("dtype", list(dtypes))))

    def covers(self, case: Case, deviation: Deviation) -> bool:
        """Whether a deviation of a case is the listed one: the condition and the symptom agree."""
        return describes(self.when, case) and self.matches(case, deviation)

    def matches(self, case: Case, deviation: Deviation) -> bool:
        """Whether a deviation has the listed symptom."""
        return bool(self.shows) and shown(self.shows, case, deviation)


def read(path: Path) -> list[KnownDeviation]:
    """The entries of one file; DeviationsError says which entry is wrong and how."""
    return entries_of(path, read_text(path), complete=True)


def read_text(path: Path) -> str:
    """The text of a file; DeviationsError if it cannot be read."""
    try:
        return read_file(path, LARGEST_FILE).decode("utf-8")
    except ReportError as error:
        raise DeviationsError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise DeviationsError(f"{path}: not TOML ({foreign_error(error)})") from None


def entries_of(path: Path, text: str, complete: bool) -> list[KnownDeviation]:
    """The entries of the text of a file.

    complete : whether each must have a `shows`, which older files lack.
    """
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise DeviationsError(f"{path}: not TOML of ours: it is nested too deep") from None
    except ValueError as error:
        raise DeviationsError(f"{path}: not TOML ({foreign_error(error)})") from None
    if isinstance(data.get("deviation"), Mapping):
        raise DeviationsError(f"{path}: [deviation] takes two brackets: [[deviation]]")
    unknown = set(data) - {"deviation"}
    if unknown or not isinstance(data.get("deviation", []), list):
        raise DeviationsError(f"{path}: it holds [[deviation]] tables only, got {sorted(data)}")
    tables = enumerate(data.get("deviation", []), 1)
    return [_entry(path, f"{path}: deviation {i}", entry, complete) for i, entry in tables]


def _check_keys(place: str, entry: Any, complete: bool) -> None:
    """Raise DeviationsError unless an entry has the right keys, with values of the right kind."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("when", {}), Mapping):
        raise DeviationsError(f"{place}: it must be a table, and so must its `when`")
    if not isinstance(entry.get("shows", {}), Mapping):
        raise DeviationsError(
            f"{place}: shows takes a table such as {{ is = 'nan' }}, got {entry['shows']!r}"
        )
    needed = _KEYS - {"link", "when"} - (set() if complete else {"shows"})
    texts = set(entry) - {*_TABLES}
    for problem, wrong in (
        ("unknown keys", sorted(set(entry) - _KEYS)),
        ("missing keys", sorted(needed - set(entry))),
        ("not text", sorted(k for k in texts if not isinstance(entry[k], str))),
    ):
        if wrong:
            more = f"; known: {', '.join(sorted(_KEYS))}" if problem == "unknown keys" else ""
            if problem == "missing keys" and {"case", "shows"} & {*wrong}:
                more = _UPDATE
            raise DeviationsError(f"{place}: {problem} {', '.join(wrong)}{more}")


def _entry(path: Path, place: str, entry: Any, complete: bool) -> KnownDeviation:
    _check_keys(place, entry, complete)
    loss, clause = entry["loss"], present_id(entry["clause"])
    if loss not in catalogue():
        near = suggestion(loss, list(catalogue()), "lossspec list losses")
        raise DeviationsError(f"{place}: no loss {loss!r}{near}")
    if clause not in clauses():
        near = suggestion(clause, list(clauses()), "lossspec list clauses")
        raise DeviationsError(f"{place}: no clause {clause!r}{near}")
    spec = catalogue()[loss]
    when = entry.get("when", {})
    check_condition(place, spec, when)
    if "shows" in entry:
        check_symptom(place, spec, entry["shows"])
    if not any(clauses()[clause].applies(spec, surface) for surface in SURFACES):
        raise DeviationsError(f"{place}: clause {clause!r} says nothing about {loss}")
    if not entry["reason"].strip():
        raise DeviationsError(f"{place}: a reason is required")
    case = _stored_case(place, spec, entry["case"])
    found = KnownDeviation(
        loss=loss,
        clause=clause,
        reason=entry["reason"],
        link=entry.get("link"),
        when=when,
        shows=entry.get("shows", {}),
        case=case,
        file=path.name,
    )
    if case.loss != loss or not describes(when, case):
        raise DeviationsError(f"{place}: the stored case is none of those that the entry is about")
    return found


def _stored_case(place: str, spec: Loss, text: str) -> Case:
    """The stored case of an entry; DeviationsError if it is none of this loss."""
    try:
        case = Case.from_json(json.loads(text))
        _check_names(case, spec)
        case.axis_sizes(spec)
    except CaseError as error:
        raise DeviationsError(f"{place}: the stored case: {error}") from None
    except RecursionError:
        raise DeviationsError(f"{place}: the stored case is nested too deep") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeviationsError(
            f"{place}: the stored case cannot be read ({foreign_error(error)})"
        ) from None
    return case


def _check_names(case: Case, loss: Loss) -> None:
    """Raise CaseError for tensors and parameters that are not those of the form."""
    if case.form not in (known := [form.name for form in loss.forms]):
        raise CaseError(f"no form {case.form!r}{suggestion(case.form, known)}")
    form = loss.form(case.form)
    if missing := [name for name in form.tensors if name not in case.tensors]:
        raise CaseError(f"lacks the tensors {', '.join(missing)}")
    for kind, given, names in (
        ("tensor", case.tensors, loss.roles(form)),
        ("parameter", case.parameters, loss.parameters_of(form)),
    ):
        if strange := [name for name in given if name not in names]:
            raise CaseError(f"no {kind} {strange[0]!r}{suggestion(strange[0], list(names))}")
    if missing := [name for name in loss.parameters_of(form) if name not in case.parameters]:
        raise CaseError(f"lacks the parameters {', '.join(missing)}")


@cache
def shipped(implementation: str) -> list[KnownDeviation]:
    """The entries that lossspec ships for an implementation, none when it ships no file."""
    # A name is looked up and not made a path of: it may hold `/`, or be too long for one.
    path = {path.stem: path for path in SHIPPED.glob("*.toml")}.get(implementation)
    return [] if path is None else read(path)


def write(path: Path, entries: Sequence[KnownDeviation]) -> None:
    """Write a file that `read` reads back to the same entries."""
    replace_file(path, "\n".join(map(as_toml, entries)))


def as_toml(entry: KnownDeviation) -> str:
    """The table of an entry, as it stands in a file."""
    lines = ["[[deviation]]", f"loss = {toml(entry.loss)}", f"clause = {toml(entry.clause)}"]
    lines.append(f"reason = {toml(entry.reason)}")
    if entry.link:
        lines.append(f"link = {toml(entry.link)}")
    if entry.when:
        lines.append(f"when = {toml(entry.when)}")
    if entry.shows:
        lines.append(symptom_line(entry))
    case = json.dumps(entry.case.to_json(), allow_nan=False)
    lines.append(f"case = '{case}'" if "'" not in case else f"case = {toml(case)}")
    return "\n".join(lines) + "\n"


def symptom_line(entry: KnownDeviation) -> str:
    """The line of an entry that says what it shows."""
    return f"shows = {toml(entry.shows)}"


def toml(value: Any) -> str:
    """A value as TOML; JSON's quoting of text is TOML's too, but for one character."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
