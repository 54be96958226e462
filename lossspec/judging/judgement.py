"""The judging of one trial by one clause, and the record of what it found."""

from __future__ import annotations

import time
from collections import Counter

from lossspec.cases.hypothesis_runs import expected_failure
from lossspec.clauses import Judgement
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported
from lossspec.errors import SpecError
from lossspec.excuse import Excuse
from lossspec.execution.global_state import preserved
from lossspec.execution.timeout import STOPS, CallTimeout, time_limit
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.deviation import brief, deviation_in_time
from lossspec.judging.excuses import Excuses
from lossspec.judging.finding import Finding, Question
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.whose_error import of_implementation
from lossspec.oracle.solver import SolvedCase
from lossspec.safe_text import foreign_error

#: The clauses that compare numbers with the oracle's. Their records count the compared numbers.
ASKED_OF = ("value", "gradient")


def judge(clause_record: ClauseRecord, trial: Trial, excuses: Excuses, attached: bool) -> None:
    """Judge a trial by the clause of a record, and record what it found.

    Args:
        clause_record: The record of the clause.
        trial: The call and its outcome.
        excuses: Looks up excuses for a deviation.
        attached: Whether an earlier result of the implementation required a gradient.

    Raises:
        SpecError: The spec of the loss cannot be evaluated.
    """
    start = time.perf_counter()
    trial.worst, trial.figures = 0.0, {}
    counts = clause_record.clause.name in ASKED_OF
    trial.asked, trial.skipped = Counter() if counts else None, Counter()
    informative: Judgement = None
    try:
        with time_limit(), preserved():
            informative = _judged(clause_record, trial)
    except Deviation as deviation:
        _place(clause_record, trial, deviation, excuses, attached)
        informative = True
    except Unsupported as lack:
        clause_record.excused[lack.excuse] += 1
        clause_record.lacks = clause_record.lacks or str(lack)  # later errors may follow from it
        clause_record.failed += 1
    except (SpecError, *STOPS):
        raise
    except BaseException as error:
        # Clauses catch the errors of the calls that they judge. This one is of another call.
        if of_implementation(error, clause_record.clause):
            clause_record.excused[Excuse.CALL_FAILS] += 1
            clause_record.lacks = f"a call that this clause needs raised {foreign_error(error)}"
            clause_record.failed += 1
        else:
            clause_record.broken = brief(error)
    else:
        if informative is None and not clause_record.examples:
            sound = _sound(trial)
            clause_record.sound |= sound
            clause_record.unsound |= not sound
    clause_record.seconds += time.perf_counter() - start
    if informative is not None:
        _count(clause_record, trial, informative)


def _judged(clause_record: ClauseRecord, trial: Trial) -> Judgement:
    """Judge a trial if it meets every precondition of the clause.

    Returns:
        Whether the trial could tell right from wrong. None if the clause does not judge it; the
        reason is then counted in the record.
    """
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
    if informative is None:  # only clauses of other packages return None
        clause_record.excused[Excuse.NOT_ABOUT] += 1
    return informative


def judge_stored(clause_record: ClauseRecord, known: KnownDeviation, trial: Trial) -> None:
    """Judge the stored case of a known deviation, as an expected failure of Hypothesis.

    A case that does not fail, or fails with another symptom, makes the known deviation stale. A
    case that takes too long does not.

    Args:
        clause_record: The record of the clause that the known deviation is about.
        known: The known deviation.
        trial: The call of its stored case.

    Raises:
        SpecError: The spec of the loss cannot be evaluated.
    """
    endless = False

    def look(known: KnownDeviation) -> None:
        nonlocal endless
        try:
            deviation = deviation_in_time(clause_record.clause, trial)
        except CallTimeout:
            endless = True
            return
        if deviation is None:
            return
        if not known.matches(known.case, deviation):
            clause_record.otherwise = deviation
            return
        found = Finding(trial.solved, deviation, Excuse.EXPECTED_FAILURE, known)
        clause_record.findings.append(found)
        clause_record.excused[Excuse.EXPECTED_FAILURE] += 1
        raise deviation

    try:
        if not expected_failure(known, look, Deviation, known.reason) and not endless:
            clause_record.stale = known
    except (SpecError, *STOPS):
        raise
    except Exception as error:  # an error in lossspec, which affects this clause only
        clause_record.broken = brief(error)


def _count(clause_record: ClauseRecord, trial: Trial, informative: bool) -> None:
    clause_record.examples += 1
    clause_record.informative += informative
    clause_record.informed[trial.case.dtype] += informative
    clause_record.dtypes.add(trial.case.dtype)
    clause_record.figures |= trial.figures
    if trial.asked is not None:
        clause_record.asked.setdefault(trial.case.dtype, Counter()).update(trial.asked)
    clause_record.skipped.update(trial.skipped)
    if clause_record.worst < trial.worst <= 1:
        clause_record.worst, clause_record.worst_case = trial.worst, trial.case


def _place(
    clause_record: ClauseRecord,
    trial: Trial,
    deviation: Deviation,
    excuses: Excuses,
    attached: bool,
) -> None:
    """Record a deviation with its excuse, or with the question whose answer decides if it counts.

    After the first deviation that counts, further ones are kept until the end of the campaign.
    """
    if clause_record.found is not None:
        _keep_for_later(clause_record, trial, deviation)
        return
    if excused(clause_record, trial, deviation, excuses):
        return
    question = _question(clause_record, trial, deviation, attached)
    raised = trial.outcome.error
    clause_record.findings.append(
        Finding(
            _unsolved(trial),
            deviation,
            question=question,
            error=foreign_error(raised) if raised else f"{deviation.what}: {deviation.got}",
        )
    )
    if question is None and trial.worst > clause_record.worst:
        clause_record.worst, clause_record.worst_case = trial.worst, trial.case


def excused(
    clause_record: ClauseRecord, trial: Trial, deviation: Deviation, excuses: Excuses
) -> bool:
    """Return whether a deviation has an excuse; if so, record the excuse and count it."""
    try:
        excuse, by = excuses.of(clause_record.clause, trial, deviation)
    except (SpecError, *STOPS):
        raise
    except Exception as error:  # an error in lossspec must not excuse the implementation
        clause_record.mishaps.append(f"the search for an excuse failed in lossspec: {brief(error)}")
        return False
    if excuse is None:
        return False
    clause_record.excused[excuse] += 1
    deviation.compared = None  # frees the memory, since no further excuse is looked for
    clause_record.findings.append(Finding(_unsolved(trial), deviation, excuse, by))
    return True


def _keep_for_later(clause_record: ClauseRecord, trial: Trial, deviation: Deviation) -> None:
    """Record a further deviation, unless one of the same kind is recorded.

    Excuses for it are looked for at the end of the campaign, which saves time.
    """
    later = Finding(_unsolved(trial), deviation, question=Question.ANOTHER_KIND)
    kept = clause_record.asking(Question.ANOTHER_KIND)
    if all(finding.kind != later.kind for finding in kept):
        clause_record.findings.append(later)


def _unsolved(trial: Trial) -> SolvedCase:
    """Return the case of a trial without its right answer.

    Findings are kept until the end of the campaign, and right answers take most of the memory.
    """
    return trial.solved.changed(trial.case)


def _question(
    clause_record: ClauseRecord, trial: Trial, deviation: Deviation, attached: bool
) -> Question | None:
    """Return the question about a deviation that only all calls together can answer, if any."""
    if clause_record.clause.name == "accepts":
        return Question.FORM_WORKS if trial.form.optional else Question.DTYPE_WORKS
    if deviation.detached and not attached:
        return Question.GRAPH_EXPECTED
    return Question.NOTHING_ELSE if deviation.missing else None


def _sound(trial: Trial) -> bool:
    """Return whether value and gradients of the call are right, which many clauses presuppose."""
    try:
        return trial.worked and trial.precise and trial.conforms
    except STOPS:
        raise
    except BaseException:  # a clause that judges the call itself reports the error
        return True
