"""The report as text for one screen of a terminal."""

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
#: The most reasons for cells not judged, and the most lines of each: with failures, and without.
REASONS, LINES = (3, 4), (1, 2)
_INDENT = "    "


def screen(report: Report, path: str | PathLike[str] | None = None) -> str:
    """Return the counts, the deviations, and the reasons why cells were not judged.

    The text has at most 24 lines of 80 columns. The first deviations are told in full. The others
    get one line each, as far as there is room.

    Args:
        report: The report.
        path: The path of the report's page, for the last line.
    """
    head = [_cut(one_line(judged(report)))]
    head += [*textwrap.wrap(f"{report.headline}.", WIDTH), ""]
    why = _not_judged(report)
    foot = ["", _cut(f"report: {one_line(fspath(path))}")] if path is not None else []
    body: list[str] = []
    # Reserve two lines: the number of other failures, and an empty line.
    room = HEIGHT - len(head) - len(why) - len(foot) - 2
    left = len(report.failing)
    shortened = False
    for block in _newsworthy(report):
        lines = list(_lines(block))
        if len(body) + len(lines) > room:
            shortened = True
        if len(body) == room:
            break
        body += [_brief(block)] if shortened else lines
        left -= block.count
    if left:
        body.append(f"… and {plural(left, 'more failing cell')}")
    if body and why:
        why.insert(0, "")
    return "\n".join(head + body + why + foot).rstrip("\n") + "\n"


def _newsworthy(report: Report) -> list[Block]:
    """Return the blocks of failing cells, the largest first; repeats on another surface last."""
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


def _brief(block: Block) -> str:
    """Return the name, the number of cells and the finding of a block on one line."""
    cell = block.shown
    more = f" and {plural(len(block.others), 'more cell')}" if block.others else ""
    told = f"{cell.verdict.sign} {cell.verdict}: {cell.id}{more}; {cell.cause or found(cell)}"
    return _cut(one_line(told))


def _also(block: Block) -> list[str]:
    """Return the other cells of a block, on at most two lines that end with a count of the rest."""
    cause = f"{block.shown.cause}; " if block.shown.cause else ""
    for most in range(min(len(block.others), 12), 0, -1):
        text = one_line(f"{cause}also breaks: {block.also(most)}")
        lines = _wrapped(text, _INDENT, _INDENT, lines=3)
        if len(lines) < 3:
            return lines
    return [f"{_INDENT}also breaks {plural(len(block.others), 'more cell')}"]


def _not_judged(report: Report) -> list[str]:
    """Return the reasons why cells were not judged, each with its number of cells."""
    if not report.cells:
        return [nothing(report)]
    lines = [] if report.judged else ["No clause was judged, so the run fails."]
    alone = not report.failing
    groups, most = unjudged(report), REASONS[alone]
    for group in groups[:most]:
        start = f"{group.verdict.sign} {group.count} {group.verdict}: "
        lines += _wrapped(one_line(group.reason), start, _INDENT, LINES[alone])
    if len(groups) > most:
        left = sum(group.count for group in groups[most:])
        lines.append(f"… and {left} more not judged; the report lists every reason")
    if absent := report.absent_losses:
        lines.append(_cut(one_line(f"absent: {', '.join(absent)}")))
    return lines


def _wrapped(text: str, first: str, rest: str, lines: int) -> list[str]:
    """Wrap a text into a limited number of lines."""
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
    """Return a command that can be copied, on at most two lines; nothing if it is longer."""
    if "'" in command and len(command) > WIDTH - 6:
        return []  # a line could end within an argument in quotes
    lines = textwrap.wrap(
        command,
        WIDTH - 2,
        initial_indent=f"{_INDENT}$ ",
        subsequent_indent=_INDENT * 2,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if len(lines) > 2 or any(len(line) > WIDTH - 2 for line in lines):
        return []  # an incomplete command would not run
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
