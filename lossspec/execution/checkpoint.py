"""Crash checkpoint: the record on disk of the call that a campaign makes next.

If the process dies, its replacement reads the record, skips that step and reports the call.
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

#: Recorded instead of the case number if earlier calls may have damaged the process.
SUSPECT = -3
#: Bytes of a line, which holds the case number and the next step, such as a clause.
_WIDTH = 64
#: Bytes of the length that precedes a pickled call.
_LENGTH = 8


@dataclass(frozen=True)
class Underway:
    """A call that was running when its process died.

    Attributes:
        case: The case of the call.
        replaced: The arguments that were passed instead of the case's own.
    """

    case: Any
    replaced: Mapping[str, Any] = field(default_factory=dict)


def crashes(directory: Path | None, campaign: str) -> list[tuple[int, str]]:
    """Return the cases and steps that ended a process of a campaign which no process runs now.

    Args:
        directory: The folder of the checkpoints, or None if there is none.
        campaign: The name of the campaign.

    Returns:
        The case number and the step of each death; empty if none was recorded.
    """
    if directory is None or not (path := _path(directory, campaign)).exists():
        return []
    return _read(path.read_text())


def fatal_call(directory: Path | None, campaign: str, death: int) -> Underway | None:
    """Return the call that was running in one of the deaths of a campaign, if it was recorded.

    Args:
        directory: The folder of the checkpoints, or None if there is none.
        campaign: The name of the campaign.
        death: The position of the death, counted from 0.
    """
    if directory is None:
        return None
    try:
        data = _of_call(_path(directory, campaign), death).read_bytes()
        length = int.from_bytes(data[:_LENGTH], "big")
        found = pickle.loads(data[_LENGTH : _LENGTH + length]) if length else None
    except Exception:  # a damaged record must not fail the report
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
#: The checkpoint of the running campaign, if it has one.
_current: list[CrashCheckpoint] = []


class CrashCheckpoint:
    """The next step of a campaign, and the steps in which its earlier processes died.

    A file holds one line for each death. The last line is overwritten while the campaign runs, and
    removed when the campaign ends well. Another file for each process holds its latest call.

    Attributes:
        deaths: The case number and the step of each death.
        calls: The call of each death; None if it was not recorded.
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
        """Record the next step, and return whether it may be taken.

        A step is not blamed for the death of a process that an earlier campaign may have damaged.

        Args:
            case: The number of the case.
            step: The clause or other step.

        Returns:
            False if this step with this case has ended a process before.
        """
        if (case, step) in self.deaths:
            return False
        if not self._blamed:
            line = f"{SUSPECT if self._suspect else case} {step}".ljust(_WIDTH - 1) + "\n"
            os.pwrite(self._file, line.encode(), _WIDTH * len(self.deaths))
        return True

    def note(self, call: Underway) -> None:
        """Record the call that comes next."""
        if self._blamed:
            return
        try:
            data = pickle.dumps(call)
        except Exception:  # an argument of a local class cannot be pickled; record only the step
            data = b""
        os.pwrite(self._call, len(data).to_bytes(_LENGTH, "big") + data, 0)

    def endanger(self) -> None:
        """Record that the calls from now on may damage the process, for later campaigns too."""
        _process["suspect"] = True

    def blame(self, case: int, step: str, call: Underway) -> None:
        """Blame a step and its call for the death of this process, whenever it happens.

        Args:
            case: The number of the case.
            step: The clause or other step.
            call: The call of that step.
        """
        if not self._blamed and self.enter(case, step):
            self.note(call)
            self._blamed = True

    def leave(self) -> None:
        """Close the checkpoint at the end of the campaign; keep the line of a blamed step."""
        if not self._blamed:
            os.ftruncate(self._file, _WIDTH * len(self.deaths))
        os.close(self._file)
        os.close(self._call)


@contextmanager
def noting(checkpoint: CrashCheckpoint | None) -> Iterator[None]:
    """Record the calls that are made in this context, if there is a checkpoint."""
    if checkpoint is None:
        yield
        return
    _current.append(checkpoint)
    try:
        yield
    finally:
        _current.remove(checkpoint)


def under_way(case: Any, replaced: Mapping[str, Any] | None = None) -> None:
    """Record the next call, if a campaign with a checkpoint is running.

    Args:
        case: The case of the call.
        replaced: The arguments that are passed instead of the case's own.
    """
    if _current:
        _current[-1].note(Underway(case, dict(replaced or {})))
