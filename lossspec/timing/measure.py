"""One cell of the timing suite: a loss that conforms, timed against torch and the textbook."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lossspec.audit import controls
from lossspec.cases.workloads import CLASSES, Size, axes, batch_axis, has_classes, sizes, workload
from lossspec.clauses import clauses
from lossspec.execution.call import lacking
from lossspec.execution.implementation import Implementation, Subject
from lossspec.execution.memory import weighed
from lossspec.implementations.counterpart import reference
from lossspec.judging.plan import Planned
from lossspec.judging.profiles import PROFILES
from lossspec.judging.verdict import Run
from lossspec.report.verdict import Verdict
from lossspec.safe_text import foreign_error
from lossspec.timing.clocks import Clock, clock_of
from lossspec.timing.memory import Need, TooLarge, clocked, excess, fitted, need, too_large
from lossspec.timing.pairs import Contest
from lossspec.timing.results import Growth, Mode, Peak, Timing, timing_id
from lossspec.timing.statistics import FEWEST, compared, exponent, foreseen, kept

#: What must hold before a loss is timed.
GATE = ("accepts", "value", "gradient", "inputs-untouched")
MINE, TORCH, TEXTBOOK = "implementation", "torch", "composite"
#: Sizes from which a call may be beyond the machine.
LARGE = 2**20
#: Patience with the textbook: it may well be slower.
SLOWER = 2.0
#: A point of a growth curve takes no longer, in seconds.
POINT = 0.1


@dataclass(frozen=True)
class Entrant:
    """A loss of an implementation on a device, in one dtype."""

    implementation: Implementation
    subject: Subject
    device: str
    dtype: str

    @property
    def name(self) -> str:
        """Unique within the implementation's report."""
        loss, surface = self.subject.loss.name, self.subject.surface
        return f"{loss}[{surface}-{self.device}-{self.dtype}]"


@dataclass(frozen=True)
class Heat:
    """An entrant at one size in one mode: what one test times."""

    entrant: Entrant
    size: Size
    mode: Mode

    @property
    def id(self) -> str:
        """Unique within the implementation's report."""
        subject = self.entrant.subject
        return timing_id(
            subject.loss.name,
            self.size.name,
            self.mode,
            subject.surface,
            self.entrant.device,
            self.entrant.dtype,
        )


@dataclass
class Race:
    """The settings of a timing run, and what it has found about its entrants.

    budget : seconds for the rounds of one cell.
    """

    seed: int = 0
    budget: float = 0.4
    _barred: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _sizes: dict[tuple[str, str, str], dict[str, int] | TooLarge] = field(default_factory=dict)
    _dear: dict[tuple[str, str, str], str | None] = field(default_factory=dict)
    _clocks: dict[str, Clock] = field(default_factory=dict)

    def clock(self, device: str) -> Clock:
        """The clock of a device, made once."""
        if device not in self._clocks:
            self._clocks[device] = clock_of(device)
        return self._clocks[device]

    # === the gate =========================================================================

    def barred(self, entrant: Entrant) -> str | None:
        """Why a loss is not timed: it does not conform, in this very process."""
        key = (entrant.implementation.name, entrant.name)
        if key not in self._barred:
            self._barred[key] = self._judge(entrant)
        return self._barred[key]

    def _judge(self, entrant: Entrant) -> str | None:
        loss, surface = entrant.subject.loss, entrant.subject.surface
        if entrant.dtype not in loss.dtypes:
            return f"the spec has no {entrant.dtype}; it has {', '.join(loss.dtypes)}"
        run = Run(PROFILES["quick"], self.seed, (entrant.dtype,))
        cells = [
            Planned(
                entrant.implementation,
                loss,
                surface,
                clauses()[name],
                entrant.device,
                entrant.subject,
            )
            for name in GATE
            if clauses()[name].applies(loss, surface)
        ]
        for cell in cells:
            record, _ = run.judge(cell, cells)
            # A listed deviation is one that its owner has looked into.
            if record.verdict not in (Verdict.CONFORMS, Verdict.KNOWN):
                return f"{cell.clause.name}: {record.verdict} ({record.reason})"
        return None

    # === one cell =========================================================================

    def run(self, heat: Heat, drive: Callable[[Contest], None] = Contest.run) -> Timing:
        """Time a cell. drive : goes through the rounds of a contest."""
        started = time.perf_counter()
        barred = self.barred(heat.entrant)
        facts: dict[str, Any] = {
            "shapes": {},
            "verdict": "not-timed",
            "reason": barred,
            "comparisons": (),
            "arms": (),
            "peaks": (),
            "dropped": 0,
        }
        if barred is None:
            try:
                # What an implementation warns of would only fill the screen.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    facts |= self._timed(heat, drive)
            except TooLarge as error:
                facts["reason"] = str(error)
            except Exception as error:  # of the implementation: it belongs in its report
                facts["reason"] = foreign_error(error)
        return Timing(
            id=heat.id,
            loss=heat.entrant.subject.loss.name,
            surface=heat.entrant.subject.surface,
            size=heat.size.name,
            mode=heat.mode,
            device=heat.entrant.device,
            dtype=heat.entrant.dtype,
            seconds=round(time.perf_counter() - started, 3),
            **facts,
        )

    def _timed(self, heat: Heat, drive: Callable[[Contest], None]) -> dict[str, Any]:
        entrant = heat.entrant
        loss, device = entrant.subject.loss, entrant.device
        torchs = reference(loss, entrant.subject.surface) or reference(loss, "function")
        if torchs is None:
            raise TooLarge(f"torch has no {loss.name} to compare with")
        arms = {MINE: entrant.subject, TORCH: torchs}
        known = self._axes(heat, arms)
        case = workload(loss, known, entrant.dtype, self.seed)
        for subject in arms.values():
            missing = lacking(subject, case)
            if missing is not None:
                raise TooLarge(f"{subject.implementation} takes no {missing}")
        absent = self._textbook(heat, known, arms)
        clock = self.clock(device)
        contest = Contest(arms, case, heat.mode, device, clock, self.budget)
        drive(contest)
        found, dropped = kept(contest.readings(), contest.rates)
        facts = {
            "shapes": {name: array.shape for name, array in case.tensors.items()},
            "arms": found,
            "dropped": dropped,
            "peaks": self._peaks(heat, arms, case, absent) if heat.mode == "full" else (),
        }
        mine, *baselines = found
        if len(mine.own) < FEWEST:
            reason = f"throttled in {dropped} rounds of {dropped + len(mine.own)}"
            return facts | {"reason": reason}
        comparisons = [compared(mine, baseline, clock.own) for baseline in baselines]
        first = comparisons[0]
        problem = contest.problem()
        verdict = first.verdict if problem is None else "suspicious"
        return facts | {
            "verdict": verdict,
            "reason": problem or first.reason,
            "comparisons": comparisons,
        }

    def _axes(self, heat: Heat, arms: Mapping[str, Subject]) -> dict[str, int]:
        entrant, loss = heat.entrant, heat.entrant.subject.loss
        key = (entrant.implementation.name, entrant.name, heat.size.name)
        if key not in self._sizes:
            wanted = axes(loss, heat.size)
            self._sizes[key] = wanted
            if heat.size.elements >= LARGE:
                subjects = list(dict.fromkeys(arms.values()))
                clock, batch = self.clock(entrant.device), batch_axis(loss)
                try:
                    self._sizes[key] = fitted(
                        subjects, wanted, batch, entrant.dtype, entrant.device, clock
                    )
                except TooLarge as error:
                    self._sizes[key] = error
        found = self._sizes[key]
        if isinstance(found, TooLarge):
            raise found
        return found

    def _textbook(
        self, heat: Heat, known: Mapping[str, int], arms: dict[str, Subject]
    ) -> str | None:
        """Add the textbook composition where there is one; otherwise say why there is none."""
        entrant, loss = heat.entrant, heat.entrant.subject.loss
        control = controls().get(f"{loss.name}/{TEXTBOOK}")
        if control is None:
            return "no textbook composition of this loss ships"
        subject = Subject(TEXTBOOK, loss, control.surface, control.make())
        key = (entrant.implementation.name, entrant.name, heat.size.name)
        if key not in self._dear:  # once for all modes, so that they have the same arms
            self._dear[key] = None
            if heat.size.elements >= LARGE:
                clock = self.clock(entrant.device)
                needed = need(subject, known, entrant.dtype, entrant.device, clock)
                shorter = Need(needed.bytes, needed.seconds / SLOWER)
                if excess(shorter, entrant.device) > 1:
                    self._dear[key] = str(too_large(needed))
        if self._dear[key] is None:
            arms[TEXTBOOK] = subject
        return self._dear[key]

    def _peaks(
        self, heat: Heat, arms: Mapping[str, Subject], case: Any, absent: str | None
    ) -> list[Peak]:
        peaks = []
        for name, subject in arms.items():
            top, size = weighed(subject, case, heat.entrant.device)
            peaks.append(Peak(name, top, top / size, None))
        if absent is not None:
            peaks.append(Peak(TEXTBOOK, None, None, absent))
        return peaks

    # === growth ===========================================================================

    def grow(self, entrant: Entrant, axis: str) -> list[Growth]:
        """How a full step grows along an axis, of the implementation and of torch."""
        loss = entrant.subject.loss
        reason = self.barred(entrant)
        torchs = reference(loss, entrant.subject.surface) or reference(loss, "function")
        arms = {MINE: entrant.subject} | ({TORCH: torchs} if torchs is not None else {})
        if reason is not None:
            return [self._curve(entrant, axis, MINE, [], [], [], reason)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [self._grown(entrant, axis, name, s) for name, s in arms.items()]

    def _grown(self, entrant: Entrant, axis: str, name: str, subject: Subject) -> Growth:
        done: list[int] = []
        seconds: list[float] = []
        bytes_: list[int] = []
        reason = None
        clock = self.clock(entrant.device)
        for size, known in points(entrant, axis):
            if done:
                wanted = Need(
                    foreseen(done, bytes_, size),
                    foreseen(done, [1e9 * s for s in seconds], size) / 1e9,
                )
                if excess(wanted, entrant.device, POINT) > 1:
                    reason = f"from {size} on {too_large(wanted)}"
                    break
            try:
                case = workload(subject.loss, known, entrant.dtype, self.seed)
                top = weighed(subject, case, entrant.device)[0]
                taken = clocked(subject, case, entrant.device, clock, times=5)
            except Exception as error:  # of the implementation, for which it is the end
                reason = f"at {size}: {foreign_error(error)}"
                break
            done.append(size)
            bytes_.append(top)
            seconds.append(taken)
        return self._curve(entrant, axis, name, done, seconds, bytes_, reason)

    @staticmethod
    def _curve(
        entrant: Entrant,
        axis: str,
        arm: str,
        done: list[int],
        seconds: list[float],
        bytes_: list[int],
        reason: str | None,
    ) -> Growth:
        return Growth(
            loss=entrant.subject.loss.name,
            surface=entrant.subject.surface,
            device=entrant.device,
            dtype=entrant.dtype,
            axis=axis,
            arm=arm,
            sizes=done,  # type: ignore[arg-type]  # the record makes tuples
            seconds=seconds,  # type: ignore[arg-type]
            bytes=bytes_,  # type: ignore[arg-type]
            time_power=exponent(done, seconds),
            memory_power=exponent(done, bytes_),
            reason=reason,
        )


def heats(entrant: Entrant, modes: tuple[Mode, ...]) -> list[Heat]:
    """Every size in every mode."""
    return [
        Heat(entrant, size, mode)
        for size in sizes(entrant.subject.loss, entrant.device)
        for mode in modes
    ]


def growing(entrant: Entrant) -> list[str]:
    """The axes along which growth is measured: the batch, and the classes where there are any."""
    loss = entrant.subject.loss
    return ["N", *([CLASSES] if has_classes(loss) else [])]


def points(entrant: Entrant, axis: str) -> list[tuple[int, dict[str, int]]]:
    """The sizes along an axis, and all axes at each."""
    loss = entrant.subject.loss
    scale = 1 if entrant.device == "cpu" else 8
    if axis == CLASSES:
        most = Size("growth", 2**22 * scale, 16, 2**17, "the batch of the largest vocabulary")
        fixed = axes(loss, most)
        return [(2**k, fixed | {CLASSES: 2**k}) for k in range(10, 18)]
    batch = batch_axis(loss)
    found = []
    for k in range(12, 22, 2):
        known = axes(loss, Size("growth", 2**k * scale, 32, None, "a batch"))
        found.append((known[batch], known))
    return found


def paired(benchmark: Any) -> Callable[[Contest], None]:
    """What drives a contest inside pytest-benchmark: the baselines are timed beside its rounds."""

    def drive(contest: Contest) -> None:
        with contest.quiet():
            benchmark.pedantic(
                contest.during,
                setup=contest.before,
                teardown=contest.after,
                rounds=contest.rounds,
            )

    return drive
