"""The command `python -m tests.defects`: audit, soak, blind, record."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lossspec.audit import Result, audit
from lossspec.audit.command import chosen, report
from lossspec.clauses import clauses
from lossspec.judging.profiles import Profile
from lossspec.report.files import replace_file
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import Loss
from tests.defects.blind_set import EXAMINED, FOUND, Found, blind_defects, blind_right, losses
from tests.defects.catalogue import Baseline, defects, right_implementations
from tests.defects.kept_answers import kept_answers
from tests.defects.record import COMMAND, DOCS, Record, differences, record
from tests.defects.record_page import page


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # it exits, as the original
        self.exit(4, f"{self.format_usage()}{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input gives one line on standard error and exit status 4."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.action(options)
    except (ValueError, OSError) as error:
        print(f"python -m tests.defects {options.command}: {error}", file=sys.stderr)
        return 4
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m tests.defects", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    auditing = commands.add_parser("audit", help="judge the wrong losses and print which are found")
    auditing.add_argument("--matrix", type=Path, metavar="FILE", help="which clauses find which")
    auditing.add_argument("--page", type=Path, metavar="FILE", help="the same as a page of HTML")
    auditing.set_defaults(action=_audit)
    soaking = commands.add_parser(
        "soak", help="judge the right losses and print which are reported"
    )
    soaking.set_defaults(action=_soak)
    trying = commands.add_parser(
        "blind", help="judge the blind set, in quick and what is missed in standard"
    )
    trying.add_argument("loss", nargs="*", help="default: every loss")
    trying.add_argument("--write", action="store_true", help=f"keep the findings in {FOUND.name}")
    trying.set_defaults(action=_blind)
    for command in (auditing, soaking):
        command.add_argument("loss", nargs="*", help="default: every loss")
        command.add_argument("--profile", default="quick")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--cases", type=int, metavar="N", help="default: the profile's")
    recording = commands.add_parser("record", help="write docs/audit.json and docs/audit.md")
    recording.add_argument("loss", nargs="*", help="losses to record again; default: all")
    recording.add_argument(
        "--check",
        action="store_true",
        help="write nothing; print the differences and exit with status 1",
    )
    recording.add_argument("--docs", type=Path, default=DOCS, metavar="DIR")
    recording.set_defaults(action=_record)
    return parser


def _losses(names: Sequence[str]) -> list[Loss]:
    return [find(name) for name in names] or list(catalogue().values())


def _audit(options: argparse.Namespace) -> int:
    return report(
        (
            (loss, [defect for defect in defects().values() if defect.loss == loss.name])
            for loss in _losses(options.loss)
        ),
        options.profile,
        options.seed,
        cases=options.cases,
        matrix_file=options.matrix,
        page_file=options.page,
    )


def _soak(options: argparse.Namespace) -> int:
    profile = chosen(options.profile, options.cases)
    losses = _losses(options.loss)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # torch.compile logs when a traced call raises
    results = []
    for loss in losses:
        with kept_answers():
            results += [_soaked(result) for result in _right(loss, profile, options.seed)]
    cases, reported = sum(r.cases for r in results), sum(bool(_reports(r)) for r in results)
    print(
        f"profile {profile.name}, seed {options.seed}: {cases} cases,"
        f" {reported or 'nothing'} reported"
    )
    return 1 if reported else 0


def _right(loss: Loss, profile: Profile, seed: int) -> list[Result]:
    """Judge the right losses of a spec, with those of the blind set.

    Textbook compositions accept calls that must be refused, and are not judged by such clauses. A
    loss of the blind set is not judged by the clauses that `EXAMINED` names.
    """
    quick = profile.name == "quick"
    names = [name for name, clause in clauses().items() if not (clause.slow and quick)]
    checked = [name for name in names if clauses()[name].theme != "refusal"]
    found: list[Result] = []
    own = [each for each in right_implementations().values() if each.loss == loss.name]
    for each in [*own, *(blind_right(loss.name) if loss.name in losses() else ())]:
        examined, _ = EXAMINED.get(each.id, ((), ""))
        only = checked if isinstance(each, Baseline) else names
        only = [name for name in only if name not in examined]
        found += audit([each], profile, seed, only=only, spec=loss)
    return found


def _soaked(result: Result) -> Result:
    """Print the result of a right loss, and return it."""
    reports = _reports(result)
    print(f"{result.implementation.id}: {result.cases} cases, {len(reports) or 'no'} reports")
    for line in reports:
        print(f"  {line}", flush=True)
    return result


def _reports(result: Result) -> list[str]:
    """Return a line for each clause that deviated for a right loss, or failed itself."""
    return [
        f"{each.clause} in case {each.index + 1}: {each.what}: got {each.got}, want {each.want}"
        for each in result.found
    ] + [f"{name}: lossspec itself failed: {error}" for name, error in result.crashed.items()]


def _blind(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # torch.compile logs when a traced call raises
    chosen_losses, found = options.loss or losses(), Found.read()
    reported = right = 0
    for loss in chosen_losses:
        for defect in blind_defects(loss):
            found.judge(defect)
            print(f"{defect.id}: {found.told(defect)}", flush=True)
        for result in audit(blind_right(loss), "quick"):
            examined, _ = EXAMINED.get(result.implementation.id, ((), ""))
            unexplained = any(each.clause not in examined for each in result.found)
            right += 1
            reported += unexplained and bool(_reports(_soaked(result)))
    print(found.summary(chosen_losses))
    print(f"{reported} of {right} right losses reported")
    if options.write:
        found.write()
    return 1 if reported else 0


def _record(options: argparse.Namespace) -> int:
    losses = [loss.name for loss in _losses(options.loss)]
    path = options.docs / "audit.json"
    old = Record.read(path) if path.exists() else Record()
    new = record(losses, old)
    if options.check:
        changed = differences(old, new)
        print(f"{changed}\nrun `{COMMAND}` if this is meant" if changed else f"{path} holds")
        return 1 if changed else 0
    new.write(path)
    replace_file(options.docs / "audit.md", page(new))
    print(f"{path}, {options.docs / 'audit.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
