"""Editing a file of known deviations in place: unchanged entries keep every byte."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from lossspec.errors import DeviationsError
from lossspec.judging.known_deviations import read_text
from lossspec.report.files import replace_file
from lossspec.safe_text import foreign_error

if TYPE_CHECKING:  # tomlkit is loaded only when a file is edited
    from tomlkit import TOMLDocument
    from tomlkit.items import Item, Key, Table


def check_writable(path: Path) -> None:
    """Check that a file can be replaced, before a long run whose result goes there.

    Raises:
        DeviationsError: The path is a folder, or the file or its folder is read-only.
    """
    target = path.resolve()
    if target.is_dir():
        raise DeviationsError(f"{path}: cannot be written (it is a folder)")
    if target.exists():
        writable = stat.S_IMODE(target.stat().st_mode) & 0o222 and os.access(target, os.W_OK)
        if not writable:
            raise DeviationsError(f"{path}: cannot be written (it is read-only)")
    folder = next(folder for folder in target.parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise DeviationsError(f"{path}: cannot be written (the folder {folder} is read-only)")


def replace(path: Path, before: str | None, text: str) -> None:
    """Replace the text of a file; keep its permissions, and the link if the path is one.

    Args:
        path: The path of the file.
        before: The text that was edited. None if there was no file.
        text: The new text.

    Raises:
        DeviationsError: The file no longer has the text `before`, or it cannot be written.
    """
    target = path.resolve()
    if (read_text(path) if path.exists() else None) != before:
        raise DeviationsError(f"{path}: was changed during the run; run the update again")
    try:
        mode = None if before is None else stat.S_IMODE(target.stat().st_mode)
        replace_file(target, text)
        if mode is not None:
            target.chmod(mode)
    except OSError as error:
        raise DeviationsError(f"{path}: cannot be written ({error.strerror})") from None


def edited(
    path: Path,
    text: str,
    dropped: Collection[int],
    signed: Mapping[int, str],
    added: Sequence[str],
) -> str:
    """Return the text of a file after entries were removed, completed and added.

    The comment lines directly above a removed entry are removed too. All other text is unchanged.

    Args:
        path: The path of the file, for error messages.
        text: The text of the file.
        dropped: The numbers of the entries to remove. The first entry has number 0.
        signed: For each entry to complete, by its number, the line to insert before its `case`.
        added: The text of each new entry.

    Raises:
        DeviationsError: tomlkit cannot edit the file without changing the rest.
    """
    if not (dropped or signed or added):
        return text
    end = "\r\n" if "\r\n" in text else "\n"
    if added and text and not text.endswith("\n"):
        text += end  # the next table must start on a new line
    document = _document(path, text)
    entries = document.get("deviation", [])
    _attach_comments(document, entries)
    for number, line in signed.items():
        _insert_before_case(entries[number], line + end)
    for number in sorted(dropped, reverse=True):
        del entries[number]
    if "deviation" in document and not entries:
        document.remove("deviation")  # tomlkit may write an empty array as `deviation = []`
    for table in added:
        _append(document, table.replace("\n", end), end)
    whole = document.as_string()
    tables = enumerate(tomllib.loads(text).get("deviation", []))
    want = [table | tomllib.loads(signed.get(i, "")) for i, table in tables if i not in dropped]
    want += [entry for table in added for entry in tomllib.loads(table)["deviation"]]
    if tomllib.loads(whole).get("deviation", []) != want:
        raise DeviationsError(
            f"{path}: cannot be edited in place: tomlkit would change other entries too; write the "
            "new entries to another file and copy them from there"
        )
    return whole


def _document(path: Path, text: str) -> TOMLDocument:
    """Parse a file with tomlkit.

    Raises:
        DeviationsError: tomlkit cannot read the file, edit its entries, or write the same text.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError
    from tomlkit.items import AoT

    try:
        document = tomlkit.parse(text)
        again = document.as_string()
    except (TOMLKitError, ValueError, RecursionError) as error:
        raise DeviationsError(
            f"{path}: cannot be edited in place: tomlkit cannot read it ({foreign_error(error)})"
        ) from None
    if not isinstance(document.get("deviation", tomlkit.aot()), AoT):
        raise DeviationsError(
            f"{path}: cannot be edited in place: `deviation` is an inline array; write each entry "
            "as a table that begins with [[deviation]]"
        )
    if again == text:
        return document
    lines = zip_longest(text.split("\n"), again.split("\n"), fillvalue="")
    number, old, new = next((i, a, b) for i, (a, b) in enumerate(lines, 1) if a != b)
    raise DeviationsError(
        f"{path}: cannot be edited in place: tomlkit would write line {number}, {old!r}, as "
        f"{new!r}; change the line to that"
    )


def _attach_comments(document: TOMLDocument, entries: Iterable[Table]) -> None:
    """Move the comment lines directly above each entry into the indent of its header.

    tomlkit attaches a comment to the table above it. Removing an entry would leave its comment, and
    would remove the comment of the next entry. The text of the document does not change.
    """
    import tomlkit
    from tomlkit.items import Comment

    before = document.body
    keys = [key and key.key for key, _ in before]
    end = keys.index("deviation") if "deviation" in keys else 0
    for entry in entries:
        lines = ""
        while end and isinstance(comment := before[end - 1][1], Comment):
            end -= 1
            lines = comment.as_string() + lines
            before[end] = (None, tomlkit.ws(""))  # tomlkit's index needs each item in its place
        entry.trivia.indent = lines + entry.trivia.indent
        before = _last_lines(entry)
        end = len(before)


def _last_lines(table: Table) -> list[tuple[Key | None, Item]]:
    """Return the content of the last table of an entry: the entry itself, or a table inside it."""
    from tomlkit.items import Table

    body = table.value.body
    last = body[-1][1] if body else None
    return _last_lines(last) if isinstance(last, Table) else body


def _insert_before_case(entry: Table, line: str) -> None:
    """Insert a line before the `case` of an entry, which no method of tomlkit does."""
    import tomlkit

    body = entry.value.body
    place = next(i for i, (key, _) in enumerate(body) if key is not None and key.key == "case")
    body[place:place] = tomlkit.parse(line).body


def _append(document: TOMLDocument, table: str, end: str) -> None:
    """Append an entry after a blank line."""
    import tomlkit

    text = document.as_string()
    (entry,) = tomlkit.parse(table)["deviation"]
    entry.trivia.indent = end if text and not text.endswith(2 * end) else ""
    if "deviation" not in document:
        document.append("deviation", tomlkit.aot())
    document["deviation"].append(entry)
