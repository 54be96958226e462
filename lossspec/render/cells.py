"""The list of records that `lossspec.check` returns, shown as a summary or as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, SupportsIndex, overload

from lossspec.render.layout import ratio
from lossspec.report.causes import Block, blocks, unlike
from lossspec.report.records import Cell
from lossspec.report.verdict import Verdict
from lossspec.safe_text import clip, escaped, one_line

#: The largest width of a line, and the largest number of lines of a `repr`.
WIDTH, LINES = 100, 20
#: The order in which verdicts are shown: failures first.
_ORDER = (
    Verdict.CRASH,
    Verdict.DEVIATES,
    Verdict.NOT_RUN,
    Verdict.INCONCLUSIVE,
    Verdict.KNOWN,
    Verdict.UNSUPPORTED,
    Verdict.NOT_APPLICABLE,
    Verdict.CONFORMS,
)
_VERBS = {Verdict.DEVIATES: ("deviates", "deviate"), Verdict.CRASH: ("crashes", "crash")}
_COLOURS = {Verdict.CRASH: "#c62828", Verdict.DEVIATES: "#c62828", Verdict.CONFORMS: "#2e7d32"}
_CELL = "text-align:left;vertical-align:top"


class Cells(list[Cell]):
    """A list of cells whose `repr` is a summary, and which a notebook shows as a table."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> Cells: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Cell | Cells:
        """Return one cell, or the cells of a slice."""
        found = super().__getitem__(index)
        return Cells(found) if isinstance(found, list) else found

    @property
    def headline(self) -> str:
        """The counts, such as "mse_loss (function, cpu): 39 of 41 clauses conform, 2 deviate"."""
        if not self:
            return "no clause was judged"
        about = dict.fromkeys(f"{cell.loss} ({cell.surface}, {cell.device})" for cell in self)
        counts = {verdict: sum(cell.verdict is verdict for cell in self) for verdict in _ORDER}
        conform, apart = counts.pop(Verdict.CONFORMS), counts.pop(Verdict.NOT_APPLICABLE)
        words = [f"{conform} of {len(self) - apart} clauses conform"]
        for verdict, count in counts.items():
            if count:
                one, many = _VERBS.get(verdict, (verdict.replace("-", " "),) * 2)
                words.append(f"{count} {one if count == 1 else many}")
        return f"{', '.join(about)}: {', '.join(words)}"

    def __repr__(self) -> str:
        lines = [self.headline]
        for verdict, text, names in self._groups():
            head = f"  {verdict.sign} {verdict}: {_names(names)}"
            whole = f"{head}: {text}" if text else head
            lines += [whole] if len(whole) <= WIDTH else [head, _cut(f"      {text}")]
        if len(lines) > LINES:
            lines[LINES - 1 :] = [f"  … and {len(lines) - LINES + 1} more lines"]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the summary in IPython, which would print a list element by element."""
        printer.text("..." if cycle else repr(self))

    def _groups(self) -> Iterator[tuple[Verdict, str, list[str]]]:
        """Yield the clauses that do not conform, grouped by cause or by reason, with a text."""
        for block in _blocks(self):
            cell, cause = block.shown, block.shown.cause if block.others else None
            text = f"{cause}; {found(cell)}" if cause else found(cell)
            yield cell.verdict, one_line(text), [cell.clause, *map(block.label, block.others)]
        groups: dict[tuple[Verdict, str], list[str]] = {}
        for cell in sorted(self, key=_place):
            if cell.verdict is not Verdict.CONFORMS and not cell.verdict.fails:
                groups.setdefault((cell.verdict, found(cell)), []).append(cell.clause)
        for (verdict, text), names in groups.items():
            yield verdict, text, names

    def _repr_html_(self) -> str:
        """Return a table with a row for each cause of deviations and for each other clause."""
        heads = "".join(
            f'<th style="{_CELL}"{title}>{name}</th>'
            for name, title in (
                ("clause", ""),
                ("verdict", ""),
                ("finding", ""),
                ("worst", ' title="the largest error divided by its budget"'),
            )
        )
        others = [Block(cell) for cell in sorted(self, key=_place) if not cell.verdict.fails]
        rows = "".join(map(_row, (*_blocks(self), *others)))
        return (
            f"<table><caption>{escape(self.headline)}</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )


def found(cell: Cell) -> str:
    """Return the finding of a clause on one line: its numbers, or why it does not conform."""
    if cell.verdict is Verdict.CONFORMS:
        return cell.tally
    words = [cell.reason or ""]
    if cell.got is not None:
        words.append(f"got {cell.got}")
    if cell.want is not None:
        words.append(f"want {cell.want}")
    return one_line("; ".join(word for word in words if word))


def _place(cell: Cell) -> int:
    return _ORDER.index(cell.verdict)


def _blocks(cells: Iterable[Cell]) -> list[Block]:
    """Return the failing cells by cause, in the order of their verdicts."""
    return sorted(blocks(cells), key=lambda block: _place(block.shown))


def _names(names: Iterable[str]) -> str:
    """Return the first three names, with the number of the others."""
    first, more = list(names)[:3], len(list(names)) - 3
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _row(block: Block) -> str:
    """Return a row of the table; a failing clause has its sentence and its call."""
    cell = block.shown
    clause, what = f"<code>{_text(cell.clause)}</code>", _text(clip(found(cell), 300))
    if cell.verdict.fails:
        clause += f"<br><small>{_text(cell.says)}</small>"
        if cell.examples and cell.excused:
            what += f"<br><small>{_text(cell.tally)}</small>"
    for other in unlike(cell):
        what += f"<br>{_text(clip(one_line(f'and {other.told()}'), 300))}"
    if block.others:
        cause = f"{cell.cause}; " if cell.cause else ""
        what += f"<br>{_text(one_line(f'{cause}also breaks: {block.also(40)}'))}"
    if cell.call:
        call = "\n".join(map(_text, clip(cell.call, 2000).splitlines()))
        what += (
            f'<details><summary>call</summary><pre style="text-align:left">{call}</pre></details>'
        )
    colour = f";color:{_COLOURS[cell.verdict]}" if cell.verdict in _COLOURS else ""
    verdict = f"{cell.verdict.sign} {cell.verdict}"
    return (
        f'<tr title="{_text(cell.says)}"><td style="{_CELL}">{clause}</td>'
        f'<td style="{_CELL};white-space:nowrap{colour}">{verdict}</td>'
        f'<td style="{_CELL}">{what}</td>'
        f'<td style="{_CELL}">{ratio(cell.worst)}</td></tr>'
    )


def _text(text: str) -> str:
    """Return text for a page, with control characters escaped and spaces kept."""
    return escape(escaped(text))
