"""The report of a timing run, as a JSON artifact."""

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
SCHEMA = Path(__file__).with_name("timing.schema.json")  # describes the artifact to other tools

Speed = Literal["faster", "same", "slower", "unclear", "suspicious", "not-timed"]
Mode = Literal["infer", "forward", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)
SPEEDS: tuple[Speed, ...] = get_args(Speed)


@dataclass(frozen=True)
class Interval(Record):
    """A ratio of times with its confidence interval, which is unbounded if there are few pairs.

    Attributes:
        ratio: The median of the ratios of the pairs.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    ratio: float
    low: float
    high: float


def furthest_from_one(measured: Interval) -> float:
    """Return the largest factor, at least 1, by which the times may differ in either direction."""
    return max(measured.high, 1 / measured.low if measured.low > 0 else math.inf)


def rounded_up(factor: float) -> str:
    """Return a factor of 1 or more as a difference, rounded up: "5.1 %", "12 %", "2.1×"."""
    per_cent = 100 * (factor - 1) - 1e-9  # the rounding error of a division must not round up
    if per_cent < 10:
        return f"{math.ceil(10 * per_cent) / 10:.1f} %"
    return f"{math.ceil(per_cent)} %" if per_cent < 100 else f"{math.ceil(10 * factor) / 10:.1f}×"


@dataclass(frozen=True)
class Arm(Record):
    """The readings of one arm in ns, one for each block of calls, in the order of the rounds.

    Attributes:
        name: The name of the arm.
        calls: The number of calls in a block.
        own: The readings of the own clock: the CPU time of the process, or the events of a device.
        wall: The readings of the wall clock; for a device, until it is idle.
    """

    name: str
    calls: Annotated[int, Key("The number of calls in a reading.", rules={"minimum": 1})]
    own: Readings
    wall: Readings

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calls < 1 or len(self.own) != len(self.wall) or min(*self.own, *self.wall, 1) < 0:
            raise ReportError(
                f"got {self.calls} calls, {len(self.own)} own and {len(self.wall)} wall readings; "
                "want at least 1 call, as many readings on both clocks, and none below 0"
            )

    def seconds(self, clock: str) -> float:
        """Return the median time of a call by a clock, in seconds.

        Args:
            clock: The clock, as in `Comparison`.
        """
        return median(self.times(clock)) / self.calls / 1e9

    def times(self, clock: str) -> tuple[int, ...]:
        """Return the readings of a clock in ns."""
        return self.wall if clock == "wall" else self.own


@dataclass(frozen=True)
class Comparison(Record):
    """The comparison of the implementation with one baseline, as ratios of the time of a call.

    Attributes:
        baseline: The name of the baseline.
        verdict: The verdict.
        clock: The clock that decides the verdict.
        own: The ratio by the own clock.
        wall: The ratio by the wall clock.
        reason: The reason of the verdict; None if the interval alone decides it.
    """

    baseline: str
    verdict: Speed
    clock: Literal["cpu", "device", "wall"]
    own: Interval
    wall: Interval
    reason: MaybeText

    @property
    def deciding(self) -> Interval:
        """Return the interval that decides the verdict."""
        return self.wall if self.clock == "wall" else self.own


@dataclass(frozen=True)
class Peak(Record):
    """The peak memory of one call in excess of its inputs, or the reason why it was not measured.

    Attributes:
        arm: The name of the arm.
        bytes: The peak memory in bytes; None if it was not measured.
        ratio: The peak memory divided by the memory of the inputs; None if it was not measured.
        reason: The reason why it was not measured; None if it was.
    """

    arm: str
    bytes: Annotated[int | None, Key(missing=None)]
    ratio: Annotated[float | None, Key(missing=None)]
    reason: MaybeText


@dataclass(frozen=True)
class Timing(Record):
    """The timing of one loss at one size, in one mode, on one device, with its verdict."""

    id: str
    loss: str
    surface: Literal["function", "class"]
    size: str
    mode: Mode
    device: str
    dtype: str
    shapes: Annotated[dict[str, tuple[int, ...]], Key("The shape of each tensor.", {})]
    verdict: Speed
    reason: MaybeText
    comparisons: Annotated[
        tuple[Comparison, ...],
        Key("The first one is with torch; it decides the verdict of the cell."),
    ]
    arms: Annotated[
        tuple[Arm, ...],
        Key("All readings in ns; the i-th readings of all arms are from the same round."),
    ]
    peaks: Annotated[tuple[Peak, ...], Key("", ())]
    dropped: Annotated[
        int, Key("Rounds left out because the device was throttled.", 0, _AT_LEAST_0)
    ]
    seconds: Annotated[float, Key("The time that the cell took, in seconds.", 0.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        want = timing_id(self.loss, self.size, self.mode, self.surface, self.device, self.dtype)
        if self.id != want:
            raise ReportError(f"got {self.id!r}, want {want!r}", ".id")


@dataclass(frozen=True)
class Growth(Record):
    """The growth of the time and memory of a full step along one axis, with the others fixed.

    Attributes:
        loss: The name of the loss.
        surface: The surface that is called.
        device: The device.
        dtype: The dtype of the real tensors.
        axis: The name of the axis.
        arm: The name of the arm.
        sizes: The sizes of the axis.
        seconds: The median time of a step at each size, in seconds.
        bytes: The peak memory of a step at each size, in bytes.
        time_power: The exponent of the time as a power of the size, fitted over all points.
        memory_power: The exponent of the memory as a power of the size, fitted over all points.
        reason: The reason why larger sizes were not measured; None if all were.
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
    """The limits that decide the verdicts, so that they can be recomputed from the readings."""

    confidence: float = CONFIDENCE
    band: float = BAND
    incredible: float = INCREDIBLE
    disagree: float = DISAGREE


@dataclass(frozen=True)
class TimingReport(Artifact):
    """The artifact of a timing run: all readings, and the verdicts computed from them."""

    KIND = "timing"
    TITLE = "The result of timing one implementation in one run of lossspec."

    implementation: Annotated[TestedImplementation, Key("The implementation that was timed.")]
    environment: Annotated[Environment, Key("The machine, the versions and the time.", {})]
    seed: Annotated[int | None, Key("The seed of the inputs; null if it is unknown.", None)]
    rules: Annotated[Rules, Key("The limits that decide the verdicts.")]
    load: Annotated[
        tuple[float, ...],
        Key("The load averages of the machine at the start of the run.", ()),
    ]
    cells: tuple[Timing, ...]
    growth: Annotated[tuple[Growth, ...], Key("", ())]

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = [cell.id for cell in self.cells]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ReportError(f"got the same cell twice: {', '.join(twice[:3])}", ".cells")

    @property
    def counts(self) -> dict[Speed, int]:
        """Return the number of cells of each verdict, including zeros."""
        return {word: sum(cell.verdict == word for cell in self.cells) for word in SPEEDS}

    @property
    def headline(self) -> str:
        """Return the counts of the verdicts in one line.

        Example:
            9 cells against torch: 1 faster, 8 with no difference above 5.6 % to 12 %
        """
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
        """Return the largest factor of each unclear cell whose interval contains 1."""
        found = [c.comparisons[0].deciding for c in self.cells if c.verdict == "unclear"]
        bounds = [furthest_from_one(ratio) for ratio in found if ratio.low <= 1 <= ratio.high]
        return [bound for bound in bounds if bound < math.inf]


def timing_id(loss: str, size: str, mode: str, surface: str, device: str, dtype: str) -> str:
    """Return the id of a cell, such as `cross_entropy/large/full[function-cpu-float32]`."""
    return f"{loss}/{size}/{mode}[{surface}-{device}-{dtype}]"
