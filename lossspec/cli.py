"""The command `lossspec`: run, expect, show, list, diff, merge, render, deviations, audit."""

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

from lossspec.errors import ArgumentError, LossspecError
from lossspec.expectation.options import add_arguments
from lossspec.late_import import import_late
from lossspec.nearest import alike, suggestion
from lossspec.report.merge import merge
from lossspec.report.records import Report, own_version
from lossspec.safe_text import block, one_line

if TYPE_CHECKING:
    import pytest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Wrong input gives one line on standard error and the exit status 4, as in pytest.

    Args:
        argv: The words after `lossspec`; those of the command line by default.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that it cannot encode
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:  # pytest handles it during a run
        print(f"lossspec {' '.join(arguments[:1])}: interrupted", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # discard the buffer, which would raise the same error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if argv is None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # avoid a traceback while Python exits
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
    except (LossspecError, ValueError, RecursionError, MemoryError) as error:
        _complain(f"lossspec {options.command}: {str(error) or type(error).__name__}")
        return 4
    return status


def _say(text: str) -> None:
    """Print a text whose control characters are escaped, as in names from elsewhere."""
    print(block(text), flush=True)


def _complain(text: str) -> None:
    print(one_line(text), file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(4, f"{self.format_usage()}{one_line(f'{self.prog}: {message}')}\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; the error for an unknown option names the nearest known one."""
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
        """Return the parser of a command."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parser: argparse.ArgumentParser = action.choices[command]
                return parser
        return self

    # argparse has no public way to change the message for a wrong choice.
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = suggestion(str(value), list(map(str, action.choices)))
            raise argparse.ArgumentError(action, f"unknown {value!r}{near}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lossspec", description="The conformance suite for loss functions.")
    parser.add_argument("--version", action="version", version=f"lossspec {own_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("run", help="judge implementations: lossspec run NAME ... [options]")

    expecting = commands.add_parser(
        "expect",
        help="print the right answer for tensors in files; exit status 1 for a wrong result",
    )
    add_arguments(expecting)
    expecting.set_defaults(action=_expect)

    new = commands.add_parser(
        "new", help="write a file with the spec of a new loss, and an implementation that conforms"
    )
    new.add_argument("name", help="the name of the loss, and of the file without .py")
    new.add_argument("--force", action="store_true", help="overwrite the file if it exists")
    new.set_defaults(action=_new)

    show = commands.add_parser("show", help="print the spec of a loss")
    show.add_argument("loss", help="the name of a function or class")
    show.set_defaults(action=_show)

    listing = commands.add_parser("list", help="print the losses, clauses or implementations")
    listing.add_argument(
        "what", choices=["losses", "clauses", "implementations"], help="what to print"
    )
    listing.set_defaults(action=_list)

    diff = commands.add_parser("diff", help="compare two reports; exit status 1 for a regression")
    diff.add_argument("old", type=Path, help="the conformance.json of the earlier run")
    diff.add_argument("new", type=Path, help="the conformance.json of the later run")
    diff.set_defaults(action=_diff)

    merging = commands.add_parser("merge", help="merge the reports of several shards into one")
    merging.add_argument("reports", nargs="+", type=Path, help="the conformance.json of each shard")
    merging.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="write the merged report to this file, and its pages into the same folder",
    )
    merging.set_defaults(action=_merge)

    render = commands.add_parser("render", help="write the pages of a report again")
    render.add_argument("report", type=Path, help="the conformance.json of a run")
    render.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="the folder for the pages (default: that of the report)",
    )
    render.set_defaults(action=_render)

    known = commands.add_parser(
        "deviations", help="print or update the known deviations of an implementation"
    )
    known.add_argument("implementation", help="the implementation: a name as for `lossspec run`")
    known.add_argument(
        "--file", type=Path, help="the deviations file (default: the one that lossspec ships)"
    )
    known.add_argument(
        "--update", action="store_true", help="judge the implementation and edit the file in place"
    )
    known.add_argument(
        "--profile",
        default="standard",
        help="number of cases with --update: quick, standard or deep (default: standard)",
    )
    known.set_defaults(action=_deviations)

    audit = commands.add_parser(
        "audit",
        help="change a definition in one place at a time, and report the changes that no clause "
        "finds",
    )
    audit.add_argument("loss", nargs="*", help="the losses to change (default: every loss)")
    audit.add_argument(
        "--profile",
        default="quick",
        help="number of cases: quick, standard or deep (default: quick)",
    )
    audit.add_argument(
        "--seed", type=int, default=0, help="seed of the cases, a whole number (default: 0)"
    )
    audit.add_argument(
        "--cases",
        type=int,
        metavar="N",
        help="number of cases for each change (default: that of the profile)",
    )
    audit.add_argument(
        "--matrix",
        type=Path,
        metavar="FILE",
        help="write the clauses that find each wrong loss to this file, as Markdown",
    )
    audit.add_argument(
        "--page", type=Path, metavar="FILE", help="write the same to this file, as HTML"
    )
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
        _complain(f"lossspec run: no implementation was named; {_FIRST}")
        return 4
    # The long names cannot clash with another plugin or with a conftest.py in this directory.
    words = prefixed([*(f"--impl={name}" for name in names), *arguments[len(names) :]])
    words = ["-p", "lossspec.plugin", "--pyargs", "lossspec.suites", *words]
    return int(pytest.main(words, plugins=[_Started(arguments), _near_options()]))


def _near_options() -> object:
    """Return a plugin that adds similar option names to pytest's error for an unknown option."""
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


_FIRST = "names come first, such as `lossspec run torch.nn --loss=l1_loss`"


class _Started:
    """A plugin that keeps the words of `lossspec run` and refuses names after an option.

    pytest would take such a name for a path.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.__name__ = "lossspec-run"  # pluggy registers it under this name
        self.words = ["lossspec", "run", *arguments]

    def pytest_configure(self, config: pytest.Config) -> None:
        """Raise a usage error for a name after an option; only pytest can recognise one."""
        if config.args[1:]:
            import pytest

            late = " ".join(config.args[1:])
            raise pytest.UsageError(f"lossspec run: got the name {late} after an option; {_FIRST}")


def _run_options() -> list[str]:
    """Return the names of lossspec's options, without those of pytest."""
    return [name for name in _run_parser()._option_string_actions if name.startswith("--")]


def _run_help() -> str:
    return _run_parser().format_help()


def _run_parser() -> argparse.ArgumentParser:
    from lossspec.pytest_plugin.options import IMPL, OPTIONS

    parser = argparse.ArgumentParser(
        usage="lossspec run NAME ... [options]",
        description=(
            "Judge implementations. NAME is an entry point, package.module, "
            "package.module:attribute or a .py file."
        ),
        epilog=(
            "Each option also exists as --lossspec-NAME. All options of pytest work too; "
            "`pytest --help` prints them."
        ),
        add_help=False,
    )
    for option in OPTIONS:
        if option is not IMPL:
            option.add(parser.add_argument, option.short)
    return parser


def _expect(options: argparse.Namespace) -> int:
    from lossspec.expectation.command import report

    text, status = report(options)
    _say(text)
    return status


def _new(options: argparse.Namespace) -> int:
    from lossspec.starter import write

    path = write(options.name, Path.cwd(), force=options.force)
    _say(
        f"{path.name} holds a spec, commented, and an implementation that conforms to it.\n"
        f"Judge it:\n\n    lossspec run {path.name} --loss={path.stem} --profile=quick\n\n"
        "Then change it to your loss, and judge it again after each change."
    )
    return 0


def _show(options: argparse.Namespace) -> int:
    import_late("torch")
    from lossspec.spec.catalogue import find
    from lossspec.spec_pages.pages import text

    _say(text(find(options.loss)))
    return 0


def _list(options: argparse.Namespace) -> int:
    # The files of the clauses import torch, but this command never uses it.
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
    from lossspec.judging.known_update import update_file
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
            f"lossspec ships no deviations file for {implementation.name}; "
            "name the file to edit with --file FILE"
        )
    run = Run(profile_named(options.profile), ship=False)
    _say(update_file(path, run, Plan([implementation], slow=options.profile != "quick")))
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
