"""One cell of the timing suite: a loss that conforms, timed against torch and the textbook."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lossspec.baselines import textbook
from lossspec.cases.workloads import Size, axes, batch_axis, has_classes, sizes, workload
from lossspec.clauses import clauses
from lossspec.execution.call import unsupported_argument
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.execution.memory import weighed
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging.plan import CellPlan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.verdict import Run
from lossspec.report.verdict import Verdict
from lossspec.safe_text import foreign_error
from lossspec.thresholds import (
    BEYOND_MACHINE,
    FEWEST_ROUNDS,
    GROWTH_POINT_SECONDS,
    TEXTBOOK_PATIENCE,
)
from lossspec.timing.clocks import Clock, clock_of
from lossspec.timing.memory import Need, TooLarge, clocked, excess, fitted, need, too_large
from lossspec.timing.pairs import PairedTiming
from lossspec.timing.results import Growth, Mode, Peak, Timing, timing_id
from lossspec.timing.statistics import compared, exponent, foreseen, kept

#: What must hold before a loss is timed.
GATE = ("accepts", "value", "gradient", "inputs-untouched")
MINE, TORCH, TEXTBOOK = "implementation", "torch", "composite"


@dataclass(frozen=True)
class TimedLoss:
    """A loss of an implementation on a device, in one dtype."""

    implementation: Implementation
    under_test: LossUnderTest
    device: str
    dtype: str

    @property
    def name(self) -> str:
        """Unique within the implementation's report."""
        loss, surface = self.under_test.loss.name, self.under_test.surface
        return f"{loss}[{surface}-{self.device}-{self.dtype}]"


@dataclass(frozen=True)
class TimingCell:
    """An timed loss at one size in one mode: what one test times."""

    timed_loss: TimedLoss
    size: Size
    mode: Mode

    @property
    def id(self) -> str:
        """Unique within the implementation's report."""
        under_test = self.timed_loss.under_test
        return timing_id(
            under_test.loss.name,
            self.size.name,
            self.mode,
            under_test.surface,
            self.timed_loss.device,
            self.timed_loss.dtype,
        )


@dataclass
class TimingRun:
    """The settings of a timing run, and what it has found about its timed loss.

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

    def barred(self, timed_loss: TimedLoss) -> str | None:
        """Why a loss is not timed: it does not conform, in this very process."""
        key = (timed_loss.implementation.name, timed_loss.name)
        if key not in self._barred:
            self._barred[key] = self._judge(timed_loss)
        return self._barred[key]

    def _judge(self, timed_loss: TimedLoss) -> str | None:
        loss, surface = timed_loss.under_test.loss, timed_loss.under_test.surface
        if timed_loss.dtype not in loss.dtypes:
            return f"the spec has no {timed_loss.dtype}; it has {', '.join(loss.dtypes)}"
        run = Run(PROFILES["quick"], self.seed, (timed_loss.dtype,))
        cells = [
            CellPlan(
                timed_loss.implementation,
                loss,
                surface,
                clauses()[name],
                timed_loss.device,
                timed_loss.under_test,
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

    def run(
        self, timing_cell: TimingCell, drive: Callable[[PairedTiming], None] = PairedTiming.run
    ) -> Timing:
        """Time a cell. drive : goes through the rounds of a contest."""
        started = time.perf_counter()
        barred = self.barred(timing_cell.timed_loss)
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
                    facts |= self._timed(timing_cell, drive)
            except TooLarge as error:
                facts["reason"] = str(error)
            except Exception as error:  # of the implementation: it belongs in its report
                facts["reason"] = foreign_error(error)
        return Timing(
            id=timing_cell.id,
            loss=timing_cell.timed_loss.under_test.loss.name,
            surface=timing_cell.timed_loss.under_test.surface,
            size=timing_cell.size.name,
            mode=timing_cell.mode,
            device=timing_cell.timed_loss.device,
            dtype=timing_cell.timed_loss.dtype,
            seconds=round(time.perf_counter() - started, 3),
            **facts,
        )

    def _timed(
        self, timing_cell: TimingCell, drive: Callable[[PairedTiming], None]
    ) -> dict[str, Any]:
        timed_loss = timing_cell.timed_loss
        loss, device = timed_loss.under_test.loss, timed_loss.device
        torchs = torch_counterpart(loss, timed_loss.under_test.surface) or torch_counterpart(
            loss, "function"
        )
        if torchs is None:
            raise TooLarge(f"torch has no {loss.name} to compare with")
        arms = {MINE: timed_loss.under_test, TORCH: torchs}
        known = self._axes(timing_cell, arms)
        case = workload(loss, known, timed_loss.dtype, self.seed)
        for under_test in arms.values():
            missing = unsupported_argument(under_test, case)
            if missing is not None:
                raise TooLarge(f"{under_test.implementation} takes no {missing}")
        absent = self._textbook(timing_cell, known, arms)
        clock = self.clock(device)
        contest = PairedTiming(arms, case, timing_cell.mode, device, clock, self.budget)
        drive(contest)
        found, dropped = kept(contest.readings(), contest.rates)
        facts = {
            "shapes": {name: array.shape for name, array in case.tensors.items()},
            "arms": found,
            "dropped": dropped,
            "peaks": self._peaks(timing_cell, arms, case, absent)
            if timing_cell.mode == "full"
            else (),
        }
        mine, *baselines = found
        if len(mine.own) < FEWEST_ROUNDS:
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

    def _axes(self, timing_cell: TimingCell, arms: Mapping[str, LossUnderTest]) -> dict[str, int]:
        timed_loss, loss = timing_cell.timed_loss, timing_cell.timed_loss.under_test.loss
        key = (timed_loss.implementation.name, timed_loss.name, timing_cell.size.name)
        if key not in self._sizes:
            wanted = axes(loss, timing_cell.size)
            self._sizes[key] = wanted
            if timing_cell.size.elements >= BEYOND_MACHINE:
                losses_under_test = list(dict.fromkeys(arms.values()))
                clock, batch = self.clock(timed_loss.device), batch_axis(loss)
                try:
                    self._sizes[key] = fitted(
                        losses_under_test, wanted, batch, timed_loss.dtype, timed_loss.device, clock
                    )
                except TooLarge as error:
                    self._sizes[key] = error
        found = self._sizes[key]
        if isinstance(found, TooLarge):
            raise found
        return found

    def _textbook(
        self, timing_cell: TimingCell, known: Mapping[str, int], arms: dict[str, LossUnderTest]
    ) -> str | None:
        """Add the textbook composition where there is one; otherwise say why there is none."""
        timed_loss, loss = timing_cell.timed_loss, timing_cell.timed_loss.under_test.loss
        composition = textbook(loss.name)
        if composition is None:
            return "no textbook composition of this loss ships"
        under_test = LossUnderTest(TEXTBOOK, loss, "function", composition)
        key = (timed_loss.implementation.name, timed_loss.name, timing_cell.size.name)
        if key not in self._dear:  # once for all modes, so that they have the same arms
            self._dear[key] = None
            if timing_cell.size.elements >= BEYOND_MACHINE:
                clock = self.clock(timed_loss.device)
                needed = need(under_test, known, timed_loss.dtype, timed_loss.device, clock)
                shorter = Need(needed.bytes, needed.seconds / TEXTBOOK_PATIENCE)
                if excess(shorter, timed_loss.device) > 1:
                    self._dear[key] = str(too_large(needed))
        if self._dear[key] is None:
            arms[TEXTBOOK] = under_test
        return self._dear[key]

    def _peaks(
        self,
        timing_cell: TimingCell,
        arms: Mapping[str, LossUnderTest],
        case: Any,
        absent: str | None,
    ) -> list[Peak]:
        peaks = []
        for name, under_test in arms.items():
            top, size = weighed(under_test, case, timing_cell.timed_loss.device)
            peaks.append(Peak(name, top, top / size, None))
        if absent is not None:
            peaks.append(Peak(TEXTBOOK, None, None, absent))
        return peaks

    # === growth ===========================================================================

    def grow(self, timed_loss: TimedLoss, axis: str) -> list[Growth]:
        """How a full step grows along an axis, of the implementation and of torch."""
        loss = timed_loss.under_test.loss
        reason = self.barred(timed_loss)
        torchs = torch_counterpart(loss, timed_loss.under_test.surface) or torch_counterpart(
            loss, "function"
        )
        arms = {MINE: timed_loss.under_test} | ({TORCH: torchs} if torchs is not None else {})
        if reason is not None:
            return [self._curve(timed_loss, axis, MINE, [], [], [], reason)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [self._grown(timed_loss, axis, name, s) for name, s in arms.items()]

    def _grown(
        self, timed_loss: TimedLoss, axis: str, name: str, under_test: LossUnderTest
    ) -> Growth:
        done: list[int] = []
        seconds: list[float] = []
        bytes_: list[int] = []
        reason = None
        clock = self.clock(timed_loss.device)
        for size, known in points(timed_loss, axis):
            if done:
                wanted = Need(
                    foreseen(done, bytes_, size),
                    foreseen(done, [1e9 * s for s in seconds], size) / 1e9,
                )
                if excess(wanted, timed_loss.device, GROWTH_POINT_SECONDS) > 1:
                    reason = f"from {size} on {too_large(wanted)}"
                    break
            try:
                case = workload(under_test.loss, known, timed_loss.dtype, self.seed)
                top = weighed(under_test, case, timed_loss.device)[0]
                taken = clocked(under_test, case, timed_loss.device, clock, times=5)
            except Exception as error:  # of the implementation, for which it is the end
                reason = f"at {size}: {foreign_error(error)}"
                break
            done.append(size)
            bytes_.append(top)
            seconds.append(taken)
        return self._curve(timed_loss, axis, name, done, seconds, bytes_, reason)

    @staticmethod
    def _curve(
        timed_loss: TimedLoss,
        axis: str,
        arm: str,
        done: list[int],
        seconds: list[float],
        bytes_: list[int],
        reason: str | None,
    ) -> Growth:
        return Growth(
            loss=timed_loss.under_test.loss.name,
            surface=timed_loss.under_test.surface,
            device=timed_loss.device,
            dtype=timed_loss.dtype,
            axis=axis,
            arm=arm,
            sizes=done,  # type: ignore[arg-type]  # the record makes tuples
            seconds=seconds,  # type: ignore[arg-type]
            bytes=bytes_,  # type: ignore[arg-type]
            time_power=exponent(done, seconds),
            memory_power=exponent(done, bytes_),
            reason=reason,
        )


def timing_cells(timed_loss: TimedLoss, modes: tuple[Mode, ...]) -> list[TimingCell]:
    """Every size in every mode."""
    return [
        TimingCell(timed_loss, size, mode)
        for size in sizes(timed_loss.under_test.loss, timed_loss.device)
        for mode in modes
    ]


def growing(timed_loss: TimedLoss) -> list[str]:
    """The axes along which growth is measured: the batch, and the classes where there are any."""
    loss = timed_loss.under_test.loss
    return [loss.batch, *([loss.classes] if has_classes(loss) else [])]


def points(timed_loss: TimedLoss, axis: str) -> list[tuple[int, dict[str, int]]]:
    """The sizes along an axis, and all axes at each."""
    loss = timed_loss.under_test.loss
    scale = 1 if timed_loss.device == "cpu" else 8
    if axis == loss.classes:
        most = Size("growth", 2**22 * scale, 16, 2**17, "the batch of the largest vocabulary")
        fixed = axes(loss, most)
        return [(2**k, fixed | {axis: 2**k}) for k in range(10, 18)]
    batch = batch_axis(loss)
    found = []
    for k in range(12, 22, 2):
        known = axes(loss, Size("growth", 2**k * scale, 32, None, "a batch"))
        found.append((known[batch], known))
    return found


def paired(benchmark: Any) -> Callable[[PairedTiming], None]:
    """What drives a contest inside pytest-benchmark: the baselines are timed beside its rounds."""

    def drive(contest: PairedTiming) -> None:
        with contest.quiet():
            benchmark.pedantic(
                contest.during,
                setup=contest.before,
                teardown=contest.after,
                rounds=contest.rounds,
            )

    return drive
