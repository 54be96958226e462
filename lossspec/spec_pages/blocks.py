"""The blocks of a page: each is rendered as Markdown and as lines of a terminal."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from lossspec.spec_pages.formula import plain

INDENT = "  "


@dataclass(frozen=True)
class Prose:
    """A paragraph; in every block, words in backticks are code."""

    words: str

    def markdown(self) -> str:
        """Return the paragraph as GitHub's Markdown."""
        return escaped(self.words)

    def lines(self, width: int) -> list[str]:
        """Return the paragraph as lines of a terminal, at most `width` columns wide."""
        return wrapped(self.words, width, INDENT)


@dataclass(frozen=True)
class Formula:
    """A formula in LaTeX."""

    latex: str

    def markdown(self) -> str:
        """Return the formula as a block of mathematics."""
        # Inside $$ GitHub reads backslashes as Markdown escapes; inside this block it does not.
        return f"```math\n{self.latex}\n```"

    def lines(self, width: int) -> list[str]:
        """Return the formula in Unicode signs, as lines of a terminal."""
        return _verbatim(plain(self.latex), width)


@dataclass(frozen=True)
class Code:
    """Lines of code, printed unchanged."""

    code: str
    language: str = "text"

    def markdown(self) -> str:
        """Return the code as a fenced block."""
        return f"```{self.language}\n{self.code}\n```"

    def lines(self, width: int) -> list[str]:
        """Return the lines, indented if `width` allows."""
        return _verbatim(self.code, width)


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]

    def markdown(self) -> str:
        """Return the items as a Markdown list."""
        return "\n".join(f"- {escaped(item)}" for item in self.items)

    def lines(self, width: int) -> list[str]:
        """Return the items as lines, with the second and later lines of an item indented."""
        return [
            line for item in self.items for line in wrapped(f"- {item}", width, INDENT, INDENT * 2)
        ]


@dataclass(frozen=True)
class Table:
    """Rows under headings; the last column holds sentences."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        rule = f"|{'---|' * len(self.head)}"
        lines = [f"| {' | '.join(map(_cell, row))} |" for row in (self.head, *self.rows)]
        return "\n".join([lines[0], rule, *lines[1:]])

    def lines(self, width: int) -> list[str]:
        """Return the rows in columns, with the last column wrapped."""
        # Names in a column of their own need no backticks.
        rows = [
            (*(c.replace("`", "") for c in row[:-1]), row[-1]) for row in (self.head, *self.rows)
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.head) - 1)]
        lines = []
        for *short, long in rows:
            cells = (c.ljust(w) + INDENT for c, w in zip(short, widths, strict=True))
            left = INDENT + "".join(cells)
            first, *more = wrapped(long, width - len(left)) or [""]
            lines += [left + first, *(" " * len(left) + line for line in more)]
        return [line.rstrip() for line in lines]


Block = Prose | Formula | Code | Bullets | Table


def wrapped(words: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    """Return words wrapped to lines.

    Args:
        words: The text.
        width: The most columns of a line.
        first: The indentation of the first line.
        rest: The indentation of the other lines; `first` by default.
    """
    rest = first if rest is None else rest
    return textwrap.wrap(
        words, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def _verbatim(text: str, width: int) -> list[str]:
    """Return the lines unchanged, indented by up to four columns as far as `width` allows."""
    lines = text.splitlines()
    indent = min(2 * len(INDENT), max(0, width - max(map(len, lines), default=0)))
    return [f"{' ' * indent}{line}".rstrip() for line in lines]


def escaped(words: str) -> str:
    """Return Markdown that shows the words literally; code in backticks and links stay."""
    parts = re.split(r"(`[^`]*`|https?://[^\s;,]+|\[[^]]*\]\([^)]*\))", " ".join(words.split()))
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"[*<\\]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", part)
        elif part.startswith("http"):
            parts[i] = f"<{part}>"
    return "".join(parts)


def _cell(words: str) -> str:
    return escaped(words).replace("|", r"\|")
