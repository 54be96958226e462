"""Judge one trial by one clause, and place what it found."""

from __future__ import annotations

import time
from collections import Counter

from lossspec.clauses import Judgement
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported
from lossspec.errors import SpecError
from lossspec.excuse import Excuse
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
    trial.asked, trial.skipped = Counter(), Counter()
    try:
        with time_limit(), preserved():
            informative = _judged(clause_record, trial)
    except Deviation as deviation:
        _place(clause_record, trial, deviation, excuses, pending, attached)
        informative = True
    except Unsupported as lack:
        clause_record.excused[lack.excuse] += 1
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


def _judged(clause_record: ClauseRecord, trial: Trial) -> Judgement:
    """Judge a trial; count it under the precondition that it does not meet, or under the reason
    for which the clause does not judge it, and return None."""
    unmet = clause_record.clause.unmet(trial)
    if unmet is not None:
        clause_record.blocked[unmet.name] += 1
        clause_record.excused[unmet.excuse] += 1
        return None
    try:
        informative = clause_record.clause.judge(trial)
    except NotJudged as reason:
        clause_record.excused[reason.excuse] += 1
        return None
    if informative is None:  # of a clause from outside
        clause_record.excused[Excuse.NOT_ABOUT] += 1
    return informative


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
    elif clause_record.known is None:
        clause_record.known = (known, known.case, deviation)


def _count(clause_record: ClauseRecord, trial: Trial, informative: bool) -> None:
    clause_record.examples += 1
    clause_record.informative += informative
    clause_record.dtypes.add(trial.case.dtype)
    clause_record.figures |= trial.figures
    clause_record.asked.setdefault(trial.case.dtype, Counter()).update(trial.asked)
    clause_record.skipped.update(trial.skipped)
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
    if (known := excuses.listed(clause, case)) is not None:
        clause_record.known = clause_record.known or (known, case, deviation)
        clause_record.excused[Excuse.EXPECTED_FAILURE] += 1
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
        clause_record.excused[Excuse.OTHER_MEANING] += 1
        return
    if torchs is not None:
        clause_record.shared = clause_record.shared or (torchs, case, deviation)
        clause_record.excused[Excuse.SAME_AS_TORCH] += 1
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
