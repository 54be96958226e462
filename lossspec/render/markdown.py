"""The report as Markdown for job summaries and pull requests, with a limited size."""

from collections.abc import Iterable

from lossspec.render.asked import asked_by_loss, reasons_told
from lossspec.render.excused import excused
from lossspec.render.layout import (
    Unjudged,
    columns,
    nothing,
    oracle_text,
    plural,
    ratio,
    rows,
    seed_text,
    threads_text,
    unjudged,
)
from lossspec.report.causes import Block, blocks, other_kinds
from lossspec.report.records import UNKNOWN, Cell, Report
from lossspec.report.verdict import Verdict
from lossspec.safe_text import clip, markdown_code, markdown_line

# GitHub rejects comments of more than 64 kB, and other text needs some room.
BUDGET = 60_000
# The most characters of a line of text, and of a block of code.
_TEXT, _CODE = 600, 2_000
# The most cells listed for one cause.
_NAMES = 20
# The most characters of the clauses listed for one reason.
_WHERE = 300


def summary(report: Report, budget: int = BUDGET) -> str:
    """Return the report as Markdown; sections that do not fit are left out.

    Args:
        report: The report.
        budget: The largest size, in bytes.
    """
    out = _Document(budget)
    out.section(_head(report))
    causes = blocks(report.failing)
    out.items("## Deviations", [_deviation(block) for block in causes], "more that fail")
    out.items("## Not judged", [_why(group) for group in unjudged(report)], "more reasons")
    out.items(
        "## Known deviations",
        [_known(cell) for cell in report.cells if cell.verdict is Verdict.KNOWN],
        "more known",
    )
    out.section(_matrix(report))
    out.items("## Numbers compared", _asked(report), "more lines")
    out.items("## Excused cases", _excused(report), "more reasons")
    out.section(_environment(report))
    return out.text()


class _Document:
    """Blocks of Markdown with a limited total size."""

    def __init__(self, budget: int) -> None:
        self.blocks: list[str] = []
        # Keep room for the last line, which counts the sections that were left out.
        self.room = budget - 100
        self.omitted = 0

    def fits(self, block: str, spare: int = 0) -> bool:
        return _size(block) + spare <= self.room

    def add(self, block: str) -> None:
        self.blocks.append(block)
        self.room -= _size(block)

    def section(self, block: str) -> None:
        if self.fits(block):
            self.add(block)
        else:
            self.omitted += 1

    def items(self, title: str, items: list[str], rest: str) -> None:
        """Add a title, as many of the items as fit, and the number of the others."""
        if not items:
            return
        spare = 60  # for the line that counts the other items
        if not self.fits(f"{title}\n\n{items[0]}", spare):
            self.omitted += 1
            return
        self.add(title)
        for place, item in enumerate(items):
            if not self.fits(item, spare):
                self.add(f"… and {len(items) - place} {rest}")
                return
            self.add(item)

    def text(self) -> str:
        if self.omitted:
            left = plural(self.omitted, "section")
            self.blocks.append(f"… and {left} more in the HTML report")
        return "\n\n".join(self.blocks) + "\n"


def _size(block: str) -> int:
    return len(block.encode("utf-8", "backslashreplace")) + 2


def _head(report: Report) -> str:
    name = f"{report.implementation.name} {report.implementation.version or ''}".rstrip()
    counts = [(verdict, count) for verdict, count in report.counts.items() if count]
    lines = [f"# {_inline(name)}", "", f"**{report.headline}.**", ""]
    lines.append(f"torch {_inline(report.environment.torch)}, profile {report.profile}.")
    if counts:
        lines += ["", "| verdict | clauses |", "|---|--:|"]
        lines += [f"| {verdict.sign} {verdict} | {count} |" for verdict, count in counts]
    elif not report.cells:
        lines += ["", nothing(report)]
    if report.cells and not report.judged:
        lines += ["", "No clause was judged, so the run fails."]
    if report.absent_losses:
        lines += [
            "",
            f"Absent losses, which are not counted: {_inline(', '.join(report.absent_losses))}",
        ]
    return "\n".join(lines)


def _why(group: Unjudged) -> str:
    """Return such as "- ○ 3 unsupported: it takes no weight", with the clauses below it."""
    title = f"- {group.verdict.sign} {group.count} {group.verdict}: {_inline(group.reason)}"
    return f"{title}\n  {_inline(clip(group.where, _WHERE))}"


def _deviation(block: Block) -> str:
    cell = block.shown
    parts = [f"### {cell.verdict.sign} {cell.verdict}: {_inline(cell.id)}", _inline(cell.says)]
    if cell.reason is not None:
        parts.append(f"**{_inline(cell.reason)}**")
    if cell.call is not None:
        parts.append(_code(cell.call, "python"))
    sides = [("got", cell.got), ("want", cell.want), ("budget", cell.budget)]
    texts = [f"{name}: {text}" for name, text in sides if text is not None]
    if texts:
        parts.append(_code("\n".join(texts), "text"))
    if cell.repeat is not None:
        parts.append(_code(cell.repeat, "sh"))
    if block.others:
        cause = f"Cause: {cell.cause}. " if cell.cause else ""
        parts.append(_inline(f"{cause}Also breaks: {block.also(_NAMES)}"))
    for other in other_kinds(cell):
        parts.append(_inline(f"And {other.told()}"))
        if other.call is not None:
            parts.append(_code(other.call, "python"))
    if cell.excused:
        parts.append(_inline(f"{cell.tally}."))
    return "\n\n".join(parts)


def _known(cell: Cell) -> str:
    listed = cell.deviation
    text = _bullet(cell, None if listed and listed.reason == cell.reason else cell.reason)
    if listed is not None:
        text += f"\n  {_inline(listed.reason)}"
        if listed.link is not None:
            text += f" ({_inline(listed.link)})"
    return text


def _bullet(cell: Cell, text: str | None) -> str:
    return f"- {cell.verdict.sign} {_inline(cell.id)}" + (f": {_inline(text)}" if text else "")


def _matrix(report: Report) -> str:
    """Return a table of losses by themes: the worst verdict, and how many cells have it."""
    themes = columns(report.cells)
    lines = [
        "## Losses by themes",
        "",
        _row(["loss", *themes, "worst error ÷ budget"]),
        _row(["---"] * (len(themes) + 2)),
    ]
    for row in rows(report):
        label = f"{row.loss} ({row.surface}, {row.device})"
        cells = [[c for (theme, _), c in row.cells.items() if theme == name] for name in themes]
        worst = [cell.worst for cell in row.cells.values() if cell.worst is not None]
        top = max(worst, key=lambda value: (value != value, value), default=None)
        lines.append(_row([label, *map(_tally, cells), ratio(top)]))
    return "\n".join(lines)


_SEVERITY = (
    Verdict.CRASH,
    Verdict.NOT_RUN,
    Verdict.DEVIATES,
    Verdict.INCONCLUSIVE,
    Verdict.KNOWN,
    Verdict.UNSUPPORTED,
    Verdict.CONFORMS,
    Verdict.NOT_APPLICABLE,
)


def _tally(cells: list[Cell]) -> str:
    """Return such as "✓ 6", or "✗ 1 of 6" if other cells have better verdicts."""
    if not cells:
        return ""
    worst = min((cell.verdict for cell in cells), key=_SEVERITY.index)
    count = sum(cell.verdict is worst for cell in cells)
    return f"{worst.sign} {count}" + (f" of {len(cells)}" if count < len(cells) else "")


def _asked(report: Report) -> list[str]:
    """Return an introduction with the meaning of each reason, and a line for each loss."""
    lines = [f"- {_inline(loss)}: {_inline(text)}" for loss, text in asked_by_loss(report).items()]
    reasons = "\n".join(f"- {word}: {_inline(says)}" for word, says in reasons_told(report))
    note = (
        "The share of the numbers in values and gradients that were compared with an answer known "
        "to within a tenth."
    )
    if not lines:
        return []
    return [note + (f" The others have these reasons:\n\n{reasons}" if reasons else ""), *lines]


def _excused(report: Report) -> list[str]:
    """Return a line for each reason of excused cases."""
    return [
        f"- {_inline(reason.word)}: {plural(reason.cases, 'case')} in "
        f"{plural(reason.cells, 'cell')}" + (f"; {_inline(reason.says)}" if reason.says else "")
        for reason in excused(report)
    ]


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(map(_inline, texts))} |"


def _environment(report: Report) -> str:
    env = report.environment
    facts = [
        f"profile {report.profile}, seed {seed_text(report.seed)}",
        f"command: {env.command}",
        "devices: "
        + ("; ".join(f"{name}: {text}" for name, text in env.devices.items()) or UNKNOWN),
        f"lossspec {env.lossspec}, Python {env.python}, torch {env.torch}, "
        f"numpy {env.numpy}, hypothesis {env.hypothesis}",
        f"{env.platform}, {env.processor}, {threads_text(env)}",
        f"oracle: {oracle_text(env)}",
        f"started {env.started}, commit {env.git_commit or 'unknown'}",
    ]
    return "## Environment\n\n" + "\n".join(f"- {_inline(fact)}" for fact in facts)


def _inline(text: str) -> str:
    return markdown_line(text, _TEXT)


def _code(text: str, language: str) -> str:
    return markdown_code(text, language, _CODE)
