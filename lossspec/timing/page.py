"""The HTML page of a timing run: intervals on one axis, memory, and line charts of growth."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lossspec.render.chart import Chart, Line, across, up
from lossspec.render.html import environment
from lossspec.timing.results import Growth, Interval, Speed, Timing, TimingReport
from lossspec.timing.statistics import said

#: The CSS class of a verdict. Only verdicts that report a difference are coloured.
_TONES: dict[Speed, str] = {
    "faster": "pass",
    "same": "none",
    "slower": "fail",
    "unclear": "none",
    "suspicious": "warn",
    "not-timed": "none",
}
_SIGNS: dict[Speed, str] = {
    "faster": "▾",
    "same": "=",
    "slower": "▴",
    "unclear": "?",
    "suspicious": "!",
    "not-timed": "∅",
}


def page(report: TimingReport) -> str:
    """Return a timing report as an HTML page that needs no other file."""
    axis = Axis.of(found.own for cell in report.cells for found in cell.comparisons)
    return _ENVIRONMENT.get_template("timing.html.j2").render(
        report=report,
        axis=axis,
        tiles=[(word, count) for word, count in report.counts.items() if count],
        losses=_by_loss(report.cells),
        charts=_charts(report.growth),
    )


# === the axis of ratios ===================================================================


@dataclass
class Axis:
    """A logarithmic axis of ratios with 1 in the middle.

    Attributes:
        reach: The binary logarithm of the largest ratio on the axis.
    """

    reach: float

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> "Axis":
        """Return an axis that is wide enough for every ratio, up to 32."""
        far = [abs(math.log2(found.ratio)) for found in intervals if 0 < found.ratio < math.inf]
        return cls(float(min(5, max(1, math.ceil(max(far, default=1) + 0.1)))))

    def place(self, ratio: float) -> float:
        """Return the position of a ratio in per cent of the axis, at an end if it lies beyond."""
        power = (
            math.log2(ratio) if 0 < ratio < math.inf else (-math.inf if ratio == 0 else math.inf)
        )
        return round(50 + 47 * max(-1.0, min(1.0, power / self.reach)), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return the position and the label of each power of two."""
        reach = int(self.reach)
        powers = [2.0**k for k in range(-reach, reach + 1)]
        return [(self.place(p), f"{p:.0f}×" if p >= 1 else f"1/{1 / p:.0f}") for p in powers]


@dataclass
class LossTimes:
    """The timing cells of one loss."""

    name: str
    anchor: str
    cells: list[Timing]


def _by_loss(cells: Iterable[Timing]) -> list[LossTimes]:
    found: dict[str, list[Timing]] = {}
    for cell in cells:
        found.setdefault(cell.loss, []).append(cell)
    return [
        LossTimes(name, f"loss-{place}", own) for place, (name, own) in enumerate(found.items(), 1)
    ]


# === charts of growth =====================================================================


@dataclass
class Growths:
    """The charts of one loss along one axis."""

    title: str
    anchor: str
    curves: list[Growth]
    charts: list[Chart] = field(default_factory=list)


def _charts(growth: Iterable[Growth]) -> list[Growths]:
    found: dict[str, list[Growth]] = {}
    for curve in growth:
        where = f"{curve.surface}, {curve.device}, {curve.dtype}"
        found.setdefault(f"{curve.loss} against {curve.axis} ({where})", []).append(curve)
    made = []
    for place, (title, curves) in enumerate(found.items(), 1):
        drawn = [curve for curve in curves if len(curve.sizes) > 1]
        charts = []
        if drawn:
            times = [(c, [s or 1e-9 for s in c.seconds], c.time_power) for c in drawn]
            peaks = [(c, [float(max(b, 1)) for b in c.bytes], c.memory_power) for c in drawn]
            charts = [_chart("Time", times, duration), _chart("Peak memory", peaks, amount)]
        made.append(Growths(title, f"growth-{place}", curves, charts))
    return made


def _chart(
    title: str,
    curves: Sequence[tuple[Growth, Sequence[float], float | None]],
    say: Callable[[float], str],
) -> Chart:
    sizes = [size for curve, _, _ in curves for size in curve.sizes]
    values = [value for _, column, _ in curves for value in column]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    first, last = math.log2(min(sizes)), math.log2(max(sizes))

    def x(size: float) -> float:
        return across((math.log2(size) - first) / max(last - first, 1e-9))

    def y(value: float) -> float:
        return up((math.log10(value) - low) / (high - low))

    lines = [
        Line(
            curve.arm,
            [(x(size), y(value)) for size, value in zip(curve.sizes, column, strict=True)],
            [f"{curve.arm}, {s}: {say(v)}" for s, v in zip(curve.sizes, column, strict=True)],
        )
        for curve, column, _ in curves
    ]
    caption = "".join(f", {curve.arm}: {_power(power)}" for curve, _, power in curves)
    marks = sorted(set(sizes))
    sizes_shown = [(x(size), count(size)) for size in marks[:: max(1, math.ceil(len(marks) / 6))]]
    decades = [(y(10.0**k), say(10.0**k)) for k in range(low, high + 1)]
    return Chart(title, f"{title} against size", caption, sizes_shown, decades, lines)


def _power(power: float | None) -> str:
    return "too few points" if power is None else f"power {power:.2f}"


# === numbers for readers ==================================================================


def duration(seconds: float) -> str:
    """Return a duration with its unit, such as "12.3 µs"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def amount(number: float) -> str:
    """Return a number of bytes with its decimal unit, such as "1.5 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def count(size: int) -> str:
    """Return a size as text; multiples of 2¹⁰ or 2²⁰ are abbreviated, such as "128k"."""
    for unit, power in (("M", 20), ("k", 10)):
        if size >= 2**power and size % 2**power == 0:
            return f"{size >> power}{unit}"
    return str(size)


def times(ratio: float) -> str:
    """Return a ratio as text, such as "0.53"; an infinite one is "∞"."""
    return "∞" if ratio == math.inf else f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


_ENVIRONMENT = environment()
_ENVIRONMENT.filters |= {
    "tone": _TONES.__getitem__,
    "sign": _SIGNS.__getitem__,
    "said": said,
    "duration": duration,
    "times": times,
    "count": count,
}
