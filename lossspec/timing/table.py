"""The times of a run, as a table for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence

from lossspec.safe_text import clip, one_line
from lossspec.timing.page import duration, times
from lossspec.timing.results import Timing
from lossspec.timing.statistics import said

WIDTH = 80
_HEAD = " size        mode      a call  ratio  interval        against torch"


def table(cells: Sequence[Timing], confidence: float, band: float) -> list[str]:
    """Return a line for each size and mode, grouped by loss, followed by its reason if any.

    Args:
        cells: The timing cells.
        confidence: The confidence of the intervals.
        band: The ratio up to which times count as the same.
    """
    groups: dict[str, list[Timing]] = {}
    for cell in cells:
        groups.setdefault(_title(cell), []).append(cell)
    lines = [
        f"time of a call divided by torch's, and its {100 * confidence:.3g} % interval; "
        f"same: within {100 * (band - 1):.3g} %"
    ]
    for title, group in groups.items():
        reasons = {cell.reason for cell in group}
        if len(reasons) == 1 and all(cell.verdict == "not-timed" for cell in group):
            lines += ["", title, *_reason("not timed: ", group[0].reason)]
        else:
            lines += ["", title, _HEAD, *_rows(group, band)]
    return lines


def _title(cell: Timing) -> str:
    return f"{cell.loss} ({cell.surface}, {cell.device}, {cell.dtype})"


def _rows(group: Sequence[Timing], band: float) -> Iterator[str]:
    """Yield the lines of one loss; a size is named in its first line only."""
    size = None
    for cell in group:
        named = "" if cell.size == size else cell.size
        size = cell.size
        yield f" {named:10s}  {cell.mode:7s}  {_numbers(cell)}  {_verdict(cell, band)}".rstrip()
        if cell.reason is not None:
            yield from _reason("", cell.reason)


def _numbers(cell: Timing) -> str:
    """Return the time of a call, the ratio and its interval, in columns."""
    if not cell.comparisons:
        return f"{'-':>7s}  {'-':>5s}  {'-':14s}"
    found = cell.comparisons[0]
    took = duration(cell.arms[0].seconds(found.clock))
    own = found.deciding
    interval = f"{_ratio(own.low)} to {_ratio(own.high)}"
    return f"{took:>7s}  {_ratio(own.ratio):>5s}  {interval:14s}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if 0.1 <= ratio < 10 else times(ratio)


def _verdict(cell: Timing, band: float) -> str:
    if cell.verdict in ("same", "unclear") and cell.comparisons:
        return said(cell.comparisons[0].deciding, band)
    return cell.verdict.replace("-", " ")


def _reason(before: str, reason: str | None) -> list[str]:
    """Return the reason of a verdict as at most three indented lines."""
    first_line = (reason or "no reason was given").strip().partition("\n")[0]
    text = before + one_line(clip(first_line, 200))
    return textwrap.wrap(
        text, WIDTH, initial_indent="    ", subsequent_indent="    ", max_lines=3, placeholder=" …"
    )
