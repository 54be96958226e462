"""Known deviations: a TOML file for each implementation, strict in both directions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lossspec.cases.case import LAYOUTS, Case
from lossspec.cases.features import features
from lossspec.clauses import clauses, present_id
from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import CaseError, DeviationsError, ReportError
from lossspec.nearest import suggestion
from lossspec.report.files import read_file, replace_file
from lossspec.safe_text import foreign_error
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface

SHIPPED = Path(__file__).parents[1] / "deviations"
#: Bytes of a file that is read: 70 times the largest one that lossspec ships (114 kB).
LARGEST_FILE = 8 * 2**20
SURFACES: tuple[Surface, ...] = ("function", "class")
_KEYS = {"loss", "clause", "reason", "link", "when", "case"}
_WHEN = {"version", "dtype", "device", "surface", "form", "reduction", "options", "features"}


#: What `lossspec.cases.features` says of a case, beside layouts, axes and optional tensors.
FEATURES = (
    *("no batch", "k-d", "empty", "many rows", "square", "non-finite", "ties"),
    *("zero cotangent in front", "all ignored", "some ignored", "leading ignored"),
)


@dataclass(frozen=True, eq=False)  # a case has no truth value in a comparison
class KnownDeviation:
    """One listed deviation: where it holds, why it is there, and the stored case that shows it."""

    loss: str
    clause: str
    reason: str
    case: Case
    link: str | None = None
    when: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""

    def holds(self, version: str | None, device: str, surface: str) -> bool:
        """Whether it is about this version, device and surface."""
        when = self.when
        return (
            ("version" not in when or _in_range(version, when["version"]))
            and device.partition(":")[0] in _listed(when.get("device", device.partition(":")[0]))
            and surface in _listed(when.get("surface", surface))
        )

    def touches(self, dtypes: Sequence[str]) -> bool:
        """Whether it is about one of these dtypes, whichever its stored case has."""
        return not set(dtypes).isdisjoint(_listed(self.when.get("dtype", list(dtypes))))

    def covers(self, case: Case) -> bool:
        """Whether a failing case is of the kind that it describes."""
        when = self.when
        wanted = set(_listed(when.get("features", [])))
        return (
            case.dtype in _listed(when.get("dtype", case.dtype))
            and case.form in _listed(when.get("form", case.form))
            and case.reduction in _listed(when.get("reduction", case.reduction))
            and all(name in case.tensors for name in _listed(when.get("options", [])))
            and (not wanted or wanted <= features(case))
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _in_range(version: str | None, wanted: Any) -> bool:
    """Whether a version meets a range such as `>=2.4, <2.14`."""
    have = _numbers(version or "")
    for term in str(wanted).split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|<|>)\s*([\d.]+)\s*", term)
        if match is None:
            raise DeviationsError(f"a version range reads like '>=2.4, <2.14', got {wanted!r}")
        bound = _numbers(match[2])
        named = match[2].strip(".").count(".") + 1  # ==2.13 is any 2.13.x
        met = {
            ">=": have >= bound,
            "<=": have <= bound,
            "==": have[:named] == bound[:named],
            "<": have < bound,
            ">": have > bound,
        }
        if not met[match[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of the release that a version belongs to, or leads to; 0.0.0 where it has none.

    A local suffix (`+cu130`) names a build, not a release. A pre-release or a nightly already holds
    most changes of its release, so it counts as that: `2.15.0.dev20261101` as 2.15.0.
    """
    release = re.match(r"\s*v?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in release[1].split(".")] if release else []
    return (*numbers, 0, 0, 0)[:3]


def read(path: Path) -> list[KnownDeviation]:
    """The entries of one file; DeviationsError says which entry is wrong and how."""
    try:
        data = tomllib.loads(read_file(path, LARGEST_FILE).decode("utf-8"))
    except ReportError as error:
        raise DeviationsError(f"{path}: {error}") from None
    except RecursionError:
        raise DeviationsError(f"{path}: not TOML of ours: it is nested too deep") from None
    except ValueError as error:
        raise DeviationsError(f"{path}: not TOML ({foreign_error(error)})") from None
    if isinstance(data.get("deviation"), Mapping):
        raise DeviationsError(f"{path}: [deviation] takes two brackets: [[deviation]]")
    unknown = set(data) - {"deviation"}
    if unknown or not isinstance(data.get("deviation", []), list):
        raise DeviationsError(f"{path}: it holds [[deviation]] tables only, got {sorted(data)}")
    return [_entry(path, i, entry) for i, entry in enumerate(data.get("deviation", []), 1)]


def _entry(path: Path, number: int, entry: Any) -> KnownDeviation:
    place = f"{path}: deviation {number}"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("when", {}), Mapping):
        raise DeviationsError(f"{place}: it must be a table, and so must its `when`")
    for problem, wrong in (
        ("unknown keys", sorted(set(entry) - _KEYS)),
        ("missing keys", sorted({"loss", "clause", "reason", "case"} - set(entry))),
        ("not text", sorted(k for k in set(entry) - {"when"} if not isinstance(entry[k], str))),
    ):
        if wrong:
            more = f"; known: {', '.join(sorted(_KEYS))}" if problem == "unknown keys" else ""
            if problem == "missing keys" and "case" in wrong:
                more = "; `lossspec deviations NAME --file FILE --update` writes it"
            raise DeviationsError(f"{place}: {problem} {', '.join(wrong)}{more}")
    loss, clause = entry["loss"], present_id(entry["clause"])
    if loss not in catalogue():
        near = suggestion(loss, list(catalogue()), "lossspec list losses")
        raise DeviationsError(f"{place}: no loss {loss!r}{near}")
    if clause not in clauses():
        near = suggestion(clause, list(clauses()), "lossspec list clauses")
        raise DeviationsError(f"{place}: no clause {clause!r}{near}")
    spec = catalogue()[loss]
    when = _condition(place, spec, entry.get("when", {}))
    if not any(clauses()[clause].applies(spec, surface) for surface in SURFACES):
        raise DeviationsError(f"{place}: clause {clause!r} says nothing about {loss}")
    if not entry["reason"].strip():
        raise DeviationsError(f"{place}: a reason is required")
    try:
        case = Case.from_json(json.loads(entry["case"]))
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
    found = KnownDeviation(
        loss=loss,
        clause=clause,
        reason=entry["reason"],
        link=entry.get("link"),
        when=when,
        case=case,
        file=path.name,
    )
    if case.loss != loss or not found.covers(case):
        raise DeviationsError(f"{place}: the stored case is none of those that the entry is about")
    return found


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


def _condition(place: str, loss: Loss, when: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `when` of an entry, all of whose words are known ones."""
    if wrong := sorted(set(when) - _WHEN):
        known = ", ".join(sorted(_WHEN))
        raise DeviationsError(f"{place}: unknown keys in when {', '.join(wrong)}; known: {known}")
    for key, value in when.items():
        if not all(isinstance(word, str) for word in _listed(value)):
            raise DeviationsError(f"{place}: when.{key} takes text or a list of it, got {value!r}")
    words = {
        "surface": SURFACES,
        "dtype": (*REAL_DTYPES, "complex64", "complex128"),
        "form": [form.name for form in loss.forms],
        "reduction": loss.reductions,
        "options": list(loss.options),
        "features": _features(loss),
    }
    for key, allowed in words.items():
        for word in _listed(when.get(key, [])):
            if word not in allowed:
                raise DeviationsError(f"{place}: no {key} {word!r}{suggestion(word, allowed)}")
    if "version" in when:
        try:
            _in_range(None, when["version"])
        except DeviationsError as error:
            raise DeviationsError(f"{place}: {error}") from None
    return when


def _features(loss: Loss) -> list[str]:
    """All that `lossspec.cases.features` may say of a case of a loss."""
    tensors = dict.fromkeys(name for form in loss.forms for name in loss.roles(form))
    return [
        *FEATURES,
        *(f"{axes}-d" for axes in range(9)),
        *(f"with {name}" for name in tensors),
        *(f"{name} {layout}" for name in tensors for layout in LAYOUTS[1:]),
    ]


@cache
def shipped(implementation: str) -> list[KnownDeviation]:
    """The entries that lossspec ships for an implementation, none when it ships no file."""
    # A name is looked up and not made a path of: it may hold `/`, or be too long for one.
    path = {path.stem: path for path in SHIPPED.glob("*.toml")}.get(implementation)
    return [] if path is None else read(path)


def write(path: Path, entries: list[KnownDeviation]) -> None:
    """Write a file that `read` reads back to the same entries."""
    lines = []
    for entry in entries:
        lines += ["[[deviation]]", f"loss = {_toml(entry.loss)}", f"clause = {_toml(entry.clause)}"]
        lines.append(f"reason = {_toml(entry.reason)}")
        if entry.link:
            lines.append(f"link = {_toml(entry.link)}")
        if entry.when:
            inside = ", ".join(f"{key} = {_toml(value)}" for key, value in entry.when.items())
            lines.append(f"when = {{ {inside} }}")
        case = json.dumps(entry.case.to_json(), allow_nan=False)
        lines += [f"case = '{case}'" if "'" not in case else f"case = {_toml(case)}", ""]
    replace_file(path, "\n".join(lines))


def _toml(value: Any) -> str:
    """A string or list of strings; JSON's quoting of them is TOML's too, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
