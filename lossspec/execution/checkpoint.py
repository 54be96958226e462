"""Crash checkpoint: what a campaign does next, on disk, for the process that takes over.

The process that takes over leaves out what has ended its predecessor, and shows the call.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: In place of the number of a case: the process had made calls that may have damaged it before.
SUSPECT = -3
#: Bytes of a line: the number of the case, and the clause or whatever else comes next.
_WIDTH = 64
#: Bytes in front of a call: how many bytes it takes.
_LENGTH = 8


@dataclass(frozen=True)
class Underway:
    """A call that was under way: its case, and the arguments that were replaced in it."""

    case: Any
    replaced: Mapping[str, Any] = field(default_factory=dict)


def crashes(directory: Path | None, campaign: str) -> list[tuple[int, str]]:
    """The cases and steps in which a campaign that no process runs has ended one, if it told."""
    if directory is None or not (path := _path(directory, campaign)).exists():
        return []
    return _read(path.read_text())


def fatal_call(directory: Path | None, campaign: str, death: int) -> Underway | None:
    """The call that was under way in one of the deaths of a campaign, if it was noted."""
    if directory is None:
        return None
    try:
        data = _of_call(_path(directory, campaign), death).read_bytes()
        length = int.from_bytes(data[:_LENGTH], "big")
        found = pickle.loads(data[_LENGTH : _LENGTH + length]) if length else None
    except Exception:  # what cannot be read back is not shown
        return None
    return found if isinstance(found, Underway) else None


def _read(text: str) -> list[tuple[int, str]]:
    return [(int(case), step) for case, step in (line.split() for line in text.splitlines())]


def _path(directory: Path, campaign: str) -> Path:
    return directory / hashlib.sha256(campaign.encode()).hexdigest()[:32]


def _of_call(path: Path, death: int) -> Path:
    return path.with_name(f"{path.name}-{death}")


#: Whether a campaign of this process has made calls that may have damaged its memory.
_process = {"suspect": False}
#: The checkpoint of the campaign that runs, if it has one.
_current: list[CrashCheckpoint] = []


class CrashCheckpoint:
    """What a campaign does next, and in what its earlier processes ended.

    A file of lines, a death each; the last one is overwritten while the campaign runs, and is gone
    when it ends well. Beside it lies a file for each process with the call that it made last.
    """

    def __init__(self, directory: Path, campaign: str) -> None:
        path = _path(directory, campaign)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self.deaths = _read(os.pread(self._file, os.fstat(self._file).st_size, 0).decode())
        self.calls = [fatal_call(directory, campaign, i) for i in range(len(self.deaths))]
        name = _of_call(path, len(self.deaths))
        self._call = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._blamed = False
        self._suspect = _process["suspect"]

    def enter(self, case: int, step: str) -> bool:
        """Note the next step with a case; False where that has ended a process.

        A process that an earlier campaign may have damaged is not held against the step.
        """
        if (case, step) in self.deaths:
            return False
        if not self._blamed:
            line = f"{SUSPECT if self._suspect else case} {step}".ljust(_WIDTH - 1) + "\n"
            os.pwrite(self._file, line.encode(), _WIDTH * len(self.deaths))
        return True

    def note(self, call: Underway) -> None:
        """Note the call that comes next."""
        if self._blamed:
            return
        try:
            data = pickle.dumps(call)
        except Exception:  # such as an argument of a local class: the step is known all the same
            data = b""
        os.pwrite(self._call, len(data).to_bytes(_LENGTH, "big") + data, 0)

    def endanger(self) -> None:
        """From now on calls are made that may damage the process, also for later campaigns."""
        _process["suspect"] = True

    def blame(self, case: int, step: str, call: Underway) -> None:
        """Hold the end of this process, whenever it comes, against a step and its call."""
        if not self._blamed and self.enter(case, step):
            self.note(call)
            self._blamed = True

    def leave(self) -> None:
        """The campaign is over, and its process lives; one that is blamed may still end it."""
        if not self._blamed:
            os.ftruncate(self._file, _WIDTH * len(self.deaths))
        os.close(self._file)
        os.close(self._call)


@contextmanager
def noting(checkpoint: CrashCheckpoint | None) -> Iterator[None]:
    """Note the calls that are made meanwhile, if there is a checkpoint."""
    if checkpoint is None:
        yield
        return
    _current.append(checkpoint)
    try:
        yield
    finally:
        _current.remove(checkpoint)


def under_way(case: Any, replaced: Mapping[str, Any] | None = None) -> None:
    """Note that a call comes next, where a campaign with a checkpoint runs."""
    if _current:
        _current[-1].note(Underway(case, dict(replaced or {})))
