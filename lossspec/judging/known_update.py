"""Update a file of known deviations from a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossspec.clauses.trial import Deviation, Trial
from lossspec.execution.call import unsupported_argument
from lossspec.judging.deviation import deviation_of
from lossspec.judging.known_deviations import (
    KnownDeviation,
    as_toml,
    entries_of,
    read_text,
    symptom_line,
)
from lossspec.judging.known_file import check_writable, edited
from lossspec.judging.known_file import replace as replace_text
from lossspec.judging.plan import CellPlan, Plan
from lossspec.judging.run import Run
from lossspec.judging.symptoms import symptom_of
from lossspec.oracle.solver import SolvedCase
from lossspec.report.verdict import Verdict

#: How often the clauses that still deviate are judged again, for another symptom or dtype.
ROUNDS = 24


@dataclass
class Update:
    """What an update does to the entries of a file.

    kept : the entries that still fail, or that are about another version or device. signed : by
    number, those of them that had no `shows`, with it. dropped : the numbers of the others. added :
    new entries. unsigned : the kept ones that have no `shows` and that cannot be judged here.
    """

    kept: list[KnownDeviation] = field(default_factory=list)
    signed: dict[int, KnownDeviation] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)
    added: list[KnownDeviation] = field(default_factory=list)
    unsigned: int = 0


def update_file(path: Path, run: Run, plan: Plan) -> str:
    """Edit a file in place from a run; return what was done, in a sentence."""
    check_writable(path)
    before = read_text(path) if path.exists() else None
    listed = [] if before is None else entries_of(path, before, complete=False)
    update = updated(run, plan, listed)
    signed = {i: symptom_line(entry) for i, entry in update.signed.items()}
    added = list(map(as_toml, update.added))
    text = edited(path, before or "", update.dropped, signed, added)
    if text != before:
        replace_text(path, before, text)
    said = (
        f"{path}: {len(update.kept)} kept, {len(added)} added, {len(update.dropped)} no longer fail"
    )
    if update.unsigned:
        said += (
            f"; {update.unsigned} without `shows` cannot be judged here: update the file with "
            "their version and device"
        )
    return said


def updated(run: Run, plan: Plan, listed: Sequence[KnownDeviation]) -> Update:
    """Return what a run says about the listed deviations, and which deviations are new.

    What is listed of another version or device cannot be told here: it is kept.
    """
    update = Update()
    for number, entry in enumerate(listed):
        about = [
            cell
            for cell in plan.cells()
            if entry.holds(cell.implementation.version, cell.device, cell.surface)
        ]
        failing = [d for cell in about if (d := listed_deviation(entry, cell)) is not None]
        if about and not failing:
            update.dropped.append(number)
            continue
        if not entry.shows and failing:
            entry = replace(entry, shows=symptom_of(entry.case, failing[0]))
            update.signed[number] = entry
        update.unsigned += not entry.shows
        update.kept.append(entry)
    update.added = _new(run, plan, update.kept)
    return update


def _new(run: Run, plan: Plan, kept: Sequence[KnownDeviation]) -> list[KnownDeviation]:
    """The entries that make the run pass, beside those that are kept.

    A clause stops at the first deviation that is not listed, so what deviates is judged again.
    """
    added: dict[tuple[str, ...], KnownDeviation] = {}
    cells = [cell for cell in plan.cells() if cell.applies and cell.under_test is not None]
    for _ in range(ROUNDS):
        again = replace(run, known=[*kept, *added.values()], _campaigns={})
        cells = [cell for cell in cells if _listed_anew(again, cell, cells, added)]
        if not cells:
            break
    return list(added.values())


def _listed_anew(
    run: Run,
    cell: CellPlan,
    cells: Iterable[CellPlan],
    added: dict[tuple[str, ...], KnownDeviation],
) -> bool:
    """List what a cell shows; whether that is something new."""
    record, _ = run.judge(cell, [other for other in cells if other.campaign == cell.campaign])
    # Not the case that the record shows, which may be derived from the one judged.
    campaign = run.campaign(cell)
    found = campaign.clause_records[cell.clause.name].found
    if record.verdict is not Verdict.DEVIATES or found is None:
        return False
    case, deviation = found.case, found.deviation
    when: dict[str, Any] = {"dtype": [case.dtype]}
    if len(list(cell.implementation.losses_under_test(cell.loss))) > 1:
        when["surface"] = record.surface
    entry = KnownDeviation(
        loss=record.loss,
        clause=record.clause,
        reason=f"not explained yet: {record.reason}",
        when=when,
        shows=symptom_of(case, deviation),
        case=case,
    )
    # Of a loss that never works every clause says so; clause `accepts` is the one to list.
    if campaign.support.fails and listed_deviation(entry, cell) is None:
        return False
    key = _key(entry)
    if key in added:
        entry = _widened(added[key], entry)
        if entry == added[key]:
            return False
    added[key] = entry
    return True


def _key(entry: KnownDeviation) -> tuple[str, ...]:
    """What two entries have in common that differ in the dtype, or in how much a number is off."""
    shows = {key: value for key, value in entry.shows.items() if key != "off"}
    words = json.dumps([shows, "off" in entry.shows, entry.when.get("surface")])
    return entry.loss, entry.clause, words


def _widened(entry: KnownDeviation, other: KnownDeviation) -> KnownDeviation:
    """An entry that is about the dtype of another one too, and about as large an error."""
    dtypes = list(dict.fromkeys([*entry.when["dtype"], *other.when["dtype"]]))
    shows = dict(entry.shows)
    if "off" in shows:
        shows["off"] = max(shows["off"], other.shows["off"])
    if dtypes == entry.when["dtype"] and shows == entry.shows:
        return entry
    return replace(entry, when={**entry.when, "dtype": dtypes}, shows=shows)


def still_fails(entry: KnownDeviation, cell: CellPlan) -> bool:
    """Whether the stored case of an entry still shows it, on a cell's implementation."""
    return listed_deviation(entry, cell) is not None


def listed_deviation(entry: KnownDeviation, cell: CellPlan) -> Deviation | None:
    """Return how the stored case of an entry breaks its clause on a cell's implementation.

    None if it does not, or in another way than the entry says.
    """
    if (entry.loss, entry.clause) != (cell.loss.name, cell.clause.name) or cell.under_test is None:
        return None
    if unsupported_argument(cell.under_test, entry.case) is not None:
        return None
    trial = Trial(cell.under_test, SolvedCase(cell.loss, entry.case), cell.device)
    deviation = deviation_of(cell.clause, trial)
    if deviation is None or (entry.shows and not entry.matches(entry.case, deviation)):
        return None
    return deviation
