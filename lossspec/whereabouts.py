"""Where a campaign is, on disk: what ends its process is known to the one that takes over."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

#: So often one campaign may end its process; what else it would have told is given up then.
DEATHS = 5
#: Bytes of a line: the number of the case, and the clause or whatever else comes next.
_WIDTH = 64


def deaths(directory: Path | None, campaign: str) -> list[tuple[int, str]]:
    """The cases and steps in which a campaign that no process runs has ended one, if it told."""
    if directory is None or not (path := _path(directory, campaign)).exists():
        return []
    return _read(path.read_text())


def _read(text: str) -> list[tuple[int, str]]:
    return [(int(case), step) for case, step in (line.split() for line in text.splitlines())]


def _path(directory: Path, campaign: str) -> Path:
    return directory / hashlib.sha256(campaign.encode()).hexdigest()[:32]


class Whereabouts:
    """What a campaign does next, and in what its earlier processes ended.

    A file of lines, a death each; the last one is overwritten while the campaign runs, and is gone
    when it ends well.
    """

    def __init__(self, directory: Path, campaign: str) -> None:
        self._file = os.open(_path(directory, campaign), os.O_RDWR | os.O_CREAT)
        self.deaths = _read(os.pread(self._file, _WIDTH * (DEATHS + 1), 0).decode())

    def enter(self, case: int, step: str) -> bool:
        """Note the next step with a case; False where that has ended a process."""
        if (case, step) in self.deaths:
            return False
        line = f"{case} {step}".ljust(_WIDTH - 1) + "\n"
        os.pwrite(self._file, line.encode(), _WIDTH * len(self.deaths))
        return True

    def leave(self) -> None:
        """The campaign is over, and its process lives."""
        os.ftruncate(self._file, _WIDTH * len(self.deaths))
        os.close(self._file)
