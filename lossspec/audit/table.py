"""The results of an audit as text and as a Markdown table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from lossspec.audit import Result


def summary(what: str, results: Sequence[Result]) -> str:
    """Return how many defects were found, by which clauses, and a line for each missed one."""
    lines = [total(what, results)]
    if any(result.found for result in results):
        lines.append(f"  first found by {_tally(results)}")
    return "\n".join([*lines, *(_missed(r) for r in results if r.missed)])


def total(what: str, results: Sequence[Result]) -> str:
    """Return how many defects were found, and the median of the cases that found them."""
    first = [result.found[0] for result in results if result.found]
    text = f"{what}: {len(first)} of {len(results)} wrong losses found"
    if not first:
        return text
    share = len(first) / len(results)
    case = statistics.median(each.index + 1 for each in first)
    return f"{text} ({share:.1%}), half of them by case {case:g}"


def _tally(results: Sequence[Result]) -> str:
    """Return how many defects each clause was the first to find, the largest number first."""
    first = Counter(result.found[0].clause for result in results if result.found)
    return ", ".join(f"{clause} ({count})" for clause, count in first.most_common())


def _missed(result: Result) -> str:
    defect = result.implementation
    awaits = getattr(defect, "awaits", "")
    reason = f" Awaits {awaits}." if awaits else ""
    if result.shared:
        reason = f" Torch's loss deviates in the same way: {', '.join(result.shared)}."
    if result.crashed:
        reason = f" lossspec itself failed in {', '.join(result.crashed)}."
    return f"  not found: {defect.id}: {getattr(defect, 'wrong', '')}{reason}"


def matrix(results: Iterable[Result]) -> str:
    """Return a Markdown table of the clauses that find each defect, and of the first case."""
    lines = ["| loss | what is wrong | after | found by |", "| --- | --- | ---: | --- |"]
    for result in results:
        defect = result.implementation
        wrong = getattr(defect, "wrong", "").replace("|", "\\|")
        source = getattr(defect, "source", "")
        first = result.found[0].index + 1 if result.found else "-"
        by = ", ".join(f"`{each.clause}`" for each in result.found)
        place = f" ({source})" if source else ""
        lines.append(f"| {defect.loss} | {wrong}{place} | {first} | {by or 'nothing'} |")
    return "\n".join(lines) + "\n"
