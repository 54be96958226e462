"""The artifact of a timing run."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, get_args

from lossspec.errors import ReportError
from lossspec.report.reader import Key, Record
from lossspec.report.records import Artifact, Environment, MaybeText, TestedImplementation
from lossspec.thresholds import BAND, CONFIDENCE, DISAGREE, INCREDIBLE

_AT_LEAST_0 = {"minimum": 0}
Readings = Annotated[tuple[int, ...], Key(rules={"items": {"type": "integer", "minimum": 0}})]
SCHEMA = Path(__file__).with_name("timing.schema.json")  # of the artifact, for other tools

Speed = Literal["faster", "same", "slower", "unclear", "suspicious", "not-timed"]
Mode = Literal["infer", "forward", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)
SPEEDS: tuple[Speed, ...] = get_args(Speed)


@dataclass(frozen=True)
class Interval(Record):
    """A ratio of times with the ends of its confidence interval; infinite where pairs are few."""

    ratio: float
    low: float
    high: float


def furthest_from_one(measured: Interval) -> float:
    """Return the factor by which the times differ at most, whichever is the longer."""
    return max(measured.high, 1 / measured.low if measured.low > 0 else math.inf)


def rounded_up(factor: float) -> str:
    """Return a factor of 1 or more as a difference, rounded up: "5.1 %", "12 %", "2.1×"."""
    per_cent = 100 * (factor - 1) - 1e-9  # what a division left over rounds nothing up
    if per_cent < 10:
        return f"{math.ceil(10 * per_cent) / 10:.1f} %"
    return f"{math.ceil(per_cent)} %" if per_cent < 100 else f"{math.ceil(10 * factor) / 10:.1f}×"


@dataclass(frozen=True)
class Arm(Record):
    """The readings of one arm, a block of calls each, in ns and in the order of the rounds.

    own : on the clock that counts this work alone: the process's CPU time, or a device's events.
    wall : on the wall; for a device, until it had nothing left to do.
    """

    name: str
    calls: Annotated[int, Key("Calls in a reading.", rules={"minimum": 1})]
    own: Readings
    wall: Readings

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calls < 1 or len(self.own) != len(self.wall) or min(*self.own, *self.wall, 1) < 0:
            raise ReportError("want as many readings on one clock as on the other, none below 0")

    def seconds(self, clock: str) -> float:
        """The median time of a call; on a clock of `Comparison`."""
        return median(self.times(clock)) / self.calls / 1e9

    def times(self, clock: str) -> tuple[int, ...]:
        """The readings of a clock."""
        return self.wall if clock == "wall" else self.own


@dataclass(frozen=True)
class Comparison(Record):
    """The implementation against one baseline: the time of a call, divided by the baseline's.

    clock : the one that decided; `wall` is the interval on the wall in any case.
    """

    baseline: str
    verdict: Speed
    clock: Literal["cpu", "device", "wall"]
    own: Interval
    wall: Interval
    reason: MaybeText

    @property
    def deciding(self) -> Interval:
        """The interval that the verdict rests on."""
        return self.wall if self.clock == "wall" else self.own


@dataclass(frozen=True)
class Peak(Record):
    """The most memory that one call held at once, beyond its inputs, in bytes; a multiple of them.

    `bytes` is None where it was not measured, for the reason given.
    """

    arm: str
    bytes: Annotated[int | None, Key(missing=None)]
    ratio: Annotated[float | None, Key(missing=None)]
    reason: MaybeText


@dataclass(frozen=True)
class Timing(Record):
    """One loss at one size, in one mode, on one device; its verdict is the one against torch."""

    id: str
    loss: str
    surface: Literal["function", "class"]
    size: str
    mode: Mode
    device: str
    dtype: str
    shapes: Annotated[dict[str, tuple[int, ...]], Key("Of the tensors.", {})]
    verdict: Speed
    reason: MaybeText
    comparisons: Annotated[tuple[Comparison, ...], Key("Against torch first.")]
    arms: Annotated[
        tuple[Arm, ...], Key("Every reading in ns; the i-th of each arm are from one round.")
    ]
    peaks: Annotated[tuple[Peak, ...], Key("", ())]
    dropped: Annotated[
        int, Key("Rounds left out because the device was throttled.", 0, _AT_LEAST_0)
    ]
    seconds: Annotated[float, Key("How long it took to time.", 0.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        want = timing_id(self.loss, self.size, self.mode, self.surface, self.device, self.dtype)
        if self.id != want:
            raise ReportError(f"got {self.id!r}, want {want!r}", ".id")


@dataclass(frozen=True)
class Growth(Record):
    """How the time and memory of a full step grow along one axis, the others being fixed.

    seconds : the median of a call. bytes : the peak. The powers are fitted over all points.
    """

    loss: str
    surface: Literal["function", "class"]
    device: str
    dtype: str
    axis: str
    arm: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[int, ...]
    time_power: Annotated[float | None, Key(missing=None)]
    memory_power: Annotated[float | None, Key(missing=None)]
    reason: MaybeText


@dataclass(frozen=True)
class Rules(Record):
    """What the verdicts rest on, so that they can be computed again from the readings."""

    confidence: float = CONFIDENCE
    band: float = BAND
    incredible: float = INCREDIBLE
    disagree: float = DISAGREE


@dataclass(frozen=True)
class TimingReport(Artifact):
    """The artifact of a timing run: every reading, and what follows from it."""

    KIND = "timing"
    TITLE = "What one timing run of lossspec found about one implementation."

    implementation: Annotated[TestedImplementation, Key("What was tested.")]
    environment: Annotated[Environment, Key("Where and when the run took place.", {})]
    seed: Annotated[int | None, Key("null where it is not known.", None)]
    rules: Annotated[Rules, Key("What the verdicts rest on.")]
    load: Annotated[tuple[float, ...], Key("Load averages at the start.", ())]
    cells: tuple[Timing, ...]
    growth: Annotated[tuple[Growth, ...], Key("", ())]

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = [cell.id for cell in self.cells]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ReportError(f"got the same cell twice: {', '.join(twice[:3])}", ".cells")

    @property
    def counts(self) -> dict[Speed, int]:
        """The number of cells per verdict, zeros included."""
        return {word: sum(cell.verdict == word for cell in self.cells) for word in SPEEDS}

    @property
    def headline(self) -> str:
        """Such as "9 cells against torch: 1 faster, 8 with no difference above 5.6 % to 12 %"."""
        told = []
        for word, count in self.counts.items():
            bounds = self._bounds() if word == "unclear" else []
            if count > len(bounds):
                told.append(f"{count - len(bounds)} {word}")
            if bounds:
                ends = dict.fromkeys(map(rounded_up, (min(bounds), max(bounds))))
                told.append(f"{len(bounds)} with no difference above {' to '.join(ends)}")
        cells = f"{len(self.cells)} cell{'' if len(self.cells) == 1 else 's'}"
        return f"{cells} against torch: {', '.join(told) or 'none'}"

    def _bounds(self) -> list[float]:
        """Return how far the times of unclear cells differ at most, where 1 is in the interval."""
        found = [c.comparisons[0].deciding for c in self.cells if c.verdict == "unclear"]
        bounds = [furthest_from_one(ratio) for ratio in found if ratio.low <= 1 <= ratio.high]
        return [bound for bound in bounds if bound < math.inf]


def timing_id(loss: str, size: str, mode: str, surface: str, device: str, dtype: str) -> str:
    """The id of a cell, such as ``cross_entropy/large/full[function-cpu-float32]``."""
    return f"{loss}/{size}/{mode}[{surface}-{device}-{dtype}]"
