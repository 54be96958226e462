"""The folders below --reports: one for each implementation, made from its name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lossspec.errors import ArgumentError

#: The longest name of a folder, in bytes: file systems allow 255, but limit whole paths as well.
LONGEST = 120
#: The line of an artifact that names its implementation; it is among the first lines.
_OWNER = re.compile(r'^"implementation": (\{.*\}),$', re.M)


def folders(names: Sequence[str]) -> dict[str, str]:
    """Return a folder for each name, so that no two are the same on any file system.

    Colons and slashes become dots, and leading dots are removed. Eight digits of a hash are added
    to a name with other unusual characters, and to a name whose folder another name has too. A
    name that equals its folder needs no digits.
    """
    plain = {name: _plain(name) for name in dict.fromkeys(names)}
    shared = Counter(map(_folded, plain.values()))
    exact = Counter(_folded(name) for name, folder in plain.items() if name == folder)
    made = {}
    for name, folder in plain.items():
        key = _folded(folder)
        alone = shared[key] == 1 or (name == folder and exact[key] == 1)
        own = alone and folder == _dotted(name)
        made[name] = folder if own else f"{folder}-{_digits(name)}"
    return made


def directory(reports: str, start: Path, names: Sequence[str]) -> Path:
    """Return the directory that --reports names.

    Args:
        reports: The value of --reports.
        start: The directory that a relative path starts from.
        names: The names of the implementations.

    Raises:
        ArgumentError: The value is no directory, the directory is not writable, or the folder of
            an implementation holds the report of another one.
    """
    if not reports.strip() or "\0" in reports:
        raise ArgumentError(f"--reports takes a directory, got {reports!r}")
    path = start / reports
    try:
        present = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        raise ArgumentError(f"--reports {reports}: {error.strerror}") from None
    if not present.is_dir():
        raise ArgumentError(f"--reports takes a directory, but {present} is a file")
    if not os.access(present, os.W_OK):
        raise ArgumentError(
            f"--reports {reports}: {present} is not writable; choose another directory"
        )
    for name, folder in folders(names).items():
        other = _owner(path / folder)
        if other is not None and os.path.normpath(other) != os.path.normpath(name):
            raise ArgumentError(
                f"--reports {reports}: its folder {folder} holds the report of {other}; choose "
                f"another directory for {name}, or remove that report"
            )
    return path


def _owner(folder: Path) -> str | None:
    """Return the implementation whose report is in a folder; None if no report can be read."""
    for artifact in ("conformance.json", "timing.json"):
        try:
            with (folder / artifact).open(encoding="utf-8", errors="replace") as file:
                found = _OWNER.search(file.read(10_000))
            name = json.loads(found[1])["name"] if found else None
        except (OSError, ValueError, KeyError):
            continue
        if isinstance(name, str):
            return name
    return None


def _dotted(name: str) -> str:
    """Return the name with a dot for each colon and slash, and without dots at its ends."""
    return re.sub(r"[:/]", ".", name).strip(".")


def _plain(name: str) -> str:
    """Return a valid file name that resembles the name."""
    kept = re.sub(r"[^\w.+-]+", "-", _dotted(name)).strip(".-")
    while len(kept.encode("utf-8", "replace")) > LONGEST:
        kept = kept[:-1]
    return kept or "implementation"


def _folded(folder: str) -> str:
    """Return a key that is equal for folders that some file system considers equal."""
    return unicodedata.normalize("NFKC", folder).casefold()


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
