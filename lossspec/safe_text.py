r"""Foreign text, made safe to print in a terminal, Markdown, HTML, JSON or Python.

Messages, names, versions and reprs of an implementation may contain characters that control a
terminal, reverse the direction of a line, or end a table cell. Every renderer passes them through
one of these functions. A character that is not printable becomes its Python escape, such as `\x1b`.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

#: The most characters of a foreign error message in our text: about two lines of a terminal.
MESSAGE = 200


def escaped(text: str, keep: str = "") -> str:
    """Return the text with an escape for each character that is neither printable nor in `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char in keep or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Return the text on one line: white space becomes one space, unprintable text is escaped."""
    return escaped(" ".join(text.split()))


def block(text: str) -> str:
    """Return the text with its own lines and tabs; other unprintable characters are escaped."""
    return escaped(text.replace("\r\n", "\n"), keep="\n\t")


def clip(text: str, limit: int) -> str:
    """Return the text, or its first `limit` characters and the number of those left out."""
    if len(text) <= limit:
        return text
    left = len(text) - limit
    return f"{text[:limit]} … ({left} more character{'' if left == 1 else 's'})"


def markdown_line(text: str, limit: int) -> str:
    """Return one line of GitHub's Markdown that shows the text without mark-up or mentions."""
    plain = html.escape(clip(one_line(text), limit), quote=False)
    # An underscore inside a word needs no backslash, since Markdown does not read it as mark-up.
    plain = re.sub(r"([\\`*\[\]|~#]|\b_|_\b)", r"\\\1", plain)
    return plain.replace("@", "@<!-- -->")


def markdown_code(text: str, language: str, limit: int) -> str:
    """Return a fenced code block of Markdown with at most `limit` characters of the text."""
    text = block(clip(text, limit))
    # A fence must be longer than any run of backticks inside it.
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def html_text(value: Any) -> Any:
    """Return the text of a template's expression, escaped as by `block`.

    Jinja calls this for every expression, and escapes `&` and `<` itself. Mark-up from macros of
    the template, and values other than text, are returned unchanged.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return block(value)


def json_text(text: str) -> str:
    """Return the same JSON data, with JSON's escape for each character that is not printable.

    JSON itself escapes only the characters below U+0020.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text
    )


def docstring(text: str) -> str:
    """Return the text, escaped for the triple quotes of a Python docstring."""
    return block(text).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def quoted(text: str, limit: int = MESSAGE) -> str:
    """Return a foreign message as a quotation, on one line."""
    return f"“{clip(one_line(text), limit)}”"


def foreign_error(error: BaseException, limit: int = MESSAGE) -> str:
    """Return a foreign error as its type and its message in quotation marks.

    Our own messages contain foreign ones in this form only.
    """
    kind = one_line(type(error).__name__)
    try:
        message = str(error).strip()
    except Exception as second:
        return f"{kind} (its message cannot be read: {one_line(type(second).__name__)})"
    return f"{kind}: {quoted(message, limit)}" if message else kind
