"""The merging of the reports of several shards into one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lossspec.errors import ReportError
from lossspec.report.reader import first_names, repeated_names
from lossspec.report.records import Environment, Report


def merge(reports: Iterable[Report]) -> Report:
    """Merge the reports of one run: its shards, or the same selection on several devices.

    Raises:
        ReportError: The reports are of different runs, hold a cell twice, or lack a shard.
    """
    parts = list(reports)
    if not parts:
        raise ReportError("got no report to merge, want at least one")
    first = parts[0]
    for part in parts[1:]:
        for name, here in _identity(part).items():
            if here != (there := _identity(first)[name]):
                raise ReportError(
                    f"cannot merge reports that differ in {name}: got {here!r} and {there!r}"
                )
    if len(parts) > 1 and not all(part.selection.known for part in parts):
        raise ReportError("cannot merge: a report does not say which part of the suite it covers")
    if twice := repeated_names(cell.id for part in parts for cell in part.cells):
        raise ReportError(f"cannot merge: more than one report has the cell {first_names(twice)}")
    if missing := _missing_shards(parts):
        raise ReportError(f"cannot merge: add the reports of the shards {', '.join(missing)}")
    devices = tuple(dict.fromkeys(name for part in parts for name in part.selection.devices))
    return replace(
        first,
        environment=_joined([part.environment for part in parts]),
        selection=replace(first.selection, devices=devices, shard=None),
        cells=tuple(cell for part in parts for cell in part.cells),
    )


def _identity(report: Report) -> dict[str, Any]:
    """Return the facts that all reports of one run share."""
    environment, selection = report.environment, report.selection
    return {
        "implementation": report.implementation.name,
        "version": report.implementation.version,
        "target": report.implementation.target,
        "profile": report.profile,
        "seed": report.seed,
        "lossspec": environment.lossspec,
        "torch": environment.torch,
        "oracle": environment.oracle,
        "git_commit": environment.git_commit,
        "losses": selection.losses,
        "clauses": selection.clauses,
        "dtypes": selection.dtypes,
    }


def _joined(parts: list[Environment]) -> Environment:
    """Return the environment of a merged run; texts that differ are joined with " | "."""

    def texts(values: Iterable[str]) -> str:
        return " | ".join(dict.fromkeys(values))

    devices = dict.fromkeys(name for part in parts for name in part.devices)
    return replace(
        parts[0],
        python=texts(part.python for part in parts),
        platform=texts(part.platform for part in parts),
        processor=texts(part.processor for part in parts),
        numpy=texts(part.numpy for part in parts),
        hypothesis=texts(part.hypothesis for part in parts),
        devices={
            name: texts(part.devices[name] for part in parts if name in part.devices)
            for name in devices
        },
        threads=max(part.threads for part in parts),
        started=min(part.started for part in parts),
        command=texts(part.command for part in parts),
    )


def _missing_shards(parts: list[Report]) -> list[str]:
    """Return the shards that no report covers; without them, a failing cell could be missing."""
    shards: dict[tuple[str, ...], set[str]] = {}
    for part in parts:
        if part.selection.shard is not None:
            shards.setdefault(part.selection.devices, set()).add(part.selection.shard)
    missing = []
    for present in shards.values():
        count = max(int(shard.partition("/")[2]) for shard in present)
        missing += [s for i in range(count) if (s := f"{i + 1}/{count}") not in present]
    return missing
