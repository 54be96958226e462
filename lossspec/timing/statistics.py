"""The statistics of paired timings."""

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
    """Return the median of paired ratios with its exact interval, by the sign test.

    The interval does not assume any distribution of the times. Its ends are order statistics; they
    are 0 and infinity if there are too few ratios.

    Args:
        ratios: The ratio of each pair.
        confidence: The confidence of the interval.

    Raises:
        ValueError: If there is no ratio, or one that is not above 0 and finite.
    """
    if not ratios or not all(0 < ratio < math.inf for ratio in ratios):
        raise ValueError(f"got the ratios {list(ratios)}, want at least one, all finite and > 0")
    logs = sorted(map(math.log, ratios))
    n = len(logs)
    tail, rank = 2.0**-n, 0
    while rank < n // 2 and 2 * tail <= 1 - confidence:
        rank += 1
        tail += math.comb(n, rank) / 2**n
    low, high = (logs[rank - 1], logs[n - rank]) if rank else (-math.inf, math.inf)
    return Interval(*(math.exp(log) for log in (median(logs), low, high)))


def speed(measured: Interval, band: float = BAND) -> Speed:
    """Return `faster`, `slower` or `same` if the whole interval allows it, and `unclear` otherwise.

    Args:
        measured: The ratio of the times with its interval.
        band: The ratio up to which times count as the same.
    """
    if measured.high < 1 / band:
        return "faster"
    if measured.low > band:
        return "slower"
    return "same" if 1 / band <= measured.low and measured.high <= band else "unclear"


def said(measured: Interval, band: float = BAND) -> str:
    """Return the verdict of an interval in words, with a bound of the difference.

    An `unclear` interval still bounds the difference: from above if it contains 1, and from both
    sides otherwise.

    Args:
        measured: The ratio of the times with its interval.
        band: The ratio up to which times count as the same.
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
    """Return the number of rounds that fit a budget: whole cycles, within the limits.

    Args:
        seconds: The time of one round, in seconds.
        budget: The time of all rounds, in seconds.
    """
    paid = int(budget / max(seconds, 1e-9))
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, paid - paid % ROUND_CYCLE))


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float | None:
    """Return the exponent of amounts as a power of the size, by least squares on logarithms.

    Args:
        sizes: The sizes.
        amounts: The amount at each size, such as seconds.

    Returns:
        The exponent; None if there are fewer than three points, or an amount is not above 0.
    """
    if len(sizes) < 3 or min(*sizes, *amounts) <= 0:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(amount) for amount in amounts]
    mean = fmean(x)
    spread = sum((a - mean) ** 2 for a in x)
    return sum((a - mean) * (b - fmean(y)) for a, b in zip(x, y, strict=True)) / spread


def foreseen(sizes: Sequence[float], amounts: Sequence[float], size: float) -> float:
    """Return the predicted amount at a larger size.

    The amount is extrapolated from the last two points as a power of the size, or from a single
    point in proportion to the size.

    Args:
        sizes: The sizes that were measured.
        amounts: The amount at each size, such as bytes.
        size: The larger size.
    """
    here, high = sizes[-1], amounts[-1]
    power = 1.0
    if len(sizes) > 1:
        power = math.log(max(high, 1) / max(amounts[-2], 1)) / math.log(here / sizes[-2])
    return float(high * (size / here) ** max(power, 0.0))


def compared(mine: Arm, baseline: Arm, own: Literal["cpu", "device", "wall"]) -> Comparison:
    """Compare two arms whose i-th readings are from the same round.

    The own clock decides, unless CPU time far exceeds wall time: then an arm works in parallel, and
    the wall clock decides. If the wall ratio is much larger than the own ratio, the verdict is
    `suspicious`: the own clock may have missed work. The intervals of both ratios must be apart,
    because on a busy machine one arm may wait longer by chance.

    Args:
        mine: The arm of the implementation.
        baseline: The arm to compare with.
        own: The kind of the own clock of both arms.
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
            f"{on_own.ratio:.2g} times as long as the baseline by the {own} clock, but "
            f"{on_wall.ratio:.2g} times by the wall clock: it may wait, or work where the {own} "
            "clock does not count"
        )
    elif deciding.ratio < 1 / INCREDIBLE and baseline.name == "torch":
        verdict = "suspicious"
        reason = f"{1 / deciding.ratio:.0f} times as fast as torch: it may not do the same work"
    return Comparison(baseline.name, verdict, clock, on_own, on_wall, reason)


def _ratio(mine: Arm, baseline: Arm, clock: str) -> Interval:
    scale = baseline.calls / mine.calls
    times = zip(mine.times(clock), baseline.times(clock), strict=True)
    # A reading of 0 has no logarithm; replace it by 1 ns.
    return interval([scale * max(a, 1) / max(b, 1) for a, b in times])


def _busy(arm: Arm) -> float:
    return median(own / max(wall, 1) for own, wall in zip(arm.own, arm.wall, strict=True))


def kept(arms: Sequence[Arm], rates: Sequence[float | None]) -> tuple[list[Arm], int]:
    """Return the arms without the rounds in which the device was throttled.

    Args:
        arms: The arms.
        rates: The device's clock rate after each round, in MHz; None if it cannot be read.

    Returns:
        The arms, and the number of rounds left out.
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
    """Return the ratio of the option `--timing-fail=slower:RATIO`.

    Args:
        text: The value of the option.

    Raises:
        ArgumentError: If the value has another form, or the ratio is below 1.
    """
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
    """Return the comparison with torch if its whole interval is above a ratio; None otherwise."""
    for found in cell.comparisons:
        if found.baseline == "torch" and found.deciding.low > ratio:
            return found
    return None
