"""The timing of one cell: a loss against torch and against the textbook composition."""

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
    """The settings of a timing run, with caches of its clocks and of the losses it does not time.

    Attributes:
        seed: The seed of the inputs.
        budget: The time for the rounds of one cell, in seconds.
    """

    seed: int = 0
    budget: float = 0.4
    _barred: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _clocks: dict[str, Clock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fitting = Fitting(self.clock)

    def clock(self, device: str) -> Clock:
        """Return the clock of a device, made once."""
        if device not in self._clocks:
            self._clocks[device] = clock_of(device)
        return self._clocks[device]

    def barred(self, timed_loss: TimedLoss) -> str | None:
        """Return why a loss is not timed, determined once; None if it is timed."""
        key = (timed_loss.implementation.name, timed_loss.name)
        if key not in self._barred:
            self._barred[key] = reason_not_timed(timed_loss, self.seed)
        return self._barred[key]

    def run(
        self, timing_cell: TimingCell, drive: Callable[[PairedTiming], None] = PairedTiming.run
    ) -> Timing:
        """Time a cell.

        Args:
            timing_cell: The cell.
            drive: A function that runs the rounds of a paired timing.
        """
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
                # The implementation's warnings would hide the results of the run.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    facts |= self._timed(timing_cell, drive)
            except TooLarge as error:
                facts["reason"] = str(error)
            except Exception as error:  # raised by the implementation; the report records it
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
            raise TooLarge(f"torch has no counterpart of {loss.name} to compare with")
        arms = {MINE: timed_loss.under_test, TORCH: torchs}
        known = self._fitting.axes(timing_cell, arms.values())
        case = workload(loss, known, timed_loss.dtype, self.seed)
        for under_test in arms.values():
            missing = unsupported_argument(under_test, case)
            if missing is not None:
                raise TooLarge(f"{under_test.implementation} takes no {missing}")
        absent = self._add_textbook(timing_cell, known, arms)
        clock = self.clock(device)
        timing = PairedTiming(arms, case, timing_cell.mode, device, clock, self.budget)
        drive(timing)
        found, dropped = kept(timing.readings(), timing.rates)
        full = timing_cell.mode == "full"
        facts = {
            "shapes": {name: array.shape for name, array in case.tensors.items()},
            "arms": found,
            "dropped": dropped,
            "peaks": _peaks(arms, case, absent, device) if full else (),
        }
        mine, *baselines = found
        if len(mine.own) < FEWEST_ROUNDS:
            reason = (
                f"the device was throttled in {dropped} of {dropped + len(mine.own)} rounds; "
                f"a verdict needs {FEWEST_ROUNDS} rounds without throttling"
            )
            return facts | {"reason": reason}
        comparisons = [compared(mine, baseline, clock.own) for baseline in baselines]
        first, problem = comparisons[0], timing.problem()
        return facts | {
            "verdict": first.verdict if problem is None else "suspicious",
            "reason": problem or first.reason,
            "comparisons": comparisons,
        }

    def _add_textbook(
        self, timing_cell: TimingCell, known: Mapping[str, int], arms: dict[str, LossUnderTest]
    ) -> str | None:
        """Add the textbook composition to the arms; return the reason if it is left out.

        Args:
            timing_cell: The cell.
            known: The sizes of all axes by name.
            arms: The arms by name; the composition is added to them.
        """
        loss = timing_cell.timed_loss.under_test.loss
        composition = textbook(loss.name)
        if composition is None:
            return "lossspec has no textbook composition of this loss"
        under_test = LossUnderTest(TEXTBOOK, loss, "function", composition)
        reason = self._fitting.too_costly(timing_cell, known, under_test)
        if reason is None:
            arms[TEXTBOOK] = under_test
        return reason

    def grow(self, timed_loss: TimedLoss, axis: str) -> list[Growth]:
        """Return the growth of a full step along an axis, for the implementation and for torch."""
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
    """Return the torch counterpart on the same surface, or else the function; None without one."""
    loss, surface = timed_loss.under_test.loss, timed_loss.under_test.surface
    return torch_counterpart(loss, surface) or torch_counterpart(loss, "function")


def _peaks(
    arms: Mapping[str, LossUnderTest],
    case: Case,
    absent: str | None,
    device: str,
) -> list[Peak]:
    """Measure the peak memory of each arm.

    Args:
        arms: The arms by name.
        case: The call.
        absent: The reason why there is no textbook composition; None if there is one.
        device: The device.
    """
    peaks = []
    for name, under_test in arms.items():
        top, size = weighed(under_test, case, device)
        peaks.append(Peak(name, top, top / size, None))
    if absent is not None:
        peaks.append(Peak(TEXTBOOK, None, None, absent))
    return peaks


def paired(benchmark: Any) -> Callable[[PairedTiming], None]:
    """Return a function that runs a paired timing as rounds of pytest-benchmark.

    The baselines are timed in the setup and the teardown of each round.

    Args:
        benchmark: The fixture of pytest-benchmark.
    """

    def drive(timing: PairedTiming) -> None:
        with timing.quiet():
            benchmark.pedantic(
                timing.during,
                setup=timing.before,
                teardown=timing.after,
                rounds=timing.rounds,
            )

    return drive
