"""The pytest options of a run: their names, help texts, and recognition on a command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option with two names: always `--lossspec-NAME`, and `--NAME` unless that is taken.

    Attributes:
        name: The name without prefix, such as "profile".
        help: The help text.
        settings: Further keyword arguments of `add_argument`.
    """

    name: str
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The short name, which another plugin or a conftest.py may have registered."""
        return f"--{self.name}"

    @property
    def long(self) -> str:
        """The long name, which always belongs to this option."""
        return f"--lossspec-{self.name}"

    @property
    def dest(self) -> str:
        """The name of its attribute of `config.option`."""
        return self.long.removeprefix("--").replace("-", "_")

    def add(self, addoption: Callable[..., Any], *names: str) -> None:
        """Register the option under the given names with pytest or argparse."""
        text = self.help if self.short in names else f"{self.help}; short: {self.short}"
        addoption(*names, dest=self.dest, help=text, **self.settings)


def _many(name: str, text: str, metavar: str = "NAME") -> Option:
    return Option(name, text, {"action": "append", "default": [], "metavar": metavar})


OPTIONS = (
    _many(
        "impl",
        "implementation to judge: an entry point, package.module, package.module:attribute or a "
        ".py file; repeatable",
    ),
    _many(
        "loss", "judge only these losses: function or class names, separated by commas; repeatable"
    ),
    _many("clause", "judge only these clauses: NAME or LOSS/NAME, separated by commas; repeatable"),
    _many("dtype", "draw only these dtypes, such as float32, separated by commas; repeatable"),
    _many(
        "device",
        "torch device, such as cpu or cuda:1; `all` is every one (default: cpu); repeatable",
    ),
    _many("deviations", "TOML file of known deviations; repeatable", "FILE"),
    Option(
        "profile",
        "number of cases: quick, standard or deep (default: standard)",
        {"default": "standard"},
    ),
    Option(
        "reports",
        "directory for the reports (default: reports)",
        {"default": "reports", "metavar": "DIR"},
    ),
    Option(
        "seed",
        "seed of the cases, a whole number (default: --hypothesis-seed, or 0)",
        {"metavar": "N"},
    ),
    Option("shard", "judge only part I of N of the run, such as 1/4", {"metavar": "I/N"}),
    Option(
        "require-all",
        "fail if the implementation lacks a loss or a parameter",
        {"action": "store_true"},
    ),
    Option("timing", "also collect the timing suite", {"action": "store_true"}),
    Option(
        "timing-fail",
        "fail losses that take more than RATIO times torch's time, beyond the uncertainty of the "
        "measurement (default: no limit)",
        {"metavar": "slower:RATIO"},
    ),
)
IMPL = OPTIONS[0]


def given(option: Any) -> SimpleNamespace:
    """Return the values of lossspec's options in `config.option`, by their short names."""
    return SimpleNamespace(
        **{known.name.replace("-", "_"): getattr(option, known.dest) for known in OPTIONS}
    )


def prefixed(words: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Replace each short name by the long one, unless it is taken.

    argparse reads each word before `--` that is the name of an option as that option, never as
    the value of another one. So other options need not be known here.

    Args:
        words: A command line.
        taken: Short names that belong to other plugins.
    """
    longs = {option.short: option.long for option in OPTIONS if option.short not in taken}
    end = words.index("--") if "--" in words else len(words)
    made = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        made.append(f"{longs[name]}{equals}{value}" if name in longs else word)
    return [*made, *words[end:]]


def named(words: Iterable[str | os.PathLike[str]]) -> set[str]:
    """Return the names of the options among the words, without their values."""
    texts = [os.fspath(word) for word in words]
    end = texts.index("--") if "--" in texts else len(texts)
    return {word.partition("=")[0] for word in texts[:end] if word.startswith("--")}


def expanded(words: Iterable[str]) -> list[str]:
    """Replace each word `@FILE` by the lines of the file, as pytest's parser does."""
    made: list[str] = []
    for word in words:
        if not word.startswith("@"):
            made.append(word)
            continue
        try:
            encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
            text = Path(word[1:]).read_text(encoding, errors)
        except OSError:  # pytest's parser reports it
            made.append(word)
        else:
            made += expanded(text.splitlines())
    return made
