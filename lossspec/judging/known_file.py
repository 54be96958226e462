"""Edit a file of known deviations in place: what is not changed stays byte for byte."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lossspec.errors import DeviationsError
from lossspec.judging.known_deviations import entries_of, read_text
from lossspec.report.files import replace_file

_HEADER = re.compile(r"""\s*\[\[\s*(deviation|"deviation"|'deviation')\s*\]\]\s*(#.*)?""")
_CASE = re.compile(r"""\s*(case|"case"|'case')\s*=""")


def check_writable(path: Path) -> None:
    """Raise DeviationsError unless a file can be replaced: asked before a run that takes long."""
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
    """Replace the text of a file; a link stays one, and the file keeps its permissions.

    DeviationsError if the text is not `before` any more, or the file cannot be written.

    before : the text that was edited; None if there was no file.
    """
    target = path.resolve()
    if (read_text(path) if path.exists() else None) != before:
        raise DeviationsError(f"{path}: was changed while the run was under way; update it again")
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
    """Return the text of a file without some entries and with others; all else stays as it is.

    An entry goes with the comment lines directly above it.

    path : for the messages of errors. dropped : the numbers of the entries that go, from 0.
    signed : by number, a line that an entry gets in front of its case. added : the tables of new
    entries.
    """
    end = "\r\n" if "\r\n" in text else "\n"
    head, blocks = _split(path, text)
    kept = [
        _with_line(block, signed[i] + end) if i in signed else block
        for i, block in enumerate(blocks)
        if i not in dropped
    ]
    whole = head + "".join(kept)
    for table in added:
        gap = "" if not whole else end if whole.endswith("\n") else 2 * end
        whole += gap * (not whole.endswith(2 * end)) + table.replace("\n", end)
    if len(entries_of(path, whole, complete=False)) != len(kept) + len(added):
        raise DeviationsError(f"{path}: cannot be edited in place")
    return whole


def _split(path: Path, text: str) -> tuple[str, list[str]]:
    """What stands before the first entry, and the text of each with the comment above it."""
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if _HEADER.fullmatch(line.strip("\r\n"))]
    tables = tomllib.loads(text).get("deviation", [])
    found: list[int] = []
    for start in starts:
        # A line inside of a text of several lines may look like the start of an entry: then what
        # stands before it is no whole entry.
        if not found or len(_tables("".join(lines[found[-1] : start]))) == 1:
            found.append(start)
    edges = [*found, len(lines)]
    parts = ["".join(lines[a:b]) for a, b in pairwise(edges)]
    if [entry for part in parts for entry in _tables(part)] != tables:
        raise DeviationsError(
            f"{path}: cannot be edited in place; write each entry as a table of its own, below "
            "[[deviation]]"
        )
    for i, start in enumerate(found):
        floor = found[i - 1] + 1 if i else 0
        while start > floor and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        found[i] = start
    edges = [*found, len(lines)]
    blocks = ["".join(lines[a:b]) for a, b in pairwise(edges)]
    return "".join(lines[: edges[0]]), blocks


def _tables(text: str) -> list[Any]:
    """The entries of a part of a file; none if that is no TOML."""
    try:
        return list(tomllib.loads(text).get("deviation", []))
    except ValueError:
        return []


def _with_line(block: str, line: str) -> str:
    """An entry with one more line, in front of its case where that stands on a line of its own."""
    lines = block.splitlines(keepends=True)
    header = next(i for i, text in enumerate(lines) if _HEADER.fullmatch(text.strip("\r\n")))
    places = [i for i, text in enumerate(lines) if i > header and _CASE.match(text)]
    for place in (*places, header + 1):
        whole = "".join([*lines[:place], line, *lines[place:]])
        tables = _tables(whole)
        if tables and "shows" in tables[0]:
            return whole
    raise DeviationsError("an entry cannot be edited in place; write each of its keys on a line")
