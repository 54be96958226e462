"""The folders below --reports: one for each implementation, whatever it is called."""

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

#: File systems hold names of 255 bytes; a folder also is a part of longer paths.
LONGEST = 120
#: The artifact names its implementation in one of its first lines.
_OWNER = re.compile(r'^"implementation": (\{.*\}),$', re.M)


def folders(names: Sequence[str]) -> dict[str, str]:
    """The folder of each name, no two alike on any file system.

    A colon or a slash becomes a dot, and leading dots go. A name that another one shares its
    folder with, or that has other characters than a file name should, gets eight digits of its
    own; the one that is spelled like its folder needs none.
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
    """The directory that --reports names; ArgumentError when the reports cannot go there."""
    if not reports.strip() or "\0" in reports:
        raise ArgumentError(f"--reports takes a directory, got {reports!r}")
    path = start / reports
    try:
        present = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        raise ArgumentError(f"--reports {reports}: {error.strerror}") from None
    if not present.is_dir():
        raise ArgumentError(f"--reports takes a directory, and {present} is a file")
    if not os.access(present, os.W_OK):
        raise ArgumentError(f"--reports {reports}: {present} cannot be written to")
    for name, folder in folders(names).items():
        other = _owner(path / folder)
        if other is not None and os.path.normpath(other) != os.path.normpath(name):
            raise ArgumentError(
                f"--reports {reports}: {folder} in it holds the report of {other}; choose another "
                f"directory for {name}, or remove that report"
            )
    return path


def _owner(folder: Path) -> str | None:
    """The implementation whose report lies in a folder; None where none can be read."""
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
    """The name with a dot for each colon and slash, but none at its ends."""
    return re.sub(r"[:/]", ".", name).strip(".")


def _plain(name: str) -> str:
    """A file name in which the name can be read."""
    kept = re.sub(r"[^\w.+-]+", "-", _dotted(name)).strip(".-")
    while len(kept.encode("utf-8", "replace")) > LONGEST:
        kept = kept[:-1]
    return kept or "implementation"


def _folded(folder: str) -> str:
    """The same for all names that some file system takes for the same."""
    return unicodedata.normalize("NFKC", folder).casefold()


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
