"""The known deviations of an implementation, and the TOML files that list them.

A known deviation excuses what it describes. If its stored case no longer fails, the cell deviates,
so that the file must be kept up to date.
"""

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
#: The largest file that is read, in bytes. The largest file that lossspec ships has 150 kB.
LARGEST_FILE = 8 * 2**20
_TABLES = ("when", "shows")
_KEYS = {"loss", "clause", "reason", "link", "case", *_TABLES}
_UPDATE = "; `lossspec deviations NAME --file FILE --update` writes it"


@dataclass(frozen=True, eq=False)  # a case has no truth value in a comparison
class KnownDeviation:
    """A known deviation: one entry of a file.

    Attributes:
        loss: The name of the loss.
        clause: The name of the clause.
        reason: Why the implementation deviates.
        case: The stored case, which must fail.
        shows: The symptom, see `lossspec.judging.symptoms`. It is empty only while an old file
            without symptoms is updated.
        link: The address of an issue.
        when: The condition that a call must meet, see `lossspec.judging.conditions`.
        file: The name of the file.
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
        """Return whether the condition is met by the version, device and surface of a run.

        Args:
            version: The version of the implementation, if it is known.
            device: The device, such as `cuda:0`.
            surface: The surface, `function` or `class`.
        """
        return holds(self.when, version, device, surface)

    def touches(self, dtypes: Sequence[str]) -> bool:
        """Return whether the condition allows one of these dtypes."""
        return not set(dtypes).isdisjoint(in_list(self.when.get("dtype", list(dtypes))))

    def covers(self, case: Case, deviation: Deviation) -> bool:
        """Return whether a case meets the condition and its deviation has the symptom."""
        return describes(self.when, case) and self.matches(case, deviation)

    def matches(self, case: Case, deviation: Deviation) -> bool:
        """Return whether a deviation of a case has the symptom."""
        return bool(self.shows) and shown(self.shows, case, deviation)


def read(path: Path) -> list[KnownDeviation]:
    """Read the known deviations of a file.

    Raises:
        DeviationsError: The file cannot be read, or an entry is wrong.
    """
    return entries_of(path, read_text(path), complete=True)


def read_text(path: Path) -> str:
    """Read the text of a file.

    Raises:
        DeviationsError: The file cannot be read, is too large, or is not UTF-8.
    """
    try:
        return read_file(path, LARGEST_FILE).decode("utf-8")
    except ReportError as error:
        raise DeviationsError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise DeviationsError(f"{path}: not TOML ({foreign_error(error)})") from None


def entries_of(path: Path, text: str, complete: bool) -> list[KnownDeviation]:
    """Parse the known deviations in the text of a file.

    Args:
        path: The path of the file, for error messages.
        text: The text.
        complete: Whether each entry must have `shows`, which old files lack.

    Raises:
        DeviationsError: The text is not TOML, or an entry is wrong.
    """
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise DeviationsError(f"{path}: not TOML that can be read: it is nested too deep") from None
    except ValueError as error:
        raise DeviationsError(f"{path}: not TOML ({foreign_error(error)})") from None
    if isinstance(data.get("deviation"), Mapping):
        raise DeviationsError(f"{path}: write [[deviation]] with two brackets, got [deviation]")
    unknown = set(data) - {"deviation"}
    if unknown or not isinstance(data.get("deviation", []), list):
        raise DeviationsError(f"{path}: only [[deviation]] tables are allowed, got {sorted(data)}")
    tables = enumerate(data.get("deviation", []), 1)
    return [_entry(path, f"{path}: deviation {i}", entry, complete) for i, entry in tables]


def _check_keys(place: str, entry: Any, complete: bool) -> None:
    """Check that an entry has the right keys, with values of the right types.

    Args:
        place: The file and the entry, for the error message.
        entry: The entry, as TOML gives it.
        complete: Whether it must have `shows`.

    Raises:
        DeviationsError: A key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("when", {}), Mapping):
        raise DeviationsError(f"{place}: the entry and its `when` must be tables")
    if not isinstance(entry.get("shows", {}), Mapping):
        raise DeviationsError(
            f"{place}: shows must be a table such as {{ is = 'nan' }}, got {entry['shows']!r}"
        )
    needed = _KEYS - {"link", "when"} - (set() if complete else {"shows"})
    texts = set(entry) - {*_TABLES}
    for problem, wrong in (
        ("unknown keys", sorted(set(entry) - _KEYS)),
        ("missing keys", sorted(needed - set(entry))),
        ("these keys must be text", sorted(k for k in texts if not isinstance(entry[k], str))),
    ):
        if wrong:
            more = f"; known: {', '.join(sorted(_KEYS))}" if problem == "unknown keys" else ""
            if problem == "missing keys" and {"case", "shows"} & {*wrong}:
                more = _UPDATE
            raise DeviationsError(f"{place}: {problem}: {', '.join(wrong)}{more}")


def _entry(path: Path, place: str, entry: Any, complete: bool) -> KnownDeviation:
    _check_keys(place, entry, complete)
    loss, clause = entry["loss"], present_id(entry["clause"])
    if loss not in catalogue():
        near = suggestion(loss, list(catalogue()), "lossspec list losses")
        raise DeviationsError(f"{place}: unknown loss {loss!r}{near}")
    if clause not in clauses():
        near = suggestion(clause, list(clauses()), "lossspec list clauses")
        raise DeviationsError(f"{place}: unknown clause {clause!r}{near}")
    spec = catalogue()[loss]
    when = entry.get("when", {})
    check_condition(place, spec, when)
    if "shows" in entry:
        check_symptom(place, spec, entry["shows"])
    if not any(clauses()[clause].applies(spec, surface) for surface in SURFACES):
        raise DeviationsError(f"{place}: clause {clause!r} does not apply to {loss}")
    if not entry["reason"].strip():
        raise DeviationsError(f"{place}: `reason` must not be empty")
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
        raise DeviationsError(
            f"{place}: the stored case must be a call of {loss} that meets `when`"
        )
    return found


def _stored_case(place: str, spec: Loss, text: str) -> Case:
    """Parse the stored case of an entry.

    Raises:
        DeviationsError: The text is not a case of this loss.
    """
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
    """Check that a case has the tensors, the parameters and a reduction of its form.

    Raises:
        CaseError: The form or the reduction does not exist, or a tensor or parameter is missing or
            unknown.
    """
    if case.form not in (known := [form.name for form in loss.forms]):
        raise CaseError(f"the loss has no form {case.form!r}{suggestion(case.form, known)}")
    form = loss.form(case.form)
    if missing := [name for name in form.tensors if name not in case.tensors]:
        raise CaseError(f"missing tensors: {', '.join(missing)}")
    for kind, given, names in (
        ("tensor", case.tensors, loss.roles(form)),
        ("parameter", case.parameters, loss.parameters_of(form)),
        ("tensor that requires a gradient", case.requires_grad, case.tensors),
        ("omitted parameter", case.omitted, case.parameters),
        ("reduction", (case.reduction,), loss.reductions),
    ):
        if strange := [name for name in given if name not in names]:
            near = suggestion(strange[0], list(names))
            raise CaseError(f"the loss has no {kind} {strange[0]!r}{near}")
    if missing := [name for name in loss.parameters_of(form) if name not in case.parameters]:
        raise CaseError(f"missing parameters: {', '.join(missing)}")


@cache
def shipped(implementation: str) -> list[KnownDeviation]:
    """Return the known deviations that lossspec ships for an implementation.

    The list is empty if lossspec ships no file for it.
    """
    # The name may contain `/` or be too long for a path, so it is looked up among the file names.
    path = {path.stem: path for path in SHIPPED.glob("*.toml")}.get(implementation)
    return [] if path is None else read(path)


def write(path: Path, entries: Sequence[KnownDeviation]) -> None:
    """Write known deviations to a file, from which `read` returns the same entries."""
    replace_file(path, "\n".join(map(as_toml, entries)))


def as_toml(entry: KnownDeviation) -> str:
    """Return the text of an entry in a file."""
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
    """Return the line `shows = ...` of an entry."""
    return f"shows = {toml(entry.shows)}"


def toml(value: Any) -> str:
    """Return a value as TOML.

    TOML quotes text as JSON does, except for the control character U+007F.
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
