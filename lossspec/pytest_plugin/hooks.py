"""The hooks of the pytest plugin: options and collection; `session` has those of a run.

PYTEST_DONT_REWRITE: this module has no assert for pytest to rewrite.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lossspec.execution.timeout import ends_orderly, reports_now, stop_if_asked, told_to_end
from lossspec.pytest_plugin.judged import (  # noqa: F401  # hooks
    pytest_runtest_call,
    pytest_runtest_makereport,
)
from lossspec.pytest_plugin.options import IMPL, OPTIONS, expanded, named, prefixed
from lossspec.pytest_plugin.plain_import import importing_plainly

#: Notes for the header: short names on the command line that belong to other plugins.
_FOREIGN = pytest.StashKey[list[str]]()
#: The suites of lossspec that were collected, the latest first.
_SUITES = pytest.StashKey[list[str]]()
#: The fixtures of each test function of a suite, by which the function is recognised.
_FIXTURES = {
    "conformance": ({"cell", "conformance"},),
    "timing": ({"timing_cell", "timed"}, {"timed_loss", "axis", "timed"}),
}
#: The files in which pytest looks for its configuration.
_SETTINGS = (
    *("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"),
    *("pyproject.toml", "tox.ini", "setup.cfg"),
)
#: A constant that marks a test file of lossspec, since other suites may use these fixture names.
_SIGN = "LOSSSPEC_SUITE"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the long names only, which cannot clash with options of other plugins."""
    config = pluginmanager.get_plugin("pytestconfig")
    if config is not None and {IMPL.short, IMPL.long} & named(config.invocation_params.args):
        hint = "each option also exists as --lossspec-NAME, which no other plugin uses"
        parser.extra_info["lossspec"] = hint  # pytest prints it below an error of parsing
    group = parser.getgroup("lossspec", "lossspec: conformance of loss functions")
    for option in OPTIONS:
        option.add(group.addoption, option.long)


def add_short_names(parser: pytest.Parser) -> None:
    """Register the short names that no other plugin has registered.

    The conftest.py of a checkout that is not installed calls this: a plugin that a conftest.py
    loads is too late for `pytest_load_initial_conftests`.
    """
    group = parser.getgroup("lossspec")
    for option in OPTIONS:
        if option.short not in _taken(parser):
            option.add(group.addoption, option.short)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Replace the short names by the long ones, if `--impl` is on the command line.

    The short names are not registered, because any conftest.py may register the same names, even
    during collection. A name that another plugin has registered by now keeps its meaning.
    """
    words = expanded(args)
    if IMPL.long in named(prefixed(words, _taken(parser))):
        # pytest takes the value of an unregistered option for a path to load a conftest.py from.
        parsed = parser.parse_known_args(prefixed(words, _taken(parser)))
        early_config.known_args_namespace.file_or_dir = parsed.file_or_dir
    loaded = yield
    taken = _taken(parser)
    if IMPL.long in named(prefixed(words, taken)):
        args[:] = prefixed(words, taken)
        for option in OPTIONS:
            if option.short in named(words) & taken:
                note = (
                    f"{option.short} belongs to another plugin or a conftest.py; "
                    f"for the option of lossspec use {option.long}"
                )
                early_config.stash.setdefault(_FOREIGN, []).append(note)
    else:
        for option in OPTIONS[1:]:
            if option.short in named(words) - taken:
                hint = f"an option of lossspec, which needs {IMPL.short} NAME as well"
                parser.extra_info[option.short] = hint
    return loaded


def _taken(parser: pytest.Parser) -> set[str]:
    """Return the names of all registered options that are not lossspec's."""
    return {
        name
        for group in (*parser._groups, parser._anonymous)
        for option in group.options
        if not option.dest.startswith("lossspec_")
        for name in option.names()
    }


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report which short names on the command line belong to other plugins."""
    return [f"lossspec: {note}" for note in config.stash.get(_FOREIGN, [])]


def pytest_configure(config: pytest.Config) -> None:
    """Make a run from the options.

    Raises:
        pytest.UsageError: An option has a value that is not allowed.
    """
    # `lossspec.parametrize` uses this marker, which pytest-xdist registers if it is installed.
    if not config.pluginmanager.hasplugin("xdist"):
        line = "xdist_group(name): tests for one worker of pytest-xdist"
        config.addinivalue_line("markers", line)
    if not config.option.lossspec_impl:
        return
    if not hasattr(config, "workerinput"):
        config.add_cleanup(ends_orderly())
    config.pluginmanager.register(_Interrupted(config), "lossspec-interrupted")
    if getattr(config.option, "tx", None) and not hasattr(config, "workerinput"):
        if config.option.maxworkerrestart is None:  # each campaign may crash several workers
            config.option.maxworkerrestart = "9999"
        config.pluginmanager.register(_WhileWorkersStart(), "lossspec-controller")
    else:
        places = Path(getattr(config, "workerinput", {}).get("lossspec_places", ""))
        _start(config, places if places.name and places.is_dir() else None)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Limit `-n auto` by memory as well, because pytest-xdist counts only the cores."""
    given = config.option.lossspec_impl
    if not given or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from lossspec.pytest_plugin.workers import automatic

    return automatic()


def _start(config: pytest.Config, places: Path | None = None) -> None:
    _check_root(config)
    try:
        with importing_plainly(config):
            from lossspec.pytest_plugin.start import session_of

        conformance = session_of(config, places)
    except Exception:
        stop_if_asked()  # an interrupted import can raise any exception
        raise
    config.pluginmanager.register(conformance, "lossspec-conformance")
    if config.option.lossspec_timing or any(_names_timing(config, word) for word in config.args):
        from lossspec.pytest_plugin.timing_session import TimingSession

        config.pluginmanager.register(TimingSession.of(config, conformance), "lossspec-timing")


def _check_root(config: pytest.Config) -> None:
    """Check that the root directory of pytest was not chosen by the value of an option.

    pytest chooses it before it knows our options, from the words that are paths. A wrong one hides
    `testpaths`, and then every test below the current directory is collected.

    Raises:
        pytest.UsageError: The root directory is that of an option's value.
    """
    here = config.invocation_params.dir
    collects_here = config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR
    if not collects_here or config.inipath or config.option.rootdir:
        return
    if not any((folder / file).exists() for folder in (here, *here.parents) for file in _SETTINGS):
        return
    names = {name for option in OPTIONS for name in (option.short, option.long)}
    for word, value in pairwise(expanded(map(str, config.invocation_params.args))):
        if word in names and (here / value).exists():
            raise pytest.UsageError(
                f"pytest takes {value} for its root directory and looks for no configuration in "
                f"{here}; write {word}={value}"
            )


class _Interrupted:
    """A plugin that ends a run after a signal, and reports the cells judged so far."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Raise the interruption again, in case the implementation under test has caught it."""
        stop_if_asked()

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remove traceback entries without a line number, which pytest cannot show."""
        reports_now()
        excinfo.value.__cause__, excinfo.value.__suppress_context__ = None, True
        excinfo.traceback = excinfo.traceback.filter(_has_line)
        if not self.config.pluginmanager.hasplugin("terminalreporter"):  # else that one reports it
            sys.stderr.write("KeyboardInterrupt: nothing was judged\n")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the reports completely even if the signal arrives during this hook."""
        reports_now()
        try:
            return (yield)
        finally:
            if told_to_end():
                session.exitstatus = pytest.ExitCode.INTERRUPTED


def _has_line(entry: Any) -> bool:
    try:
        return bool(entry.lineno >= 0)
    except TypeError:  # lineno is None
        return False


class _WhileWorkersStart:
    """The plugin of an xdist controller, which makes its run while the workers import torch."""

    def __init__(self) -> None:
        self.places = TemporaryDirectory(prefix="lossspec-")  # for the workers' crash checkpoints

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        _start(session.config, Path(self.places.name))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send the folder of the crash checkpoints to each worker, replacements included."""
        node.workerinput["lossspec_places"] = self.places.name

    def pytest_unconfigure(self) -> None:
        """Delete the crash checkpoints at the end of the run."""
        self.places.cleanup()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the timing suite unless `--timing` or its path is given.

    pytest does not call this hook for a path on the command line.
    """
    if collection_path.name != "timing" or config.option.lossspec_timing:
        return None
    return True if _is_timing(collection_path.resolve()) else None


def _is_timing(folder: Path) -> bool:
    """Tell whether a folder is the timing suite, in an installed package or in any clone."""
    if folder.name != "timing":
        return False
    try:
        return _SIGN in (folder / "test_timing.py").read_text("utf-8", "replace")
    except OSError:
        return False


def _names_timing(config: pytest.Config, word: str) -> bool:
    name = word.partition("::")[0]
    if config.option.pyargs and f"{name}.".startswith("lossspec.suites.timing."):
        return True
    path = (config.invocation_params.dir / name).resolve()
    return any(_is_timing(folder) for folder in (path, *path.parents))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Record which suites are collected; without `--impl`, give their functions no items."""
    suite = suite_of(metafunc)
    if suite is not None:
        metafunc.config.stash.setdefault(_SUITES, []).insert(0, suite)
        if not metafunc.config.option.lossspec_impl:
            (names,) = (names for names in _FIXTURES[suite] if names <= set(metafunc.fixturenames))
            metafunc.parametrize(", ".join(sorted(names)), [])


def suite_of(metafunc: pytest.Metafunc) -> str | None:
    """Return the suite of lossspec that a test function belongs to; None for any other test."""
    suite = getattr(metafunc.module, _SIGN, None)
    needs = _FIXTURES.get(suite, ()) if isinstance(suite, str) else ()
    return suite if any(names <= set(metafunc.fixturenames) for names in needs) else None


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config) -> None:
    """Raise a usage error if `--impl` or a suite is missing.

    During collection, pytest would report it as an error of the suite instead.
    """
    suites = config.stash.get(_SUITES, [])
    if suites and not config.option.lossspec_impl:
        raise pytest.UsageError(f"the {suites[0]} suite needs --impl NAME, such as --impl=torch.nn")
    if not suites and not session.testsfailed and not hasattr(config, "workerinput"):
        _misses_suite(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Raise a usage error on the controller if the workers have collected no suite."""
    if not any("::test_conformance[" in nodeid for nodeid in ids):
        _misses_suite(node.config)


def _misses_suite(config: pytest.Config) -> None:
    """Raise a usage error for a run without a suite, unless `-k` or the like narrowed it down.

    Otherwise a run that judges nothing would pass.
    """
    narrow = ("keyword", "markexpr", "deselect", "lf", "stepwise")
    chosen = any(getattr(config.option, name, None) for name in narrow)
    if config.option.lossspec_impl and not chosen:
        raise pytest.UsageError(
            "--impl was given, but no suite of lossspec was collected; add --pyargs lossspec.suites"
        )
