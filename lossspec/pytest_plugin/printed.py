"""The output of implementations: the beginning of each stream, and the length of the rest."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

#: How many characters of each stream are kept during one campaign.
KEPT = 4_000


class Printed:
    """The beginning of the output on each stream during one campaign."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lengths: Counter[str] = Counter()

    def add(self, stream: str, text: str) -> None:
        """Add text that was written to a stream, such as `stdout`."""
        if text:
            kept = self._texts.get(stream, "")
            self._texts[stream] = kept + text[: KEPT - len(kept)]
            self._lengths[stream] += len(text)

    def sections(self) -> list[tuple[str, str]]:
        """Return the name and the text of each stream, with a note on how much was left out."""
        return [(name, _told(text, self._lengths[name])) for name, text in self._texts.items()]


def shortened(text: str) -> str:
    """Return the beginning of a text, with a note on how much was left out."""
    return _told(text[:KEPT], len(text))


def _told(kept: str, length: int) -> str:
    left_out = length - len(kept)
    return f"{kept}\n[{left_out:,} more characters were left out]\n" if left_out else kept


class Streams:
    """The captured streams, emptied into a `Printed` so that neither a file nor memory fills up.

    Args:
        captured: A function that returns the output on stdout and stderr since its last call.
    """

    def __init__(self, captured: Callable[[], tuple[str, str]]) -> None:
        self._captured = captured
        self._into = Printed()

    @contextmanager
    def kept_in(self, printed: Printed) -> Iterator[None]:
        """Keep the beginning of what is printed and logged in this context, instead of pytest."""
        handlers = [h for h in logging.getLogger().handlers if hasattr(h, "records")]
        limit = _LogLimit(printed, handlers)
        before, self._into = self._into, printed
        for handler in handlers:
            handler.addFilter(limit)
        try:
            yield
        finally:
            self.drain()
            self._into = before
            for handler in handlers:
                handler.removeFilter(limit)

    def drain(self) -> None:
        """Add the output captured since the last call."""
        for stream, text in zip(("stdout", "stderr"), self._captured(), strict=True):
            self._into.add(stream, text)


class _LogLimit(logging.Filter):
    """A filter for pytest's log handlers, which would keep every message until the test ends."""

    def __init__(self, printed: Printed, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._printed = printed
        self._last: logging.LogRecord | None = None
        self._handlers = handlers

    def filter(self, record: logging.LogRecord) -> bool:
        if record is not self._last:  # each of pytest's handlers calls this filter
            self._last = record
            try:
                text = self._handlers[0].format(record)
            except Exception as error:  # it must not be raised in the implementation under test
                text = f"a log message that cannot be formatted: {type(error).__name__}"
            self._printed.add("log", f"{text}\n")
        return False
