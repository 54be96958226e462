"""The audit: it judges wrong implementations and shows which clause finds which defect.

A `Defect` is a wrong implementation that some clause must report. If none does, it is a missed
defect. A `RightImplementation` is a correct one; a deviation found in it is a false positive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lossspec.cases.case import Case
from lossspec.clauses import Clause, clauses
from lossspec.clauses.trial import Trial
from lossspec.errors import SpecError
from lossspec.excuse import Excuse
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging.campaign import Campaign
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.finding import Finding, Question
from lossspec.judging.profiles import Profile, profile_named
from lossspec.judging.stream import CHOSEN, stream
from lossspec.judging.support import Support
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface


@dataclass(frozen=True, eq=False)
class Defect:
    """An implementation with one defect.

    Attributes:
        name: The name of the defect, unique within its loss and surface.
        loss: The name of the loss.
        make: A function that returns a new implementation with torch's signature; on the class
            surface it returns the class.
        wrong: The defect, in one sentence.
        surface: The surface that is judged.
        source: The report of such a bug; empty if there is none.
        awaits: The reason why no clause can find it yet; empty if a clause must find it.
    """

    name: str
    loss: str
    make: Callable[[], Callable[..., Any]]
    wrong: str
    surface: Surface = "function"
    source: str = ""
    awaits: str = ""

    @property
    def id(self) -> str:
        """Return the loss and the name, unique among defects."""
        return f"{self.loss}/{self.name}"


@dataclass(frozen=True, eq=False)
class RightImplementation:
    """A correct implementation in another formulation, in which no clause may find a deviation.

    Attributes:
        name: The name of the formulation, unique within its loss and surface.
        loss: The name of the loss.
        make: A function that returns a new implementation, as in `Defect`.
        how: The formulation, in one sentence.
        surface: The surface that is judged.
    """

    name: str
    loss: str
    make: Callable[[], Callable[..., Any]]
    how: str
    surface: Surface = "function"

    @property
    def id(self) -> str:
        """Return the loss and the name, unique among right implementations."""
        return f"{self.loss}/{self.name}"


@dataclass(frozen=True)
class Detection:
    """The first deviation that a clause found.

    Attributes:
        clause: The name of the clause.
        index: The index of the case in the stream, from 0.
        seconds: The time from the start of judging, in seconds.
        what: The quantity that deviates.
        got: The value of the implementation, as text; None if there is none.
        want: The expected value, as text; None if there is none.
        case: The case.
    """

    clause: str
    index: int
    seconds: float
    what: str
    got: str | None
    want: str | None
    case: Case


@dataclass(frozen=True)
class Result:
    """The result of an audit for one implementation.

    Attributes:
        implementation: The implementation.
        found: The detections of the clauses, the earliest first.
        cases: The number of cases that were judged.
        seconds: The time of judging, in seconds.
        shared: The clauses that torch's loss violates in the same way.
        refused: The dtypes in which no call worked, with the error.
        crashed: The clauses that ended with an error of lossspec itself, with the error.
        judged: The clauses that judged a case in which a wrong result differs from the right one.
    """

    implementation: Defect | RightImplementation
    found: tuple[Detection, ...]
    cases: int
    seconds: float
    shared: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    crashed: Mapping[str, str] = field(default_factory=dict)
    judged: frozenset[str] = frozenset()

    @property
    def missed(self) -> bool:
        """Return whether no clause found a deviation."""
        return not self.found


def audit(
    implementations: Iterable[Defect | RightImplementation],
    profile: Profile | Literal["quick", "standard", "deep"] = "quick",
    seed: int = 0,
    *,
    first_only: bool = False,
    only: Collection[str] | None = None,
    spec: Loss | None = None,
    cases: int | None = None,
) -> Iterator[Result]:
    """Judge each implementation, and yield the deviations that each clause found.

    The seconds of a result exclude drawing: the cases of a loss are drawn before they are judged.

    Args:
        implementations: The implementations; group them by loss, so that cases are drawn once.
        profile: The profile, which says how many cases are drawn.
        seed: The seed of the stream of cases.
        first_only: Whether to stop an implementation at its first deviation.
        only: The names of the clauses that judge; None for all clauses of the profile.
        spec: The spec of the loss of all implementations; None to look it up in the catalogue.
        cases: The number of cases to judge; None for the whole stream.

    Yields:
        The result of each implementation, in the given order.

    Raises:
        UnknownName: If there is no profile of the given name.
    """
    if isinstance(profile, str):
        profile = profile_named(profile)
    for each in implementations:
        judges = [
            clause
            for name, clause in clauses().items()
            if (name in only if only else not clause.slow or profile.name != "quick")
        ]
        # Slow clauses take about a second each; run them only if no other clause finds a deviation.
        late = [clause for clause in judges if first_only and clause.slow]
        early = [clause for clause in judges if clause not in late]
        loss = spec or find(each.loss)
        result = _audited(each, loss, early, profile, seed, first_only, cases)
        if late and result.missed:
            last = _audited(each, loss, late, profile, seed, first_only, cases)
            shared = result.shared + last.shared
            result = replace(last, shared=shared, crashed={**result.crashed, **last.crashed})
        yield result


def _audited(
    implementation: Defect | RightImplementation,
    loss: Loss,
    judges: Sequence[Clause],
    profile: Profile,
    seed: int,
    first_only: bool,
    cases: int | None,
) -> Result:
    surface = implementation.surface
    judges = [c for c in judges if c.applies(loss, surface) and c.speaks_on("cpu")]
    under_test = LossUnderTest("audit", loss, surface, implementation.make())
    stream(loss, profile, seed)  # draws the cases now, so that their time does not count
    hunt = _Hunt(first_only, cases, time.perf_counter())
    campaign = Campaign(
        under_test,
        judges,
        profile,
        seed,
        reference=torch_counterpart(loss, surface),
        observer=hunt,
        shrinks=False,
    )
    crashed: dict[str, str] = {}
    try:
        campaign.run()
    except SpecError as error:  # ends the campaign before any clause is finished
        crashed = {clause.name: str(error) for clause in judges}
    clause_records = campaign.clause_records
    hunt.conclude(clause_records, campaign.support)
    return Result(
        implementation,
        tuple(sorted(hunt.detections.values(), key=lambda each: each.index)),
        len(hunt.drawn),
        time.perf_counter() - hunt.start,
        tuple(n for n, record in clause_records.items() if record.excused_by(Excuse.SAME_AS_TORCH)),
        dict(campaign.support.refused),
        crashed | {name: each.broken for name, each in clause_records.items() if each.broken},
        frozenset(name for name, record in clause_records.items() if record.informative),
    )


@dataclass
class _Hunt:
    """The observer of a campaign that records the first deviation of each clause.

    Attributes:
        first_only: Whether the first deviation ends the campaign.
        limit: The most cases to judge; None for no limit.
        start: The start of the campaign, in seconds of `time.perf_counter`.
        index: The index of the current case among the judged ones.
        detections: The first deviation of each clause, by its name.
        drawn: The indices of the cases of the stream, by their number in the campaign.
        chosen: The indices of the cases chosen for costly clauses, by their number.
        made: The detection of each finding, by the identity of the finding.
    """

    first_only: bool
    limit: int | None
    start: float
    index: int = -1
    detections: dict[str, Detection] = field(default_factory=dict)
    drawn: dict[int, int] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)
    made: dict[int, Detection] = field(default_factory=dict)

    def wants(self, number: int) -> bool:
        """Return whether fewer cases of the stream were judged than the limit."""
        return self.limit is None or number >= CHOSEN or len(self.drawn) < self.limit

    def judged(self, number: int, clause_record: ClauseRecord, trial: Trial) -> bool:
        """Record the new findings of a clause; return whether to go on."""
        # Count each case once: clauses about calls that must raise judge it again at the end.
        seen = self.chosen if number >= CHOSEN else self.drawn
        self.index = seen.setdefault(number, len(seen))
        name = clause_record.clause.name
        for finding in reversed(clause_record.findings):
            if id(finding) in self.made:
                break
            self.made[id(finding)] = self._detection(name, finding)
        found = clause_record.found or next(
            (f for f in clause_record.findings if _certain(f)), None
        )
        if found is not None:
            self.detections.setdefault(name, self.made[id(found)])
        return not (self.first_only and self.detections)

    def conclude(self, clause_records: Mapping[str, ClauseRecord], support: Support) -> None:
        """Record the deviations that the campaign decides after the last case of the stream."""
        self.index = len(self.drawn) - 1
        for name, record in clause_records.items():
            if record.found is None:
                continue
            made = (f for f in record.findings if id(f) in self.made and support.counts(f))
            first = next(made, None)
            detection = self._detection(name, record.found)
            self.detections.setdefault(name, detection if first is None else self.made[id(first)])

    def _detection(self, clause: str, finding: Finding) -> Detection:
        seconds = time.perf_counter() - self.start
        deviation = finding.deviation
        return Detection(
            clause,
            self.index,
            seconds,
            deviation.what,
            deviation.got,
            deviation.want,
            finding.case,
        )


def _certain(finding: Finding) -> bool:
    """Return whether a finding is certain, although the campaign decides it only at its end.

    A failed call in float32 is certain, because float32 is mandatory. So is a missing gradient.
    """
    if finding.excuse is not None:
        return False
    mandatory = finding.case.dtype == "float32" and finding.question is Question.DTYPE_WORKS
    return mandatory or finding.question is Question.NOTHING_ELSE
