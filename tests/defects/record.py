"""The record: by defect, the case in which each clause finds it; and the reports of right losses.

It is stored in docs/audit.json, with a line for each defect. `plan` picks the part that the tests
repeat; `lost` returns the defects that a clause no longer finds.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from lossspec.audit import Defect, Result, RightImplementation, audit
from lossspec.clauses import Clause, clauses
from lossspec.judging.profiles import PROFILES, Profile
from lossspec.report.files import replace_file
from lossspec.spec.catalogue import catalogue
from lossspec.spec.roles import Surface
from tests.defects.catalogue import Baseline, RecreatedBug, defects, right_implementations

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = "python -m tests.defects record"
#: About as many cases as the quick profile has, with every clause judging all of them.
PROFILE = replace(PROFILES["quick"], examples=60, even=True, patience=1.0)
#: Clauses that compile or train take a second a case. They judge only the defects of these entries
#: of the bug catalogue, and one right loss of each spec.
COSTLY = ("compiled", "compiled-refusal", "exported", "trained")
COSTLY_BUGS = ("CMP", "MOD")
#: Clauses with calls of many rows, which take long for a loop in Python. The tests leave CTC losses
#: out of them; `soak` does not.
OF_MANY_ROWS = ("block-of-rows", "memory-in-proportion", "uneven-rows")
#: Clauses that use every further case.
KEEN = ("accepts", "result-shape", "gradient", "mean-divisor", "mean-of-many")
#: How a defect is searched that those cases do not show: profile, clauses (None: all), seed.
#: Overflowing float16 squares beside a loss of 0 are rare, and so need another seed.
LONGER: tuple[tuple[Literal["standard"], Sequence[str] | None, int], ...] = (
    ("standard", None, 0),
    ("standard", KEEN, 2),
)
#: The tests repeat findings within this number of cases.
SOON = 10


@dataclass(frozen=True)
class Later:
    """The first finding of a defect that needs more cases than the record has."""

    profile: Literal["standard"]
    seed: int
    clause: str
    case: int


@dataclass
class Record:
    """The findings of the clauses; cases are counted from 1.

    Attributes:
        found: By defect, the case in which each clause first found it.
        later: The defects that need more cases.
        right: By right loss, the findings as in `found`; all are empty.
        judged: By clause, the number of right losses with an informative case, and one of them.
    """

    found: dict[str, dict[str, int]] = field(default_factory=dict)
    later: dict[str, Later] = field(default_factory=dict)
    right: dict[str, dict[str, int]] = field(default_factory=dict)
    judged: dict[str, tuple[int, str]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the record as JSON, with a line for each entry."""
        later = {id: vars(entry) for id, entry in self.later.items()}
        parts: dict[str, Mapping[str, Any]] = {
            "found": self.found,
            "later": later,
            "right": self.right,
            "judged": self.judged,
        }
        text = ",\n".join(f"{json.dumps(name)}: {_lines(part)}" for name, part in parts.items())
        replace_file(path, f"{{\n{text}\n}}\n")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record that `write` wrote."""
        stored = json.loads(path.read_text("utf-8"))
        later = {id: Later(**entry) for id, entry in stored["later"].items()}
        judged = {name: (count, one) for name, (count, one) in stored["judged"].items()}
        return cls(stored["found"], later, stored["right"], judged)


def _lines(part: Mapping[str, Any]) -> str:
    entries = (f"{json.dumps(id)}: {json.dumps(part[id])}" for id in sorted(part))
    return "{\n" + ",\n".join(entries) + "\n}" if part else "{}"


# === recording ============================================================================


@dataclass
class Part:
    """The record of one loss; `judged` has the ids by clause."""

    found: dict[str, dict[str, int]] = field(default_factory=dict)
    later: dict[str, Later] = field(default_factory=dict)
    right: dict[str, dict[str, int]] = field(default_factory=dict)
    judged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def recorded(loss: str) -> Part:
    """Audit every wrong and every right implementation of a loss."""
    part = Part()
    for defect in (d for d in defects().values() if d.loss == loss):
        (result,) = audit([defect], PROFILE, only=judges_of(defect))
        part.found[defect.id] = _cases(result)
        if result.missed and not defect.awaits:
            part.later |= _later(defect)
    for right in (r for r in right_implementations().values() if r.loss == loss):
        (result,) = audit([right], PROFILE, only=judges_of(right))
        part.right[right.id] = _cases(result)
        for clause in result.judged:
            part.judged[clause].append(right.id)
    return part


def judges_of(implementation: Defect | RightImplementation) -> list[str]:
    """Return the clauses that judge an implementation."""
    about = implementation.name == "composite" or (
        isinstance(implementation, RecreatedBug) and implementation.bug.startswith(COSTLY_BUGS)
    )
    takes_all = isinstance(implementation, Baseline)
    return [
        name
        for name, clause in clauses().items()
        if (about or name not in COSTLY) and not (takes_all and clause.theme == "refusal")
    ]


def _cases(result: Result) -> dict[str, int]:
    return {each.clause: each.index + 1 for each in result.found}


def _later(defect: RecreatedBug) -> dict[str, Later]:
    for profile, only, seed in LONGER:
        (result,) = audit([defect], profile, seed, first_only=True, only=only)
        if result.found:
            first = result.found[0]
            return {defect.id: Later(profile, seed, first.clause, first.index + 1)}
    return {}


def _quiet() -> None:
    """Use one thread, and silence the logs of torch about calls that fail while traced."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)


def record(losses: Iterable[str], old: Record) -> Record:
    """Record the entries of these losses again, several losses in parallel."""
    names = [name for name in sorted(catalogue()) if name in set(losses)]
    parts: dict[str, Part] = {}
    with ProcessPoolExecutor(initializer=_quiet) as pool:
        for name, part in zip(names, pool.map(recorded, names), strict=True):
            print(f"{name}: {len(part.found)} defects, {len(part.right)} right", flush=True)
            parts[name] = part
    return merged(old, parts)


def merged(old: Record, parts: Mapping[str, Part]) -> Record:
    """Replace parts of a record by new ones, by loss, and drop removed entries.

    The number of right losses that a clause judges is known only if all losses are recorded again.
    """

    def kept(id: str) -> bool:
        known = id in defects() or id in right_implementations()
        return known and id.partition("/")[0] not in parts

    new = Record(
        {id: cases for id, cases in old.found.items() if kept(id)},
        {id: entry for id, entry in old.later.items() if kept(id)},
        {id: cases for id, cases in old.right.items() if kept(id)},
        dict(old.judged),
    )
    judged: dict[str, list[str]] = defaultdict(list)
    for name in sorted(parts):
        new.found |= parts[name].found
        new.later |= parts[name].later
        new.right |= parts[name].right
        for clause, ids in parts[name].judged.items():
            judged[clause] += ids
    if set(parts) >= set(catalogue()):
        new.judged = {name: (len(ids), ids[len(ids) // 2]) for name, ids in judged.items()}
    return new


# === repeating a part of it ===============================================================


@dataclass(frozen=True)
class Repeat:
    """The findings of a defect that the tests repeat: the clauses, each with its case."""

    defect: RecreatedBug
    due: Mapping[str, int]


def plan(found: Mapping[str, Mapping[str, int]]) -> list[Repeat]:
    """Return the part of the record that the tests repeat in about a minute.

    Every defect is in it, with the clause that finds it first. In addition, each clause, loss and
    early case has one defect. Different cases have different dtypes, reductions and shapes, so a
    clause that became weaker in one of them is noticed.
    """
    by_clause: dict[str, dict[str, int]] = defaultdict(dict)
    for id, cases in found.items():
        for clause, case in cases.items():
            by_clause[clause][id] = case
    due: dict[str, dict[str, int]] = defaultdict(dict)
    for clause, ids in by_clause.items():
        for id in _one_a_case(ids, found):
            due[id][clause] = found[id][clause]
    for id, cases in found.items():
        if cases:
            soonest = min(cases, key=lambda name: (cases[name], len(by_clause[name]), name))
            due[id][soonest] = cases[soonest]
    return [Repeat(defect, due[id]) for id, defect in defects().items() if id in due]


def _one_a_case(ids: Mapping[str, int], found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield the defect that the fewest other clauses find, for each loss and early case."""
    best: dict[str, dict[int, str]] = defaultdict(dict)
    for id in sorted(ids, key=lambda id: (len(found[id]), id)):
        best[id.partition("/")[0]].setdefault(ids[id], id)
    for cases in best.values():
        for case, id in cases.items():
            if case <= SOON or case == min(cases):
                yield id


def lost(repeats: Iterable[Repeat]) -> dict[str, dict[str, str]]:
    """Repeat findings; return the defects that a clause no longer finds, with their cases."""
    missing: dict[str, dict[str, str]] = defaultdict(dict)
    for repeat in repeats:
        now = found_by(repeat.defect, repeat.due)
        for clause, case in repeat.due.items():
            if now.get(clause, case + 1) > case:
                missing[clause][repeat.defect.id] = f"case {case}: {repeat.defect.wrong}"
    return dict(missing)


def found_by(
    defect: RecreatedBug,
    due: Mapping[str, int],
    profile: Profile | Literal["quick", "standard", "deep"] = PROFILE,
    seed: int = 0,
) -> dict[str, int]:
    """Judge a defect by the due clauses, up to the last case in which one is due."""
    # `accepts` allows a dtype that never works, which is known only after all cases.
    cases = None if "accepts" in due else max(due.values())
    (result,) = audit([defect], profile, seed, only={*due, "accepts"}, cases=cases)
    return _cases(result)


def told(missing: Mapping[str, Mapping[str, str]]) -> str:
    """Return the lost findings as the message of a failing test."""
    return "\n".join(
        f"the clause {clause!r} no longer finds {id} in {what}"
        for clause, ids in sorted(missing.items())
        for id, what in sorted(ids.items())
    )


def differences(old: Record, new: Record) -> str:
    """Return the differences to another record, a line each; empty if there are none."""
    lines = []
    for id in sorted({*old.found, *new.found}):
        before, after = old.found.get(id, {}), new.found.get(id, {})
        lines += [
            f"{clause}: {id}: {_case(before.get(clause))} -> {_case(after.get(clause))}"
            for clause in sorted({*before, *after})
            if before.get(clause) != after.get(clause)
        ]
    for id in sorted({*old.right, *new.right}):
        if old.right.get(id) != new.right.get(id):
            lines.append(f"{id}: reported {old.right.get(id)} -> {new.right.get(id)}")
    for id in sorted({*old.later, *new.later}):
        if old.later.get(id) != new.later.get(id):
            lines.append(f"{id}: later {old.later.get(id)} -> {new.later.get(id)}")
    return "\n".join(lines)


def _case(number: int | None) -> str:
    return "not found" if number is None else f"case {number}"


def audited() -> list[Clause]:
    """Return the clauses that judge a shipped loss on the CPU."""
    return [
        clause
        for clause in clauses().values()
        if clause.speaks_on("cpu")
        and any(
            clause.applies(loss, on) for loss in catalogue().values() for on in get_args(Surface)
        )
    ]
