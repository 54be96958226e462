"""The report on one screen of a terminal."""

import textwrap
from collections.abc import Iterator
from os import PathLike

from lossspec.render.layout import judged, nothing, one_line
from lossspec.verdict import Cell, Report, Verdict

WIDTH = 100
HEIGHT = 24


def screen(report: Report, path: str | PathLike[str] | None = None) -> str:
    """
    The counts, the first deviations and where the report lies.

    At most 24 lines of 100 columns, whatever the size of the report.
    """
    head = [judged(report)]
    head += [*textwrap.wrap(f"{report.headline}.", WIDTH), ""]
    foot = ["", f"report: {path}"] if path is not None else []
    body: list[str] = []
    room = HEIGHT - len(head) - len(foot) - 1
    told = 0
    cells = _newsworthy(report)
    for cell in cells:
        lines = list(_lines(cell))
        if len(body) + len(lines) > room:
            break
        body += lines
        told += 1
    if told < len(cells):
        body.append(f"… and {len(cells) - told} more")
    if not report.cells:
        body.append(nothing(report))
    return "\n".join(_cut(line) for line in head + body + foot).rstrip("\n") + "\n"


def _newsworthy(report: Report) -> list[Cell]:
    """The failing cells, then the inconclusive; what a second surface repeats comes last."""
    seen: dict[tuple[str, str], int] = {}
    places = []
    for cell in report.cells:
        if cell.verdict.fails or cell.verdict is Verdict.INCONCLUSIVE:
            times = seen[cell.loss, cell.clause] = seen.get((cell.loss, cell.clause), 0) + 1
            places.append(((not cell.verdict.fails, times > 1), cell))
    return [cell for _, cell in sorted(places, key=lambda place: place[0])]


def _lines(cell: Cell) -> Iterator[str]:
    yield f"{cell.verdict.sign} {cell.verdict}: {cell.id}"
    for text in (cell.says, cell.reason):
        if text:
            yield f"    {one_line(text)}"
    # Half a command is worse than none.
    if cell.repeat and len(repeat := f"    $ {cell.repeat}") <= WIDTH:
        yield repeat


def _cut(line: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in line)
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
