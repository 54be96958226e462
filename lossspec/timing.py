"""Timings as data: pairs of readings, exact intervals of their ratios, verdicts, growth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Literal, get_args

from lossspec.verdict import Artifact, Environment, ReportError, Tested, _Record

SCHEMA = Path(__file__).with_name("timing.schema.json")  # of the artifact, for other tools

Speed = Literal["faster", "same", "slower", "unclear", "suspicious", "not-timed"]
Mode = Literal["infer", "forward", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)
SPEEDS: tuple[Speed, ...] = get_args(Speed)

#: Ratios this near to 1, either way, are the same for practical purposes.
BAND = 1.05
#: There is one look at the pairs of a cell, after a number of rounds fixed beforehand.
CONFIDENCE = 0.99
#: Rounds of a cell. Up to three arms go through their orders in six of them, the same number of
#: times each; from 12 on, an interval bears an outlier at either end.
FEWEST, MOST, CYCLE = 12, 126, 6
#: So much faster than torch is seldom true.
INCREDIBLE = 10.0
#: Two clocks whose ratios differ by this factor do not tell of the same work.
DISAGREE = 2.0
#: A share of a device's best clock rate; below it a reading tells of heat, not of a loss.
THROTTLED = 0.75


# === statistics ===========================================================================


@dataclass(frozen=True)
class Interval(_Record):
    """A ratio of times with the ends of its confidence interval; infinite where pairs are few."""

    ratio: float
    low: float
    high: float


def interval(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of paired ratios and its exact interval, by the order statistics of a sign test.

    It assumes nothing of how times are distributed. ValueError for no ratio, or one not above 0.
    """
    if not ratios or not all(0 < ratio < math.inf for ratio in ratios):
        raise ValueError(f"want ratios above 0, at least one, got {list(ratios)}")
    logs = sorted(map(math.log, ratios))
    n = len(logs)
    tail, rank = 2.0**-n, 0
    while rank < n // 2 and 2 * tail <= 1 - confidence:
        rank += 1
        tail += math.comb(n, rank) / 2**n
    low, high = (logs[rank - 1], logs[n - rank]) if rank else (-math.inf, math.inf)
    return Interval(*(math.exp(log) for log in (median(logs), low, high)))


def speed(measured: Interval, band: float = BAND) -> Speed:
    """The verdict that an interval allows: three where it is certain, `unclear` otherwise."""
    if measured.high < 1 / band:
        return "faster"
    if measured.low > band:
        return "slower"
    return "same" if 1 / band <= measured.low and measured.high <= band else "unclear"


def said(measured: Interval, band: float = BAND) -> str:
    """Return the verdict of an interval in words: how large a difference it leaves possible.

    Where the verdict would be `unclear`, the interval still bounds the difference: from above where
    1 lies in it, and from both sides where it does not.
    """
    verdict, furthest = speed(measured, band), _furthest(measured)
    if furthest == math.inf:
        return verdict
    if verdict == "same":
        return f"same (within {_upwards(furthest)})"
    if verdict != "unclear":
        return verdict
    if measured.low <= 1 <= measured.high:
        return f"no difference above {_upwards(furthest)}"
    word = "slower" if measured.low > 1 else "faster"
    if furthest >= 2:
        return f"unclear: up to {_upwards(furthest)} {word}"
    nearest = max(measured.low, 1 / measured.high)
    low, high = math.floor(100 * (nearest - 1) + 1e-9), math.ceil(100 * (furthest - 1) - 1e-9)
    return f"unclear: {low} to {high} % {word}"


def _furthest(measured: Interval) -> float:
    """Return the factor by which the times differ at most, whichever is the longer."""
    return max(measured.high, 1 / measured.low if measured.low > 0 else math.inf)


def _upwards(factor: float) -> str:
    """Return a factor of 1 or more as a difference, rounded up: "5.1 %", "12 %", "2.1×"."""
    per_cent = 100 * (factor - 1) - 1e-9  # what a division left over rounds nothing up
    if per_cent < 10:
        return f"{math.ceil(10 * per_cent) / 10:.1f} %"
    return f"{math.ceil(per_cent)} %" if per_cent < 100 else f"{math.ceil(10 * factor) / 10:.1f}×"


def rounds(seconds: float, budget: float) -> int:
    """How many rounds of some seconds a budget in seconds pays for: whole cycles, within bounds."""
    paid = int(budget / max(seconds, 1e-9))
    return max(FEWEST, min(MOST, paid - paid % CYCLE))


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float | None:
    """The power of the size that the amounts grow with: least squares on logarithms.

    None where there are fewer than three points, or an amount is not above 0.
    """
    if len(sizes) < 3 or min(*sizes, *amounts) <= 0:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(amount) for amount in amounts]
    mean = fmean(x)
    spread = sum((a - mean) ** 2 for a in x)
    return sum((a - mean) * (b - fmean(y)) for a, b in zip(x, y, strict=True)) / spread


def foreseen(sizes: Sequence[float], amounts: Sequence[float], size: float) -> float:
    """The amount at a larger size, going on from the last two points as a power does.

    From a single point it is in proportion to the size.
    """
    here, high = sizes[-1], amounts[-1]
    power = 1.0
    if len(sizes) > 1:
        power = math.log(max(high, 1) / max(amounts[-2], 1)) / math.log(here / sizes[-2])
    return float(high * (size / here) ** max(power, 0.0))


# === records ==============================================================================


@dataclass(frozen=True)
class Arm(_Record):
    """The readings of one arm, a block of calls each, in ns and in the order of the rounds.

    own : on the clock that counts this work alone: the process's CPU time, or a device's events.
    wall : on the wall; for a device, until it had nothing left to do.
    """

    name: str
    calls: int
    own: tuple[int, ...]
    wall: tuple[int, ...]

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
class Comparison(_Record):
    """The implementation against one baseline: the time of a call, divided by the baseline's.

    clock : the one that decided; `wall` is the interval on the wall in any case.
    """

    baseline: str
    verdict: Speed
    clock: Literal["cpu", "device", "wall"]
    own: Interval
    wall: Interval
    reason: str | None

    @property
    def deciding(self) -> Interval:
        """The interval that the verdict rests on."""
        return self.wall if self.clock == "wall" else self.own


@dataclass(frozen=True)
class Peak(_Record):
    """The most memory that one call held at once, beyond its inputs, in bytes; a multiple of them.

    `bytes` is None where it was not measured, for the reason given.
    """

    arm: str
    bytes: int | None
    ratio: float | None
    reason: str | None


@dataclass(frozen=True)
class Timing(_Record):
    """One loss at one size, in one mode, on one device; its verdict is the one against torch."""

    id: str
    loss: str
    surface: Literal["function", "class"]
    size: str
    mode: Mode
    device: str
    dtype: str
    shapes: dict[str, tuple[int, ...]]
    verdict: Speed
    reason: str | None
    comparisons: tuple[Comparison, ...]
    arms: tuple[Arm, ...]
    peaks: tuple[Peak, ...]
    dropped: int
    seconds: float

    def __post_init__(self) -> None:
        super().__post_init__()
        want = timing_id(self.loss, self.size, self.mode, self.surface, self.device, self.dtype)
        if self.id != want:
            raise ReportError(f"got {self.id!r}, want {want!r}", ".id")


@dataclass(frozen=True)
class Growth(_Record):
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
    time_power: float | None
    memory_power: float | None
    reason: str | None


@dataclass(frozen=True)
class Rules(_Record):
    """What the verdicts rest on, so that they can be computed again from the readings."""

    confidence: float = CONFIDENCE
    band: float = BAND
    incredible: float = INCREDIBLE
    disagree: float = DISAGREE


@dataclass(frozen=True)
class TimingReport(Artifact):
    """The artifact of a timing run: every reading, and what follows from it."""

    implementation: Tested
    environment: Environment
    seed: int
    rules: Rules
    load: tuple[float, ...]
    cells: tuple[Timing, ...]
    growth: tuple[Growth, ...]

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
                ends = dict.fromkeys(map(_upwards, (min(bounds), max(bounds))))
                told.append(f"{len(bounds)} with no difference above {' to '.join(ends)}")
        cells = f"{len(self.cells)} cell{'' if len(self.cells) == 1 else 's'}"
        return f"{cells} against torch: {', '.join(told) or 'none'}"

    def _bounds(self) -> list[float]:
        """Return how far the times of unclear cells differ at most, where 1 is in the interval."""
        found = [c.comparisons[0].deciding for c in self.cells if c.verdict == "unclear"]
        bounds = [_furthest(ratio) for ratio in found if ratio.low <= 1 <= ratio.high]
        return [bound for bound in bounds if bound < math.inf]


def timing_id(loss: str, size: str, mode: str, surface: str, device: str, dtype: str) -> str:
    """The id of a cell, such as ``cross_entropy/large/full[function-cpu-float32]``."""
    return f"{loss}/{size}/{mode}[{surface}-{device}-{dtype}]"


# === from readings to verdicts ============================================================


def compared(mine: Arm, baseline: Arm, own: Literal["cpu", "device", "wall"]) -> Comparison:
    """The verdict on two arms whose readings are pairs: the i-th of each from the same round.

    own : what the arms' own clock is. The wall decides where an arm's CPU time is far from it: more
    of it is work in parallel. A great difference between the two clocks is suspicious: work that
    the own clock did not see. Their intervals must tell it, since on a busy machine one arm may
    wait longer by chance.
    """
    on_wall = _ratio(mine, baseline, "wall")
    on_own = _ratio(mine, baseline, own)
    parallel = own == "cpu" and any(_busy(arm) > 1.2 for arm in (mine, baseline))
    clock: Literal["cpu", "device", "wall"] = "wall" if parallel else own
    deciding = on_wall if parallel else on_own
    verdict, reason = speed(deciding), None
    if not parallel and on_wall.low > DISAGREE * on_own.high:
        verdict = "suspicious"
        reason = (
            f"{on_own.ratio:.2g} times the baseline on the {own} clock but {on_wall.ratio:.2g} "
            "times on the wall: it waits, or works where that clock does not look"
        )
    elif deciding.ratio < 1 / INCREDIBLE and baseline.name == "torch":
        verdict = "suspicious"
        reason = f"{1 / deciding.ratio:.0f} times as fast as torch: does it do the work?"
    return Comparison(baseline.name, verdict, clock, on_own, on_wall, reason)


def _ratio(mine: Arm, baseline: Arm, clock: str) -> Interval:
    scale = baseline.calls / mine.calls
    times = zip(mine.times(clock), baseline.times(clock), strict=True)
    # A clock that did not move has no logarithm; it has not seen more than a tick.
    return interval([scale * max(a, 1) / max(b, 1) for a, b in times])


def _busy(arm: Arm) -> float:
    return median(own / max(wall, 1) for own, wall in zip(arm.own, arm.wall, strict=True))


def kept(arms: Sequence[Arm], rates: Sequence[float | None]) -> tuple[list[Arm], int]:
    """The arms without the rounds in which the device was throttled, and how many those were.

    rates : the device's clock rate after each round, None where it cannot be read.
    """
    best = max((rate for rate in rates if rate is not None), default=0.0)
    good = [i for i, rate in enumerate(rates) if rate is None or rate >= THROTTLED * best]
    if len(good) == len(rates):
        return list(arms), 0
    picked = [
        replace(arm, own=tuple(arm.own[i] for i in good), wall=tuple(arm.wall[i] for i in good))
        for arm in arms
    ]
    return picked, len(rates) - len(good)


def limit(text: str) -> float:
    """The ratio of `--timing-fail=slower:RATIO`; ValueError where it is none of 1 or more."""
    word, _, number = text.partition(":")
    try:
        ratio = float(number)
    except ValueError:
        ratio = math.nan
    if word != "slower" or not 1 <= ratio < math.inf:
        raise ValueError(
            f"--timing-fail takes slower:RATIO with a ratio of 1 or more, such as slower:1.5, "
            f"got {text!r}"
        )
    return ratio


def beyond(cell: Timing, ratio: float) -> Comparison | None:
    """The comparison with torch, where its whole interval lies above a ratio."""
    for found in cell.comparisons:
        if found.baseline == "torch" and found.deciding.low > ratio:
            return found
    return None
