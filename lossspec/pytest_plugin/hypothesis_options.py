"""Support for the options of Hypothesis's own pytest plugin in campaigns."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis.statistics import collector, describe_statistics


def seed_given(config: pytest.Config) -> str | None:
    """Return the value of `--hypothesis-seed` as digits, or None if it was not given.

    Hypothesis accepts any text as a seed; text other than digits is hashed.
    """
    word = config.getoption("--hypothesis-seed", None)
    if word is None:
        return None
    return str(word) if str(word).isdigit() else str(zlib.crc32(str(word).encode()))


@contextmanager
def collecting(config: pytest.Config, what: str, lines: list[str]) -> Iterator[None]:
    """Collect Hypothesis's statistics in this context if `--hypothesis-show-statistics` is given.

    Args:
        config: The configuration of pytest.
        what: The campaign that runs in this context.
        lines: A list to which the statistics of each run are appended.
    """
    if not config.getoption("--hypothesis-show-statistics", False):
        yield
        return

    def note(statistics: Any) -> None:
        lines.append(describe_statistics(statistics | {"nodeid": what}))

    current: Any = collector  # Hypothesis annotates its value as None
    with current.with_value(note):
        yield
