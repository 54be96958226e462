"""What an audit found, as text and as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from lossspec.audit import Result


def summary(what: str, results: Sequence[Result]) -> str:
    """How many were found, and a line for each survivor with its reason."""
    return "\n".join([total(what, results), *(_survivor(r) for r in results if r.survived)])


def total(what: str, results: Sequence[Result]) -> str:
    """How many were found, and how soon."""
    first = [result.kills[0] for result in results if result.kills]
    text = f"{what}: {len(first)} of {len(results)} wrong losses found"
    if not first:
        return text
    share = len(first) / len(results)
    case = statistics.median(kill.index + 1 for kill in first)
    return f"{text} ({share:.1%}), half of them by case {case:g}"


def _survivor(result: Result) -> str:
    awaits = getattr(result.under_test, "awaits", "")
    reason = f" Awaits {awaits}." if awaits else ""
    if result.shared:
        reason = f" Torch's own loss breaks {', '.join(result.shared)} alike."
    if result.crashed:
        reason = f" lossspec itself failed in {', '.join(result.crashed)}."
    return f"  not found: {result.under_test.id}: {getattr(result.under_test, 'wrong', '')}{reason}"


def accusations(result: Result) -> str:
    """What became of a right loss: a line for it and one for each clause that accused it."""
    lines = [
        f"{result.under_test.id}: {result.cases} cases, {len(result.kills) or 'no'} accusations"
    ]
    lines += [
        f"  {kill.clause} in case {kill.index + 1}: {kill.what}: got {kill.got}, want {kill.want}"
        for kill in result.kills
    ]
    lines += [
        f"  {name}: lossspec itself failed: {error}" for name, error in result.crashed.items()
    ]
    return "\n".join(lines)


def matrix(results: Iterable[Result]) -> str:
    """Which clauses find which wrong loss, and in which case the first one does."""
    lines = ["| loss | what is wrong | after | found by |", "| --- | --- | ---: | --- |"]
    for result in results:
        wrong = getattr(result.under_test, "wrong", "").replace("|", "\\|")
        issue = getattr(result.under_test, "issue", "")
        first = result.kills[0].index + 1 if result.kills else "-"
        found = ", ".join(f"`{name}`" for name in dict.fromkeys(k.clause for k in result.kills))
        source = f" ({issue})" if issue else ""
        lines.append(
            f"| {result.under_test.loss} | {wrong}{source} | {first} | {found or 'nothing'} |"
        )
    return "\n".join(lines) + "\n"
