"""The strength of the suite: losses wrong in one way, and right ones that it must spare."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypeVar

from lossspec.cases.case import Case
from lossspec.clauses import Clause, clauses
from lossspec.clauses.trial import Deviation, Trial
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging.campaign import CHOSEN, Campaign, ClauseRecord
from lossspec.judging.profiles import Profile, profile_named
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Mutant:
    """A loss that is right but for one thing.

    make : makes a fresh target, with torch's signature (on the class surface: the class itself).
    row : the entry of the bug catalogue that it re-creates, where it has one. issue : the thread.
    wrong : what is wrong, in one sentence. needs : what a case must have to show it.
    awaits : why no present clause can kill it; empty when one must. witness : given a target, a
    result in which the mutant differs from a right loss, where no case of the suite can be one.
    """

    name: str
    loss: str
    make: Callable[[], Callable[..., Any]]
    wrong: str
    row: str = ""
    issue: str = ""
    needs: str = ""
    awaits: str = ""
    surface: Surface = "function"
    witness: Callable[[Callable[..., Any]], Any] | None = None

    @property
    def id(self) -> str:
        """Unique in the catalogue."""
        return f"{self.loss}/{self.name}"


@dataclass(frozen=True, eq=False)
class Control:
    """A right loss in another formulation: no clause may accuse it. how : the formulation."""

    name: str
    loss: str
    make: Callable[[], Callable[..., Any]]
    how: str
    surface: Surface = "function"

    @property
    def id(self) -> str:
        """Unique in the catalogue."""
        return f"{self.loss}/{self.name}"


def mutant(*losses: str | type, issue: str, row: str = "", **more: Any) -> Callable[[T], T]:
    """Put a wrong loss into the catalogue; its name is the id, its docstring says what is wrong.

    losses : names, or right classes with a `loss` of that name: then the target is a part that
    takes precedence over the right one's. more : further fields of Mutant. A class is instantiated
    for each audit, so that its state starts afresh; a function is taken as it is.
    """

    def register(target: T) -> T:
        for loss in losses:
            name, make = _made(target, loss, more.get("surface", "function"))
            _marks(target).append(
                Mutant(_name(target), name, make, _says(target), row, issue, **more)
            )
        return target

    return register


def control(*losses: str | type, **more: Any) -> Callable[[T], T]:
    """Put a right loss into the catalogue; its docstring says how it is made. See `mutant`."""

    def register(target: T) -> T:
        for loss in losses:
            name, make = _made(target, loss, more.get("surface", "function"))
            _marks(target).append(Control(_name(target), name, make, _says(target), **more))
        return target

    return register


def mutants() -> Mapping[str, Mutant]:
    """Every mutant by id, those of a loss together, so that its cases are drawn once."""
    return {m.id: m for m in _collected() if isinstance(m, Mutant)}


def controls() -> Mapping[str, Control]:
    """Every control by id, those of a loss together."""
    return {c.id: c for c in _collected() if isinstance(c, Control)}


@dataclass(frozen=True)
class Kill:
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
    """What an audit found about one mutant or control.

    kills : the clauses', the earliest first. shared : clauses that torch's own loss breaks alike.
    refused : dtypes that never worked, and the error. crashed : clauses that failed themselves.
    judged : clauses that saw a case which could have told right from wrong.
    """

    under_test: Mutant | Control
    kills: tuple[Kill, ...]
    cases: int
    seconds: float
    shared: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    crashed: Mapping[str, Exception] = field(default_factory=dict)
    judged: frozenset[str] = frozenset()

    @property
    def survived(self) -> bool:
        """Whether every clause spared it."""
        return not self.kills


def audit(
    losses_under_test: Iterable[Mutant | Control],
    profile: Profile | Literal["quick", "standard", "deep"] = "quick",
    seed: int = 0,
    *,
    first_only: bool = False,
    only: Collection[str] | None = None,
    spec: Loss | None = None,
) -> Iterator[Result]:
    """Run each one's campaign.

    first_only : stop at its first deviation. only : names of the clauses that judge, all of the
    profile's when None. spec : of the loss that they all are, where the catalogue lacks it.
    Seconds are those of judging: a loss's cases are drawn beforehand. UnknownName when the profile
    is none of the known ones.
    """
    if isinstance(profile, str):
        profile = profile_named(profile)
    for under_test in losses_under_test:
        judges = [
            clause
            for name, clause in clauses().items()
            if (name in only if only else not clause.slow or profile.name != "quick")
        ]
        # A second each, which is worth it only where nothing else has found anything.
        late = [clause for clause in judges if first_only and clause.slow]
        early = [clause for clause in judges if clause not in late]
        result = _audited(
            under_test, spec or find(under_test.loss), early, profile, seed, first_only
        )
        if late and result.survived:
            last = _audited(
                under_test, spec or find(under_test.loss), late, profile, seed, first_only
            )
            shared = result.shared + last.shared
            result = replace(last, shared=shared, crashed={**result.crashed, **last.crashed})
        yield result


def _audited(
    under_test: Mutant | Control,
    loss: Loss,
    judges: Sequence[Clause],
    profile: Profile,
    seed: int,
    first_only: bool,
) -> Result:
    judges = [c for c in judges if c.applies(loss, under_test.surface) and c.speaks_on("cpu")]
    target = LossUnderTest("audit", loss, under_test.surface, under_test.make())
    hunt = _Hunt(
        target, judges, profile, seed, reference=torch_counterpart(loss, under_test.surface)
    )
    hunt.first_only = first_only
    next(stream(loss, profile, seed), None)
    hunt.start = time.perf_counter()
    clause_records = hunt.hunted()
    seconds = time.perf_counter() - hunt.start
    kills = sorted(hunt.kills.values(), key=lambda kill: kill.index)
    shared = tuple(
        name for name, clause_record in clause_records.items() if clause_record.shared is not None
    )
    return Result(
        under_test,
        tuple(kills),
        len(hunt._seen),
        seconds,
        shared,
        dict(hunt.refused),
        hunt.crashed,
        frozenset(
            name for name, clause_record in clause_records.items() if clause_record.informative
        ),
    )


class _Enough(Exception):
    """The first deviation of a hunt that needs no more."""


@dataclass
class _Hunt(Campaign):
    """A campaign that notes when each clause first deviates, and reduces no case."""

    first_only: bool = False
    start: float = 0.0
    index: int = -1
    kills: dict[str, Kill] = field(default_factory=dict)
    crashed: dict[str, Exception] = field(default_factory=dict)
    _seen: dict[int, int] = field(default_factory=dict)
    _chosen: dict[int, int] = field(default_factory=dict)
    _refusal_kills: dict[str, Kill] = field(default_factory=dict)

    def hunted(self) -> dict[str, ClauseRecord]:
        """As `run`, but it may stop early: then the record are empty."""
        try:
            clause_records = self.run()
        except _Enough:
            return {}
        accepts = clause_records["accepts"].found if "accepts" in clause_records else None
        if accepts is not None:
            first = self._refusal_kills.get(accepts[0].dtype)
            self.kills.setdefault("accepts", first or self._kill("accepts", *accepts))
        for name, found in self.detached.items():
            if clause_records[name].found is not None:
                self.kills.setdefault(name, self._kill(name, *found))
        return clause_records

    def _judge(self, clause_record: ClauseRecord, trial: Trial) -> None:
        # A case counts once, though clauses on calls that must raise see it after all others.
        seen = self._chosen if self._case >= CHOSEN else self._seen
        self.index = seen.setdefault(self._case, len(seen))
        name, dtype = clause_record.clause.name, trial.case.dtype
        try:
            super()._judge(clause_record, trial)
        except Exception as error:
            self.crashed.setdefault(name, error)
            return
        found = clause_record.found or self.missing.get(name)
        if found is not None:
            self.kills.setdefault(name, self._kill(name, *found))
        elif name == "accepts" and dtype in self.refusals and dtype not in self._refusal_kills:
            # Whether this is a deviation or a dtype that it does not have shows at the end, but
            # for float32, which is no option.
            self._refusal_kills[dtype] = self._kill(name, *self.refusals[dtype])
            if dtype == "float32":
                self.kills[name] = self._refusal_kills[dtype]
        if self.first_only and self.kills:
            raise _Enough

    def _kill(self, clause: str, case: Case, deviation: Deviation) -> Kill:
        seconds = time.perf_counter() - self.start
        return Kill(
            clause, self.index, seconds, deviation.what, deviation.got, deviation.want, case
        )

    def _reduced(
        self, clause_record: ClauseRecord, case: Case, deviation: Deviation
    ) -> tuple[Case, Deviation]:
        return case, deviation


# === the catalogue ========================================================================


def _name(target: Callable[..., Any]) -> str:
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in target.__name__)
    return words.replace("_", "-").strip("-")


def _says(target: Any) -> str:
    """The docstring in one line; ValueError when there is none of its own."""
    if not target.__doc__:
        raise ValueError(f"{target.__name__} needs a docstring that says what it is")
    return " ".join(target.__doc__.split())


def _made(
    target: Any, loss: str | type, surface: Surface
) -> tuple[str, Callable[[], Callable[..., Any]]]:
    """The name of the loss, and what makes a fresh target."""
    if isinstance(loss, type):
        mixed = target if issubclass(target, loss) else type(target.__name__, (target, loss), {})
        return str(vars(loss)["loss"]), mixed
    if isinstance(target, type) and surface == "function":
        return loss, target
    return loss, lambda: target


def _marks(target: Any) -> list[Mutant | Control]:
    if "_audited" not in vars(target):
        target._audited = []
    marks: list[Mutant | Control] = target._audited
    return marks


@cache
def _collected() -> tuple[Mutant | Control, ...]:
    found: dict[tuple[str, str], Mutant | Control] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for thing in vars(loaded).values():
            if getattr(thing, "__module__", None) != loaded.__name__:
                continue
            for mark in vars(thing).get("_audited", ()):
                key = (type(mark).__name__, mark.id)
                if key in found:
                    raise ValueError(f"two entries of the audit are named {mark.id!r}")
                found[key] = mark
    return tuple(sorted(found.values(), key=lambda mark: mark.loss))
