"""How far a run is: the counts and the time left, as one line of text."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: No time left is told from a smaller part of the work, nor sooner than so many seconds.
ENOUGH, SOON = 0.02, 3.0
#: Seconds between two looks at what workers have written.
LOOK = 0.5
#: A file in which a worker says how far it is: its name begins so.
PREFIX = "progress-"


@dataclass(frozen=True)
class Share:
    """What a campaign is of a run: its loss, its cells, and how much work it is beside others."""

    loss: str
    cells: int
    work: float


class Tally:
    """Counts what a run has judged and estimates how long the rest takes."""

    def __init__(self) -> None:
        self._campaigns: Mapping[str, Share] = {}
        self._judged: Counter[str] = Counter()
        self._deviate: Counter[str] = Counter()
        self._under_way: dict[str, tuple[float, int]] = {}

    def expect(self, campaigns: Mapping[str, Share]) -> None:
        """Take note of what is planned."""
        self._campaigns = campaigns

    @property
    def begun(self) -> bool:
        """Whether anything was told of yet."""
        return bool(self._under_way or self._judged)

    def advance(self, campaign: str, done: int, total: int, found: int) -> None:
        """Note the cases that a campaign has judged of all, and its deviations."""
        if campaign in self._campaigns and not self._judged[campaign]:
            self._under_way[campaign] = (done / total if total else 0.0, found)

    def judged(self, campaign: str, deviates: bool) -> None:
        """Note that the verdict on one cell of a campaign has arrived."""
        if campaign in self._campaigns:
            self._under_way.pop(campaign, None)
            self._judged[campaign] += 1
            self._deviate[campaign] += deviates

    def text(self, seconds: float) -> str:
        """Say how far the run is, so many seconds after its first campaign began."""
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
        """Return the part of all work that is done."""
        done = 0.0
        for name, share in self._campaigns.items():
            part, _ = self._under_way.get(name, (bool(self._judged[name]), 0))
            done += share.work * part
        return done / (sum(share.work for share in self._campaigns.values()) or 1.0)


def duration(seconds: float) -> str:
    """Return a length of time in the unit that people would use, without false precision."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


class Notes:
    """What a worker writes down for the controller, which shows it."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._path = directory / f"{PREFIX}{worker}"
        self._written = 0.0

    def advance(self, campaign: str, done: int, total: int, found: int) -> None:
        """Replace what was written before, unless that is too new to have been read."""
        if time.monotonic() - self._written < LOOK / 2:
            return
        self._written = time.monotonic()
        part = self._path.with_name(f".{self._path.name}")
        part.write_text(json.dumps([campaign, done, total, found]))
        part.replace(self._path)


def notes(directory: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield what each worker wrote last, the latest at the end."""
    files = []
    for path in directory.glob(f"{PREFIX}*"):
        try:
            files.append((path.stat().st_mtime_ns, path.read_text()))
        except OSError:  # the run is ending
            continue
    for _, text in sorted(files):
        campaign, done, total, found = json.loads(text)
        yield campaign, done, total, found


class Line:
    """A line of a terminal that is written over and over."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = ""

    def show(self, text: str) -> None:
        """Write the text in place of the last one, cut to the width of the terminal."""
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
        except OSError:  # nobody watches any more; the run goes on
            self._shown = ""


def watched(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Whether somebody looks at a terminal there that can write a line again."""
    unattended = environment.get("CI", "").lower() not in ("", "0", "false")
    return os.isatty(descriptor) and environment.get("TERM") != "dumb" and not unattended
