"""Text from outside, made safe to print in a terminal, Markdown, HTML, JSON or Python.

Error messages, names, versions and reprs of an implementation may hold characters that steer a
terminal, reverse the direction of a line, or end a table cell. Every renderer passes them through
one of these functions. A character that cannot be printed becomes its Python escape, such as
`\\x1b`.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

#: Characters of an error message in a sentence of ours: about two lines of a terminal.
MESSAGE = 200


def escaped(text: str, keep: str = "") -> str:
    """Return the text with an escape for each character that is not printable or in `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char in keep or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Return the text on one line: a run of white space is one space, the rest is escaped."""
    return escaped(" ".join(text.split()))


def block(text: str) -> str:
    """Return the text in its own lines, with everything but ends of lines and tabs escaped."""
    return escaped(text.replace("\r\n", "\n"), keep="\n\t")


def clip(text: str, limit: int) -> str:
    """Return the text, or its beginning and the number of characters that were left out."""
    if len(text) <= limit:
        return text
    left = len(text) - limit
    return f"{text[:limit]} … ({left} more character{'' if left == 1 else 's'})"


def markdown_line(text: str, limit: int) -> str:
    """Return one line of GitHub's Markdown that shows the text: no mark-up, HTML or mention."""
    plain = html.escape(clip(one_line(text), limit), quote=False)
    # An underscore inside a word is no mark-up, and names read better without the backslash.
    plain = re.sub(r"([\\`*\[\]|~#]|\b_|_\b)", r"\\\1", plain)
    return plain.replace("@", "@<!-- -->")


def markdown_code(text: str, language: str, limit: int) -> str:
    """Return a fenced block of Markdown that holds the text."""
    text = block(clip(text, limit))
    # A fence must be longer than any run of backticks inside it.
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def html_text(value: Any) -> Any:
    """Return what a template prints, escaped as `block` does; `&` and `<` are left to autoescape.

    Jinja calls this for every expression of a template. Mark-up of the template's own macros, and
    values other than text, pass unchanged.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return block(value)


def json_text(text: str) -> str:
    """Return the same JSON data, with JSON's escape for each character that is not printable.

    JSON itself escapes no more than the characters below U+0020.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text
    )


def docstring(text: str) -> str:
    """Return the text as it may stand between the triple quotes of a Python docstring."""
    return block(text).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def quoted(text: str, limit: int = MESSAGE) -> str:
    """Return a foreign message as a quotation, on one line."""
    return f"“{clip(one_line(text), limit)}”"


def foreign_error(error: BaseException, limit: int = MESSAGE) -> str:
    """Return an error that is not ours as its type and its message in quotation marks.

    Sentences of ours hold a foreign message in no other form.
    """
    kind = one_line(type(error).__name__)
    try:
        message = str(error).strip()
    except Exception as second:
        return f"{kind} (its message cannot be read: {one_line(type(second).__name__)})"
    return f"{kind}: {quoted(message, limit)}" if message else kind
