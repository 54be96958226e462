"""The share of the numbers with a right answer known to within a tenth, by loss and dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lossspec.excuse import Excuse, word
from lossspec.report.records import Cell, Report

#: The key in a cell's `extra`, and in its counts the key of the numbers with a known answer.
KEY = "asked"
_REASONS = {str(excuse): excuse for excuse in Excuse}


def asked(cells: Iterable[Cell]) -> dict[str, Counter[str]]:
    """Return the number of numbers by dtype: with a known answer, and without one by reason.

    Entries that are no such count are skipped.
    """
    found: dict[str, Counter[str]] = {}
    for cell in cells:
        for dtype, counts in _mapping(cell.extra.get(KEY)).items():
            for name, count in _mapping(counts).items():
                if type(count) is int and count > 0 and (name == KEY or name in _REASONS):
                    found.setdefault(dtype, Counter())[name] += count
    return dict(sorted(found.items()))


def asked_by_loss(report: Report) -> dict[str, str]:
    """Return a text for each loss, such as "float32 97 % (overflow 2 %, kink 1 %)"."""
    cells: dict[str, list[Cell]] = {}
    for cell in report.present:
        cells.setdefault(cell.loss, []).append(cell)
    texts = {loss: asked_text(asked(its)) for loss, its in cells.items()}
    return {loss: text for loss, text in texts.items() if text}


def asked_text(counts: Mapping[str, Counter[str]]) -> str:
    """Return the shares of one loss for each dtype, on one line."""
    return "; ".join(f"{dtype} {_shares(each)}" for dtype, each in counts.items())


def reasons_told(report: Report) -> list[tuple[str, str]]:
    """Return the reasons that occur in a report, each with its sentence."""
    counts = asked(report.present).values()
    found = {name for each in counts for name in each}
    return [(word(name), excuse.says) for name, excuse in _REASONS.items() if name in found]


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    others = [(name, count) for name, count in counts.most_common() if name != KEY]
    told = ", ".join(f"{word(name)} {share(count, total)}" for name, count in others)
    return share(counts[KEY], total) + (f" ({told})" if told else "")


def share(part: int, total: int) -> str:
    """Return a share in whole per cent; "100 %" means all and "0 %" means none."""
    if 0 < part * 100 < total:
        return "<1 %"
    return f"{part * 100 // total} %"


def _word(name: str) -> str:
    return name.replace("-", " ")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
