"""The verdict on a clause, as a pure function of its record and of facts about the campaign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lossspec.excuse import Excuse
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.finding import Finding, Question
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.profiles import Profile
from lossspec.report.verdict import Verdict


@dataclass(frozen=True)
class Facts:
    """Facts about a campaign and a cell that are not in the record of the clause.

    Attributes:
        profile: How much evidence a verdict needs.
        lacks: A phrase for each feature that the implementation lacks.
        call_fails: The reason if no call was right, which names the clause that shows it.
        outdated: The reason if a known deviation no longer applies.
        endless: The reason if the judging did not end because a call reached its timeout.
        require_all: Whether a missing parameter is a deviation.
    """

    profile: Profile
    lacks: Sequence[str] = ()
    call_fails: str = ""
    outdated: str | None = None
    endless: str | None = None
    require_all: bool = False


@dataclass(frozen=True)
class Judged:
    """A verdict, the reason for it, and the finding to show with it."""

    verdict: Verdict
    reason: str | None = None
    finding: Finding | None = None


def verdict(record: ClauseRecord, facts: Facts) -> Judged:
    """Return the verdict on a clause.

    Args:
        record: The record of the clause, after the campaign.
        facts: Facts about the campaign and the cell.
    """
    return (
        _interrupted(record, facts)
        or _outdated(facts)
        or _shown(record)
        or _unsupported(record, facts)
        or _weighed(record, facts)
    )


def _interrupted(record: ClauseRecord, facts: Facts) -> Judged | None:
    """Return the verdict if the judging was interrupted by an error, a crash or a timeout."""
    if record.broken is not None and record.found is None:
        return Judged(Verdict.CRASH, f"lossspec itself failed in this clause: {record.broken}")
    if record.fatal:
        return Judged(Verdict.CRASH, "the process ended while this clause was judged")
    if facts.endless is not None and record.found is None:
        return Judged(Verdict.CRASH, facts.endless)
    return None


def _outdated(facts: Facts) -> Judged | None:
    """Return the verdict if a known deviation no longer applies."""
    return None if facts.outdated is None else Judged(Verdict.DEVIATES, facts.outdated)


def _shown(record: ClauseRecord) -> Judged | None:
    """Return the verdict if there is a deviation: new, known, or shared with torch."""
    if record.found is not None:
        return Judged(Verdict.DEVIATES, record.found.deviation.what, record.found)
    listed = record.excused_by(Excuse.EXPECTED_FAILURE)
    if listed is not None:
        assert isinstance(listed.by, KnownDeviation)  # nothing else gives this excuse
        return Judged(Verdict.KNOWN, listed.by.reason, listed)
    shared = record.excused_by(Excuse.SAME_AS_TORCH)
    if shared is not None:
        reason = f"inherited: {shared.by} deviates in the same way on the same call"
        return Judged(Verdict.KNOWN, reason, shared)
    return None


def _unsupported(record: ClauseRecord, facts: Facts) -> Judged | None:
    """Return the verdict if no supported case could be judged by the clause."""
    lacks = record.lacks
    examples = record.examples
    if next(record.asking(Question.GRAPH_EXPECTED), None) is not None:
        if facts.endless is not None:
            return Judged(Verdict.INCONCLUSIVE, facts.endless)
        examples, lacks = 0, lacks or "its results have no gradient"
    if examples:
        return None
    fails = record.unsound and not record.sound and lacks is None
    if fails and not (facts.require_all and facts.lacks):
        return Judged(Verdict.INCONCLUSIVE, facts.call_fails)
    if facts.lacks or lacks:
        word = Verdict.DEVIATES if facts.require_all else Verdict.UNSUPPORTED
        return Judged(word, lacks or f"no applicable case: {'; '.join(facts.lacks)}")
    return Judged(Verdict.INCONCLUSIVE, "no applicable case was drawn")


def _weighed(record: ClauseRecord, facts: Facts) -> Judged:
    """Return the verdict if no case deviates, which depends on the number of informative cases."""
    profile, clause = facts.profile, record.clause
    wanted = min(profile.informative, clause.chosen or clause.enough or profile.informative)
    if record.informative < wanted:
        reason = (
            f"{record.informative} of {record.examples} cases could have told "
            f"right from wrong; profile {profile.name} asks for {wanted}"
        )
        return Judged(Verdict.INCONCLUSIVE, reason)
    if facts.require_all and facts.lacks:
        reason = f"a deviation because of --require-all: {'; '.join(facts.lacks)}"
        return Judged(Verdict.DEVIATES, reason)
    return Judged(Verdict.CONFORMS)
