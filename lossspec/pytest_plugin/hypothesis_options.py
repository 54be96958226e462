"""The options of Hypothesis's own pytest plugin, as they hold for campaigns."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis.statistics import collector, describe_statistics


def seed_given(config: pytest.Config) -> str | None:
    """Return the seed of `--hypothesis-seed` as a number, None when it was not given.

    Hypothesis takes any word for a seed.
    """
    word = config.getoption("--hypothesis-seed", None)
    if word is None:
        return None
    return str(word) if str(word).isdigit() else str(zlib.crc32(str(word).encode()))


@contextmanager
def collecting(config: pytest.Config, what: str, lines: list[str]) -> Iterator[None]:
    """Collect what Hypothesis says of its runs, where `--hypothesis-show-statistics` asks for it.

    what : the campaign whose runs they are. lines : what is said of each run is added to it.
    """
    if not config.getoption("--hypothesis-show-statistics", False):
        yield
        return

    def note(statistics: dict[str, Any]) -> None:
        lines.append(describe_statistics({**statistics, "nodeid": what}))

    with collector.with_value(note):
        yield
