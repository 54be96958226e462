"""The pytest plugin: its options. What a run does is in `lossspec.conformance`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_ASKED = pytest.StashKey[str]()
_PACKAGE = Path(__file__).resolve().parent
#: Where the timing suite lies: in a wheel inside the package, in a checkout beside it.
_TIMING = (_PACKAGE / "suites" / "timing", _PACKAGE.parent / "suites" / "timing")
#: The fixtures that the items of a suite are made from.
_FIXTURES = {
    "conformance": ({"cell", "conformance"},),
    "timing": ({"heat", "timed"}, {"entrant", "axis", "timed"}),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of lossspec; without `--impl` the plugin does nothing."""
    group = parser.getgroup("lossspec", "lossspec: conformance of loss functions")

    def many(option: str, text: str, metavar: str = "NAME") -> None:
        group.addoption(option, action="append", default=[], metavar=metavar, help=text)

    many("--impl", "implementation: an entry point, package.module or package.module:attribute")
    many("--loss", "judge these losses only (function or class name)")
    many("--clause", "judge these clauses only (name or loss/name)")
    many("--dtype", "draw these dtypes only")
    many("--device", "torch device type, such as cpu or cuda:1, or all (default: cpu)")
    many("--deviations", "a TOML file of known deviations", "FILE")
    group.addoption("--profile", default="standard", help="quick, standard (default) or deep")
    group.addoption(
        "--reports", default="reports", metavar="DIR", help="where reports go (default: reports)"
    )
    group.addoption("--seed", default="0", metavar="N", help="seed of the cases (default: 0)")
    group.addoption("--shard", metavar="I/N", help="judge one of N parts of the run, such as 1/4")
    group.addoption(
        "--require-all", action="store_true", help="a missing loss or parameter is a failure"
    )
    group.addoption("--timing", action="store_true", help="time too, where suites are collected")
    group.addoption(
        "--timing-fail",
        metavar="slower:RATIO",
        help="fail what certainly takes more than so many times torch's time (default: nothing)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Turn the options into a run; what cannot be one is a usage error."""
    # `lossspec.parametrize` marks with it, also where xdist is not installed.
    config.addinivalue_line("markers", "xdist_group(name): tests for one worker of pytest-xdist")
    if not config.option.impl:
        return
    if getattr(config.option, "tx", None) and not hasattr(config, "workerinput"):
        if config.option.maxworkerrestart is None:  # each campaign may take a worker down
            config.option.maxworkerrestart = "9999"
        config.pluginmanager.register(_WhileWorkersStart(), "lossspec-controller")
    else:
        places = Path(getattr(config, "workerinput", {}).get("lossspec_places", ""))
        _start(config, places if places.name and places.is_dir() else None)


def _start(config: pytest.Config, places: Path | None = None) -> None:
    from lossspec.conformance import Conformance

    conformance = Conformance.of(config, places)
    config.pluginmanager.register(conformance, "lossspec-conformance")
    if config.option.timing or any(_names_timing(config, word) for word in config.args):
        from lossspec.timed import Timed

        config.pluginmanager.register(Timed.of(config, conformance), "lossspec-timing")


class _WhileWorkersStart:
    """Makes the run of a controller of pytest-xdist while its workers, too, import torch."""

    def __init__(self) -> None:
        self.places = TemporaryDirectory(prefix="lossspec-")  # where workers note where they are

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        _start(session.config, Path(self.places.name))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker, also one that takes over from another."""
        node.workerinput["lossspec_places"] = self.places.name

    def pytest_unconfigure(self) -> None:
        """Nobody takes over any more."""
        self.places.cleanup()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the timing suite alone unless asked for; of a named path pytest asks nothing here."""
    if collection_path.name != "timing" or config.option.timing:
        return None
    return True if collection_path.resolve() in _TIMING else None


def _names_timing(config: pytest.Config, word: str) -> bool:
    name = word.partition("::")[0]
    if config.option.pyargs and f"{name}.".startswith("lossspec.suites.timing."):
        return True
    path = (config.invocation_params.dir / name).resolve()
    return any(path == folder or folder in path.parents for folder in _TIMING)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without `--impl` a suite has no cells."""
    for suite, needs in _FIXTURES.items():
        for names in needs:
            if names <= set(metafunc.fixturenames) and not metafunc.config.option.impl:
                metafunc.config.stash[_ASKED] = suite
                metafunc.parametrize(", ".join(sorted(names)), [])


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Say what is missing; while it collects, pytest would take that for an error of the suite."""
    if _ASKED in config.stash:
        suite = config.stash[_ASKED]
        raise pytest.UsageError(f"the {suite} suite needs --impl NAME, such as --impl=torch.nn")
