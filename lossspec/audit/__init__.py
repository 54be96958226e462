"""Which clause finds which defect: wrong implementations, run as if they were under test.

A `Defect` is a wrong implementation, a `RightImplementation` a right one that must not be reported.
"Mutant" and "control" name neither what they are nor what is expected; "defect" is the word of
"missed defect", as "false positive" is that for a right implementation in which something is found.
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
    """An implementation that is right but for one thing.

    make : makes a fresh one, with torch's signature (on the class surface: the class itself).
    wrong : what is wrong, in one sentence. source : the report of such a bug, where there is one.
    awaits : why no clause can find it yet; empty when one must.
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
        """Unique among defects."""
        return f"{self.loss}/{self.name}"


@dataclass(frozen=True, eq=False)
class RightImplementation:
    """A right loss in another formulation, in which no clause may find anything.

    make : as in Defect. how : the formulation, in one sentence.
    """

    name: str
    loss: str
    make: Callable[[], Callable[..., Any]]
    how: str
    surface: Surface = "function"

    @property
    def id(self) -> str:
        """Unique among right implementations."""
        return f"{self.loss}/{self.name}"


@dataclass(frozen=True)
class Detection:
    """A clause's first deviation: in which case of the stream, and after how long."""

    clause: str
    index: int
    seconds: float
    what: str
    got: str | None
    want: str | None
    case: Case


@dataclass(frozen=True)
class Result:
    """What an audit found out about one implementation.

    found : the clauses' detections, the earliest first. shared : clauses that torch's own loss
    breaks alike. refused : dtypes that never worked, and the error. crashed : by clause, the
    error of lossspec itself that ended its judging. judged : clauses that saw a case which could
    have told right from wrong.
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
        """Whether no clause found anything."""
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
    """Judge each implementation, and yield what each clause found.

    Seconds are those of judging: a loss's cases are drawn beforehand.

    Args:
        implementations: those of a loss together, so that its cases are drawn once.
        profile: how many cases are drawn.
        seed: of the stream of cases.
        first_only: whether to stop at the first deviation.
        only: names of the clauses that judge; all of the profile's when None.
        spec: of the loss that they all are, where the catalogue of specs lacks it.
        cases: how many of the stream are judged; all when None.

    Raises:
        UnknownName: when the profile is none of the known ones.
    """
    if isinstance(profile, str):
        profile = profile_named(profile)
    for each in implementations:
        judges = [
            clause
            for name, clause in clauses().items()
            if (name in only if only else not clause.slow or profile.name != "quick")
        ]
        # A second each, which is worth it only where nothing else has found anything.
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
    stream(loss, profile, seed)  # its cases are drawn beforehand
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
    except SpecError as error:  # no clause has come to its end
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
    """Notes when each clause of a campaign first deviates, as its observer.

    first_only : whether the first deviation ends the campaign. limit : how many cases are judged;
    all when None. start : when it began. index : of the case at hand, among those judged. drawn,
    chosen : the indices of the cases of the stream, and of those chosen for costly clauses. made :
    by the identity of a finding, when it was made.
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
        """Note what a clause has found; return whether more is wanted."""
        # A case counts once, though clauses on calls that must raise see it after all others.
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
        """Note the deviations that were decided at the end, after all cases of the stream."""
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
    """Whether a finding counts, though a campaign decides that at its end only.

    A call in float32, which is mandatory, must work; a gradient that is missing deviates.
    """
    if finding.excuse is not None:
        return False
    mandatory = finding.case.dtype == "float32" and finding.question is Question.DTYPE_WORKS
    return mandatory or finding.question is Question.NOTHING_ELSE
