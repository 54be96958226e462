"""The pytest options of a run: their names, and which word of a command line is one of them."""

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
    """An option with two names: `--lossspec-NAME` always, `--NAME` when nobody else has it."""

    name: str
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The name that another plugin or a conftest may have taken."""
        return f"--{self.name}"

    @property
    def long(self) -> str:
        """The name that is always this option's."""
        return f"--lossspec-{self.name}"

    @property
    def dest(self) -> str:
        """Its attribute of `config.option`."""
        return self.long.removeprefix("--").replace("-", "_")

    def add(self, addoption: Callable[..., Any], *names: str) -> None:
        """Register it under the names with pytest or argparse."""
        text = self.help if self.short in names else f"{self.help}; short: {self.short}"
        addoption(*names, dest=self.dest, help=text, **self.settings)


def _many(name: str, text: str, metavar: str = "NAME") -> Option:
    return Option(name, text, {"action": "append", "default": [], "metavar": metavar})


OPTIONS = (
    _many("impl", "implementation: an entry point, package.module or package.module:attribute"),
    _many("loss", "judge these losses only (function or class name)"),
    _many("clause", "judge these clauses only (name or loss/name)"),
    _many("dtype", "draw these dtypes only"),
    _many("device", "torch device type, such as cpu or cuda:1, or all (default: cpu)"),
    _many("deviations", "a TOML file of known deviations", "FILE"),
    Option("profile", "quick, standard (default) or deep", {"default": "standard"}),
    Option(
        "reports",
        "where reports go (default: reports)",
        {"default": "reports", "metavar": "DIR"},
    ),
    Option("seed", "seed of the cases (default: --hypothesis-seed, or 0)", {"metavar": "N"}),
    Option("shard", "judge one of N parts of the run, such as 1/4", {"metavar": "I/N"}),
    Option("require-all", "a missing loss or parameter is a failure", {"action": "store_true"}),
    Option("timing", "time too, where suites are collected", {"action": "store_true"}),
    Option(
        "timing-fail",
        "fail what certainly takes more than so many times torch's time (default: nothing)",
        {"metavar": "slower:RATIO"},
    ),
)
IMPL = OPTIONS[0]


def given(option: Any) -> SimpleNamespace:
    """The values of `config.option`, by the short names."""
    return SimpleNamespace(
        **{known.name.replace("-", "_"): getattr(option, known.dest) for known in OPTIONS}
    )


def prefixed(words: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """The words with each short name replaced by the long one, unless it is taken.

    argparse reads every word before `--` that starts with the name of an option as that option,
    never as the value of another, so no other knowledge of the options is needed.
    """
    longs = {option.short: option.long for option in OPTIONS if option.short not in taken}
    end = words.index("--") if "--" in words else len(words)
    made = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        made.append(f"{longs[name]}{equals}{value}" if name in longs else word)
    return [*made, *words[end:]]


def named(words: Iterable[str | os.PathLike[str]]) -> set[str]:
    """The names of options among the words, without their values."""
    texts = [os.fspath(word) for word in words]
    end = texts.index("--") if "--" in texts else len(texts)
    return {word.partition("=")[0] for word in texts[:end] if word.startswith("--")}


def expanded(words: Iterable[str]) -> list[str]:
    """The words with `@FILE` replaced by the lines of the file, as pytest's parser reads them."""
    made: list[str] = []
    for word in words:
        if not word.startswith("@"):
            made.append(word)
            continue
        try:
            encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
            text = Path(word[1:]).read_text(encoding, errors)
        except OSError:  # the parser says so
            made.append(word)
        else:
            made += expanded(text.splitlines())
    return made
