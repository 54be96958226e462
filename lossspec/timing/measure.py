"""Time one cell: a loss that conforms, against torch and the textbook."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lossspec.baselines import textbook
from lossspec.cases.case import Case
from lossspec.cases.workloads import workload
from lossspec.execution.call import unsupported_argument
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.memory import weighed
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.safe_text import foreign_error
from lossspec.thresholds import FEWEST_ROUNDS
from lossspec.timing.clocks import Clock, clock_of
from lossspec.timing.fitting import Fitting
from lossspec.timing.gate import reason_not_timed
from lossspec.timing.growth import curve, growth_of
from lossspec.timing.memory import TooLarge
from lossspec.timing.pairs import PairedTiming
from lossspec.timing.plan import TimedLoss, TimingCell
from lossspec.timing.results import Growth, Peak, Timing
from lossspec.timing.statistics import compared, kept

MINE, TORCH, TEXTBOOK = "implementation", "torch", "composite"


@dataclass
class TimingRun:
    """The settings of a timing run, and what it has found about its timed losses.

    budget : seconds for the rounds of one cell.
    """

    seed: int = 0
    budget: float = 0.4
    _barred: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _clocks: dict[str, Clock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fitting = Fitting(self.clock)

    def clock(self, device: str) -> Clock:
        """The clock of a device, made once."""
        if device not in self._clocks:
            self._clocks[device] = clock_of(device)
        return self._clocks[device]

    def barred(self, timed_loss: TimedLoss) -> str | None:
        """Why a loss is not timed, found out once."""
        key = (timed_loss.implementation.name, timed_loss.name)
        if key not in self._barred:
            self._barred[key] = reason_not_timed(timed_loss, self.seed)
        return self._barred[key]

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
        torchs = _torchs(timed_loss)
        if torchs is None:
            raise TooLarge(f"torch has no {loss.name} to compare with")
        arms = {MINE: timed_loss.under_test, TORCH: torchs}
        known = self._fitting.axes(timing_cell, arms.values())
        case = workload(loss, known, timed_loss.dtype, self.seed)
        for under_test in arms.values():
            missing = unsupported_argument(under_test, case)
            if missing is not None:
                raise TooLarge(f"{under_test.implementation} takes no {missing}")
        absent = self._add_textbook(timing_cell, known, arms)
        clock = self.clock(device)
        contest = PairedTiming(arms, case, timing_cell.mode, device, clock, self.budget)
        drive(contest)
        found, dropped = kept(contest.readings(), contest.rates)
        full = timing_cell.mode == "full"
        facts = {
            "shapes": {name: array.shape for name, array in case.tensors.items()},
            "arms": found,
            "dropped": dropped,
            "peaks": _peaks(arms, case, absent, device) if full else (),
        }
        mine, *baselines = found
        if len(mine.own) < FEWEST_ROUNDS:
            reason = f"throttled in {dropped} rounds of {dropped + len(mine.own)}"
            return facts | {"reason": reason}
        comparisons = [compared(mine, baseline, clock.own) for baseline in baselines]
        first, problem = comparisons[0], contest.problem()
        return facts | {
            "verdict": first.verdict if problem is None else "suspicious",
            "reason": problem or first.reason,
            "comparisons": comparisons,
        }

    def _add_textbook(
        self, timing_cell: TimingCell, known: Mapping[str, int], arms: dict[str, LossUnderTest]
    ) -> str | None:
        """Add the textbook composition where there is one; otherwise say why there is none."""
        loss = timing_cell.timed_loss.under_test.loss
        composition = textbook(loss.name)
        if composition is None:
            return "no textbook composition of this loss ships"
        under_test = LossUnderTest(TEXTBOOK, loss, "function", composition)
        reason = self._fitting.too_costly(timing_cell, known, under_test)
        if reason is None:
            arms[TEXTBOOK] = under_test
        return reason

    def grow(self, timed_loss: TimedLoss, axis: str) -> list[Growth]:
        """How a full step grows along an axis, of the implementation and of torch."""
        reason = self.barred(timed_loss)
        torchs = _torchs(timed_loss)
        arms = {MINE: timed_loss.under_test} | ({TORCH: torchs} if torchs is not None else {})
        if reason is not None:
            return [curve(timed_loss, axis, MINE, [], [], [], reason)]
        clock = self.clock(timed_loss.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [
                growth_of(timed_loss, axis, name, under_test, clock, self.seed)
                for name, under_test in arms.items()
            ]


def _torchs(timed_loss: TimedLoss) -> LossUnderTest | None:
    """What torch has to compare with: on the same surface, or else the function."""
    loss, surface = timed_loss.under_test.loss, timed_loss.under_test.surface
    return torch_counterpart(loss, surface) or torch_counterpart(loss, "function")


def _peaks(
    arms: Mapping[str, LossUnderTest],
    case: Case,
    absent: str | None,
    device: str,
) -> list[Peak]:
    """The memory that each arm needs; absent : why there is no textbook composition."""
    peaks = []
    for name, under_test in arms.items():
        top, size = weighed(under_test, case, device)
        peaks.append(Peak(name, top, top / size, None))
    if absent is not None:
        peaks.append(Peak(TEXTBOOK, None, None, absent))
    return peaks


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
