"""The progress of a run: counts and the remaining time, as one line of text."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: The remaining time is estimated only after this share of the work, and after so many seconds.
ENOUGH, SOON = 0.02, 3.0
#: The time between two reads of the workers' progress files, in seconds.
LOOK = 0.5
#: The beginning of the name of each worker's progress file.
PREFIX = "progress-"


@dataclass(frozen=True)
class Share:
    """The share of one campaign in a run.

    Attributes:
        loss: The name of the loss.
        cells: The number of its cells.
        work: The expected work, on a scale that is the same for all campaigns.
    """

    loss: str
    cells: int
    work: float


class Tally:
    """A count of the judged cells and cases, with an estimate of the remaining time."""

    def __init__(self) -> None:
        self._campaigns: Mapping[str, Share] = {}
        self._judged: Counter[str] = Counter()
        self._deviate: Counter[str] = Counter()
        self._under_way: dict[str, tuple[float, int]] = {}

    def expect(self, campaigns: Mapping[str, Share]) -> None:
        """Set the planned campaigns, each under its name."""
        self._campaigns = campaigns

    @property
    def begun(self) -> bool:
        """Whether any progress or verdict has arrived."""
        return bool(self._under_way or self._judged)

    def advance(self, campaign: str, done: int, total: int, found: int) -> None:
        """Record the progress of a campaign.

        Args:
            campaign: The name of the campaign.
            done: The number of cases judged.
            total: The number of cases to judge.
            found: The number of clauses that deviate so far.
        """
        if campaign in self._campaigns and not self._judged[campaign]:
            self._under_way[campaign] = (done / total if total else 0.0, found)

    def judged(self, campaign: str, deviates: bool) -> None:
        """Count one cell of a campaign as judged."""
        if campaign in self._campaigns:
            self._under_way.pop(campaign, None)
            self._judged[campaign] += 1
            self._deviate[campaign] += deviates

    def text(self, seconds: float) -> str:
        """Return the progress of the run as text.

        Args:
            seconds: The time since the first campaign began, in seconds.
        """
        shares = self._campaigns
        losses = sum(self._judged[name] >= share.cells for name, share in shares.items())
        cells, found = self._judged.total(), self._deviate.total()
        found += sum(deviations for _, deviations in self._under_way.values())
        parts = [
            f"{losses} of {len(shares)} {'loss' if len(shares) == 1 else 'losses'}",
            f"{cells} of {sum(share.cells for share in shares.values())} cells",
            f"{found} {'deviation' if found == 1 else 'deviations'}",
        ]
        part = self._part()
        if part >= ENOUGH and seconds >= SOON:
            parts.append(f"about {duration(seconds * (1 - part) / part)} left")
        now = [f"{shares[name].loss} {part:.0%}" for name, (part, _) in self._under_way.items()]
        return ", ".join(parts) + (f": {', '.join(now)}" if now else "")

    def _part(self) -> float:
        """Return the share of all work that is done, from 0 to 1."""
        done = 0.0
        for name, share in self._campaigns.items():
            part, _ = self._under_way.get(name, (bool(self._judged[name]), 0))
            done += share.work * part
        return done / (sum(share.work for share in self._campaigns.values()) or 1.0)


def duration(seconds: float) -> str:
    """Return a duration as text, rounded, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


class Notes:
    """The progress file of a worker, which the pytest-xdist controller reads and shows."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._path = directory / f"{PREFIX}{worker}"
        self._written = 0.0

    def advance(self, campaign: str, done: int, total: int, found: int) -> None:
        """Write the progress of a campaign, unless the last write was a moment ago.

        Args:
            campaign: The name of the campaign.
            done: The number of cases judged.
            total: The number of cases to judge.
            found: The number of clauses that deviate so far.
        """
        if time.monotonic() - self._written < LOOK / 2:
            return
        self._written = time.monotonic()
        part = self._path.with_name(f".{self._path.name}")
        part.write_text(json.dumps([campaign, done, total, found]))
        part.replace(self._path)


def notes(directory: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield the last progress that each worker wrote, the most recent one last.

    Args:
        directory: The folder of the progress files.

    Yields:
        The name of the campaign, the numbers of cases judged and of cases to judge, and the number
        of clauses that deviate.
    """
    files = []
    for path in directory.glob(f"{PREFIX}*"):
        try:
            files.append((path.stat().st_mtime_ns, path.read_text()))
        except OSError:  # the files are removed when the run ends
            continue
    for _, text in sorted(files):
        campaign, done, total, found = json.loads(text)
        yield campaign, done, total, found


class Line:
    """A line of a terminal whose text is replaced again and again."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the text of the line; cut the new text to the width of the terminal."""
        try:
            columns = os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            columns = 80
        text = "".join(char if char.isprintable() else " " for char in text)
        text = text if len(text) < columns else f"{text[: columns - 2]}…"
        if text != self._shown:
            self._write(f"\r{text}\x1b[K")
            self._shown = text

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        try:
            os.write(self._descriptor, text.encode("utf-8", "replace"))
        except OSError:  # the terminal was closed, which must not end the run
            self._shown = ""


def watched(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Return whether a file descriptor is an interactive terminal that can replace a line."""
    unattended = environment.get("CI", "").lower() not in ("", "0", "false")
    return os.isatty(descriptor) and environment.get("TERM") != "dumb" and not unattended
