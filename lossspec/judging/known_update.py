"""The update of a file of known deviations from the results of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossspec.clauses.trial import Deviation, Trial
from lossspec.errors import DeviationsError, SpecError
from lossspec.execution.call import unsupported_argument
from lossspec.execution.timeout import STOPS, CallTimeout
from lossspec.judging.deviation import brief, deviation_in_time
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

#: How often the clauses that still deviate are judged again, to find further symptoms and dtypes.
ROUNDS = 24


@dataclass
class Update:
    """The changes to the entries of a file.

    Attributes:
        kept: The entries that still fail, and those that this run cannot judge.
        signed: The kept entries that had no `shows`, each completed with it, by their number.
        dropped: The numbers of the entries that no longer fail.
        added: The new entries.
        unsigned: The number of kept entries without `shows` that this run cannot judge.
    """

    kept: list[KnownDeviation] = field(default_factory=list)
    signed: dict[int, KnownDeviation] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)
    added: list[KnownDeviation] = field(default_factory=list)
    unsigned: int = 0


def update_file(path: Path, run: Run, plan: Plan) -> str:
    """Edit a file of known deviations in place.

    Args:
        path: The path of the file, which need not exist.
        run: The settings of the run.
        plan: The cells to judge.

    Returns:
        A sentence that says what was done.

    Raises:
        DeviationsError: The file cannot be read, edited or written, or lossspec itself fails.
    """
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
            f"; {update.unsigned} without `shows` cannot be judged here: run the update again with "
            "their clause, and the version and device in their `when`"
        )
    return said


def updated(run: Run, plan: Plan, listed: Sequence[KnownDeviation]) -> Update:
    """Judge the listed deviations again, and look for new ones.

    An entry is kept if this run cannot judge it: it applies only to another version or device, its
    clause is not judged, or its call takes too long.

    Args:
        run: The settings of the run.
        plan: The cells to judge.
        listed: The entries of the file.
    """
    update = Update()
    for number, entry in enumerate(listed):
        about = [cell for cell in plan.cells() if _judges(cell, entry)]
        try:
            failing = [d for cell in about if (d := listed_deviation(entry, cell)) is not None]
        except CallTimeout:
            update.kept.append(entry)
            continue
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


def _judges(cell: CellPlan, entry: KnownDeviation) -> bool:
    """Return whether a cell can judge the stored case of an entry."""
    return (
        (cell.loss.name, cell.clause.name) == (entry.loss, entry.clause)
        and cell.under_test is not None
        and cell.clause.lacks is None
        and entry.holds(cell.implementation.version, cell.device, cell.surface)
    )


def _new(run: Run, plan: Plan, kept: Sequence[KnownDeviation]) -> list[KnownDeviation]:
    """Return the entries that the run needs to pass, in addition to the kept ones.

    Each round lists one more deviation of each cell, because a cell shows its first unlisted one.
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
    """Judge a cell, and add an entry for its deviation; return whether the entry is new.

    Args:
        run: The settings of the run, with the entries so far.
        cell: The cell to judge.
        cells: All cells that still deviate.
        added: The new entries, which this function adds to or widens.
    """
    record, _ = run.judge(cell, [other for other in cells if other.campaign == cell.campaign])
    # The case in the record may be derived from the judged case, which the entry must store.
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
    # If a loss never works, every clause reports it, but only clause `accepts` must be listed.
    if campaign.support.fails and not _fails(entry, cell):
        return False
    key = _key(entry)
    if key in added:
        entry = _widened(added[key], entry)
        if entry == added[key]:
            return False
    added[key] = entry
    return True


def _fails(entry: KnownDeviation, cell: CellPlan) -> bool:
    """Return whether the stored case of an entry fails; False if its call takes too long."""
    try:
        return listed_deviation(entry, cell) is not None
    except CallTimeout:
        return False


def _key(entry: KnownDeviation) -> tuple[str, ...]:
    """Return a key that is equal for entries that differ only in the dtype or in `shows.off`."""
    shows = {key: value for key, value in entry.shows.items() if key != "off"}
    words = json.dumps([shows, "off" in entry.shows, entry.when.get("surface")])
    return entry.loss, entry.clause, words


def _widened(entry: KnownDeviation, other: KnownDeviation) -> KnownDeviation:
    """Return an entry that also covers the dtype and the size of the error of another one."""
    dtypes = list(dict.fromkeys([*entry.when["dtype"], *other.when["dtype"]]))
    shows = dict(entry.shows)
    if "off" in shows:
        shows["off"] = max(shows["off"], other.shows["off"])
    if dtypes == entry.when["dtype"] and shows == entry.shows:
        return entry
    return replace(entry, when={**entry.when, "dtype": dtypes}, shows=shows)


def listed_deviation(entry: KnownDeviation, cell: CellPlan) -> Deviation | None:
    """Return the deviation that the stored case of an entry shows for a cell.

    Args:
        entry: The known deviation.
        cell: The cell, whose implementation and device are used.

    Returns:
        The deviation. None if the case does not fail, fails with another symptom, or cannot be
        judged because the cell is about another clause or an argument is not accepted.

    Raises:
        CallTimeout: The call takes too long.
        DeviationsError: lossspec itself fails on the case.
    """
    if (entry.loss, entry.clause) != (cell.loss.name, cell.clause.name) or cell.under_test is None:
        return None
    if unsupported_argument(cell.under_test, entry.case) is not None:
        return None
    trial = Trial(cell.under_test, SolvedCase(cell.loss, entry.case), cell.device)
    try:
        deviation = deviation_in_time(cell.clause, trial)
    except (SpecError, *STOPS):
        raise
    except Exception as error:
        where = f"the stored case of {entry.loss}/{entry.clause}"
        raise DeviationsError(f"lossspec itself failed on {where}: {brief(error)}") from error
    if deviation is None or (entry.shows and not entry.matches(entry.case, deviation)):
        return None
    return deviation
