"""Judge one trial by one clause, and place what it found."""

from __future__ import annotations

import time

from lossspec.clauses.trial import Deviation, Trial, Unsupported
from lossspec.errors import SpecError
from lossspec.execution.global_state import preserved
from lossspec.execution.timeout import STOPS, time_limit
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.deviation import brief, deviation_of
from lossspec.judging.excuses import Excuses
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.pending import Pending


def judge(
    clause_record: ClauseRecord,
    trial: Trial,
    excuses: Excuses,
    pending: Pending,
    attached: bool,
) -> None:
    """Judge a trial by the clause of a record, and record what it found.

    attached : whether some result of the implementation carried a graph.
    """
    start = time.perf_counter()
    trial.worst, trial.figures = 0.0, {}
    try:
        with time_limit(), preserved():
            informative = clause_record.clause.judge(trial)
    except Deviation as deviation:
        _place(clause_record, trial, deviation, excuses, pending, attached)
        informative = True
    except Unsupported as lack:
        clause_record.lacks, informative = str(lack), None
        clause_record.failed += 1
    except (SpecError, *STOPS):
        raise
    except BaseException as error:
        # Not the implementation's: its errors are on its outcomes. One clause less, loudly.
        clause_record.broken = brief(error)
        informative = None
    else:
        if informative is None and not clause_record.examples:
            sound = _sound(trial)
            clause_record.sound |= sound
            clause_record.unsound |= not sound
    clause_record.seconds += time.perf_counter() - start
    if informative is not None:
        _count(clause_record, trial, informative)


def replay(clause_record: ClauseRecord, known: KnownDeviation, trial: Trial) -> None:
    """Judge the stored case of a known deviation, and record whether it still fails."""
    try:
        deviation = deviation_of(clause_record.clause, trial)
    except (SpecError, *STOPS):
        raise
    except Exception as error:  # of lossspec itself, in this clause only
        clause_record.broken = brief(error)
        return
    if deviation is None:
        clause_record.stale = known
    elif not known.matches(known.case, deviation):
        clause_record.stale, clause_record.otherwise = known, deviation
    elif clause_record.known is None:
        clause_record.known = (known, known.case, deviation)


def _count(clause_record: ClauseRecord, trial: Trial, informative: bool) -> None:
    clause_record.examples += 1
    clause_record.informative += informative
    clause_record.dtypes.add(trial.case.dtype)
    clause_record.figures |= trial.figures
    if clause_record.worst < trial.worst <= 1:
        clause_record.worst, clause_record.worst_case = trial.worst, trial.case


def _place(
    clause_record: ClauseRecord,
    trial: Trial,
    deviation: Deviation,
    excuses: Excuses,
    pending: Pending,
    attached: bool,
) -> None:
    """Record a deviation as known, inherited from torch, pending or new."""
    clause, case = clause_record.clause, trial.case
    if (known := excuses.listed(clause, case, deviation)) is not None:
        clause_record.known = clause_record.known or (known, case, deviation)
        return
    absent, torchs = False, None
    try:
        absent = excuses.by_absence(clause, trial)
        torchs = None if absent else excuses.inherited(clause, trial, deviation)
    except (SpecError, *STOPS):
        raise
    except Exception as error:  # of lossspec itself, which excuses nothing
        clause_record.mishaps.append(f"lossspec failed to look for an excuse: {brief(error)}")
    if absent:
        return
    if torchs is not None:
        clause_record.shared = clause_record.shared or (torchs, case, deviation)
        return
    if pending.hold(clause.name, trial, deviation, attached):
        return
    clause_record.found = (case, deviation)
    clause_record.worst = max(clause_record.worst, trial.worst)


def _sound(trial: Trial) -> bool:
    """Whether the plain call is right, so that clauses that build on it have something to judge."""
    try:
        return trial.worked and trial.precise and trial.conforms
    except STOPS:
        raise
    except BaseException:  # a clause on the plain call tells
        return True
