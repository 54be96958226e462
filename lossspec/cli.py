"""The command `lossspec`: run, show, list, diff, merge, render, deviations, audit."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lossspec.errors import ArgumentError
from lossspec.late_import import import_late
from lossspec.nearest import alike, suggestion
from lossspec.report.merge import merge
from lossspec.report.records import Report, own_version
from lossspec.safe_text import block, one_line

if TYPE_CHECKING:
    import pytest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input is one line on standard error and exit status 4, as in pytest."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a sign that it cannot show stops nothing
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:  # in a run pytest has handled it, unless it had not begun
        print(f"lossspec {' '.join(arguments[:1])}: interrupted", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # nobody reads on; what is buffered would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if argv is None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter's end has no handler
    return status


def _command(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        return _run(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        status: int = options.action(options)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        _complain(f"lossspec {options.command}: {place}{error.strerror or error}")
        return 4
    except (ValueError, RecursionError, MemoryError) as error:
        _complain(f"lossspec {options.command}: {str(error) or type(error).__name__}")
        return 4
    return status


def _say(text: str) -> None:
    """Print what may hold names and messages that are not ours."""
    print(block(text), flush=True)


def _complain(text: str) -> None:
    print(one_line(text), file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(4, f"{self.format_usage()}{one_line(f'{self.prog}: {message}')}\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an unknown option is an error that names the nearest one."""
        options, extra = self.parse_known_args(args, namespace)
        if extra:
            word = extra[0].partition("=")[0]
            near = ""
            if word.startswith("-"):
                known = [*self.chosen(options.command)._option_string_actions]
                near = suggestion(word, [name for name in known if name.startswith("--")])
            self.error(f"{options.command}: unrecognized arguments: {' '.join(extra)}{near}")
        return options

    def chosen(self, command: str) -> argparse.ArgumentParser:
        """The parser of a command."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parser: argparse.ArgumentParser = action.choices[command]
                return parser
        return self

    # argparse has no public place for its message on a wrong choice.
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = suggestion(str(value), list(map(str, action.choices)))
            raise argparse.ArgumentError(action, f"unknown {value!r}{near}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lossspec", description="The conformance suite for loss functions.")
    parser.add_argument("--version", action="version", version=f"lossspec {own_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("run", help="judge implementations: lossspec run NAME ... [options]")

    show = commands.add_parser("show", help="print the spec of a loss")
    show.add_argument("loss")
    show.set_defaults(action=_show)

    listing = commands.add_parser("list", help="print what is known")
    listing.add_argument("what", choices=["losses", "clauses", "implementations"])
    listing.set_defaults(action=_list)

    diff = commands.add_parser("diff", help="compare two reports; status 1 for a regression")
    diff.add_argument("old", type=Path)
    diff.add_argument("new", type=Path)
    diff.set_defaults(action=_diff)

    merging = commands.add_parser("merge", help="one report from those of several shards")
    merging.add_argument("reports", nargs="+", type=Path)
    merging.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the report; its pages are written beside it",
    )
    merging.set_defaults(action=_merge)

    render = commands.add_parser("render", help="write the pages of a report again")
    render.add_argument("report", type=Path)
    render.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: beside it")
    render.set_defaults(action=_render)

    known = commands.add_parser("deviations", help="the known deviations of an implementation")
    known.add_argument("implementation")
    known.add_argument("--file", type=Path, help="default: the file that lossspec ships")
    known.add_argument("--update", action="store_true", help="rewrite it from a run")
    known.add_argument("--profile", default="standard")
    known.set_defaults(action=_deviations)

    audit = commands.add_parser(
        "audit", help="change a loss's definition in one place at a time: is each change found?"
    )
    audit.add_argument("loss", nargs="*", help="default: every loss")
    audit.add_argument("--profile", default="quick")
    audit.add_argument("--seed", type=int, default=0)
    audit.add_argument("--cases", type=int, metavar="N", help="default: those of the profile")
    audit.add_argument(
        "--matrix", type=Path, metavar="FILE", help="write which clauses find which wrong loss"
    )
    audit.add_argument("--page", type=Path, metavar="FILE", help="write the same as a page of HTML")
    audit.set_defaults(action=_audit)
    return parser


def _run(arguments: Sequence[str]) -> int:
    import pytest

    from lossspec.pytest_plugin.options import prefixed

    if {"-h", "--help"} & set(arguments):
        _say(_run_help().rstrip())
        return 0
    names = list(takewhile(lambda word: not word.startswith("-"), arguments))
    if not names:
        _complain(f"lossspec run: which implementation? {_FIRST}")
        return 4
    # By their long names, which no plugin and no conftest.py here can have taken.
    words = prefixed([*(f"--impl={name}" for name in names), *arguments[len(names) :]])
    words = ["-p", "lossspec.plugin", "--pyargs", "lossspec.suites", *words]
    return int(pytest.main(words, plugins=[_Started(arguments), _near_options()]))


def _near_options() -> object:
    """A plugin that adds to pytest's message on an unknown option which of ours is like it."""
    import pytest

    class NearOptions:
        @pytest.hookimpl(wrapper=True)
        def pytest_cmdline_parse(self) -> Generator[None, object, object]:
            try:
                return (yield)
            except pytest.UsageError as error:
                unknown = re.findall(r"(?<= )--[\w-]+", str(error).partition("unrecognized")[2])
                near = [name for word in unknown for name in alike(word, _run_options())]
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise pytest.UsageError(f"{error}{hint}") from None

    return NearOptions()


_FIRST = "names come first, e.g. lossspec run torch.nn --loss=l1_loss"


class _Started:
    """Knows what was typed, and refuses a name behind an option: pytest takes it for a path."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.__name__ = "lossspec-run"  # pluggy registers it under this name
        self.words = ["lossspec", "run", *arguments]

    def pytest_configure(self, config: pytest.Config) -> None:
        """Only pytest can tell it from the value of an option."""
        if config.args[1:]:
            import pytest

            raise pytest.UsageError(f"lossspec run: {' '.join(config.args[1:])}? {_FIRST}")


def _run_options() -> list[str]:
    """The options of lossspec, without those of pytest."""
    return [name for name in _run_parser()._option_string_actions if name.startswith("--")]


def _run_help() -> str:
    return _run_parser().format_help()


def _run_parser() -> argparse.ArgumentParser:
    from lossspec.pytest_plugin.options import IMPL, OPTIONS

    parser = argparse.ArgumentParser(
        usage="lossspec run NAME ... [options]",
        description="Judge implementations: entry points, package.module or module:attribute.",
        epilog=(
            "Each option also exists as --lossspec-NAME. All options of pytest work too; "
            "pytest --help prints them."
        ),
        add_help=False,
    )
    for option in OPTIONS:
        if option is not IMPL:
            option.add(parser.add_argument, option.short)
    return parser


def _show(options: argparse.Namespace) -> int:
    import_late("torch")
    from lossspec.spec.catalogue import find
    from lossspec.spec_pages.pages import text

    _say(text(find(options.loss)))
    return 0


def _list(options: argparse.Namespace) -> int:
    # The file of a clause imports torch at its top; its sentence needs none of it.
    import_late("torch")
    if options.what == "losses":
        from lossspec.spec.catalogue import catalogue

        for loss in catalogue().values():
            _say(f"{loss.name:42s} {loss.module or ''}")
    elif options.what == "clauses":
        from lossspec.clauses import clauses

        for clause in clauses().values():
            _say(f"{clause.theme + '/' + clause.name:34s} {clause.says}")
    else:
        from lossspec.execution.loading import known

        for name, entry in sorted(known().items()):
            _say(f"{name:24s} {entry.value}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from lossspec.render.diff import diff

    difference = diff(Report.read(options.old), Report.read(options.new))
    _say(difference.text())
    return difference.exit_status


def _merge(options: argparse.Namespace) -> int:
    from lossspec.render import render_all

    report = merge(Report.read(path) for path in options.reports)
    report.write(options.output)
    render_all(report, options.output.parent)
    _say(f"{report.headline}\nreport: {options.output}")
    return report.exit_status


def _render(options: argparse.Namespace) -> int:
    from lossspec.render import render_all

    for path in render_all(Report.read(options.report), options.output or options.report.parent):
        _say(str(path))
    return 0


def _deviations(options: argparse.Namespace) -> int:
    from lossspec.execution.loading import load
    from lossspec.judging import known_deviations
    from lossspec.judging.known_update import updated
    from lossspec.judging.plan import Plan
    from lossspec.judging.profiles import profile_named
    from lossspec.judging.run import Run

    implementation = load(options.implementation)
    shipped = known_deviations.SHIPPED / f"{implementation.name}.toml"
    path = options.file or shipped
    if not options.update:
        for entry in known_deviations.read(path) if options.file or shipped.exists() else []:
            _say(f"{entry.loss}/{entry.clause}: {entry.reason}")
        return 0
    if options.file is None and not shipped.exists():
        raise ArgumentError(
            f"lossspec ships no file for {implementation.name}; say which: --file FILE"
        )
    listed = known_deviations.read(path) if path.exists() else []
    run = Run(profile_named(options.profile), known=listed, ship=False)
    plan = Plan([implementation], slow=options.profile != "quick")
    kept, added, dropped = updated(run, plan, listed)
    known_deviations.write(path, kept + added)
    _say(f"{path}: {len(kept)} kept, {len(added)} added, {len(dropped)} no longer fail")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from lossspec.audit.command import report
    from lossspec.audit.operators import variants
    from lossspec.spec.catalogue import catalogue, find

    losses = [find(name) for name in options.loss] or list(catalogue().values())
    return report(
        ((loss, variants(loss)) for loss in losses),
        options.profile,
        options.seed,
        cases=options.cases,
        matrix_file=options.matrix,
        page_file=options.page,
    )


if __name__ == "__main__":
    sys.exit(main())
