"""The record of one clause in a campaign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation
from lossspec.excuse import Excuse
from lossspec.execution.checkpoint import Underway
from lossspec.judging.finding import Finding, Question
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.thresholds import FRUITLESS_CASES


@dataclass
class ClauseRecord:
    """The findings and counts of one clause in a campaign.

    Attributes:
        clause: The clause.
        findings: Every deviation, in the order in which they were found. None is ever removed.
        shown: The findings that a report shows, with shrunk cases. Each is of another kind.
        examples: The number of judged cases.
        informative: The number of judged cases that could tell right from wrong.
        informed: For each dtype, the number of those cases.
        excused: For each excuse, the number of cases that have it.
        blocked: For each precondition by its name, the number of cases that do not meet it.
        skipped: For each excuse, the number of parts of judged cases that were not judged.
        asked: For each dtype, the number of compared numbers, and for each excuse the number of
            numbers that were not compared.
        worst: The largest error ÷ budget among the judged cases.
        worst_case: The case with that error.
        dtypes: The dtypes of the judged cases.
        seconds: The time that its own judgements and shrinking took, in seconds.
        share: Its share of the time that no clause used alone, in seconds. That is the time for
            drawing cases, computing right answers and making calls.
        stale: The known deviation whose stored case no longer fails as recorded.
        otherwise: The deviation that this stored case shows instead, if it still fails.
        broken: The error in lossspec that ended the judging of this clause.
        lacks: The feature that the clause needs and the implementation lacks.
        fatal: Whether a process ended during a step of this clause.
        killer: The case that was being judged then.
        last_call: The call that was being made then.
        over: Whether the clause receives no further case.
        failed: The number of cases for which the implementation does not work in the way that the
            clause calls it.
        sound: Whether the call of some case was right, before any case was judged.
        unsound: Whether the call of some case was wrong, before any case was judged.
        figures: Further measured numbers for the report.
        mishaps: Errors in lossspec after a deviation was found. The report shows them beside it.
    """

    clause: Clause
    findings: list[Finding] = field(default_factory=list)
    shown: list[Finding] = field(default_factory=list)
    examples: int = 0
    informative: int = 0
    informed: Counter[str] = field(default_factory=Counter)
    excused: Counter[Excuse] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)
    skipped: Counter[Excuse] = field(default_factory=Counter)
    asked: dict[str, Counter[str]] = field(default_factory=dict)
    worst: float = 0.0
    worst_case: Case | None = None
    dtypes: set[str] = field(default_factory=set)
    seconds: float = 0.0
    share: float = 0.0
    stale: KnownDeviation | None = None
    otherwise: Deviation | None = None
    broken: str | None = None
    lacks: str | None = None
    fatal: bool = False
    killer: Case | None = None
    last_call: Underway | None = None
    over: bool = False
    failed: int = 0
    sound: bool = False
    unsound: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    mishaps: list[str] = field(default_factory=list)

    @property
    def found(self) -> Finding | None:
        """The first finding that counts, with its shrunk case if there is one."""
        return next(iter(self.shown), None) or next((f for f in self.findings if f.counts), None)

    def asking(self, question: Question) -> Iterator[Finding]:
        """Yield the findings without an excuse that depend on the answer to a question."""
        return (f for f in self.findings if f.question is question and f.excuse is None)

    def excused_by(self, excuse: Excuse) -> Finding | None:
        """Return the first finding with this excuse, if there is one."""
        return next((f for f in self.findings if f.excuse is excuse), None)

    def learns(self, share_of_enough: float) -> bool:
        """Return whether the clause needs more cases.

        A clause also needs more cases after a deviation, to find deviations of other kinds. The
        exceptions are clauses that are costly, hazardous, or need one case only.

        Args:
            share_of_enough: The number of informative cases that suffice, as a share of
                `clause.enough`.
        """
        clause = self.clause
        tries = 1 if clause.once else FRUITLESS_CASES
        never_works = self.failed >= tries and not self.examples
        if self.over or self.broken or self.killer or never_works:
            return False
        if self.found is not None and (clause.hazard or clause.chosen or clause.once):
            return False
        if clause.chosen:
            return True  # `costly_cases.chosen` decides how many cases there are
        if clause.once:
            return not self.examples
        return clause.enough is None or self.informative < clause.enough * share_of_enough


def share_rest(seconds: float, clause_records: Sequence[ClauseRecord]) -> None:
    """Divide the time that no clause used alone in proportion to the cases that each judged.

    Args:
        seconds: The time of the whole campaign, in seconds.
        clause_records: The records of all its clauses, whose `share` is set.
    """
    rest = max(0.0, seconds - sum(clause_record.seconds for clause_record in clause_records))
    cases = sum(clause_record.examples for clause_record in clause_records)
    for clause_record in clause_records:
        clause_record.share = rest * (
            clause_record.examples / cases if cases else 1 / len(clause_records)
        )
