"""The pytest plugin: its options. What a run does is in `lossspec.conformance`."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lossspec.judged import (  # noqa: F401  # hooks
    pytest_runtest_call,
    pytest_runtest_makereport,
)

#: The suites that were collected, the last first.
_SUITES = pytest.StashKey[list[str]]()
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


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Start no more workers than the memory allows; pytest-xdist counts the cores only."""
    given = getattr(config.option, "lossspec_impl", None) or getattr(config.option, "impl", None)
    if not given or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from lossspec.workers import automatic

    return automatic()


def _start(config: pytest.Config, places: Path | None = None) -> None:
    from lossspec.conformance import Conformance
    from lossspec.patience import ends_orderly

    if not hasattr(config, "workerinput"):
        config.add_cleanup(ends_orderly())
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
    return True if _is_timing(collection_path.resolve()) else None


def _is_timing(folder: Path) -> bool:
    """Whether a folder is the timing suite: the package's, or that of any clone."""
    beside = folder.parent / "conformance" / "test_conformance.py"
    return (folder.parent.name, folder.name) == ("suites", "timing") and beside.is_file()


def _names_timing(config: pytest.Config, word: str) -> bool:
    name = word.partition("::")[0]
    if config.option.pyargs and f"{name}.".startswith("lossspec.suites.timing."):
        return True
    path = (config.invocation_params.dir / name).resolve()
    return any(_is_timing(folder) for folder in (path, *path.parents))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Note the suites; without `--impl` they have no cells."""
    for suite, needs in _FIXTURES.items():
        for names in needs:
            if names <= set(metafunc.fixturenames):
                metafunc.config.stash.setdefault(_SUITES, []).insert(0, suite)
                if not metafunc.config.option.impl:
                    metafunc.parametrize(", ".join(sorted(names)), [])


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config) -> None:
    """Say what is missing; while it collects, pytest would take that for an error of the suite."""
    suites = config.stash.get(_SUITES, [])
    if suites and not config.option.impl:
        raise pytest.UsageError(f"the {suites[0]} suite needs --impl NAME, such as --impl=torch.nn")
    if not suites and not session.testsfailed and not hasattr(config, "workerinput"):
        _misses_suite(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Say the same where workers collect."""
    if not any("::test_conformance[" in nodeid for nodeid in ids):
        _misses_suite(node.config)


def _misses_suite(config: pytest.Config) -> None:
    """A run that judges nothing must not look green; one that was narrowed down may be empty."""
    narrow = ("keyword", "markexpr", "deselect", "lf", "stepwise")
    if config.option.impl and not any(getattr(config.option, name, None) for name in narrow):
        raise pytest.UsageError(
            "--impl was given, and no suite of lossspec was collected; add --pyargs lossspec.suites"
        )
