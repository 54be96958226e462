"""Statistics of paired timings."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Literal

from lossspec.errors import ArgumentError
from lossspec.thresholds import (
    BAND,
    CONFIDENCE,
    DISAGREE,
    FEWEST_ROUNDS,
    INCREDIBLE,
    MOST_ROUNDS,
    PARALLEL,
    ROUND_CYCLE,
    THROTTLED,
)
from lossspec.timing.results import (
    Arm,
    Comparison,
    Interval,
    Speed,
    Timing,
    furthest_from_one,
    rounded_up,
)


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
    verdict, furthest = speed(measured, band), furthest_from_one(measured)
    if furthest == math.inf:
        return verdict
    if verdict == "same":
        return f"same (within {rounded_up(furthest)})"
    if verdict != "unclear":
        return verdict
    if measured.low <= 1 <= measured.high:
        return f"no difference above {rounded_up(furthest)}"
    word = "slower" if measured.low > 1 else "faster"
    if furthest >= 2:
        return f"unclear: up to {rounded_up(furthest)} {word}"
    nearest = max(measured.low, 1 / measured.high)
    low, high = math.floor(100 * (nearest - 1) + 1e-9), math.ceil(100 * (furthest - 1) - 1e-9)
    return f"unclear: {low} to {high} % {word}"


def rounds(seconds: float, budget: float) -> int:
    """How many rounds of some seconds a budget in seconds pays for: whole cycles, within bounds."""
    paid = int(budget / max(seconds, 1e-9))
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, paid - paid % ROUND_CYCLE))


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


def compared(mine: Arm, baseline: Arm, own: Literal["cpu", "device", "wall"]) -> Comparison:
    """The verdict on two arms whose readings are pairs: the i-th of each from the same round.

    own : what the arms' own clock is. The wall decides where an arm's CPU time is far from it: more
    of it is work in parallel. A great difference between the two clocks is suspicious: work that
    the own clock did not see. Their intervals must tell it, since on a busy machine one arm may
    wait longer by chance.
    """
    on_wall = _ratio(mine, baseline, "wall")
    on_own = _ratio(mine, baseline, own)
    parallel = own == "cpu" and any(_busy(arm) > PARALLEL for arm in (mine, baseline))
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
    """The ratio of `--timing-fail=slower:RATIO`; ArgumentError where it is none of 1 or more."""
    word, _, number = text.partition(":")
    try:
        ratio = float(number)
    except ValueError:
        ratio = math.nan
    if word != "slower" or not 1 <= ratio < math.inf:
        raise ArgumentError(
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
