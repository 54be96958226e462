"""The verdict on a clause: one pure function of what its cases have shown."""

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
    """What a campaign has learned beyond one clause.

    profile : how much evidence is enough. lacks : what the implementation lacks, a phrase each.
    call_fails : which clause shows that no call is right. outdated : why a listed deviation is not
    there any more. endless : why the clause came to no end, if it did not. require_all : whether a
    missing parameter is a failure.
    """

    profile: Profile
    lacks: Sequence[str] = ()
    call_fails: str = ""
    outdated: str | None = None
    endless: str | None = None
    require_all: bool = False


@dataclass(frozen=True)
class Judged:
    """A verdict, why, and the finding to show with it."""

    verdict: Verdict
    reason: str | None = None
    finding: Finding | None = None


def verdict(record: ClauseRecord, facts: Facts) -> Judged:
    """Return the verdict on a clause whose campaign is over."""
    return (
        _interrupted(record, facts)
        or _outdated(facts)
        or _shown(record)
        or _unsupported(record, facts)
        or _weighed(record, facts)
    )


def _interrupted(record: ClauseRecord, facts: Facts) -> Judged | None:
    """A judgement that did not come to its end."""
    if record.broken is not None and record.found is None:
        return Judged(Verdict.CRASH, f"lossspec itself failed in this clause: {record.broken}")
    if record.fatal:
        return Judged(Verdict.CRASH, "the process ended while this was judged")
    if facts.endless is not None and record.found is None:
        return Judged(Verdict.CRASH, facts.endless)
    return None


def _outdated(facts: Facts) -> Judged | None:
    """A listed deviation that is not there any more."""
    return None if facts.outdated is None else Judged(Verdict.DEVIATES, facts.outdated)


def _shown(record: ClauseRecord) -> Judged | None:
    """A deviation that is new, listed, or torch's own."""
    if record.found is not None:
        return Judged(Verdict.DEVIATES, record.found.deviation.what, record.found)
    listed = record.excused_by(Excuse.EXPECTED_FAILURE)
    if listed is not None:
        assert isinstance(listed.by, KnownDeviation)  # nothing else gives this excuse
        return Judged(Verdict.KNOWN, listed.by.reason, listed)
    shared = record.excused_by(Excuse.SAME_AS_TORCH)
    if shared is not None:
        reason = f"inherited: {shared.by} does the same on the same call"
        return Judged(Verdict.KNOWN, reason, shared)
    return None


def _unsupported(record: ClauseRecord, facts: Facts) -> Judged | None:
    """No case that the implementation supports was about the clause."""
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
    return Judged(Verdict.INCONCLUSIVE, "no case was about this clause")


def _weighed(record: ClauseRecord, facts: Facts) -> Judged:
    """Whether cases that have shown nothing are enough to say that it conforms."""
    profile, clause = facts.profile, record.clause
    wanted = min(profile.informative, clause.chosen or clause.enough or profile.informative)
    if record.informative < wanted:
        reason = (
            f"{record.informative} of {record.examples} cases could have told "
            f"right from wrong; profile {profile.name} asks for {wanted}"
        )
        return Judged(Verdict.INCONCLUSIVE, reason)
    if facts.require_all and facts.lacks:
        return Judged(Verdict.DEVIATES, f"--require-all, and {'; '.join(facts.lacks)}")
    return Judged(Verdict.CONFORMS)
