"""The pytest plugin: its options. What a run does is in `lossspec.pytest_plugin.session`.

PYTEST_DONT_REWRITE: nothing in it is a test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
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

#: What to say of short names of the command line that are somebody else's options.
_FOREIGN = pytest.StashKey[list[str]]()
#: The suites that were collected, the last first.
_SUITES = pytest.StashKey[list[str]]()
#: The fixtures that the items of a suite are made from.
_FIXTURES = {
    "conformance": ({"cell", "conformance"},),
    "timing": ({"timing_cell", "timed"}, {"timed_loss", "axis", "timed"}),
}
#: The constant that a test file of lossspec holds; other suites may use the same fixture names.
_SIGN = "LOSSSPEC_SUITE"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the long names only: no other plugin and no conftest has an option of one."""
    config = pluginmanager.get_plugin("pytestconfig")
    if config is not None and {IMPL.short, IMPL.long} & named(config.invocation_params.args):
        hint = "each of its options is also --lossspec-NAME, which nobody else has"
        parser.extra_info["lossspec"] = hint  # shown where parsing fails
    group = parser.getgroup("lossspec", "lossspec: conformance of loss functions")
    for option in OPTIONS:
        option.add(group.addoption, option.long)


def add_short_names(parser: pytest.Parser) -> None:
    """Register the short names that nobody has taken.

    For the conftest.py of a checkout that is not installed: a plugin that a conftest.py loads is
    too late for `pytest_load_initial_conftests`.
    """
    group = parser.getgroup("lossspec")
    for option in OPTIONS:
        if option.short not in _taken(parser):
            option.add(group.addoption, option.short)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Replace the short names in a command line with `--impl` by the long ones.

    They are not registered, because a conftest.py may register the same names at any time, also
    one that pytest finds while it collects. A name that is taken by now keeps its meaning.
    """
    words = expanded(args)
    if IMPL.long in named(prefixed(words, _taken(parser))):
        # The value of an option that is not registered would pass for a path to load from.
        parsed = parser.parse_known_args(prefixed(words, _taken(parser)))
        early_config.known_args_namespace.file_or_dir = parsed.file_or_dir
    loaded = yield
    taken = _taken(parser)
    if IMPL.long in named(prefixed(words, taken)):
        args[:] = prefixed(words, taken)
        for option in OPTIONS:
            if option.short in named(words) & taken:
                note = f"{option.short} is another plugin's or a conftest's; use {option.long}"
                early_config.stash.setdefault(_FOREIGN, []).append(note)
    else:
        for option in OPTIONS[1:]:
            if option.short in named(words) - taken:
                parser.extra_info[option.short] = f"lossspec's option, beside {IMPL.short} NAME"
    return loaded


def _taken(parser: pytest.Parser) -> set[str]:
    """The names of options that are not lossspec's."""
    return {
        name
        for group in (*parser._groups, parser._anonymous)
        for option in group.options
        if not option.dest.startswith("lossspec_")
        for name in option.names()
    }


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which short names of the command line are somebody else's options."""
    return [f"lossspec: {note}" for note in config.stash.get(_FOREIGN, [])]


def pytest_configure(config: pytest.Config) -> None:
    """Turn the options into a run; what cannot be one is a usage error."""
    # `lossspec.parametrize` marks with it, also without xdist, which registers it itself.
    if not config.pluginmanager.hasplugin("xdist"):
        line = "xdist_group(name): tests for one worker of pytest-xdist"
        config.addinivalue_line("markers", line)
    if not config.option.lossspec_impl:
        return
    if not hasattr(config, "workerinput"):
        config.add_cleanup(ends_orderly())
    config.pluginmanager.register(_Interrupted(config), "lossspec-interrupted")
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
    given = config.option.lossspec_impl
    if not given or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from lossspec.pytest_plugin.workers import automatic

    return automatic()


def _start(config: pytest.Config, places: Path | None = None) -> None:
    try:
        with importing_plainly(config):
            from lossspec.pytest_plugin.start import session_of

        conformance = session_of(config, places)
    except Exception:
        stop_if_asked()  # an import that was interrupted fails in one way or another
        raise
    config.pluginmanager.register(conformance, "lossspec-conformance")
    if config.option.lossspec_timing or any(_names_timing(config, word) for word in config.args):
        from lossspec.pytest_plugin.timing_session import TimingSession

        config.pluginmanager.register(TimingSession.of(config, conformance), "lossspec-timing")


class _Interrupted:
    """Ends a run that was told to end, with a report of what was judged."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Interrupt again what has caught the interruption."""
        stop_if_asked()

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Leave out what pytest cannot show: a place in a `with` block may have no line."""
        reports_now()
        excinfo.value.__cause__, excinfo.value.__suppress_context__ = None, True
        excinfo.traceback = excinfo.traceback.filter(_has_line)
        if not self.config.pluginmanager.hasplugin("terminalreporter"):  # which would tell
            sys.stderr.write("KeyboardInterrupt: nothing was judged\n")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Let the reports be written, also when the signal comes now."""
        reports_now()
        try:
            return (yield)
        finally:
            if told_to_end():
                session.exitstatus = pytest.ExitCode.INTERRUPTED


def _has_line(entry: Any) -> bool:
    try:
        return bool(entry.lineno >= 0)
    except TypeError:  # of None
        return False


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
    if collection_path.name != "timing" or config.option.lossspec_timing:
        return None
    return True if _is_timing(collection_path.resolve()) else None


def _is_timing(folder: Path) -> bool:
    """Whether a folder is the timing suite: the package's, or that of any clone."""
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
    """Note the suites; without `--impl` they have no cells."""
    suite = suite_of(metafunc)
    if suite is not None:
        metafunc.config.stash.setdefault(_SUITES, []).insert(0, suite)
        if not metafunc.config.option.lossspec_impl:
            (names,) = (names for names in _FIXTURES[suite] if names <= set(metafunc.fixturenames))
            metafunc.parametrize(", ".join(sorted(names)), [])


def suite_of(metafunc: pytest.Metafunc) -> str | None:
    """The suite of lossspec that a test function belongs to, if it belongs to one."""
    suite = getattr(metafunc.module, _SIGN, None)
    needs = _FIXTURES.get(suite, ()) if isinstance(suite, str) else ()
    return suite if any(names <= set(metafunc.fixturenames) for names in needs) else None


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config) -> None:
    """Say what is missing; while it collects, pytest would take that for an error of the suite."""
    suites = config.stash.get(_SUITES, [])
    if suites and not config.option.lossspec_impl:
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
    chosen = any(getattr(config.option, name, None) for name in narrow)
    if config.option.lossspec_impl and not chosen:
        raise pytest.UsageError(
            "--impl was given, and no suite of lossspec was collected; add --pyargs lossspec.suites"
        )
