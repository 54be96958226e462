"""The report on one screen of a terminal."""

import textwrap
from collections.abc import Iterator
from os import PathLike, fspath

from lossspec.render.cells import found
from lossspec.render.layout import judged, nothing, plural, unjudged
from lossspec.report.causes import Block, blocks, unlike
from lossspec.report.records import Report
from lossspec.safe_text import one_line

WIDTH = 80
HEIGHT = 24
#: Reasons for not judging that are shown, on so many lines each: beside failures, and alone.
REASONS, LINES = (3, 4), (1, 2)
_INDENT = "    "


def screen(report: Report, path: str | PathLike[str] | None = None) -> str:
    """
    The counts, the first deviations, why cells were not judged, and where the report lies.

    At most 24 lines of 80 columns, whatever the size of the report.
    """
    head = [_cut(one_line(judged(report)))]
    head += [*textwrap.wrap(f"{report.headline}.", WIDTH), ""]
    why = _not_judged(report)
    foot = ["", _cut(f"report: {one_line(fspath(path))}")] if path is not None else []
    body: list[str] = []
    # Two more lines may come: one that counts the other failures, and an empty one.
    room = HEIGHT - len(head) - len(why) - len(foot) - 2
    left = len(report.failing)
    for block in _newsworthy(report):
        lines = list(_lines(block))
        if len(body) + len(lines) > room:
            break
        body += lines
        left -= block.count
    if left:
        body.append(f"… and {plural(left, 'more failing cell')}")
    if body and why:
        why.insert(0, "")
    return "\n".join(head + body + why + foot).rstrip("\n") + "\n"


def _newsworthy(report: Report) -> list[Block]:
    """The failing cells by cause, the largest block first, what a second surface repeats last."""
    seen: dict[tuple[str, str], int] = {}
    places = []
    for block in blocks(report.failing):
        clause = block.shown.loss, block.shown.clause
        times = seen[clause] = seen.get(clause, 0) + 1
        places.append((-block.count, times > 1, block))
    return [block for *_, block in sorted(places, key=lambda place: place[:2])]


def _lines(block: Block) -> Iterator[str]:
    cell = block.shown
    yield _cut(one_line(f"{cell.verdict.sign} {cell.verdict}: {cell.id}"))
    for text in (cell.says, found(cell)):
        if text:
            yield from _wrapped(one_line(text), _INDENT, _INDENT, lines=2)
    if block.others:
        yield from _also(block)
    if cell.excused:
        yield from _wrapped(cell.tally, _INDENT, _INDENT, lines=1)
    for other in unlike(cell)[:1]:
        yield from _wrapped(one_line(f"and {other.told()}"), _INDENT, _INDENT, lines=1)
    if cell.repeat and cell.repeat.isprintable():
        yield from _command(cell.repeat)


def _also(block: Block) -> list[str]:
    """The other cells of a block on two lines at most, which end with the number of the rest."""
    cause = f"{block.shown.cause}; " if block.shown.cause else ""
    for most in range(min(len(block.others), 12), 0, -1):
        text = one_line(f"{cause}also breaks: {block.also(most)}")
        lines = _wrapped(text, _INDENT, _INDENT, lines=3)
        if len(lines) < 3:
            return lines
    return [f"{_INDENT}also breaks {plural(len(block.others), 'more cell')}"]


def _not_judged(report: Report) -> list[str]:
    """Reasons for cells without a judgement, and how many cells each explains."""
    if not report.cells:
        return [nothing(report)]
    lines = [] if report.judged else ["Nothing was judged, which is an error in itself."]
    alone = not report.failing
    groups, most = unjudged(report), REASONS[alone]
    for group in groups[:most]:
        start = f"{group.verdict.sign} {group.count} {group.verdict}: "
        lines += _wrapped(one_line(group.reason), start, _INDENT, LINES[alone])
    if len(groups) > most:
        left = sum(group.count for group in groups[most:])
        lines.append(f"… and {left} more not judged; the report has every reason")
    if absent := report.absent_losses:
        lines.append(_cut(one_line(f"absent: {', '.join(absent)}")))
    return lines


def _wrapped(text: str, first: str, rest: str, lines: int) -> list[str]:
    """The text on at most so many lines."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        max_lines=lines,
        placeholder=" …",
        break_on_hyphens=False,
    )


def _command(command: str) -> list[str]:
    """A command that can be copied, on two lines at most; none where it takes more."""
    if "'" in command and len(command) > WIDTH - 6:
        return []  # an argument in quotes may hold the space at which a line would end
    lines = textwrap.wrap(
        command,
        WIDTH - 2,
        initial_indent=f"{_INDENT}$ ",
        subsequent_indent=_INDENT * 2,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if len(lines) > 2 or any(len(line) > WIDTH - 2 for line in lines):
        return []  # half a command is worse than none
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
